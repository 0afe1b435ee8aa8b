"""Averages of weights: an exponential moving average, and the mean over the ends of the last epochs."""

import pytest
import torch
from torch import nn

from speakerverif.config import TrainConfig
from speakerverif.training.averaging import make_average, takes_part


class Tiny(nn.Module):
    """One weight, one floating-point buffer and one counter."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.register_buffer("mean", torch.zeros(1))
        self.register_buffer("count", torch.tensor(0))

    def set(self, value: float) -> None:
        """Set all three."""
        with torch.no_grad():
            for tensor in self.state_dict().values():
                tensor.fill_(value)


def averaged(config: TrainConfig, values: list[float]) -> list[dict[str, float]]:
    """Return the averages after each of the values."""
    model = Tiny()
    average = make_average(config, model)  # type: ignore[arg-type]
    assert average is not None
    averages = []
    for value in values:
        model.set(value)
        average.update_parameters(model)
        averages.append({name: t.item() for name, t in average.module.state_dict().items()})
    return averages


def test_an_exponential_average_begins_as_a_plain_mean() -> None:
    # Decay 0.6: the mean of one and of two values, and from the third on 0.6 of the former average.
    config = TrainConfig(average="ema", ema_decay=0.6)
    averages = averaged(config, [1.0, 3.0, 7.0, 2.0])
    expected = [1.0, 2.0, 0.6 * 2 + 0.4 * 7, 0.6 * (0.6 * 2 + 0.4 * 7) + 0.4 * 2]
    assert [a["weight"] for a in averages] == pytest.approx(expected)
    assert [a["mean"] for a in averages] == pytest.approx(expected)
    assert [a["count"] for a in averages] == [1, 3, 7, 2]  # counters are copied


def test_last_k_is_a_plain_mean() -> None:
    averages = averaged(TrainConfig(average="last_k"), [1.0, 3.0, 8.0])
    assert [a["weight"] for a in averages] == pytest.approx([1.0, 2.0, 4.0])


def test_which_steps_take_part() -> None:
    def steps(config: TrainConfig) -> list[int]:
        return [step for step in range(1, 11) if takes_part(config, step, 10, steps_per_epoch=2.5)]

    assert steps(TrainConfig(average="none")) == []
    assert steps(TrainConfig(average="ema")) == list(range(1, 11))
    # Epochs end within steps 3, 5, 8 and 10.
    assert steps(TrainConfig(average="last_k", last_k=2)) == [8, 10]
    assert steps(TrainConfig(average="last_k", last_k=9)) == [3, 5, 8, 10]
    assert make_average(TrainConfig(), Tiny()) is None  # type: ignore[arg-type]
