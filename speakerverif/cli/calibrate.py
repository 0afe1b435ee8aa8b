"""The `calibrate` command: calibration to likelihood ratios, and a threshold with its error rates."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from speakerverif.cli import decide, options, sources
from speakerverif.errors import InputError

if TYPE_CHECKING:
    from speakerverif.inference.calibrate_list import Adaptation, CalibratedList
    from speakerverif.inference.calibrate_people import CalibratedPeople
    from speakerverif.inference.embedded_people import People

FAILURE = 1

# Options for the trials of a list; generated trials have recordings and their speakers.
OF_TRIAL_LISTS = (
    *("scores", "score_kind", "embeddings", "backend", "backend_train", "assignments", "norm", "cohort"),
    *("enroll_map", "speakers", "quality_from", "crops", "batch_size", "adapt", "adapt_by", "adapt_weight"),
)


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Add the arguments of `calibrate`."""
    add = command.add_argument
    add("trials", nargs="?", type=Path, metavar="TRIALS", help="labelled trials of your own recordings")
    add(
        "--folder",
        type=Path,
        metavar="DIR",
        help="make the trials: a folder of recordings per person, in DIR",
    )
    add(
        "--manifest",
        type=Path,
        metavar="LIST",
        help="make the trials: a list of recordings with their speakers",
    )
    add(
        "--store",
        type=Path,
        metavar="DIR",
        help="make the trials: the people enrolled in a store, and keep it there",
    )
    add(
        "--enroll",
        type=options.whole_number(1, 1000),
        metavar="N",
        help="recordings per enrolment, in trials that are made (default: 1)",
    )
    sources.add_arguments(command)
    add(
        "--quality",
        nargs="+",
        default=[],
        metavar="MEASURE",
        help="quality measures as further inputs: duration, speech, magnitude, cohort",
    )
    add(
        "--far",
        type=float,
        metavar="F",
        help="choose the threshold of this false-alarm rate, 0.01 for 1 %% (default, where trials are made: that of "
        "--p-target at equal costs)",
    )
    add("--p-target", type=float, default=0.05, metavar="P", help="prior that matters most (default: 0.05)")
    add(
        "--seed",
        type=options.whole_number(0, options.MOST_SEED),
        metavar="N",
        help="of the trials that are made (default: 0)",
    )
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
    add("--json", type=Path, metavar="FILE", help="write what the figures rest on; for trials that are made")
    add(
        "--remove",
        action="store_true",
        help="delete the calibration of --store, of --model, or your own of the built-in model",
    )


def run(arguments: argparse.Namespace) -> int:
    """Fit a calibration or fusion, store it, and print its figures."""
    from speakerverif.inference.score_sources import NotEmbeddedError

    sources_given = [name for name in ("folder", "manifest", "store") if getattr(arguments, name)]
    if arguments.remove:
        return _remove(arguments)
    if len(sources_given) + bool(arguments.trials) != 1:
        raise InputError("calibrate: give TRIALS, or --folder DIR, or --manifest LIST, or --store DIR")
    if arguments.model and not arguments.model.is_dir():
        raise InputError(
            f"{arguments.model}: a calibration is stored in a model folder; calibrate that, then export it again"
        )
    try:
        return _run_people(arguments, sources_given[0]) if sources_given else _run_list(arguments)
    except NotEmbeddedError as error:
        print(error, file=sys.stderr)
        return FAILURE


