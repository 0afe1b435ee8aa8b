"""Drawings of spheres, target curves and decision boundaries, with matplotlib."""

import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image

# Seen from upper right: rows are right, up and towards the eye.
VIEW = np.array([[0.906, 0.0, -0.423], [-0.145, 0.940, -0.311], [0.398, 0.343, 0.851]])

Array = np.ndarray
Target = Callable[[Array], Array]


@dataclass(frozen=True)
class Palette:
    """The colours of a picture, for light or for dark surroundings."""

    ink: str
    faint: str
    paper: str
    grid: str
    classes: tuple[str, ...] = (
        *("#2b6cb0", "#dd7a2b", "#2f9e63", "#cc4545", "#7c5cbf"),
        *("#8c6a4f", "#d667a8", "#5f6b7a", "#a89a1c", "#1ba3b5"),
    )


LIGHT = Palette("#1f2937", "#6b7280", "#ffffff", "#e5e7eb")
DARK = Palette("#e9e7e2", "#a0a6b2", "#13151a", "#2d313b")


@dataclass(frozen=True)
class Sphere:
    """Embeddings of a network that was trained under one head.

    Attributes:
        title: of the head.
        points: float (N, 3), unit embeddings.
        lengths: float (N,), of the embeddings before.
        labels: int (N,), the class of each.
        held_out: bool (N,), not trained on.
        weights: float (W, 3), unit class weights; W is 0 where the head has none.
        weight_labels: int (W,), the class of each weight.
    """

    title: str
    points: Array
    lengths: Array
    labels: Array
    held_out: Array
    weights: Array
    weight_labels: Array

    def means(self) -> Array:
        """Return the unit mean direction (classes, 3) of each class."""
        sums = np.stack([self.points[self.labels == k].sum(0) for k in range(self.labels.max() + 1)])
        means: Array = sums / np.linalg.norm(sums, axis=1, keepdims=True)
        return means

    def within(self) -> float:
        """Return the mean angle in degrees between two held-out embeddings of a class."""
        angles = []
        for k in range(self.labels.max() + 1):
            members = self.points[(self.labels == k) & self.held_out]
            cosines = (members @ members.T)[~np.eye(len(members), dtype=bool)]
            angles.append(np.degrees(np.arccos(cosines.clip(-1, 1))).mean())
        return float(np.mean(angles))

    def nearest(self) -> float:
        """Return the mean angle in degrees between the mean of a class and the nearest other."""
        means = self.means()
        nearest = (means @ means.T - 2 * np.eye(len(means))).max(axis=1)
        return float(np.degrees(np.arccos(nearest.clip(-1, 1))).mean())

    def caption(self) -> str:
        """Return both angles as text."""
        return f"within {self.within():.0f}°, nearest other {self.nearest():.0f}°"

    def caps(self) -> Array:
        """Return the angle (classes,) in radians around each mean that holds nine tenths of the class."""
        cosines = (self.points * self.means()[self.labels]).sum(axis=1)
        classes = range(self.labels.max() + 1)
        return np.array([np.arccos(np.quantile(cosines[self.labels == k], 0.1).clip(-1, 1)) for k in classes])


