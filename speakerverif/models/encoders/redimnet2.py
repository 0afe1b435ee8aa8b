"""ReDimNet2: ReDimNet whose later stages also reduce the frames, and repeat them before their results are summed.

Time is reduced by the stages' own first convolution, from the full rate each time, so every result still has all
frames and one shape, and the sums before each stage are those of ReDimNet. Frames that don't fill a group of four
are left out.

Source: Yakovlev and Okhotnikov, 2026, "ReDimNet2: Scaling speaker verification via time-pooled dimension reshaping",
arXiv:2603.11841. Parameters at 72 mels, in the form of the authors' recipes and of WeSpeaker's port, which has other
layers before the pooling and another B3. The authors' table cuts its figures off after the first decimal.

| size | authors    | their table | layer before pooling  | WeSpeaker  | layer before pooling  |
|------|-----------:|------------:|-----------------------|-----------:|-----------------------|
| B0   |  1,114,356 |       1.1 M | 64 for each frequency |    702,196 | 64                    |
| B1   |  2,160,336 |       2.1 M | none                  |  1,253,840 | 64                    |
| B2   |  3,676,320 |       3.6 M | none                  |  2,528,768 | 64                    |
| B3   |  4,179,848 |       4.1 M | none                  |  2,362,984 | 64 ("B3-narrow")      |
| B4   |  6,657,440 |       6.6 M | none                  |  6,657,440 | none, not by band     |
| B5   |  8,955,816 |       8.9 M | 256, each frequency   |  7,897,000 | 256                   |
| B6   | 12,390,176 |      12.3 M | 224, each frequency   | 12,390,176 | 224, each frequency   |

Departures: an utterance of fewer than four frames is continued with zeros to four, where the authors' code fails; a
pooled variance has a floor where theirs adds a constant.
"""

import math
from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple

import torch
from torch import Tensor, nn

from speakerverif._util.ranges import Range, VarianceFloor, Width
from speakerverif.errors import InputError
from speakerverif.models.encoders._maps import ConvNorm, MapConv, as_frames, as_maps
from speakerverif.models.encoders.redimnet import (
    LAYER_NORM_EPS,
    ResidualBlock,
    TimeContext,
    weighted_sum,
)
from speakerverif.models.frames import frame_mask, widened, zero_padding
from speakerverif.models.pooling import AttentiveStatisticsPooling

MELS = 72
TIME_STRIDE = 4  # of all stages together


class Stage(NamedTuple):
    """A stage: frequencies and frames are divided by the strides, and the channels multiplied by `stride`."""

    stride: int
    time_stride: int
    blocks: int
    expansion: float  # of the channels inside the two-dimensional blocks
    reduction: int  # of the channels inside the block over time


class Size(NamedTuple):
    """A published size of the network."""

    channels: int  # of the input layer
    stages: tuple[Stage, ...]


STRIDES = ((1, 1), (2, 1), (1, 2), (2, 1), (1, 2), (2, 1))  # over frequency and over time
B2_STRIDES = (*STRIDES[:3], (3, 1), *STRIDES[4:])
BLOCKS = (2, 3, 4, 5, 4, 3)
NARROW = (2.0, 1.0, 1.0, 1.0, 1.0, 1.0)
WIDE = (4.0, 3.0, 2.0, 1.0, 1.0, 1.0)


def _size(
    channels: int,
    expansions: tuple[float, ...],
    reductions: tuple[int, ...],
    blocks: tuple[int, ...] = BLOCKS,
    strides: tuple[tuple[int, int], ...] = STRIDES,
) -> Size:
    stages = zip(strides, blocks, expansions, reductions, strict=True)
    return Size(channels, tuple(Stage(*stride, n, expansion, by) for stride, n, expansion, by in stages))


SIZES = {
    "B0": _size(12, NARROW, (36, 36, 36, 36, 18, 18)),
    "B1": _size(16, NARROW, (32, 32, 32, 32, 16, 16)),
    "B2": _size(20, NARROW, (40, 30, 30, 20, 20, 10), strides=B2_STRIDES),
    "B3": _size(24, WIDE, (24, 24, 24, 24, 24, 24)),
    "B3-narrow": _size(24, NARROW, (36, 36, 36, 36, 18, 18)),
    "B4": _size(32, WIDE, (24, 24, 24, 24, 24, 24)),
    "B5": _size(48, WIDE, (48, 48, 48, 48, 32, 32)),
    "B6": _size(64, (3.0, 2.0, 2.0, 1.0, 0.75, 0.5), (64, 64, 48, 48, 32, 24), (3, 4, 5, 5, 4, 3)),
}


