"""Model folders: the only reader and writer.

Nothing here is a pickle: weights are safetensors, everything else is TOML or JSON text. Each file is written aside,
synced and renamed, so that a crash leaves the former file or the new one, never a partial one.
"""

import base64
import logging
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from speakerverif._util.files import lines_of, read_lines, write_atomically
from speakerverif._util.toml import format_toml, from_dict, parse_toml, read_toml, to_dict
from speakerverif.config import Recipe, defaults_in_force
from speakerverif.errors import InputError
from speakerverif.models import hub
from speakerverif.models.fingerprint import fingerprint_of
from speakerverif.models.onnx_model import METADATA, OnnxModel
from speakerverif.scoring import scorer
from speakerverif.scoring.calibration import Calibration
from speakerverif.scoring.scorer import Scoring

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from speakerverif.models.model import SpeakerModel

logger = logging.getLogger(__name__)

CONFIG, WEIGHTS, SPEAKERS, CARD = "config.toml", "model.safetensors", "speakers.txt", "README.md"


# Table of config.toml: values that the recipe leaves to the defaults of encoder, head and back end.
DEFAULTS = "defaults"

CALIBRATION = "calibration.toml"  # where fitted


HEAD = "head.safetensors"  # the training head, for fine-tuning; nothing else needs it


# What a folder may also hold: the calibration, back end and cohort (`scoring.py`), the training head.
OPTIONAL = (CALIBRATION, "scoring.toml", "backend.npz", "cohort.npz", HEAD)


DEFAULT = Path(__file__).parents[1] / "default_model"  # what the package ships; tools/pack_model.py makes it


@dataclass(frozen=True)
class ModelFolder:
    """A loaded model with the facts in its folder or its ONNX file."""

    path: Path
    model: "SpeakerModel | OnnxModel"
    recipe: Recipe
    trained: dict[str, Any]  # the [trained] table: samples, finished, ...
    speakers: list[str]  # class index -> speaker
    fingerprint: str
    calibration: Calibration | None = None

    @property
    def name(self) -> str:
        """The recipe's name."""
        return self.recipe.name

    @property
    def engine(self) -> str:
        """The program that runs the model: "torch" or "onnxruntime"."""
        return self.model.engine

    @property
    def precision(self) -> str:
        """The precision of computation: "float32" or "bfloat16"; an ONNX file's is that of its export."""
        return self.model.precision

    def scoring(self) -> Scoring:
        """Return the scoring of its embeddings; raises as `read_scoring`."""
        texts = self.model.metadata if isinstance(self.model, OnnxModel) else None
        return read_scoring(self.path, self.fingerprint, texts)


def save_model(
    folder: Path,
    weights: "dict[str, Tensor]",
    head_weights: "dict[str, Tensor]",
    recipe: Recipe,
    speakers: list[str],
    trained: dict[str, Any],
) -> None:
    """Write a model folder that `read_model_folder` takes; other files in the folder stay.

    Args:
        folder: made where absent.
        weights: the state dict of the `SpeakerModel`.
        head_weights: the state dict of the training head; empty where there is none.
        recipe: what was trained, whole.
        speakers: class index -> speaker.
        trained: facts for the `[trained]` table of config.toml.
    """
    from speakerverif.models.weights import content

    write_atomically(folder / WEIGHTS, content(weights))
    if head_weights:
        write_atomically(folder / HEAD, content(head_weights))
    write_atomically(folder / SPEAKERS, "".join(f"{speaker}\n" for speaker in speakers))
    write_atomically(folder / CARD, _model_card(recipe, speakers, trained))
    tables = {**to_dict(recipe), DEFAULTS: defaults_in_force(recipe), "trained": trained}
    write_atomically(folder / CONFIG, format_toml(tables))


def resolve_model(path: Path | None) -> Path:
    """Return the model folder or ONNX file to use: the one given, else the package's own.

    A name `org/name` (or `org/name@revision`) that is no path here is fetched from the Hugging Face hub.

    Raises:
        InputError: none was given and the package's own is not there; the hub doesn't have it.
    """
    if path is not None:
        name = path.as_posix()
        on_hub = not path.exists() and path.suffix != ".onnx" and hub.NAME.fullmatch(name)
        return (
            hub.fetch(name, (CONFIG, WEIGHTS, SPEAKERS, *(f"{file}*" for file in OPTIONAL)))
            if on_hub
            else path
        )
    if not (DEFAULT / CONFIG).is_file():
        raise InputError(
            f"this package came without its model ({DEFAULT} is missing): name one with --model MODEL"
        )
    return DEFAULT


