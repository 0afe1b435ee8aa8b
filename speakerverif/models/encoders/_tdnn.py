"""Time-delay layers over frames `(B, T, C)`: convolution over time, and the TDNN layer made of it.

The channels of a frame are contiguous, so a point-wise layer is one matrix product over all frames.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from speakerverif.models.frames import FrameNorm, zero_padding

Padding = Literal["zeros", "reflect", "none"]


class TimeConv(nn.Conv1d):
    """Convolution of frames `(B, T, C)` over time, `(B, T, C')`; without padding T shrinks by the context.

    Each utterance is padded at its own end, `num_frames`, so a row of a ragged batch gives the same result as alone.
    Reflection is repeated where an utterance is shorter than the context.
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

    def forward(self, frames: Tensor, num_frames: Tensor | None = None) -> Tensor:
        # As images of height 1, channels last: time need not be copied to the last axis.
        image = self.pad(frames, num_frames).transpose(1, 2).unsqueeze(2)
        dilation = (1, *self.dilation)
        convolved = nn.functional.conv2d(image, self.weight.unsqueeze(2), self.bias, dilation=dilation)
        return convolved.squeeze(2).transpose(1, 2)

    def pad(self, frames: Tensor, num_frames: Tensor | None) -> Tensor:
        """Return frames with `margin` more on either side, every row padded at its own ends."""
        if self.pad_with == "none":
            return frames
        if self.pad_with == "zeros":
            frames = zero_padding(frames, num_frames)
            return nn.functional.pad(frames, (0, 0, self.margin, self.margin))
        batch, length, _ = frames.shape
        position = torch.arange(-self.margin, length + self.margin, device=frames.device)
        if num_frames is None:
            return frames.index_select(1, reflect(position, torch.tensor(length, device=frames.device)))
        index = reflect(position.unsqueeze(0), num_frames.unsqueeze(1))
        return frames[torch.arange(batch, device=frames.device)[:, None], index]


def reflect(position: Tensor, length: Tensor) -> Tensor:
    """Return the index in [0, length) that a position outside it mirrors, without repeating the edge."""
    period = (2 * (length - 1)).clamp(min=1)
    folded = position.remainder(period)
    return torch.minimum(folded, period - folded).clamp(max=length - 1)


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
        self.affine: nn.Linear | TimeConv = (
            nn.Linear(in_channels, out_channels)
            if kernel_size == 1
            else TimeConv(in_channels, out_channels, kernel_size, dilation, padding)
        )
        self.lost_frames = dilation * (kernel_size - 1) if padding == "none" else 0
        self.activation = nn.ReLU(inplace=True) if activation is None else activation
        self.norm = FrameNorm(out_channels, norm == "affine") if norm != "none" else None

    def forward(self, frames: Tensor, num_frames: Tensor | None = None) -> Tensor:
        convolves = isinstance(self.affine, TimeConv)
        frames = self.affine(frames, num_frames) if convolves else self.affine(frames)
        frames = self.activation(frames)
        return frames if self.norm is None else self.norm(frames, num_frames)
