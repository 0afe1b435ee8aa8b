"""ResNets with squeeze and excitation, pooled under attention: voxceleb_trainer's and SpeechBrain's.

Source: He, Zhang, Ren and Sun, 2016, arXiv:1512.03385; Hu, Shen and Sun, 2018, "Squeeze-and-excitation networks",
arXiv:1709.01507; Heo, Lee, Huh and Chung, 2020, "Clova baseline system for the VoxCeleb Speaker Recognition
Challenge 2020", arXiv:2009.14153, whose ResNetSE34V2 `Config()` is. SpeechBrain's `ResNet` has its norms before the
convolutions (He, Zhang, Ren and Sun, 2016, "Identity mappings in deep residual networks", arXiv:1603.05027), a third
convolution in every block, and excitation in the first two stages alone:

| model                         | mels | parameters | settings                                                     |
|-------------------------------|-----:|-----------:|--------------------------------------------------------------|
| voxceleb_trainer ResNetSE34V2 |   64 |  8,028,492 |                                                              |
| SpeechBrain ResNet            |   80 | 15,438,336 | order "preactivated", widths 128, 128, 256, 256,             |
|                               |      |            | excited_stages 2, reduction 1, final_norm, embedding_dim 256 |

Departure: none in evaluation; in training the statistics of batch norms and of the pooling leave padding out.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

from torch import Tensor, nn

from speakerverif._util.ranges import Range, VarianceFloor, Width
from speakerverif.errors import InputError
from speakerverif.models.encoders._maps import (
    ConvNorm,
    MapConv,
    MapNorm,
    as_frames_by_channel,
    as_maps,
)
from speakerverif.models.encoders._residual import Residual, stages
from speakerverif.models.frames import masked_mean, widened, zero_padding
from speakerverif.models.pooling import AttentiveStatisticsPooling

STAGES = 4


@dataclass(frozen=True)
class Config:
    """The defaults are ResNetSE34V2's, which takes voxceleb_trainer's features of 64 mels."""

    order: Literal["activated", "preactivated"] = "activated"  # norms after each activation, or before
    widths: Annotated[tuple[int, ...], Range(1, 16_384)] = (32, 64, 128, 256)  # channels of each stage
    blocks: Annotated[tuple[int, ...], Range(1, 200)] = (3, 4, 6, 3)  # of each stage
    excited_stages: Annotated[int, Range(0, 4)] = 4  # the first stages, whose blocks have an excitation
    reduction: Annotated[int, Range(1, 1_024)] = 8  # of the channels inside an excitation
    attention_channels: Width = 128
    deviation: bool = True  # pooling gives mean and deviation; else the mean alone
    embedding_dim: Width = 512
    final_norm: bool = False  # batch norms before and after the embedding layer
    variance_floor: VarianceFloor = 1e-5


class ChannelExcitation(nn.Module):
    """Maps times a scale in (0, 1) for every channel, from its mean over the utterance and all frequencies."""

    def __init__(self, channels: int, reduction: int) -> None:
        super().__init__()
        self.squeeze = nn.Linear(channels, channels // reduction)
        self.excite = nn.Linear(channels // reduction, channels)

    def forward(self, maps: Tensor, num_frames: Tensor | None) -> Tensor:
        means = masked_mean(widened(maps).mean(3).transpose(1, 2), num_frames)
        scale: Tensor = self.excite(self.squeeze(means).relu()).sigmoid()
        return maps * scale[:, :, None, None].to(maps.dtype)


class ActivatedBlock(Residual):
    """Two convolutions of 3 x 3, the first one's norm after its activation, and an excitation."""

    def __init__(
        self, in_channels: int, channels: int, stride: tuple[int, int], excitation: nn.Module | None
    ) -> None:
        super().__init__(in_channels, channels, stride)
        self.conv1 = MapConv(in_channels, channels, stride=stride)
        self.norm1 = MapNorm(channels)
        self.conv2 = ConvNorm(channels, channels)
        self.excitation = excitation

    def layers(self, maps: Tensor, before: Tensor | None, after: Tensor | None) -> Tensor:
        maps = self.norm1(self.conv1(maps, after).relu(), after)
        maps = self.conv2(maps, after)
        return maps if self.excitation is None else self.excitation(maps, after)


