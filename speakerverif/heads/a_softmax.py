"""A-Softmax (SphereFace): the target logit is ||x|| psi(theta_y), the angle multiplied by an integer m."""

from torch import Tensor

from speakerverif.heads._base import CosineHead
from speakerverif.heads._psi import Config, annealed, check

__all__ = ["ASoftmax", "Config", "build"]


class ASoftmax(CosineHead):
    """Multiplied angle between unit weights and embeddings of any length.

    Args:
        embedding_dim: width of the embeddings.
        num_speakers: number of classes.
        margin: m, which multiplies the angle: 1, 2, 3 or 4.
        lambda_start: weight of the plain cosine while `margin_fraction` is 0.
        lambda_end: its weight when `margin_fraction` is 1.

    Source:
        Liu, Wen, Yu, Li, Raj, Song, "SphereFace", 2017, arXiv 1704.08063, eq. 7.

    Raises:
        InputError: a value out of range.
    """

    def __init__(
        self,
        embedding_dim: int,
        num_speakers: int,
        *,
        margin: int = Config.margin,
        lambda_start: float = Config.lambda_start,
        lambda_end: float = Config.lambda_end,
    ):
        check(margin, lambda_start, lambda_end)
        super().__init__(embedding_dim, num_speakers, scale=None)
        self.margin, self.lambda_start, self.lambda_end = margin, lambda_start, lambda_end

    def target(self, cosine: Tensor) -> Tensor:
        return annealed(cosine, self.margin, self.margin_fraction, self.lambda_start, self.lambda_end)


def build(config: Config, embedding_dim: int, num_speakers: int) -> ASoftmax:
    """Return the head."""
    return ASoftmax(embedding_dim, num_speakers, **vars(config))
