"""Measured lines that are held out, predicted from the rest, and compared.

The training compares single slices in the same way (:mod:`mri_ambient.training.validation`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from ..methods.baselines import CgSense, L1Wavelet
from ..physics.masks import hold_out_lines
from ..physics.operators import SenseOp
from ..rng import rng_for
from ..scan import Scan
from .engine import Engine

LEVELS = (0.5, 0.9)
"""Central predictive intervals whose coverage is reported."""


@dataclass(frozen=True)
class HeldOutScan:
    """A prepared scan of which some measured lines are held out.

    Attributes:
        whole: all that was measured.
        kept: without the held-out lines.
        maps: of the scan, ``(slice, coil, y, x)`` or ``(slice, coil, set*y, x)``.
        held_out: bool ``(1, y, x)``.
    """

    whole: Scan
    kept: Scan
    maps: Tensor
    held_out: Tensor

    @property
    def sigma_n(self) -> float:
        """Noise per real channel."""
        return float(self.whole.noise_std or 0.0)

    def measured(self, i: int) -> Tensor:
        """The measurement on the held-out lines of the i-th slice, all coils, ``(n,)``."""
        return self.whole.ksp[i][self.held_out.expand(self.whole.ksp[i].shape)]

    def predicted(self, i: int, images: Tensor) -> Tensor:
        """The same samples, predicted from images ``(k, y, x)`` of the i-th slice, ``(k, n)``."""
        K = SenseOp(self.maps[i], self.held_out, self.whole.n_sets).expand(images)
        return K[:, self.held_out.expand(K.shape[1:])]

    def error(self, i: int, img: Tensor) -> float:
        """Energy of F S x - y over that of y, for an image ``(y, x)`` of the i-th slice."""
        y, K = self.measured(i), self.predicted(i, img[None])[0]
        return float((K - y).abs().square().sum()) / float(y.abs().square().sum())


def hold_out_of_scan(scan: Scan, n_lines: int, seed: int) -> HeldOutScan:
    """Hold out ``n_lines`` measured outer lines, drawn by seed and scan.

    Raises:
        ConfigError: there are not enough lines.
    """
    if scan.maps is None:
        raise ValueError(f"{scan.scan_id}: not prepared; maps are missing")
    mask = hold_out_lines(scan.mask.cpu(), n_lines, rng_for(seed, "hold out", scan.scan_id))
    kept = replace(scan, mask=mask, ksp=torch.where(mask, scan.ksp, 0))
    return HeldOutScan(scan, kept, scan.maps, scan.mask & ~mask)


def predict_held_out(engine: Engine, scan: Scan, n_lines: int) -> list[dict[str, float]]:
    """Hold out measured outer lines of a prepared scan, reconstruct from the rest, and compare.

    The same lines are held out in all slices. The error of lines that were never measured may be
    larger.

    Returns:
        For every slice (empty for one without signal): ``error``, the energy of F S x - y over that
        of y on the held-out lines; ``noise``, the expected error of a perfect image, which noise
        alone makes; ``cg_sense`` and ``l1_wavelet``, the error of these methods. With several
        samples also ``coverage_50`` and ``coverage_90``, the share of held-out measurements (Re and
        Im) in the central predictive intervals, Student's t with the samples' degrees of freedom;
        and ``chi_square``, the energy of the error over what samples and noise predict, 1 if they
        are right. The standard deviation is that of ``reconstruction_std``: multiplied by the
        prior's calibration factor, if it has one.

    Raises:
        ConfigError: there are not enough lines.
    """
    split = hold_out_of_scan(scan, n_lines, engine.recipe.seed)
    (result,) = engine([split.kept])
    (cg_sense,) = engine.variant(CgSense())([split.kept])
    (l1_wavelet,) = engine.variant(L1Wavelet())([split.kept])
    rows: list[dict[str, float]] = []
    for i in range(len(scan.slices)):
        y = split.measured(i)
        energy = float(y.abs().square().sum())
        if energy == 0:
            rows.append({})
            continue
        row = {
            "error": split.error(i, result.img[i]),
            "noise": 2 * split.sigma_n**2 * y.numel() / energy,
            "cg_sense": split.error(i, cg_sense.img[i]),
            "l1_wavelet": split.error(i, l1_wavelet.img[i]),
        }
        if result.samples is not None:
            K, factor = split.predicted(i, result.samples[:, i]), result.provenance["std_factor"]
            row |= coverage_figures(y, K, split.sigma_n, factor)
        rows.append(row)
    return rows


def coverage_figures(y: Tensor, K: Tensor, sigma_n: float, factor: float = 1.0) -> dict[str, float]:
    """Coverage and chi-square of measurements ``(n,)``, given samples of them ``(sample, n)``."""
    residual, variance = residual_and_variance(y, K)
    variance = factor**2 * variance
    figures = {"chi_square": float(residual.square().sum() / (variance + sigma_n**2).sum())}
    for level in LEVELS:
        inside = inside_interval(residual, variance, sigma_n, len(K), level)
        figures[f"coverage_{round(100 * level)}"] = float(inside.double().mean())
    return figures


def residual_and_variance(y: Tensor, K: Tensor) -> tuple[Tensor, Tensor]:
    """Mean prediction less measurement, and the variance of that, per channel ``(n, 2)``.

    The measurement varies as one sample does; the mean of K samples adds 1/K of that variance.
    """
    residual = torch.view_as_real(K.mean(dim=0) - y).double()
    return residual, torch.view_as_real(K).var(dim=0).double() * (1 + 1 / len(K))


def inside_interval(
    residual: Tensor, variance: Tensor, sigma_n: float, n_samples: int, level: float
) -> Tensor:
    """Which residuals lie in the central predictive interval of this level: Student's t.

    Degrees of freedom by Welch and Satterthwaite: the noise is known, the samples' variance was
    estimated from ``n_samples``.
    """
    from scipy.special import stdtrit  # slow to import

    total = variance + sigma_n**2
    freedom = (n_samples - 1) * (total / variance.clamp(min=1e-30)).square()
    width = torch.from_numpy(stdtrit(freedom.clamp(max=1e6).numpy(), (1 + level) / 2))
    return residual.abs() <= width * total.sqrt()


def held_out_means(rows: Iterable[Mapping[str, Any] | None]) -> dict[str, float]:
    """Means of the figures of held-out lines over the slices that have them; empty if none has."""
    kept = [row for row in rows if row]
    names = dict.fromkeys(name for row in kept for name in row)
    values = {name: [row[name] for row in kept if row.get(name) is not None] for name in names}
    return {name: fmean(found) for name, found in values.items() if found}