def draw_sphere(axes: Axes, sphere: Sphere) -> None:
    """Draw one transparent sphere, with the marks on its far side fainter."""
    axes.set(xlim=(-1.16, 1.16), ylim=(-1.16, 1.16), aspect="equal")
    axes.axis("off")
    _ball(axes)
    points = sphere.points @ VIEW.T
    colors = np.array([to_rgb(c) for c in LIGHT.classes])[sphere.labels]
    front, held_out = points[:, 2] > 0, sphere.held_out

    def scatter(chosen: Array, size: float, alpha: float, edge: str = "none") -> None:
        x, y = points[chosen, :2].T
        axes.scatter(x, y, s=size, c=colors[chosen], alpha=alpha, edgecolors=edge, linewidths=0.45, zorder=3)

    scatter(~front, 4, 0.13)
    for mean, angle, color in zip(sphere.means() @ VIEW.T, sphere.caps(), LIGHT.classes, strict=True):
        ring = circle(mean, angle)
        for side, alpha in ((ring[:, 2] > 0, 0.75), (ring[:, 2] <= 0, 0.15)):
            x, y = np.where(side[:, None], ring[:, :2], np.nan).T
            axes.plot(x, y, color=color, alpha=alpha, lw=0.9, zorder=2)
    scatter(front & ~held_out, 5, 0.45)
    scatter(front & held_out, 17, 1.0, edge="white")
    for weight, label in zip(sphere.weights @ VIEW.T, sphere.weight_labels, strict=True):
        # A pin is 0.12 long; behind the sphere only its head can be seen past the edge.
        x, y = np.outer([1.0, 1.12], weight[:2]).T
        if weight[2] > 0 or np.hypot(x[1], y[1]) > 1:
            axes.plot(x, y, color=LIGHT.ink, lw=0.7, zorder=4, solid_capstyle="round")
            axes.scatter(
                x[1:], y[1:], s=9, color=LIGHT.classes[label], edgecolors=LIGHT.ink, linewidths=0.5, zorder=5
            )


def circle(center: Array, angle: float) -> Array:
    """Return points (97, 3) of the circle on the unit sphere at `angle` radians from `center`."""
    helper = np.eye(3)[np.abs(center).argmin()]
    side = np.cross(center, helper)
    side /= np.linalg.norm(side)
    turn = np.linspace(0, 2 * math.pi, 97)[:, None]
    points: Array = math.cos(angle) * center + math.sin(angle) * (
        np.cos(turn) * side + np.sin(turn) * np.cross(center, side)
    )
    return points


def _ball(axes: Axes) -> None:
    """Shade the sphere with light from upper left, and draw meridians and parallels every 30 degrees."""
    y, x = np.mgrid[-1:1:240j, -1:1:240j]
    radius = np.hypot(x, y)
    light = np.clip(np.hypot(x + 0.35, y - 0.4) / 1.5, 0, 1)[..., None] ** 1.4
    image = np.concatenate(
        [1 - light * (1 - np.array([0.80, 0.84, 0.90])), np.ones_like(x)[..., None]], axis=2
    )
    image[..., 3] = np.clip((1 - radius) * 120, 0, 1)
    axes.imshow(image, extent=(-1, 1, -1, 1), origin="lower", zorder=0, interpolation="bilinear")
    pole = np.array([0.0, 1.0, 0.0])
    meridians = [
        circle(np.array([math.cos(a), 0.0, math.sin(a)]), math.pi / 2) for a in np.arange(6) * math.pi / 6
    ]
    for line in [*meridians, *(circle(pole, math.radians(a)) for a in (30, 60, 90, 120, 150))]:
        seen = line @ VIEW.T
        x, y = np.where(seen[:, 2:] > 0, seen[:, :2], np.nan).T
        axes.plot(x, y, color="#94a3b8", alpha=0.35, lw=0.5, zorder=1)
    turn = np.linspace(0, 2 * math.pi, 200)
    axes.plot(np.cos(turn), np.sin(turn), color="#94a3b8", lw=0.8, zorder=1)


