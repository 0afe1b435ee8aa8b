"""The multiplied angle of L-Softmax and A-Softmax, and the annealing that makes it trainable."""

import math
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from speakerverif._util.ranges import Range
from speakerverif.heads._base import require


@dataclass(frozen=True)
class Config:
    """Settings of L-Softmax and A-Softmax; the papers' best margin on faces, and SphereFace's annealing."""

    margin: Annotated[int, Range(1, 4)] = 4  # m, which multiplies the angle: 1, 2, 3 or 4
    # Weight of the plain cosine when the margin schedule is at 0.
    lambda_start: Annotated[float, Range(0, 1e9)] = 1000.0
    lambda_end: Annotated[float, Range(0, 1e9)] = 5.0  # its weight when the schedule is at 1


def psi(cosine: Tensor, m: int) -> Tensor:
    """Return (-1)^k cos(m theta) - 2k for cos(theta), with theta in [k pi/m, (k+1) pi/m] and k = 0..m-1.

    It falls from 1 at theta = 0 to 1 - 2m at pi. cos(m theta) is the Chebyshev polynomial, and k counts how many of
    the cosines cos(i pi/m) are at least cos(theta): no arccos. Any shape; m is 1, 2, 3 or 4.
    """
    square = cosine.square()
    multiple = {
        1: cosine,
        2: 2 * square - 1,
        3: (4 * square - 3) * cosine,
        4: 8 * square * (square - 1) + 1,
    }[m]
    k = sum((cosine <= math.cos(i * math.pi / m) for i in range(1, m)), torch.zeros_like(cosine))
    return (1 - 2 * (k % 2)) * multiple - 2 * k


def check(margin: int, lambda_start: float, lambda_end: float) -> None:
    """Raise `InputError` unless the values can be annealed."""
    require(margin in (1, 2, 3, 4), "margin", margin, "1, 2, 3 or 4")
    require(0 < lambda_start < float("inf"), "lambda_start", lambda_start, "a number > 0")
    require(0 <= lambda_end <= lambda_start, "lambda_end", lambda_end, f"0..lambda_start ({lambda_start:g})")


def annealed(cosine: Tensor, m: int, fraction: float, lambda_start: float, lambda_end: float) -> Tensor:
    """Return (lambda cos + psi) / (1 + lambda), the same shape as the cosine.

    Lambda falls geometrically from `lambda_start` at fraction 0 to `lambda_end` at fraction 1; with an end of 0 it is
    0 as soon as the fraction is above 0.

    Source:
        SphereFace, arXiv 1704.08063, whose code has lambda = max(5, 1000 / (1 + 0.12 iteration)). Departure: here
        lambda follows the one margin schedule of all heads, and so is geometric.
    """
    weight: float = lambda_start ** (1 - fraction) * lambda_end**fraction
    return (weight * cosine + psi(cosine, m)) / (1 + weight)
