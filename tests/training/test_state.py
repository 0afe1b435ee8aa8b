"""The state and the log of an unfinished training: damage is named in one line, and a killed run's traces are not."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from speakerverif.config import Recipe
from speakerverif.errors import InputError
from speakerverif.training import state
from speakerverif.training.log import read_log
from speakerverif.training.loop import new_training
from speakerverif.training.state import STATE, TrainingState


@pytest.fixture
def training(tiny_recipe: Recipe) -> TrainingState:
    return new_training(tiny_recipe, ["a", "b"], "cpu", None)


@pytest.fixture
def saved(training: TrainingState, tmp_path: Path) -> Path:
    training.step = 7
    training.save(tmp_path, {"utterances": 3})
    return tmp_path


def rewrite(folder: Path, change: Callable[[dict[str, torch.Tensor], dict[str, Any]], object]) -> None:
    with safe_open(folder / STATE, framework="pt") as file:
        facts = json.loads(file.metadata()["facts"])
    tensors = load_file(folder / STATE)
    change(tensors, facts)
    save_file(tensors, folder / STATE, {"facts": json.dumps(facts)})


def test_a_state_is_restored(saved: Path, training: TrainingState) -> None:
    training.step = 0
    read = state.read(saved)
    assert read is not None
    training.load(saved, *read)
    assert training.step == 7


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda tensors, facts: facts.pop("step"), r"damaged \(no step\)"),
        (lambda tensors, facts: facts.update(step="7", scaler=None), r"damaged \(no step, scaler\)"),
        (lambda tensors, facts: facts.update(step=True), r"damaged \(no step\)"),
    ],
)
def test_damaged_facts_are_named(saved: Path, change: Callable[..., object], reason: str) -> None:
    rewrite(saved, change)
    with pytest.raises(InputError, match=rf"state\.safetensors: {reason}; remove the model folder"):
        state.read(saved)


@pytest.mark.parametrize("facts", [None, {"other": "x"}, {"facts": "{"}, {"facts": "[1]"}])
def test_facts_that_are_not_there(saved: Path, facts: dict[str, str] | None) -> None:
    save_file(load_file(saved / STATE), saved / STATE, facts)
    with pytest.raises(InputError, match=r"state\.safetensors: damaged \("):
        state.read(saved)


def test_a_state_that_is_cut_off(saved: Path) -> None:
    content = (saved / STATE).read_bytes()
    (saved / STATE).write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=r"state\.safetensors: damaged"):
        state.read(saved)


@pytest.mark.parametrize(
    "change",
    [
        lambda tensors, facts: tensors.pop(next(name for name in tensors if name.startswith("head."))),
        lambda tensors, facts: tensors.update({"model.other": torch.zeros(1)}),
        lambda tensors, facts: tensors.update({"optimizer.x.step": torch.zeros(1)}),
        lambda tensors, facts: facts.update(average_count=3),
    ],
)
def test_the_state_of_another_training(
    saved: Path, training: TrainingState, change: Callable[..., object]
) -> None:
    rewrite(saved, change)
    read = state.read(saved)
    assert read is not None
    with pytest.raises(InputError, match=r"state\.safetensors: not of this training \(.*\); remove") as error:
        training.load(saved, *read)
    assert "\n" not in str(error.value)


def test_a_log_without_its_last_line_end(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text('{"step": 1}\n{"step": 2}\n{"step": 3, "lo')
    assert [line["step"] for line in read_log(tmp_path)] == [1, 2]


@pytest.mark.parametrize("line", ['{"step": 2', "[2]", '{"step": "2"}', "{}", "\0" * 9, ""])
def test_a_damaged_line_of_a_log(line: str, tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text(f'{{"step": 1}}\n{line}\n{{"step": 3}}\n')
    with pytest.raises(InputError, match=r"log\.jsonl:2: damaged \(.*\); remove the line"):
        read_log(tmp_path)
