"""The pieces of a report as records: cards, tables, plots, recordings. The template shows each by a macro."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from speakerverif.errors import InputError
from speakerverif.evaluation.breakdown import TOO_FEW
from speakerverif.evaluation.figures import Figures, Interval
from speakerverif.evaluation.intervals import PairedDifference
from speakerverif.evaluation.records import ColumnBreakdown
from speakerverif.report.excerpts import EXCERPT_S, Excerpt, excerpt
from speakerverif.report.figures import SYSTEM_STYLES, interval_svg
from speakerverif.report.results import Calibrated, Result, SpeakerErrors, System

SIGNIFICANT = 0.05
WORST_SPEAKERS = 20


@dataclass(frozen=True)
class Table:
    """Rows of cells; the first cell of each names its row. `str` is escaped, `Markup` is HTML already."""

    caption: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    sortable: bool = False
    text_columns: frozenset[int] = frozenset({0})  # aligned left, heads and cells


@dataclass(frozen=True)
class Plot:
    """An inline SVG, its caption, and the key of its lines: style and name."""

    svg: Markup
    caption: str
    keys: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class CardFigure:
    """One system's large figure with a note under it."""

    system: str  # empty where there is one system
    style: str
    value: str
    note: str


@dataclass(frozen=True)
class Card:
    """One measure, with the figure of each system."""

    name: str
    figures: tuple[CardFigure, ...]


@dataclass(frozen=True)
class Verdict:
    """Whether one system is better than another, and the figures behind it."""

    statement: str
    figures: str


@dataclass(frozen=True)
class Recording:
    """One recording to listen to; without an excerpt, the problem with it."""

    id: str
    excerpt: Excerpt | None
    problem: str = ""

    @property
    def part(self) -> str:
        """The part of the recording that the excerpt is."""
        assert self.excerpt is not None
        if self.excerpt.whole_s - self.excerpt.duration_s <= 0.05:
            return f"{self.excerpt.whole_s:.1f} s"
        return f"{self.excerpt.duration_s:.1f} s from {self.excerpt.start_s:.1f} s on, of {self.excerpt.whole_s:.1f} s"

    @property
    def width(self) -> float:
        """The width of its spectrogram in percent, so that all have the same scale."""
        assert self.excerpt is not None
        return 100 * self.excerpt.duration_s / EXCERPT_S


@dataclass(frozen=True)
class HeardTrial:
    """A trial with the score of each system (named where there are two) and both recordings."""

    scores: tuple[tuple[str, str], ...]
    sides: tuple[Recording, ...]


@dataclass(frozen=True)
class BreakdownPart:
    """The table of one column, or the reason why it is left out."""

    column: str
    table: Table | None
    left_out: str | None


def table(rows: Iterable[Sequence[str]], caption: str) -> Table:
    """Return a table of rows, a header first."""
    head, *body = (tuple(row) for row in rows)
    return Table(caption, head, tuple(body))


def plot(svg: str, caption: str, keys: Iterable[tuple[str, str]] = ()) -> Plot:
    """Return a plot of an SVG that `figures` drew, where all text is escaped."""
    return Plot(Markup(svg), caption, tuple(keys))


def signed(score: float) -> str:
    """Return a score as text, with a minus sign that is as wide as digits are."""
    return f"{score:.4f}".replace("-", "−")


def count(number: int, noun: str, plural: str = "") -> str:
    """Return a number with its noun: `1 miss`, `2 misses`."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def system_keys(systems: Sequence[System], dashed: str = "") -> list[tuple[str, str]]:
    """Return the key of the systems' lines; `dashed` is the meaning of their dashed lines."""
    keys = [(style, system.name) for system, style in zip(systems, SYSTEM_STYLES, strict=False)]
    return keys + ([("dashed", dashed)] if dashed else [])


def cards(result: Result) -> tuple[Card, ...]:
    """Return the figures that matter most, each with its interval."""
    of_systems = [_headline(system.record.figures) for system in result.systems]
    names = [system.name if result.against else "" for system in result.systems]
    return tuple(
        Card(
            measure,
            tuple(
                CardFigure(name, style, *figures[measure])
                for name, style, figures in zip(names, SYSTEM_STYLES, of_systems, strict=False)
            ),
        )
        for measure in of_systems[0]
    )


def _headline(figures: Figures) -> dict[str, tuple[str, str]]:
    """Return name -> a figure and the note under it."""
    shown = {"EER": (f"{100 * figures.eer:.2f} %", _range(figures.eer_ci95, 100, 2, " %"))}
    for cost in figures.costs:
        shown[f"minDCF({cost.key})"] = f"{cost.minimum:.3f}", _range(cost.ci95, 1, 3)
    actual = figures.cllr
    under = "bits, after ideal calibration" if actual is None else f"bits; actual Cllr {actual:.3f}"
    shown["min Cllr"] = f"{figures.min_cllr:.3f}", under
    return shown


def _range(limits: Interval | None, factor: float, digits: int, unit: str = "") -> str:
    if limits is None:
        return "no interval"
    return f"{factor * limits.low:.{digits}f} – {factor * limits.high:.{digits}f}{unit}"


def verdict(result: Result, difference: PairedDifference) -> Verdict:
    """Return whether one system is better, and how sure that is."""
    assert result.against is not None
    facts = result.system.record.figures.intervals
    assert facts is not None
    first, second = result.system.name, result.against.name
    limits = "(no interval)"
    if difference.interval:
        limits = "[{:+.2f}, {:+.2f}]".format(*(100 * limit for limit in difference.interval))
    change = f"{100 * difference.difference:+.2f} points {limits}".replace("-", "−")
    tested = "" if difference.p_value is None else f", p\u00a0=\u00a0{difference.p_value:.2g}"
    figures = f"EER of {first} less that of {second}: {change}{tested} (two-sided paired test {facts})."
    better, worse = (first, second) if difference.difference < 0 else (second, first)
    if difference.p_value is not None and difference.p_value < SIGNIFICANT:
        return Verdict(f"{better} is better than {worse}.", figures)
    return Verdict(f"These trials can’t tell whether {better} is better than {worse}.", figures)


