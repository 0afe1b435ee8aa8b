"""Kernels packed: laid out in the order in which oneDNN reads them.

A loaded model's kernels are packed once. A packed kernel serves evaluation without gradients, in float32 on a CPU;
everywhere else, and once a weight has changed (by an optimiser, `load_state_dict`, `.to`), a layer computes from its
weights as they are. What is written past torch (`.data`, NumPy) leaves no trace, so nothing is kept unless `pack` asks.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from speakerverif.models._cpu.graphs import may_overwrite, runs_plainly_on_cpu

# From so many rows and weights on, a product gains more than packing in every call takes.
ROWS, WEIGHTS = 1024, 2**18


class Kernel:
    """A packed kernel, and in which state the tensors were that it was made of."""

    def __init__(self, sources: Sequence[Tensor | None]) -> None:
        # (Views, which keep the memory, so that nothing else can come to lie there.)
        self._sources = [None if source is None else source.detach() for source in sources]
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


def _packed(weight: Tensor) -> Tensor:
    """Return the weight `(out, in)` of a linear layer, packed."""
    return torch.ops.mkldnn._reorder_linear_weight(weight.contiguous())


def _product(rows: Tensor, packed: Tensor, bias: Tensor | None, relu: bool = False) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(rows, packed, bias, "relu" if relu else "none", [], "")


class LinearKernel(Kernel):
    """Of rows `(..., in)` to `(..., out)`; weight `(out, in)`."""

    def __init__(self, weight: Tensor, bias: Tensor | None, sources: Sequence[Tensor | None]) -> None:
        super().__init__(sources)
        self._weight, self._bias = _packed(weight), bias

    def __call__(self, given: Tensor, relu: bool = False) -> Tensor:
        return _product(given, self._weight, self._bias, relu)


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

    weight: Tensor
    bias: Any  # (torch declares it otherwise in every layer)
    _kernel: Kernel | None = None

    def sources(self) -> Sequence[Tensor | None]:
        """Return the tensors that the kernel is made of."""
        return self.weight, self.bias

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
    """A linear layer over rows; a large one that is not packed is packed in every call, in training too."""

    def make_kernel(self) -> Kernel:
        return LinearKernel(self.weight, self.bias, self.sources())

    def forward(self, given: Tensor) -> Tensor:  # type: ignore[override]
        if (kernel := self.kernel_for(given)) is not None:
            return kernel(given)
        # (A graph for any length must not even ask for the size: it would hold for that answer alone.)
        if runs_plainly_on_cpu(given) and self._pays(given):
            return _PackedProduct.apply(given, self.weight, self.bias)
        return super().forward(given)

    def _pays(self, given: Tensor) -> bool:
        """Return whether the product is large enough for packing in every call, and can be packed."""
        large = given.numel() >= ROWS * self.in_features and self.weight.numel() >= WEIGHTS
        return large and all(map(_suits, (given, self.weight, self.bias)))


class _PackedProduct(torch.autograd.Function):
    """A linear layer whose weight is packed for the product, and turned around for the gradient of the rows.

    MKL's products, which `linear` takes, are a tenth slower on two threads.
    """

    @staticmethod
    def forward(ctx, rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:  # type: ignore[override]
        ctx.save_for_backward(rows, weight)
        return _product(rows, _packed(weight), bias)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):  # type: ignore[override]
        rows, weight = ctx.saved_tensors
        needs_rows, needs_weight, needs_bias = ctx.needs_input_grad
        flat = grad.flatten(0, -2)
        grad_rows = _product(grad, _packed(weight.t()), None) if needs_rows else None
        grad_weight = flat.t() @ rows.flatten(0, -2) if needs_weight else None
        return grad_rows, grad_weight, flat.sum(0) if needs_bias else None


@torch.no_grad()
def pack(model: nn.Module) -> None:
    """Pack the kernels of a model in float32 on a CPU; another is left as it is. Takes as much memory as they do."""
    if isinstance(model, Packable):
        sources = model.sources()
        # A tensor made in inference mode doesn't tell when it changes.
        traced = not any(source is not None and source.is_inference() for source in sources)
        model._kernel = model.make_kernel() if traced and all(map(_suits, sources)) else None
    else:
        for child in model.children():
            pack(child)


def _suits(tensor: Tensor | None) -> bool:
    """Return whether oneDNN computes with such a tensor here."""
    plain = tensor is None or (tensor.device.type == "cpu" and tensor.dtype == torch.float32)
    return plain and torch.backends.mkldnn.is_available()
