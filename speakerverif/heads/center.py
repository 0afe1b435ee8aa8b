"""Center loss: joined to any head, it pulls each embedding to the running centre of its speaker.

Its weakness is known: a batch is a poor sample of a centre, and the Euclidean distance it shrinks is not the
cosine that verification uses.
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
    """Center loss beside plain softmax; the paper's weight and rate."""

    base: dict[str, Any] = field(
        default_factory=lambda: {"name": "softmax"}
    )  # the joined head, with its keys
    weight: Annotated[float, Range(0, 1e9)] = 0.003  # lambda, 0 or more
    center_rate: Share = 0.5  # alpha, how far the centres follow a batch, 0..1


class Center(Head):
    """Another head's loss plus lambda / 2 times the mean squared distance to the centres.

    The centres start at zero and are no parameters: after each training batch, centre j moves by
    -alpha sum(c_j - x_i) / (1 + n_j) over the n_j embeddings of its speaker there.

    Source:
        Wen, Zhang, Li, Qiao, "A discriminative feature learning approach for deep face recognition",
        ECCV 2016, eq. 2, 4 and 5. Departure: both terms are means over the batch, where the paper sums both.
    """

    def __init__(self, config: Config, embedding_dim: int, num_speakers: int):
        require(0 <= config.weight < float("inf"), "weight", config.weight, "a number >= 0")
        require(0 <= config.center_rate <= 1, "center_rate", config.center_rate, "0..1")
        super().__init__(embedding_dim, num_speakers)
        require(config.base.get("name") != "center", "base.name", "center", "another head")
        self.base = build_base(config.base, embedding_dim, num_speakers)
        self.needs_balanced_batches = self.base.needs_balanced_batches
        self.config = config
        self.centers: Tensor
        self.register_buffer("centers", torch.zeros(num_speakers, embedding_dim))

    def loss(self, embeddings: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        self.base.margin_fraction = self.margin_fraction
        loss, cosines = self.base(embeddings, labels)
        away = embeddings - self.centers[labels]
        if self.training:
            self._move(away.detach(), labels)
        return loss + self.config.weight / 2 * away.square().sum(dim=1).mean(), cosines

    @torch.no_grad()
    def _move(self, away: Tensor, labels: Tensor) -> None:
        present, row = labels.unique(return_inverse=True)
        counts = torch.bincount(row, minlength=len(present))[:, None]
        pull = away.new_zeros(len(present), self.embedding_dim).index_add_(0, row, away)
        step = self.config.center_rate * pull / (1 + counts)
        self.centers.index_add_(0, present, step.to(self.centers.dtype))

    def accuracy(self, cosines: Tensor, labels: Tensor) -> Tensor:
        return self.base.accuracy(cosines, labels)


def build(config: Config, embedding_dim: int, num_speakers: int) -> Center:
    """Return the joined head.

    Raises:
        InputError: an unknown base, or a value out of range.
    """
    return Center(config, embedding_dim, num_speakers)
