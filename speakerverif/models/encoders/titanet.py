"""TitaNet: depth-wise separable convolutions over time with squeeze and excitation, and attentive statistics pooling.

Source: Koluguri, Park and Ginsburg, 2022, "TitaNet: Neural model for speaker representation with 1D depth-wise
separable convolutions and global context", arXiv:2110.04410, in the form of NeMo's code and of its configurations
titanet-large and titanet-small; M is the paper's size between them. Parameters at 80 mels, without the layer of
classes:

| size | channels | parameters | published                                     |
|------|---------:|-----------:|-----------------------------------------------|
| S    |      256 |  6,825,264 | 6 M (the paper's abstract)                    |
| M    |      512 | 10,220,336 |                                               |
| L    |     1024 | 22,122,288 | 23 M (the model card of NeMo's TitaNet-large) |

The card's figure includes the classes: 7,205 of them, as in NeMo's configuration, make 23.5 M.

Its features are those of kind "nemo". Departure: none in evaluation; in training the statistics of batch norms leave
padding out.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated

from torch import Tensor, nn

from speakerverif._util.ranges import Range, Share, VarianceFloor, Width
from speakerverif.models.frames import FrameNorm, masked_mean, zero_padding
from speakerverif.models.pooling import AttentiveStatisticsPooling

INPUT_KERNEL = 3
NORM_EPS = 1e-3
REDUCTION = 8  # of the channels inside an excitation


@dataclass(frozen=True)
class Config:
    """The defaults are TitaNet-L's; S has channels 256, M 512."""

    channels: Width = 1024
    kernels: Annotated[tuple[int, ...], Range(1, 999)] = (7, 11, 15)  # of each block; odd
    repeats: Annotated[int, Range(1, 100)] = 3  # convolutions of each block
    pooling_channels: Width = 3072  # of the last layer before pooling
    attention_channels: Width = 128
    dropout: Share = 0.1  # after the activations of the blocks, in training
    embedding_dim: Width = 192
    variance_floor: VarianceFloor = 1e-10

    def problems(self) -> Iterator[str]:
        """Yield the settings that contradict others."""
        if any(kernel % 2 == 0 for kernel in self.kernels):
            yield f"kernels: found {self.kernels}, expected odd numbers"
        if min(self.channels, self.pooling_channels) < REDUCTION:
            yield f"channels: found {self.channels} and {self.pooling_channels}, expected {REDUCTION} or more"


class DepthwiseConv(nn.Conv1d):
    """Convolution over time of each channel of frames `(B, T, C)` alone, with zeros around each utterance."""

    def __init__(self, channels: int, kernel_size: int) -> None:
        super().__init__(
            channels, channels, kernel_size, padding=kernel_size // 2, groups=channels, bias=False
        )

    def forward(self, frames: Tensor, num_frames: Tensor | None = None) -> Tensor:
        return super().forward(zero_padding(frames, num_frames).transpose(1, 2)).transpose(1, 2)


class SeparableConv(nn.Module):
    """A depth-wise convolution, a point-wise layer and batch norm."""

    def __init__(self, in_channels: int, channels: int, kernel_size: int) -> None:
        super().__init__()
        self.depthwise = DepthwiseConv(in_channels, kernel_size)
        self.pointwise = nn.Linear(in_channels, channels, bias=False)
        self.norm = FrameNorm(channels)
        self.norm.eps = NORM_EPS

    def forward(self, frames: Tensor, num_frames: Tensor | None) -> Tensor:
        normed: Tensor = self.norm(self.pointwise(self.depthwise(frames, num_frames)), num_frames)
        return normed


class Excitation(nn.Module):
    """Frames times a scale in (0, 1) for every channel, from the utterance's mean."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.squeeze = nn.Linear(channels, channels // REDUCTION, bias=False)
        self.excite = nn.Linear(channels // REDUCTION, channels, bias=False)

    def forward(self, frames: Tensor, num_frames: Tensor | None) -> Tensor:
        scale: Tensor = self.excite(self.squeeze(masked_mean(frames, num_frames)).relu()).sigmoid()
        return frames * scale.unsqueeze(1).to(frames.dtype)


class Projection(nn.Module):
    """A point-wise layer and batch norm."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.pointwise = nn.Linear(in_channels, channels, bias=False)
        self.norm = FrameNorm(channels)
        self.norm.eps = NORM_EPS

    def forward(self, frames: Tensor, num_frames: Tensor | None) -> Tensor:
        normed: Tensor = self.norm(self.pointwise(frames), num_frames)
        return normed


class Block(nn.Module):
    """Separable convolutions with activations between them, an excitation, and the projected input added."""

    def __init__(
        self,
        in_channels: int,
        channels: int,
        kernel_size: int,
        repeats: int = 1,
        dropout: float = 0.0,
        residual: bool = False,
    ) -> None:
        super().__init__()
        widths = [in_channels] + [channels] * repeats
        self.convs = nn.ModuleList(
            SeparableConv(before, after, kernel_size) for before, after in pairwise(widths)
        )
        self.excitation = Excitation(channels)
        self.projection = Projection(in_channels, channels) if residual else None
        self.dropout = nn.Dropout(dropout)

    def forward(self, frames: Tensor, num_frames: Tensor | None) -> Tensor:
        out = frames
        for i, conv in enumerate(self.convs):
            out = conv(out if i == 0 else self.dropout(out.relu()), num_frames)
        out = self.excitation(out, num_frames)
        if self.projection is not None:
            out = out + self.projection(frames, num_frames)
        dropped: Tensor = self.dropout(out.relu())
        return dropped


class TitaNet(nn.Module):
    """The encoder; `embedding_dim` is the size of what it returns."""

    def __init__(self, config: Config, num_mels: int) -> None:
        super().__init__()
        self.embedding_dim = config.embedding_dim
        channels = config.channels
        self.blocks = nn.ModuleList([Block(num_mels, channels, INPUT_KERNEL)])
        for kernel_size in config.kernels:
            self.blocks.append(
                Block(channels, channels, kernel_size, config.repeats, config.dropout, residual=True)
            )
        self.blocks.append(Block(channels, config.pooling_channels, 1))
        self.pooling = AttentiveStatisticsPooling(
            config.pooling_channels, config.attention_channels, variance_floor=config.variance_floor
        )
        self.pooling_norm = nn.BatchNorm1d(self.pooling.output_dim)
        self.embedding = nn.Linear(self.pooling.output_dim, config.embedding_dim)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv1d):
                nn.init.xavier_uniform_(module.weight)

    def forward(self, features: Tensor, num_frames: Tensor | None = None) -> Tensor:
        frames = features
        for block in self.blocks:
            frames = block(frames, num_frames)
        embedding: Tensor = self.embedding(self.pooling_norm(self.pooling(frames, num_frames)))
        return embedding


def build(config: Config, num_mels: int) -> TitaNet:
    """Return the encoder: features float32 `(B, T, num_mels)` to embeddings `(B, embedding_dim)`."""
    return TitaNet(config, num_mels)
