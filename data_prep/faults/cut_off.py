"""Signal beyond both sides of the final field of view, as where a header states a wrong one.

Readout oversampling and wide phase-encode fields of view are cut off: what lies beyond is air, or
on one side the rest of the body. A field of view that is stated too small cuts both sides of the
object off, and the image is right in all it shows.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ...errors import NumericalWarning
from ...physics.crop import center_crop, center_pad
from ...physics.fourier import ifft2c
from ...physics.units import energy

CALIB = 24
"""Side of the block around k = 0 that the energies are those of, in samples."""

PIXELS = 96
"""Side of the image of this block."""

LEAST_CUT = 0.05
"""Share of the energy beyond each of the two sides that is warned of: 0.065 and 0.09 in
espirit_brain8 with half of its field of view, 0.001 in a scan with readout oversampling."""


def energies(ksp: Tensor) -> Tensor:
    """Energy along y and along x of a slice at low resolution, ``(2, PIXELS)``.

    Args:
        ksp: on the whole encoded field of view, ``(coil, y, x)``.
    """
    size = (min(CALIB, ksp.shape[1]), min(CALIB, ksp.shape[2]))
    window = [torch.hann_window(n + 2, periodic=False)[1:-1] for n in size]
    block = center_crop(ksp, size) * window[0][:, None] * window[1]
    img = energy(ifft2c(center_pad(block, (PIXELS, PIXELS))), dim=(-3,))
    return torch.stack([img.sum(dim=1), img.sum(dim=0)])


def cut_off(profile: Tensor, kept: float) -> float:
    """Share of the energy beyond that side of the kept middle beyond which there is less.

    Args:
        profile: energies over the encoded field of view, ``(PIXELS,)``. The least of a sixth of it
            counts as noise, which is everywhere.
        kept: share of it that is kept.
    """
    n_least = len(profile) // 6
    profile = (profile - profile.topk(n_least, largest=False).values.mean()).clamp_min(0)
    n = round((1 - kept) / 2 * len(profile))
    return float(
        torch.minimum(profile[:n].sum(), profile[len(profile) - n :].sum()) / profile.sum()
    )


def cut_off_warnings(
    name: str, slices: Sequence[Tensor], kept: tuple[float, float]
) -> list[NumericalWarning]:
    """W-CUT-OFF, by the energies of slices and the shares ``(y, x)`` of the field of view kept."""
    if not slices:
        return []
    for profile, share, axis in zip(torch.stack(list(slices)).sum(dim=0), kept, "yx", strict=True):
        lost = cut_off(profile, share) if float(profile.sum()) > 0 else 0.0
        if lost > LEAST_CUT:
            text = (
                f"{name}: the final image is the middle {share:.0%} of the field of view along "
                f"{axis}, and at least {lost:.0%} of the energy lies beyond each of its sides"
            )
            return [NumericalWarning("W-CUT-OFF", text)]
    return []
