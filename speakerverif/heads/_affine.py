"""The learned w cos + b of GE2E and of the angular prototypical loss, with w > 0."""

import math

import torch
from torch import Tensor, nn


class PositiveAffine(nn.Module):
    """w x + b, with w = 10 and b = -5 at the start.

    The logarithm of w is learned, so that no step can make w negative and turn the loss around. In a cross-entropy over
    speakers b cancels, and never changes.
    """

    def __init__(self) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(math.log(10.0)))
        self.bias = nn.Parameter(torch.tensor(-5.0))

    def forward(self, cosines: Tensor) -> Tensor:
        """Return the logits of cosines, same shape and type."""
        return self.log_scale.exp().to(cosines.dtype) * cosines + self.bias.to(cosines.dtype)
