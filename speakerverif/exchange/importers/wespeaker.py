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
from speakerverif.exchange.importers._frames import POOLED_VARIANCE, wespeaker_ecapa, wespeaker_xvector
from speakerverif.exchange.importers._maps import (
    campplus,
    eres2net,
    gemini_dfresnet,
    res2net,
    resnet,
    simam_resnet,
)
from speakerverif.exchange.importers._poolings import configured_pooling, joined_heads, pooling_layout
from speakerverif.exchange.importers._redimnet import redimnet, redimnet2
from speakerverif.exchange.importers._repvgg import repvgg

KIND = "wespeaker"
FILES = ("config.yaml", "avg_model*")
LAYOUTS = {
    "layer1.conv.weight": wespeaker_ecapa,
    "frame_1.conv_1d.weight": wespeaker_xvector,
    "xvector.tdnn.linear.weight": campplus,
    "backbone.fin_wght1d.w": redimnet2,
    "backbone.stem.0.weight": redimnet,
    "layer3_downsample.weight": eres2net,
    "layer1.0.convs.0.weight": res2net,
    "front.layer1.0.conv1.weight": simam_resnet,
    "downsample_layers.0.0.weight": gemini_dfresnet,
    "stage0.rbr_dense.conv.weight": repvgg,
    "stage0.rbr_reparam.weight": repvgg,
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
    state = joined_heads(read_tensors(weights))
    network = recognised(state, LAYOUTS, weights, "WeSpeaker")
    default = "ASTP" if network.encoder["name"] in ("ecapa", "redimnet2") else "TSTP"
    model_args = settings.get("model_args") or {}
    pooling, wrong = configured_pooling(pooling_layout(state), model_args, default)
    if wrong is not None:
        raise InputError(f"{settings_file}: {wrong}")
    if network.encoder["name"] == "redimnet2" and "backbone.head.weight" not in state:
        network.encoder["head_per_band"] = bool(model_args.get("return_2d_output", False))
    if "pooling" in network.encoder:
        network.encoder["pooling"] = pooling
        if pooling == "deviation":
            network.encoder["variance_floor"] = POOLED_VARIANCE
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
    if data.get("frontend") == "tfmel":
        return _tfmel(data.get("tfmel_args") or {}, where)
    wrong = []
    if data.get("frontend", "fbank") != "fbank":
        wrong.append(f"frontend {data['frontend']}: expected fbank or tfmel")
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


def _tfmel(given: dict[str, Any], where: Path) -> FeatureConfig:
    """Return the front end of ReDimNet2 that a WeSpeaker configuration describes by its `tfmel_args`.

    Raises:
        InputError: settings that are not here.
    """
    expected = {"norm_signal": True, "do_preemph": True, "n_fft": 512, "eps": 1e-8, "sample_rate": 16000}
    defaults = {"norm_signal": False}  # the others' defaults are as expected
    for name, value in expected.items():
        if (found := given.get(name, defaults.get(name, value))) != value:
            raise InputError(f"{where}: dataset_args.tfmel_args.{name} {found!r}: expected {value!r}")
    return FeatureConfig(
        kind="redimnet2",
        num_mels=given.get("n_mels", 80),
        frame_length_ms=given.get("win_length", 400) / 16,
        frame_shift_ms=given.get("hop_length", 160) / 16,
        low_hz=float(given.get("f_min", 20)),
        high_hz=float(given.get("f_max", 7600)),
    )
