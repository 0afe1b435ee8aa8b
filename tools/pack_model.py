#!/usr/bin/env python3
"""Pack a trained model folder for shipping: small, with its cohort and its calibration.

    python tools/pack_model.py out/default/model --train out/default/data/train.tsv \\
        --calibrate-on parts/calibrate/trials.txt --audio-root speechocean762 --out speakerverif/default_model

- Weights are rounded to float16 where they are matrices; vectors (biases, batch norm's statistics) stay float32,
  which takes little room; variances may exceed float16's range.
- Head, log and state of training are left out.
- Back end and normalisation are fitted again, as the recipe's [backend] and [score] say (`--set score.norm=asnorm`
  changes them), on the embeddings that the rounded weights give of the training utterances.
- The calibration is fitted on the scores that this folder then gives the labelled trials of `--calibrate-on`, whose
  speakers neither training nor any reported list may use; `verify` decides at their `--far`.

Prints the cost of the rounding on those trials and the folder's size; `--json` writes both to a file.
"""

import argparse
import dataclasses
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from speakerverif._util.files import write_json
from speakerverif._util.messages import named
from speakerverif._util.toml import from_dict, override, to_dict
from speakerverif.config import Recipe
from speakerverif.data.embeddings import EmbeddingTable
from speakerverif.data.manifest import Manifest, Utterance
from speakerverif.data.speakers import units_of
from speakerverif.data.trials import TrialList
from speakerverif.errors import InputError
from speakerverif.evaluation.metrics import DetCurve
from speakerverif.inference.embed import embed
from speakerverif.models.folder import (
    CALIBRATION,
    CONFIG,
    WEIGHTS,
    ModelFolder,
    read_config,
    read_model_folder,
    save_model,
)
from speakerverif.scoring import calibration, cosine, quality_measures
from speakerverif.scoring.scorer import Scoring, fit, needs_training, plan_of


