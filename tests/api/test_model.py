"""The Python interface does what a notebook's user guesses, and its documentation runs."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
import torch

import speakerverif
from speakerverif import EmbeddingTransformer, InputError, load_model
from speakerverif.inference.verify import verify

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def model(tiny_model):
    return load_model(tiny_model)


@pytest.fixture(scope="module")
def files(tiny_corpus) -> list[Path]:
    return [tiny_corpus / "spk0" / "0.wav", tiny_corpus / "spk0" / "1.wav", tiny_corpus / "spk1" / "0.wav"]


def test_the_package_alone_imports_no_torch():
    code = "import sys, speakerverif; dir(speakerverif); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
    assert all(hasattr(speakerverif, name) for name in speakerverif.__all__)
    with pytest.raises(AttributeError, match="nothing"):
        _ = speakerverif.nothing


def test_documentation_runs(tiny_model, tiny_corpus, tmp_path, monkeypatch):
    shutil.copytree(tiny_model, tmp_path / "model")
    for name, source in (("ann1", "spk0/0"), ("ann2", "spk0/1"), ("bob1", "spk1/0"), ("bob2", "spk1/1")):
        shutil.copy(tiny_corpus / f"{source}.wav", tmp_path / f"{name}.wav")
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "python.md").read_text(), re.DOTALL)
    assert len(blocks) >= 7
    names: dict[str, object] = {}
    for block in blocks:
        exec(block, names)


def test_one_or_several(model, files):
    several = model.embed(files)
    assert several.dtype == np.float32
    assert several.shape == (3, model.embedding_dim)
    for path, row in zip(files, several, strict=True):
        np.testing.assert_allclose(model.embed(str(path)), row, atol=1e-5)


@pytest.mark.parametrize("rate", [16000, 22050])
def test_samples_give_what_their_file_gives(model, files, tmp_path, rate):
    samples, own = soundfile.read(files[0], dtype="float32")
    samples = soxr.resample(samples, own, rate)
    soundfile.write(tmp_path / "a.wav", samples, rate, subtype="FLOAT")
    expected = model.embed(tmp_path / "a.wav")
    for given in (
        samples,
        samples.astype(np.float64),
        torch.from_numpy(samples),
        torch.from_numpy(samples)[None],
    ):
        np.testing.assert_allclose(model.embed(given, sample_rate=rate), expected, atol=1e-5)
    mixed = model.embed([tmp_path / "a.wav", samples], sample_rate=rate)
    np.testing.assert_allclose(mixed, np.stack([expected, expected]), atol=1e-5)


def test_integers_are_scaled(model, files):
    samples, rate = soundfile.read(files[0], dtype="int16")
    np.testing.assert_allclose(model.embed(samples, rate), model.embed(files[0]), atol=1e-5)


def test_long_samples_are_cut_as_long_files_are(model, files, tmp_path):
    samples, rate = soundfile.read(files[0], dtype="float32")
    samples = np.tile(samples, 130)
    soundfile.write(tmp_path / "long.wav", samples, rate, subtype="FLOAT")
    np.testing.assert_allclose(model.embed(samples, rate), model.embed(tmp_path / "long.wav"), atol=1e-5)


@pytest.mark.parametrize(
    ("given", "rate", "found"),
    [
        (np.zeros(16000, np.float32), None, "sample_rate"),
        (np.zeros(16000, np.float32), 16000, "silent"),
        (np.zeros((2, 16000), np.float32), 16000, "average the channels"),
        (np.zeros(16000, np.uint8), 16000, "uint8"),
        (np.full(16000, np.nan, np.float32), 16000, "non_finite"),
        (np.ones(100, np.float32), 16000, "too_short"),
    ],
)
def test_what_can_not_be_embedded_is_named(model, given, rate, found):
    with pytest.raises(InputError, match=found):
        model.embed(given, sample_rate=rate)


def test_verify_is_the_command_lines(model, files, tiny_model):
    from speakerverif.models import folder

    expected = verify(folder.read_model_folder(tiny_model), files[0], files[2], threshold=0.3)
    found = model.verify(files[0], files[2], threshold=0.3)
    assert found.score == pytest.approx(expected.score, abs=1e-6)
    assert (found.same_speaker, found.llr) == (expected.same_speaker, None)
    samples, rate = soundfile.read(files[0], dtype="float32")
    assert model.verify(samples, files[2], sample_rate=rate).score == pytest.approx(expected.score, abs=1e-5)


def test_encode_batch_has_speechbrains_shape_and_every_file_alone(model):
    wavs = 0.1 * torch.randn(2, 16000)
    both = model.encode_batch(wavs, torch.tensor([1.0, 0.5]))
    assert both.shape == (2, 1, model.embedding_dim)
    torch.testing.assert_close(both[1:], model.encode_batch(wavs[1:, :8000]), atol=1e-5, rtol=0)
    torch.testing.assert_close(model.encode_batch(wavs[0]), both[:1], atol=1e-5, rtol=0)


def test_the_transformer_is_a_scikit_learn_citizen(tiny_model, files):
    from sklearn.base import clone

    transformer = EmbeddingTransformer(str(tiny_model))
    assert clone(transformer).get_params() == transformer.get_params()
    found = transformer.fit_transform(files)
    np.testing.assert_allclose(found, load_model(tiny_model).embed(files), atol=1e-6)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there(tiny_model):
    with pytest.raises(InputError, match="no CUDA device"):
        load_model(tiny_model, device="cuda")
