"""Benchmark cases: the same work by us, by peers, and by the machine at its limit."""

import functools
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

Work = Callable[[], object]
PRODUCT_SIZE = 2048


@dataclass(frozen=True)
class Limit:
    """The machine's limit: a piece of work, and how many times it fits into the case's work."""

    work: Work
    times: float = 1.0


@dataclass(frozen=True)
class Case:
    """One comparison. The contenders' results are dropped; `check` compares them beforehand where they can agree."""

    ours: Work
    peers: dict[str, Work] = field(default_factory=dict)
    limits: dict[str, Limit] = field(default_factory=dict)
    # Whole programs are timed by the wall clock, whichever clock the user chose.
    clock: Literal["any", "wall"] = "any"
    rounds: int | None = None  # replaces the user's number where that would take too long
    memory: bool = False  # also measure each contender's peak memory, in a fresh process
    facts: dict[str, float | str] = field(default_factory=dict)  # printed with the result: sizes, recall


Build = Callable[[int], Case]


def product(gflop: float, rows: int = PRODUCT_SIZE, width: int = PRODUCT_SIZE) -> Limit:
    """Return the limit of arithmetic: products of (rows, width) with a square matrix, `gflop` in all."""
    import torch

    frames, factor = torch.randn(rows, width), torch.randn(width, width)
    return Limit(lambda: frames @ factor, gflop / (2 * rows * width**2 / 1e9))


def gflop(work: Work) -> float:
    """Return the floating point operations of a piece of torch work, in units of 10^9."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        work()
    return float(counter.get_total_flops()) / 1e9


def as_installed(folder: Path) -> dict[str, str]:
    """Return the environment of an installed program, with its bytecode kept in `folder`."""
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": str(folder / "bytecode")}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    return environment


@functools.cache
def left_out(package: str) -> None:
    """Print once that a peer is not installed."""
    print(f"left out: {package} is not installed", file=sys.stderr)
