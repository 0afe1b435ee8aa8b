"""AM-Softmax (additive margin, CosFace): the target logit is s (cos(theta_y) - m).

Subtracting from the cosine needs no multiple-angle formula and no arccos, and leaves its derivative as it
was. The margin stands inside the scale, and both in the numerator and in the denominator of the softmax.
"""

from dataclasses import dataclass
from typing import Annotated

from torch import Tensor

from speakerverif._util.ranges import Range, Scale, Share
from speakerverif.heads._margin import MarginHead


@dataclass(frozen=True)
class Config:
    """AM-Softmax; m = 0.2 and s = 30 are usual for speakers (0.35 for faces)."""

    margin: Share = 0.2  # cosine units, 0..1
    scale: Scale = 30.0  # multiplies the cosines
    normalize_features: bool = True  # false: the embedding's length takes the scale's place
    sub_centers: Annotated[int, Range(1, 1_000)] = 1  # weight vectors a class, the nearest counts
    # Other classes, the nearest, that are raised; 5 in the inter-top-K paper.
    top_k: Annotated[int, Range(0, 1_000_000)] = 0
    top_k_margin: Share = 0.06  # cosine units, by how much


class AMSoftmax(MarginHead):
    """Additive margin in cosine units.

    Source:
        Wang, Cheng, Liu, Liu, "Additive margin softmax for face verification", 2018, arXiv 1801.05599, eq. 6;
        Wang et al., "CosFace", 2018, arXiv 1801.09414, eq. 4.
    """

    def __init__(self, config: Config, embedding_dim: int, num_speakers: int):
        super().__init__(
            embedding_dim,
            num_speakers,
            scale=config.scale if config.normalize_features else None,
            margin=config.margin,
            max_margin=1.0,
            sub_centers=config.sub_centers,
            top_k=config.top_k,
            top_k_margin=config.top_k_margin,
        )

    def lower(self, cosine: Tensor, margin: float) -> Tensor:
        return cosine - margin


def build(config: Config, embedding_dim: int, num_speakers: int) -> AMSoftmax:
    """Return the head.

    Raises:
        InputError: a value out of range.
    """
    return AMSoftmax(config, embedding_dim, num_speakers)
