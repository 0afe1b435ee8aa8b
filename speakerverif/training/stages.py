"""The stages of a recipe, from a corpus to a page of results.

Each stage is resumable, and skipped if its inputs have not changed since it was done.
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
from speakerverif._util.json_files import read_json
from speakerverif._util.messages import nearest
from speakerverif._util.toml import to_dict
from speakerverif.audio.augment import Augment
from speakerverif.audio.reading import Files
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
from speakerverif.evaluation.records import CalibrationFacts, ModelFacts, ScoringRecord
from speakerverif.inference.chunks import Utterances
from speakerverif.inference.embed import WHOLE, embed, print_failures
from speakerverif.inference.engines import load_for_inference
from speakerverif.models.folder import CALIBRATION, ModelFolder
from speakerverif.scoring import quality_measures
from speakerverif.scoring.calibration import Calibration
from speakerverif.scoring.scorer import Scoring, check, fit, needs_training, plan_of
from speakerverif.testing import check_outside_parts
from speakerverif.training import distributed, plan
from speakerverif.training.loop import train
from speakerverif.training.quality_calibration import check_calibration, fit_quality, is_drawn
from speakerverif.training.recordings import REFUSE, BadFiles
from speakerverif.training.start import with_network
from speakerverif.training.workspace import Workspace, finetuned, training_manifest, validation

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Stage:
    """One stage of a recipe.

    Attributes:
        name: for `--stages`.
        run: does the work.
        inputs: plain values that its result depends on, without those of earlier stages.
        shared: whether all processes take part; otherwise the first works and the others wait.
    """

    name: str
    run: Callable[[Workspace], None]
    inputs: Callable[[Workspace], dict[str, Any]]
    shared: bool = False


def run(
    recipe: Recipe,
    out: Path,
    *,
    data_dir: Path | None,
    stages: tuple[str, ...] | None = None,
    device: str = "cpu",
    places: dict[str, Any] | None = None,
    bad_files: BadFiles = REFUSE,
) -> dict[str, ScoringRecord]:
    """Run the stages of a recipe and return the records of the scored trial lists, by name.

    Under torchrun all processes train; the first does everything else while the others wait.

    Args:
        recipe: the data, the networks, their training and scoring.
        out: the output folder.
        data_dir: the corpus, or a folder with a subfolder of prepared lists per corpus, by name; relative noise and
            response folders start from it.
        stages: names of the stages to run, always in the order of `STAGES`; None: all. Results of other stages that
            they need must exist.
        device: "cpu" or "cuda".
        places: further options of the corpus's `prepare`: `vox1`, `vox2`, `trials`.
        bad_files: policy for training recordings that can't be read.

    Raises:
        InputError: unknown stage, wrong data, wrong recipe (`[finetune]` is checked before the first stage begins).
    """
    names = [stage.name for stage in STAGES]
    chosen = names if stages is None else stages
    for name in chosen:
        if name not in names:
            raise InputError(f"--stages: unknown stage {name!r}; {nearest(name, names)}")
    recipe = with_network(recipe)
    work = Workspace(recipe, out, data_dir, device, bad_files, places or {})
    logger.info(f"{recipe.name}: {', '.join(name for name in names if name in chosen)} -> {out}")
    _check(work)
    prepare, *others = STAGES
    if prepare.name in chosen:
        _do(prepare, work)
    if {"prepare", "train", "finetune"} & set(chosen):
        _log_plan(work)
    for stage in others:
        if stage.name in chosen:
            _do(stage, work)
    return work.records()


def train_recipe(
    recipe: Recipe,
    out: Path,
    *,
    manifest: Manifest | None,
    data_dir: Path | None,
    device: str = "cpu",
    source: Files | None = None,
    bad_files: BadFiles = REFUSE,
    start_from: Path | None = None,
) -> Path:
    """Train the recipe's model into `out`, from a manifest or from the corpus in `data_dir`; return `out`.

    The corpus is prepared in `out`/data, unless `data_dir` contains its prepared lists. `source` reads the
    recordings, with a default channel if one is needed.

    With `start_from`, training begins with the weights of that model folder, which may be an imported one; its head
    is kept if the classes are the same.

    Raises:
        InputError: neither is given, or as `train`.
    """
    recipe = with_network(recipe)
    check_outside_parts(recipe)
    if manifest is not None:
        return train(
            recipe,
            manifest,
            out,
            data_dir=data_dir,
            device=device,
            source=source,
            bad_files=bad_files,
            start_from=start_from,
        )
    lists = lists_of(recipe, data_dir, out / "data")
    if lists == out / "data" and distributed.is_first():
        prepare_recipe(recipe, data_dir, lists)
    distributed.as_first_says(True)
    prepared = Prepared.load(lists / PREPARED)
    manifest, validate = training_manifest(recipe, prepared), validation(recipe, prepared, device)
    return train(
        recipe,
        manifest,
        out,
        data_dir=data_dir,
        device=device,
        validate=validate,
        source=source,
        bad_files=bad_files,
        start_from=start_from,
    )


def _check(work: Workspace) -> None:
    """Raise `InputError` for a wrong recipe, before any work."""
    check(work.recipe.backend, work.recipe.score.norm)
    for recipe in (work.recipe, finetuned(work.recipe)):
        if recipe is not None:
            plan.check(recipe, num_speakers=1_000_000)
            check_outside_parts(recipe)
            Augment(recipe.augment, recipe.features.sample_rate, work.data_dir or Path(), _silence)


def _silence(rng: np.random.Generator, num_samples: int) -> np.ndarray:
    """Return silence instead of other speech, to check settings only."""
    return np.zeros(num_samples, np.float32)


def _log_plan(work: Workspace) -> None:
    """Log the plan of the run, with the memory and disk space that it needs.

    Raises:
        InputError: a cohort larger than the number of training speakers.
    """
    recipe, manifest = work.recipe, training_manifest(work.recipe, work.prepared)
    speakers = len(manifest.speakers)
    if recipe.score.norm == "asnorm" and recipe.score.top_n > speakers:
        raise InputError(
            f"score.top_n {recipe.score.top_n}: the cohort is the {speakers} training speakers; take fewer"
        )
    check_calibration(recipe, speakers)
    logger.info(plan.describe(recipe, finetuned(recipe), work.prepared, manifest, work.out))


def _do(stage: Stage, work: Workspace) -> None:
    """Run a stage, unless it was done before with the same inputs."""
    stamp = work.out / "stages" / f"{stage.name}.json"
    key = key_of(stage, work)
    is_done = stamp.is_file() and read_json(stamp, "remove it to run the stage again").get("key") == key
    if distributed.as_first_says(is_done):
        logger.info(f"{stage.name}: done before, nothing has changed")
        return
    logger.info(f"{stage.name}:")
    if distributed.is_first() or stage.shared:
        stage.run(work)
    if distributed.is_first():
        write_json(stamp, {"key": key})
    distributed.as_first_says(True)  # no process reads before the first has written


def key_of(stage: Stage, work: Workspace) -> str:
    """Return a hash of the inputs of a stage and of all stages before it."""
    position = STAGES.index(stage)
    before = [key_of(STAGES[position - 1], work)] if position else []
    inputs = json.dumps([stage.name, stage.inputs(work), before], sort_keys=True)
    return hashlib.sha256(inputs.encode()).hexdigest()


def _prepare(work: Workspace) -> None:
    if work.prepared_before:
        logger.info(f"  prepared before in {work.lists}")
    else:
        prepare_recipe(work.recipe, work.data_dir, work.lists, work.places)
    for note in work.prepared.notes:
        logger.info(f"  {note}")


def _prepare_inputs(work: Workspace) -> dict[str, Any]:
    options = {**work.places, **options_of(work.recipe)}
    inputs: dict[str, Any] = {
        "data": [work.recipe.data.corpus, *work.recipe.data.also],
        "dir": str(work.data_dir and work.data_dir.resolve()),
        **{name: str(value) for name, value in options.items()},
    }
    if work.prepared_before:
        inputs["lists"] = (work.lists / PREPARED).read_text("utf-8")
    return inputs


def _train(work: Workspace) -> None:
    _train_into(work.trained_model, work, work.recipe, None)


def _train_inputs(work: Workspace) -> dict[str, Any]:
    others = ("finetune", "backend", "score", "calibration", "name")
    return {key: value for key, value in to_dict(work.recipe).items() if key not in others}


def _finetune(work: Workspace) -> None:
    if (recipe := finetuned(work.recipe)) is not None:
        _train_into(work.finetuned_model, work, recipe, work.trained_model)


def _train_into(folder: Path, work: Workspace, recipe: Recipe, start_from: Path | None) -> None:
    train(
        recipe,
        training_manifest(recipe, work.prepared),
        folder,
        data_dir=work.data_dir,
        device=work.device,
        validate=validation(recipe, work.prepared, work.device),
        start_from=start_from,
        bad_files=work.bad_files,
    )


def _embed(work: Workspace) -> None:
    # Always torch, so that a table doesn't depend on the installed engines.
    folder = load_for_inference(work.model, work.device, "torch")
    ids = dict.fromkeys(i for path in work.trials.values() for i in TrialList.read(path).ids)
    _embed_into(work.embeddings, work, folder, work.prepared.utterances(ids))
    if needs_training(work.recipe):
        manifest = training_manifest(work.recipe, work.prepared)
        _embed_into(work.training_embeddings, work, folder, manifest, work.bad_files.skip)


def _embed_into(
    path: Path, work: Workspace, folder: ModelFolder, utterances: Utterances, skip_bad: bool = False
) -> None:
    if path.is_file():
        former = EmbeddingTable.load(path)
        if former.fingerprint == folder.fingerprint and list(former.ids) == [u.id for u in utterances]:
            logger.info(f"  {path.name}: of this model already")
            return
    table = embed(folder, utterances, device=work.device)
    print_failures(table.failed)
    if table.failed and not skip_bad:
        raise InputError(
            f"{len(table.failed)} of {len(utterances)} recordings for {path.name} could not be embedded"
        )
    table.save(path)


def _backend(work: Workspace) -> None:
    if not needs_training(work.recipe):
        Scoring.remove(work.model)
        return
    table = EmbeddingTable.load(work.training_embeddings)
    speakers = {u.id: u.speaker for u in training_manifest(work.recipe, work.prepared)}
    cohort = table if work.recipe.score.norm != "none" else None
    scoring = fit(plan_of(work.recipe), table, cohort, speakers)
    scoring.save(work.model)
    logger.info(f"  {scoring.name}, on {len(table)} utterances of {len(set(speakers.values()))} speakers")


def _calibrate(work: Workspace) -> None:
    path = work.model / CALIBRATION
    if not work.recipe.calibration.trials:
        # One that the user fitted stays; one of an earlier run, by another recipe, goes.
        if path.is_file() and is_drawn(Calibration.load(path)):
            path.unlink()
        return
    folder = load_for_inference(work.model, work.device, "torch")
    manifest = training_manifest(work.recipe, work.prepared)
    calibration = fit_quality(work.recipe, folder, manifest, work.device, work.bad_files.skip)
    calibration.save(path)
    terms = (*calibration.kinds, *calibration.quality)
    weights = [f"{weight:.3f} x {name}" for weight, name in zip(calibration.weights, terms, strict=True)]
    logger.info(f"  LLR = {' + '.join(weights)} + {calibration.bias:.3f}, on {calibration.trials}")


def _score(work: Workspace) -> None:
    table = EmbeddingTable.load(work.embeddings)
    scoring = Scoring.load(work.model, table.fingerprint)
    calibration = Calibration.load(work.model / CALIBRATION) if work.recipe.calibration.trials else None
    training_speakers = Manifest.read(work.prepared.train).speakers
    for name, path in work.trials.items():
        trials = TrialList.read(path)
        scores, raw = scoring.score(trials, table, None, speakers_of(trials.ids, None, name))
        facts = None
        if calibration is not None:
            quality = quality_measures.of_trials(calibration.measures, trials, table, None, scoring)
            raw = scores if raw is None else raw
            scores = calibration.apply([scores], quality)
            facts = CalibrationFacts(calibration.trials, calibration.p_target)
        provenance = Provenance(
            crops=WHOLE,
            backend=scoring.backend_facts,
            norm=scoring.norm_facts,
            calibration=facts,
            model=ModelFacts(work.recipe.name, table.fingerprint),
            training_speakers=training_speakers,
        )
        settings = Settings(p_targets=work.recipe.score.p_target)
        record = evaluate(scores, settings, raw=raw, provenance=provenance)
        write_json(work.scores(name, ".json"), record.to_json())
        scores.write(work.scores(name, ".txt"))
        if raw is not None:
            raw.write(work.scores(name, ".raw.txt"))


def _report(work: Workspace) -> None:
    from speakerverif.report.page import Result, System, write_report

    table, records, results = EmbeddingTable.load(work.embeddings), work.records(), []
    for name, path in work.trials.items():
        trials, record = TrialList.read(path), records[name]
        scores = ScoreList.read(work.scores(name, ".txt"), trials, record.figures.score_kind)
        units, raw = units_of(trials), None
        if (before := record.before_normalisation()) is not None:
            raw_scores = ScoreList.read(work.scores(name, ".raw.txt"), trials, before.figures.score_kind)
            raw = System("before normalisation", raw_scores, before)
        columns = breakdown(scores, durations_of(table), units, record.figures)
        record = dataclasses.replace(record, breakdown=columns)
        results.append(Result(System(work.recipe.name, scores, record), units, raw))
    write_report(results, work.out / "report", table=table, audio_root=work.prepared.audio_root)


STAGES = (
    Stage("prepare", _prepare, _prepare_inputs),
    Stage("train", _train, _train_inputs, shared=True),
    Stage("finetune", _finetune, lambda work: {"finetune": to_dict(work.recipe)["finetune"]}, shared=True),
    Stage("embed", _embed, lambda work: {"train": True} if needs_training(work.recipe) else {}),
    Stage("backend", _backend, lambda work: {"backend": to_dict(plan_of(work.recipe))}),
    Stage("calibrate", _calibrate, lambda work: {"calibration": to_dict(work.recipe)["calibration"]}),
    Stage("score", _score, lambda work: {"score": to_dict(work.recipe)["score"]}),
    Stage("report", _report, lambda work: {}),
)
