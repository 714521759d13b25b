r"""Multi-coil scans simulated from magnitude images, written as fastMRI files.

What is measured, for coil c and slice z,

.. math:: y_c = M (T F (g_c S_c m e^{i \phi}) + n_c), \qquad E[n n^H] / 2 = \Psi,

with the object m, a smooth phase, receive fields S of loop coils (Biot-Savart), their gains g, the
Fourier transform F of the *object's* grid, the truncation T to the matrix of the scan, correlated
noise n and the mask M. Nothing here is what a reconstruction assumes: its maps are estimated, and
the object lives on a finer grid than the scan.

**Resolution.** A scanner samples the k-space of a continuous object inside a window, so a 256x256
picture scanned at 128x128 is truncated in k-space, after the coils have seen it, and shows the
ringing a real scan of that matrix shows. Averaging pixels instead would give images that no scanner
makes. A picture smaller than the matrix fills only the middle of k-space.

**Noise level.** ``noise`` is a standard deviation per real channel in units of the object's
maximum. With white noise and coils of which sum_c |S_c|^2 = 1 it is the noise of k-space itself. In
general the maps are scaled so that the noise-free k-space has the energy of the object,
sum_c |S_c|^2 = 1 on energy-weighted average, and Psi so that whitening with it leaves exactly
sum |m|^2 / noise^2: correlated coils are as good, on average, as white ones at the level asked for.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from scipy.interpolate import CubicSpline
from torch import Generator, Tensor

from .._version import __version__
from ..errors import ConfigError, ScanFormatError
from ..io.hdf5 import H5Writer, open_h5, read_attributes
from ..io.header import build_header
from ..physics.fourier import center_crop, center_pad, fft2c, ifft2c, image_crop
from ..physics.masks import MaskSpec, achieved_acceleration, is_line_mask
from ..rng import complex_normal, rng_for
from ..runtime.files import make_folder
from .images import Anatomy, ImageSource, open_images
from .parallel import parallel_map

FOV_MM = 240.0
"""Longer side of the field of view where the source does not know its pixel size."""

WIRE_MM = 6.0
"""Thickness of a coil's conductor, which keeps its field finite."""

BODY_LEVEL = 0.08
"""Share of the object's maximum from which a pixel belongs to the body, for placing coils."""

N_SEGMENTS = 24
"""Straight pieces a coil loop is made of."""

FIELD_NODES = 40
"""Nodes a side at which coil fields are computed; splines fill in between."""

Range = float | tuple[float, float]


