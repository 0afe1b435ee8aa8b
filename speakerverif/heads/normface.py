"""NormFace: softmax over s cos(theta_j), with embeddings and class weights both normalised.

The gradient on an embedding is proportional to 1 / length, so short embeddings, those of poor recordings, count more
than under plain softmax. There is no gap between classes yet.
"""

from dataclasses import dataclass

from speakerverif._util.ranges import Scale
from speakerverif.heads._base import CosineHead


@dataclass(frozen=True)
class Config:
    """NormFace; s = 30 as for the heads with a margin, so that they compare."""

    scale: Scale = 30.0  # s


class NormFace(CosineHead):
    """Softmax over scaled cosines.

    Args:
        embedding_dim: width of the embeddings.
        num_speakers: number of classes.
        scale: s, above 0.

    Source:
        Wang, Xiang, Cheng, Yuille, "NormFace", 2017, arXiv 1704.06369. Departure: the scale is fixed, not learned.

    Raises:
        InputError: a value out of range.
    """

    def __init__(self, embedding_dim: int, num_speakers: int, *, scale: float = Config.scale):
        super().__init__(embedding_dim, num_speakers, scale)


def build(config: Config, embedding_dim: int, num_speakers: int) -> NormFace:
    """Return the head."""
    return NormFace(embedding_dim, num_speakers, **vars(config))