def sphere_rows(groups: Sequence[tuple[str, str, Sequence[Sequence[Sphere]]]], key: str) -> bytes:
    """Return a PNG of spheres in rows, each with its title and angles.

    Args:
        groups: a heading, a note on what can be seen, and rows of spheres under them.
        key: the meaning of the marks, written first.
    """
    columns = max(len(row) for *_, rows in groups for row in rows)
    count = sum(len(rows) for *_, rows in groups)
    row_height, heading_height, key_height = 2.95, 0.85, 0.55
    height = row_height * count + heading_height * len(groups) + key_height
    figure = Figure(figsize=(2.55 * columns, height), facecolor=LIGHT.paper)
    figure.text(0.02, 1 - 0.14 / height, key, fontsize=9.5, color=LIGHT.faint, va="top", linespacing=1.5)
    top = height - key_height
    for heading, note, rows in groups:
        figure.text(
            0.02, (top - 0.28) / height, heading, fontsize=14, color=LIGHT.ink, fontweight="bold", va="top"
        )
        figure.text(0.02, (top - 0.58) / height, note, fontsize=10, color=LIGHT.ink, va="top")
        top -= heading_height
        for row in rows:
            for column, sphere in enumerate(row):
                place = (
                    column / columns,
                    (top - row_height) / height,
                    1 / columns,
                    (row_height - 0.48) / height,
                )
                axes = figure.add_axes(place)
                draw_sphere(axes, sphere)
                axes.set_title(sphere.title, fontsize=10.5, color=LIGHT.ink, pad=13, fontweight="bold")
                axes.text(
                    *(0.5, 1.005, sphere.caption()),
                    transform=axes.transAxes,
                    ha="center",
                    fontsize=8,
                    color=LIGHT.faint,
                )
            top -= row_height
    return png(figure)


def curves(
    targets: Sequence[tuple[str, Target]],
    boundaries: Sequence[tuple[str, str, Target]],
    palette: Palette = LIGHT,
) -> bytes:
    """Return a PNG of the target curves, the decision boundaries and the width of the gap.

    Args:
        targets: the name of each head, and its target logit over s as a function of cos(theta).
        boundaries: name, formula and the same function; one panel each.
        palette: for light or for dark surroundings.
    """
    figure = Figure(figsize=(13.2, 9.4), facecolor=palette.paper)
    _headings(
        figure,
        palette,
        "What a margin does to the target, and to the boundary between two speakers",
        "Computed with the code of the heads.",
    )
    top = figure.add_gridspec(1, 2, left=0.05, right=0.985, top=0.86, bottom=0.475, wspace=0.16)
    _target_curves(figure.add_subplot(top[0]), palette, targets)
    _gap_curves(figure.add_subplot(top[1]), palette, boundaries)
    bottom = figure.add_gridspec(
        1, len(boundaries), left=0.05, right=0.985, top=0.365, bottom=0.065, wspace=0.22
    )
    for column, (name, formula, target) in enumerate(boundaries):
        _regions(figure.add_subplot(bottom[column]), palette, name, formula, target, with_label=column == 0)
    return png(figure)


def _target_curves(axes: Axes, palette: Palette, targets: Sequence[tuple[str, Target]]) -> None:
    theta = np.linspace(0, math.pi, 721)
    for (name, target), color in zip(targets, (palette.ink, *palette.classes), strict=False):
        values = target(np.cos(theta))
        axes.plot(np.degrees(theta), values, color=color, lw=1.8 if color != palette.ink else 1.2, label=name)
    axes.set(xlim=(0, 180), ylim=(-3.2, 1.15), xlabel="angle θ to the right class, degrees")
    axes.set_xticks(range(0, 181, 30))
    axes.set_title("Target logit over s, in place of cos θ", fontsize=11, loc="left", color=palette.ink)
    axes.legend(fontsize=8.5, frameon=False, loc="upper right", labelcolor=palette.ink)
    _plain(axes, palette)


def _gap_curves(axes: Axes, palette: Palette, boundaries: Sequence[tuple[str, str, Target]]) -> None:
    between = np.radians(np.linspace(1, 180, 180))
    for (name, _, target), color in zip(boundaries, (palette.ink, *palette.classes), strict=False):
        width = np.array([gap(target, angle) for angle in between])
        axes.plot(np.degrees(between), np.degrees(width), color=color, lw=1.8, label=name)
    axes.plot([0, 180], [0, 180], color=palette.faint, lw=0.8, ls=(0, (4, 3)))
    axes.text(
        63, 66, "nothing but gap", color=palette.faint, fontsize=8.5, rotation=49, ha="center", va="bottom"
    )
    axes.set(xlim=(0, 180), ylim=(0, 90), xlabel="angle between the two class weights, degrees")
    axes.set_xticks(range(0, 181, 30))
    axes.set_title(
        "Width of the gap on the arc between two weights, degrees", fontsize=11, loc="left", color=palette.ink
    )
    axes.legend(fontsize=8.5, frameon=False, loc="upper right", labelcolor=palette.ink)
    _plain(axes, palette)


