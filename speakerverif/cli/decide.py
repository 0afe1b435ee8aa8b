"""The subcommands that decide about people: verify, enroll, identify."""

import argparse
import dataclasses
import math
from pathlib import Path
from typing import TYPE_CHECKING

from speakerverif.errors import InputError

if TYPE_CHECKING:
    from speakerverif.models.folder import ModelFolder
    from speakerverif.scoring.calibration import DecisionPoint

SCORES = {  # what a score is, to somebody who reads one
    "cosine": "cosine similarity",
    "plda": "log likelihood ratio of the PLDA, not calibrated",
    "normalized": "in standard deviations from the cohort",
}


def add_verify(command: argparse.ArgumentParser) -> None:
    """Add the arguments of `verify`."""
    add = command.add_argument
    add("enroll", metavar="A", help="a recording; with --store the name of an enrolled speaker")
    add("test", type=Path, metavar="B", help="a recording")
    add("--model", type=Path, metavar="MODEL", help="default: the built-in starter model")
    add("--threshold", type=float, metavar="T", help="accept at this score or above")
    add("--store", type=Path, metavar="DIR", help="where A is enrolled")
    add("--p-target", type=float, metavar="P", help="prior of the same speaker, for a calibrated model")
    add("--c-miss", type=float, metavar="C", help="cost of a miss, with --p-target (default: 1)")
    add("--c-fa", type=float, metavar="C", help="cost of a false alarm, with --p-target (default: 1)")
    add("--json", type=Path, metavar="FILE")


def add_enroll(command: argparse.ArgumentParser) -> None:
    """Add the arguments of `enroll`."""
    add = command.add_argument
    add("name", metavar="NAME")
    add("files", nargs="+", type=Path, metavar="FILE")
    add("--store", type=Path, required=True, metavar="DIR", help="made where absent")
    add("--model", type=Path, metavar="MODEL", help="default: the built-in starter model")


def add_identify(command: argparse.ArgumentParser) -> None:
    """Add the arguments of `identify`."""
    add = command.add_argument
    add("file", type=Path, metavar="FILE")
    add("--store", type=Path, required=True, metavar="DIR")
    add("--model", type=Path, metavar="MODEL", help="default: the built-in starter model")
    add("--threshold", type=float, metavar="T", help="name the best at this score or above")
    add(
        "--index",
        action="store_true",
        help="search an index, built at the first use; for hundreds of thousands of speakers and more",
    )
    add("--top", type=int, default=5, metavar="N", help="candidates to show (default: 5)")
    add("--json", type=Path, metavar="FILE")


def verify(arguments: argparse.Namespace) -> int:
    """Compare two recordings, or a recording with an enrolled speaker; decide where one can."""
    from speakerverif._util.files import write_json
    from speakerverif.inference.verify import verify as compare
    from speakerverif.inference.verify import verify_enrolled
    from speakerverif.scoring.calibration import bayes_threshold

    folder = load(arguments)
    costs = arguments.c_miss, arguments.c_fa
    if arguments.p_target is None and costs != (None, None):
        raise InputError("--c-miss and --c-fa do nothing without --p-target P, the prior of the same speaker")
    if arguments.p_target is not None and arguments.threshold is not None:
        raise InputError("--threshold and --p-target both set a threshold: give one")
    llr_threshold = None
    if arguments.p_target is not None:
        if folder.calibration is None:
            raise InputError(
                f"--p-target: {folder.path} is not calibrated; run `speakerverif calibrate`, or give --threshold"
            )
        llr_threshold = bayes_threshold(
            arguments.p_target, *(1.0 if cost is None else cost for cost in costs)
        )
    given = {"threshold": arguments.threshold, "llr_threshold": llr_threshold, "device": arguments.device}
    if arguments.store:
        result = verify_enrolled(folder, arguments.store, arguments.enroll, arguments.test, **given)
    else:
        result = compare(folder, arguments.enroll, arguments.test, **given)
    print(f"score {result.score:.4f} ({SCORES[result.kind]}; higher: more likely the same speaker)")
    if result.llr is not None:
        even = 0.5 * (1 + math.tanh(result.llr / 2))
        print(
            f"log likelihood ratio {result.llr:.2f} (natural; calibrated): probability {even:.4f} of the same "
            "speaker where that is as likely as not beforehand"
        )
    for path, duration_s, speech_s in zip(
        (arguments.enroll, arguments.test)[-len(result.durations_s) :],
        result.durations_s,
        result.speech_s,
        strict=True,
    ):
        print(f"{path}: {duration_s:.1f} s, {speech_s:.1f} s of speech")
    if result.same_speaker is not None:
        verdict = "same speaker" if result.same_speaker else "different speakers"
        at = [f"threshold {result.threshold:g}"] if result.threshold is not None else []
        at += [f"log likelihood ratio {result.llr_threshold:.2f}"] if result.llr_threshold is not None else []
        print(f"{verdict} at {', '.join(at)}")
        fitted = folder.calibration
        if fitted is not None and fitted.point is not None and result.llr_threshold == fitted.point.threshold:
            print(f"there, on {fitted.trials}: {rates(fitted.point)}")
    if arguments.json:
        write_json(arguments.json, {**dataclasses.asdict(result), "engine": folder.engine})
    return 0


