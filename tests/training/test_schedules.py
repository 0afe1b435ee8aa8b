"""Learning rate and margin as functions of the samples seen."""

import pytest

from speakerverif.config import ScheduleConfig, TrainConfig
from speakerverif.training.schedules import learning_rate, margin_fraction


def test_exponential_is_wespeakers() -> None:
    config = TrainConfig(
        epochs=150, learning_rate=0.1, final_learning_rate=5e-5, lr_schedule="exponential", warmup_epochs=6
    )
    assert learning_rate(config, 0) == 0
    assert learning_rate(config, 3) == pytest.approx(0.1 * 5e-4 ** (3 / 150) * 0.5)
    assert learning_rate(config, 75) == pytest.approx(0.1 * 5e-4**0.5)
    assert learning_rate(config, 150) == pytest.approx(5e-5)


def test_cosine_falls_from_the_end_of_the_warm_up() -> None:
    config = TrainConfig(
        epochs=10, learning_rate=1.0, final_learning_rate=0.0, lr_schedule="cosine", warmup_epochs=2
    )
    values = [learning_rate(config, e) for e in (0, 1, 2, 6, 10)]
    assert values == pytest.approx([0, 0.5, 1, 0.5, 0])


def test_linear_and_constant() -> None:
    linear = TrainConfig(epochs=4, learning_rate=1.0, final_learning_rate=0.2, lr_schedule="linear")
    assert [learning_rate(linear, e) for e in (0, 2, 4, 9)] == pytest.approx([1, 0.6, 0.2, 0.2])
    assert learning_rate(TrainConfig(learning_rate=0.3, lr_schedule="constant"), 5) == 0.3


def test_margin_grows_between_two_points() -> None:
    linear = ScheduleConfig("linear", 2, 6)
    assert [margin_fraction(linear, e) for e in (0, 2, 4, 6, 9)] == [0, 0, 0.5, 1, 1]
    exponential = ScheduleConfig("exponential", 20, 40)
    # WeSpeaker's increase has half of the margin in force after a tenth of the way.
    assert margin_fraction(exponential, 22) == pytest.approx(1 - 0.001**0.1)
    assert margin_fraction(exponential, 22) == pytest.approx(0.5, abs=0.01)
    assert margin_fraction(ScheduleConfig(), 0) == 1
