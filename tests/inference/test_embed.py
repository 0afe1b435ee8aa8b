"""Embedding: the same file gives the same vector, whatever stands beside it; what is broken has a name."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from speakerverif.data.embeddings import EmbeddingTable
from speakerverif.data.manifest import Manifest, Utterance
from speakerverif.errors import InputError
from speakerverif.inference import chunks
from speakerverif.inference.embed import embed
from speakerverif.models.folder import ModelFolder, read_model_folder
from tests.conftest import RATE, voice


@pytest.fixture(scope="module")
def folder(tiny_model: Path) -> ModelFolder:
    return read_model_folder(tiny_model)


def vector(table: EmbeddingTable, name: str) -> np.ndarray:
    values: np.ndarray = table.embeddings[table.rows_of([name])[0]]
    return values


def test_alone_in_any_batch_in_any_order(folder: ModelFolder, tiny_manifest: Manifest) -> None:
    utterances = list(tiny_manifest)
    alone = np.concatenate([embed(folder, [u]).embeddings for u in utterances])
    for batch_size in (1, 3, 32):
        table = embed(folder, utterances, batch_size=batch_size)
        assert list(table.ids) == [u.id for u in utterances]
        np.testing.assert_allclose(table.embeddings, alone, atol=1e-4)
    backwards = embed(folder, utterances[::-1], batch_size=5)
    np.testing.assert_allclose(backwards.embeddings[::-1], alone, atol=1e-4)
    again = embed(folder, utterances)
    assert np.array_equal(again.embeddings, embed(folder, utterances).embeddings)


def test_path_is_the_identity_not_the_basename(
    folder: ModelFolder, tiny_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = sorted(p for p in tiny_corpus.rglob("*"))
    monkeypatch.chdir(tmp_path)
    files = {f"spk{s}/0.wav": tiny_corpus / f"spk{s}" / "0.wav" for s in (0, 1)}
    table = embed(folder, [Utterance(name, str(path), "") for name, path in files.items()])
    assert np.abs(vector(table, "spk0/0.wav") - vector(table, "spk1/0.wav")).max() > 1e-2
    assert sorted(p for p in tiny_corpus.rglob("*")) == before
    assert not list(tmp_path.iterdir())


def test_too_little_speech_has_a_name_and_stops_nobody(folder: ModelFolder, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    cases = {
        "empty": np.zeros(0, np.float32),
        "short": voice(0, 0, 0.05),
        "silent": np.zeros(RATE, np.float32),
        "constant": np.full(RATE, 0.3, np.float32),
        "clipped": np.sign(rng.standard_normal(RATE)).astype(np.float32),
        "nan": np.where(np.arange(RATE) == 77, np.nan, voice(0, 0, 1.0)).astype(np.float32),
        "good": voice(0, 0, 1.0),
    }
    for name, samples in cases.items():
        soundfile.write(tmp_path / f"{name}.wav", samples, RATE, subtype="FLOAT")
    (tmp_path / "text.wav").write_text("this is not audio\n")
    names = [*cases, "text", "absent"]
    table = embed(folder, [Utterance(name, str(tmp_path / f"{name}.wav"), "") for name in names])
    assert list(table.ids) == ["good"]
    assert np.isfinite(table.embeddings).all()
    assert set(table.failed) == set(names) - {"good"}
    for name, status in {
        "silent": "silent",
        "constant": "constant",
        "clipped": "clipped",
        "nan": "non_finite",
    }.items():
        assert table.failed[name] == status
    assert "text.wav" in table.failed["text"] and "absent.wav" in table.failed["absent"]


def test_durations_and_speech_are_seconds(folder: ModelFolder, tmp_path: Path) -> None:
    spoken = np.concatenate([np.zeros(RATE, np.float32), voice(2, 1, 2.0), np.zeros(RATE, np.float32)])
    soundfile.write(tmp_path / "a.wav", spoken, RATE)
    table = embed(folder, [Utterance("a", str(tmp_path / "a.wav"), "")])
    assert table.durations[0] == pytest.approx(4.0)
    assert 1.0 < table.speech[0] < 2.5


def test_long_recordings_are_cut_and_averaged(
    folder: ModelFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = [voice(1, n, 1.0) for n in range(3)]
    soundfile.write(tmp_path / "long.wav", np.concatenate(parts), RATE)
    for n, part in enumerate(parts):
        soundfile.write(tmp_path / f"{n}.wav", part, RATE)
    monkeypatch.setattr(chunks, "WHOLE_S", 2.0)
    monkeypatch.setattr(chunks, "LONGEST_PIECE_S", 1.0)
    table = embed(folder, [Utterance(n, str(tmp_path / f"{n}.wav"), "") for n in ("long", "0", "1", "2")])
    units = [vector(table, n) / np.linalg.norm(vector(table, n)) for n in "012"]
    np.testing.assert_allclose(vector(table, "long"), np.mean(units, axis=0), atol=1e-4)
    assert table.durations[0] == pytest.approx(3.0)


def test_crops_average_unit_vectors(folder: ModelFolder, tiny_manifest: Manifest) -> None:
    whole, crops = embed(folder, list(tiny_manifest)), embed(folder, list(tiny_manifest), crops=3)
    assert np.linalg.norm(crops.embeddings, axis=1).max() <= 1 + 1e-5
    assert np.abs(whole.embeddings - crops.embeddings).max() > 1e-3


def test_segments_of_a_recording(folder: ModelFolder, tmp_path: Path) -> None:
    samples = np.concatenate([voice(0, 0, 1.0), voice(3, 0, 1.0)])
    soundfile.write(tmp_path / "two.wav", samples, RATE, subtype="FLOAT")
    soundfile.write(tmp_path / "second.wav", samples[RATE:], RATE, subtype="FLOAT")
    table = embed(
        folder,
        [
            Utterance("segment", str(tmp_path / "two.wav"), "", 1.0, 1.0),
            Utterance("file", str(tmp_path / "second.wav"), ""),
        ],
    )
    np.testing.assert_allclose(vector(table, "segment"), vector(table, "file"), atol=1e-4)


def test_nothing_to_embed_is_an_error(folder: ModelFolder) -> None:
    with pytest.raises(InputError, match="empty"):
        embed(folder, [])
