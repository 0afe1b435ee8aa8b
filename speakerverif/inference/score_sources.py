"""Scores of a trial list from score files, from ready embeddings, or from recordings.

Torch is imported only where a model is needed: score files and ready embeddings are scored without it.
"""

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

import speakerverif
from speakerverif._util.messages import named
from speakerverif._util.toml import read_toml
from speakerverif.data.embeddings import EmbeddingTable
from speakerverif.data.formats.tables import read_table
from speakerverif.data.manifest import Utterance
from speakerverif.data.scores import ScoreKind, ScoreList
from speakerverif.data.speakers import EnrollMap, files_of, read_speaker_tables, speakers_of
from speakerverif.data.trials import TrialList
from speakerverif.errors import InputError
from speakerverif.evaluation.evaluate import Provenance
from speakerverif.evaluation.records import ModelFacts
from speakerverif.inference.channels import numbered
from speakerverif.scoring import quality_measures
from speakerverif.scoring.scorer import FILE as SCORING
from speakerverif.scoring.scorer import NormKind, Plan, Scoring, fit

if TYPE_CHECKING:
    from speakerverif.inference.engines import Engine
    from speakerverif.models.precision import Precision

logger = logging.getLogger(__name__)

Place = str | Path


class NotEmbeddedError(Exception):
    """Recordings of the trials are there but could not be embedded: a failure, not wrong input."""


@dataclass(frozen=True)
class ScoreFiles:
    """Ready scores, one file per system.

    Attributes:
        paths: of `enroll test score` or `score enroll test` rows, in any order.
        kinds: the kind of all files, or of each; none: that of the model that a calibration is for, else cosine.
    """

    paths: Sequence[Place]
    kinds: Sequence[ScoreKind] = ()


@dataclass(frozen=True)
class ScoringChoice:
    """A back end and a normalisation in place of the model's own.

    Attributes:
        backend: its name and options, as the `[backend]` table of a recipe has them.
        backend_train: embeddings of other speakers to train it on.
        norm: normalisation of the scores.
        cohort: embeddings of other speakers to normalise with; None: those of `backend_train`.
        top_n: nearest speakers of the cohort that count, for `asnorm`.
    """

    backend: Mapping[str, Any] = field(default_factory=lambda: {"name": "cosine"})
    backend_train: Place | None = None
    norm: NormKind = "none"
    cohort: Place | None = None
    top_n: int = 300

    def fit(self, speakers: Mapping[str, str] | None) -> Scoring:
        """Return the scoring, trained.

        Args:
            speakers: speakers of the training embeddings and the cohort; None: from the paths.
        """
        cohort = self.cohort or self.backend_train
        plan = Plan(
            backend=dict(self.backend),
            trained_on=Path(self.backend_train).name if self.backend_train else "",
            norm=self.norm,
            top_n=self.top_n,
            cohort=Path(cohort).name if cohort else "",
        )
        train, others = (read_table(path) if path else None for path in (self.backend_train, cohort))
        return fit(plan, train, others, speakers)


@dataclass(frozen=True)
class ReadyEmbeddings:
    """A table of embeddings.

    Attributes:
        path: of the table.
        model: the folder of the model that made it, to score as that model does; None: the built-in one where it made
            the table, else plain cosine.
        scoring: a scoring in place of the model's own.
    """

    path: Place
    model: Place | None = None
    scoring: ScoringChoice | None = None


@dataclass(frozen=True)
class Recordings:
    """Recordings, to be embedded.

    Attributes:
        model: model folder, ONNX file or `org/name` on the hub; None: the built-in one.
        audio_root: folder that the ids are paths in; None: the trial list's.
        scoring: a scoring in place of the model's own.
        crops: average this many crops of each recording; 0: embed it whole.
        batch_size: recordings in a batch, at most.
        device: "cpu" or "cuda".
        engine: the program that runs the model.
        precision: of the network's products.
        threads: CPU threads; None: as many as this process may use.
        channel: of recordings that have several: its number, from 1; "mix", their mean; None, the mean of channels
            that hold the same voice; "each": ids such as `call.wav#2` name the channel.
    """

    model: Path | None = None
    audio_root: Path | None = None
    scoring: ScoringChoice | None = None
    crops: int = 0
    batch_size: int | None = None
    device: str = "cpu"
    engine: "Engine" = "auto"
    precision: "Precision" = "auto"
    threads: int | None = None
    channel: int | Literal["mix", "each"] | None = None


