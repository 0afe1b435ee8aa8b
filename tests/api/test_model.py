"""The Python interface does what a notebook's user guesses, and its documentation runs."""

import io
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import soxr
import torch

import speakerverif
from speakerverif import EmbeddingTransformer, InputError, Model, load_model
from speakerverif.inference.enrollment import Store
from speakerverif.inference.recordings import Recording
from speakerverif.inference.verify import verify

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> Model:
    return load_model(tiny_model)


@pytest.fixture(scope="module")
def files(tiny_corpus: Path) -> list[Path]:
    return [tiny_corpus / "spk0" / "0.wav", tiny_corpus / "spk0" / "1.wav", tiny_corpus / "spk1" / "0.wav"]


def test_the_package_alone_imports_no_torch() -> None:
    code = "import sys, speakerverif; dir(speakerverif); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
    assert all(hasattr(speakerverif, name) for name in speakerverif.__all__)
    with pytest.raises(AttributeError, match="nothing"):
        _ = speakerverif.nothing


def test_documentation_runs(
    tiny_model: Path, tiny_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(tiny_model, tmp_path / "model")
    for name, source in (("ann1", "spk0/0"), ("ann2", "spk0/1"), ("bob1", "spk1/0"), ("bob2", "spk1/1")):
        shutil.copy(tiny_corpus / f"{source}.wav", tmp_path / f"{name}.wav")
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "python.md").read_text(), re.DOTALL)
    assert len(blocks) >= 7
    names: dict[str, object] = {}
    for block in blocks:
        exec(block, names)


def test_one_or_several(model: Model, files: list[Path]) -> None:
    several = model.embed(files)
    assert several.dtype == np.float32
    assert several.shape == (3, model.embedding_dim)
    for path, row in zip(files, several, strict=True):
        np.testing.assert_allclose(model.embed(str(path)), row, atol=1e-5)


@pytest.mark.parametrize("rate", [16000, 22050])
def test_samples_give_what_their_file_gives(
    model: Model, files: list[Path], tmp_path: Path, rate: int
) -> None:
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


def test_integers_are_scaled(model: Model, files: list[Path]) -> None:
    samples, rate = soundfile.read(files[0], dtype="int16")
    np.testing.assert_allclose(model.embed(samples, rate), model.embed(files[0]), atol=1e-5)


def forms(path: Path) -> dict[str, Any]:
    """Return a recording in every form in which a user may have it."""
    samples, _ = soundfile.read(path, dtype="float32")
    wide = np.zeros((len(samples), 3), np.float32)
    wide[:, 1] = samples
    frozen = samples.copy()
    frozen.flags.writeable = False
    return {
        "file": path,
        "bytes": path.read_bytes(),
        "bytearray": bytearray(path.read_bytes()),
        "BytesIO": io.BytesIO(path.read_bytes()),
        "reversed twice": samples[::-1].copy()[::-1],
        "column of a matrix": wide[:, 1],
        "every second of two": np.repeat(samples, 2)[::2],
        "big-endian": samples.astype(">f4"),
        "read-only": frozen,
        "list": samples.tolist(),
        "tensor with a gradient": torch.from_numpy(samples).requires_grad_(),
    }


def test_every_form_of_a_recording_gives_the_same_embedding(model: Model, files: list[Path]) -> None:
    expected = model.embed(files[0])
    for form, recording in forms(files[0]).items():
        np.testing.assert_allclose(model.embed(recording, 16000), expected, atol=1e-5, err_msg=form)
    several = model.embed([*forms(files[1]).values()], 16000)
    assert several.shape == (len(forms(files[1])), model.embedding_dim)
    np.testing.assert_allclose(several, np.tile(model.embed(files[1]), (len(several), 1)), atol=1e-5)


def test_a_reversed_recording_is_another_one(model: Model, files: list[Path]) -> None:
    samples, rate = soundfile.read(files[0], dtype="float32")
    backwards = model.embed(samples[::-1], rate)
    np.testing.assert_allclose(backwards, model.embed(samples[::-1].copy(), rate), atol=1e-5)
    assert abs(backwards - model.embed(samples, rate)).max() > 1e-3


def test_a_file_object_that_was_read_is_read_from_its_beginning(model: Model, files: list[Path]) -> None:
    file = io.BytesIO(files[0].read_bytes())
    file.read(1000)
    np.testing.assert_allclose(model.embed(file), model.embed(files[0]), atol=1e-5)


def test_ready_embeddings_compare_as_their_recordings_do(model: Model, files: list[Path]) -> None:
    a, b = model.embed(files[0]), model.embed(files[2])
    expected = model.verify(files[0], files[2], threshold=0.2)
    found = model.compare(a, b, threshold=0.2)
    assert found.score == pytest.approx(expected.score, abs=1e-6)
    assert found.same_speaker == expected.same_speaker and found.durations_s == ()
    cosine = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
    assert found.score == pytest.approx(cosine, abs=1e-6)
    both = model.compare(np.stack([a, model.embed(files[1])]), b)
    assert both.same_speaker is None and both.score != pytest.approx(cosine, abs=1e-6)
    for wrong in (
        np.zeros(model.embedding_dim),
        np.full(model.embedding_dim, np.nan),
        np.ones(3),
        np.ones(()),
    ):
        with pytest.raises(InputError, match="compare"):
            model.compare(a, wrong)


