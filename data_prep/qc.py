"""Looking at what prep made: figures for every slice, doubts in words, and one picture a scan."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..physics.fourier import center_crop, center_pad, fft2c, ifft2c
from ..scan import Scan
from .espirit import SECOND_MAP_SHARE, EspiritMaps, second_map_share

ABOVE_NOISE = 1.5
"""Calibration data hold more than maps and noise if their rest is so many times the noise."""

MOSTLY_NOISE = 0.5
"""No maps are told from calibration data with a larger share of noise in their energy."""

LEAST_SUPPORT = 0.02
"""Share of the field of view that any object should fill."""


@dataclass(frozen=True)
class SliceCheck:
    """Figures of one prepared slice.

    Attributes:
        index: of the slice in the volume.
        blank: whether its calibration block holds only zeros; then its maps are zero.
        support: share of the field of view where the maps see anything.
        eigenvalue: mean ESPIRiT eigenvalue inside the support; 1 if the maps explain everything.
        second_map: share of the support where a second map is as real as the first.
        calib_residual: share of the calibration data's energy that the maps leave unexplained;
            noise included.
        calib_noise: share of it that is noise.
    """

    index: int
    blank: bool
    support: float
    eigenvalue: float
    second_map: float
    calib_residual: float
    calib_noise: float

    @property
    def folded(self) -> bool:
        """Whether two places of the object share pixels: noise alone has many maps as well."""
        real = self.calib_residual > ABOVE_NOISE * self.calib_noise
        return self.second_map > SECOND_MAP_SHARE and real

    @property
    def unclear(self) -> bool:
        """Whether there are several maps, and noise alone may be the reason."""
        return self.second_map > SECOND_MAP_SHARE and not self.folded

    @property
    def drowned(self) -> bool:
        """Whether the calibration data are so noisy that no maps can be told from them."""
        return self.unclear and self.calib_noise > MOSTLY_NOISE


def check_slices(
    scan: Scan, found: EspiritMaps | None, calib_shape: tuple[int, int]
) -> tuple[SliceCheck, ...]:
    """The figures of every slice of a prepared scan; ``found`` is None for a single coil."""
    maps = _maps(scan)
    support = (maps != 0).any(dim=1)
    size = support.sum(dim=(-2, -1)).clamp_min(1)
    if found is None:
        eigenvalue, second = torch.ones(len(maps)), torch.zeros(len(maps))
    else:
        eigenvalue = (found.eigenvalue * support).sum(dim=(-2, -1)) / size
        second = second_map_share(found)
    calib = center_crop(scan.ksp, calib_shape)
    blank, residual = ~calib.flatten(1).any(dim=1), calibration_residual(calib, maps)
    n_samples = (calib != 0).sum(dim=(-3, -2, -1))
    noise = 2 * float(scan.noise_std or 0.0) ** 2 * n_samples / _energy(calib).clamp_min(1e-30)
    noise = noise.clamp(max=1.0)
    columns = (blank, support.float().mean(dim=(-2, -1)), eigenvalue, second, residual, noise)
    rows = zip(scan.slices, *(column.tolist() for column in columns), strict=True)
    return tuple(SliceCheck(*row) for row in rows)


def calibration_residual(calib: Tensor, maps: Tensor) -> Tensor:
    """Share of the calibration data's energy outside what the maps can produce.

    The block's low-resolution coil images are projected onto the maps, pixel by pixel.

    Args:
        calib: centre of k-space, complex ``(slice, coil, cy, cx)``.
        maps: complex ``(slice, coil, y, x)``.

    Returns:
        ``(slice,)``, 0 to 1; 0 where there is no energy.
    """
    shape, size = (maps.shape[-2], maps.shape[-1]), (calib.shape[-2], calib.shape[-1])
    img = ifft2c(center_pad(calib, shape))
    explained = maps * (maps.conj() * img).sum(dim=1, keepdim=True)
    rest = calib - center_crop(fft2c(explained), size)
    energy = _energy(calib)
    return _energy(rest) / energy.clamp_min(torch.finfo(energy.dtype).tiny)


def slice_doubts(scan_id: str, checks: tuple[SliceCheck, ...]) -> list[str]:
    """What the figures of a volume give reason to doubt, one sentence for each kind."""
    folded = [check for check in checks if check.folded]
    drowned = [check for check in checks if check.drowned]
    unclear = [check for check in checks if check.unclear and not check.drowned]
    blank = [check.index for check in checks if check.blank]
    empty = [check for check in checks if check.support < LEAST_SUPPORT and not check.blank]
    doubts = []
    if blank:
        doubts.append(
            f"{scan_id}: the calibration block holds only zeros in slices {blank}: their coil maps "
            "and images are zero"
        )
    if folded:
        worst = max(folded, key=lambda check: check.second_map)
        doubts.append(
            f"{scan_id}: in {len(folded)} of {len(checks)} slices one set of coil maps is not "
            f"enough (slice {worst.index}: in {worst.second_map:.0%} of the support two places of "
            "the object share a pixel): the field of view is smaller than the object, and where "
            "it folds the reconstruction will keep artefacts, which a larger --noise-std weakens"
        )
    if unclear:
        worst = max(unclear, key=lambda check: check.second_map)
        doubts.append(
            f"{scan_id}: in {len(unclear)} of {len(checks)} slices a second set of coil maps is as "
            f"real as the first (slice {worst.index}: in {worst.second_map:.0%} of the support): "
            "noise, or a field of view smaller than the object, which cannot be told apart there"
        )
    if drowned:
        worst = max(drowned, key=lambda check: check.calib_noise)
        doubts.append(
            f"{scan_id}: in {len(drowned)} of {len(checks)} slices the calibration data are too "
            f"noisy to tell coil maps from (slice {worst.index}: {worst.calib_noise:.0%} of their "
            "energy is noise): do not trust images of these slices"
        )
    if empty:
        doubts.append(
            f"{scan_id}: ESPIRiT found nearly nothing (support below {LEAST_SUPPORT:.0%} of the "
            f"field of view) in {len(empty)} of {len(checks)} slices, first in slice "
            f"{empty[0].index}; look whether these slices hold any signal"
        )
    return doubts


def _maps(scan: Scan) -> Tensor:
    if scan.maps is None:
        raise ValueError(f"{scan.scan_id}: quality figures need a prepared scan, with maps")
    return scan.maps


def _energy(x: Tensor) -> Tensor:
    return x.abs().square().sum(dim=(-3, -2, -1))