Source = ScoreFiles | ReadyEmbeddings | Recordings


@dataclass(frozen=True, kw_only=True)
class ListRequest:
    """A trial list, the source of its scores, and facts about its files.

    Attributes:
        trials: the list.
        source: of the scores.
        enroll_map: `model file file ...` rows, where enroll ids are models; None: they are files.
        speakers: tables of the files' speakers, `utt2spk` or manifests; none: from the paths.
        quality_from: durations and embeddings of the files, for the quality measures of score files.
        scoring: scores embeddings in place of the source's own scoring; None: that.
    """

    trials: Place
    source: Source
    enroll_map: Place | None = None
    speakers: Sequence[Place] = ()
    quality_from: Place | None = None
    scoring: Scoring | None = None


@dataclass(frozen=True)
class TrialScores:
    """Scores of a list, and how they were made.

    Attributes:
        systems: one list for each system.
        provenance: for the record.
        raw: before normalisation; None where nothing was normalised.
        table: the embeddings; None where scores were read.
        scoring: `Scoring.name`; empty where scores were read.
        fingerprint: of the model; empty where unknown.
        scorer: what scored the embeddings; None where scores were read.
    """

    systems: tuple[ScoreList, ...]
    provenance: Provenance
    raw: ScoreList | None = None
    table: EmbeddingTable | None = None
    scoring: str = ""
    fingerprint: str = ""
    scorer: Scoring | None = None


def scores_of(
    request: ListRequest, trials: TrialList, enroll_map: EnrollMap | None, sound: bool = True
) -> TrialScores:
    """Return the scores of a list.

    Args:
        request: names their source.
        trials: the list, read.
        enroll_map: model -> its files.
        sound: every row of the list could be read; where not, nothing is embedded, and only what is missing is
            reported.

    Raises:
        InputError: anything wrong with the input.
        NotEmbeddedError: recordings are there but can't be embedded.
    """
    source = request.source
    if isinstance(source, ScoreFiles):
        kinds = list(source.kinds) or ["cosine"]
        kinds *= len(source.paths) if len(kinds) == 1 else 1
        pairs = zip(source.paths, kinds, strict=True)
        return TrialScores(tuple(ScoreList.read(path, trials, kind) for path, kind in pairs), Provenance())
    files = files_of(trials, enroll_map)
    speakers = read_speaker_tables(request.speakers, files)
    if isinstance(source, ReadyEmbeddings):
        table = read_table(source.path)
        model = source.model or _built_in(table.fingerprint)
        if source.model is not None and not (Path(source.model) / SCORING).is_file():
            _refuse_other_model(Path(source.model), table.fingerprint, source.path)
        if model is None and source.scoring is None and table.fingerprint:
            logger.warning(
                f"{source.path}: scored by plain cosine; --model names the folder of model {table.fingerprint}, to "
                "score as that does"
            )
        provenance = Provenance(model=ModelFacts(None, table.fingerprint or None))
    else:
        root = source.audio_root or Path(request.trials).parent
        table, provenance, model = _embed(source, _audio(root, files, source.channel == "each"), sound)
    if request.scoring is not None:
        scoring = request.scoring
    elif source.scoring is not None:
        scoring = source.scoring.fit(speakers)
    else:
        scoring = (
            Scoring.plain(table.fingerprint) if model is None else _scoring_of(Path(model), table.fingerprint)
        )
    owners = None if scoring.cohort is None else speakers_of(files, speakers, trials.name)
    scores, raw = scoring.score(trials, table, enroll_map, owners)
    provenance = dataclasses.replace(provenance, backend=scoring.backend_facts, norm=scoring.norm_facts)
    return TrialScores((scores,), provenance, raw, table, scoring.name, table.fingerprint, scoring)


