"""Pre-trained self-supervised front ends: other toolkits' files to the tensors of `encoders.self_supervised`.

Read are folders of transformers (`WavLMModel`, `Wav2Vec2Model`, `HubertModel`, `Wav2Vec2BertModel` and models that
contain one), state dicts of torchaudio's bundles, and fairseq's layout, in which WavLM's authors publish theirs.
"""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from speakerverif.errors import InputError
from speakerverif.exchange.importers._files import find, read_file, tensors_of
from speakerverif.models import hub
from speakerverif.models.encoders._w2v_bert import W2vBert
from speakerverif.models.encoders._wav2vec2 import Wav2Vec2
from speakerverif.models.encoders.self_supervised import SelfSupervised

logger = logging.getLogger(__name__)

FILES = ("config.json", "preprocessor_config.json*", "model.safetensors*", "pytorch_model.bin*")
WEIGHTS = ("model.safetensors", "pytorch_model.bin", "*.pt", "*.pth")
SHOWN = 4  # tensors that an error lists
PREFIXES = (
    "wavlm.",
    "wav2vec2.",
    "hubert.",
    "wav2vec2_bert.",
)  # of the network in a larger model of transformers
# Tensors of pre-training and of other tasks.
OTHERS = (
    "masked_spec_embed",
    "mask_emb",
    "aux.",
    "lm_head.",
    "quantizer.",
    "project_",
    "final_proj.",
    "label_embs_concat",
)
# fairseq's names of modules within the network -> torchaudio's.
FAIRSEQ = {
    "post_extract_proj.": "encoder.feature_projection.projection.",
    "layer_norm.": "encoder.feature_projection.layer_norm.",
    "encoder.pos_conv.0.": "encoder.transformer.pos_conv_embed.conv.",
    "encoder.": "encoder.transformer.",
}
FAIRSEQ_BLOCK = {
    ".self_attn.grep_linear.": ".attention.gru_rel_pos_linear.",
    ".self_attn.grep_a": ".attention.gru_rel_pos_const",
    ".self_attn.relative_attention_bias.": ".attention.rel_attn_embed.",
    ".self_attn_layer_norm.": ".layer_norm.",
    ".self_attn.": ".attention.",
    ".fc1.": ".feed_forward.intermediate_dense.",
    ".fc2.": ".feed_forward.output_dense.",
}
WEIGHT_NORM = {
    "weight_g": "parametrizations.weight.original0",
    "weight_v": "parametrizations.weight.original1",
}
NETWORKS = {"wavlm": "wavlm", "wav2vec2": "wav2vec2", "hubert": "wav2vec2", "wav2vec2-bert": "w2v_bert"}
# Settings of transformers' config.json that have one value here.
FIXED: dict[str, dict[str, Any]] = {
    "wavlm": {"num_buckets": 320, "max_bucket_distance": 800},
    "w2v_bert": {
        "position_embeddings_type": "relative_key",
        "left_max_position_embeddings": 64,
        "right_max_position_embeddings": 8,
        "conv_depthwise_kernel_size": 31,
        "hidden_act": "swish",
        "add_adapter": False,
        "use_intermediate_ffn_before_adapter": False,
    },
}
SAMPLES: dict[str, Any] = {
    "hidden_act": "gelu",
    "feat_extract_activation": "gelu",
    "conv_kernel": [10, 3, 3, 3, 3, 2, 2],
    "conv_stride": [5, 2, 2, 2, 2, 2, 2],
}


def load_front_end(encoder: nn.Module, source: str) -> None:
    """Load pre-trained weights into the front end of an encoder.

    Args:
        encoder: of `encoders.self_supervised`.
        source: a file or folder, or `org/name` on the Hugging Face hub.

    Raises:
        InputError: another encoder; no such source; tensors or settings that don't fit the front end.
    """
    if not isinstance(encoder, SelfSupervised):
        raise InputError(
            "train.pretrained: is for the encoder self_supervised; use train.start_from for others"
        )
    path = Path(source) if Path(source).exists() else hub.fetch(source, FILES)
    weights = find(path, *WEIGHTS)
    loaded = read_file(weights)
    _check_settings(encoder.network, _settings(loaded, weights), weights)
    tensors = network_tensors(tensors_of(loaded, weights), weights)
    expected = encoder.network.state_dict()
    wrong = [f"{name} is missing" for name in expected if name not in tensors]
    wrong += [f"{name} has no place" for name in tensors if name not in expected]
    wrong += [
        f"{name} has shape {tuple(tensor.shape)}, expected {tuple(expected[name].shape)}"
        for name, tensor in tensors.items()
        if name in expected and tensor.shape != expected[name].shape
    ]
    wrong += [
        f"{name} holds NaN or infinite values" for name, tensor in tensors.items() if not _finite(tensor)
    ]
    if wrong:
        more = f" and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
        raise InputError(
            f"{weights}: doesn't fit the front end of [encoder]: {'; '.join(wrong[:SHOWN])}{more}"
        )
    encoder.network.load_state_dict(tensors)
    logger.info(f"the front end begins with the weights of {weights}")


