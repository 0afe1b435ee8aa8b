"""The stages of a recipe, each resumable and skipped when nothing that it depends on has changed.

`prepare` checks the corpus and writes lists, `train` and `finetune` write model folders, `embed` the embeddings of
every file in the trial lists, `backend` what compares them, into the model folder, `score` the scores and records,
`report` a page to look at.
"""

import dataclasses
import hashlib
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from speakerverif._util.files import write_json
from speakerverif._util.messages import nearest
from speakerverif._util.toml import from_dict, merge, to_dict
from speakerverif.audio.augment import Augment
from speakerverif.config import Recipe
from speakerverif.corpora._prepare import PREPARED, lists_of, options_of, prepare_recipe
from speakerverif.corpora._prepared import Prepared
from speakerverif.data.embeddings import EmbeddingTable
from speakerverif.data.manifest import Manifest
from speakerverif.data.metadata import durations_of
from speakerverif.data.scores import ScoreList
from speakerverif.data.speakers import speakers_of, units_of
from speakerverif.data.trials import TrialList
from speakerverif.errors import InputError
from speakerverif.evaluation.breakdown import breakdown
from speakerverif.evaluation.evaluate import Provenance, Settings, evaluate
from speakerverif.evaluation.metrics import DetCurve
from speakerverif.evaluation.records import ModelFacts, ScoringRecord
from speakerverif.inference.chunks import Utterances
from speakerverif.inference.embed import WHOLE, embed, print_failures
from speakerverif.inference.engines import load_model
from speakerverif.models.folder import ModelFolder, fingerprint
from speakerverif.models.model import SpeakerModel
from speakerverif.scoring import cosine
from speakerverif.scoring.scorer import Scoring, check, fit, needs_training, plan_of
from speakerverif.testing import check_outside_parts
from speakerverif.training import distributed, plan
from speakerverif.training.loop import Validate, train

logger = logging.getLogger(__name__)

EMBEDDINGS, OF_TRAINING = "embeddings.npz", "embeddings_train.npz"
STAGES = ("prepare", "train", "finetune", "embed", "backend", "score", "report")
TRAINING = ("train", "finetune")  # the stages that several processes share


def run(
    recipe: Recipe,
    out: Path,
    *,
    data_dir: Path | None,
    stages: tuple[str, ...] = STAGES,
    device: str = "cpu",
    places: dict[str, Any] | None = None,
) -> dict[str, ScoringRecord]:
    """Run the stages of a recipe and return the record of every trial list scored, by the list's name.

    Of several processes (see `distributed`) all train; the first alone does the rest, and the others wait for it.

    Args:
        recipe: what to do.
        out: where everything is written.
        data_dir: the corpus, or a folder of what `prepare` wrote, by the corpus's name; noise and rooms are
            looked for there, too.
        stages: those to run, in the order of `STAGES`; what they need of the others must be there.
        device: "cpu" or "cuda".
        places: what the corpus's `prepare` takes besides: `vox1`, `vox2`, `trials`.

    Raises:
        InputError: unknown stage, wrong data, wrong recipe (its second stage as well: before the first begins).
    """
    for stage in stages:
        if stage not in STAGES:
            raise InputError(f"--stages: unknown stage {stage!r}; {nearest(stage, list(STAGES))}")
    work = _Run(recipe, out, data_dir, device, places or {})
    logger.info(f"{recipe.name}: {', '.join(s for s in STAGES if s in stages)} -> {out}")
    work.check()
    if "prepare" in stages:
        work.do("prepare")
    if {"prepare", "train", "finetune"} & set(stages):
        work.print_plan()
    for stage in STAGES[1:]:
        if stage in stages:
            work.do(stage)
    return work.records()