def _refuse_other_model(folder: Path, fingerprint: str, table: Place) -> None:
    """Raise `InputError` where embeddings are not of the model in a folder."""
    from speakerverif.models.folder import read_model_folder

    identity = read_model_folder(folder).fingerprint
    if fingerprint not in ("", identity):
        raise InputError(f"{table}: embeddings of model {fingerprint}, but {folder} is model {identity}")


def _built_in(fingerprint: str) -> Path | None:
    """Return the folder of the built-in model where it has this fingerprint and its own scoring."""
    folder = Path(speakerverif.__file__).parent / "default_model"
    plan = folder / SCORING
    return folder if plan.is_file() and read_toml(plan).get("fingerprint") == fingerprint else None


def quality_of(
    names: Sequence[str], request: ListRequest, scored: TrialScores, enroll_map: EnrollMap | None
) -> dict[str, NDArray[np.float64]]:
    """Return the columns of quality measures of scored trials.

    Raises:
        InputError: facts about the files are missing or not enough.
    """
    if not names:
        return {}
    table = read_table(request.quality_from) if request.quality_from else scored.table
    if table is None:
        raise InputError(
            f"quality measures {', '.join(names)}: name the files' embeddings with --quality-from E.npz"
        )
    return quality_measures.of_trials(names, scored.systems[0].trials, table, enroll_map, scored.scorer)


def _audio(root: Path, files: Sequence[str], each: bool) -> list[Utterance]:
    """Return the recordings to embed.

    Args:
        root: folder that the files' names are paths in.
        files: their names; with `each` such as `call.wav#2`, which names a channel.
        each: whether names may name channels.

    Raises:
        InputError: files that are missing, named.
    """
    places = numbered(files) if each else {name: (name, None) for name in files}
    utterances = [
        Utterance(name, str(root / file), "", channel=channel) for name, (file, channel) in places.items()
    ]
    missing = [utterance.id for utterance in utterances if not Path(utterance.path).is_file()]
    if missing:
        raise InputError(f"{len(missing)} of {len(utterances)} files are not in {root}: {named(missing)}")
    return utterances


def _scoring_of(model: Path, fingerprint: str) -> Scoring:
    """Return the scoring of a model folder or an ONNX file; only the latter needs torch."""
    if model.suffix != ".onnx":
        return Scoring.load(model, fingerprint)
    from speakerverif.models.folder import read_scoring

    return read_scoring(model, fingerprint)


def _embed(
    source: Recordings, utterances: Sequence[Utterance], sound: bool
) -> tuple[EmbeddingTable, Provenance, Path]:
    """Return embeddings of the files, how they were made, and the folder of the model."""
    from speakerverif._util import resources
    from speakerverif.audio.reading import Files
    from speakerverif.inference.embed import embed, explained
    from speakerverif.inference.engines import load_for_inference

    resources.use(source.threads)
    model = load_for_inference(source.model, source.device, source.engine, source.precision)
    if not sound:
        raise InputError("nothing was embedded")
    table = embed(
        model,
        utterances,
        device=source.device,
        batch_size=source.batch_size,
        crops=source.crops,
        source=Files(None if source.channel == "each" else source.channel),
    )
    if table.failed:
        listed = "\n".join(f"  {name}: {explained(reason)}" for name, reason in table.failed.items())
        raise NotEmbeddedError(
            f"{len(table.failed)} of {len(utterances)} files could not be embedded:\n{listed}"
        )
    provenance = Provenance(
        crops=f"{source.crops} crops" if source.crops else "whole utterance",
        model=ModelFacts(model.name, table.fingerprint, model.engine),
        training_speakers=model.speakers,
    )
    return table, provenance, model.path
