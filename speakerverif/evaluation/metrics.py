"""Error rates and detection costs of labelled scores; exact, NumPy only.

A trial is accepted where its score >= threshold. No threshold separates equal scores, so they move together: no figure
depends on the order of the trials. Everything is float64.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike

from speakerverif.data.scores import ScoreList
from speakerverif.errors import InputError
from speakerverif.scoring.decision import bayes_threshold


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
    """The corners of the ROC / DET curve, in order of rising thresholds, and its point nearest to equal error rates.

    Between two corners the ROC is a straight line: its other operating points lie on horizontal or vertical
    pieces, where no cost has its optimum.

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
        share: np.ndarray = self.misses / self.misses[-1]
        return share

    @cached_property
    def p_fa(self) -> np.ndarray:
        """Share of non-targets accepted, float64 (K,)."""
        share: np.ndarray = self.false_alarms / self.false_alarms[0]
        return share

    def p_miss_at(self, p_fa: float) -> float:
        """Return the smallest p_miss of an operating point whose p_fa is at most that given."""
        return float(self.p_miss[np.argmax(self.p_fa <= p_fa)])

    def p_fa_at(self, p_miss: float) -> float:
        """Return the smallest p_fa of an operating point whose p_miss is at most that given."""
        return float(self.p_fa[np.searchsorted(self.p_miss, p_miss, "right") - 1])

    def eer(self) -> EqualErrorRate:
        """Return the equal error rate: where the ROC, linear between its points, has p_miss = p_fa."""
        gap = np.abs(self.misses * self.false_alarms[0] - self.false_alarms * self.misses[-1])[:-1]
        nearest = len(gap) - 1 - int(np.argmin(gap[::-1]))  # of two as near, the one with fewer false alarms
        return EqualErrorRate(crossing(self.p_miss, self.p_fa), *self._point(nearest))

    def rocch_eer(self) -> float:
        """Return the EER of the ROC's convex hull: what choosing between two thresholds at random attains.

        Source: Brümmer and de Villiers, "The BOSARIS Toolkit", 2011, arXiv:1304.2865.
        """
        return crossing(self.p_miss[self.hull], self.p_fa[self.hull])

    def min_dcf(self, p_target: float, c_miss: float = 1.0, c_fa: float = 1.0) -> DetectionCost:
        """Return the smallest normalised detection cost over all thresholds, and where it is attained.

        Args:
            p_target: prior of a target trial, in (0, 1).
            c_miss: cost of a miss.
            c_fa: cost of a false alarm.

        Source: NIST SRE 2016 evaluation plan, section 3: c_miss p p_miss + c_fa (1 - p) p_fa, divided by
        min(c_miss p, c_fa (1 - p)), the cost of deciding by the prior alone.
        """
        miss, false_alarm = bayes_costs(p_target, c_miss, c_fa)
        costs = miss * self.p_miss + false_alarm * self.p_fa
        best = int(np.argmin(costs))
        return DetectionCost(float(costs[best]), *self._point(best))

    def min_cllr(self) -> float:
        """Return the Cllr after the best monotone calibration of the scores (pool adjacent violators).

        The best log likelihood ratio is constant on each piece of the convex hull: the log of its slope.

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
        """Indices, ascending, of the corners on the curve's lower convex hull.

        They bound the blocks that pooling adjacent violators makes of the steps between corners: within a block the
        share of targets is constant, and it rises from block to block.
        """
        from scipy.optimize import isotonic_regression

        if len(self.misses) < 3:
            return np.arange(len(self.misses))
        targets, nontargets = np.diff(self.misses), -np.diff(self.false_alarms)
        steps = targets + nontargets
        blocks: np.ndarray = isotonic_regression(targets / steps, weights=steps).blocks
        return blocks

    def _point(self, i: int) -> tuple[float, float, float]:
        return float(self.thresholds[i]), float(self.p_miss[i]), float(self.p_fa[i])


def eer(target_scores: ArrayLike, nontarget_scores: ArrayLike) -> float:
    """Return the equal error rate, a fraction: p_miss and p_fa where both are equal.

    At a threshold p_miss is the share of targets below it, p_fa the share of non-targets at or above it. Where no
    threshold makes them equal, the ROC is taken as a straight line between its two points around equality.

    Args:
        target_scores: float (T,), of trials of one speaker; higher means more likely the same speaker.
        nontarget_scores: float (N,), of trials of two speakers.

    Raises:
        InputError: no scores of a kind, scores that are not a column of finite numbers.

    Source: Martin et al., "The DET curve in assessment of detection task performance", Eurospeech 1997; departure: the
        line between two points.
    """
    return _curve(target_scores, nontarget_scores).eer().rate


def min_dcf(
    target_scores: ArrayLike,
    nontarget_scores: ArrayLike,
    p_target: float,
    c_miss: float = 1.0,
    c_fa: float = 1.0,
) -> float:
    """Return the smallest normalised detection cost over all thresholds: 0 without errors, at most 1.

    Args:
        target_scores: float (T,), of trials of one speaker; higher means more likely the same speaker.
        nontarget_scores: float (N,), of trials of two speakers.
        p_target: prior of a target trial, in (0, 1).
        c_miss: cost of a miss, above 0.
        c_fa: cost of a false alarm, above 0.

    Raises:
        InputError: no scores of a kind, scores that are not a column of finite numbers, a prior or a cost out of range.

    Source: as `DetCurve.min_dcf`.
    """
    return _curve(target_scores, nontarget_scores).min_dcf(p_target, c_miss, c_fa).cost


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
    curve = DetCurve(threshold, misses, len(nontargets) - rejected)

    def around(target: bool, rank: int) -> list[tuple[int, float]]:
        ordered = targets if target else nontargets
        first, after = (int(np.searchsorted(ordered, ordered[rank], side)) for side in ("left", "right"))
        return [(k, float(ordered[k])) for k in (first, after) if k < len(ordered)]

    return with_equal_rates(curve, around)


def with_equal_rates(curve: DetCurve, around: Callable[[bool, int], list[tuple[int, float]]]) -> DetCurve:
    """Return a curve with the operating point whose error rates differ least, where that is no corner.

    Args:
        curve: its corners.
        around: of the targets (True) or non-targets and a rank k from 0: the score of that rank and the next higher
            one in the class, each as the number of scores below it and its value.
    """
    targets, nontargets = int(curve.misses[-1]), int(curve.false_alarms[0])
    after = int(np.argmax(curve.misses * nontargets >= curve.false_alarms * targets))
    misses, false_alarms = curve.misses[after - 1 : after + 1], curve.false_alarms[after - 1 : after + 1]
    points: list[tuple[float, int, int]] = []
    if misses[0] == misses[1]:
        rank = min(nontargets - 1, nontargets - -(-int(misses[0]) * nontargets // targets))
        points = [(score, int(misses[0]), nontargets - below) for below, score in around(False, rank)]
        points = [point for point in points if false_alarms[0] > point[2] > false_alarms[1]]
    elif false_alarms[0] == false_alarms[1]:
        rank = min(targets - 1, int(false_alarms[0]) * targets // nontargets)
        points = [(score, below, int(false_alarms[0])) for below, score in around(True, rank)]
        points = [point for point in points if misses[0] < point[1] < misses[1]]
    if not points:
        return curve
    nearest = min(points, key=lambda point: (abs(point[1] * nontargets - point[2] * targets), -point[0]))
    columns = (curve.thresholds, curve.misses, curve.false_alarms)
    return DetCurve(
        *(np.insert(column, after, value) for column, value in zip(columns, nearest, strict=True))
    )


def act_dcf(
    llrs: np.ndarray, labels: np.ndarray, p_target: float, c_miss: float = 1.0, c_fa: float = 1.0
) -> DetectionCost:
    """Return the normalised cost of natural-log likelihood ratios at the threshold that Bayes' rule sets.

    Source: NIST SRE 2016 evaluation plan, section 3: threshold log(c_fa (1 - p) / (c_miss p)).
    """
    targets, nontargets = _classes(llrs, labels)
    miss, false_alarm = bayes_costs(p_target, c_miss, c_fa)
    threshold = bayes_threshold(p_target, c_miss, c_fa)
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


def crossing(p_miss: np.ndarray, p_fa: np.ndarray) -> float:
    """Return the rate where the line through the points, p_miss rising and p_fa falling, has both equal."""
    after = int(np.argmax(p_miss >= p_fa))  # never 0: the first point is (0, 1)
    before = p_fa[after - 1] - p_miss[after - 1]
    share = before / (before + p_miss[after] - p_fa[after])
    return float(p_miss[after - 1] + share * (p_miss[after] - p_miss[after - 1]))


def bayes_costs(p_target: float, c_miss: float = 1.0, c_fa: float = 1.0) -> tuple[float, float]:
    """Return the factors of p_miss and p_fa in the normalised cost."""
    if not 0 < p_target < 1:
        raise InputError(f"p_target is {p_target:g}: expected a prior between 0 and 1, both excluded")
    if not (c_miss > 0 and c_fa > 0):
        raise InputError(f"costs are {c_miss:g} and {c_fa:g}: expected positive numbers")
    miss, false_alarm = c_miss * p_target, c_fa * (1 - p_target)
    best = min(miss, false_alarm)
    return miss / best, false_alarm / best


def _curve(target_scores: ArrayLike, nontarget_scores: ArrayLike) -> DetCurve:
    """Return the curve of the scores of targets and of non-targets."""
    targets, nontargets = (
        _column("target scores", target_scores),
        _column("non-target scores", nontarget_scores),
    )
    labels = np.arange(len(targets) + len(nontargets)) < len(targets)
    return det_curve(np.concatenate((targets, nontargets)), labels)


def _column(name: str, values: ArrayLike) -> np.ndarray:
    """Return values as float64 (N,)."""
    try:
        column = np.asarray(values, np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"{name}: expected a column of numbers: {error}") from error
    if column.ndim != 1:
        raise InputError(f"{name} of shape {column.shape}: expected a column of numbers, (N,)")
    return column


def _classes(scores: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the scores of targets and of non-targets, checked."""
    scores, labels = np.asarray(scores, np.float64), np.asarray(labels, bool)
    if scores.shape != labels.shape or scores.ndim != 1:
        raise InputError(
            f"scores {scores.shape} and labels {labels.shape}: expected two columns of one length"
        )
    targets, nontargets = scores[labels], scores[~labels]
    if not np.isfinite(scores).all():
        raise InputError("scores are not all finite numbers")
    if not (len(targets) and len(nontargets)):
        raise InputError(
            f"{len(targets)} target and {len(nontargets)} non-target trials: error rates need both kinds"
        )
    return targets, nontargets


def _sorted_classes(scores: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the scores of targets and of non-targets, ascending."""
    targets, nontargets = _classes(scores, labels)
    targets.sort()
    nontargets.sort()
    return targets, nontargets