@dataclass(frozen=True)
class SimulateConfig:
    """How scans are simulated; a pair ``(low, high)`` is drawn anew for every scan.

    Attributes:
        size: matrix ``(y, x)`` of the image; y is the readout.
        coils: number of receive coils.
        mask: kind of mask, or a mixture such as ``{"random": 0.85, "poisson": 0.15}``.
        acceleration: achieved rate, calibration included; a range is drawn uniformly.
        calib: calibration lines, or the side of the square of 2-D masks.
        noise: standard deviation per real channel, in units of the object's maximum (see above); a
            range is drawn log-uniformly.
        correlated_noise: coils differ in gain and share noise; otherwise their noise is white.
        full: sample everything and write ``reconstruction_rss``.
        readout_oversampling: 1, or 2 for a readout of twice the field of view.
        slices: slices a scan.
        jitter: field of view, position and orientation vary from scan to scan.
        units: what k-space is multiplied with; 1e-4 gives the tiny numbers of fastMRI files.
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
        if self.slices < 1:
            raise ConfigError(f"slices must be at least 1, got {self.slices}")
        if self.readout_oversampling not in (1, 2):
            raise ConfigError(f"readout oversampling is 1 or 2, got {self.readout_oversampling}")
        if not (self.units > 0 and math.isfinite(self.units)):
            raise ConfigError(f"units must be positive, got {self.units}")
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
                    spec.draw((1, self.size[1]), rng_for(0))

    @property
    def mask_kinds(self) -> dict[str, float]:
        """Kind of mask to its share."""
        return {self.mask: 1.0} if isinstance(self.mask, str) else dict(self.mask)


@dataclass(frozen=True)
class Ellipse:
    """Where the anatomy lies in the field of view: centre and half axes, mm from the middle."""

    y: float
    x: float
    half_y: float
    half_x: float


@dataclass(frozen=True)
class CoilLoops:
    """Circular receive loops in space.

    Attributes:
        points: middles of the straight pieces ``(coil, piece, 3)``, x, y, z in mm.
        steps: the pieces as vectors ``(coil, piece, 3)`` in mm.
    """

    points: Tensor
    steps: Tensor

    @classmethod
    def circles(cls, center: Tensor, across: Tensor, along: Tensor, radius: Tensor) -> CoilLoops:
        """Loops in the planes of two unit vectors; vectors ``(coil, 3)``, radii ``(coil,)``."""
        turn = 2 * torch.pi * torch.arange(N_SEGMENTS) / N_SEGMENTS
        cos, sin = turn.cos()[:, None], turn.sin()[:, None]
        r, across, along = radius[:, None, None], across[:, None], along[:, None]
        points = center[:, None] + r * (cos * across + sin * along)
        return cls(points, r * (2 * torch.pi / N_SEGMENTS) * (cos * along - sin * across))

    @property
    def centers(self) -> Tensor:
        """Centres of the loops ``(coil, 3)``, mm."""
        return self.points.mean(dim=1)

    def field(self, fov_mm: tuple[float, float], z_mm: float, nodes: int) -> Tensor:
        """Receive fields B1- = Bx - i By on a grid over the field of view, ``(coil, y, x)``.

        Biot-Savart for a unit current, B = sum dl x r / (|r|^2 + a^2)^(3/2) with wire thickness a;
        by reciprocity a coil receives what it would transmit, in the rotating frame (Hoult 2000,
        doi:10.1002/1099-0534(2000)12:4<173::AID-CMR1>3.0.CO;2-Q).
        """
        y, x = (torch.linspace(-fov / 2, fov / 2, nodes) for fov in fov_mm)
        points = self.points[..., None, None, :]
        ry, rx = y[:, None] - points[..., 1], x - points[..., 0]
        rz = z_mm - points[..., 2]
        lx, ly, lz = self.steps[..., None, None, :].unbind(dim=-1)
        weight = (rx.square() + ry.square() + rz.square() + WIRE_MM**2).pow(-1.5)
        bx = ((ly * rz - lz * ry) * weight).sum(dim=1)
        by = ((lz * rx - lx * rz) * weight).sum(dim=1)
        return torch.complex(bx, -by)


def draw_loops(n_coils: int, body: Ellipse, rng: Generator) -> CoilLoops:
    """Loops on rings of eight around a body, each at its own angle, distance, size and tilt.

    Args:
        n_coils: number of loops.
        body: what they surround, 25 to 80 mm away.
        rng: where the randomness comes from.
    """
    n_rings = math.ceil(n_coils / 8)
    ring = torch.arange(n_coils) % n_rings
    per_ring = n_coils / n_rings

    place = torch.arange(n_coils) / n_coils + _uniform(-0.15, 0.15, (n_coils,), rng) / per_ring
    angle = 2 * torch.pi * (place + torch.rand((), generator=rng))
    gap = _uniform(25, 60, (), rng) + _uniform(0, 20, (n_coils,), rng)
    x = body.x + (body.half_x + gap) * angle.cos()
    y = body.y + (body.half_y + gap) * angle.sin()
    z = 70.0 * (ring - (n_rings - 1) / 2) + _uniform(-20, 20, (n_coils,), rng)
    center = torch.stack([x, y, z], dim=-1)
    arc = torch.pi * (body.half_x + body.half_y + 90.0) / per_ring
    radius = (0.5 * arc * _uniform(1.0, 1.7, (n_coils,), rng)).clamp(30.0, 90.0)

    turn, tilt = (_uniform(-0.25, 0.25, (n_coils,), rng) for _ in range(2))
    zero = torch.zeros(n_coils)
    across = torch.stack([-(angle + turn).sin(), (angle + turn).cos(), zero], dim=-1)
    outward = torch.stack([(angle + turn).cos(), (angle + turn).sin(), zero], dim=-1)
    along = tilt.sin()[:, None] * outward
    along[:, 2] = tilt.cos()

    return CoilLoops.circles(center, across, along, radius)


class ScanModel:
    """One scan before it is written: everything that was drawn for it, and its measurement.

    Attributes:
        scan_id: its name, which with the seed decides every draw.
        img: the object's magnitude on its own grid over the field of view ``(slice, y, x)``.
        fov_mm: field of view ``(y, x)``, readout oversampling not included.
        slice_mm: distance of slices.
        subject: who is scanned.
        mask: sampled positions, bool ``(1, y, x)``.
        mask_kind: how it was drawn.
        noise: standard deviation asked for, per real channel, object maximum 1.
        cov: noise covariance E[n n^H] / 2 ``(coil, coil)``, object maximum 1 (before ``units``).
    """

    def __init__(self, anatomy: Anatomy, config: SimulateConfig, scan_id: str) -> None:
        self.config, self.scan_id = config, scan_id
        self.subject, self.slice_mm = anatomy.subject, anatomy.slice_mm
        self.img, self.fov_mm = _prescribe(anatomy, config, self._rng("jitter"))
        self.mask, self.mask_kind = _draw_mask(config, self._rng("mask"))
        self.noise = _draw_noise_level(config.noise, self._rng("noise level"))
        rng = self._rng("coils")
        low, high = _low_high("coils", config.coils)
        n_coils = int(torch.randint(int(low), int(high) + 1, (), generator=rng))
        self.loops = draw_loops(n_coils, _outline(self.img, self.fov_mm), rng)
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
        """All of one slice's k-space without noise, complex64 ``(coil, y, x)``."""
        ny, nx = self._grid
        coil_img = self._fields(index) * self.signal(index)
        ksp = fft2c(center_pad(coil_img, (self.config.readout_oversampling * ny, nx)))
        # Factors of whole coils wait until k-space is small.
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
        """What was asked for and drawn; holds nothing that was computed from the object."""
        return {
            "generator": f"mri-ambient {__version__} simulate",
            "scan_id": self.scan_id,
            "mask_kind": self.mask_kind,
            "noise": self.noise,
            "config": _as_json(self.config),
        }

    def _depth(self, index: int) -> float:
        """Distance of a slice from the middle of the volume, mm."""
        return self.slice_mm * (index - (len(self.img) - 1) / 2)

    def _fields(self, index: int) -> Tensor:
        """Receive fields as Biot-Savart gives them; those of the last slice asked for are kept."""
        if self._kept is None or self._kept[0] != index:
            coarse = self.loops.field(self.fov_mm, self._depth(index), FIELD_NODES)
            self._kept = (index, _upsample(coarse, self._grid))
        return self._kept[1]

    def _scales(self, correlation: Tensor) -> tuple[float, float]:
        """Factors on fields and on the noise covariance (see the module)."""
        energy = 0.0
        gram = torch.zeros_like(correlation)
        for index, img in enumerate(self.img):
            seen = (self._fields(index) * img).flatten(1)
            gram += seen @ seen.mH
            energy += float(img.square().sum())
        total = float(gram.trace().real)
        whitened = float(torch.linalg.solve(correlation, gram).trace().real)
        return math.sqrt(energy / total), whitened / total


