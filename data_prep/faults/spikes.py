"""Spikes: single samples far above k-space around them, as arcing and electrical faults leave them.

The energy of a true sample is like that of its neighbours and, because objects are nearly real, of
the samples on the other side of k = 0; there, peaks of periodic objects have a twin. A spike has
neither (figures: docs/decisions/acquisitions.md). Straight edges, as of phantoms, have peaks on the
axes of k-space, of which undersampled scans lack the twin.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import max_pool2d, pad

from ...errors import NumericalWarning
from ...physics.fourier import reverse
from ...scan import Scan

LEAST_RATIO = 50.0
"""Energy of a spike over that of the largest neighbour."""

WIDE, TALL = 4, 8
"""Neighbours are up to so many columns and rows away."""

NEAR = 2
"""Samples nearer than this, along rows and columns, may belong to the same spike or peak."""

STRAIGHT = 10.0
"""How much larger a spike must be on an axis of k-space if the other side of k = 0 was not sampled:
straight edges have their energy there, up to 110 times that of samples beside the axis."""


def find_spikes(ksp: Tensor) -> Tensor:
    """Where a slice ``(coil, y, x)`` holds spikes, in all coils or in few, bool ``(y, x)``.

    Spikes close together hide each other, and so does the middle of k-space.
    """
    return outstanding(ksp) > LEAST_RATIO


def outstanding(ksp: Tensor) -> Tensor:
    """Energy of every sample of a slice over that of its largest neighbour, real ``(y, x)``.

    Coils count alike, whatever their gain. Samples without neighbours get 0.
    """
    total = torch.zeros(ksp.shape[1:])
    for coil in ksp:  # one after the other, for memory
        energy = coil.real.square() + coil.imag.square()
        total += energy / energy.sum().clamp_min(torch.finfo(energy.dtype).tiny)
    opposite = _largest_opposite(total)
    others = torch.maximum(_largest_around(total), opposite)
    ratio = torch.where(others > 0, total / others, 0)
    alone = (opposite == 0) & _on_axes(total.shape)
    return torch.where(alone, ratio / STRAIGHT, ratio)


def _on_axes(shape: torch.Size) -> Tensor:
    """Samples of ky or kx about 0, bool ``(y, x)``."""
    y, x = ((torch.arange(n) - n // 2).abs() <= NEAR for n in shape)
    return y[:, None] | x


def apart(scan: Scan) -> tuple[Scan, dict[int, Tensor]]:
    """The scan without its spikes, and where they are, by index of the slices that hold any."""
    found = {index: find_spikes(ksp) for index, ksp in zip(scan.slices, scan.ksp, strict=True)}
    spikes = {index: plane for index, plane in found.items() if bool(plane.any())}
    return without_spikes(scan, spikes), spikes


def without_spikes(scan: Scan, spikes: Mapping[int, Tensor]) -> Scan:
    """The scan with zeros where its slices hold spikes, by index in the volume."""
    found = [spikes.get(index) for index in scan.slices]
    if all(plane is None for plane in found):
        return scan
    none = torch.zeros(scan.shape, dtype=torch.bool)
    planes = torch.stack([none if plane is None else plane for plane in found])
    return replace(scan, ksp=scan.ksp.masked_fill(planes[:, None], 0))


def spike_warnings(name: str, spikes: Mapping[int, Tensor]) -> list[NumericalWarning]:
    """W-SPIKE for slices that hold spikes."""
    if not spikes:
        return []
    n_spikes = sum(int(plane.sum()) for plane in spikes.values())
    text = (
        f"{name}: {n_spikes} spikes in slices {sorted(spikes)}: samples of over "
        f"{math.sqrt(LEAST_RATIO):.0f} times those around them; they count as 0"
    )
    return [NumericalWarning("W-SPIKE", text)]


def _largest_around(energy: Tensor) -> Tensor:
    """The largest value in a frame around every place, ``(y, x)``."""
    ny, nx = energy.shape
    padded = pad(energy, (WIDE, WIDE, TALL, TALL))[None]
    across = max_pool2d(padded, (TALL - NEAR, 2 * WIDE + 1), stride=1)[0]
    along = max_pool2d(padded, (2 * NEAR + 1, WIDE - NEAR + 1), stride=1)[0, TALL - NEAR :]
    above, below = across[:ny], across[TALL + NEAR + 1 :]
    left, right = along[:ny, :nx], along[:ny, WIDE + NEAR :]
    return torch.stack([above, below, left, right]).amax(dim=0)


def _largest_opposite(energy: Tensor) -> Tensor:
    """The largest value around the place on the other side of k = 0, ``(y, x)``."""
    turned = reverse(reverse(energy, -2), -1)
    return max_pool2d(turned[None], 2 * NEAR + 1, stride=1, padding=NEAR)[0]
