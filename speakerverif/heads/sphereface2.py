"""SphereFace2: one yes-or-no question a speaker, in place of one softmax over all of them.

As no class's logit competes with another's, the threshold is trained along (the bias), and a wrong label
spoils two of the questions rather than the whole row.
"""

import math
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from speakerverif._util.ranges import Range, Scale, Share
from speakerverif.heads._base import ClassifierHead, require, unit
from speakerverif.heads._margin import add_angle


@dataclass(frozen=True)
class Config:
    """SphereFace2; the defaults are those of Han et al. for speakers (WeSpeaker), type C."""

    kind: Literal["C", "A"] = "C"  # margin on the cosine, or on the angle
    # C: subtracted from g, 0..1; A: radians, 0..pi/2, usually 0.15.
    margin: Annotated[float, Range(0, math.pi / 2)] = 0.2
    scale: Scale = 32.0  # multiplies g
    # Exponent of g, spreads the cosines of non-target pairs.
    t: Annotated[float, Range(0, 1_000, above=True)] = 3.0
    positive_weight: Share = 0.7  # lambda, the weight of the own class's question; the others get 1 - lambda


class SphereFace2(ClassifierHead):
    """Binary logistic losses, summed over classes, with one bias for all that starts at zero.

    Source:
        Wen, Liu, Weller, Raj, Singh, "SphereFace2", 2021, arXiv 2108.01513; for speakers Han, Chen, Qian,
        "Exploring binary classification loss for speaker verification", ICASSP 2023. Departures: the
        paper's factor 1/s is left out, as in WeSpeaker; in type A an angle that would pass 0 or pi goes on
        monotonically, as in AAM-Softmax; g is flat below a cosine of -1.
    """

    def __init__(self, config: Config, embedding_dim: int, num_speakers: int):
        limit = 1.0 if config.kind == "C" else math.pi / 2
        require(
            0 <= config.margin <= limit, "margin", config.margin, f"0..{limit:.4g} (kind {config.kind!r})"
        )
        require(0 < config.scale < float("inf"), "scale", config.scale, "a number > 0")
        require(1 <= config.t < float("inf"), "t", config.t, "1 or more")
        require(0 < config.positive_weight < 1, "positive_weight", config.positive_weight, "between 0 and 1")
        super().__init__(embedding_dim, num_speakers)
        self.config = config
        self.bias = nn.Parameter(torch.zeros(()))

    def g(self, cosine: Tensor) -> Tensor:
        """Return 2 ((cosine + 1) / 2)^t - 1, from -1 to 1 as the cosine."""
        # In place where autograd allows: these are (B, C) matrices, and all that the head costs.
        half = (cosine * 0.5).add_(0.5).relu_()
        return (half**self.config.t).mul_(2).sub_(1)

    def positive(self, cosine: Tensor) -> Tensor:
        """Return the own class's logit, without bias: lowered by the margin."""
        margin = self.margin_fraction * self.config.margin
        lowered = (
            self.g(cosine).sub_(margin) if self.config.kind == "C" else self.g(add_angle(cosine, margin))
        )
        return lowered.mul_(self.config.scale)

    def negative(self, cosine: Tensor) -> Tensor:
        """Return the other classes' logits, without bias: raised by the margin."""
        margin = self.margin_fraction * self.config.margin
        raised = (
            self.g(cosine).add_(margin) if self.config.kind == "C" else self.g(-add_angle(-cosine, margin))
        )
        return raised.mul_(self.config.scale)

    def loss(self, embeddings: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        own, weight = labels[:, None], self.config.positive_weight
        cosines = F.linear(unit(embeddings), unit(self.weight.to(embeddings.dtype)))
        bias = self.bias.to(embeddings.dtype)
        wrong_no = -(self.positive(cosines.gather(1, own)) + bias)
        # The own column is overwritten, not subtracted from the row's sum, where it would cancel badly.
        wrong = self.negative(cosines).add_(bias).scatter_(1, own, wrong_no)
        negatives = (1 - weight) * F.softplus(wrong).sum(dim=1)
        positives = (2 * weight - 1) * F.softplus(wrong_no).squeeze(1)
        return (negatives + positives).mean(), cosines.detach()


def build(config: Config, embedding_dim: int, num_speakers: int) -> SphereFace2:
    """Return the head.

    Raises:
        InputError: a value out of range.
    """
    return SphereFace2(config, embedding_dim, num_speakers)