def enroll(arguments: argparse.Namespace) -> int:
    """Add recordings of a speaker to a store; all of them or none."""
    from speakerverif.inference.embed import embed_all
    from speakerverif.inference.enrollment import Store

    folder = load(arguments)
    vectors = embed_all(folder, arguments.files, arguments.device).embeddings
    count = Store(arguments.store, folder.fingerprint, create=True).enroll(arguments.name, vectors)
    print(f"{arguments.name}: {count} recording{'s' * (count != 1)} enrolled in {arguments.store}")
    return 0


def identify(arguments: argparse.Namespace) -> int:
    """Show the enrolled speakers most like a recording, and name one where a threshold allows."""
    from speakerverif._util.files import write_json
    from speakerverif.inference.embed import embed_all
    from speakerverif.inference.enrollment import Store
    from speakerverif.inference.verify import Identification, compare

    folder = load(arguments)
    threshold, calibration = arguments.threshold, folder.calibration
    point = None if threshold is not None or calibration is None else calibration.point
    if calibration is not None and point is not None:
        inputs = calibration.kinds + calibration.quality
        if calibration.scoring in ("", "cosine") and inputs == ("cosine",):
            threshold, point = calibration.score_threshold(point.threshold), None
    store = Store(arguments.store, folder.fingerprint)
    recording = embed_all(folder, [arguments.file], arguments.device)
    if arguments.index and not store.has_index:
        store.build_index()
    candidates = store.search(recording.embeddings[0], arguments.top, arguments.index)
    accepted = threshold is not None and candidates[0][1] >= threshold
    found = Identification(candidates, threshold, candidates[0][0] if accepted else None)
    for name, score in found.candidates:
        print(f"{score:7.4f}  {name}")
    if threshold is not None:
        print(f"{found.name or 'nobody enrolled'} at threshold {threshold:.4f}")
    if point is not None:
        # Enrolled speakers are searched by cosine; what was calibrated are other scores: those of the best decide.
        best = found.candidates[0][0]
        result = compare(folder, recording, store.utterances(best), None, None)
        found = dataclasses.replace(found, name=best if result.same_speaker else None)
        print(
            f"{found.name or 'nobody enrolled'} at log likelihood ratio {point.threshold:.2f}; "
            f"{best} has {result.llr:.2f}"
        )
    if arguments.json:
        write_json(arguments.json, dataclasses.asdict(found))
    return 0


def load(arguments: argparse.Namespace, path: Path | None = None) -> "ModelFolder":
    """Return the model that the arguments name, or the one at `path`."""
    from speakerverif._util import resources
    from speakerverif.inference.engines import load_for_inference

    resources.use(arguments.threads)
    return load_for_inference(path or arguments.model, arguments.device, arguments.engine)


def rates(point: "DecisionPoint") -> str:
    """Return the error rates of an operating point as text, in percent."""

    def percent(rate: float, interval: tuple[float, float]) -> str:
        return f"{100 * rate:.2f} % [{100 * interval[0]:.2f}, {100 * interval[1]:.2f}]"

    return f"false alarms {percent(point.p_fa, point.p_fa_ci95)}, misses {percent(point.p_miss, point.p_miss_ci95)}"
