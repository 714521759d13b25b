"""Curves over the slices of a volume, as coordinates of an SVG drawing."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 640, 220
"""Of a drawing, in its own units."""

LEFT, RIGHT, TOP, BOTTOM = 52, 12, 12, 36
"""Margins."""

Values = Sequence[float | None]
"""A figure of every slice, None where there is none."""


@dataclass(frozen=True)
class Curve:
    """A figure of every slice.

    Attributes:
        name: for the legend.
        place: 0, 1, ...: decides colour, dashes and markers.
        points: ``(x, y)`` in the drawing, of the slices that have the figure.
    """

    name: str
    place: int
    points: list[tuple[float, float]]

    @property
    def line(self) -> str:
        """The points as SVG has them."""
        return " ".join(f"{x:.1f},{y:.1f}" for x, y in self.points)


@dataclass(frozen=True)
class Plot:
    """Curves over the slices.

    Attributes:
        key: names the drawing in the page.
        title: what is drawn.
        unit: of the vertical axis.
        curves: at least one.
        x_ticks: places and labels, horizontally.
        y_ticks: the same, vertically.
        places: of the slices, horizontally, as text.
    """

    key: str
    title: str
    unit: str
    curves: list[Curve]
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    places: str

    width = WIDTH
    height = HEIGHT
    left, right = LEFT, WIDTH - RIGHT
    top, bottom = TOP, HEIGHT - BOTTOM

    @property
    def marked(self) -> bool:
        """Whether points are marked: few enough to be told apart."""
        return len(self.places.split()) <= 60


def plot_slices(
    key: str, title: str, unit: str, figures: Mapping[str, Values], n_slices: int
) -> Plot:
    """Figures of the slices 0, 1, ..., by name, on one linear axis that begins at 0."""
    top = max([v for values in figures.values() for v in values if v is not None], default=0.0)
    levels = ticks(top)
    highest = max(top * 1.04, levels[-1], 1e-12)
    curves = [
        Curve(name, place, _points(values, highest))
        for place, (name, values) in enumerate(figures.items())
    ]
    chosen = [round(value) for value in ticks(n_slices - 1, whole=True)]
    return Plot(
        key,
        title,
        unit,
        curves,
        [(place_of(i, n_slices), str(i)) for i in chosen if i < n_slices],
        [(_height(level, highest), f"{level:g}") for level in levels],
        " ".join(f"{place_of(i, n_slices):.1f}" for i in range(n_slices)),
    )


def _points(values: Values, highest: float) -> list[tuple[float, float]]:
    found = [(i, value) for i, value in enumerate(values) if value is not None]
    return [(place_of(i, len(values)), _height(value, highest)) for i, value in found]


def place_of(index: int, n_slices: int) -> float:
    """Where a slice stands horizontally; a single one in the middle."""
    share = 0.5 if n_slices == 1 else index / (n_slices - 1)
    inset = 10
    return LEFT + inset + share * (WIDTH - LEFT - RIGHT - 2 * inset)


def _height(value: float, highest: float) -> float:
    return HEIGHT - BOTTOM - value / highest * (HEIGHT - TOP - BOTTOM)


def ticks(top: float, *, whole: bool = False) -> list[float]:
    """About five round numbers from 0 to ``top``; only whole ones if ``whole``."""
    if not top > 0 or not math.isfinite(top):
        return [0.0]
    rough = top / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(k * power for k in (1, 2, 5, 10) if k * power >= rough * (1 - 1e-9))
    if whole:
        step = max(step, 1.0)
    return [k * step for k in range(int(top / step + 1e-9) + 1)]
