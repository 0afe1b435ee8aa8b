"""Triplet loss: an utterance shall be nearer to its own speaker's than to another's, by a margin."""

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from speakerverif._util.ranges import Range
from speakerverif.heads._base import require
from speakerverif.heads._pairs import PairHead, same_speaker


@dataclass(frozen=True)
class Config:
    """Triplet loss; FaceNet's margin."""

    margin: Annotated[float, Range(0, 4)] = 0.2  # in squared Euclidean distance between unit embeddings, 0..4
    mining: Literal["batch_hard", "semi_hard"] = "batch_hard"


class Triplet(PairHead):
    """max(0, d(a, p) - d(a, n) + m), d the squared Euclidean distance of unit embeddings: 2 - 2 cos.

    batch_hard: for every anchor its farthest positive and its nearest negative. semi_hard: for every anchor
    and positive the nearest of the negatives that are farther than the positive; pairs that have none cost
    nothing, as it is the negatives nearer than the positive that make early training collapse.

    Source:
        Schroff, Kalenichenko, Philbin, "FaceNet", 2015, arXiv 1503.03832, eq. 3-4; batch-hard: Hermans,
        Beyer, Leibe, 2017, arXiv 1703.07737. Departure: means over the anchors (pairs), not sums.
    """

    def __init__(self, config: Config, embedding_dim: int, num_speakers: int):
        require(0 <= config.margin <= 4, "margin", config.margin, "0..4")
        super().__init__(embedding_dim, num_speakers)
        self.config = config

    def batch_loss(self, embeddings: Tensor, vectors: Tensor, row: Tensor, cosines: Tensor) -> Tensor:
        distances = 2 - 2 * F.linear(vectors, vectors)
        positive, negative = same_speaker(row)
        to_negative = distances.masked_fill(~negative, float("inf"))
        margin = self.margin_fraction * self.config.margin
        if self.config.mining == "batch_hard":
            farthest = distances.masked_fill(~positive, float("-inf")).amax(dim=1)
            return F.relu(farthest - to_negative.amin(dim=1) + margin).mean()
        # Sorting each anchor's negatives finds the next one for all its positives: (B, B), never (B, B, B).
        ranked = to_negative.sort(dim=1).values
        next_one = torch.searchsorted(ranked.detach(), distances.detach(), right=True)
        beyond = F.pad(ranked, (0, 1), value=float("inf")).gather(1, next_one)
        return F.relu(distances - beyond + margin)[positive].mean()


def build(config: Config, embedding_dim: int, num_speakers: int) -> Triplet:
    """Return the head.

    Raises:
        InputError: a margin out of range.
    """
    return Triplet(config, embedding_dim, num_speakers)
