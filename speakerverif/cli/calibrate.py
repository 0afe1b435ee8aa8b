"""The `calibrate` subcommand: labelled scores to likelihood ratios, and a threshold with its error rates."""

import argparse
import sys
from pathlib import Path

from speakerverif.cli import decide, sources
from speakerverif.errors import InputError


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
        help="quality measures as further inputs: duration, speech, magnitude",
    )
    add("--far", type=float, metavar="F", help="choose the threshold of this false-alarm rate, 0.01 for 1 %%")
    add("--p-target", type=float, default=0.05, metavar="P", help="prior that matters most (default: 0.05)")
    add("--out", type=Path, metavar="FILE", help="write the calibration here too")


def run(arguments: argparse.Namespace) -> int:
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
        fingerprint = decide.load(arguments, stored).fingerprint
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
        print(f"threshold {at}{point.threshold:.3f} (LLR): {decide.rates(point)}")
    for path in written:
        fitted.save(path)
        print(path)
    return 0
