"""Other toolkits' checkpoints run here with the embeddings that they have there."""

import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import torchaudio
from torch import Tensor

from speakerverif.errors import InputError
from speakerverif.exchange.importers import assumptions, import_model, kinds
from speakerverif.exchange.importers._files import read_yaml
from speakerverif.models.folder import read_model_folder
from tests import foreign_models as foreign
from tests import map_references as maps

LENGTHS = (4000, 8000, 16123, 52345)
SOME = (4000, 40123)  # where the references take their time
WESPEAKERS_OWN = ("features.window=hamming", "features.waveform_scale=32768")
HUB_CAMPPLUS = ("features.window=povey", "features.waveform_scale=1")
WITH_LOG = ("features.kind=voxceleb_trainer", "features.waveform_scale=1")
SLOW = ("wespeaker-redimnet-b3", "3dspeaker-eres2netv2-w24s4ep4")


class Case(NamedTuple):
    kind: str
    source: Path
    reference: Callable[[Tensor], Tensor]  # waveform -> embedding
    lengths: tuple[int, ...] = LENGTHS
    answers: tuple[str, ...] = ()


@pytest.fixture(scope="module", autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def kaldi(waveform: Tensor, scale: float, window: str, mels: int = 80) -> Tensor:
    features = torchaudio.compliance.kaldi.fbank(
        waveform[None] * scale, num_mel_bins=mels, window_type=window, dither=0.0, sample_frequency=16000
    )
    values: Tensor = features - features.mean(0)
    return values


def hamming(waveform: Tensor, mels: int = 80) -> Tensor:
    return kaldi(waveform, 32768.0, "hamming", mels)


def povey(waveform: Tensor) -> Tensor:
    return kaldi(waveform, 1.0, "povey")


def wespeaker_ecapa(folder: Path, context: bool) -> Case:
    state = foreign.random_state(foreign.wespeaker_ecapa_shapes(32, 16, context))
    foreign.wespeaker_folder(folder, state, "ECAPA_TDNN_GLOB_c512" if context else "ECAPA_TDNN_c512", "ASTP")
    return Case("wespeaker", folder, lambda waveform: foreign.wespeaker_ecapa(state, hamming(waveform)))


def wespeaker_xvector(folder: Path) -> Case:
    state = foreign.random_state(foreign.xvector_shapes(80, 24, 32, 16, second=True))
    foreign.wespeaker_folder(folder, state, "XVEC", "TSTP")
    return Case("wespeaker", folder, lambda waveform: foreign.xvector(state, hamming(waveform)))


def threedspeaker_xvector(folder: Path) -> Case:
    folder.mkdir()
    state = foreign.random_state(foreign.xvector_shapes(80, 24, 32, 16, second=False))
    torch.save(state, folder / "embedding_model.ckpt")
    return Case("3dspeaker", folder, lambda waveform: foreign.xvector(state, povey(waveform)))


def threedspeaker_ecapa(folder: Path) -> Case:
    # Its network is SpeechBrain's, module by module and name by name.
    from speechbrain.lobes.models.ECAPA_TDNN import ECAPA_TDNN

    folder.mkdir()
    peer = ECAPA_TDNN(
        80, channels=[32] * 4 + [48], lin_neurons=12, attention_channels=8, se_channels=8
    ).eval()
    torch.save(peer.state_dict(), folder / "embedding_model.ckpt")
    return Case("3dspeaker", folder, lambda waveform: peer(povey(waveform)[None])[0, 0])


def wespeaker(
    folder: Path,
    shapes: maps.Shapes,
    reference: Callable[..., Tensor],
    *options: str,
    pooling: str = "TSTP",
    mels: int = 80,
    answers: tuple[str, ...] = (),
) -> Case:
    state = foreign.random_state(shapes)
    foreign.wespeaker_folder(folder, state, reference.__name__, pooling, mels)
    return Case(
        "wespeaker",
        folder,
        lambda waveform: reference(
            (povey(waveform) if answers == HUB_CAMPPLUS else hamming(waveform, mels))[None], state, *options
        )[0],
        SOME,
        answers,
    )


def threedspeaker(folder: Path, shapes: maps.Shapes, reference: Callable[..., Tensor]) -> Case:
    folder.mkdir()
    state = foreign.random_state(shapes)
    torch.save(state, folder / "pretrained.ckpt")
    return Case("3dspeaker", folder, lambda waveform: reference(povey(waveform)[None], state)[0], SOME)


def voxceleb_trainer(folder: Path, deviation: bool) -> Case:
    state = foreign.random_state(maps.voxceleb_trainer_shapes(8, 40, 12, deviation))
    source = foreign.voxceleb_trainer_file(folder / "baseline.model", state, 40)

    def reference(waveform: Tensor) -> Tensor:
        return maps.voxceleb_trainer(foreign.voxceleb_trainer_features(waveform, 40)[None], state)[0]

    return Case("voxceleb_trainer", source, reference, SOME, WITH_LOG)


class Specifications:
    """A class that only its toolkit has, pickled beside the weights as Lightning does."""


def pyannote(folder: Path, window: str) -> Case:
    folder.mkdir()
    state = foreign.random_state(
        maps.resnet_shapes(RESNET34, False, 4, 80, 10, second=False, attention=False)
    )
    checkpoint = {
        "state_dict": {f"resnet.{name}": tensor for name, tensor in state.items()},
        "hyper_parameters": {"sample_rate": 16000, "num_channels": 1, "window_type": window},
        "pyannote.audio": {"versions": {"torch": "2.1"}, "specifications": Specifications()},
    }
    torch.save(checkpoint, folder / "pytorch_model.bin")
    return Case(
        "pyannote",
        folder,
        lambda waveform: maps.resnet(kaldi(waveform, 32768.0, window)[None], state)[0],
        SOME,
    )


def taoruijie(folder: Path) -> Case:
    folder.mkdir()
    state = foreign.random_state(foreign.taoruijie_shapes(32, 48, 16))
    source = foreign.taoruijie_file(folder / "pretrain.model", state)
    return Case(
        "taoruijie", source, lambda waveform: foreign.taoruijie(state, foreign.taoruijie_features(waveform))
    )


def speechbrain(folder: Path, model: str, mels: int) -> Case:
    from speechbrain.inference.speaker import SpeakerRecognition

    foreign.speechbrain_folder(folder, model, mels)
    peer = SpeakerRecognition.from_hparams(
        str(folder), savedir=str(folder.with_name(f"{folder.name}-loaded"))
    )
    return Case("speechbrain", folder, lambda waveform: peer.encode_batch(waveform[None]).flatten())


def redimnet(folder: Path, size: str, second: bool) -> Case:
    shapes = maps.redimnet_shapes(size, 16, second)
    return wespeaker(folder, shapes, maps.redimnet, size, pooling="ASTP", mels=maps.REDIMNET[size][0])


RESNET18, RESNET34 = (2, 2, 2, 2), (3, 4, 6, 3)
CASES: dict[str, Callable[[Path], Case]] = {
    "speechbrain-ecapa": lambda at: speechbrain(at, foreign.SPEECHBRAIN_ECAPA, 80),
    "speechbrain-xvector": lambda at: speechbrain(at, foreign.SPEECHBRAIN_XVECTOR, 24),
    "speechbrain-resnet": lambda at: speechbrain(at, foreign.SPEECHBRAIN_RESNET, 80),
    "wespeaker-ecapa": lambda at: wespeaker_ecapa(at, context=False),
    "wespeaker-ecapa-glob": lambda at: wespeaker_ecapa(at, context=True),
    "wespeaker-xvector": wespeaker_xvector,
    "wespeaker-resnet18": lambda at: wespeaker(
        at, maps.resnet_shapes(RESNET18, False, 6, 80, 10, second=True, attention=False), maps.resnet
    ),
    "wespeaker-resnet50-attentive": lambda at: wespeaker(
        at,
        maps.resnet_shapes(RESNET34, True, 2, 24, 10, second=False, attention=True),
        maps.resnet,
        pooling="ASTP",
        mels=24,
    ),
    "wespeaker-campplus": lambda at: wespeaker(
        at, maps.campplus_shapes(4, 8, 4, 8, 80, 10), maps.campplus, answers=WESPEAKERS_OWN
    ),
    "wespeaker-campplus-of-the-hub": lambda at: wespeaker(
        at, maps.campplus_shapes(4, 8, 4, 8, 80, 10), maps.campplus, answers=HUB_CAMPPLUS
    ),
    "wespeaker-simam-resnet34": lambda at: wespeaker(
        at, maps.simam_resnet_shapes(RESNET34, 4, 80, 10), maps.simam_resnet
    ),
    "wespeaker-res2net": lambda at: wespeaker(
        at, maps.res2net_shapes(8, 32, 2, 2, 10, second=True), maps.res2net
    ),
    "wespeaker-gemini-dfresnet60": lambda at: wespeaker(
        at, maps.gemini_dfresnet_shapes((3, 3, 9, 3), 4, 80, 10), maps.gemini_dfresnet
    ),
    "3dspeaker-res2net-of-4-parts": lambda at: threedspeaker(
        at, maps.res2net_shapes(8, 32, 4, 2, 10, second=False), maps.res2net
    ),
    "pyannote-resnet34": lambda at: pyannote(at, "hamming"),
    "pyannote-resnet34-povey": lambda at: pyannote(at, "povey"),
    "wespeaker-eres2net": lambda at: wespeaker(
        at,
        maps.eres2net_shapes(8, 32, 2, 2, 10, "wespeaker", second=True),
        maps.eres2net,
        answers=WESPEAKERS_OWN,
    ),
    "wespeaker-redimnet-b0": lambda at: redimnet(at, "B0", second=False),
    "wespeaker-redimnet-b3": lambda at: redimnet(at, "B3", second=False),
    "wespeaker-redimnet-b1": lambda at: redimnet(at, "B1", second=True),
    "3dspeaker-ecapa": threedspeaker_ecapa,
    "3dspeaker-xvector": threedspeaker_xvector,
    "3dspeaker-resnet34": lambda at: threedspeaker(
        at, maps.resnet_shapes(RESNET34, False, 4, 80, 10, second=True, attention=False), maps.resnet
    ),
    "3dspeaker-campplus": lambda at: threedspeaker(
        at, maps.campplus_shapes(4, 8, 4, 8, 80, 6), maps.campplus
    ),
    "3dspeaker-eres2net": lambda at: threedspeaker(
        at, maps.eres2net_shapes(8, 32, 2, 2, 10, "3dspeaker"), maps.eres2net
    ),
    "3dspeaker-eres2netv2": lambda at: threedspeaker(
        at, maps.eres2net_shapes(8, 26, 2, 2, 10, "v2"), maps.eres2net
    ),
    "3dspeaker-eres2netv2-w24s4ep4": lambda at: threedspeaker(
        at, maps.eres2net_shapes(8, 24, 4, 4, 10, "v2"), maps.eres2net
    ),
    "taoruijie-ecapa": taoruijie,
    "voxceleb_trainer": lambda at: voxceleb_trainer(at, deviation=True),
    "voxceleb_trainer-sap": lambda at: voxceleb_trainer(at, deviation=False),
}


@pytest.fixture(
    scope="module",
    params=[pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in CASES],
)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    return CASES[request.param](tmp_path_factory.mktemp("foreign") / "source")


def weights_file(source: Path) -> Path:
    names = ("embedding_model.ckpt", "avg_model.pt", "pretrained.ckpt", "pytorch_model.bin")
    return source if source.is_file() else next(source / name for name in names if (source / name).exists())


def test_the_embedding_is_the_originals(case: Case, tmp_path: Path) -> None:
    kind, source, reference, lengths, answers = case
    import_model(kind, source, tmp_path / "model", answers)
    model = read_model_folder(tmp_path / "model").model
    for length in lengths:
        waveform = 0.1 * torch.randn(length)
        with torch.inference_mode():
            expected = reference(waveform)
            torch.testing.assert_close(model(waveform[None])[0], expected, atol=1e-4, rtol=1e-4)
            # In a batch, padded, the embedding is still that of the file on its own.
            padded = torch.nn.functional.pad(waveform, (0, 5000)).expand(2, -1)
            ragged = model(padded, torch.tensor([length, length + 5000]))[0]
            torch.testing.assert_close(ragged, expected, atol=1e-4, rtol=1e-4)


def test_a_file_cut_off_is_named(case: Case, tmp_path: Path) -> None:
    kind, source, *_ = case
    broken = copied(source, tmp_path)
    path = weights_file(broken)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(InputError, match=rf"{path.name}: damaged"):
        import_model(kind, broken, tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_a_pickle_that_calls_something_is_not_executed(case: Case, tmp_path: Path) -> None:
    kind, source, *_ = case
    evil = copied(source, tmp_path)
    victim = tmp_path / "executed"

    class Attack:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.system, (f"touch {victim}",)

    path = weights_file(evil)
    checkpoint = torch.load(path, weights_only=False)
    checkpoint.get("state_dict", checkpoint)["attack"] = Attack()
    torch.save(checkpoint, path)
    with pytest.raises(InputError, match=r"not a file of tensors alone: 'attack' is a posix.system"):
        import_model(kind, evil, tmp_path / "model")
    assert not victim.exists()


def test_what_does_not_fit_is_listed_tensor_by_tensor(case: Case, tmp_path: Path) -> None:
    kind, source, *_ = case
    odd = copied(source, tmp_path)
    path = weights_file(odd)
    checkpoint = torch.load(path, weights_only=False)
    state = checkpoint.get("state_dict", checkpoint)
    prefix = {"taoruijie": "speaker_encoder.", "voxceleb_trainer": "__S__.", "pyannote": "resnet."}.get(
        kind, ""
    )
    _, lost, wide, broken, *_ = (n for n in state if n.startswith(prefix) and n.endswith("running_mean"))
    del state[lost]
    state[wide] = torch.zeros(len(state[wide]) + 1)
    state[broken] = torch.full_like(state[broken], torch.nan)
    state[f"{prefix}extra.weight"] = torch.zeros(2, 3)
    torch.save(checkpoint, path)
    with pytest.raises(InputError) as caught:
        import_model(kind, odd, tmp_path / "model", case.answers)
    message = str(caught.value)
    assert "4 tensors don't fit" in message
    for name, text in (
        (lost, "is missing"),
        (wide, "expected"),
        (broken, "NaN"),
        (f"{prefix}extra.weight", "(2, 3)"),
    ):
        line = next(
            line
            for line in message.splitlines()
            if f"  {name.removeprefix(prefix)} " in line.replace(":", " ")
        )
        assert text in line


def test_another_kind_is_refused(case: Case, tmp_path: Path) -> None:
    kind, source, *_ = case
    others = {"speechbrain", "wespeaker", "3dspeaker", "taoruijie", "voxceleb_trainer", "pyannote"} - {kind}
    if kind == "wespeaker":  # the layouts of 3D-Speaker and pyannote are its own
        others -= {"3dspeaker", "pyannote"}
    if kind in ("3dspeaker", "pyannote"):
        others -= {"3dspeaker", "pyannote"}
    for other in others:
        with pytest.raises(InputError):
            import_model(other, source, tmp_path / "model")
        assert not (tmp_path / "model").exists()


def test_the_folder_says_where_the_model_comes_from(tmp_path: Path) -> None:
    source = foreign.speechbrain_folder(tmp_path / "spkrec", foreign.SPEECHBRAIN_ECAPA, 80)
    import_model("speechbrain", source, tmp_path / "model")
    folder = read_model_folder(tmp_path / "model")
    assert folder.name == "spkrec"
    assert folder.trained["imported_from"] == "speechbrain"
    assert len(folder.trained["source_sha256"]) == 64
    assert folder.speakers == ["id10001", "id10002"]
    card = (tmp_path / "model" / "README.md").read_text()
    assert "imported into" in card and "trained with" not in card
    with pytest.raises(InputError, match="already holds a model"):
        import_model("speechbrain", source, tmp_path / "model")


def test_unknown_kinds_and_sources(tmp_path: Path) -> None:
    assert {"speechbrain", "wespeaker", "3dspeaker", "taoruijie", "voxceleb_trainer"} <= set(kinds())
    with pytest.raises(InputError, match="did you mean 'speechbrain'"):
        import_model("speechbrian", tmp_path, tmp_path / "model")
    with pytest.raises(InputError, match="no such file or folder"):
        import_model("taoruijie", tmp_path / "absent.model", tmp_path / "model")


@pytest.mark.parametrize(
    ("old", "new", "found"),
    [
        ("std_norm: False", "std_norm: True", "std_norm"),
        ("norm_type: sentence", "norm_type: global", "norm_type"),
        ("n_mels: !ref <n_mels>", "n_mels: !ref <n_mels>\n    deltas: True", "deltas"),
        ("n_mels: !ref <n_mels>", "n_mels: !ref <n_mels> * 2", "can't resolve"),
        ("n_mels: !ref <n_mels>", "n_mels: !ref <n_mels>\n    n_fft: 512", "n_fft"),
        ("dilations: [1, 2, 3, 4, 1]", "dilations: [1, 2, 3, 5, 1]", "dilations"),
        ("lobes.features.Fbank", "lobes.features.MFCC", "MFCC"),
    ],
)
def test_settings_that_are_not_here_are_refused(tmp_path: Path, old: str, new: str, found: str) -> None:
    source = foreign.speechbrain_folder(tmp_path / "source", foreign.SPEECHBRAIN_ECAPA, 80)
    path = source / "hyperparams.yaml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(InputError, match=found):
        import_model("speechbrain", source, tmp_path / "model")


def test_networks_that_are_not_here_are_refused_with_what_is(tmp_path: Path) -> None:
    source = foreign.speechbrain_folder(tmp_path / "source", foreign.SPEECHBRAIN_ECAPA, 80)
    torch.save({"model.0.weight": torch.zeros(2, 2)}, source / "embedding_model.ckpt")
    known = "speechbrain ecapa, speechbrain xvector, speechbrain resnet"
    with pytest.raises(InputError, match=rf"none of .* SpeechBrain .*\({known}\).*model\.0\.weight"):
        import_model("speechbrain", source, tmp_path / "model")
    shapes = maps.resnet_shapes((2, 2, 3, 2), False, 2, 80, 4, second=False, attention=False)
    source = foreign.wespeaker_folder(tmp_path / "odd", foreign.random_state(shapes), "ResNet", "TSTP")
    with pytest.raises(InputError, match=r"ResNet of \(2, 2, 3, 2\) basic blocks"):
        import_model("wespeaker", source, tmp_path / "model")
    shapes = maps.resnet_shapes(RESNET18, False, 2, 80, 4, second=False, attention=False)
    source = foreign.wespeaker_folder(tmp_path / "tap", foreign.random_state(shapes), "ResNet18", "XI")
    with pytest.raises(InputError, match="pooling_func 'XI': expected TSTP"):
        import_model("wespeaker", source, tmp_path / "model")


def test_voxceleb_trainers_other_checkpoints_are_the_same_model(tmp_path: Path) -> None:
    """Beside the bare tensors with prefixes: those of a training to continue, and the encoder's alone."""
    state = foreign.random_state(maps.voxceleb_trainer_shapes(8, 40, 12, True))
    path = foreign.voxceleb_trainer_file(tmp_path / "a.model", state, 40)
    import_model("voxceleb_trainer", path, tmp_path / "a", WITH_LOG)
    saved = {"model_state_dict": torch.load(path), "optimizer_state_dict": {"state": {}}, "epoch": 3}
    torch.save(saved, tmp_path / "b.model")
    torch.save({"model": {f"module.{name}": tensor for name, tensor in state.items()}}, tmp_path / "c.model")
    for name in "bc":
        import_model("voxceleb_trainer", tmp_path / f"{name}.model", tmp_path / name, WITH_LOG)
        assert read_model_folder(tmp_path / name).fingerprint == read_model_folder(tmp_path / "a").fingerprint


def test_other_mel_bands_are_noticed(tmp_path: Path) -> None:
    state = foreign.random_state(foreign.taoruijie_shapes(32, 48, 16))
    path = foreign.taoruijie_file(tmp_path / "a.model", state)
    state = torch.load(path, weights_only=True)
    state["speaker_encoder.torchfbank.1.mel_scale.fb"][40, 10] += 0.1
    torch.save(state, path)
    with pytest.raises(InputError, match="other mel bands"):
        import_model("taoruijie", path, tmp_path / "model")


@pytest.mark.parametrize(
    ("kind", "name", "question"),
    [
        ("wespeaker", "wespeaker-campplus", "features.window=povey --set features.waveform_scale=1"),
        ("wespeaker", "wespeaker-eres2net", "features.window=hamming --set features.waveform_scale=32768"),
        ("voxceleb_trainer", "voxceleb_trainer", "--log_input"),
    ],
)
def test_what_no_file_tells_is_asked(kind: str, name: str, question: str, tmp_path: Path) -> None:
    source = CASES[name](tmp_path / "source").source
    for answers in ((), ("features.window=povey",)):
        with pytest.raises(InputError, match=question):
            import_model(kind, source, tmp_path / "model", answers)
    assert not (tmp_path / "model").exists()


def test_40_bands_in_a_3dspeaker_network_may_be_80_pooled_otherwise(tmp_path: Path) -> None:
    shapes = maps.resnet_shapes(RESNET34, False, 4, 40, 10, second=True, attention=False)
    source = threedspeaker(tmp_path / "source", shapes, maps.resnet).source
    with pytest.raises(InputError, match="TSTP pooling over 40 bands, or TAP or TSDP pooling over 80"):
        import_model("3dspeaker", source, tmp_path / "model")
    read = import_model("3dspeaker", source, tmp_path / "model", ["features.num_mels=40"])
    assert read.features.num_mels == 40
    assert read_model_folder(tmp_path / "model").trained["set"] == ["features.num_mels=40"]


def test_a_users_setting_takes_the_place_of_the_files(tmp_path: Path) -> None:
    case = CASES["wespeaker-resnet18"](tmp_path / "source")
    read = import_model("wespeaker", case.source, tmp_path / "model", ["features.window=hanning"])
    assert "hanning window of 25 ms" in assumptions(read)
    assert read_model_folder(tmp_path / "model").recipe.features.window == "hanning"
    for wrong in ("window=povey", "features.windw=povey", "features.window=round", "encoder.depth=19"):
        with pytest.raises(InputError):
            import_model("wespeaker", case.source, tmp_path / "other", [wrong])


@pytest.mark.parametrize(("name", "crop_s"), [("taoruijie-ecapa", 3.015), ("voxceleb_trainer", 4.015)])
def test_crops_are_as_long_as_the_originals(name: str, crop_s: float, tmp_path: Path) -> None:
    case = CASES[name](tmp_path / "source")
    import_model(case.kind, case.source, tmp_path / "model", case.answers)
    assert read_model_folder(tmp_path / "model").recipe.train.crop_s == crop_s


def test_files_of_other_sorts_are_named(tmp_path: Path) -> None:
    weights = tmp_path / "model.pt"
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), weights)
    with pytest.raises(InputError, match="TorchScript program"):
        import_model("3dspeaker", weights, tmp_path / "model")
    nemo = tmp_path / "titanet.nemo"
    with tarfile.open(nemo, "w") as archive:
        archive.add(weights, "model_weights.ckpt")
    with pytest.raises(InputError, match="tar archive; if it is NeMo's: import nemo"):
        import_model("3dspeaker", nemo, tmp_path / "model")
    tensors = {"blocks.0.weight": torch.zeros(2)}
    torch.save({"student": tensors, "teacher": tensors, "epoch": 3}, weights)
    with pytest.raises(InputError, match="teacher and a student"):
        import_model("3dspeaker", weights, tmp_path / "model")
    for damaged in (
        b"",
        b"PK\x03\x04",
        b"\x80\x02",
        b"\x80\x02}q\x00(X\x01\x00\x00\x00ac",
        bytes(range(256)) * 8,
    ):
        weights.write_bytes(damaged)
        with pytest.raises(InputError, match="damaged or not a PyTorch file") as caught:
            import_model("3dspeaker", weights, tmp_path / "model")
        assert len(str(caught.value).splitlines()) == 1 and "weights_only" not in str(caught.value)


