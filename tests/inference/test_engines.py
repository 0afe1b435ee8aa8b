"""The engines give the same answers, say who they are, and keep what they make where it belongs."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import speakerverif
from speakerverif import EmbeddingTransformer, InputError
from speakerverif.cli.entry import main
from speakerverif.data.embeddings import EmbeddingTable
from speakerverif.exchange import to_onnx
from speakerverif.inference import engines
from speakerverif.inference.embed import embed_all
from speakerverif.models._cpu.frames import FastLinear
from speakerverif.models.folder import read_model_folder
from speakerverif.models.model import SpeakerModel
from speakerverif.models.onnx_model import OnnxModel


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "speakerverif"


def cosine(one: np.ndarray, other: np.ndarray) -> float:
    return float(one @ other / np.linalg.norm(one) / np.linalg.norm(other))


def test_engines_agree_on_the_command_line(
    tiny_model: Path, tiny_corpus: Path, tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [str(path) for path in sorted(tiny_corpus.glob("spk[01]/[01].wav"))]
    trials = tmp_path / "trials.txt"
    trials.write_text("1 spk0/0.wav spk0/1.wav\n0 spk0/0.wav spk1/1.wav\n1 spk1/0.wav spk1/1.wav\n")
    tables, scores, errors = {}, {}, {}

    def read() -> Any:
        return json.loads((tmp_path / "r.json").read_text())

    for engine, name in (("torch", "torch"), ("onnx", "onnxruntime"), ("auto", "torch")):
        given = ["--model", str(tiny_model), "--engine", engine, "--json", str(tmp_path / "r.json")]
        assert main(["embed", *files, *given, "--out", str(tmp_path / "e.npz")]) == 0
        assert read()["model"]["engine"] == name
        tables[engine] = EmbeddingTable.load(tmp_path / "e.npz")
        assert main(["verify", *files[:2], *given]) == 0
        assert read()["engine"] == name
        scores[engine] = read()["score"]
        assert main(["score", str(trials), "--audio-root", str(tiny_corpus), "--bootstrap", "0", *given]) == 0
        assert read()["model"]["engine"] == name
        errors[engine] = read()["eer"]
    assert tables["onnx"].fingerprint == tables["torch"].fingerprint
    for one, other in zip(tables["onnx"].embeddings, tables["torch"].embeddings, strict=True):
        assert cosine(one, other) > 1 - 1e-4
    assert scores["onnx"] == pytest.approx(scores["torch"], abs=1e-4)
    assert errors["onnx"] == errors["torch"] == errors["auto"]
    assert capsys.readouterr().err.count("exporting") == 1  # once, for all three commands
    assert [path.suffix for path in cache.iterdir()] == [".onnx"]


def test_torch_runs_fast_layers(tiny_model: Path, tiny_corpus: Path) -> None:
    recording = tiny_corpus / "spk0" / "0.wav"
    packed, plain = engines.load_for_inference(tiny_model), read_model_folder(tiny_model)
    for folder, kept in ((packed, True), (plain, False)):
        assert isinstance(folder.model, SpeakerModel)
        kernels = [m._kernel for m in folder.model.modules() if isinstance(m, FastLinear)]
        assert bool(kernels) == kept and all(kernel is not None for kernel in kernels)
    one, other = (embed_all(folder, [recording]).embeddings[0] for folder in (packed, plain))
    np.testing.assert_allclose(one, other, atol=1e-5 * np.abs(other).max())


def test_auto_is_onnxruntime_where_that_is_faster_and_installed(
    tiny_model: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = read_model_folder(tiny_model).recipe.encoder["name"]
    monkeypatch.setattr(engines, "FASTER_IN_ONNX", {name})
    assert isinstance(engines.load_for_inference(tiny_model).model, OnnxModel) and list(cache.iterdir())
    assert isinstance(engines.load_for_inference(tiny_model, engine="torch").model, SpeakerModel)
    find = importlib.util.find_spec
    for missing in ("onnx", "onnxruntime"):
        gone = lambda name, missing=missing: None if name == missing else find(name)  # noqa: E731
        monkeypatch.setattr(importlib.util, "find_spec", gone)
        assert isinstance(engines.load_for_inference(tiny_model).model, SpeakerModel)


def test_auto_falls_back_to_torch_where_the_export_differs(
    tiny_model: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    name = read_model_folder(tiny_model).recipe.encoder["name"]
    monkeypatch.setattr(engines, "FASTER_IN_ONNX", {name})
    monkeypatch.setattr(to_onnx, "least_cosine", lambda *_: 0.9994)
    with caplog.at_level("WARNING"):
        assert engines.load_for_inference(tiny_model).engine == "torch"
    assert "run by torch, since its export can't be used" in caplog.text and "0.999400" in caplog.text
    assert not list(cache.glob("*.onnx"))
    with pytest.raises(InputError, match=r"cosine of 0\.999400"):
        engines.load_for_inference(tiny_model, engine="onnx")


def test_the_cache_is_known_by_the_model_and_healed(tiny_model: Path, tiny_corpus: Path, cache: Path) -> None:
    before = sorted(path.name for path in tiny_model.iterdir())
    model = speakerverif.load_model(tiny_model, engine="onnx")
    (kept,) = cache.iterdir()
    assert kept.name.startswith(model.fingerprint)
    assert sorted(path.name for path in tiny_model.iterdir()) == before
    kept.write_bytes(kept.read_bytes()[:500])
    recording = tiny_corpus / "spk0" / "0.wav"
    again = speakerverif.load_model(tiny_model, engine="onnx")
    assert cosine(again.embed(recording), model.embed(recording)) > 1 - 1e-4
    transformer = EmbeddingTransformer(str(tiny_model), engine="onnx").fit([])
    assert transformer.model_.folder.engine == "onnxruntime"


def test_without_a_cache_the_export_is_not_kept(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert engines.load_for_inference(tiny_model, engine="onnx").engine == "onnxruntime"
    assert "is not kept" in caplog.text


def test_what_is_kept_beside_a_model_goes_with_every_engine(tiny_model: Path) -> None:
    torch, onnx = (engines.load_for_inference(tiny_model, engine=name) for name in ("torch", "onnx"))
    assert (onnx.path, onnx.speakers, onnx.recipe) == (torch.path, torch.speakers, torch.recipe)
    assert read_model_folder(tiny_model).engine == "torch"


def test_engines_that_can_not_be(tiny_model: Path, cache: Path) -> None:
    with pytest.raises(InputError, match="engine 'tpu': expected auto, torch, onnx"):
        speakerverif.load_model(tiny_model, engine="tpu")  # type: ignore[arg-type]
    engines.load_for_inference(tiny_model, engine="onnx")
    (exported,) = cache.iterdir()
    with pytest.raises(InputError, match="can't be run by torch"):
        engines.load_for_inference(exported, engine="torch")
    assert engines.load_for_inference(exported, engine="auto").engine == "onnxruntime"
