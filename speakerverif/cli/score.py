"""The scoring command of `speakerverif score` and `tools/score.py`.

Imports are inside the functions: evaluating a score file needs neither torch nor a model.
"""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from speakerverif.cli import options, sources
from speakerverif.errors import InputError

if TYPE_CHECKING:
    from speakerverif.inference.score_list import ScoredList, ScoreRequest


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the scoring command to a parser."""
    add = parser.add_argument
    add(
        "trials",
        type=Path,
        metavar="TRIALS",
        help="'label enroll test' or 'enroll test target|nontarget' rows",
    )
    sources.add_arguments(parser)
    add(
        "--calibration",
        type=Path,
        metavar="C.toml",
        help="make likelihood ratios of the scores, or fuse them",
    )
    add(
        "--breakdown-by",
        nargs="+",
        default=[],
        metavar="[NAME=]FILE",
        help="figures by what these tell of files, utterances or speakers: a TSV with a header that begins with "
        "id, or two columns as spk2gender and utt2dur",
    )
    add(
        "--against",
        type=Path,
        metavar="SCORES2",
        help="another system's scores of the list: tests the difference of the EERs",
    )
    add(
        "--against-kind",
        choices=sources.KINDS,
        default="cosine",
        help="kind of the scores in SCORES2 (default: cosine)",
    )
    add(
        "--identify",
        action="store_true",
        help="measure identification, the share of strangers named and of enrolled speakers missed, by gallery size; "
        "TRIALS then has all pairs of enrolled speakers and tests, or with --store it is a list of recordings with "
        "their speakers",
    )
    add("--store", type=Path, metavar="DIR", help="store to search, with --identify")
    add(
        "--galleries",
        type=options.whole_number(1, options.MOST_AT_ONCE),
        nargs="+",
        metavar="N",
        help="numbers of enrolled speakers, drawn from all, with --identify (default: 5, 10, 20, ...)",
    )
    add("--p-target", type=float, nargs="+", default=[0.01, 0.05], metavar="P", help="priors for minDCF")
    sources.add_bootstrap(parser)
    add(
        "--memory-mb",
        type=int,
        metavar="MB",
        help="score files too large for memory: exact, by sorting on disk, without intervals (256 or more)",
    )
    add("--out-scores", type=Path, metavar="FILE", help="write 'enroll test score' rows")
    add("--json", type=Path, metavar="FILE", help="write the record")
    add("--report", type=Path, metavar="DIR", help="write index.html: DET curve, histograms, hardest trials")
    add("--device", default="cpu", help="cpu or cuda (default: cpu)")
    sources.add_engine(parser)
    add(
        "--threads",
        type=options.whole_number(1, options.MOST_THREADS),
        metavar="N",
        help="CPU threads (default: the machine's)",
    )
    add(
        "--seed",
        type=options.whole_number(0, options.MOST_SEED),
        default=0,
        metavar="N",
        help="of the galleries that --identify draws; intervals take no random samples (default: 0)",
    )


def run(args: argparse.Namespace) -> int:
    """Score trials, print the result, write the requested files and return the exit status.

    Raises:
        InputError: all faults of the input together; nothing has been written then.
    """
    from speakerverif._util.files import write_json
    from speakerverif.evaluation.breakdown import format_breakdown
    from speakerverif.evaluation.describe import format_record
    from speakerverif.inference.score_list import score_list
    from speakerverif.inference.score_sources import NotEmbeddedError

    _check(args)
    if args.identify:
        return _run_identification(args)
    if args.memory_mb is not None:
        return _run_out_of_core(args)
    try:
        scored = score_list(_request(args))
    except NotEmbeddedError as error:
        print(error, file=sys.stderr)
        return 1
    record = scored.record
    if record is None and (
        args.json or args.report or args.breakdown_by or args.against or not args.out_scores
    ):
        raise InputError(
            f"{args.trials}: no labels, so nothing to evaluate; --out-scores alone writes the scores"
        )
    if args.out_scores:
        scored.scores.write(args.out_scores)
    for path, system in zip(args.scores or [], scored.systems, strict=False):
        if system.extra:
            print(f"{path}: {system.extra:,} scores are of no trial in the list", file=sys.stderr)
    if record is None:
        count = len(scored.scores.trials)
        print(f"{args.out_scores}: {count:,} scores; the list has no labels to evaluate them by")
        return 0
    if args.json:
        write_json(args.json, record.to_json())
    if args.report:
        _write_report(args, scored)
    print(format_record(record))
    if record.breakdown is not None:
        print("\n" + format_breakdown(record.breakdown))
    return 0


def _request(args: argparse.Namespace) -> "ScoreRequest":
    """Return the request in the arguments."""
    from speakerverif.evaluation.evaluate import Settings
    from speakerverif.inference.score_list import ScoreRequest

    return ScoreRequest(
        trials=args.trials,
        source=sources.source_of(args),
        enroll_map=args.enroll_map,
        speakers=args.speakers or (),
        quality_from=args.quality_from,
        calibration=args.calibration,
        breakdown_by=args.breakdown_by,
        against=args.against,
        against_kind=args.against_kind,
        settings=Settings(args.p_target, intervals=args.bootstrap > 0),
    )


def _run_identification(args: argparse.Namespace) -> int:
    """Measure identification in a store, or on a trial list."""
    from speakerverif._util.files import write_json
    from speakerverif.cli.decide import SCORES
    from speakerverif.evaluation.open_set import format_open_set
    from speakerverif.inference.score_identification import (
        OpenSetSettings,
        SearchRequest,
        score_identification,
        score_identification_list,
    )
    from speakerverif.inference.score_sources import NotEmbeddedError, Recordings

    settings = OpenSetSettings(sizes=args.galleries or (), seed=args.seed)
    try:
        if args.store:
            source = sources.source_of(args)
            assert isinstance(source, Recordings)
            search = SearchRequest(
                probes=args.trials,
                store=args.store,
                recordings=source,
                calibration=args.calibration,
                settings=settings,
            )
            record = score_identification(search)
        else:
            record = score_identification_list(_request(args), settings)
    except NotEmbeddedError as error:
        print(error, file=sys.stderr)
        return 1
    if args.json:
        write_json(args.json, record.to_json())
    print(format_open_set(record))
    print(
        f"\n{record.searches:,} recordings of {record.speakers:,} speakers searched; {record.galleries} galleries per "
        f"size, seed {args.seed}; 95 % intervals over speakers, from ten on"
    )
    print("FPIR: strangers who are named; FNIR: enrolled speakers who are not, or by another's name")
    print(f"thresholds: {SCORES.get(record.kind, 'log likelihood ratio')}")
    if record.mean_margin == record.mean_margin:
        print(
            f"the right speaker, where ranked first, is {record.mean_margin:.3f} above the runner-up on average"
        )
    return 0


def _run_out_of_core(args: argparse.Namespace) -> int:
    """Evaluate score files that are too large for memory."""
    from speakerverif._util.files import write_json
    from speakerverif.evaluation.describe import format_record
    from speakerverif.evaluation.out_of_core import evaluate_on_disk

    kind = (args.score_kind or ["cosine"])[0]
    record = evaluate_on_disk(args.trials, args.scores[0], kind, args.p_target, args.memory_mb)
    if args.json:
        write_json(args.json, record.to_json())
    print(format_record(record))
    return 0


def _write_report(args: argparse.Namespace, scored: "ScoredList") -> None:
    from speakerverif.report.page import Result, System, write_report

    assert scored.record is not None and scored.units is not None
    name = args.scores[0].stem if len(args.scores or []) == 1 else "scores"
    raw, before = None, scored.record.before_normalisation()
    if scored.raw is not None and before is not None:
        raw = System("before normalisation", scored.raw, before)
    result = Result(System(name, scored.scores, scored.record), scored.units, raw)
    write_report([result], args.report, audio_root=args.audio_root)


def _check(args: argparse.Namespace) -> None:
    """Raise `InputError` where arguments contradict each other."""
    sources.check(args)
    if len(args.scores or []) > 1 and not args.calibration:
        raise InputError(
            f"{len(args.scores)} --scores: --calibration says how they are fused; `calibrate` makes it"
        )
    if args.memory_mb is not None:
        given = ("out_scores", "report", "calibration", "enroll_map", "speakers", "breakdown_by", "against")
        others = [f"--{name.replace('_', '-')}" for name in given if getattr(args, name)]
        if len(args.scores or []) != 1 or others:
            raise InputError(
                f"--memory-mb takes TRIALS and one --scores, found {', '.join(others) or 'none or more'}"
            )
    _check_identification(args)
    for p_target in args.p_target:
        if not 0 < p_target < 1:
            raise InputError(f"--p-target {p_target:g}: expected a prior between 0 and 1, both excluded")


def _check_identification(args: argparse.Namespace) -> None:
    """Raise `InputError` for options that do nothing with or without `--identify`."""
    if not args.identify:
        needing = [name for name in ("store", "galleries") if getattr(args, name)]
        if needing:
            raise InputError(f"--{needing[0]} does nothing without --identify")
        return
    idle = ["out_scores", "report", "breakdown_by", "against", "memory_mb"]
    if args.store:
        idle += ["scores", "embeddings", "backend", "norm", "enroll_map", "speakers", "quality_from", "crops"]
    for name in idle:
        if getattr(args, name):
            raise InputError(
                f"--{name.replace('_', '-')} does nothing with --identify{' --store' * bool(args.store)}"
            )
