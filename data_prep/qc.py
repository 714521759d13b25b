"""Quality figures of prepared slices, and the warnings that follow from them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import NumericalWarning
from ..physics.crop import center_crop, center_pad
from ..physics.map_sets import first_set
from ..physics.operators import SenseOp
from ..physics.units import energy, nonzero_along
from ..scan import Scan
from .espirit import SECOND_MAP_SHARE, EspiritMaps, second_map_share

COIL_IMAGE = (-3, -2, -1)
"""The axes coil, y and x."""


@dataclass(frozen=True)
class SliceCheck:
    """Figures of one prepared slice.

    Attributes:
        index: of the slice in the volume.
        blank: whether its calibration block holds only zeros; then its maps are zero.
        support: share of the field of view where the maps are not zero.
        eigenvalue: mean ESPIRiT eigenvalue inside the support; 1 if the maps explain everything.
        second_map: share of the support where a second map fits as well as the first; 0 if there is
            a second set.
        calib_residual: share of the calibration data's energy that the maps do not explain, noise
            included.
        calib_noise: share of their energy that is noise.
    """

    index: int
    blank: bool
    support: float
    eigenvalue: float
    second_map: float
    calib_residual: float
    calib_noise: float

    @property
    def problems(self) -> tuple[str, ...]:
        """Codes of the warnings about this slice."""
        codes = []
        if self.blank:
            codes.append("W-BLANK-CALIBRATION")
        elif self.support < 0.02:  # every object fills more of the field of view
            codes.append("W-EMPTY-SUPPORT")
        # Several maps fit, of a slice that shows more than air.
        if self.second_map > SECOND_MAP_SHARE and self.calib_noise < 0.9:
            if self.calib_residual > 1.5 * self.calib_noise:  # and one misses signal
                codes.append("W-FOLDED-FOV")
            elif self.calib_noise > 0.5:
                codes.append("W-NOISY-CALIBRATION")
            else:
                codes.append("W-SECOND-MAP")
        return tuple(codes)


def slice_checks(
    scan: Scan, found: EspiritMaps | None, calib_shape: tuple[int, int]
) -> tuple[SliceCheck, ...]:
    """Figures of every slice of a prepared scan; ``found`` is None for a single coil."""
    maps = scan.maps
    if maps is None:
        raise ValueError(f"{scan.scan_id}: quality figures need a prepared scan, with maps")
    support = nonzero_along(first_set(maps, scan.n_sets), -3)
    size = support.sum(dim=(-2, -1)).clamp_min(1)
    if found is None:
        eigenvalue, second = torch.ones(len(maps)), torch.zeros(len(maps))
    else:
        eigenvalue = (found.eigenvalue * support).sum(dim=(-2, -1)) / size
        second = second_map_share(found) * (scan.n_sets == 1)
    calib = scan.calibration(calib_shape)
    blank = ~calib.flatten(1).any(dim=1)
    residual = calibration_residual(calib, maps, scan.n_sets)
    noise = noise_share(calib, float(scan.noise_std or 0.0))
    columns = (blank, support.float().mean(dim=(-2, -1)), eigenvalue, second, residual, noise)
    rows = zip(scan.slices, *(column.tolist() for column in columns), strict=True)
    return tuple(SliceCheck(*row) for row in rows)


def noise_share(calib: Tensor, noise_std: float) -> Tensor:
    """Share ``(slice,)`` of the energy of a calibration block that is noise."""
    n_samples = (calib != 0).sum(dim=(-3, -2, -1))
    noise: Tensor = 2 * noise_std**2 * n_samples / energy(calib, COIL_IMAGE).clamp_min(1e-30)
    return noise.clamp(max=1.0)


def calibration_residual(calib: Tensor, maps: Tensor, n_sets: int = 1) -> Tensor:
    """Share ``(slice,)`` of the energy of ``calib`` that maps cannot produce; 0 without energy.

    The low-resolution coil images of the block ``(slice, coil, cy, cx)`` are projected onto the
    maps ``(slice, coil, y, x)`` or ``(slice, coil, set*y, x)``, pixel by pixel.
    """
    shape, size = (maps.shape[-2] // n_sets, maps.shape[-1]), (calib.shape[-2], calib.shape[-1])
    op = SenseOp(maps, torch.ones(1, 1, 1, 1, dtype=torch.bool, device=maps.device), n_sets)
    explained = op.expand(op.combine(center_pad(calib, shape)))
    rest = calib - center_crop(explained, size)
    whole = energy(calib, COIL_IMAGE)
    return energy(rest, COIL_IMAGE) / whole.clamp_min(torch.finfo(whole.dtype).tiny)


_WARNINGS: dict[str, tuple[Callable[[SliceCheck], float], str]] = {
    "W-BLANK-CALIBRATION": (
        lambda check: 0,
        "the calibration block holds only zeros",
    ),
    "W-FOLDED-FOV": (
        lambda check: check.second_map,
        "the field of view is smaller than the object (slice {0.index}: two places of it share a "
        "pixel in {0.second_map:.0%} of the support), and the images keep artefacts there",
    ),
    "W-SECOND-MAP": (
        lambda check: check.second_map,
        "a second set of coil maps fits as well as the first (slice {0.index}: in "
        "{0.second_map:.0%} of the support)",
    ),
    "W-NOISY-CALIBRATION": (
        lambda check: check.calib_noise,
        "the calibration data are too noisy for coil maps (slice {0.index}: {0.calib_noise:.0%} of "
        "their energy is noise)",
    ),
    "W-EMPTY-SUPPORT": (
        lambda check: -check.support,
        "there is almost no signal (slice {0.index}: in {0.support:.1%} of the field of view)",
    ),
}
"""Severity of a slice (the worst is named) and text of every warning, by code."""


def slice_warnings(name: str, checks: Sequence[SliceCheck]) -> list[NumericalWarning]:
    """One warning, with the file's ``name``, for every kind of problem that slices have."""
    found = []
    for code, (severity, text) in _WARNINGS.items():
        slices = [check for check in checks if code in check.problems]
        if slices:
            worst = max(slices, key=severity)
            listed = ", ".join(str(check.index) for check in slices)
            where = f"in {len(slices)} of {len(checks)} slices ({listed})"
            found.append(NumericalWarning(code, f"{name}: {where} {text.format(worst)}"))
    return found
