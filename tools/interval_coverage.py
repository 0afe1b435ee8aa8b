#!/usr/bin/env python3
"""How often 95 % intervals contain the true figure: simulated trial lists of few and of many speakers.

    python tools/interval_coverage.py --lists 400

Speakers are drawn as vectors, each with its own spread, and recordings around them; scores are cosines of recordings.
The truth is measured on a list of many speakers. Each row is a number of speakers; each cell the share of lists whose
interval contains the truth, then the shares of intervals above and below it, and of lists that get an interval at all.
"""

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from speakerverif.evaluation.bootstrap import bootstrap, cost_interval
from speakerverif.evaluation.metrics import det_curve
from speakerverif.scoring.decision import operating_point

DIMENSIONS = 20
RECORDINGS = 6  # per speaker
NONTARGETS = 3000  # in a list, at most
SPREADS = 0.35  # standard deviation of the logarithm of how much a speaker's recordings vary
THRESHOLD = 0.5
PRIOR = 0.05


@dataclass(frozen=True)
class Simulated:
    """A scored list of two systems: scores (N,) of each, labels (N,), and the speakers (N,) of both sides."""

    first: np.ndarray
    second: np.ndarray
    labels: np.ndarray
    enroll: np.ndarray
    test: np.ndarray


def simulate(
    speakers: int, noise: float, rng: np.random.Generator, nontargets: int = NONTARGETS
) -> Simulated:
    """Return a list of all target pairs and of some non-target pairs; the second system is a little noisier."""
    owner = np.repeat(np.arange(speakers), RECORDINGS)
    spread = noise * np.exp(SPREADS * rng.normal(size=speakers))[owner, None]
    centres = rng.normal(size=(speakers, DIMENSIONS))[owner]
    recordings = centres + spread * rng.normal(size=centres.shape)
    i, j = np.triu_indices(RECORDINGS, 1)
    starts = RECORDINGS * np.arange(speakers)[:, None]
    targets = np.stack(((starts + i).ravel(), (starts + j).ravel()))
    pairs = rng.integers(len(owner), size=(2, 2 * nontargets))
    others = np.unique(np.sort(pairs[:, owner[pairs[0]] != owner[pairs[1]]], axis=0), axis=1)
    others = others[:, rng.permutation(others.shape[1])[:nontargets]]
    enroll, test = np.concatenate((targets, others), axis=1)
    noisier = recordings + 0.3 * noise * rng.normal(size=centres.shape)
    first, second = (_cosines(rows, enroll, test) for rows in (recordings, noisier))
    return Simulated(first, second, owner[enroll] == owner[test], owner[enroll], owner[test])


def _cosines(rows: np.ndarray, enroll: np.ndarray, test: np.ndarray) -> np.ndarray:
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    cosines: np.ndarray = np.einsum("ij,ij->i", unit[enroll], unit[test])
    return cosines


def figures(task: Simulated) -> dict[str, float]:
    """Return the figures of a list."""
    first, second = (det_curve(scores, task.labels) for scores in (task.first, task.second))
    return {
        "EER": first.eer().rate,
        f"minDCF({PRIOR:g})": first.min_dcf(PRIOR).cost,
        "misses": float(np.mean(task.first[task.labels] < THRESHOLD)),
        "false alarms": float(np.mean(task.first[~task.labels] >= THRESHOLD)),
        "EER less EER": second.eer().rate - first.eer().rate,
    }


def intervals(task: Simulated, samples: int, seed: int) -> Iterator[tuple[float, float] | None]:
    """Yield the interval of each figure, as the program prints it."""
    first, second = (
        bootstrap(scores, task.labels, task.enroll, task.test, (PRIOR,), samples, seed)
        for scores in (task.first, task.second)
    )
    yield first.eer.interval()
    yield cost_interval(det_curve(task.first, task.labels), PRIOR, first.min_dcf[0])
    point = operating_point(task.first, task.labels, THRESHOLD, (task.enroll, task.test))
    yield point.p_miss_ci95
    yield point.p_fa_ci95
    yield (second.eer - first.eer).interval()


def main() -> int:
    """Print the table; return 0."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--lists", type=int, default=400, help="simulated lists per row (default: 400)")
    parser.add_argument("--samples", type=int, default=500, help="bootstrap samples per list (default: 500)")
    parser.add_argument("--speakers", type=int, nargs="+", default=[10, 20, 40, 100], metavar="N")
    parser.add_argument("--noise", type=float, default=0.8, help="spread of recordings (default: 0.8)")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rng = np.random.default_rng(args.seed)
    truth = figures(simulate(4000, args.noise, rng, 1_000_000))
    print("truth: " + ", ".join(f"{name} {value:.4f}" for name, value in truth.items()))
    print(f"\n| speakers | {' | '.join(truth)} |\n|{'---|' * (1 + len(truth))}")
    for speakers in args.speakers:
        found: list[list[tuple[float, float] | None]] = []
        for k in range(args.lists):
            found.append(list(intervals(simulate(speakers, args.noise, rng), args.samples, k)))
        cells = [
            _cell(column, value)
            for column, value in zip(zip(*found, strict=True), truth.values(), strict=True)
        ]
        print(f"| {speakers} | {' | '.join(cells)} |", flush=True)
    return 0


def _cell(column: tuple[tuple[float, float] | None, ...], truth: float) -> str:
    """Return the shares of intervals around, above and below the truth, and of lists with an interval."""
    given = [limits for limits in column if limits is not None]
    if not given:
        return "no interval"
    lows, highs = np.array(given).T
    above, below = np.mean(lows > truth), np.mean(highs < truth)
    share = "" if len(given) == len(column) else f", {100 * len(given) / len(column):.0f} % of lists"
    return f"{100 * (1 - above - below):.1f} % ({100 * above:.1f}, {100 * below:.1f}){share}"


if __name__ == "__main__":
    sys.exit(main())