def simulate_scans(
    images: str | Path | ImageSource,
    output: Path,
    config: SimulateConfig,
    *,
    count: int | None = None,
    workers: int = 0,
    overwrite: bool = False,
    on_scan: Callable[[Path], None] | None = None,
) -> list[Path]:
    """Simulate scans and write one fastMRI file for each, named after its image.

    No image is scanned twice, since two masks of one image amount to a fully sampled one. Which
    images are chosen, and every number in a file, follow from the seed and the image's name alone.
    Scans that are there already are kept, so an interrupted call can be repeated.

    Args:
        images: a folder or zip archive of pictures, NIfTI, ``"phantom"`` or a source.
        output: folder for the files; made if needed.
        config: how to simulate.
        count: number of scans; by default one for every image.
        workers: processes to spread the scans over; 0 works in this one.
        overwrite: simulate again what is there already.
        on_scan: called with each file that is finished or was there.

    Returns:
        The files, in the order of the seed.

    Raises:
        ConfigError: no images, fewer than ``count``, an unreadable one, or files in ``output``
            that were simulated with another configuration.
    """
    source = open_images(images)
    names = _choose(source, config, count)
    make_folder(output)
    paths = [output / f"{name}.h5" for name in names]
    for path in paths:
        _check_replaceable(path, config, overwrite=overwrite)
    todo = [
        (name, path) for name, path in zip(names, paths, strict=True)
        if overwrite or not path.exists()
    ]  # fmt: skip
    pending = {path for _, path in todo}
    for path in paths:
        if on_scan is not None and path not in pending:
            on_scan(path)
    task, share = partial(_simulate_one, source, config), len(todo) // (4 * max(workers, 1))
    for path in parallel_map(task, todo, workers, chunksize=max(1, min(32, share))):
        if on_scan is not None:
            on_scan(path)
    return paths


