"""Plots as inline SVG: colours come from the page's style sheet, so that they follow light and dark."""

from collections.abc import Iterable, Sequence
from html import escape

import numpy as np

WIDTH, HEIGHT = 460.0, 400.0
LEFT, RIGHT, TOP, BOTTOM = 54.0, 20.0, 12.0, 48.0

NARROW = 24.0  # least distance between two ticks on the x axis

Ticks = Iterable[tuple[float, str]]
Values = np.ndarray | Sequence[float]


class Plot:
    """One plot with linear axes; for other axes the caller transforms the values.

    Args:
        label: its content in words, for those who can't see it.
        x_range: values at the left and the right end.
        y_range: values at the bottom and the top.
        height: in units of which the width has 460.
        frame: leave room for axes.
    """

    def __init__(
        self,
        label: str,
        x_range: tuple[float, float],
        y_range: tuple[float, float],
        height: float = HEIGHT,
        frame: bool = True,
    ) -> None:
        self.label, self.height = label, height
        self.left, self.top = (LEFT, TOP) if frame else (0.0, 0.0)
        self.across = WIDTH - self.left - (RIGHT if frame else 0)
        self.down = height - self.top - (BOTTOM if frame else 0)
        self._x_range, self._y_range = x_range, y_range
        self._outside: list[str] = []
        self._inside: list[str] = []

    def place(self, x: Values, y: Values) -> np.ndarray:
        """Return points (N, 2) in the plot's own units, rounded to a tenth."""
        (x0, x1), (y0, y1) = self._x_range, self._y_range
        right = (np.asarray(x, np.float64) - x0) / (x1 - x0) * self.across
        up = (np.asarray(y, np.float64) - y0) / (y1 - y0) * self.down
        # Far outside nothing is seen, but huge coordinates upset browsers.
        return np.round(np.clip(np.stack((right, self.down - up), -1), -2000, 2000), 1)

    def axes(self, x_title: str, y_title: str, x_ticks: Ticks, y_ticks: Ticks) -> None:
        """Draw grid lines, their names and the titles of both axes."""
        last = -np.inf
        for value, name in x_ticks:
            x = self.place([value], [0])[0, 0]
            if x - last < NARROW:  # names would run into each other
                continue
            last = x
            self._inside.append(f'<path class="grid" d="M{x:g} 0V{self.down:g}"/>')
            self._outside.append(_text(self.left + x, self.top + self.down + 17, name, "middle"))
        for value, name in y_ticks:
            y = self.place([0], [value])[0, 1]
            self._inside.append(f'<path class="grid" d="M0 {y:g}H{self.across:g}"/>')
            self._outside.append(_text(self.left - 7, self.top + y + 4, name, "end"))
        x, y = self.left + self.across / 2, self.top + self.down / 2
        self._outside.append(_text(x, self.height - 8, x_title, "middle", "name"))
        self._outside.append(
            f'<text class="name" text-anchor="middle" transform="translate(12 {y:g}) rotate(-90)">'
            f"{escape(y_title)}</text>"
        )

    def line(self, x: Values, y: Values, style: str) -> None:
        """Draw a line through points."""
        self._inside.append(f'<path class="line {style}" d="{_path(self.place(x, y))}"/>')

    def steps(self, edges: Values, heights: Values, style: str) -> None:
        """Draw a histogram: its outline and, fainter, its area."""
        x = np.repeat(np.asarray(edges, np.float64), 2)
        y = np.concatenate(([0.0], np.repeat(np.asarray(heights, np.float64), 2), [0.0]))
        path = _path(self.place(x, y))
        self._inside.append(
            f'<path class="area {style}" d="{path}Z"/><path class="line {style}" d="{path}"/>'
        )

    def point(self, x: float, y: float, style: str, title: str, radius: float = 4.5) -> None:
        """Draw a dot with a title that appears under the pointer."""
        (px, py), *_ = self.place([x], [y])
        self._inside.append(
            f'<circle class="dot {style}" cx="{px:g}" cy="{py:g}" r="{radius:g}">'
            f"<title>{escape(title)}</title></circle>"
        )

    def diamond(self, x: float, y: float, style: str, title: str) -> None:
        """Draw a diamond with a title that appears under the pointer."""
        (px, py), *_ = self.place([x], [y])
        self._inside.append(
            f'<path class="dot {style}" d="M{px:g} {py - 6:g}l6 6l-6 6l-6 -6Z"><title>{escape(title)}</title></path>'
        )

    def note(self, x: float, y: float, text: str, anchor: str = "start", style: str = "") -> None:
        """Write a few words at a point."""
        (px, py), *_ = self.place([x], [y])
        self._inside.append(_text(px, py, text, anchor, f"note {style}".strip()))

    def svg(self) -> str:
        """Return the element."""
        return (
            f'<svg viewBox="0 0 {WIDTH:g} {self.height:g}" role="img" aria-label="{escape(self.label)}">'
            f'<svg x="{self.left:g}" y="{self.top:g}" width="{self.across:g}" height="{self.down:g}">'
            f"{''.join(self._inside)}</svg>{''.join(self._outside)}</svg>"
        )


def nice_ticks(low: float, high: float, about: int = 5) -> list[tuple[float, str]]:
    """Return round values in a range, at a step of 1, 2 or 5 times a power of ten, and their names."""
    rough = (high - low) / about
    power = 10.0 ** np.floor(np.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * 0.999)
    return [
        (float(value), f"{value:g}".replace("-", "−"))
        for value in np.round(
            np.arange(np.ceil(low / step - 1e-9), np.floor(high / step + 1e-9) + 1) * step, 10
        )
        + 0.0
    ]


def _text(x: float, y: float, text: str, anchor: str, style: str = "") -> str:
    named = f' class="{style}"' if style else ""
    return f'<text{named} x="{x:g}" y="{y:g}" text-anchor="{anchor}">{escape(text)}</text>'


def _path(points: np.ndarray) -> str:
    """Return an SVG path through points (N, 2), without those that change nothing visible."""
    moved = np.append(True, (np.diff(points, axis=0) != 0).any(axis=1))
    points = points[moved]
    if len(points) > 2:  # the middle of three on one horizontal or vertical line
        before, after = points[:-2], points[2:]
        straight = (points[1:-1] == before) & (points[1:-1] == after)
        points = points[np.concatenate(([True], ~straight.any(axis=1), [True]))]
    first, *rest = points.tolist()
    return f"M{first[0]:g} {first[1]:g}" + "".join(f"L{x:g} {y:g}" for x, y in rest)
