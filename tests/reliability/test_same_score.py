"""The same samples get the same embedding: in any order and batch, from any format, and over versions."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

import speakerverif
from speakerverif.data.manifest import Utterance
from speakerverif.inference.embed import embed
from speakerverif.models.folder import read_model_folder
from tests.conftest import RATE

GOLDEN = Path(__file__).with_name("golden.json")


def buzz(pitch: float, seconds: float) -> np.ndarray:
    """Return int16 samples of harmonics in syllables, by arithmetic alone."""
    t = np.arange(round(seconds * RATE)) / RATE
    harmonics = sum(np.sin(2 * np.pi * pitch * k * t) / k for k in range(1, 20))
    return np.round(6000 * harmonics * (0.55 + 0.45 * np.sin(2 * np.pi * 4 * t))).astype(np.int16)


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def test_golden_embeddings_of_the_built_in_model() -> None:
    golden = json.loads(GOLDEN.read_text())
    model = speakerverif.load_model()
    assert model.fingerprint == golden["fingerprint"], "another model: make golden.json again, and say so"
    for pitch, vector in golden["embeddings"].items():
        embedding = model.embed(buzz(float(pitch), 1.5).astype(np.float32) / 32768, RATE)
        # Instruction sets and versions of torch differ by 1e-6; another computation differs by far more.
        assert cosine(embedding, np.array(vector)) >= 0.9999


def test_formats_orders_and_batches_change_nothing(tmp_path: Path) -> None:
    samples = buzz(130, 1.0)
    soundfile.write(tmp_path / "a.wav", samples, RATE, subtype="PCM_16")
    soundfile.write(tmp_path / "a.flac", samples, RATE, subtype="PCM_16")
    soundfile.write(tmp_path / "f.wav", samples.astype(np.float32) / 32768, RATE, subtype="FLOAT")
    soundfile.write(tmp_path / "b.wav", buzz(210, 0.7), RATE)
    rows = [Utterance(name, str(tmp_path / name), "") for name in ("a.wav", "a.flac", "f.wav", "b.wav")]
    folder = read_model_folder()
    together = embed(folder, rows, batch_size=4)
    alone = embed(folder, rows[::-1], batch_size=1)
    ids = [row.id for row in rows]
    first, second = together.embeddings[together.rows_of(ids)], alone.embeddings[alone.rows_of(ids)]
    assert cosine(first[0], first[1]) == pytest.approx(1, abs=1e-6)
    np.testing.assert_array_equal(second[0], second[1])
    np.testing.assert_array_equal(second[0], second[2])
    for a, b in zip(first, second, strict=True):
        assert cosine(a, b) >= 0.999999
