"""Error rates and detection costs of labelled scores, and their bootstrap intervals; exact, NumPy only.

A trial is accepted where its score >= threshold. Equal scores can't be told apart by any threshold, so they
move together: no figure depends on the order of the trials. Everything is float64.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from speakerverif.data.scores import ScoreList
from speakerverif.errors import InputError


@dataclass(frozen=True)
class EqualErrorRate:
    """The EER as a fraction, and the operating point nearest to it: accept where score >= threshold."""

    rate: float
    threshold: float
    p_miss: float
    p_fa: float


@dataclass(frozen=True)
class DetectionCost:
    """A normalised detection cost, and where it is attained: accept where score >= threshold."""

    cost: float
    threshold: float
    p_miss: float
    p_fa: float


@dataclass(frozen=True)
class DetCurve:
    """The corners of the ROC / DET curve, in order of rising thresholds.

    Between two corners the ROC is a straight line: its other operating points lie on horizontal or vertical
    pieces, where no figure has its optimum.

    Attributes:
        thresholds: float64 (K,), ascending; the last is inf, which rejects everything.
        misses: int64 (K,), targets rejected, from 0 to all.
        false_alarms: int64 (K,), non-targets accepted, from all to 0.
    """

    thresholds: np.ndarray
    misses: np.ndarray
    false_alarms: np.ndarray

    @classmethod
    def of(cls, scores: ScoreList) -> "DetCurve":
        """Return the curve of a scored list.

        Raises:
            InputError: the list has no labels, or what `det_curve` raises.
        """
        if scores.trials.labels is None:
            raise InputError(f"{scores.trials.name}: no labels: error rates need to know the targets")
        try:
            return det_curve(scores.scores, scores.trials.labels)
        except InputError as error:
            raise InputError(f"{scores.trials.name}: {error}") from error

    @cached_property
    def p_miss(self) -> np.ndarray:
        """Share of targets rejected, float64 (K,)."""
        return self.misses / self.misses[-1]

    @cached_property
    def p_fa(self) -> np.ndarray:
        """Share of non-targets accepted, float64 (K,)."""
        return self.false_alarms / self.false_alarms[0]

    def p_miss_at(self, p_fa: float) -> float:
        """Return the smallest p_miss of an operating point whose p_fa is at most that given."""
        return float(self.p_miss[np.argmax(self.p_fa <= p_fa)])

    def p_fa_at(self, p_miss: float) -> float:
        """Return the smallest p_fa of an operating point whose p_miss is at most that given."""
        return float(self.p_fa[np.searchsorted(self.p_miss, p_miss, "right") - 1])

    def eer(self) -> EqualErrorRate:
        """Return the equal error rate: where the ROC, linear between its points, has p_miss = p_fa."""
        after = int(np.argmax(self.p_miss >= self.p_fa))
        gap = np.abs(self.p_miss - self.p_fa)
        nearest = after if gap[after] < gap[after - 1] else after - 1
        return EqualErrorRate(_crossing(self.p_miss, self.p_fa), *self._point(nearest))

    def rocch_eer(self) -> float:
        """Return the EER of the ROC's convex hull: what choosing between two thresholds at random attains.

        Source: Brümmer and de Villiers, "The BOSARIS Toolkit", 2011, arXiv:1304.2865.
        """
        return _crossing(self.p_miss[self.hull], self.p_fa[self.hull])

    def min_dcf(self, p_target: float, c_miss: float = 1.0, c_fa: float = 1.0) -> DetectionCost:
        """Return the smallest normalised detection cost over all thresholds, and where it is attained.

        Args:
            p_target: prior of a target trial, in (0, 1).
            c_miss: cost of a miss.
            c_fa: cost of a false alarm.

        Source: NIST SRE 2016 evaluation plan, section 3: c_miss p p_miss + c_fa (1 - p) p_fa, divided by
        min(c_miss p, c_fa (1 - p)), the cost of deciding without listening.
        """
        miss, false_alarm = bayes_costs(p_target, c_miss, c_fa)
        costs = miss * self.p_miss + false_alarm * self.p_fa
        best = int(np.argmin(costs))
        return DetectionCost(float(costs[best]), *self._point(best))

    def min_cllr(self) -> float:
        """Return the Cllr after the best monotone calibration of the scores (pool adjacent violators).

        The best log likelihood ratio is constant on each piece of the convex hull: the log of its slope.
        Pooling adjacent violators and building the hull are the same construction.

        Source: Brümmer and du Preez, "Application-independent evaluation of speaker detection", 2006,
        section 7.
        """
        target, nontarget = np.diff(self.p_miss[self.hull]), -np.diff(self.p_fa[self.hull])
        both = (target > 0) & (nontarget > 0)  # a piece of one class gets an infinite ratio, at no cost
        target, nontarget = target[both], nontarget[both]
        llr = np.log(target / nontarget)
        return float((target @ np.logaddexp(0, -llr) + nontarget @ np.logaddexp(0, llr)) / 2 / np.log(2))

    @cached_property
    def hull(self) -> np.ndarray:
        """Indices, ascending, of the corners on the curve's lower convex hull."""
        x, y = self.misses.astype(np.float64), self.false_alarms.astype(np.float64)
        keep = np.arange(len(x))
        while (
            len(keep) > 2
        ):  # a point on or above the line between its neighbours is off the hull: all go at once
            px, py = x[keep], y[keep]
            turn = (px[1:-1] - px[:-2]) * (py[2:] - py[:-2]) - (py[1:-1] - py[:-2]) * (px[2:] - px[:-2])
            inside = np.flatnonzero(turn <= 0) + 1
            keep = np.delete(keep, inside)
            if len(inside) < len(keep) / 10:
                break
        hull: list[int] = []
        for i in keep.tolist():  # what little is left, one by one (Andrew's monotone chain)
            while len(hull) > 1:
                a, b = hull[-2], hull[-1]
                if (x[b] - x[a]) * (y[i] - y[a]) - (y[b] - y[a]) * (x[i] - x[a]) > 0:
                    break
                hull.pop()
            hull.append(i)
        return np.array(hull)

    def _point(self, i: int) -> tuple[float, float, float]:
        return float(self.thresholds[i]), float(self.p_miss[i]), float(self.p_fa[i])