class PreactivatedBlock(Residual):
    """Norm, activation and convolution, three times (3 x 3, 3 x 3, 1 x 1), and an excitation."""

    def __init__(
        self, in_channels: int, channels: int, stride: tuple[int, int], excitation: nn.Module | None
    ) -> None:
        super().__init__(in_channels, channels, stride)
        self.norm1 = MapNorm(in_channels)
        self.conv1 = ConvNorm(in_channels, channels, stride=stride)
        self.conv2 = ConvNorm(channels, channels)
        self.conv3 = MapConv(channels, channels, (1, 1))
        self.excitation = excitation

    def layers(self, maps: Tensor, before: Tensor | None, after: Tensor | None) -> Tensor:
        maps = self.conv1(self.norm1(maps, before).relu(), after)
        maps = self.conv3(self.conv2(maps.relu(), after).relu(), after)
        return maps if self.excitation is None else self.excitation(maps, after)

    def activation(self, maps: Tensor) -> Tensor:
        return maps


class ResNetSE(nn.Module):
    """The encoder; `embedding_dim` is the size of what it returns."""

    def __init__(self, config: Config, num_mels: int) -> None:
        super().__init__()
        self.embedding_dim = config.embedding_dim
        self.activated = config.order == "activated"
        block = ActivatedBlock if self.activated else PreactivatedBlock

        def excited(stage: int, in_channels: int, channels: int, stride: tuple[int, int]) -> Residual:
            excitation = stage < config.excited_stages
            return block(
                in_channels,
                channels,
                stride,
                ChannelExcitation(channels, config.reduction) if excitation else None,
            )

        self.input = MapConv(1, config.widths[0], bias=self.activated)
        self.input_norm = MapNorm(config.widths[0])
        self.stages, size = stages(config.widths[0], config.widths, config.blocks, excited)
        size *= -(-num_mels // 2 ** (STAGES - 1))
        self.pooling = AttentiveStatisticsPooling(
            size,
            config.attention_channels,
            global_context=False,
            tanh=False,
            variance_floor=config.variance_floor,
        )
        self.pooled = self.pooling.output_dim if config.deviation else size
        self.pooling_norm = nn.BatchNorm1d(self.pooled) if config.final_norm else nn.Identity()
        self.embedding = nn.Linear(self.pooled, config.embedding_dim)
        self.embedding_norm = nn.BatchNorm1d(config.embedding_dim) if config.final_norm else nn.Identity()

    def forward(self, features: Tensor, num_frames: Tensor | None = None) -> Tensor:
        maps = self.input(as_maps(zero_padding(features, num_frames)), num_frames)
        norm = self.input_norm
        maps = norm(maps.relu(), num_frames) if self.activated else norm(maps, num_frames).relu()
        for stage in self.stages:
            maps, num_frames = stage(maps, num_frames)
        pooled = self.pooling(as_frames_by_channel(maps), num_frames)[:, : self.pooled]
        embedding: Tensor = self.embedding_norm(self.embedding(self.pooling_norm(pooled)))
        return embedding


def build(config: Config, num_mels: int) -> ResNetSE:
    """Return the encoder: features float32 `(B, T, num_mels)` to embeddings `(B, embedding_dim)`.

    Raises:
        InputError: widths and blocks are not those of four stages.
    """
    if not len(config.widths) == len(config.blocks) == STAGES:
        raise InputError(
            f"encoder resnet_se: expected {STAGES} widths and {STAGES} blocks, "
            f"found {config.widths} and {config.blocks}"
        )
    return ResNetSE(config, num_mels)
