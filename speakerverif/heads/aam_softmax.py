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

    margin: Annotated[float, Range(0, math.pi / 2)] = 0.2  # radians, 0..pi/2
    scale: Scale = 30.0  # multiplies the cosines
    easy_margin: bool = False  # true: the margin acts only where the angle to the own class is below pi/2
    sub_centers: Annotated[int, Range(1, 1_000)] = 1  # weight vectors a class, the nearest counts
    # Other classes, the nearest, that are raised; 5 in the inter-top-K paper.
    top_k: Annotated[int, Range(0, 1_000_000)] = 0
    top_k_margin: Annotated[float, Range(0, math.pi / 2)] = 0.06  # radians, by how much


class AAMSoftmax(MarginHead):
    """Additive margin in radians.

    Source:
        Deng, Guo, Xue, Zafeiriou, "ArcFace", 2018, arXiv 1801.07698, eq. 3. Departure: past theta + m = pi
        the target is cos(theta) - m sin(m), so that it stays monotone.
    """

    def __init__(self, config: Config, embedding_dim: int, num_speakers: int):
        super().__init__(
            embedding_dim,
            num_speakers,
            scale=config.scale,
            margin=config.margin,
            max_margin=math.pi / 2,
            sub_centers=config.sub_centers,
            top_k=config.top_k,
            top_k_margin=config.top_k_margin,
        )
        self.easy_margin = config.easy_margin

    def lower(self, cosine: Tensor, margin: float) -> Tensor:
        return add_angle(cosine, margin)

    def target(self, cosine: Tensor) -> Tensor:
        lowered = super().target(cosine)
        return torch.where(cosine > 0, lowered, cosine) if self.easy_margin else lowered


def build(config: Config, embedding_dim: int, num_speakers: int) -> AAMSoftmax:
    """Return the head.

    Raises:
        InputError: a value out of range.
    """
    return AAMSoftmax(config, embedding_dim, num_speakers)
