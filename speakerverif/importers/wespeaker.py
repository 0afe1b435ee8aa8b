"""WeSpeaker's ECAPA-TDNN and x-vector: `config.yaml` and `avg_model.pt`.

The features are those that its `extract` computes: 16-bit scale, Hamming window, no dither, mean subtracted.
The mean of its training embeddings, which its recipe subtracts before scoring, is no part of the model.
"""

from pathlib import Path
from typing import Any

from torch import Tensor

from speakerverif.config import FeatureConfig
from speakerverif.errors import InputError
from speakerverif.importers._files import find, read_tensors, read_yaml
from speakerverif.importers._foreign import Foreign, count, size
from speakerverif.importers._layers import wespeaker_xvector

KIND = "wespeaker"
FILES = ("config.yaml", "avg_model.pt")


def read(source: Path) -> Foreign:
    """Return the model of a folder with `config.yaml` and `avg_model.pt` (in it or in its `models/`).

    Raises:
        InputError: a file is missing or damaged, or describes a model that is not here.
    """
    weights = find(source, "avg_model.pt", "models/avg_model.pt", "*.pt")
    settings_file = source / "config.yaml" if source.is_dir() else source.with_name("config.yaml")
    settings = read_yaml(settings_file)
    state = read_tensors(weights)
    if "layer1.conv.weight" in state and "pool.linear1.weight" in state:
        encoder, modules = _ecapa(state, weights)
    elif "frame_1.conv_1d.weight" in state:
        encoder, modules = wespeaker_xvector(state, weights)
    else:
        raise InputError(
            f"{weights}: WeSpeaker's {settings.get('model')!r} is neither an ECAPA_TDNN with attentive pooling nor "
            f"an XVEC; its tensors begin with {', '.join(list(state)[:3])}"
        )
    pooling = settings.get("model_args", {}).get("pooling_func", "")
    if encoder["name"] == "xvector" and pooling not in ("", "TSTP"):
        raise InputError(f"{settings_file}: model_args.pooling_func {pooling!r}: expected TSTP")
    return Foreign(
        weights_file=weights,
        features=features(settings, settings_file),
        encoder=encoder,
        state=state,
        modules=modules,
        ignored=("projection.",),
        passes_last=True,
    )


def features(settings: dict[str, Any], where: Path) -> FeatureConfig:
    """Return the filterbank that a WeSpeaker configuration describes.

    Raises:
        InputError: another front end, or normalisation of the variance.
    """
    data = settings.get("dataset_args") or {}
    fbank = {**(data.get("fbank_args") or {}), **(settings.get("feature_args") or {})}  # the latter in 2022
    cmvn = data.get("cmvn_args") or {}
    wrong = []
    if data.get("frontend", "fbank") != "fbank":
        wrong.append(f"frontend {data['frontend']}: expected fbank")
    if cmvn.get("norm_var", False):
        wrong.append("cmvn_args.norm_var true: the variance is not normalised here")
    mels = fbank.get("num_mel_bins", fbank.get("feat_dim", 80))
    expected = settings.get("model_args", {}).get("feat_dim", mels)
    if mels != expected:
        wrong.append(f"{mels} bands computed, {expected} taken by the model")
    if wrong:
        raise InputError(f"{where}: {'; '.join(wrong)}")
    return FeatureConfig(
        sample_rate=data.get("resample_rate", 16000),
        num_mels=mels,
        frame_length_ms=float(fbank.get("frame_length", 25)),
        frame_shift_ms=float(fbank.get("frame_shift", 10)),
        waveform_scale=32768.0,
        mean_norm=bool(data.get("cmvn", True)) and cmvn.get("norm_mean", True),
    )


def _ecapa(state: dict[str, Tensor], where: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the `[encoder]` table and the names of modules of an ECAPA-TDNN."""
    parts = count(state, "layer2.se_res2block.1.convs.{}.weight")
    mfa = size(state, "conv.weight", 0, where)
    encoder = {
        "name": "ecapa",
        "channels": size(state, "layer1.conv.weight", 0, where),
        "mfa_channels": mfa,
        "attention_channels": size(state, "pool.linear1.weight", 0, where),
        "res2_scale": parts + 1,
        "se_channels": size(state, "layer2.se_res2block.3.linear1.weight", 0, where),
        "embedding_dim": size(state, "linear.weight", 0, where),
        "mfa_norm": False,
        "attention_norm": False,
        "global_context": size(state, "pool.linear1.weight", 1, where) == 3 * mfa,
        "unbiased_context": True,
        "final_norm": "bn2.weight" in state,
    }
    modules = {
        "layer1.conv": "input.affine",
        "layer1.bn": "input.norm",
        "conv": "mfa.affine",
        "pool.linear1": "pooling.hidden",
        "pool.linear2": "pooling.logits",
        "bn": "pooling_norm",
        "linear": "embedding",
        "bn2": "embedding_norm",
    }
    for i in range(3):
        theirs, ours = f"layer{i + 2}.se_res2block", f"blocks.{i}"
        for number, layer in ((0, "reduce"), (2, "expand")):
            modules[f"{theirs}.{number}.conv"] = f"{ours}.{layer}.affine"
            modules[f"{theirs}.{number}.bn"] = f"{ours}.{layer}.norm"
        for k in range(parts):
            modules[f"{theirs}.1.convs.{k}"] = f"{ours}.res2.parts.{k}.affine"
            modules[f"{theirs}.1.bns.{k}"] = f"{ours}.res2.parts.{k}.norm"
        modules[f"{theirs}.3.linear1"] = f"{ours}.se.squeeze"
        modules[f"{theirs}.3.linear2"] = f"{ours}.se.excite"
    return encoder, modules