def train_recipe(
    recipe: Recipe, out: Path, *, manifest: Manifest | None, data_dir: Path | None, device: str = "cpu"
) -> Path:
    """Train the recipe's model into `out`, from a manifest or from the corpus in `data_dir`; return `out`.

    The corpus is prepared in `out`/data, unless `data_dir` holds what `prepare` wrote for it.

    Raises:
        InputError: neither is given, or what `train` raises.
    """
    check_outside_parts(recipe)
    if manifest is not None:
        return train(recipe, manifest, out, data_dir=data_dir, device=device)
    lists = lists_of(recipe, data_dir, out / "data")
    if lists == out / "data" and distributed.is_first():
        prepare_recipe(recipe, data_dir, lists)
    distributed.as_first_says(True)
    prepared = Prepared.load(lists / PREPARED)
    validate = validation(recipe, prepared, device)
    return train(
        recipe, training_manifest(recipe, prepared), out, data_dir=data_dir, device=device, validate=validate
    )


def training_manifest(recipe: Recipe, prepared: Prepared) -> Manifest:
    """Return the utterances to train on; says on standard error what the recipe's minimal duration leaves out."""
    manifest = Manifest.read(prepared.train)
    shortest = recipe.data.min_duration_s
    if shortest <= 0:
        return manifest
    kept = manifest.select(~(manifest.duration_s < shortest))  # an unknown duration is no short one
    if left_out := len(manifest) - len(kept):
        logger.info(f"  {left_out} utterances are shorter than {shortest:g} s and left out")
    return kept


def finetuned(recipe: Recipe) -> Recipe | None:
    """Return the recipe of the second stage: the first one's with what `[finetune]` changes, or None.

    Raises:
        InputError: unknown key or wrong value in `[finetune]`.
    """
    if not recipe.finetune:
        return None
    tables = merge({**to_dict(recipe), "finetune": {}}, recipe.finetune)
    return from_dict(Recipe, tables, "[finetune]")


def validation(recipe: Recipe, prepared: Prepared, device: str) -> Validate | None:
    """Return what scores a model on the recipe's validation list, by the same code that users score with."""
    name = recipe.data.validation_trials
    if not name:
        return None
    trials = TrialList.read(_trials_path(prepared, name))
    utterances = prepared.utterances(trials.ids)

    def validate(model: SpeakerModel) -> dict[str, float]:
        """Return EER and minDCF(0.01) of the model as it stands."""
        folder = ModelFolder(Path(), model, recipe, {}, [], fingerprint(model))
        curve = DetCurve.of(cosine.cosine(trials, embed(folder, utterances, device=device, label="validate")))
        return {"eer": curve.eer().rate, "min_dcf_0.01": curve.min_dcf(0.01).cost}

    return validate


def _no_speech(rng: np.random.Generator, num_samples: int) -> np.ndarray:
    """Stand in for the training speech where only settings are checked."""
    return np.zeros(num_samples, np.float32)


def _trials_path(prepared: Prepared, name: str) -> Path:
    if name not in prepared.trials:
        raise InputError(f"unknown trial list {name!r}; {nearest(name, list(prepared.trials))}")
    return prepared.trials[name]


