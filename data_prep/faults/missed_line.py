"""A line in the middle of k-space that holds no signal."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from ...errors import NumericalWarning
from .line_energies import line_energies

MISSED = 0.05
"""Energy of a line in the middle, over that of its neighbours, below which it is missed. It is at
least 0.34 in right scans."""

LOW = 0.3
"""The same of the column on the other side of k = 0, where both are a pattern of the object."""


def missed_line(power: Tensor, mask: Tensor) -> int | None:
    """The one column in the middle of k-space that holds no signal, as if the receiver missed it.

    It has less than :data:`MISSED` of the energy of its neighbours. Several such columns, or one
    whose mirror image about k = 0 is low too, are none: k-space of two objects, or of a box, has a
    pattern of them. That of a single coil has zeros that are none of a fault.

    Args:
        power: of a slice, as :func:`sample_energies` gives it.
        mask: sampled positions, bool ``(y, x)``.
    """
    energy, held = line_energies(power, mask)
    n = len(energy)
    beside = {
        x: float(energy[x] / energy[[before, after]].min().clamp_min(1e-30))
        for before, x, after in zip(held, held[1:], held[2:], strict=False)
        if abs(x - n // 2) <= n // 8
    }
    low = [x for x, share in beside.items() if share < LOW]
    missed = [x for x in low if beside[x] < MISSED]
    opposite = {2 * (n // 2) - x + off for x in missed for off in (-1, 0, 1)} - set(missed)
    return missed[0] if len(missed) == 1 and not opposite & set(low) else None


def missed_warnings(
    name: str, found: Mapping[int, int | None], axis: str
) -> list[NumericalWarning]:
    """W-LINES for a line along an axis ("columns" or "rows") that slices hold no signal in."""
    places = {index: place for index, place in found.items() if place is not None}
    if not places:
        return []
    text = (
        f"{name}: {axis} {sorted(set(places.values()))} of k-space hold less than a twentieth of "
        f"the energy of their neighbours in slices {sorted(places)}, as if the receiver missed them"
    )
    return [NumericalWarning("W-LINES", text)]
