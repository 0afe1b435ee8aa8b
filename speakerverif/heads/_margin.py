"""The additive margins, with the two refinements that go with either: sub-centres and inter-top-K."""

import math

import torch
from torch import Tensor

from speakerverif.heads._base import CosineHead, require


def add_angle(cosine: Tensor, margin: float) -> Tensor:
    """Return cos(theta + margin) for cos(theta), falling in theta all the way to pi; margin in radians.

    Where theta + margin > pi the cosine would rise again; there the value is cos(theta) - margin sin(margin), as in
    SpeechBrain and pytorch-metric-learning. No arccos: its gradient is infinite at both ends.
    """
    # The floor only keeps the root's gradient from becoming 0 * inf where theta is 0 or pi.
    sine = (1 - cosine.square()).clamp_min(1e-12).sqrt()
    turned = cosine * math.cos(margin) - sine * math.sin(margin)
    return torch.where(cosine > math.cos(math.pi - margin), turned, cosine - margin * math.sin(margin))


class MarginHead(CosineHead):
    """Lowers the cosine to the right class by a margin, and may raise those to the nearest other classes.

    Sub-classes define how a cosine is lowered. Raising is the mirror image, -lower(-cosine): the AM margin is added to
    the cosine, the AAM margin subtracted from the angle.

    Args:
        embedding_dim: width of the embeddings.
        num_speakers: number of classes.
        scale: s; None: each embedding's length.
        margin: m, in the unit of the sub-class, 0..`max_margin`.
        max_margin: the largest margin allowed.
        sub_centers: weight vectors per class, of which the nearest to an embedding counts.
        top_k: number of other classes, the nearest to an embedding, that are raised; 0: none.
        top_k_margin: amount that they are raised by, in the unit of `margin`; it follows the same schedule.

    Source:
        Deng, Guo, Liu, Gong, Zafeiriou, "Sub-center ArcFace", ECCV 2020: the max over K is taken before the
        margin. Zhao et al., "Multi-query multi-head attention pooling and inter-topK penalty", 2021,
        arXiv 2110.05042. Departure: where an AAM margin would turn a raised angle below 0, it adds
        margin sin(margin) to the cosine, so that the penalty keeps growing.
    """

    def __init__(
        self,
        embedding_dim: int,
        num_speakers: int,
        scale: float | None,
        margin: float,
        max_margin: float,
        sub_centers: int,
        top_k: int,
        top_k_margin: float,
    ):
        require(0 <= margin <= max_margin, "margin", margin, f"0..{max_margin:.4g}")
        require(sub_centers >= 1, "sub_centers", sub_centers, "1 or more")
        require(0 <= top_k_margin <= max_margin, "top_k_margin", top_k_margin, f"0..{max_margin:.4g}")
        super().__init__(embedding_dim, num_speakers, scale, sub_centers)
        require(0 <= top_k < num_speakers, "top_k", top_k, f"0..{num_speakers - 1} (the other speakers)")
        self.margin, self.sub_centers = margin, sub_centers
        self.top_k, self.top_k_margin = top_k, top_k_margin

    def lower(self, cosine: Tensor, margin: float) -> Tensor:
        """Return the cosine lowered by a margin >= 0, any shape; the result must grow with the cosine."""
        raise NotImplementedError

    def target(self, cosine: Tensor) -> Tensor:
        return self.lower(cosine, self.margin_fraction * self.margin)

    def cosines(self, embeddings: Tensor) -> Tensor:
        cosines = super().cosines(embeddings)
        if self.sub_centers == 1:
            return cosines
        return cosines.view(len(cosines), self.num_speakers, self.sub_centers).max(dim=2).values

    def replaced(self, cosines: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        column, values = super().replaced(cosines, labels)
        if not self.top_k:
            return column, values
        # Of K + 1 classes the right one is sorted to the end and cut off: no masked copy of the cosines.
        nearest = cosines.detach().topk(self.top_k + 1, dim=1).indices
        own_last = (nearest == column).int().argsort(dim=1, stable=True)
        others = nearest.gather(1, own_last)[:, : self.top_k]
        raised = -self.lower(-cosines.gather(1, others), self.margin_fraction * self.top_k_margin)
        return torch.cat([column, others], dim=1), torch.cat([values, raised], dim=1)
