"""Checked enrolment: speech, voices, samples and twins are objected to where they are wrong, and only there."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from speakerverif import InputError, Model, load_model
from speakerverif.inference.enroll import Enrolment, EnrolmentLimits, similarities_to_others
from speakerverif.inference.enrollment import Store
from speakerverif.inference.voices import similarity_of_voices, windows
from tests.conftest import RATE, voice

LIMITS = {"min_speech_s": 1.0, "min_voices": 0.99, "min_sample": 0.99, "max_twin": 0.995}


@pytest.fixture
def model(tiny_model: Path, tmp_path: Path) -> Model:
    """A model with limits; its embeddings of one voice have a cosine above 0.998, those of two below 0.98."""
    folder = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    fingerprint = load_model(folder).fingerprint
    lines = [f"{name} = {value}" for name, value in LIMITS.items()]
    text = "\n".join([f'fingerprint = "{fingerprint}"', 'measured_on = "toys"', *lines])
    (folder / "enrolment.toml").write_text(text + "\n")
    return load_model(folder)


def enrol(
    model: Model, tmp_path: Path, name: str, *recordings: np.ndarray | Path, **options: Any
) -> Enrolment:
    return model.enroll(tmp_path / "store", name, list(recordings), sample_rate=RATE, **options)


def test_right_enrolments_are_not_objected_to(model: Model, tmp_path: Path) -> None:
    for name, speaker in (("ann", 0), ("bob", 5)):
        result = enrol(model, tmp_path, name, voice(speaker, 1, 6.0), voice(speaker, 2, 2.0))
        assert (result.added, result.objections, result.checked) == (2, (), True)
    again = enrol(model, tmp_path, "ann", voice(0, 3, 2.0))
    assert again.recordings == 3 and not again.objections


@pytest.mark.parametrize(
    ("recordings", "expected"),
    [
        ([voice(0, 1, 0.8)], r"0\.\d s of speech; expected 1 s or more"),
        ([np.concatenate([voice(0, 1, 6.0), voice(5, 1, 6.0)])], "recording 0 seems to hold two voices"),
        ([np.concatenate([voice(s, 1, 3.0) for s in (0, 5, 0, 5)])], "recording 0 seems to hold two voices"),
        ([voice(0, 1, 2.0), voice(5, 1, 2.0)], "recording 0 and recording 1 seem to be of two people"),
        (
            [voice(0, 1, 2.0), voice(0, 2, 2.0), voice(5, 1, 2.0), voice(0, 3, 2.0)],
            "recording 2 seems to be of somebody else than the others",
        ),
    ],
)
def test_wrong_enrolments_are_objected_to(
    model: Model, tmp_path: Path, recordings: list[np.ndarray], expected: str
) -> None:
    with pytest.raises(InputError, match=expected) as refused:
        enrol(model, tmp_path, "ann", *recordings)
    assert "force" in str(refused.value)
    assert not (tmp_path / "store").exists() or not Store(tmp_path / "store").names()
    forced = enrol(model, tmp_path, "ann", *recordings, force=True)
    assert forced.added == len(recordings) and forced.objections


def test_a_recording_of_somebody_else_is_found_when_it_is_added_later(model: Model, tmp_path: Path) -> None:
    enrol(model, tmp_path, "ann", voice(0, 1, 2.0), voice(0, 2, 2.0))
    with pytest.raises(InputError, match="recording 0 seems to be of somebody else"):
        enrol(model, tmp_path, "ann", voice(5, 1, 2.0))


def test_somebody_enrolled_under_another_name_is_found(model: Model, tmp_path: Path) -> None:
    enrol(model, tmp_path, "ann", voice(0, 1, 2.0))
    enrol(model, tmp_path, "bob", voice(5, 1, 2.0))
    with pytest.raises(InputError, match="seems to be enrolled already, as 'ann'"):
        enrol(model, tmp_path, "anna", voice(0, 7, 2.0))


def test_the_same_recording_counts_once(model: Model, tmp_path: Path) -> None:
    first = voice(0, 1, 2.0)
    result = enrol(model, tmp_path, "ann", first, first.copy(), voice(0, 2, 2.0))
    assert (result.added, result.repeated, result.recordings) == (2, 1, 2)
    assert enrol(model, tmp_path, "ann", first).added == 0


def test_limits_of_another_model_are_refused(model: Model, tmp_path: Path) -> None:
    path = model.folder.path / "enrolment.toml"
    path.write_text(path.read_text().replace(model.fingerprint, "0" * 16))
    with pytest.raises(InputError, match="was measured with model 0000000000000000"):
        enrol(model, tmp_path, "ann", voice(0, 1, 2.0))


def test_the_built_in_model_has_limits() -> None:
    limits = EnrolmentLimits.of(load_model().folder)
    assert limits is not None and -1 < limits.min_voices < limits.max_twin < 1


def test_similarity_to_the_others_by_hand() -> None:
    found = similarities_to_others(np.array([[2.0, 0.0], [0.0, 1.0], [0.0, 3.0]], np.float32))
    np.testing.assert_allclose(found, [0.0, np.sqrt(0.5), np.sqrt(0.5)], atol=1e-6)


def test_two_groups_of_embeddings_are_told_apart_in_any_order() -> None:
    rng = np.random.default_rng(0)
    centres = np.eye(2, 16) + 0.2
    rows = np.repeat(centres, [9, 4], axis=0) + 0.05 * rng.standard_normal((13, 16))
    expected = centres[0] @ centres[1] / (np.linalg.norm(centres[0]) * np.linalg.norm(centres[1]))
    for order in (np.arange(13), rng.permutation(13)):
        assert similarity_of_voices(rows[order]) == pytest.approx(expected, abs=0.03)
        assert similarity_of_voices(rows[order] * rng.uniform(1, 9, (13, 1))) == pytest.approx(
            expected, abs=0.03
        )
    assert similarity_of_voices(rows[:9]) > 0.98
    assert similarity_of_voices(rows[:1]) == similarity_of_voices(np.ones((4, 3))) == 1.0


def test_windows_cover_a_recording() -> None:
    assert windows(2.0) == [(0.0, 2.0)]
    assert windows(6.0) == [(0.0, 3.0), (1.5, 3.0), (3.0, 3.0)]
    assert windows(4.0, 1.5, 0.75)[-1] == (2.25, 1.5)


def test_a_file_in_another_format_is_the_same_recording(model: Model, tmp_path: Path) -> None:
    samples = (voice(0, 1, 2.0) * 32767).astype(np.int16)
    for name in ("a.wav", "b.flac"):
        soundfile.write(tmp_path / name, samples, RATE)
    result = enrol(model, tmp_path, "ann", tmp_path / "a.wav", tmp_path / "b.flac", samples)
    assert (result.added, result.repeated) == (1, 2)
