"""MFA with layer adapters: each layer of a self-supervised front end is adapted, all are joined and pooled.

Source: Li, Cheng and Li 2025, "Enhancing Speaker Verification with w2v-BERT 2.0 and Knowledge Distillation guided
Structured Pruning", arXiv:2510.04213, section 2, and the authors' code: an adapter per layer (two linear layers with a
layer norm and ReLU between them), concatenation, attentive statistics without context, a linear layer.

Over w2v-BERT 2.0 it has 6,160,640 parameters (the authors: 6.2 M).
"""

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor, nn

from speakerverif._util.ranges import Range, VarianceFloor, Width
from speakerverif.models.encoders.mhfa import width_of
from speakerverif.models.frames import zero_padding
from speakerverif.models.pooling import AttentiveStatisticsPooling


@dataclass(frozen=True)
class Config:
    """The defaults are the authors'."""

    layers: Annotated[int, Range(1, 1_000)] = 1  # whose frames are side by side; set by the front end
    adapter_channels: Width = 128  # of each layer's adapter, and of the attention
    embedding_dim: Width = 256
    variance_floor: VarianceFloor = 1e-5


class MFA(nn.Module):
    """The encoder; `embedding_dim` is the size of what it returns."""

    def __init__(self, config: Config, width: int) -> None:
        super().__init__()
        self.embedding_dim = config.embedding_dim
        channels = config.adapter_channels
        self.adapters = nn.ModuleList(
            nn.Sequential(
                nn.Linear(width, channels), nn.LayerNorm(channels), nn.ReLU(), nn.Linear(channels, channels)
            )
            for _ in range(config.layers)
        )
        self.pooling = AttentiveStatisticsPooling(
            config.layers * channels,
            channels,
            global_context=False,
            tanh=False,
            variance_floor=config.variance_floor,
        )
        self.embedding = nn.Linear(self.pooling.output_dim, config.embedding_dim)

    def forward(self, features: Tensor, num_frames: Tensor | None = None) -> Tensor:
        layers = zero_padding(features, num_frames).chunk(len(self.adapters), -1)
        adapted = [adapter(layer) for adapter, layer in zip(self.adapters, layers, strict=True)]
        embedding: Tensor = self.embedding(self.pooling(torch.cat(adapted, -1), num_frames))
        return embedding


def build(config: Config, num_mels: int) -> MFA:
    """Return the encoder: frames of all layers `(B, T, layers * width)` to embeddings `(B, embedding_dim)`."""
    return MFA(config, width_of(num_mels, config.layers))
