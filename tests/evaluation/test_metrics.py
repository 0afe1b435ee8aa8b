"""Error rates and costs against hand-worked values, brute force, scikit-learn, and literal resampling."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import ArrayLike
from sklearn.isotonic import IsotonicRegression
from sklearn.metrics import roc_curve

from speakerverif.data.scores import ScoreList
from speakerverif.data.trials import TrialList
from speakerverif.errors import InputError
from speakerverif.evaluation.intervals import estimate
from speakerverif.evaluation.metrics import DetCurve, act_dcf, cllr, det_curve, eer, min_dcf

LN2 = np.log(2)


def random_list(rng: np.random.Generator, size: int, values: int) -> tuple[np.ndarray, np.ndarray]:
    """Return scores of few distinct values, so that many are equal, and labels of both kinds."""
    labels = rng.random(size) < rng.uniform(0.2, 0.8)
    labels[:2] = True, False
    scores = np.round(rng.normal(labels * rng.uniform(-1, 3), 1) * values) / values
    order = rng.permutation(size)
    return scores[order], labels[order]


def operating_points(scores: np.ndarray, labels: np.ndarray) -> list[tuple[float, float, float]]:
    """Return (threshold, p_miss, p_fa) at every distinct score and above all, each by counting all trials."""
    targets, nontargets = scores[labels], scores[~labels]
    return [
        (t, float(np.mean(targets < t)), float(np.mean(nontargets >= t)))
        for t in [*sorted(set(scores)), np.inf]
    ]


def brute_eer(points: list[tuple[float, float, float]]) -> float:
    """Return the EER by walking along all operating points in turn."""
    for (_, miss, fa), (_, next_miss, next_fa) in pairwise(points):
        if next_miss >= next_fa:
            share = (fa - miss) / ((fa - miss) + (next_miss - next_fa))
            return miss + share * (next_miss - miss)
    raise AssertionError("the curve ends where everything is missed")


def brute_min_dcf(
    points: list[tuple[float, float, float]], p_target: float, c_miss: float = 1, c_fa: float = 1
) -> float:
    """Return the lowest normalised cost of all operating points."""
    costs = [c_miss * p_target * miss + c_fa * (1 - p_target) * fa for _, miss, fa in points]
    return min(costs) / min(c_miss * p_target, c_fa * (1 - p_target))


def test_hand_worked_figures() -> None:
    # Targets 1 2 2 4, non-targets 0 1 2 3. Accepting from 2 on misses 1 of 4 and accepts 2 of 4 non-targets;
    # from 3 on misses 3 and accepts 1. The line between (1/4, 2/4) and (3/4, 1/4) has both equal at 5/12.
    scores = np.array([1, 2, 2, 4, 0, 1, 2, 3.0])
    labels = np.array([True] * 4 + [False] * 4)
    curve = det_curve(scores, labels)
    assert curve.eer().rate == pytest.approx(5 / 12, abs=1e-15)
    assert (curve.eer().threshold, curve.eer().p_miss, curve.eer().p_fa) == (2, 0.25, 0.5)
    # p_target 0.5: both errors weigh alike; from 4 on misses 3/4 and accepts none, from 1 on misses none and
    # accepts 3/4, from 2 on 1/4 + 2/4: all cost 3/4.
    assert curve.min_dcf(0.5).cost == pytest.approx(0.75, abs=1e-15)
    # p_target 0.1: a false alarm weighs 9 misses; from 4 on costs 3/4, less than 1/4 + 9 x 2/4.
    best = curve.min_dcf(0.1)
    assert (best.cost, best.threshold, best.p_miss, best.p_fa) == (0.75, 4, 0.75, 0)
    # The hull goes (0, 1), (0, 3/4), (3/4, 0), (1, 0): its middle line crosses at 3/8.
    assert curve.rocch_eer() == pytest.approx(3 / 8, abs=1e-15)


def test_figures_of_plain_arrays_by_hand() -> None:
    # Accepting from 2 on misses no target and accepts 2 of 4 non-targets; from 4 on 1/3 and 1/4; from 6 on 2/3, none.
    # Where 1/3 is missed, between 3 and 4, p_fa falls from 1/2 to 1/4 and passes 1/3.
    targets, nontargets = [4, 2, 6], [1, 5, 3, 0]
    assert eer(targets, nontargets) == pytest.approx(1 / 3, abs=1e-15)
    assert min_dcf(targets, nontargets, 0.5) == pytest.approx(1 / 2, abs=1e-15)  # from 2 on: 0 + 2/4
    assert min_dcf(targets, nontargets, 0.5, c_fa=3) == pytest.approx(
        2 / 3, abs=1e-15
    )  # from 6 on: 2/3 + 3 x 0
    assert min_dcf(targets, nontargets, 0.5, c_miss=2) == pytest.approx(1 / 2, abs=1e-15)  # from 2 on again
    assert min_dcf(np.array(targets, np.float32), np.array(nontargets), 0.1) == pytest.approx(
        2 / 3, abs=1e-15
    )
    assert (eer([1.0], [0.0]), eer([0.0], [1.0]), eer([0.0], [0.0])) == (0, 1, 0.5)


@pytest.mark.parametrize(
    ("targets", "nontargets", "message"),
    [
        ([], [0.0], "0 target and 1 non-target"),
        ([0.0], np.empty(0), "1 target and 0 non-target"),
        ([np.nan], [0.0], "finite"),
        ([1.0], [0.0, -np.inf], "finite"),
        ([[1.0]], [0.0], r"target scores of shape \(1, 1\)"),
        ([1.0], 0.0, r"non-target scores of shape \(\)"),
        (["high"], [0.0], "target scores: expected a column of numbers"),
        ([1.0], [[0.0], [1.0, 2.0]], "non-target scores: expected a column of numbers"),
    ],
)
def test_plain_arrays_are_checked(targets: ArrayLike, nontargets: ArrayLike, message: str) -> None:
    for figure in (eer, lambda one, two: min_dcf(one, two, 0.05)):
        with pytest.raises(InputError, match=message):
            figure(targets, nontargets)


def test_min_cllr_by_hand() -> None:
    # Two levels of score: above, 3 of 4 targets and 1 of 4 non-targets; the best ratios are 3 and 1/3.
    scores = np.array([1, 1, 1, 0, 1, 0, 0, 0.0])
    labels = np.array([True] * 4 + [False] * 4)
    expected = (3 / 4 * np.log2(1 + 1 / 3) + 1 / 4 * np.log2(1 + 3)) / 2 * 2
    assert det_curve(scores, labels).min_cllr() == pytest.approx(expected, abs=1e-15)


@pytest.mark.parametrize("constant", [0.0, -3.25])
def test_equal_scores_tell_nothing(constant: float) -> None:
    rng = np.random.default_rng(0)
    for labels in (np.array([True, False, False]), np.array([False, True, True, True]), rng.random(99) < 0.5):
        curve = det_curve(np.full(len(labels), constant), labels)
        assert curve.eer().rate == 0.5
        assert curve.min_dcf(0.01).cost == 1
        assert curve.min_dcf(0.01).threshold == np.inf
        assert curve.min_cllr() == pytest.approx(1, abs=1e-15)


def test_perfect_and_inverted_scores() -> None:
    labels = np.arange(10) >= 5
    perfect = det_curve(np.arange(10.0), labels)
    assert (perfect.eer().rate, perfect.eer().threshold) == (0, 5)
    assert (perfect.min_dcf(0.01).cost, perfect.min_cllr()) == (0, 0)
    inverted = det_curve(-np.arange(10.0), labels)
    assert inverted.eer().rate == 1
    assert inverted.rocch_eer() == 0.5
    assert inverted.min_dcf(0.3).cost == 1


def test_a_thousand_lists_against_brute_force() -> None:
    rng = np.random.default_rng(1)
    for _ in range(1000):
        scores, labels = random_list(rng, int(rng.integers(2, 60)), int(rng.integers(1, 8)))
        curve, points = det_curve(scores, labels), operating_points(scores, labels)
        assert curve.eer().rate == pytest.approx(brute_eer(points), abs=1e-13)
        for p_target, c_miss, c_fa in ((0.01, 1, 1), (0.05, 10, 1), (0.5, 1, 3)):
            best = curve.min_dcf(p_target, c_miss, c_fa)
            assert best.cost == pytest.approx(brute_min_dcf(points, p_target, c_miss, c_fa), rel=1e-13)
            at = next(point for point in points if point[0] >= best.threshold)
            assert (best.p_miss, best.p_fa) == at[1:]
        for rate in (0.0, 0.1, 0.5, 1.0):
            assert curve.p_miss_at(rate) == min(miss for _, miss, fa in points if fa <= rate)
            assert curve.p_fa_at(rate) == min(fa for _, miss, fa in points if miss <= rate)


def test_corners_are_operating_points_and_none_is_missing() -> None:
    rng = np.random.default_rng(2)
    for _ in range(200):
        scores, labels = random_list(rng, int(rng.integers(2, 40)), int(rng.integers(1, 8)))
        curve, points = det_curve(scores, labels), operating_points(scores, labels)
        assert np.all(np.diff(curve.thresholds) > 0)
        corners = list(zip(curve.thresholds, curve.p_miss, curve.p_fa, strict=True))
        assert corners[0][1:] == (0, 1)
        assert corners[-1] == (np.inf, 1, 0)
        assert set(corners) <= set(points)
        # what is left out lies on a horizontal or vertical piece between two corners
        for threshold, miss, fa in points:
            after = int(np.searchsorted(curve.thresholds, threshold))
            assert miss in curve.p_miss[[after - 1, after]] or fa in curve.p_fa[[after - 1, after]]


def test_min_cllr_and_hull_against_pool_adjacent_violators() -> None:
    rng = np.random.default_rng(3)
    for _ in range(200):
        scores, labels = random_list(rng, int(rng.integers(2, 80)), int(rng.integers(1, 20)))
        posterior = IsotonicRegression(y_min=0, y_max=1).fit_transform(scores, labels.astype(float))
        prior_odds = labels.sum() / (~labels).sum()
        with np.errstate(divide="ignore"):
            llrs = np.log(posterior) - np.log1p(-posterior) - np.log(prior_odds)
        oracle = np.mean(np.logaddexp(0, -llrs[labels])) + np.mean(np.logaddexp(0, llrs[~labels]))
        assert det_curve(scores, labels).min_cllr() == pytest.approx(oracle / 2 / LN2, abs=1e-12)


def test_the_eer_threshold_is_the_operating_point_nearest_to_equality() -> None:
    # Above 5 are 4 of 9 non-targets, from 5 on 5: both are as near to the 1 of 2 targets missed.
    curve = det_curve(np.array([0.0, 10, *range(1, 10)]), np.array([True, True] + [False] * 9))
    assert (curve.eer().threshold, curve.eer().p_miss, curve.eer().p_fa) == (6, 0.5, 4 / 9)
    rng = np.random.default_rng(12)
    for _ in range(300):
        scores, labels = random_list(rng, int(rng.integers(4, 30)), int(rng.choice([1, 3, 1000])))
        points, eer = operating_points(scores, labels), det_curve(scores, labels).eer()
        assert abs(eer.p_miss - eer.p_fa) == pytest.approx(min(abs(miss - fa) for _, miss, fa in points))
        assert (eer.threshold, eer.p_miss, eer.p_fa) in points and np.isfinite(eer.threshold)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_likelihood_ratios_that_are_not_finite_are_an_error(bad: float) -> None:
    for figure in (cllr, lambda llrs, labels: act_dcf(llrs, labels, 0.05)):
        with pytest.raises(InputError, match="finite"):
            figure(np.array([0.0, bad]), np.array([True, False]))


def test_hull_eer_is_the_worst_case_over_priors() -> None:
    # The error rate at prior p of the best threshold, maximised over p, is the EER of the convex hull.
    scores, labels = random_list(np.random.default_rng(4), 300, 50)
    curve = det_curve(scores, labels)
    priors = np.linspace(0, 1, 20001)[:, None]
    worst = np.min(priors * curve.p_miss + (1 - priors) * curve.p_fa, axis=1).max()
    assert curve.rocch_eer() == pytest.approx(worst, abs=1e-4)
    assert curve.rocch_eer() <= curve.eer().rate


@pytest.mark.parametrize("values", [3, 1000])
def test_against_scikit_learn(values: int) -> None:
    scores, labels = random_list(np.random.default_rng(5), 20000, values)
    p_fa, hit, _ = roc_curve(labels, scores, drop_intermediate=False)
    curve = det_curve(scores, labels)
    grid = np.linspace(0, 1, 1001)
    oracle = np.interp(grid, p_fa, 1 - hit)
    # np.interp takes the upper end of a vertical piece, so compare away from jumps: as areas under the curve
    ours = np.interp(grid, curve.p_fa[::-1], curve.p_miss[::-1])
    assert np.trapezoid(ours, grid) == pytest.approx(np.trapezoid(oracle, grid), abs=1e-9)
    after = int(np.argmax(1 - hit <= p_fa))
    miss, fa = 1 - hit, p_fa
    share = (miss[after - 1] - fa[after - 1]) / (miss[after - 1] - fa[after - 1] + fa[after] - miss[after])
    assert curve.eer().rate == pytest.approx(fa[after - 1] + share * (fa[after] - fa[after - 1]), abs=1e-12)
    assert curve.min_dcf(0.01).cost == pytest.approx(np.min(miss + 99 * fa), abs=1e-9)


def test_nothing_depends_on_the_order_or_on_a_monotone_transform() -> None:
    rng = np.random.default_rng(6)
    scores, labels = random_list(rng, 500, 20)
    units = rng.integers(0, 20, (2, 500))
    units[1, labels] = units[0, labels]
    curve = det_curve(scores, labels)
    figures = (curve.eer().rate, curve.rocch_eer(), curve.min_dcf(0.05).cost, curve.min_cllr())
    estimates = estimate(scores, labels, units[0], units[1], (0.05,))
    for order in (rng.permutation(500), np.argsort(scores), np.argsort(labels, kind="stable")):
        for changed in (scores, np.exp(scores) / 7):
            other = det_curve(changed[order], labels[order])
            assert (
                other.eer().rate,
                other.rocch_eer(),
                other.min_dcf(0.05).cost,
                other.min_cllr(),
            ) == figures
        again = estimate(scores[order], labels[order], units[0, order], units[1, order], (0.05,))
        assert again.eer.variance == pytest.approx(estimates.eer.variance, rel=1e-12)
        assert again.min_dcf[0].variance == pytest.approx(estimates.min_dcf[0].variance, rel=1e-12)


def test_cllr_and_actual_cost_by_hand() -> None:
    llrs, labels = np.log(np.array([3.0, 1.0, 1 / 3])), np.array([True, True, False])
    expected = (np.log2(1 + 1 / 3) + np.log2(2)) / 2 / 2 + np.log2(1 + 1 / 3) / 2
    assert cllr(llrs, labels) == pytest.approx(expected, abs=1e-15)
    assert cllr(np.zeros(3), labels) == pytest.approx(1, abs=1e-15)
    assert cllr(np.array([800.0, 800.0, -800.0]), labels) == 0
    cost = act_dcf(llrs, labels, 0.5)
    assert (cost.threshold, cost.p_miss, cost.p_fa, cost.cost) == (0, 0, 0, 0)
    cost = act_dcf(llrs, labels, 0.3)  # threshold log(7/3): the second target is missed
    assert (cost.p_miss, cost.p_fa, cost.cost) == (0.5, 0, 0.5)


def test_calibration_can_only_cost() -> None:
    rng = np.random.default_rng(7)
    for _ in range(100):
        llrs, labels = random_list(rng, 50, 10)
        curve = det_curve(llrs, labels)
        assert cllr(llrs, labels) >= curve.min_cllr() - 1e-12
        assert act_dcf(llrs, labels, 0.2).cost >= curve.min_dcf(0.2).cost - 1e-12


@pytest.mark.parametrize("labels", [[True, True], [False, False]])
def test_one_kind_of_trial_is_an_error(labels: list[bool]) -> None:
    with pytest.raises(InputError, match="need both kinds"):
        det_curve(np.array([0.0, 1.0]), np.array(labels))
    with pytest.raises(InputError, match="need both kinds"):
        cllr(np.array([0.0, 1.0]), np.array(labels))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("at", [0, 1, 2, 3])
def test_scores_that_are_not_finite_are_an_error(bad: float, at: int) -> None:
    scores = np.array([0.0, 1.0, 2.0, 3.0])
    scores[at] = bad
    with pytest.raises(InputError, match="finite"):
        det_curve(scores, np.array([True, False, True, False]))


def test_priors_and_costs_are_checked() -> None:
    curve = det_curve(np.array([0.0, 1.0]), np.array([False, True]))
    for p_target in (0.0, 1.0, -0.1, np.nan):
        with pytest.raises(InputError, match="p_target"):
            curve.min_dcf(p_target)
    with pytest.raises(InputError, match="costs"):
        curve.min_dcf(0.5, c_fa=0)


@pytest.mark.corpus
def test_voxsrc_figures(shared: Path) -> None:
    trials = TrialList.read(shared / "voxceleb" / "voxsrc2021_val_trials.txt")
    curve = DetCurve.of(ScoreList.read(shared / "voxceleb" / "voxsrc2021_val_scores.txt", trials))
    assert round(100 * curve.eer().rate, 3) == 5.177
    assert round(curve.min_dcf(0.05).cost, 4) == 0.2928
    assert round(curve.min_dcf(0.01).cost, 4) == 0.4261
