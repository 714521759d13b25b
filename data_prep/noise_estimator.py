r"""Noise covariance of a volume, estimated from the scan itself, slice by slice.

The sources, best first; the first that finds enough noise is used:

``readout-edge``
    image rows beyond the object along the readout. The readout is always fully sampled, so
    nothing aliases there at any acceleration: in hybrid space (image row, phase-encode line) only
    the sampled lines are read.
``image-corners``
    of a fully sampled image, where they hold no signal (first, if the readout has no
    oversampling).
``calibration-block``
    what small patches of the fully sampled centre of k-space hold beyond what a bounded object and
    smooth coils explain; needs two coils.
``outer-samples``
    the outermost measured samples of k-space, where the signal is least, minus what is left of it.
``outer-samples (upper bound)``
    the same without subtracting signal: fewer than four coils cannot separate it from noise.

Lines never acquired and zero-filled rows never count as noise. Every estimate is a sum of k k^H
over cells (a row, a block of pixels, a ring or patches of k-space) that grows slice by slice, so a
volume streams through; which cells hold noise only is decided at the end, by their energies.

A source is made for a mask, bool ``(1, y, x)``, and a number of coils; ``add`` takes one slice of
k-space ``(coil, y, x)``.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from ..errors import PrepError
from ..io import ScanFile
from ..physics.axis_fourier import ifftc
from ..physics.fourier import ifft2c
from ..physics.patterns import calibration_block, readout_is_full
from ..scan import UPPER_BOUND
from .noise import NoiseEstimate, noise_covariance, outer_products

SHOWN = ("readout-edge", "image-corners")
"""Sources that hold no signal, whatever filter k-space had."""

MAX_SIGNAL = 0.2
"""Largest share of signal in the energy of cells that count as noise."""

FILTERED_SHARE = 0.04
"""Share of the image rows, at either end, that the receiver's filter may have attenuated."""

NEAR_SHARE = 0.3
"""Share of the rows outside the final field of view that lie next to it. The filter of a receiver
may pass hardly more (of a real Siemens scan with twice the samples along the readout, half of the
energy is left half-way to the end, a seventh at the end)."""

ATTENUATED = 0.15
"""Energy by which rows next to the final image exceed those that count as noise, relative to these,
above which a filter attenuated the latter."""

NEARLY_EQUAL = 0.05
"""Difference of energies that are both of noise: of the inner and outer lines of the real scan. Of
both sides of the image twice as much is allowed, of coils, whose filters differ, four times."""

CORNER_SIDE = 1 / 6
"""Side of an image corner, as a share of the image's."""

CORNER_CELLS = 4
"""Cells per side of a corner."""

OUTER_SHARE = 0.1
"""Share of the measured samples that count as outermost."""

MIDDLE_SHARE = 0.45
"""Share of the measured samples, next to the outermost, that show the signal there."""

LEAST_COILS = 4
"""With fewer coils, noise cannot be separated from signal in the outermost samples."""

LEAST_SIDE = 3
"""Least side of a patch of the calibration block, in samples."""

PATCH_SHARE = 0.4
"""Most entries of a patch (coils x positions), as a share of the patches of one slice."""

LEAST_FREE = 1 / 16
"""Least share of the combinations of a patch's entries that must hold noise only."""

UNEQUAL = 0.2
"""Energy, relative to the mean, that combinations may hold beyond the bound for pure noise."""


