"""RepVGG: plain stacks of convolutions, which are trained as sums of branches and fused into one for use.

A block in training adds a convolution of 3 x 3, a second one (point-wise, or of 3 x 3 with dilation 2) and its input,
each followed by a batch norm. All of them are linear in evaluation, so one convolution with a bias gives the same sum.

Source: Ding, Zhang, Ma, Han, Ding and Sun, 2021, "RepVGG: Making VGG-style ConvNets great again", arXiv:2101.03697;
with the dilated branch ("RSBB"): Ma, Liu, Tian, Yu and Wang, 2021, "Rep works in speaker verification",
arXiv:2110.09720; in the form of WeSpeaker's code. `Config()` is its REPVGG_TINY_A0 (parameters at 80 mels):

| model               | trained    | fused      | settings that differ from `Config()`'s         |
|---------------------|-----------:|-----------:|------------------------------------------------|
| REPVGG_TINY_A0      |  6,833,792 |  6,264,352 |                                                |
| REPVGG_TINY_RSBB_A0 | 11,233,152 | 15,063,072 | second_branch "dilated"                        |
| REPVGG_A0           | 14,380,960 | 13,581,376 | blocks 2, 4, 14, 1; widths 48, 96, 192, 1280   |
| REPVGG_A1           | 19,363,968 | 18,061,568 | blocks 2, 4, 14, 1; widths 64, 128, 256, 1280  |
| REPVGG_A2           | 34,009,536 | 31,299,008 | blocks 2, 4, 14, 1; widths 96, 192, 384, 1408  |
| REPVGG_B0           | 21,089,664 | 19,610,752 | blocks 4, 6, 16, 1; widths 64, 128, 256, 1280  |

WeSpeaker's table has 6.26 M for REPVGG_TINY_A0, which is its fused form, and no figure for the others.

Departures: a pooled variance has a floor where theirs adds a constant; initial kernels are uniform, with the variance
of its normal ones.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from speakerverif._util.ranges import Range, VarianceFloor, Width
from speakerverif.models import pooling
from speakerverif.models.encoders._maps import (
    MapConv,
    MapNorm,
    as_frames_by_channel,
    as_maps,
    strided,
    zero_padded_maps,
)
from speakerverif.models.encoders.resnet_se import ChannelExcitation
from speakerverif.models.frames import zero_padding
from speakerverif.models.pooling import Pooling

STAGES = 4
STRIDES = (1, 2, 2, 2)  # over time and frequency, of the first block of each stage
BANDS = 8  # mel bands per frequency that is left
DILATION = 2
LAST_GROUPED = 26  # blocks are counted from 0, the input; every second one up to this may have groups
REDUCTION = 4  # of the channels inside an excitation

SecondBranch = Literal["pointwise", "dilated"]


@dataclass(frozen=True)
class Config:
    """The defaults are WeSpeaker's REPVGG_TINY_A0."""

    blocks: Annotated[tuple[int, ...], Range(1, 200)] = (3, 4, 23, 3)  # of each stage, after an input block
    widths: Annotated[tuple[int, ...], Range(1, 16_384)] = (32, 64, 128, 256)  # channels of each stage
    second_branch: SecondBranch = "pointwise"
    groups: Literal[1, 2, 4] = 1  # of the convolutions in every second block
    excitation: bool = False  # each block's result is scaled, channel by channel
    fused: bool = False  # one convolution in each block; can't be trained any more as RepVGG is
    pooling: Pooling = "statistics"
    embedding_dim: Width = 256
    variance_floor: VarianceFloor = 1e-7

    def problems(self) -> Iterator[str]:
        """Yield the settings that contradict others."""
        for name in ("blocks", "widths"):
            if len(getattr(self, name)) != STAGES:
                yield f"{name}: found {getattr(self, name)}, expected {STAGES} numbers, one per stage"
        if any(width % self.groups for width in (*self.widths, min(64, self.widths[0]))):
            yield f"groups: found {self.groups}, expected a divisor of all widths {self.widths}"


class DilatedConv(MapConv):
    """Convolution of 3 x 3 whose taps are two places apart; the maps keep their size, or are halved by the stride."""

    def forward(self, maps: Tensor, num_frames: Tensor | None = None) -> Tensor:
        weight, stride = self.weight.transpose(2, 3), self.stride[::-1]
        maps = nn.functional.conv2d(maps, weight, None, stride, DILATION, DILATION, self.groups)
        return zero_padded_maps(maps, num_frames)


