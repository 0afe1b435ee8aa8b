"""Frames of a ragged batch: `(B, T, C)`, of which row b has `num_frames[b]` real ones; the rest is padding.

`num_frames` is int64 `(B,)`, or None where every row is full. No result depends on what the padding holds.
"""

import torch
from torch import Tensor, nn


def frame_mask(num_frames: Tensor, length: int) -> Tensor:
    """Return the mask of real frames: bool `(B, length)`, True where the index is below `num_frames`."""
    return torch.arange(length, device=num_frames.device) < num_frames.unsqueeze(1)


def zero_padding(frames: Tensor, num_frames: Tensor | None) -> Tensor:
    """Return frames `(B, T, C)` with zeros past each utterance's end, whatever (NaN too) is there."""
    if num_frames is None:
        return frames
    return frames.masked_fill(~frame_mask(num_frames, frames.shape[1]).unsqueeze(-1), 0)


def widened(values: Tensor) -> Tensor:
    """Return values in float32, or in float64 where they are that already."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def masked_mean(frames: Tensor, num_frames: Tensor | None) -> Tensor:
    """Return the mean over each utterance's real frames, float32 (or float64, as frames are) `(B, C)`."""
    dtype = torch.promote_types(frames.dtype, torch.float32)
    if num_frames is None:
        return frames.mean(1, dtype=dtype)
    return zero_padding(frames, num_frames).sum(1, dtype=dtype) / num_frames.unsqueeze(1)


class FrameNorm(nn.BatchNorm1d):
    """Batch norm of frames `(B, T, C)` over the last axis; padding is left out of training's statistics."""

    def __init__(self, channels: int, affine: bool = True) -> None:
        super().__init__(channels, affine=affine)

    def forward(self, frames: Tensor, num_frames: Tensor | None = None) -> Tensor:
        if num_frames is None or not self.training:
            return super().forward(frames.reshape(-1, frames.shape[-1])).view(frames.shape)
        mask = frame_mask(num_frames, frames.shape[1])
        real = super().forward(frames[mask])
        return real.new_zeros(frames.shape).masked_scatter(mask.unsqueeze(-1), real)