def _simulate_one(source: ImageSource, config: SimulateConfig, job: tuple[str, Path]) -> Path:
    name, path = job
    rng = rng_for(config.seed, name, "object")
    anatomy = source.read(name, config.size, config.slices, rng)
    write_scan(ScanModel(anatomy, config, name), path)
    return path


def write_scan(model: ScanModel, path: Path) -> None:
    """Write a scan in the fastMRI layout, slice by slice, under a temporary name first."""
    with H5Writer(path) as writer:
        _write_slices(writer.file, model)
        _write_facts(writer.file, model)


def _write_slices(file: h5py.File, model: ScanModel) -> None:
    n_slices, config = len(model.img), model.config
    shape = (model.n_coils, *model.encoded_shape)
    # Undersampled k-space is mostly zeros, which gzip (readable everywhere) takes away.
    storage: dict[str, Any] = {} if config.full else {
        "chunks": (1, *shape), "compression": "gzip", "compression_opts": 1, "shuffle": True,
    }  # fmt: skip
    kspace = file.create_dataset("kspace", (n_slices, *shape), np.complex64, **storage)
    target = np.empty((n_slices, *config.size), np.float32)
    for index in range(n_slices):
        ksp = model.measure(index)
        kspace[index] = ksp.numpy()
        if config.full:
            rss = ifft2c(ksp).abs().square().sum(dim=0).sqrt()
            target[index] = image_crop(rss, config.size).numpy()
    if config.full:
        file.create_dataset("reconstruction_rss", data=target)
        file.attrs["max"] = float(target.max())
        file.attrs["norm"] = float(np.linalg.norm(target))


def _write_facts(file: h5py.File, model: ScanModel) -> None:
    config, mask = model.config, model.mask
    fov_y, fov_x = model.fov_mm
    file["ismrmrd_header"] = build_header(
        encoded_shape=model.encoded_shape,
        recon_shape=config.size,
        encoded_fov_mm=(config.readout_oversampling * fov_y, fov_x),
        recon_fov_mm=model.fov_mm,
        slice_mm=model.slice_mm,
        n_slices=len(model.img),
        n_coils=model.n_coils,
    )
    if not config.full:
        by_line = is_line_mask(mask)
        file["mask"] = (mask[0, 0] if by_line else mask[0]).numpy()
        file.attrs["acceleration"] = achieved_acceleration(mask)
        file.attrs["num_low_frequency"] = config.calib
    file.attrs["acquisition"] = "SIMULATED"
    file.attrs["patient_id"] = hashlib.sha256(model.subject.encode()).hexdigest()
    file.attrs["mri_ambient_simulation"] = json.dumps(model.provenance(), sort_keys=True)


