"""The pieces of a report as HTML: cards, tables, players. Every text from outside is escaped here."""

from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from speakerverif.errors import InputError
from speakerverif.evaluation.breakdown import TOO_FEW
from speakerverif.evaluation.figures import Figures, Interval
from speakerverif.evaluation.metrics import PairedDifference
from speakerverif.evaluation.records import ColumnBreakdown
from speakerverif.report.excerpts import EXCERPT_S, excerpt
from speakerverif.report.figures import SYSTEM_STYLES, interval_svg
from speakerverif.report.results import Result, System

SIGNIFICANT = 0.05


def table(rows: Sequence[Sequence[str]], caption: str, sortable: bool = False) -> str:
    """Return rows of text, a header first, as a table; the first column names the rows."""
    head, *body = rows
    return table_of_cells(head, [[escape(cell) for cell in row] for row in body], caption, sortable)


def table_of_cells(
    head: Sequence[str], body: Iterable[Sequence[str]], caption: str, sortable: bool = False
) -> str:
    """Return a table whose body cells are HTML already; the header is text."""
    heads = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in head)
    lines = "".join(
        f'<tr><th scope="row">{first}</th>{"".join(f"<td>{cell}</td>" for cell in rest)}</tr>'
        for first, *rest in body
    )
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(caption)}">'
        f"<table{' class=sort' if sortable else ''}><caption>{escape(caption)}</caption>"
        f"<thead><tr>{heads}</tr></thead><tbody>{lines}</tbody></table></div>"
    )


def signed(score: float) -> str:
    """Return a score as text, with a minus sign that is as wide as digits are."""
    return f"{score:.4f}".replace("-", "−")


def figure(svg: str, caption: str, keys: Iterable[tuple[str, str]] = ()) -> str:
    """Return a plot with its caption, and a key of style and name."""
    listed = "".join(f'<li><i class="{style}"></i>{escape(name)}</li>' for style, name in keys)
    shown = f'<ul class="key">{listed}</ul>' if listed else ""
    return f"<figure>{svg}<figcaption>{escape(caption)}{shown}</figcaption></figure>"


def system_keys(systems: Sequence[System], dashed: str = "") -> list[tuple[str, str]]:
    """Return the key of the systems' lines; `dashed` says what their dashed lines are."""
    keys = [(style, system.name) for system, style in zip(systems, SYSTEM_STYLES, strict=False)]
    return keys + ([("dashed", dashed)] if dashed else [])


def cards(result: Result) -> str:
    """Return the figures that matter most, each large, with its interval."""
    of_systems = [_headline(system.record.figures) for system in result.systems]
    shown = [_card(name, [figures[name] for figures in of_systems], result) for name in of_systems[0]]
    return f'<div class="cards">{"".join(shown)}</div>'


def _headline(figures: Figures) -> dict[str, tuple[str, str]]:
    """Return name -> a figure and what stands under it."""
    shown = {"EER": (f"{100 * figures.eer:.2f} %", _percents(figures.eer_ci95))}
    for cost in figures.costs:
        shown[f"minDCF({cost.key})"] = f"{cost.minimum:.3f}", _costs(cost.ci95)
    actual = figures.cllr
    under = "bits, after ideal calibration" if actual is None else f"bits; actual Cllr {actual:.3f}"
    shown["min Cllr"] = f"{figures.min_cllr:.3f}", under
    return shown


def _card(name: str, figures: Sequence[tuple[str, str]], result: Result) -> str:
    lines = []
    for system, style, (value, under) in zip(result.systems, SYSTEM_STYLES, figures, strict=False):
        named = f'<span class="of {style}">{escape(system.name)}</span>' if result.against else ""
        lines.append(f"<dd>{named}<b>{escape(value)}</b><small>{escape(under)}</small></dd>")
    return f"<dl><dt>{escape(name)}</dt>{''.join(lines)}</dl>"


def _percents(limits: Interval | None) -> str:
    return f"{100 * limits[0]:.2f} – {100 * limits[1]:.2f} %" if limits else "no interval"


def _costs(limits: Interval | None) -> str:
    return f"{limits[0]:.3f} – {limits[1]:.3f}" if limits else "no interval"


def verdict(result: Result, found: PairedDifference) -> str:
    """Return in a sentence whether one system is better, and how sure that is."""
    assert result.against is not None and result.system.record.figures.bootstrap is not None
    first, second, drawn = result.system.name, result.against.name, result.system.record.figures.bootstrap
    low, high = (100 * x for x in found.interval)
    change = f"{100 * found.difference:+.2f} points [{low:+.2f}, {high:+.2f}]".replace("-", "−")
    figures = (
        f"EER of {first} less that of {second}: {change}, p\u00a0=\u00a0{found.p_value:.2g} "
        f"(two-sided paired bootstrap, {drawn.samples:,} samples over {drawn.units:,} {drawn.unit}s)"
    )
    better, worse = (first, second) if found.difference < 0 else (second, first)
    said = (
        f"{better} is better than {worse}."
        if found.p_value < SIGNIFICANT
        else f"These trials can’t tell whether {better} is better than {worse}."
    )
    return f'<p class="verdict"><strong>{escape(said)}</strong> {escape(figures)}.</p>'


