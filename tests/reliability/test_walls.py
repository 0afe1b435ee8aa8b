"""Each kind of input is checked whole before anything is built of it: one clear error names the file and the fault."""

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch

from speakerverif._util.files import open_input
from speakerverif._util.toml import LARGEST, read_toml
from speakerverif.cli.entry import main
from speakerverif.errors import InputError
from speakerverif.inference.enrollment import Store
from speakerverif.inference.store_export import export, import_file
from speakerverif.models import folder, weights
from speakerverif.models.onnx_model import OnnxModel
from speakerverif.scoring import backends
from speakerverif.scoring.calibration import Calibration
from tools import hostile

CALIBRATION = """kinds = ["cosine"]
quality = []
weights = [2.0]
bias = 0.5
p_target = 0.05
trials = "t"
trials_sha256 = "0"
fingerprint = ""
"""


@pytest.fixture(scope="module")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder of a small untrained network."""
    folder = tmp_path_factory.mktemp("untrained") / "model"
    hostile.tiny_model(folder)
    return folder


def test_info_builds_no_network(
    untrained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = folder.read_model_folder(untrained)
    monkeypatch.setattr(weights, "SpeakerModel", None)
    described = folder.describe(untrained)
    assert described.fingerprint == expected.fingerprint
    assert described.embedding_dim == expected.model.embedding_dim
    assert main(["info", str(untrained)]) == 0
    assert expected.fingerprint in capsys.readouterr().out


def test_weights_that_are_not_finite_are_named(untrained: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    damaged = Path(shutil.copytree(untrained, tmp_path / "model"))
    tensors = load_file(damaged / folder.WEIGHTS)
    name = next(name for name, tensor in tensors.items() if tensor.is_floating_point())
    tensors[name].view(-1)[0] = torch.nan
    save_file(tensors, damaged / folder.WEIGHTS)
    with pytest.raises(InputError, match=f"{name} holds nan or infinity"):
        folder.read_model_folder(damaged)


@pytest.mark.parametrize(
    "change",
    [
        ("weights = [2.0]", "weights = [nan]"),
        ("weights = [2.0]", "weights = [2.0, 1.0]"),
        ("bias = 0.5", "bias = inf"),
        ("p_target = 0.05", "p_target = 1.0"),
        ("p_target = 0.05", "p_target = -0.1"),
    ],
)
def test_a_calibration_of_impossible_numbers_is_refused(tmp_path: Path, change: tuple[str, str]) -> None:
    path = tmp_path / "c.toml"
    path.write_text(CALIBRATION)
    assert Calibration.load(path).bias == 0.5
    path.write_text(CALIBRATION.replace(*change))
    with pytest.raises(InputError, match=f"{change[0].split()[0]}"):
        Calibration.load(path)


def test_a_back_end_refuses_embeddings_of_another_dimension(tmp_path: Path) -> None:
    np.savez(tmp_path / "backend.npz", mean=np.zeros(4), matrix=np.eye(4))
    backend = backends.build({"name": "lda", "dim": 4})
    backend.load(tmp_path / "backend.npz")
    with pytest.raises(InputError, match="fit embeddings of 5 dimensions"):
        backend.score(np.eye(5), np.eye(5), np.array([0]), np.array([1]))


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("meta.value", "x"),
        ("meta.value", -1),
        ("utterances.speaker", "x"),
        ("utterances.embedding", b""),
        ("utterances.embedding", b"\xff" * 16),
        ("utterances.embedding", "text"),
        ("utterances.speech_s", "long"),
    ],
)
def test_a_damaged_store_is_named(tmp_path: Path, place: str, value: object) -> None:
    store = Store(tmp_path / "people", "f" * 16, create=True)
    store.enroll("ann", np.eye(4, dtype=np.float32)[0])
    table, _, column = place.partition(".")
    with closing(sqlite3.connect(tmp_path / "people" / "store.db")) as db:
        db.execute("PRAGMA ignore_check_constraints = ON")
        db.execute(f"UPDATE {table} SET {column} = ?", (value,))
        db.commit()
    with pytest.raises(InputError, match=r"damaged|finite and not zero"):
        damaged = Store(tmp_path / "people", "f" * 16)
        damaged.search(np.eye(4, dtype=np.float32)[0])
        damaged.samples("ann")


def test_a_speaker_without_recordings_is_named_by_export(tmp_path: Path) -> None:
    store = Store(tmp_path / "people", "f" * 16, create=True)
    store.enroll("ann", np.eye(4, dtype=np.float32)[0])
    with closing(sqlite3.connect(tmp_path / "people" / "store.db")) as db:
        db.execute("DELETE FROM utterances")
        db.commit()
    with pytest.raises(InputError, match="damaged: no recordings of ann"):
        export(store, tmp_path / "e.npz")


@pytest.mark.parametrize(
    "change",
    [
        {"embeddings": np.zeros((1, 4), [("x", "f4")])},
        {"embeddings": np.full((1, 4), np.nan, np.float32)},
        {"audio_bytes": np.array([1 << 40])},
        {"audio": np.array(["a"])},
        {"speakers": np.array([["ann"]])},
        {"paths": np.array([1])},
    ],
)
def test_a_damaged_export_of_a_store_is_refused(tmp_path: Path, change: dict[str, np.ndarray]) -> None:
    store = Store(tmp_path / "people", "f" * 16, create=True)
    store.enroll("ann", np.eye(4, dtype=np.float32)[0])
    export(store, tmp_path / "e.npz")
    with np.load(tmp_path / "e.npz") as loaded:
        arrays = {**loaded, **change}
    assert import_file(tmp_path / "e.npz", tmp_path / "copy") == (1, 1)
    np.savez(tmp_path / "bad.npz", allow_pickle=True, **arrays)
    with pytest.raises(InputError, match=r"bad\.npz"):
        import_file(tmp_path / "bad.npz", tmp_path / "other")


@pytest.mark.parametrize(
    ("entry", "text"),
    [
        ("sample_rate", "nan"),
        ("sample_rate", "-1"),
        ("embedding_dim", "9" * 400),
        ("config.toml", "[["),
        ("", ""),
    ],
)
def test_damaged_metadata_of_an_onnx_file_are_named(
    untrained: Path, tmp_path: Path, entry: str, text: str
) -> None:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    path = tmp_path / "m.onnx"
    hostile.small_onnx(path, folder.read_model_folder(untrained))
    assert OnnxModel(path).sample_rate == 16000
    graph = onnx.load(str(path))
    for prop in [*graph.metadata_props]:
        if prop.key == entry:
            prop.value = text
        if not entry and prop.key == "fingerprint":
            graph.metadata_props.remove(prop)
    onnx.save(graph, str(path))
    with pytest.raises(InputError, match=entry or "fingerprint"):
        folder.read_model_folder(path)


@pytest.mark.skipif(not Path("/dev/zero").is_char_device(), reason="needs the devices of a Unix")
def test_a_device_without_an_end_and_a_huge_text_are_refused(tmp_path: Path) -> None:
    for device in ("/dev/zero", "/dev/full", "/dev/urandom"):
        with pytest.raises(InputError, match="is a device"):
            open_input(device)
    open_input("/dev/null").close()
    with open(tmp_path / "huge.toml", "wb") as file:
        file.truncate(LARGEST + 1)
    with pytest.raises(InputError, match="more than 16 MB"):
        read_toml(tmp_path / "huge.toml")


@pytest.mark.parametrize("name", ["x" * 300, "/" + "y" * 256, "z\0z"])
def test_a_name_that_no_file_can_have_is_refused(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    for command in (["info", name], ["run", name], ["verify", name, name]):
        assert main(command) == 2
        error = capsys.readouterr().err
        assert "no file has such a name" in error and error.count("\n") == 1
