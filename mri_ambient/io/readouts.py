"""From single readouts with counters to Cartesian slices: what ISMRMRD and scanner files share.

A readout is a line of k-space along y, with counters that say where it belongs: its column
(``step1``), its slice, and its volume (contrast, repetition, phase, set). Averages of a column are
averaged. Slices are ordered by their positions in the patient, along the slice direction; where
positions are not known, by their counters.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import ScanFormatError
from .hdf5 import check_finite, check_size
from .sampling import Sampling, find_sampling
from .scan_file import ScanFile

VOLUME_COUNTERS = {"con": "contrast", "rep": "repetition", "phs": "phase", "set": "set"}
"""How volumes are named by their counters, e.g. ``con-1_rep-2``; counted from 1."""

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Readouts:
    """Readouts of an image, one entry each; others (noise, navigators, ...) are left out.

    Attributes:
        row: where the reader finds the readout.
        column: of the encoded matrix, k = 0 at ``n // 2``.
        slice: counter of the slice.
        counters: by the names of :data:`VOLUME_COUNTERS`.
        n_samples: samples along y.
        center: index of the sample with k = 0, after reversed readouts are turned round.
        reverse: whether the samples were acquired backwards.
        position: centre of the field of view in mm, patient coordinates (L, P, S), ``(n, 3)``.
        normal: slice direction, ``(n, 3)``; zero where it is not known.
    """

    row: Ints
    column: Ints
    slice: Ints
    counters: dict[str, Ints]
    n_samples: Ints
    center: Ints
    reverse: NDArray[np.bool_]
    position: NDArray[np.float64]
    normal: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.row)

    def __getitem__(self, chosen: NDArray[Any]) -> Readouts:
        parts = {name: value for name, value in vars(self).items() if name != "counters"}
        counters = {name: value[chosen] for name, value in self.counters.items()}
        return Readouts(**{name: value[chosen] for name, value in parts.items()}, counters=counters)

    def volumes(self) -> dict[str, Readouts]:
        """The readouts of every volume by its name; a single volume has the name ``""``."""
        varying = {
            label: self.counters[name]
            for label, name in VOLUME_COUNTERS.items()
            if len(np.unique(self.counters[name])) > 1
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

    def slices(self) -> list[Readouts]:
        """The readouts of every slice, in the order of their positions."""
        parts = [self[self.slice == n] for n in np.unique(self.slice)]
        normal = self.normal[0]
        places = [float(part.position[0] @ normal) for part in parts]
        if len({round(place, 3) for place in places}) < len(places):
            return parts  # positions are not known, or the same for all
        return [parts[i] for i in np.argsort(places)]


class ReadoutFile(ScanFile):
    """A volume of readouts; subclasses set ``readouts`` (of this volume) and read their samples.

    ``shape``, ``recon_shape`` and the other attributes of :class:`ScanFile` are set as usual, and
    ``padding``: only columns ``left <= x < right`` are ever acquired, or None.
    """

    readouts: Readouts
    padding: tuple[int, int] | None = None

    @abstractmethod
    def read_samples(self, rows: Sequence[int]) -> Iterator[NDArray[np.complex64]]:
        """The samples of readouts, each ``(coil, sample)``, in the order acquired."""

    def choose_volume(self, volume: str | None) -> None:
        """Keep the readouts of one volume; see :meth:`pick_volume`."""
        volumes = self.readouts.volumes()
        self.pick_volume(volumes, volume)
        self.readouts = volumes[self.volume]

    @cached_property
    def _slices(self) -> list[Readouts]:
        return self.readouts.slices()

    @cached_property
    def sampling(self) -> Sampling:
        """Where k-space was sampled: by its samples and the header."""
        return find_sampling(self.path, self.read_ksp, self.shape, padding=self.padding)

    def read_ksp(self, index: int) -> Tensor:
        """K-space of one slice, complex64 ``(coil, y, x)``."""
        part, (_, n_coils, ny, nx) = self._slices[index], self.shape
        check_size(self.shape[1:], 8, f"{self.path}: slice {index}")
        # Columns lie together in memory while they are filled.
        columns = np.zeros((nx, n_coils, ny), np.complex64)
        count = np.zeros(nx, int)
        for i, samples in enumerate(self.read_samples(part.row.tolist())):
            x = part.column[i]
            if part.reverse[i]:
                samples = samples[:, ::-1]
            first = 0 if samples.shape[1] == ny else ny // 2 - int(part.center[i])
            cut = samples[:, max(-first, 0) : ny - first]
            columns[x, :, max(first, 0) : max(first, 0) + cut.shape[1]] += cut
            count[x] += 1
        columns /= np.maximum(count, 1)[:, None, None]
        check_finite(columns, f"{self.path}: slice {index}")
        return torch.from_numpy(columns).permute(1, 2, 0).contiguous()

    def check_columns(self) -> None:
        """Refuse readouts outside the encoded matrix.

        Raises:
            ScanFormatError: there is one.
        """
        nx = self.shape[3]
        low, high = int(self.readouts.column.min()), int(self.readouts.column.max())
        if low < 0 or high >= nx:
            raise ScanFormatError(
                f"{self.path}: readouts belong to columns {low} to {high} of an encoded matrix "
                f"with {nx} columns; the header belongs to other data"
            )
