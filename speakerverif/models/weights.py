"""Networks and their tensors to safetensors and back."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from speakerverif.config import Recipe
from speakerverif.errors import InputError
from speakerverif.models import encoders
from speakerverif.models.fingerprint import fingerprint_of
from speakerverif.models.model import SpeakerModel


def read_weights(path: Path, recipe: Recipe) -> tuple[dict[str, Tensor], nn.Module]:
    """Return checked weights, of the types that the network has, and the encoder without memory for its weights.

    Raises:
        InputError: no such file, damaged, or weights that don't fit the recipe (the tensors are named).
    """
    weights = read_tensors(path)
    # Without memory: a wrong configuration may ask for more than there is.
    with torch.device("meta"):
        skeleton = encoders.build(recipe.encoder, recipe.features.num_mels)
    expected = {f"encoder.{name}": tensor for name, tensor in skeleton.state_dict().items()}
    wrong = [f"{name} is missing" for name in expected if name not in weights]
    wrong += [f"{name} is not expected" for name in weights if name not in expected]
    wrong += [
        f"{name} has shape {tuple(weights[name].shape)}, expected {tuple(tensor.shape)}"
        for name, tensor in expected.items()
        if name in weights and weights[name].shape != tensor.shape
    ]
    if wrong:
        more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise InputError(f"{path} does not fit config.toml: {'; '.join(wrong[:5])}{more}")
    weights = {name: weights[name].to(tensor.dtype) for name, tensor in expected.items()}
    for name, tensor in weights.items():
        if not tensor.isfinite().all():
            raise InputError(f"{path}: damaged: {name} holds nan or infinity")
    return weights, skeleton


def load_network(recipe: Recipe, weights: dict[str, Tensor]) -> SpeakerModel:
    """Return the model of a recipe with checked weights, in eval mode on the CPU."""
    model = SpeakerModel(recipe.features, recipe.encoder)
    model.load_state_dict(weights)
    return model.eval()


def fingerprint(model: SpeakerModel) -> str:
    """Return 16 hex digits that name this model: features, encoder table and every weight."""
    return fingerprint_of(model.feature_config, model.encoder_table, _contents(model.state_dict()))


def weights_fingerprint(recipe: Recipe, weights: dict[str, Tensor]) -> str:
    """Return the fingerprint of the model of a recipe with these weights."""
    return fingerprint_of(recipe.features, recipe.encoder, _contents(weights))


def _contents(weights: Mapping[str, Tensor]) -> Iterator[tuple[str, bytes]]:
    for name, tensor in sorted(weights.items()):
        yield name, tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def plain(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors as safetensors wants them: on the CPU, contiguous, detached from the graph."""
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def content(tensors: dict[str, Tensor]) -> bytes:
    """Return the content of a safetensors file."""
    return save(plain(tensors))


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file.

    Raises:
        InputError: no such file, or damaged.
    """
    if not path.is_file():
        raise InputError(f"{path.parent}: not a model folder: {path.name} is missing")
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(f"{path}: damaged: {error}") from error
