"""Angular prototypical loss: one utterance of each speaker is classified by the means of the speakers' others."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from speakerverif.heads._affine import PositiveAffine
from speakerverif.heads._base import unit
from speakerverif.heads._pairs import PairHead


@dataclass(frozen=True)
class Config:
    """The loss has no settings, and no margin that the schedule could move."""


class AngularPrototypical(PairHead):
    """Cross-entropy over w cos(query_j, prototype_k) + b, among the speakers of the batch.

    The query is each speaker's last utterance in the batch; prototypes are means of embeddings that are not normalised.

    Args:
        embedding_dim: width of the embeddings.
        num_speakers: number of classes.

    Source:
        Chung et al., "In defence of metric learning for speaker recognition", 2020, arXiv 2003.11982,
        sec. 2.2. Departure: w is kept positive by learning its logarithm.
    """

    def __init__(self, embedding_dim: int, num_speakers: int):
        super().__init__(embedding_dim, num_speakers)
        self.affine = PositiveAffine()

    def batch_loss(self, embeddings: Tensor, vectors: Tensor, row: Tensor, cosines: Tensor) -> Tensor:
        speakers = cosines.shape[1]
        order = torch.arange(len(row), device=row.device)
        query = torch.zeros(speakers, dtype=torch.int64, device=row.device)
        query.scatter_reduce_(0, row, order, "amax")
        sums = embeddings.new_zeros(speakers, embeddings.shape[1]).index_add_(0, row, embeddings)
        prototypes = (sums - embeddings[query]) / (row.bincount(minlength=speakers)[:, None] - 1)
        logits = self.affine(F.linear(vectors[query], unit(prototypes)))
        return F.cross_entropy(logits, torch.arange(speakers, device=row.device))


def build(config: Config, embedding_dim: int, num_speakers: int) -> AngularPrototypical:
    """Return the head."""
    return AngularPrototypical(embedding_dim, num_speakers)
