"""What a benchmark case is: the same work by us, by peers, and by the machine at its best."""

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
    """What the machine can do at most: a piece of work, and how many times it fits into the case's work."""

    work: Work
    times: float = 1.0


@dataclass(frozen=True)
class Case:
    """One comparison. What the contenders return is dropped; `check` has seen that they agree where that can be."""

    ours: Work
    peers: dict[str, Work] = field(default_factory=dict)
    limits: dict[str, Limit] = field(default_factory=dict)
    # Whole programs can only be timed by the wall, whatever clock the user chose.
    clock: Literal["any", "wall"] = "any"
    rounds: int | None = None  # where the user's number of rounds would take too long
    memory: bool = False  # also measure the peak memory of every contender, each in a fresh process
    facts: dict[str, float | str] = field(default_factory=dict)  # printed with the result: sizes, recall


Build = Callable[[int], Case]


def product(gflop: float, rows: int = PRODUCT_SIZE, width: int = PRODUCT_SIZE) -> Limit:
    """Return the limit of arithmetic: as many products of rows x width with a square matrix as make `gflop`."""
    import torch

    frames, factor = torch.randn(rows, width), torch.randn(width, width)
    return Limit(lambda: frames @ factor, gflop / (2 * rows * width**2 / 1e9))


def gflop(work: Work) -> float:
    """Return the floating point operations of a piece of torch work, in units of 10^9."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops() / 1e9


def as_installed(folder: Path) -> dict[str, str]:
    """Return the environment of a program as it runs once installed: with bytecode, here kept in `folder`."""
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": str(folder / "bytecode")}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    return environment


@functools.cache
def left_out(package: str) -> None:
    """Say, once, that a peer is not installed."""
    print(f"left out: {package} is not installed", file=sys.stderr)
