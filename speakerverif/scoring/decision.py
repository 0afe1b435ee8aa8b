"""Thresholds and the error rates of decisions at them, with intervals over speakers."""

import math
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from numpy.typing import NDArray

from speakerverif._util.ranges import FINITE, Range, Share
from speakerverif.errors import InputError
from speakerverif.scoring.speaker_intervals import SpeakerPairs, why_no_interval

Array = NDArray[np.float64]
Codes = NDArray[np.int64]


Count = Annotated[int, Range(0, 1e18)]


@dataclass(frozen=True)
class DecisionPoint:
    """A threshold (accept where score >= threshold) and the error rates measured there, as fractions.

    The 95 % intervals are over speakers (`speaker_intervals`).

    Attributes:
        threshold: on the scale of the scores.
        p_miss: share of target trials refused.
        p_fa: share of non-target trials accepted.
        targets: target trials.
        nontargets: non-target trials.
        speakers: speakers in the trials; 0: unknown.
        p_miss_ci95: None: no interval.
        p_fa_ci95: likewise.
    """

    threshold: Annotated[float, FINITE]
    p_miss: Share
    p_fa: Share
    targets: Count
    nontargets: Count
    speakers: Count
    p_miss_ci95: Annotated[tuple[float, float], Range(0, 1)] | None = None
    p_fa_ci95: Annotated[tuple[float, float], Range(0, 1)] | None = None

    @property
    def without_interval(self) -> dict[str, str]:
        """The reason for each rate that has no interval, by the rate's name."""
        rates = {
            "false alarms": (self.p_fa, self.nontargets, self.p_fa_ci95),
            "misses": (self.p_miss, self.targets, self.p_miss_ci95),
        }
        return {
            name: why_no_interval(self.speakers or None, (rate * trials, (1 - rate) * trials))
            or "too few speakers have such trials, or all have the same rate"
            for name, (rate, trials, limits) in rates.items()
            if limits is None
        }


def bayes_threshold(p_target: float, c_miss: float = 1.0, c_fa: float = 1.0) -> float:
    """Return the LLR from which accepting costs less than rejecting, in expectation."""
    if not 0 < p_target < 1 or c_miss <= 0 or c_fa <= 0:
        raise InputError(
            f"p_target {p_target}, costs {c_miss} and {c_fa}: expected 0 < p_target < 1 and costs above 0"
        )
    return math.log(c_fa / c_miss) - math.log(p_target / (1 - p_target))


def threshold_at_far(scores: Array, labels: NDArray[np.bool_], far: float) -> float:
    """Return the lowest threshold at which at most the share `far` of the non-targets score as high or
    higher.

    Raises:
        InputError: too few non-targets to measure such a rate: fewer than 1 / far.
    """
    check_both_classes(labels)
    nontargets = np.sort(scores[~labels])[::-1]
    # 0.01 · 300 is 3, whatever its float says.
    allowed = int(np.floor(far * len(nontargets) * (1 + 1e-12))) if 0 < far < 1 else 0
    if allowed < 1:
        raise InputError(
            f"far {far}: expected a rate below 1 that {len(nontargets)} non-target trials can show, "
            f"{1 / len(nontargets):.2g} or more"
        )
    refused = nontargets[allowed]
    above = scores[scores > refused]
    # In the middle of the gap, so that rounding on the way to a raw score and back accepts no further trial.
    middle = (refused + above.min()) / 2 if above.size else refused
    return float(max(middle, np.nextafter(refused, np.inf)))


def operating_point(
    scores: Array,
    labels: NDArray[np.bool_],
    threshold: float,
    units: tuple[Codes, Codes] | None = None,
) -> DecisionPoint:
    """Return the error rates of accepting where score >= threshold, with their intervals.

    Args:
        scores: float (N,).
        labels: bool (N,), True is target.
        threshold: on the same scale as the scores.
        units: int (N,) and int (N,), the speakers of the enroll and the test sides, from 0; None: unknown.
    """
    check_both_classes(labels)
    rates, intervals, counts = [], [], []
    for chosen, wrong in ((labels, scores < threshold), (~labels, scores >= threshold)):
        count, errors = int(chosen.sum()), int((wrong & chosen).sum())
        rate, limits = errors / count, None
        if units is not None:
            pairs = SpeakerPairs.of(units[0][chosen], units[1][chosen])
            reason = why_no_interval(pairs.fewest, (errors, count - errors))
            limits = pairs.figure(rate, (wrong[chosen] - rate) / count, reason).interval()
        rates.append(rate)
        intervals.append(limits)
        counts.append(count)
    return DecisionPoint(
        threshold=float(threshold),
        p_miss=rates[0],
        p_miss_ci95=intervals[0],
        p_fa=rates[1],
        p_fa_ci95=intervals[1],
        targets=counts[0],
        nontargets=counts[1],
        speakers=0 if units is None else len(np.unique(np.concatenate(units))),
    )


def check_both_classes(labels: NDArray[np.bool_]) -> None:
    """Raise `InputError` where there are no targets or no non-targets."""
    targets = int(np.sum(labels))
    if not 0 < targets < len(labels):
        raise InputError(f"{targets} target trials of {len(labels)}: expected targets and non-targets")
