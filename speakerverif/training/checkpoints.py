"""The model folder of a training under way: a working model at every checkpoint, and what it takes to go on."""

import logging
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from speakerverif._util.toml import to_dict
from speakerverif.config import Recipe
from speakerverif.data.manifest import Manifest
from speakerverif.errors import InputError
from speakerverif.models import folder
from speakerverif.training import state
from speakerverif.training.state import TrainingState

logger = logging.getLogger(__name__)


@dataclass
class Checkpoints:
    """Writes a training into its model folder.

    Args:
        out: the model folder.
        recipe: what is trained.
        class_names: class index -> speaker.
        manifest: the training utterances.
        crops_per_epoch: how many crops an epoch has.
    """

    out: Path
    recipe: Recipe
    class_names: list[str]
    manifest: Manifest
    crops_per_epoch: int
    _saved_at: float = field(default_factory=time.monotonic)

    def save(self, training: TrainingState, finished: bool) -> None:
        """Write the model and, until training is finished, what it takes to continue."""
        if not finished:
            # Before the model: a folder with a model but no state could not be continued.
            training.save(self.out, identity(self.manifest))
        samples = training.step * self.recipe.train.batch_size
        trained = {"samples": samples, "epochs": samples / self.crops_per_epoch, "finished": finished}
        weights, head = training.result.state_dict(), training.head.state_dict()
        folder.save_model(self.out, weights, head, self.recipe, self.class_names, trained)
        if finished:
            state.remove(self.out)
        self._saved_at = time.monotonic()

    def save_when_due(self, training: TrainingState) -> None:
        """Write a checkpoint where the last one is older than the recipe's `checkpoint_minutes`."""
        if time.monotonic() - self._saved_at > 60 * self.recipe.train.checkpoint_minutes:
            self.save(training, finished=False)


def identity(manifest: Manifest) -> dict[str, Any]:
    """Return what must be the same, apart from the recipe, for a training to be continued."""
    return {"utterances": len(manifest), "speakers": len(manifest.speakers)}


def is_finished(out: Path, recipe: Recipe) -> bool:
    """Return whether `out` holds the finished model of this recipe.

    Raises:
        InputError: it holds the model or the training of another recipe.
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


def resume(training: TrainingState, out: Path, manifest: Manifest) -> None:
    """Continue from the state that a former run left in `out`, if there was one.

    Raises:
        InputError: it was trained on other data, or its state is gone.
    """
    if not (out / folder.CONFIG).is_file():
        return
    saved = state.read(out)
    if saved is None:
        raise InputError(f"{out}: the training is not finished, and its state {state.STATE} is missing")
    tensors, facts = saved
    for name, value in identity(manifest).items():
        if facts[name] != value:
            raise InputError(f"{out}: trained on {facts[name]} {name} so far, the data now have {value}")
    training.load(tensors, facts)
    logger.info(f"{out}: continues after step {training.step}")
