r"""The model of a simulated multi-coil scan: k-space of a magnitude image.

The k-space of coil c in slice z is

.. math:: y_c = M (T F (g_c S_c m e^{i \phi}) + n_c), \qquad E[n n^H] / 2 = \Psi,

with the object m, a smooth phase, receive fields S of loop coils (Biot-Savart), their gains g, the
Fourier transform F of the *object's* grid, the truncation T to the matrix of the scan, correlated
noise n and the mask M. A reconstruction assumes none of this: its maps are estimated, and the
object lives on a finer grid than the scan.

**Resolution.** A scanner samples the k-space of a continuous object inside a window, so a 256x256
picture scanned at 128x128 is truncated in k-space, after multiplication by the coil fields, and
rings as a real scan of that matrix does. Averaging pixels instead would give images that no scanner
makes. A picture smaller than the matrix fills only the middle of k-space.

**Noise level.** ``noise`` is a standard deviation per real channel in units of the object's
maximum. With white noise and coils of which sum_c |S_c|^2 = 1 it is the noise of k-space itself. In
general the maps are scaled so that the noise-free k-space has the energy of the object,
sum_c |S_c|^2 = 1 on energy-weighted average, and Psi so that whitening with it leaves exactly
sum |m|^2 / noise^2: correlated coils are as good, on average, as white ones of the same level.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor

from ..._version import __version__
from ...errors import ConfigError
from ...physics.crop import center_crop, center_pad
from ...physics.fourier import fft2c
from ...physics.mask_spec import MaskSpec
from ...rng import complex_normal, rng_for
from ...runtime.config import check_number
from ...runtime.files import as_json
from .coil_loops import CoilLoops, draw_loops, outline, uniform
from .images import Anatomy

FOV_MM = 240.0
"""Longer side of the field of view if the pixel size of the image is unknown."""

Range = float | tuple[float, float]


@dataclass(frozen=True)
class SimulateConfig:
    """How scans are simulated; from a pair ``(low, high)`` every scan draws a value.

    Attributes:
        size: matrix ``(y, x)`` of the image; y is the readout.
        coils: number of receive coils.
        mask: kind of mask, or a mixture such as ``{"random": 0.85, "poisson": 0.15}``.
        acceleration: achieved rate, calibration included; a range is drawn uniformly.
        calib: calibration lines, or the side of the square of 2-D masks.
        noise: standard deviation per real channel, in units of the object's maximum (see the
            module); a range is drawn log-uniformly.
        correlated_noise: coils differ in gain and share noise; otherwise their noise is white.
        full: sample everything and write ``reconstruction_rss``.
        readout_oversampling: 1, or 2 for a readout of twice the field of view.
        slices: slices a scan.
        jitter: field of view, position and orientation vary from scan to scan.
        rotation: the object is turned by up to so many degrees, drawn uniformly.
        bias: standard deviation of the logarithm of a smooth factor on the object (transmit field).
        partial_fourier: share of the columns that is acquired, the rest is missing on one side.
        units: factor on k-space; 1e-4 gives numbers as small as in fastMRI files.
        seed: every random choice follows from it and the name of the scan.
    """

    size: tuple[int, int] = (128, 128)
    coils: int | tuple[int, int] = 8
    mask: str | Mapping[str, float] = "random"
    acceleration: Range = 4.0
    calib: int = 20
    noise: Range = 0.01
    correlated_noise: bool = True
    full: bool = False
    readout_oversampling: int = 1
    slices: int = 1
    jitter: bool = False
    rotation: float = 0.0
    bias: float = 0.0
    partial_fourier: Range = 1.0
    units: float = 1e-4
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.size) < 16:
            raise ConfigError(f"size must be at least 16 x 16, got {self.size[0]} x {self.size[1]}")
        if _low_high("coils", self.coils)[0] < 1:
            raise ConfigError(f"at least one coil is needed, got {self.coils}")
        if _low_high("noise", self.noise)[0] < 0:
            raise ConfigError(f"noise must not be negative, got {self.noise}")
        if isinstance(self.noise, tuple) and self.noise[0] == 0:
            raise ConfigError("a noise range is drawn log-uniformly and cannot start at 0")
        check_number("slices", self.slices, 1, whole=True)
        check_number("seed", self.seed, whole=True)
        if self.readout_oversampling not in (1, 2):
            raise ConfigError(f"readout oversampling is 1 or 2, got {self.readout_oversampling}")
        check_number("rotation, in degrees,", self.rotation, 0, at_most=180)
        check_number("bias", self.bias, 0, at_most=1)
        low, high = _low_high("partial_fourier", self.partial_fourier)
        if not 0.55 <= low <= high <= 1:
            raise ConfigError(f"partial_fourier is 0.55 to 1, got {self.partial_fourier}")
        check_number("units", self.units, above=0)
        if not self.full:
            self._check_masks()

    def _check_masks(self) -> None:
        kinds = self.mask_kinds
        if not kinds or min(kinds.values()) < 0 or sum(kinds.values()) <= 0:
            raise ConfigError(f"mask weights must be positive, got {kinds}")
        if self.readout_oversampling > 1 and "poisson" in kinds:
            raise ConfigError(
                "poisson masks undersample both axes, which a readout with oversampling cannot; "
                "use readout_oversampling=1 or line masks"
            )
        for kind in kinds:
            for acceleration in _low_high("acceleration", self.acceleration):
                spec = MaskSpec(kind, acceleration, self.calib)
                if kind != "poisson":
                    columns = _fewest_columns(self)
                    spec.draw((1, self.size[1]), rng_for(0), columns)

    @property
    def mask_kinds(self) -> dict[str, float]:
        """Kind of mask to its share."""
        return {self.mask: 1.0} if isinstance(self.mask, str) else dict(self.mask)

    def as_json(self) -> dict[str, Any]:
        """The configuration as it comes back from JSON."""
        return as_json({**asdict(self), "mask": self.mask_kinds})


class ScanModel:
    """One scan before it is written: everything that was drawn for it, and its measurement.

    Attributes:
        scan_id: its name, which together with the seed decides every draw.
        img: the object's magnitude on its own grid over the field of view ``(slice, y, x)``.
        fov_mm: field of view ``(y, x)``, readout oversampling not included.
        slice_mm: distance between slices.
        subject: name of the person scanned.
        acquired: columns that partial Fourier leaves, ``(first, end)``.
        mask: sampled positions, bool ``(1, y, x)``.
        mask_kind: how it was drawn.
        noise: requested standard deviation per real channel, object maximum 1.
        cov: noise covariance E[n n^H] / 2 ``(coil, coil)``, object maximum 1 (before ``units``).
    """

    def __init__(self, anatomy: Anatomy, config: SimulateConfig, scan_id: str) -> None:
        self.config, self.scan_id = config, scan_id
        self.subject, self.slice_mm = anatomy.subject, anatomy.slice_mm
        self.img, self.fov_mm = _prescribe(anatomy, config, self._rng("jitter"))
        self.img = self.img * self._bias()
        self.img = self.img / self.img.max()
        self.acquired = _draw_columns(config, self._rng("partial Fourier"))
        self.mask, self.mask_kind = _draw_mask(
            config, self.encoded_shape, self.acquired, self._rng("mask")
        )
        self.noise = _draw_noise_level(config.noise, self._rng("noise level"))
        rng = self._rng("coils")
        low, high = _low_high("coils", config.coils)
        n_coils = int(torch.randint(int(low), int(high) + 1, (), generator=rng))
        self.loops = draw_loops(n_coils, outline(self.img, self.fov_mm), rng)
        self._kept: tuple[int, Tensor] | None = None
        self._phase = _draw_phase(self._rng("phase"))
        self.gains, correlation = _draw_noise_coupling(self.loops, config, self._rng("covariance"))
        self._field_scale, noise_scale = self._scales(correlation)
        self.cov = self.noise**2 * noise_scale * self.gains[:, None] * correlation * self.gains

    def _rng(self, *keys: object) -> Generator:
        return rng_for(self.config.seed, self.scan_id, *keys)

    @property
    def n_coils(self) -> int:
        """Number of coils."""
        return len(self.gains)

    @property
    def encoded_shape(self) -> tuple[int, int]:
        """Matrix of k-space ``(y, x)``."""
        ny, nx = self.config.size
        return (self.config.readout_oversampling * ny, nx)

    @property
    def _grid(self) -> tuple[int, int]:
        """The object's matrix, finer than the scan's, ``(y, x)``."""
        return (self.img.shape[-2], self.img.shape[-1])

    def maps(self, index: int) -> Tensor:
        """Receive fields of one slice on the object's grid, without gains, ``(coil, y, x)``."""
        return self._fields(index) * self._field_scale

    def signal(self, index: int) -> Tensor:
        """One slice of the object with its phase, complex ``(y, x)``."""
        return torch.polar(self.img[index], self._phase(self._depth(index), self._grid))

    def clean(self, index: int) -> Tensor:
        """The complete k-space of one slice without noise, complex64 ``(coil, y, x)``."""
        ny, nx = self._grid
        coil_img = self._fields(index) * self.signal(index)
        ksp = fft2c(center_pad(coil_img, (self.config.readout_oversampling * ny, nx)))
        # Factors of whole coils are applied once k-space is small.
        strength = self._field_scale * self.gains[:, None, None]
        return strength * _truncate(ksp, self.encoded_shape)

    def measure(self, index: int) -> Tensor:
        """One slice as the scanner stores it: noisy, zero where not sampled, ``(coil, y, x)``."""
        ksp = self.clean(index)
        if self.noise > 0:
            white = complex_normal((self.n_coils, ksp[0].numel()), self._rng("noise", index))
            ksp = ksp + (torch.linalg.cholesky(self.cov) @ white).view_as(ksp)
        return torch.where(self.mask, self.config.units * ksp, 0)

    def provenance(self) -> dict[str, Any]:
        """What was requested and drawn; contains nothing computed from the object."""
        return {
            "generator": f"mri-ambient {__version__} simulate",
            "scan_id": self.scan_id,
            "mask_kind": self.mask_kind,
            "noise": self.noise,
            "config": self.config.as_json(),
        }

    def _bias(self) -> Tensor:
        """A smooth factor on the object, ``(slice, y, x)`` or 1."""
        if self.config.bias == 0:
            return torch.ones(())
        bumps = torch.randn(len(self.img), 3, 3, generator=self._rng("bias"))
        return torch.exp(self.config.bias * _upsample(bumps[:1], self._grid))

    def _depth(self, index: int) -> float:
        """Distance of a slice from the middle of the volume, mm."""
        return self.slice_mm * (index - (len(self.img) - 1) / 2)

    def _fields(self, index: int) -> Tensor:
        """Receive fields, splines between 40 x 40 nodes; those of the last slice are kept."""
        if self._kept is None or self._kept[0] != index:
            coarse = self.loops.field(self.fov_mm, self._depth(index), 40)
            self._kept = (index, _upsample(coarse, self._grid))
        return self._kept[1]

    def _scales(self, correlation: Tensor) -> tuple[float, float]:
        """Factors on the fields and on the noise covariance (see the module)."""
        energy = 0.0
        gram = torch.zeros_like(correlation)
        for index, img in enumerate(self.img):
            seen = (self._fields(index) * img).flatten(1)
            gram += seen @ seen.mH
            energy += float(img.square().sum())
        total = float(gram.trace().real)
        whitened = float(torch.linalg.solve(correlation, gram).trace().real)
        return math.sqrt(energy / total), whitened / total


