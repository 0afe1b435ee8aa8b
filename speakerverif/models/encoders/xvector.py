"""The x-vector: five time-delay layers and statistics pooling.

Source: Snyder, Garcia-Romero, Sell, Povey and Khudanpur, 2018, "X-vectors: Robust DNN embeddings for speaker
recognition", ICASSP. Projects differ; these settings give theirs (parameters at 80 mels):

| model       | parameters | settings that differ from `Config()`'s                                     |
|-------------|-----------:|----------------------------------------------------------------------------|
| SpeechBrain |  4,354,964 | padding reflect, activation leaky_relu (its recipe has 24 mels, not 80)    |
| WeSpeaker   |  4,610,524 | padding none, no norm_affine, segment_layers 2                             |
| 3D-Speaker  |  4,347,868 | padding none, no norm_affine                                               |
"""

from dataclasses import dataclass
from typing import Annotated, Literal

from torch import Tensor, nn

from speakerverif._util.ranges import Range, VarianceFloor, Width
from speakerverif.errors import InputError
from speakerverif.models import pooling
from speakerverif.models.encoders._tdnn import TDNN, Padding
from speakerverif.models.pooling import Pooling


@dataclass(frozen=True)
class Config:
    """The defaults are the paper's layers, zero-padded so that the shortest utterance has an embedding."""

    channels: Width = 512
    pooling_channels: Width = 1500  # of the last layer before pooling
    embedding_dim: Width = 512
    padding: Padding = "zeros"  # none, as in Kaldi's training: the first and last 7 frames are context only
    activation: Literal["relu", "leaky_relu"] = "relu"
    norm_affine: bool = True  # batch norms have a scale and an offset
    norm: bool = True  # batch norm after each layer
    projection_channels: Annotated[int, Range(0, 100_000)] = 0  # of a linear layer before all others; 0: none
    segment_layers: Literal[1, 2] = 1  # the embedding is the first or the second layer after pooling
    pooling: Pooling = "statistics"
    variance_floor: VarianceFloor = 1e-8


class MinimumLength(nn.Module):
    """A check that no utterance is shorter than the layers' context, `context` + 1 frames."""

    def __init__(self, context: int) -> None:
        super().__init__()
        self.context = context

    def forward(self, features: Tensor, num_frames: Tensor | None) -> None:
        """Check the lengths of the utterances.

        Raises:
            InputError: an utterance is too short.
        """
        if self.context == 0:
            return
        shortest = features.shape[1] if num_frames is None else int(num_frames.min())
        if shortest <= self.context:
            raise InputError(
                f"an utterance of {shortest} frames is too short: an x-vector without padding needs "
                f"{self.context + 1}; leave it out, or use padding = 'zeros'"
            )


class XVector(nn.Module):
    """The encoder; `embedding_dim` is the size of what it returns."""

    def __init__(self, config: Config, num_mels: int) -> None:
        super().__init__()
        self.embedding_dim = config.embedding_dim
        activation = {"relu": nn.ReLU, "leaky_relu": nn.LeakyReLU}[config.activation]
        norm: Literal["affine", "plain", "none"] = "affine" if config.norm_affine else "plain"
        if not config.norm:
            norm = "none"
        self.projection = (
            nn.Linear(num_mels, config.projection_channels) if config.projection_channels else None
        )
        self.frames = nn.ModuleList()
        self.lost_frames: list[int] = []  # number of frames that each layer removes
        size = config.projection_channels or num_mels
        for kernel_size, dilation in [(5, 1), (3, 2), (3, 3), (1, 1), (1, 1)]:
            out = config.pooling_channels if len(self.frames) == 4 else config.channels
            layer = TDNN(size, out, kernel_size, dilation, config.padding, activation(inplace=True), norm)
            self.frames.append(layer)
            self.lost_frames.append(layer.lost_frames)
            size = out
        self.minimum_length = MinimumLength(sum(self.lost_frames))
        self.pooling = pooling.build(config.pooling, config.pooling_channels, config.variance_floor)
        self.embedding = nn.Linear(self.pooling.output_dim, config.embedding_dim)
        self.second: nn.Module | None = None
        if config.segment_layers == 2:
            self.second = nn.Sequential(
                activation(),
                nn.BatchNorm1d(config.embedding_dim, affine=config.norm_affine),
                nn.Linear(config.embedding_dim, config.embedding_dim),
            )

    def forward(self, features: Tensor, num_frames: Tensor | None = None) -> Tensor:
        """Return embeddings.

        Raises:
            InputError: without padding, an utterance is shorter than the layers' context.
        """
        self.minimum_length(features, num_frames)
        frames = features if self.projection is None else self.projection(features)
        for layer, lost in zip(self.frames, self.lost_frames, strict=True):
            if num_frames is not None:
                num_frames = num_frames - lost
            frames = layer(frames, num_frames)
        embedding: Tensor = self.embedding(self.pooling(frames, num_frames))
        return embedding if self.second is None else self.second(embedding)


def build(config: Config, num_mels: int) -> XVector:
    """Return the encoder: features float32 `(B, T, num_mels)` to embeddings `(B, embedding_dim)`."""
    return XVector(config, num_mels)
