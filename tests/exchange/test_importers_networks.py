"""Checkpoints of RepVGG, ResNetSE34L, ReDimNet2, TitaNet and with other poolings run here as they do there."""

import io
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torchaudio
import yaml
from torch import Tensor

from speakerverif.errors import InputError
from speakerverif.exchange.importers import assumptions, import_model
from speakerverif.models.encoders import redimnet, redimnet2
from speakerverif.models.folder import read_model_folder
from tests import foreign_models as foreign
from tests import map_references as maps
from tests import network_references as nets

LENGTHS = (9123,)
Reference = Callable[[Tensor], Tensor]  # waveform -> embedding


@pytest.fixture(scope="module", autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def kaldi(waveform: Tensor, window: str = "hamming", scale: float = 32768.0, mels: int = 80) -> Tensor:
    features: Tensor = torchaudio.compliance.kaldi.fbank(
        waveform[None] * scale, num_mel_bins=mels, window_type=window, dither=0.0, sample_frequency=16000
    )
    return features - features.mean(0)


def check(kind: str, source: Path, reference: Reference, at: Path, answers: tuple[str, ...] = ()) -> None:
    """Compare the embeddings of an imported model with a reference's, alone and in a ragged batch."""
    import_model(kind, source, at, answers)
    model = read_model_folder(at).model
    for length in LENGTHS:
        waveform = 0.1 * torch.randn(length)
        with torch.inference_mode():
            expected = reference(waveform)
            torch.testing.assert_close(model(waveform[None])[0], expected, atol=1e-4, rtol=1e-4)
            padded = torch.nn.functional.pad(waveform, (0, 1000)).expand(2, -1)
            ragged = model(padded, torch.tensor([length, length + 1000]))[0]
            torch.testing.assert_close(ragged, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("pooling", ["TAP", "TSDP", "ASTP", "MQMHASTP", "XI"])
def test_an_xvector_pools_as_its_configuration_says(pooling: str, tmp_path: Path) -> None:
    shapes = foreign.xvector_shapes(80, 8, 16, 6, second=False)
    shapes |= nets.pooling_shapes(pooling, 16) | {"seg_1.weight": (6, 16 * nets.VECTORS[pooling])}
    state = foreign.random_state(shapes)
    source = foreign.wespeaker_folder(tmp_path / "source", state, "XVEC", pooling)

    def reference(waveform: Tensor) -> Tensor:
        return foreign.xvector(state, kaldi(waveform), lambda x: nets.pooled(x, state, pooling))

    check("wespeaker", source, reference, tmp_path / "model")


@pytest.mark.parametrize("pooling", ["XI", "TSDP"])
def test_an_ecapa_tdnn_pools_as_its_configuration_says(pooling: str, tmp_path: Path) -> None:
    shapes = foreign.wespeaker_ecapa_shapes(16, 6, context=False)
    shapes = {name: shape for name, shape in shapes.items() if not name.startswith("pool.")}
    size = 48 * nets.VECTORS[pooling]
    shapes |= nets.pooling_shapes(pooling, 48) | foreign.norm_shapes("bn", size)
    state = foreign.random_state(shapes | {"linear.weight": (6, size)})
    source = foreign.wespeaker_folder(tmp_path / "source", state, "XI_VEC_ECAPA_TDNN_c512", pooling)

    def reference(waveform: Tensor) -> Tensor:
        return foreign.wespeaker_ecapa(state, kaldi(waveform), lambda x: nets.pooled(x, state, pooling))

    check("wespeaker", source, reference, tmp_path / "model")


def test_a_3dspeaker_network_pools_as_the_user_says(tmp_path: Path) -> None:
    """Of 80 bands under TAP and of 40 under TSTP the tensors are the same."""
    shapes = maps.resnet_shapes((2, 2, 2, 2), False, 2, 80, 6, second=False, attention=False)
    state = foreign.random_state(shapes | {"seg_1.weight": (6, 160)})
    torch.save(state, tmp_path / "resnet.ckpt")
    # Means alone are means and deviations of which the latter have no weight.
    weights = state | {"seg_1.weight": torch.nn.functional.pad(state["seg_1.weight"], (0, 160))}

    def reference(waveform: Tensor) -> Tensor:
        return maps.resnet(kaldi(waveform, "povey", 1.0)[None], weights)[0]

    answers = ("features.num_mels=80", "encoder.pooling=average")
    check("3dspeaker", tmp_path / "resnet.ckpt", reference, tmp_path / "model", answers)


@pytest.mark.parametrize(
    ("tensors", "configured", "expected"), [("XI", "TAP", "expected XI"), ("TAP", "XI", "TSTP, TAP or TSDP")]
)
def test_a_pooling_that_contradicts_the_tensors_is_refused(
    tensors: str, configured: str, expected: str, tmp_path: Path
) -> None:
    shapes = foreign.xvector_shapes(80, 8, 16, 6, second=False) | nets.pooling_shapes(tensors, 16)
    state = foreign.random_state(shapes | {"seg_1.weight": (6, 16)})
    source = foreign.wespeaker_folder(tmp_path / "source", state, "XVEC", configured)
    with pytest.raises(InputError, match=f"pooling_func '{configured}': .*{expected}"):
        import_model("wespeaker", source, tmp_path / "model")


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"dilated": True, "excited": True},
        {"groups": 2},
        {"fused": True},
        {"fused": True, "dilated": True},
    ],
    ids=str,
)
def test_repvgg(options: dict[str, bool], tmp_path: Path) -> None:
    shapes = nets.repvgg_shapes((2, 2, 1, 1), (4, 8, 8, 12), 6, 24, **options)
    state = foreign.random_state(shapes)
    source = foreign.wespeaker_folder(tmp_path / "source", state, "REPVGG_A0", "TSTP", mels=24)

    def reference(waveform: Tensor) -> Tensor:
        return nets.repvgg(kaldi(waveform, mels=24)[None], state)[0]

    check("wespeaker", source, reference, tmp_path / "model")


