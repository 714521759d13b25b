"""Lines of much more energy than those near them, as of navigators that are not marked as such."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from ...errors import NumericalWarning
from .line_energies import line_energies

STRAY = 50.0
"""Energy of a line outside of the middle, over that of lines near it, that is warned of. It is 1.4
at most in right scans, and 6 in those of gratings."""


def stray_lines(power: Tensor, mask: Tensor) -> dict[int, float]:
    """Columns of much more energy than those near them and those on the other side of k = 0.

    Navigators and other lines that are not marked as such often stand at the first place.

    Args:
        power: of a slice, as :func:`sample_energies` gives it.
        mask: sampled positions, bool ``(y, x)``.

    Returns:
        By the column, the factor; nothing of the quarter in the middle, where energy is steep, nor
        of masks of single samples.
    """
    energy, held = line_energies(power, mask)
    n = len(energy)
    found = {}
    for i, x in enumerate(held):
        if abs(x - n // 2) > n // 8:
            beside = [*held[max(i - 2, 0) : i], *held[i + 1 : i + 3]]
            opposite = 2 * (n // 2) - x
            beside += [other for other in held if abs(other - opposite) <= 1]
            largest = float(energy[beside].max()) if beside else 0.0
            if largest > 0 and energy[x] > STRAY * largest:
                found[x] = float(energy[x]) / largest
    return found


def stray_warnings(
    name: str, found: Mapping[int, Mapping[int, float]], axis: str
) -> list[NumericalWarning]:
    """W-LINES for lines along an axis ("columns" or "rows") that slices hold too much energy in."""
    slices = [index for index, lines in found.items() if lines]
    if not slices:
        return []
    places = sorted(set().union(*found.values()))
    most = max(factor for lines in found.values() for factor in lines.values())
    text = (
        f"{name}: {axis} {places} of k-space have up to {most:.0f} times the energy of those near "
        f"them in slices {slices}: lines of another place, navigators for example"
    )
    return [NumericalWarning("W-LINES", text)]