def _run_list(arguments: argparse.Namespace) -> int:
    """Calibrate on a trial list."""
    from speakerverif.inference.calibrate_list import CalibrationRequest, calibrate_list

    for name in ("enroll", "seed", "json"):
        if getattr(arguments, name) is not None:
            raise InputError(f"--{name} does nothing with TRIALS")
    stored = arguments.model
    if not stored and not arguments.out:
        if arguments.scores or arguments.adapt:
            raise InputError(
                "calibrate: give --model M to store the calibration in, or --scores S with --out FILE"
            )
        stored = _built_in()
    if stored and len(arguments.scores or []) > 1:
        raise InputError(
            f"{len(arguments.scores)} --scores: a fusion is of several models; write it with --out FILE"
        )
    if arguments.scores or arguments.embeddings:
        arguments.model = None  # scores are given: the calibration is only stored in the model
    sources.check(arguments)
    fitted = calibrate_list(
        CalibrationRequest(
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
    )
    _print_list(arguments, fitted)
    if fitted.adapted is not None:
        fitted.adapted.save(stored)
        print(f"back end adapted to {fitted.adapted.plan.adapted_to}")
    if stored:
        print(fitted.keep(stored))
    if arguments.out:
        fitted.calibration.save(arguments.out)
        print(arguments.out)
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


def _run_people(arguments: argparse.Namespace, source: str) -> int:
    """Calibrate on trials that are made of people's recordings."""
    from speakerverif._util.files import write_json
    from speakerverif.inference.calibrate_people import PeopleRequest, calibrate_people

    idle = [name for name in OF_TRIAL_LISTS if getattr(arguments, name)]
    if idle:
        option = "set" if idle[0] == "assignments" else idle[0].replace("_", "-")
        raise InputError(f"--{option} does nothing with --{source}")
    fitted = calibrate_people(
        PeopleRequest(
            people=_people(arguments),
            model=arguments.model,
            enrolled=arguments.enroll or 1,
            quality=arguments.quality,
            far=arguments.far,
            p_target=arguments.p_target,
            seed=arguments.seed or 0,
            device=arguments.device,
            engine=arguments.engine,
            precision=arguments.precision,
            threads=arguments.threads,
            channel=options.single_channel(arguments, "calibrate"),
        )
    )
    _print_people(fitted)
    if arguments.out:
        fitted.calibration.save(arguments.out)
        print(arguments.out)
    if arguments.json:
        write_json(arguments.json, fitted.to_json())
    fitted.keep()
    print(fitted.place)
    return 0


def _people(arguments: argparse.Namespace) -> "People":
    from speakerverif.inference.embedded_people import PeopleFolder, PeopleManifest, PeopleStore

    if arguments.folder:
        return PeopleFolder(arguments.folder)
    if arguments.manifest:
        return PeopleManifest(arguments.manifest, arguments.audio_root)
    return PeopleStore(arguments.store, arguments.audio_root)


def _remove(arguments: argparse.Namespace) -> int:
    """Delete a stored calibration."""
    from speakerverif.inference import stored_calibration
    from speakerverif.models.folder import CALIBRATION, read_model_folder

    if arguments.trials or arguments.folder or arguments.manifest or (arguments.store and arguments.model):
        raise InputError(
            "calibrate --remove: give --store DIR, or --model MODEL, or neither for the built-in model"
        )
    if arguments.store:
        path = arguments.store / CALIBRATION
    else:
        folder = arguments.model or _built_in()
        path = folder / CALIBRATION
        if stored_calibration.is_kept_by_user(folder):
            path = stored_calibration.place_of(folder, read_model_folder(folder).fingerprint)
    stored_calibration.remove(path)
    print(f"{path}: removed")
    return 0


def _built_in() -> Path:
    from speakerverif.models.folder import resolve_model

    return resolve_model(None)


def _print_list(arguments: argparse.Namespace, fitted: "CalibratedList") -> None:
    """Print the calibration and its figures on the trials that it was fitted on."""
    calibration, trials = fitted.calibration, fitted.llrs.trials
    names = [path.name for path in arguments.scores or []] if len(calibration.kinds) > 1 else ["score"]
    print(f"{_formula(fitted, names)}, fitted on {len(trials):,} trials of {trials.name}")
    print(
        f"actDCF({calibration.p_target:g}) {fitted.act_dcf:.4f}, minDCF {fitted.min_dcf:.4f}, "
        "on the trials it was fitted on"
    )
    _print_threshold(fitted)


def _print_people(fitted: "CalibratedPeople") -> None:
    """Print what a calibration rests on, and its figures on speakers that it was not fitted on."""
    record = fitted.to_json()
    calibration, held_out = fitted.calibration, record["held_out"]
    lengths = ""
    if record["mean_test_s"]:
        lengths = "; tests of {:.1f} and {:.1f} s on average".format(*record["mean_test_s"])
    print(
        f"{fitted.recordings:,} recordings of {fitted.speakers} speakers: {record['targets']:,} target trials, "
        f"{record['nontargets']:,} non-target trials of {fitted.speaker_pairs:,} pairs of speakers{lengths}"
    )
    for name in fitted.repeated:
        print(f"counted once, given twice: {name}")
    print(f"{_formula(fitted, ['score'])}, of scores: {decide.SCORES[calibration.kinds[0]]}")
    print("judged without the speakers that a calibration was fitted on (cross-fitted):")
    print(
        f"actDCF({calibration.p_target:g}) {held_out['act_dcf']:.4f}, minDCF {held_out['min_dcf']:.4f}, "
        f"Cllr {held_out['cllr']:.4f}"
    )
    _print_threshold(fitted)


def _formula(fitted: "CalibratedList | CalibratedPeople", names: list[str]) -> str:
    calibration = fitted.calibration
    inputs = [*names, *calibration.quality]
    terms = [f"{weight:.4f} x {name}" for weight, name in zip(calibration.weights, inputs, strict=True)]
    sign = "-" if calibration.bias < 0 else "+"
    return f"LLR = {' + '.join(terms)} {sign} {abs(calibration.bias):.4f}"


def _print_threshold(fitted: "CalibratedList | CalibratedPeople") -> None:
    calibration = fitted.calibration
    if (point := calibration.point) is not None:
        single = len(calibration.weights) == 1
        at = f"{calibration.score_threshold(point.threshold):.4f} (score), " if single else ""
        print(f"threshold {at}{point.threshold:.3f} (LLR): {decide.rates(point)}")
