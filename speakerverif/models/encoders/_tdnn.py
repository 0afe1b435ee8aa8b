"""Layers over frames `(B, T, C)`: a convolution over time made of matrix products, and the TDNN layer.

Channels are contiguous, so a point-wise layer is one matrix product over all frames, batch norm runs along
rows, and a convolution of k taps is k products of shifted frames. On a CPU all of them run near the rate of a
large product, where the general convolution and its padding copies don't.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from speakerverif.models._cpu.graphs import is_exporting, runs_plainly_on_cpu
from speakerverif.models._cpu.packing import ConvKernel, Kernel, Packable, PackableLinear
from speakerverif.models.pooling import FrameNorm, frame_mask

Padding = Literal["zeros", "reflect", "none"]
# From so many channels on oneDNN's convolution, its kernel in order, is faster than shifted products.
PACKED_CHANNELS = 256


class TimeConv(Packable, nn.Conv1d):
    """Convolution of frames `(B, T, C)` over time, `(B, T, C')`; without padding T shrinks by the context.

    Each utterance is padded at its own end, `num_frames`, so a row of a ragged batch sees what it would see
    alone. Reflection is repeated where an utterance is shorter than the context.

    The kernel `(C', C, k)` lies in memory tap by tap, so that each tap is a matrix as it stands.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        dilation: int,
        padding: Padding,
        bias: bool = True,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, dilation=dilation, bias=bias)
        self.weight = nn.Parameter(self.weight.detach().permute(2, 0, 1).contiguous().permute(1, 2, 0))
        self.margin = dilation * (kernel_size - 1) // 2
        self.pad_with = padding

    def forward(self, frames: Tensor, num_frames: Tensor | None = None) -> Tensor:  # type: ignore[override]
        padded = self._pad(frames, num_frames)
        if (kernel := self.kernel_for(padded)) is not None:
            return kernel(_image(padded)).squeeze(2).transpose(1, 2)
        if runs_plainly_on_cpu(frames):
            return _ShiftedProducts.apply(padded, self.weight, self.bias, self.dilation[0])
        weight = self.weight.unsqueeze(2)
        convolved = nn.functional.conv2d(_image(padded), weight, self.bias, dilation=(1, *self.dilation))
        return convolved.squeeze(2).transpose(1, 2)

    def make_kernel(self) -> Kernel | None:
        if self.out_channels < PACKED_CHANNELS:
            return None
        return ConvKernel(self.weight.unsqueeze(2), self.bias, self.sources(), 1, 0, (1, *self.dilation))

    def _pad(self, frames: Tensor, num_frames: Tensor | None) -> Tensor:
        """Return frames with `margin` more on either side, every row padded at its own ends."""
        if self.pad_with == "none":
            return frames
        batch, length, channels = frames.shape
        if self.pad_with == "zeros":
            if num_frames is not None:
                frames = frames.masked_fill(~frame_mask(num_frames, length).unsqueeze(-1), 0)
            return nn.functional.pad(frames, (0, 0, self.margin, self.margin))
        position = torch.arange(-self.margin, length + self.margin, device=frames.device)
        if num_frames is None:
            return frames.index_select(1, _reflect(position, torch.tensor(length, device=frames.device)))
        index = _reflect(position.unsqueeze(0), num_frames.unsqueeze(1))
        if is_exporting():  # runtimes copy whole rows for this one, and single numbers for gather
            return frames[torch.arange(batch)[:, None], index]
        return frames.gather(1, index.unsqueeze(-1).expand(batch, -1, channels))


def _image(frames: Tensor) -> Tensor:
    """Return frames as an image of height 1 in channels-last order: no copy to bring time to the last axis."""
    return frames.transpose(1, 2).unsqueeze(2)


