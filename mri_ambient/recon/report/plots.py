"""Curves over the slices of a volume, as coordinates of an SVG drawing."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 640, 220
"""Of a drawing, in its own units."""

LEFT, RIGHT, TOP, BOTTOM = 52, WIDTH - 12, 12, HEIGHT - 36
"""Where its axes end."""

INSET = 10
"""Between the vertical axis and the first slice."""

MOST_MARKED = 60
"""Slices up to which every point is marked."""

STYLES = (
    "this reconstruction",
    "L1-wavelet",
    "CG-SENSE",
    "noise alone",
    "zero-filled",
    "limit for a warning",
)
"""What curves are called; the place in this list decides colour and dashes."""

Values = Sequence[float | None]
"""A figure of every slice, None where there is none."""


@dataclass(frozen=True)
class Curve:
    """A figure of every slice.

    Attributes:
        name: one of :data:`STYLES`.
        values: of the slices.
        points: ``(x, y)`` in the drawing, of the slices that have the figure.
    """

    name: str
    values: Values
    points: list[tuple[float, float]]

    @property
    def style(self) -> int:
        """Its place in :data:`STYLES`."""
        return STYLES.index(self.name)

    @property
    def line(self) -> str:
        """The points as SVG has them."""
        return " ".join(f"{x:.1f},{y:.1f}" for x, y in self.points)


@dataclass(frozen=True)
class Plot:
    """Figures of the slices 0, 1, ... on one linear axis that begins at 0.

    Attributes:
        key: names the drawing in the page.
        title: what is drawn.
        unit: of the vertical axis.
        figures: by what their curves are called.
        n_slices: number of slices.
    """

    key: str
    title: str
    unit: str
    figures: Mapping[str, Values]
    n_slices: int

    width, height, left, right, top, bottom = WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM

    @property
    def highest(self) -> float:
        """The value at the top of the drawing."""
        given = [v for values in self.figures.values() for v in values if v is not None]
        return 1.04 * max(given, default=0.0) or 1.0

    @property
    def curves(self) -> list[Curve]:
        """A curve a figure."""
        return [Curve(name, vs, self._points(vs)) for name, vs in self.figures.items()]

    @property
    def y_ticks(self) -> list[tuple[float, str]]:
        """Places and labels."""
        return [(self._y(value), f"{value:g}") for value in ticks(self.highest)]

    @property
    def x_ticks(self) -> list[tuple[float, str]]:
        """Places and labels."""
        return [(self._x(int(i)), f"{i:g}") for i in ticks(self.n_slices - 1, least=1.0)]

    @property
    def places(self) -> str:
        """Where every slice stands."""
        return " ".join(f"{self._x(i):.1f}" for i in range(self.n_slices))

    @property
    def marked(self) -> bool:
        """Whether points are marked."""
        return self.n_slices <= MOST_MARKED

    def _points(self, values: Values) -> list[tuple[float, float]]:
        found = [(i, value) for i, value in enumerate(values) if value is not None]
        return [(self._x(i), self._y(value)) for i, value in found]

    def _x(self, index: int) -> float:
        share = index / max(self.n_slices - 1, 1)
        return LEFT + INSET + share * (RIGHT - LEFT - 2 * INSET)

    def _y(self, value: float) -> float:
        return BOTTOM - value / self.highest * (BOTTOM - TOP)


def ticks(top: float, *, least: float = 0.0) -> list[float]:
    """About five round numbers from 0 to ``top``, at least ``least`` apart."""
    if not top > 0 or not math.isfinite(top):
        return [0.0]
    power = 10.0 ** math.floor(math.log10(top / 5))
    step = next(k * power for k in (1, 2, 5, 10) if k * power >= top / 5 * (1 - 1e-9))
    step = max(step, least)
    return [k * step for k in range(int(top / step + 1e-9) + 1)]
