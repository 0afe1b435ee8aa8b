"""Conditions under which fast layers use their own code; otherwise they run that of the plain layers."""

import torch
from torch import Tensor
from torch.jit._trace import is_tracing


def runs_eagerly(frames: Tensor) -> bool:
    """Return whether work on the frames runs eagerly on a CPU: not under autocast, traced or compiled."""
    traced = is_tracing() or torch.compiler.is_compiling()
    return frames.device.type == "cpu" and not torch.is_autocast_enabled("cpu") and not traced


def keeps_nothing(frames: Tensor) -> bool:
    """Return whether no gradients follow, so that a layer may also overwrite memory that autograd would need."""
    return runs_eagerly(frames) and not torch.is_grad_enabled()
