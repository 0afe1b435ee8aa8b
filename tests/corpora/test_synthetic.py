"""The synthetic corpus: the same every time, plausible voices, trials between held-out speakers' sessions."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import soundfile

from speakerverif.corpora import _voice, synthetic
from speakerverif.corpora._voice import Mood, draw_voice, utter
from speakerverif.corpora.synthetic import Shape
from speakerverif.data.manifest import Manifest
from speakerverif.data.trials import TrialList
from speakerverif.errors import InputError

TINY = Shape(num_speakers=4, sessions_per_speaker=2, utterances_per_session=2, duration_s=(0.5, 0.8), seed=5)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("synthetic")
    synthetic.make(root, TINY)
    return root


def files(root: Path) -> list[Path]:
    return sorted(path.relative_to(root / "wav") for path in (root / "wav").rglob("*.wav"))


def test_same_bytes_whatever_the_number_of_threads(corpus: Path, tmp_path: Path) -> None:
    synthetic.make(tmp_path, TINY, workers=1)
    assert files(tmp_path) == files(corpus)
    for path in files(corpus):
        assert (corpus / "wav" / path).read_bytes() == (tmp_path / "wav" / path).read_bytes()


def test_the_tree_is_voxcelebs_and_every_recording_another(corpus: Path) -> None:
    names = [path.as_posix() for path in files(corpus)]
    assert names == [f"id0000{n}/s{s}/0000{u}.wav" for n in (1, 2, 3, 4) for s in (1, 2) for u in (1, 2)]
    assert len({(corpus / "wav" / name).read_bytes() for name in names}) == 16
    for name in names:
        header = soundfile.info(corpus / "wav" / name)
        assert (header.samplerate, header.channels, header.subtype) == (16000, 1, "PCM_16")
        assert 0.49 < header.duration < 0.81
        samples, _ = soundfile.read(corpus / "wav" / name)
        assert -33 < 20 * np.log10(np.sqrt(np.mean(samples**2))) < -17
        assert np.abs(samples).max() < 1


def test_a_speaker_does_not_depend_on_how_many_there_are(corpus: Path, tmp_path: Path) -> None:
    synthetic.make(tmp_path, Shape(1, 1, 1, (0.5, 0.8), seed=5, first_speaker=2))
    (alone,) = files(tmp_path)
    assert alone.as_posix() == "id00003/s1/00001.wav"
    assert (tmp_path / "wav" / alone).read_bytes() == (corpus / "wav" / alone).read_bytes()


def test_prepare_makes_once_and_splits_by_speaker(tmp_path: Path) -> None:
    root, out = tmp_path / "corpus", tmp_path / "lists"
    prepared = synthetic.prepare(root, out, TINY, held_out_speakers=2, num_trials=100)
    made = {path: (root / "wav" / path).stat().st_mtime_ns for path in files(root)}
    again = synthetic.prepare(root, out, TINY, held_out_speakers=2, num_trials=100)
    assert again == prepared
    assert made == {path: (root / "wav" / path).stat().st_mtime_ns for path in files(root)}

    train, dev = Manifest.read(prepared.train), Manifest.read(out / "dev.tsv")
    assert (train.speakers, dev.speakers) == (["id00001", "id00002"], ["id00003", "id00004"])
    assert len(train) == len(dev) == 8
    assert all(Path(utterance.path).is_file() for utterance in [*train, *dev])

    trials = TrialList.read(prepared.trials["trials"])
    # Each speaker has 2 x 2 pairs of different sessions, so 8 target trials and as many non-targets.
    assert trials.labels is not None and trials.labels.tolist().count(True) == 8 and len(trials) == 16
    pairs = set()
    for enroll, test, label in zip(trials.enroll_ids(), trials.test_ids(), trials.labels, strict=True):
        assert (prepared.audio_root / enroll).is_file() and (prepared.audio_root / test).is_file()
        assert (enroll[:7] == test[:7]) == label
        assert not label or enroll.split("/")[1] != test.split("/")[1]
        assert {enroll[:7], test[:7]} <= set(dev.speakers)
        pairs.add(frozenset((enroll, test)))
    assert len(pairs) == 16


def test_an_interrupted_corpus_is_made_anew(tmp_path: Path) -> None:
    synthetic.make(tmp_path, TINY)
    (tmp_path / "corpus.json").unlink()
    (tmp_path / "wav" / "id00002" / "s1" / "00001.wav").write_bytes(b"half")
    synthetic.prepare(tmp_path, tmp_path / "lists", TINY, held_out_speakers=2)
    assert soundfile.info(tmp_path / "wav" / "id00002" / "s1" / "00001.wav").duration > 0.4


def test_another_corpus_in_the_same_folder_is_refused(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"'seed': 5.*'seed': 6"):
        synthetic.prepare(corpus, tmp_path, Shape(4, 2, 2, (0.5, 0.8), seed=6), held_out_speakers=2)


def test_a_split_without_training_speakers_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="4 speakers with 4 held out"):
        synthetic.prepare(tmp_path, tmp_path, TINY, held_out_speakers=4)


def pitch_hz(samples: np.ndarray) -> float:
    """Return the median pitch of the loud frames, from the autocorrelation."""
    frames = np.lib.stride_tricks.sliding_window_view(samples, 800)[::160] * np.hanning(800)
    loud = frames[np.square(frames).sum(1) > 0.5 * np.square(frames).sum(1).mean()]
    spectra = np.abs(np.fft.rfft(loud, 2048)) ** 2
    correlation = np.fft.irfft(spectra)[:, : 16000 // 60]
    lags = 16000 // 500 + correlation[:, 16000 // 500 :].argmax(1)
    return float(np.median(16000 / lags))


@pytest.mark.parametrize("speaker", range(6))
def test_the_pitch_is_the_voices(speaker: int) -> None:
    voice = draw_voice(np.random.default_rng((1, speaker)))
    measured = [
        pitch_hz(utter(voice, Mood(f0=mood), np.random.default_rng(speaker), 4.0)) for mood in (1, 1.2)
    ]
    assert measured[0] == pytest.approx(voice.f0_hz, rel=0.12)
    assert measured[1] / measured[0] == pytest.approx(1.2, rel=0.03)


def test_formants_stand_where_the_tract_says() -> None:
    voice = draw_voice(np.random.default_rng(0))
    targets = np.array([[700.0, 1200.0, 2500.0], [300.0, 2100.0, 2900.0]])
    rows = dict.fromkeys(
        ("f0_hz", "voicing", "aspiration", "frication", "centre_hz", "width_hz", "nasal"), np.zeros(2)
    )
    response = np.abs(_voice._tract(voice, _voice._Tracks(formants=targets, **rows)))
    for row, formants in zip(response, targets, strict=True):
        peaks = 1 + np.flatnonzero((row[1:-1] > row[:-2]) & (row[1:-1] > row[2:]))
        found = peaks[:3] * 16000 / _voice.FFT
        np.testing.assert_allclose(found, formants, atol=40)  # a bin is 31 Hz


def test_overlap_add_gives_back_what_was_cut_up() -> None:
    samples = np.random.default_rng(0).standard_normal(20 * _voice.HOP)
    again = _voice._overlap_add(_voice._spectra(samples))
    # Only the first half window lies under one window instead of two.
    np.testing.assert_allclose(again[_voice.HOP :], samples[_voice.HOP :], atol=1e-12)


def test_pitch_alone_does_not_tell_the_speakers() -> None:
    pitches = np.sort([synthetic.voice_of(0, speaker).f0_hz for speaker in range(80)])
    assert 75 < pitches[0] < 110 and 280 < pitches[-1] < 420
    # Moods move the pitch by 5 %: hardly a speaker has that much room to both neighbours.
    steps = [np.log(high / low) for low, high in pairwise(pitches)]
    assert np.median(steps) < 0.03


def test_sessions_differ_in_room_microphone_and_noise() -> None:
    first, second = (synthetic._session(0, 0, session) for session in (0, 1))
    assert first.mood != second.mood and first.snr_db != second.snr_db
    assert first.channel.shape != second.channel.shape or not np.allclose(first.channel, second.channel)
    for session in (first, second):
        # Direct sound first and loudest: a recording starts when its speaker does.
        assert np.abs(session.channel).argmax() < 16


def test_a_corpus_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for root in (tmp_path / "file", tmp_path / "file" / "below", Path("/dev/null")):
        with pytest.raises(InputError, match="can't write the synthetic corpus: Not a directory"):
            synthetic.make(root, TINY)
