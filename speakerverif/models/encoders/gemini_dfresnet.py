"""Gemini DF-ResNet: deep, narrow inverted bottlenecks, whose strides keep time and shrink frequency.

Source: Liu, Chen, Wang, Wang, Han and Qian, 2022, "DF-ResNet: Boosting speaker verification performance with
depth-first design" (Interspeech), with strides T14c of Liu, Lee, Wang and Li, 2023, "Golden Gemini is all you need:
finding the sweet spots for speaker verification", arXiv:2312.03620, in the form of WeSpeaker's code, whose four depths
`Config.depth` names. Departure: a pooled variance has a floor where theirs adds a constant.
"""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from speakerverif._util.ranges import VarianceFloor, Width
from speakerverif.models import pooling
from speakerverif.models.encoders._maps import ConvNorm, strided
from speakerverif.models.encoders._residual import Residual, ResidualEncoder, Stage
from speakerverif.models.pooling import Pooling

BLOCKS = {60: (3, 3, 9, 3), 114: (3, 3, 27, 3), 183: (3, 8, 45, 3), 237: (3, 8, 63, 3)}
TIME_STRIDES = (1, 2, 1, 1)  # of the four stages; each halves the frequencies
BANDS = 2 ** len(TIME_STRIDES)  # mel bands per frequency that is left


@dataclass(frozen=True)
class Config:
    """The defaults are WeSpeaker's Gemini_DF_ResNet114."""

    depth: Literal[60, 114, 183, 237] = 114
    channels: Width = 32  # of the first two of five widths; doubled at each of the three others
    pooling: Pooling = "statistics"
    embedding_dim: Width = 256
    segment_layers: Literal[1, 2] = 1  # the embedding is the first or the second layer after pooling
    variance_floor: VarianceFloor = 1e-7


class InvertedBottleneck(Residual):
    """A depth-wise convolution of 3 x 3 at four times the width, between two point-wise ones."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, (1, 1))
        inner = 4 * channels
        self.conv1 = ConvNorm(channels, inner, (1, 1))
        self.conv2 = ConvNorm(inner, inner, groups=inner)
        self.conv3 = ConvNorm(inner, channels, (1, 1))

    def layers(self, maps: Tensor, before: Tensor | None, after: Tensor | None) -> Tensor:
        maps = self.relu(self.conv1(maps, after))
        maps = self.relu(self.conv2(maps, after))
        maps = self.conv3(maps, after)
        return maps


class GeminiDFResNet(ResidualEncoder):
    """The encoder; `embedding_dim` is the size of what it returns."""

    def __init__(self, config: Config, num_mels: int) -> None:
        super().__init__()
        widths = [config.channels, *(config.channels * 2**i for i in range(4))]
        self.input = ConvNorm(1, widths[0])
        self.downsamples = nn.ModuleList(
            ConvNorm(before, after, stride=(2, time_stride))
            for before, after, time_stride in zip(widths, widths[1:], TIME_STRIDES, strict=False)
        )
        self.stages = nn.ModuleList(
            Stage(InvertedBottleneck(width) for _ in range(count))
            for width, count in zip(widths[1:], BLOCKS[config.depth], strict=True)
        )
        pool = pooling.build(config.pooling, widths[-1] * -(-num_mels // BANDS), config.variance_floor)
        self.add_embedding(pool, config.embedding_dim, config.segment_layers)

    def trunk(self, maps: Tensor, num_frames: Tensor | None) -> tuple[Tensor, Tensor | None]:
        for downsample, stage, time_stride in zip(self.downsamples, self.stages, TIME_STRIDES, strict=True):
            num_frames = strided(num_frames, time_stride)
            maps, _ = stage(downsample(maps, num_frames), num_frames)
        return maps, num_frames


def build(config: Config, num_mels: int) -> GeminiDFResNet:
    """Return the encoder: features float32 `(B, T, num_mels)` to embeddings `(B, embedding_dim)`."""
    return GeminiDFResNet(config, num_mels)
