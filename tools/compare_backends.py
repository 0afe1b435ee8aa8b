"""Compare back ends, normalisation, calibration and fusion on speechocean762's dev lists, in one table.

    python tools/compare_backends.py --data DIR --model ECAPA --model XVECTOR --out DIR

Back ends and cohorts come from the training speakers' embeddings alone, with the sizes below, chosen beforehand.
Embeddings are kept in `--out` and not computed again.

First table, on all trials: EER, minDCF(0.05) and, for likelihood ratios, actDCF(0.05) and Cllr, with 95 % intervals
over speakers; the difference of the EER to the first model's raw cosine, with its interval and p-value.
Calibrations and fusions are cross-validated by speakers: a trial's likelihood ratio comes from a fit on trials whose
speakers are neither of its two.

Second table: twenty random halves of the speakers; fitted on the listed trials within one half, or on all pairs of
that half's recordings, and tested on the listed trials within the other. What counts is actDCF(0.05) over
minDCF(0.05), both means over the splits, on speakers that calibration never saw; and how often `far = 0.01`, chosen on
one half, is met on the other within the sampling error over speakers.
"""

import argparse
import dataclasses
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from speakerverif.corpora import speechocean762
from speakerverif.data.embeddings import EmbeddingTable
from speakerverif.data.manifest import Manifest, Utterance
from speakerverif.data.scores import ScoreList
from speakerverif.data.speakers import Units, units_of
from speakerverif.data.trials import TrialList
from speakerverif.evaluation import metrics
from speakerverif.evaluation.cross_calibration import held_out_fusion
from speakerverif.evaluation.intervals import Estimates, PairedDifference, estimate
from speakerverif.inference.embed import embed
from speakerverif.models.folder import read_model_folder
from speakerverif.scoring import calibration, decision, quality_measures
from speakerverif.scoring.scorer import Plan, fit

LISTS = ("trials", "trials_hard")
RANDOM = "trials"  # the list whose non-targets are any two speakers, as in all pairs
PLANS = {
    "cosine": Plan(),
    "mean subtracted": Plan(backend={"name": "cosine", "subtract_mean": True}),
    "AS-norm": Plan(norm="asnorm", top_n=100),
    "LDA": Plan(backend={"name": "lda", "dim": 100}),
    "WCCN": Plan(backend={"name": "wccn"}),
    "PLDA": Plan(backend={"name": "plda"}),
    "LDA, PLDA": Plan(backend={"name": "plda", "lda_dim": 100}),
}
CALIBRATED = ("cosine", "AS-norm", "LDA, PLDA")
PRIOR, FAR = 0.05, 0.01
SPLITS = 20


@dataclass(frozen=True)
class Task:
    """A trial list, the speakers that it compares, and each system's scores on it."""

    trials: TrialList
    units: Units
    systems: dict[str, list[ScoreList]]  # one list for a raw system, several for a fusion
    quality: dict[str, dict[str, np.ndarray]]  # further inputs of a calibration


def tables(model: Path, data: Path, out: Path) -> tuple[str, EmbeddingTable, EmbeddingTable]:
    """Return a model's name and its embeddings of the training and of the dev utterances."""
    prepared = speechocean762.prepare(data, out / "prepared")
    folder = read_model_folder(model)
    dev = [Utterance(u.id, u.path, u.speaker) for u in Manifest.read(out / "prepared" / "dev.tsv")]
    found = []
    for name, utterances in (("train", list(Manifest.read(prepared.train))), ("dev", dev)):
        path = out / f"{folder.fingerprint}-{name}.npz"
        if not path.is_file():
            embed(folder, utterances, label=f"{folder.name} {name}").save(path)
        found.append(EmbeddingTable.load(path))
    return folder.recipe.encoder["name"], found[0], found[1]


def all_pairs(trials: TrialList) -> TrialList:
    """Return all pairs of a list's recordings, with speakers as in the list."""
    enroll, test = np.triu_indices(len(trials.ids), 1)
    pairs = TrialList(trials.ids, enroll.astype(np.int32), test.astype(np.int32), None, "all pairs")
    units = units_of(pairs)
    return dataclasses.replace(pairs, labels=units.enroll == units.test)


