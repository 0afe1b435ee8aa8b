"""Variance, intervals and p-values over speakers."""

import numpy as np
import pytest
from scipy import special, stats

from speakerverif.scoring.speaker_intervals import Figure, SpeakerPairs, why_no_interval


def test_the_mean_of_speakers_has_students_interval() -> None:
    """Target trials alone, one for each speaker: the variance of a mean, and on the scale of log odds its interval."""
    values = np.random.default_rng(0).random(12)
    speakers = np.arange(12)
    mean = SpeakerPairs.of(speakers, speakers).figure(values.mean(), (values - values.mean()) / 12)
    assert mean.variance == pytest.approx(values.var(ddof=1) / 11, rel=1e-12)
    low, high = mean.interval() or (0, 0)
    reach = stats.t.ppf(0.975, 11) * np.sqrt(mean.variance) / (values.mean() * (1 - values.mean()))
    assert special.logit([low, high]) == pytest.approx(special.logit(values.mean()) + [-reach, reach])


@pytest.mark.parametrize("own", [0.0, 1.0])
def test_the_variance_over_pairs_is_unbiased(own: float) -> None:
    """Every pair of ten speakers compared, with effects of speakers and of pairs: 4 own² / S + pair² / P."""
    rng, size = np.random.default_rng(1), 12
    enroll, test = np.triu_indices(size, 1)
    pairs, found = SpeakerPairs.of(enroll, test), []
    for _ in range(2000):
        effect = own * rng.normal(size=size)
        values = effect[enroll] + effect[test] + rng.normal(size=len(enroll))
        figure = pairs.figure(0.5, (values - values.mean()) / len(values))
        across, within_pairs = float(figure.across @ figure.across), float(figure.between @ figure.between)
        found.append(size * (size - 1) / ((size - 2) * (size - 3)) * (across - within_pairs))
        assert figure.variance >= max(found[-1], within_pairs) - 1e-15
    truth = 4 * own**2 / size + 1 / len(enroll)
    assert np.mean(found) == pytest.approx(truth, abs=4 * np.std(found) / np.sqrt(len(found)))


def test_sides_may_be_swapped_and_trials_shuffled() -> None:
    rng = np.random.default_rng(2)
    enroll, test = rng.integers(0, 15, (2, 300))
    influence = rng.normal(size=300)
    figure, order, swapped = SpeakerPairs.of(enroll, test).figure(0.2, influence), rng.permutation(300), []
    for first, second in ((test, enroll), (enroll[order], test[order])):
        moved = influence if first is test else influence[order]
        swapped.append(SpeakerPairs.of(first, second).figure(0.2, moved).variance)
    assert swapped == pytest.approx([figure.variance] * 2, rel=1e-12)


def test_a_p_value_says_where_the_interval_ends_at_zero() -> None:
    rng = np.random.default_rng(3)
    enroll, test = rng.integers(0, 15, (2, 300))
    pairs = SpeakerPairs.of(enroll, test)
    first, second = (pairs.figure(value, rng.normal(size=300) / 300) for value in (0.1, 0.3))
    difference = second - first
    p_value = difference.p_value()
    assert p_value is not None and 0 < p_value < 1
    low, high = difference.interval(1 - p_value) or (1, 1)
    assert low == pytest.approx(0, abs=1e-9) and high == pytest.approx(0.4)
    assert (first - first).p_value() == 1 and (first - first).interval() is None
    mean = Figure.mean([first, second])
    assert mean.value == pytest.approx(0.2)
    assert mean.across == pytest.approx((first.across + second.across) / 2)


@pytest.mark.parametrize("seed", [4, 5])
def test_the_sums_are_those_of_all_pairs_of_trials_that_share_a_speaker(seed: int) -> None:
    """The estimator as its papers write it, without the factors for few speakers: a double sum over trials."""
    rng = np.random.default_rng(seed)
    enroll, test = rng.integers(0, 9, (2, 200))
    influence = rng.normal(size=200)
    shared = (
        (enroll[:, None] == enroll)
        | (enroll[:, None] == test)
        | (test[:, None] == enroll)
        | (test[:, None] == test)
    )
    figure = SpeakerPairs.of(enroll, test).figure(0.5, influence)
    total = figure.within + figure.across
    assert total @ total - figure.between @ figure.between == pytest.approx(influence @ shared @ influence)


def test_only_speakers_with_trials_count() -> None:
    """Numbers that no trial has are no speakers; a rate rests on the speakers with trials of its kind."""
    rng = np.random.default_rng(6)
    enroll, test = rng.integers(0, 15, (2, 300))
    influence = rng.normal(size=300) / 300
    gaps = SpeakerPairs.of(7 * enroll + 3, 7 * test + 3)
    assert (
        gaps.figure(0.2, influence).interval()
        == SpeakerPairs.of(enroll, test).figure(0.2, influence).interval()
    )
    apart = np.append(np.arange(14), 0), np.append(np.arange(14) + 1, 0)
    few = SpeakerPairs.of(*apart)
    assert (few.speakers, few.compared, few.own, few.fewest) == (15, 15, 1, 1)


def test_the_rule_names_its_reason() -> None:
    assert why_no_interval(None) == "the speakers are unknown; --speakers names them"
    assert why_no_interval(9, (50,)) == "9 speakers are too few; it takes 10"
    assert why_no_interval(10, (50, 4.4)) == "fewer than 5 errors"
    assert why_no_interval(10, (50, 5), step=0.02) == "one more error would move it by over 0.01"
    assert why_no_interval(10, (50, 4.6), step=0.01) is None