def _choose(source: ImageSource, config: SimulateConfig, count: int | None) -> list[str]:
    """Names of the images to scan, in an order that adding images does not change."""
    if count is not None and count < 1:
        raise ConfigError(f"the number of scans must be at least 1, got {count}")
    names = source.names(count, config.slices)
    if count is not None and count > len(names):
        raise ConfigError(
            f"{count} scans were asked for but there are {len(names)} images, and no image may be "
            "scanned twice; ask for fewer or give more images"
        )

    def place(name: str) -> str:
        return hashlib.sha256(f"{config.seed}/{name}".encode()).hexdigest()

    return sorted(names, key=place)[:count]


def _check_replaceable(path: Path, config: SimulateConfig, *, overwrite: bool) -> None:
    """Refuse what is no simulated scan, and on request what is another one."""
    if not path.exists():
        return
    try:
        with open_h5(path, for_text=True) as file:
            found = json.loads(str(read_attributes(file, path)["mri_ambient_simulation"]))["config"]
    except (ScanFormatError, KeyError, ValueError, TypeError) as error:
        raise ConfigError(
            f"{path}: is there already and no simulated scan, so it is never written over; choose "
            "another folder"
        ) from error
    if found != _as_json(config) and not overwrite:
        raise ConfigError(
            f"{path}: simulated with other settings; choose another folder or overwrite"
        )


def _as_json(config: SimulateConfig) -> dict[str, Any]:
    """The configuration as it comes back from JSON."""
    fields: dict[str, Any] = json.loads(json.dumps({**asdict(config), "mask": config.mask_kinds}))
    return fields


def _low_high(name: str, value: float | tuple[float, float]) -> tuple[float, float]:
    low, high = value if isinstance(value, tuple) else (value, value)
    if not (math.isfinite(low) and math.isfinite(high) and low <= high):
        raise ConfigError(f"{name} must be a number or a pair (low, high), got {value}")
    return low, high


def _uniform(low: float, high: float, shape: tuple[int, ...], rng: Generator) -> Tensor:
    return low + (high - low) * torch.rand(shape, generator=rng)


def _draw_noise_level(noise: Range, rng: Generator) -> float:
    low, high = _low_high("noise", noise)
    if low == high:
        return low
    return math.exp(float(_uniform(math.log(low), math.log(high), (), rng)))


def _draw_mask(config: SimulateConfig, rng: Generator) -> tuple[Tensor, str]:
    ny, nx = config.size
    shape = (config.readout_oversampling * ny, nx)
    if config.full:
        return torch.ones(1, *shape, dtype=torch.bool), "full"
    kinds = config.mask_kinds
    weights = torch.tensor(list(kinds.values()), dtype=torch.float64)
    kind = list(kinds)[int(torch.multinomial(weights, 1, generator=rng))]
    low, high = _low_high("acceleration", config.acceleration)
    acceleration = float(_uniform(low, high, (), rng)) if low < high else low
    return MaskSpec(kind, acceleration, config.calib).draw(shape, rng), kind


