"""One self-contained HTML page on a scored trial list: figures, DET curve, histograms, hardest trials."""

import base64
import html
import io
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from speakerverif._files import write_atomically
from speakerverif.lists import ScoreList
from speakerverif.metrics import DetCurve
from speakerverif.score import AUDITED, describe

HARDEST = 15  # trials of each kind that the page lists
BLUE, ORANGE, GREY = "#2563a8", "#d1652a", "#6b7280"
TICKS = (0.0001, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8)
STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1f2937; max-width: 62rem; margin: 2rem auto }
body { padding: 0 1rem } .sub { color: #6b7280 }
h1 { font-size: 1.6rem; margin-bottom: 0 } h2 { font-size: 1.15rem; margin-top: 2.2rem }
table { border-collapse: collapse; width: 100% } th, td { padding: .3rem .7rem; text-align: right }
th { font-weight: 600; border-bottom: 2px solid #d1d5db } td { border-bottom: 1px solid #e5e7eb }
th:first-child, td:first-child, td.id, th.id { text-align: left } td.id { font: 13px ui-monospace, monospace }
td.id { overflow-wrap: anywhere } img { width: 100%; height: auto } dt { color: #6b7280 } dd { margin: 0 }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1.2rem }
.two { display: grid; grid-template-columns: repeat(auto-fit, minmax(26rem, 1fr)); gap: 1rem }
"""


def write_report(scores: ScoreList, record: dict[str, Any], folder: str | Path) -> Path:
    """Write `index.html`, which needs no network and no other file, and `det.png`; return the page's path.

    Args:
        scores: with labels.
        record: what `score.evaluate` returned for them.
        folder: made where absent.
    """
    curve, folder = DetCurve.of(scores), Path(folder)
    det = det_png(curve, record)
    pictures = "".join(
        f'<img alt="{name}" src="data:image/png;base64,{base64.b64encode(png).decode()}">'
        for name, png in (("DET curve", det), ("Histograms of the scores", histogram_png(scores, record)))
    )
    title = html.escape(record["list"]["known_as"] or Path(record["list"]["name"]).name or "Trials")
    found = record["list"]
    page = f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title}</title><style>{STYLE}</style>
<h1>{title}</h1>
<p class="sub">{record["targets"]:,} target and {record["nontargets"]:,} non-target trials</p>
{_summary(record)}
<div class="two">{pictures}</div>
<h2>Hardest target trials</h2><p class="sub">The same speaker, yet the lowest scores.</p>
{_hardest(scores, record, target=True)}
<h2>Hardest non-target trials</h2><p class="sub">Different speakers, yet the highest scores.</p>
{_hardest(scores, record, target=False)}
<h2>How this was made</h2>
<dl>{"".join(f"<dt>{html.escape(k)}</dt><dd>{html.escape(v)}</dd>" for k, v in _made(record, found))}</dl>
</html>
"""
    write_atomically(folder / "det.png", det)
    write_atomically(folder / "index.html", page)
    return folder / "index.html"


def det_png(curve: DetCurve, record: dict[str, Any]) -> bytes:
    """Return a PNG of the DET curve: error rates on normal-deviate axes, the EER and the cheapest points.

    Source: Martin et al., "The DET curve in assessment of detection task performance", Eurospeech 1997.
    """
    from scipy.special import ndtri

    # A rate of 0 lies at minus infinity: half an error is as far as this many trials can tell.
    floor_fa, floor_miss = 0.5 / record["nontargets"], 0.5 / record["targets"]
    x = ndtri(np.clip(curve.p_fa, floor_fa, 1 - floor_fa))
    y = ndtri(np.clip(curve.p_miss, floor_miss, 1 - floor_miss))
    figure, axes = _figure(5.6, 5.4)
    low = max(min(floor_fa, floor_miss) * 2, TICKS[0])
    ends = ndtri(low), ndtri(min(0.9, max(0.5, 8 * record["eer"])))
    axes.plot(ends, ends, color="#d1d5db", linewidth=1)
    axes.plot(x, y, color=BLUE, linewidth=1.8, solid_joinstyle="bevel")
    eer = ndtri(np.clip(record["eer"], low, 1 - low))
    axes.plot(eer, eer, "o", color=BLUE, label=f"EER {100 * record['eer']:.2f} %")
    for (p_target, at), marker in zip(record["min_dcf_at"].items(), "sD^v<>", strict=False):
        point = ndtri(
            np.clip([at["p_fa"], at["p_miss"]], (floor_fa, floor_miss), (1 - floor_fa, 1 - floor_miss))
        )
        label = f"minDCF({p_target}) {record['min_dcf'][p_target]:.3f}"
        axes.plot(*point, marker, color=ORANGE, label=label, clip_on=False)
    ticks = [t for t in TICKS if ends[0] <= ndtri(t) <= ends[1]]
    names = [f"{100 * t:g}" for t in ticks]
    axes.set(xlim=ends, ylim=ends, xlabel="false alarms (%)", ylabel="misses (%)", aspect="equal")
    axes.set_xticks(ndtri(ticks), names)
    axes.set_yticks(ndtri(ticks), names)
    axes.grid(color="#e5e7eb", linewidth=0.6)
    axes.legend(frameon=False, loc="upper right", numpoints=1)
    return _png(figure)


def histogram_png(scores: ScoreList, record: dict[str, Any]) -> bytes:
    """Return a PNG of the densities of target and non-target scores, with the threshold of the EER."""
    labels = np.asarray(scores.trials.labels)
    edges = np.linspace(scores.scores.min(), np.nextafter(scores.scores.max(), np.inf), 81)
    figure, axes = _figure(5.6, 5.4)
    for chosen, color, name in ((~labels, ORANGE, "non-target"), (labels, BLUE, "target")):
        density, _ = np.histogram(scores.scores[chosen], edges, density=True)
        axes.stairs(density, edges, fill=True, color=color, alpha=0.35)
        axes.stairs(density, edges, color=color, label=name)
    axes.axvline(record["eer_threshold"], color=GREY, linewidth=1, linestyle="--")
    axes.annotate(
        "EER",
        (record["eer_threshold"], 1),
        (3, -10),
        xycoords=("data", "axes fraction"),
        textcoords="offset points",
    )
    axes.set(xlabel=f"{record['score_kind']} score", ylabel="density")
    axes.legend(frameon=False, loc="upper left")
    return _png(figure)


def _figure(width: float, height: float) -> tuple[Any, Any]:
    """Return a figure and its axes; without pyplot, so that no display and no global state are touched."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _png(figure: Any) -> bytes:
    with io.BytesIO() as buffer:
        figure.savefig(buffer, format="png", dpi=160, metadata={"Software": None})
        return buffer.getvalue()


def _summary(record: dict[str, Any]) -> str:
    """Return the table of figures with intervals."""
    head, *rows = describe(record)
    cells = "".join(f"<th>{html.escape(cell)}</th>" for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(c)}</td>" for c in row) + "</tr>" for row in rows)
    return f"<table><tr>{cells}</tr>{body}</table>"


def _hardest(scores: ScoreList, record: dict[str, Any], target: bool) -> str:
    """Return the table of the most wrongly scored trials of one kind, equal scores in order of their ids."""
    trials = scores.trials
    rows = np.flatnonzero(np.asarray(trials.labels) == target)
    badness = scores.scores[rows] if target else -scores.scores[rows]
    count = min(HARDEST, len(rows))
    worst = rows[badness <= np.partition(badness, count - 1)[count - 1]]
    order = sorted(worst.tolist(), key=lambda i: (scores.scores[i] * (1 if target else -1), trials.pair(i)))[
        :count
    ]
    body = "".join(
        f'<tr><td>{scores.scores[i]:.4f}</td><td class="id">{html.escape(trials.ids[trials.enroll[i]])}</td>'
        f'<td class="id">{html.escape(trials.ids[trials.test[i]])}</td></tr>'
        for i in order
    )
    return f'<table><tr><th>score</th><th class="id">enroll</th><th class="id">test</th></tr>{body}</table>'


def _made(record: dict[str, Any], found: dict[str, Any]) -> list[tuple[str, str]]:
    """Return what the figures rest on, as pairs of name and value."""
    drawn, model, norm = record["bootstrap"], record["model"], record["norm"]
    facts = [
        ("trial list", found["name"]),
        ("SHA-256", found["sha256"]),
        ("found in it", ", ".join(f"{found[key]:,} {key}".replace("_", "-") for key in AUDITED)),
        ("scores", record["score_kind"]),
        ("crops", record["crops"] or "not known"),
        ("normalisation", ", ".join(f"{k} {v}" for k, v in norm.items()) if norm else "none"),
    ]
    if model:
        facts.append(("model", ", ".join(f"{k} {v}" for k, v in model.items() if v is not None)))
    if drawn:
        over = f"{drawn['units']:,} {drawn['unit']}s"
        facts.append(
            ("intervals", f"{drawn['samples']:,} bootstrap samples over {over}, seed {drawn['seed']}")
        )
    facts.append(("EER", "linear between operating points, equal scores grouped"))
    facts.append(("minDCF", "normalised by the cost of deciding without listening, costs of both errors 1"))
    facts.append(("written", datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")))
    return facts