@pytest.mark.parametrize("threshold", [float("nan"), float("inf")])
def test_a_threshold_that_decides_nothing_is_refused(
    model: Model, files: list[Path], threshold: float
) -> None:
    with pytest.raises(InputError, match="expected a finite number"):
        model.verify(files[0], files[1], threshold=threshold)
    with pytest.raises(InputError, match="expected a finite number"):
        model.compare(np.ones(model.embedding_dim), np.ones(model.embedding_dim), threshold=threshold)


def test_enrol_identify_and_verify_in_one_call_each(model: Model, files: list[Path], tmp_path: Path) -> None:
    recordings: list[Recording] = [files[0], files[1].read_bytes()]
    first = model.enroll(tmp_path / "store", "ann", recordings)
    assert (first.added, first.repeated, first.recordings) == (2, 0, 2)
    again = model.enroll(tmp_path / "store", "ann", files[0])
    assert (again.added, again.repeated, again.recordings) == (0, 1, 2)
    samples, rate = soundfile.read(files[2], dtype="float32")
    store = Store(tmp_path / "store", model.fingerprint)
    model.enroll(store, "bob", samples, sample_rate=rate, keep_audio=True)
    found = model.identify(store, files[2], threshold=0.99)
    assert found.name == "bob" and found.enrolled == 2
    assert found.candidates[0][1] == pytest.approx(
        model.verify_enrolled(store, "bob", files[2]).score, abs=1e-6
    )
    assert model.identify(store, files[2]).name is None  # no threshold, no decision
    sample = store.samples("bob")[0]
    assert sample.path == "" and sample.duration_s == pytest.approx(len(samples) / rate)
    np.testing.assert_allclose(model.embed(sample.audio), sample.embedding, atol=1e-5)
    with pytest.raises(InputError, match="enrolled for 'bob'"):
        model.enroll(store, "cat", files[2])
    assert model.enroll(store, "cat", files[2], force=True).objections


def test_threads_share_a_model_and_a_store(model: Model, files: list[Path], tmp_path: Path) -> None:
    model.enroll(tmp_path / "store", "ann", files[0])
    store = Store(tmp_path / "store", model.fingerprint)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: model.identify(store, files[0], threshold=0.9).name, range(24)))
    assert answers == ["ann"] * 24


def test_load_model_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    load_model()
    assert capfd.readouterr() == ("", "")


def test_long_samples_are_cut_as_long_files_are(model: Model, files: list[Path], tmp_path: Path) -> None:
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
        (np.zeros(16000, np.complex64), 16000, "complex64"),
        ([1, 2, 3], 16000, "list of integers"),
        (np.zeros(16000, np.float32), 0, "sample_rate"),
        (b"not audio" * 100, None, "recording 0"),
        (io.StringIO("text"), None, "opened for bytes"),
    ],
)
def test_what_can_not_be_embedded_is_named(model: Model, given: Any, rate: int | None, found: str) -> None:
    with pytest.raises(InputError, match=found):
        model.embed(given, sample_rate=rate)


def test_verify_is_the_command_lines(model: Model, files: list[Path], tiny_model: Path) -> None:
    from speakerverif.models import folder

    expected = verify(folder.read_model_folder(tiny_model), files[0], files[2], threshold=0.3)
    found = model.verify(files[0], files[2], threshold=0.3)
    assert found.score == pytest.approx(expected.score, abs=1e-6)
    assert (found.same_speaker, found.llr) == (expected.same_speaker, None)
    samples, rate = soundfile.read(files[0], dtype="float32")
    assert model.verify(samples, files[2], sample_rate=rate).score == pytest.approx(expected.score, abs=1e-5)


def test_encode_batch_has_speechbrains_shape_and_every_file_alone(model: Model) -> None:
    wavs = 0.1 * torch.randn(2, 16000)
    both = model.encode_batch(wavs, torch.tensor([1.0, 0.5]))
    assert both.shape == (2, 1, model.embedding_dim)
    torch.testing.assert_close(both[1:], model.encode_batch(wavs[1:, :8000]), atol=1e-5, rtol=0)
    torch.testing.assert_close(model.encode_batch(wavs[0]), both[:1], atol=1e-5, rtol=0)


def test_the_transformer_is_a_scikit_learn_citizen(tiny_model: Path, files: list[Path]) -> None:
    from sklearn.base import clone

    transformer = EmbeddingTransformer(str(tiny_model))
    assert clone(transformer).get_params() == transformer.get_params()
    found = transformer.fit_transform(files)
    np.testing.assert_allclose(found, load_model(tiny_model).embed(files), atol=1e-6)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there(tiny_model: Path) -> None:
    with pytest.raises(InputError, match="no CUDA device"):
        load_model(tiny_model, device="cuda")
