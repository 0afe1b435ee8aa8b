"""SphereFace2: one binary classification per speaker, in place of one softmax over all speakers.

The logits of the classes don't compete, so the threshold (the bias) is learned as well, and a wrong label spoils two of
the classifications rather than all.
"""

import math
from dataclasses import dataclass
from typing import Annotated, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from speakerverif._util.ranges import Range, Scale, Share
from speakerverif.heads._base import ClassifierHead, require, unit
from speakerverif.heads._margin import add_angle

Kind = Literal["C", "A"]


@dataclass(frozen=True)
class Config:
    """SphereFace2; the defaults are those of Han et al. for speakers (WeSpeaker), type C."""

    kind: Kind = "C"  # margin on the cosine; A: on the angle
    # C: subtracted from g, 0..1; A: radians, 0..pi/2, usually 0.15.
    margin: Annotated[float, Range(0, math.pi / 2)] = 0.2
    scale: Scale = 32.0  # s, multiplies g
    # Exponent of g, 1 or more; spreads the cosines of non-target pairs.
    t: Annotated[float, Range(0, 1_000, above=True)] = 3.0
    positive_weight: Share = 0.7  # lambda, weight of the right class's loss; the others have 1 - lambda


class SphereFace2(ClassifierHead):
    """Binary logistic losses, summed over classes, with one common bias that starts at zero.

    Args:
        embedding_dim: width of the embeddings.
        num_speakers: number of classes.
        kind: C: margin on the cosine; A: on the angle.
        margin: m; of kind C subtracted from g, 0 to 1; of kind A in radians, 0 to pi/2.
        scale: s, above 0.
        t: exponent of g, 1 or more.
        positive_weight: lambda, weight of the right class's loss, between 0 and 1.

    Source:
        Wen, Liu, Weller, Raj, Singh, "SphereFace2", 2021, arXiv 2108.01513; for speakers Han, Chen, Qian,
        "Exploring binary classification loss for speaker verification", ICASSP 2023. Departures: the
        paper's factor 1/s is left out, as in WeSpeaker; in type A the target stays monotone where an angle would pass
        0 or pi, as in AAM-Softmax; g is constant below a cosine of -1.

    Raises:
        InputError: a value out of range.
    """

    def __init__(
        self,
        embedding_dim: int,
        num_speakers: int,
        *,
        kind: Kind = Config.kind,
        margin: float = Config.margin,
        scale: float = Config.scale,
        t: float = Config.t,
        positive_weight: float = Config.positive_weight,
    ):
        require(kind in get_args(Kind), "kind", kind, " or ".join(get_args(Kind)))
        limit = 1.0 if kind == "C" else math.pi / 2
        require(0 <= margin <= limit, "margin", margin, f"0..{limit:.4g} (kind {kind!r})")
        require(0 < scale < float("inf"), "scale", scale, "a number > 0")
        require(1 <= t < float("inf"), "t", t, "1 or more")
        require(0 < positive_weight < 1, "positive_weight", positive_weight, "between 0 and 1")
        super().__init__(embedding_dim, num_speakers)
        self.kind, self.margin, self.scale, self.t = kind, margin, scale, t
        self.positive_weight = positive_weight
        self.bias = nn.Parameter(torch.zeros(()))

    def g(self, cosine: Tensor) -> Tensor:
        """Return 2 ((cosine + 1) / 2)^t - 1, which is in -1..1 like the cosine."""
        # In place where autograd allows: these (B, C) matrices are the cost of the head.
        half = (cosine * 0.5).add_(0.5).relu_()
        return (half**self.t).mul_(2).sub_(1)

    def positive(self, cosine: Tensor) -> Tensor:
        """Return the logit of the right class without bias, lowered by the margin."""
        margin = self.margin_fraction * self.margin
        lowered = self.g(cosine).sub_(margin) if self.kind == "C" else self.g(add_angle(cosine, margin))
        return lowered.mul_(self.scale)

    def negative(self, cosine: Tensor) -> Tensor:
        """Return the logits of the other classes without bias, raised by the margin."""
        margin = self.margin_fraction * self.margin
        raised = self.g(cosine).add_(margin) if self.kind == "C" else self.g(-add_angle(-cosine, margin))
        return raised.mul_(self.scale)

    def loss(self, embeddings: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        column, weight = labels[:, None], self.positive_weight
        cosines = F.linear(unit(embeddings), unit(self.weight.to(embeddings.dtype)))
        bias = self.bias.to(embeddings.dtype)
        wrong_no = -(self.positive(cosines.gather(1, column)) + bias)
        # The right class is overwritten, as subtracting it from the row's sum would lose precision.
        wrong = self.negative(cosines).add_(bias).scatter_(1, column, wrong_no)
        negatives = (1 - weight) * F.softplus(wrong).sum(dim=1)
        positives = (2 * weight - 1) * F.softplus(wrong_no).squeeze(1)
        return (negatives + positives).mean(), cosines.detach()


def build(config: Config, embedding_dim: int, num_speakers: int) -> SphereFace2:
    """Return the head."""
    return SphereFace2(embedding_dim, num_speakers, **vars(config))
