"""Kernels packed: laid out once in the order in which oneDNN reads them, instead of in every call.

A packed kernel serves evaluation without gradients, in float32 on a CPU; everywhere else, and once a weight has
changed (by an optimiser, `load_state_dict`, `.to`), a layer computes from its weights as they are. What is written past
torch (`.data`, NumPy) leaves no trace, so nothing is packed unless `pack` asks for it.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from speakerverif.graphs import may_overwrite


class Kernel:
    """A packed kernel, and in which state the tensors were that it was made of."""

    def __init__(self, sources: Sequence[Tensor | None]) -> None:
        self._sources = [
            None if source is None else source.detach() for source in sources
        ]  # keeps their memory
        self._versions = [0 if source is None else source._version for source in sources]

    def is_of(self, sources: Sequence[Tensor | None]) -> bool:
        """Return whether it was made of these tensors, and none has changed since."""
        for now, then, version in zip(sources, self._sources, self._versions, strict=True):
            if now is None or then is None:
                if now is not then:
                    return False
            elif now.data_ptr() != then.data_ptr() or now._version != version:
                return False
        return True

    def __call__(self, given: Tensor, relu: bool = False) -> Tensor:
        """Return the layer's result, in new memory; with `relu`, 0 where it is negative."""
        raise NotImplementedError

    def __reduce__(self) -> tuple[type, tuple]:
        return type(None), ()  # the copy or pickle of a model goes without


class LinearKernel(Kernel):
    """Of rows `(..., in)` to `(..., out)`; weight `(out, in)`."""

    def __init__(self, weight: Tensor, bias: Tensor | None, sources: Sequence[Tensor | None]) -> None:
        super().__init__(sources)
        self._weight, self._bias = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous()), bias

    def __call__(self, given: Tensor, relu: bool = False) -> Tensor:
        activation = "relu" if relu else "none"
        return torch.ops.mkldnn._linear_pointwise(given, self._weight, self._bias, activation, [], "")


class ConvKernel(Kernel):
    """Of maps `(B, C, H, W)` in channels-last order, to such maps; weight `(C', C / groups, kh, kw)`.

    Only the order of the weight is settled: what oneDNN makes of it depends on the maps' size, and the wrong layout
    takes several times as long.
    """

    def __init__(
        self, weight: Tensor, bias: Tensor | None, sources: Sequence[Tensor | None], *shape: Any
    ) -> None:
        super().__init__(sources)
        self._weight, self._bias = weight.contiguous(memory_format=torch.channels_last), bias
        self._shape = shape  # stride, padding, dilation and groups, as conv2d takes them

    def __call__(self, given: Tensor, relu: bool = False) -> Tensor:
        maps = nn.functional.conv2d(given, self._weight, self._bias, *self._shape)
        return maps.relu_() if relu else maps


class Packable(nn.Module):
    """A layer that a packed kernel can compute."""

    _kernel: Kernel | None = None

    def sources(self) -> Sequence[Tensor | None]:
        """Return the tensors that the kernel is made of."""
        raise NotImplementedError

    def make_kernel(self) -> Kernel | None:
        """Return the kernel; None where packing does not pay."""
        raise NotImplementedError

    def kernel_for(self, given: Tensor) -> Kernel | None:
        """Return the kernel where it is packed, may be used for what is given, and is of the weights as they are."""
        kernel = self._kernel
        if kernel is None or self.training or not may_overwrite(given) or given.dtype != torch.float32:
            return None
        return kernel if kernel.is_of(self.sources()) else None


class PackableLinear(Packable, nn.Linear):
    """A linear layer over rows."""

    def sources(self) -> Sequence[Tensor | None]:
        return self.weight, self.bias

    def make_kernel(self) -> Kernel:
        return LinearKernel(self.weight, self.bias, self.sources())

    def forward(self, given: Tensor) -> Tensor:  # type: ignore[override]
        kernel = self.kernel_for(given)
        return super().forward(given) if kernel is None else kernel(given)


@torch.no_grad()
def pack(model: nn.Module) -> None:
    """Pack the kernels of a model in float32 on a CPU; another is left as it is. Takes as much memory as they do."""
    if isinstance(model, Packable):
        model._kernel = model.make_kernel() if all(map(_can_pack, model.sources())) else None
    else:
        for child in model.children():
            pack(child)


def _can_pack(source: Tensor | None) -> bool:
    if source is None:
        return True
    plain = source.device.type == "cpu" and source.dtype == torch.float32 and not source.is_inference()
    return plain and torch.backends.mkldnn.is_available()
