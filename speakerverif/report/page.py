"""One self-contained HTML page on scored trial lists, to look at, to listen to and to send around."""

import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from markupsafe import Markup

import speakerverif
from speakerverif._util import html
from speakerverif._util.files import write_atomically
from speakerverif.data.embeddings import EmbeddingTable
from speakerverif.errors import InputError
from speakerverif.evaluation.describe import describe
from speakerverif.report import elements, figures, summary
from speakerverif.report.elements import BreakdownPart, Card, HeardTrial, Plot, Recording, Table, Verdict
from speakerverif.report.embedding_map import lay_out
from speakerverif.report.results import Calibrated, Result, System
from speakerverif.scoring import speaker_intervals

__all__ = ["Result", "System", "write_report"]

TRIALS_LISTED, TRIALS_PLAYED = 15, 8  # the hardest of each kind: without audio, with players
SPEAKERS_NAMED = 5  # those with most errors, or pairs of them
VERSIONS = ("numpy", "scipy")


@dataclass(frozen=True)
class Hardest:
    """The most wrongly scored trials of one kind: as a table, or to listen to."""

    anchor: str
    title: str
    explanation: str
    table: Table | None
    trials: tuple[HeardTrial, ...]


@dataclass(frozen=True)
class Section:
    """Everything that a page shows of one trial list."""

    anchor: str
    title: str
    heading: str
    answer: str
    basis: str
    contents: tuple[tuple[str, str], ...]  # anchor and name of each part
    units: str
    threshold: float
    cards: tuple[Card, ...]
    verdict: Verdict | None
    figures: tuple[Table, ...]
    det: Plot
    histograms: tuple[Plot, ...]
    calibration: Table
    calibration_plots: tuple[Plot, ...]
    calibration_notes: tuple[str, ...]
    breakdown: tuple[BreakdownPart, ...]
    speakers: Table | None
    hardest: tuple[Hardest, ...]


def write_report(
    results: Sequence[Result],
    folder: str | Path,
    *,
    title: str | None = None,
    table: EmbeddingTable | None = None,
    audio_root: Path | None = None,
    made: Sequence[tuple[str, str]] = (),
) -> Path:
    """Write `index.html`, which needs no network and no other file, and `det.png`; return the page's path.

    The same arguments give the same bytes, with the same versions of what draws and compresses.

    Args:
        results: one for each trial list; the groups of their records' `breakdown` are shown too.
        folder: made where absent.
        title: of the page; None: the list's name.
        table: embeddings of the recordings, for the map.
        audio_root: the folder that the ids are relative to, for players and spectrograms.
        made: further facts on how the page was made, as pairs of name and value: a command, a date.

    Raises:
        InputError: an id that leads out of `audio_root`.
    """
    folder, recordings = Path(folder), dict[str, Recording]()
    if audio_root is not None:
        for result in results:
            _refuse_outside(result.system.scores.trials.ids, audio_root)
    sections = [_section(result, k, len(results), audio_root, recordings) for k, result in enumerate(results)]
    page = (
        html.environment("speakerverif.report", "templates")
        .get_template("page.html")
        .render(
            title=title or title_of(results),
            subtitle=_subtitle(results),
            overview=_overview(results) if len(results) > 1 else None,
            sections=sections,
            map=None if table is None else {"plot": _map(results[0], table)},
            made=_made(results, made),
            rule=speaker_intervals,
            records=[_record(system) for result in results for system in result.systems],
        )
    )
    for k, result in enumerate(results):
        name = "det.png" if len(results) == 1 else f"det-{k + 1}.png"
        write_atomically(folder / name, figures.det_png(result.systems))
    write_atomically(folder / "index.html", page)
    return folder / "index.html"


def title_of(results: Sequence[Result]) -> str:
    """Return the title of a page that was given none."""
    return results[0].title if len(results) == 1 else f"{len(results)} trial lists"


def _refuse_outside(ids: Sequence[str], audio_root: Path) -> None:
    """Raise `InputError` for an id that leads out of the folder: a page is sent around, with all that it embeds."""
    root = os.path.normpath(audio_root)
    for name in ids:
        path = os.path.normpath(Path(root, name))
        if not Path(path).is_relative_to(root):
            raise InputError(
                f"--audio-root {audio_root}: the id {name!r} leads out of this folder; expected ids relative to it"
            )


def _subtitle(results: Sequence[Result]) -> str:
    names = " against ".join(system.name for system in results[0].systems)
    record = results[0].system.record
    trials = (
        f"{elements.count(record.targets, 'target trial')} and "
        f"{elements.count(record.nontargets, 'non-target trial')}"
    )
    return f"{names}: {trials}" if len(results) == 1 else names


