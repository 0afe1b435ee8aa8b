"""Center loss: added to any head's loss, it pulls each embedding to the running centre of its speaker.

Its known weaknesses: a batch is a poor sample of a centre, and verification uses the cosine, not the Euclidean
distance.
"""

from dataclasses import dataclass, field
from typing import Annotated, Any

import torch
from torch import Tensor

from speakerverif._util.ranges import Range, Share
from speakerverif.heads._base import Head, require
from speakerverif.heads._named import build_base


@dataclass(frozen=True)
class Config:
    """Center loss added to plain softmax, with the paper's weight and rate."""

    # The head that it is added to: its name and its keys.
    base: dict[str, Any] = field(default_factory=lambda: {"name": "softmax"})
    weight: Annotated[float, Range(0, 1e9)] = 0.003  # lambda, 0 or more
    center_rate: Share = 0.5  # alpha, the share of the way that centres follow a batch, 0..1


class Center(Head):
    """Another head's loss plus lambda / 2 times the mean squared distance to the centres.

    The centres start at zero and are no parameters: after each training batch, centre j moves by
    -alpha sum(c_j - x_i) / (1 + n_j) over the n_j embeddings of its speaker in the batch.

    Args:
        base: the other head.
        weight: lambda, 0 or more.
        center_rate: alpha, 0 to 1.

    Source:
        Wen, Zhang, Li, Qiao, "A discriminative feature learning approach for deep face recognition",
        ECCV 2016, eq. 2, 4 and 5. Departure: both terms are means over the batch, where the paper sums both.

    Raises:
        InputError: a value out of range.
    """

    counts_each_alone = False  # the centres move once in a batch

    def __init__(self, base: Head, *, weight: float = Config.weight, center_rate: float = Config.center_rate):
        require(0 <= weight < float("inf"), "weight", weight, "a number >= 0")
        require(0 <= center_rate <= 1, "center_rate", center_rate, "0..1")
        require(not isinstance(base, Center), "base.name", "center", "another head")
        super().__init__(base.embedding_dim, base.num_speakers)
        self.base, self.weight, self.center_rate = base, weight, center_rate
        self.needs_balanced_batches = base.needs_balanced_batches
        self.centers: Tensor
        self.register_buffer("centers", torch.zeros(base.num_speakers, base.embedding_dim))

    def loss(self, embeddings: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        self.base.margin_fraction = self.margin_fraction
        loss, cosines = self.base(embeddings, labels)
        away = embeddings - self.centers[labels]
        if self.training:
            self._move(away.detach(), labels)
        return loss + self.weight / 2 * away.square().sum(dim=1).mean(), cosines

    @torch.no_grad()
    def _move(self, away: Tensor, labels: Tensor) -> None:
        present, row = torch.unique(labels, return_inverse=True)
        counts = torch.bincount(row, minlength=len(present))[:, None]
        pull = away.new_zeros(len(present), self.embedding_dim).index_add_(0, row, away)
        step = self.center_rate * pull / (1 + counts)
        self.centers.index_add_(0, present, step.to(self.centers.dtype))

    def accuracy(self, cosines: Tensor, labels: Tensor) -> Tensor:
        return self.base.accuracy(cosines, labels)


def build(config: Config, embedding_dim: int, num_speakers: int) -> Center:
    """Return both heads as one.

    Raises:
        InputError: an unknown base, or a value out of range.
    """
    base = build_base(config.base, embedding_dim, num_speakers)
    return Center(base, weight=config.weight, center_rate=config.center_rate)
