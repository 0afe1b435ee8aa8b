"""AM-Softmax (additive margin, CosFace): the target logit is s (cos(theta_y) - m).

Subtracting from the cosine needs no multiple-angle formula and no arccos, and leaves its derivative unchanged. The
margin is inside the scale, and in the numerator and the denominator of the softmax.
"""

from dataclasses import dataclass
from typing import Annotated

from torch import Tensor

from speakerverif._util.ranges import Range, Scale, Share
from speakerverif.heads._margin import MarginHead


@dataclass(frozen=True)
class Config:
    """AM-Softmax; m = 0.2 and s = 30 are usual for speakers (m = 0.35 for faces)."""

    margin: Share = 0.2  # m, cosine units, 0..1
    scale: Scale = 30.0  # s
    normalize_features: bool = True  # false: each embedding's length takes the place of s
    sub_centers: Annotated[int, Range(1, 1_000)] = 1  # weight vectors per class, of which the nearest counts
    # Number of nearest other classes that are raised; 5 in the inter-top-K paper.
    top_k: Annotated[int, Range(0, 1_000_000)] = 0
    top_k_margin: Share = 0.06  # cosine units that they are raised by


class AMSoftmax(MarginHead):
    """Additive margin on the cosine.

    Args:
        embedding_dim: width of the embeddings.
        num_speakers: number of classes.
        margin: m in cosine units, 0 to 1.
        scale: s, above 0.
        normalize_features: False: each embedding's length takes the place of s.
        sub_centers: weight vectors per class, of which the nearest counts.
        top_k: number of nearest other classes that are raised; 0: none.
        top_k_margin: cosine units that they are raised by, 0 to 1.

    Source:
        Wang, Cheng, Liu, Liu, "Additive margin softmax for face verification", 2018, arXiv 1801.05599, eq. 6; Wang
        et al., "CosFace", 2018, arXiv 1801.09414, eq. 4.

    Raises:
        InputError: a value out of range.
    """

    def __init__(
        self,
        embedding_dim: int,
        num_speakers: int,
        *,
        margin: float = Config.margin,
        scale: float = Config.scale,
        normalize_features: bool = Config.normalize_features,
        sub_centers: int = Config.sub_centers,
        top_k: int = Config.top_k,
        top_k_margin: float = Config.top_k_margin,
    ):
        super().__init__(
            embedding_dim,
            num_speakers,
            scale=scale if normalize_features else None,
            margin=margin,
            max_margin=1.0,
            sub_centers=sub_centers,
            top_k=top_k,
            top_k_margin=top_k_margin,
        )

    def lower(self, cosine: Tensor, margin: float) -> Tensor:
        return cosine - margin


def build(config: Config, embedding_dim: int, num_speakers: int) -> AMSoftmax:
    """Return the head."""
    return AMSoftmax(embedding_dim, num_speakers, **vars(config))
