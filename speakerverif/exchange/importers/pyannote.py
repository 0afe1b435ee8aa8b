"""pyannote.audio's speaker models: a Lightning checkpoint, `pytorch_model.bin`, of one of WeSpeaker's ResNets.

The features are those of its `compute_fbank`: Kaldi's on the 16-bit scale with the window of the checkpoint's
hyperparameters, no dither, each recording's mean subtracted. The embedding is that of the whole recording, without
the frame weights that a diarization passes.
"""

from pathlib import Path
from typing import Any

from speakerverif.config import FeatureConfig
from speakerverif.errors import InputError
from speakerverif.exchange.importers._files import find, read_file, tensors_of
from speakerverif.exchange.importers._foreign import Foreign, recognised
from speakerverif.exchange.importers._maps import resnet

KIND = "pyannote"
FILES = ("pytorch_model.bin", "config.yaml*")
LAYOUTS = {"layer1.0.conv1.weight": resnet}
# Settings of the filterbank that have no counterpart here, with the values that they must have.
FIXED = {"num_channels": 1, "dither": 0.0, "use_energy": False}


def read(source: Path) -> Foreign:
    """Return the model of a checkpoint file, or of a folder that holds `pytorch_model.bin`.

    Raises:
        InputError: a file is missing or damaged, or is a model that can't be imported.
    """
    weights = find(source, "pytorch_model.bin", "*.bin", "*.ckpt")
    loaded = read_file(weights)
    state = {name.removeprefix("resnet."): tensor for name, tensor in tensors_of(loaded, weights).items()}
    network = recognised(state, LAYOUTS, weights, "pyannote.audio")
    return Foreign(weights, _features(loaded, weights), network, state)


def _features(loaded: dict[str, Any], where: Path) -> FeatureConfig:
    """Return the filterbank that the checkpoint's hyperparameters describe; what they lack has pyannote's defaults.

    Raises:
        InputError: a setting that has no counterpart here.
    """
    settings = loaded.get("hyper_parameters")
    settings = settings if isinstance(settings, dict) else {}
    for name, expected in FIXED.items():
        if settings.get(name, expected) != expected:
            raise InputError(f"{where}: hyper_parameters.{name} {settings[name]!r}: expected {expected!r}")
    window = settings.get("window_type", "hamming")
    if window not in ("hamming", "povey", "hanning"):
        raise InputError(
            f"{where}: hyper_parameters.window_type {window!r}: expected hamming, povey or hanning"
        )
    return FeatureConfig(
        sample_rate=int(settings.get("sample_rate", 16000)),
        num_mels=int(settings.get("num_mel_bins", 80)),
        frame_length_ms=float(settings.get("frame_length", 25)),
        frame_shift_ms=float(settings.get("frame_shift", 10)),
        window=window,
        waveform_scale=32768.0,
    )