@pytest.mark.parametrize(("deviation", "log"), [(False, True), (True, False)])
def test_resnet_se34l(deviation: bool, log: bool, tmp_path: Path) -> None:
    state = foreign.random_state(nets.resnet_se34l_shapes(8, 6, deviation))
    spectrogram = torchaudio.transforms.MelSpectrogram(
        16000, n_fft=512, win_length=400, hop_length=160, window_fn=torch.hamming_window, n_mels=24
    )
    saved = {f"__S__.{name}": tensor for name, tensor in state.items()}
    saved["__S__.torchfb.mel_scale.fb"] = spectrogram.mel_scale.fb
    torch.save({**saved, "__L__.w": torch.tensor(10.0)}, tmp_path / "lite.model")

    def reference(waveform: Tensor) -> Tensor:
        energies = spectrogram(waveform) + 1e-6
        features = torch.nn.functional.instance_norm((energies.log() if log else energies)[None])
        return nets.resnet_se34l(features.transpose(1, 2), state)[0]

    kind = f"voxceleb_trainer_lite{'' if log else '_linear'}"
    answers = (f"features.kind={kind}", "features.waveform_scale=1")
    check("voxceleb_trainer", tmp_path / "lite.model", reference, tmp_path / "model", answers)
    with pytest.raises(InputError, match=r"kind=voxceleb_trainer_lite; .*kind=voxceleb_trainer_lite_linear"):
        import_model("voxceleb_trainer", tmp_path / "lite.model", tmp_path / "other")


