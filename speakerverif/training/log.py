"""The log of a training: one JSON line per step and per validation, also for TensorBoard if it is installed."""

import dataclasses
import importlib.util
import json
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from speakerverif._util.files import open_input
from speakerverif._util.json_files import parse_object
from speakerverif.errors import InputError

JSONL, TENSORBOARD = "log.jsonl", "tensorboard"
DAMAGED_LOG = "remove the line; it holds figures for display only"
WINDOW = 50  # steps that the progress line averages over


@dataclass(frozen=True)
class StepFigures:
    """The figures of one step, over the whole batch."""

    loss: float
    accuracy: float  # share of the batch for which the right class has the greatest cosine
    learning_rate: float
    margin_fraction: float
    grad_norm: float  # before clipping


class TrainingLog:
    """A log in a model folder; a resumed run drops the lines of steps that it will repeat.

    Args:
        folder: the model folder.
        step: the step that training continues from.
    """

    def __init__(self, folder: Path, step: int):
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / JSONL
        kept = [line for line in read_log(folder) if line["step"] <= step] if step and path.is_file() else []
        self._file = path.open("w", encoding="utf-8")
        for line in kept:
            self._file.write(json.dumps(line) + "\n")
        self._board = None
        if importlib.util.find_spec("tensorboard"):
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(folder / TENSORBOARD), purge_step=step + 1)
        self._recent: list[dict[str, Any]] = []

    def step(
        self,
        step: int,
        batch_size: int,
        steps_per_epoch: float,
        figures: StepFigures,
        seconds: float,
        waited_s: float,
    ) -> None:
        """Write the figures of a step that took `seconds`, including `waited_s` of waiting for data."""
        line = {
            "step": step,
            "samples": step * batch_size,
            "epoch": step / steps_per_epoch,
            **dataclasses.asdict(figures),
            "crops_per_s": batch_size / seconds,
            "data_wait": waited_s / seconds,
        }
        self._write(line)
        self._recent = [*self._recent[1 - WINDOW :], line]

    def validation(self, step: int, figures: dict[str, float]) -> str:
        """Write the figures of a validation after a step and return them as a short text."""
        self._write({"step": step, **figures})
        return "validation: " + ", ".join(f"{name} {value:.4f}" for name, value in figures.items())

    def _write(self, line: dict[str, Any]) -> None:
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()
        for name, value in line.items():
            if self._board is not None and name != "step":
                self._board.add_scalar(name, value, line["step"])

    def summary(self) -> str:
        """Return the means over the last steps as a short text for the progress line."""

        def mean(name: str) -> float:
            return float(sum(f[name] for f in self._recent)) / len(self._recent)

        return (
            f"epoch {self._recent[-1]['epoch']:.2f}, loss {mean('loss'):.3f}, accuracy {mean('accuracy'):.3f}, "
            f"lr {self._recent[-1]['learning_rate']:.2e}, {mean('crops_per_s'):.1f} crops/s, "
            f"data wait {100 * mean('data_wait'):.0f} %"
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        if self._board is not None:
            self._board.close()


def read_log(folder: Path) -> list[dict[str, Any]]:
    """Return the lines of a model folder's training log, in order.

    A last line without its end, which a killed run leaves, is left out.

    Raises:
        InputError: a damaged line.
    """
    path = folder / JSONL
    lines = []
    with open_input(path) as file:
        for number, text in enumerate(file, 1):
            if not text.endswith(b"\n"):
                break
            where = f"{path}:{number}"
            line = parse_object(text, where, DAMAGED_LOG)
            if type(line.get("step")) is not int:
                raise InputError(f"{where}: damaged (no number of a step); {DAMAGED_LOG}")
            lines.append(line)
    return lines