def read_config(folder: Path) -> tuple[Recipe, dict[str, Any]]:
    """Return the recipe and the `[trained]` table of a model folder.

    Raises:
        InputError: no such folder, no or wrong config.toml.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such model folder")
    if not (folder / CONFIG).is_file():
        raise InputError(f"{folder}: not a model folder: {CONFIG} is missing")
    return _recipe_of(read_toml(folder / CONFIG), str(folder / CONFIG))


def _recipe_of(tables: dict[str, Any], where: str) -> tuple[Recipe, dict[str, Any]]:
    """Return the recipe and the `[trained]` table of a model's config.toml."""
    tables.pop(DEFAULTS, None)
    trained = tables.pop("trained", {})
    if not isinstance(trained, dict):
        raise InputError(f"{where}: trained: expected a table, found {trained!r}")
    return from_dict(Recipe, tables, where), trained


def read_model_folder(folder: str | Path | None = None, device: "str | torch.device" = "cpu") -> ModelFolder:
    """Return the model of a folder, in eval mode on `device`.

    Weights stored as float16 become float32; the fingerprint is of the values that are stored.

    Args:
        folder: a model folder; or an `.onnx` file that `export` wrote; or, where there is no such path, `org/name`
            (or `org/name@revision`) on the Hugging Face hub. None: the package's own, and a line on standard
            error says so.
        device: "cpu" or "cuda".

    Raises:
        InputError: a missing or damaged file, or weights that don't fit config.toml (the tensors are named).
    """
    if folder is None:
        built_in = read_model_folder(resolve_model(None), device)
        announce_built_in(built_in.name, built_in.fingerprint, built_in.path)
        return built_in
    folder = resolve_model(Path(folder))
    if folder.suffix == ".onnx":
        return _load_onnx(folder, device)
    from speakerverif.models.weights import load_network, read_weights, weights_fingerprint

    recipe, trained = read_config(folder)
    weights, _ = read_weights(folder / WEIGHTS, recipe)
    model = load_network(recipe, weights).to(device)
    return with_facts(folder, model, recipe, trained, weights_fingerprint(recipe, weights))


def announce_built_in(name: str, fingerprint: str, path: Path) -> None:
    """Log that the built-in model is used, since the user named none."""
    logger.info(
        f"no model named: the built-in starter model {name} {fingerprint}; what it is and is not "
        f"good for: {path / CARD}"
    )


@dataclass(frozen=True)
class Description:
    """Facts about a model, for which no network is built."""

    path: Path
    recipe: Recipe
    trained: dict[str, Any]
    speakers: list[str]
    fingerprint: str
    sample_rate: int
    embedding_dim: int
    parameters: int | None  # unknown of an ONNX file


def describe(folder: str | Path | None = None) -> Description:
    """Return the facts about a model, given as to `read_model_folder`; raises as that does."""
    if folder is None:
        built_in = describe(resolve_model(None))
        announce_built_in(built_in.recipe.name, built_in.fingerprint, built_in.path)
        return built_in
    path = resolve_model(Path(folder))
    if path.suffix == ".onnx":
        onnx = _load_onnx(path, "cpu")
        rate, dim = onnx.model.sample_rate, onnx.model.embedding_dim
        return Description(path, onnx.recipe, onnx.trained, onnx.speakers, onnx.fingerprint, rate, dim, None)
    from speakerverif.models.weights import read_weights, weights_fingerprint

    recipe, trained = read_config(path)
    weights, skeleton = read_weights(path / WEIGHTS, recipe)
    speakers, identity, _ = _facts(path, weights_fingerprint(recipe, weights))
    return Description(
        path,
        recipe,
        trained,
        speakers,
        identity,
        recipe.features.sample_rate,
        int(skeleton.embedding_dim),  # type: ignore[arg-type]
        sum(parameter.numel() for parameter in skeleton.parameters()),
    )


