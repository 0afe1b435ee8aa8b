"""Res2Net: residual blocks whose channels are convolved in parts, each with the result of the part before it.

Source: Zhou, Zhao and Wu, 2021, "ResNeXt and Res2Net structures for speaker verification", arXiv:2007.02480, in the
form of 3D-Speaker's and WeSpeaker's code. `Config()` is WeSpeaker's Res2Net34_Base; channels 64 is its Res2Net34_Large.
Departure: a pooled variance has a floor where theirs adds a constant.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from speakerverif._util.ranges import Range, VarianceFloor, Width
from speakerverif.models import pooling
from speakerverif.models.encoders._maps import ConvNorm
from speakerverif.models.encoders._residual import Residual, ResidualEncoder
from speakerverif.models.pooling import Pooling

BLOCKS = (3, 4, 6, 3)
CEILING = 20.0  # of every activation but the first


@dataclass(frozen=True)
class Config:
    """The defaults are WeSpeaker's Res2Net34_Base."""

    channels: Width = 32  # of the first stage; doubled at each of the three others
    base_width: Annotated[int, Range(1, 1_024)] = 32  # channels of one part of a block, for 64 of its stage
    scale: Annotated[int, Range(2, 64)] = 2  # parts of a block; the last is passed on unchanged
    expansion: Annotated[int, Range(1, 16)] = 2  # channels that leave a block, as a multiple of its stage's
    pooling: Pooling = "statistics"
    embedding_dim: Width = 192
    segment_layers: Literal[1, 2] = 1  # the embedding is the first or the second layer after pooling
    variance_floor: VarianceFloor = 1e-7

    def problems(self) -> Iterator[str]:
        """Yield the settings that contradict others."""
        if self.channels * self.base_width < 64:
            least = -(-64 // self.channels)
            yield f"base_width: found {self.base_width}, expected {least} or more at channels {self.channels}"


class Res2Block(Residual):
    """Channels in parts, each but the last convolved with the result of the part before it added."""

    def __init__(self, in_channels: int, channels: int, stride: tuple[int, int], config: Config) -> None:
        super().__init__(in_channels, channels * config.expansion, stride)
        self.width = channels * config.base_width // 64
        inner = self.width * config.scale
        self.conv1 = ConvNorm(in_channels, inner, (1, 1), stride)
        self.convs = nn.ModuleList(ConvNorm(self.width, self.width) for _ in range(config.scale - 1))
        self.conv3 = ConvNorm(inner, self.out_channels, (1, 1))

    def layers(self, maps: Tensor, before: Tensor | None, after: Tensor | None) -> Tensor:
        *parts, last = self.activation(self.conv1(maps, after)).split(self.width, 1)
        outputs: list[Tensor] = []
        for part, conv in zip(parts, self.convs, strict=True):
            part = outputs[-1] + part if outputs else part
            outputs.append(self.activation(conv(part, after)))
        joined: Tensor = self.conv3(torch.cat([*outputs, last], 1), after)
        return joined

    def activation(self, maps: Tensor) -> Tensor:
        return maps.clamp(0, CEILING)


class Res2Net(ResidualEncoder):
    """The encoder; `embedding_dim` is the size of what it returns."""

    def __init__(self, config: Config, num_mels: int) -> None:
        super().__init__()

        def block(_: int, in_channels: int, channels: int, stride: tuple[int, int]) -> Residual:
            return Res2Block(in_channels, channels, stride, config)

        channels = self.add_stages(config.channels, BLOCKS, block)
        pool = pooling.build(config.pooling, channels * -(-num_mels // 8), config.variance_floor)
        self.add_embedding(pool, config.embedding_dim, config.segment_layers)


def build(config: Config, num_mels: int) -> Res2Net:
    """Return the encoder: features float32 `(B, T, num_mels)` to embeddings `(B, embedding_dim)`."""
    return Res2Net(config, num_mels)
