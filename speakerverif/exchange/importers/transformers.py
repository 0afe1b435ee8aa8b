"""transformers' `WavLMForXVector`: a folder with `config.json` and `model.safetensors` or `pytorch_model.bin`.

The network is a WavLM, the weighted sum of its layers (or the last one), and an x-vector without batch norm or padding.
"""

from pathlib import Path
from typing import Any

from torch import Tensor

from speakerverif.config import FeatureConfig
from speakerverif.errors import InputError
from speakerverif.exchange.front_ends import FILES as FRONT_END_FILES
from speakerverif.exchange.front_ends import network_tensors, read_json, settings_of
from speakerverif.exchange.importers._files import find, read_tensors
from speakerverif.exchange.importers._foreign import Foreign, Network, Question

KIND = "transformers"
FILES = FRONT_END_FILES
ARCHITECTURE = "WavLMForXVector"
KERNELS, DILATIONS = [5, 3, 3, 1, 1], [1, 2, 3, 1, 1]
IGNORED = ("classifier.", "objective.")


def read(source: Path) -> Foreign:
    """Return the model of a folder.

    Raises:
        InputError: a file is missing or damaged, or is of a model that can't be imported.
    """
    weights = find(source, "model.safetensors", "pytorch_model.bin")
    path = weights.parent / "config.json"
    config = read_json(path)
    if config.get("architectures", [ARCHITECTURE]) != [ARCHITECTURE]:
        raise InputError(
            f"{path}: architectures {config['architectures']}: expected [{ARCHITECTURE!r}]; a network without a back "
            "end is the start of a training: train.pretrained"
        )
    try:
        front_end = settings_of(config, path)
        widths = [int(width) for width in config["tdnn_dim"]]
    except KeyError as error:
        raise InputError(f"{path}: no {error.args[0]}") from error
    if len(widths) != len(KERNELS) or len(set(widths[:-1])) > 1:
        raise InputError(f"{path}: tdnn_dim {widths}: expected four equal widths and one more")
    for name, expected in (("tdnn_kernel", KERNELS), ("tdnn_dilation", DILATIONS)):
        if config.get(name, expected) != expected:
            raise InputError(f"{path}: {name} {config[name]}: expected {expected}")
    backend = {
        "name": "xvector",
        "channels": widths[0],
        "pooling_channels": widths[-1],
        "embedding_dim": config["xvector_output_dim"],
        "padding": "none",
        "norm": False,
        "projection_channels": widths[0],
    }
    encoder: dict[str, Any] = {
        "name": "self_supervised",
        **front_end,
        "normalize_waveform": False,
        "layer_weights": bool(config.get("use_weighted_layer_sum", False)),
        "backend": backend,
    }
    questions: tuple[Question, ...] = ()
    preprocessor = weights.parent / "preprocessor_config.json"
    if preprocessor.is_file():
        encoder["normalize_waveform"] = bool(read_json(preprocessor).get("do_normalize", True))
    else:
        question = (
            "no preprocessor_config.json says whether each waveform was brought to mean 0 and variance 1; the Large "
            "sizes were trained so (--set encoder.normalize_waveform=true), Base and Base+ not (false)"
        )
        questions = (Question(("encoder.normalize_waveform",), question),)
    state = _state(read_tensors(weights), weights)
    modules = {name: name for name in (_module(tensor) for tensor in state)} | {
        "layer_weights": "layer_weights",
        **{name: name for name in state if name.startswith("network.")},
    }
    features = FeatureConfig(kind="waveform", num_mels=1)
    network = Network(encoder, modules, 1)
    return Foreign(weights, features, network, state, IGNORED, questions=questions)


def _module(tensor: str) -> str:
    """Return the name of a tensor's module."""
    return tensor.rpartition(".")[0]


def _state(state: dict[str, Tensor], where: Path) -> dict[str, Tensor]:
    """Return the tensors under our names: those of the network, the projection, the layers and the embedding."""
    renamed = {f"network.{name}": tensor for name, tensor in network_tensors(state, where).items()}
    for name, tensor in state.items():
        module, _, leaf = name.rpartition(".")
        if name == "layer_weights":
            renamed[name] = tensor
        elif module in ("projector", "feature_extractor"):
            renamed[f"backend.{'projection' if module == 'projector' else 'embedding'}.{leaf}"] = tensor
        elif module.startswith("tdnn."):
            number = int(module.split(".")[1])
            if leaf == "weight":  # (out, kernel * in) there, (out, in, kernel) here
                tensor = tensor.unflatten(1, (KERNELS[number], -1)).transpose(1, 2)
            renamed[f"backend.frames.{number}.affine.{leaf}"] = tensor
        elif not name.startswith(("wavlm.", *IGNORED)):
            renamed[name] = tensor
    return renamed