def test_a_long_list_of_mismatches_is_cut_short(tmp_path: Path) -> None:
    source = CASES["wespeaker-resnet18"](tmp_path / "source").source
    state = torch.load(source / "avg_model.pt", weights_only=True)
    torch.save({n: t for n, t in state.items() if "layer3" not in n}, source / "avg_model.pt")
    torch.save({n: t for n, t in state.items() if "running_var" not in n}, source / "avg_model.pt")
    with pytest.raises(InputError, match=r"and \d+ more") as caught:
        import_model("wespeaker", source, tmp_path / "model")
    assert len(str(caught.value).splitlines()) <= 6


def test_speechbrains_folder_is_not_3dspeakers(tmp_path: Path) -> None:
    source = foreign.speechbrain_folder(tmp_path / "spkrec", foreign.SPEECHBRAIN_ECAPA, 80)
    with pytest.raises(InputError, match="import speechbrain"):
        import_model("3dspeaker", source, tmp_path / "model")


def test_weights_without_an_ending_as_the_hub_has_them(tmp_path: Path) -> None:
    source = CASES["wespeaker-resnet18"](tmp_path / "source").source
    (source / "avg_model.pt").rename(source / "avg_model")
    assert import_model("wespeaker", source, tmp_path / "model").weights_file.name == "avg_model"


def test_yaml_tags_are_data(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    victim = tmp_path / "executed"
    path.write_text(
        f"a: !!python/object/apply:os.system ['touch {victim}']\n"
        f"b: !apply:os.system ['touch {victim}']\n"
        "c: !new:torch.nn.Linear\n    in_features: !ref <d>\n"
        "d: 3\n"
        "e: !name:torch.nn.ReLU\n"
    )
    loaded = read_yaml(path)
    assert not victim.exists()
    assert loaded["c"] == {"!": "new:torch.nn.Linear", "in_features": "<d>"}
    assert loaded["d"] == 3
    assert loaded["e"]["!"] == "name:torch.nn.ReLU"
    assert loaded["b"] == {"!": "apply:os.system", "value": [f"touch {victim}"]}


def copied(source: Path, at: Path) -> Path:
    """Return a copy of a file or a flat folder."""
    target = at / source.name
    if source.is_file():
        target.write_bytes(source.read_bytes())
    else:
        target.mkdir()
        for path in source.iterdir():
            (target / path.name).write_bytes(path.read_bytes())
    return target
