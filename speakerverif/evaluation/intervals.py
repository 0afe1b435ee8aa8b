"""Error rates and detection costs with intervals over speakers, and the comparison of two systems."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from speakerverif.evaluation.metrics import DetCurve, bayes_costs, det_curve
from speakerverif.scoring.speaker_intervals import Array, Figure, SpeakerPairs, why_no_interval


@dataclass(frozen=True)
class Estimates:
    """Figures with what their intervals rest on.

    Attributes:
        eer: equal error rate.
        min_dcf: least normalised detection cost, for each prior that was asked for.
    """

    eer: Figure
    min_dcf: tuple[Figure, ...]


def estimate(
    scores: np.ndarray,
    labels: np.ndarray,
    enroll_speakers: np.ndarray,
    test_speakers: np.ndarray,
    p_targets: Sequence[float] = (),
) -> Estimates:
    """Return EER and minDCF with their intervals over speakers.

    A trial's influence has two parts: that of its own error, and that of the threshold, which moves with it. At a least
    cost the threshold's part is zero to first order. At the EER misses and false alarms stay equal: with dm and df the
    changes of their rates at a fixed threshold t, and f and g the densities of target and non-target scores at t, the
    threshold moves by dt where dm + f dt = df - g dt. So d EER = (g dm + f df) / (g + f): the mean of both changes,
    weighted by 1 and by the slope f / g of the ROC.

    Args:
        scores: float (N,).
        labels: bool (N,), True is target.
        enroll_speakers: int (N,), the speaker of the enroll side, 0 .. speakers - 1.
        test_speakers: int (N,), that of the test side.
        p_targets: priors for minDCF, costs 1.
    """
    curve, pairs = det_curve(scores, labels), SpeakerPairs.of(enroll_speakers, test_speakers)
    targets, nontargets = int(curve.misses[-1]), int(curve.false_alarms[0])
    eer = curve.eer()
    slope = _slope(curve, eer.rate)
    at_eer = _influence(scores, labels, eer.threshold, 1 / (1 + slope), slope / (1 + slope))
    few = why_no_interval(pairs.fewest, (eer.rate * targets, eer.rate * nontargets))
    costs = []
    for p in p_targets:
        least = curve.min_dcf(p)
        moved = _influence(scores, labels, least.threshold, *bayes_costs(p))
        reason = why_no_interval(pairs.fewest, step=cost_step(targets, nontargets, p))
        costs.append(pairs.figure(least.cost, moved, reason))
    return Estimates(pairs.figure(eer.rate, at_eer, few), tuple(costs))


def cost_step(targets: int, nontargets: int, p_target: float) -> float:
    """Return the most that one more miss or false alarm moves the normalised cost."""
    miss, false_alarm = bayes_costs(p_target)
    return max(miss / max(targets, 1), false_alarm / max(nontargets, 1))


@dataclass(frozen=True)
class PairedDifference:
    """EER of a second system less that of a first, on the same trials.

    Attributes:
        difference: on all trials; negative where the second is better.
        interval: of the difference; None: none.
        p_value: two-sided, of no difference; None: no interval.
    """

    difference: float
    interval: tuple[float, float] | None
    p_value: float | None

    @classmethod
    def of(cls, difference: Figure) -> "PairedDifference":
        """Return a difference of two figures with its interval and p-value."""
        return cls(difference.value, difference.interval(), difference.p_value())


def paired_difference(
    first: np.ndarray,
    second: np.ndarray,
    labels: np.ndarray,
    enroll_speakers: np.ndarray,
    test_speakers: np.ndarray,
) -> PairedDifference:
    """Return the difference of two systems' EERs on the same trials; the arguments are those of `estimate`."""
    before, after = (estimate(s, labels, enroll_speakers, test_speakers).eer for s in (first, second))
    return PairedDifference.of(after - before)


def _influence(
    scores: np.ndarray, labels: np.ndarray, threshold: float, miss: float, false_alarm: float
) -> Array:
    """Return how much each trial moves `miss * p_miss + false_alarm * p_fa` at a threshold, float64 (N,)."""
    wrong = np.where(labels, scores < threshold, scores >= threshold)
    moved = np.empty(len(scores))
    for chosen, factor in ((labels, miss), (~labels, false_alarm)):
        errors = wrong[chosen]
        moved[chosen] = factor * (errors - errors.mean()) / len(errors)
    return moved


def _slope(curve: DetCurve, eer: float) -> float:
    """Return by how much the rate of misses rises per fall of that of false alarms at the EER: the slope of the ROC.

    The axes of a DET curve are normal quantiles of both rates. At the EER they are stretched alike, so that its slope
    there is the ROC's; and for normal scores it is a straight line. So the slope is that of the line between the points
    where misses and where false alarms are twice the EER: points closer to it rest on few trials, and the ratio of two
    densities there on fewer. Half an error is added to each count, so that a side without errors has a quantile.

    Source: Martin et al., "The DET curve in assessment of detection task performance", Eurospeech 1997, for the line.
    """
    from scipy import special

    targets, nontargets = int(curve.misses[-1]), int(curve.false_alarms[0])
    high = min(max(2 * eer, 1 / targets, 1 / nontargets), (1 + eer) / 2)

    def quantile(rate: float, trials: int) -> float:
        return float(special.ndtri((rate * trials + 0.5) / (trials + 1)))

    misses = special.ndtri(high) - quantile(curve.p_miss_at(high), targets)
    false_alarms = special.ndtri(high) - quantile(curve.p_fa_at(high), nontargets)
    return float(np.clip(misses / max(false_alarms, 1e-3), 0.1, 10.0))
