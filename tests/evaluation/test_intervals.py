"""Intervals of error rates and costs, and the comparison of two systems."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import special

from speakerverif.evaluation.intervals import _slope, estimate, paired_difference
from speakerverif.evaluation.metrics import det_curve
from tools import interval_coverage

Codes = NDArray[np.int64]


def simulated(
    seed: int, speakers: int = 30, gap: float = 2.0
) -> tuple[NDArray[np.float64], NDArray[np.bool_], Codes, Codes]:
    """Return scores, labels and speakers of a list in which some speakers and some pairs score higher."""
    rng = np.random.default_rng(seed)
    enroll = np.repeat(np.arange(speakers), 40)
    labels = np.tile(np.arange(40) < 15, speakers)
    test = np.where(labels, enroll, (enroll + rng.integers(1, speakers, len(enroll))) % speakers)
    own = 0.4 * rng.normal(size=speakers)
    pairs = 0.4 * rng.normal(size=(speakers, speakers))
    together = (pairs + pairs.T)[enroll, test]
    scores = rng.normal(size=len(labels)) + gap * labels + own[enroll] + own[test] + together
    return scores, labels, enroll, test


def normal(mean: float, spread: float, count: int) -> NDArray[np.float64]:
    """Return the quantiles of a normal distribution, so that its densities can be known from few scores."""
    quantiles: NDArray[np.float64] = mean + spread * special.ndtri((np.arange(count) + 0.5) / count)
    return quantiles


@pytest.mark.parametrize("spread", [0.5, 1.0, 1.6])
def test_the_slope_at_the_eer_is_the_ratio_of_the_densities(spread: float) -> None:
    """Normal scores of spreads 1 and s: the densities at the EER's threshold are as s to 1."""
    scores = np.concatenate((normal(2.0, spread, 2000), normal(0.0, 1.0, 20_000)))
    curve = det_curve(scores, np.arange(22_000) < 2000)
    assert _slope(curve, curve.eer().rate) == pytest.approx(1 / spread, rel=0.02)


@pytest.mark.parametrize("spread", [0.7, 1.4])
def test_influences_are_the_derivatives_by_the_weights_of_speakers(spread: float) -> None:
    """The change of both figures where trials of some speakers get a little more weight, counted anew.

    The scores of each speaker and each pair are quantiles. The EER of drawn ones moves from score to score, by gaps
    that depend on the few trials next to its threshold, so that its derivative is another one.
    """
    rng, speakers = np.random.default_rng(0), 12
    pairs = np.stack(np.triu_indices(speakers, 1))
    shifts = rng.normal(size=(2, len(pairs[0]))) * 0.5
    targets = [normal(2.5 + shift, spread, 2000) for shift in shifts[0, :speakers]]
    nontargets = [normal(shift, 1.0, 400) for shift in shifts[1]]
    scores = np.concatenate([*targets, *nontargets])
    owner = np.repeat(np.arange(speakers), 2000)
    enroll, test = (np.concatenate((owner, np.repeat(side, 400))) for side in pairs)
    labels = enroll == test
    estimates = estimate(scores, labels, enroll, test, (0.2,))
    order = np.argsort(scores)

    def weighted(weights: NDArray[np.float64]) -> tuple[float, float]:
        """Return EER and minDCF(0.2) of trials that count as often as their speakers' weights say."""
        counts = np.where(labels, weights[enroll], weights[enroll] * weights[test])[order]
        misses = np.cumsum(counts * labels[order]) / counts[labels[order]].sum()
        false_alarms = 1 - np.cumsum(counts * ~labels[order]) / counts[~labels[order]].sum()
        eer = np.interp(0, misses - false_alarms, misses)
        return float(eer), float(np.min(misses + 4 * false_alarms))

    for _ in range(5):
        step = rng.uniform(-0.2, 0.2, speakers)
        more, less = weighted(1 + step), weighted(1 - step)
        for figure, up, down in zip((estimates.eer, *estimates.min_dcf), more, less, strict=True):
            predicted = float(step @ (figure.within + figure.across))
            size = float(np.linalg.norm(step) * np.linalg.norm(figure.within + figure.across))
            assert (up - down) / 2 == pytest.approx(predicted, abs=0.03 * size)


def test_intervals_contain_the_truth_about_as_often_as_they_say() -> None:
    """A few lists of the program whose tables are in the docs: it runs, and the intervals are not far off."""
    truth = interval_coverage.Truth(0.8, 0.0, np.random.default_rng(0), speakers=500, nontargets=50_000)
    inside: dict[str, list[bool]] = {}
    for number in range(40):
        task = interval_coverage.simulate(20, 0.8, 0.0, np.random.default_rng(number), nontargets=2000)
        for name, limits, value in interval_coverage.intervals(task, truth):
            if limits is not None:
                inside.setdefault(name, []).append(limits[0] <= value <= limits[1])
    assert len(inside) == 7  # one least cost has too few trials
    for name, hits in inside.items():
        # 95 % are meant; below 33 of 40 would be 3.6 standard errors short of that.
        assert len(hits) >= 35 and np.mean(hits) >= 33 / 40, name


def test_a_least_cost_of_few_trials_has_no_interval() -> None:
    scores, labels, enroll, test = simulated(3)
    half, rare = estimate(scores, labels, enroll, test, (0.5, 0.001)).min_dcf
    assert half.interval() is not None
    assert rare.interval() is None and rare.why_none == "one more error would move it by over 0.01"


def test_separated_classes_have_no_interval() -> None:
    scores, labels, enroll, test = simulated(4, gap=30.0)
    eer = estimate(scores, labels, enroll, test).eer
    assert (eer.value, eer.interval(), eer.why_none) == (0, None, "fewer than 5 errors")


def test_the_paired_test_finds_a_difference_and_none() -> None:
    good, labels, enroll, test = simulated(5)
    worse = good + np.random.default_rng(5).normal(0, 1.2, len(good))
    paired = paired_difference(good, worse, labels, enroll, test)
    assert paired.difference == det_curve(worse, labels).eer().rate - det_curve(good, labels).eer().rate
    assert paired.interval is not None and paired.interval[0] > 0
    assert paired.p_value is not None and paired.p_value < 0.01
    same = paired_difference(good, 2 * good + 1, labels, enroll, test)
    assert (same.difference, same.interval, same.p_value) == (0, None, 1)
