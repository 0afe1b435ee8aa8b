"""The options of `score` and `calibrate` for the source of scores.

Imports are inside the functions: score files need neither torch nor a model.
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from speakerverif.cli import options
from speakerverif.errors import InputError

if TYPE_CHECKING:
    from speakerverif.inference.score_sources import ScoringChoice, Source

KINDS = ("cosine", "plda", "normalized", "llr")  # ScoreKind, which can't be imported without NumPy


def add_engine(parser: argparse.ArgumentParser) -> None:
    """Add the options for the inference engine and its precision."""
    parser.add_argument(
        "--engine",
        choices=("auto", "torch", "onnx"),
        default="auto",
        help="onnx: onnxruntime, on an export that is kept (default: auto, what is faster)",
    )
    parser.add_argument(
        "--precision",
        choices=("auto", "float32", "bfloat16"),
        default="auto",
        help="precision of the network's products (default: auto, float32 unless bfloat16 is faster and as good)",
    )


def add_bootstrap(parser: argparse.ArgumentParser) -> None:
    """Add the option that leaves intervals out; its name is from when they were made of random samples."""
    parser.add_argument(
        "--bootstrap",
        type=options.whole_number(0, options.MOST_AT_ONCE),
        default=1000,
        metavar="N",
        help="0: no intervals; any other number: intervals, which take no samples (default: 1000)",
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments for sources, back end and normalisation."""
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
        help="kind of the scores, once for all files or once for each (default: that of --model, else cosine)",
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
        "--top-n",
        type=options.whole_number(2, options.MOST_AT_ONCE),
        default=300,
        metavar="N",
        help="nearest of the cohort, for asnorm (default: 300)",
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
        help="speakers of the files, utt2spk or manifest, may be given several times (default: taken from the paths)",
    )
    add(
        "--quality-from",
        type=Path,
        metavar="E.npz",
        help="durations and embeddings of the files, for the quality measures of score files",
    )
    add(
        "--crops",
        type=options.whole_number(0, 1000),
        default=0,
        metavar="N",
        help="embed N crops a file (default: the whole utterance)",
    )
    add(
        "--batch-size",
        type=options.whole_number(1, options.MOST_AT_ONCE),
        metavar="N",
        help="files embedded at once, at most",
    )
    options.add_channel(parser)


def check(args: argparse.Namespace) -> None:
    """Raise `InputError` where these arguments contradict each other."""
    given = [f"--{name}" for name in ("scores", "embeddings", "model") if getattr(args, name)]
    if len(given) > 1 and given != ["--embeddings", "--model"]:
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


def source_of(args: argparse.Namespace, model: Path | None = None) -> "Source":
    """Return the source of scores in the arguments.

    Args:
        args: parsed and checked.
        model: the model folder whose back end and normalisation score a table of embeddings, if the arguments give
            neither.
    """
    from speakerverif.inference.score_sources import ReadyEmbeddings, Recordings, ScoreFiles

    if args.scores:
        return ScoreFiles(args.scores, args.score_kind or ())
    if args.embeddings:
        return ReadyEmbeddings(args.embeddings, model or args.model, _scoring(args))
    return Recordings(
        model=args.model,
        audio_root=args.audio_root,
        scoring=_scoring(args),
        crops=args.crops,
        batch_size=args.batch_size,
        device=args.device,
        engine=args.engine,
        precision=args.precision,
        threads=args.threads,
        channel=args.channel,
    )


def _scoring(args: argparse.Namespace) -> "ScoringChoice | None":
    """Return the back end and normalisation in the arguments; None if they give neither."""
    from speakerverif._util.toml import override
    from speakerverif.inference.score_sources import ScoringChoice

    if args.backend is None and args.norm is None:
        return None
    return ScoringChoice(
        backend=override({"name": args.backend or "cosine"}, args.assignments),
        backend_train=args.backend_train,
        norm=args.norm or "none",
        cohort=args.cohort,
        top_n=args.top_n,
    )