def task(trials: TrialList, models: list[tuple[str, EmbeddingTable, EmbeddingTable]]) -> Task:
    """Return a list scored by each system."""
    units = units_of(trials)
    systems: dict[str, list[ScoreList]] = {}
    quality: dict[str, dict[str, np.ndarray]] = {}
    for model, train, dev in models:
        for label, plan in PLANS.items():
            cohort = train if plan.norm != "none" else None
            systems[f"{model} {label}"] = [fit(plan, train, cohort).score(trials, dev)[0]]
    for label in CALIBRATED:
        each = [systems[f"{model} {label}"][0] for model, *_ in models]
        for (model, *_), one in zip(models, each, strict=True):
            systems[f"{model} {label}, calibrated"] = [one]
        if len(models) > 1:
            systems[f"{label}, fused"] = each
    first, _, dev = models[0]
    label = f"{first} {CALIBRATED[-1]}, calibrated with durations and magnitudes"
    systems[label] = systems[f"{first} {CALIBRATED[-1]}"]
    quality[label] = quality_measures.of_trials(["duration", "magnitude"], trials, dev)
    return Task(trials, units, systems, quality)


def inputs(here: Task, system: str) -> np.ndarray:
    """Return the inputs of a calibration, (trials, inputs)."""
    columns = [one.scores for one in here.systems[system]] + list(here.quality.get(system, {}).values())
    return np.column_stack(columns)


def is_calibrated(system: str) -> bool:
    return "calibrated" in system or "fused" in system


def figures(here: Task, system: str) -> tuple[dict[str, float], Estimates]:
    """Return the figures of a system on all trials, and EER and minDCF with their intervals."""
    labels = np.asarray(here.trials.labels)
    calibrated = is_calibrated(system)
    scores = here.systems[system][0].scores
    if calibrated:
        scores = held_out_fusion(inputs(here, system), labels, here.units, PRIOR)
    curve = metrics.det_curve(scores, labels)
    found = {"eer": curve.eer().rate, "min_dcf": curve.min_dcf(PRIOR).cost}
    if calibrated:
        found["act_dcf"] = metrics.act_dcf(scores, labels, PRIOR).cost
        found["cllr"] = metrics.cllr(scores, labels)
    return found, estimate(scores, labels, here.units.enroll, here.units.test, (PRIOR,))


def whole_list(here: Task) -> list[dict[str, Any]]:
    """Return the rows of the first table."""
    rows, first = [], None
    for system in here.systems:
        found, estimates = figures(here, system)
        eer = estimates.eer
        row = {"system": system, **found}
        row |= {"eer_ci95": eer.interval(), "min_dcf_ci95": estimates.min_dcf[0].interval()}
        if first is None:
            first = eer
        else:
            change = PairedDifference.of(eer - first)
            row |= {"difference": change.difference, "difference_ci95": change.interval, "p": change.p_value}
        rows.append(row)
    return rows


def split(here: Task, fitted: Task, system: str, seed: int) -> dict[str, float]:
    """Return the figures of a calibration fitted on one half of the speakers, on the other half."""
    count = len(here.units.names)
    half = np.random.default_rng(seed).permutation(count) < count // 2
    fitted_on = half[fitted.units.enroll] & half[fitted.units.test]
    given, labels = inputs(fitted, system)[fitted_on], np.asarray(fitted.trials.labels)[fitted_on]
    weights, bias = calibration.fit_affine(given, labels, PRIOR)
    threshold = decision.threshold_at_far(given @ weights + bias, labels, FAR)
    tested_on = ~half[here.units.enroll] & ~half[here.units.test]
    held = inputs(here, system)[tested_on] @ weights + bias
    answers = np.asarray(here.trials.labels)[tested_on]
    units = here.units.enroll[tested_on], here.units.test[tested_on]
    point = decision.operating_point(held, answers, threshold, units)
    low, high = point.p_fa_ci95 or (np.nan, np.nan)
    curve = metrics.det_curve(held, answers)
    return {
        "eer": curve.eer().rate,
        "min_dcf": curve.min_dcf(PRIOR).cost,
        "act_dcf": metrics.act_dcf(held, answers, PRIOR).cost,
        "min_cllr": curve.min_cllr(),
        "cllr": metrics.cllr(held, answers),
        "far": point.p_fa,
        "far_within": low <= FAR <= high,
    }


