"""The plots of a report: DET curves, histograms, the cost of likelihood ratios over the prior, the map."""

import io
from collections.abc import Sequence

import numpy as np
from scipy.special import logit, ndtri

from speakerverif.data.scores import ScoreList
from speakerverif.evaluation.bayes_error import bayes_error
from speakerverif.report.embedding_map import Map
from speakerverif.report.results import Calibrated, System
from speakerverif.report.svg import Plot, nice_ticks

RATES = (0.0001, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8)
PRIORS = (0.001, 0.01, 0.05, 0.2, 0.5, 0.8, 0.95, 0.99, 0.999)
SYSTEM_STYLES = ("a", "b")  # colours of the style sheet, the first system's and the second's
BINS = 80
LONGEST_NAME = 40  # characters of a system's name in the legend of the PNG
SQUARE, HALF = 446.0, 186.0  # heights of a plot with equally long axes, and of each of two plots beside it


def det_svg(systems: Sequence[System]) -> str:
    """Return DET curves on normal-deviate axes, with the EER and the cheapest points of each.

    Source: Martin et al., "The DET curve in assessment of detection task performance", Eurospeech 1997.
    """
    low, high = _det_range(systems)
    names = " and ".join(f"{s.name}, EER {100 * s.record.figures.eer:.2f} %" for s in systems)
    plot = Plot(
        f"DET curve: misses against false alarms, of {names}",
        (ndtri(low), ndtri(high)),
        (ndtri(low), ndtri(high)),
        height=SQUARE,
    )
    ticks = [(float(ndtri(t)), f"{100 * t:g}") for t in RATES if low <= t <= high]
    plot.axes("false alarms (%)", "misses (%)", ticks, ticks)
    plot.line([ndtri(low), ndtri(high)], [ndtri(low), ndtri(high)], "faint")
    for system, style in zip(systems, SYSTEM_STYLES, strict=False):
        plot.line(*_normal_deviates(system), style)
    for system, style in zip(systems, SYSTEM_STYLES, strict=False):
        eer = float(ndtri(np.clip(system.record.figures.eer, low, 1 - low)))
        plot.point(eer, eer, style, f"{system.name}: EER {100 * system.record.figures.eer:.2f} %")
        for cost in system.record.figures.costs:
            x, y = ndtri(np.clip((cost.point.p_fa, cost.point.p_miss), low, high))
            text = (
                f"{system.name}: minDCF({cost.key}) {cost.minimum:.3f} "
                f"at {100 * cost.point.p_fa:.3g} % false alarms, {100 * cost.point.p_miss:.3g} % misses"
            )
            plot.diamond(x, y, style, text)
    return plot.svg()