# Channels of a narrow ReDimNet2 and, for each stage, strides over frequency and time, blocks, expansion, reduction.
CHANNELS = 4
STAGES: nets.Stages2 = [(1, 1, 1, 2, 12), (2, 2, 2, 1, 12), (1, 2, 1, 0.5, 24)]


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make B0 a size whose tests take no time; the tests of the encoder compare the tensors of the published ones."""
    stages = tuple(redimnet2.Stage(*stage) for stage in STAGES)
    monkeypatch.setitem(redimnet2.SIZES, "B0", redimnet2.Size(CHANNELS, stages))


def redimnet2_file(path: Path, state: dict[str, Tensor], **config: Any) -> Path:
    """Write a file as ReDimNet2's authors publish it."""
    settings = {"C": CHANNELS, "F": 72, "feat_type": "tf", "block_1d_type": "conv+att", **config}
    torch.save({"model_config": settings, "state_dict": {**state, "spec.window": torch.zeros(2)}}, path)
    return path


@pytest.mark.parametrize(
    ("head", "group_norm", "by_band"), [((8, 1, 1), False, True), ((), True, True)], ids=["head", "norms"]
)
def test_redimnet2_of_its_authors(
    head: tuple[int, ...], group_norm: bool, by_band: bool, narrow: None, tmp_path: Path
) -> None:
    state = foreign.random_state(nets.redimnet2_shapes(CHANNELS, STAGES, 6, head, group_norm))
    source = redimnet2_file(tmp_path / "b0.pt", state, return_2d_output=by_band)

    def reference(waveform: Tensor) -> Tensor:
        return nets.redimnet2(nets.tfmel(waveform)[None], state, CHANNELS, STAGES, by_band)[0]

    check("redimnet", source, reference, tmp_path / "model")
    assert read_model_folder(tmp_path / "model").recipe.encoder["group_norm"] == group_norm


def test_redimnet2_of_wespeaker(narrow: None, tmp_path: Path) -> None:
    state = foreign.random_state(nets.redimnet2_shapes(CHANNELS, STAGES, 6, (8, 1), False))
    source = foreign.wespeaker_folder(tmp_path / "source", state, "ReDimNet2B0", "ASTP", mels=72)
    settings = yaml.safe_load((source / "config.yaml").read_text())
    front = {"n_mels": 72, "norm_signal": True, "do_preemph": True, "f_min": 20, "f_max": 7600, "eps": 1e-8}
    settings["dataset_args"] |= {"frontend": "tfmel", "tfmel_args": front, "cmvn": False}
    (source / "config.yaml").write_text(yaml.safe_dump(settings))

    def reference(waveform: Tensor) -> Tensor:
        return nets.redimnet2(nets.tfmel(waveform)[None], state, CHANNELS, STAGES, False)[0]

    check("wespeaker", source, reference, tmp_path / "model")


