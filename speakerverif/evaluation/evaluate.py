"""Scores to the record that says how good they are."""

import time
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from speakerverif.data.scores import ScoreKind, ScoreList
from speakerverif.data.speakers import EnrollMap, Units, units_of
from speakerverif.data.trial_audit import audit
from speakerverif.evaluation.metrics import DetCurve, act_dcf, bootstrap, cllr, interval

if TYPE_CHECKING:
    pass

AUDITED = ("missing", "self_pairs", "duplicates", "mirrored")


def evaluate(
    scores: ScoreList,
    *,
    p_targets: Sequence[float] = (0.01, 0.05),
    samples: int = 1000,
    seed: int = 0,
    speakers: Mapping[str, str] | None = None,
    enroll_map: EnrollMap | None = None,
    raw: ScoreList | None = None,
    crops: str | None = None,
    backend: dict[str, Any] | None = None,
    norm: dict[str, Any] | None = None,
    calibration: dict[str, Any] | None = None,
    model: dict[str, Any] | None = None,
    training_speakers: Collection[str] | None = None,
) -> dict[str, Any]:
    """Return the JSON record of a scoring; rates are fractions, an infinite threshold is null.

    Args:
        scores: with labels.
        p_targets: priors of a target trial for the detection costs.
        samples: of the bootstrap; 0 gives no intervals.
        seed: of the bootstrap.
        speakers: file -> speaker; None: told from the paths (see `units_of`).
        enroll_map: model -> its files.
        raw: the same trials before normalisation; their figures stand in the record beside the others.
        crops: what of each file was embedded; None: not known.
        backend: what compared the embeddings; None: not known.
        norm: how the scores were normalised; None: not at all.
        calibration: what made the scores likelihood ratios; None: nothing that is known.
        model: name and fingerprint of the model; None: not known.
        training_speakers: whom the model learnt from, to count those in the trials; None: not known.

    Raises:
        InputError: no labels, one class only, scores that are not finite, a pair with both labels.
    """
    began = time.perf_counter()
    trials, curve = scores.trials, DetCurve.of(scores)
    found, units = audit(trials, enroll_map), units_of(trials, speakers, enroll_map)
    known = units.kind == "speaker"
    keys = {f"{p:g}": p for p in p_targets}
    record: dict[str, Any] = {
        "trials": len(trials),
        "targets": int(curve.misses[-1]),
        "nontargets": int(curve.false_alarms[0]),
        **_figures(scores, curve, units, keys, samples, seed),
        "raw": None,
        "crops": crops,
        "backend": backend,
        "norm": norm,
        "calibration": calibration,
        "list": {
            "name": trials.name,
            "sha256": trials.sha256,
            "known_as": found.known_as,
            "missing": 0,  # a trial without a score is an error, never left out
            "self_pairs": found.self_pairs,
            "duplicates": found.duplicates,
            "mirrored": found.mirrored,
            "labels_against_speakers": int(((units.enroll == units.test) != trials.labels).sum())
            if known
            else None,
        },
        "model": model,
    }
    if model is not None:
        seen = set(units.names) & set(training_speakers) if known and training_speakers is not None else None
        record["model"] = {**model, "training_speakers_in_trials": None if seen is None else len(seen)}
    if raw is not None:
        record["raw"] = _figures(raw, DetCurve.of(raw), units, keys, samples, seed)
    record["seconds"] = time.perf_counter() - began
    return record


def _figures(
    scores: ScoreList, curve: DetCurve, units: Units, keys: dict[str, float], samples: int, seed: int
) -> dict[str, Any]:
    """Return the part of the record that the scores alone decide."""
    labels, figures = np.asarray(scores.trials.labels), figures_of(curve, keys, scores.kind)
    if scores.kind == "llr":
        figures["act_dcf"] = {key: act_dcf(scores.scores, labels, p).cost for key, p in keys.items()}
        figures["cllr"] = cllr(scores.scores, labels)
    if samples:
        priors = list(keys.values())
        drawn = bootstrap(scores.scores, labels, units.enroll, units.test, priors, samples, seed)
        figures["eer_ci95"] = interval(drawn.eer)
        figures["min_dcf_ci95"] = {key: interval(drawn.min_dcf[:, j]) for j, key in enumerate(keys)}
        figures["bootstrap"] = {
            "unit": units.kind,
            "units": len(units.names),
            "samples": samples,
            "seed": seed,
            "redrawn": drawn.redrawn,
        }
    return figures


