r"""How noisy the coils are: the covariance :math:`\Psi = E[n n^H] / 2` of a volume.

Half of the complex covariance, so that whitening with it leaves a standard deviation of 1 per
*real channel*. Where it comes from, best first:

``given``
    the user said so; coils count as equally noisy and uncorrelated.
``noise-scan``
    noise-only samples in the file.
``readout-edge``
    rows of the image beyond the object along the readout. The readout is always fully sampled, so
    nothing aliases there, at any acceleration; in hybrid space (row, phase-encode line) only the
    sampled lines are looked at.
``image-corners``
    of a fully sampled image, where they hold no signal.
``outer-samples``
    the outermost measured samples of k-space, where signal is least: an upper bound.

Exact zeros (lines never acquired, zero-filled rows) are never taken for noise. All estimates are
sums of k k^H over cells (a row, a block of pixels, a ring of k-space), added up slice by slice, so a
volume streams through; which cells are noise only is decided at the end, by their energies.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import PrepError
from ..fourier import ifft2c, ifftc
from ..scan import Scan
from .oversampling import readout_is_full

MAX_SIGNAL = 0.1
"""Share of signal in the energy of cells called noise beyond which they are not believed."""
CORNER_SIDE = 1 / 6
"""Side of an image corner, as a share of the image's."""
CORNER_CELLS = 4
"""Cells per side of a corner."""
OUTER_SHARE = 0.05
"""Share of the measured samples that count as outermost."""


@dataclass(frozen=True)
class NoiseEstimate:
    """Noise of the measured coils, in the units of the file.

    Attributes:
        cov: E[n n^H] / 2, complex128 ``(coil, coil)``.
        source: one of the names in the module's docstring.
        n_samples: complex samples per coil it rests on; 0 if it was given.
    """

    cov: Tensor
    source: str
    n_samples: int

    @property
    def std(self) -> float:
        """Root mean square over coils of the standard deviation per real channel."""
        return float(self.cov.diagonal().real.mean().sqrt())


def noise_covariance(sums: Tensor, n_samples: float) -> Tensor:
    """E[n n^H] / 2 from ``sums`` = sum of n n^H, shrunk to its diagonal where samples are few.

    The weight C / (C + n) of the diagonal target keeps the matrix well conditioned for any number
    of samples (compare Ledoit and Wolf 2004, doi:10.1016/S0047-259X(03)00096-4) and vanishes for
    many. A coil without any signal gets a token noise, so that whitening exists.
    """
    cov = sums / (2 * n_samples)
    cov = (cov + cov.mH) / 2
    power = cov.diagonal().real
    target = torch.diag(power.clamp_min(1e-6 * float(power.mean())).to(cov.dtype))
    weight = cov.shape[0] / (cov.shape[0] + n_samples)
    return (1 - weight) * cov + weight * target


def from_noise_scan(noise: Tensor) -> NoiseEstimate:
    """The covariance of noise-only samples, complex ``(coil, sample)``."""
    samples = noise.to(torch.complex128)
    n_samples = samples.shape[-1]
    return NoiseEstimate(noise_covariance(samples @ samples.mH, n_samples), "noise-scan", n_samples)


def from_user(noise_std: float, n_coils: int) -> NoiseEstimate:
    """Equally noisy, uncorrelated coils of standard deviation ``noise_std`` per real channel."""
    return NoiseEstimate(noise_std**2 * torch.eye(n_coils, dtype=torch.complex128), "given", 0)


