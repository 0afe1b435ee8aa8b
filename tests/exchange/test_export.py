"""A model in an ONNX file is the model: the same embeddings in onnxruntime, and the same answers."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from speakerverif._util import registry
from speakerverif.cli.entry import main
from speakerverif.config import FeatureConfig, Recipe
from speakerverif.data.embeddings import EmbeddingTable
from speakerverif.errors import InputError
from speakerverif.exchange import to_onnx
from speakerverif.exchange.to_onnx import export_onnx
from speakerverif.exchange.to_torch import TEXTS
from speakerverif.models.folder import read_model_folder, save_model
from speakerverif.models.model import SpeakerModel
from speakerverif.scoring import scorer


@pytest.fixture(scope="module")
def trials(tmp_path_factory: pytest.TempPathFactory) -> Path:
    names = [f"spk{s}/{n}.wav" for s in range(4) for n in range(3)]
    rows = [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]]
    path = tmp_path_factory.mktemp("trials") / "trials.txt"
    path.write_text("".join(f"{int(a[:4] == b[:4])} {a} {b}\n" for a, b in rows))
    return path


@pytest.fixture(scope="module")
def model(
    tiny_model: Path, tiny_corpus: Path, trials: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A calibrated model folder."""
    copy = shutil.copytree(tiny_model, tmp_path_factory.mktemp("export") / "model")
    assert main(["calibrate", str(trials), "--model", str(copy), "--audio-root", str(tiny_corpus)]) == 0
    return copy


@pytest.fixture(scope="module")
def exported(model: Path) -> Path:
    path = model.with_name("tiny.onnx")
    assert main(["export", str(model), "--onnx", str(path)]) == 0
    return path


