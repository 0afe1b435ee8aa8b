"""The state that training steps change, and the file that stores it between runs."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.optim.swa_utils import AveragedModel

from speakerverif._util.files import write_atomically
from speakerverif._util.json_files import parse_object
from speakerverif.errors import InputError
from speakerverif.heads._base import Head
from speakerverif.models.model import SpeakerModel
from speakerverif.models.weights import plain, read_tensors

STATE = "training/state.safetensors"

Facts = dict[str, Any]  # plain values, as JSON holds them
# Facts that `TrainingState.save` writes, and their types.
FACTS = {"step": int, "average_count": int, "scaler": dict}
DAMAGED = "remove the model folder to train from the beginning"


@dataclass
class TrainingState:
    """The networks, their optimiser and average, and the number of steps done."""

    model: SpeakerModel
    head: Head
    optimizer: torch.optim.Optimizer
    scaler: GradScaler
    average: AveragedModel | None
    step: int = 0

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The parameters that learn: those of the model, then of the head."""
        both = (*self.model.parameters(), *self.head.parameters())
        return [parameter for parameter in both if parameter.requires_grad]

    @property
    def result(self) -> SpeakerModel:
        """The current result of training: the average if there is one, else the model itself."""
        averaged = self.average is not None and int(self.average.n_averaged) > 0
        return self.average.module if averaged else self.model  # type: ignore[union-attr, return-value]

    def average_weights(self) -> None:
        """Update the average with the current weights."""
        if self.average is not None:
            self.average.update_parameters(self.model)

    def save(self, folder: Path, facts: Facts) -> None:
        """Write one file with the state and the caller's facts, for `read` and `load`."""
        averaged = self.result is not self.model
        tensors = {
            **_prefixed("model.", self.model.state_dict()),
            **_prefixed("head.", self.head.state_dict()),
            **_prefixed("average.", self.result.state_dict() if averaged else {}),
            **_optimizer_tensors(self.optimizer),
        }
        counts = {
            "step": self.step,
            "average_count": 0 if self.average is None else int(self.average.n_averaged),
            "scaler": self.scaler.state_dict(),
        }
        metadata = {"facts": json.dumps({**counts, **facts})}
        write_atomically(folder / STATE, save(plain(tensors), metadata=metadata))

    def load(self, folder: Path, tensors: dict[str, Tensor], facts: Facts) -> None:
        """Restore the state from the tensors and facts that `read` returned for a folder.

        Raises:
            InputError: they don't fit the networks or the optimiser.
        """
        try:
            self._restore(tensors, facts)
        except (RuntimeError, ValueError, KeyError, TypeError, IndexError) as error:
            reason = str(error).strip().partition("\n")[0]
            raise InputError(f"{folder / STATE}: not of this training ({reason}); {DAMAGED}") from error

    def _restore(self, tensors: dict[str, Tensor], facts: Facts) -> None:
        self.step = facts["step"]
        self.model.load_state_dict(_unprefixed("model.", tensors))
        self.head.load_state_dict(_unprefixed("head.", tensors))
        if self.average is not None and facts["average_count"]:
            self.average.module.load_state_dict(_unprefixed("average.", tensors))
            self.average.n_averaged.fill_(facts["average_count"])
        _restore_optimizer(self.optimizer, tensors)
        if facts["scaler"]:  # empty where the device needs no scaling
            self.scaler.load_state_dict(facts["scaler"])


def read(folder: Path) -> tuple[dict[str, Tensor], Facts] | None:
    """Return the tensors and facts that `TrainingState.save` wrote; None where there is no unfinished training.

    Raises:
        InputError: the file is damaged.
    """
    path = folder / STATE
    if not path.is_file():
        return None
    tensors = read_tensors(path)
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
    facts = parse_object(metadata.get("facts", ""), str(path), DAMAGED)
    if wrong := [name for name, kind in FACTS.items() if type(facts.get(name)) is not kind]:
        raise InputError(f"{path}: damaged (no {', '.join(wrong)}); {DAMAGED}")
    return tensors, facts


def remove(folder: Path) -> None:
    """Delete the state of a finished training."""
    shutil.rmtree((folder / STATE).parent, ignore_errors=True)


def _optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return an optimiser's state as named tensors, without its settings, which are in the recipe."""
    return {
        f"optimizer.{i}.{key}": torch.as_tensor(value)
        for i, values in optimizer.state_dict()["state"].items()
        for key, value in values.items()
        if value is not None
    }


def _restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Restore an optimiser's state from the tensors of `_optimizer_tensors`."""
    states: dict[int, dict[str, Tensor]] = {}
    for name, tensor in _unprefixed("optimizer.", tensors).items():
        index, key = name.split(".", 1)
        states.setdefault(int(index), {})[key] = tensor
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": states, "param_groups": groups})


def _prefixed(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}{name}": tensor for name, tensor in tensors.items()}


def _unprefixed(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
