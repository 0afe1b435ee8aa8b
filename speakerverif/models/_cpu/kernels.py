"""Packed kernels: weights laid out once in the order in which oneDNN reads them.

A packed kernel serves evaluation without gradients, in float32 on a CPU; everywhere else, and once a weight has changed
(by an optimiser, `load_state_dict`, `.to`), a layer computes from its current weights. Writes that torch can't see
(`.data`, NumPy) go unnoticed, so no kernel is packed unless `pack` asks for it.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from speakerverif.models._cpu.conditions import keeps_nothing

# Which products of packed kernels are faster than torch's own, by torch's name of the instruction set: see
# docs/performance.md, "Instruction sets". MKL, which torch's own products use, is fastest with AVX-512.
PACKING_GAINS = {"DEFAULT": True, "AVX2": True, "AVX512": False}


class Kernel:
    """A packed kernel, and the state of the tensors that it was made of."""

    def __init__(self, sources: Sequence[Tensor | None]) -> None:
        # Views keep the memory allocated, so that no other tensor can take its address.
        self._sources = [None if source is None else source.detach() for source in sources]
        self._versions = [0 if source is None else source._version for source in sources]

    def is_of(self, sources: Sequence[Tensor | None]) -> bool:
        """Return whether the kernel was made of these tensors, all unchanged since."""
        for now, then, version in zip(sources, self._sources, self._versions, strict=True):
            if now is None or then is None:
                if now is not then:
                    return False
            elif now.data_ptr() != then.data_ptr() or now._version != version:
                return False
        return True

    def __call__(self, values: Tensor, relu: bool = False) -> Tensor:
        """Return the layer's result, in new memory; with `relu`, 0 where it is negative."""
        raise NotImplementedError

    def __reduce__(self) -> tuple[type, tuple[()]]:
        # The copy or pickle of a model has no kernels.
        return type(None), ()


def packed(weight: Tensor) -> Tensor:
    """Return the weight `(out, in)` of a linear layer, packed."""
    out: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous())
    return out


def product(rows: Tensor, weight: Tensor, bias: Tensor | None, relu: bool = False) -> Tensor:
    """Return rows `(..., in)` times a packed weight, plus the bias, `(..., out)`; with `relu`, 0 where negative."""
    activation = "relu" if relu else "none"
    out: Tensor = torch.ops.mkldnn._linear_pointwise(rows, weight, bias, activation, [], "")
    return out


class LinearKernel(Kernel):
    """Kernel of rows `(..., in)` to `(..., out)`; weight `(out, in)`."""

    def __init__(self, weight: Tensor, bias: Tensor | None, sources: Sequence[Tensor | None]) -> None:
        super().__init__(sources)
        self._weight, self._bias = packed(weight), bias

    def __call__(self, values: Tensor, relu: bool = False) -> Tensor:
        return product(values, self._weight, self._bias, relu)


class PlainLinearKernel(Kernel):
    """Kernel of a linear layer with an unpacked weight, for processors where packing gains nothing."""

    def __init__(self, weight: Tensor, bias: Tensor | None, sources: Sequence[Tensor | None]) -> None:
        super().__init__(sources)
        self._weight, self._bias = weight, bias

    def __call__(self, values: Tensor, relu: bool = False) -> Tensor:
        rows = nn.functional.linear(values, self._weight, self._bias)
        return rows.relu_() if relu else rows


class ConvKernel(Kernel):
    """Kernel of maps `(B, C, H, W)` in channels-last order to such maps; weight `(C', C / groups, kh, kw)`.

    Only the channel order of the weight is fixed: oneDNN's own layout depends on the maps' size, and the wrong one
    takes several times as long.
    """

    def __init__(
        self, weight: Tensor, bias: Tensor | None, sources: Sequence[Tensor | None], *shape: Any
    ) -> None:
        super().__init__(sources)
        self._weight, self._bias = weight.contiguous(memory_format=torch.channels_last), bias
        self._shape = shape  # stride, padding, dilation and groups, as conv2d takes them

    def __call__(self, values: Tensor, relu: bool = False) -> Tensor:
        maps = nn.functional.conv2d(values, self._weight, self._bias, *self._shape)
        return maps.relu_() if relu else maps


def linear_kernel(
    weight: Tensor, bias: Tensor | None, sources: Sequence[Tensor | None], pack_products: bool
) -> Kernel:
    """Return the kernel of a matrix product, packed or not."""
    return (LinearKernel if pack_products else PlainLinearKernel)(weight, bias, sources)


class Packable(nn.Module):
    """A layer that a kernel made in advance can compute."""

    weight: Tensor
    bias: Any  # each of torch's layers declares it differently
    _kernel: Kernel | None = None

    def sources(self) -> Sequence[Tensor | None]:
        """Return the tensors that the kernel is made of."""
        return self.weight, self.bias

    def make_kernel(self, pack_products: bool) -> Kernel | None:
        """Return the kernel; None where a kernel gains nothing."""
        raise NotImplementedError

    def kernel_for(self, values: Tensor) -> Kernel | None:
        """Return the kernel of the current weights, if there is one and it may be used for these values."""
        kernel = self._kernel
        if kernel is None or self.training or not keeps_nothing(values) or values.dtype != torch.float32:
            return None
        return kernel if kernel.is_of(self.sources()) else None


@torch.no_grad()
def pack(model: nn.Module, pack_products: bool | None = None) -> None:
    """Make the kernels of a float32 model on a CPU, in as much memory as its weights; other models stay unchanged.

    Args:
        model: with fast layers.
        pack_products: whether the weights of matrix products are packed; None: where that gains on this processor.
    """
    if pack_products is None:
        pack_products = PACKING_GAINS.get(torch.backends.cpu.get_cpu_capability(), False)
    if isinstance(model, Packable):
        sources = model.sources()
        # A tensor made in inference mode doesn't say when it changes.
        traced = not any(source is not None and source.is_inference() for source in sources)
        model._kernel = model.make_kernel(pack_products) if traced and all(map(suits, sources)) else None
    else:
        for child in model.children():
            pack(child, pack_products)


def suits(tensor: Tensor | None) -> bool:
    """Return whether oneDNN computes with such a tensor here."""
    plain = tensor is None or (tensor.device.type == "cpu" and tensor.dtype == torch.float32)
    return plain and torch.backends.mkldnn.is_available()