def _low_high(name: str, value: float | tuple[float, float]) -> tuple[float, float]:
    low, high = value if isinstance(value, tuple) else (value, value)
    if not (math.isfinite(low) and math.isfinite(high) and low <= high):
        raise ConfigError(f"{name} must be a number or a pair (low, high), got {value}")
    return low, high


def _draw_noise_level(noise: Range, rng: Generator) -> float:
    low, high = _low_high("noise", noise)
    if low == high:
        return low
    return math.exp(float(uniform(math.log(low), math.log(high), (), rng)))


def _columns(n: int, first: int, end: int) -> Tensor:
    """Columns ``first`` to ``end - 1``, bool ``(n,)``."""
    places = torch.arange(n)
    return (places >= first) & (places < end)


def _fewest_columns(config: SimulateConfig) -> Tensor:
    """The fewest columns that a scan acquires, bool ``(x,)``."""
    n = config.size[1]
    low, _ = _low_high("partial_fourier", config.partial_fourier)
    return _columns(n, n - round(low * n), n)


def _draw_columns(config: SimulateConfig, rng: Generator) -> tuple[int, int]:
    """First and last (exclusive) of the columns that are acquired."""
    n = config.size[1]
    low, high = _low_high("partial_fourier", config.partial_fourier)
    if low == high == 1:
        return 0, n
    n_kept = round(float(uniform(low, high, (), rng)) * n)
    is_left = bool(torch.rand((), generator=rng) < 0.5)
    return (n - n_kept, n) if is_left else (0, n_kept)


