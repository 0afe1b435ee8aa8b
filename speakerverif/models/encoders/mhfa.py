"""MHFA, multi-head factorised attentive pooling: keys and values from all layers of a self-supervised front end.

Source: Peng et al. 2023, "An attention-based backend allowing efficient fine-tuning of transformer models for speaker
verification", arXiv:2210.01273, section 3, and the authors' code. Keys and values are sums of the layers with weights
of their own, compressed; each head attends with its own share over time, and all heads share the values.

With 64 heads over WavLM Base+ it has 2,302,554 parameters (the authors: 2 M).
"""

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor, nn

from speakerverif._util.ranges import Range, Width
from speakerverif.errors import InputError
from speakerverif.models.frames import frame_mask, zero_padding


@dataclass(frozen=True)
class Config:
    """The defaults are the authors' for WavLM Base+."""

    layers: Annotated[int, Range(1, 1_000)] = 1  # whose frames are side by side; set by the front end
    heads: Annotated[int, Range(1, 10_000)] = 64
    compression: Width = 128  # width of keys and values
    embedding_dim: Width = 256


class MHFA(nn.Module):
    """The encoder; `embedding_dim` is the size of what it returns."""

    def __init__(self, config: Config, width: int) -> None:
        super().__init__()
        self.embedding_dim = config.embedding_dim
        self.layers = config.layers
        self.key_weights = nn.Parameter(torch.ones(config.layers))
        self.value_weights = nn.Parameter(torch.ones(config.layers))
        self.key = nn.Linear(width, config.compression)
        self.value = nn.Linear(width, config.compression)
        self.heads = nn.Linear(config.compression, config.heads)
        self.embedding = nn.Linear(config.heads * config.compression, config.embedding_dim)

    def forward(self, features: Tensor, num_frames: Tensor | None = None) -> Tensor:
        layers = zero_padding(features, num_frames).unflatten(-1, (self.layers, -1))
        keys = self.key(torch.einsum("btlc,l->btc", layers, self.key_weights.softmax(0)))
        values = self.value(torch.einsum("btlc,l->btc", layers, self.value_weights.softmax(0)))
        logits = self.heads(keys)
        if num_frames is not None:
            padding = ~frame_mask(num_frames, logits.shape[1]).unsqueeze(-1)
            logits = logits.masked_fill(padding, float("-inf"))
        pooled = torch.einsum("bth,btc->bhc", logits.softmax(1).to(values.dtype), values)
        embedding: Tensor = self.embedding(pooled.flatten(1))
        return embedding


def width_of(num_mels: int, layers: int) -> int:
    """Return the width of one layer's frames.

    Raises:
        InputError: the features are no frames of so many layers.
    """
    if num_mels % layers:
        raise InputError(
            f"[encoder]: {num_mels} features are not the frames of {layers} layers; leave layers to the front end"
        )
    return num_mels // layers


def build(config: Config, num_mels: int) -> MHFA:
    """Return the encoder: frames of all layers `(B, T, layers * width)` to embeddings `(B, embedding_dim)`."""
    return MHFA(config, width_of(num_mels, config.layers))
