"""Averages of weights over training."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from speakerverif.config import Recipe
from speakerverif.models.model import SpeakerModel
from speakerverif.training import state


@dataclass
class Average:
    """Averaged weights: an exponential moving average, or the mean over the last epochs' ends, or none."""

    kind: str
    ema_decay: float
    last_k: int
    weights: dict[str, Tensor]  # empty: nothing averaged yet
    count: int = 0

    @staticmethod
    def make(recipe: Recipe, model: SpeakerModel) -> "Average":
        """Return the average that the recipe asks for, still empty."""
        return Average(recipe.train.average, recipe.train.ema_decay, recipe.train.last_k, {})

    def after_step(self, model: SpeakerModel, step: int, num_steps: int, steps_per_epoch: float) -> None:
        """Take the model's weights in, where this step is one to average."""
        if self.kind == "ema":
            # Early on the plain mean of what was seen, so that the random start is soon forgotten.
            self._mix(model, 1 - min(self.ema_decay, self.count / (self.count + 1)))
        elif self.kind == "last_k":
            epochs_left = (num_steps - step) / steps_per_epoch
            ends_epoch = int(step / steps_per_epoch) > int((step - 1) / steps_per_epoch) or step == num_steps
            if ends_epoch and epochs_left < self.last_k:
                self._mix(model, 1 / (self.count + 1))

    def _mix(self, model: SpeakerModel, share: float) -> None:
        self.count += 1
        with torch.no_grad():
            for name, tensor in model.state_dict().items():
                if name not in self.weights or not tensor.is_floating_point():
                    self.weights[name] = tensor.clone()
                else:
                    self.weights[name].lerp_(tensor, share)

    def tensors(self) -> dict[str, Tensor]:
        """Return the averaged weights under names for the training state."""
        return {f"average.{name}": tensor for name, tensor in self.weights.items()}

    def load(self, tensors: dict[str, Tensor], facts: dict[str, Any], device: str) -> None:
        """Put back what `tensors` returned, on the device of the weights it is mixed with."""
        weights = state.unprefixed(tensors, "average.")
        self.weights = {name: tensor.to(device) for name, tensor in weights.items()}
        self.count = facts["average_count"]
