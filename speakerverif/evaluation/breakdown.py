"""Error rates of the parts of a trial list: by gender, duration, language, channel or any other column."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from speakerverif.data.metadata import Column
from speakerverif.data.scores import ScoreList
from speakerverif.data.speakers import EnrollMap, Units
from speakerverif.data.trials import TrialList
from speakerverif.evaluation.figures import Figures, Interval
from speakerverif.evaluation.intervals import cost_step, estimate
from speakerverif.evaluation.metrics import det_curve
from speakerverif.evaluation.records import ColumnBreakdown, GroupCost, GroupFigures

MIN_TRIALS = 30  # trials of each class; with fewer there is no rate
MAX_STEP = 0.1  # one more error must not move a normalised cost by more than this
FEW_VALUES = 8  # numbers with more distinct values than these are binned
QUARTERS = (0.0, 0.25, 0.5, 0.75, 1.0)
NAMED_VALUES = 3  # up to this number of values, every pair of different ones is a group
MAX_VALUES = 30  # with more values there is no breakdown
NOT_GIVEN, TOO_FEW = "not given", "too few"


def breakdown(
    scores: ScoreList,
    columns: Sequence[Column],
    units: Units,
    whole: Figures,
    enroll_map: EnrollMap | None = None,
) -> tuple[ColumnBreakdown, ...]:
    """Return the error rates of each column's groups of trials.

    Trials whose two sides have the same value make the group of that value; others are groups of the pair of
    values, or one group where there are many. Numbers are binned by the lower of both sides, at the quartiles
    of the trials. Figures that a group is too small for are None:

    - a rate: fewer than 30 trials of a class it needs;
    - a cost: likewise, or one more error would move it by over 0.1;
    - an interval: by the rule for all intervals, `speaker_intervals.why_no_interval`.

    Args:
        scores: with labels.
        columns: as `metadata.read_columns` gives them.
        units: speakers of both sides, as `units_of` gives them.
        whole: figures of the whole list: its priors and EER threshold are used, and whether it has intervals.
        enroll_map: enrolled model -> its files; a model has the value that all of its files share.
    """
    return tuple(_column(scores, column, units, whole, enroll_map) for column in columns)


def _column(
    scores: ScoreList, column: Column, units: Units, whole: Figures, enroll_map: EnrollMap | None
) -> ColumnBreakdown:
    groups = group_trials(scores.trials, column, enroll_map)
    too_many = groups.values > MAX_VALUES
    figures = (
        ()
        if too_many
        else tuple(
            _figures(name, scores, np.flatnonzero(groups.member == k), units, whole)
            for k, name in enumerate(groups.names)
        )
    )
    left_out = f"{groups.values:,} values, more than {MAX_VALUES}" if too_many else None
    return ColumnBreakdown(column.name, groups.by, groups.without, left_out, figures)


@dataclass(frozen=True)
class Groups:
    """The groups that a column makes of trials.

    Attributes:
        by: the rule, in words.
        values: distinct ones, or bins.
        without: ids of the list whose value is unknown.
        names: of the groups; every group has trials.
        member: int64 (N,), the group of each trial, into `names`.
    """

    by: str
    values: int
    without: int
    names: list[str]
    member: np.ndarray


def group_trials(trials: TrialList, column: Column, enroll_map: EnrollMap | None = None) -> Groups:
    """Return the groups that a column makes of trials."""
    values = _values(trials, column, enroll_map)
    without = sum(value is None for value in values)
    distinct = sorted({value for value in values if value is not None})
    numbers = _numbers(distinct)
    if len(distinct) > FEW_VALUES and numbers is not None:
        names, member = _quartiles(trials, [None if v is None else float(v) for v in values])
        return Groups("lower of both sides, in quartiles", len(names), without, names, member)
    if numbers is not None:
        distinct = [distinct[i] for i in np.argsort(numbers, kind="stable")]
    place: dict[str | None, int] = {value: i for i, value in enumerate(distinct)}
    codes = np.array([place.get(value, -1) for value in values])
    low, high = np.sort(np.stack((codes[trials.enroll], codes[trials.test])), axis=0)
    pairs, inverse = np.unique(np.where(low < 0, -1, len(distinct) * low + high), return_inverse=True)

    def group(pair: int) -> tuple[int, ...]:
        a, b = divmod(pair, max(len(distinct), 1))
        if pair < 0:
            return (3,)
        if a == b:
            return (0, a)
        return (1, a, b) if len(distinct) <= NAMED_VALUES else (2,)

    of_pair = [group(pair) for pair in pairs.tolist()]
    groups = sorted(set(of_pair))
    names = [
        " – ".join(distinct[i] for i in where) or ("different" if kind == 2 else NOT_GIVEN)
        for kind, *where in groups
    ]
    member = np.array([groups.index(one) for one in of_pair])[inverse]
    return Groups("values of both sides", len(distinct), without, names, member)


def _values(trials: TrialList, column: Column, enroll_map: EnrollMap | None) -> list[str | None]:
    """Return the value of every id of the list; None where it is unknown."""
    if enroll_map is None:
        return [column.values.get(name) for name in trials.ids]
    merged: list[str | None] = []
    for name in trials.ids:
        of_files = {column.values.get(file) for file in enroll_map.get(name, (name,))}
        merged.append(of_files.pop() if len(of_files) == 1 else None)
    return merged


def _numbers(values: Sequence[str]) -> np.ndarray | None:
    """Return the values as finite numbers; None where one is none, or where `0092` shows that they are names."""
    if any(value.isdigit() and value != str(int(value)) for value in values):
        return None
    try:
        numbers = np.array([float(value) for value in values])
    except ValueError:
        return None
    return numbers if np.isfinite(numbers).all() else None


def _quartiles(trials: TrialList, values: Sequence[float | None]) -> tuple[list[str], np.ndarray]:
    """Return the names of the bins, and each trial's bin."""
    numbers = np.array([np.nan if value is None else value for value in values])
    lower = np.minimum(numbers[trials.enroll], numbers[trials.test])  # nan where either is
    is_number = ~np.isnan(lower)
    # Edges are values that occur, so that what the names of the bins say is exact.
    edges = (
        np.unique(np.quantile(lower[is_number], QUARTERS, method="lower")) if is_number.any() else np.empty(0)
    )
    inner = edges[1:-1]
    names = [f"{low:.10g} ≤ x < {high:.10g}" for low, high in zip(edges[:-2], inner, strict=True)]
    names += [f"{edges[max(len(edges) - 2, 0)]:.10g} ≤ x ≤ {edges[-1]:.10g}"] if len(edges) else []
    member = np.where(is_number, np.searchsorted(inner, lower, "right"), len(names))
    there, renumbered = np.unique(member, return_inverse=True)
    return [[*names, NOT_GIVEN][i] for i in there.tolist()], renumbered


