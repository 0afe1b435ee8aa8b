"""One self-contained HTML page on scored trial lists, to look at, to listen to and to send around."""

import html
import json
import platform
import re
from collections.abc import Sequence
from importlib import metadata, resources
from pathlib import Path
from typing import Any

import speakerverif
from speakerverif._util.files import write_atomically
from speakerverif.data.embeddings import EmbeddingTable
from speakerverif.evaluation.describe import describe
from speakerverif.evaluation.records import ScoringRecord
from speakerverif.report import elements as parts
from speakerverif.report import figures
from speakerverif.report.embedding_map import lay_out
from speakerverif.report.results import Calibrated, Result, System

__all__ = ["Result", "System", "write_report"]

HARDEST, HEARD = 15, 8  # trials of each kind that are listed; that are listed with players
MOST = 5  # speakers, or pairs of them, that are named for their errors
VERSIONS = ("numpy", "scipy")


def write_report(
    results: Sequence[Result],
    folder: str | Path,
    *,
    table: EmbeddingTable | None = None,
    audio_root: Path | None = None,
    made: Sequence[tuple[str, str]] = (),
) -> Path:
    """Write `index.html`, which needs no network and no other file, and `det.png`; return the page's path.

    The same arguments give the same bytes, with the same versions of what draws and compresses.

    Args:
        results: one a trial list; what their records hold under `breakdown` is shown too.
        folder: made where absent.
        table: embeddings of the recordings, for the map.
        audio_root: the folder that the ids are relative to, for players and spectrograms.
        made: more to say of how the page came about, as pairs of name and value: a command, a date.
    """
    folder, players = Path(folder), dict[str, str]()
    sections = [
        _section(result, k, result.title if len(results) > 1 else "Figures", audio_root, players)
        for k, result in enumerate(results)
    ]
    first = results[0]
    title = first.title if len(results) == 1 else f"{len(results)} trial lists"
    filled = {
        "TITLE": html.escape(title),
        "SUBTITLE": html.escape(_subtitle(results)),
        "OVERVIEW": _overview(results) if len(results) > 1 else "",
        "LISTS": "\n".join(sections),
        "MAP": _map(first, table) if table is not None else "",
        "MADE": _definitions(_made(results, made)),
        "RECORDS": _json([_record(system) for result in results for system in result.systems]),
    }
    template = (resources.files("speakerverif.report") / "page.html").read_text("utf-8")
    # In one pass: what is filled in may hold any text.
    page = re.sub(r"%([A-Z]+)%", lambda found: filled[found[1]], template)
    for k, result in enumerate(results):
        name = "det.png" if len(results) == 1 else f"det-{k + 1}.png"
        write_atomically(folder / name, figures.det_png(result.systems))
    write_atomically(folder / "index.html", page)
    return folder / "index.html"


def _subtitle(results: Sequence[Result]) -> str:
    names = " against ".join(system.name for system in results[0].systems)
    record = results[0].system.record
    trials = f"{record.targets:,} target and {record.nontargets:,} non-target trials"
    return f"{names}: {trials}" if len(results) == 1 else names


def _section(
    result: Result, number: int, heading: str, audio_root: Path | None, players: dict[str, str]
) -> str:
    """Return all there is to show of one trial list."""
    record, systems = result.system.record, result.systems
    blocks = [f'<section class="list" id="list-{number + 1}">', f"<h2>{html.escape(heading)}</h2>"]
    blocks.append(parts.cards(result))
    if difference := result.difference():
        blocks.append(parts.verdict(result, difference))
    for system in systems:
        blocks.append(parts.table(describe(system.record), f"All figures of {system.name}"))
    caption = "DET curve, best at lower left. Dots: EER; diamonds: minDCF."
    det = parts.figure(figures.det_svg(systems), caption, parts.system_keys(systems))
    kinds, height = (
        (("t", "target"), ("n", "non-target")),
        figures.SQUARE if len(systems) == 1 else figures.HALF,
    )
    histograms = [
        parts.figure(figures.histogram_svg(system, height), f"Scores of {system.name}", kinds)
        for system in systems
    ]
    blocks.append(f'<div class="plots">{det}<div class="stack">{"".join(histograms)}</div></div>')
    blocks.append(_calibration(result))
    if record.breakdown:
        blocks.append(_breakdown(record))
    blocks.append(_hardest(result, audio_root, players))
    return "\n".join([*blocks, "</section>"])


def _calibration(result: Result) -> str:
    found = [Calibrated.of(system, result.units) for system in result.systems]
    plots = "".join(
        parts.figure(
            svg, caption[0].upper() + caption[1:], parts.system_keys(result.systems, "the least possible")
        )
        for caption, svg in figures.calibration_svgs(found)
    )
    keys = [cost.key for cost in result.system.record.figures.costs]
    head = ["", "calibration", "Cllr", "min Cllr"]
    head += [f"{kind}({key})" for key in keys for kind in ("actDCF", "minDCF")]
    rows = [
        [row["system"], row["when"], f"{row['cllr']:.3f}", f"{row['min_cllr']:.3f}"]
        + [f"{cost:.3f}" for key in keys for cost in row["dcf"][key]]
        for one in found
        for row in one.rows()
    ]
    notes = "".join(
        f"<p>{html.escape(one.system.name)} could not be calibrated: {html.escape(one.why_not)}</p>"
        for one in found
        if one.after is None
    )
    return f"""<h3>Calibration</h3>
<p>A calibrated score is a log likelihood ratio: the threshold then follows from the prior and the costs of errors,
and the actual cost (solid) meets the least one that any threshold could give (dashed). <em>After</em> is a line
fitted by logistic regression in cross-validation: no trial is calibrated by {result.units.kind}s of its own. Fits
differ a little from fold to fold, and with them the ranking of the trials.</p>
<div class="plots">{plots}</div>{notes}
{parts.table([head, *rows], "Costs of the scores as log likelihood ratios")}"""


