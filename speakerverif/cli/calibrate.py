"""The `calibrate` command: calibration to likelihood ratios, and a threshold with its error rates."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from speakerverif.cli import decide, sources
from speakerverif.errors import InputError

if TYPE_CHECKING:
    from speakerverif.inference.calibrate_list import Adaptation, CalibratedList

CALIBRATION = "calibration.toml"  # in a model folder


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Add the arguments of `calibrate`."""
    add = command.add_argument
    add("trials", type=Path, metavar="TRIALS", help="labelled trials of your own recordings")
    sources.add_arguments(command)
    add(
        "--quality",
        nargs="+",
        default=[],
        metavar="MEASURE",
        help="quality measures as further inputs: duration, speech, magnitude, cohort",
    )
    add("--far", type=float, metavar="F", help="choose the threshold of this false-alarm rate, 0.01 for 1 %%")
    add("--p-target", type=float, default=0.05, metavar="P", help="prior that matters most (default: 0.05)")
    add("--out", type=Path, metavar="FILE", help="write the calibration here too")
    add(
        "--adapt",
        type=Path,
        metavar="E.npz",
        help="first adapt the model's PLDA to the domain of these embeddings, of speakers who are in no trials",
    )
    add(
        "--adapt-by",
        choices=("coral+", "kaldi", "interpolate"),
        help="method: coral+ (default) or kaldi, without speakers; interpolate, with those of --speakers or the paths",
    )
    add("--adapt-weight", type=float, metavar="W", help="0: the old model, 1: the new domain (default: 0.5)")


def run(arguments: argparse.Namespace) -> int:
    """Fit a calibration or fusion on labelled trials, store it, and print its figures."""
    from speakerverif.inference.calibrate_list import CalibrationRequest, calibrate_list
    from speakerverif.inference.score_sources import NotEmbeddedError

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
        arguments.model = None  # scores are given: the calibration is only stored in the model
    sources.check(arguments)
    request = CalibrationRequest(
        trials=arguments.trials,
        source=sources.source_of(arguments, stored),
        enroll_map=arguments.enroll_map,
        speakers=arguments.speakers or (),
        quality_from=arguments.quality_from,
        quality=arguments.quality,
        p_target=arguments.p_target,
        far=arguments.far,
        model=stored,
        adaptation=_adaptation(arguments),
    )
    try:
        fitted = calibrate_list(request)
    except NotEmbeddedError as error:
        print(error, file=sys.stderr)
        return 1
    _print(arguments, fitted)
    if fitted.adapted is not None:
        fitted.adapted.save(stored)
        print(f"back end adapted to {fitted.adapted.plan.adapted_to}")
    written = [stored / CALIBRATION] if stored else []
    for path in [*written, *([arguments.out] if arguments.out else [])]:
        fitted.calibration.save(path)
        print(path)
    return 0


def _adaptation(arguments: argparse.Namespace) -> "Adaptation | None":
    """Return the adaptation that the arguments ask for; None where they ask for none."""
    from speakerverif.inference.calibrate_list import Adaptation

    method, weight = arguments.adapt_by, arguments.adapt_weight
    if arguments.adapt is None:
        if method is not None or weight is not None:
            raise InputError("--adapt-by and --adapt-weight do nothing without --adapt E.npz")
        return None
    if arguments.scores or arguments.backend or arguments.norm:
        raise InputError("--adapt is of the model's own back end: leave out --scores, --backend and --norm")
    return Adaptation(arguments.adapt, method or "coral+", 0.5 if weight is None else weight)


def _print(arguments: argparse.Namespace, fitted: "CalibratedList") -> None:
    """Print the calibration and its figures on the trials that it was fitted on."""
    calibration, trials = fitted.calibration, fitted.llrs.trials
    names = [path.name for path in arguments.scores or []] if len(calibration.kinds) > 1 else ["score"]
    inputs = [*names, *calibration.quality]
    terms = [f"{weight:.4f} x {name}" for weight, name in zip(calibration.weights, inputs, strict=True)]
    print(
        f"LLR = {' + '.join([*terms, f'{calibration.bias:.4f}'])}, "
        f"fitted on {len(trials):,} trials of {trials.name}"
    )
    print(
        f"actDCF({calibration.p_target:g}) {fitted.act_dcf:.4f}, minDCF {fitted.min_dcf:.4f}, "
        "on the trials it was fitted on"
    )
    if (point := calibration.point) is not None:
        single = len(calibration.weights) == 1
        at = f"{calibration.score_threshold(point.threshold):.4f} (score), " if single else ""
        print(f"threshold {at}{point.threshold:.3f} (LLR): {decide.rates(point)}")
