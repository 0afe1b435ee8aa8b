"""The program that runs a model, torch or onnxruntime on an export of it, and the precision it computes in.

Engine `auto` is the faster one (docs/performance.md): onnxruntime for an ONNX file and, on a CPU where it is installed,
for a folder whose encoder is in `FASTER_IN_ONNX`; torch for every other folder. Precision `auto`: see `precision.py`.
"""

import contextlib
import dataclasses
import importlib.util
import logging
import os
import tempfile
from pathlib import Path
from typing import Literal, get_args

import torch

from speakerverif import __version__
from speakerverif._util import environment, resources
from speakerverif.errors import InputError
from speakerverif.exchange.to_onnx import export_onnx
from speakerverif.models._cpu.swap import accelerate
from speakerverif.models.folder import ModelFolder, read_model_folder
from speakerverif.models.model import SpeakerModel
from speakerverif.models.onnx_model import OnnxModel
from speakerverif.models.precision import Precision, chosen, use_bfloat16

logger = logging.getLogger(__name__)

Engine = Literal["auto", "torch", "onnx"]
FASTER_IN_ONNX = {"resnet"}


def load_for_inference(
    model: str | Path | None = None,
    device: str | torch.device = "cpu",
    engine: Engine = "auto",
    precision: Precision = "auto",
) -> ModelFolder:
    """Return a model, run by the engine asked for; its back end, calibration and speakers stay unchanged.

    The export that `onnx` makes of a folder is kept, under the model's fingerprint, in the user's cache folder
    (`$XDG_CACHE_HOME/speakerverif`, else `~/.cache/speakerverif`): a model folder may be read-only, or shared.

    Args:
        model: as `read_model_folder`'s.
        device: "cpu" or "cuda".
        engine: see the module.
        precision: of torch's engine; onnxruntime computes in float32 (in 8 bits where the file was exported so).

    Raises:
        InputError: as `read_model_folder`; an unknown engine or precision, an ONNX file for torch or for bfloat16, no
            onnxruntime, an export that differs from its model (where `onnx` was asked for).
    """
    if engine not in get_args(Engine):
        raise InputError(f"engine {engine!r}: expected {', '.join(get_args(Engine))}")
    resources.check_device(str(device))
    if precision not in get_args(Precision):
        raise InputError(f"precision {precision!r}: expected {', '.join(get_args(Precision))}")
    resources.share_cores()
    folder = read_model_folder(model, device)
    runs_in_torch = isinstance(folder.model, SpeakerModel)
    if engine == "torch" and not runs_in_torch:
        raise InputError(f"{folder.path}: an ONNX file can't be run by torch; name the model folder")
    if precision == "bfloat16" and (engine == "onnx" or not runs_in_torch):
        raise InputError(
            f"{folder.path}: onnxruntime can't compute in bfloat16; use torch and a model folder"
        )
    if runs_in_torch and engine == "onnx":
        return dataclasses.replace(folder, model=_exported(folder, device))
    bfloat16 = chosen(precision, folder.recipe.encoder["name"], device) == "bfloat16"
    if runs_in_torch and engine == "auto" and not bfloat16 and _is_faster_in_onnx(folder, device):
        try:
            return dataclasses.replace(folder, model=_exported(folder, device))
        except InputError as error:
            logger.warning(f"{folder.path}: run by torch, since its export can't be used: {error}")
    if isinstance(folder.model, SpeakerModel):
        if bfloat16:
            use_bfloat16(folder.model)
        if torch.device(device).type == "cpu":
            accelerate(folder.model, kernels=not bfloat16)
    return folder


def _is_faster_in_onnx(folder: ModelFolder, device: str | torch.device) -> bool:
    """Return whether a model's export is faster than the model, and all that it needs is installed."""
    if str(device) != "cpu" or folder.recipe.encoder["name"] not in FASTER_IN_ONNX:
        return False
    return all(importlib.util.find_spec(name) for name in ("onnx", "onnxruntime"))


def _exported(folder: ModelFolder, device: str | torch.device) -> OnnxModel:
    """Return a model's export, from the cache where it is there and whole."""
    home = environment.cache_home()
    kept = home / "speakerverif" / f"{folder.fingerprint}-{__version__}.onnx" if home else None
    if kept is not None and kept.is_file():
        with contextlib.suppress(InputError):  # damaged: it is written again
            model = OnnxModel(kept, device)
            if model.metadata["fingerprint"] == folder.fingerprint:
                return model
    if kept is not None and _can_write(kept.parent):
        logger.info(f"exporting {folder.path} to {kept}")
        export_onnx(folder, kept)
        return OnnxModel(kept, device)
    why = f"{kept.parent} can't be written to" if kept else "there is no home folder"
    logger.warning(f"exporting {folder.path}; {why}, so the export is not kept")
    with tempfile.TemporaryDirectory() as scratch:
        export_onnx(folder, Path(scratch) / "model.onnx")
        return OnnxModel(Path(scratch) / "model.onnx", device)


def _can_write(cache: Path) -> bool:
    """Return whether the cache folder, made where absent, can be written to."""
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(cache, os.W_OK)
