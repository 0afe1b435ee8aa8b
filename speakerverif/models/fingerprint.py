"""The name of a model: a hash over its features, its encoder and its weights."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from speakerverif._util.toml import to_dict
from speakerverif.config import FeatureConfig, Recipe


def fingerprint_of(
    features: FeatureConfig, encoder: dict[str, Any], contents: Iterable[tuple[str, bytes]]
) -> str:
    """Return 16 hex digits of the SHA-256 over features, encoder table and every weight.

    Args:
        features: the filterbank.
        encoder: the recipe's `[encoder]` table.
        contents: name and content of each tensor, in the order of the names; floats as float32.
    """
    digest = hashlib.sha256()
    identity = {"features": to_dict(features), "encoder": encoder}
    digest.update(json.dumps(identity, sort_keys=True).encode())
    for name, content in contents:
        digest.update(name.encode())
        digest.update(content)
    return digest.hexdigest()[:16]


def fingerprint_of_file(weights: Path, recipe: Recipe) -> str | None:
    """Return the fingerprint of the model of a recipe and a file of weights, computed without torch.

    None where that takes torch: the file is missing or damaged, or has tensors of a type that NumPy lacks.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        tensors = load_file(weights)
    except (SafetensorError, OSError, ValueError, KeyError, TypeError):
        return None
    if any(tensor.dtype.kind not in "fiub" for tensor in tensors.values()):
        return None
    contents = (
        (name, (tensor.astype(np.float32) if tensor.dtype.kind == "f" else tensor).tobytes())
        for name, tensor in sorted(tensors.items())
    )
    return fingerprint_of(recipe.features, recipe.encoder, contents)
