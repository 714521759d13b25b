"""The records of a measurement: a scan, and a batch of normalised slices of several scans."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from .errors import ArrayError, ScanFormatError
from .physics.axis_fourier import fftc, ifftc
from .physics.coil_maps import unpack_maps
from .physics.crop import center_crop, center_fit
from .physics.fourier import reverse
from .physics.map_sets import split_sets
from .physics.masks import sampling_density
from .physics.operators import SenseOp
from .physics.patterns import achieved_acceleration, whole_lines
from .physics.units import nonzero_along
from .rng import Streams

UPPER_BOUND = "outer-samples (upper bound)"
"""The source of a noise estimate that includes signal."""


@dataclass(frozen=True, repr=False, eq=False)
class Scan:
    """Slices of one measured volume; a step of the prep chain returns a new one.

    Attributes:
        ksp: k-space, complex64 ``(slice, coil, y, x)``, zero where ``mask`` is False.
        mask: sampled positions, bool ``(1, y, x)``.
        scan_id: name of the scan and of what is made from it; seeds its random streams.
        slices: index of each slice in the volume.
        acquired: bool ``(x,)``: False for columns that the scanner never acquires.
        noise: noise-only samples, complex ``(coil, sample)``, or None.
        noise_std: k-space noise per real channel, in the units of ``ksp``; None until known.
        noise_source: where ``noise_std`` comes from.
        maps: coil sensitivities ``(slice, coil, y, x)``, or None before they are estimated; of
            several sets ``(slice, coil, set*y, x)`` (:mod:`~mri_ambient.physics.map_sets`).
        given_maps: sensitivities of the measured coils that come with the scan, shaped like
            ``maps``; maps are then not estimated.
        calib: calibration data that do not belong to the image, in its coils and units,
            ``(slice, coil, y, x)`` with k = 0 at ``n // 2``; None if there are none.
        scale: factor from normalised images to the units of whitened k-space.
        coil_transform: compression x whitening, complex ``(coil, coil)``, with all of its rows; the
            first made the virtual coils. None if the coils are as measured.
        voxel_mm: voxel size ``(y, x, slice)`` in millimetres, or None if the file does not say.
        recon_shape: the scanner's final matrix ``(y, x)``.
        steps: what was done to the measurement, in order.
    """

    ksp: Tensor
    mask: Tensor
    scan_id: str
    slices: tuple[int, ...]
    recon_shape: tuple[int, int]
    acquired: Tensor | None = None
    noise: Tensor | None = None
    noise_std: float | None = None
    noise_source: str | None = None
    maps: Tensor | None = None
    given_maps: Tensor | None = None
    calib: Tensor | None = None
    scale: float = 1.0
    coil_transform: Tensor | None = None
    voxel_mm: tuple[float, float, float] | None = None
    steps: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        shape = tuple(self.ksp.shape)
        if len(shape) != 4 or not self.ksp.is_complex():
            raise ValueError(
                f"ksp must be complex (slice, coil, y, x), got {self.ksp.dtype} {shape}"
            )
        found, wanted = tuple(self.mask.shape), (1, *shape[-2:])
        if self.mask.dtype != torch.bool or found != wanted:
            raise ValueError(f"mask must be bool {wanted}, got {self.mask.dtype} {found}")
        if len(self.slices) != shape[0]:
            raise ValueError(f"{len(self.slices)} slice indices for {shape[0]} slices")
        if self.maps is not None and not _hold_sets(self.maps, self.ksp):
            raise ValueError(f"maps {tuple(self.maps.shape)} do not match ksp {shape}")
        if self.calib is not None and self.calib.shape[:2] != self.ksp.shape[:2]:
            raise ValueError(f"calib {tuple(self.calib.shape)} does not match ksp {shape}")
        if bool((nonzero_along(self.ksp, -4, -3) & ~self.mask).any()):
            raise ValueError("ksp is not zero where mask is False")

    def __repr__(self) -> str:
        size = " x ".join(str(n) for n in self.ksp.shape)
        steps = ", ".join(self.steps)
        return f"<Scan {self.scan_id}, {size}, R = {self.acceleration:.2f}, steps: {steps}>"

    @classmethod
    def from_numpy(
        cls,
        ksp: ArrayLike,
        mask: ArrayLike | None = None,
        *,
        scan_id: str = "array",
        voxel_mm: tuple[float, float, float] | None = None,
        noise: ArrayLike | None = None,
        acs: ArrayLike | None = None,
    ) -> Scan:
        """A raw scan from arrays, which are copied.

        Args:
            ksp: k-space, complex ``(slice, coil, y, x)``, or ``(coil, y, x)`` of one slice; y are
                readout rows, x phase-encode columns, k = 0 is at ``(y // 2, x // 2)``.
            mask: sampled positions, 0 or 1, ``(x,)`` or ``(y, x)``; samples outside it are ignored.
                By default the positions where any slice or coil is non-zero; where they form
                lines, stray zeros count as sampled.
            scan_id: outputs are named after it, and it seeds the random streams.
            voxel_mm: voxel size ``(y, x, slice)`` in millimetres.
            noise: noise-only samples in the units of ``ksp``, complex ``(coil, sample)``.
            acs: calibration lines for the coil maps alone, complex as ``ksp``; a block of the same
                slices, coils and field of view, k = 0 in its middle. Lines of the image itself
                belong into ``ksp``.

        Raises:
            ArrayError: an argument has the wrong type or shape, or does not fit ``ksp``; it is a
                ValueError too.
            ScanFormatError: NaN, Inf, or nothing but zeros.
        """
        values = _slices(ksp, "ksp", scan_id)
        if not scan_id or Path(scan_id).name != scan_id:
            raise ArrayError(f"scan_id {scan_id!r} is not a file name, which outputs need")
        if voxel_mm is not None and not (
            len(voxel_mm) == 3 and all(0 < d < math.inf for d in voxel_mm)
        ):
            raise ArrayError(f"{scan_id}: voxel_mm is {voxel_mm}, wanted three positive lengths")
        plane = _mask_plane(values, mask, scan_id)
        values[..., ~plane] = 0
        if not values.any():
            raise ScanFormatError(f"{scan_id}: ksp holds nothing but zeros where it was sampled")
        return cls(
            ksp=torch.from_numpy(values),
            mask=torch.from_numpy(plane)[None],
            scan_id=scan_id,
            slices=tuple(range(len(values))),
            recon_shape=(values.shape[-2], values.shape[-1]),
            noise=None if noise is None else _noise_samples(noise, values.shape[1], scan_id),
            calib=None if acs is None else _lines(acs, values, scan_id),
            voxel_mm=voxel_mm,
            steps=("read",),
        )

    @property
    def n_coils(self) -> int:
        """Number of (possibly virtual) coils."""
        return self.ksp.shape[1]

    @property
    def n_sets(self) -> int:
        """Number of sets of maps; 1 before they are estimated."""
        return 1 if self.maps is None else self.maps.shape[-2] // self.ksp.shape[-2]

    @property
    def shape(self) -> tuple[int, int]:
        """Size of the encoded matrix ``(y, x)``."""
        return (self.ksp.shape[-2], self.ksp.shape[-1])

    @property
    def acquired_columns(self) -> Tensor:
        """``acquired``, or all columns where it is not known."""
        everything = torch.ones(self.shape[-1], dtype=torch.bool)
        return everything if self.acquired is None else self.acquired

    @property
    def acceleration(self) -> float:
        """Achieved, over the acquired columns."""
        return achieved_acceleration(self.mask, self.acquired)

    def calibration(self, shape: tuple[int, int]) -> Tensor:
        """The middle ``shape`` of ``calib``, or of the k-space itself, ``(slice, coil, y, x)``."""
        return center_crop(self.ksp if self.calib is None else self.calib, shape)

    def mapped(self, step: str, change: Callable[[Tensor], Tensor], **changes: Any) -> Scan:  # noqa: ANN401
        """A new scan with ``change`` applied to k-space and calibration; as :meth:`with_step`."""
        calib = None if self.calib is None else change(self.calib)
        return self.with_step(step, ksp=change(self.ksp), calib=calib, **changes)

    def with_step(self, step: str, **changes: Any) -> Scan:  # noqa: ANN401 -- field values
        """A new scan with some fields replaced and the step added to ``steps``."""
        return replace(self, steps=(*self.steps, step), **changes)


def _hold_sets(maps: Tensor, ksp: Tensor) -> bool:
    """Whether maps fit k-space: the same but for the rows, of which there may be several sets."""
    (*sides, ny, nx), (*wanted, n_rows, n_columns) = maps.shape, ksp.shape
    return (sides, nx) == (wanted, n_columns) and ny >= n_rows and ny % n_rows == 0


def _complex64(array: ArrayLike, name: str, scan_id: str) -> NDArray[np.complex64]:
    """A copy in single precision, checked to be complex and finite."""
    values = np.asarray(array)
    if values.dtype.kind != "c":
        raise ArrayError(f"{scan_id}: {name} holds {values.dtype}, wanted complex numbers")
    with np.errstate(over="ignore", invalid="ignore"):
        values = values.astype(np.complex64)
        n_bad = 0 if np.isfinite(values.sum()) else int((~np.isfinite(values)).sum())
    if n_bad:
        found = f"NaN, Inf or values beyond single precision in {n_bad} of {values.size} places"
        raise ScanFormatError(f"{scan_id}: {name} holds {found}")
    return values


def _slices(ksp: ArrayLike, name: str, scan_id: str) -> NDArray[np.complex64]:
    """K-space ``(slice, coil, y, x)``, checked."""
    values = _complex64(ksp, name, scan_id)
    values = values[None] if values.ndim == 3 else values
    if values.ndim != 4 or 0 in values.shape:
        wanted = "(slice, coil, y, x) or (coil, y, x)"
        raise ArrayError(f"{scan_id}: {name} has shape {np.shape(ksp)}, wanted {wanted}")
    return values


def _lines(acs: ArrayLike, ksp: NDArray[np.complex64], scan_id: str) -> Tensor:
    """Calibration lines on the matrix of the k-space, checked."""
    lines = _slices(acs, "acs", scan_id)
    if lines.shape[:2] != ksp.shape[:2]:
        wanted = f"the {ksp.shape[0]} slices and {ksp.shape[1]} coils of ksp"
        raise ArrayError(f"{scan_id}: acs has shape {lines.shape}, wanted {wanted}")
    return center_fit(torch.from_numpy(lines), (ksp.shape[2], ksp.shape[3]))


def _mask_plane(
    ksp: NDArray[np.complex64], mask: ArrayLike | None, scan_id: str
) -> NDArray[np.bool_]:
    """Sampled positions ``(y, x)``: those given, or those that hold data."""
    if mask is None:
        return whole_lines(np.asarray(ksp.any(axis=(0, 1))))
    ny, nx = ksp.shape[-2:]
    values = np.asarray(mask)
    if values.shape not in ((nx,), (ny, nx)):
        wanted = f"({nx},) or ({ny}, {nx}) to match ksp"
        raise ArrayError(f"{scan_id}: mask has shape {values.shape}, wanted {wanted}")
    if not np.isin(values, (0, 1)).all():
        raise ArrayError(f"{scan_id}: mask holds other values than 0 and 1")
    return np.broadcast_to(values != 0, (ny, nx)).copy()


def _noise_samples(noise: ArrayLike, n_coils: int, scan_id: str) -> Tensor:
    values = _complex64(noise, "noise", scan_id)
    if values.ndim != 2 or values.shape[0] != n_coils or values.shape[1] <= n_coils:
        wanted = f"({n_coils}, samples) with more than {n_coils} samples"
        raise ArrayError(f"{scan_id}: noise has shape {values.shape}, wanted {wanted}")
    return torch.from_numpy(values)


@dataclass(frozen=True)
class Batch:
    """Measurements of several slices, normalised.

    Attributes:
        ksp: complex ``(b, coil, y, x)``. Entries where ``mask`` is False are never read.
        maps: ``(b, coil, y, x)``, of several sets ``(b, coil, set*y, x)``; scans with fewer coils
            or sets are padded with zero maps. Until :meth:`to` they may be packed
            (:mod:`~mri_ambient.physics.coil_maps`).
        mask: bool ``(b, 1, y, x)``.
        acquired: bool ``(b, x)``, False for columns that the scanner never acquires.
        noise_std: sigma_n per real channel, ``(b,)``.
        density: probability that a scan of the data set samples an entry, real ``(b, 1, y, x)``.
        img: target images ``(b, y, x)``, or ``(b, set*y, x)``, for objectives that learn from
            images, or None.
    """

    ksp: Tensor
    maps: Tensor
    mask: Tensor
    acquired: Tensor
    noise_std: Tensor
    density: Tensor
    img: Tensor | None = None

    @property
    def op(self) -> SenseOp:
        """``A = M F S`` of the measurement."""
        return SenseOp(self.maps, self.mask, self.n_sets)

    @property
    def n_sets(self) -> int:
        """Number of sets of maps."""
        rows = -2 if self.maps.is_complex() else -3
        return self.maps.shape[rows] // self.ksp.shape[-2]

    @property
    def measured(self) -> Tensor:
        """The measured k-space y: ``ksp``, with zeros where nothing was sampled."""
        return torch.where(self.mask, self.ksp, 0)

    def __len__(self) -> int:
        return self.ksp.shape[0]

    def to(self, device: torch.device | str) -> Batch:
        """The batch on another device, with its maps unpacked there."""
        # To a GPU without waiting; on the CPU, values would be read before they arrive.
        to_gpu = torch.device(device).type != "cpu"
        moved = self._each(lambda tensor: tensor.to(device, non_blocking=to_gpu))
        return moved if moved.maps.is_complex() else replace(moved, maps=unpack_maps(moved.maps))

    def pin_memory(self) -> Batch:
        """The batch in page-locked memory, which a GPU can copy while the CPU does other work."""
        return self._each(Tensor.pin_memory)

    def __getitem__(self, rows: slice | list[int] | Tensor) -> Batch:
        """Some of the slices."""
        return self._each(lambda tensor: tensor[rows])

    def _each(self, change: Callable[[Tensor], Tensor]) -> Batch:
        values = (getattr(self, part.name) for part in fields(self))
        return Batch(*(None if value is None else change(value) for value in values))  # type: ignore[arg-type]

    def augmented(self, rng: Streams) -> Batch:
        """The measurements of mirrored, conjugated and phase-rotated objects, drawn per slice.

        Exact for any coils and mask, without interpolation. The object is mirrored along y, along x
        and conjugated with probability 1/2 each, and multiplied by a uniform phase.
        """
        draws = torch.stack([torch.rand(4, generator=g) for g in rng], dim=1)
        flip_y, flip_x, conjugate = draws[:3] < 0.5
        turn = torch.polar(torch.ones(len(self)), 2 * torch.pi * draws[3]).to(self.ksp.device)

        # Conjugating an object and its coils conjugates k-space and mirrors both of its axes.
        def in_image(x: Tensor) -> Tensor:
            x = split_sets(_where(conjugate, x.conj(), x), self.n_sets)
            return _mirrored(_mirrored(x, flip_y, -2), flip_x, -1).flatten(-3, -2)

        def in_kspace(k: Tensor) -> Tensor:
            return _mirrored(_mirrored(k, flip_y ^ conjugate, -2), flip_x ^ conjugate, -1)

        return replace(
            self,
            ksp=in_kspace(_where(conjugate, self.ksp.conj(), self.ksp)) * turn[:, None, None, None],
            maps=in_image(self.maps),
            mask=in_kspace(self.mask),
            acquired=_mirrored(self.acquired, flip_x ^ conjugate, -1),
            density=in_kspace(self.density),
            img=None if self.img is None else in_image(self.img) * turn[:, None, None],
        )

    def rows(self, first: int, n: int) -> Batch:
        """The measurements of ``n`` rows of every object, from the row ``first`` on.

        Exact where the readout is full, since the transform along y then separates the rows; noise
        stays white and as strong. Entries that were not measured become 0.
        """
        kept = slice(first, first + n)

        def in_image(x: Tensor) -> Tensor:
            return split_sets(x, self.n_sets)[..., kept, :].flatten(-3, -2)

        return replace(
            self,
            ksp=fftc(ifftc(self.measured, dim=-2)[..., kept, :], dim=-2),
            maps=in_image(self.maps),
            mask=self.mask[..., kept, :],
            density=self.density[..., kept, :],
            img=None if self.img is None else in_image(self.img),
        )

    @classmethod
    def of(cls, scans: Sequence[Scan]) -> Batch:
        """The slices of prepared scans of one matrix size; coil counts may differ."""
        return cls.stack([cls.with_maps(scan, scan.maps) for scan in scans])

    @classmethod
    def of_measurement(cls, op: SenseOp, ksp: Tensor, noise_std: Tensor) -> Batch:
        """K-space ``(b, coil, y, x)`` with maps and mask of an operator, all columns acquired."""
        n, _, ny, nx = ksp.shape
        mask = op.mask.expand(n, 1, ny, nx)
        acquired = torch.ones(n, nx, dtype=torch.bool, device=ksp.device)
        return cls(ksp, op.maps, mask, acquired, noise_std, density=mask.float())

    @classmethod
    def with_maps(cls, scan: Scan, maps: Tensor | None) -> Batch:
        """The slices of a scan with these maps, complex or packed."""
        if maps is None or scan.noise_std is None:
            raise ValueError(f"{scan.scan_id}: not prepared; maps and noise_std are needed")
        n, _, ny, nx = scan.ksp.shape
        return cls(
            ksp=scan.ksp,
            maps=maps,
            mask=scan.mask.expand(n, 1, ny, nx),
            acquired=scan.acquired_columns.expand(n, nx),
            noise_std=torch.full((n,), float(scan.noise_std)),
            density=sampling_density(scan.mask, scan.acquired_columns).expand(n, 1, ny, nx),
        )

    @classmethod
    def stack(cls, batches: Sequence[Batch]) -> Batch:
        """Batches of one matrix size as one; numbers of coils and of sets may differ."""
        if len(batches) == 1:
            return batches[0]
        n_coils = max(batch.ksp.shape[1] for batch in batches)
        n_rows = max(batch.maps.shape[2] for batch in batches)
        columns: dict[str, Any] = {}
        for part in fields(cls):
            parts = [getattr(batch, part.name) for batch in batches]
            if part.name in ("ksp", "maps"):
                parts = [_padded(part, 1, n_coils) for part in parts]
            n_missing = sum(part is None for part in parts)
            if 0 < n_missing < len(parts):
                raise ValueError(f"{part.name} is missing from {n_missing} of {len(parts)}")
            if part.name in ("maps", "img") and not n_missing:
                rows = 2 if part.name == "maps" else 1
                parts = [_padded(part, rows, n_rows) for part in parts]
            columns[part.name] = None if n_missing else torch.cat(parts)
        return cls(**columns)


def _where(flags: Tensor, yes: Tensor, no: Tensor) -> Tensor:
    """``yes`` or ``no`` per slice."""
    return torch.where(flags.view(-1, *[1] * (no.ndim - 1)).to(no.device), yes, no)


def _mirrored(x: Tensor, flags: Tensor, dim: int) -> Tensor:
    """Mirror an axis of some of the slices."""
    return _where(flags, reverse(x, dim), x)


def _padded(x: Tensor, dim: int, length: int) -> Tensor:
    """With zeros at the end of an axis: coils, or rows of the maps of further sets."""
    missing = list(x.shape)
    missing[dim] = length - x.shape[dim]
    return x if missing[dim] == 0 else torch.cat([x, x.new_zeros(missing)], dim=dim)
