"""Records of a scoring as text to read."""

from collections.abc import Mapping
from typing import Any

from speakerverif.evaluation.figures import Figures, Interval
from speakerverif.evaluation.records import Comparison, ScoringRecord

NO_INTERVAL = "no interval"
WIDTHS = (9, 19, 12, 11, 14, 11, 19)


def describe(record: ScoringRecord) -> list[tuple[str, ...]]:
    """Return the figures of a record as rows of text, a header first; costs with their operating point.

    Where scores were normalised, the figures of the raw ones are two further columns.
    """
    rows = _rows(record.figures)
    if record.raw is None:
        return rows
    raw = {row[0]: row[1:3] for row in _rows(record.raw)} | {"": ("raw", "95 % interval")}
    return [row + raw.get(row[0], ("", "")) for row in rows]


def _rows(figures: Figures) -> list[tuple[str, ...]]:
    """Return figures as rows of text, a header first."""
    rows: list[tuple[str, ...]] = [("", "value", "95 % interval", "threshold", "misses", "false alarms")]
    none = {name: NO_INTERVAL for name in figures.without_interval}
    eer_ci95 = none.get("EER", "")
    if figures.eer_ci95:
        eer_ci95 = "{:.3f} – {:.3f} %".format(*(100 * x for x in figures.eer_ci95))
    rows.append(("EER", f"{100 * figures.eer:.3f} %", eer_ci95, f"{figures.eer_threshold:.4f}", "", ""))
    for cost in figures.costs:
        point = cost.point
        threshold = "reject all" if point.threshold is None else f"{point.threshold:.4f}"
        rates = (f"{100 * rate:.3f} %" for rate in (point.p_miss, point.p_fa))
        name = f"minDCF({cost.key})"
        limits = _range(cost.ci95) or none.get(name, "")
        rows.append((name, f"{cost.minimum:.4f}", limits, threshold, *rates))
    others = [(f"actDCF({cost.key})", cost.actual) for cost in figures.costs]
    others += [("Cllr", figures.cllr), ("min Cllr", figures.min_cllr)]
    return rows + [(name, f"{value:.4f}", "", "", "", "") for name, value in others if value is not None]


def _range(ci95: Interval | None) -> str:
    return "" if ci95 is None else f"{ci95.low:.4f} – {ci95.high:.4f}"


def format_record(record: ScoringRecord) -> str:
    """Return a record as text to read: the list, the table of figures, how they were computed."""
    trials = record.trial_list
    lines = [
        f"{trials.known_as or trials.name or 'trials'}: {record.trials:,} trials, "
        f"{record.targets:,} target and {record.nontargets:,} non-target",
        trials.audit,
    ]
    if trials.labels_against_speakers:
        lines.append(f"{trials.labels_against_speakers:,} labels disagree with the speakers of their files")
    lines.append("")
    for row in describe(record):
        cells = [f"{cell:>{width}}" for cell, width in zip(row[1:], WIDTHS, strict=False)]
        lines.append((f"{row[0]:14}" + "".join(cells)).rstrip())
    return "\n".join([*lines, "", *_provenance(record)])


def _provenance(record: ScoringRecord) -> list[str]:
    """Return the facts needed to compare figures: the origin of the scores and of the intervals."""
    parts = [f"scores: {record.figures.score_kind}"]
    if record.crops:
        parts.append(record.crops)
    if record.backend:
        parts += _facts("back end ", record.backend.to_json())
    if record.norm:
        parts += _facts("", record.norm.to_json())
    if record.calibration:
        parts += _facts("", vars(record.calibration))
    if (model := record.model) is not None:
        named = " ".join(filter(None, (model.name, model.fingerprint)))
        heard = model.training_speakers_in_trials
        parts.append(
            f"model {named}" + ("" if heard is None else f", trained on {heard} of the trials' speakers")
        )
    lines = ["; ".join(parts)]
    lines += _about_intervals(record.figures)
    if record.comparison:
        lines.append(_comparison(record.comparison))
    return lines


def _about_intervals(figures: Figures) -> list[str]:
    """Return what the intervals are over, which figures have none, and why."""
    if figures.intervals is None:
        return [f"no intervals: {reason}" for reason in dict.fromkeys(figures.without_interval.values())]
    names: dict[str, list[str]] = {}
    for name, reason in figures.without_interval.items():
        names.setdefault(reason, []).append(name)
    if [len(each) for each in names.values()] == [1 + len(figures.costs)]:
        return [f"no intervals: {reason}" for reason in names]
    without = [f"no interval of {', '.join(each)}: {reason}" for reason, each in names.items()]
    return [f"intervals: {figures.intervals}", *without]


def _comparison(other: Comparison) -> str:
    """Return the difference of the EER from another system's, in percent points."""
    limits = "no interval"
    if other.difference_ci95:
        limits = "[{:+.3f}, {:+.3f}]".format(*(100 * x for x in other.difference_ci95))
    tested = "" if other.p_value is None else f", p = {other.p_value:.2g}"
    theirs = f"{100 * other.figures.eer:.3f} %"
    if other.figures.eer_ci95:
        theirs += " [{:.3f}, {:.3f}]".format(*(100 * x for x in other.figures.eer_ci95))
    return f"EER less the {theirs} of {other.against}: {100 * other.difference:+.3f} points {limits}{tested}"


def _facts(prefix: str, facts: Mapping[str, Any]) -> list[str]:
    """Return facts as one phrase in a list, an empty list where none is known."""
    stated = [(name, value) for name, value in facts.items() if value is not None]
    words = [str(value) if name in ("name", "kind") else f"{name} {value}" for name, value in stated]
    return [prefix + ", ".join(words).replace("_", " ")] if words else []