def det_curve(scores: np.ndarray, labels: np.ndarray) -> DetCurve:
    """Return the exact ROC / DET curve of labelled scores, equal scores grouped.

    Args:
        scores: float (N,), finite; higher means more likely the same speaker.
        labels: bool (N,), True is target.

    Raises:
        InputError: targets or non-targets are lacking, a score is not finite.
    """
    targets, nontargets = _sorted_classes(scores, labels)
    # Two sorts of plain values and a merge cost half of one argsort over everything.
    starts = np.flatnonzero(np.concatenate(([True], targets[1:] != targets[:-1])))
    values = targets[starts]
    missed = np.append(starts, len(targets))
    below = np.append(np.searchsorted(nontargets, values, "left"), len(nontargets))
    upto = np.concatenate(([0], np.searchsorted(nontargets, values, "right")))
    # Group j of equal targets has below[j] non-targets under it and upto[j + 1] - below[j] equal to it. The
    # curve has a corner above the group before it, where non-targets lie between, and one under it, unless
    # it goes straight on there.
    gap = below > upto
    tied = upto[1:] > below[:-1]
    under = gap | np.append(tied, True)
    under[1:] |= tied
    under[0] = True
    keep = np.stack((gap, under), 1)
    threshold = np.stack((np.append(nontargets, np.inf)[upto], np.append(values, np.inf)), 1)[keep]
    misses = np.stack((missed, missed), 1)[keep]
    rejected = np.stack((upto, below), 1)[keep]
    return DetCurve(threshold, misses, len(nontargets) - rejected)


def act_dcf(
    llrs: np.ndarray, labels: np.ndarray, p_target: float, c_miss: float = 1.0, c_fa: float = 1.0
) -> DetectionCost:
    """Return the normalised cost of natural-log likelihood ratios at the threshold that Bayes' rule sets.

    Source: NIST SRE 2016 evaluation plan, section 3: threshold log(c_fa (1 - p) / (c_miss p)).
    """
    targets, nontargets = _classes(llrs, labels)
    miss, false_alarm = bayes_costs(p_target, c_miss, c_fa)
    threshold = float(np.log(false_alarm / miss))
    p_miss, p_fa = float(np.mean(targets < threshold)), float(np.mean(nontargets >= threshold))
    return DetectionCost(miss * p_miss + false_alarm * p_fa, threshold, p_miss, p_fa)


def cllr(llrs: np.ndarray, labels: np.ndarray) -> float:
    """Return the cost of log likelihood ratios in bits: 0 is perfect, 1 says nothing, above 1 misleads.

    Source: Brümmer and du Preez, "Application-independent evaluation of speaker detection", 2006,
    equation 14.
    """
    targets, nontargets = _classes(llrs, labels)
    bits = np.logaddexp(0, -targets).mean() + np.logaddexp(0, nontargets).mean()
    return float(bits / 2 / np.log(2))


