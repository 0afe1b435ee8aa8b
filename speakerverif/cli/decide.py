"""The commands that decide who speaks: verify and identify."""

import argparse
import dataclasses
import logging
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from speakerverif.cli import options
from speakerverif.errors import InputError

if TYPE_CHECKING:
    from speakerverif.inference.identify import Identification
    from speakerverif.inference.scale import Scale
    from speakerverif.models.folder import ModelFolder
    from speakerverif.scoring.decision import DecisionPoint

SCORES = {  # by kind
    "cosine": "cosine similarity",
    "plda": "log likelihood ratio of the PLDA, not calibrated",
    "normalized": "in standard deviations from the cohort",
}
FAILURE = 1

log = logging.getLogger(__name__)


def finite(text: str) -> float:
    """Return the value of a numeric option; nan and infinity are refused."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"expected a finite number, found {text[:40]!r}")
    return value


def add_threshold(command: argparse.ArgumentParser) -> None:
    """Add the options for the decision threshold."""
    add = command.add_argument
    add("--threshold", type=finite, metavar="T", help="accept at this score or above")
    add("--llr-threshold", type=finite, metavar="L", help="accept at this log likelihood ratio or above")
    add("--p-target", type=finite, metavar="P", help="prior of the same speaker, for a calibrated model")
    add("--c-miss", type=finite, metavar="C", help="cost of a miss, with --p-target (default: 1)")
    add("--c-fa", type=finite, metavar="C", help="cost of a false alarm, with --p-target (default: 1)")
    add(
        "--calibration",
        type=Path,
        metavar="FILE",
        help="calibration to use (default: the store's, else your own of the built-in model, else the model's)",
    )


def add_verify(command: argparse.ArgumentParser) -> None:
    """Add the arguments of `verify`."""
    add = command.add_argument
    add("enroll", metavar="A", help="a recording; with --store the name of an enrolled speaker")
    add("test", type=Path, metavar="B", help="a recording")
    add("--model", type=Path, metavar="MODEL", help=options.BUILT_IN)
    add("--store", type=Path, metavar="DIR", help="store in which A is enrolled")
    add_threshold(command)
    add("--json", type=Path, metavar="FILE", help="write the comparison here")


def add_identify(command: argparse.ArgumentParser) -> None:
    """Add the arguments of `identify`."""
    add = command.add_argument
    add("file", nargs="?", type=Path, metavar="FILE", help="a recording")
    add("--manifest", type=Path, metavar="LIST", help="identify each recording of a list")
    add(
        "--rttm",
        type=Path,
        metavar="TURNS",
        help="name the turns of conversations: RTTM, Lhotse cuts, a Kaldi folder with segments, or Whisper's JSON "
        "(of FILE)",
    )
    add("--out-rttm", type=Path, metavar="FILE", help="write the named turns as RTTM")
    add("--audio-root", type=Path, metavar="DIR", help="folder that relative paths in LIST start from")
    add("--store", type=Path, required=True, metavar="DIR", help="store of the enrolled speakers")
    add("--model", type=Path, metavar="MODEL", help=options.BUILT_IN)
    add_threshold(command)
    add(
        "--index",
        action="store_true",
        help="search an index, built at the first use; for hundreds of thousands of speakers and more",
    )
    add(
        "--top",
        type=options.whole_number(1, 1_000_000),
        default=5,
        metavar="N",
        help="candidates to show (default: 5)",
    )
    add("--json", type=Path, metavar="FILE", help="write the result here")


def verify(arguments: argparse.Namespace) -> int:
    """Compare two recordings, or a recording with an enrolled speaker, and decide if there is a threshold."""
    from speakerverif._util.files import write_json
    from speakerverif.audio.reading import Files
    from speakerverif.inference.verify import verify as compare
    from speakerverif.inference.verify import verify_enrolled

    folder, scale = _scale(arguments)
    given = {
        **_thresholds(arguments, scale),
        "calibration": arguments.calibration,
        "device": arguments.device,
        "source": Files(options.single_channel(arguments, "verify")),
    }
    if arguments.store:
        result = verify_enrolled(folder, arguments.store, arguments.enroll, arguments.test, **given)
    else:
        result = compare(folder, arguments.enroll, arguments.test, **given)
    print(f"score {result.score:.4f} ({SCORES[result.kind]}; higher: more likely the same speaker)")
    if result.llr is not None and result.probability is not None:
        print(
            f"log likelihood ratio {result.llr:.2f} (natural; calibrated on {result.calibrated_on}): "
            f"P(same speaker) = {result.probability:.2f} at a 50 % prior"
        )
        _print_calibration(scale)
    for path, duration_s, speech_s in zip(
        (arguments.enroll, arguments.test)[-len(result.durations_s) :],
        result.durations_s,
        result.speech_s,
        strict=True,
    ):
        print(f"{path}: {duration_s:.1f} s, {speech_s:.1f} s of speech")
    if result.same_speaker is not None:
        verdict = "same speaker" if result.same_speaker else "different speakers"
        print(f"{verdict} {_at(result.threshold, result.llr_threshold)}")
        _print_rates(scale, result.llr_threshold)
    if arguments.json:
        write_json(arguments.json, {**dataclasses.asdict(result), "engine": folder.engine})
    return 0


def identify(arguments: argparse.Namespace) -> int:
    """Show the enrolled speakers most similar to a recording, and decide on one if there is a threshold."""
    from speakerverif._util.files import write_json
    from speakerverif.inference.enrollment import Store
    from speakerverif.inference.identify import identify_all

    if arguments.rttm and not arguments.manifest:
        return _identify_turns(arguments)
    if bool(arguments.file) == bool(arguments.manifest) or arguments.rttm:
        raise InputError("give one recording, or a list with --manifest, or turns with --rttm")
    if arguments.out_rttm:
        raise InputError("--out-rttm does nothing without --rttm")
    folder, scale = _scale(arguments)
    thresholds = _thresholds(arguments, scale)
    store = Store(arguments.store, folder.fingerprint)
    table = _embedded(folder, arguments)
    if arguments.index and not store.has_index:
        store.build_index()
    results = identify_all(scale, store, table, top=arguments.top, use_index=arguments.index, **thresholds)
    if arguments.manifest:
        print("id\tname\tscore\tllr")
        for name, result in zip(table.ids, results, strict=True):
            llr = "" if result.llrs is None else f"{result.llrs[0]:.2f}"
            verdict = (result.name or "unknown") if result.decided else ""
            print(f"{name}\t{verdict}\t{result.candidates[0][1]:.4f}\t{llr}")
        record: Any = [
            {"id": name, **dataclasses.asdict(result)}
            for name, result in zip(table.ids, results, strict=True)
        ]
        record += [{"id": name, "failed": reason} for name, reason in table.failed.items()]
    else:
        _print_identification(scale, results[0])
        record = dataclasses.asdict(results[0])
    if arguments.json:
        write_json(arguments.json, record)
    return FAILURE if table.failed else 0


def _identify_turns(arguments: argparse.Namespace) -> int:
    """Identify the speakers of turns in conversations; return 1 if some turns could not be embedded."""
    from speakerverif._util.files import write_json
    from speakerverif.audio.reading import Files
    from speakerverif.inference.conversation import name_turns, read_turns, write_rttm
    from speakerverif.inference.enrollment import Store

    turns = read_turns(arguments.rttm, arguments.audio_root, arguments.file)
    folder, scale = _scale(arguments)
    thresholds = _thresholds(arguments, scale)
    store = Store(arguments.store, folder.fingerprint)
    source = Files(options.single_channel(arguments, "identify"))
    named = name_turns(
        folder, store, turns, scale=scale, device=arguments.device, source=source, **thresholds
    )
    print("recording\tstart_s\tend_s\tname\tscore\tllr")
    for turn in named:
        place = f"{turn.path}\t{turn.start_s:.2f}\t{turn.start_s + turn.duration_s:.2f}"
        if turn.status != "ok":
            log.warning("not named: %s at %.2f s: %s", turn.path, turn.start_s, turn.status)
        score = "" if turn.score is None else f"{turn.score:.4f}"
        llr = "" if turn.llr is None else f"{turn.llr:.2f}"
        print(f"{place}\t{turn.name}\t{score}\t{llr}")
    if arguments.out_rttm:
        write_rttm(named, arguments.out_rttm)
    if arguments.json:
        write_json(arguments.json, {"turns": [turn.to_json() for turn in named]})
    return FAILURE if any(turn.status != "ok" for turn in named) else 0


def _print_identification(scale: "Scale", result: "Identification") -> None:
    for i, (name, score) in enumerate(result.candidates):
        llr = "" if result.llrs is None else f"  log likelihood ratio {result.llrs[i]:6.2f}"
        print(f"{score:7.4f}{llr}  {name}")
    runner_up = "" if result.margin is None else f"; the best is {result.margin:.4f} above the next"
    print(f"scores: {SCORES[result.kind]}; {result.enrolled} enrolled{runner_up}")
    best = result.candidates[0][0]
    if result.probability is not None:
        print(f"P({best}) = {result.probability:.2f}, where P(enrolled) = 50 % beforehand")
        _print_calibration(scale)
    if result.decided:
        print(f"{result.name or 'nobody enrolled'} {_at(result.threshold, result.llr_threshold)}", end="")
        print("" if result.llrs is None else f"; {best} has {result.llrs[0]:.2f}")
        _print_rates(scale, result.llr_threshold)
        point = scale.point_at(result.llr_threshold)
        if point is not None and result.enrolled > 1:
            share = 1 - (1 - point.p_fa) ** result.enrolled
            print(
                f"among {result.enrolled} enrolled, a stranger is named in up to {100 * share:.2f} % of searches"
            )


def _at(threshold: float | None, llr_threshold: float | None) -> str:
    parts = [f"threshold {threshold:g}"] if threshold is not None else []
    parts += [f"log likelihood ratio {llr_threshold:.2f}"] if llr_threshold is not None else []
    return f"at {', '.join(parts)}"


def _print_calibration(scale: "Scale") -> None:
    if scale.file is not None:
        print(f"calibration: {scale.file}, not the model's own")


def _print_rates(scale: "Scale", llr_threshold: float | None) -> None:
    point = scale.point_at(llr_threshold)
    if point is not None and scale.calibration is not None:
        print(f"there, on {scale.calibration.trials}: {rates(point)}")


def _scale(arguments: argparse.Namespace) -> "tuple[ModelFolder, Scale]":
    """Return the model and its scale, before anything is embedded."""
    from speakerverif.inference.scale import Scale

    # A list is long enough for the engine that is faster once it is loaded.
    folder = load(arguments, briefly=getattr(arguments, "manifest", None) is None)
    return folder, Scale.of(folder, arguments.calibration, arguments.store)


def _thresholds(arguments: argparse.Namespace, scale: "Scale") -> dict[str, Any]:
    """Return the thresholds in the arguments."""
    from speakerverif.scoring.decision import bayes_threshold

    costs = arguments.c_miss, arguments.c_fa
    if arguments.p_target is None and costs != (None, None):
        raise InputError("--c-miss and --c-fa do nothing without --p-target P, the prior of the same speaker")
    llr_threshold = arguments.llr_threshold
    if arguments.p_target is not None:
        if arguments.threshold is not None or llr_threshold is not None:
            raise InputError("--threshold, --llr-threshold and --p-target each set a threshold: give one")
        if scale.calibration is None:
            raise InputError(
                f"--p-target: {scale.source} is not calibrated; run `speakerverif calibrate`, or give --threshold"
            )
        llr_threshold = bayes_threshold(
            arguments.p_target, *(1.0 if cost is None else cost for cost in costs)
        )
    scale.check(arguments.threshold, llr_threshold)
    return {"threshold": arguments.threshold, "llr_threshold": llr_threshold}


def _embedded(folder: "ModelFolder", arguments: argparse.Namespace) -> Any:
    """Return the embeddings of the recording or the list."""
    from speakerverif.audio.reading import Files
    from speakerverif.data.formats.manifests import read_manifest
    from speakerverif.inference.embed import embed, embed_all, print_failures

    source = Files(options.single_channel(arguments, "identify"))
    if arguments.file:
        return embed_all(folder, [arguments.file], arguments.device, source)
    manifest = read_manifest(arguments.manifest, arguments.audio_root)
    table = embed(folder, manifest, device=arguments.device, label="identify", source=source)
    print_failures(table.failed)
    if not len(table):
        raise InputError(f"{arguments.manifest}: nothing in it could be embedded")
    return table


def load(arguments: argparse.Namespace, briefly: bool = False) -> "ModelFolder":
    """Return the model in the arguments; `briefly`, for a few recordings, one that is loaded soon."""
    from speakerverif._util import resources
    from speakerverif.inference.engines import load_for_inference

    resources.use(arguments.threads)
    return load_for_inference(
        arguments.model,
        arguments.device,
        arguments.engine,
        arguments.precision,
        briefly=briefly,
    )


def rates(point: "DecisionPoint") -> str:
    """Return text with the error rates of an operating point, in percent."""

    def percent(rate: float, limits: tuple[float, float] | None) -> str:
        return f"{100 * rate:.2f} %" + (f" [{100 * limits[0]:.2f}, {100 * limits[1]:.2f}]" if limits else "")

    shown = f"false alarms {percent(point.p_fa, point.p_fa_ci95)}, misses {percent(point.p_miss, point.p_miss_ci95)}"
    reasons = list(point.without_interval.items())
    if len(reasons) == 2 and reasons[0][1] == reasons[1][1]:
        return f"{shown} (no intervals: {reasons[0][1]})"
    return shown + "".join(f" (no interval of {name}: {reason})" for name, reason in reasons)