def _section(
    result: Result, number: int, lists: int, audio_root: Path | None, recordings: dict[str, Recording]
) -> Section:
    record, systems, anchor = result.system.record, result.systems, f"list-{number + 1}"
    difference = result.difference()
    calibrated = [Calibrated.of(system, result.units) for system in systems]
    height = figures.SQUARE if len(systems) == 1 else figures.HALF
    kinds = (("t", "target"), ("n", "non-target"))
    caption = "DET curve, best at lower left. Dots: EER; diamonds: minDCF."
    speakers = elements.speaker_table(result.speaker_errors())
    hardest = tuple(_hardest(result, anchor, target, audio_root, recordings) for target in (True, False))
    contents = [(f"{anchor}-calibration", "Calibration")]
    contents += [(f"{anchor}-breakdown", "Breakdown")] if record.breakdown else []
    contents += [(f"{anchor}-speakers", "Errors by speaker")] if speakers else []
    contents += [(group.anchor, group.title) for group in hardest]
    return Section(
        anchor=anchor,
        title=result.title,
        heading=result.title if lists > 1 else "Figures",
        answer=summary.answer(result),
        basis=summary.basis(result),
        contents=tuple(contents),
        units=result.units.kind,
        threshold=record.figures.eer_threshold,
        cards=elements.cards(result),
        verdict=elements.verdict(result, difference) if difference else None,
        figures=tuple(elements.table(describe(s.record), f"All figures of {s.name}") for s in systems),
        det=elements.plot(figures.det_svg(systems), caption, elements.system_keys(systems)),
        histograms=tuple(
            elements.plot(figures.histogram_svg(system, height), f"Scores of {system.name}", kinds)
            for system in systems
        ),
        calibration=elements.calibration_table(result, calibrated),
        calibration_plots=tuple(
            elements.plot(
                svg, caption[0].upper() + caption[1:], elements.system_keys(systems, "the least possible")
            )
            for caption, svg in figures.calibration_svgs(calibrated)
        ),
        calibration_notes=tuple(
            f"{one.system.name} could not be calibrated: {one.why_not}"
            for one in calibrated
            if one.after is None
        ),
        breakdown=tuple(elements.breakdown_part(column, record.figures) for column in record.breakdown or ()),
        speakers=speakers,
        hardest=hardest,
    )


def _hardest(
    result: Result, anchor: str, target: bool, audio_root: Path | None, recordings: dict[str, Recording]
) -> Hardest:
    if target:
        kind, title, why = "target", "Hardest target trials", "The same speaker, yet the lowest scores."
    else:
        kind, title, why = (
            "nontarget",
            "Hardest non-target trials",
            "Different speakers, yet the highest scores.",
        )
    wrong = _most_wrong(result, target)
    if audio_root is None:
        table = elements.trial_table(result, result.hardest(target, TRIALS_LISTED), title)
        return Hardest(f"{anchor}-{kind}", title, f"{why} {wrong}".strip(), table, ())
    if result.units.kind == "speaker":
        why += f" One trial of each {'speaker' if target else 'pair of speakers'}."
    rows = result.hardest(target, TRIALS_PLAYED, per_speakers=True)
    trials = elements.heard_trials(result, rows, audio_root, recordings)
    return Hardest(f"{anchor}-{kind}", title, f"{why} {wrong}".strip(), None, trials)


def _most_wrong(result: Result, target: bool) -> str:
    """Return the speakers with most of the wrong decisions at the EER threshold, where speakers are known."""
    wrong, total = result.errors(target)
    if not wrong:
        return ""
    errors = elements.count(total, "miss", "misses") if target else elements.count(total, "false alarm")
    most = "Speakers with most of them" if target else "Pairs of speakers with most of them"
    # A bare number would read as a count.
    named = [
        (f"speaker {name}" if name.isdigit() else name, number) for name, number in wrong[:SPEAKERS_NAMED]
    ]
    listed = ", ".join(f"{name} ({number:,})" for name, number in named)
    return f"{errors} at the EER threshold. {most}: {listed}."


def _overview(results: Sequence[Result]) -> Table:
    """Return a table of all lists, with links to their sections."""
    costs = results[0].system.record.figures.costs
    head = ("list", "system", "trials", "EER", "95 % interval", *(f"minDCF({cost.key})" for cost in costs))
    rows = []
    for k, result in enumerate(results):
        for system in result.systems:
            of_list, limits = system.record.figures, system.record.figures.eer_ci95
            link = Markup('<a href="#list-{}">{}</a>').format(k + 1, result.title)
            interval = f"{100 * limits.low:.2f} – {100 * limits.high:.2f} %" if limits else "no interval"
            cells = (f"{system.record.trials:,}", f"{100 * of_list.eer:.2f} %", interval)
            rows.append((link, system.name, *cells, *(f"{cost.minimum:.3f}" for cost in of_list.costs)))
    return Table("All lists", head, tuple(rows), text_columns=frozenset({0, 1}))


def _map(result: Result, table: EmbeddingTable) -> Plot | None:
    layout = lay_out(table, result.speaker_of)
    if layout is None:
        return None
    shown = (
        f"{elements.count(len(layout.ids), 'recording')} of {elements.count(len(layout.speakers), 'speaker')}"
    )
    return elements.plot(figures.map_svg(layout), f"{shown}, drawn at random. {layout.method}.")


def _made(results: Sequence[Result], made: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return what the figures rest on, as pairs of name and value."""
    facts = list(made)
    for result in results:
        trials, over = result.system.record.trial_list, result.system.record.figures.intervals
        facts.append(("trial list", trials.name))
        facts.append(("its SHA-256", trials.sha256))
        facts.append(("found in it", trials.audit))
        if over:
            facts.append(("intervals", f"95 %, {over}"))
    for system in results[0].systems:
        record = system.record
        norm = record.norm.to_json() if record.norm else {}
        model = record.model.to_json() if record.model else {}
        about = [f"{record.figures.score_kind} scores", record.crops or ""]
        about.append(", ".join(f"{k} {v}" for k, v in norm.items()))
        about += [f"model {k.replace('_', ' ')} {v}" for k, v in model.items() if v is not None]
        facts.append((system.name, "; ".join(filter(None, about))))
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in VERSIONS)
    software = f"speakerverif {speakerverif.__version__}, Python {platform.python_version()}, {versions}"
    return [*facts, ("software", software)]


def _record(system: System) -> dict[str, Any]:
    """Return the record without what differs from one run to the next."""
    record = system.record.to_json()
    del record["seconds"]
    return {"system": system.name, **record}
