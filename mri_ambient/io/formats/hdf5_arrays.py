"""K-space in HDF5 files of other layouts: arrays of any name, and Calgary-Campinas."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from ...physics.axis_fourier import half_field_phase
from ..hdf5 import check_written, find_dataset, open_h5
from ..sampling import Ksp
from ..scan_file import Contents
from .axes_guess import guess_axes
from .fastmri import FastmriFile
from .named_axes import Axes, NamedArray, NamedArrayFile
from .stored_arrays import StoredArray, choose_array, h5_arrays, open_dataset

SAMPLED, RESIDUE = 0.85, 0.01
"""Sampled part of the columns of Calgary-Campinas, and most energy of the others, to the median."""


class Hdf5File(FastmriFile):
    """K-space under another name than ``kspace``; mask, header and reference image as there."""

    format = "hdf5"

    @classmethod
    def recognises(cls, contents: Contents) -> bool:
        """Whether the file holds a complex array, in any of its groups."""
        if contents.tag or contents.error is not None:
            return False
        with open_h5(contents.path) as file:
            return bool(h5_arrays(contents.path, file)[0])

    def __init__(self, path: str | Path, *args: Any, **options: Any) -> None:  # noqa: ANN401
        """Read the facts, and what a guess of the axes needs."""
        super().__init__(path, *args, **options)
        self.check_samples(named="axes" in options)

    @classmethod
    def ksp_in(cls, file: h5py.File, axes: Axes | None, dataset: str | None) -> NamedArray:
        """The dataset that was named, with a usual name, or the only complex one."""
        path = Path(file.filename)
        array = choose_array(path, *h5_arrays(path, file), dataset)
        check_written(file[array.name])
        return NamedArray(array, axes) if axes else guess_axes(array)


class CalgaryFile(NamedArrayFile):
    """A volume of Calgary-Campinas (Souza et al. 2018, doi:10.1016/j.neuroimage.2017.08.021).

    ``kspace`` is real, ``(slice, y, x, 2 coil)``: real and imaginary parts of the coils by turns.
    The readout is transformed, so that slices are positions along it; y and x are both phase
    encodes, of which the last 15 % along x were never sampled. An inverse FFT without shifts gives
    the image, with the head in the middle.
    """

    format = "calgary-campinas"
    is_3d = True
    options = frozenset[str]()

    @classmethod
    def recognises(cls, contents: Contents) -> bool:
        """By the name, type and size of its only dataset."""
        shape, kind = contents.kspace
        return (
            contents.names == ("kspace",)
            and kind == "f"
            and len(shape) == 4
            and min(shape[1:3]) >= 64
            and shape[3] % 2 == 0
            and 4 <= shape[3] <= 64
        )

    def __init__(self, path: str | Path) -> None:
        """Read the shape, and where k = 0 is in the slice in the middle."""
        super().__init__(path)

    def check_samples(self, *, named: bool) -> None:
        """Find where k = 0 is, and where sampling ends, in the slice in the middle."""
        energy = self.ksp.energy(len(self) // 2)
        ny, nx = energy.shape
        # By how much k = 0 has to be moved to be in the middle.
        self._shift = (ny // 2, nx // 2) if _is_in_corner(energy) else (0, 0)
        columns = np.roll(energy.sum(axis=0), self._shift[1])
        tail = math.ceil(SAMPLED * nx)
        # Columns that were never sampled may hold what processing left of their zeros.
        is_empty = columns[tail:].max() < RESIDUE * np.median(columns[:tail])
        self._n_sampled = tail if is_empty else nx

    @classmethod
    def find_ksp(cls, path: Path, axes: Axes | None, dataset: str | None) -> NamedArray:
        """The dataset ``kspace``."""
        with open_h5(path) as file:
            stored = find_dataset(file, "kspace")
            check_written(stored)
            shape = (*stored.shape[:3], stored.shape[3] // 2)
        array = StoredArray(path, "kspace", shape, lambda: open_dataset(path, "kspace"), True)
        return NamedArray(array, ("slice", "y", "x", "coil"))

    def _read_all(self, index: int) -> Ksp:
        ksp = np.roll(super()._read_all(index), self._shift, axis=(-2, -1))
        ksp[..., self._n_sampled :] = 0
        y, x = (half_field_phase(n) for n in ksp.shape[-2:])
        return ksp * (y[:, None] * x)


def _is_in_corner(energy: NDArray[np.float64]) -> bool:
    """Whether k = 0 is at index 0 and not in the middle, by the energy ``(y, x)``."""
    ny, nx = energy.shape
    middle = energy[ny // 4 : ny - ny // 4, nx // 4 : nx - nx // 4].sum()
    return bool(middle < 0.25 * energy.sum())