def with_facts(
    folder: Path, model: "SpeakerModel | OnnxModel", recipe: Recipe, trained: dict[str, Any], identity: str
) -> ModelFolder:
    """Return a loaded model with the speakers and the calibration of its folder; raises as `read_model_folder`."""
    return ModelFolder(folder, model, recipe, trained, *_facts(folder, identity))


def _facts(folder: Path, identity: str) -> tuple[list[str], str, Calibration | None]:
    """Return the speakers, the fingerprint and the calibration of the model of a folder.

    Raises:
        InputError: a file of the folder is missing or damaged, or of another model than the fingerprint `identity`.
    """
    speakers, calibration = read_lines(folder / SPEAKERS), None
    if (folder / CALIBRATION).is_file():
        calibration = Calibration.load(folder / CALIBRATION)
        if calibration.fingerprint != identity:
            raise InputError(
                f"{folder / CALIBRATION} was fitted on model {calibration.fingerprint}, this is {identity}"
            )
    return speakers, identity, calibration


def _load_onnx(path: Path, device: "str | torch.device") -> ModelFolder:
    """Return the model of an ONNX file; the texts of the folder that it was made of are in its metadata."""
    model = OnnxModel(path, device)
    if METADATA not in model.metadata and model.features is not None:
        recipe = Recipe(name=path.stem, features=model.features, encoder={"name": "onnx"}, head={})
        identity = fingerprint_of(recipe.features, recipe.encoder, [(path.suffix, path.read_bytes())])
        return ModelFolder(path, model, recipe, {}, [], identity)
    recipe, trained = _recipe_of(parse_toml(model.text(CONFIG), f"{path}: {CONFIG}"), f"{path}: {CONFIG}")
    identity, calibration = model.text("fingerprint"), None
    if CALIBRATION in model.metadata:
        where = f"{path}: {CALIBRATION}"
        calibration = Calibration.of_table(parse_toml(model.text(CALIBRATION), where), where)
        if calibration.fingerprint != identity:
            raise InputError(f"{where} was fitted on model {calibration.fingerprint}, this is {identity}")
    speakers = lines_of(model.text(SPEAKERS))
    return ModelFolder(path, model, recipe, trained, speakers, identity, calibration)


def read_scoring(path: Path, fingerprint: str, texts: Mapping[str, str] | None = None) -> Scoring:
    """Return the scoring of a model: plain cosine where its folder, or its ONNX file, holds no other.

    Args:
        path: the model folder or the ONNX file.
        fingerprint: of the model.
        texts: the ONNX file's metadata, where they were read already.

    Raises:
        InputError: files that are damaged, missing, or of another model.
    """
    if path.suffix != ".onnx":
        return Scoring.load(path, fingerprint)
    texts = OnnxModel(path).metadata if texts is None else texts
    with tempfile.TemporaryDirectory() as scratch:
        for name in (scorer.FILE, scorer.ARRAYS, scorer.COHORT):
            if name in texts:
                text = texts[name].encode("utf-8", "surrogatepass")
                try:
                    data = text if name == scorer.FILE else base64.b64decode(text, validate=True)
                except ValueError as error:
                    raise InputError(f"{path}: {name}: damaged: {error}") from error
                (Path(scratch) / name).write_bytes(data)
        return Scoring.load(Path(scratch), fingerprint)


def load_head(folder: Path) -> "dict[str, Tensor]":
    """Return the training head's weights of a model folder; empty where it has none.

    Raises:
        InputError: the file is damaged.
    """
    from speakerverif.models.weights import read_tensors

    return read_tensors(folder / HEAD) if (folder / HEAD).is_file() else {}


def _model_card(recipe: Recipe, speakers: list[str], trained: dict[str, Any]) -> str:
    facts = "\n".join(f"- {key}: {value}" for key, value in trained.items())
    origin = "imported into" if "imported_from" in trained else "trained with"
    head = f"- head: {recipe.head}\n" if recipe.head else ""
    return (
        f"# {recipe.name}\n\nA speaker-embedding model {origin} `speakerverif`: waveform in "
        f"({recipe.features.sample_rate} Hz), embedding out.\n\n"
        f"- encoder: {recipe.encoder}\n{head}- data: {recipe.data.corpus or 'unnamed'}, "
        f"{len(speakers)} speakers\n{facts}\n\n"
        "The licence of the training data governs what this model may be used for.\n"
    )
