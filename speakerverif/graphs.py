"""Whether a graph is being made of a model: graphs hold neither Python loops over lengths nor own gradients."""

import torch


def is_exporting() -> bool:
    """Return whether the model runs to be written down, for ONNX, TorchScript or torch.export."""
    return torch.jit.is_tracing() or torch.compiler.is_exporting()
