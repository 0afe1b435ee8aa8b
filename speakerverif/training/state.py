"""State of a training under way: optimiser, counters and averages in one file, written whole."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn

from speakerverif._util.files import write_atomically
from speakerverif.models.folder import plain, read_tensors

STATE = "training/state.safetensors"


def save_state(folder: Path, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
    """Write the state of a training that goes on: named tensors and plain facts, one atomic file."""
    write_atomically(folder / STATE, save(plain(tensors), metadata={"facts": json.dumps(facts)}))


def load_state(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Return what `save_state` wrote, or None where no training is under way.

    Raises:
        InputError: the file is damaged.
    """
    path = folder / STATE
    if not path.is_file():
        return None
    tensors = read_tensors(path)
    with safe_open(path, framework="pt") as file:
        return tensors, json.loads(file.metadata()["facts"])


def finish_training(folder: Path) -> None:
    """Remove the state of a training that has ended."""
    shutil.rmtree((folder / STATE).parent, ignore_errors=True)


def flatten_optimizer(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return an optimiser's state as named tensors; hyper-parameters come from the recipe, not from here."""
    states = optimizer.state_dict()["state"]
    return {
        f"optimizer.{i}.{k}": torch.as_tensor(v)
        for i, state in states.items()
        for k, v in state.items()
        if v is not None
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Put back what `flatten_optimizer` took."""
    states: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith("optimizer."):
            _, index, key = name.split(".", 2)
            states.setdefault(int(index), {})[key] = tensor
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": states, "param_groups": groups})


def prefixed(module: nn.Module, prefix: str) -> dict[str, Tensor]:
    """Return a module's state dict with `prefix` before every name."""
    return {f"{prefix}{name}": tensor for name, tensor in module.state_dict().items()}


def unprefixed(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors whose names begin with `prefix`, without it."""
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
