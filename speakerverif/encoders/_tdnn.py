"""Layers over frames `(B, T, C)`: a convolution over time made of matrix products, and the TDNN layer.

Channels are contiguous, so a point-wise layer is one matrix product over all frames, batch norm runs along
rows, and a convolution of k taps is k products of shifted frames. On a CPU all of them run near the rate of a
large product, where the general convolution and its padding copies don't.
"""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from speakerverif.pooling import FrameNorm, frame_mask

Padding = Literal["zeros", "reflect", "none"]


class TimeConv(nn.Conv1d):
    """Convolution of frames `(B, T, C)` over time, `(B, T, C')`; without padding T shrinks by the context.

    Each utterance is padded at its own end, `num_frames`, so a row of a ragged batch sees what it would see
    alone. Reflection is repeated where an utterance is shorter than the context.
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
        self.margin = dilation * (kernel_size - 1) // 2
        self.pad_with = padding

    def forward(self, frames: Tensor, num_frames: Tensor | None = None) -> Tensor:  # type: ignore[override]
        padded = self._pad(frames, num_frames)
        plain = frames.device.type == "cpu" and not torch.is_autocast_enabled("cpu")
        if plain and not torch.onnx.is_in_onnx_export():
            bias = padded.new_zeros(self.out_channels) if self.bias is None else self.bias
            return _ShiftedProducts.apply(padded, self.weight, bias, self.dilation[0])
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


def _reflect(position: Tensor, length: Tensor) -> Tensor:
    """Return the index in [0, length) that a position outside it mirrors, without repeating the edge."""
    period = (2 * (length - 1)).clamp(min=1)
    folded = position.remainder(period)
    return torch.minimum(folded, period - folded).clamp(max=length - 1)


class _ShiftedProducts(torch.autograd.Function):
    """Convolution over time without padding: the sum over taps k of W_k times frames k * dilation later.

    All utterances are taken as one long run of rows, so that each tap is a single product. The rows at an
    utterance's end, which mix it with the next, are dropped; their gradient is zero.
    """

    @staticmethod
    def forward(ctx, frames: Tensor, weight: Tensor, bias: Tensor, dilation: int) -> Tensor:  # type: ignore[override]
        batch, length, channels = frames.shape
        rows = frames.reshape(-1, channels)
        taps = weight.permute(2, 1, 0).contiguous()  # (k, in, out)
        lost = dilation * (len(taps) - 1)
        run = len(rows) - lost
        # One utterance needs no room for rows to drop, and then no copy to drop them.
        out = rows.new_empty(batch, length if batch > 1 else run, len(bias))
        sums = out.flatten(0, 1)[:run]
        torch.addmm(bias, rows[:run], taps[0], out=sums)
        for k in range(1, len(taps)):
            sums.addmm_(rows[k * dilation :][:run], taps[k])
        ctx.save_for_backward(frames, taps)
        ctx.dilation = dilation
        return out[:, : length - lost].contiguous() if batch > 1 else out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):  # type: ignore[override]
        frames, taps = ctx.saved_tensors
        rows = frames.reshape(-1, frames.shape[2])
        lost = ctx.dilation * (len(taps) - 1)
        run = len(rows) - lost
        # Zeros in front, for the shifts backwards, and where rows were dropped.
        padded = grad.new_zeros(lost + len(rows), grad.shape[2])
        spread = padded[lost:]
        spread.view(*frames.shape[:2], -1)[:, : grad.shape[1]] = grad
        grad_taps = torch.empty_like(taps)
        for k in range(len(taps)):
            torch.mm(rows[k * ctx.dilation :][:run].t(), spread[:run], out=grad_taps[k])
        grad_rows = None
        if ctx.needs_input_grad[0]:
            grad_rows = spread @ taps[0].t()
            for k in range(1, len(taps)):
                grad_rows.addmm_(padded[lost - k * ctx.dilation :][: len(rows)], taps[k].t())
            grad_rows = grad_rows.view(frames.shape)
        return grad_rows, grad_taps.permute(2, 1, 0), grad.sum((0, 1)), None


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
        self.norm = FrameNorm(out_channels, affine=norm == "affine") if norm != "none" else None

    def forward(self, frames: Tensor, num_frames: Tensor | None = None) -> Tensor:
        frames = self.affine(frames) if self.pointwise else self.affine(frames, num_frames)
        frames = self.activation(frames)
        return frames if self.norm is None else self.norm(frames, num_frames)
