"""WeSpeaker's models: `config.yaml` and `avg_model.pt`.

The features are those that its `extract` computes: 16-bit scale, Hamming window, no dither, mean subtracted.
The mean of its training embeddings, which its recipe subtracts before scoring, is no part of the model.
"""

from pathlib import Path
from typing import Any

from speakerverif.config import FeatureConfig
from speakerverif.errors import InputError
from speakerverif.exchange.importers._files import find, read_tensors, read_yaml
from speakerverif.exchange.importers._foreign import Foreign, Question, recognised
from speakerverif.exchange.importers._frames import wespeaker_ecapa, wespeaker_xvector
from speakerverif.exchange.importers._maps import (
    campplus,
    eres2net,
    gemini_dfresnet,
    redimnet,
    res2net,
    resnet,
    simam_resnet,
)

KIND = "wespeaker"
FILES = ("config.yaml", "avg_model*")
LAYOUTS = {
    "layer1.conv.weight": wespeaker_ecapa,
    "frame_1.conv_1d.weight": wespeaker_xvector,
    "xvector.tdnn.linear.weight": campplus,
    "backbone.stem.0.weight": redimnet,
    "layer3_downsample.weight": eres2net,
    "layer1.0.convs.0.weight": res2net,
    "front.layer1.0.conv1.weight": simam_resnet,
    "downsample_layers.0.0.weight": gemini_dfresnet,
    "layer1.0.conv1.weight": resnet,
}
ORIGIN = Question(
    ("features.window", "features.waveform_scale"),
    "its features depend on who trained it, and no file tells: WeSpeaker's own recipes (--set features.window=hamming "
    "--set features.waveform_scale=32768) or 3D-Speaker, as the models `campplus` and `eres2net` of WeSpeaker's hub "
    "(--set features.window=povey --set features.waveform_scale=1)",
)


def read(source: Path) -> Foreign:
    """Return the model of a folder with `config.yaml` and `avg_model.pt` (in it or in its `models/`).

    Raises:
        InputError: a file is missing or damaged, or describes an unsupported model.
    """
    weights = find(source, "avg_model.pt", "avg_model", "models/avg_model.pt", "*.pt")
    settings_file = source / "config.yaml" if source.is_dir() else source.with_name("config.yaml")
    settings = read_yaml(settings_file)
    state = read_tensors(weights)
    network = recognised(state, LAYOUTS, weights, "WeSpeaker")
    # No tensor shows which of the poolings without weights it is.
    expected = "ASTP" if "pool.linear1.weight" in state else "TSTP"
    default = "ASTP" if network.encoder["name"] == "ecapa" else "TSTP"
    pooling = settings.get("model_args", {}).get("pooling_func", default)
    if pooling != expected:
        raise InputError(f"{settings_file}: model_args.pooling_func {pooling!r}: expected {expected}")
    return Foreign(
        weights,
        features(settings, settings_file),
        network,
        state,
        ignored=("projection.", "xvector.stats."),
        questions=(ORIGIN,) if network.encoder["name"] in ("campplus", "eres2netv2") else (),
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
