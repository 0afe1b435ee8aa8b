"""A-Softmax (SphereFace): the target logit is ||x|| psi(theta_y), the angle multiplied by an integer m."""

from dataclasses import dataclass
from typing import Annotated

from torch import Tensor

from speakerverif._util.ranges import Range
from speakerverif.heads._base import CosineHead
from speakerverif.heads._psi import annealed, check


@dataclass(frozen=True)
class Config:
    """A-Softmax; m and the ends of the annealing are the paper's."""

    margin: Annotated[int, Range(1, 4)] = 4  # m, multiplies the angle: 1, 2, 3 or 4
    # Weight of the plain cosine where the margin schedule is at 0.
    lambda_start: Annotated[float, Range(0, 1e9)] = 1000.0
    lambda_end: Annotated[float, Range(0, 1e9)] = 5.0  # and where it is at 1


class ASoftmax(CosineHead):
    """Multiplied angle between unit weights and embeddings of any length.

    Source:
        Liu, Wen, Yu, Li, Raj, Song, "SphereFace", 2017, arXiv 1704.08063, eq. 7, with its fraction.
    """

    def __init__(self, config: Config, embedding_dim: int, num_speakers: int):
        check(config.margin, config.lambda_start, config.lambda_end)
        super().__init__(embedding_dim, num_speakers, scale=None)
        self.config = config

    def target(self, cosine: Tensor) -> Tensor:
        c = self.config
        return annealed(cosine, c.margin, self.margin_fraction, c.lambda_start, c.lambda_end)


def build(config: Config, embedding_dim: int, num_speakers: int) -> ASoftmax:
    """Return the head.

    Raises:
        InputError: a value out of range.
    """
    return ASoftmax(config, embedding_dim, num_speakers)