class ReadoutEdge:
    """Noise from image rows beyond the object along a fully sampled readout.

    Only the outer half of the sampled lines is used: the inner half holds faint ghosts and the far
    ends of sensitivities. With ``oversampling`` of the readout above 1, only rows outside the final
    field of view are used.
    """

    def __init__(self, mask: Tensor, n_coils: int, oversampling: float) -> None:
        n_rows, n_columns = mask.shape[-2:]
        columns = torch.nonzero(mask[0].any(dim=-2)).flatten()
        inwards = (columns - n_columns // 2).abs().argsort(descending=True, stable=True)
        n_outer = columns.numel() // 2
        # Two sets of lines: noise has the same energy in both, signal has less in the outer one.
        self.lines = columns[inwards[: n_outer // 2]], columns[inwards[n_outer // 2 : n_outer]]
        distance = (torch.arange(n_rows) - n_rows // 2).abs() / n_rows
        inside = 0.5 / oversampling if oversampling > 1 else 0.25
        self.rows = (distance > inside) & (distance < 0.5 - FILTERED_SHARE)
        self.oversampled = oversampling > 1
        # Of these rows, those next to the final image; the matrix is symmetric about its middle.
        outside = distance[self.rows]
        self.near = outside < inside + NEAR_SHARE * (0.5 - FILTERED_SHARE - inside)
        self.outer, self.inner = (_zeros(int(self.rows.sum()), n_coils) for _ in range(2))
        self.n_slices = 0

    def add(self, ksp: Tensor) -> None:
        """Add one slice."""
        for sums, lines in zip((self.outer, self.inner), self.lines, strict=True):
            hybrid = ifftc(ksp[..., lines], dim=-2)[:, self.rows].transpose(0, 1)
            sums += outer_products(hybrid)  # (y, coil, line) with itself
        self.n_slices += 1

    def estimate(self) -> NoiseEstimate | None:
        """The pooled covariance of the rows that hold noise only, or None without such rows."""
        n_outer, n_inner = (lines.numel() * self.n_slices for lines in self.lines)
        if min(n_outer, n_inner, self.outer.shape[0]) == 0:
            return None
        free = noise_cells(self.outer + self.inner, n_outer + n_inner)
        if self.oversampled and self._are_attenuated(free):
            free = self.near
        elif int(free.sum()) < max(4, 0.1 * free.numel()) or abs(self._excess(free)) > MAX_SIGNAL:
            return None
        outer, inner = self.outer[free].sum(dim=0), self.inner[free].sum(dim=0)
        n_samples = int(free.sum()) * (n_outer + n_inner)
        return NoiseEstimate(noise_covariance(outer + inner, n_samples), "readout-edge", n_samples)

    def _excess(self, rows: Tensor) -> float:
        """Energy of the inner lines of rows, relative to that of the outer ones, less 1."""
        n_outer, n_inner = (lines.numel() for lines in self.lines)
        outer, inner = self.outer[rows].sum(dim=0), self.inner[rows].sum(dim=0)
        return _mean_ratio(inner / n_inner, outer / n_outer) - 1

    def _are_attenuated(self, rows: Tensor) -> bool:
        """Whether the receiver's filter attenuated these rows more than those near the final image.

        The latter hold more energy then, and all of it is noise: as much in the inner as in the
        outer lines, the same factor in all coils, as much on either side of the image.
        """
        power = (self.outer + self.inner).diagonal(dim1=-2, dim2=-1).real  # (row, coil)
        near, n_lines = power[self.near], sum(lines.numel() for lines in self.lines)
        if len(near) < 4 or not bool(rows.any()):
            return False
        factors = near.mean(dim=0) / power[rows].mean(dim=0).clamp_min(1e-30)
        if float(factors.mean()) < 1 + ATTENUATED:
            return False
        # Three standard errors of the energy of a coil on one side, and of all.
        chance = 3 / math.sqrt(len(near) / 2 * n_lines * self.n_slices)
        overall = chance / math.sqrt(near.shape[1])
        if overall > 2 * NEARLY_EQUAL:
            return False  # too few samples to tell
        half = len(near) // 2
        sides = float((near[:half].mean(dim=0) / near[half:].mean(dim=0).clamp_min(1e-30)).mean())
        return (
            abs(self._excess(self.near)) < NEARLY_EQUAL + overall
            and float(factors.max() / factors.min()) < 1 + 4 * NEARLY_EQUAL + 2 * chance
            and abs(math.log(sides)) < 2 * NEARLY_EQUAL + 2 * overall
        )


class ImageCorners:
    """Noise from the corners of a fully sampled image."""

    def __init__(self, mask: Tensor, n_coils: int) -> None:
        self.share = float(mask.double().mean())  # columns never acquired hold no noise
        ny, nx = mask.shape[-2:]
        self.n_filtered = round(ny * FILTERED_SHARE)
        self.side = [max(round(n * CORNER_SIDE / CORNER_CELLS), 2) for n in (ny, nx)]
        n_cells = len(self._cells(torch.empty(ny, nx)))
        self.sums, self.lagged = _zeros(n_cells, n_coils), _zeros(n_cells, n_coils)
        self.n_slices = 0

    def add(self, ksp: Tensor) -> None:
        """Add one slice."""
        # One coil at a time: all images would need several times the memory of the slice.
        cells = torch.stack([self._cells(ifft2c(coil)) for coil in ksp], dim=1)
        flat, above, below = (x.flatten(2) for x in (cells, cells[..., :-1, :], cells[..., 1:, :]))
        self.sums += outer_products(flat)  # (cell, coil, pixel) with itself
        self.lagged += outer_products(below, above)  # with the pixel above
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
        # Neighbouring pixels share signal but not noise (all rows were acquired).
        pairs = (self.side[0] - 1) / self.side[0]
        if _mean_ratio(lagged.abs(), sums) / pairs > MAX_SIGNAL:
            return None
        n_samples = int(free.sum()) * n_pixels
        cov = noise_covariance(sums / self.share, n_samples)
        return NoiseEstimate(cov, "image-corners", n_samples)


class OuterSamples:
    """Noise from the outermost measured samples, separated from signal by the coils."""

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
        self.block = CalibrationBlock(mask, n_coils)
        self.n_slices = 0

    def add(self, ksp: Tensor) -> None:
        """Add one slice."""
        for sums, ring in zip((self.outer, self.middle), self.rings, strict=True):
            sums += outer_products(ksp.flatten(-2)[:, ring])
        self.block.add(ksp)
        self.n_slices += 1

    def estimate(self) -> NoiseEstimate:
        """The covariance of the outermost samples, compared with that of the calibration block.

        The outermost samples are an upper bound; a block above it (because signal varies) is not
        used. With four coils or more, signal is subtracted, perhaps too little or too much: a block
        below that estimate replaces it, one above is averaged with it.
        """
        n_outer, n_middle = (ring.numel() * self.n_slices for ring in self.rings)
        bound = noise_covariance(self.outer, n_outer)
        outermost = NoiseEstimate(bound, UPPER_BOUND, n_outer)
        n_coils = bound.shape[0]
        if n_coils == 1 or n_middle == 0 or float(bound.diagonal().real.min()) == 0:
            return outermost
        cov = without_signal(bound, noise_covariance(self.middle, n_middle), n_outer)
        if n_coils >= LEAST_COILS:
            outermost = NoiseEstimate(cov, "outer-samples", n_outer)
        block = self.block.estimate(cov)
        if block is None or _level(block.cov, bound) > 1:
            return outermost
        if n_coils < LEAST_COILS or _level(block.cov, cov) < 1:
            return block
        return replace(block, cov=(block.cov + cov) / 2)


class CalibrationBlock:
    r"""Noise from the dimensions that signal does not reach in patches of the calibration block.

    Neighbouring samples of all coils are linearly dependent: coils are smooth, and the object is
    smaller than the field of view. So patches of k-space, as vectors, span few dimensions (the
    null space of ESPIRiT, Uecker et al. 2014, doi:10.1002/mrm.24751), and all others hold noise
    only. With d the length of a vector, M the number of patches and lambda_1 <= ... <= lambda_d the
    eigenvalues of their covariance after whitening, m is the largest number for which the smallest
    m eigenvalues are consistent with noise,

    .. math:: \lambda_m \le \bar\lambda_m \left((1 + \sqrt{\gamma})^2 + u\right), \qquad
        \gamma = \frac{m}{M - d + m},

    the bound of Marchenko and Pastur, as Veraart et al. 2016 (doi:10.1016/j.neuroimage.2016.08.016)
    use it, with :data:`UNEQUAL` for u. Signal took d - m of the M degrees of freedom, so the noise
    level is the mean of these eigenvalues times M / (M - d + m). Its distribution over pairs of
    coils corrects the covariance used for whitening, repeatedly.

    What varies in proportion to the signal (motion, pulsation, drift) is strongest here and counts
    as noise: on real scans the level is up to 1.6 times too high, so it is compared with the
    outermost samples. A single coil has too few such dimensions.
    """

    def __init__(self, mask: Tensor, n_coils: int) -> None:
        ny, nx = mask.shape[-2:]
        h, w = calibration_block(mask)
        top, left = ny // 2 - h // 2, nx // 2 - w // 2
        self.block = slice(top, top + h), slice(left, left + w)
        fits = [
            side for side in range(LEAST_SIDE, min(h, w) + 1)
            if n_coils * side**2 <= PATCH_SHARE * (h - side + 1) * (w - side + 1)
        ]  # fmt: skip
        # Side of a patch; 0 if the block is too small or there is one coil.
        self.side = max(fits, default=0) if n_coils > 1 else 0
        self.sums = _zeros(1, n_coils * self.side**2)[0]
        self.n_patches, self.n_samples = 0, 0

    def add(self, ksp: Tensor) -> None:
        """Add one slice."""
        if not self.side:
            return
        block = ksp[:, self.block[0], self.block[1]]
        patches = block.unfold(1, self.side, 1).unfold(2, self.side, 1)  # (coil, y, x, side, side)
        flat = patches.permute(0, 3, 4, 1, 2).flatten(3).flatten(0, 2)
        self.sums += outer_products(flat)
        self.n_patches += flat.shape[1]
        self.n_samples += block[0].numel()

    def estimate(self, start: Tensor) -> NoiseEstimate | None:
        """The covariance, from a first guess of it; None where signal reaches everywhere."""
        if not self.side:
            return None
        cov, n_coils, size = start, start.shape[0], self.sums.shape[0]
        count = torch.arange(1, size + 1, dtype=torch.float64)
        freedom = 1 - (size - count) / self.n_patches
        chance = (1 + (count / self.n_patches / freedom).sqrt()) ** 2
        eye = torch.eye(self.side**2, dtype=cov.dtype)
        for _ in range(8):  # the estimate converges in about six rounds of whitening with it
            chol = torch.linalg.cholesky(cov)
            white = torch.kron(torch.linalg.inv(chol).contiguous(), eye)
            energy, basis = torch.linalg.eigh(white @ self.sums @ white.mH / (2 * self.n_patches))
            mean = energy.cumsum(dim=0) / count
            noisy = torch.nonzero(energy <= mean * (chance + UNEQUAL)).flatten().tolist()
            free = max(noisy, default=-1) + 1  # none if rounding made the smallest one negative
            if free < LEAST_FREE * size or not float(energy[0]) > 0:
                return None
            parts = basis[:, :free].reshape(n_coils, -1)  # (coil, position x combination)
            weight = (energy[:free] / freedom[free - 1]).repeat(self.side**2)
            expected, seen = parts @ parts.mH, (parts * weight) @ parts.mH
            power, axes = torch.linalg.eigh(expected)
            root = (axes / power.clamp_min(1e-9 * float(power[-1])).sqrt()) @ axes.mH
            cov = chol @ root @ seen @ root @ chol.mH
            cov = (cov + cov.mH) / 2
        return NoiseEstimate(cov, "calibration-block", round(self.n_samples * free / size))


def without_signal(outer: Tensor, middle: Tensor, n_samples: int) -> Tensor:
    r"""Subtract the remaining signal from the covariance of the outermost samples.

    Two rings of k-space share the noise, and their signals come from the same coils:
    ``middle`` = Psi + B and ``outer`` = Psi + t B with t < 1. In a basis of coil combinations that
    makes their difference diagonal, diag(lambda), combination j of the outer ring has the energy

    .. math:: c_j = \psi + t' \lambda_j, \qquad t' = t / (1 - t),

    if every combination holds noise. Neighbouring coils measure nearly the same, so lambda falls by
    orders of magnitude and the weak combinations hold little but psi: a straight line is fitted
    through (lambda_j, c_j), weighted for noise that is only roughly equal, signal that is only
    roughly proportional, and the number of samples. Each combination is then scaled down to its
    share of noise, which keeps the matrix positive definite and keeps noise correlations where
    signal does not dominate; where it does, all that exceeds psi counts as signal. For its accuracy
    see ``tests/benchmarks/bench_noise.py``.

    Args:
        outer: covariance of the outermost samples ``(coil, coil)``, positive definite.
        middle: covariance of the ring within.
        n_samples: samples behind ``outer``.
    """
    cov = outer
    for _ in range(3):  # coils differ in gain: equalise by the noise estimate so far
        gain = cov.diagonal().real.sqrt().to(cov.dtype)
        equal = outer / gain[:, None] / gain
        signal, basis = torch.linalg.eigh((middle - outer) / gain[:, None] / gain)
        signal = signal.clamp_min(0)
        energy = (basis.conj() * (equal @ basis)).sum(dim=0).real
        noise, slope = _fit_line(signal, energy, n_samples)
        excess = slope * signal
        signal_share = excess / (noise + excess)
        excess = (1 - signal_share) * excess + signal_share * (energy - noise).clamp_min(0)
        share = (noise / (noise + excess)).sqrt().to(cov.dtype)
        cleaned = share[:, None] * (basis.mH @ equal @ basis) * share
        cov = gain[:, None] * (basis @ cleaned @ basis.mH) * gain
    return cov


def _fit_line(signal: Tensor, energy: Tensor, n_samples: int) -> tuple[Tensor, Tensor]:
    """``energy`` = noise + slope x ``signal``, by reweighted least squares; both at least 0.

    Assumes that noise differs by 30 % between combinations and signal by 50 % from proportionality.
    Where noise hides the slope it stays near 0.3: the power of images falls three- to fivefold from
    ring to ring.
    """
    usual, spread = 0.3, 0.3
    noise, slope = energy.min(), torch.zeros_like(energy[0])
    for _ in range(20):
        both = noise + slope * signal
        weight = 1 / ((0.3 * noise) ** 2 + (0.5 * slope * signal) ** 2 + both**2 / n_samples)
        mean_signal = (weight * signal).sum() / weight.sum()
        mean_energy = (weight * energy).sum() / weight.sum()
        away = weight * (signal - mean_signal)
        slope = ((away * energy).sum() + usual / spread**2) / (
            (away * signal).sum() + 1 / spread**2
        )
        slope = slope.clamp_min(0)
        noise = (mean_energy - slope * mean_signal).clamp_min(0.05 * energy.min())
    return noise, slope


class NoiseEstimator:
    """Estimates the noise of a volume, fed slice by slice, from the best source it offers."""

    def __init__(
        self, mask: Tensor, n_coils: int, *, fully_sampled: bool, oversampling: float = 1.0
    ) -> None:
        self.sources: list[ReadoutEdge | ImageCorners | OuterSamples] = []
        if readout_is_full(mask):
            edge = ReadoutEdge(mask, n_coils, oversampling)
            corners = [ImageCorners(mask, n_coils)] if fully_sampled else []
            self.sources += [edge, *corners] if oversampling > 1 else [*corners, edge]
        self.sources.append(OuterSamples(mask, n_coils))

    @classmethod
    def of(cls, file: ScanFile) -> NoiseEstimator:
        """For the slices of a file."""
        full, oversampling = file.fully_sampled, file.readout_oversampling
        mask = torch.from_numpy(file.mask)
        return cls(mask, file.shape[1], fully_sampled=full, oversampling=oversampling)

    def add(self, ksp: Tensor) -> None:
        """Add one slice."""
        for source in self.sources:
            source.add(ksp)

    def estimate(self) -> NoiseEstimate:
        """The estimate of the first source that finds enough noise.

        Raises:
            PrepError: the samples of that source are all zero.
        """
        found = next(e for e in (source.estimate() for source in self.sources) if e is not None)
        if found.std == 0:
            raise PrepError(
                f"the noise estimate from {found.source} is zero, so the data were masked or "
                "simulated without noise; give noise_std (--noise-std), the noise per real channel"
            )
        return found


def noise_cells(sums: Tensor, n_samples: int) -> Tensor:
    """Which cells hold noise only, by their energies, bool ``(cell,)``.

    The energy of noise in ``n`` samples of ``C`` white coils has a relative standard deviation of
    (n C)^-1/2. Starting from the quietest tenth, cells are added that lie within three standard
    deviations, plus 5 % (coils are not quite white, filters not quite flat), of the mean so far.

    Args:
        sums: sum of k k^H in each cell, ``(cell, coil, coil)``.
        n_samples: samples per coil in each cell.
    """
    power = sums.diagonal(dim1=-2, dim2=-1).real
    usual = power.quantile(0.25, dim=0).clamp_min(1e-30)  # coils differ in gain
    energy = (power / usual).mean(dim=-1)
    energy[energy == 0] = torch.inf  # zeros are not noise
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
    """Empty sums of k k^H, complex128 ``(cell, coil, coil)``."""
    return torch.zeros(n_cells, n_coils, n_coils, dtype=torch.complex128)


def _level(a: Tensor, b: Tensor) -> float:
    """Mean power of noise of covariance ``a`` after whitening with ``b``."""
    return float(torch.linalg.solve(b, a).diagonal().real.mean())


def _mean_ratio(a: Tensor, b: Tensor) -> float:
    """Mean over coils of the ratio of two covariances' diagonals."""
    return float((a.diagonal().real / b.diagonal().real.clamp_min(1e-30)).mean())
