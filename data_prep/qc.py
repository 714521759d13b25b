"""Quality figures of prepared slices, and the warnings that follow from them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import NumericalWarning
from ..physics.fourier import center_crop, center_pad, fft2c, ifft2c
from ..scan import Scan
from .espirit import SECOND_MAP_SHARE, EspiritMaps, second_map_share


@dataclass(frozen=True)
class SliceCheck:
    """Figures of one prepared slice.

    Attributes:
        index: of the slice in the volume.
        blank: whether its calibration block holds only zeros; then its maps are zero.
        support: share of the field of view where the maps are not zero.
        eigenvalue: mean ESPIRiT eigenvalue inside the support; 1 if the maps explain everything.
        second_map: share of the support where a second map fits as well as the first.
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
        if self.second_map > SECOND_MAP_SHARE:  # several maps fit
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
    support = (maps != 0).any(dim=1)
    size = support.sum(dim=(-2, -1)).clamp_min(1)
    if found is None:
        eigenvalue, second = torch.ones(len(maps)), torch.zeros(len(maps))
    else:
        eigenvalue = (found.eigenvalue * support).sum(dim=(-2, -1)) / size
        second = second_map_share(found)
    calib = scan.calibration(calib_shape)
    blank, residual = ~calib.flatten(1).any(dim=1), calibration_residual(calib, maps)
    n_samples = (calib != 0).sum(dim=(-3, -2, -1))
    noise = 2 * float(scan.noise_std or 0.0) ** 2 * n_samples / _energy(calib).clamp_min(1e-30)
    noise = noise.clamp(max=1.0)
    columns = (blank, support.float().mean(dim=(-2, -1)), eigenvalue, second, residual, noise)
    rows = zip(scan.slices, *(column.tolist() for column in columns), strict=True)
    return tuple(SliceCheck(*row) for row in rows)


def calibration_residual(calib: Tensor, maps: Tensor) -> Tensor:
    """Share ``(slice,)`` of the energy of ``calib`` that maps cannot produce; 0 without energy.

    The low-resolution coil images of the block ``(slice, coil, cy, cx)`` are projected onto the
    maps ``(slice, coil, y, x)``, pixel by pixel.
    """
    shape, size = (maps.shape[-2], maps.shape[-1]), (calib.shape[-2], calib.shape[-1])
    img = ifft2c(center_pad(calib, shape))
    explained = maps * (maps.conj() * img).sum(dim=1, keepdim=True)
    rest = calib - center_crop(fft2c(explained), size)
    energy = _energy(calib)
    return _energy(rest) / energy.clamp_min(torch.finfo(energy.dtype).tiny)


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


def _energy(x: Tensor) -> Tensor:
    return x.abs().square().sum(dim=(-3, -2, -1))
