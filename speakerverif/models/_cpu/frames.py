"""Fast layers over frames `(B, T, C)`: linear, batch norm, convolution over time, TDNN.

A convolution of k taps is k products of shifted frames, each near the rate of a large product, where the general
convolution and its padding copies are not.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from speakerverif.models._cpu.conditions import keeps_nothing, runs_eagerly
from speakerverif.models._cpu.kernels import (
    ConvKernel,
    Kernel,
    Packable,
    linear_kernel,
    packed,
    product,
    suits,
)
from speakerverif.models.encoders._tdnn import TDNN, TimeConv, reflect
from speakerverif.models.frames import FrameNorm

# From this number of rows on, a kernel made in advance is faster: each call of it has a higher fixed cost.
KERNEL_ROWS = 64
# From these numbers of rows and weights on, packing the weight in every call costs less time than it saves.
ROWS, WEIGHTS = 1024, 2**18
# From this number of channels on oneDNN's convolution, its kernel in order, is faster than shifted products.
PACKED_CHANNELS = 256


class FastLinear(Packable, nn.Linear):
    """A linear layer over rows; without a kernel a large one packs its weight in every call, in training too."""

    def make_kernel(self, pack_products: bool) -> Kernel:
        return linear_kernel(self.weight, self.bias, self.sources(), pack_products)

    def forward(self, rows: Tensor) -> Tensor:
        kernel = self.kernel_for(rows)
        if kernel is not None and rows.numel() >= KERNEL_ROWS * self.in_features:
            return kernel(rows)
        if runs_eagerly(rows) and self._pays(rows):
            return _packed_product(rows, self.weight, self.bias)
        return super().forward(rows)

    def _pays(self, rows: Tensor) -> bool:
        """Return whether the product is large enough for packing in every call, and can be packed."""
        large = rows.numel() >= ROWS * self.in_features and self.weight.numel() >= WEIGHTS
        return large and all(map(suits, (rows, self.weight, self.bias)))


class _PackedProduct(torch.autograd.Function):
    """A linear layer whose weight is packed for the product, and packed transposed for the gradient of the rows.

    MKL's products, which `linear` uses, are a tenth slower on two threads.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(rows, weight)
        return product(rows, packed(weight), bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        rows, weight = ctx.saved_tensors
        needs_rows, needs_weight, needs_bias = ctx.needs_input_grad
        flat = grad.flatten(0, -2)
        grad_rows = product(grad, packed(weight.t()), None) if needs_rows else None
        grad_weight = flat.t() @ rows.flatten(0, -2) if needs_weight else None
        return grad_rows, grad_weight, flat.sum(0) if needs_bias else None


class FastFrameNorm(FrameNorm):
    """In evaluation one multiplication and addition, a third of the time that torch's batch norm takes for rows."""

    def forward(self, frames: Tensor, num_frames: Tensor | None = None) -> Tensor:
        if self.training or not runs_eagerly(frames):
            return super().forward(frames, num_frames)
        scale, offset = scale_and_offset(self)
        return torch.addcmul(offset, frames, scale)


def scale_and_offset(norm: nn.modules.batchnorm._BatchNorm) -> tuple[Tensor, Tensor]:
    """Return the scale and then the offset of a batch norm in evaluation, each `(C,)`."""
    assert norm.running_mean is not None and norm.running_var is not None
    return _scale_and_offset(norm.running_mean, norm.running_var, norm.weight, norm.bias, norm.eps)


def stacked_scales_and_offsets(norms: Sequence[FrameNorm]) -> tuple[Tensor, Tensor]:
    """Return the scales and the offsets of affine norms of one width, each `(norms, C)`."""
    means, variances, weights, biases = (
        torch.stack([getattr(norm, name) for norm in norms])
        for name in ("running_mean", "running_var", "weight", "bias")
    )
    return _scale_and_offset(means, variances, weights, biases, norms[0].eps)


def _scale_and_offset(
    mean: Tensor, variance: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor]:
    scale = (variance + eps).rsqrt()
    if weight is None or bias is None:
        return scale, -mean * scale
    scale = weight * scale
    return scale, bias - mean * scale


class FastTimeConv(Packable, TimeConv):
    """Convolution over time as products of shifted frames, or, with many channels in evaluation, by oneDNN.

    The kernel `(C', C, k)` lies in memory tap by tap, so that each tap is a contiguous matrix.
    """

    weight: nn.Parameter

    def prepare(self) -> None:
        """Lay the kernel out tap by tap."""
        self.weight.data = self.weight.data.permute(2, 0, 1).contiguous().permute(1, 2, 0)

    def make_kernel(self, pack_products: bool) -> Kernel | None:
        if self.out_channels < PACKED_CHANNELS:
            return None
        return ConvKernel(self.weight.unsqueeze(2), self.bias, self.sources(), 1, 0, (1, *self.dilation))

    def forward(self, frames: Tensor, num_frames: Tensor | None = None) -> Tensor:
        if not runs_eagerly(frames):
            return super().forward(frames, num_frames)
        padded = self.pad(frames, num_frames)
        if (kernel := self.kernel_for(padded)) is not None:
            return kernel(padded.transpose(1, 2).unsqueeze(2)).squeeze(2).transpose(1, 2)
        return _shifted_products(padded, self.weight, self.bias, self.dilation[0])


class ConvBuffer:
    """Memory that convolutions of one shape use in turn: write frames `(B, T, C)` to `frames`, then `convolve`.

    Each overwrites what the one before returned.
    """

    def __init__(self, batch: int, length: int, conv: TimeConv, num_frames: Tensor | None) -> None:
        padded_length, dilation = length + 2 * conv.margin, conv.dilation[0]
        padded = conv.weight.new_zeros(batch, padded_length, conv.in_channels)
        self.frames = padded.narrow(1, conv.margin, length)
        self._rows = padded.flatten(0, 1)
        self._windows = _windows(self._rows, conv.kernel_size[0], dilation)
        self._out = padded.new_empty(batch, padded_length, conv.out_channels)
        self._sums = self._out.flatten(0, 1)[: len(self._windows[0])]
        self._result = self._out.narrow(1, 0, length)
        # Rows beyond an utterance's ends, and the rows within that they mirror.
        self._outside: Tensor | None = None
        self._mirrored: Tensor | None = None
        if num_frames is not None or conv.pad_with == "reflect":  # else the zeros stay
            ends = torch.full((batch, 1), length) if num_frames is None else num_frames.unsqueeze(1)
            steps = torch.arange(conv.margin)
            outside = torch.cat(((steps - conv.margin).expand(batch, -1), ends + steps), 1)
            first = conv.margin + padded_length * torch.arange(batch).unsqueeze(1)
            self._outside = (first + outside).flatten()
            if conv.pad_with == "reflect":
                self._mirrored = (first + reflect(outside, ends)).flatten()

    def convolve(self, conv: TimeConv) -> Tensor:
        """Return the convolution, `(B, T, C')`, of the frames, every utterance padded at its own ends."""
        if self._outside is not None and self._mirrored is not None:
            self._rows.index_copy_(0, self._outside, self._rows.index_select(0, self._mirrored))
        elif self._outside is not None:
            self._rows.index_fill_(0, self._outside, 0)
        _sum_products(self._windows, conv.weight.permute(2, 1, 0).unbind(), conv.bias, self._sums)
        return self._result


def _windows(rows: Tensor, count: int, dilation: int) -> list[Tensor]:
    """Return the rows for each of `count` taps: those k * dilation later, equally many for each."""
    return [rows.narrow(0, k * dilation, len(rows) - dilation * (count - 1)) for k in range(count)]


def _sum_products(
    windows: Sequence[Tensor], taps: Sequence[Tensor], bias: Tensor | None, out: Tensor
) -> None:
    """Write the sum of the products of each window with its tap `(C, C')`, and the bias, to `out`."""
    if bias is None:
        torch.mm(windows[0], taps[0], out=out)
    else:
        torch.addmm(bias, windows[0], taps[0], out=out)
    for window, tap in zip(windows[1:], taps[1:], strict=True):
        out.addmm_(window, tap)


class _ShiftedProducts(torch.autograd.Function):
    """Convolution over time without padding: the sum over taps k of W_k times frames k * dilation later.

    All utterances are taken as one long run of rows, so that each tap is a single product. The rows at an
    utterance's end, which mix it with the next, are dropped; their gradient is zero.
    """

    @staticmethod
    def forward(ctx: Any, frames: Tensor, weight: Tensor, bias: Tensor | None, dilation: int) -> Tensor:
        ctx.save_for_backward(frames, weight)
        ctx.dilation = dilation
        batch, length, _ = frames.shape
        taps = weight.permute(2, 1, 0).unbind()
        windows = _windows(frames.flatten(0, 1), len(taps), dilation)
        run = len(windows[0])
        # A single utterance has no rows to drop, and then no copy is needed to drop them.
        out = frames.new_empty(batch, length if batch > 1 else run, len(weight))
        _sum_products(windows, taps, bias, out.flatten(0, 1)[:run])
        return out[:, : length - dilation * (len(taps) - 1)].contiguous() if batch > 1 else out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor, Tensor | None, None]:
        frames, weight = ctx.saved_tensors
        taps = weight.permute(2, 0, 1)
        rows = frames.reshape(-1, frames.shape[2])
        lost = ctx.dilation * (len(taps) - 1)
        run = len(rows) - lost
        # Zeros in front, for the shifts backwards, and where rows were left out.
        padded = grad.new_zeros(lost + len(rows), grad.shape[2])
        spread = padded[lost:]
        spread.view(*frames.shape[:2], -1)[:, : grad.shape[1]] = grad
        grad_taps = torch.empty_like(taps, memory_format=torch.contiguous_format)
        for k in range(len(taps)):
            torch.mm(spread[:run].t(), rows[k * ctx.dilation :][:run], out=grad_taps[k])
        grad_rows = None
        if ctx.needs_input_grad[0]:
            grad_rows = spread @ taps[0]
            for k in range(1, len(taps)):
                grad_rows.addmm_(padded[lost - k * ctx.dilation :][: len(rows)], taps[k])
            grad_rows = grad_rows.view(frames.shape)
        grad_bias = grad.sum((0, 1)) if ctx.needs_input_grad[2] else None
        return grad_rows, grad_taps.permute(1, 2, 0), grad_bias, None


