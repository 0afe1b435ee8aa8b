"""ERes2NetV2 and ERes2Net: Res2Net blocks over time and frequency, fused by attention within a block and across.

Source: Chen, Zheng, Wang, Cheng, Chen, Zhang and Li, 2024, "ERes2NetV2: Boosting Short-Duration Speaker
Verification Performance with Computational Efficiency", arXiv:2406.02167, in the form of 3D-Speaker's code, whose
settings `Config()` has: 17,859,632 parameters at 80 mels. (Its model named w24s4ep4 has base_width 24, scale 4,
expansion 4.) With channels 32, base_width 32 and fused_stages 4 it is ERes2Net: Chen, Zheng, Wang, Cheng, Chen and Qi,
2023, arXiv:2305.12838, 6,610,688 parameters in 3D-Speaker's code and WeSpeaker's.

Departure: a pooled variance has a floor where theirs adds a constant.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from speakerverif._util.ranges import Range, VarianceFloor, Width
from speakerverif.models import pooling
from speakerverif.models.encoders._maps import ConvNorm, MapConv
from speakerverif.models.encoders._residual import Residual, ResidualEncoder
from speakerverif.models.pooling import Pooling

BLOCKS = (3, 4, 6, 3)
CEILING = 20.0  # of every activation but the first


@dataclass(frozen=True)
class Config:
    """The defaults are the paper's."""

    channels: Width = 64  # of the first stage; doubled at each of the three others
    base_width: Annotated[int, Range(1, 1_024)] = 26  # channels of one part of a block, for 64 of its stage
    scale: Annotated[int, Range(1, 64)] = 2  # parts of a block
    expansion: Annotated[int, Range(1, 16)] = 2  # channels that leave a block, as a multiple of its stage's
    fused_stages: Literal[2, 4] = 2  # the last stages, whose results are fused one after the other
    pooling: Pooling = "statistics"
    embedding_dim: Width = 192
    segment_layers: Literal[1, 2] = 1  # the embedding is the first or the second layer after pooling
    variance_floor: VarianceFloor = 1e-7

    def problems(self) -> Iterator[str]:
        """Yield the settings that contradict others."""
        if self.channels * self.base_width < 64:
            least = -(-64 // self.channels)
            yield f"base_width: found {self.base_width}, expected {least} or more at channels {self.channels}"


class Fusion(nn.Module):
    """Two maps added with weights that sum to 2, of every channel at every place, from an attention to both."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.reduce = ConvNorm(2 * channels, channels // 4, (1, 1), bias=True)
        self.expand = ConvNorm(channels // 4, channels, (1, 1), bias=True)

    def forward(self, one: Tensor, other: Tensor, num_frames: Tensor | None) -> Tensor:
        hidden = nn.functional.silu(self.reduce(torch.cat((one, other), 1), num_frames))
        share: Tensor = self.expand(hidden, num_frames).tanh()
        return one + other + share * (one - other)


class Res2Block(Residual):
    """Channels in parts, each convolved with the result of the part before added or (`fuse`) fused into it."""

    def __init__(
        self, in_channels: int, channels: int, stride: tuple[int, int], config: Config, fuse: bool
    ) -> None:
        super().__init__(in_channels, channels * config.expansion, stride)
        self.width = channels * config.base_width // 64
        inner = self.width * config.scale
        self.conv1 = ConvNorm(in_channels, inner, (1, 1), stride)
        self.convs = nn.ModuleList(ConvNorm(self.width, self.width) for _ in range(config.scale))
        self.fusions = nn.ModuleList(Fusion(self.width) for _ in range(config.scale - 1 if fuse else 0))
        self.conv3 = ConvNorm(inner, self.out_channels, (1, 1))

    def layers(self, maps: Tensor, before: Tensor | None, after: Tensor | None) -> Tensor:
        parts = self.activation(self.conv1(maps, after)).split(self.width, 1)
        outputs: list[Tensor] = []
        for i, (part, conv) in enumerate(zip(parts, self.convs, strict=True)):
            if i > 0 and self.fusions:
                part = self.fusions[i - 1](outputs[-1], part, after)
            elif i > 0:
                part = outputs[-1] + part
            outputs.append(self.activation(conv(part, after)))
        joined: Tensor = self.conv3(torch.cat(outputs, 1), after)
        return joined

    def activation(self, maps: Tensor) -> Tensor:
        return maps.clamp(0, CEILING)


class ERes2NetV2(ResidualEncoder):
    """The encoder; `embedding_dim` is the size of what it returns."""

    def __init__(self, config: Config, num_mels: int) -> None:
        super().__init__()

        def block(stage: int, in_channels: int, channels: int, stride: tuple[int, int]) -> Residual:
            return Res2Block(in_channels, channels, stride, config, fuse=stage >= 2)

        size = self.add_stages(config.channels, BLOCKS, block)
        self.downsample = MapConv(size // 2, size, stride=(2, 2))
        self.fusion = Fusion(size)
        # Of the stages before, where those are fused too.
        self.fused_stages = config.fused_stages
        sizes = [size // 2**i for i in reversed(range(1, config.fused_stages - 1))]
        self.downsamples = nn.ModuleList(MapConv(n // 2, n, stride=(2, 2)) for n in sizes)
        self.fusions = nn.ModuleList(Fusion(n) for n in sizes)
        pool = pooling.build(config.pooling, size * -(-num_mels // 8), config.variance_floor)
        self.add_embedding(pool, config.embedding_dim, config.segment_layers)

    def trunk(self, maps: Tensor, num_frames: Tensor | None) -> tuple[Tensor, Tensor | None]:
        outputs = []
        for stage in self.stages:
            maps, num_frames = stage(maps, num_frames)
            outputs.append((maps, num_frames))
        (fused, _), *later = outputs[-self.fused_stages :]
        layers = zip([*self.downsamples, self.downsample], [*self.fusions, self.fusion], strict=True)
        for (maps, num_frames), (downsample, fusion) in zip(later, layers, strict=True):
            fused = fusion(maps, downsample(fused, num_frames), num_frames)
        return fused, num_frames


def build(config: Config, num_mels: int) -> ERes2NetV2:
    """Return the encoder: features float32 `(B, T, num_mels)` to embeddings `(B, embedding_dim)`."""
    return ERes2NetV2(config, num_mels)