@dataclass(frozen=True)
class Config:
    """The settings are a size's and those of its layer before pooling; the defaults are the authors' B2."""

    size: Literal["B0", "B1", "B2", "B3", "B3-narrow", "B4", "B5", "B6"] = "B2"
    # Group norm of the input layer's result and of every stage's, over groups of channels and all frames.
    group_norm: bool = False
    # The layer before pooling: its channels, for each frequency that is left or for a whole frame; 0: no layer.
    head_channels: Annotated[int, Range(0, 16_384)] = 0
    head_per_band: bool = True
    global_context: bool = True  # the attention sees the utterance's own statistics
    embedding_dim: Width = 192
    final_norm: bool = False  # batch norm of the embedding
    variance_floor: VarianceFloor = 1e-7


class FrameGroupNorm(nn.GroupNorm):
    """Group norm of frames `(B, T, C)`: each group of adjacent channels over all real frames of an utterance."""

    def forward(self, frames: Tensor, num_frames: Tensor | None = None) -> Tensor:
        batch, length, _ = frames.shape
        groups = widened(frames).reshape(batch, length, self.num_groups, -1)
        width = groups.shape[3]
        mask = None if num_frames is None else frame_mask(num_frames, length)[:, :, None, None]
        count = width * (length if num_frames is None else num_frames.view(-1, 1, 1, 1))
        if mask is not None:
            groups = groups.masked_fill(~mask, 0)
        centred = groups - groups.sum((1, 3), keepdim=True) / count
        if mask is not None:
            centred = centred.masked_fill(~mask, 0)
        variance = centred.square().sum((1, 3), keepdim=True) / count
        normed = (centred / (variance + self.eps).sqrt()).flatten(2).to(frames.dtype)
        return zero_padding(normed * self.weight + self.bias, num_frames)