@pytest.mark.parametrize("later", [False, True], ids=["first layout", "later layout"])
def test_redimnet_of_its_authors(later: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """WeSpeaker's port, narrow and under the authors' names, with the norm that it leaves out."""
    stages = [(1, 1, 1, 15), (2, 1, 2, 15)]
    monkeypatch.setitem(maps.REDIMNET, "B0", (60, 4, "residual", 1, True, stages))
    small = redimnet.Size(60, 4, "residual", 1, tuple(redimnet.Stage(*stage) for stage in stages))
    monkeypatch.setitem(redimnet.SIZES, "B0", small)
    shapes = maps.redimnet_shapes("B0", 6)
    pooled, width = shapes["seg_1.weight"][1], shapes["pool.linear2.weight"][0]
    ported = foreign.random_state(shapes)
    norm = foreign.random_state(foreign.norm_shapes("bn", pooled))
    state: dict[str, Tensor] = {**norm}
    for name, tensor in ported.items():
        parts = name.split(".")
        if name.startswith("seg_1"):
            name = name.replace("seg_1", "linear")
        elif later and parts[1].startswith("stage"):
            name = ".".join([*parts[:2], str(int(parts[2]) + 2), *parts[3:]])
        elif later and parts[1] == "inputs_weights":
            stage = int(parts[2])
            name = "backbone.fin_wght1d.w" if stage == len(stages) else f"backbone.stage{stage}.0.w"
        state[name] = tensor
    spectrogram = foreign.mel_spectrogram(60, 20, 7600)
    state["spec.torchfbank.2.mel_scale.fb"] = spectrogram.mel_scale.fb  # type: ignore[assignment, union-attr]
    config = {"feat_type": "pt", "spec_params": {"norm_signal": later, "do_spec_aug": False}}
    torch.save({"model_config": config, "state_dict": state}, tmp_path / "b0.pt")
    # The norm, folded into the layer that follows it, makes a network of the port.
    scale = norm["bn.weight"] / (norm["bn.running_var"] + 1e-5).sqrt()
    offset = norm["bn.bias"] - norm["bn.running_mean"] * scale
    ported["seg_1.bias"] = ported["seg_1.bias"] + ported["seg_1.weight"] @ offset
    ported["seg_1.weight"] = ported["seg_1.weight"] * scale
    assert pooled == 2 * width

    def reference(waveform: Tensor) -> Tensor:
        if later:
            waveform = (waveform - waveform.mean()) / (waveform.std(correction=0) + 1e-6)
        features = foreign.log_mel(waveform, spectrogram)
        features = (features - features.mean(1, keepdim=True)).T
        return maps.redimnet(features[None], ported, "B0")[0]

    check("redimnet", tmp_path / "b0.pt", reference, tmp_path / "model")


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ({"block_1d_type": "att"}, "model_config.block_1d_type 'att': expected 'conv\\+att'"),
        ({"spec_params": {"norm_signal": False}}, "expected pt, or tf with norm_signal"),
        ({"spec_params": {"norm_signal": True, "do_preemph": False}}, "spec_params.do_preemph False"),
    ],
)
def test_settings_of_redimnet2_that_are_not_here_are_refused(
    setting: dict[str, Any], expected: str, narrow: None, tmp_path: Path
) -> None:
    state = foreign.random_state(nets.redimnet2_shapes(CHANNELS, STAGES, 6, (), False))
    source = redimnet2_file(tmp_path / "b0.pt", state, **setting)
    with pytest.raises(InputError, match=expected):
        import_model("redimnet", source, tmp_path / "model")
    torch.save(state, source)
    with pytest.raises(InputError, match="expected `model_config` beside `state_dict`"):
        import_model("redimnet", source, tmp_path / "model")


def nemo_archive(path: Path, state: dict[str, Tensor], **preprocessor: Any) -> Path:
    """Write a `.nemo` archive as NeMo does, with the settings that its TitaNets have."""
    config = {
        "preprocessor": {
            "_target_": "nemo.collections.asr.modules.AudioToMelSpectrogramPreprocessor",
            **{"normalize": "per_feature", "window_size": 0.025, "sample_rate": 16000, "window_stride": 0.01},
            **{"window": "hann", "features": 24, "n_fft": 512, "frame_splicing": 1, "dither": 1e-5},
            **preprocessor,
        },
        "model_defaults": {"context": -1},
        "encoder": {
            "activation": "relu",
            "jasper": [
                {"stride": [1], "dilation": [1], "se_context_size": "${model.model_defaults.context}"}
            ],
        },
        "decoder": {"pool_mode": "attention", "emb_sizes": 6},
    }
    weights = io.BytesIO()
    torch.save(state, weights)
    members = {
        "./model_config.yaml": yaml.safe_dump(config).encode(),
        "./model_weights.ckpt": weights.getvalue(),
    }
    with tarfile.open(path, "w:gz") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


