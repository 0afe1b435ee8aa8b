"""Layers over maps `(B, C, T, F)`: C channels at every frame and frequency.

In memory maps are channels-last, (B, T, F, C): the order that convolutions are fastest in, and in which frames
`(B, T, F C)` are the same memory. Kernels are kept as published models keep them, (out, in, frequency, time).

Every layer leaves zeros past an utterance's end, `num_frames`. A convolution pads with zeros, so the next layer
sees there what it sees at the end of an utterance alone, and a sum of maps stays zero by itself.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from speakerverif.models._cpu.graphs import is_exporting, may_overwrite
from speakerverif.models._cpu.packing import ConvKernel, Kernel, LinearKernel, Packable
from speakerverif.models.pooling import FrameNorm, frame_mask


def as_maps(frames: Tensor, channels: int = 1) -> Tensor:
    """Return frames `(B, T, F C)`, the channels of one frequency side by side, as maps `(B, C, T, F)`."""
    return frames.reshape(*frames.shape[:2], -1, channels).permute(0, 3, 1, 2)


def as_frames(maps: Tensor) -> Tensor:
    """Return maps as frames `(B, T, F C)`, the channels of one frequency side by side."""
    return maps.permute(0, 2, 3, 1).flatten(2)


def zero_padding(frames: Tensor, num_frames: Tensor | None) -> Tensor:
    """Return frames `(B, T, C)` with zeros past each utterance's end, whatever (NaN too) is there."""
    if num_frames is None:
        return frames
    return frames.masked_fill(~frame_mask(num_frames, frames.shape[1]).unsqueeze(-1), 0)


def strided(num_frames: Tensor | None, stride: int) -> Tensor | None:
    """Return how many frames a convolution makes of `num_frames`."""
    return num_frames if num_frames is None or stride == 1 else (num_frames + stride - 1) // stride


def _mask(maps: Tensor, num_frames: Tensor | None) -> Tensor:
    """Return finite maps, overwritten with zeros past each utterance's end: several times faster than a fill."""
    if num_frames is None:
        return maps
    return maps.mul_(frame_mask(num_frames, maps.shape[2])[:, None, :, None].to(maps.dtype))


def relu(maps: Tensor) -> Tensor:
    """Return maps, or 0 where they are negative; written over the maps where nothing is kept for gradients."""
    return maps.relu_() if may_overwrite(maps) else maps.relu()


class MapConv(Packable, nn.Conv2d):
    """Convolution, with zeros around the map; `num_frames` counts the frames that come out.

    Args:
        kernel_size: over frequency and over time; odd, or the stride: then nothing overlaps or is added around.
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

    def forward(self, maps: Tensor, num_frames: Tensor | None = None) -> Tensor:  # type: ignore[override]
        if (kernel := self.kernel_for(maps)) is not None:
            return self.convolve_packed(kernel, maps, num_frames)
        return self.convolve(maps, num_frames, self.weight, self.bias)

    @property
    def pointwise(self) -> bool:
        """Whether the convolution is one matrix product."""
        return self.kernel_size == (1, 1) and self.groups == 1

    def _rows(self, maps: Tensor) -> Tensor:
        """Return what a point-wise convolution sees of maps, channels last."""
        return maps[:, :, :: self.stride[1], :: self.stride[0]].permute(0, 2, 3, 1)

    def convolve(
        self, maps: Tensor, num_frames: Tensor | None, weight: Tensor, bias: Tensor | None
    ) -> Tensor:
        """Return what the layer returns, with another weight and bias."""
        stride, padding = self.stride[::-1], self.padding[::-1]
        # (Only a convolution's own count of frames is one that torch.export can follow.)
        if self.pointwise and not (is_exporting() and stride != (1, 1)):
            # (oneDNN's strided convolution writes past its memory in the backward pass when maps are channels-last
            # and there are few channels, seen with torch 2.11.)
            maps = nn.functional.linear(self._rows(maps), weight.flatten(1), bias).permute(0, 3, 1, 2)
        else:
            maps = nn.functional.conv2d(maps, weight.transpose(2, 3), bias, stride, padding, 1, self.groups)
        return _mask(maps, num_frames)

    def convolve_packed(self, kernel: Kernel, maps: Tensor, num_frames: Tensor | None) -> Tensor:
        """Return what `kernel_for` returned makes of maps."""
        maps = kernel(self._rows(maps)).permute(0, 3, 1, 2) if self.pointwise else kernel(maps)
        return _mask(maps, num_frames)

    def make_kernel(self) -> Kernel:
        return self.kernel_of(self.weight, self.bias, self.sources())

    def kernel_of(self, weight: Tensor, bias: Tensor | None, sources: Sequence[Tensor | None]) -> Kernel:
        """Return the kernel with another weight and bias, made of `sources`."""
        if self.pointwise:
            return LinearKernel(weight.flatten(1), bias, sources)
        stride, padding = self.stride[::-1], self.padding[::-1]
        return ConvKernel(weight.transpose(2, 3), bias, sources, stride, padding, 1, self.groups)


class ConvNorm(Packable):
    """Convolution and batch norm; the arguments are `MapConv`'s.

    In evaluation the norm is folded into the kernel, which saves a pass over the maps.
    """

    def __init__(self, in_channels: int, out_channels: int, *args: Any, **options: Any) -> None:
        super().__init__()
        self.conv = MapConv(in_channels, out_channels, *args, **options)
        self.norm = FrameNorm(out_channels)

    def forward(self, maps: Tensor, num_frames: Tensor | None = None) -> Tensor:
        if self.training:
            return norm_maps(self.norm, self.conv(maps), num_frames)
        if (kernel := self.kernel_for(maps)) is not None:
            return self.conv.convolve_packed(kernel, maps, num_frames)
        return self.conv.convolve(maps, num_frames, *self._folded())

    def _folded(self) -> tuple[Tensor, Tensor]:
        """Return weight and bias of the convolution that does the norm's work as well."""
        scale, offset = self.norm.scale_and_offset()
        if self.conv.bias is not None:
            offset = offset + self.conv.bias * scale
        return self.conv.weight * scale.view(-1, 1, 1, 1), offset

    def sources(self) -> Sequence[Tensor | None]:
        norm = self.norm
        return self.conv.weight, self.conv.bias, norm.running_mean, norm.running_var, norm.weight, norm.bias

    def make_kernel(self) -> Kernel:
        return self.conv.kernel_of(*self._folded(), self.sources())


