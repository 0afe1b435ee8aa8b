"""ReDimNet: stages over time and frequency, each followed by one over time alone, on the same memory.

Maps `(B, C, T, F)` and frames `(B, T, F C)` hold the same values, so a stage can trade frequencies for channels
and every stage's result has one shape. The input of a stage is a weighted sum of all results before it.

Source: Yakovlev, Makarov, Balykin, Malov, Okhotnikov and Torgashov, 2024, "Reshape Dimensions Network for Speaker
Recognition", arXiv:2407.18223, in the sizes of WeSpeaker's port:

| size | mels | parameters | paper  |     | size | mels | parameters | paper  |
|------|-----:|-----------:|-------:|-----|------|-----:|-----------:|-------:|
| B0   |   60 |  1,001,850 |  1.0 M |     | B4   |   72 |  6,432,304 |  6.3 M |
| B1   |   72 |  2,123,480 |  2.2 M |     | B5   |   72 |  7,650,544 |  9.2 M |
| B2   |   72 |  4,888,240 |  4.7 M |     | B6   |   72 | 15,006,256 | 15.0 M |
| B3   |   72 |  3,220,412 |  3.0 M |     |      |      |            |        |

The port's B1 pools without `global_context`, which takes 221,184 parameters off. The authors' own code has a batch norm
between pooling and embedding (`pooling_norm`), which the port leaves out, and may have a layer before the pooling
(`head_channels`).

Departures: a pooled variance has a floor where the port's adds a constant; the port has one parameter more, a
weight of the only input of the first stage, which is always 1.
"""

import math
from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple

import torch
from torch import Tensor, nn

from speakerverif._util.ranges import Range, VarianceFloor, Width
from speakerverif.errors import InputError
from speakerverif.models.encoders._maps import (
    ConvNorm,
    MapConv,
    MapNorm,
    as_frames,
    as_maps,
)
from speakerverif.models.encoders._residual import second_layer
from speakerverif.models.encoders._tdnn import TDNN
from speakerverif.models.frames import frame_mask, masked_mean, widened, zero_padding
from speakerverif.models.pooling import AttentiveStatisticsPooling

HEADS = 4
LAYER_NORM_EPS = 1e-6


class Stage(NamedTuple):
    """A stage: the frequencies are divided by `stride`, and the channels multiplied by it."""

    stride: int
    blocks: int
    expansion: int  # of the channels inside the two-dimensional blocks
    reduction: int | None  # of the channels inside the block over time; None: no such block


class Size(NamedTuple):
    """A published size of the network."""

    mels: int
    channels: int
    block: Literal["convnext", "residual", "excited"]
    group: int  # channels of one group of a grouped convolution
    stages: tuple[Stage, ...]


def _stages(*stages: tuple[int, int, int, int | None]) -> tuple[Stage, ...]:
    return tuple(Stage(*stage) for stage in stages)


_B4 = _stages((1, 4, 2, 48), (2, 4, 2, 48), (1, 6, 2, 48), (2, 6, 1, 32), (1, 8, 1, 24), (2, 4, 1, 16))
SIZES = {
    "B0": Size(
        60,
        10,
        "residual",
        1,
        _stages((1, 2, 1, 30), (2, 3, 2, 30), (1, 3, 3, 30), (2, 4, 2, 10), (1, 3, 1, 10)),
    ),
    "B1": Size(
        72,
        12,
        "convnext",
        8,
        _stages((1, 2, 1, None), (2, 3, 1, None), (3, 4, 1, 12), (2, 5, 1, 12), (2, 3, 1, 8)),
    ),
    "B2": Size(
        72,
        16,
        "convnext",
        4,
        _stages((1, 2, 1, 12), (2, 2, 1, 12), (1, 3, 1, 12), (2, 4, 1, 8), (1, 4, 1, 8), (2, 4, 1, 4)),
    ),
    "B3": Size(
        72,
        16,
        "excited",
        1,
        _stages((1, 6, 4, 32), (2, 6, 2, 32), (1, 8, 2, 32), (2, 10, 2, 16), (1, 10, 1, 16), (2, 8, 1, 16)),
    ),
    "B4": Size(72, 32, "excited", 1, _B4),
    "B5": Size(72, 32, "excited", 16, _B4),
    "B6": Size(
        72,
        32,
        "residual",
        32,
        _stages((1, 4, 4, 32), (2, 6, 2, 32), (1, 6, 2, 24), (3, 8, 1, 24), (1, 8, 1, 16), (2, 8, 1, 16)),
    ),
}


@dataclass(frozen=True)
class Config:
    """The settings are a size's; features need its number of mels."""

    size: Literal["B0", "B1", "B2", "B3", "B4", "B5", "B6"] = "B2"
    head_channels: Annotated[int, Range(0, 16_384)] = 0  # of a layer and its norm before the pooling; 0: none
    global_context: bool = True  # the attention sees the utterance's own statistics
    pooling_norm: bool = False  # batch norm between pooling and embedding
    embedding_dim: Width = 192
    final_norm: bool = False  # batch norm of the embedding
    segment_layers: Literal[1, 2] = 1  # the embedding is the first or the second layer after pooling
    variance_floor: VarianceFloor = 1e-7


