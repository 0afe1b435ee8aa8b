"""How a model is being run: plainly on a CPU, or to make a graph of it, which holds neither loops nor own gradients."""

import torch
from torch import Tensor


def is_exporting() -> bool:
    """Return whether the model runs to be written down, for ONNX, TorchScript or torch.export."""
    return torch.jit.is_tracing() or torch.compiler.is_exporting()


def runs_plainly_on_cpu(frames: Tensor) -> bool:
    """Return whether the work on frames runs on a CPU as written: not under autocast, traced or compiled."""
    traced = is_exporting() or torch.compiler.is_compiling()
    return frames.device.type == "cpu" and not torch.is_autocast_enabled("cpu") and not traced


def may_overwrite(frames: Tensor) -> bool:
    """Return whether a layer may work in memory that others use again: plainly on a CPU, nothing kept for gradients."""
    return runs_plainly_on_cpu(frames) and not torch.is_grad_enabled()
