"""NeMo's TitaNet: a `.nemo` archive, a tar file with `model_config.yaml` and `model_weights.ckpt`.

Both are read as data from the archive; nothing is unpacked to disk. The features are those of NeMo's preprocessor
without dither, which it adds in training alone.
"""

import io
import lzma
import re
import tarfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from speakerverif.config import FeatureConfig
from speakerverif.errors import InputError
from speakerverif.exchange.importers._files import find, parse_yaml, tensors_of
from speakerverif.exchange.importers._foreign import Foreign, Network, count, recognised, size, within
from speakerverif.exchange.importers._pickles import read_pickle
from speakerverif.models import features

KIND = "nemo"
FILES = ("*.nemo",)
CONFIG, WEIGHTS = "model_config.yaml", "model_weights.ckpt"
MOST_BYTES = {CONFIG: 1 << 24, WEIGHTS: 1 << 30}
REFERENCE = re.compile(
    r"\$\{(?:model\.)?([\w.]+)\}"
)  # to another setting, as `${model.model_defaults.repeat}`
# Settings that no tensor shows, with the values that they must have; each is NeMo's own default.
PREPROCESSOR: dict[str, tuple[Any, ...]] = {
    "normalize": ("per_feature",),
    "frame_splicing": (1,),
    "preemph": (0.97,),
    "mag_power": (2.0,),
    "log": (True,),
    "log_zero_guard_type": ("add",),
    "log_zero_guard_value": (2**-24,),
    "exact_pad": (False,),
    "mel_norm": ("slaney",),
}
BLOCK: dict[str, tuple[Any, ...]] = {
    "stride": ([1], 1),
    "dilation": ([1], 1),
    "se_context_size": (-1,),
    "kernel_size_factor": (1.0,),
    "residual_mode": ("add",),
    "heads": (-1,),
    "groups": (1,),
}
WINDOWS = {"hann": "hanning", "hamming": "hamming"}


def read(source: Path) -> Foreign:
    """Return the model of a `.nemo` file, or of a folder that holds one.

    Raises:
        InputError: no such file, damaged, another model, or settings that can't be imported.
    """
    archive = find(source, "*.nemo")
    content = _members(archive)
    config = parse_yaml(content[CONFIG], archive)
    config = _resolved(config, config)
    state = tensors_of(read_pickle(archive, io.BytesIO(content[WEIGHTS])), archive)
    network = recognised(state, LAYOUTS, archive, "NeMo")
    _check_encoder(config.get("encoder") or {}, archive)
    filterbank = _features(config.get("preprocessor") or {}, archive)
    mel = features.build(filterbank).get_buffer("mel").T
    theirs = state.get("preprocessor.featurizer.fb", mel[None])
    theirs = theirs[0] if theirs.ndim == 3 and len(theirs) == 1 else theirs
    if theirs.shape != mel.shape or (theirs - mel).abs().max() > 1e-5:
        raise InputError(
            f"{archive}: preprocessor.featurizer.fb: other mel bands than its configuration describes"
        )
    return Foreign(archive, filterbank, network, state, ignored=("preprocessor.", "decoder.final.", "loss."))


def _members(archive: Path) -> dict[str, bytes]:
    """Return the content of the archive's two files, by name.

    Raises:
        InputError: not a tar archive, damaged, one of them is missing or is larger than any published model.
    """
    if not archive.is_file():
        raise InputError(f"{archive}: no such file")
    content: dict[str, bytes] = {}
    try:
        with tarfile.open(archive, "r:*") as tar:
            for member in tar:
                name = Path(member.name).name
                if name not in MOST_BYTES or not member.isreg():
                    continue
                if member.size > MOST_BYTES[name]:
                    raise InputError(
                        f"{archive}: {name} is said to hold {member.size} bytes, more than any model"
                    )
                file = tar.extractfile(member)
                content[name] = b"" if file is None else file.read()
    except InputError:
        raise
    except (tarfile.TarError, OSError, EOFError, ValueError, zlib.error, lzma.LZMAError) as error:
        raise InputError(f"{archive}: damaged or not a .nemo archive: {error}") from error
    missing = [name for name in MOST_BYTES if name not in content]
    if missing:
        raise InputError(f"{archive}: expected {' and '.join(missing)} in it, as in NeMo's archives")
    return content


def _resolved(value: Any, config: dict[str, Any]) -> Any:
    """Return a value of the configuration with references to its other settings replaced by what these hold."""
    if isinstance(value, dict):
        return {key: _resolved(item, config) for key, item in value.items()}
    if isinstance(value, list):
        return [_resolved(item, config) for item in value]
    if not isinstance(value, str) or (match := REFERENCE.fullmatch(value)) is None:
        return value
    target: Any = config
    for key in match[1].split("."):
        target = target.get(key, value) if isinstance(target, dict) else value
    return target


