#!/usr/bin/env python3
"""How often 95 % intervals contain the true figure: simulated trial lists of few and of many speakers.

    python tools/interval_coverage.py --lists 1000

Speakers are drawn as vectors, each with its own spread, and recordings around them; scores are cosines of recordings.
With `--groups` the speakers fall into two groups, such as women and men, within which voices are alike. The truth is
measured on a list of many speakers. Each row is a number of speakers; each cell the share of lists whose interval
contains the truth, in parentheses the shares of intervals above and below it, then the share of lists that get an
interval at all. The last two columns are at the threshold that lets 1 % of the non-targets of the same list in, against
the true rates at that threshold.
"""

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from speakerverif.evaluation.intervals import estimate
from speakerverif.evaluation.metrics import det_curve
from speakerverif.scoring.decision import operating_point, threshold_at_far

DIMENSIONS = 20
RECORDINGS = 8  # per speaker
NONTARGETS = 10_000  # in a list, at most
SPREADS = 0.35  # standard deviation of the logarithm of how much a speaker's recordings vary
THRESHOLD, FAR = 0.5, 0.01
PRIORS = (0.01, 0.05)
BLOCK = 100_000  # trials scored at once
TRUE_SPEAKERS, TRUE_NONTARGETS = 40_000, 2_000_000

Array = NDArray[np.float64]
Limits = tuple[float, float] | None


@dataclass(frozen=True)
class Simulated:
    """A scored list of two systems: scores (N,) of each, labels (N,), and the speakers (N,) of both sides."""

    first: Array
    second: Array
    labels: NDArray[np.bool_]
    enroll: NDArray[np.int64]
    test: NDArray[np.int64]


