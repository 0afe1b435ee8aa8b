"""The model folder during training: a working model at every checkpoint, and the state to continue from."""

import logging
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from speakerverif._util.files import read_lines, write_atomically
from speakerverif._util.toml import to_dict
from speakerverif.config import Recipe
from speakerverif.data.manifest import Manifest
from speakerverif.errors import InputError
from speakerverif.models import folder
from speakerverif.training import state
from speakerverif.training.parts import merged
from speakerverif.training.state import Facts, TrainingState

UTTERANCES = "training/utterances.txt"

logger = logging.getLogger(__name__)


@dataclass
class Checkpoints:
    """A writer of checkpoints to a model folder.

    Args:
        out: the model folder.
        recipe: of the training.
        class_names: class index -> speaker.
        manifest: the training utterances.
        crops_per_epoch: number of crops in an epoch.
        left_out: ids of utterances that can't be read, or couldn't in an earlier run of the same training.
        list_changes: how the list of utterances changed while training was interrupted.
    """

    out: Path
    recipe: Recipe
    class_names: list[str]
    manifest: Manifest
    crops_per_epoch: int
    left_out: list[str] = field(default_factory=list)
    list_changes: list[str] = field(default_factory=list)
    _list_written: bool = False
    _saved_at: float = field(default_factory=time.monotonic)

    def save(self, training: TrainingState, finished: bool) -> None:
        """Write the model and, until training is finished, the state to continue from."""
        if not finished:
            # Before the model: a training with a model but no state could not be continued.
            facts = {"left_out": self.left_out, "list_changes": self.list_changes}
            training.save(self.out, {"utterances": len(self.manifest), **facts})
            if not self._list_written:
                lines = "".join(f"{line}\n" for line in _lines(self.manifest))
                write_atomically(self.out / UTTERANCES, lines)
                self._list_written = True
        samples = training.step * self.recipe.train.batch_size
        trained: dict[str, Any] = {
            "samples": samples,
            "epochs": samples / self.crops_per_epoch,
            "finished": finished,
        }
        if self.left_out:
            trained["left_out"] = self.left_out
        if self.list_changes:
            trained["list_changes"] = self.list_changes
        weights, head = merged(training.result), training.head.state_dict()
        folder.save_model(self.out, weights, head, self.recipe, self.class_names, trained)
        if finished:
            state.remove(self.out)
        self._saved_at = time.monotonic()

    def leave_out(self, unreadable: dict[str, str]) -> None:
        """Record utterances that turned out to be unreadable, and log new ones."""
        for name, reason in unreadable.items():
            if name not in self.left_out:
                logger.warning(
                    f"{name} is left out, another utterance of its speaker takes its place: {reason}"
                )
                self.left_out.append(name)

    def save_when_due(self, training: TrainingState) -> None:
        """Write a checkpoint if the last one is older than the recipe's `checkpoint_minutes`."""
        if time.monotonic() - self._saved_at > 60 * self.recipe.train.checkpoint_minutes:
            self.save(training, finished=False)


def is_finished(out: Path, recipe: Recipe) -> bool:
    """Return whether `out` contains the finished model of this recipe.

    Raises:
        InputError: it contains the model or the training of another recipe.
    """
    if not (out / folder.CONFIG).is_file():
        return False
    former, trained = folder.read_config(out)
    if former != recipe:
        changed = [key for key, value in to_dict(recipe).items() if to_dict(former)[key] != value]
        raise InputError(
            f"{out} holds the model of a recipe that differs in {', '.join(changed)}; choose another --out"
        )
    return bool(trained.get("finished"))


def former_speakers(out: Path, recipe: Recipe) -> list[str] | None:
    """Return the speakers, by class, of the unfinished training in `out`; None where there is none."""
    if not (out / folder.CONFIG).is_file():
        return None
    class_names = read_lines(out / folder.SPEAKERS)
    count = len(class_names) // len(recipe.augment.speeds)
    unperturbed = recipe.augment.speeds.index(1) if 1 in recipe.augment.speeds else 0
    names = class_names[unperturbed * count : (unperturbed + 1) * count]
    return names if 1 in recipe.augment.speeds else [name.rpartition("@speed")[0] for name in names]


def resume(training: TrainingState, out: Path, manifest: Manifest) -> tuple[list[str], list[str]]:
    """Continue from the state that an earlier run left in `out`, if there is one.

    Returns:
        All changes of the list of utterances, earlier and new, as lines for the `[trained]` table; and the ids of
        utterances that earlier runs left out.

    Raises:
        InputError: the state is missing.
    """
    if not (out / folder.CONFIG).is_file():
        return [], []
    saved = state.read(out)
    if saved is None:
        raise InputError(f"{out}: the training is not finished, and its state {state.STATE} is missing")
    tensors, facts = saved
    training.load(out, tensors, facts)
    logger.info(f"{out}: continues after step {training.step}")
    changes = list(facts.get("list_changes", []))
    if change := _change(out, facts, manifest):
        logger.warning(f"{out}: after step {training.step} the data have {change}")
        changes.append(f"after step {training.step}: {change}")
    return changes, list(facts.get("left_out", []))


def _change(out: Path, facts: Facts, manifest: Manifest) -> str:
    """Return the change of the list of utterances since the earlier run; empty if it is the same."""
    if not (out / UTTERANCES).is_file():  # written by an earlier version
        former_count = facts["utterances"]
        return "" if former_count == len(manifest) else f"{len(manifest)} utterances, {former_count} before"
    former = set(read_lines(out / UTTERANCES))
    now = set(_lines(manifest))
    if former == now:
        return ""
    return f"lost {len(former - now)} utterances and gained {len(now - former)}"


def _lines(manifest: Manifest) -> list[str]:
    return [f"{utterance.id}\t{utterance.speaker}" for utterance in manifest]
