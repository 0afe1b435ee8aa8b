"""Recordings cut into pieces: nothing lost, nothing twice, long ones read in one pass."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

from speakerverif.audio import reading
from speakerverif.data.manifest import Manifest, Utterance
from speakerverif.inference import chunks
from tests.conftest import RATE, voice

UNTOLD = np.array([False])


def one(duration_s: float, crops: int = 0, start_s: float = 0.0) -> chunks.Pieces:
    return chunks.cut(np.array([start_s]), np.array([duration_s]), UNTOLD, crops, 2.0)


def test_a_recording_is_whole_up_to_two_minutes() -> None:
    assert len(one(chunks.WHOLE_S)) == 1
    assert one(chunks.WHOLE_S).to_end.tolist() == [True]


def test_a_long_recording_is_cut_into_equal_pieces() -> None:
    cut = one(121.0)
    assert len(cut) == 7 and cut.number.tolist() == list(range(7))
    assert cut.duration_s == pytest.approx(121 / 7)
    assert cut.start_s == pytest.approx(np.arange(7) * 121 / 7)
    assert cut.in_turn.all() and not cut.to_end.any()
    assert not one(121.0, start_s=5.0).in_turn.any()


def test_crops_are_evenly_spaced() -> None:
    assert one(8.0, crops=4).start_s.tolist() == [0, 2, 4, 6]
    assert one(8.0, crops=1).start_s.tolist() == [3]
    assert one(1.5, crops=4).duration_s.tolist() == [1.5]


def test_nothing_is_cut_of_what_has_no_duration() -> None:
    cut = chunks.cut(np.zeros(3), np.array([1.0, np.nan, 200.0]), np.array([True, False, True]), 0, 2.0)
    assert cut.row.tolist() == [0, *[2] * 10]
    assert cut.parts.tolist() == [1, 0, 10]


def test_batches_hold_every_piece_once_within_bounds() -> None:
    seconds = np.random.default_rng(0).uniform(0.5, 20, 300)
    batches = list(chunks.batches(seconds, 8, 24.0))
    assert sorted(np.concatenate(batches).tolist()) == list(range(300))
    for batch in batches:
        assert len(batch) <= 8 and (len(batch) * seconds[batch].max() <= 24.001 or len(batch) == 1)
    longest = [seconds[batch].max() for batch in batches]
    assert longest == sorted(longest, reverse=True)
    assert [len(batch) for batch in chunks.batches(np.full(7, 0.3), 100, 0.9)] == [3, 3, 1]
    assert [len(batch) for batch in chunks.batches(np.array([50.0, 40.0]), 8, 24.0)] == [1, 1]


class Counted:
    """The module `audio`, counting how often a file is opened for reading."""

    info = staticmethod(reading.info)

    def __init__(self) -> None:
        self.reads, self.passes = 0, 0

    def read(self, *asked: object) -> np.ndarray:
        self.reads += 1
        return reading.read(*asked)  # type: ignore[arg-type]

    def blocks(self, *asked: object) -> Iterator[np.ndarray]:
        self.passes += 1
        return reading.blocks(*asked)  # type: ignore[arg-type]


def test_hundreds_of_pieces_do_not_reach_past_the_end(tmp_path: Path) -> None:
    """500 pieces of 100.7 samples each, rounded up, would take 150 samples more than there are."""
    samples = np.ones(50_350, np.float32)
    seconds = len(samples) / RATE
    cut = chunks.Pieces(
        row=np.zeros(500, np.int64),
        number=np.arange(500),
        start_s=np.arange(500) * seconds / 500,
        duration_s=np.full(500, seconds / 500),
        to_end=np.zeros(500, bool),
        in_turn=np.ones(500, bool),
        parts=np.array([500]),
    )
    soundfile.write(tmp_path / "a.wav", samples, RATE)
    utterances = [Utterance("a", str(tmp_path / "a.wav"), "")]
    readings = [r for batch in chunks.read_ahead(reading, utterances, cut, RATE, 50, 1.0) for r in batch]
    assert {len(reading.waveform) for reading in readings} == {100}


@pytest.mark.parametrize("rate", [RATE, 22050])
def test_a_long_recording_is_read_in_one_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rate: int
) -> None:
    monkeypatch.setattr(chunks, "WHOLE_S", 2.0)
    monkeypatch.setattr(chunks, "LONGEST_PIECE_S", 0.5)
    samples = voice(0, 0, 5.0)
    for name in "ab":
        soundfile.write(tmp_path / f"{name}.wav", samples, rate)
    utterances = [Utterance(name, str(tmp_path / f"{name}.wav"), "") for name in "ab"]
    seconds = np.full(2, len(samples) / rate)
    cut = chunks.cut(np.zeros(2), seconds, np.zeros(2, bool), 0, 2.0)
    source = Counted()
    batches = list(chunks.read_ahead(source, utterances, cut, RATE, 4, 1.7))
    assert (source.reads, source.passes) == (0, 2)
    for row in range(2):
        parts = [reading.waveform for batch in batches for reading in batch if reading.row == row]
        assert len(parts) == cut.parts[row]
        whole = reading.read(utterances[row].path)
        joined = np.concatenate(parts)
        assert abs(len(joined) - len(whole)) <= len(parts)
        np.testing.assert_array_equal(joined, whole[: len(joined)])


def test_a_recording_that_ends_early_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "WHOLE_S", 1.0)
    monkeypatch.setattr(chunks, "LONGEST_PIECE_S", 1.0)
    path = tmp_path / "a.wav"
    soundfile.write(path, voice(0, 0, 2.5), RATE)
    cut = chunks.cut(np.zeros(1), np.array([4.0]), np.array([True]), 0, 2.0)
    manifest = Manifest.from_utterances([Utterance("a", str(path), "s", 0.0, 4.0)])
    readings = [r for batch in chunks.read_ahead(reading, manifest, cut, RATE, 1, 1.0) for r in batch]
    assert [reading.status for reading in readings[:2]] == ["ok", "ok"]
    assert all("a.wav" in reading.status and "ends" in reading.status for reading in readings[2:])
