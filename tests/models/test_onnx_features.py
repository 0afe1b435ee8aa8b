"""Files that take features: their settings are read, or asked for, and never guessed."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from speakerverif.config import FeatureConfig
from speakerverif.errors import InputError
from speakerverif.models.folder import read_model_folder
from speakerverif.models.numpy_features import NumpyKaldiFilterbank
from speakerverif.models.onnx_model import OnnxModel

WIDTH = 80
SHERPA = {"framework": "wespeaker", "sample_rate": "16000", "normalize_samples": "0", "output_dim": "80"}
ANSWERS = 'sample_rate = 16000\nwindow = "povey"\nwaveform_scale = 1\nmean_norm = false\n'


def file_of(path: Path, facts: dict[str, str], bands: int | str = WIDTH, rank: int = 3) -> Path:
    """Write a network whose embedding is the mean of its features over time."""
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["B", "T", bands][:rank])
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["B", bands])
    node = helper.make_node("ReduceMean", ["x"], ["y"], axes=[1], keepdims=int(rank == 2))
    graph = helper.make_graph([node], "mean", [given], [result])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, facts)
    onnx.save(model, path)
    return path


@pytest.fixture
def samples() -> np.ndarray:
    noise: np.ndarray = (0.1 * np.random.default_rng(0).standard_normal((2, 16000))).astype(np.float32)
    return noise


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        (SHERPA, FeatureConfig(waveform_scale=32768.0)),
        ({**SHERPA, "normalize_samples": "1"}, FeatureConfig()),
        ({**SHERPA, "framework": "3d-speaker", "normalize_samples": "1"}, FeatureConfig(window="povey")),
        ({**SHERPA, "sample_rate": "8000"}, FeatureConfig(sample_rate=8000, waveform_scale=32768.0)),
    ],
)
def test_sherpas_metadata_are_read(facts: dict[str, str], expected: FeatureConfig, tmp_path: Path) -> None:
    model = OnnxModel(file_of(tmp_path / "model.onnx", facts))
    assert (model.features, model.sample_rate, model.embedding_dim) == (expected, expected.sample_rate, WIDTH)


def test_a_toml_file_answers_and_has_the_last_word(tmp_path: Path, samples: np.ndarray) -> None:
    path = file_of(tmp_path / "model.onnx", {})
    with pytest.raises(
        InputError, match=r"sample_rate, window, waveform_scale, mean_norm\. Write them into \S*model.toml"
    ):
        OnnxModel(path)
    (tmp_path / "model.toml").write_text(f"[features]\n{ANSWERS}")
    model = OnnxModel(path)
    lengths = np.array([16000, 9000])
    filterbank = NumpyKaldiFilterbank(FeatureConfig(window="povey", mean_norm=False))
    alone = [filterbank(row[:length]).mean(0) for row, length in zip(samples, lengths, strict=True)]
    np.testing.assert_allclose(model.run(samples, lengths), alone, rtol=1e-4)
    first = read_model_folder(path)
    (tmp_path / "model.toml").write_text(f"[features]\n{ANSWERS}low_hz = 100\n")
    other = read_model_folder(path)
    assert first.name == "model" and first.fingerprint != other.fingerprint and first.speakers == []
    assert isinstance(other.model, OnnxModel) and other.model.run(samples).shape == (2, WIDTH)
    sherpas = file_of(tmp_path / "sherpa.onnx", SHERPA)
    (tmp_path / "sherpa.toml").write_text("features = {high_hz = 7600}\n")
    assert OnnxModel(sherpas).features == FeatureConfig(waveform_scale=32768.0, high_hz=7600.0)


@pytest.mark.parametrize(
    ("facts", "table", "message"),
    [
        ({**SHERPA, "framework": "speechbrain"}, "", "doesn't describe: window, waveform_scale, mean_norm"),
        ({**SHERPA, "framework": "nemo"}, "", r"import the model's \.nemo file"),
        ({**SHERPA, "normalize_samples": "2"}, "", "normalize_samples: found '2', expected 0 or 1"),
        ({**SHERPA, "sample_rate": "16k"}, "", "sample_rate: found '16k', expected Hz"),
        ({k: v for k, v in SHERPA.items() if k != "sample_rate"}, "", "doesn't describe: sample_rate"),
        (SHERPA, "[features]\nnum_mels = 40\n", "num_mels: found 40, .* takes 80"),
        (SHERPA, "[features]\nkind = 'nemo'\n", "takes 'kaldi' alone"),
        (SHERPA, "[features]\nwindw = 'povey'\n", "unknown key 'windw'"),
        (SHERPA, "[feature]\nwindow = 'povey'\n", r"expected one table, \[features\], found feature"),
    ],
)
def test_settings_that_can_not_be(facts: dict[str, str], table: str, message: str, tmp_path: Path) -> None:
    if table:
        (tmp_path / "model.toml").write_text(table)
    with pytest.raises(InputError, match=message):
        OnnxModel(file_of(tmp_path / "model.onnx", facts))


def test_another_graph_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match="expected a file of `speakerverif export`, or one that takes features"
    ):
        OnnxModel(file_of(tmp_path / "model.onnx", SHERPA, rank=2))
