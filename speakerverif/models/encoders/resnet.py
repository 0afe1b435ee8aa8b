"""ResNet: two-dimensional residual blocks over time and frequency, and pooling over time.

Source: He, Zhang, Ren and Sun, 2016, "Deep residual learning for image recognition", arXiv:1512.03385, with
kernels of 3 x 3 from the first layer on, a fraction of the channels and no max-pooling: Zeinali et al., 2019,
"BUT system description to VoxCeleb Speaker Recognition Challenge 2019", arXiv:1910.12592. These settings give
other projects' (parameters at 80 mels):

| model               | parameters | settings that differ from `Config()`'s |
|---------------------|-----------:|----------------------------------------|
| WeSpeaker ResNet34  |  6,634,336 |                                        |
| WeSpeaker ResNet293 | 28,626,016 | depth 293                              |
| 3D-Speaker ResNet34 |  6,343,648 | embedding_dim 192, segment_layers 2    |

Departure: a pooled variance has a floor where theirs adds a constant. The ResNets of SpeechBrain
and of voxceleb_trainer are in `resnet_se.py`.
"""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from speakerverif._util.ranges import VarianceFloor, Width
from speakerverif.models import pooling
from speakerverif.models.encoders._maps import ConvNorm
from speakerverif.models.encoders._residual import BasicBlock, Residual, ResidualEncoder
from speakerverif.models.pooling import Pooling

BLOCKS = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
    221: (6, 16, 48, 3),
    293: (10, 20, 64, 3),
}


@dataclass(frozen=True)
class Config:
    """The defaults are WeSpeaker's ResNet34."""

    depth: Literal[18, 34, 50, 101, 152, 221, 293] = 34  # from 50 on with bottleneck blocks
    channels: Width = 32  # of the first stage; doubled at each of the three others
    pooling: Pooling = "statistics"
    embedding_dim: Width = 256
    segment_layers: Literal[1, 2] = 1  # the embedding is the first or the second layer after pooling
    variance_floor: VarianceFloor = 1e-7


class Bottleneck(Residual):
    """A convolution of 3 x 3 between two point-wise ones, of which the last is four times as wide."""

    def __init__(self, in_channels: int, channels: int, stride: tuple[int, int]) -> None:
        super().__init__(in_channels, 4 * channels, stride)
        self.conv1 = ConvNorm(in_channels, channels, (1, 1))
        self.conv2 = ConvNorm(channels, channels, stride=stride)
        self.conv3 = ConvNorm(channels, 4 * channels, (1, 1))

    def layers(self, maps: Tensor, before: Tensor | None, after: Tensor | None) -> Tensor:
        maps = self.relu(self.conv1(maps, before))
        maps = self.relu(self.conv2(maps, after))
        maps = self.conv3(maps, after)
        return maps


class ResNet(ResidualEncoder):
    """The encoder; `embedding_dim` is the size of what it returns."""

    def __init__(self, config: Config, num_mels: int) -> None:
        super().__init__()
        block = BasicBlock if config.depth < 50 else Bottleneck
        channels = self.add_stages(config.channels, BLOCKS[config.depth], lambda _, *sizes: block(*sizes))
        pool = pooling.build(config.pooling, channels * -(-num_mels // 8), config.variance_floor)
        self.add_embedding(pool, config.embedding_dim, config.segment_layers)


def build(config: Config, num_mels: int) -> ResNet:
    """Return the encoder: features float32 `(B, T, num_mels)` to embeddings `(B, embedding_dim)`."""
    return ResNet(config, num_mels)
