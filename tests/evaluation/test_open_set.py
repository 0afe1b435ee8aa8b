"""Open-set identification: outcomes by hand, galleries of several sizes, and intervals by another way."""

import numpy as np
import pytest
from scipy import stats

from speakerverif.errors import InputError
from speakerverif.evaluation.open_set import Outcomes, evaluate_open_set, format_open_set


def test_a_gallery_by_hand() -> None:
    # Enrolled: ann, bob. Searched: ann right, ann as bob, bob too low, cho named, cho not named.
    values = np.array([[3.0, 1.0, 0.0, 2.5, -1.0], [1.0, 2.0, 0.5, 0.0, -2.0]])
    record = evaluate_open_set(
        values, ["ann", "bob"], ["ann", "ann", "bob", "cho", "cho"], "cosine", thresholds=[1.5], fpirs=(0.5,)
    )
    fixed, chosen = record.points
    assert (fixed.gallery, fixed.fpir, fixed.fnir) == (2, 0.5, 2 / 3)
    assert (fixed.strangers, fixed.enrolled) == (2, 3) and fixed.fpir_ci95 is None
    assert -1.0 < chosen.threshold < -0.99 and (chosen.fpir, chosen.fnir) == (0.5, 1 / 3)
    assert record.mean_margin == pytest.approx((2.0 + 0.5) / 2)  # of ann's first and bob's
    assert "66.67" in format_open_set(record) and record.to_json()["points"][0]["gallery"] == 2


def drawn(speakers: int, seed: int = 0) -> tuple[np.ndarray, list[str], list[str]]:
    """Return values, enrolled and searched speakers, four searches each; half of the speakers are enrolled."""
    rng = np.random.default_rng(seed)
    names = [f"s{k}" for k in range(speakers)]
    searched = np.repeat(np.arange(speakers), 4)
    values = rng.normal(size=(speakers, len(searched))) + 3.0 * (np.arange(speakers)[:, None] == searched)
    return values[::2], names[::2], [names[k] for k in searched]


def test_more_enrolled_name_more_strangers() -> None:
    values, enrolled, searched = drawn(80)
    record = evaluate_open_set(values, enrolled, searched, "llr", thresholds=[2.5], fpirs=(0.05,))
    fixed = record.points[::2]
    assert [point.gallery for point in fixed] == [5, 10, 20, 40]
    # Each of N independent candidates is above 2.5 with a probability of 0.62 %.
    for point in fixed:
        expected = 1 - stats.norm.cdf(2.5) ** point.gallery
        assert point.fpir == pytest.approx(expected, abs=0.05)
        assert point.fpir_ci95 is not None and point.fpir_ci95[0] <= expected <= point.fpir_ci95[1]
    assert all(point.fpir <= 0.05 for point in record.points[1::2])
    assert list(record.points) == list(
        evaluate_open_set(values, enrolled, searched, "llr", thresholds=[2.5], fpirs=(0.05,)).points
    )


def test_independent_searches_have_about_the_binomial_interval() -> None:
    rng = np.random.default_rng(1)
    count = 400
    wrong = rng.random(count) < 0.1
    outcomes = Outcomes(
        9, wrong.astype(float), np.arange(count), np.arange(count) + count, np.arange(count) % 400 == 399
    )
    limits = outcomes.at(0.5).fpir_ci95
    exact = stats.binomtest(int(wrong[:-1].sum()), count - 1).proportion_ci(0.95, "exact")
    assert limits == pytest.approx((exact.low, exact.high), abs=0.003)


def test_searches_that_are_alike_within_a_speaker_or_a_candidate_widen_the_interval() -> None:
    rng = np.random.default_rng(2)
    speaker = np.repeat(np.arange(40), 10)
    wrong = (rng.random(40) < 0.3)[speaker]
    enrolled = np.zeros(400, bool)
    other = rng.integers(1000, 9000, 400)
    widths = []
    for searched, best in ((np.arange(400), other), (speaker, other), (np.arange(400), speaker + 500)):
        limits = (
            Outcomes(5, np.r_[wrong, 0.0], np.r_[searched, 0], np.r_[best, 0], np.r_[enrolled, True])
            .at(0.5)
            .fpir_ci95
        )
        assert limits is not None
        widths.append(limits[1] - limits[0])
    assert widths[1] > 2 * widths[0] and widths[2] > 2 * widths[0]


@pytest.mark.parametrize(
    ("enrolled", "searched", "sizes", "expected"),
    [
        (["ann", "ann"], ["ann"], (), "one row per enrolled speaker"),
        (["ann", "bob"], ["cho"], (), "nobody who is searched is enrolled"),
        (["ann", "bob"], ["ann"], (2,), "no others are searched"),
        (["ann", "bob"], ["cho", "ann"], (3,), "2 speakers are enrolled"),
    ],
)
def test_what_cannot_be_measured_is_refused(
    enrolled: list[str], searched: list[str], sizes: tuple[int, ...], expected: str
) -> None:
    with pytest.raises(InputError, match=expected):
        evaluate_open_set(np.zeros((2, len(searched))), enrolled, searched, "cosine", sizes=sizes)