def halved(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return weights with matrices and kernels as float16; the others unchanged.

    Raises:
        InputError: a weight that float16 can't hold.
    """
    found = {
        name: tensor.half() if tensor.is_floating_point() and tensor.ndim > 1 else tensor
        for name, tensor in weights.items()
    }
    broken = [name for name, tensor in found.items() if not torch.isfinite(tensor).all()]
    if broken:
        raise InputError(f"{WEIGHTS}: beyond the range of float16: {named(broken)}")
    return found


def embedded(folder: ModelFolder, utterances: list[Utterance], label: str) -> EmbeddingTable:
    """Return the embeddings of all utterances, or raise `InputError`."""
    table = embed(folder, utterances, label=label)
    if table.failed:
        raise InputError(f"{len(table.failed)} of {len(utterances)} could not be embedded: {table.failed}")
    return table


def fit_scoring(folder: ModelFolder, recipe: Recipe, train: Path | None) -> Scoring:
    """Return the recipe's back end and normalisation, fitted on this model's embeddings of a manifest."""
    plan = plan_of(recipe)
    if not needs_training(recipe):
        return fit(dataclasses.replace(plan, fingerprint=folder.fingerprint), None, None)
    if train is None:
        raise InputError(
            "--train M.tsv: the recipe's back end or normalisation needs the training utterances"
        )
    utterances = list(Manifest.read(train))
    table = embedded(folder, utterances, "train")
    return fit(plan, table, None if plan.norm == "none" else table, {u.id: u.speaker for u in utterances})


def pack(
    source: Path,
    out: Path,
    trials_path: Path,
    audio_root: Path,
    *,
    train: Path | None,
    assignments: list[str],
    far: float,
    p_target: float,
) -> dict[str, Any]:
    """Write the folder and return the record of its figures.

    Args:
        source: the model folder of a training that has finished.
        out: a folder that is made, or a model folder that is replaced.
        trials_path: labelled trials to calibrate on.
        audio_root: where their files are.
        train: manifest of the training utterances; None where the scoring needs no training.
        assignments: `key=value` changes of the recipe's [backend] and [score].
        far: false-alarm rate at which `verify` decides.
        p_target: prior that the calibration is best at.

    Raises:
        InputError: an unfinished training; an existing folder that is no model folder; recordings that can't be
            embedded.
    """
    recipe, trained = read_config(source)
    recipe = from_dict(Recipe, override(to_dict(recipe), assignments), "--set")
    if trained.get("finished") is False:
        raise InputError(f"{source}: its training has not finished")
    if out.exists() and not (out / CONFIG).is_file():
        raise InputError(f"{out}: is there, and no model folder; expected a new folder or one to replace")
    before = read_model_folder(source)
    aside = out.with_name(f"{out.name}.part")
    shutil.rmtree(aside, ignore_errors=True)
    save_model(
        aside,
        halved(load_file(source / WEIGHTS)),
        {},
        recipe,
        before.speakers,
        {**trained, "stored_as": "float16", "before_rounding": before.fingerprint},
    )
    folder = read_model_folder(aside)
    scoring = fit_scoring(folder, recipe, train)
    scoring.save(aside)

    trials = TrialList.read(trials_path)
    # `verify` prints the name from the folder: corpus, part and list, without the path.
    name = f"{audio_root.resolve().name} {'/'.join(trials_path.resolve().parts[-2:])}"
    trials = dataclasses.replace(trials, name=name)
    heard = [Utterance(name, str(audio_root / name), "") for name in trials.ids]
    full, table = embedded(before, heard, "as trained"), embedded(folder, heard, "rounded")
    scores, _ = scoring.score(trials, table)
    units = units_of(trials)
    fitted = calibration.fit(
        [scores],
        p_target=p_target,
        far=far,
        fingerprint=folder.fingerprint,
        scoring=scoring.name,
        units=(units.enroll, units.test) if units.kind == "speaker" else None,
        speech_s=quality_measures.typical_speech(trials, table),
    )
    fitted.save(aside / CALIBRATION)
    read_model_folder(aside)
    shutil.rmtree(out, ignore_errors=True)
    aside.rename(out)

    cosines = np.einsum(
        "ij,ij->i", *(t.embeddings / np.linalg.norm(t.embeddings, axis=1)[:, None] for t in (full, table))
    )
    eers = {
        name: DetCurve.of(cosine.cosine(trials, t)).eer().rate
        for name, t in (("float32", full), ("float16", table))
    }
    return {
        "name": folder.name,
        "fingerprint": folder.fingerprint,
        "bytes": sum(path.stat().st_size for path in out.iterdir()),
        "scoring": scoring.name,
        "calibrated_on": {"list": trials.name, "trials": len(trials), "speakers": len(units.names)},
        "least_cosine_to_float32": float(cosines.min()),
        "eer_cosine": eers,
        "eer": DetCurve.of(scores).eer().rate,
    }


def main() -> int:
    """Return the exit status: 0 done, 2 wrong input."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path, metavar="MODEL", help="folder that training wrote")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--train", type=Path, metavar="M.tsv", help="manifest of the training utterances")
    parser.add_argument("--calibrate-on", type=Path, required=True, metavar="TRIALS")
    parser.add_argument(
        "--audio-root",
        type=Path,
        required=True,
        metavar="DIR",
        help="folder that the trials' paths are relative to",
    )
    parser.add_argument("--set", dest="assignments", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--far", type=float, default=0.01, metavar="F")
    parser.add_argument("--p-target", type=float, default=0.05, metavar="P")
    parser.add_argument("--threads", type=int, metavar="N")
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    try:
        found = pack(
            args.model,
            args.out,
            args.calibrate_on,
            args.audio_root,
            train=args.train,
            assignments=args.assignments,
            far=args.far,
            p_target=args.p_target,
        )
    except InputError as error:
        print(f"pack_model.py: {error}", file=sys.stderr)
        return 2
    eers = found["eer_cosine"]
    print(
        f"{args.out}: {found['name']} {found['fingerprint']}, {found['bytes'] / 1e6:.2f} MB, "
        f"scores by {found['scoring']}"
    )
    print(
        f"calibrated on {found['calibrated_on']['trials']:,} trials of {found['calibrated_on']['speakers']} speakers"
    )
    print(
        f"EER there by cosine: {100 * eers['float32']:.2f} % as trained, {100 * eers['float16']:.2f} % rounded; "
        f"as it scores: {100 * found['eer']:.2f} %"
    )
    print(
        f"embeddings have a cosine of {found['least_cosine_to_float32']:.6f} or more with those before rounding"
    )
    if args.json:
        write_json(args.json, found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
