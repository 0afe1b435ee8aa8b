"""When fast layers may work in their own way; otherwise they do as the plain layers do."""

import torch
from torch import Tensor


def runs_eagerly(frames: Tensor) -> bool:
    """Return whether the work on frames runs on a CPU as it is written: not under autocast, traced or compiled."""
    traced = torch.jit.is_tracing() or torch.compiler.is_compiling()
    return frames.device.type == "cpu" and not torch.is_autocast_enabled("cpu") and not traced


def keeps_nothing(frames: Tensor) -> bool:
    """Return whether a layer may also overwrite memory of its own that autograd would need: no gradients follow."""
    return runs_eagerly(frames) and not torch.is_grad_enabled()
