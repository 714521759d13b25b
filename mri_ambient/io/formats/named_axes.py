"""K-space arrays with a name for every axis, and scans made of them.

Axes are named in the order of the array's shape, e.g. ``slice,coil,y,x``:

==================== ==============================================================================
y, x                 readout rows and phase-encode columns; both are needed
slice, coil          as everywhere; one of them where the axis is missing
z                    second phase encode of a 3-D scan, whose y is transformed: slices lie across it
avg                  averages of the same scan, which are averaged where they hold samples
con, rep, phs, set   contrast, repetition, phase, set: each of them is a volume of its own
time                 the same for other frames
1                    an axis of length one that means nothing
==================== ==============================================================================
"""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import ConfigError, ScanFormatError, warn
from ..image_space import energy_of, image_axes
from ..names import name_of
from ..sampling import Ksp, Mask, Sampling, find_sampling, sampling_at
from ..scan_file import ScanFile, zero_outside
from .hybrid import HybridSlices
from .readout_axis import check_readout, warn_of_images
from .readouts import VOLUME_COUNTERS
from .stored_arrays import StoredArray

VOLUME_AXES = (*VOLUME_COUNTERS, "time")
AXES = ("slice", "coil", "y", "x", "z", "avg", *VOLUME_AXES, "1")
"""Names of axes, those of volumes among them."""

ALIASES = {name: label for label, name in VOLUME_COUNTERS.items()} | {
    "echo": "con", "slices": "slice", "coils": "coil", "channel": "coil", "average": "avg",
}  # fmt: skip
"""Other names that are understood."""

Axes = tuple[str, ...]

FEWEST_PARTITIONS, IN_THE_MIDDLE = 8, 4.0
"""Partitions that are judged by their samples; mean energy in the middle of k-space over that of
all, of more than noise."""

SMALLEST_SIDE = 16
"""Of a matrix that is judged by its samples."""

PEAKED, FLAT = 30.0, 10.0
"""Largest over median energy along an axis: above, k = 0 lies in it; below, it does not."""


def parse_axes(given: str | Sequence[str] | None) -> Axes | None:
    """Names of axes as the user gives them, e.g. ``slice,coil,y,x``; None where none are given.

    Raises:
        ConfigError: there is no such axis, one is named twice, or y or x is missing.
    """
    if given is None:
        return None
    words = given.split(",") if isinstance(given, str) else given
    axes = tuple(ALIASES.get(word.strip().lower(), word.strip().lower()) for word in words)
    unknown = [name for name in axes if name not in AXES]
    twice = [name for name, n in Counter(axes).items() if n > 1 and name != "1"]
    if unknown or twice or not {"y", "x"} <= set(axes):
        wrong = f"{unknown[0]!r} is unknown" if unknown else "y and x are needed"
        wrong = f"{twice[0]!r} is there twice" if twice else wrong
        raise ConfigError(
            f"axes are {','.join(axes)!r}, and {wrong}; wanted a name for every axis, of "
            f"{', '.join(AXES)}, e.g. slice,coil,y,x"
        )
    return axes