class StageLayers(nn.Module):
    """A stage: frames of one rate to frames of the same rate, over maps of fewer frequencies and frames.

    Args:
        channels, bands: of the maps that come in; the channels that go out are `channels * stage.stride`.
        time_stride: frames that become one, of this stage and those before it together.
    """

    def __init__(self, stage: Stage, channels: int, bands: int, time_stride: int, group_norm: bool) -> None:
        super().__init__()
        self.channels, self.time_stride = channels, time_stride
        out_channels, width = channels * stage.stride, channels * bands
        inner = int(out_channels * stage.expansion)
        strides = (stage.stride, time_stride)
        self.reduce = MapConv(channels, inner, strides, strides, math.gcd(channels, inner), bias=True)
        self.blocks = nn.ModuleList(ResidualBlock(inner, 1, None) for _ in range(stage.blocks))
        self.squeeze: ConvNorm | None = None
        if inner != out_channels:
            self.squeeze = ConvNorm(inner, out_channels, (1, 1), bias=True)
            self.squeeze.norm.eps = 1e-6
        self.context = TimeContext(width, width // stage.reduction)
        # As many groups as the input layer has channels, whatever the maps of this stage have.
        self.norm = FrameGroupNorm(width // MELS, width) if group_norm else None

    def forward(self, frames: Tensor, num_frames: Tensor | None) -> Tensor:
        maps = as_maps(frames, self.channels)
        fewer = None if num_frames is None else num_frames // self.time_stride
        maps = self.reduce(maps, fewer)
        for block in self.blocks:
            maps = block(maps, fewer)
        if self.squeeze is not None:
            maps = self.squeeze(maps, fewer)
        out: Tensor = self.context(as_frames(maps), fewer)
        out = out.unsqueeze(2).expand(-1, -1, self.time_stride, -1).flatten(1, 2)
        return out if self.norm is None else self.norm(out, num_frames)


class ReDimNet2(nn.Module):
    """The encoder; `embedding_dim` is the size of what it returns."""

    def __init__(self, config: Config, num_mels: int) -> None:
        super().__init__()
        self.embedding_dim = config.embedding_dim
        size = SIZES[config.size]
        width = size.channels * num_mels
        self.input = MapConv(1, size.channels, bias=True)
        self.input_norm = nn.LayerNorm(size.channels, LAYER_NORM_EPS)
        self.group_norm = FrameGroupNorm(size.channels, width) if config.group_norm else None
        self.stages = nn.ModuleList()
        channels, bands, time_stride = size.channels, num_mels, 1
        for stage in size.stages:
            time_stride *= stage.time_stride
            self.stages.append(StageLayers(stage, channels, bands, time_stride, config.group_norm))
            channels, bands = channels * stage.stride, bands // stage.stride
        # Of the inputs of every stage but the first and of the pooling, for each channel.
        self.weights = nn.ParameterList(torch.zeros(i + 2, width) for i in range(len(size.stages)))
        self.channels = channels
        self.per_band = config.head_per_band
        self.head: nn.Linear | None = None
        if config.head_channels:
            self.head = nn.Linear(channels if self.per_band else width, config.head_channels)
            width = config.head_channels * (bands if self.per_band else 1)
        self.pooling = AttentiveStatisticsPooling(
            width,
            global_context=config.global_context,
            norm=False,
            unbiased_context=True,
            variance_floor=config.variance_floor,
        )
        self.pooling_norm = nn.BatchNorm1d(self.pooling.output_dim)
        self.embedding = nn.Linear(self.pooling.output_dim, config.embedding_dim)
        self.embedding_norm = nn.BatchNorm1d(config.embedding_dim) if config.final_norm else None

    def forward(self, features: Tensor, num_frames: Tensor | None = None) -> Tensor:
        features, num_frames = whole_groups(features, num_frames)
        maps = self.input(as_maps(zero_padding(features, num_frames)))
        maps = self.input_norm(maps.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        frames = zero_padding(as_frames(maps), num_frames)
        if self.group_norm is not None:
            frames = self.group_norm(frames, num_frames)
        outputs = [frames]
        for stage, weights in zip(self.stages, self.weights, strict=True):
            outputs.append(stage(frames, num_frames))
            frames = weighted_sum(outputs, weights)
        embedding: Tensor = self.embedding(
            self.pooling_norm(self.pooling(self.before_pooling(frames), num_frames))
        )
        if self.embedding_norm is not None:
            embedding = self.embedding_norm(embedding)
        return embedding

    def before_pooling(self, frames: Tensor) -> Tensor:
        """Return what is pooled: frames, or maps as frames in which the frequencies of a channel are adjacent."""
        if self.per_band:
            frames = frames.reshape(*frames.shape[:2], -1, self.channels)  # (B, T, F, C)
        if self.head is not None:
            frames = self.head(frames)
        return frames.transpose(2, 3).flatten(2) if self.per_band else frames


def whole_groups(features: Tensor, num_frames: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Return features whose frames fill groups of four, at least one, and their number in each utterance.

    What is left over of a longer utterance is cut off; one of fewer than four frames is continued with zeros.
    """
    if num_frames is None:
        length = features.shape[1]
        if length < TIME_STRIDE:
            return nn.functional.pad(features, (0, 0, 0, TIME_STRIDE - length)), None
        return features[:, : length // TIME_STRIDE * TIME_STRIDE].contiguous(), None
    features = nn.functional.pad(zero_padding(features, num_frames), (0, 0, 0, TIME_STRIDE - 1))
    whole = features.shape[1] // TIME_STRIDE * TIME_STRIDE
    return features[:, :whole].contiguous(), (num_frames // TIME_STRIDE).clamp(min=1) * TIME_STRIDE


def build(config: Config, num_mels: int) -> ReDimNet2:
    """Return the encoder: features float32 `(B, T, 72)` to embeddings `(B, embedding_dim)`.

    Raises:
        InputError: another number of mels.
    """
    if num_mels != MELS:
        raise InputError(
            f"encoder redimnet2 can't take features of {num_mels} mels; set num_mels = {MELS} under [features]"
        )
    return ReDimNet2(config, num_mels)
