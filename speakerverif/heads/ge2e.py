"""GE2E: each utterance of a batch is classified among the speakers of the batch by their centroids."""

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

from speakerverif.heads._affine import PositiveAffine
from speakerverif.heads._pairs import PairHead


@dataclass(frozen=True)
class Config:
    """GE2E has no settings, and no margin that the schedule could move."""


class GE2E(PairHead):
    """Cross-entropy over w cos(e_ji, c_k) + b, where the centroid of the utterance's own speaker is without it.

    Args:
        embedding_dim: width of the embeddings.
        num_speakers: number of classes.

    Source:
        Wan, Wang, Papir, Lopez Moreno, "Generalized end-to-end loss for speaker verification", 2017,
        arXiv 1710.10467, eq. 4-6 and 8-9. Departures: the mean over utterances, not the sum; w is kept
        positive by learning its logarithm.
    """

    def __init__(self, embedding_dim: int, num_speakers: int):
        super().__init__(embedding_dim, num_speakers)
        self.affine = PositiveAffine()

    def batch_loss(self, embeddings: Tensor, vectors: Tensor, row: Tensor, cosines: Tensor) -> Tensor:
        return F.cross_entropy(self.affine(cosines), row)


def build(config: Config, embedding_dim: int, num_speakers: int) -> GE2E:
    """Return the head."""
    return GE2E(embedding_dim, num_speakers)
