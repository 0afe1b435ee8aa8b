"""Bayes-error curves against the definition, and calibration that never heard the speakers it is judged on."""

import numpy as np
import pytest
from scipy.special import logit

from speakerverif.data.scores import ScoreList
from speakerverif.data.speakers import units_of
from speakerverif.data.trials import TrialList
from speakerverif.errors import InputError
from speakerverif.evaluation import cross_calibration
from speakerverif.evaluation.bayes_error import bayes_error
from speakerverif.evaluation.cross_calibration import held_out_llrs
from speakerverif.evaluation.metrics import act_dcf, cllr, det_curve
from speakerverif.scoring.calibration import fit_affine
from tests.evaluation.test_breakdown import random_task

LLRS = np.array([2.0, 0.5, -1.0, 1.0, -0.5, -2.0, -3.0])
LABELS = np.array([True, True, True, False, False, False, False])


def test_by_hand_at_even_odds() -> None:
    """At threshold 0 one of three targets is missed and one of four non-targets let in; at -1 none and two."""
    found = bayes_error(LLRS, LABELS, np.array([0.0]))
    assert found.actual[0] == pytest.approx(1 / 3 + 1 / 4)
    assert found.minimum[0] == pytest.approx(2 / 4)


def test_equals_the_costs_at_single_priors_with_ties() -> None:
    rng = np.random.default_rng(0)
    llrs, labels = rng.normal(size=400).round(1), rng.random(400) < 0.3
    llrs += 2 * labels
    priors = np.array([0.001, 0.01, 0.2, 0.5, 0.9, 0.999])
    found = bayes_error(llrs, labels, logit(priors))
    expected = [(act_dcf(llrs, labels, p).cost, det_curve(llrs, labels).min_dcf(p).cost) for p in priors]
    np.testing.assert_allclose(np.stack((found.actual, found.minimum), 1), expected, rtol=1e-12)
    assert (found.minimum <= found.actual + 1e-12).all() and (found.minimum <= 1).all()


def test_area_under_the_error_rate_is_cllr() -> None:
    """The error rate over the prior's log-odds holds an area of 2 log 2 Cllr (Brümmer and du Preez 2006)."""
    log_odds = np.linspace(-40, 40, 400_001)
    prior = 1 / (1 + np.exp(-log_odds))
    rates = bayes_error(LLRS, LABELS, log_odds).actual * np.minimum(prior, 1 - prior)
    assert np.trapezoid(rates, log_odds) / (2 * np.log(2)) == pytest.approx(cllr(LLRS, LABELS), rel=1e-3)


def test_nobody_is_calibrated_by_speakers_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    scores, units, _ = random_task()
    seen = []

    def spy(inputs: np.ndarray, labels: np.ndarray, p_target: float) -> tuple[np.ndarray, float]:
        seen.append(set(inputs[:, 0].tolist()))
        return np.array([1.0]), float(len(seen))  # the bias tells which fit a trial got

    monkeypatch.setattr(cross_calibration, "fit_affine", spy)
    which = np.round(held_out_llrs(scores, units).scores - scores.scores).astype(int)
    assert which.min() == 1 and which.max() == len(seen) == 15
    for k, fitted_on in enumerate(seen, 1):
        own = set(units.enroll[which == k]) | set(units.test[which == k])
        theirs = np.isin(scores.scores, list(fitted_on))
        assert not own & (set(units.enroll[theirs]) | set(units.test[theirs]))
        assert theirs.sum() > 300


def test_held_out_ratios_are_close_to_those_of_one_fit_and_calibrated() -> None:
    scores, units, _ = random_task(speakers=30, each=6)
    labels = np.asarray(scores.trials.labels)
    found = held_out_llrs(scores, units)
    weights, bias = fit_affine(scores.scores[:, None], labels, 0.05)
    assert np.corrcoef(found.scores, weights[0] * scores.scores + bias)[0, 1] > 0.99
    assert found.kind == "llr"
    assert cllr(found.scores, labels) < 1.1 * det_curve(found.scores, labels).min_cllr()
    assert cllr(scores.scores, labels) > 1.2 * cllr(found.scores, labels)


def test_too_few_speakers_and_scores_upside_down_are_refused() -> None:
    trials = TrialList(
        ("a/1", "a/2", "b/1"), np.array([0, 0]), np.array([1, 2]), np.array([True, False]), "t"
    )
    scores = ScoreList(trials, np.array([1.0, 0.0]))
    with pytest.raises(InputError, match="2 speakers are too few"):
        held_out_llrs(scores, units_of(trials))
    good, units, _ = random_task()
    with pytest.raises(InputError, match="score lower than non-targets"):
        held_out_llrs(ScoreList(good.trials, -good.scores), units)
