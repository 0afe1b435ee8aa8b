"""The subcommands that turn scores into decisions: verify, calibrate, enroll, identify."""

import argparse
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from speakerverif._files import write_json
from speakerverif.errors import InputError

if TYPE_CHECKING:
    from speakerverif.checkpoint import ModelFolder
    from speakerverif.lists import ScoreList, TrialList


def add_verify(command: argparse.ArgumentParser) -> None:
    """Add the arguments of `verify`."""
    add = command.add_argument
    add("enroll", metavar="A", help="a recording; with --store the name of an enrolled speaker")
    add("test", type=Path, metavar="B", help="a recording")
    add("--model", type=Path, metavar="MODEL")
    add("--threshold", type=float, metavar="T", help="accept at this score or above")
    add("--store", type=Path, metavar="DIR", help="where A is enrolled")
    add("--p-target", type=float, metavar="P", help="prior of the same speaker, for a calibrated model")
    add("--c-miss", type=float, default=1.0, metavar="C", help="cost of a miss (default: 1)")
    add("--c-fa", type=float, default=1.0, metavar="C", help="cost of a false alarm (default: 1)")
    add("--json", type=Path, metavar="FILE")


def add_calibrate(command: argparse.ArgumentParser) -> None:
    """Add the arguments of `calibrate`."""
    add = command.add_argument
    add("trials", type=Path, metavar="TRIALS", help="labelled trials of your own recordings")
    add("--model", type=Path, metavar="M", help="embed the trials' files, and store the calibration in M")
    add("--scores", type=Path, metavar="S", help="ready scores of the trials")
    add("--audio-root", type=Path, metavar="DIR", help="where the files are (default: the list's folder)")
    add("--speakers", type=Path, metavar="utt2spk", help="speakers of the files, for the intervals")
    add("--far", type=float, metavar="F", help="choose the threshold of this false-alarm rate, 0.01 for 1 %%")
    add("--p-target", type=float, default=0.05, metavar="P", help="prior that matters most (default: 0.05)")
    add("--out", type=Path, metavar="FILE", help="write the calibration here too")


def add_enroll(command: argparse.ArgumentParser) -> None:
    """Add the arguments of `enroll`."""
    add = command.add_argument
    add("name", metavar="NAME")
    add("files", nargs="+", type=Path, metavar="FILE")
    add("--store", type=Path, required=True, metavar="DIR", help="made where absent")
    add("--model", type=Path, metavar="MODEL")


def add_identify(command: argparse.ArgumentParser) -> None:
    """Add the arguments of `identify`."""
    add = command.add_argument
    add("file", type=Path, metavar="FILE")
    add("--store", type=Path, required=True, metavar="DIR")
    add("--model", type=Path, metavar="MODEL")
    add("--threshold", type=float, metavar="T", help="name the best at this score or above")
    add("--top", type=int, default=5, metavar="N", help="candidates to show (default: 5)")
    add("--json", type=Path, metavar="FILE")


def verify(arguments: argparse.Namespace) -> int:
    """Compare two recordings, or a recording with an enrolled speaker; decide where one can."""
    from speakerverif.calibrate import bayes_threshold
    from speakerverif.verify import verify as compare
    from speakerverif.verify import verify_enrolled

    folder = _model(arguments)
    llr_threshold = None
    if arguments.p_target is not None:
        if folder.calibration is None:
            raise InputError(
                f"--p-target: {folder.path} is not calibrated; run `speakerverif calibrate`, or give --threshold"
            )
        llr_threshold = bayes_threshold(arguments.p_target, arguments.c_miss, arguments.c_fa)
    given = {"threshold": arguments.threshold, "llr_threshold": llr_threshold, "device": arguments.device}
    if arguments.store:
        result = verify_enrolled(folder, arguments.store, arguments.enroll, arguments.test, **given)
    else:
        result = compare(folder, arguments.enroll, arguments.test, **given)
    print(f"score {result.score:.4f} (cosine similarity; higher: more likely the same speaker)")
    if result.llr is not None:
        print(f"log likelihood ratio {result.llr:.2f} (natural; calibrated)")
    for path, duration_s, speech_s in zip(
        (arguments.enroll, arguments.test)[-len(result.durations_s) :],
        result.durations_s,
        result.speech_s,
        strict=True,
    ):
        print(f"{path}: {duration_s:.1f} s, {speech_s:.1f} s of speech")
    if result.same_speaker is not None:
        verdict = "same speaker" if result.same_speaker else "different speakers"
        print(f"{verdict} at threshold {result.threshold:g}")
    if arguments.json:
        write_json(arguments.json, dataclasses.asdict(result))
    return 0


