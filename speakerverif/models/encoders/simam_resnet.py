"""SimAM-ResNet: residual blocks whose maps are weighted by the energy of each place, without parameters.

Source: Qin, Li, Weng, Su and Li, 2022, "Simple attention module based speaker verification with iterative noisy label
detection", arXiv:2110.06534, with the attention of Yang, Zhang, Li and Xie, 2021, "SimAM: A simple, parameter-free
attention module for convolutional neural networks" (ICML). `Config()` is WeSpeaker's SimAM_ResNet34; depth 100 is its
SimAM_ResNet100. Departure: the places of padding have no part in an utterance's energies.
"""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from speakerverif._util.ranges import VarianceFloor, Width
from speakerverif.models.encoders._maps import zero_padded_maps
from speakerverif.models.encoders._residual import BasicBlock, ResidualEncoder
from speakerverif.models.pooling import AttentiveStatisticsPooling

BLOCKS = {34: (3, 4, 6, 3), 100: (6, 16, 24, 3)}
SMOOTHING = 1e-4  # lambda of the energy


@dataclass(frozen=True)
class Config:
    """The defaults are WeSpeaker's SimAM_ResNet34."""

    depth: Literal[34, 100] = 34
    channels: Width = 64  # of the first stage; doubled at each of the three others
    attention_channels: Width = 128
    embedding_dim: Width = 256
    variance_floor: VarianceFloor = 1e-5


def weighted_by_energy(maps: Tensor, num_frames: Tensor | None) -> Tensor:
    """Return maps `(B, C, T, F)`, each place times the sigmoid of its inverse energy within its channel.

    Args:
        maps: zero past each utterance's end.
        num_frames: real frames of each utterance, `(B,)`; None: all.
    """
    _, _, length, bands = maps.shape
    frames = maps.new_full((len(maps),), length) if num_frames is None else num_frames.to(maps.dtype)
    count = (frames * bands).view(-1, 1, 1, 1)
    mean = maps.sum((2, 3), keepdim=True) / count
    squared_deviation = zero_padded_maps((maps - mean).square(), num_frames)
    variance = squared_deviation.sum((2, 3), keepdim=True) / (count - 1)
    inverse_energy = squared_deviation / (4 * (variance + SMOOTHING)) + 0.5
    return maps * inverse_energy.sigmoid()


class SimAMBlock(BasicBlock):
    """Two convolutions of 3 x 3 and the weighting by energy."""

    def layers(self, maps: Tensor, before: Tensor | None, after: Tensor | None) -> Tensor:
        return weighted_by_energy(super().layers(maps, before, after), after)


class SimAMResNet(ResidualEncoder):
    """The encoder; `embedding_dim` is the size of what it returns."""

    def __init__(self, config: Config, num_mels: int) -> None:
        super().__init__()
        counts = BLOCKS[config.depth]
        channels = self.add_stages(config.channels, counts, lambda _, *sizes: SimAMBlock(*sizes))
        pool = AttentiveStatisticsPooling(
            channels * -(-num_mels // 8),
            config.attention_channels,
            global_context=False,
            tanh=False,
            variance_floor=config.variance_floor,
        )
        self.add_embedding(pool, config.embedding_dim)


def build(config: Config, num_mels: int) -> SimAMResNet:
    """Return the encoder: features float32 `(B, T, num_mels)` to embeddings `(B, embedding_dim)`."""
    return SimAMResNet(config, num_mels)