@pytest.fixture(scope="module")
def titanet() -> tuple[dict[str, Tensor], Tensor]:
    """The tensors of a small TitaNet, and its mel matrix."""
    bank = torchaudio.functional.melscale_fbanks(
        257, 0.0, 8000.0, 24, 16000, norm="slaney", mel_scale="slaney"
    ).T
    state = foreign.random_state(nets.titanet_shapes(24, 16, (7, 11), 2, 24, 6))
    return state | {"preprocessor.featurizer.fb": bank[None], "decoder.final.weight": torch.zeros(3, 6)}, bank


def test_titanet_from_nemos_archive(titanet: tuple[dict[str, Tensor], Tensor], tmp_path: Path) -> None:
    state, bank = titanet

    def reference(waveform: Tensor) -> Tensor:
        return nets.titanet(nets.nemo_features(waveform, bank)[None], state)[0]

    source = nemo_archive(tmp_path / "titanet.nemo", state)
    check("nemo", source, reference, tmp_path / "model")
    settings = assumptions(import_model("nemo", source, tmp_path / "again"))
    assert settings.startswith(
        "nemo filterbank of 24 bands from 0 to 8000 Hz; 16000 Hz; hanning window of 25 ms"
    )
    assert "every band of each recording with mean 0 and deviation 1" in settings


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ({"normalize": "all_features"}, "preprocessor.normalize 'all_features': expected 'per_feature'"),
        ({"n_fft": 1024}, "preprocessor.n_fft 1024: expected 512"),
        ({"features": 40}, "other mel bands"),
    ],
)
def test_settings_of_nemo_that_are_not_here_are_refused(
    setting: dict[str, Any], expected: str, titanet: tuple[dict[str, Tensor], Tensor], tmp_path: Path
) -> None:
    source = nemo_archive(tmp_path / "titanet.nemo", titanet[0], **setting)
    with pytest.raises(InputError, match=expected):
        import_model("nemo", source, tmp_path / "model")


def test_archives_that_are_not_nemos_are_refused(
    titanet: tuple[dict[str, Tensor], Tensor], tmp_path: Path
) -> None:
    source = nemo_archive(tmp_path / "titanet.nemo", titanet[0])
    (tmp_path / "cut.nemo").write_bytes(source.read_bytes()[:2000])
    (tmp_path / "text.nemo").write_text("no archive")
    with tarfile.open(tmp_path / "empty.nemo", "w"):
        pass
    for name, expected in (
        ("cut", "damaged"),
        ("text", "damaged"),
        ("empty", "expected model_config.yaml and"),
    ):
        with pytest.raises(InputError, match=f"{name}.nemo: {expected}"):
            import_model("nemo", tmp_path / f"{name}.nemo", tmp_path / "model")
    with tarfile.open(tmp_path / "huge.nemo", "w") as archive:
        member = tarfile.TarInfo("model_weights.ckpt")
        member.size = 1 << 40
        archive.addfile(member)
    with pytest.raises(InputError, match=r"model_weights\.ckpt is said to hold 1099511627776 bytes"):
        import_model("nemo", tmp_path / "huge.nemo", tmp_path / "model")
    jasper = {name: tensor for name, tensor in titanet[0].items() if ".fc." not in name}
    with pytest.raises(InputError, match=r"none of the networks of NeMo that come in \(titanet\)"):
        import_model("nemo", nemo_archive(tmp_path / "speakernet.nemo", jasper), tmp_path / "model")
    with pytest.raises(InputError, match="import nemo"):
        import_model("3dspeaker", source, tmp_path / "model")


def test_a_pickle_in_a_nemo_archive_is_not_executed(
    titanet: tuple[dict[str, Tensor], Tensor], tmp_path: Path
) -> None:
    victim = tmp_path / "executed"

    class Attack:
        def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
            return os.system, (f"touch {victim}",)

    state: dict[str, Any] = {**titanet[0], "attack": Attack()}
    with pytest.raises(InputError, match=r"'attack' is a posix\.system"):
        import_model("nemo", nemo_archive(tmp_path / "evil.nemo", state), tmp_path / "model")
    assert not victim.exists()
