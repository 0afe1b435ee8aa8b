"""Other toolkits' checkpoints run here with the embeddings that they have there."""

import os
from collections.abc import Callable
from pathlib import Path

import foreign_models as foreign
import pytest
import torch
import torchaudio
from torch import Tensor

from speakerverif.checkpoint import load_model
from speakerverif.errors import InputError
from speakerverif.importers import import_model, kinds
from speakerverif.importers._files import read_yaml

LENGTHS = (4000, 8000, 16123, 52345)
Case = tuple[str, Path, Callable[[Tensor], Tensor]]  # kind, source, waveform -> embedding


@pytest.fixture(scope="module", autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def kaldi(waveform: Tensor, scale: float, window: str) -> Tensor:
    features = torchaudio.compliance.kaldi.fbank(
        waveform[None] * scale, num_mel_bins=80, window_type=window, dither=0.0, sample_frequency=16000
    )
    return features - features.mean(0)


def hamming(waveform: Tensor) -> Tensor:
    return kaldi(waveform, 32768.0, "hamming")


def povey(waveform: Tensor) -> Tensor:
    return kaldi(waveform, 1.0, "povey")


def wespeaker_ecapa(folder: Path, context: bool) -> Case:
    state = foreign.random_state(foreign.wespeaker_ecapa_shapes(32, 16, context))
    foreign.wespeaker_folder(folder, state, "ECAPA_TDNN_GLOB_c512" if context else "ECAPA_TDNN_c512", "ASTP")
    return "wespeaker", folder, lambda waveform: foreign.wespeaker_ecapa(state, hamming(waveform))


def wespeaker_xvector(folder: Path) -> Case:
    state = foreign.random_state(foreign.xvector_shapes(80, 24, 32, 16, second=True))
    foreign.wespeaker_folder(folder, state, "XVEC", "TSTP")
    return "wespeaker", folder, lambda waveform: foreign.xvector(state, hamming(waveform))


def threedspeaker_xvector(folder: Path) -> Case:
    folder.mkdir()
    state = foreign.random_state(foreign.xvector_shapes(80, 24, 32, 16, second=False))
    torch.save(state, folder / "embedding_model.ckpt")
    return "3dspeaker", folder, lambda waveform: foreign.xvector(state, povey(waveform))


def threedspeaker_ecapa(folder: Path) -> Case:
    # Its network is SpeechBrain's, module by module and name by name.
    from speechbrain.lobes.models.ECAPA_TDNN import ECAPA_TDNN

    folder.mkdir()
    peer = ECAPA_TDNN(
        80, channels=[32] * 4 + [48], lin_neurons=12, attention_channels=8, se_channels=8
    ).eval()
    torch.save(peer.state_dict(), folder / "embedding_model.ckpt")
    return "3dspeaker", folder, lambda waveform: peer(povey(waveform)[None])[0, 0]


def taoruijie(folder: Path) -> Case:
    folder.mkdir()
    state = foreign.random_state(foreign.taoruijie_shapes(32, 48, 16))
    source = foreign.taoruijie_file(folder / "pretrain.model", state)
    return (
        "taoruijie",
        source,
        lambda waveform: foreign.taoruijie(state, foreign.taoruijie_features(waveform)),
    )


def speechbrain(folder: Path, model: str, mels: int) -> Case:
    from speechbrain.inference.speaker import SpeakerRecognition

    foreign.speechbrain_folder(folder, model, mels)
    peer = SpeakerRecognition.from_hparams(
        str(folder), savedir=str(folder.with_name(f"{folder.name}-loaded"))
    )
    return "speechbrain", folder, lambda waveform: peer.encode_batch(waveform[None])[0, 0]


CASES = {
    "speechbrain-ecapa": lambda at: speechbrain(at, foreign.SPEECHBRAIN_ECAPA, 80),
    "speechbrain-xvector": lambda at: speechbrain(at, foreign.SPEECHBRAIN_XVECTOR, 24),
    "wespeaker-ecapa": lambda at: wespeaker_ecapa(at, context=False),
    "wespeaker-ecapa-glob": lambda at: wespeaker_ecapa(at, context=True),
    "wespeaker-xvector": wespeaker_xvector,
    "3dspeaker-ecapa": threedspeaker_ecapa,
    "3dspeaker-xvector": threedspeaker_xvector,
    "taoruijie-ecapa": taoruijie,
}


@pytest.fixture(scope="module", params=CASES)
def case(request, tmp_path_factory) -> Case:
    return CASES[request.param](tmp_path_factory.mktemp("foreign") / "source")


def weights_file(source: Path) -> Path:
    names = ("embedding_model.ckpt", "avg_model.pt")
    return source if source.is_file() else next(source / name for name in names if (source / name).exists())


def test_the_embedding_is_the_originals(case, tmp_path):
    kind, source, reference = case
    import_model(kind, source, tmp_path / "model")
    model = load_model(tmp_path / "model").model
    for length in LENGTHS:
        waveform = 0.1 * torch.randn(length)
        with torch.inference_mode():
            expected = reference(waveform)
            torch.testing.assert_close(model(waveform[None])[0], expected, atol=1e-4, rtol=1e-4)
            # In a batch, padded, the embedding is still that of the file on its own.
            padded = torch.nn.functional.pad(waveform, (0, 5000)).expand(2, -1)
            ragged = model(padded, torch.tensor([length, length + 5000]))[0]
            torch.testing.assert_close(ragged, expected, atol=1e-4, rtol=1e-4)


def test_a_file_cut_off_is_named(case, tmp_path):
    kind, source, _ = case
    broken = copied(source, tmp_path)
    path = weights_file(broken)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(InputError, match=rf"{path.name}: damaged"):
        import_model(kind, broken, tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_a_pickle_that_calls_something_is_not_executed(case, tmp_path):
    kind, source, _ = case
    evil = copied(source, tmp_path)
    victim = tmp_path / "executed"

    class Attack:
        def __reduce__(self):
            return os.system, (f"touch {victim}",)

    path = weights_file(evil)
    torch.save({**torch.load(path, weights_only=True), "attack": Attack()}, path)
    with pytest.raises(InputError, match="not a file of tensors alone"):
        import_model(kind, evil, tmp_path / "model")
    assert not victim.exists()


def test_what_does_not_fit_is_listed_tensor_by_tensor(case, tmp_path):
    kind, source, _ = case
    odd = copied(source, tmp_path)
    path = weights_file(odd)
    state = torch.load(path, weights_only=True)
    prefix = "speaker_encoder." if kind == "taoruijie" else ""
    inner = [
        n for n in state if n.startswith(prefix) and n.endswith("bias") and "norm" not in n and "bn" not in n
    ]
    lost, wide, broken = inner[1], inner[2], inner[3]
    del state[lost]
    state[wide] = torch.zeros(len(state[wide]) + 1)
    state[broken] = torch.full_like(state[broken], torch.nan)
    state[f"{prefix}extra.weight"] = torch.zeros(2, 3)
    torch.save(state, path)
    with pytest.raises(InputError) as caught:
        import_model(kind, odd, tmp_path / "model")
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


def test_another_kind_is_refused(case, tmp_path):
    kind, source, _ = case
    layout = {  # 3D-Speaker's layouts are SpeechBrain's and WeSpeaker's, but its folder holds no settings
        "speechbrain": ("wespeaker", "taoruijie"),
        "wespeaker": ("speechbrain", "taoruijie"),
        "3dspeaker": ("speechbrain", "wespeaker", "taoruijie"),
        "taoruijie": ("speechbrain", "wespeaker", "3dspeaker"),
    }
    for other in layout[kind]:
        with pytest.raises(InputError):
            import_model(other, source, tmp_path / "model")
        assert not (tmp_path / "model").exists()


def test_the_folder_says_where_the_model_comes_from(tmp_path):
    source = foreign.speechbrain_folder(tmp_path / "spkrec", foreign.SPEECHBRAIN_ECAPA, 80)
    import_model("speechbrain", source, tmp_path / "model")
    folder = load_model(tmp_path / "model")
    assert folder.name == "spkrec"
    assert folder.trained["imported_from"] == "speechbrain"
    assert len(folder.trained["source_sha256"]) == 64
    assert folder.speakers == ["id10001", "id10002"]
    card = (tmp_path / "model" / "README.md").read_text()
    assert "imported into" in card and "trained with" not in card
    with pytest.raises(InputError, match="holds a model already"):
        import_model("speechbrain", source, tmp_path / "model")


def test_unknown_kinds_and_sources(tmp_path):
    assert {"speechbrain", "wespeaker", "3dspeaker", "taoruijie"} <= set(kinds())
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
def test_settings_that_are_not_here_are_refused(tmp_path, old, new, found):
    source = foreign.speechbrain_folder(tmp_path / "source", foreign.SPEECHBRAIN_ECAPA, 80)
    path = source / "hyperparams.yaml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(InputError, match=found):
        import_model("speechbrain", source, tmp_path / "model")


def test_speechbrains_resnet_is_refused_by_name(tmp_path):
    from speechbrain.lobes.models.ResNet import ResNet

    source = foreign.speechbrain_folder(tmp_path / "source", foreign.SPEECHBRAIN_ECAPA, 80)
    torch.save(ResNet(channels=[2, 2, 4, 4]).state_dict(), source / "embedding_model.ckpt")
    with pytest.raises(InputError, match="neither SpeechBrain's ECAPA_TDNN nor its Xvector"):
        import_model("speechbrain", source, tmp_path / "model")


def test_other_mel_bands_are_noticed(tmp_path):
    state = foreign.random_state(foreign.taoruijie_shapes(32, 48, 16))
    path = foreign.taoruijie_file(tmp_path / "a.model", state)
    state = torch.load(path, weights_only=True)
    state["speaker_encoder.torchfbank.1.mel_scale.fb"][40, 10] += 0.1
    torch.save(state, path)
    with pytest.raises(InputError, match="other mel bands"):
        import_model("taoruijie", path, tmp_path / "model")


def test_yaml_tags_are_data(tmp_path):
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