def simulate(
    speakers: int, noise: float, groups: float, rng: np.random.Generator, nontargets: int = NONTARGETS
) -> Simulated:
    """Return a list of all target pairs and of some non-target pairs; the second system is a little noisier.

    Args:
        speakers: number of speakers.
        noise: spread of the recordings around their speaker.
        groups: distance of the two groups of speakers from their middle; 0: no groups.
        rng: draws everything.
        nontargets: non-target pairs, at most.
    """
    owner = np.repeat(np.arange(speakers), RECORDINGS)
    count = len(owner)
    spread = noise * np.exp(SPREADS * rng.normal(size=speakers))[owner, None]
    centres = rng.normal(size=(speakers, DIMENSIONS))
    centres[:, 0] += groups * rng.choice((-1, 1), speakers)
    recordings = centres[owner] + spread * rng.normal(size=(count, DIMENSIONS))
    noisier = recordings + 0.3 * noise * rng.normal(size=recordings.shape)
    i, j = np.triu_indices(RECORDINGS, 1)
    starts = RECORDINGS * np.arange(speakers)[:, None]
    targets = np.stack(((starts + i).ravel(), (starts + j).ravel()))
    if count * count < 20 * nontargets:
        others = np.stack(np.triu_indices(count, 1))
    else:
        drawn = np.sort(rng.integers(count, size=(2, 2 * nontargets)), axis=0)
        keys = np.unique(drawn[0] * count + drawn[1])
        others = np.stack((keys // count, keys % count))
    others = others[:, owner[others[0]] != owner[others[1]]]
    others = others[:, rng.permutation(others.shape[1])[:nontargets]]
    enroll, test = np.concatenate((targets, others), axis=1)
    first, second = (_cosines(rows, enroll, test) for rows in (recordings, noisier))
    return Simulated(first, second, owner[enroll] == owner[test], owner[enroll], owner[test])


def _cosines(rows: Array, enroll: NDArray[np.int64], test: NDArray[np.int64]) -> Array:
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    blocks = [slice(start, start + BLOCK) for start in range(0, len(enroll), BLOCK)]
    return np.concatenate([np.einsum("ij,ij->i", unit[enroll[rows]], unit[test[rows]]) for rows in blocks])


class Truth:
    """The true figures, of a list of many speakers."""

    def __init__(
        self,
        noise: float,
        groups: float,
        rng: np.random.Generator,
        speakers: int = TRUE_SPEAKERS,
        nontargets: int = TRUE_NONTARGETS,
    ) -> None:
        task = simulate(speakers, noise, groups, rng, nontargets)
        first, second = (det_curve(scores, task.labels) for scores in (task.first, task.second))
        self.targets = np.sort(task.first[task.labels])
        self.nontargets = np.sort(task.first[~task.labels])
        self.figures = {
            "EER": first.eer().rate,
            **{f"minDCF({p:g})": first.min_dcf(p).cost for p in PRIORS},
            "EER less another EER": second.eer().rate - first.eer().rate,
            **dict(zip(("misses", "false alarms"), self.rates_at(THRESHOLD), strict=True)),
        }

    def rates_at(self, threshold: float) -> tuple[float, float]:
        """Return the share of misses and of false alarms at a threshold."""
        misses = np.searchsorted(self.targets, threshold) / len(self.targets)
        return float(misses), float(1 - np.searchsorted(self.nontargets, threshold) / len(self.nontargets))


def intervals(task: Simulated, truth: Truth) -> Iterator[tuple[str, Limits, float]]:
    """Yield the name of each figure, its interval as the program prints it, and its true value."""
    speakers = task.enroll, task.test
    first, second = (estimate(scores, task.labels, *speakers, PRIORS) for scores in (task.first, task.second))
    figures = [first.eer, *first.min_dcf, second.eer - first.eer]
    for (name, value), figure in zip(truth.figures.items(), figures, strict=False):
        yield name, figure.interval(), value
    for where, threshold in (
        ("", THRESHOLD),
        (f" at {100 * FAR:g} %", threshold_at_far(task.first, task.labels, FAR)),
    ):
        point, (misses, false_alarms) = (
            operating_point(task.first, task.labels, threshold, speakers),
            truth.rates_at(threshold),
        )
        yield f"misses{where}", point.p_miss_ci95, misses
        yield f"false alarms{where}", point.p_fa_ci95, false_alarms


def main() -> int:
    """Print the table; return 0."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--lists", type=int, default=1000, help="simulated lists per row (default: 1000)")
    parser.add_argument("--speakers", type=int, nargs="+", default=[10, 20, 40, 100], metavar="N")
    parser.add_argument("--noise", type=float, default=0.8, help="spread of recordings (default: 0.8)")
    parser.add_argument("--groups", type=float, default=0.0, help="distance of two groups (default: 0)")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    truth = Truth(args.noise, args.groups, np.random.default_rng(args.seed))
    print("truth: " + ", ".join(f"{name} {value:.4f}" for name, value in truth.figures.items()))
    for row, speakers in enumerate(args.speakers):
        cells: dict[str, list[tuple[Limits, float]]] = {}
        for number in range(args.lists):
            rng = np.random.default_rng((args.seed, speakers, number))
            for name, limits, value in intervals(simulate(speakers, args.noise, args.groups, rng), truth):
                cells.setdefault(name, []).append((limits, value))
        if row == 0:
            print(f"\n| speakers | {' | '.join(cells)} |\n|{'---|' * (1 + len(cells))}")
        print(f"| {speakers} | {' | '.join(map(_cell, cells.values()))} |", flush=True)
    return 0


def _cell(column: list[tuple[Limits, float]]) -> str:
    """Return the shares of intervals around, above and below the truth, and of lists with an interval."""
    given = [(*limits, value) for limits, value in column if limits is not None]
    if not given:
        return "no interval"
    lows, highs, values = np.array(given).T
    above, below = np.mean(lows > values), np.mean(highs < values)
    share = "" if len(given) == len(column) else f", {100 * len(given) / len(column):.0f} % of lists"
    return f"{100 * (1 - above - below):.1f} % ({100 * above:.1f}, {100 * below:.1f}){share}"


if __name__ == "__main__":
    sys.exit(main())
