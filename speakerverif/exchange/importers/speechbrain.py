"""SpeechBrain's speaker models: ECAPA-TDNN, ResNet and x-vector, as `EncoderClassifier.from_hparams` takes them.

The embedding equals `SpeakerRecognition.encode_batch` of one file with its default `normalize=False`, which is
what `verify_files` compares; `mean_var_norm_emb.ckpt` plays no part in it and stays behind, as does the
classifier. SpeechBrain's x-vector adds random noise of about 1e-5 to its pooled mean; here there is none. Its ResNet
takes the padding of a batch for speech; here it has no influence.
"""

import ast
from pathlib import Path
from typing import Any

from speakerverif.config import FeatureConfig
from speakerverif.errors import InputError
from speakerverif.exchange.importers._files import find, read_tensors, read_yaml
from speakerverif.exchange.importers._foreign import Foreign, recognised
from speakerverif.exchange.importers._frames import speechbrain_ecapa, speechbrain_xvector
from speakerverif.exchange.importers._maps import speechbrain_resnet

KIND = "speechbrain"
FILES = ("hyperparams.yaml", "embedding_model.ckpt", "label_encoder.*")

# Arguments of their classes that change nothing here, or that the shapes give anyway.
FBANK = {"requires_grad": False, "deltas": False, "context": False, "filter_shape": "triangular"}
FBANK |= {"param_change_factor": 1.0, "param_rand_factor": 0.0}
# ... and for each encoder, with the activations that it may have: theirs -> ours, the default first.
RELU = {"torch.nn.ReLU": "relu"}
ARGUMENTS: dict[str, tuple[dict[str, Any], dict[str, str]]] = {
    "ecapa": ({"kernel_sizes": [5, 3, 3, 3, 1], "dilations": [1, 2, 3, 4, 1], "groups": [1] * 5}, RELU),
    "resnet_se": ({"strides": [1, 2, 2, 2]}, RELU),
    "xvector": (
        {"tdnn_kernel_sizes": [5, 3, 3, 1, 1], "tdnn_dilations": [1, 2, 3, 1, 1], "tdnn_blocks": 5},
        {"torch.nn.LeakyReLU": "leaky_relu", **RELU},
    ),
}
LAYOUTS = {
    "asp.conv.conv.weight": speechbrain_ecapa,
    "blocks.16.w.weight": speechbrain_xvector,
    "layer1.0.bn3.weight": speechbrain_resnet,
}


def read(source: Path) -> Foreign:
    """Return the model of a folder with `hyperparams.yaml` and `embedding_model.ckpt`.

    Raises:
        InputError: a file is missing or damaged, or asks for something that these encoders or features can't do.
    """
    settings_file = source / "hyperparams.yaml"
    settings = read_yaml(settings_file)
    weights = find(source, "embedding_model.ckpt", "embedding_model.safetensors")
    state = read_tensors(weights)
    table = _module(settings, "embedding_model", settings_file)
    if "layer1.0.bn3.weight" in state:  # its maps have time before frequency
        state = {n: t.transpose(2, 3) if t.ndim == 4 else t for n, t in state.items()}
    network = recognised(state, LAYOUTS, weights, "SpeechBrain")
    arguments, activations = ARGUMENTS[network.encoder["name"]]
    _check(table, arguments, f"{settings_file}: embedding_model")
    activation = _activation(table, activations, settings_file)
    if network.encoder["name"] == "xvector":
        network.encoder["activation"] = activation
    return Foreign(weights, _features(settings, settings_file), network, state, speakers=_speakers(source))


def _features(settings: dict[str, Any], where: Path) -> FeatureConfig:
    """Return the filterbank that `compute_features` and `mean_var_norm` describe."""
    fbank = _module(settings, "compute_features", where)
    if not fbank.get("!", "").endswith(".Fbank"):
        raise InputError(f"{where}: compute_features: expected SpeechBrain's Fbank, found {fbank.get('!')!r}")
    _check(fbank, FBANK, f"{where}: compute_features")
    rate = fbank.get("sample_rate", 16000)
    length_ms = float(fbank.get("win_length", 25))
    if fbank.get("n_fft", 400) != round(rate / 1000 * length_ms):
        raise InputError(f"{where}: compute_features: n_fft {fbank.get('n_fft', 400)} is not one frame long")
    norm = _module(settings, "mean_var_norm", where)
    if norm.get("norm_type", "global") != "sentence" or norm.get("std_norm", True):
        raise InputError(
            f"{where}: mean_var_norm: expected norm_type sentence and std_norm False, found {norm}"
        )
    return FeatureConfig(
        kind="speechbrain",
        sample_rate=rate,
        num_mels=fbank.get("n_mels", 40),
        frame_length_ms=length_ms,
        frame_shift_ms=float(fbank.get("hop_length", 10)),
        low_hz=float(fbank.get("f_min", 0)),
        high_hz=float(fbank.get("f_max") or 0),
    )


def _module(settings: dict[str, Any], name: str, where: Path) -> dict[str, Any]:
    """Return the arguments of one module of the settings, references resolved."""
    table = settings.get(name)
    if not isinstance(table, dict):
        raise InputError(f"{where}: expected a module {name}, found {table!r}")
    return {key: _resolved(value, settings, f"{where}: {name}.{key}") for key, value in table.items()}


def _resolved(value: Any, settings: dict[str, Any], where: str) -> Any:
    """Return a value, with a reference `<name>` resolved."""
    for _ in range(len(settings)):
        if not (isinstance(value, str) and value.startswith("<")):
            return value
        name = value[1:].rstrip(">")
        if value[-1] != ">" or name not in settings:
            raise InputError(f"{where}: can't resolve {value!r}; expected the name of a setting")
        value = settings[name]
    raise InputError(f"{where}: references lead in a circle")


def _check(table: dict[str, Any], expected: dict[str, Any], where: str) -> None:
    """Raise `InputError` where an argument asks for something unsupported here."""
    other = [f"{key} {table[key]}" for key, value in expected.items() if table.get(key, value) != value]
    if other:
        raise InputError(f"{where}: not supported: {', '.join(other)}; expected {expected}")


def _activation(table: dict[str, Any], known: dict[str, str], where: Path) -> str:
    """Return our name of the activation that `!name:torch.nn.ReLU` gives."""
    given = table.get("activation", {"!": next(iter(known))})
    name = given.get("!", "").removeprefix("name:") if isinstance(given, dict) else str(given)
    if name not in known:
        raise InputError(f"{where}: embedding_model.activation {name!r} is not one of {', '.join(known)}")
    return known[name]


def _speakers(source: Path) -> list[str]:
    """Return the labels of `label_encoder.txt` in the order of their classes; empty where there is none."""
    path = next(
        (p for p in (source / "label_encoder.txt", source / "label_encoder.ckpt") if p.is_file()), None
    )
    if path is None:
        return []
    labels: dict[int, str] = {}
    for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
        if line.startswith("===="):  # what follows are settings of their encoder
            break
        label, _, index = line.rpartition(" => ")
        try:
            labels[int(index)] = str(ast.literal_eval(label))
        except (ValueError, SyntaxError) as error:
            raise InputError(f"{path}:{number}: expected 'speaker' => index, found {line[:80]!r}") from error
    return [labels[i] for i in sorted(labels)]
