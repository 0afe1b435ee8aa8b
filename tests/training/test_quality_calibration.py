"""The trials of training speakers that quality measures are fitted on."""

import dataclasses

import numpy as np
import pytest

from speakerverif.config import CalibrationConfig, Recipe, ScoreConfig
from speakerverif.data.manifest import Manifest, Utterance
from speakerverif.errors import InputError
from speakerverif.training.quality_calibration import _trials, check_calibration, draw


def manifest(speakers: int, each: int, seconds: float | None = 10.0) -> Manifest:
    return Manifest.from_utterances(
        Utterance(f"s{s}/{n}", f"s{s}/{n}.wav", f"s{s}", 1.0, seconds)
        for s in range(speakers)
        for n in range(each)
    )


def recipe(**changes: object) -> Recipe:
    config = dataclasses.replace(CalibrationConfig(trials=300), **changes)  # type: ignore[arg-type]
    return Recipe(score=ScoreConfig(norm="snorm"), calibration=config)


def test_each_recording_is_drawn_whole_and_as_a_cut_of_it() -> None:
    groups = draw(recipe(), manifest(12, 6))
    assert len(groups) == 5
    speakers = [{u.speaker for u in group.utterances} for group in groups]
    assert sum(map(len, speakers)) == len(set.union(*speakers)) == 12  # groups share no speaker
    for group in groups:
        wholes, cuts = group.utterances[::2], group.utterances[1::2]
        assert group.is_short.tolist() == [False, True] * len(wholes)
        for whole, cut in zip(wholes, cuts, strict=True):
            assert whole.path == cut.path and (whole.start_s, whole.duration_s) == (1.0, 10.0)
            assert cut.duration_s is not None and 2 <= cut.duration_s <= 6
            assert cut.start_s >= 1.0 and cut.start_s + cut.duration_s <= 11.0
    assert all(sum(u.speaker == "s3" for u in group.utterances) in (0, 8) for group in groups)


@pytest.mark.parametrize(("seconds", "longest"), [(0.5, 0.5), (3.0, 3.0), (None, 6.0)])
def test_a_short_recording_is_not_cut_beyond_its_end(seconds: float | None, longest: float) -> None:
    for group in draw(recipe(), manifest(4, 2, seconds)):
        for cut in group.utterances[1::2]:
            assert cut.duration_s is not None and cut.duration_s <= longest
            if seconds is not None:
                assert cut.start_s + cut.duration_s <= 1.0 + seconds + 1e-9


def test_the_same_seed_draws_the_same() -> None:
    first, again, other = (
        draw(dataclasses.replace(recipe(speakers=6), seed=seed), manifest(12, 6)) for seed in (1, 1, 2)
    )
    ids = [[u.id for group in groups for u in group.utterances] for groups in (first, again, other)]
    assert ids[0] == ids[1] != ids[2] and len(ids[0]) == 6 * 4 * 2


def test_trials_are_of_all_three_kinds_and_never_within_a_recording() -> None:
    cuts = draw(recipe(), manifest(12, 6))[0]
    trials = _trials(cuts, 30, np.random.default_rng(0))
    place = [[u.id for u in cuts.utterances].index(name) for name in trials.ids]
    enroll, test = np.array(place)[trials.enroll], np.array(place)[trials.test]
    assert np.bincount(cuts.is_short[enroll].astype(int) + cuts.is_short[test]).tolist() == [30, 30, 30]
    assert not (cuts.recording[enroll] == cuts.recording[test]).any()
    speakers = np.array([u.speaker for u in cuts.utterances])
    assert trials.labels is not None and trials.labels.sum() == 45
    assert ((speakers[enroll] == speakers[test]) == trials.labels).all()


@pytest.mark.parametrize(
    ("score", "speakers", "message"),
    [
        (ScoreConfig(norm="none"), 50, "needs a cohort"),
        (ScoreConfig(norm="asnorm", top_n=45), 50, "the cohort has fewer than 45"),
        (ScoreConfig(norm="snorm"), 1, "expected 2 or more"),
    ],
)
def test_a_calibration_that_cannot_be_fitted_is_refused(
    score: ScoreConfig, speakers: int, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        check_calibration(dataclasses.replace(recipe(), score=score), speakers)
    check_calibration(recipe(), 50)
    check_calibration(dataclasses.replace(recipe(trials=0), score=score), speakers)