def network_tensors(state: Mapping[str, Tensor], where: Path) -> dict[str, Tensor]:
    """Return the tensors of a front end under the names that it has here.

    Args:
        state: those of transformers, torchaudio or fairseq, of a whole model or of the network alone.
        where: the file, for errors.

    Raises:
        InputError: no layout among these.
    """
    prefix = next((p for p in PREFIXES if any(name.startswith(p) for name in state)), "")
    inner = {
        name.removeprefix(prefix): tensor
        for name, tensor in state.items()
        if name.startswith(prefix) and not name.removeprefix(prefix).startswith(OTHERS)
    }
    if any(name.startswith("encoder.transformer.") for name in inner):
        renamed = inner
    elif "post_extract_proj.weight" in inner:
        renamed = {_from_fairseq(name): tensor for name, tensor in inner.items()}
    elif any("conv_module" in name for name in inner):
        return {f"model.{name}": tensor for name, tensor in inner.items()}
    elif "feature_projection.projection.weight" in inner:
        renamed = {_from_transformers(name): tensor for name, tensor in inner.items()}
    else:
        begins = ", ".join(list(state)[:3])
        raise InputError(
            f"{where}: no WavLM, wav2vec 2.0, HuBERT or w2v-BERT of transformers, torchaudio or fairseq; its tensors "
            f"begin with {begins}"
        )
    tensors = {}
    for name, tensor in renamed.items():
        module, _, leaf = name.rpartition(".")
        tensors[f"{module}.{WEIGHT_NORM.get(leaf, leaf)}"] = tensor
    return _attention_joined(tensors)


def settings_of(config: Mapping[str, Any], where: Path) -> dict[str, Any]:
    """Return the settings of `encoders.self_supervised` that transformers' config.json gives.

    Raises:
        InputError: another kind of model, or a setting that has no counterpart here.
    """
    network = NETWORKS.get(str(config.get("model_type")))
    if network is None:
        raise InputError(
            f"{where}: model_type {config.get('model_type')!r}: expected one of {', '.join(NETWORKS)}"
        )
    fixed = {**FIXED.get(network, {}), **({} if network == "w2v_bert" else SAMPLES)}
    for name, value in fixed.items():
        if config.get(name, value) != value:
            raise InputError(f"{where}: {name} {config[name]!r}: expected {value!r}")
    settings = {
        "network": network,
        "width": config["hidden_size"],
        "layers": config["num_hidden_layers"],
        "heads": config["num_attention_heads"],
        "feed_forward": config["intermediate_size"],
    }
    if network == "w2v_bert":
        return settings
    norm = config.get("feat_extract_norm", "group")
    if config.get("do_stable_layer_norm", False) != (norm == "layer"):
        raise InputError(
            f"{where}: feat_extract_norm {norm!r} with do_stable_layer_norm {config.get('do_stable_layer_norm')}: "
            "expected layer with true, or group with false"
        )
    channels = set(config.get("conv_dim", [512]))
    if len(channels) > 1:
        raise InputError(f"{where}: conv_dim {config['conv_dim']}: expected one width for all")
    return {
        **settings,
        "norm": norm,
        "conv_channels": channels.pop(),
        "conv_bias": config.get("conv_bias", False),
        "position_kernel": config.get("num_conv_pos_embeddings", 128),
        "position_groups": config.get("num_conv_pos_embedding_groups", 16),
    }