class ConvNeXtBlock(nn.Module):
    """A grouped convolution, batch norm, GELU and a point-wise layer, and the input added."""

    def __init__(self, channels: int, kernel_size: tuple[int, int], group: int) -> None:
        super().__init__()
        self.grouped = ConvNorm(channels, channels, kernel_size, groups=channels // group, bias=True)
        self.pointwise = MapConv(channels, channels, (1, 1), bias=True)

    def forward(self, maps: Tensor, num_frames: Tensor | None) -> Tensor:
        inner: Tensor = nn.functional.gelu(self.grouped(maps, num_frames))
        inner = self.pointwise(inner, num_frames)
        return maps + inner


class ResidualBlock(nn.Module):
    """Two grouped convolutions, each followed by a point-wise layer, and the input added."""

    def __init__(self, channels: int, group: int, excitation: "FrequencyExcitation | None") -> None:
        super().__init__()
        groups = channels // group
        self.grouped1 = MapConv(channels, channels, groups=groups)
        self.pointwise1 = MapConv(channels, channels, (1, 1), bias=True)
        self.norm1 = MapNorm(channels)
        self.grouped2 = MapConv(channels, channels, groups=groups)
        self.pointwise2 = ConvNorm(channels, channels, (1, 1), bias=True)
        self.excitation = excitation

    def forward(self, maps: Tensor, num_frames: Tensor | None) -> Tensor:
        inner: Tensor = self.pointwise1(self.grouped1(maps)).relu()
        inner = self.norm1(inner, num_frames)
        inner = self.pointwise2(self.grouped2(inner), num_frames)
        if self.excitation is not None:
            inner = inner * self.excitation(inner, num_frames)
        return (maps + inner).relu()


class FrequencyExcitation(nn.Module):
    """Scales `(B, 1, 1, F)` in (0, 1) for every frequency, from its mean over channels and the utterance."""

    def __init__(self, bands: int, hidden: int) -> None:
        super().__init__()
        self.squeeze = nn.Linear(bands, hidden)
        self.excite = nn.Linear(hidden, bands)

    def forward(self, maps: Tensor, num_frames: Tensor | None) -> Tensor:
        means = masked_mean(widened(maps).mean(1), num_frames)
        scale: Tensor = self.excite(self.squeeze(means).relu()).sigmoid()
        return scale[:, None, None, :].to(maps.dtype)


class TransformerLayer(nn.Module):
    """Self-attention over an utterance's frames, then two linear layers, each added and followed by a norm."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.query = nn.Linear(channels, channels)
        self.key = nn.Linear(channels, channels)
        self.value = nn.Linear(channels, channels)
        self.output = nn.Linear(channels, channels)
        self.norm = nn.LayerNorm(channels, LAYER_NORM_EPS)
        self.inner = nn.Linear(channels, channels)
        self.outer = nn.Linear(channels, channels)
        self.final_norm = nn.LayerNorm(channels, LAYER_NORM_EPS)

    def forward(self, frames: Tensor, num_frames: Tensor | None) -> Tensor:
        mask = None if num_frames is None else frame_mask(num_frames, frames.shape[1])[:, None, None, :]
        query, key, value = (
            layer(frames).unflatten(2, (HEADS, -1)).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        heard = nn.functional.scaled_dot_product_attention(query, key, value, mask)
        frames = self.norm(frames + self.output(heard.transpose(1, 2).flatten(2)))
        inner = nn.functional.gelu(self.inner(frames), approximate="tanh")
        frames = self.final_norm(frames + self.outer(inner))
        return frames


class TimeContext(nn.Module):
    """Channels reduced, convolutions over increasing durations, attention, channels restored, and the input added."""

    def __init__(self, channels: int, inner: int) -> None:
        super().__init__()
        self.reduce = nn.Linear(channels, inner)
        self.norm = nn.LayerNorm(inner, LAYER_NORM_EPS)
        self.convs = nn.ModuleList(ConvNeXtBlock(inner, (1, k), 1) for k in (7, 19, 31, 59))
        self.attention = TransformerLayer(inner)
        self.expand = MapConv(inner, channels, (1, 1), bias=True)

    def forward(self, frames: Tensor, num_frames: Tensor | None) -> Tensor:
        inner = zero_padding(self.norm(self.reduce(frames)), num_frames)
        maps = as_maps(inner, inner.shape[2])
        for conv in self.convs:
            maps = conv(maps, num_frames)
        inner = self.attention(as_frames(maps), num_frames)
        return frames + as_frames(self.expand(as_maps(inner, inner.shape[2]), num_frames))


def weighted_sum(outputs: list[Tensor], weights: Tensor) -> Tensor:
    """Return the sum of frames `(B, T, C)` under the softmax of weights `(outputs, C)`."""
    first, *rest = weights.softmax(0)
    total: Tensor = outputs[0] * first
    for output, weight in zip(outputs[1:], rest, strict=True):
        total = torch.addcmul(total, output, weight)
    return total


class StageLayers(nn.Module):
    """A stage: frames to frames, over maps of `channels` before and `channels * stride` after."""

    def __init__(self, size: Size, stage: Stage, channels: int, bands: int) -> None:
        super().__init__()
        stride, count, expansion, reduction = stage
        self.channels = channels
        out_channels = channels * stride
        inner, bands = out_channels * expansion, bands // stride
        self.reduce = MapConv(channels, inner, (stride, 1), (stride, 1), bias=True)
        self.blocks = nn.ModuleList()
        for _ in range(count):
            if size.block == "convnext":
                self.blocks.append(ConvNeXtBlock(inner, (3, 3), size.group))
            else:
                hidden = min(64, max(inner, 32))
                excitation = FrequencyExcitation(bands, hidden) if size.block == "excited" else None
                self.blocks.append(ResidualBlock(inner, size.group, excitation))
        self.squeeze: ConvNorm | None = None
        if expansion != 1:
            self.squeeze = ConvNorm(inner, out_channels, groups=out_channels // size.group, bias=True)
            self.squeeze.norm.eps = 1e-6
            self.squeezed = MapConv(out_channels, out_channels, (1, 1), bias=True)
        width = out_channels * bands
        self.context = None if reduction is None else TimeContext(width, width // reduction)

    def forward(self, frames: Tensor, num_frames: Tensor | None) -> Tensor:
        maps = self.reduce(as_maps(frames, self.channels), num_frames)
        for block in self.blocks:
            maps = block(maps, num_frames)
        if self.squeeze is not None:
            maps = nn.functional.gelu(self.squeeze(maps, num_frames))
            maps = self.squeezed(maps, num_frames)
        frames = as_frames(maps)
        return frames if self.context is None else self.context(frames, num_frames)


class ReDimNet(nn.Module):
    """The encoder; `embedding_dim` is the size of what it returns."""

    def __init__(self, config: Config, num_mels: int) -> None:
        super().__init__()
        self.embedding_dim = config.embedding_dim
        size = SIZES[config.size]
        width = size.channels * num_mels
        self.input = MapConv(1, size.channels, bias=True)
        self.input_norm = nn.LayerNorm(size.channels, LAYER_NORM_EPS)
        self.stages = nn.ModuleList()
        channels, bands = size.channels, num_mels
        for stage in size.stages:
            self.stages.append(StageLayers(size, stage, channels, bands))
            channels, bands = channels * stage.stride, bands // stage.stride
        # Of the inputs of every stage but the first and of the pooling, for each channel.
        self.weights = nn.ParameterList(torch.zeros(i + 2, width) for i in range(len(size.stages)))
        self.head = (
            TDNN(width, config.head_channels, activation=nn.Identity()) if config.head_channels else None
        )
        width = config.head_channels or width
        self.pooling = AttentiveStatisticsPooling(
            width,
            global_context=config.global_context,
            norm=False,
            unbiased_context=True,
            variance_floor=config.variance_floor,
        )
        self.pooling_norm = nn.BatchNorm1d(self.pooling.output_dim) if config.pooling_norm else None
        self.embedding = nn.Linear(self.pooling.output_dim, config.embedding_dim)
        self.embedding_norm = nn.BatchNorm1d(config.embedding_dim) if config.final_norm else None
        self.second = second_layer(config.embedding_dim) if config.segment_layers == 2 else None

    def forward(self, features: Tensor, num_frames: Tensor | None = None) -> Tensor:
        maps = self.input(as_maps(zero_padding(features, num_frames)))
        maps = self.input_norm(maps.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        frames = zero_padding(as_frames(maps), num_frames)
        outputs = [frames]
        for stage, weights in zip(self.stages, self.weights, strict=True):
            outputs.append(stage(frames, num_frames))
            frames = weighted_sum(outputs, weights)
        if self.head is not None:
            frames = self.head(frames, num_frames)
        pooled = self.pooling(frames, num_frames)
        embedding: Tensor = self.embedding(pooled if self.pooling_norm is None else self.pooling_norm(pooled))
        embedding = embedding if self.embedding_norm is None else self.embedding_norm(embedding)
        return embedding if self.second is None else self.second(embedding)


def build(config: Config, num_mels: int) -> ReDimNet:
    """Return the encoder: features float32 `(B, T, num_mels)` to embeddings `(B, embedding_dim)`.

    Raises:
        InputError: the size can't be built for that number of mels.
    """
    size = SIZES[config.size]
    width = size.channels * num_mels
    inner = [width // stage.reduction for stage in size.stages if stage.reduction]
    if num_mels % math.prod(stage.stride for stage in size.stages) or any(n % HEADS for n in inner):
        raise InputError(
            f"encoder redimnet {config.size} can't take features of {num_mels} mels; "
            f"set num_mels = {size.mels} under [features], as published"
        )
    return ReDimNet(config, num_mels)
