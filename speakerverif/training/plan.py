"""The plan of a recipe, shown before long work starts: data, classes, steps, memory, disk."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from speakerverif import heads
from speakerverif._util.toml import from_dict, to_dict
from speakerverif.config import Recipe, defaults_in_force
from speakerverif.corpora._prepared import Prepared
from speakerverif.data.manifest import Manifest
from speakerverif.data.trials import TrialList
from speakerverif.errors import InputError
from speakerverif.models import encoders, features
from speakerverif.scoring import backends
from speakerverif.training import parts
from speakerverif.training.batches import BatchOrder

# Bytes of a float32, the precision of heads, gradients and optimisers for any `train.precision`.
BYTES = 4
LARGEST = 10_000_000_000  # parameters of an encoder; more are taken for a mistake
_OPTIMIZER_COPIES = {"sgd": 1, "adamw": 2}  # tensors per parameter: momentum; two moments


@dataclass(frozen=True)
class Size:
    """The sizes of a recipe's networks, in parameters."""

    encoder: int
    head: int
    embedding_dim: int
    classes: int


def size_of(recipe: Recipe, num_speakers: int) -> Size:
    """Return the sizes of a recipe's networks for a number of training speakers, without allocating them.

    Raises:
        InputError: an unknown name or key, or a value out of range, as when they are built.
    """
    features.build(recipe.features)
    classes = num_speakers * len(recipe.augment.speeds)
    with torch.device("meta"):  # a million classes are gigabytes
        encoder = encoders.build(recipe.encoder, recipe.features.num_mels)
        embedding_dim = int(encoder.embedding_dim)  # type: ignore[arg-type]
        head = heads.build(recipe.head, embedding_dim, classes)
    parts.check(recipe.train, encoder, head)
    size = Size(_count(encoder), _count(head), embedding_dim, classes)
    if size.encoder > LARGEST:
        raise InputError(f"[encoder]: a network of {size.encoder:,} parameters; expected at most {LARGEST:,}")
    return size


def check(recipe: Recipe, num_speakers: int) -> None:
    """Raise `InputError` where a value of a recipe is wrong or contradicts another, before networks are built."""
    from_dict(Recipe, to_dict(recipe), "recipe")
    defaults_in_force(recipe)
    size_of(recipe, num_speakers)


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def head_bytes(recipe: Recipe, size: Size) -> int:
    """Return the bytes of the head in training: weights, gradients and the optimiser's state."""
    return size.head * BYTES * (2 + _OPTIMIZER_COPIES[recipe.train.optimizer])


def describe(
    recipe: Recipe, finetuned: Recipe | None, prepared: Prepared, manifest: Manifest, out: Path
) -> str:
    """Return the plan of a run as text.

    Args:
        recipe: of the main training.
        finetuned: of the second stage, if there is one.
        prepared: the corpus.
        manifest: the training utterances.
        out: the run's output folder.
    """
    size, defaults = size_of(recipe, len(manifest.speakers)), defaults_in_force(recipe)
    trials = {name: TrialList.read(path) for name, path in prepared.trials.items()}
    embedded = len({i for one in trials.values() for i in one.ids})
    if recipe.score.norm != "none" or backends.build(recipe.backend).needs_training:
        embedded += len(manifest)
    seconds = float(manifest.duration_s.sum())
    hours = "unknown hours" if np.isnan(seconds) else f"{seconds / 3600:,.1f} hours"
    stages = {"train": recipe} if finetuned is None else {"train": recipe, "finetune": finetuned}
    rows = {
        "data": f"{len(manifest.speakers):,} speakers, {len(manifest):,} utterances, {hours} in {prepared.train}",
        "trials": ", ".join(f"{name} {len(one):,}" for name, one in trials.items()),
        "encoder": f"{_table(recipe.encoder, defaults['encoder'])}: {size.encoder:,} parameters, "
        f"{size.embedding_dim} dimensions",
        "head": f"{_table(recipe.head, defaults['head'])}: {size.classes:,} classes, {size.head:,} parameters",
        "memory": f"{_size(head_bytes(recipe, size))} for the head's weights, gradients and optimiser, "
        f"{_size(recipe.train.batch_size * size.classes * BYTES)} for every copy of a batch's logits",
        **{name: _training(one, manifest) for name, one in stages.items()},
        "disk": f"{_size(_disk(recipe, size, len(stages), embedded))} at most in {out}, "
        f"{_size(shutil.disk_usage(_existing(out)).free)} free",
    }
    return "\n".join(f"  {name:9} {text}" for name, text in rows.items())


def _training(recipe: Recipe, manifest: Manifest) -> str:
    config = recipe.train
    order = BatchOrder(manifest.speaker_index, config, recipe.seed)
    return (
        f"{config.epochs:g} epochs of {order.epoch_size:,} crops of {config.crop_s:g} s, batch {config.batch_size}: "
        f"{order.num_steps:,} steps, {config.optimizer} {config.learning_rate:g} -> "
        f"{config.final_learning_rate:g} ({config.lr_schedule})"
    )


def _disk(recipe: Recipe, size: Size, models: int, embedded: int) -> int:
    """Return the total bytes of the model folders, one training's state and the embeddings."""
    model = size.encoder + size.head
    averaged = size.encoder if recipe.train.average != "none" else 0
    state = model * (1 + _OPTIMIZER_COPIES[recipe.train.optimizer]) + averaged
    return BYTES * (models * model + state + embedded * size.embedding_dim)


def _table(table: dict[str, Any], defaults: dict[str, Any]) -> str:
    return " ".join(str(v) if k == "name" else f"{k}={v}" for k, v in {**table, **defaults}.items())


def _size(count: int) -> str:
    return f"{count / 1e6:,.1f} MB" if count < 1e9 else f"{count / 1e9:,.1f} GB"


def _existing(folder: Path) -> Path:
    """Return the folder, or its nearest parent that exists."""
    return next(f for f in (folder.absolute(), *folder.absolute().parents) if f.is_dir())