def _figures(name: str, scores: ScoreList, rows: np.ndarray, units: Units, whole: Figures) -> GroupFigures:
    """Return the figures of some trials; None where they are too few."""
    values, labels = scores.scores[rows], np.asarray(scores.trials.labels)[rows]
    enroll, test = units.enroll[rows], units.test[rows]
    targets, nontargets = int(labels.sum()), int((~labels).sum())
    group = GroupFigures(
        group=name,
        targets=targets,
        nontargets=nontargets,
        units=len(np.unique(np.concatenate((enroll, test)))),
        costs=tuple(GroupCost(cost.key) for cost in whole.costs),
        p_miss=float(np.mean(values[labels] < whole.eer_threshold)) if targets >= MIN_TRIALS else None,
        p_fa=float(np.mean(values[~labels] >= whole.eer_threshold)) if nontargets >= MIN_TRIALS else None,
    )
    if min(targets, nontargets) < MIN_TRIALS:
        return group
    curve = det_curve(values, labels)
    priors = {cost.key: float(cost.key) for cost in group.costs}
    shown = {key: p for key, p in priors.items() if cost_step(targets, nontargets, p) <= MAX_STEP}
    minima = {key: curve.min_dcf(p).cost for key, p in shown.items()}
    eer_ci95, ranges = None, dict[str, tuple[float, float] | None]()
    if whole.intervals is not None and whole.intervals.speakers is not None:
        estimates = estimate(values, labels, enroll, test, list(shown.values()))
        eer_ci95 = estimates.eer.interval()
        ranges = {key: cost.interval() for key, cost in zip(shown, estimates.min_dcf, strict=True)}
    costs = tuple(GroupCost(key, minima.get(key), Interval.of(ranges.get(key))) for key in priors)
    return dataclasses.replace(group, eer=curve.eer().rate, eer_ci95=Interval.of(eer_ci95), costs=costs)


def describe_breakdown(column: ColumnBreakdown) -> list[tuple[str, ...]]:
    """Return the groups of one column as rows of text, a header first."""
    keys = [cost.key for cost in column.groups[0].costs] if column.groups else []
    rows: list[tuple[str, ...]] = [
        (column.column, "targets", "non-targets", "EER %", "95 % interval")
        + tuple(cell for key in keys for cell in (f"minDCF({key})", "95 % interval"))
        + ("misses %", "false alarms %")
    ]
    for group in column.groups:
        cells = [group.group, f"{group.targets:,}", f"{group.nontargets:,}"]
        cells += [_number(group.eer, "{:.2f}", 100), _range(group.eer, group.eer_ci95, "{:.2f}", 100)]
        for cost in group.costs:
            cells += [_number(cost.minimum, "{:.3f}"), _range(cost.minimum, cost.ci95, "{:.3f}")]
        cells += [_number(group.p_miss, "{:.2f}", 100), _number(group.p_fa, "{:.2f}", 100)]
        rows.append(tuple(cells))
    return rows


def _number(value: float | None, form: str, factor: float = 1.0) -> str:
    return TOO_FEW if value is None else form.format(factor * value)


def _range(value: float | None, limits: Interval | None, form: str, factor: float = 1.0) -> str:
    if value is None or limits is None:
        return "" if value is None else TOO_FEW
    return f"{form.format(factor * limits.low)} – {form.format(factor * limits.high)}"


def format_breakdown(columns: Sequence[ColumnBreakdown]) -> str:
    """Return the groups of each column as text to read."""
    blocks = []
    for column in columns:
        if column.left_out:
            blocks.append(f"{column.column}: left out: {column.left_out}")
            continue
        rows = describe_breakdown(column)
        widths = [max(len(row[j]) for row in rows) for j in range(len(rows[0]))]
        lines = [
            "  ".join(
                [f"{row[0]:{widths[0]}}"] + [f"{c:>{w}}" for c, w in zip(row[1:], widths[1:], strict=True)]
            )
            for row in rows
        ]
        without = f"; no value for {column.without:,} ids" if column.without else ""
        blocks.append("\n".join([f"by {column.column}: {column.by}{without}", *map(str.rstrip, lines)]))
    return "\n\n".join([*blocks, "misses and false alarms: at the EER threshold of the whole list"])
