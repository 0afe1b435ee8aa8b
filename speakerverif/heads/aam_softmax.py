"""AAM-Softmax (additive angular margin, ArcFace): the target logit is s cos(theta_y + m)."""

import math
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from speakerverif._util.ranges import Range, Scale
from speakerverif.heads._margin import MarginHead, add_angle


@dataclass(frozen=True)
class Config:
    """AAM-Softmax; m = 0.2 is usual for speakers, 0.5 for fine-tuning with a large margin."""

    margin: Annotated[float, Range(0, math.pi / 2)] = 0.2  # m, radians, 0..pi/2
    scale: Scale = 30.0  # s
    easy_margin: bool = False  # true: no margin where the angle to the class is above pi/2
    sub_centers: Annotated[int, Range(1, 1_000)] = 1  # weight vectors per class, of which the nearest counts
    # Number of nearest other classes that are raised; 5 in the inter-top-K paper.
    top_k: Annotated[int, Range(0, 1_000_000)] = 0
    top_k_margin: Annotated[float, Range(0, math.pi / 2)] = 0.06  # radians that they are raised by


class AAMSoftmax(MarginHead):
    """Additive margin on the angle.

    Args:
        embedding_dim: width of the embeddings.
        num_speakers: number of classes.
        margin: m in radians, 0 to pi/2.
        scale: s, above 0.
        easy_margin: no margin where the angle to the class is above pi/2.
        sub_centers: weight vectors per class, of which the nearest counts.
        top_k: number of nearest other classes that are raised; 0: none.
        top_k_margin: radians that they are raised by, 0 to pi/2.

    Source:
        Deng, Guo, Xue, Zafeiriou, "ArcFace", 2018, arXiv 1801.07698, eq. 3. Departure: past theta + m = pi the target
        is cos(theta) - m sin(m), so that it stays monotone.

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
        easy_margin: bool = Config.easy_margin,
        sub_centers: int = Config.sub_centers,
        top_k: int = Config.top_k,
        top_k_margin: float = Config.top_k_margin,
    ):
        super().__init__(
            embedding_dim,
            num_speakers,
            scale=scale,
            margin=margin,
            max_margin=math.pi / 2,
            sub_centers=sub_centers,
            top_k=top_k,
            top_k_margin=top_k_margin,
        )
        self.easy_margin = easy_margin

    def lower(self, cosine: Tensor, margin: float) -> Tensor:
        return add_angle(cosine, margin)

    def target(self, cosine: Tensor) -> Tensor:
        lowered = super().target(cosine)
        return torch.where(cosine > 0, lowered, cosine) if self.easy_margin else lowered


def build(config: Config, embedding_dim: int, num_speakers: int) -> AAMSoftmax:
    """Return the head."""
    return AAMSoftmax(embedding_dim, num_speakers, **vars(config))
