r"""How noisy the coils are: the covariance :math:`\Psi = E[n n^H] / 2` of a volume.

Half of the complex covariance, so that whitening with it leaves a standard deviation of 1 per
*real channel*. Where it comes from, best first:

``given``
    the user said so; the coils count as equally noisy and uncorrelated.
``noise-scan``
    noise-only samples in the file.
``readout-edge``
    rows of the image beyond the object along the readout. The readout is always fully sampled, so
    nothing aliases there at any acceleration: in hybrid space (image row, phase-encode line) only
    the sampled lines are looked at.
``image-corners``
    of a fully sampled image, where they hold no signal.
``outer-samples``
    the outermost measured samples of k-space, where the signal is least, less what is left of it.

Lines never acquired and zero-filled rows are never taken for noise. Every estimate is a sum of
k k^H over cells (a row, a block of pixels, a ring of k-space) that grows slice by slice, so a
volume streams through; which cells hold noise only is decided at the end, by their energies.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import PrepError
from ..fourier import ifft2c, ifftc
from .oversampling import readout_is_full

MAX_SIGNAL = 0.2
"""Share of signal in the energy of cells called noise beyond which they are not believed."""

FILTERED_SHARE = 0.04
"""Share of the image rows, at either end, that the receiver's filter may have dimmed."""

LEAST_ROWS = 0.1
"""Share of the rows looked at that must hold noise only."""

CORNER_SIDE = 1 / 6
"""Side of an image corner, as a share of the image's."""

CORNER_CELLS = 4
"""Cells per side of a corner."""

OUTER_SHARE = 0.1
"""Share of the measured samples that count as outermost."""

MIDDLE_SHARE = 0.45
"""Share of the measured samples, next to the outermost, that show what signal looks like there."""

