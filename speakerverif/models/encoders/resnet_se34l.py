"""ResNetSE34L, or Fast ResNet-34: few channels, frequencies reduced by the first layer, one weight for each frame.

Source: Chung, Huh, Mun, Lee, Heo, Choe, Ham, Jung, Lee and Han, 2020, "In defence of metric learning for speaker
recognition", arXiv:2003.11982, in the form of voxceleb_trainer's code: `Config()` has 1,437,078 parameters (the paper:
1.4 M); its features are those of kind "voxceleb_trainer_lite" with 40 mels. Departure: none in evaluation; in training
the statistics of batch norms leave padding out.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor, nn

from speakerverif._util.ranges import Range, VarianceFloor, Width
from speakerverif.models.encoders._maps import ConvNorm, as_maps
from speakerverif.models.encoders._residual import Stage
from speakerverif.models.encoders.resnet_se import ActivatedBlock, ChannelExcitation
from speakerverif.models.frames import zero_padding
from speakerverif.models.pooling import AttendedMeanAndDeviation

STRIDES = (1, 2, 2, 1)  # over time and frequency, of the first block of each stage
REDUCTION = 8  # of the channels inside an excitation


@dataclass(frozen=True)
class Config:
    """The defaults are voxceleb_trainer's, of 40 mels."""

    # Of the first stage; doubled at each of the others.
    channels: Annotated[int, Range(REDUCTION, 16_384)] = 16
    blocks: Annotated[tuple[int, ...], Range(1, 200)] = (3, 4, 6, 3)  # of each stage
    deviation: bool = False  # pooling gives mean and deviation (its ASP); else the mean alone (its SAP)
    embedding_dim: Width = 512
    variance_floor: VarianceFloor = 1e-5

    def problems(self) -> Iterator[str]:
        """Yield the settings that contradict others."""
        if len(self.blocks) != len(STRIDES):
            yield f"blocks: found {self.blocks}, expected {len(STRIDES)} numbers, one per stage"


class FramePooling(nn.Module):
    """Mean and deviation of frames, `(B, 2 C)`, under one weight for each frame, or the mean alone, `(B, C)`."""

    def __init__(self, channels: int, deviation: bool, variance_floor: float) -> None:
        super().__init__()
        self.output_dim = channels * (2 if deviation else 1)
        self.hidden = nn.Linear(channels, channels)
        self.logits = nn.Linear(channels, 1, bias=False)
        self.statistics = AttendedMeanAndDeviation(variance_floor)

    def forward(self, frames: Tensor, num_frames: Tensor | None) -> Tensor:
        logits = self.logits(self.hidden(frames).tanh()).expand_as(frames)
        return torch.cat(self.statistics(logits, frames, num_frames), 1)[:, : self.output_dim]


class ResNetSE34L(nn.Module):
    """The encoder; `embedding_dim` is the size of what it returns."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.embedding_dim = config.embedding_dim
        size = config.channels
        self.input = ConvNorm(1, size, (7, 7), (2, 1))
        self.stages = nn.ModuleList()
        for i, (count, stride) in enumerate(zip(config.blocks, STRIDES, strict=True)):
            width = config.channels * 2**i
            blocks = Stage()
            for k in range(count):
                step = stride if k == 0 else 1
                blocks.append(ActivatedBlock(size, width, (step, step), ChannelExcitation(width, REDUCTION)))
                size = width
            self.stages.append(blocks)
        self.pooling = FramePooling(size, config.deviation, config.variance_floor)
        self.embedding = nn.Linear(self.pooling.output_dim, config.embedding_dim)

    def forward(self, features: Tensor, num_frames: Tensor | None = None) -> Tensor:
        maps = self.input(as_maps(zero_padding(features, num_frames)), num_frames).relu()
        for stage in self.stages:
            maps, num_frames = stage(maps, num_frames)
        frames = maps.mean(3).transpose(1, 2)
        embedding: Tensor = self.embedding(self.pooling(frames, num_frames))
        return embedding


def build(config: Config, num_mels: int) -> ResNetSE34L:
    """Return the encoder: features float32 `(B, T, num_mels)`, of any number of mels, to `(B, embedding_dim)`."""
    return ResNetSE34L(config)