def session(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def cosines(
    runtime: onnxruntime.InferenceSession, network: SpeakerModel, seconds: float, batch: int
) -> torch.Tensor:
    samples = round(seconds * 16000)
    waveform = 0.1 * torch.randn(batch, samples)
    lengths = torch.linspace(1, 0.6, batch).mul(samples).long()
    with torch.inference_mode():
        expected = network(waveform, lengths)
    found = runtime.run(None, {"waveform": waveform.numpy(), "num_samples": lengths.numpy()})[0]
    return torch.cosine_similarity(torch.from_numpy(found), expected)


@pytest.mark.parametrize(
    ("seconds", "batch"),
    [
        *((seconds, batch) for seconds in (0.5, 2.0, 10.0) for batch in (1, 4)),
        (60.0, 1),
        pytest.param(60.0, 4, marks=pytest.mark.slow),
    ],
)
def test_onnxruntime_gives_the_same_embeddings(
    exported: Path, model: Path, seconds: float, batch: int
) -> None:
    network = read_model_folder(model).model
    assert isinstance(network, SpeakerModel)
    assert cosines(session(exported), network, seconds, batch).min() > 0.9999


def test_the_file_is_valid_and_says_what_it_is(exported: Path, model: Path) -> None:
    graph = onnx.load(exported)
    onnx.checker.check_model(graph)
    assert [(o.domain, o.version >= 17) for o in graph.opset_import] == [("", True)]
    assert [i.name for i in graph.graph.input] == ["waveform", "num_samples"]
    facts = session(exported).get_modelmeta().custom_metadata_map
    folder = read_model_folder(model)
    assert facts["sample_rate"] == "16000"
    assert facts["fingerprint"] == folder.fingerprint
    assert json.loads(facts["features"])["num_mels"] == 24
    loaded = read_model_folder(exported)
    assert (loaded.recipe, loaded.trained, loaded.speakers) == (
        folder.recipe,
        folder.trained,
        folder.speakers,
    )


def test_every_command_takes_the_file_as_a_model(
    exported: Path, model: Path, tiny_corpus: Path, tmp_path: Path
) -> None:
    files = [str(path) for path in sorted(tiny_corpus.glob("spk[01]/*.wav"))]
    trials = tmp_path / "trials.txt"
    trials.write_text("1 spk0/0.wav spk0/1.wav\n0 spk0/0.wav spk1/1.wav\n1 spk1/0.wav spk1/1.wav\n")
    answers = []
    for name in (str(exported), str(model)):
        assert main(["embed", *files, "--model", name, "--out", str(tmp_path / "e.npz")]) == 0
        assert main(["verify", *files[:2], "--model", name, "--json", str(tmp_path / "v.json")]) == 0
        arguments = [str(trials), "--model", name, "--audio-root", str(tiny_corpus), "--bootstrap", "0"]
        assert main(["score", *arguments, "--json", str(tmp_path / "s.json")]) == 0
        assert main(["info", name]) == 0
        record = json.loads((tmp_path / "s.json").read_text())
        answers.append(
            (
                EmbeddingTable.load(tmp_path / "e.npz"),
                json.loads((tmp_path / "v.json").read_text()),
                {"eer": record["eer"], **record["model"]},
            )
        )
    (table, verified, scored), (expected, compared, record) = answers
    assert table.fingerprint == expected.fingerprint
    np.testing.assert_allclose(table.embeddings, expected.embeddings, atol=1e-4)
    assert abs(verified["score"] - compared["score"]) < 1e-4
    assert verified["llr"] == pytest.approx(compared["llr"], rel=1e-3, abs=0.1)
    assert (scored.pop("engine"), record.pop("engine")) == ("onnxruntime", "torch")
    assert scored == record


@pytest.mark.parametrize(
    ("backend", "norm"),
    [({"name": "cosine"}, "asnorm"), ({"name": "cosine"}, "snorm"), ({"name": "plda"}, "none")],
    ids=["asnorm", "snorm", "plda"],
)
def test_the_file_scores_as_the_folder_does(
    backend: dict[str, str],
    norm: scorer.NormKind,
    tiny_model: Path,
    tiny_corpus: Path,
    trials: Path,
    tmp_path: Path,
) -> None:
    folder = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    rng, model = np.random.default_rng(0), read_model_folder(folder)
    ids = [f"speaker{i}/{k}" for i in range(10) for k in range(6)]
    vectors = rng.normal(size=(60, model.model.embedding_dim)) + np.repeat(rng.normal(size=(10, 1)), 6, 0)
    ones = np.ones(60, np.float32)
    table = EmbeddingTable(ids, vectors.astype(np.float32), ones, ones, ["ok"] * 60, model.fingerprint)
    speakers = {name: name.split("/")[0] for name in ids}
    plan = scorer.Plan(backend=backend, norm=norm, top_n=2)
    scorer.fit(plan, table, None if norm == "none" else table, speakers).save(folder)
    assert main(["calibrate", str(trials), "--model", str(folder), "--audio-root", str(tiny_corpus)]) == 0
    exported = tmp_path / "m.onnx"
    assert main(["export", str(folder), "--onnx", str(exported)]) == 0
    files = [str(tiny_corpus / "spk0" / "0.wav"), str(tiny_corpus / "spk1" / "0.wav")]
    verified = []
    for name in (exported, folder):
        assert main(["verify", *files, "--model", str(name), "--json", str(tmp_path / "v.json")]) == 0
        verified.append(json.loads((tmp_path / "v.json").read_text()))
        assert main(["score", str(trials), "--model", str(name), "--audio-root", str(tiny_corpus),
                     "--bootstrap", "0", "--json", str(tmp_path / "s.json")]) == 0  # fmt: skip
        verified[-1]["eer"] = json.loads((tmp_path / "s.json").read_text())["eer"]
    one, other = verified
    assert one["kind"] == other["kind"] != "cosine"
    assert one["score"] == pytest.approx(other["score"], rel=5e-3, abs=5e-3)
    assert one["llr"] == pytest.approx(other["llr"], rel=1e-2, abs=0.1)
    assert one["eer"] == other["eer"]


def test_the_calibration_goes_along(
    exported: Path, model: Path, tiny_corpus: Path, trials: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert read_model_folder(exported).calibration == read_model_folder(model).calibration is not None
    assert main(["calibrate", str(trials), "--model", str(exported), "--audio-root", str(tiny_corpus)]) == 2
    assert "calibrate that, then export it again" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("kind", "encoder"),
    [
        ("speechbrain", {"name": "xvector", "channels": 8, "pooling_channels": 12, "padding": "reflect"}),
        ("torchaudio", {"name": "xvector", "channels": 8, "pooling_channels": 12, "padding": "none"}),
        ("voxceleb_trainer", {"name": "resnet_se", "widths": [2, 2, 4, 8], "reduction": 2}),
    ],
)
def test_other_front_ends_and_encoders(
    kind: Literal["speechbrain", "torchaudio", "voxceleb_trainer"],
    encoder: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.manual_seed(0)
    recipe = Recipe(features=FeatureConfig(kind=kind, num_mels=24), encoder=encoder)
    network = SpeakerModel(recipe.features, recipe.encoder).eval()
    save_model(tmp_path / "model", network.state_dict(), {}, recipe, [], {})
    export_onnx(read_model_folder(tmp_path / "model"), tmp_path / "m.onnx")
    for seconds, batch in ((0.5, 1), (1.7, 3)):
        assert cosines(session(tmp_path / "m.onnx"), network, seconds, batch).min() > 0.9999
    monkeypatch.setitem(to_onnx.LEAST_COSINE, "float32", 1.1)  # as if the embeddings differed
    with pytest.raises(InputError, match="not written"):
        export_onnx(read_model_folder(tmp_path / "model"), tmp_path / "other.onnx")
    assert not (tmp_path / "other.onnx").exists()


# The front ends over samples are not exported.
EXPORTED = [name for name in registry.names("encoder") if name != "self_supervised"]
SMALL: dict[str, dict[str, Any]] = {
    "ecapa": {"channels": 16, "mfa_channels": 24, "res2_scale": 4, "embedding_dim": 16},
    "xvector": {"channels": 8, "pooling_channels": 12},
    "resnet": {"depth": 18, "channels": 4},
    "campplus": {
        "head_channels": 4,
        "channels": 16,
        "growth": 4,
        "bottleneck_channels": 8,
        "embedding_dim": 8,
    },
    "eres2netv2": {"channels": 16},
    "redimnet": {"size": "B0"},
    "redimnet2": {"size": "B0", "head_channels": 8, "group_norm": True},
    "repvgg": {"blocks": [1, 2, 1, 1], "widths": [4, 4, 8, 8]},
    "resnet_se34l": {"channels": 8},
    "titanet": {"channels": 16, "pooling_channels": 24},
    "mhfa": {"layers": 5, "heads": 3, "compression": 8},
    "mfa": {"layers": 5, "adapter_channels": 8},
    "ensemble": {"members": {"only": {"name": "xvector", "channels": 8, "pooling_channels": 12}}},
}
# The features of the encoders that have their own, or need a number of bands.
FRONT_ENDS = {
    "redimnet": FeatureConfig(num_mels=60),
    "redimnet2": FeatureConfig(kind="redimnet2", num_mels=72),
    "resnet_se34l": FeatureConfig(kind="voxceleb_trainer_lite_linear", num_mels=40),
    "titanet": FeatureConfig(kind="nemo"),
}


def small(name: str) -> Recipe:
    """Return a recipe of a small network, with its own features."""
    encoder = {"name": name, **SMALL.get(name, {})}
    return Recipe(features=FRONT_ENDS.get(name, FeatureConfig()), encoder=encoder)


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPORTED)
def test_every_encoder_can_be_exported(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    recipe = small(name)
    network = SpeakerModel(recipe.features, recipe.encoder).eval()
    save_model(tmp_path / "model", network.state_dict(), {}, recipe, [], {})
    assert export_onnx(read_model_folder(tmp_path / "model"), tmp_path / "m.onnx") > 0.9999
    assert cosines(session(tmp_path / "m.onnx"), network, 1.7, 3).min() > 0.9999


@pytest.mark.parametrize(("precision", "share", "least"), [("float16", 0.75, 0.99999), ("int8", 0.6, 0.999)])
def test_smaller_weights(precision: str, share: float, least: float, tmp_path: Path) -> None:
    """Of a network wide enough to have weights that count, in a file that is as much smaller as it should be."""
    torch.manual_seed(0)
    encoder = {"name": "xvector", "channels": 256, "pooling_channels": 512, "embedding_dim": 64}
    recipe = Recipe(features=FeatureConfig(num_mels=24), encoder=encoder)
    network = SpeakerModel(recipe.features, recipe.encoder).eval()
    save_model(tmp_path / "model", network.state_dict(), {}, recipe, [], {})
    folder = read_model_folder(tmp_path / "model")
    export_onnx(folder, tmp_path / "whole.onnx")
    command = [
        "export",
        str(tmp_path / "model"),
        "--onnx",
        str(tmp_path / "m.onnx"),
        "--precision",
        precision,
    ]
    assert main(command) == 0
    assert (tmp_path / "m.onnx").stat().st_size < share * (tmp_path / "whole.onnx").stat().st_size
    for seconds, batch in ((0.5, 1), (1.7, 3)):
        assert cosines(session(tmp_path / "m.onnx"), network, seconds, batch).min() > least
    graph = onnx.load(tmp_path / "m.onnx")
    onnx.checker.check_model(graph)
    assert {p.key: p.value for p in graph.metadata_props}["precision"] == precision
    small = {onnx.TensorProto.FLOAT16, onnx.TensorProto.INT8}
    narrow = [w.name for w in graph.graph.initializer if w.data_type in small and np.prod(w.dims) > 1]
    assert len(narrow) >= 6  # the encoder's kernels
    users = [n.name for n in graph.graph.node if set(narrow) & set(n.input)]
    assert not [name for name in users if "/features/" in name]
    with pytest.raises(InputError, match="precision 'int4'"):
        export_onnx(folder, tmp_path / "n.onnx", "int4")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="expected a name that ends"):
        export_onnx(folder, tmp_path / "n.bin")


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("ecapa", "torchscript"),
        ("ecapa", "pt2"),
        *(
            pytest.param(name, kind, marks=pytest.mark.slow)
            for name in EXPORTED
            for kind in ("torchscript", "pt2")
            if name != "ecapa"
        ),
    ],
)
def test_files_for_torch_alone(name: str, kind: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    recipe = small(name)
    network = SpeakerModel(recipe.features, recipe.encoder).eval()
    save_model(tmp_path / "model", network.state_dict(), {}, recipe, [], {})
    path = tmp_path / ("m.pt2" if kind == "pt2" else "m.pt")
    assert main(["export", str(tmp_path / "model"), f"--{kind}", str(path)]) == 0
    texts = {TEXTS: ""}
    if kind == "pt2":
        exported = torch.export.load(path, extra_files=texts).module()
    else:
        exported = torch.jit.load(path, _extra_files=texts)
    facts = json.loads(texts[TEXTS])
    assert facts["fingerprint"] == read_model_folder(tmp_path / "model").fingerprint
    for seconds in (0.5, 2.0, 10.0, 60.0):
        for batch in (1, 4) if seconds < 60 or name == "ecapa" else (1,):
            samples = round(seconds * 16000)
            waveform = 0.1 * torch.randn(batch, samples)
            lengths = torch.linspace(1, 0.6, batch).mul(samples).long()
            with torch.inference_mode():
                found = torch.cosine_similarity(exported(waveform, lengths), network(waveform, lengths))
            assert found.min() > 0.9999, (seconds, batch)


def test_wrong_names_for_torch(tiny_model: Path, exported: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(tiny_model)]) == 2
    assert "--onnx F.onnx, --pt2 F.pt2 or --torchscript F.pt" in capsys.readouterr().err
    assert main(["export", str(tiny_model), "--pt2", "a.pt", "--precision", "int8"]) == 2
    assert "--precision does nothing" in capsys.readouterr().err
    assert main(["export", str(tiny_model), "--pt2", "a.pt"]) == 2
    assert "ends in .pt2" in capsys.readouterr().err
    assert main(["export", str(exported), "--torchscript", "a.pt"]) == 2
    assert "is an ONNX file" in capsys.readouterr().err