LEAST_COILS = 4
"""Fewer coils do not tell noise from signal in k-space."""


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

    Only the outer half of the sampled lines is looked at: faint ghosts and the far ends of
    sensitivities live in the inner half.

    Args:
        mask: sampled positions, bool ``(1, y, x)``, whole columns.
        n_coils: number of coils.
        oversampling: of the readout; rows of the final field of view are left alone if there are
            others.
    """

    def __init__(self, mask: Tensor, n_coils: int, oversampling: float) -> None:
        n_rows, n_columns = mask.shape[-2:]
        columns = torch.nonzero(mask[0].any(dim=-2)).flatten()
        inwards = (columns - n_columns // 2).abs().argsort(descending=True, stable=True)
        n_outer = columns.numel() // 2
        # Two sets of lines: noise has the same energy in both, signal less in the outer.
        self.lines = columns[inwards[: n_outer // 2]], columns[inwards[n_outer // 2 : n_outer]]
        distance = (torch.arange(n_rows) - n_rows // 2).abs() / n_rows
        inside = 0.5 / oversampling if oversampling > 1 else 0.25
        self.rows = (distance > inside) & (distance < 0.5 - FILTERED_SHARE)
        self.outer, self.inner = (_zeros(int(self.rows.sum()), n_coils) for _ in range(2))
        self.n_slices = 0

    def add(self, ksp: Tensor) -> None:
        """Look at one slice ``(coil, y, x)``."""
        for sums, lines in zip((self.outer, self.inner), self.lines, strict=True):
            hybrid = ifftc(ksp[..., lines], dim=-2)[:, self.rows].transpose(0, 1)
            sums += hybrid @ hybrid.mH  # (y, coil, line) with itself
        self.n_slices += 1

    def estimate(self) -> NoiseEstimate | None:
        """The pooled covariance of the rows that hold noise only, or None without such rows."""
        n_outer, n_inner = (lines.numel() * self.n_slices for lines in self.lines)
        if min(n_outer, n_inner, self.outer.shape[0]) == 0:
            return None
        free = noise_cells(self.outer + self.inner, n_outer + n_inner)
        n_free = int(free.sum())
        if n_free < max(4, LEAST_ROWS * free.numel()):
            return None
        outer, inner = self.outer[free].sum(dim=0), self.inner[free].sum(dim=0)
        excess = _mean_ratio(inner / n_inner, outer / n_outer) - 1
        if abs(excess) > MAX_SIGNAL:
            return None
        n_samples = n_free * (n_outer + n_inner)
        return NoiseEstimate(noise_covariance(outer + inner, n_samples), "readout-edge", n_samples)


class ImageCorners:
    """Noise from the corners of a fully sampled image.

    Args:
        mask: sampled positions, bool ``(1, y, x)``, whole columns.
        n_coils: number of coils.
    """

    def __init__(self, mask: Tensor, n_coils: int) -> None:
        self.share = float(mask.double().mean())  # columns never acquired bring no noise
        ny, nx = mask.shape[-2:]
        self.n_filtered = round(ny * FILTERED_SHARE)
        self.side = [max(round(n * CORNER_SIDE / CORNER_CELLS), 2) for n in (ny, nx)]
        n_cells = len(self._cells(torch.empty(ny, nx)))
        self.sums, self.lagged = _zeros(n_cells, n_coils), _zeros(n_cells, n_coils)
        self.n_slices = 0

    def add(self, ksp: Tensor) -> None:
        """Look at one slice ``(coil, y, x)``."""
        # One coil at a time: whole images would need several times the memory of the slice.
        cells = torch.stack([self._cells(ifft2c(coil)) for coil in ksp], dim=1)
        flat, above, below = (x.flatten(2) for x in (cells, cells[..., :-1, :], cells[..., 1:, :]))
        self.sums += flat @ flat.mH  # (cell, coil, pixel) with itself,
        self.lagged += below @ above.mH  # and with the pixel above
        self.n_slices += 1

    def _cells(self, img: Tensor) -> Tensor:
        """The blocks of one coil's image ``(y, x)``: ``(cell, y, x)``."""
        img = img[self.n_filtered : img.shape[0] - self.n_filtered]
        (h, w), (ny, nx) = self.side, img.shape
        y, x = min(CORNER_CELLS * h, ny // 2), min(CORNER_CELLS * w, nx // 2)
        rows = torch.cat([img[:y], img[-y:]])
        corners = torch.cat([rows[:, :x], rows[:, -x:]], dim=1)
        return corners.unfold(0, h, h).unfold(1, w, w).flatten(0, 1)

    def estimate(self) -> NoiseEstimate | None:
        """The pooled covariance of the cells that hold noise only, or None without such cells."""
        n_pixels = self.side[0] * self.side[1] * self.n_slices
        free = noise_cells(self.sums, n_pixels)
        if int(free.sum()) < 0.25 * free.numel():
            return None
        sums, lagged = self.sums[free].sum(dim=0), self.lagged[free].sum(dim=0)
        # Neighbouring pixels share signal, but not noise (all rows were acquired).
        pairs = (self.side[0] - 1) / self.side[0]
        if _mean_ratio(lagged.abs(), sums) / pairs > MAX_SIGNAL:
            return None
        n_samples = int(free.sum()) * n_pixels
        cov = noise_covariance(sums / self.share, n_samples)
        return NoiseEstimate(cov, "image-corners", n_samples)


class OuterSamples:
    """Noise from the outermost measured samples, told from signal by the coils.

    Args:
        mask: sampled positions, bool ``(1, y, x)``.
        n_coils: number of coils.
    """

    def __init__(self, mask: Tensor, n_coils: int) -> None:
        ny, nx = mask.shape[-2:]
        y = (torch.arange(ny) - ny // 2) / ny
        x = (torch.arange(nx) - nx // 2) / nx
        radius = (y[:, None].square() + x.square()).flatten()
        sampled = torch.nonzero(mask.flatten()).flatten()
        inwards = sampled[radius[sampled].argsort(descending=True, stable=True)]
        n_outer = max(round(OUTER_SHARE * sampled.numel()), 1)
        n_middle = max(round(MIDDLE_SHARE * sampled.numel()), 1)
        self.rings = inwards[:n_outer], inwards[n_outer : n_outer + n_middle]
        self.outer, self.middle = _zeros(1, n_coils)[0], _zeros(1, n_coils)[0]
        self.n_slices = 0

    def add(self, ksp: Tensor) -> None:
        """Look at one slice ``(coil, y, x)``."""
        for sums, ring in zip((self.outer, self.middle), self.rings, strict=True):
            samples = ksp.flatten(-2)[:, ring]
            sums += samples @ samples.mH
        self.n_slices += 1

    def estimate(self) -> NoiseEstimate:
        """What is left of the outer samples' covariance without signal.

        Fewer than four coils cannot tell; theirs is an upper bound.
        """
        n_outer, n_middle = (ring.numel() * self.n_slices for ring in self.rings)
        cov = noise_covariance(self.outer, n_outer)
        if cov.shape[0] >= LEAST_COILS and n_middle and float(cov.diagonal().real.min()) > 0:
            cov = without_signal(cov, noise_covariance(self.middle, n_middle), n_outer)
        return NoiseEstimate(cov, "outer-samples", n_outer)


def without_signal(outer: Tensor, middle: Tensor, n_samples: int) -> Tensor:
    r"""Take what is left of the signal off the covariance of the outermost samples.

    Two rings of k-space share the noise, and their signals come from the same coils:
    ``middle`` = Psi + B and ``outer`` = Psi + t B with t < 1. In a basis of coil combinations that
    makes their difference diagonal, diag(lambda), combination j of the outer ring has the energy

    .. math:: c_j = \psi + t' \lambda_j, \qquad t' = t / (1 - t),

    if noise spares no combination. Neighbouring coils see nearly the same, so lambda falls by
    orders of magnitude and the weak combinations show psi nearly bare: a straight line through
    (lambda_j, c_j), weighted for noise that is only roughly equal, signal that is only roughly
    proportional, and the number of samples. Each combination is then scaled down to its share of
    noise, which keeps the matrix positive definite, and keeps noise correlations wherever signal
    does not drown them; where it does, all that exceeds psi is taken for signal.

    Of simulated 128x128 scans at R = 4 whose noise is 0.005 to 0.05 of the image's maximum, 190 of
    192 come within 10 % of the truth with 8 or 16 coils and 83 of 96 with 4 (all misses at 0.01 or
    less; ``tests/benchmarks/bench_noise.py``, which takes better sources where there are some).

    Args:
        outer: covariance of the outermost samples ``(coil, coil)``, positive definite.
        middle: covariance of the ring within.
        n_samples: samples behind ``outer``.
    """
    cov = outer
    for _ in range(3):  # coils differ in gain; equalise by the noise as far as it is known
        gain = cov.diagonal().real.sqrt().to(cov.dtype)
        equal = outer / gain[:, None] / gain
        signal, basis = torch.linalg.eigh((middle - outer) / gain[:, None] / gain)
        signal = signal.clamp_min(0)
        energy = (basis.conj() * (equal @ basis)).sum(dim=0).real
        noise, slope = _fit_line(signal, energy, n_samples)
        excess = slope * signal
        drowned = excess / (noise + excess)
        excess = (1 - drowned) * excess + drowned * (energy - noise).clamp_min(0)
        share = (noise / (noise + excess)).sqrt().to(cov.dtype)
        cleaned = share[:, None] * (basis.mH @ equal @ basis) * share
        cov = gain[:, None] * (basis @ cleaned @ basis.mH) * gain
    return cov


def _fit_line(signal: Tensor, energy: Tensor, n_samples: int) -> tuple[Tensor, Tensor]:
    """``energy`` = noise + slope x ``signal``, by reweighted least squares; both at least 0.

    Noise is taken to differ by 30 % between combinations, signal by 50 % from proportionality.
    Where noise hides the slope, it stays near 0.3: the power of images falls three- to fivefold
    from ring to ring.
    """
    usual, doubt = 0.3, 0.3
    noise, slope = energy.min(), torch.zeros_like(energy[0])
    for _ in range(20):
        both = noise + slope * signal
        weight = 1 / ((0.3 * noise) ** 2 + (0.5 * slope * signal) ** 2 + both**2 / n_samples)
        mean_signal = (weight * signal).sum() / weight.sum()
        mean_energy = (weight * energy).sum() / weight.sum()
        away = weight * (signal - mean_signal)
        slope = ((away * energy).sum() + usual / doubt**2) / ((away * signal).sum() + 1 / doubt**2)
        slope = slope.clamp_min(0)
        noise = (mean_energy - slope * mean_signal).clamp_min(0.05 * energy.min())
    return noise, slope


class NoiseEstimator:
    """Collects what a volume says about its noise, one slice at a time; best source wins.

    Args:
        mask: sampled positions, bool ``(1, y, x)``.
        n_coils: number of coils.
        fully_sampled: whether all that is ever acquired was sampled.
        oversampling: of the readout.
    """

    def __init__(
        self, mask: Tensor, n_coils: int, *, fully_sampled: bool, oversampling: float = 1.0
    ) -> None:
        self.sources: list[ReadoutEdge | ImageCorners | OuterSamples] = []
        if readout_is_full(mask):
            edge = ReadoutEdge(mask, n_coils, oversampling)
            corners = [ImageCorners(mask, n_coils)] if fully_sampled else []
            self.sources += [edge, *corners] if oversampling > 1 else [*corners, edge]
        self.sources.append(OuterSamples(mask, n_coils))

    def add(self, ksp: Tensor) -> None:
        """Look at one slice ``(coil, y, x)``."""
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
    (n C)^-1/2. Starting from the quietest tenth, cells join as long as they lie within three of
    these, and 5 % (coils are not quite white, filters not quite flat), of the mean of those in.

    Args:
        sums: sum of k k^H in each cell, ``(cell, coil, coil)``.
        n_samples: samples per coil in each cell.

    Returns:
        bool ``(cell,)``.
    """
    power = sums.diagonal(dim1=-2, dim2=-1).real
    usual = power.quantile(0.25, dim=0).clamp_min(1e-30)  # coils differ in gain
    energy = (power / usual).mean(dim=-1)
    energy[energy == 0] = torch.inf  # zeros are no noise
    free = torch.zeros(sums.shape[0], dtype=torch.bool)
    free[energy.argsort()[: max(sums.shape[0] // 10, 2)]] = True
    free &= energy.isfinite()
    spread = 3 / (n_samples * sums.shape[-1]) ** 0.5 + 0.05
    for _ in range(50):
        joined = energy < energy[free].mean() * (1 + spread)
        if bool((joined == free).all()):
            break
        free = joined
    return free


def _zeros(n_cells: int, n_coils: int) -> Tensor:
    """Sums of k k^H to start from, complex128 ``(cell, coil, coil)``."""
    return torch.zeros(n_cells, n_coils, n_coils, dtype=torch.complex128)


def _mean_ratio(a: Tensor, b: Tensor) -> float:
    """Mean over coils of the ratio of two covariances' diagonals."""
    return float((a.diagonal().real / b.diagonal().real.clamp_min(1e-30)).mean())
