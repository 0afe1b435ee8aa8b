"""Layers over maps `(B, C, T, F)`: C channels at every frame and frequency.

In memory maps are channels-last, (B, T, F, C): the order that convolutions are fastest in, and in which frames
`(B, T, F C)` are the same memory. Kernels are kept as published models keep them, (out, in, frequency, time).

Every layer leaves zeros past an utterance's end, `num_frames`. A convolution pads with zeros, so the next layer
sees there what it sees at the end of an utterance alone, and a sum of maps stays zero by itself.
"""

from torch import Tensor, nn

from speakerverif.pooling import FrameNorm, frame_mask


def as_maps(frames: Tensor, channels: int = 1) -> Tensor:
    """Return frames `(B, T, F C)`, the channels of one frequency side by side, as maps `(B, C, T, F)`."""
    return frames.unflatten(2, (-1, channels)).permute(0, 3, 1, 2)


def as_frames(maps: Tensor) -> Tensor:
    """Return maps as frames `(B, T, F C)`, the channels of one frequency side by side."""
    return maps.permute(0, 2, 3, 1).flatten(2)


def zero_padding(maps: Tensor, num_frames: Tensor | None) -> Tensor:
    """Return maps with zeros past each utterance's end, whatever (NaN too) is there."""
    if num_frames is None:
        return maps
    return maps.masked_fill(~frame_mask(num_frames, maps.shape[2])[:, None, :, None], 0)


def halved(num_frames: Tensor | None) -> Tensor | None:
    """Return how many frames a convolution of stride 2 makes of `num_frames`."""
    return None if num_frames is None else (num_frames + 1) // 2


class ConvNorm(nn.Module):
    """Convolution without bias and batch norm; `num_frames` counts the frames that come out.

    In evaluation the norm is folded into the kernel, which saves a pass over the maps.

    Args:
        stride: over frequency and over time, or both.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int = 3, stride: int | tuple[int, int] = 1
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            in_channels, out_channels, kernel_size, stride, padding=kernel_size // 2, bias=False
        )
        self.norm = FrameNorm(out_channels)

    def forward(self, maps: Tensor, num_frames: Tensor | None = None) -> Tensor:
        if self.training:
            maps = self._convolve(maps, self.conv.weight, None)
            _, _, length, bands = maps.shape
            # All of a frame's frequencies in a row: an utterance is `bands` times as many rows.
            rows = maps.permute(0, 2, 3, 1).flatten(1, 2)
            rows = self.norm(rows, None if num_frames is None else num_frames * bands)
            return rows.unflatten(1, (length, bands)).permute(0, 3, 1, 2)
        mean, variance = self.norm.running_mean, self.norm.running_var
        assert mean is not None and variance is not None
        scale = self.norm.weight * (variance + self.norm.eps).rsqrt()
        bias = self.norm.bias - mean * scale
        maps = self._convolve(maps, self.conv.weight * scale.view(-1, 1, 1, 1), bias)
        if num_frames is None:
            return maps
        # What comes out is finite, and a product is several times faster than a selection.
        return maps.mul_(frame_mask(num_frames, maps.shape[2])[:, None, :, None].to(maps.dtype))

    def _convolve(self, maps: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        stride, padding = self.conv.stride[::-1], self.conv.padding[::-1]  # type: ignore[index]
        if self.conv.kernel_size == (1, 1):
            # One matrix product. (oneDNN's strided one writes past its memory in the backward pass when maps
            # are channels-last and there are few channels, seen with torch 2.11.)
            rows = maps[:, :, :: stride[0], :: stride[1]].permute(0, 2, 3, 1)
            return nn.functional.linear(rows, weight.flatten(1), bias).permute(0, 3, 1, 2)
        return nn.functional.conv2d(maps, weight.transpose(2, 3), bias, stride, padding)
