"""Settings of the filterbank in front of an ONNX file that takes features.

They decide the embeddings, and no tensor shows them. They come from the file's metadata, ours or sherpa-onnx's, and
from a TOML file of the same name beside it (`model.toml` for `model.onnx`), whose table `[features]` is that of a
recipe and has the last word. What neither gives is asked for.
"""

import logging
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from speakerverif._util.toml import from_dict, read_toml
from speakerverif.config import FeatureConfig
from speakerverif.errors import InputError

logger = logging.getLogger(__name__)

CONFIG = "config.toml"  # key of our files' metadata
# What must be known: everything that differs between the toolkits that write such files.
DECISIVE = ("sample_rate", "window", "waveform_scale", "mean_norm")
# Frameworks that sherpa-onnx's metadata name -> what their models were trained on. sherpa-onnx itself gives all of them
# a Povey window and bands up to 7600 Hz.
FRAMEWORKS: dict[str, dict[str, Any]] = {
    "wespeaker": {"window": "hamming", "mean_norm": True},
    "3d-speaker": {"window": "povey", "mean_norm": True},
}
SCALES = {"0": 32768.0, "1": 1.0}  # values of `normalize_samples`


@dataclass(frozen=True)
class Shapes:
    """Shapes of a graph's inputs and outputs; a length that is free is a name or None."""

    inputs: list[list[Any]]
    outputs: list[list[Any]]


def settings(path: Path, metadata: Mapping[str, str], shapes: Shapes) -> FeatureConfig:
    """Return the settings of the features that a file takes.

    Args:
        path: the ONNX file.
        metadata: its own.
        shapes: of its inputs and outputs.

    Raises:
        InputError: the file takes or gives something else; a setting is unknown or contradicts the file.
    """
    if metadata.get("framework") == "nemo":
        raise InputError(f"{path}: an export of NeMo; import the model's .nemo file instead")
    ranks = [len(shape) for shape in shapes.inputs], [len(shape) for shape in shapes.outputs]
    if ranks != ([3], [2]):
        raise InputError(
            f"{path}: expected a file of `speakerverif export`, or one that takes features (batch, frames, bands) "
            f"and gives embeddings (batch, width); found inputs {shapes.inputs} and outputs {shapes.outputs}"
        )
    if CONFIG in metadata:
        return from_dict(
            FeatureConfig,
            tomllib.loads(metadata[CONFIG]).get("features", {}),
            f"{path}: {CONFIG}: [features]",
        )
    table, sources = _of_sherpa(metadata, path), ["its metadata"]
    beside = path.with_suffix(".toml")
    if beside.is_file():
        given = read_toml(beside)
        if set(given) != {"features"} or not isinstance(given["features"], dict):
            raise InputError(
                f"{beside}: expected one table, [features], found {', '.join(given) or 'nothing'}"
            )
        table, sources = {**table, **given["features"]}, [*sources, beside.name]
    unknown = [key for key in DECISIVE if key not in table]
    if unknown:
        raise InputError(
            f"{path}: was trained on features that the file doesn't describe: {', '.join(unknown)}. Write them into "
            f'{beside}, for a model of WeSpeaker: features = {{sample_rate = 16000, window = "hamming", '
            'waveform_scale = 32768, mean_norm = true}; of 3D-Speaker: window = "povey" and waveform_scale = 1'
        )
    bands = shapes.inputs[0][2]
    if isinstance(bands, int) and table.setdefault("num_mels", bands) != bands:
        raise InputError(f"{beside}: features.num_mels: found {table['num_mels']}, {path} takes {bands}")
    features = from_dict(FeatureConfig, table, f"{beside if beside.is_file() else path}: [features]")
    if features.kind != "kaldi":
        raise InputError(f"{beside}: features.kind: found {features.kind!r}; such a file takes 'kaldi' alone")
    logger.info(f"{path}: taken to be (by {' and '.join(sources)}): {features.described()}")
    return features


def _of_sherpa(metadata: Mapping[str, str], path: Path) -> dict[str, Any]:
    """Return the settings in the metadata that sherpa-onnx's scripts write; those that aren't there are left out."""
    table: dict[str, Any] = dict(FRAMEWORKS.get(metadata.get("framework", ""), {}))
    # The script for WeSpeaker's models has called it `normalize_features`.
    scale = metadata.get("normalize_samples", metadata.get("normalize_features"))
    if scale is not None and table:
        if scale not in SCALES:
            raise InputError(f"{path}: metadata normalize_samples: found {scale!r}, expected 0 or 1")
        table["waveform_scale"] = SCALES[scale]
    if "sample_rate" in metadata:
        if not metadata["sample_rate"].isdigit():
            raise InputError(f"{path}: metadata sample_rate: found {metadata['sample_rate']!r}, expected Hz")
        table["sample_rate"] = int(metadata["sample_rate"])
    return table
