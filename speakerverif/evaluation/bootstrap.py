"""Error rates and detection costs in bootstrap samples of speakers, and the comparison of two systems."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from speakerverif.evaluation.metrics import DetCurve, bayes_costs, crossing, det_curve
from speakerverif.scoring.speaker_bootstrap import Resampled, draws, each_left_out

MIN_ERRORS = 5  # of either kind, for an interval of a least cost
MAX_STEP = 0.1  # one more error must not move a normalised cost by more than this


@dataclass(frozen=True)
class Bootstrap:
    """Figures in bootstrap samples of speakers.

    Attributes:
        eer: equal error rate.
        min_dcf: least normalised detection cost, for each prior that was asked for.
        redrawn: samples thrown away because they held no target or no non-target weight.
    """

    eer: Resampled
    min_dcf: tuple[Resampled, ...]
    redrawn: int


def bootstrap(
    scores: np.ndarray,
    labels: np.ndarray,
    enroll_units: np.ndarray,
    test_units: np.ndarray,
    p_targets: Sequence[float] = (),
    samples: int = 1000,
    seed: int = 0,
) -> Bootstrap:
    """Return EER and minDCF in bootstrap samples over speakers.

    As many speakers as the list has are drawn with replacement (see `speaker_bootstrap`).

    Args:
        scores: float (N,).
        labels: bool (N,).
        enroll_units: int (N,), the speaker (or file) of the enroll side, 0 .. units - 1.
        test_units: int (N,), that of the test side.
        p_targets: priors for minDCF, costs 1.
        samples: number of bootstrap samples.
        seed: the same seed draws the same speakers, in any order of the trials.
    """
    curve = det_curve(scores, labels)
    units = int(max(enroll_units.max(), test_units.max())) + 1
    costs = [bayes_costs(p) for p in p_targets]
    targets, nontargets = (_Weigher(curve, scores, enroll_units, test_units, c) for c in (labels, ~labels))

    def figures(drawn: NDArray[np.int64]) -> list[float] | None:
        misses, rejected = targets.rejected(drawn), nontargets.rejected(drawn)
        if not (misses[-1] and rejected[-1]):
            return None
        p_miss, p_fa = misses / misses[-1], (rejected[-1] - rejected) / rejected[-1]
        least = [float(np.min(miss * p_miss + false_alarm * p_fa)) for miss, false_alarm in costs]
        return [crossing(p_miss, p_fa), *least]

    estimate = [curve.eer().rate, *(curve.min_dcf(p).cost for p in p_targets)]
    drawn: list[list[float]] = []
    redrawn, sequence = 0, draws(units, seed)
    while len(drawn) < samples:  # one draw in eleven at the very least has both kinds
        row = figures(next(sequence))
        if row is None:
            redrawn += 1
        else:
            drawn.append(row)
    # Without the only speaker with targets there is no figure: that speaker is taken to move none.
    left_out = [figures(draw) or estimate for draw in each_left_out(units)]
    columns, without = np.array(drawn).T, np.array(left_out).T
    eer, *min_dcf = (
        Resampled(value, column, others, units)
        for value, column, others in zip(estimate, columns, without, strict=True)
    )
    return Bootstrap(eer, tuple(min_dcf), redrawn)


def cost_interval(curve: DetCurve, p_target: float, cost: Resampled) -> tuple[float, float] | None:
    """Return the interval of a least detection cost; None where it rests on too few errors.

    The least cost is searched for over all thresholds. Where it has fewer than `MIN_ERRORS` misses or false alarms, or
    where one more would move it by more than `MAX_STEP`, the optimum is due to chance, and intervals miss the true
    cost.
    """
    best = curve.min_dcf(p_target)
    targets, nontargets = int(curve.misses[-1]), int(curve.false_alarms[0])
    errors = min(best.p_miss * targets, best.p_fa * nontargets)
    if errors < MIN_ERRORS - 0.5 or cost_step(targets, nontargets, p_target) > MAX_STEP:
        return None
    return cost.interval()


def cost_step(targets: int, nontargets: int, p_target: float) -> float:
    """Return the most that one more miss or false alarm moves the normalised cost."""
    miss, false_alarm = bayes_costs(p_target)
    return max(miss / max(targets, 1), false_alarm / max(nontargets, 1))


@dataclass(frozen=True)
class PairedDifference:
    """EER of a second system less that of a first, on the same trials.

    Attributes:
        difference: on all trials; negative where the second is better.
        interval: of the difference, from bootstrap samples that both systems share; None: too few speakers.
        p_value: two-sided, of no difference; None: too few speakers.
    """

    difference: float
    interval: tuple[float, float] | None
    p_value: float | None

    @classmethod
    def of(cls, difference: Resampled) -> "PairedDifference":
        """Return a difference of two resampled figures with its interval and p-value."""
        return cls(difference.estimate, difference.interval(), difference.p_value())


def paired_bootstrap(
    first: np.ndarray,
    second: np.ndarray,
    labels: np.ndarray,
    enroll_units: np.ndarray,
    test_units: np.ndarray,
    samples: int = 1000,
    seed: int = 0,
) -> PairedDifference:
    """Return the difference of two systems' EERs on the same trials; the arguments are those of `bootstrap`."""
    before, after = (
        bootstrap(s, labels, enroll_units, test_units, (), samples, seed).eer for s in (first, second)
    )
    return PairedDifference.of(after - before)


class _Weigher:
    """Sums the weights of one class's trials below every threshold of a curve, for any draw of the units."""

    def __init__(
        self, curve: DetCurve, scores: np.ndarray, enroll: np.ndarray, test: np.ndarray, chosen: np.ndarray
    ) -> None:
        step = np.searchsorted(curve.thresholds, scores[chosen], "right")  # rejected from this corner on
        order = np.argsort(step, kind="stable")
        self.enroll, test = enroll[chosen][order], test[chosen][order]
        # A trial within a unit weighs n, not n squared: its second factor is the 1 behind the last unit.
        within = self.enroll == test
        self.test = None if within.all() else np.where(within, -1, test)
        self.bounds = np.searchsorted(step[order], np.arange(len(curve.thresholds)), "right")
        self.total = np.zeros(len(order) + 1)

    def rejected(self, drawn: np.ndarray) -> np.ndarray:
        """Return float64 (K,): the weight of the class's trials with scores below each threshold."""
        n = np.append(drawn, 1).astype(np.float64)
        weights = n[self.enroll]
        if self.test is not None:
            weights *= n[self.test]
        np.cumsum(weights, out=self.total[1:])
        below: np.ndarray = self.total[self.bounds]
        return below
