"""The multiplied angle of L-Softmax and A-Softmax, and the annealing that lets it be trained."""

import math
from typing import Literal

import torch
from torch import Tensor

from speakerverif.heads._base import require

Multiple = Literal[1, 2, 3, 4]


def psi(cosine: Tensor, m: int) -> Tensor:
    """Return (-1)^k cos(m theta) - 2k for cos(theta), with theta in [k pi/m, (k+1) pi/m]; m is 1 to 4.

    It falls from 1 at theta = 0 to 1 - 2m at pi. cos(m theta) is the Chebyshev polynomial, and k counts the
    cosines cos(i pi/m) that were passed: no arccos.
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
    """Raise `InputError` unless the values can anneal."""
    require(margin in (1, 2, 3, 4), "margin", margin, "1, 2, 3 or 4")
    require(0 < lambda_start < float("inf"), "lambda_start", lambda_start, "a number > 0")
    require(0 <= lambda_end <= lambda_start, "lambda_end", lambda_end, f"0..lambda_start ({lambda_start:g})")


def annealed(cosine: Tensor, m: int, fraction: float, lambda_start: float, lambda_end: float) -> Tensor:
    """Return (lambda cos + psi) / (1 + lambda).

    Lambda goes from `lambda_start` at fraction 0 to `lambda_end` at fraction 1, geometrically; with an end
    of 0 it is 0 from the first fraction above 0 on.

    Source:
        SphereFace, arXiv 1704.08063, whose code has lambda = max(5, 1000 / (1 + 0.12 iteration)). Departure:
        here lambda follows the one margin schedule that moves every head, and so is geometric.
    """
    weight = lambda_start ** (1 - fraction) * lambda_end**fraction
    return (weight * cosine + psi(cosine, m)) / (1 + weight)
