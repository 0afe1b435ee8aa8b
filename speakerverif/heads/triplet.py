"""Triplet loss: an utterance must be nearer to one of its own speaker than to one of another, by a margin."""

from dataclasses import dataclass
from typing import Annotated, Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from speakerverif._util.ranges import Range
from speakerverif.heads._base import require
from speakerverif.heads._pairs import PairHead, same_speaker

Mining = Literal["batch_hard", "semi_hard"]


@dataclass(frozen=True)
class Config:
    """Triplet loss; FaceNet's margin."""

    margin: Annotated[float, Range(0, 4)] = 0.2  # in squared Euclidean distance between unit embeddings, 0..4
    mining: Mining = "batch_hard"


class Triplet(PairHead):
    """max(0, d(a, p) - d(a, n) + m), d the squared Euclidean distance of unit embeddings: 2 - 2 cos.

    batch_hard takes the farthest positive and the nearest negative of each anchor. semi_hard takes, for each anchor and
    positive, the nearest of the negatives that are farther than the positive; pairs without one cost nothing, as
    negatives nearer than the positive make early training collapse.

    Args:
        embedding_dim: width of the embeddings.
        num_speakers: number of classes.
        margin: m, in squared Euclidean distance, 0 to 4.
        mining: batch_hard or semi_hard.

    Source:
        Schroff, Kalenichenko, Philbin, "FaceNet", 2015, arXiv 1503.03832, eq. 3-4; batch-hard: Hermans,
        Beyer, Leibe, 2017, arXiv 1703.07737. Departure: means over the anchors (pairs), not sums.

    Raises:
        InputError: a margin out of range.
    """

    def __init__(
        self,
        embedding_dim: int,
        num_speakers: int,
        *,
        margin: float = Config.margin,
        mining: Mining = Config.mining,
    ):
        require(0 <= margin <= 4, "margin", margin, "0..4")
        require(mining in get_args(Mining), "mining", mining, " or ".join(get_args(Mining)))
        super().__init__(embedding_dim, num_speakers)
        self.margin, self.mining = margin, mining

    def batch_loss(self, embeddings: Tensor, vectors: Tensor, row: Tensor, cosines: Tensor) -> Tensor:
        distances = 2 - 2 * F.linear(vectors, vectors)
        positive, negative = same_speaker(row)
        to_negative = distances.masked_fill(~negative, float("inf"))
        margin = self.margin_fraction * self.margin
        if self.mining == "batch_hard":
            farthest = distances.masked_fill(~positive, float("-inf")).amax(dim=1)
            return F.relu(farthest - to_negative.amin(dim=1) + margin).mean()
        # Sorting the negatives of each anchor finds the next one for all its positives: (B, B), never (B, B, B).
        ranked = to_negative.sort(dim=1).values
        next_one = torch.searchsorted(ranked.detach(), distances.detach(), right=True)
        beyond = F.pad(ranked, (0, 1), value=float("inf")).gather(1, next_one)
        return F.relu(distances - beyond + margin)[positive].mean()


def build(config: Config, embedding_dim: int, num_speakers: int) -> Triplet:
    """Return the head."""
    return Triplet(embedding_dim, num_speakers, **vars(config))
