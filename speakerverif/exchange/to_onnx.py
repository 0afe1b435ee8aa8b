"""A model folder to one ONNX file: waveform in, embedding out, features inside.

Batch and length are free; `num_samples` is the true length of each row. The file's metadata hold the facts that a
program needs to use it, and those that `load_model` needs. For programs that compute the features themselves,
`_onnx_features.py` leaves them out.
"""

import base64
import json
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from speakerverif import __version__
from speakerverif._util.files import write_atomically
from speakerverif._util.toml import to_dict
from speakerverif.errors import InputError
from speakerverif.exchange import _onnx_features
from speakerverif.exchange._graphs import Network, exportable
from speakerverif.exchange._probe import voices
from speakerverif.models.folder import CALIBRATION, CONFIG, SPEAKERS, ModelFolder
from speakerverif.models.model import SpeakerModel
from speakerverif.models.onnx_model import INSTALL, METADATA, OnnxModel
from speakerverif.scoring import scorer
from speakerverif.scoring.scorer import Scoring

OPSET = 17
Precision = Literal["float32", "float16", "int8"]
# What the least cosine with the model's own embeddings must exceed. Networks that were never trained are harder than
# others: there eight bits stay above 0.999.
LEAST_COSINE: dict[Precision, float] = {"float32": 0.9999, "float16": 0.9999, "int8": 0.9}
CHECKED_S = (0.5, 3.1)


def export_onnx(
    folder: ModelFolder, path: str | Path, precision: Precision = "float32", features_in: bool = False
) -> float:
    """Write a model as an ONNX file, and return the least cosine between its embeddings and the model's own.

    They are compared on voices of two lengths, alone and in one batch, before the file is moved into place. Back
    end, cohort and calibration go along, so that the file scores as the folder does.

    Args:
        folder: a loaded model folder.
        path: the file to write; `.onnx`, so that `load_model` knows it.
        precision: of the encoder's weights: float16 halves them in the file alone, int8 computes with them too.
            Features and pooling are always float32.
        features_in: write a file that takes features, for WeSpeaker's runtime and sherpa-onnx, in place of waveforms.

    Raises:
        InputError: another suffix or precision, no onnx or onnxruntime installed, the folder is an ONNX file itself,
            features that those programs don't compute, or the embeddings differ.
    """
    path = Path(path)
    if path.suffix != ".onnx":
        raise InputError(f"{path}: expected a name that ends in .onnx")
    if precision not in LEAST_COSINE:
        raise InputError(f"precision {precision!r}: expected {', '.join(LEAST_COSINE)}")
    if not isinstance(folder.model, SpeakerModel):
        raise InputError(f"{folder.path}: is an ONNX file already")
    try:
        import onnx

        from speakerverif.exchange import _onnx_precision
    except ImportError as error:
        raise InputError(f"--onnx: {INSTALL}") from error
    model = exportable(folder.model)
    graph_of = _onnx_features.graph_of if features_in else _graph_of
    facts = _onnx_features.metadata(folder) if features_in else {}
    with tempfile.TemporaryDirectory() as scratch:
        draft = Path(scratch) / "model.onnx"
        network = graph_of(model)
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                network.module,
                network.example,
                str(draft),
                input_names=list(network.axes)[:-1],
                output_names=list(network.axes)[-1:],
                dynamic_axes=network.axes,
                opset_version=OPSET,
                # The newer exporter took minutes for what this one does in seconds.
                dynamo=False,
            )
        graph = _onnx_precision.folded(onnx.load(str(draft)))
        if precision == "float16":
            graph = _onnx_precision.halved(graph)
        elif precision == "int8":
            graph = _onnx_precision.quantised(graph)
        # Domains that the optimiser and the quantiser name without using them.
        used = {node.domain for node in graph.graph.node}
        kept = [opset for opset in graph.opset_import if opset.domain in used | {""}]
        del graph.opset_import[:]
        graph.opset_import.extend(kept)
        onnx.helper.set_model_props(
            graph, {**metadata(folder), **scoring_files(folder), **facts, "precision": precision}
        )
        onnx.checker.check_model(graph)
        onnx.save(graph, str(draft))
        try:
            least = least_cosine(model, OnnxModel(draft))
        except Exception as error:  # onnxruntime's own classes
            raise InputError(f"{path}: not written: onnxruntime can't run it: {error}") from error
        if not least > LEAST_COSINE[precision]:
            raise InputError(
                f"{path}: not written: its embeddings have a cosine of {least:.6f} with the model's own"
            )
        write_atomically(path, draft.read_bytes())
    return least


def _graph_of(model: SpeakerModel) -> Network:
    """Return the network from waveforms to embeddings."""
    example = torch.zeros(2, model.sample_rate), torch.tensor([model.sample_rate, model.sample_rate // 2])
    axes = {
        "waveform": {0: "batch", 1: "samples"},
        "num_samples": {0: "batch"},
        "embedding": {0: "batch"},
    }
    return Network(model, example, axes)


def metadata(folder: ModelFolder) -> dict[str, str]:
    """Return the metadata of an exported file: facts about it, and the files of the folder under their names."""
    features = to_dict(folder.recipe.features)
    facts: dict[str, Any] = {
        METADATA: __version__,
        "fingerprint": folder.fingerprint,
        "sample_rate": folder.model.sample_rate,
        "embedding_dim": folder.model.embedding_dim,
        "features": json.dumps(features),
        "similarity": "cosine",
    }
    # Such a file has no back end: a calibration of other scores than cosines would be wrong for it.
    cosine = folder.calibration is not None and folder.calibration.scoring in ("", "cosine")
    for name in (CONFIG, SPEAKERS, *((CALIBRATION,) if cosine else ())):
        if (folder.path / name).is_file():
            facts[name] = (folder.path / name).read_text("utf-8")
    return {key: str(value) for key, value in facts.items()}


def scoring_files(folder: ModelFolder) -> dict[str, str]:
    """Return the files by which a folder scores, under their names, so that the ONNX file scores in the same way.

    The calibration is that of these scores; arrays are base64.
    """
    texts, arrays = (CALIBRATION, scorer.FILE), (scorer.ARRAYS, scorer.COHORT)
    files = {
        name: (folder.path / name).read_text("utf-8") for name in texts if (folder.path / name).is_file()
    }
    if scorer.FILE in files:
        files["similarity"] = Scoring.load(folder.path, folder.fingerprint).name
        for name in arrays:
            if (folder.path / name).is_file():
                files[name] = base64.b64encode((folder.path / name).read_bytes()).decode("ascii")
    return files


def least_cosine(model: SpeakerModel, exported: Callable[[Tensor, Tensor], Tensor]) -> float:
    """Return the least cosine of two engines' embeddings of voices, short and long, alone and together."""
    waveforms, lengths = voices(CHECKED_S, model.sample_rate)
    cosines = []
    with torch.inference_mode():
        expected = model(waveforms, lengths)
        cosines.append(torch.cosine_similarity(exported(waveforms, lengths), expected).min())
        for row, length, vector in zip(waveforms, lengths, expected, strict=True):
            alone = exported(row[None, :length], length[None])
            cosines.append(torch.cosine_similarity(alone[0], vector, 0))
    return float(torch.stack(cosines).min())
