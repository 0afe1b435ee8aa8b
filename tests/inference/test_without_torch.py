"""Embedding, verifying and identifying by an ONNX file without torch, and features in NumPy that equal torch's."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from speakerverif import __version__
from speakerverif.cli.entry import main
from speakerverif.config import FeatureConfig
from speakerverif.data.embeddings import EmbeddingTable
from speakerverif.errors import InputError
from speakerverif.exchange._probe import voice
from speakerverif.exchange.to_onnx import export_onnx
from speakerverif.inference import engines
from speakerverif.models import features
from speakerverif.models.fingerprint import fingerprint_of_file
from speakerverif.models.folder import WEIGHTS, read_config, read_model_folder, save_model
from speakerverif.models.model import SpeakerModel
from speakerverif.models.numpy_features import NumpyKaldiFilterbank

ROOT = Path(__file__).resolve().parents[2]
# Runs commands in a process in which torch can't be imported, as where it isn't installed.
WITHOUT_TORCH = """
import json, sys
class NoTorch:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "torchaudio"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, NoTorch())
from speakerverif.cli.entry import main
print([main(command) for command in json.loads(sys.argv[1])])
"""


def run_without_torch(*commands: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, json.dumps(commands)],
        env={**os.environ, **environment},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )


def cosines(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    result: np.ndarray = (one * other).sum(1) / lengths
    return result


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("without-torch")


@pytest.fixture(scope="module")
def model(tiny_model: Path, scratch: Path) -> Path:
    """A model of 80 bands, which sherpa-onnx and WeSpeaker's runtime take."""
    torch.manual_seed(0)
    recipe, _ = read_config(tiny_model)
    recipe = dataclasses.replace(recipe, features=FeatureConfig())
    weights = SpeakerModel(recipe.features, recipe.encoder).state_dict()
    save_model(scratch / "model", weights, {}, recipe, [], {})
    return scratch / "model"


@pytest.fixture(scope="module")
def exported(model: Path, scratch: Path) -> Path:
    path = scratch / "waveforms.onnx"
    export_onnx(read_model_folder(model), path)
    return path


@pytest.fixture(scope="module")
def features_in(model: Path, scratch: Path) -> Path:
    path = scratch / "features.onnx"
    export_onnx(read_model_folder(model), path, features_in=True)
    return path


def sherpa_style(path: Path, out: Path, **facts: str) -> Path:
    """Write a features-in file with nothing but sherpa-onnx's metadata, as its own scripts make them."""
    graph = onnx.load(path)
    del graph.metadata_props[:]
    onnx.helper.set_model_props(graph, facts)
    onnx.save(graph, out)
    return out


def test_a_trial_list_scores_alike_by_torch_by_onnx_without_torch_and_by_a_sherpa_style_file(
    model: Path, tiny_corpus: Path, exported: Path, features_in: Path, scratch: Path
) -> None:
    names = [f"spk{speaker}/{n}.wav" for speaker in range(2) for n in range(2)]
    pairs = [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]]
    trials = scratch / "trials.txt"
    trials.write_text("".join(f"{int(a[:4] == b[:4])} {a} {b}\n" for a, b in pairs))
    sherpa = sherpa_style(features_in, scratch / "sherpa.onnx", framework="wespeaker", sample_rate="16000",
                          normalize_samples="1", output_dim="16", language="English")  # fmt: skip
    files = [str(tiny_corpus / name) for name in names]

    def commands(path: Path, name: str) -> list[list[str]]:
        given = ["--model", str(path), "--threads", "1"]
        return [
            ["embed", *files, *given, "--out", str(scratch / f"{name}.npz")],
            ["score", str(trials), "--audio-root", str(tiny_corpus), "--bootstrap", "0", *given,
             "--out-scores", str(scratch / f"{name}.txt")],
            ["verify", *files[:2], *given, "--json", str(scratch / f"{name}.json")],
            ["enroll", "somebody", files[0], *given, "--store", str(scratch / name)],
            ["identify", files[1], *given, "--store", str(scratch / name), "--json", str(scratch / f"{name}.id")],
        ]  # fmt: skip

    models = {"onnx": exported, "features": features_in, "sherpa": sherpa}
    done = run_without_torch(*(c for name, path in models.items() for c in commands(path, name)))
    assert done.stdout.endswith(f"{[0] * 15}\n"), done.stderr
    assert (
        "wespeaker" not in done.stderr and "hamming window of 25 ms" in done.stderr
    )  # what it is taken to be
    for command in commands(model, "torch"):
        assert main(command) == 0
    expected = EmbeddingTable.load(scratch / "torch.npz")
    scores = np.array([float(row.split()[-1]) for row in (scratch / "torch.txt").read_text().splitlines()])
    for name in models:
        table = EmbeddingTable.load(scratch / f"{name}.npz")
        assert cosines(table.embeddings, expected.embeddings).min() > 1 - 1e-4
        rows = (scratch / f"{name}.txt").read_text().splitlines()
        np.testing.assert_allclose([float(row.split()[-1]) for row in rows], scores, atol=1e-4)
        for ending in ("json", "id"):
            found, torchs = (json.loads((scratch / f"{n}.{ending}").read_text()) for n in (name, "torch"))
            if ending == "json":
                assert found["engine"] == "onnxruntime"
                assert found["score"] == pytest.approx(torchs["score"], abs=1e-4)
            else:
                assert found["candidates"][0][1] == pytest.approx(torchs["candidates"][0][1], abs=1e-4)