def norm_maps(norm: FrameNorm, maps: Tensor, num_frames: Tensor | None) -> Tensor:
    """Return maps after a batch norm."""
    _, _, length, bands = maps.shape
    if not norm.training:
        scale, offset = norm.scale_and_offset()
        return _mask(torch.addcmul(offset[:, None, None], maps, scale[:, None, None]), num_frames)
    # All of a frame's frequencies in a row: an utterance is `bands` times as many rows.
    rows = maps.permute(0, 2, 3, 1).flatten(1, 2)
    rows = norm(rows, None if num_frames is None else num_frames * bands)
    return rows.reshape(maps.shape[0], length, bands, -1).permute(0, 3, 1, 2)  # padding is zero already


class Residual(nn.Module):
    """A block's layers, and its input, brought to the same shape where that differs, added to what they give.

    With gradients the sum and the activation make new maps: overwriting a view costs autograd a copy. What
    `_layers` returns is nobody else's.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: tuple[int, int]) -> None:
        super().__init__()
        self.out_channels = out_channels
        self.time_stride = stride[1]
        same = stride == (1, 1) and in_channels == out_channels
        self.shortcut = None if same else ConvNorm(in_channels, out_channels, (1, 1), stride)

    def forward(self, given: Tensor, num_frames: Tensor | None) -> tuple[Tensor, Tensor | None]:
        after = strided(num_frames, self.time_stride)
        maps = self._layers(given, num_frames, after)
        short = given if self.shortcut is None else self.shortcut(given, after)
        return self._activate(maps.add_(short) if may_overwrite(maps) else maps + short), after

    def _layers(self, maps: Tensor, before: Tensor | None, after: Tensor | None) -> Tensor:
        raise NotImplementedError

    def _activate(self, maps: Tensor) -> Tensor:
        return relu(maps)


class BasicBlock(Residual):
    """Two convolutions of 3 x 3."""

    def __init__(self, in_channels: int, channels: int, stride: tuple[int, int]) -> None:
        super().__init__(in_channels, channels, stride)
        self.conv1 = ConvNorm(in_channels, channels, stride=stride)
        self.conv2 = ConvNorm(channels, channels)

    def _layers(self, maps: Tensor, before: Tensor | None, after: Tensor | None) -> Tensor:
        return self.conv2(relu(self.conv1(maps, after)), after)


def stages(
    channels: int,
    widths: Sequence[int],
    counts: Sequence[int],
    block: Callable[[int, int, int, tuple[int, int]], Residual],
) -> tuple[nn.ModuleList, int]:
    """Return lists of blocks, and how many channels come out of the last.

    The first block of every list but the first halves time and frequency.

    Args:
        channels: of the maps that come in.
        widths: of each list, as its blocks take it.
        counts: how many blocks each list has.
        block: makes one from the number of its list, the channels that come in, the width and the stride.
    """
    made = nn.ModuleList()
    for i, (width, count) in enumerate(zip(widths, counts, strict=True)):
        blocks: list[Residual] = []
        for k in range(count):
            stride = 2 if i > 0 and k == 0 else 1
            blocks.append(block(i, channels, width, (stride, stride)))
            channels = blocks[-1].out_channels
        made.append(nn.ModuleList(blocks))
    return made, channels


def second_layer(size: int) -> nn.Sequential:
    """Return what stands between the first layer after pooling and an embedding that is the second's."""
    return nn.Sequential(nn.ReLU(), nn.BatchNorm1d(size, affine=False), nn.Linear(size, size))
