"""Layers over maps `(B, C, T, F)`: C channels at every frame and frequency.

In memory maps are channels-last, (B, T, F, C): the order that convolutions are fastest in, and in which frames
`(B, T, F C)` are the same memory. Kernels are kept as published models keep them, (out, in, frequency, time).

Every layer leaves zeros past an utterance's end, `num_frames`. A convolution pads with zeros, so the next layer reads
there the same values as past the end of a single utterance, and a sum of maps stays zero.
"""

from typing import Any

from torch import Tensor, nn

from speakerverif.models.frames import FrameNorm, frame_mask


def as_maps(frames: Tensor, channels: int = 1) -> Tensor:
    """Return frames `(B, T, F C)`, the channels of one frequency adjacent, as maps `(B, C, T, F)`."""
    return frames.reshape(*frames.shape[:2], -1, channels).permute(0, 3, 1, 2)


def as_frames(maps: Tensor) -> Tensor:
    """Return maps as frames `(B, T, F C)`, the channels of one frequency adjacent."""
    return maps.permute(0, 2, 3, 1).flatten(2)


def as_frames_by_channel(maps: Tensor) -> Tensor:
    """Return maps as frames `(B, T, C F)`, the frequencies of one channel adjacent, as published ResNets pool them."""
    return maps.transpose(1, 2).flatten(2)


def zero_padded_maps(maps: Tensor, num_frames: Tensor | None) -> Tensor:
    """Return finite maps, overwritten with zeros past each utterance's end."""
    if num_frames is None:
        return maps
    return maps.mul_(frame_mask(num_frames, maps.shape[2])[:, None, :, None].to(maps.dtype))


def strided(num_frames: Tensor | None, stride: int) -> Tensor | None:
    """Return the number of frames that come out of a strided convolution of `num_frames`."""
    return num_frames if num_frames is None or stride == 1 else (num_frames + stride - 1) // stride


class MapConv(nn.Conv2d):
    """Convolution, with zeros around the map; `num_frames` counts the frames that come out.

    Args:
        kernel_size: over frequency and over time; odd, or equal to the stride: then nothing overlaps and there is no
            padding.
        stride: over frequency and over time.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: tuple[int, int] = (3, 3),
        stride: tuple[int, int] = (1, 1),
        groups: int = 1,
        bias: bool = False,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, groups=groups, bias=bias)
        self.padding = tuple(0 if k == s else k // 2 for k, s in zip(kernel_size, stride, strict=True))

    def forward(self, maps: Tensor, num_frames: Tensor | None = None) -> Tensor:
        stride = self.stride[::-1]
        if self.kernel_size == (1, 1) and stride != (1, 1):
            # oneDNN's backward pass of such a convolution writes past its memory (seen with torch 2.11).
            maps, stride = nn.functional.max_pool2d(maps, 1, stride), (1, 1)
        weight, padding = self.weight.transpose(2, 3), self.padding[::-1]
        maps = nn.functional.conv2d(maps, weight, self.bias, stride, padding, 1, self.groups)
        return zero_padded_maps(maps, num_frames)


class MapNorm(FrameNorm):
    """Batch norm of maps; padding is left out of training's statistics."""

    def forward(self, maps: Tensor, num_frames: Tensor | None = None) -> Tensor:
        if num_frames is None or not self.training:
            return zero_padded_maps(nn.BatchNorm1d.forward(self, maps), num_frames)
        # All of a frame's frequencies in a row: an utterance is `bands` times as many rows.
        batch, channels, length, bands = maps.shape
        rows = super().forward(maps.permute(0, 2, 3, 1).flatten(1, 2), num_frames * bands)
        return rows.view(batch, length, bands, channels).permute(0, 3, 1, 2)

    def _check_input_dim(self, maps: Tensor) -> None:
        """Take maps of four axes as well as rows."""


class ConvNorm(nn.Module):
    """Convolution and batch norm; the arguments are `MapConv`'s."""

    def __init__(self, in_channels: int, out_channels: int, *args: Any, **options: Any) -> None:
        super().__init__()
        self.conv = MapConv(in_channels, out_channels, *args, **options)
        self.norm = MapNorm(out_channels)

    def forward(self, maps: Tensor, num_frames: Tensor | None = None) -> Tensor:
        normed: Tensor = self.norm(self.conv(maps), num_frames)
        return normed
