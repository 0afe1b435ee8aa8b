"""The program that runs a model, torch or onnxruntime on an export of it, and the precision it computes in.

Engine `auto` is the faster one (docs/performance.md): onnxruntime for an ONNX file and, on a CPU where it is installed,
for a folder whose encoder is in `FASTER_IN_ONNX`; torch for every other folder. A command for a few recordings spends
most of its time on importing torch, so it takes an export that is there already, which runs without.

Precision `auto`: see `precision.py`.
"""

import contextlib
import dataclasses
import importlib.util
import logging
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from speakerverif import __version__
from speakerverif._util import environment, resources
from speakerverif.errors import InputError
from speakerverif.models.fingerprint import fingerprint_of_file
from speakerverif.models.folder import (
    WEIGHTS,
    ModelFolder,
    announce_built_in,
    read_config,
    read_model_folder,
    resolve_model,
    with_facts,
)
from speakerverif.models.onnx_model import OnnxModel
from speakerverif.models.precision import Precision, chosen

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

Engine = Literal["auto", "torch", "onnx"]
FASTER_IN_ONNX = {"resnet"}


def load_for_inference(
    model: str | Path | None = None,
    device: "str | torch.device" = "cpu",
    engine: Engine = "auto",
    precision: Precision = "auto",
    *,
    briefly: bool = False,
) -> ModelFolder:
    """Return a model, run by the engine asked for; its back end, calibration and speakers stay unchanged.

    The export that `onnx` makes of a folder is kept, under the model's fingerprint, in the user's cache folder
    (`$XDG_CACHE_HOME/speakerverif`, else `~/.cache/speakerverif`): a model folder may be read-only, or shared.

    Args:
        model: as `read_model_folder`'s.
        device: "cpu" or "cuda".
        engine: see the module.
        precision: of torch's engine; onnxruntime computes in float32 (in 8 bits where the file was exported so).
        briefly: whether this process embeds a few recordings and ends, so that `auto` is what starts sooner: a kept
            export, where torch isn't imported yet.

    Raises:
        InputError: as `read_model_folder`; an unknown engine or precision, an ONNX file for torch or for bfloat16, no
            onnxruntime, an export that differs from its model (where `onnx` was asked for).
    """
    started = time.perf_counter()
    if engine not in get_args(Engine):
        raise InputError(f"engine {engine!r}: expected {', '.join(get_args(Engine))}")
    resources.check_device(str(device))
    if precision not in get_args(Precision):
        raise InputError(f"precision {precision!r}: expected {', '.join(get_args(Precision))}")
    path = resolve_model(None if model is None else Path(model))
    if path.suffix == ".onnx":
        if engine == "torch":
            raise InputError(f"{path}: an ONNX file can't be run by torch; name the model folder")
        folder = read_model_folder(path, device)
        if precision == "bfloat16":
            raise InputError(f"{path}: onnxruntime can't compute in bfloat16; use torch and a model folder")
    else:
        if precision == "bfloat16" and engine == "onnx":
            raise InputError(f"{path}: onnxruntime can't compute in bfloat16; use torch and a model folder")
        folder = _kept(path, device, engine, precision, briefly) or _by_torch(path, device, engine, precision)
    if model is None:
        announce_built_in(folder.name, folder.fingerprint, folder.path)
    took_s = time.perf_counter() - started
    logger.debug(f"{path}: loaded in {took_s:.2f} s, to be run by {folder.engine} in {folder.precision}")
    return folder


def _by_torch(path: Path, device: "str | torch.device", engine: Engine, precision: Precision) -> ModelFolder:
    """Return the model of a folder, loaded by torch, or an export that is made of it."""
    from speakerverif.models._cpu.swap import accelerate
    from speakerverif.models.bfloat16 import use_bfloat16
    from speakerverif.models.model import SpeakerModel

    resources.share_cores()
    folder = read_model_folder(path, device)
    if engine == "onnx":
        return _exported(folder, device)
    bfloat16 = chosen(precision, folder.recipe.encoder["name"], device) == "bfloat16"
    if engine == "auto" and not bfloat16 and _is_faster_in_onnx(folder, device):
        try:
            return _exported(folder, device)
        except InputError as error:
            logger.warning(f"{folder.path}: run by torch, since its export can't be used: {error}")
    if isinstance(folder.model, SpeakerModel):
        if bfloat16:
            use_bfloat16(folder.model)
        if str(device) == "cpu":
            accelerate(folder.model, kernels=not bfloat16)
    return folder


def _kept(
    path: Path, device: "str | torch.device", engine: Engine, precision: Precision, briefly: bool
) -> ModelFolder | None:
    """Return the model of a folder run by its kept export, read without torch; None where that is not to be."""
    if engine == "torch" or str(device) != "cpu" or importlib.util.find_spec("onnxruntime") is None:
        return None
    recipe, trained = read_config(path)
    name = recipe.encoder["name"]
    sooner = briefly and "torch" not in sys.modules
    if engine == "auto" and not (sooner and chosen(precision, name, device) == "float32"):
        return None
    identity = fingerprint_of_file(path / WEIGHTS, recipe)
    kept = None if identity is None else _place(identity)
    if identity is None or kept is None or not kept.is_file():
        return None
    with contextlib.suppress(InputError):  # damaged: it is written again
        model = OnnxModel(kept, device)
        if model.metadata.get("fingerprint") == identity:
            return with_facts(path, model, recipe, trained, identity)
    return None


def _place(fingerprint: str) -> Path | None:
    """Return where the export of a model is kept; None for a user without a home folder."""
    home = environment.cache_home()
    return home / "speakerverif" / f"{fingerprint}-{__version__}.onnx" if home else None


def _is_faster_in_onnx(folder: ModelFolder, device: "str | torch.device") -> bool:
    """Return whether a model's export is faster than the model, and all that it needs is installed."""
    if str(device) != "cpu" or folder.recipe.encoder["name"] not in FASTER_IN_ONNX:
        return False
    return all(importlib.util.find_spec(name) for name in ("onnx", "onnxruntime"))


def _exported(folder: ModelFolder, device: "str | torch.device") -> ModelFolder:
    """Return a model run by its export, from the cache where it is there and whole."""
    from speakerverif.exchange.to_onnx import export_onnx

    def run_by(export: Path) -> ModelFolder:
        return dataclasses.replace(folder, model=OnnxModel(export, device))

    kept = _place(folder.fingerprint)
    if kept is not None and kept.is_file():
        with contextlib.suppress(InputError):  # damaged: it is written again
            model = OnnxModel(kept, device)
            if model.metadata.get("fingerprint") == folder.fingerprint:
                return dataclasses.replace(folder, model=model)
    if kept is not None and _can_write(kept.parent):
        logger.info(f"exporting {folder.path} to {kept}")
        export_onnx(folder, kept)
        return run_by(kept)
    why = f"{kept.parent} can't be written to" if kept else "there is no home folder"
    logger.warning(f"exporting {folder.path}; {why}, so the export is not kept")
    with tempfile.TemporaryDirectory() as scratch:
        export_onnx(folder, Path(scratch) / "model.onnx")
        return run_by(Path(scratch) / "model.onnx")


def _can_write(cache: Path) -> bool:
    """Return whether the cache folder, made where absent, can be written to."""
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(cache, os.W_OK)
