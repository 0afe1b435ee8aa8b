"""Residual blocks over maps, their stages, and the encoder made of them: what all ResNets here share."""

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from speakerverif.models.encoders._maps import ConvNorm, as_frames_by_channel, as_maps, strided
from speakerverif.models.frames import zero_padding
from speakerverif.models.pooling import PoolingLayer


class Residual(nn.Module):
    """A residual block: the result of its layers plus their input, which is projected where the shapes differ."""

    def __init__(self, in_channels: int, out_channels: int, stride: tuple[int, int]) -> None:
        super().__init__()
        self.out_channels = out_channels
        self.time_stride = stride[1]
        same = stride == (1, 1) and in_channels == out_channels
        self.shortcut = None if same else ConvNorm(in_channels, out_channels, (1, 1), stride)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, maps: Tensor, num_frames: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return the block's maps, and the number of their real frames."""
        after = strided(num_frames, self.time_stride)
        out = self.layers(maps, num_frames, after)
        out += maps if self.shortcut is None else self.shortcut(maps, after)
        return self.activation(out), after

    def layers(self, maps: Tensor, before: Tensor | None, after: Tensor | None) -> Tensor:
        """Return the layers' result, in new memory.

        Args:
            before, after: how many frames are real in the input and in the result.
        """
        raise NotImplementedError

    def activation(self, maps: Tensor) -> Tensor:
        """Return the block's result, given the sum."""
        out: Tensor = self.relu(maps)
        return out


class BasicBlock(Residual):
    """Two convolutions of 3 x 3."""

    def __init__(self, in_channels: int, channels: int, stride: tuple[int, int]) -> None:
        super().__init__(in_channels, channels, stride)
        self.conv1 = ConvNorm(in_channels, channels, stride=stride)
        self.conv2 = ConvNorm(channels, channels)

    def layers(self, maps: Tensor, before: Tensor | None, after: Tensor | None) -> Tensor:
        maps = self.relu(self.conv1(maps, after))
        maps = self.conv2(maps, after)
        return maps


# Makes a block from the number of its stage, the input channels, the width and the stride.
MakeBlock = Callable[[int, int, int, tuple[int, int]], Residual]


class Stage(nn.ModuleList):
    """Residual blocks, one after the other."""

    def forward(self, maps: Tensor, num_frames: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return the last block's maps, and the number of their real frames."""
        for block in self:
            maps, num_frames = block(maps, num_frames)
        return maps, num_frames


def stages(
    channels: int,
    widths: Sequence[int],
    counts: Sequence[int],
    block: MakeBlock,
) -> tuple[nn.ModuleList, int]:
    """Return the stages, and the number of channels after the last.

    The first block of every stage but the first halves time and frequency.

    Args:
        channels: of the maps that come in.
        widths: of each stage, as its blocks take it.
        counts: number of blocks of each stage.
        block: makes each block.
    """
    lists = nn.ModuleList()
    for i, (width, count) in enumerate(zip(widths, counts, strict=True)):
        blocks: list[Residual] = []
        for k in range(count):
            stride = 2 if i > 0 and k == 0 else 1
            blocks.append(block(i, channels, width, (stride, stride)))
            channels = blocks[-1].out_channels
        lists.append(Stage(blocks))
    return lists, channels


def second_layer(size: int) -> nn.Sequential:
    """Return the layers from the first layer after pooling to an embedding from the second."""
    return nn.Sequential(nn.ReLU(), nn.BatchNorm1d(size, affine=False), nn.Linear(size, size))


class ResidualEncoder(nn.Module):
    """A first convolution, stages of residual blocks, pooling over time, and one or two linear layers.

    A sub-class adds its layers in the order of the network: `add_stages`, its own, `add_embedding`.

    Attributes:
        embedding_dim: size of the embedding.
    """

    embedding_dim: int

    def add_stages(self, channels: int, counts: Sequence[int], block: MakeBlock) -> int:
        """Add the first convolution and the stages, each twice as wide as the one before.

        Args:
            channels: of the first convolution and the first stage.
            counts: number of blocks of each stage.
            block: makes each block.

        Returns:
            The number of channels after the last stage.
        """
        self.input = ConvNorm(1, channels)
        self.stages, size = stages(channels, [channels * 2**i for i in range(len(counts))], counts, block)
        return size

    def add_embedding(self, pooling: PoolingLayer, embedding_dim: int, layers: int = 1) -> None:
        """Add the pooling, and the linear layers of which the last gives the embedding."""
        self.embedding_dim = embedding_dim
        self.pooling = pooling
        self.embedding = nn.Linear(pooling.output_dim, embedding_dim)
        self.second = second_layer(embedding_dim) if layers == 2 else None

    def forward(self, features: Tensor, num_frames: Tensor | None = None) -> Tensor:
        maps = self.input(as_maps(zero_padding(features, num_frames)), num_frames).relu_()
        maps, num_frames = self.trunk(maps, num_frames)
        embedding: Tensor = self.embedding(self.pooling(as_frames_by_channel(maps), num_frames))
        return embedding if self.second is None else self.second(embedding)

    def trunk(self, maps: Tensor, num_frames: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return the maps that are pooled, given the first convolution's, and the number of their real frames."""
        for stage in self.stages:
            maps, num_frames = stage(maps, num_frames)
        return maps, num_frames
