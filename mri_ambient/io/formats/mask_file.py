"""The mask of a scan in a file of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import ScanFormatError
from ..hdf5 import find_dataset, open_h5, read_real
from .bart import read_cfl
from .numpy_files import load_arrays


def read_mask(path: Path) -> NDArray[Any]:
    """A mask ``(x,)`` or ``(y, x)``, of 0 and 1: numpy, HDF5, or BART.

    A file with several arrays has it under the name ``mask``.

    Raises:
        ScanFormatError: the file cannot be read, or holds no such array.
    """
    if path.suffix in (".cfl", ".hdr"):
        return np.squeeze(read_cfl(path).real)
    if path.suffix in (".npy", ".npz"):
        arrays = load_arrays(path)
        names = list(arrays)
        return np.array(arrays[_name(path, names)])
    with open_h5(path) as file:
        return read_real(find_dataset(file, _name(path, list(file))))


def _name(path: Path, names: list[str]) -> str:
    """Of the array: ``mask``, or the only one."""
    if "mask" in names:
        return "mask"
    if len(names) != 1:
        raise ScanFormatError(
            f"{path}: holds {', '.join(names) or 'no arrays'}; wanted a mask of 0 and 1, alone or "
            "under the name mask"
        )
    return names[0]
