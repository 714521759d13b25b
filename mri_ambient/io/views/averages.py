"""Averages of a scan, compared before they are averaged.

Of a right scan they differ by noise, which is the same in the middle of k-space as in its outer
parts. What differs more in the middle is signal: the object moved, a sign or the contrast changed,
or the lines are of something else.
"""

from __future__ import annotations

import numpy as np

from ...errors import warn
from ..names import name_of
from ..sampling import Ksp
from ..scan_file import ScanFile

LEAST_DIFFERENCE = 0.1
"""Energy of a difference that is warned of, over that of the signal: a correlation of 0.95."""

LEAST_SAMPLES = 16
"""Places that two averages share, without which nothing is said."""


def check_averages(file: ScanFile) -> None:
    """W-AVERAGES if an average differs from the first one by more than noise, in a middle slice."""
    planes = file.averages()
    first = next(planes, None)
    if first is None:
        return
    differences = [difference(first, plane) for plane in planes]
    if max(differences, default=0) > LEAST_DIFFERENCE:
        worst = int(np.argmax(differences))
        warn(
            "W-AVERAGES",
            f"{name_of(file.path)}: average {worst + 2} differs from the first one by "
            f"{100 * differences[worst]:.0f} % of the signal energy around k = 0",
        )


def difference(a: Ksp, b: Ksp) -> float:
    """Energy of a difference in the middle of k-space, over that of the signal; without noise.

    0 where noise, judged by the ends of the readout, is larger than either. The samples next to
    k = 0 are left out: they hold most energy, and movement hardly changes them.
    """
    ny, nx = a.shape[-2:]
    y, x = (np.abs(np.arange(n) - n // 2) for n in (ny, nx))
    both = (a != 0).any(axis=0) & (b != 0).any(axis=0)
    outer, inner = both & (4 * y > ny)[:, None], (32 * y < ny)[:, None] & (32 * x < nx)
    middle = both & (8 * y <= ny)[:, None] & (8 * x <= nx) & ~inner
    if min(middle.sum(), outer.sum()) < LEAST_SAMPLES:
        return 0.0

    def energy(values: Ksp) -> float:
        return float(np.square(np.abs(values), dtype=np.float64).mean())

    noise = energy(b[:, outer] - a[:, outer])
    signal = energy(a[:, middle]) - noise / 2
    excess = energy(b[:, middle] - a[:, middle]) - noise
    return excess / signal if min(excess, signal) > noise else 0.0