@dataclass(frozen=True)
class Bootstrap:
    """What the figures were in each bootstrap sample.

    Attributes:
        eer: float64 (samples,).
        min_dcf: float64 (samples, priors), in the order of the priors asked for.
        redrawn: samples thrown away because they held no target or no non-target weight.
    """

    eer: np.ndarray
    min_dcf: np.ndarray
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
    """Return EER and minDCF in bootstrap samples over speakers: trials of one speaker are not independent.

    As many speakers as the list has are drawn with replacement. A trial within a speaker drawn n times
    weighs n, one between speakers drawn n and m times weighs n m.

    Args:
        scores: float (N,).
        labels: bool (N,).
        enroll_units: int (N,), the speaker (or file) of the enroll side, 0 .. units - 1.
        test_units: int (N,), that of the test side.
        p_targets: priors for minDCF, costs 1.
        samples: how many.
        seed: the same seed draws the same speakers, in any order of the trials.
    """
    curve = det_curve(scores, labels)
    units = int(max(enroll_units.max(), test_units.max())) + 1
    targets, nontargets = (_Weigher(curve, scores, enroll_units, test_units, c) for c in (labels, ~labels))
    weights = [bayes_costs(p, 1.0, 1.0) for p in p_targets]
    rates, costs, redrawn = np.empty(samples), np.empty((samples, len(weights))), 0
    rng, done = np.random.default_rng(seed), 0
    while done < samples:
        drawn = np.bincount(rng.integers(units, size=units), minlength=units)
        misses, rejected = targets.rejected(drawn), nontargets.rejected(drawn)
        if not (misses[-1] and rejected[-1]):  # one draw in eleven at the very least has both
            redrawn += 1
            continue
        p_miss, p_fa = misses / misses[-1], (rejected[-1] - rejected) / rejected[-1]
        rates[done] = _crossing(p_miss, p_fa)
        costs[done] = [np.min(miss * p_miss + false_alarm * p_fa) for miss, false_alarm in weights]
        done += 1
    return Bootstrap(rates, costs, redrawn)


@dataclass(frozen=True)
class PairedDifference:
    """EER of a second system less that of a first, on the same trials.

    Attributes:
        difference: on all trials; negative where the second is better.
        interval: of the difference, from bootstrap samples that both systems share.
        p_value: two-sided, of no difference.
    """

    difference: float
    interval: tuple[float, float]
    p_value: float


def paired_bootstrap(
    first: np.ndarray,
    second: np.ndarray,
    labels: np.ndarray,
    enroll_units: np.ndarray,
    test_units: np.ndarray,
    samples: int = 1000,
    seed: int = 0,
) -> PairedDifference:
    """Return how two systems' EERs differ on the same trials; the arguments are those of `bootstrap`."""
    drawn = [bootstrap(s, labels, enroll_units, test_units, (), samples, seed).eer for s in (first, second)]
    difference = det_curve(second, labels).eer().rate - det_curve(first, labels).eer().rate
    return paired_difference(difference, drawn[0], drawn[1])


def paired_difference(difference: float, first: np.ndarray, second: np.ndarray) -> PairedDifference:
    """Return a difference with its interval and p-value, given both figures in the same bootstrap samples."""
    change = second - first
    less, more = np.count_nonzero(change <= 0), np.count_nonzero(change >= 0)
    return PairedDifference(
        difference, interval(change), min(1.0, 2 * (1 + min(less, more)) / (len(change) + 1))
    )


def interval(samples: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """Return the central percentile interval of bootstrap samples."""
    low, high = np.quantile(samples, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


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
        return self.total[self.bounds]


def _crossing(p_miss: np.ndarray, p_fa: np.ndarray) -> float:
    """Return the rate where the line through the points, p_miss rising and p_fa falling, has both equal."""
    after = int(np.argmax(p_miss >= p_fa))  # never 0: the first point is (0, 1)
    before = p_fa[after - 1] - p_miss[after - 1]
    share = before / (before + p_miss[after] - p_fa[after])
    return float(p_miss[after - 1] + share * (p_miss[after] - p_miss[after - 1]))


def bayes_costs(p_target: float, c_miss: float = 1.0, c_fa: float = 1.0) -> tuple[float, float]:
    """Return the factors of p_miss and p_fa in the normalised cost; the log of the second over the first is
    Bayes' threshold of a likelihood ratio."""
    if not 0 < p_target < 1:
        raise InputError(f"p_target is {p_target:g}: expected a prior between 0 and 1, both excluded")
    if not (c_miss > 0 and c_fa > 0):
        raise InputError(f"costs are {c_miss:g} and {c_fa:g}: expected positive numbers")
    miss, false_alarm = c_miss * p_target, c_fa * (1 - p_target)
    best = min(miss, false_alarm)
    return miss / best, false_alarm / best


def _classes(scores: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the scores of targets and of non-targets, checked."""
    scores, labels = np.asarray(scores, np.float64), np.asarray(labels, bool)
    if scores.shape != labels.shape or scores.ndim != 1:
        raise InputError(
            f"scores {scores.shape} and labels {labels.shape}: expected two columns of one length"
        )
    targets, nontargets = scores[labels], scores[~labels]
    if not (len(targets) and len(nontargets)):
        raise InputError(
            f"{len(targets)} target and {len(nontargets)} non-target trials: error rates need both kinds"
        )
    return targets, nontargets


def _sorted_classes(scores: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the scores of targets and of non-targets, ascending and finite."""
    targets, nontargets = _classes(scores, labels)
    targets.sort()
    nontargets.sort()
    ends = np.array([targets[0], targets[-1], nontargets[0], nontargets[-1]])  # nan sorts to the end
    if not np.isfinite(ends).all():
        raise InputError("scores are not all finite numbers")
    return targets, nontargets
