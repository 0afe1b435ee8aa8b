"""Thresholds and the error rates of decisions at them, with intervals over speakers."""

import math
from dataclasses import dataclass
from itertools import islice
from typing import Annotated

import numpy as np
from numpy.typing import NDArray

from speakerverif._util.ranges import FINITE, Range, Share
from speakerverif.errors import InputError
from speakerverif.scoring.speaker_bootstrap import MIN_SPEAKERS, Resampled, draws, each_left_out

Array = NDArray[np.float64]
Codes = NDArray[np.int64]


Count = Annotated[int, Range(0, 1e18)]


@dataclass(frozen=True)
class DecisionPoint:
    """A threshold (accept where score >= threshold) and the error rates measured there, as fractions.

    The 95 % intervals reach as far as exact binomial ones (Clopper and Pearson 1934), which take trials as
    independent, and as far as those of the bootstrap over speakers: trials of one speaker are alike. With fewer than 10
    speakers there are none.

    Attributes:
        threshold: on the scale of the scores.
        p_miss: share of target trials refused.
        p_fa: share of non-target trials accepted.
        targets: target trials.
        nontargets: non-target trials.
        speakers: speakers in the trials; 0: unknown, and the intervals are binomial.
        p_miss_ci95: None: too few speakers.
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
        units: int (N,) and int (N,), the speakers of the enroll and the test sides, 0 .. speakers - 1; None: unknown.
    """
    check_both_classes(labels)
    rates, intervals, counts = [], [], []
    for chosen, errors in ((labels, scores < threshold), (~labels, scores >= threshold)):
        wrong = errors[chosen]
        binomial = _binomial_interval(int(wrong.sum()), len(wrong))
        sides = None if units is None else (units[0][chosen], units[1][chosen])
        speakers = 0 if units is None else 1 + int(np.max(units))
        limits = binomial if sides is None else _speaker_interval(wrong, *sides, speakers, binomial)
        rates.append(float(wrong.mean()))
        intervals.append(limits)
        counts.append(len(wrong))
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


def _binomial_interval(errors: int, trials: int) -> tuple[float, float]:
    """Return the exact 95 % interval of a rate (Clopper and Pearson 1934)."""
    from scipy import special

    # SciPy's own, in `scipy.stats`, takes longer to import than a calibration to fit.
    low = special.betaincinv(errors, trials - errors + 1, 0.025) if errors else 0.0
    high = special.betaincinv(errors + 1, trials - errors, 0.975) if errors < trials else 1.0
    return float(low), float(high)


def _speaker_interval(
    wrong: NDArray[np.bool_], enroll: Codes, test: Codes, speakers: int, binomial: tuple[float, float]
) -> tuple[float, float] | None:
    """Return the interval of a rate over speakers, never narrower than the binomial one; None: too few speakers.

    Args:
        wrong: bool (N,), decisions of one class of trials.
        enroll: int (N,), speakers of the enroll sides.
        test: int (N,), speakers of the test sides.
        speakers: number of speakers in the list.
        binomial: the interval of independent trials.
    """
    if speakers < MIN_SPEAKERS:
        return None
    limits = _resampled_rate(wrong, enroll, test, speakers).interval()
    if limits is None:  # the rate is the same in all samples, as 0 is
        return binomial
    return min(limits[0], binomial[0]), max(limits[1], binomial[1])


def _resampled_rate(
    wrong: NDArray[np.bool_], enroll: Codes, test: Codes, speakers: int, samples: int = 1000
) -> Resampled:
    """Return the share of wrong decisions in bootstrap samples of speakers.

    The sums over trials are quadratic forms of the draws, so a sample costs as much as there are pairs of speakers,
    not trials.
    """
    from scipy import sparse

    within = enroll == test

    def total(weights: Array, drawn: Array) -> Array:
        own = np.bincount(enroll[within], weights[within], speakers)
        entries = weights[~within], (enroll[~within], test[~within])
        pairs = sparse.csr_array(entries, shape=(speakers, speakers))
        sums: Array = drawn @ own + np.einsum("ij,ij->i", drawn @ pairs, drawn)
        return sums

    def rates(drawn: Array) -> Array:
        weights = total(np.ones(len(wrong)), drawn)
        there = weights > 0  # a sample without any trial of this class has no rate
        shares: Array = total(wrong.astype(np.float64), drawn)[there] / weights[there]
        return shares

    drawn = np.stack(list(islice(draws(speakers, 0), samples))).astype(np.float64)
    left_out = np.stack(list(each_left_out(speakers))).astype(np.float64)
    return Resampled(float(wrong.mean()), rates(drawn), rates(left_out), speakers)


def check_both_classes(labels: NDArray[np.bool_]) -> None:
    """Raise `InputError` where there are no targets or no non-targets."""
    targets = int(np.sum(labels))
    if not 0 < targets < len(labels):
        raise InputError(f"{targets} target trials of {len(labels)}: expected targets and non-targets")