def _breakdown(record: ScoringRecord) -> str:
    tables = "".join(parts.breakdown_table(column, record.figures) for column in record.breakdown or ())
    return f"""<h3>Breakdown</h3>
<p>Each group’s own EER and cheapest thresholds; misses and false alarms are those at the threshold of the whole
list’s EER ({record.figures.eer_threshold:.4f}), and tell where its errors are. The grey line is the whole list’s EER.
<span class="few">too few</span>: fewer than 30 trials of a kind, or one error more would move the cost by over 0.1;
for an interval, fewer than 5 speakers.</p>
{tables}"""


def _hardest(result: Result, audio_root: Path | None, players: dict[str, str]) -> str:
    blocks = []
    for target, title, why in (
        (True, "Hardest target trials", "The same speaker, yet the lowest scores."),
        (False, "Hardest non-target trials", "Different speakers, yet the highest scores."),
    ):
        rows = result.hardest(target, HARDEST if audio_root is None else HEARD)
        if audio_root is None:
            shown = parts.hardest_table(result, target, rows, title)
        else:
            shown = parts.hardest_players(result, rows, audio_root, players)
        blocks.append(
            f'<h3>{title}</h3><p class="sub">{why} {html.escape(_whose(result, target))}</p>{shown}'
        )
    return "\n".join(blocks)


def _whose(result: Result, target: bool) -> str:
    """Return who has most of the wrong decisions at the EER threshold, where speakers are known."""
    wrong, total = result.errors(target)
    if not wrong:
        return ""
    kind, who = ("misses", "Speakers") if target else ("false alarms", "Pairs of speakers")
    listed = ", ".join(f"{name} ({count:,})" for name, count in wrong[:MOST])
    return f"{total:,} {kind} at the EER threshold. {who} with most of them: {listed}."


def _overview(results: Sequence[Result]) -> str:
    """Return a table of all lists, that leads to them."""
    record = results[0].system.record
    head = [
        "list",
        "system",
        "trials",
        "EER",
        "95 % interval",
        *(f"minDCF({cost.key})" for cost in record.figures.costs),
    ]
    body = []
    for k, result in enumerate(results):
        for system in result.systems:
            figures, limits = system.record.figures, system.record.figures.eer_ci95
            cells = [system.name, f"{system.record.trials:,}", f"{100 * figures.eer:.2f} %"]
            cells.append(f"{100 * limits.low:.2f} – {100 * limits.high:.2f} %" if limits else "")
            cells += [f"{cost.minimum:.3f}" for cost in figures.costs]
            link = f'<a href="#list-{k + 1}">{html.escape(result.title)}</a>'
            body.append([link, *map(html.escape, cells)])
    return parts.table_of_cells(head, body, "All lists")


def _map(result: Result, table: EmbeddingTable) -> str:
    found = lay_out(table, result.speaker_of)
    if found is None:
        return "<h2>Embeddings</h2><p>No map: fewer than two speakers are known to have two recordings.</p>"
    caption = (
        f"{len(found.ids)} recordings of {len(found.speakers)} speakers, drawn at random. {found.method}."
    )
    return f"""<section><h2>Embeddings</h2>
<p>Every dot is a recording, every colour a speaker. Distances between clusters mean little: that a speaker’s dots
keep together, and apart from others, is what to look for.</p>
<div class="map">{parts.figure(figures.map_svg(found), caption)}</div></section>"""


def _made(results: Sequence[Result], made: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return what the figures rest on, as pairs of name and value."""
    facts = list(made)
    for result in results:
        trials, drawn = result.system.record.trial_list, result.system.record.figures.bootstrap
        facts.append(("trial list", trials.name))
        facts.append(("its SHA-256", trials.sha256))
        facts.append(("found in it", trials.audit))
        if drawn:
            facts.append(("intervals", f"95 %, {drawn}"))
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


def _definitions(facts: Sequence[tuple[str, str]]) -> str:
    return "".join(f"<dt>{html.escape(k)}</dt><dd>{html.escape(v)}</dd>" for k, v in facts)


def _record(system: System) -> dict[str, Any]:
    """Return the record without what differs from one run to the next."""
    record = system.record.to_json()
    del record["seconds"]
    return {"system": system.name, **record}


def _json(value: Any) -> str:
    """Return JSON that can stand in a script element: no text in it can end the element."""
    return json.dumps(value).replace("<", "\\u003c").replace("&", "\\u0026")