def _draw_noise_coupling(
    loops: CoilLoops, config: SimulateConfig, rng: Generator
) -> tuple[Tensor, Tensor]:
    """Gains ``(coil,)`` and noise correlation ``(coil, coil)``, complex, unit diagonal.

    Neighbours share noise: half of it at no distance, falling off by e in 150 mm, with a random
    phase between coils. The exponential kernel is positive definite in space and stays so.
    """
    n_coils = len(loops.points)
    if not config.correlated_noise:
        return torch.ones(n_coils), torch.eye(n_coils, dtype=torch.complex64)
    gains = torch.exp(_uniform(-0.5, 0.5, (n_coils,), rng))
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
    interpolated.
    """
    img, zoom, move = anatomy.img, 1.0, [0.0, 0.0]
    if config.jitter:
        turn, flip_y, flip_x = (torch.rand(3, generator=rng) < 0.5).tolist()
        img = img.mT if turn else img
        img = img.flip([axis for axis, flip in ((-2, flip_y), (-1, flip_x)) if flip])
        zoom = float(_uniform(0.95, 1.25, (), rng))
        move = _uniform(-0.04, 0.04, (2,), rng).tolist()
    (ny, nx), (h, w) = config.size, img.shape[-2:]
    ratio = zoom * max(h / ny, w / nx)
    shape = (max(round(ratio * ny), 1), max(round(ratio * nx), 1))
    top = shape[0] // 2 - h // 2 + round(move[0] * shape[0])
    left = shape[1] // 2 - w // 2 + round(move[1] * shape[1])
    # Negative padding crops.
    margins = (left, shape[1] - w - left, top, shape[0] - h - top)
    img = torch.nn.functional.pad(img, margins)
    reduce = int(ratio // 2)
    if reduce > 1:  # far finer than the scan resolves: average, then truncate as always
        img = torch.nn.functional.avg_pool2d(img, reduce, ceil_mode=True)
    if float(img.max()) == 0:
        raise ConfigError(f"{anatomy.subject}: nothing of it lies in the field of view")
    pixel_mm = anatomy.pixel_mm or FOV_MM / max(h, w)
    return img / img.max(), (shape[0] * pixel_mm, shape[1] * pixel_mm)


def _outline(img: Tensor, fov_mm: tuple[float, float]) -> Ellipse:
    """The ellipse, along the axes, that holds all but a hundredth of the bright pixels."""
    body = torch.nn.functional.max_pool2d(img.amax(dim=0)[None, None], 4, ceil_mode=True)[0, 0]
    index = torch.nonzero(body > BODY_LEVEL).float()
    mm = (index + 0.5) / torch.tensor(body.shape) * torch.tensor(fov_mm) - torch.tensor(fov_mm) / 2
    low, high = mm.quantile(torch.tensor([0.005, 0.995]), dim=0)
    center, half = (low + high) / 2, (high - low).clamp(min=10.0) / 2
    reach = float(((mm - center) / half).norm(dim=-1).quantile(0.99))
    y, x = center.tolist()
    half_y, half_x = (reach * half).tolist()
    return Ellipse(y, x, half_y, half_x)


def _truncate(ksp: Tensor, shape: tuple[int, int]) -> Tensor:
    """Cut (or surround with zeros) k-space so that image values stay what they are."""
    n_in = ksp[0].numel()
    inner = (min(ksp.shape[-2], shape[0]), min(ksp.shape[-1], shape[1]))
    ksp = center_pad(center_crop(ksp, inner), shape)
    return ksp * math.sqrt(shape[0] * shape[1] / n_in)


@lru_cache(maxsize=32)
def _spline(n_coarse: int, n: int) -> Tensor:
    """Cubic spline interpolation from ``n_coarse`` nodes to ``n`` points, as a matrix."""
    nodes, points = np.linspace(0, 1, n_coarse), np.linspace(0, 1, n)
    return torch.from_numpy(CubicSpline(nodes, np.eye(n_coarse))(points)).float()


def _upsample(coarse: Tensor, shape: tuple[int, int]) -> Tensor:
    """A smooth function given at coarse nodes ``(..., y, x)``, on a finer grid."""
    if coarse.is_complex():
        return torch.complex(_upsample(coarse.real, shape), _upsample(coarse.imag, shape))
    rows, columns = (_spline(c, n) for c, n in zip(coarse.shape[-2:], shape, strict=True))
    return rows @ coarse @ columns.mT
