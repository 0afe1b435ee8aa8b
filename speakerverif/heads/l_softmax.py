"""L-Softmax: the target logit is ||W_y|| ||x|| psi(theta_y); class weights keep their lengths."""

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor
from torch.nn import functional as F

from speakerverif._util.ranges import Range
from speakerverif.heads._base import NORM_FLOOR, ClassifierHead, lengths
from speakerverif.heads._psi import annealed, check


@dataclass(frozen=True)
class Config:
    """L-Softmax; m = 4 was the paper's best on faces. The annealing is that of A-Softmax."""

    margin: Annotated[int, Range(1, 4)] = 4  # m, multiplies the angle: 1, 2, 3 or 4
    # Weight of the plain cosine where the margin schedule is at 0.
    lambda_start: Annotated[float, Range(0, 1e9)] = 1000.0
    lambda_end: Annotated[float, Range(0, 1e9)] = 5.0  # and where it is at 1


class LSoftmax(ClassifierHead):
    """Multiplied angle between weights and embeddings of any length, without bias.

    Source:
        Liu, Wen, Yu, Yang, "Large-margin softmax loss", 2016, arXiv 1612.02295, eq. 4-6.
    """

    def __init__(self, config: Config, embedding_dim: int, num_speakers: int):
        check(config.margin, config.lambda_start, config.lambda_end)
        super().__init__(embedding_dim, num_speakers)
        self.config = config

    def loss(self, embeddings: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        weight, c = self.weight.to(embeddings.dtype), self.config
        dots = F.linear(embeddings, weight)
        with torch.no_grad():
            cosines = dots / lengths(weight).clamp_min(NORM_FLOOR).T
            cosines.div_(lengths(embeddings).clamp_min(NORM_FLOOR))
        # The own dot product is computed anew, as gathering it would forbid writing into `dots` in place.
        own_weight = weight[labels]
        norms = lengths(own_weight) * lengths(embeddings)
        cosine = (own_weight * embeddings).sum(dim=1, keepdim=True) / norms.clamp_min(NORM_FLOOR**2)
        target = norms * annealed(cosine, c.margin, self.margin_fraction, c.lambda_start, c.lambda_end)
        return F.cross_entropy(dots.scatter_(1, labels[:, None], target), labels), cosines


def build(config: Config, embedding_dim: int, num_speakers: int) -> LSoftmax:
    """Return the head.

    Raises:
        InputError: a value out of range.
    """
    return LSoftmax(config, embedding_dim, num_speakers)
