"""A model folder as one file for torch alone, without this package: an exported program, or TorchScript.

Waveform and `num_samples` in, embedding out, as in the ONNX file; batch and length are free.
"""

import io
import json
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from speakerverif._util.files import write_atomically
from speakerverif.errors import InputError
from speakerverif.exchange._graphs import exportable
from speakerverif.exchange.to_onnx import LEAST_COSINE, least_cosine, metadata
from speakerverif.models.folder import ModelFolder
from speakerverif.models.model import SpeakerModel

SHORTEST_S, LONGEST_S = 0.3, 3600.0  # of what an exported program takes; a shorter waveform is padded
LARGEST_BATCH = 4096
TEXTS = "speakerverif.json"  # the extra file, in both kinds, with the content of the ONNX file's metadata


def export_program(folder: ModelFolder, path: str | Path) -> float:
    """Write a model as an exported program (`torch.export.load(path).module()`); otherwise as `export_onnx`.

    Raises:
        InputError: the name doesn't end in `.pt2`, the folder is an ONNX file, or the embeddings differ.
    """

    def export(model: SpeakerModel, texts: dict[str, str]) -> tuple[bytes, Callable[..., Tensor]]:
        samples = torch.export.Dim(
            "samples",
            min=round(SHORTEST_S * model.sample_rate),
            max=round(LONGEST_S * model.sample_rate),
        )
        batch = torch.export.Dim("batch", min=1, max=LARGEST_BATCH)
        program = torch.export.export(
            model,
            _example(model),
            dynamic_shapes={"waveform": {0: batch, 1: samples}, "num_samples": {0: batch}},
            # Facts about strides and lengths that are true of every length, but not to its solver.
            prefer_deferred_runtime_asserts_over_guards=True,
        )
        written = io.BytesIO()
        torch.export.save(program, written, extra_files=texts)
        return written.getvalue(), program.module()

    return _export(folder, Path(path), ".pt2", export)


def export_torchscript(folder: ModelFolder, path: str | Path) -> float:
    """Write a model as TorchScript (`torch.jit.load(path)`), for C++ and mobile; otherwise as `export_onnx`.

    Raises:
        InputError: the name doesn't end in `.pt`, the folder is an ONNX file, or the embeddings differ.
    """

    def export(model: SpeakerModel, texts: dict[str, str]) -> tuple[bytes, Callable[..., Tensor]]:
        traced = torch.jit.trace(model, _example(model), check_trace=False)
        written = io.BytesIO()
        torch.jit.save(traced, written, _extra_files=texts)
        return written.getvalue(), traced

    return _export(folder, Path(path), ".pt", export)


def _export(
    folder: ModelFolder,
    path: Path,
    suffix: str,
    export: Callable[[SpeakerModel, dict[str, str]], tuple[bytes, Callable[..., Tensor]]],
) -> float:
    if path.suffix != suffix:
        raise InputError(f"{path}: expected a name that ends in {suffix}")
    if not isinstance(folder.model, SpeakerModel):
        raise InputError(f"{folder.path}: is an ONNX file; name the model folder that it was made of")
    model = exportable(folder.model)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        written, exported = export(model, {TEXTS: json.dumps(metadata(folder))})
        least = least_cosine(model, exported)
    if not least > LEAST_COSINE["float32"]:
        raise InputError(
            f"{path}: not written: its embeddings have a cosine of {least:.6f} with the model's own"
        )
    write_atomically(path, written)
    return least


def _example(model: SpeakerModel) -> tuple[Tensor, Tensor]:
    """Return two waveforms of different lengths, neither of them one that a graph could take for granted."""
    rate = model.sample_rate
    noise = 0.1 * torch.randn(2, rate + rate // 8, generator=torch.Generator().manual_seed(0))
    return noise, torch.tensor([noise.shape[1], rate // 2])