class ConvRoom:
    """Memory that convolutions of one shape use in turn: write frames `(B, T, C)` to `frames`, then `convolve`.

    Each overwrites what the one before returned.
    """

    def __init__(self, batch: int, length: int, conv: TimeConv, num_frames: Tensor | None) -> None:
        padded_length, dilation = length + 2 * conv.margin, conv.dilation[0]
        room = conv.weight.new_zeros(batch, padded_length, conv.in_channels)
        self.frames = room.narrow(1, conv.margin, length)
        self._rows = room.flatten(0, 1)
        self._windows = _windows(self._rows, conv.kernel_size[0], dilation)
        self._out = room.new_empty(batch, padded_length, conv.out_channels)
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
                self._mirrored = (first + _reflect(outside, ends)).flatten()

    def convolve(self, conv: TimeConv) -> Tensor:
        """Return the convolution, `(B, T, C')`, of the frames, every utterance padded at its own ends."""
        if self._outside is not None and self._mirrored is not None:
            self._rows.index_copy_(0, self._outside, self._rows.index_select(0, self._mirrored))
        elif self._outside is not None:
            self._rows.index_fill_(0, self._outside, 0)
        _sum_products(self._windows, conv.weight.permute(2, 1, 0).unbind(), conv.bias, self._sums)
        return self._result


def _reflect(position: Tensor, length: Tensor) -> Tensor:
    """Return the index in [0, length) that a position outside it mirrors, without repeating the edge."""
    period = (2 * (length - 1)).clamp(min=1)
    folded = position.remainder(period)
    return torch.minimum(folded, period - folded).clamp(max=length - 1)


def _windows(rows: Tensor, count: int, dilation: int) -> list[Tensor]:
    """Return what each of `count` taps sees: rows k * dilation later, all equally many."""
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
    def forward(ctx, frames: Tensor, weight: Tensor, bias: Tensor | None, dilation: int) -> Tensor:  # type: ignore[override]
        ctx.save_for_backward(frames, weight)
        ctx.dilation = dilation
        batch, length, _ = frames.shape
        taps = weight.permute(2, 1, 0).unbind()
        windows = _windows(frames.flatten(0, 1), len(taps), dilation)
        run = len(windows[0])
        # One utterance needs no room for rows to drop, and then no copy to drop them.
        out = frames.new_empty(batch, length if batch > 1 else run, len(weight))
        _sum_products(windows, taps, bias, out.flatten(0, 1)[:run])
        return out[:, : length - dilation * (len(taps) - 1)].contiguous() if batch > 1 else out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):  # type: ignore[override]
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


class TDNN(nn.Module):
    """One TDNN layer: convolution over time (a linear layer where the kernel is 1), activation, batch norm.

    `num_frames` counts the frames that come out: `lost_frames` fewer than went in, where there is no padding.

    Args:
        norm: "affine", "plain" (without scale and offset) or "none".
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 1,
        dilation: int = 1,
        padding: Padding = "zeros",
        activation: nn.Module | None = None,
        norm: Literal["affine", "plain", "none"] = "affine",
    ) -> None:
        super().__init__()
        self.affine: PackableLinear | TimeConv = (
            PackableLinear(in_channels, out_channels)
            if kernel_size == 1
            else TimeConv(in_channels, out_channels, kernel_size, dilation, padding)
        )
        self.lost_frames = dilation * (kernel_size - 1) if padding == "none" else 0
        self.activation = activation if activation is not None else nn.ReLU(inplace=True)
        self.norm = FrameNorm(out_channels, norm == "affine", inplace=True) if norm != "none" else None

    def forward(self, frames: Tensor, num_frames: Tensor | None = None) -> Tensor:
        if not isinstance(self.affine, PackableLinear):
            frames = self.activation(self.affine(frames, num_frames))
        elif isinstance(self.activation, nn.ReLU) and (kernel := self.affine.kernel_for(frames)) is not None:
            frames = kernel(frames, relu=True)
        else:
            # As rows: a linear layer of three axes returns a view, which autograd copies before it is overwritten.
            rows = self.activation(self.affine(frames.flatten(0, 1)))
            frames = rows.view(*frames.shape[:2], -1)
        return frames if self.norm is None else self.norm(frames, num_frames)
