"""Learning rate and margin as functions of the samples seen, for any batch size and number of GPUs."""

import math

from speakerverif.config import ScheduleConfig, TrainConfig


def learning_rate(config: TrainConfig, epoch: float) -> float:
    """Return the learning rate at `epoch` (samples seen / samples in an epoch; a float).

    The warm-up factor rises linearly from 0 to 1 over `warmup_epochs`. "exponential" is WeSpeaker's: it decays
    from the first sample and is multiplied by the warm-up factor. "cosine" and "linear" decay after the warm-up.
    """
    peak, final = config.learning_rate, config.final_learning_rate
    warm_up = min(1.0, epoch / config.warmup_epochs) if config.warmup_epochs > 0 else 1.0
    total = max(config.epochs, 1e-9)
    if config.lr_schedule == "constant":
        return peak * warm_up
    if config.lr_schedule == "exponential":
        return float(peak * (final / peak) ** min(1.0, epoch / total) * warm_up)
    if epoch < config.warmup_epochs:
        return peak * warm_up
    done = min(1.0, (epoch - config.warmup_epochs) / max(total - config.warmup_epochs, 1e-9))
    remaining = 1.0 - done if config.lr_schedule == "linear" else 0.5 * (1.0 + math.cos(math.pi * done))
    return final + (peak - final) * remaining


def margin_fraction(config: ScheduleConfig, epoch: float) -> float:
    """Return the share of the head's margin at `epoch`, in [0, 1].

    "exponential" is WeSpeaker's increase, 1 - 0.001 ** x, where x goes from 0 at `start_epoch` to 1 at `end_epoch`:
    fast at first, half of the margin at x = 0.1. "constant" is the whole margin from the start.
    """
    if config.kind == "constant" or epoch >= config.end_epoch:
        return 1.0
    if epoch <= config.start_epoch:
        return 0.0
    x = (epoch - config.start_epoch) / (config.end_epoch - config.start_epoch)
    return x if config.kind == "linear" else 1.0 - 0.001**x