def calibrate(arguments: argparse.Namespace) -> int:
    """Fit a calibration on labelled trials, store it, and print what it promises."""
    from speakerverif.audit import read_speakers, units_of
    from speakerverif.calibrate import fit
    from speakerverif.checkpoint import CALIBRATION
    from speakerverif.lists import ScoreList, TrialList
    from speakerverif.metrics import DetCurve, act_dcf

    if not arguments.model and not (arguments.scores and arguments.out):
        raise InputError(
            "calibrate: give --model M to store the calibration in, or --scores S with --out FILE"
        )
    trials = TrialList.read(arguments.trials)
    folder = _model(arguments) if arguments.model else None
    if arguments.scores:
        scores = ScoreList.read(arguments.scores, trials)
    else:
        assert folder is not None
        scores = _cosine(folder, trials, arguments)
    speakers = read_speakers(arguments.speakers, trials.ids) if arguments.speakers else None
    units = units_of(trials, speakers)
    fitted = fit(
        [scores],
        p_target=arguments.p_target,
        far=arguments.far,
        fingerprint=folder.fingerprint if folder else "",
        units=(units.enroll, units.test) if units.kind == "speaker" else None,
    )
    llrs = fitted.apply([scores])
    assert trials.labels is not None
    actual = act_dcf(llrs.scores, trials.labels, arguments.p_target).cost
    least = DetCurve.of(llrs).min_dcf(arguments.p_target).cost
    print(
        f"LLR = {fitted.weights[0]:.4f} x score + {fitted.bias:.4f}, fitted on {len(trials):,} trials of {trials.name}"
    )
    print(f"actDCF({arguments.p_target:g}) {actual:.4f}, minDCF {least:.4f}, on the trials it was fitted on")
    if (point := fitted.point) is not None:
        print(
            f"threshold {fitted.score_threshold(point.threshold):.4f} (score), {point.threshold:.3f} (LLR): "
            f"false alarms {_percent(point.p_fa, point.p_fa_ci95)}, misses {_percent(point.p_miss, point.p_miss_ci95)}"
        )
    if folder is not None:
        fitted.save(folder.path / CALIBRATION)
        print(folder.path / CALIBRATION)
    if arguments.out:
        fitted.save(arguments.out)
        print(arguments.out)
    return 0


def enroll(arguments: argparse.Namespace) -> int:
    """Add recordings of a speaker to a store; all of them or none."""
    from speakerverif.embed import embed_all
    from speakerverif.store import Store

    folder = _model(arguments)
    vectors = embed_all(folder, arguments.files, arguments.device).embeddings
    count = Store(arguments.store, folder.fingerprint, create=True).enroll(arguments.name, vectors)
    print(f"{arguments.name}: {count} recording{'s' * (count != 1)} enrolled in {arguments.store}")
    return 0


def identify(arguments: argparse.Namespace) -> int:
    """Show the enrolled speakers most like a recording, and name one where a threshold allows."""
    from speakerverif.embed import embed_all
    from speakerverif.store import Store

    folder = _model(arguments)
    threshold = arguments.threshold
    if threshold is None and folder.calibration is not None and folder.calibration.point is not None:
        threshold = folder.calibration.score_threshold(folder.calibration.point.threshold)
    store = Store(arguments.store, folder.fingerprint)
    vector = embed_all(folder, [arguments.file], arguments.device).embeddings[0]
    found = store.identify(vector, arguments.top, threshold)
    for name, score in found.candidates:
        print(f"{score:7.4f}  {name}")
    if threshold is not None:
        print(f"{found.name or 'nobody enrolled'} at threshold {threshold:.4f}")
    if arguments.json:
        write_json(arguments.json, dataclasses.asdict(found))
    return 0


def _model(arguments: argparse.Namespace) -> "ModelFolder":
    import torch

    from speakerverif.checkpoint import load_model, resolve_model

    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    return load_model(resolve_model(arguments.model), arguments.device)


def _cosine(folder: "ModelFolder", trials: "TrialList", arguments: argparse.Namespace) -> "ScoreList":
    """Return the cosine scores of a list whose files are embedded now."""
    from speakerverif.embed import embed, print_failures
    from speakerverif.lists import Utterance
    from speakerverif.score import cosine

    root = arguments.audio_root or arguments.trials.parent
    table = embed(folder, [Utterance(i, str(root / i), "") for i in trials.ids], device=arguments.device)
    if table.failed:
        print_failures(table)
        raise InputError(f"{len(table.failed)} of {len(trials.ids)} recordings could not be embedded")
    return cosine(trials, table)


def _percent(rate: float, interval: tuple[float, float]) -> str:
    return f"{100 * rate:.2f} % [{100 * interval[0]:.2f}, {100 * interval[1]:.2f}]"
