"""L-Softmax: the target logit is ||W_y|| ||x|| psi(theta_y); class weights keep their lengths."""

import torch
from torch import Tensor
from torch.nn import functional as F

from speakerverif.heads._base import NORM_FLOOR, ClassifierHead, lengths
from speakerverif.heads._psi import Config, annealed, check

__all__ = ["Config", "LSoftmax", "build"]


class LSoftmax(ClassifierHead):
    """Multiplied angle between weights and embeddings of any length, without bias.

    Args:
        embedding_dim: width of the embeddings.
        num_speakers: number of classes.
        margin: m, which multiplies the angle: 1, 2, 3 or 4.
        lambda_start: weight of the plain cosine while `margin_fraction` is 0.
        lambda_end: its weight when `margin_fraction` is 1.

    Source:
        Liu, Wen, Yu, Yang, "Large-margin softmax loss", 2016, arXiv 1612.02295, eq. 4-6.

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
        super().__init__(embedding_dim, num_speakers)
        self.margin, self.lambda_start, self.lambda_end = margin, lambda_start, lambda_end

    def loss(self, embeddings: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        weight = self.weight.to(embeddings.dtype)
        dots = F.linear(embeddings, weight)
        with torch.no_grad():
            cosines = dots / lengths(weight).clamp_min(NORM_FLOOR).T
            cosines.div_(lengths(embeddings).clamp_min(NORM_FLOOR))
        # The target's dot product is computed again: gathering it would forbid writing into `dots` in place.
        own_weight = weight[labels]
        norms = lengths(own_weight) * lengths(embeddings)
        cosine = (own_weight * embeddings).sum(dim=1, keepdim=True) / norms.clamp_min(NORM_FLOOR**2)
        target = norms * annealed(
            cosine, self.margin, self.margin_fraction, self.lambda_start, self.lambda_end
        )
        return F.cross_entropy(dots.scatter_(1, labels[:, None], target), labels), cosines


def build(config: Config, embedding_dim: int, num_speakers: int) -> LSoftmax:
    """Return the head."""
    return LSoftmax(embedding_dim, num_speakers, **vars(config))
