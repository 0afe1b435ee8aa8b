"""`speakerverif score` and `tools/score.py`: one definition of the scoring command.

Imports stand inside the functions: evaluating a score file needs neither torch nor a model.
"""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from speakerverif.errors import InputError

if TYPE_CHECKING:
    from speakerverif.lists import EmbeddingTable, ScoreList, TrialList

EnrollMap = dict[str, list[str]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the scoring command to a parser."""
    add = parser.add_argument
    add(
        "trials",
        type=Path,
        metavar="TRIALS",
        help="'label enroll test' or 'enroll test target|nontarget' rows",
    )
    add(
        "--scores",
        type=Path,
        metavar="FILE",
        help="'enroll test score' or 'score enroll test', any row order",
    )
    add("--embeddings", type=Path, metavar="E.npz", help="ready embeddings of the trials' files")
    add("--model", type=Path, metavar="MODEL", help="embed the trials' files with this model")
    add("--audio-root", type=Path, metavar="DIR", help="where the files are (default: the list's folder)")
    add(
        "--score-kind",
        default="cosine",
        choices=("cosine", "plda", "normalized", "llr"),
        help="what --scores holds",
    )
    add("--norm", default="none", choices=("none", "asnorm"), help="normalise the scores with a cohort")
    add("--cohort", type=Path, metavar="C.npz", help="embeddings of other speakers, for --norm")
    add("--top-n", type=int, default=300, metavar="N", help="nearest of the cohort (default: 300)")
    add(
        "--enroll-map",
        type=Path,
        metavar="FILE",
        help="'model file file ...' rows: the files of each enroll id",
    )
    add("--speakers", type=Path, metavar="utt2spk", help="speakers of the files, for the intervals")
    add(
        "--breakdown-by",
        nargs="+",
        default=[],
        metavar="[NAME=]FILE",
        help="figures by what these tell of files, utterances or speakers: a TSV with a header that begins with "
        "id, or two columns as spk2gender and utt2dur",
    )
    add("--p-target", type=float, nargs="+", default=[0.01, 0.05], metavar="P", help="priors for minDCF")
    add(
        "--bootstrap",
        type=int,
        default=1000,
        metavar="N",
        help="samples for the intervals; 0: none (default: 1000)",
    )
    add("--out-scores", type=Path, metavar="FILE", help="write 'enroll test score' rows")
    add("--json", type=Path, metavar="FILE", help="write the record")
    add("--report", type=Path, metavar="DIR", help="write index.html: DET curve, histograms, hardest trials")
    add(
        "--crops",
        type=int,
        default=0,
        metavar="N",
        help="embed N crops a file (default: the whole utterance)",
    )
    add("--device", default="cpu", help="cpu or cuda (default: cpu)")
    add("--threads", type=int, metavar="N", help="CPU threads (default: the machine's)")
    add("--batch-size", type=int, metavar="N", help="files embedded at once, at most")
    add("--seed", type=int, default=0, metavar="N", help="of the bootstrap (default: 0)")


def run(args: argparse.Namespace) -> int:
    """Score as the arguments say: print the result, write what was asked for, return the exit status.

    Raises:
        InputError: whatever is wrong with the input, all together. Nothing has been written then.
    """
    from speakerverif._files import WrongRows, write_json
    from speakerverif.audit import audit, files_of, read_enroll_map, read_speakers, units_of
    from speakerverif.breakdown import breakdown, format_breakdown
    from speakerverif.columns import read_columns
    from speakerverif.lists import TrialList
    from speakerverif.score import evaluate, format_record

    _check(args)
    wrong = WrongRows()
    trials = TrialList.read(args.trials, wrong)
    enroll_map = read_enroll_map(args.enroll_map) if args.enroll_map else None
    problems = [str(wrong)] if wrong.count else []
    try:
        scores, made = _scores(args, trials, enroll_map, sound=not problems)
    except InputError as error:
        problems.append(str(error))
    except NotEmbeddedError as error:
        print(error, file=sys.stderr)
        return 1
    if problems:
        found = audit(trials, enroll_map)
        raise InputError(f"{args.trials}: {'; '.join(problems)}; besides: {found}")

    record = None
    if trials.labels is not None:
        speakers = read_speakers(args.speakers, files_of(trials, enroll_map)) if args.speakers else None
        record = evaluate(
            scores,
            p_targets=args.p_target,
            samples=args.bootstrap,
            seed=args.seed,
            speakers=speakers,
            enroll_map=enroll_map,
            **made,
        )
        if args.breakdown_by:
            columns = read_columns(args.breakdown_by, files_of(trials, enroll_map), speakers)
            units = units_of(trials, speakers, enroll_map)
            record["breakdown"] = breakdown(scores, columns, units, record, enroll_map)
    elif args.json or args.report or args.breakdown_by or not args.out_scores:
        raise InputError(
            f"{args.trials}: no labels, so nothing to evaluate; --out-scores alone writes the scores"
        )
    if args.out_scores:
        scores.write(args.out_scores)
    if scores.extra:
        print(f"{args.scores}: {scores.extra:,} scores are of no trial in the list", file=sys.stderr)
    if record is None:
        print(f"{args.out_scores}: {len(trials):,} scores; the list has no labels to evaluate them by")
        return 0
    if args.json:
        write_json(args.json, record)
    if args.report:
        from speakerverif.report import Result, System, write_report

        system = System(args.scores.stem if args.scores else "scores", scores, record)
        result = Result(system, units_of(trials, speakers, enroll_map))
        write_report([result], args.report, audio_root=args.audio_root)
    print(format_record(record))
    if "breakdown" in record:
        print("\n" + format_breakdown(record["breakdown"]))
    return 0


class NotEmbeddedError(Exception):
    """Files of the trials are there but could not be embedded: a failure, not a wrong command."""


def _check(args: argparse.Namespace) -> None:
    """Raise `InputError` where arguments contradict each other or would write over an input."""
    given = [f"--{name}" for name in ("scores", "embeddings", "model") if getattr(args, name)]
    if len(given) > 1:
        raise InputError(f"{' and '.join(given)}: give one source of scores")
    if args.norm != "none" and (args.scores or not args.cohort):
        raise InputError(
            "--norm asnorm needs --cohort C.npz, and embeddings to compare it with (not --scores)"
        )
    if args.cohort and args.norm == "none":
        raise InputError("--cohort does nothing without --norm asnorm")
    for p_target in args.p_target:
        if not 0 < p_target < 1:
            raise InputError(f"--p-target {p_target:g}: expected a prior between 0 and 1, both excluded")
    if args.bootstrap < 0:
        raise InputError(f"--bootstrap {args.bootstrap}: expected 0 or more samples")
    inputs = (args.trials, args.scores, args.embeddings, args.cohort, args.enroll_map, args.speakers)
    taken = {path.resolve() for path in inputs if path}
    if args.scores and args.scores.resolve() == args.trials.resolve():
        raise InputError(f"--scores {args.scores}: is the trial list itself; its labels are no scores")
    for name in ("out_scores", "json"):
        path = getattr(args, name)
        if path and path.resolve() in taken:
            raise InputError(f"--{name.replace('_', '-')} {path}: would write over an input")
        if path and path.is_dir():
            raise InputError(f"--{name.replace('_', '-')} {path}: is a folder, expected a file")
    if args.report and args.report.exists() and not args.report.is_dir():
        raise InputError(f"--report {args.report}: is a file, expected a folder")


def _scores(
    args: argparse.Namespace, trials: "TrialList", enroll_map: EnrollMap | None, sound: bool
) -> tuple["ScoreList", dict[str, Any]]:
    """Return the scores and what `evaluate` is to say of their making.

    Args:
        sound: every row could be read; where not, nothing is embedded and only what is missing is found.
    """
    from speakerverif.lists import EmbeddingTable, ScoreList
    from speakerverif.score import cosine

    if args.scores:
        return ScoreList.read(args.scores, trials, args.score_kind), {}
    made: dict[str, Any] = {}
    if args.embeddings:
        table = EmbeddingTable.load(args.embeddings)
        made["model"] = {"name": None, "fingerprint": table.fingerprint or None}
    else:
        from speakerverif.checkpoint import resolve_model

        model = resolve_model(args.model)
        table, made = _embed(args, model, _audio(args, trials, enroll_map), sound)
    scores = cosine(trials, table, enroll_map)
    if args.norm == "asnorm":
        from speakerverif.norm import as_norm

        cohort = EmbeddingTable.load(args.cohort)
        scores = as_norm(scores, table, cohort, args.top_n, enroll_map)
        made["norm"] = {
            "kind": "asnorm",
            "top_n": args.top_n,
            "cohort": args.cohort.name,
            "cohort_size": len(cohort),
        }
    return scores, made


def _audio(args: argparse.Namespace, trials: "TrialList", enroll_map: EnrollMap | None) -> dict[str, Path]:
    """Return id -> path of every file to embed, or raise `InputError` that names those that are missing."""
    from speakerverif.audit import files_of
    from speakerverif.lists import named

    root = args.audio_root or args.trials.parent
    paths = {name: root / name for name in files_of(trials, enroll_map)}
    missing = [name for name, path in paths.items() if not path.is_file()]
    if missing:
        raise InputError(f"{len(missing)} of {len(paths)} files are not in {root}: {named(missing)}")
    return paths


def _embed(
    args: argparse.Namespace, folder: Path, paths: dict[str, Path], sound: bool
) -> tuple["EmbeddingTable", dict[str, Any]]:
    """Return embeddings of the files, and what to say of their making."""
    from speakerverif.checkpoint import SPEAKERS, read_config

    recipe, _ = read_config(folder)
    if not sound:
        raise InputError("nothing was embedded")
    if args.threads:
        import torch

        torch.set_num_threads(args.threads)
    from speakerverif.embed import embed_files

    options: dict[str, Any] = {"device": args.device, "crops": args.crops}
    if args.batch_size:
        options["batch_size"] = args.batch_size
    table = embed_files(folder, paths, **options)
    if table.failed:
        listed = "\n".join(f"  {name}: {reason}" for name, reason in table.failed.items())
        raise NotEmbeddedError(f"{len(table.failed)} of {len(paths)} files could not be embedded:\n{listed}")
    speakers = folder / SPEAKERS
    return table, {
        "crops": f"{args.crops} crops" if args.crops else "whole utterance",
        "model": {"name": recipe.name, "fingerprint": table.fingerprint},
        "training_speakers": speakers.read_text("utf-8").splitlines() if speakers.is_file() else None,
    }
