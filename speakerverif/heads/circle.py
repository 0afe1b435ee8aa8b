"""Circle loss: pairs of one speaker are pulled to cosine 1, others to 0, the harder the farther they are off."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from speakerverif._util.ranges import Scale, Share
from speakerverif.heads._base import require
from speakerverif.heads._pairs import PairHead, same_speaker


@dataclass(frozen=True)
class Config:
    """Circle loss; the paper's values for faces."""

    margin: Share = 0.25  # m, cosine units, 0..1: the targets are 1 - m and m
    scale: Scale = 256.0  # gamma


def unified(positives: Tensor, negatives: Tensor) -> Tensor:
    """Return log(1 + sum exp(negatives) * sum exp(-positives)) of each row: the paper's unified form.

    With positives gamma (s_p - d_p) and negatives gamma (s_n - d_n) it is AM-Softmax of scale gamma and
    margin d_p - d_n where the similarities are to class weights; divided by gamma it tends, as gamma grows,
    to the hardest triplet max(0, max s_n - min s_p + d_p - d_n).

    Args:
        positives: (B, P) weighted similarities; +inf where there is none.
        negatives: (B, N) likewise; -inf where there is none.
    """
    return F.softplus(negatives.logsumexp(dim=1) + (-positives).logsumexp(dim=1))


class Circle(PairHead):
    """Circle loss of each utterance of a batch against all others, averaged.

    A larger m makes it easier: the loss vanishes inside the circle (s_p - 1)^2 + s_n^2 = 2 m^2, which grows with m. So
    the margin schedule, which makes heads stricter, leaves m unchanged.

    Args:
        embedding_dim: width of the embeddings.
        num_speakers: number of classes.
        margin: m in cosine units, 0 to 1.
        scale: gamma, above 0.

    Source:
        Sun et al., "Circle loss", 2020, arXiv 2002.10857, eq. 1 and 4-6; the weights alpha carry no gradient.

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
    ):
        require(0 <= margin <= 1, "margin", margin, "0..1")
        require(0 < scale < float("inf"), "scale", scale, "a number > 0")
        super().__init__(embedding_dim, num_speakers)
        self.margin, self.scale = margin, scale

    def batch_loss(self, embeddings: Tensor, vectors: Tensor, row: Tensor, cosines: Tensor) -> Tensor:
        m, gamma = self.margin, self.scale
        similarity = F.linear(vectors, vectors)
        fixed = similarity.detach()
        positive, negative = same_speaker(row)
        positives = gamma * F.relu(1 + m - fixed) * (similarity - (1 - m))
        negatives = gamma * F.relu(fixed + m) * (similarity - m)
        infinity = torch.inf
        return unified(
            positives.masked_fill(~positive, infinity), negatives.masked_fill(~negative, -infinity)
        ).mean()


def build(config: Config, embedding_dim: int, num_speakers: int) -> Circle:
    """Return the head."""
    return Circle(embedding_dim, num_speakers, **vars(config))
