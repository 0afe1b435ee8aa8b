"""The start of a fine-tuning: another model's network and weights, and what becomes of its classes."""

import dataclasses
import logging
from pathlib import Path

import torch
from torch import Tensor, nn

from speakerverif.config import Recipe
from speakerverif.errors import InputError
from speakerverif.models import folder
from speakerverif.models.model import SpeakerModel

logger = logging.getLogger(__name__)

STARTER = "starter"  # the built-in model


def start_of(recipe: Recipe, start_from: Path | None = None) -> Path | None:
    """Return the model folder that a training begins with: `start_from`, else the recipe's; None: neither is given.

    Raises:
        InputError: the hub or this package doesn't have it.
    """
    name = recipe.train.start_from
    if start_from is not None:
        return folder.resolve_model(start_from)
    return folder.resolve_model(None if name == STARTER else Path(name)) if name else None


def with_network(recipe: Recipe) -> Recipe:
    """Return a recipe with the encoder and features of the model that it starts from, where it names no encoder.

    Raises:
        InputError: no such model; no encoder and no model to take it from.
    """
    if recipe.encoder:
        return recipe
    start = start_of(recipe)
    if start is None:
        raise InputError(
            "[encoder]: names no network; set encoder.name, or train.start_from to take a model's"
        )
    former, _ = folder.read_config(start)
    return dataclasses.replace(recipe, features=former.features, encoder=former.encoder)


def speakers_with_former(speakers: list[str], start: Path) -> list[str]:
    """Return the speakers of a model, followed by those of the data that it doesn't have.

    Raises:
        InputError: no such model.
    """
    former = unperturbed(folder.read_model_folder(start).speakers)
    return [*former, *(speaker for speaker in speakers if speaker not in set(former))]


def unperturbed(class_names: list[str]) -> list[str]:
    """Return the speakers of class names, of which some are of perturbed speed, such as `0001@speed0.9`."""
    return list(dict.fromkeys(name.partition("@speed")[0] for name in class_names))


def load_weights(
    model: SpeakerModel, head: nn.Module, class_names: list[str], start: Path, keep_classes: bool = False
) -> None:
    """Load the weights of a model folder into `model`, and those of its head into `head` where they fit.

    Without `keep_classes` the head is taken only where all classes are the same; with it each class that the model
    has, and what the head has besides its classes.

    Raises:
        InputError: the folder's model has different features or a different encoder; its classes are to be kept, but
            it has no such head.
    """
    former = folder.read_model_folder(start)
    if not isinstance(former.model, SpeakerModel):
        raise InputError(f"{start}: an ONNX file can't be trained; name a model folder")
    _check_shapes(former.model, model, start)
    model.load_state_dict(former.model.state_dict())
    weights, wanted = folder.load_head(start), head.state_dict()
    shapes = {name: tensor.shape for name, tensor in wanted.items()}
    if former.speakers == class_names and {name: tensor.shape for name, tensor in weights.items()} == shapes:
        head.load_state_dict(weights)
        logger.info(f"{start} was trained on the same {len(class_names)} classes: its head goes on")
    elif keep_classes:
        places = {name: i for i, name in enumerate(former.speakers)}
        rows = [places.get(name, -1) for name in class_names]
        head.load_state_dict(_with_former_rows(wanted, weights, rows, len(places), start))
        kept = sum(row >= 0 for row in rows)
        logger.info(f"{start}: {kept} of its {len(places)} classes are kept, {len(rows) - kept} are new")
    else:
        logger.warning(
            f"{start} was trained on other classes or with another head: this head starts anew, with the "
            f"{len(class_names)} classes of the data in place of its {len(former.speakers)}"
        )


def _check_shapes(former: SpeakerModel, model: SpeakerModel, start: Path) -> None:
    """Raise `InputError` where a former model has other weights than a model, and name the first."""
    shapes, wanted = (
        {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
        for network in (former, model)
    )
    differing = sorted(name for name in shapes.keys() | wanted if shapes.get(name) != wanted.get(name))
    if differing:
        name = differing[0]
        raise InputError(
            f"{start} does not fit the recipe's features and encoder: {len(differing)} weights differ, first {name}, "
            f"of shape {shapes.get(name, 'absent')} in the model and {wanted.get(name, 'absent')} by the recipe"
        )


def _with_former_rows(
    wanted: dict[str, Tensor], weights: dict[str, Tensor], rows: list[int], num_former: int, start: Path
) -> dict[str, Tensor]:
    """Return a head's tensors with the rows of the classes that a former head has.

    Args:
        wanted: the new head's, of which new classes keep their values.
        weights: the former head's.
        rows: for each new class, that of the former head; -1: none.
        num_former: number of the former head's classes.
        start: the former model, for messages.
    """
    if wanted.keys() != weights.keys() or not weights:
        raise InputError(
            f"{start}: has no class weights of the recipe's head, so that its classes can't be kept; set "
            'train.old_classes = "replace"'
        )
    joined, index = {}, torch.tensor(rows)
    has_former = index >= 0
    for name, tensor in wanted.items():
        former = weights[name]
        per_class = tensor.shape[0] // len(rows) if tensor.ndim else 0
        if per_class and former.shape == (num_former * per_class, *tensor.shape[1:]):
            blocks = tensor.detach().clone().unflatten(0, (len(rows), per_class))
            blocks[has_former] = former.unflatten(0, (num_former, per_class))[index[has_former]].to(blocks)
            joined[name] = blocks.flatten(0, 1)
        elif former.shape == tensor.shape:
            joined[name] = former
        else:
            raise InputError(
                f"{start}: its head's {name} has shape {tuple(former.shape)}, which is not that of the recipe's "
                f'head for {num_former} classes; set train.old_classes = "replace"'
            )
    return joined