def breakdown_part(column: ColumnBreakdown, whole: Figures) -> BreakdownPart:
    """Return the groups of one column, the EER of each also as a dot with its interval."""
    if column.left_out:
        return BreakdownPart(column.column, None, column.left_out)
    without = f" {count(column.without, 'recording')} without a value." if column.without else ""
    tops = [g.eer_ci95.high if g.eer_ci95 else g.eer for g in column.groups if g.eer is not None]
    top = 1.05 * max([*tops, whole.eer])
    head = [column.column, "targets", "non-targets", "EER %", "", "misses %", "false alarms %"]
    rows = []
    for group in column.groups:
        bar = "" if group.eer is None else Markup(interval_svg(group.eer, group.eer_ci95, top, whole.eer))
        cells = [group.group, f"{group.targets:,}", f"{group.nontargets:,}"]
        cells += [_figure(group.eer, group.eer_ci95, 100, 2), bar]
        cells += [_figure(rate, (), 100, 2) for rate in (group.p_miss, group.p_fa)]
        cells += [_figure(cost.minimum, cost.ci95, 1, 3) for cost in group.costs]
        rows.append(tuple(cells))
    head += [f"minDCF({cost.key})" for cost in whole.costs]
    caption = f"By {column.column} ({column.by}).{without}"
    return BreakdownPart(column.column, Table(caption, tuple(head), tuple(rows), sortable=True), None)


def _figure(value: float | None, limits: Sequence[float] | None, factor: float, digits: int) -> str:
    """Return a number with its interval; `limits` is None where there are too few for one, () where none is due."""
    if value is None:
        return Markup('<span class="few">{}</span>').format(TOO_FEW)
    shown = f"{factor * value:.{digits}f}"
    if limits is None:
        return Markup('{} <small class="few">{}</small>').format(shown, TOO_FEW)
    if not limits:
        return shown
    return Markup("{} <small>{}</small>").format(
        shown, " – ".join(f"{factor * limit:.{digits}f}" for limit in limits)
    )


def calibration_table(result: Result, calibrated: Sequence[Calibrated]) -> Table:
    """Return the costs of each system's scores as log likelihood ratios, before and after calibration."""
    keys = [cost.key for cost in result.system.record.figures.costs]
    head = ["", "calibration", "Cllr", "min Cllr"]
    head += [f"{kind}({key})" for key in keys for kind in ("actDCF", "minDCF")]
    rows = [
        (row.system, row.when, f"{row.cllr:.3f}", f"{row.min_cllr:.3f}")
        + tuple(f"{cost:.3f}" for pair in row.costs for cost in pair)
        for one in calibrated
        for row in one.rows()
    ]
    caption = "Costs of the scores as log likelihood ratios"
    return Table(caption, tuple(head), tuple(rows), text_columns=frozenset({0, 1}))


def speaker_table(errors: Sequence[SpeakerErrors]) -> Table | None:
    """Return the speakers with the most errors; None where speakers are unknown."""
    if not errors:
        return None
    shown = errors[:WORST_SPEAKERS]
    head = (
        "speaker",
        "target trials",
        "misses",
        "misses %",
        "non-target trials",
        "false alarms",
        "false alarms %",
    )
    rows = tuple(
        (
            one.speaker,
            *(f"{one.targets:,}", f"{one.misses:,}", _share(one.misses, one.targets)),
            *(f"{one.nontargets:,}", f"{one.false_alarms:,}", _share(one.false_alarms, one.nontargets)),
        )
        for one in shown
    )
    which = "All speakers" if len(shown) == len(errors) else f"{len(shown)} of {len(errors):,} speakers"
    return Table(f"{which}, highest error rates first", head, rows, sortable=True)


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f}" if whole else "–"


def trial_table(result: Result, rows: Sequence[int], caption: str) -> Table:
    """Return trials with their scores, for where no audio is at hand."""
    trials = result.system.scores.trials
    scores = [system.name if result.against else "score" for system in result.systems]
    body = [
        (
            *(signed(system.scores.scores[i]) for system in result.systems),
            *(
                Markup('<span class="id">{}</span>').format(trials.ids[side])
                for side in (trials.enroll[i], trials.test[i])
            ),
        )
        for i in rows
    ]
    columns = len(scores)
    return Table(
        caption, (*scores, "enroll", "test"), tuple(body), text_columns=frozenset({0, columns, columns + 1})
    )


def heard_trials(
    result: Result, rows: Sequence[int], root: Path, recordings: dict[str, Recording]
) -> tuple[HeardTrial, ...]:
    """Return trials with excerpts of both recordings.

    Args:
        result: the trials' result.
        rows: of the trials.
        root: folder that the ids are relative to.
        recordings: by id, those read before; what is read is added, so that each recording is read once.
    """
    trials, heard = result.system.scores.trials, []
    for i in rows:
        ids = [trials.ids[side] for side in (trials.enroll[i], trials.test[i])]
        for name in ids:
            if name not in recordings:
                recordings[name] = _recording(name, root)
        scores = tuple(
            (system.name if result.against else "", signed(system.scores.scores[i]))
            for system in result.systems
        )
        heard.append(HeardTrial(scores, tuple(recordings[name] for name in ids)))
    return tuple(heard)


def _recording(name: str, root: Path) -> Recording:
    try:
        return Recording(name, excerpt(root / name))
    except InputError as error:
        return Recording(name, None, str(error))