def figures_of(curve: DetCurve, keys: dict[str, float], kind: ScoreKind) -> dict[str, Any]:
    """Return what a curve decides of the record; `keys` are the names of the priors, and the priors."""
    eer, costs = curve.eer(), {key: curve.min_dcf(p) for key, p in keys.items()}
    return {
        "eer": eer.rate,
        "eer_ci95": None,
        "eer_threshold": eer.threshold,
        "min_dcf": {key: cost.cost for key, cost in costs.items()},
        "min_dcf_ci95": None,
        "min_dcf_at": {
            key: {"threshold": _finite(cost.threshold), "p_miss": cost.p_miss, "p_fa": cost.p_fa}
            for key, cost in costs.items()
        },
        "act_dcf": None,
        "cllr": None,
        "min_cllr": curve.min_cllr(),
        "score_kind": kind,
        "bootstrap": None,
    }


def _finite(threshold: float) -> float | None:
    """Return a threshold as JSON can hold it: none accepts nothing."""
    return threshold if np.isfinite(threshold) else None


def describe(record: dict[str, Any]) -> list[tuple[str, ...]]:
    """Return the figures of a record as rows of text, a header first; costs with their operating point.

    Where there are raw scores beside normalised ones, their figures are two columns more.
    """
    rows: list[tuple[str, ...]] = [("", "value", "95 % interval", "threshold", "misses", "false alarms")]
    ranges = {key: f"{low:.4f} – {high:.4f}" for key, (low, high) in (record["min_dcf_ci95"] or {}).items()}
    range_of_eer = "{:.3f} – {:.3f} %".format(*(100 * x for x in record["eer_ci95"] or ())) if ranges else ""
    rows.append(
        ("EER", f"{100 * record['eer']:.3f} %", range_of_eer, f"{record['eer_threshold']:.4f}", "", "")
    )
    for key, cost in record["min_dcf"].items():
        at = record["min_dcf_at"][key]
        threshold = "reject all" if at["threshold"] is None else f"{at['threshold']:.4f}"
        rates = (f"{100 * at[name]:.3f} %" for name in ("p_miss", "p_fa"))
        rows.append((f"minDCF({key})", f"{cost:.4f}", ranges.get(key, ""), threshold, *rates))
    others = [(f"actDCF({key})", cost) for key, cost in (record["act_dcf"] or {}).items()]
    others += [("Cllr", record["cllr"]), ("min Cllr", record["min_cllr"])]
    rows += [(name, f"{value:.4f}", "", "", "", "") for name, value in others if value is not None]
    if (raw := record.get("raw")) is None:
        return rows
    of_raw = {row[0]: row[1:3] for row in describe(raw)} | {"": ("raw", "95 % interval")}
    return [row + of_raw.get(row[0], ("", "")) for row in rows]


def format_record(record: dict[str, Any]) -> str:
    """Return a record as text to read: the list, the table of figures, how they came about."""
    found = record["list"]
    lines = [
        f"{found['known_as'] or found['name'] or 'trials'}: {record['trials']:,} trials, "
        f"{record['targets']:,} target and {record['nontargets']:,} non-target",
        ", ".join(f"{found[key]:,} {key}".replace("_", "-") for key in AUDITED),
    ]
    if found["labels_against_speakers"]:
        lines.append(f"{found['labels_against_speakers']:,} labels disagree with the speakers of their files")
    widths = (9, 19, 12, 11, 14, 11, 19)
    lines.append("")
    for row in describe(record):
        cells = [f"{cell:>{width}}" for cell, width in zip(row[1:], widths, strict=False)]
        lines.append((f"{row[0]:14}" + "".join(cells)).rstrip())
    return "\n".join([*lines, "", *_made(record)])


def _made(record: dict[str, Any]) -> list[str]:
    """Return what else one has to know to compare the figures with others."""
    parts = [f"scores: {record['score_kind']}"]
    if record["crops"]:
        parts.append(record["crops"])
    for key, what in (("backend", "back end "), ("norm", ""), ("calibration", "")):
        facts = [(name, value) for name, value in (record[key] or {}).items() if value is not None]
        words = [str(value) if name in ("name", "kind") else f"{name} {value}" for name, value in facts]
        parts += [what + ", ".join(words).replace("_", " ")] if words else []
    if record["model"]:
        named_model = " ".join(
            filter(None, (record["model"].get("name"), record["model"].get("fingerprint")))
        )
        seen = record["model"]["training_speakers_in_trials"]
        parts.append(
            f"model {named_model}" + ("" if seen is None else f", trained on {seen} of the trials' speakers")
        )
    lines = ["; ".join(parts)]
    if drawn := record["bootstrap"]:
        lines.append(
            f"intervals: {drawn['samples']:,} bootstrap samples over {drawn['units']:,} {drawn['unit']}s, "
            f"seed {drawn['seed']}"
        )
    return lines