class ReadoutEdge:
    """Noise from image rows beyond the object along a fully sampled readout.

    Args:
        mask: sampled positions, bool ``(1, y, x)``, whole columns.
        oversampling: of the readout; rows inside the final field of view are left alone, unless
            there is no oversampling.
    """

    def __init__(self, mask: Tensor, oversampling: float) -> None:
        n_rows, n_columns = mask.shape[-2:]
        columns = torch.nonzero(mask[0].any(dim=-2)).flatten()
        # Low and high frequencies apart: noise has the same energy in both, signal has not.
        self.columns = columns[(columns - n_columns // 2).abs().argsort(stable=True)]
        distance = (torch.arange(n_rows) - n_rows // 2).abs()
        self.rows = distance > n_rows / (2 * oversampling if oversampling > 1 else 4)
        self.low: Tensor | float = 0.0
        self.high: Tensor | float = 0.0
        self.n_slices = 0

    def add(self, ksp: Tensor) -> None:
        """Look at one slice ``(coil, y, x)``."""
        hybrid = ifftc(ksp[..., self.columns], dim=-2)[:, self.rows].transpose(0, 1)
        low, high = hybrid.tensor_split(2, dim=-1)  # (y, coil, x)
        self.low = self.low + (low @ low.mH).to(torch.complex128)
        self.high = self.high + (high @ high.mH).to(torch.complex128)
        self.n_slices += 1

    def estimate(self) -> NoiseEstimate | None:
        """The pooled covariance of the rows that hold noise only, or None without such rows."""
        if not isinstance(self.low, Tensor) or not isinstance(self.high, Tensor):
            return None
        n_high = self.columns.numel() // 2
        n_low = self.columns.numel() - n_high
        free = noise_cells(self.low, n_low * self.n_slices)
        if int(free.sum()) < max(4, 0.05 * free.numel()):
            return None
        low, high = self.low[free].sum(0), self.high[free].sum(0)
        n_free = int(free.sum()) * self.n_slices
        excess = _mean_ratio(low / (n_free * n_low), high / max(n_free * n_high, 1))
        if abs(excess - 1) > MAX_SIGNAL:
            return None
        n_samples = n_free * (n_low + n_high)
        return NoiseEstimate(noise_covariance(low + high, n_samples), "readout-edge", n_samples)


class ImageCorners:
    """Noise from the corners of a fully sampled image.

    Args:
        mask: sampled positions, bool ``(1, y, x)``, whole columns.
    """

    def __init__(self, mask: Tensor) -> None:
        self.share = float(mask.double().mean())  # columns never acquired bring no noise
        self.side = [max(round(n * CORNER_SIDE / CORNER_CELLS), 2) for n in mask.shape[-2:]]
        self.sums: Tensor | float = 0.0
        self.lagged: Tensor | float = 0.0
        self.n_slices = 0

    def add(self, ksp: Tensor) -> None:
        """Look at one slice ``(coil, y, x)``."""
        cells = self._cells(ifft2c(ksp))  # (cell, coil, y, x)
        flat = cells.flatten(-2)
        self.sums = self.sums + (flat @ flat.mH).to(torch.complex128)
        lagged = (cells[..., 1:, :] * cells[..., :-1, :].conj()).sum(dim=(-2, -1))
        self.lagged = self.lagged + lagged.to(torch.complex128)
        self.n_slices += 1

    def _cells(self, img: Tensor) -> Tensor:
        (h, w), (ny, nx) = self.side, img.shape[-2:]
        y, x = min(CORNER_CELLS * h, ny // 2), min(CORNER_CELLS * w, nx // 2)
        rows = torch.cat([img[..., :y, :], img[..., -y:, :]], dim=-2)
        corners = torch.cat([rows[..., :x], rows[..., -x:]], dim=-1)
        cells = corners.unfold(-2, h, h).unfold(-2, w, w)  # (coil, i, j, h, w)
        return cells.flatten(1, 2).transpose(0, 1)

    def estimate(self) -> NoiseEstimate | None:
        """The pooled covariance of the cells that hold noise only, or None without such cells."""
        if not isinstance(self.sums, Tensor) or not isinstance(self.lagged, Tensor):
            return None
        n_pixels = self.side[0] * self.side[1] * self.n_slices
        free = noise_cells(self.sums, n_pixels)
        if int(free.sum()) < 0.25 * free.numel():
            return None
        sums, lagged = self.sums[free].sum(0), self.lagged[free].sum(0)
        # Neighbouring pixels share signal, but not noise (all rows were acquired).
        smooth = (lagged.abs() / sums.diagonal().real).mean() * self.side[0] / (self.side[0] - 1)
        if float(smooth) > MAX_SIGNAL:
            return None
        n_samples = int(free.sum()) * n_pixels
        cov = noise_covariance(sums / self.share, n_samples)
        return NoiseEstimate(cov, "image-corners", n_samples)


class OuterSamples:
    """An upper bound of the noise from the outermost measured samples.

    Args:
        mask: sampled positions, bool ``(1, y, x)``.
    """

    def __init__(self, mask: Tensor) -> None:
        ny, nx = mask.shape[-2:]
        y = (torch.arange(ny) - ny // 2) / ny
        x = (torch.arange(nx) - nx // 2) / nx
        radius = (y[:, None].square() + x.square()).flatten()
        sampled = torch.nonzero(mask.flatten()).flatten()
        n_outer = max(round(OUTER_SHARE * sampled.numel()), 1)
        self.outermost = sampled[radius[sampled].topk(n_outer).indices]
        self.sums: Tensor | float = 0.0
        self.n_samples = 0

    def add(self, ksp: Tensor) -> None:
        """Look at one slice ``(coil, y, x)``."""
        samples = ksp.flatten(-2)[:, self.outermost]
        self.sums = self.sums + (samples @ samples.mH).to(torch.complex128)
        self.n_samples += samples.shape[-1]

    def estimate(self) -> NoiseEstimate | None:
        """The covariance of the outermost samples."""
        if not isinstance(self.sums, Tensor):
            return None
        cov = noise_covariance(self.sums, self.n_samples)
        return NoiseEstimate(cov, "outer-samples", self.n_samples)


class NoiseEstimator:
    """Collects what a volume says about its noise, one slice at a time; best source wins.

    Args:
        mask: sampled positions, bool ``(1, y, x)``.
        fully_sampled: whether all that is ever acquired was sampled.
        oversampling: of the readout.
    """

    def __init__(self, mask: Tensor, *, fully_sampled: bool, oversampling: float = 1.0) -> None:
        self.sources: list[ReadoutEdge | ImageCorners | OuterSamples] = []
        if readout_is_full(mask):
            edge = ReadoutEdge(mask, oversampling)
            corners = [ImageCorners(mask)] if fully_sampled else []
            self.sources += [edge, *corners] if oversampling > 1 else [*corners, edge]
        self.sources.append(OuterSamples(mask))

    def add(self, scan: Scan) -> None:
        """Look at some slices."""
        for ksp in scan.ksp:
            for source in self.sources:
                source.add(ksp)

    def estimate(self) -> NoiseEstimate:
        """The first source that is sure of itself.

        Raises:
            PrepError: the samples the noise should come from are all zero.
        """
        found = next(e for e in (source.estimate() for source in self.sources) if e is not None)
        if not found.std > 0:
            raise PrepError(
                f"the noise estimate from {found.source} is zero, so the data were masked or "
                "simulated without noise; pass --noise-std with the noise per real channel"
            )
        return found


def noise_cells(sums: Tensor, n_samples: int) -> Tensor:
    """Which cells hold noise only, judged by their energies.

    The energy of noise in ``n`` samples of ``C`` white coils has a relative standard deviation of
    (n C)^-1/2; starting from the quietest tenth, cells join as long as they lie within three of
    these of the mean of those who are in.

    Args:
        sums: sum of k k^H in each cell, ``(cell, coil, coil)``.
        n_samples: samples per coil in each cell.

    Returns:
        bool ``(cell,)``.
    """
    power = sums.diagonal(dim1=-2, dim2=-1).real
    quiet = power.quantile(0.25, dim=0).clamp_min(1e-30)
    free = torch.zeros(sums.shape[0], dtype=torch.bool)
    energy = (power / quiet).mean(dim=-1)
    free[energy.argsort()[: max(sums.shape[0] // 10, 2)]] = True
    spread = 3 / (n_samples * sums.shape[-1]) ** 0.5
    for _ in range(50):
        joined = energy < energy[free].mean() * (1 + spread)
        if bool((joined == free).all()):
            break
        free = joined
    return free


def _mean_ratio(a: Tensor, b: Tensor) -> float:
    """Mean over coils of the ratio of two covariances' diagonals."""
    return float((a.diagonal().real / b.diagonal().real.clamp_min(1e-30)).mean())
