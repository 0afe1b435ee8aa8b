"""Layers over frames `(B, T, C)`: a convolution over time made of matrix products, and the TDNN layer.

Channels are contiguous, so a point-wise layer is one matrix product over all frames, batch norm runs along
rows, and a convolution of k taps is k products of shifted frames. On a CPU all of them run near the rate of a
large product, where the general convolution and its padding copies don't.
"""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from speakerverif.pooling import FrameNorm, frame_mask, runs_plainly_on_cpu

Padding = Literal["zeros", "reflect", "none"]


class TimeConv(nn.Conv1d):
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
        if runs_plainly_on_cpu(frames):
            return _ShiftedProducts.apply(padded, self.weight, self.bias, self.dilation[0])
        # As an image of height 1 in channels-last order: no copy to bring time to the last axis.
        image = padded.transpose(1, 2).unsqueeze(2)
        weight = self.weight.unsqueeze(2)
        convolved = nn.functional.conv2d(image, weight, self.bias, dilation=(1, *self.dilation))
        return convolved.squeeze(2).transpose(1, 2)

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
        if (
            torch.onnx.is_in_onnx_export()
        ):  # runtimes copy whole rows for this one, and single numbers for gather
            return frames[torch.arange(batch)[:, None], index]
        return frames.gather(1, index.unsqueeze(-1).expand(batch, -1, channels))


class Margins:
    """Memory for frames `(B, T, C)` with a margin on either side, filled anew for each of several convolutions.

    Write to `inner`, then take `closed()`: every utterance continued beyond its own ends.
    """

    def __init__(self, like: Tensor, channels: int, conv: TimeConv, num_frames: Tensor | None) -> None:
        batch, length, _ = like.shape
        margin = conv.margin
        self._memory = like.new_zeros(batch, length + 2 * margin, channels)
        self.inner = self._memory[:, margin : margin + length]
        self._rows = self._memory.flatten(0, 1)
        self._outside = self._mirrored = None
        reflect = conv.pad_with == "reflect"
        if num_frames is None and not reflect:
            return  # the zeros stay
        ends = torch.full((batch, 1), length) if num_frames is None else num_frames.unsqueeze(1)
        steps = torch.arange(margin)
        outside = torch.cat(((steps - margin).expand(batch, -1), ends + steps), 1)
        first = torch.arange(margin, len(self._rows), length + 2 * margin).unsqueeze(1)
        self._outside = (first + outside).flatten()
        if reflect:
            self._mirrored = (first + _reflect(outside, ends)).flatten()

    def closed(self) -> Tensor:
        """Return all frames, those of the margins renewed; they are overwritten next time."""
        if self._mirrored is not None:
            self._rows.index_copy_(0, self._outside, self._rows.index_select(0, self._mirrored))
        elif self._outside is not None:
            self._rows.index_fill_(0, self._outside, 0)
        return self._memory


def _reflect(position: Tensor, length: Tensor) -> Tensor:
    """Return the index in [0, length) that a position outside it mirrors, without repeating the edge."""
    period = (2 * (length - 1)).clamp(min=1)
    folded = position.remainder(period)
    return torch.minimum(folded, period - folded).clamp(max=length - 1)


def shifted_products(padded: Tensor, weight: Tensor, bias: Tensor | None, dilation: int) -> Tensor:
    """Return the convolution of padded frames over time: the sum over taps k of W_k times frames k * dilation later.

    All utterances are taken as one long run of rows, so that each tap is a single product. The rows at an
    utterance's end, which mix it with the next, are no part of the view that is returned; a single utterance needs
    no room for them.
    """
    batch, length, channels = padded.shape
    rows, taps = padded.reshape(-1, channels), weight.permute(2, 1, 0)
    lost = dilation * (len(taps) - 1)
    run = len(rows) - lost
    out = rows.new_empty(batch, length if batch > 1 else run, taps.shape[2])
    sums = out.flatten(0, 1)[:run]
    if bias is None:
        torch.mm(rows[:run], taps[0], out=sums)
    else:
        torch.addmm(bias, rows[:run], taps[0], out=sums)
    for k in range(1, len(taps)):
        sums.addmm_(rows[k * dilation :][:run], taps[k])
    return out if batch == 1 else out[:, : length - lost]


class _ShiftedProducts(torch.autograd.Function):
    """`shifted_products` and its gradient; that of the rows left out is zero."""

    @staticmethod
    def forward(ctx, frames: Tensor, weight: Tensor, bias: Tensor | None, dilation: int) -> Tensor:  # type: ignore[override]
        ctx.save_for_backward(frames, weight)
        ctx.dilation = dilation
        out = shifted_products(frames, weight, bias, dilation)
        return out if len(out) == 1 else out.clone(memory_format=torch.contiguous_format)  # never a view

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
        self.affine: nn.Module = (
            nn.Linear(in_channels, out_channels)
            if kernel_size == 1
            else TimeConv(in_channels, out_channels, kernel_size, dilation, padding)
        )
        self.pointwise = kernel_size == 1
        self.lost_frames = dilation * (kernel_size - 1) if padding == "none" else 0
        self.activation = activation if activation is not None else nn.ReLU(inplace=True)
        self.norm = FrameNorm(out_channels, norm == "affine", inplace=True) if norm != "none" else None

    def evaluate(self, padded: Tensor, out: Tensor) -> None:
        """Write to `out` what a convolving layer with a norm makes, in evaluation, of frames with margins."""
        conv = self.affine
        self.norm.evaluate(self.activation(shifted_products(padded, conv.weight, conv.bias, *conv.dilation)), out)

    def forward(self, frames: Tensor, num_frames: Tensor | None = None) -> Tensor:
        if self.pointwise:
            # As rows: a linear layer of three axes returns a view, which autograd copies before it is overwritten.
            rows = self.activation(self.affine(frames.flatten(0, 1)))
            frames = rows.view(*frames.shape[:2], -1)
        else:
            frames = self.activation(self.affine(frames, num_frames))
        return frames if self.norm is None else self.norm(frames, num_frames)