def _draw_mask(
    config: SimulateConfig, shape: tuple[int, int], columns: tuple[int, int], rng: Generator
) -> tuple[Tensor, str]:
    acquired = _columns(shape[1], *columns)
    if config.full:
        return acquired.expand(1, *shape).clone(), "full"
    kinds = config.mask_kinds
    weights = torch.tensor(list(kinds.values()), dtype=torch.float64)
    kind = list(kinds)[int(torch.multinomial(weights, 1, generator=rng))]
    low, high = _low_high("acceleration", config.acceleration)
    acceleration = float(uniform(low, high, (), rng)) if low < high else low
    return MaskSpec(kind, acceleration, config.calib).draw(shape, rng, acquired), kind


def _draw_noise_coupling(
    loops: CoilLoops, config: SimulateConfig, rng: Generator
) -> tuple[Tensor, Tensor]:
    """Gains ``(coil,)`` and noise correlation ``(coil, coil)``, complex, unit diagonal.

    Neighbours share noise: half of it at zero distance, less by a factor e every 150 mm, with a
    random phase between coils. The exponential kernel keeps the matrix positive definite.
    """
    n_coils = len(loops.points)
    if not config.correlated_noise:
        return torch.ones(n_coils), torch.eye(n_coils, dtype=torch.complex64)
    gains = torch.exp(uniform(-0.5, 0.5, (n_coils,), rng))
    shared = 0.5 * torch.exp(-torch.cdist(loops.centers, loops.centers) / 150.0)
    shared.fill_diagonal_(1.0)
    phase = 2 * torch.pi * torch.rand(n_coils, generator=rng)
    return gains, torch.polar(shared, phase[:, None] - phase)


