"""The files that ReDimNet's and ReDimNet2's authors publish: one `.pt` with `model_config` and `state_dict`.

The features are part of their models: torchaudio's after pre-emphasis, or their own ("tf"), of waveforms that the
configuration may standardise.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from speakerverif.config import FeatureConfig, FeatureKind
from speakerverif.errors import InputError
from speakerverif.exchange.importers._files import find, read_file, tensors_of
from speakerverif.exchange.importers._foreign import Foreign, Network, check_mel, size
from speakerverif.exchange.importers._redimnet import redimnet, redimnet2

KIND = "redimnet"
FILES = ("*.pt",)
# Settings that no tensor shows, with the values that they must have; each is that code's own default.
FIXED: dict[str, tuple[Any, ...]] = {
    "block_1d_type": ("conv+att",),
    "pooling_func": ("ASTP",),
    "causal": ("none", False),
    "fm_weigthing_type": ("NC",),
    "use_freq_pos_enc": (False,),
    "dual_agg": (False,),
    "pad_right_samples": (None,),
    "before_pool_offset": (None,),
    "tf_optimized_arch": (False,),
    "spec_in_channels": (1,),
}
FIXED_FEATURES: dict[str, tuple[Any, ...]] = {
    "do_preemph": (True,),
    "spec_norm": ("mn",),
    "sample_rate": (16000,),
    "n_fft": (512,),
    "eps": (1e-8,),
}


def read(source: Path) -> Foreign:
    """Return the model of a `.pt` file, or of a folder that holds one.

    Raises:
        InputError: no such file, damaged, another model, or settings that can't be imported.
    """
    weights = find(source, "*.pt")
    loaded = read_file(weights)
    config = loaded.get("model_config") if isinstance(loaded, dict) else None
    if not isinstance(config, dict):
        raise InputError(
            f"{weights}: expected `model_config` beside `state_dict`, as ReDimNet's authors publish"
        )
    state = tensors_of(loaded, weights)
    _check(config, FIXED, "model_config", weights)
    network, later = _network(state, config, weights)
    features = _features(config, network.num_mels, later, weights)
    if features.kind != "redimnet2":
        check_mel(state, "spec.torchfbank.2.mel_scale.fb", features, weights)
    return Foreign(weights, features, network, state, ignored=("spec.", "cls_head."))


def _network(state: Mapping[str, Tensor], config: dict[str, Any], where: Path) -> tuple[Network, bool]:
    """Return the network, and whether it is a ReDimNet2, whose stages begin with depth-wise convolutions."""
    if "backbone.fin_wght1d.w" in state and size(state, "backbone.stage0.2.weight", 1, where) == 1:
        network = redimnet2(state, where)
        if "backbone.head.weight" not in state:
            network.encoder["head_per_band"] = bool(config.get("return_2d_output", False))
        return network, True
    return redimnet(state, where), False


def _features(config: dict[str, Any], mels: int, later: bool, where: Path) -> FeatureConfig:
    """Return the features that a configuration describes; what it lacks has its code's defaults.

    Args:
        config: the `model_config`.
        mels: number of bands.
        later: whether it is a ReDimNet2's, which standardises waveforms unless its settings say otherwise.
        where: the file, for errors.

    Raises:
        InputError: features that are not here.
    """
    settings = config.get("spec_params")
    standardised = later if settings is None else bool(settings.get("norm_signal", False))
    settings = settings or {}
    _check(settings, FIXED_FEATURES, "model_config.spec_params", where)
    kinds: dict[tuple[str, bool], FeatureKind] = {
        ("pt", True): "redimnet",
        ("pt", False): "torchaudio",
        ("tf", True): "redimnet2",
    }
    feat_type = str(config.get("feat_type", "pt")).removesuffix("_mel")
    kind = kinds.get((feat_type, standardised))
    if kind is None:
        raise InputError(
            f"{where}: model_config.feat_type {feat_type!r} with norm_signal {standardised}: expected pt, or tf with "
            "norm_signal"
        )
    return FeatureConfig(
        kind=kind,
        num_mels=mels,
        frame_length_ms=float(settings.get("win_length", 400)) / 16,
        frame_shift_ms=float(config.get("hop_length", 160)) / 16,
        low_hz=float(settings.get("f_min", 20)),
        high_hz=float(settings.get("f_max", 7600)),
    )


def _check(given: dict[str, Any], fixed: Mapping[str, tuple[Any, ...]], table: str, where: Path) -> None:
    """Raise `InputError` where a setting has a value that can't be imported."""
    for name, allowed in fixed.items():
        if given.get(name, allowed[0]) not in allowed:
            raise InputError(f"{where}: {table}.{name} {given[name]!r}: expected {allowed[0]!r}")