class RepVGGBlock(nn.Module):
    """The sum of the branches and a rectifier; after `fuse`, one convolution and the rectifier.

    Args:
        stride: over time and over frequency.
    """

    def __init__(self, in_channels: int, channels: int, stride: int, groups: int, config: Config) -> None:
        super().__init__()
        self.stride, self.groups = stride, groups
        self.dilated = config.second_branch == "dilated"
        strides = (stride, stride)
        self.fused: MapConv | None = None
        if config.fused:
            self.fused = self._fused_conv(in_channels, channels)
        else:
            self.dense = MapConv(in_channels, channels, stride=strides, groups=groups)
            self.dense_norm = MapNorm(channels)
            self.second = (
                DilatedConv(in_channels, channels, stride=strides, groups=groups)
                if self.dilated
                else MapConv(in_channels, channels, (1, 1), strides, groups)
            )
            self.second_norm = MapNorm(channels)
            self.identity_norm = MapNorm(channels) if stride == 1 and in_channels == channels else None
        self.excitation = ChannelExcitation(channels, REDUCTION) if config.excitation else None

    def forward(self, maps: Tensor, num_frames: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return the block's maps, and the number of their real frames."""
        num_frames = strided(num_frames, self.stride)
        if self.fused is not None:
            out = self.fused(maps, num_frames)
        else:
            out = self.dense_norm(self.dense(maps), num_frames)
            out = out + self.second_norm(self.second(maps), num_frames)
            if self.identity_norm is not None:
                out = out + self.identity_norm(maps, num_frames)
        out = out.relu()
        return (out if self.excitation is None else self.excitation(out, num_frames)), num_frames

    @torch.no_grad()
    def fuse(self) -> None:
        """Replace the branches, with their statistics as they are now, by the one convolution that equals them."""
        if self.fused is not None:
            return
        channels, _, _, _ = self.dense.weight.shape
        fused = self._fused_conv(self.dense.in_channels, channels).to(self.dense.weight)
        fused.weight.zero_()
        fused.bias.zero_()  # type: ignore[union-attr]
        margin = fused.kernel_size[0] // 2
        centre = slice(margin, margin + 1)
        around = slice(margin - 1, margin + 2)
        self._add(fused, self.dense.weight, self.dense_norm, around)
        # Dilated taps are those of the whole kernel that are two apart.
        taps = slice(None, None, DILATION) if self.dilated else centre
        self._add(fused, self.second.weight, self.second_norm, taps)
        if self.identity_norm is not None:
            identity = torch.zeros_like(fused.weight[:, :, centre, centre])
            index = torch.arange(channels)
            identity[index, index % identity.shape[1]] = 1
            self._add(fused, identity, self.identity_norm, centre)
        del self.dense, self.dense_norm, self.second, self.second_norm, self.identity_norm
        self.fused = fused

    def _fused_conv(self, in_channels: int, channels: int) -> MapConv:
        size = 5 if self.dilated else 3
        return MapConv(
            in_channels, channels, (size, size), (self.stride, self.stride), self.groups, bias=True
        )

    @staticmethod
    def _add(fused: MapConv, kernel: Tensor, norm: MapNorm, taps: slice) -> None:
        """Add a branch's kernel, with its norm folded in, to the fused one at those taps."""
        assert norm.running_mean is not None and norm.running_var is not None and fused.bias is not None
        scale = norm.weight / (norm.running_var + norm.eps).sqrt()
        fused.weight[:, :, taps, taps] += kernel * scale.view(-1, 1, 1, 1)
        fused.bias += norm.bias - norm.running_mean * scale


class RepVGG(nn.Module):
    """The encoder; `embedding_dim` is the size of what it returns."""

    def __init__(self, config: Config, num_mels: int) -> None:
        super().__init__()
        self.embedding_dim = config.embedding_dim
        size = min(64, config.widths[0])
        self.blocks = nn.ModuleList([RepVGGBlock(1, size, 1, 1, config)])
        for width, count, stride in zip(config.widths, config.blocks, STRIDES, strict=True):
            for k in range(count):
                index = len(self.blocks)
                groups = config.groups if index % 2 == 0 and index <= LAST_GROUPED else 1
                self.blocks.append(RepVGGBlock(size, width, stride if k == 0 else 1, groups, config))
                size = width
        self.pooling = pooling.build(config.pooling, size * -(-num_mels // BANDS), config.variance_floor)
        self.embedding = nn.Linear(self.pooling.output_dim, config.embedding_dim)
        for module in self.modules():
            if isinstance(module, MapConv):
                nn.init.kaiming_uniform_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, features: Tensor, num_frames: Tensor | None = None) -> Tensor:
        maps = as_maps(zero_padding(features, num_frames))
        for block in self.blocks:
            maps, num_frames = block(maps, num_frames)
        embedding: Tensor = self.embedding(self.pooling(as_frames_by_channel(maps), num_frames))
        return embedding


def build(config: Config, num_mels: int) -> RepVGG:
    """Return the encoder: features float32 `(B, T, num_mels)` to embeddings `(B, embedding_dim)`."""
    return RepVGG(config, num_mels)