@dataclass
class _Run:
    """One run of a recipe into one folder."""

    recipe: Recipe
    out: Path
    data_dir: Path | None
    device: str
    places: dict[str, Any]

    def do(self, stage: str) -> None:
        """Run a stage, unless it was done with the same inputs."""
        stamp = self.out / "stages" / f"{stage}.json"
        key = self._key(stage)
        done = stamp.is_file() and json.loads(stamp.read_text("utf-8"))["key"] == key
        if distributed.as_first_says(done):
            logger.info(f"{stage}: done before, nothing has changed")
            return
        logger.info(f"{stage}:")
        steps: dict[str, Callable[[], None]] = {
            "prepare": self._prepare,
            "train": self._train,
            "finetune": self._finetune,
            "embed": self._embed,
            "backend": self._backend,
            "score": self._score,
            "report": self._report,
        }
        if distributed.is_first() or stage in TRAINING:
            steps[stage]()
        if distributed.is_first():
            write_json(stamp, {"key": key})
        distributed.as_first_says(True)  # nobody reads what the first has not written yet

    def _key(self, stage: str) -> str:
        """Return a hash of all that a stage's result depends on: its part of the recipe, the stages before it."""
        tables = to_dict(self.recipe)
        parts = {
            "prepare": {
                "data": [self.recipe.data.corpus, *self.recipe.data.also],
                "dir": str(self.data_dir and self.data_dir.resolve()),
                **{name: str(place) for name, place in {**self.places, **options_of(self.recipe)}.items()},
                **({"lists": (self.lists / PREPARED).read_text("utf-8")} if self.prepared_before else {}),
            },
            "train": {k: v for k, v in tables.items() if k not in ("finetune", "backend", "score", "name")},
            "finetune": {"finetune": tables["finetune"]},
            "embed": {"train": True} if needs_training(self.recipe) else {},
            "backend": {"backend": to_dict(plan_of(self.recipe))},
            "score": {"score": tables["score"]},
            "report": {},
        }
        before = [self._key(earlier) for earlier in STAGES[STAGES.index(stage) - 1 : STAGES.index(stage)]]
        return hashlib.sha256(json.dumps([stage, parts[stage], before], sort_keys=True).encode()).hexdigest()

    @property
    def lists(self) -> Path:
        """The folder of the prepared lists; where the user says where the corpus is, they are this run's own."""
        own = self.out / "data"
        return own if self.places else lists_of(self.recipe, self.data_dir, own)

    @property
    def prepared_before(self) -> bool:
        """Whether the lists are there from before, for several recipes to share."""
        return self.lists != self.out / "data"

    @property
    def prepared(self) -> Prepared:
        """What the prepare stage, or `prepare` before it, wrote."""
        return Prepared.load(self.lists / PREPARED)

    @property
    def model(self) -> Path:
        """The folder of the model to evaluate: the fine-tuned one where the recipe has that stage."""
        return self.out / ("finetuned" if self.recipe.finetune else "model")

    @property
    def trials(self) -> dict[str, Path]:
        """The trial lists to score, by name."""
        names = self.recipe.score.trials or tuple(self.prepared.trials)
        return {name: _trials_path(self.prepared, name) for name in names}

    def check(self) -> None:
        """Raise `InputError` where the recipe is wrong, before anything is done for it."""
        check(self.recipe.backend, self.recipe.score.norm)
        for recipe in (self.recipe, finetuned(self.recipe)):
            if recipe is not None:
                plan.size_of(recipe, num_speakers=2)
                check_outside_parts(recipe)
                Augment(recipe.augment, recipe.features.sample_rate, self.data_dir or Path(), _no_speech)

    def print_plan(self) -> None:
        """Say on standard error what is about to happen, and what it takes.

        Raises:
            InputError: a cohort larger than the training speakers are many.
        """
        manifest = training_manifest(self.recipe, self.prepared)
        wanted, there = self.recipe.score.top_n, len(manifest.speakers)
        if self.recipe.score.norm == "asnorm" and wanted > there:
            raise InputError(
                f"score.top_n {wanted}: the cohort are the {there} training speakers; take fewer"
            )
        logger.info(plan.describe(self.recipe, finetuned(self.recipe), self.prepared, manifest, self.out))

    def _prepare(self) -> None:
        if self.prepared_before:
            logger.info(f"  prepared before in {self.lists}")
        else:
            prepare_recipe(self.recipe, self.data_dir, self.lists, self.places)
        for note in self.prepared.notes:
            logger.info(f"  {note}")

    def _train(self) -> None:
        self._train_into(self.recipe, self.out / "model", None)

    def _finetune(self) -> None:
        if (recipe := finetuned(self.recipe)) is not None:
            self._train_into(recipe, self.out / "finetuned", self.out / "model")

    def _train_into(self, recipe: Recipe, folder: Path, start_from: Path | None) -> None:
        manifest = training_manifest(recipe, self.prepared)
        validate = validation(recipe, self.prepared, self.device)
        train(
            recipe,
            manifest,
            folder,
            data_dir=self.data_dir,
            device=self.device,
            validate=validate,
            start_from=start_from,
        )

    def _embed(self) -> None:
        folder = load_model(self.model, self.device, "torch")  # a table doesn't depend on what is installed
        ids = dict.fromkeys(i for path in self.trials.values() for i in TrialList.read(path).ids)
        self._embed_into(EMBEDDINGS, folder, self.prepared.utterances(ids))
        if needs_training(self.recipe):
            self._embed_into(OF_TRAINING, folder, training_manifest(self.recipe, self.prepared))

    def _embed_into(self, name: str, folder: ModelFolder, utterances: Utterances) -> None:
        if (self.out / name).is_file():
            before = EmbeddingTable.load(self.out / name)
            if before.fingerprint == folder.fingerprint and list(before.ids) == [u.id for u in utterances]:
                logger.info(f"  {name}: of this model already")
                return
        table = embed(folder, utterances, device=self.device)
        print_failures(table)
        if table.failed:
            raise InputError(
                f"{len(table.failed)} of {len(utterances)} recordings for {name} could not be embedded"
            )
        table.save(self.out / name)

    def _backend(self) -> None:
        if not needs_training(self.recipe):
            Scoring.remove(self.model)
            return
        train = EmbeddingTable.load(self.out / OF_TRAINING)
        speakers = {u.id: u.speaker for u in training_manifest(self.recipe, self.prepared)}
        cohort = train if self.recipe.score.norm != "none" else None
        fitted = fit(plan_of(self.recipe), train, cohort, speakers)
        fitted.save(self.model)
        logger.info(f"  {fitted.name}, on {len(train)} utterances of {len(set(speakers.values()))} speakers")

    def _score(self) -> None:
        table = EmbeddingTable.load(self.out / EMBEDDINGS)
        scoring = Scoring.load(self.model, table.fingerprint)
        training_speakers = Manifest.read(self.prepared.train).speakers
        for name, path in self.trials.items():
            trials = TrialList.read(path)
            scores, raw = scoring.score(trials, table, None, speakers_of(trials.ids, None, name))
            provenance = Provenance(
                crops=WHOLE,
                backend=scoring.backend_facts,
                norm=scoring.norm_facts,
                model=ModelFacts(self.recipe.name, table.fingerprint),
                training_speakers=training_speakers,
            )
            settings = Settings(p_targets=self.recipe.score.p_target)
            record = evaluate(scores, settings, raw=raw, provenance=provenance)
            write_json(self.out / "scores" / f"{name}.json", record.to_json())
            scores.write(self.out / "scores" / f"{name}.txt")
            if raw is not None:
                raw.write(self.out / "scores" / f"{name}.raw.txt")

    def _report(self) -> None:
        from speakerverif.report.page import Result, System, write_report

        table, results = EmbeddingTable.load(self.out / EMBEDDINGS), []
        for name, path in self.trials.items():
            trials, record = TrialList.read(path), self.records()[name]
            scores = ScoreList.read(self.out / "scores" / f"{name}.txt", trials, record.figures.score_kind)
            units, raw = units_of(trials), None
            if (before := record.before_normalisation()) is not None:
                raw_scores = self.out / "scores" / f"{name}.raw.txt"
                raw = System(
                    "before normalisation",
                    ScoreList.read(raw_scores, trials, before.figures.score_kind),
                    before,
                )
            columns = breakdown(scores, durations_of(table), units, record.figures)
            record = dataclasses.replace(record, breakdown=columns)
            results.append(Result(System(self.recipe.name, scores, record), units, raw))
        write_report(results, self.out / "report", table=table, audio_root=self.prepared.audio_root)

    def records(self) -> dict[str, ScoringRecord]:
        """Return the records of the score stage, by trial list."""
        paths = sorted((self.out / "scores").glob("*.json"))
        return {
            path.stem: ScoringRecord.from_json(json.loads(path.read_text("utf-8")), path) for path in paths
        }
