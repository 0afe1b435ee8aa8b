"""The subcommands that turn scores into decisions: verify, calibrate, enroll, identify."""

import argparse
import dataclasses
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from speakerverif.cli import sources
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


def add_calibrate(command: argparse.ArgumentParser) -> None:
    """Add the arguments of `calibrate`."""
    add = command.add_argument
    add("trials", type=Path, metavar="TRIALS", help="labelled trials of your own recordings")
    sources.add_arguments(command)
    add(
        "--quality",
        nargs="+",
        default=[],
        metavar="MEASURE",
        help="quality measures as further inputs: duration, speech, magnitude",
    )
    add("--far", type=float, metavar="F", help="choose the threshold of this false-alarm rate, 0.01 for 1 %%")
    add("--p-target", type=float, default=0.05, metavar="P", help="prior that matters most (default: 0.05)")
    add("--out", type=Path, metavar="FILE", help="write the calibration here too")


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

    folder = _model(arguments)
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
            print(f"there, on {fitted.trials}: {_rates(fitted.point)}")
    if arguments.json:
        write_json(arguments.json, {**dataclasses.asdict(result), "engine": folder.engine})
    return 0


def calibrate(arguments: argparse.Namespace) -> int:
    """Fit a calibration or a fusion on labelled trials, store it, and print what it promises."""
    from speakerverif.data.speakers import files_of, read_enroll_map, units_of
    from speakerverif.data.trials import TrialList
    from speakerverif.evaluation.metrics import DetCurve, act_dcf
    from speakerverif.scoring.calibration import fit

    stored = arguments.model
    if not stored and not arguments.out:
        raise InputError(
            "calibrate: give --model M to store the calibration in, or --scores S with --out FILE"
        )
    if stored and not stored.is_dir():
        raise InputError(
            f"{stored}: a calibration is stored in a model folder; calibrate that, then export it again"
        )
    if stored and len(arguments.scores or []) > 1:
        raise InputError(
            f"{len(arguments.scores)} --scores: a fusion is of several models; write it with --out FILE"
        )
    if arguments.scores or arguments.embeddings:
        arguments.model = None  # the scores are there: the model only takes the calibration
    sources.check(arguments)
    trials = TrialList.read(arguments.trials)
    enroll_map = read_enroll_map(arguments.enroll_map) if arguments.enroll_map else None
    try:
        source = sources.read(arguments, trials, enroll_map, stored)
    except sources.NotEmbeddedError as error:
        print(error, file=sys.stderr)
        return 1
    fingerprint, scoring = source.fingerprint, source.scoring
    written = [arguments.out] if arguments.out else []
    if stored:
        from speakerverif.models.folder import CALIBRATION
        from speakerverif.scoring.scorer import Scoring

        written.insert(0, stored / CALIBRATION)
        fingerprint = _model(arguments, stored).fingerprint
        scoring = Scoring.load(stored, fingerprint).name
        if source.scoring not in ("", scoring) or source.fingerprint not in ("", fingerprint):
            raise InputError(
                f"{stored}: is model {fingerprint} and scores by {scoring}; found scores of "
                f"{source.fingerprint or 'an unknown model'} by {source.scoring}"
            )
    units = units_of(trials, sources.read_speakers(arguments, files_of(trials, enroll_map)), enroll_map)
    quality = sources.quality(arguments.quality, arguments, source, enroll_map)
    fitted = fit(
        source.systems,
        quality,
        p_target=arguments.p_target,
        far=arguments.far,
        fingerprint=fingerprint,
        scoring=scoring,
        units=(units.enroll, units.test) if units.kind == "speaker" else None,
    )
    llrs = fitted.apply(source.systems, quality)
    assert trials.labels is not None
    actual = act_dcf(llrs.scores, trials.labels, arguments.p_target).cost
    least = DetCurve.of(llrs).min_dcf(arguments.p_target).cost
    names = [path.name for path in arguments.scores or []] if len(fitted.kinds) > 1 else ["score"]
    terms = [
        f"{weight:.4f} x {name}" for weight, name in zip(fitted.weights, [*names, *quality], strict=True)
    ]
    print(
        f"LLR = {' + '.join([*terms, f'{fitted.bias:.4f}'])}, fitted on {len(trials):,} trials of {trials.name}"
    )
    print(f"actDCF({arguments.p_target:g}) {actual:.4f}, minDCF {least:.4f}, on the trials it was fitted on")
    if (point := fitted.point) is not None:
        at = f"{fitted.score_threshold(point.threshold):.4f} (score), " if len(fitted.weights) == 1 else ""
        print(f"threshold {at}{point.threshold:.3f} (LLR): {_rates(point)}")
    for path in written:
        fitted.save(path)
        print(path)
    return 0


def enroll(arguments: argparse.Namespace) -> int:
    """Add recordings of a speaker to a store; all of them or none."""
    from speakerverif.inference.embed import embed_all
    from speakerverif.inference.enrollment import Store

    folder = _model(arguments)
    vectors = embed_all(folder, arguments.files, arguments.device).embeddings
    count = Store(arguments.store, folder.fingerprint, create=True).enroll(arguments.name, vectors)
    print(f"{arguments.name}: {count} recording{'s' * (count != 1)} enrolled in {arguments.store}")
    return 0


def identify(arguments: argparse.Namespace) -> int:
    """Show the enrolled speakers most like a recording, and name one where a threshold allows."""
    from speakerverif._util.files import write_json
    from speakerverif.inference.embed import embed_all
    from speakerverif.inference.enrollment import Store
    from speakerverif.inference.verify import compare

    folder = _model(arguments)
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
    found = store.identify(recording.embeddings[0], arguments.top, threshold, arguments.index)
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


def _model(arguments: argparse.Namespace, path: Path | None = None) -> "ModelFolder":
    from speakerverif._util import resources
    from speakerverif.inference.engines import load_model

    resources.use(arguments.threads)
    return load_model(path or arguments.model, arguments.device, arguments.engine)


def _rates(point: "DecisionPoint") -> str:
    def percent(rate: float, interval: tuple[float, float]) -> str:
        return f"{100 * rate:.2f} % [{100 * interval[0]:.2f}, {100 * interval[1]:.2f}]"

    return f"false alarms {percent(point.p_fa, point.p_fa_ci95)}, misses {percent(point.p_miss, point.p_miss_ci95)}"
