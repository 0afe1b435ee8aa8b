"""Averages of weights over training."""

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from speakerverif.config import TrainConfig
from speakerverif.models.model import SpeakerModel


def make_average(config: TrainConfig, model: SpeakerModel) -> AveragedModel | None:
    """Return the recipe's average of weights, still empty; None for a recipe without one."""
    if config.average == "none":
        return None

    def mix(averages: list[Tensor], weights: list[Tensor], count: Tensor | int) -> None:
        """Update the averages of `count` models with the weights of a further one."""
        share = 1 / (int(count) + 1)
        if config.average == "ema":
            # A plain mean at first, so that the random initial weights soon lose their influence.
            share = 1 - min(config.ema_decay, int(count) / (int(count) + 1))
        if averages[0].is_floating_point():
            torch._foreach_lerp_(averages, weights, share)
        else:
            torch._foreach_copy_(averages, weights)

    # Batch norm's statistics are averaged like the weights.
    return AveragedModel(model, multi_avg_fn=mix, use_buffers=True)  # type: ignore[arg-type]


def takes_part(config: TrainConfig, step: int, num_steps: int, steps_per_epoch: float) -> bool:
    """Return whether the average includes the weights after `step` steps.

    "ema" includes every step; "last_k" the ends of the last k epochs, of which the last is the end of training.
    """
    if config.average != "last_k":
        return config.average == "ema"
    ends_epoch = int(step / steps_per_epoch) > int((step - 1) / steps_per_epoch) or step == num_steps
    return ends_epoch and (num_steps - step) / steps_per_epoch < config.last_k