@dataclass(frozen=True)
class NamedArray:
    """K-space with a name for every axis.

    Attributes:
        array: where it is stored.
        axes: names of its axes.
        note: what was guessed about it, for a warning; empty if nothing was.

    Raises:
        ScanFormatError: the names do not fit the array.
    """

    array: StoredArray
    axes: Axes
    note: str = ""

    def __post_init__(self) -> None:
        shape, where = self.array.shape, self.array.where
        if len(self.axes) != len(shape):
            raise ScanFormatError(
                f"{where} has {len(shape)} axes, {' x '.join(map(str, shape))}, but the axes "
                f"{','.join(self.axes)} are {len(self.axes)}; name each of them (--axes)"
            )
        if any(n > 1 for name, n in zip(self.axes, shape, strict=True) if name == "1"):
            raise ScanFormatError(
                f"{where} is {' x '.join(map(str, shape))}; an axis that is called 1 has length "
                "one, name the other axes (--axes)"
            )
        if self.is_3d and self.size("slice") > 1:
            raise ScanFormatError(
                f"{where}: not supported: several 3-D slabs in one array; write each of them into "
                "a file of its own"
            )

    def size(self, name: str) -> int:
        """Length of an axis; 1 if there is none."""
        return self.array.shape[self.axes.index(name)] if name in self.axes else 1

    @property
    def is_3d(self) -> bool:
        """Whether there is a second phase encode."""
        return self.size("z") > 1

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Of a volume, ``(slice, coil, y, x)``; of a 3-D scan, ``(y, coil, z, x)``."""
        slices, rows = ("y", "z") if self.is_3d else ("slice", "y")
        return self.size(slices), self.size("coil"), self.size(rows), self.size("x")

    @property
    def volumes(self) -> tuple[str, ...]:
        """Names of the volumes, e.g. ``con-1_rep-2``; ``("",)`` for a single one."""
        labels = [name for name in VOLUME_AXES if self.size(name) > 1]
        counters = product(*(range(1, self.size(name) + 1) for name in labels))
        return tuple(
            "_".join(f"{name}-{n}" for name, n in zip(labels, key, strict=True)) for key in counters
        )

    def read(self, index: int, volume: str = "") -> NDArray[np.complex64]:
        """A slice of a volume, ``(coil, y, x)``; averages that hold samples are averaged.

        Of a 3-D scan, ``index`` counts along z, so that it is a part of k-space.
        """
        values = self.averages(index, volume)
        if len(values) == 1:
            return np.ascontiguousarray(values[0])
        count = values.any(axis=1, keepdims=True).sum(axis=0)
        mean: NDArray[np.complex64] = values.sum(axis=0) / np.maximum(count, 1).astype(np.float32)
        return mean

    def averages(self, index: int, volume: str = "") -> NDArray[np.complex64]:
        """The averages of a slice of a volume, as of :meth:`read`, ``(avg, coil, y, x)``."""
        counters = dict(part.split("-") for part in volume.split("_")) if volume else {}
        place = {name: int(n) - 1 for name, n in counters.items()}
        place["z" if self.is_3d else "slice"] = index
        whole = ("avg", "coil", "y", "x")
        selection = tuple(
            slice(None) if name in whole else place.get(name, 0) for name in self.axes
        )
        values = self.array.read(selection)
        kept = [name for name in self.axes if name in whole]
        values = values.transpose([kept.index(name) for name in whole if name in kept])
        return values.reshape([self.size(name) for name in whole])

    def energy(self, index: int, volume: str = "") -> NDArray[np.float64]:
        """Energy of a slice, summed over coils, ``(y, x)``."""
        total: NDArray[np.float64] = (np.abs(self.read(index, volume)) ** 2).sum(0, dtype=float)
        return total

    def mask_plane(self, mask: NDArray[np.bool_], volume: str = "") -> Mask | None:
        """A mask with some of the array's axes, bool ``(y, x)``; None if it does not fit.

        Axes of length one may be there or not.
        """
        rows = "z" if self.is_3d else "y"
        kept = [name for name in self.axes if self.size(name) > 1]
        counters = dict(part.split("-") for part in volume.split("_")) if volume else {}
        for names in ((rows, "x"), ("x",), (rows, "x", *VOLUME_AXES), ("x", *VOLUME_AXES), AXES):
            axes = [name for name in kept if name in names]
            if mask.squeeze().shape != tuple(self.size(name) for name in axes):
                continue
            plane = mask.squeeze()
            for name in [name for name in axes if name not in (rows, "x")][::-1]:
                at = axes.index(name)
                n = counters.get(name)
                plane = np.asarray(plane.any(at) if n is None else plane.take(int(n) - 1, at))
            if rows not in axes:
                plane = np.broadcast_to(plane, (self.size(rows), len(plane)))
            elif axes.index(rows) > axes.index("x"):
                plane = plane.T
            return np.array(plane)
        return None


def peak(profile: NDArray[np.float64]) -> float:
    """Largest over median energy along an axis, of the entries that are not zero."""
    sampled = profile[profile > 0]
    return float(sampled.max() / np.median(sampled)) if len(sampled) else 0.0


def check_centre(profile: NDArray[np.float64], name: str, where: str) -> None:
    """Refuse k-space whose k = 0 lies at an edge of an axis, by the energy along it."""
    n, place = len(profile), int(profile.argmax())
    if n >= SMALLEST_SIDE and peak(profile) > PEAKED and abs(place - n // 2) > 3 * n // 8:
        raise ScanFormatError(
            f"{where}: k = 0 is at index {place} of {n} along {name}, wanted {n // 2}; name the "
            "axes (--axes), and it is moved, or apply numpy.fft.fftshift (MATLAB: fftshift) to y "
            "and x, and save it again"
        )


class NamedArrayFile(ScanFile):
    """A volume of a k-space array in a file; subclasses say where it is.

    Args:
        path: the file.
        axes: names of the array's axes; by default as the format or the data say.
        dataset: name of the array; by default the usual name, or the only one.
        volume: name of the volume, if there are several, e.g. ``con-1_rep-2``.

    Raises:
        ScanFormatError: the file is damaged, holds no k-space, its axes are not known, or it holds
            several volumes.
    """

    options = frozenset({"axes", "dataset", "volume", "mask"})
    padding: tuple[int, int] | None = None

    def __init__(
        self,
        path: str | Path,
        axes: str | Sequence[str] | None = None,
        dataset: str | None = None,
        volume: str | None = None,
    ) -> None:
        """Read shapes and names, no slices but what a guess of the axes needs."""
        super().__init__(path)
        self.take_ksp(self.find_ksp(self.path, parse_axes(axes), dataset), volume)
        self.check_samples(named=axes is not None)
        warn(
            "W-NO-HEADER",
            f"{self.path.name}: no ISMRMRD header: the final matrix is taken to be the encoded "
            "one, the voxel size is unknown",
        )

    def take_ksp(self, ksp: NamedArray, volume: str | None) -> None:
        """Use a volume of an array."""
        self.ksp = ksp
        if ksp.note:
            warn("W-AXES-GUESSED", f"{self.path.name}: {ksp.note}")
        self.pick_volume(ksp.volumes, volume)
        self.shape, self.is_3d = ksp.shape, self.is_3d or ksp.is_3d
        self.recon_shape = self.shape[2:]

    def check_samples(self, *, named: bool) -> None:
        """Refuse what is neither k-space nor images, by the slice in the middle.

        Args:
            named: whether the user named the axes, so that nothing is refused.

        Raises:
            ScanFormatError: energy is not concentrated at one place, nor would it be after a
                Fourier transform.
        """
        ksp = self.ksp
        middle = ksp.size("z" if ksp.is_3d else "slice") // 2
        energy = ksp.energy(middle, self.volume)
        for axis, name in enumerate(("y", "x")):
            profile = energy.sum(axis=1 - axis)
            n = len(profile)
            if n < SMALLEST_SIDE or named or not 0 < peak(profile) < FLAT:
                continue
            if ksp.is_3d or not self._holds_image(middle, axis - 2):
                raise ScanFormatError(
                    f"{self.path}: energy is spread evenly along {name} ({n} samples); wanted "
                    "k-space. If it is k-space, name its axes (--axes)"
                )

    def _holds_image(self, index: int, axis: int) -> bool:
        """Whether a slice holds an image along an axis of ``(y, x)``, -2 or -1."""
        values = self._read_all(index)
        return axis in image_axes([values], [energy_of(values)])

    @classmethod
    @abstractmethod
    def find_ksp(cls, path: Path, axes: Axes | None, dataset: str | None) -> NamedArray:
        """The k-space of a file; arguments as of the class."""

    @classmethod
    def volumes_in(
        cls,
        path: Path,
        axes: str | Sequence[str] | None = None,
        dataset: str | None = None,
        **_: Any,  # noqa: ANN401 -- as in ScanFile
    ) -> tuple[str, ...]:
        """Names of the volumes of a file, ``("",)`` for a single one."""
        return cls.find_ksp(path, parse_axes(axes), dataset).volumes

    @cached_property
    def sampling(self) -> Sampling:
        """Where k-space was sampled: by its samples, the file's mask and the header."""
        if self.ksp.is_3d:
            return sampling_at(self.path, self._hybrid.mask)
        return find_sampling(self.path, self._read_all, self.shape, self.given_mask, self.padding)

    def read_ksp(self, index: int) -> Ksp:
        """K-space of one slice, complex64 ``(coil, y, x)``; zero outside the file's mask."""
        ksp = self._read_all(index)
        return ksp if self.given_mask is None else zero_outside(self.given_mask, ksp)

    def averages(self) -> Iterator[Ksp]:
        """See :meth:`ScanFile.averages`; of the middle partition of a 3-D scan."""
        middle = self.ksp.size("z" if self.ksp.is_3d else "slice") // 2
        return iter(self.ksp.averages(middle, self.volume) if self.ksp.size("avg") > 1 else ())

    def _read_all(self, index: int) -> Ksp:
        """All samples of one slice, also those outside the file's mask."""
        if self.ksp.is_3d:
            return self._hybrid.read(index)
        return self.ksp.read(index, self.volume)

    @cached_property
    def _hybrid(self) -> HybridSlices:
        """Slices across the readout of a 3-D scan."""
        nz, nx = self.shape[2:]
        slices = HybridSlices(self.path, self.shape, nz * nx)
        middles, means = np.zeros(nz), np.zeros(nz)
        along_y = np.zeros(self.ksp.size("y"))
        for z in range(nz):
            block = self.ksp.read(z, self.volume)
            along_y += energy_of(block).sum(axis=1)
            ny = block.shape[1]
            middle = block[:, ny // 2 - ny // 8 :, nx // 2 - nx // 8 :][
                :, : ny // 4 + 1, : nx // 4 + 1
            ]
            middles[z], means[z] = (float(np.square(np.abs(x)).mean()) for x in (middle, block))
            hit = np.asarray(block.any(axis=0))
            x = np.flatnonzero(hit.any(axis=0))
            if (hit[:, x].any(axis=1) & ~hit[:, x].all(axis=1)).mean() > 0.05:
                raise ScanFormatError(
                    f"{self.path}: lines along y hold samples at different places; y must be the "
                    "readout of a 3-D scan, name the axes otherwise (--axes)"
                )
            slices.add(block[:, :, x].transpose(2, 0, 1), np.full(len(x), z), x)
        strongest = self.ksp.read(int(means.argmax()), self.volume)
        if means.any() and -2 in image_axes([strongest], [energy_of(strongest)]):
            warn_of_images(self.path, self.ksp.axes)
        elif peak(along_y) > PEAKED:
            check_readout(self.path, along_y)
        holds_signal = middles.sum() > IN_THE_MIDDLE * means.sum()
        if nz >= FEWEST_PARTITIONS and holds_signal and peak(middles) < FLAT:
            warn(
                "W-EVEN-PARTITIONS",
                f"{name_of(self.path)}: energy is spread evenly along z ({nz} samples), as over "
                "slices or in k-space of a thin object",
            )
        return slices

    def take_mask(self, mask: NDArray[np.generic] | None, name: str = "mask") -> None:
        """Use a mask of the file, with some of the axes of the k-space.

        Raises:
            ScanFormatError: its shape does not fit, or it holds other values than 0 and 1.
        """
        if mask is None:
            return
        plane = self.ksp.mask_plane(mask != 0, self.volume)
        if plane is None:
            ny, nx = self.ksp.shape[-2:]
            wanted = f"({nx},) or ({ny}, {nx}) to match the k-space"
            raise ScanFormatError(f"{self.path}: {name} has shape {mask.shape}, wanted {wanted}")
        if not np.isin(mask, (0, 1)).all():
            raise ScanFormatError(f"{self.path}: {name} holds other values than 0 and 1")
        self.given_mask = plane