def _draw_phase(rng: Generator) -> Callable[[float, tuple[int, int]], Tensor]:
    """A smooth phase in radians: a quadratic (shim, eddy currents) and a field of 8 x 8 bumps."""
    linear, square = torch.randn(3, generator=rng), 0.8 * torch.randn(4, generator=rng)
    offset = 2 * torch.pi * torch.rand((), generator=rng)
    bumps = 0.25 * torch.randn(2, 8, 8, generator=rng)

    def phase(z_mm: float, shape: tuple[int, int]) -> Tensor:
        y, x = torch.linspace(-1, 1, shape[0])[:, None], torch.linspace(-1, 1, shape[1])
        z = z_mm / 100.0
        smooth = offset + linear[0] * x + linear[1] * y + linear[2] * z
        smooth = smooth + square[0] * x * x + square[1] * y * y + square[2] * x * y
        local = bumps[0] * math.cos(5 * z) + bumps[1] * math.sin(5 * z)
        return smooth + square[3] * z * z + _upsample(local, shape)

    return phase


def _prescribe(
    anatomy: Anatomy, config: SimulateConfig, rng: Generator
) -> tuple[Tensor, tuple[float, float]]:
    """The object on a grid that fills the field of view, and that field of view in mm.

    Pixels keep their aspect: the field of view is the smallest of the matrix's aspect that holds
    the picture. Jitter moves and scales the field of view, not the picture, so nothing is
    interpolated; a rotation is.
    """
    img, zoom, move = anatomy.img, 1.0, [0.0, 0.0]
    if config.jitter:
        turn, flip_y, flip_x = (torch.rand(3, generator=rng) < 0.5).tolist()
        img = img.mT if turn else img
        img = img.flip([axis for axis, flip in ((-2, flip_y), (-1, flip_x)) if flip])
        zoom = float(uniform(0.95, 1.25, (), rng))
        move = uniform(-0.04, 0.04, (2,), rng).tolist()
    if config.rotation > 0:
        angle = float(uniform(-config.rotation, config.rotation, (), rng))
        img = _rotate(img, angle)
    (ny, nx), (h, w) = config.size, img.shape[-2:]
    ratio = zoom * max(h / ny, w / nx)
    shape = (max(round(ratio * ny), 1), max(round(ratio * nx), 1))
    top = shape[0] // 2 - h // 2 + round(move[0] * shape[0])
    left = shape[1] // 2 - w // 2 + round(move[1] * shape[1])
    # Negative margins crop.
    margins = (left, shape[1] - w - left, top, shape[0] - h - top)
    img = torch.nn.functional.pad(img, margins)
    reduce = int(ratio // 2)
    if reduce > 1:  # much finer than the scan resolves: average, then truncate as always
        img = torch.nn.functional.avg_pool2d(img, reduce, ceil_mode=True)
    if float(img.max()) == 0:
        raise ConfigError(f"{anatomy.subject}: no part of it lies in the field of view")
    pixel_mm = anatomy.pixel_mm or FOV_MM / max(h, w)
    return img / img.max(), (shape[0] * pixel_mm, shape[1] * pixel_mm)


def _rotate(img: Tensor, degrees: float) -> Tensor:
    """Turn the slices about their centre by cubic splines; the picture keeps its size."""
    from scipy import ndimage  # slow to import

    turned = ndimage.rotate(img.numpy(), degrees, axes=(-1, -2), reshape=False, order=3)
    return torch.from_numpy(turned).clamp_(min=0)


def _truncate(ksp: Tensor, shape: tuple[int, int]) -> Tensor:
    """Crop k-space, or pad it with zeros, without changing image values."""
    n_in = ksp[0].numel()
    inner = (min(ksp.shape[-2], shape[0]), min(ksp.shape[-1], shape[1]))
    ksp = center_pad(center_crop(ksp, inner), shape)
    return ksp * math.sqrt(shape[0] * shape[1] / n_in)


@lru_cache(maxsize=32)
def _spline(n_coarse: int, n: int) -> Tensor:
    """Cubic spline interpolation from ``n_coarse`` nodes to ``n`` points, as a matrix."""
    from scipy.interpolate import CubicSpline  # slow to import

    nodes, points = np.linspace(0, 1, n_coarse), np.linspace(0, 1, n)
    return torch.from_numpy(CubicSpline(nodes, np.eye(n_coarse))(points)).float()


def _upsample(coarse: Tensor, shape: tuple[int, int]) -> Tensor:
    """Interpolate a smooth function from coarse nodes ``(..., y, x)`` to a finer grid."""
    if coarse.is_complex():
        return torch.complex(_upsample(coarse.real, shape), _upsample(coarse.imag, shape))
    rows, columns = (_spline(c, n) for c, n in zip(coarse.shape[-2:], shape, strict=True))
    return rows @ coarse @ columns.mT