def test_wrong_files(exported: Path, tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        read_model_folder(tmp_path / "absent.onnx")
    cut = tmp_path / "cut.onnx"
    cut.write_bytes(exported.read_bytes()[:1000])
    with pytest.raises(InputError, match="damaged"):
        read_model_folder(cut)
    other = onnx.load(exported)
    del other.metadata_props[:]
    onnx.save(other, tmp_path / "other.onnx")
    with pytest.raises(InputError, match="expected a file of `speakerverif export`"):
        read_model_folder(tmp_path / "other.onnx")
    with pytest.raises(InputError, match=r"ends in \.onnx"):
        export_onnx(read_model_folder(tiny_model), tmp_path / "model.bin")
    with pytest.raises(InputError, match="ONNX file already"):
        export_onnx(read_model_folder(exported), tmp_path / "again.onnx")


def test_a_calibration_of_another_back_end_stays_behind(model: Path) -> None:
    """The file is compared by cosine, so a calibration of another back end's scores would be wrong for it."""
    folder = read_model_folder(model)
    assert folder.calibration is not None
    other = dataclasses.replace(
        folder, calibration=dataclasses.replace(folder.calibration, scoring="plda 01234567")
    )
    assert "calibration.toml" in to_onnx.metadata(folder)
    assert "calibration.toml" not in to_onnx.metadata(other)
