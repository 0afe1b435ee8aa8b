"""Where the scores of a list come from, for `score` and `calibrate`: score files, embeddings, or recordings.

Imports stand inside the functions: score files need neither torch nor a model.
"""

import argparse
import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from speakerverif.errors import InputError

if TYPE_CHECKING:
    from speakerverif.data.embeddings import EmbeddingTable
    from speakerverif.data.scores import ScoreList
    from speakerverif.data.trials import TrialList
    from speakerverif.evaluation.evaluate import Provenance
    from speakerverif.evaluation.records import CalibrationFacts
    from speakerverif.scoring.scorer import Scoring

EnrollMap = dict[str, list[str]]
KINDS = ("cosine", "plda", "normalized", "llr")


@dataclass
class Source:
    """The scores of a list, one `ScoreList` a system, and what is known of their making."""

    systems: "list[ScoreList]"
    raw: "ScoreList | None" = None  # before normalisation
    table: "EmbeddingTable | None" = None
    scoring: str = ""  # `Scoring.name`
    fingerprint: str = ""
    provenance: "Provenance | None" = None  # how the scores were made, for the record


class NotEmbeddedError(Exception):
    """Files of the trials are there but could not be embedded: a failure, not a wrong command."""


def add_engine(parser: argparse.ArgumentParser) -> None:
    """Add the option that says which program runs the model."""
    parser.add_argument(
        "--engine",
        choices=("auto", "torch", "onnx"),
        default="auto",
        help="onnx: onnxruntime, on an export that is kept (default: auto, what is faster)",
    )