def titanet(state: Mapping[str, Tensor], where: Path) -> Network:
    """Return the TitaNet of NeMo's layout."""
    blocks = count(state, "encoder.encoder.{}.mconv.0.conv.weight")
    kernels = [size(state, f"encoder.encoder.{i}.mconv.0.conv.weight", 2, where) for i in range(blocks)]
    last = f"encoder.encoder.{blocks - 1}"
    modules = {
        "decoder._pooling.attention_layer.0.conv_layer": "pooling.hidden",
        "decoder._pooling.attention_layer.0.bn": "pooling.norm",
        "decoder._pooling.attention_layer.2": "pooling.logits",
        "decoder.emb_layers.0.0": "pooling_norm",
        "decoder.emb_layers.0.1": "embedding",
    }
    repeats = 1
    for i in range(blocks):
        theirs, ours = f"encoder.encoder.{i}", f"blocks.{i}"
        # Convolution, point-wise layer, norm, activation and dropout; the excitation follows the last norm.
        repeats_here = 1
        while f"{theirs}.mconv.{5 * repeats_here}.conv.weight" in state:
            repeats_here += 1
        repeats = max(repeats, repeats_here)
        for k in range(repeats_here):
            conv = {"0.conv": "depthwise", "1.conv": "pointwise", "2": "norm"}
            names = {f"{5 * k + int(name[0])}{name[1:]}": our for name, our in conv.items()}
            modules |= within(f"{theirs}.mconv", f"{ours}.convs.{k}", names)
        excitation = f"{theirs}.mconv.{5 * repeats_here - 2}"
        modules |= within(excitation, f"{ours}.excitation", {"fc.0": "squeeze", "fc.2": "excite"})
        modules |= within(f"{theirs}.res.0", f"{ours}.projection", {"0.conv": "pointwise", "1": "norm"})
    encoder = {
        "name": "titanet",
        "channels": size(state, "encoder.encoder.0.mconv.1.conv.weight", 0, where),
        "kernels": kernels[1:-1],
        "repeats": repeats,
        "pooling_channels": size(state, f"{last}.mconv.1.conv.weight", 0, where),
        "attention_channels": size(state, "decoder._pooling.attention_layer.2.weight", 1, where),
        "embedding_dim": size(state, "decoder.emb_layers.0.1.weight", 0, where),
    }
    return Network(encoder, modules, size(state, "encoder.encoder.0.mconv.0.conv.weight", 0, where))


# The first block's excitation, which NeMo's SpeakerNet lacks, and a pooling by attention.
LAYOUTS = {"encoder.encoder.0.mconv.3.fc.0.weight": titanet}


def _check_encoder(config: dict[str, Any], where: Path) -> None:
    """Raise `InputError` where a setting of the encoder that no tensor shows is not TitaNet's."""
    if config.get("activation", "relu") != "relu":
        raise InputError(f"{where}: encoder.activation {config['activation']!r}: expected relu")
    for i, block in enumerate(config.get("jasper") or []):
        _check(block, BLOCK, f"encoder.jasper[{i}]", where)


def _features(config: dict[str, Any], where: Path) -> FeatureConfig:
    """Return the filterbank that a configuration's preprocessor describes; what it lacks has NeMo's defaults.

    Raises:
        InputError: a setting that has no counterpart here.
    """
    _check(config, PREPROCESSOR, "preprocessor", where)
    window = config.get("window", "hann")
    if window not in WINDOWS:
        raise InputError(f"{where}: preprocessor.window {window!r}: expected {' or '.join(WINDOWS)}")
    rate, length = int(config.get("sample_rate", 16000)), float(config.get("window_size", 0.02))
    fft_length = 1 << (int(rate * length) - 1).bit_length()
    if config.get("n_fft") not in (None, fft_length):
        raise InputError(f"{where}: preprocessor.n_fft {config['n_fft']!r}: expected {fft_length}")
    return FeatureConfig(
        kind="nemo",
        sample_rate=rate,
        num_mels=int(config.get("features", 64)),
        frame_length_ms=1000 * length,
        frame_shift_ms=1000 * float(config.get("window_stride", 0.01)),
        window="hanning" if window == "hann" else "hamming",
        low_hz=float(config.get("lowfreq", 0)),
        high_hz=float(config.get("highfreq") or 0),
    )


def _check(given: Any, fixed: Mapping[str, tuple[Any, ...]], table: str, where: Path) -> None:
    """Raise `InputError` where a setting has a value that can't be imported."""
    for name, allowed in fixed.items():
        if isinstance(given, dict) and given.get(name, allowed[0]) not in allowed:
            raise InputError(f"{where}: {table}.{name} {given[name]!r}: expected {allowed[0]!r}")
