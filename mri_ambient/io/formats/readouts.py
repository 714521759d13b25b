"""From single readouts with counters to Cartesian slices: what ISMRMRD and scanner files share.

A readout is a line of k-space with counters that say where it belongs: its column (step 1), its
slice, and its volume (contrast, repetition, phase, set). Averages of a column are averaged. Slices
are ordered by their positions in the patient, along the slice direction; where positions are not
known, by their counters.

With a second phase encode (step 2) a scan is 3-D: slices are positions along the readout
(:mod:`~mri_ambient.io.formats.hybrid`), x is step 1 and y is step 2, or the other way round if
lines were skipped along step 2 alone: x is the axis that was undersampled, as in 2-D scans.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import ScanFormatError, warn
from ...physics.patterns import acquired_rows
from ..hdf5 import check_finite, check_size
from ..sampling import Ksp, Mask, Sampling, find_sampling, sampling_at
from ..scan_file import ScanFile
from .hybrid import HybridSlices
from .readout_geometry import geometry_of_slab, geometry_of_slices, order_of_slices

VOLUME_COUNTERS = {"con": "contrast", "rep": "repetition", "phs": "phase", "set": "set"}
"""How volumes are named by their counters, e.g. ``con-1_rep-2``; counted from 1."""

AT_ONCE = 128
"""Readouts of a 3-D scan that are read together."""

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


def _no_floats() -> Floats:
    return np.empty(0, np.float64)


def _no_ints() -> Ints:
    return np.empty(0, np.int64)


@dataclass(frozen=True)
class Readouts:
    """Readouts, one entry each; those of no image (noise, navigators, ...) are left out.

    Attributes:
        row: where the reader finds the readout.
        column: of the encoded matrix, k = 0 at ``n // 2`` (step 1).
        slice: counter of the slice; of a 3-D scan, of the slab.
        counters: by the names of :data:`VOLUME_COUNTERS`.
        n_samples: samples along the readout.
        center: index of the sample with k = 0, after reversed readouts are turned round.
        reverse: whether the samples were acquired backwards.
        position: centre of the field of view in mm, patient coordinates (L, P, S), ``(n, 3)``.
        normal: slice direction, ``(n, 3)``; zero where it is not known.
        read_dir: readout direction, ``(n, 3)``; zero where it is not known.
        phase_dir: direction of step 1, ``(n, 3)``; zero where it is not known.
        partition: of the encoded matrix, k = 0 at ``n // 2`` (step 2); all equal in a 2-D scan.
    """

    row: Ints
    column: Ints
    slice: Ints
    counters: dict[str, Ints]
    n_samples: Ints
    center: Ints
    reverse: NDArray[np.bool_]
    position: Floats
    normal: Floats
    read_dir: Floats = field(default_factory=_no_floats)
    phase_dir: Floats = field(default_factory=_no_floats)
    partition: Ints = field(default_factory=_no_ints)

    def __post_init__(self) -> None:
        for name, shape in (("read_dir", (3,)), ("phase_dir", (3,)), ("partition", ())):
            value = getattr(self, name)
            if len(value) == 0 < len(self):
                object.__setattr__(self, name, np.zeros((len(self), *shape), value.dtype))

    def __len__(self) -> int:
        return len(self.row)

    def __getitem__(self, chosen: Any) -> Readouts:  # noqa: ANN401 -- as NumPy's
        parts = {part.name: getattr(self, part.name) for part in fields(self)}
        counters = {name: value[chosen] for name, value in parts.pop("counters").items()}
        return Readouts(**{name: value[chosen] for name, value in parts.items()}, counters=counters)

    @property
    def is_3d(self) -> bool:
        """Whether there are several partitions."""
        return len(np.unique(self.partition)) > 1

    @property
    def _volume_counters(self) -> dict[str, Ints]:
        """What tells volumes apart, by label."""
        found = {label: self.counters[name] for label, name in VOLUME_COUNTERS.items()}
        return {**found, "slab": self.slice} if self.is_3d else found

    def volumes(self) -> dict[str, Readouts]:
        """The readouts of every volume by its name; a single volume has the name ``""``."""
        varying = {
            label: values
            for label, values in self._volume_counters.items()
            if len(np.unique(values)) > 1
        }
        if not varying:
            return {"": self}
        table = np.stack(list(varying.values()), axis=1)
        return {
            "_".join(f"{label}-{n + 1}" for label, n in zip(varying, key, strict=True)): self[
                (table == key).all(axis=1)
            ]
            for key in np.unique(table, axis=0)
        }

    def belonging_to(self, volume: Readouts) -> Readouts:
        """Of calibration lines, those of a volume: with its counters, where there are such.

        Calibration lines that were measured only once serve every volume.
        """
        found, wanted = self, volume._volume_counters
        for label in wanted:
            values = found.counters[VOLUME_COUNTERS[label]] if label != "slab" else found.slice
            here = values == wanted[label][0]
            found = found[here if here.any() else values == values.min()]
        return found

    def over_time(self) -> Readouts:
        """The readouts of all repetitions and phases as those of one.

        Where each repetition samples other lines, all together serve as calibration lines.
        """
        still = {name: np.zeros_like(self.counters[name]) for name in ("repetition", "phase")}
        return replace(self, counters={**self.counters, **still})

    def slices(self) -> list[Readouts]:
        """The readouts of every slice, in the order of their positions."""
        parts = [self[self.slice == n] for n in np.unique(self.slice)]
        positions = np.stack([part.position[0] for part in parts])
        return [parts[i] for i in order_of_slices(positions, self.normal[0])]


@dataclass(frozen=True)
class Matrix:
    """What was encoded, according to the header; axes are (readout, step 1, step 2).

    Attributes:
        encoded: its size; k = 0 at ``n // 2``.
        recon: size of the scanner's final matrix.
        voxel_mm: voxel size on the encoded grid; of a 2-D scan, the last is the slice thickness.
        oversampling: encoded over final field of view along the readout.
        padding: ``(low, high)`` of step 1 and of step 2: only ``low <= step < high`` is ever
            acquired; None if that is not known.
    """

    encoded: tuple[int, int, int]
    recon: tuple[int, int, int]
    voxel_mm: tuple[float, float, float] | None = None
    oversampling: float = 1.0
    padding: tuple[tuple[int, int], tuple[int, int]] | None = None


class ReadoutFile(ScanFile):
    """A volume of readouts; subclasses set :attr:`readouts` and read their samples.

    ``__init__`` of a subclass sets ``readouts`` (of all volumes) and ``calibration``, then calls
    :meth:`choose_volume` and :meth:`lay_out`, which sets ``shape`` and all that follows from it.

    Attributes:
        readouts: of the image.
        calibration: lines for the coil maps that belong to no image (separate reference scans), in
            columns and partitions of the same matrix; or None.
        padding: only columns ``left <= x < right`` are ever acquired, or None.
    """

    readouts: Readouts
    calibration: Readouts | None = None
    padding: tuple[int, int] | None = None

    @abstractmethod
    def read_samples(self, rows: Sequence[int]) -> Iterator[NDArray[np.complex64]]:
        """The samples of readouts, each ``(coil, sample)``, in the order acquired."""

    def noise_of_mean(self, noise: Ksp | None) -> Ksp | None:
        """Noise of single readouts as it is in k-space, where averages were averaged.

        Where places were measured in different numbers, the root mean square over the places.
        """
        lines = self.readouts
        places = np.stack([lines.slice, lines.column, lines.partition], axis=1)
        _, counts = np.unique(places, axis=0, return_counts=True)
        return (
            noise if noise is None or counts.max() == 1 else noise * math.sqrt((1 / counts).mean())
        )

    def choose_volume(self, volume: str | None) -> None:
        """Keep the readouts of one volume; see :meth:`pick_volume`."""
        volumes = self.readouts.volumes()
        self.pick_volume(volumes, volume)
        self.readouts = volumes[self.volume]
        if self.calibration is not None:
            self.calibration = self.calibration.belonging_to(self.readouts)

    def lay_out(self, matrix: Matrix, n_coils: int) -> None:
        """Set shape, voxel size, geometry and sampling limits of the chosen volume.

        Raises:
            ScanFormatError: readouts lie outside the matrix, or it is far too large for them.
        """
        self._matrix, self._n_coils = matrix, n_coils
        self.readouts = _settled(self.readouts, matrix.encoded[0])
        self._check_samples(self.readouts)
        self._check_steps("columns", self.readouts.column, matrix.encoded[1])
        self._swapped = False
        self.is_3d = self.readouts.is_3d
        if not self.is_3d:
            self.readouts = self._apart(self.readouts)
        if self.is_3d:
            self._check_steps("partitions", self.readouts.partition, matrix.encoded[2])
            self._lay_out_slab(matrix)
        else:
            self._lay_out_slices(matrix)
        check_size(self.shape[1:], 8, f"{self.path}: a slice")
        if self.calibration is not None:
            self.calibration = _settled(self.calibration, matrix.encoded[0])
            self._check_calibration(self.calibration)
            self.calib_mask = self._mask_of(self.calibration)

    def _apart(self, readouts: Readouts) -> Readouts:
        """Slices at different places have counters of their own."""
        apart = by_position(readouts)
        n, n_counters = (len(np.unique(part.slice)) for part in (apart, readouts))
        if n > n_counters:
            text = f"readouts lie in {n} slices by their positions, in {n_counters} by counters"
            warn("W-HEADER-COUNTS", f"{self.path.name}: {text}")
        if self.calibration is not None and not np.array_equal(apart.slice, readouts.slice):
            raise ScanFormatError(
                f"{self.path}: slices at different positions share a counter, so that their "
                "calibration lines cannot be told apart; export the scan again"
            )
        return apart

    def _lay_out_slices(self, matrix: Matrix) -> None:
        ny, nx, _ = matrix.encoded
        parts = self.readouts.slices()
        self.shape = (len(parts), self._n_coils, ny, nx)
        self.nominal_oversampling = matrix.oversampling
        n_rows = round(ny / matrix.oversampling)
        self.recon_shape = (min(matrix.recon[0], n_rows), min(matrix.recon[1], nx))
        self.padding = matrix.padding and matrix.padding[0]
        self.voxel_mm, self.geometry = geometry_of_slices(
            self.path, [_pose(part) for part in parts], (ny, nx), self.recon_shape, matrix.voxel_mm
        )

    def _lay_out_slab(self, matrix: Matrix) -> None:
        n_readout, n_1, n_2 = matrix.encoded
        n_slices = min(matrix.recon[0], round(n_readout / matrix.oversampling))
        sampled = np.zeros((n_2, n_1), bool)
        sampled[self.readouts.partition, self.readouts.column] = True
        self._swapped = _skips_rows_alone(sampled)
        yx = (1, 2) if self._swapped else (2, 1)
        self.shape = (n_slices, self._n_coils, matrix.encoded[yx[0]], matrix.encoded[yx[1]])
        self.recon_shape = _smaller((matrix.recon[yx[0]], matrix.recon[yx[1]]), self.shape[2:])
        self.padding = matrix.padding and matrix.padding[yx[1] - 1]
        if matrix.voxel_mm is not None:
            self.voxel_mm = tuple(matrix.voxel_mm[axis] for axis in (*yx, 0))  # type: ignore[assignment]
        self.geometry = geometry_of_slab(
            self.path, _pose(self.readouts), self.shape, self.recon_shape, self.voxel_mm,
            swapped=self._swapped,
        )  # fmt: skip
        short = int(self.readouts.n_samples.min())
        if short < n_readout:
            warn(
                "W-PARTIAL-READOUT",
                f"{self.path.name}: readouts hold {short} of {n_readout} samples; slices across "
                "the readout need all of them, and zeros take the place of the others",
            )

    def places(self, readouts: Readouts) -> tuple[Ints, Ints]:
        """Of readouts of a 3-D scan, their places ``(y, x)`` in a slice."""
        places = readouts.partition, readouts.column
        return places[::-1] if self._swapped else places

    @cached_property
    def _slices(self) -> list[Readouts]:
        return self.readouts.slices()

    @cached_property
    def _hybrid(self) -> HybridSlices:
        return self._sort(self.readouts)

    @cached_property
    def _hybrid_calib(self) -> HybridSlices:
        assert self.calibration is not None
        return self._sort(self.calibration)

    @cached_property
    def sampling(self) -> Sampling:
        """Where k-space was sampled: by samples and header; of 3-D scans, by the counters."""
        if not self.readouts.is_3d:
            return find_sampling(self.path, self.read_ksp, self.shape, padding=self.padding)
        measured = np.zeros(self.shape[2:], bool)
        measured[self.places(self.readouts)] = True
        return sampling_at(self.path, measured, self.padding)

    def read_ksp(self, index: int) -> Ksp:
        """K-space of one slice, complex64 ``(coil, y, x)``."""
        check_size(self.shape[1:], 8, f"{self.path}: slice {index}")
        if self.readouts.is_3d:
            return self._hybrid.read(index)
        return self._read_lines(self._slices[index], index)

    def _mask_of(self, lines: Readouts) -> Mask:
        """Where calibration lines were sampled in every slice, bool ``(1, y, x)``."""
        mask = np.zeros((1, *self.shape[2:]), bool)
        if self.readouts.is_3d:
            mask[(0, *self.places(lines))] = True
            return mask
        ny = self.shape[2]
        ranges = [_range(int(n), int(c), ny) for n, c in _unique(lines.n_samples, lines.center)]
        top, bottom = max(low for low, _ in ranges), min(high for _, high in ranges)
        in_all = [set(lines.column[lines.slice == n]) for n in np.unique(lines.slice)]
        mask[0, top:bottom, sorted(set.intersection(*in_all))] = True
        return mask

    def read_calib(self, index: int) -> Ksp | None:
        """Separate calibration lines of one slice, complex64 ``(coil, y, x)``."""
        if self.calibration is None:
            return None
        if self.readouts.is_3d:
            return self._hybrid_calib.read(index)
        counter = self._slices[index].slice[0]
        return self._read_lines(self.calibration[self.calibration.slice == counter], index)

    def averages(self) -> Iterator[Ksp]:
        """Averages of the middle slice or partition, complex64 ``(coil, readout, step 1)``."""
        middle = len(self) // 2
        if self.is_3d:
            part = self.readouts[self.readouts.partition == self._matrix.encoded[2] // 2]
        else:
            part = self._slices[middle]
        order = np.argsort(part.column, kind="stable")
        firsts = np.searchsorted(part.column[order], part.column[order])
        number = np.empty(len(part), int)
        number[order] = np.arange(len(part)) - firsts  # of readouts of the same column
        for average in range(number.max(initial=0) + 1 if number.any() else 0):
            chosen = part[number == average]
            yield self._read_lines(chosen, middle, self._matrix.encoded[:2])

    def _read_lines(self, part: Readouts, index: int, shape: tuple[int, int] | None = None) -> Ksp:
        """The lines of one slice in their columns, complex64 ``(coil, y, x)``."""
        n_coils, (ny, nx) = self._n_coils, shape or self.shape[2:]
        # Columns lie together in memory while they are filled.
        columns = np.zeros((nx, n_coils, ny), np.complex64)
        count = np.zeros(nx, int)
        for x, (first, samples) in zip(part.column, self._lines(part, ny), strict=True):
            columns[x, :, first : first + samples.shape[1]] += samples
            count[x] += 1
        averaged = count > 1
        if averaged.any():
            columns[averaged] /= count[averaged, None, None]
        check_finite(columns, f"{self.path}: slice {index}")
        return np.ascontiguousarray(columns.transpose(1, 2, 0))

    def _sort(self, readouts: Readouts) -> HybridSlices:
        """Slices across the readouts of a 3-D scan, in one pass over them."""
        n = self._matrix.encoded[0]
        slices = HybridSlices(self.path, self.shape, len(readouts))
        for start in range(0, len(readouts), AT_ONCE):
            part = readouts[start : start + AT_ONCE]
            lines = np.zeros((len(part), self._n_coils, n), np.complex64)
            for line, (first, samples) in zip(lines, self._lines(part, n), strict=True):
                line[:, first : first + samples.shape[1]] = samples
            slices.add(lines, *self.places(part))
        return slices

    def _lines(self, part: Readouts, n: int) -> Iterator[tuple[int, NDArray[np.complex64]]]:
        """Readouts in the direction of rising k: where on an axis of ``n`` each begins, samples."""
        read = self.read_samples(part.row.tolist())
        for samples, center, reverse in zip(read, part.center, part.reverse, strict=True):
            turned = samples[:, ::-1] if reverse else samples
            first = n // 2 - int(center)
            yield max(first, 0), turned[:, max(-first, 0) : n - first]

    def _check_samples(self, readouts: Readouts) -> None:
        """Refuse readouts that do not fit the readout axis of the matrix."""
        n = self._matrix.encoded[0]
        found, longest = _unique(readouts.n_samples, readouts.center), int(readouts.n_samples.max())
        if longest > n or 4 * longest < n:
            raise ScanFormatError(
                f"{self.path}: readouts have up to {longest} samples, the header gives an encoded "
                f"matrix of {n}; the header belongs to other data"
            )
        for n_samples, center in found:
            first = n // 2 - center
            if n_samples < n and not (0 <= center < n_samples and 0 <= first <= n - n_samples):
                raise ScanFormatError(
                    f"{self.path}: readouts of {n_samples} samples have their centre at {center}, "
                    f"which puts them outside of the encoded matrix of {n}; the file is damaged, "
                    "or its header belongs to other data"
                )

    def _check_steps(self, what: str, steps: Ints, n: int) -> None:
        """Refuse phase encodes outside the encoded matrix, or one that is far too large."""
        low, high = int(steps.min()), int(steps.max())
        if low < 0 or high >= n or (high > low and 4 * (high - low + 1) < n):
            raise ScanFormatError(
                f"{self.path}: readouts belong to {what} {low} to {high} of an encoded matrix "
                f"with {n} {what}; the header belongs to other data"
            )

    def _check_calibration(self, lines: Readouts) -> None:
        """Refuse calibration lines outside the matrix, or slices without any."""
        for what, steps, n in (
            ("columns", lines.column, self._matrix.encoded[1]),
            ("partitions", lines.partition, max(self._matrix.encoded[2], 1)),
        ):
            if int(steps.min()) < 0 or int(steps.max()) >= n:
                raise ScanFormatError(
                    f"{self.path}: calibration lines belong to {what} {steps.min()} to "
                    f"{steps.max()} of {n}; the header belongs to other data"
                )
        if self.readouts.is_3d:
            return
        if missing := sorted(set(self.readouts.slice.tolist()) - set(lines.slice.tolist())):
            raise ScanFormatError(
                f"{self.path}: slices {missing} have no calibration lines, the other slices have; "
                "the file is not complete, export the scan again"
            )


def turned_centers(n_samples: Ints, center: Ints, reverse: NDArray[np.bool_]) -> Ints:
    """Index of k = 0 in readouts after the reversed ones are turned round.

    Most writers count it there; others in the order acquired. These are known by the readouts of
    the same length that are not reversed: theirs is the mirror image.
    """
    out = center.copy()
    for n in np.unique(n_samples[reverse]):
        forward = np.unique(center[~reverse & (n_samples == n)])
        turned = reverse & (n_samples == n)
        mirrored = np.isin(n - 1 - center, forward) & ~np.isin(center, forward)
        out[turned & mirrored] = n - 1 - center[turned & mirrored]
    return out


def by_position(readouts: Readouts) -> Readouts:
    """Readouts of 2-D slices whose counters tell slices at different places apart.

    Readouts of one counter at several places are several slices if they have columns in common;
    otherwise the field of view followed a moving patient, and they are one.
    """
    places = readouts.position.round(2)
    counter = readouts.slice.copy()
    for n in np.unique(readouts.slice):
        here = np.flatnonzero(readouts.slice == n)
        found, which = np.unique(places[here], axis=0, return_inverse=True)
        columns = [set(readouts.column[here][which.ravel() == k]) for k in range(len(found))]
        shared = set.intersection(*columns)
        if len(found) > 1 and 2 * len(shared) > min(map(len, columns)):
            counter[here] = counter.max() + 1 + which.ravel()
    return replace(readouts, slice=counter)


def _unique(a: Ints, b: Ints) -> list[tuple[int, int]]:
    """The pairs of values that occur."""
    return [(int(x), int(y)) for x, y in np.unique(np.stack([a, b], axis=1), axis=0)]


def _settled(readouts: Readouts, n: int) -> Readouts:
    """Readouts whose centres can be relied on, on an axis of ``n`` samples.

    Of whole readouts, some writers leave the centre at 0 or beyond the end, or count it from 1:
    then it is in the middle. Where reversed and other readouts differ by a sample, both are right.
    """
    whole = readouts.n_samples == n
    unset = whole & ((readouts.center <= 0) | (readouts.center >= n - 1))
    center = np.where(unset, n // 2, readouts.center)
    found = np.unique(center[whole])
    if len(found) == 1 and abs(int(found[0]) - n // 2) <= 1:
        center[whole] = n // 2
    return replace(readouts, center=center)


def _range(n_samples: int, center: int, n: int) -> tuple[int, int]:
    """First and last (exclusive) entry of a readout on an axis of ``n``, k = 0 at ``n // 2``."""
    first = n // 2 - center
    return max(first, 0), min(first + n_samples, n)


def _pose(readouts: Readouts) -> Floats:
    """Position, readout, phase and slice direction of the first readout, ``(4, 3)``."""
    return np.stack(
        [
            readouts.position[0], readouts.read_dir[0], readouts.phase_dir[0], readouts.normal[0],
        ]
    )  # fmt: skip


def _smaller(a: tuple[int, int], b: tuple[int, int]) -> tuple[int, int]:
    return min(a[0], b[0]), min(a[1], b[1])


def _skips_rows_alone(sampled: Mask) -> bool:
    """Whether whole rows ``(y, x)`` were skipped, and no columns."""
    rows, columns = (np.asarray(sampled.any(axis=axis)) for axis in (1, 0))
    skips_columns = bool((columns != acquired_rows(columns[:, None])).any())
    skips_rows = bool((rows != acquired_rows(rows[:, None])).any())
    is_product = bool((sampled == rows[:, None] & columns).all())
    return is_product and skips_rows and not skips_columns
