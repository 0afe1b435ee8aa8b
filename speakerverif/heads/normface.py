"""NormFace: softmax over s cos(theta_j), embedding and class weights both normalised.

Its gradient on the embedding goes with 1 / length, so that short embeddings, those of poor recordings, gain
weight over plain softmax. There is still no gap between the classes.
"""

from dataclasses import dataclass

from speakerverif._util.ranges import Scale
from speakerverif.heads._base import CosineHead


@dataclass(frozen=True)
class Config:
    """NormFace; s = 30 as for the margins, so that heads compare."""

    scale: Scale = 30.0  # multiplies the cosines


def build(config: Config, embedding_dim: int, num_speakers: int) -> CosineHead:
    """Return the head.

    Source:
        Wang, Xiang, Cheng, Yuille, "NormFace", 2017, arXiv 1704.06369. Departure: the scale is fixed, not
        learned.

    Raises:
        InputError: a scale out of range.
    """
    return CosineHead(embedding_dim, num_speakers, config.scale)
