"""A run of a recipe: its settings, the location of its data, and the files that its stages read and write."""

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from speakerverif._util.json_files import read_json
from speakerverif._util.messages import nearest
from speakerverif._util.toml import from_dict, merge, to_dict
from speakerverif.config import Recipe
from speakerverif.corpora._prepare import PREPARED, lists_of
from speakerverif.corpora._prepared import Prepared
from speakerverif.data.manifest import Manifest
from speakerverif.data.trials import TrialList
from speakerverif.errors import InputError
from speakerverif.evaluation.metrics import DetCurve
from speakerverif.evaluation.records import ScoringRecord
from speakerverif.inference.embed import embed
from speakerverif.models.folder import ModelFolder
from speakerverif.models.model import SpeakerModel
from speakerverif.models.weights import fingerprint
from speakerverif.scoring import cosine
from speakerverif.training.loop import Validate
from speakerverif.training.recordings import REFUSE, BadFiles

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Workspace:
    """A run of a recipe with its output folder."""

    recipe: Recipe
    out: Path
    data_dir: Path | None  # the corpus, or a folder of prepared lists; noise folders are relative to it
    device: str = "cpu"
    bad_files: BadFiles = REFUSE
    places: dict[str, Any] = field(default_factory=dict)  # further options of the corpus's `prepare`

    @property
    def embeddings(self) -> Path:
        """The embeddings of the recordings in the trial lists."""
        return self.out / "embeddings.npz"

    @property
    def training_embeddings(self) -> Path:
        """The embeddings of the training utterances, for back ends and normalisation."""
        return self.out / "embeddings_train.npz"

    @property
    def lists(self) -> Path:
        """The folder of the prepared lists, which is in this run's folder if `places` gives the corpus."""
        lists_folder = self.out / "data"
        return lists_folder if self.places else lists_of(self.recipe, self.data_dir, lists_folder)

    @property
    def prepared_before(self) -> bool:
        """Whether the lists were prepared before the run, to be shared by several recipes."""
        return self.lists != self.out / "data"

    @property
    def prepared(self) -> Prepared:
        """The prepared corpus, as recorded by the stage or the command `prepare`."""
        return Prepared.load(self.lists / PREPARED)

    @property
    def trained_model(self) -> Path:
        """The model folder of the stage `train`."""
        return self.out / "model"

    @property
    def finetuned_model(self) -> Path:
        """The model folder of the stage `finetune`."""
        return self.out / "finetuned"

    @property
    def model(self) -> Path:
        """The folder of the model to evaluate: the fine-tuned one if the recipe has that stage."""
        return self.finetuned_model if self.recipe.finetune else self.trained_model

    @property
    def trials(self) -> dict[str, Path]:
        """The trial lists to score, by name."""
        names = self.recipe.score.trials or tuple(self.prepared.trials)
        return {name: trials_path(self.prepared, name) for name in names}

    def scores(self, trials: str, suffix: str) -> Path:
        """Return the path of a trial list's scores (.txt, .raw.txt) or record (.json)."""
        return self.out / "scores" / f"{trials}{suffix}"

    def records(self) -> dict[str, ScoringRecord]:
        """Return the records of the stage `score`, by trial list."""
        paths = sorted((self.out / "scores").glob("*.json"))
        return {
            path.stem: ScoringRecord.from_json(
                read_json(path, "remove it and stages/score.json to score again"), path
            )
            for path in paths
        }


def training_manifest(recipe: Recipe, prepared: Prepared) -> Manifest:
    """Return the training utterances, without those shorter than the recipe's minimum, whose number is logged."""
    manifest = Manifest.read(prepared.train)
    shortest = recipe.data.min_duration_s
    if shortest <= 0:
        return manifest
    kept = manifest.select(~(manifest.duration_s < shortest))  # an unknown duration (nan) is kept
    if left_out := len(manifest) - len(kept):
        logger.info(f"  {left_out} utterances are shorter than {shortest:g} s and left out")
    return kept


def finetuned(recipe: Recipe) -> Recipe | None:
    """Return the recipe of the second stage, that is, with the changes in `[finetune]`; None if there are none.

    Raises:
        InputError: unknown key or wrong value in `[finetune]`.
    """
    if not recipe.finetune:
        return None
    first = {**to_dict(recipe), "finetune": {}}
    first["train"]["start_from"] = ""  # it starts from the model of the first stage
    tables = merge(first, recipe.finetune)
    return from_dict(Recipe, tables, "[finetune]")


def validation(recipe: Recipe, prepared: Prepared, device: str) -> Validate | None:
    """Return a function that scores a model on the recipe's validation list; None where the recipe names none."""
    name = recipe.data.validation_trials
    if not name:
        return None
    trials = TrialList.read(trials_path(prepared, name))
    utterances = prepared.utterances(trials.ids)

    def validate(model: SpeakerModel) -> dict[str, float]:
        """Return EER and minDCF(0.01) of a model in training."""
        folder = ModelFolder(Path(), model, recipe, {}, [], fingerprint(model))
        curve = DetCurve.of(cosine.cosine(trials, embed(folder, utterances, device=device, label="validate")))
        return {"eer": curve.eer().rate, "min_dcf_0.01": curve.min_dcf(0.01).cost}

    return validate


def trials_path(prepared: Prepared, name: str) -> Path:
    """Return the path of a prepared trial list.

    Raises:
        InputError: unknown name; the error suggests the nearest one.
    """
    if name not in prepared.trials:
        raise InputError(f"unknown trial list {name!r}; {nearest(name, list(prepared.trials))}")
    return prepared.trials[name]
