"""What training wrote down: one JSON line a step, and the same for TensorBoard."""

import json
from pathlib import Path
from types import TracebackType
from typing import Any, Self

JSONL, TENSORBOARD = "log.jsonl", "tensorboard"
WINDOW = 50  # steps that the progress line averages over


class TrainingLog:
    """Writes figures under a model folder; a resumed run drops the lines of steps it will do again.

    Args:
        folder: the model folder.
        step: the step that training continues from.
    """

    def __init__(self, folder: Path, step: int):
        from torch.utils.tensorboard import SummaryWriter

        folder.mkdir(parents=True, exist_ok=True)
        path = folder / JSONL
        kept = [line for line in read_log(folder) if line["step"] <= step] if step and path.is_file() else []
        self._file = path.open("w", encoding="utf-8")
        for line in kept:
            self._file.write(json.dumps(line) + "\n")
        self._board = SummaryWriter(str(folder / TENSORBOARD), purge_step=step + 1)
        self._recent: list[dict[str, Any]] = []

    def write(self, figures: dict[str, Any]) -> None:
        """Write the figures of a step; `figures["step"]` is its number."""
        self._file.write(json.dumps(figures) + "\n")
        self._file.flush()
        for name, value in figures.items():
            if name != "step":
                self._board.add_scalar(name, value, figures["step"])
        self._recent = [*self._recent[1 - WINDOW :], figures]

    def summary(self) -> str:
        """Return the means over the last steps as one short text for the progress line."""

        def mean(name: str) -> float:
            return sum(f[name] for f in self._recent) / len(self._recent)

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
        self._board.close()


def read_log(folder: Path) -> list[dict[str, Any]]:
    """Return the figures of every step of a model folder's training, in order."""
    return [json.loads(line) for line in (folder / JSONL).read_text("utf-8").splitlines()]
