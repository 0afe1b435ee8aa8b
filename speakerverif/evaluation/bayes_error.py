"""Bayes-error curves: the cost of likelihood ratios at every prior."""

from dataclasses import dataclass

import numpy as np

from speakerverif.evaluation.metrics import det_curve


@dataclass(frozen=True)
class BayesError:
    """Normalised detection costs over the prior, costs of both errors 1.

    Decisions by the prior alone cost 1: where a curve is higher, the likelihood ratios do harm.

    Attributes:
        log_odds: float64 (K,), log(p / (1 - p)) of the prior of a target.
        actual: float64 (K,), at the threshold -log_odds that Bayes' rule sets.
        minimum: float64 (K,), at the best threshold for each prior.
    """

    log_odds: np.ndarray
    actual: np.ndarray
    minimum: np.ndarray


def bayes_error(llrs: np.ndarray, labels: np.ndarray, log_odds: np.ndarray) -> BayesError:
    """Return the costs of natural-log likelihood ratios at every prior.

    Args:
        llrs: float (N,), finite.
        labels: bool (N,), True is target.
        log_odds: float (K,), finite.

    Source: Brümmer and de Villiers, "The BOSARIS Toolkit", 2011, arXiv:1304.2865: the normalised Bayes
        error-rate plot.

    Raises:
        InputError: what `metrics.det_curve` raises.
    """
    curve = det_curve(llrs, labels)
    log_odds = np.asarray(log_odds, np.float64)
    # p and 1 - p, both divided by the smaller of them.
    miss, false_alarm = np.exp(np.maximum(log_odds, 0)), np.exp(np.maximum(-log_odds, 0))
    p_miss, p_fa = _rates_at(llrs, labels, -log_odds)
    x, y = curve.p_miss[curve.hull], curve.p_fa[curve.hull]
    least = np.min(miss[:, None] * x + false_alarm[:, None] * y, axis=1)
    return BayesError(log_odds, miss * p_miss + false_alarm * p_fa, least)


def _rates_at(llrs: np.ndarray, labels: np.ndarray, thresholds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return p_miss and p_fa, float64 (K,) both, of accepting where llr >= threshold."""
    targets, nontargets = np.sort(llrs[labels]), np.sort(llrs[~labels])
    misses = np.searchsorted(targets, thresholds, "left")
    rejected = np.searchsorted(nontargets, thresholds, "left")
    return misses / len(targets), 1 - rejected / len(nontargets)