def test_what_needs_torch_says_so_without_it(tiny_model: Path, tiny_corpus: Path, scratch: Path) -> None:
    files = [str(tiny_corpus / "spk0" / f"{n}.wav") for n in range(2)]
    done = run_without_torch(["verify", *files, "--model", str(tiny_model)], XDG_CACHE_HOME=str(scratch))
    assert (
        done.stdout == "[1]\n" and "torch is not installed" in done.stderr and "Traceback" not in done.stderr
    )


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"window": "povey", "mean_norm": False, "waveform_scale": 32768.0},
        {"window": "hanning", "high_hz": -400.0},
        {"sample_rate": 8000, "num_mels": 40, "high_hz": 3700.0, "frame_length_ms": 20.0},
    ],
)
def test_numpy_features_are_torchs(settings: dict[str, Any]) -> None:
    config = FeatureConfig(**settings)
    waveform = voice(3.1, config.sample_rate, 110.0, 0)
    filterbank = features.build(config)
    expected = filterbank(waveform[None], torch.tensor([len(waveform)]))[0][0].numpy()
    ours = NumpyKaldiFilterbank(config)
    difference = np.abs(ours(waveform.numpy()) - expected)
    # The edges of bands are logarithms in float32, whose last digit differs between libraries and processors.
    assert difference.mean() < 1e-5 and difference.max() < 2e-4
    # With the same bands the steps are equal.
    ours._mel = filterbank.get_buffer("mel").numpy()
    assert np.abs(ours(waveform.numpy()) - expected).max() < 1e-4
    assert ours(waveform.numpy()[:100]).shape == (0, config.num_mels)


def test_a_fingerprint_needs_no_torch(tiny_model: Path, tmp_path: Path) -> None:
    folder = read_model_folder(tiny_model)
    recipe, _ = read_config(tiny_model)
    assert fingerprint_of_file(tiny_model / WEIGHTS, recipe) == folder.fingerprint
    assert isinstance(folder.model, SpeakerModel)
    halves = {k: v.half() if v.is_floating_point() else v for k, v in folder.model.state_dict().items()}
    save_model(tmp_path, halves, {}, recipe, folder.speakers, {})
    assert fingerprint_of_file(tmp_path / WEIGHTS, recipe) == read_model_folder(tmp_path).fingerprint
    bfloat16 = {k: v.bfloat16() if v.is_floating_point() else v for k, v in folder.model.state_dict().items()}
    save_model(tmp_path, bfloat16, {}, recipe, folder.speakers, {})
    assert fingerprint_of_file(tmp_path / WEIGHTS, recipe) is None


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Make this process look like one that has not imported torch."""

    def forget() -> None:
        monkeypatch.setattr(engines, "sys", type("sys", (), {"modules": {}}))

    return forget


def test_a_brief_command_takes_a_kept_export(
    model: Path, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fresh: Callable[[], None],
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    fresh()
    by_torch = engines.load_for_inference(model, briefly=True)
    assert by_torch.engine == "torch"  # nothing is kept
    (tmp_path / "speakerverif").mkdir()
    kept = shutil.copy(exported, tmp_path / "speakerverif" / f"{by_torch.fingerprint}-{__version__}.onnx")
    with caplog.at_level("DEBUG"):
        folder = engines.load_for_inference(model, briefly=True)
    assert folder.engine == "onnxruntime" and "to be run by onnxruntime in float32" in caplog.text
    assert (folder.fingerprint, folder.path, folder.speakers) == (
        by_torch.fingerprint,
        model,
        by_torch.speakers,
    )
    assert engines.load_for_inference(model).engine == "torch"
    assert engines.load_for_inference(model, engine="torch", briefly=True).engine == "torch"
    assert engines.load_for_inference(model, precision="bfloat16", briefly=True).engine == "torch"
    changed = shutil.copytree(model, tmp_path / "changed")
    recipe, trained = read_config(changed)
    network = read_model_folder(changed).model
    assert isinstance(network, SpeakerModel)
    weights = {
        name: 1.01 * tensor if tensor.ndim > 1 else tensor for name, tensor in network.state_dict().items()
    }
    save_model(changed, weights, {}, recipe, [], trained)
    assert engines.load_for_inference(changed, briefly=True).engine == "torch"  # an export of other weights
    Path(kept).write_bytes(Path(kept).read_bytes()[:500])
    assert engines.load_for_inference(model, briefly=True).engine == "torch"  # a damaged one


def test_torch_is_taken_where_it_is_here_already(
    model: Path, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (tmp_path / "speakerverif").mkdir()
    fingerprint = read_model_folder(model).fingerprint
    shutil.copy(exported, tmp_path / "speakerverif" / f"{fingerprint}-{__version__}.onnx")
    assert engines.load_for_inference(model, briefly=True).engine == "torch"
    assert engines.load_for_inference(model, engine="onnx").engine == "onnxruntime"


def test_features_that_no_other_program_computes_are_not_exported(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="num_mels 24; export without --features-in"):
        export_onnx(read_model_folder(tiny_model), tmp_path / "model.onnx", features_in=True)


def test_features_in_has_the_names_and_facts_that_other_programs_read(features_in: Path) -> None:
    graph = onnx.load(features_in)
    facts = {entry.key: entry.value for entry in graph.metadata_props}
    (given,), (result,) = graph.graph.input, graph.graph.output
    axes = [
        [axis.dim_param or axis.dim_value for axis in v.type.tensor_type.shape.dim] for v in (given, result)
    ]
    assert (given.name, result.name, axes) == ("feats", "embs", [["B", "T", 80], ["B", 16]])
    expected = {"framework": "wespeaker", "sample_rate": "16000", "output_dim": "16", "normalize_samples": "1",
                "feature_normalize_type": "global-mean"}  # fmt: skip
    assert expected.items() <= facts.items() and facts["language"]