def det_png(systems: Sequence[System]) -> bytes:
    """Return the DET curves as a PNG, for a paper or a slide."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    low, high = _det_range(systems)
    figure = Figure(figsize=(5.6, 5.4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.plot(ndtri([low, high]), ndtri([low, high]), color="#d1d5db", linewidth=1)
    for system, color in zip(systems, ("#1f5fa8", "#c4551a"), strict=False):
        name = system.name if len(system.name) <= LONGEST_NAME else system.name[:LONGEST_NAME] + "…"
        name = name.replace("$", r"\$")  # two of them would enclose a formula
        label = f"EER {100 * system.record.figures.eer:.2f} %, {name}"
        axes.plot(*_normal_deviates(system), color=color, linewidth=1.8, solid_joinstyle="bevel", label=label)
        eer = ndtri(np.clip(system.record.figures.eer, low, 1 - low))
        axes.plot(eer, eer, "o", color=color)
        for cost, marker in zip(system.record.figures.costs, "sD^v<>", strict=False):
            x, y = ndtri(np.clip((cost.point.p_fa, cost.point.p_miss), low, high))
            text = f"minDCF({cost.key}) {cost.minimum:.3f}"
            axes.plot(x, y, marker, color=color, label=text, clip_on=False)
    ticks = [t for t in RATES if low <= t <= high]
    axes.set(xlim=ndtri([low, high]), ylim=ndtri([low, high]), aspect="equal")
    axes.set(xlabel="false alarms (%)", ylabel="misses (%)")
    axes.set_xticks(ndtri(ticks), [f"{100 * t:g}" for t in ticks])
    axes.set_yticks(ndtri(ticks), [f"{100 * t:g}" for t in ticks])
    axes.grid(color="#e5e7eb", linewidth=0.6)
    axes.legend(frameon=False, loc="upper right", numpoints=1)
    with io.BytesIO() as buffer:
        figure.savefig(buffer, format="png", dpi=160, metadata={"Software": None})
        return buffer.getvalue()


def _floor(system: System) -> np.ndarray:
    # A rate of 0 is at minus infinity: half an error is the least that so few trials can show.
    return np.array([0.5 / system.record.nontargets, 0.5 / system.record.targets])


def _det_range(systems: Sequence[System]) -> tuple[float, float]:
    """Return the lowest and the highest rate that a DET plot shows."""
    low = min(max(min(2 * _floor(s).min() for s in systems), RATES[0]), 0.1)
    high = min(0.9, max(0.5, 8 * max(s.record.figures.eer for s in systems)))
    return low, high


def _normal_deviates(system: System) -> tuple[np.ndarray, np.ndarray]:
    floor_fa, floor_miss = _floor(system)
    x = ndtri(np.clip(system.curve.p_fa, floor_fa, 1 - floor_fa))
    return x, ndtri(np.clip(system.curve.p_miss, floor_miss, 1 - floor_miss))


def histogram_svg(system: System, height: float) -> str:
    """Return the densities of target and non-target scores, with the threshold of the EER."""
    scores, labels = system.scores.scores, system.labels
    ends = scores.min(), np.nextafter(scores.max(), np.inf)
    if ends[1] - ends[0] < 1e-9 * max(1.0, abs(ends[0])):  # all scores are equal
        ends = ends[0] - 0.5, ends[0] + 0.5
    edges = np.linspace(*ends, BINS + 1)
    densities = [np.histogram(scores[which], edges, density=True)[0] for which in (~labels, labels)]
    top = 1.08 * max(density.max() for density in densities)
    threshold = system.record.figures.eer_threshold
    plot = Plot(
        f"Histograms of the scores of {system.name}: non-targets around {np.median(scores[~labels]):.3g}, targets "
        f"around {np.median(scores[labels]):.3g}, EER threshold {threshold:.3g}",
        (edges[0], edges[-1]),
        (0, top),
        height,
    )
    kind = {"cosine": "cosine similarity", "llr": "log likelihood ratio"}.get(
        system.scores.kind, f"{system.scores.kind} score"
    )
    plot.axes(
        kind, "density", nice_ticks(edges[0], edges[-1], 6), nice_ticks(0, top, 5 if height > 300 else 3)
    )
    for density, style in zip(densities, ("n", "t"), strict=True):
        plot.steps(edges, density, style)
    plot.line([threshold, threshold], [0, top], "mark")
    plot.note(threshold, 0.93 * top, f"\u00a0EER {100 * system.record.figures.eer:.2f} %")
    return plot.svg()


def bayes_svg(scores: Sequence[tuple[System, ScoreList]], when: str) -> str:
    """Return the cost of scores as log likelihood ratios over the prior, and the least possible cost.

    Args:
        scores: of each system.
        when: `before` or `after` calibration.
    """
    ends = float(logit(PRIORS[-1]))
    log_odds = np.linspace(-ends, ends, 201)
    plot = Plot(
        f"Normalised cost over the prior, {when} calibration: " + ", ".join(s.name for s, _ in scores),
        (-ends, ends),
        (0, 1.3),
        height=330,
    )
    plot.axes(
        "prior probability of a target, log-odds scale",
        "normalised cost",
        [(float(logit(p)), f"{p:g}") for p in PRIORS],
        nice_ticks(0, 1.2, 6),
    )
    plot.line([-ends, ends], [1, 1], "mark")
    plot.note(-ends * 0.98, 1.03, "deciding without listening")
    for (system, one), style in zip(scores, SYSTEM_STYLES, strict=False):
        errors = bayes_error(one.scores, system.labels, log_odds)
        plot.line(log_odds, errors.minimum, f"{style} dashed")
        plot.line(log_odds, errors.actual, style)
    return plot.svg()


def calibration_svgs(found: Sequence[Calibrated]) -> list[tuple[str, str]]:
    """Return the plots before and, where there is any, after calibration, each with its caption."""
    before = [(one.system, one.system.scores) for one in found]
    after = [(one.system, one.after) for one in found if one.after is not None]
    llr = all(one.system.scores.kind == "llr" for one in found)
    plots = [
        (
            "before: as they are" if llr else "before: scores read as if they were LLRs",
            bayes_svg(before, "before"),
        )
    ]
    if after:
        plots.append(("after: calibrated on other speakers", bayes_svg(after, "after")))
    return plots


def map_svg(found: Map) -> str:
    """Return the embeddings as dots in two dimensions, coloured by speaker, each speaker named once."""
    (x0, y0), (x1, y1) = found.points.min(axis=0), found.points.max(axis=0)
    pad_x, pad_y = 0.06 * (x1 - x0) or 1.0, 0.06 * (y1 - y0) or 1.0
    plot = Plot(
        f"Map of {len(found.ids)} embeddings of {len(found.speakers)} speakers by {found.method}",
        (x0 - pad_x, x1 + pad_x),
        (y0 - pad_y, y1 + pad_y),
        height=340,
        frame=False,
    )
    owners = np.array([found.speakers.index(s) for s in found.owner])
    for name, k, (x, y) in zip(found.ids, owners.tolist(), found.points, strict=True):
        plot.point(x, y, f"m{k % 12} s{k}", f"{found.speakers[k]}: {name}", radius=2.1)
    for k, name in enumerate(found.speakers):
        cluster = found.points[owners == k]  # named above its dots
        plot.note(
            np.median(cluster[:, 0]), cluster[:, 1].max() + 0.012 * (y1 - y0), name, "middle", f"who s{k}"
        )
    return plot.svg()


def interval_svg(value: float, limits: Sequence[float] | None, top: float, whole: float) -> str:
    """Return a dot with its interval on a scale from 0 to `top`, and a tick at the whole list's value."""

    def at(x: float) -> str:
        return f"{100 * min(x / top, 1):.1f}"

    bar = f'<path class="line a" d="M{at(limits[0])} 7H{at(limits[1])}"/>' if limits else ""
    return (
        f'<svg class="range" viewBox="-4 0 108 14" aria-hidden="true"><path class="mark line" d="M{at(whole)} 0V14"/>'
        f'{bar}<circle class="dot a" cx="{at(value)}" cy="7" r="3.5"/></svg>'
    )