def gap(target: Target, between: float) -> float:
    """Return the width (rad) of the gap on the arc between two unit weights that are `between` rad apart.

    An embedding at theta from its own weight counts as right where target(cos theta) >= cos(between - theta); the
    gap is the part of the arc that counts as right for neither class: all of it where even theta = 0 is not enough.
    """
    theta = np.linspace(0, between / 2, 20001)
    content = target(np.cos(theta)) >= np.cos(between - theta) - 1e-12
    return between - 2 * theta[content].max() if content.any() else between


def _regions(axes: Axes, palette: Palette, name: str, formula: str, target: Target, with_label: bool) -> None:
    """Show which angles theta_1 and theta_2 to two weights count as speaker 1, as speaker 2, and as neither."""
    theta = np.radians(np.linspace(0, 120, 481))
    lowered, other = target(np.cos(theta)), np.cos(theta)
    first = lowered[None, :] >= other[:, None] - 1e-12
    second = lowered[:, None] >= other[None, :] - 1e-12
    paper = np.array(to_rgb(palette.paper))
    image = np.tile(paper, (len(theta), len(theta), 1))
    for region, color in ((first, palette.classes[0]), (second & ~first, palette.classes[1])):
        image[region] = 0.55 * paper + 0.45 * np.array(to_rgb(color))
    axes.imshow(image, extent=(0, 120, 0, 120), origin="lower", interpolation="bilinear")
    axes.plot([0, 120], [0, 120], color=palette.ink, lw=0.8, ls=(0, (4, 3)))
    for x, y, text in ((28, 98, "speaker 1"), (92, 20, "speaker 2")):
        axes.text(x, y, text, ha="center", color=palette.ink, fontsize=9)
    axes.set_title(f"{name}\n", fontsize=10.5, color=palette.ink, fontweight="bold")
    axes.text(0.5, 1.03, formula, transform=axes.transAxes, ha="center", fontsize=9, color=palette.faint)
    axes.set_xlabel("θ₁, degrees", fontsize=9, color=palette.ink)
    if with_label:
        axes.set_ylabel("θ₂, degrees", fontsize=9, color=palette.ink)
    axes.set_xticks(range(0, 121, 30))
    axes.set_yticks(range(0, 121, 30))
    axes.tick_params(labelsize=8, colors=palette.faint)
    axes.spines[:].set_color(palette.grid)


def _plain(axes: Axes, palette: Palette) -> None:
    axes.grid(color=palette.grid, lw=0.7)
    axes.set_axisbelow(True)
    axes.set_facecolor(palette.paper)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(palette.grid)
    axes.tick_params(labelsize=8.5, colors=palette.faint)
    axes.xaxis.label.set(fontsize=9, color=palette.ink)


def _headings(figure: Figure, palette: Palette, title: str, subtitle: str) -> None:
    inch = 1 / figure.get_figheight()
    figure.text(0.02, 1 - 0.18 * inch, title, fontsize=15, color=palette.ink, fontweight="bold", va="top")
    figure.text(0.02, 1 - 0.50 * inch, subtitle, fontsize=9.5, color=palette.faint, va="top", linespacing=1.5)


def png(figure: Figure) -> bytes:
    """Return the figure as a PNG with all its colours, without a display."""
    with io.BytesIO() as drawn, io.BytesIO() as buffer:
        figure.savefig(drawn, format="png", dpi=110)
        Image.open(drawn).convert("RGB").save(buffer, format="png", optimize=True)
        return buffer.getvalue()
