"""Softmax: cross-entropy over W_j x + b_j, which separates speakers without a gap between them."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from speakerverif.heads._base import NORM_FLOOR, ClassifierHead, lengths


@dataclass(frozen=True)
class Config:
    """Plain softmax has no settings."""


class Softmax(ClassifierHead):
    """Linear classifier with a bias that starts at zero.

    The cosines are those between embeddings and class weights, as verification uses them, without bias and lengths;
    they can rank another class first than the logits do.

    Args:
        embedding_dim: width of the embeddings.
        num_speakers: number of classes.
    """

    def __init__(self, embedding_dim: int, num_speakers: int):
        super().__init__(embedding_dim, num_speakers)
        self.bias = nn.Parameter(torch.zeros(num_speakers))

    def loss(self, embeddings: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        weight, bias = self.weight.to(embeddings.dtype), self.bias.to(embeddings.dtype)
        logits = F.linear(embeddings, weight, bias)
        with torch.no_grad():
            cosines = (logits - bias).div_(lengths(weight).clamp_min(NORM_FLOOR).T)
            cosines.div_(lengths(embeddings).clamp_min(NORM_FLOOR))
        return F.cross_entropy(logits, labels), cosines


def build(config: Config, embedding_dim: int, num_speakers: int) -> Softmax:
    """Return the head."""
    return Softmax(embedding_dim, num_speakers)
