"""`speakerverif report`: a page about score files. Imports are inside the functions, as in `entry`."""

import argparse
import dataclasses
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from speakerverif.cli import options, sources
from speakerverif.errors import InputError

if TYPE_CHECKING:
    from speakerverif.data.scores import ScoreKind
    from speakerverif.data.trials import TrialList
    from speakerverif.report.results import System

KINDS = ("cosine", "plda", "normalized", "llr")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the report command to a parser."""
    add = parser.add_argument
    add("scores", type=Path, metavar="SCORES", help="'enroll test score' or 'score enroll test' rows")
    add("--trials", type=Path, required=True, metavar="TRIALS", help="the labelled list that was scored")
    add("--out", type=Path, required=True, metavar="DIR", help="where to write index.html and det.png")
    add(
        "--against", type=Path, metavar="SCORES2", help="another system's scores of the list, to compare with"
    )
    add("--names", nargs="+", metavar="NAME", help="of the systems (default: of the score files)")
    add("--score-kind", default="cosine", choices=KINDS, help="what SCORES holds (default: cosine)")
    add("--against-kind", choices=KINDS, help="what SCORES2 holds (default: the same)")
    add(
        "--speakers",
        type=Path,
        metavar="utt2spk",
        help="speakers of the files, for the intervals (default: from the paths)",
    )
    add("--p-target", type=float, nargs="+", default=[0.01, 0.05], metavar="P", help="priors for minDCF")
    add(
        "--columns",
        nargs="+",
        default=[],
        metavar="[NAME=]FILE",
        help="break the figures down by what these tell of files, utterances or speakers: a TSV with a header "
        "that begins with id, or two columns as spk2gender and utt2dur",
    )
    add("--audio-root", type=Path, metavar="DIR", help="where the recordings are: players and spectrograms")
    add("--embeddings", type=Path, metavar="E.npz", help="draw a map of these; their durations are a column")
    sources.add_bootstrap(parser)
    add(
        "--seed",
        type=options.whole_number(0, options.MOST_SEED),
        default=0,
        metavar="N",
        help="has no effect: intervals take no random samples",
    )
    add("--title", metavar="TEXT", help="title of the page (default: the list's name)")
    add(
        "--json",
        type=Path,
        metavar="FILE",
        help="write the records, the paired test and the decision as JSON",
    )
    add("--date", metavar="TEXT", help="date that the page shows (default: when SCORES was written)")


def run(args: argparse.Namespace) -> int:
    """Write the page, print its path and return the exit status.

    Raises:
        InputError: wrong input.
    """
    from speakerverif._util.files import write_json
    from speakerverif.data.embeddings import EmbeddingTable
    from speakerverif.data.metadata import durations_of, read_columns
    from speakerverif.data.speakers import read_speakers, units_of
    from speakerverif.data.trials import TrialList
    from speakerverif.evaluation.breakdown import breakdown
    from speakerverif.report.page import title_of, write_report
    from speakerverif.report.results import Result
    from speakerverif.report.summary import to_json

    paths = [args.scores] if args.against is None else [args.scores, args.against]
    names = args.names or _distinct_names(paths)
    if len(names) != len(paths) or len(set(names)) != len(names):
        raise InputError(f"--names {' '.join(names)}: expected {len(paths)} that differ, one a score file")
    if args.audio_root and not args.audio_root.is_dir():
        raise InputError(f"--audio-root {args.audio_root}: no such folder")
    trials = TrialList.read(args.trials)
    speakers = read_speakers(args.speakers, trials.ids) if args.speakers else None
    table = EmbeddingTable.load(args.embeddings) if args.embeddings else None
    kinds = (args.score_kind, args.against_kind or args.score_kind)
    systems = [
        _system(name, path, kind, trials, speakers, args)
        for name, path, kind in zip(names, paths, kinds, strict=False)
    ]
    units = units_of(trials, speakers)
    columns = read_columns(args.columns, trials.ids, speakers)
    columns += durations_of(table) if table is not None else []
    groups = breakdown(systems[0].scores, columns, units, systems[0].record.figures)
    system = dataclasses.replace(systems[0], record=dataclasses.replace(systems[0].record, breakdown=groups))
    result = Result(system, units, systems[1] if len(systems) > 1 else None)
    date = args.date or f"{datetime.fromtimestamp(args.scores.stat().st_mtime, UTC):%Y-%m-%d} (the scores)"
    facts = [("command", args.command), ("date", date)]
    if table is not None:
        facts.append(("embeddings", f"{args.embeddings}, of the model {table.fingerprint or 'not known'}"))
    options = {"table": table, "audio_root": args.audio_root, "made": facts}
    print(write_report([result], args.out, title=args.title, **options))
    if args.json:
        write_json(args.json, to_json([result], args.title or title_of([result])))
    return 0


def _system(
    name: str,
    path: Path,
    kind: "ScoreKind",
    trials: "TrialList",
    speakers: dict[str, str] | None,
    args: argparse.Namespace,
) -> "System":
    from speakerverif.data.scores import ScoreList
    from speakerverif.evaluation.evaluate import Settings, evaluate
    from speakerverif.report.results import System

    scores = ScoreList.read(path, trials, kind)
    settings = Settings(args.p_target, intervals=args.bootstrap > 0)
    return System(name, scores, evaluate(scores, settings, speakers=speakers))


def _distinct_names(paths: list[Path]) -> list[str]:
    """Return the names of files, with their folders where needed to make them distinct."""
    stems = [path.stem for path in paths]
    return stems if len(set(stems)) == len(stems) else [str(path) for path in paths]