def halves(here: Task, fitted: Task, note: str = "") -> list[dict[str, Any]]:
    """Return the rows of the second table: means over the splits."""
    rows = []
    for system in filter(is_calibrated, here.systems):
        each = [split(here, fitted, system, seed) for seed in range(SPLITS)]
        mean = {key: float(np.mean([one[key] for one in each])) for key in each[0]}
        ratios = [one["act_dcf"] / one["min_dcf"] for one in each]
        rows.append(
            {
                "system": system + note,
                **mean,
                "act_over_min": mean["act_dcf"] / mean["min_dcf"],
                "worst_split": max(ratios),
                "far_sd": float(np.std([one["far"] for one in each], ddof=1)),
                "far_within": sum(one["far_within"] for one in each),
            }
        )
    return rows


def show_whole(name: str, rows: list[dict[str, Any]]) -> None:
    print(f"\n| {name} | EER % | minDCF(0.05) | actDCF(0.05) | Cllr | EER less the first's | p |")
    print("|---|---|---|---|---|---|---|")
    for row in rows:
        eer = f"{100 * row['eer']:.2f} [{100 * row['eer_ci95'][0]:.2f}, {100 * row['eer_ci95'][1]:.2f}]"
        cost = "{:.3f} [{:.3f}, {:.3f}]".format(row["min_dcf"], *row["min_dcf_ci95"])
        rest = [f"{row[key]:.3f}" if key in row else "" for key in ("act_dcf", "cllr")]
        change = ["", ""]
        if "p" in row:
            low, high = (100 * x for x in row["difference_ci95"])
            change = [f"{100 * row['difference']:+.2f} [{low:+.2f}, {high:+.2f}]", f"{row['p']:.3f}"]
        print("| " + " | ".join([row["system"], eer, cost, *rest, *change]) + " |")


def show_halves(name: str, rows: list[dict[str, Any]]) -> None:
    print(
        f"\n| {name}, other half | EER % | minDCF(0.05) | actDCF(0.05) | act / min | worst split | min Cllr | Cllr "
        "| false alarms at 1 % | within error |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    for row in rows:
        cells = [f"{100 * row['eer']:.2f}", f"{row['min_dcf']:.3f}", f"{row['act_dcf']:.3f}"]
        cells += [f"{row['act_over_min']:.3f}", f"{row['worst_split']:.2f}"]
        cells += [f"{row['min_cllr']:.3f}", f"{row['cllr']:.3f}"]
        cells += [f"{100 * row['far']:.2f} ± {100 * row['far_sd']:.2f} %", f"{row['far_within']} of {SPLITS}"]
        print("| " + " | ".join([row["system"], *cells]) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of speechocean762")
    parser.add_argument(
        "--model", type=Path, action="append", required=True, help="model folder; give one or two"
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--threads", type=int)
    args = parser.parse_args()
    if args.threads:
        import torch

        torch.set_num_threads(args.threads)
    models = [tables(model, args.data, args.out) for model in args.model]
    print("; ".join(f"{name} {train.fingerprint}" for name, train, _ in models))
    record = {}
    for name in LISTS:
        trials = TrialList.read(args.out / "prepared" / "trials" / f"{name}.txt")
        here = task(trials, models)
        rows = halves(here, here)
        if name == RANDOM:
            rows += halves(here, task(all_pairs(trials), models), ", on all pairs")
        record[name] = {"halves": rows}
        show_halves(name, record[name]["halves"])
        record[name]["whole"] = whole_list(here)
        show_whole(name, record[name]["whole"])
    if args.json:
        args.json.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