def breakdown_table(column: ColumnBreakdown, whole: Figures) -> str:
    """Return the groups of one column, the EER of each also as a dot with its interval."""
    without = f" {column.without:,} recordings have no value." if column.without else ""
    caption = f"By {column.column} ({column.by}).{without}"
    if column.left_out:
        return f"<p>{escape(column.column)}: left out, {escape(column.left_out)}.</p>"
    tops = [g.eer_ci95.high if g.eer_ci95 else g.eer for g in column.groups if g.eer is not None]
    top = 1.05 * max([*tops, whole.eer])
    head = [column.column, "targets", "non-targets", "EER %", "", "misses %", "false alarms %"]
    body = []
    for group in column.groups:
        bar = "" if group.eer is None else interval_svg(group.eer, group.eer_ci95, top, whole.eer)
        cells = [escape(group.group), f"{group.targets:,}", f"{group.nontargets:,}"]
        cells += [_figure(group.eer, group.eer_ci95, 100, 2), bar]
        cells += [_figure(rate, (), 100, 2) for rate in (group.p_miss, group.p_fa)]
        cells += [_figure(cost.minimum, cost.ci95, 1, 3) for cost in group.costs]
        body.append(cells)
    head += [f"minDCF({cost.key})" for cost in whole.costs]
    return table_of_cells(head, body, caption, sortable=True)


def _figure(value: float | None, limits: Sequence[float] | None, factor: float, digits: int) -> str:
    """Return a number with its interval, or what there are too few for."""
    if value is None:
        return f'<span class="few">{TOO_FEW}</span>'
    shown = f"{factor * value:.{digits}f}"
    if limits is None:
        return f'{shown} <small class="few">{TOO_FEW}</small>'
    return (
        f"{shown} <small>{' – '.join(f'{factor * x:.{digits}f}' for x in limits)}</small>"
        if limits
        else shown
    )


def hardest_table(result: Result, target: bool, rows: Sequence[int], caption: str) -> str:
    """Return trials as a table: for where no audio is at hand."""
    trials = result.system.scores.trials
    head = [*(s.name if result.against else "score" for s in result.systems), "enroll", "test"]
    body = []
    for i in rows:
        sides = (trials.ids[trials.enroll[i]], trials.ids[trials.test[i]])
        body.append(
            [signed(s.scores.scores[i]) for s in result.systems]
            + [f'<span class="id">{escape(name)}</span>' for name in sides]
        )
    return table_of_cells(head, body, caption)


def hardest_players(result: Result, rows: Sequence[int], root: Path, made: dict[str, str]) -> str:
    """Return trials with a player and a spectrogram of both recordings.

    Args:
        result: the trials' result.
        rows: of the trials.
        root: the folder that the ids are relative to.
        made: id -> HTML; recordings that stand in several trials are read once.
    """
    trials, items = result.system.scores.trials, []
    for i in rows:
        ids = [trials.ids[side] for side in (trials.enroll[i], trials.test[i])]
        for name in ids:
            if name not in made:
                made[name] = _player(name, root)
        scores = ", ".join(
            f"{escape(s.name) + ' ' if result.against else ''}<b>{signed(s.scores.scores[i])}</b>"
            for s in result.systems
        )
        items.append(
            f'<li><p class="score">score {scores}</p><div class="sides">{"".join(made[n] for n in ids)}</div></li>'
        )
    return f'<ol class="trials">{"".join(items)}</ol>'


def _player(name: str, root: Path) -> str:
    shown = f'<figcaption class="id">{escape(name)}</figcaption>'
    try:
        found = excerpt(root / name)
    except InputError as error:
        return f'<figure class="side">{shown}<p class="few">no audio: {escape(str(error))}</p></figure>'
    if found.whole_s - found.duration_s > 0.05:
        part = f"{found.duration_s:.1f} s from {found.start_s:.1f} s on, of {found.whole_s:.1f} s"
    else:
        part = f"{found.whole_s:.1f} s"
    label = escape(name)
    return (
        f'<figure class="side">{shown}<div class="sound" style="width:{100 * found.duration_s / EXCERPT_S:.1f}%">'
        f'<img src="{found.picture}" alt="Spectrogram of {label}, 0 to 8 kHz, {part}"></div>'
        f'<audio controls preload="metadata" aria-label="{label}" src="{found.sound}"></audio>'
        f"<small>{part}</small></figure>"
    )