def read_json(path: Path) -> dict[str, Any]:
    """Return the object of a JSON file.

    Raises:
        InputError: no such file, not JSON, no object.
    """
    try:
        loaded = json.loads(path.read_bytes())
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not a JSON file: {error}") from error
    if not isinstance(loaded, dict):
        raise InputError(f"{path}: expected a JSON object, found {type(loaded).__name__}")
    return loaded


def _settings(loaded: Any, weights: Path) -> dict[str, Any]:
    """Return what the files of a network say about settings that its tensors can't show."""
    settings: dict[str, Any] = {}
    if (weights.parent / "config.json").is_file():
        path = weights.parent / "config.json"
        try:
            settings = settings_of(read_json(path), path)
        except KeyError as error:
            raise InputError(f"{path}: no {error.args[0]}") from error
        if (weights.parent / "preprocessor_config.json").is_file():
            preprocessor = read_json(weights.parent / "preprocessor_config.json")
            if settings["network"] != "w2v_bert" and "do_normalize" in preprocessor:
                settings["normalize_waveform"] = preprocessor["do_normalize"]
    elif isinstance(loaded, dict) and isinstance(loaded.get("cfg"), dict):
        cfg = loaded["cfg"]
        names = {"heads": "encoder_attention_heads", "normalize_waveform": "normalize"}
        settings = {ours: cfg[theirs] for ours, theirs in names.items() if theirs in cfg}
        if "layer_norm_first" in cfg:
            settings["norm"] = "layer" if cfg["layer_norm_first"] else "group"
    return settings


def _check_settings(network: nn.Module, settings: Mapping[str, Any], weights: Path) -> None:
    """Raise `InputError` where a front end was built with other settings than its weights were trained with."""
    built: dict[str, Any] = {}
    if isinstance(network, Wav2Vec2):
        attention = network.encoder.transformer.layers[0].attention
        built = {
            "network": "wavlm" if network.wavlm else "wav2vec2",
            "heads": attention.num_heads,
            "norm": network.norm,
            "normalize_waveform": network.normalize_waveform,
        }
    elif isinstance(network, W2vBert):
        built = {"network": "w2v_bert", "heads": network.model.config.num_attention_heads}
    for name, value in built.items():
        if settings.get(name, value) != value:
            raise InputError(
                f"{weights}: was trained with {name} {settings[name]}, but [encoder] has {name} {value}; set "
                f"encoder.{name} = {json.dumps(settings[name])}"
            )


def _from_transformers(name: str) -> str:
    """Return torchaudio's name of a tensor of transformers."""
    if name.startswith("feature_projection."):
        return f"encoder.{name}"
    return f"encoder.transformer.{name.removeprefix('encoder.')}" if name.startswith("encoder.") else name


def _from_fairseq(name: str) -> str:
    """Return torchaudio's name of a tensor of fairseq."""
    if name.startswith("feature_extractor."):
        layer, _, rest = name.removeprefix("feature_extractor.conv_layers.").partition(".")
        module = "conv" if rest.startswith("0.") else "layer_norm"
        return f"feature_extractor.conv_layers.{layer}.{module}.{rest.rpartition('.')[2]}"
    for theirs, ours in FAIRSEQ.items():
        if name.startswith(theirs):
            name = ours + name.removeprefix(theirs)
            break
    for theirs, ours in FAIRSEQ_BLOCK.items():
        if theirs in name or name.endswith(theirs):
            return name.replace(theirs, ours)
    return name


def _attention_joined(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors in which WavLM's queries, keys and values are one matrix, as in torchaudio's attention."""
    blocks = [
        name.removesuffix("gru_rel_pos_const") for name in tensors if name.endswith("gru_rel_pos_const")
    ]
    for block in blocks:
        for leaf in ("weight", "bias"):
            parts = [tensors.pop(f"{block}{part}_proj.{leaf}", None) for part in "qkv"]
            present = [part for part in parts if part is not None]
            if len(present) == len(parts):
                tensors[f"{block}attention.in_proj_{leaf}"] = torch.cat(present)
            if f"{block}out_proj.{leaf}" in tensors:
                tensors[f"{block}attention.out_proj.{leaf}"] = tensors.pop(f"{block}out_proj.{leaf}")
    return tensors


def _finite(tensor: Tensor) -> bool:
    """Return whether all values of a tensor are finite."""
    return bool(tensor.isfinite().all())
