"""Calibration against analytic likelihood ratios, scikit-learn and held-out trials."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy import special

from speakerverif.data.scores import ScoreKind, ScoreList
from speakerverif.data.trials import TrialList
from speakerverif.errors import InputError
from speakerverif.evaluation import metrics
from speakerverif.scoring import calibration, decision, quality_measures


def gaussian(
    rng: np.random.Generator, targets: int, nontargets: int, gap: float = 3.0, spread: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """Return scores whose LLR is known: N(gap, spread²) for targets, N(0, spread²) for non-targets."""
    labels = np.arange(targets + nontargets) < targets
    scores = spread * rng.standard_normal(len(labels)) + gap * labels
    return scores, labels


def listed(
    scores: np.ndarray, labels: np.ndarray | None, kind: ScoreKind = "cosine", prefix: str = "u"
) -> ScoreList:
    """Return scores as a list in which each trial has files of its own."""
    count = len(scores)
    ids = tuple(f"{prefix}{i}" for i in range(2 * count))
    enroll = np.arange(count, dtype=np.int32)
    trials = TrialList(ids, enroll, enroll + count, labels, name="trials.txt", sha256="abc")
    return ScoreList(trials=trials, scores=scores, kind=kind)


@pytest.mark.parametrize("p_target", [0.5, 0.05])
def test_the_fit_recovers_the_analytic_likelihood_ratio(p_target: float) -> None:
    """For equal variances: LLR = gap / spread² · score − gap² / (2 spread²), here 6 s − 4.5."""
    scores, labels = gaussian(np.random.default_rng(0), 100_000, 300_000, gap=1.5, spread=0.5)
    weights, bias = calibration.fit_affine(scores[:, None], labels, p_target)
    assert_allclose([weights[0], bias], [6.0, -4.5], rtol=0.03)


def test_the_fit_agrees_with_scikit_learn() -> None:
    linear_model = pytest.importorskip("sklearn.linear_model")
    rng = np.random.default_rng(1)
    labels = np.arange(600) < 200
    inputs = rng.standard_normal((600, 3)) * [1, 5, 0.2] + labels[:, None] * [1, 2, 0.1]
    weights, bias = calibration.fit_affine(inputs, labels, 0.2)
    share = np.where(labels, 0.2 / 200, 0.8 / 400)
    oracle = linear_model.LogisticRegression(C=np.inf, tol=1e-12, max_iter=1000, solver="newton-cholesky")
    oracle.fit(inputs, labels, sample_weight=share)
    assert_allclose(weights, oracle.coef_[0], rtol=1e-3)
    assert_allclose(bias, oracle.intercept_[0] - special.logit(0.2), rtol=1e-3)


def test_the_fit_does_not_mind_order_or_how_often_a_class_is_repeated() -> None:
    scores, labels = gaussian(np.random.default_rng(2), 300, 700)
    weights, bias = calibration.fit_affine(scores[:, None], labels, 0.05)
    order = np.random.default_rng(3).permutation(1000)
    again = calibration.fit_affine(scores[order, None], labels[order], 0.05)
    assert_allclose([again[0][0], again[1]], [weights[0], bias], rtol=1e-6)
    twice = np.concatenate([scores, scores[~labels]])  # the prior, not the counts, weighs the classes
    again = calibration.fit_affine(twice[:, None], np.append(labels, np.zeros(700, bool)), 0.05)
    assert_allclose([again[0][0], again[1]], [weights[0], bias], rtol=0.02)


def test_separable_scores_do_not_diverge() -> None:
    scores = np.array([0.1, 0.2, 0.3, 0.7, 0.8, 0.9])
    labels = scores > 0.5
    weights, bias = calibration.fit_affine(scores[:, None], labels, 0.5)
    llr = scores * weights[0] + bias
    assert np.isfinite(llr).all()
    assert llr[3] > 0 > llr[2]
    assert np.abs(llr).max() < 100


def test_far_lands_within_sampling_error_on_held_out_trials() -> None:
    """Over 10 repetitions the held-out rate is 1 % on average, and scatters as binomial counts do."""
    rng, rates = np.random.default_rng(4), []
    for _ in range(10):
        scores, labels = gaussian(rng, 300, 5000)
        fitted = calibration.fit([listed(scores, labels)], far=0.01)
        held_out, answers = gaussian(rng, 300, 5000)
        assert fitted.point is not None
        llr = fitted.apply([listed(held_out, answers)]).scores
        rates.append(decision.operating_point(llr, answers, fitted.point.threshold).p_fa)
    error = np.sqrt(0.01 * 0.99 * 2 / 5000)  # of the threshold's own sample and of the held-out one
    assert abs(np.mean(rates) - 0.01) < 3 * error / np.sqrt(10)
    assert np.max(np.abs(np.array(rates) - 0.01)) < 4 * error


def test_threshold_at_far_by_hand_with_ties() -> None:
    labels = np.array([True, *[False] * 10])
    scores = np.array([0.95, 0.9, 0.8, 0.8, 0.5, 0.4, 0.3, 0.2, 0.1, 0.1, 0.0])
    for far, accepted in ((0.1, 1), (0.2, 1), (0.3, 3), (0.35, 3)):  # the two at 0.8 can't be told apart
        threshold = decision.threshold_at_far(scores, labels, far)
        assert (scores[~labels] >= threshold).sum() == accepted
    with pytest.raises(InputError, match=r"10 non-target trials can show, 0\.1 or more"):
        decision.threshold_at_far(scores, labels, 0.05)


def test_actual_cost_is_close_to_the_minimum_on_held_out_trials() -> None:
    rng = np.random.default_rng(5)
    scores, labels = gaussian(rng, 3000, 30_000)
    fitted = calibration.fit([listed(np.tanh(scores / 4), labels)])
    held_out, answers = gaussian(rng, 3000, 30_000)
    llr = fitted.apply([listed(np.tanh(held_out / 4), answers)]).scores
    actual = metrics.act_dcf(llr, answers, 0.05)
    assert_allclose(actual.threshold, decision.bayes_threshold(0.05))
    assert actual.cost < 1.1 * metrics.det_curve(llr, answers).min_dcf(0.05).cost


def test_bayes_threshold_by_hand() -> None:
    assert_allclose(decision.bayes_threshold(0.5), 0.0, atol=1e-15)
    assert_allclose(decision.bayes_threshold(0.05), np.log(19))
    assert_allclose(decision.bayes_threshold(0.5, c_miss=10, c_fa=1), -np.log(10))


def test_fusion_beats_either_system_and_matches_pairs_in_any_order() -> None:
    rng = np.random.default_rng(6)
    first, labels = gaussian(rng, 2000, 20_000, gap=2)
    second, _ = gaussian(rng, 2000, 20_000, gap=2)
    one, other = listed(first, labels), listed(second, labels, kind="plda")
    fused = calibration.fit([one, other], p_target=0.5)
    assert_allclose(fused.weights, [2, 2], rtol=0.1)  # independent systems: their LLRs add up
    assert_allclose(fused.bias, -4, rtol=0.1)

    order = rng.permutation(len(labels))
    renamed = rng.permutation(len(one.trials.ids))  # ids stand elsewhere in the other list's vocabulary
    ids = tuple(one.trials.ids[i] for i in np.argsort(renamed))
    trials = TrialList(
        ids,
        renamed[one.trials.enroll][order].astype(np.int32),
        renamed[one.trials.test][order].astype(np.int32),
        None,
        name="other.txt",
    )
    shuffled = ScoreList(trials=trials, scores=second[order], kind="plda")
    assert_allclose(fused.apply([one, shuffled]).scores, fused.apply([one, other]).scores)

    short = dataclasses.replace(
        trials, enroll=np.delete(trials.enroll, order.argmin()), test=np.delete(trials.test, order.argmin())
    )
    missing = ScoreList(trials=short, scores=np.delete(second[order], order.argmin()), kind="plda")
    with pytest.raises(
        InputError, match=r"other\.txt: no score for 1 of the 22000 pairs of trials\.txt: u0 u22000"
    ):
        fused.apply([one, missing])


def test_quality_measures_tell_short_recordings_apart() -> None:
    """Where a duration shifts all scores, giving the duration takes the shift out again."""
    rng = np.random.default_rng(7)
    scores, labels = gaussian(rng, 4000, 40_000, gap=2)
    logs = rng.uniform(-2, 2, (2, len(labels)))
    shifted = listed(scores + np.minimum(*logs), labels)
    quality = quality_measures.both_sides("log_duration", *logs)
    assert set(quality) == {"log_duration_low", "log_duration_high"}
    fitted = calibration.fit([shifted], quality, p_target=0.5)
    assert_allclose(fitted.weights, [2, -2, 0], atol=0.15)
    mirrored = quality_measures.both_sides("log_duration", *logs[::-1])
    assert_allclose(fitted.apply([shifted], mirrored).scores, fitted.apply([shifted], quality).scores)


def test_intervals_widen_where_speakers_repeat() -> None:
    rng = np.random.default_rng(8)
    speaker = np.repeat(np.arange(20), 50)  # 20 speakers with 50 trials each, alike within a speaker
    scores = rng.standard_normal(20)[speaker] + 0.1 * rng.standard_normal(1000)
    labels = np.arange(1000) % 2 == 0
    loose = decision.operating_point(scores, labels, 0.5, (speaker, speaker))
    shuffled = rng.permutation(speaker)
    tight = decision.operating_point(scores, labels, 0.5, (shuffled, shuffled))
    assert loose.p_fa_ci95 is not None and tight.p_fa_ci95 is not None
    assert np.ptp(loose.p_fa_ci95) > 2 * np.ptp(tight.p_fa_ci95)
    unknown = decision.operating_point(scores, labels, 0.5)
    assert (loose.speakers, unknown.speakers, unknown.p_fa_ci95) == (20, 0, None)
    assert set(unknown.without_interval.values()) == {"the speakers are unknown; --speakers names them"}


def test_a_calibration_reads_back_as_it_was_written(tmp_path: Path) -> None:
    scores, labels = gaussian(np.random.default_rng(10), 200, 2000)
    fitted = calibration.fit([listed(scores, labels)], far=0.01, fingerprint="f00d")
    fitted.save(tmp_path / "calibration.toml")
    assert calibration.Calibration.load(tmp_path / "calibration.toml") == fitted
    assert fitted.trials_sha256 == "abc"
    assert fitted.point is not None
    threshold = fitted.score_threshold(fitted.point.threshold)
    assert (
        (scores >= threshold) == (fitted.apply([listed(scores, labels)]).scores >= fitted.point.threshold)
    ).all()

    (tmp_path / "broken.toml").write_text("bias = 1.0\n")
    with pytest.raises(InputError, match=r"broken\.toml: the key '\w+' is missing"):
        calibration.Calibration.load(tmp_path / "broken.toml")


def test_errors_name_what_is_wrong() -> None:
    scores, labels = gaussian(np.random.default_rng(11), 100, 100)
    one = listed(scores, labels)
    with pytest.raises(InputError, match="has no labels"):
        calibration.fit([dataclasses.replace(one, trials=dataclasses.replace(one.trials, labels=None))])
    with pytest.raises(InputError, match="target trials score lower"):
        calibration.fit([dataclasses.replace(one, scores=-scores)])
    with pytest.raises(InputError, match="200 target trials of 200"):
        calibration.fit([listed(scores, np.ones(200, bool))])
    with pytest.raises(InputError, match=r"inputs \[1\] of the calibration"):
        calibration.fit([one], {"snr": np.full(200, 7.0)})
    with pytest.raises(InputError, match=r"inputs \[1\] of the calibration"):
        calibration.fit([one], {"snr": np.append(np.arange(199.0), np.nan)})
    with pytest.raises(InputError, match="quality measure snr: 3 values for 200"):
        calibration.fit([one], {"snr": np.arange(3.0)})
    fitted = calibration.fit([one])
    with pytest.raises(InputError, match="expected scores of kind cosine and measures none; found plda"):
        fitted.apply([dataclasses.replace(one, kind="plda")])