def add_bootstrap(parser: argparse.ArgumentParser) -> None:
    """Add the option that says how many samples the intervals are of."""
    parser.add_argument(
        "--bootstrap",
        type=int,
        default=1000,
        metavar="N",
        help="samples for the intervals; 0: none (default: 1000)",
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that name sources, back end and normalisation."""
    add = parser.add_argument
    add(
        "--scores",
        type=Path,
        action="append",
        metavar="FILE",
        help="'enroll test score' or 'score enroll test', any row order; once for each system to fuse",
    )
    add(
        "--score-kind",
        action="append",
        choices=KINDS,
        help="what --scores holds, once for all or once for each (default: cosine)",
    )
    add("--embeddings", type=Path, metavar="E.npz", help="ready embeddings of the trials' files")
    add("--model", type=Path, metavar="MODEL", help="embed the trials' files with it (default: the built-in)")
    add("--audio-root", type=Path, metavar="DIR", help="where the files are (default: the list's folder)")
    add("--backend", metavar="NAME", help="cosine, lda, wccn or plda (default: the model's own, else cosine)")
    add("--backend-train", type=Path, metavar="T.npz", help="embeddings of other speakers, to train it on")
    add(
        "--set",
        dest="assignments",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="of the back end: subtract_mean=true, dim=100, lda_dim=100",
    )
    add(
        "--norm",
        choices=("none", "znorm", "tnorm", "snorm", "asnorm"),
        help="normalise the scores with a cohort (default: as the model says, else none)",
    )
    add(
        "--cohort",
        type=Path,
        metavar="C.npz",
        help="embeddings of other speakers, for --norm; their mean a speaker is taken (default: --backend-train)",
    )
    add(
        "--top-n", type=int, default=300, metavar="N", help="nearest of the cohort, for asnorm (default: 300)"
    )
    add(
        "--enroll-map",
        type=Path,
        metavar="FILE",
        help="'model file file ...' rows: the files of each enroll id",
    )
    add(
        "--speakers",
        type=Path,
        action="append",
        metavar="utt2spk",
        help="speakers of the files, utt2spk or manifest, as often as needed (default: told from the paths)",
    )
    add(
        "--quality-from",
        type=Path,
        metavar="E.npz",
        help="durations and embeddings of the files, for the quality measures of score files",
    )
    add(
        "--crops",
        type=int,
        default=0,
        metavar="N",
        help="embed N crops a file (default: the whole utterance)",
    )
    add("--batch-size", type=int, metavar="N", help="files embedded at once, at most")


def check(args: argparse.Namespace) -> None:
    """Raise `InputError` where these arguments contradict each other."""
    given = [f"--{name}" for name in ("scores", "embeddings", "model") if getattr(args, name)]
    if len(given) > 1:
        raise InputError(f"{' and '.join(given)}: give one source of scores")
    if args.norm not in (None, "none") and (args.scores or not (args.cohort or args.backend_train)):
        raise InputError(
            f"--norm {args.norm} needs --cohort C.npz, and embeddings to compare it with (not --scores)"
        )
    if args.cohort and args.norm in (None, "none"):
        raise InputError("--cohort does nothing without --norm")
    if args.scores and (args.backend or args.backend_train):
        raise InputError("--backend compares embeddings: give --embeddings or --model, not --scores")
    if (args.backend_train or args.assignments) and not (args.backend or args.norm):
        raise InputError("--backend-train and --set do nothing without --backend NAME")
    for path in args.scores or []:
        if path.resolve() == args.trials.resolve():
            raise InputError(f"--scores {path}: is the trial list itself; its labels are no scores")
    if len(args.score_kind or []) not in (0, 1, len(args.scores or [])):
        raise InputError(f"{len(args.score_kind)} --score-kind for {len(args.scores or [])} --scores")


def inputs(args: argparse.Namespace) -> set[Path]:
    """Return the files that are read, resolved: nothing may be written over them."""
    named = (
        args.trials,
        args.embeddings,
        args.cohort,
        args.backend_train,
        args.enroll_map,
        args.quality_from,
    )
    several = (args.scores or []) + (args.speakers or [])
    return {path.resolve() for path in (*named, *several) if path}


def read_speakers(args: argparse.Namespace, files: list[str]) -> dict[str, str] | None:
    """Return file -> speaker of all tables that `--speakers` names; None where it names none."""
    from speakerverif.data import speakers as tables

    if not args.speakers:
        return None
    speakers: dict[str, str] = {}
    for path in args.speakers:
        for name, speaker in tables.read_speakers(path, files).items():
            if speakers.setdefault(name, speaker) != speaker:
                raise InputError(
                    f"{path}: {name!r} is of {speaker!r}, in another table of {speakers[name]!r}"
                )
    return speakers


def read(
    args: argparse.Namespace,
    trials: "TrialList",
    enroll_map: EnrollMap | None,
    scored_as: Path | None = None,
    sound: bool = True,
) -> Source:
    """Return the scores of a list.

    Args:
        args: parsed, checked.
        trials: the list.
        enroll_map: model -> its files.
        scored_as: the model folder whose back end and normalisation are taken, where the arguments name none.
        sound: every row could be read; where not, nothing is embedded and only what is missing is found.

    Raises:
        InputError: whatever is wrong with the input.
        NotEmbeddedError: files are there but can't be embedded.
    """
    from speakerverif.data.formats.tables import read_table
    from speakerverif.data.scores import ScoreList
    from speakerverif.data.speakers import files_of, speakers_of
    from speakerverif.evaluation.evaluate import Provenance
    from speakerverif.evaluation.records import ModelFacts

    if args.scores:
        kinds = args.score_kind or ["cosine"]
        kinds = kinds * (len(args.scores) if len(kinds) == 1 else 1)
        return Source([ScoreList.read(p, trials, k) for p, k in zip(args.scores, kinds, strict=True)])
    files = files_of(trials, enroll_map)
    speakers = read_speakers(args, files)
    if args.embeddings:
        table = read_table(args.embeddings)
        provenance = Provenance(model=ModelFacts(None, table.fingerprint or None))
    else:
        table, provenance, model = _embed(args, _audio(args, trials, files), sound)
        scored_as = scored_as or model
    scoring = _scoring(args, scored_as, table.fingerprint, speakers)
    known = None if scoring.cohort is None else speakers_of(files, speakers, trials.name)
    scores, raw = scoring.score(trials, table, enroll_map, known)
    provenance = dataclasses.replace(provenance, backend=scoring.backend_facts, norm=scoring.norm_facts)
    return Source([scores], raw, table, scoring.name, table.fingerprint, provenance)


def calibrated(
    args: argparse.Namespace, source: Source, enroll_map: EnrollMap | None
) -> "tuple[ScoreList, CalibrationFacts]":
    """Return likelihood ratios of a source's scores by `--calibration`, and what the record states of it.

    Raises:
        InputError: a calibration of another model or back end, of other kinds of scores, or of quality measures
            that nothing is known of.
    """
    from speakerverif.evaluation.records import CalibrationFacts
    from speakerverif.scoring.calibration import Calibration

    calibration = Calibration.load(args.calibration)
    for what, theirs, ours in (
        ("model", calibration.fingerprint, source.fingerprint),
        ("scores", calibration.scoring, source.scoring),
    ):
        if theirs and ours and theirs != ours:
            raise InputError(f"{args.calibration}: fitted on {what} {theirs!r}, these are of {ours!r}")
    quality_measures = quality(calibration.measures, args, source, enroll_map)
    facts = CalibrationFacts(calibration.trials, calibration.p_target)
    return calibration.apply(source.systems, quality_measures), facts


def quality(
    names: list[str], args: argparse.Namespace, source: Source, enroll_map: EnrollMap | None
) -> dict[str, Any]:
    """Return the columns of quality measures of a source's trials."""
    from speakerverif.data.formats.tables import read_table
    from speakerverif.scoring import quality_measures

    if not names:
        return {}
    table = read_table(args.quality_from) if args.quality_from else source.table
    if table is None:
        raise InputError(
            f"quality measures {', '.join(names)}: name the files' embeddings with --quality-from E.npz"
        )
    return quality_measures.of_trials(names, source.systems[0].trials, table, enroll_map)


def _scoring(
    args: argparse.Namespace, model: Path | None, fingerprint: str, speakers: dict[str, str] | None
) -> "Scoring":
    """Return the scoring that the arguments ask for, else the model's own."""
    from speakerverif._util.toml import override
    from speakerverif.data.formats.tables import read_table
    from speakerverif.scoring.scorer import Plan, Scoring, fit

    if model is not None and args.backend is None and args.norm is None:
        return Scoring.load(model, fingerprint)
    cohort = args.cohort or args.backend_train
    plan = Plan(
        backend=override({"name": args.backend or "cosine"}, args.assignments),
        trained_on=args.backend_train.name if args.backend_train else "",
        norm=args.norm or "none",
        top_n=args.top_n,
        cohort=cohort.name if cohort else "",
    )
    train, others = (read_table(path) if path else None for path in (args.backend_train, cohort))
    return fit(plan, train, others, speakers)


def _audio(args: argparse.Namespace, trials: "TrialList", files: list[str]) -> dict[str, Path]:
    """Return id -> path of every file to embed, or raise `InputError` that names those that are missing."""
    from speakerverif._util.messages import named

    root = args.audio_root or args.trials.parent
    paths = {name: root / name for name in files}
    missing = [name for name, path in paths.items() if not path.is_file()]
    if missing:
        raise InputError(f"{len(missing)} of {len(paths)} files are not in {root}: {named(missing)}")
    return paths


def _embed(
    args: argparse.Namespace, paths: dict[str, Path], sound: bool
) -> tuple["EmbeddingTable", "Provenance", Path]:
    """Return embeddings of the files, how they were made, and the folder of the model."""
    from speakerverif._util import resources
    from speakerverif.data.manifest import Utterance
    from speakerverif.evaluation.evaluate import Provenance
    from speakerverif.evaluation.records import ModelFacts
    from speakerverif.inference.embed import embed
    from speakerverif.inference.engines import load_model

    resources.use(args.threads)
    model = load_model(args.model, args.device, args.engine)
    if not sound:
        raise InputError("nothing was embedded")
    table = embed(
        model,
        [Utterance(name, str(path), "") for name, path in paths.items()],
        device=args.device,
        batch_size=args.batch_size,
        crops=args.crops,
    )
    if table.failed:
        listed = "\n".join(f"  {name}: {reason}" for name, reason in table.failed.items())
        raise NotEmbeddedError(f"{len(table.failed)} of {len(paths)} files could not be embedded:\n{listed}")
    provenance = Provenance(
        crops=f"{args.crops} crops" if args.crops else "whole utterance",
        model=ModelFacts(model.name, table.fingerprint, model.engine),
        training_speakers=model.speakers,
    )
    return table, provenance, model.path