class FastTDNN(TDNN):
    """The ReLU is part of a point-wise layer's product; in evaluation the norm overwrites the activations."""

    def forward(self, frames: Tensor, num_frames: Tensor | None = None) -> Tensor:
        if not runs_eagerly(frames):
            return super().forward(frames, num_frames)
        frames = self._activations(frames, num_frames)
        if self.norm is None:
            return frames
        if self.training or not keeps_nothing(frames):
            normed: Tensor = self.norm(frames, num_frames)
            return normed
        scale, offset = scale_and_offset(self.norm)
        return torch.addcmul(offset, frames, scale, out=frames)

    def _activations(self, frames: Tensor, num_frames: Tensor | None) -> Tensor:
        if isinstance(self.affine, TimeConv):
            out: Tensor = self.activation(self.affine(frames, num_frames))
            return out
        fast = self.affine if isinstance(self.affine, FastLinear) else None
        kernel = None if fast is None else fast.kernel_for(frames)
        if kernel is not None and isinstance(self.activation, nn.ReLU):
            return kernel(frames, relu=True)
        # As rows: a linear layer of three axes returns a view, which autograd copies before it is overwritten.
        rows: Tensor = self.activation(self.affine(frames.flatten(0, 1)))
        return rows.view(*frames.shape[:2], -1)


_packed_product: Callable[..., Tensor] = _PackedProduct.apply
_shifted_products: Callable[..., Tensor] = _ShiftedProducts.apply
