"""MATLAB's files: versions 5 to 7, and 7.3, which is HDF5.

Axes are in MATLAB's order, as ``size`` gives them there; HDF5 shows them in reverse. The challenges
CMRxRecon (Wang et al. 2024, doi:10.1038/s41597-024-03525-4) use k-space of (readout, phase encode,
coil, slice, time), of which MATLAB leaves out trailing axes of length one.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from ..hdf5 import check_written, find_dataset, open_h5, read_real
from ..scan_file import Contents
from .axes_guess import guess_axes
from .mat5 import read_variables
from .named_axes import Axes, NamedArray, NamedArrayFile
from .stored_arrays import StoredArray, choose_array, h5_arrays, stored_array

CMRXRECON = ("y", "x", "coil", "slice", "time")
CMRXRECON_NAMES = re.compile(r"kspace_full|kspace_sub(\d+)|kus|kspace")


class MatFile(NamedArrayFile):
    """K-space in a MATLAB file."""

    format = "matlab"
    suffixes = (".mat",)

    @classmethod
    def recognises(cls, contents: Contents) -> bool:
        """By the suffix, or the text that MATLAB begins its files with."""
        named = contents.path.suffix.lower() == ".mat" and contents.path.is_file()
        return not contents.tag and (named or contents.first_bytes.startswith(b"MATLAB "))

    def __init__(self, path: str | Path, *args: Any, **options: Any) -> None:  # noqa: ANN401
        """Read names and shapes, and what a guess of the axes needs."""
        super().__init__(path, *args, **options)
        number = CMRXRECON_NAMES.fullmatch(self.ksp.array.name)
        name = f"mask{(number and number[1]) or ''}"
        self.take_mask(_variables(self.path).read_real(name), name)

    @classmethod
    def find_ksp(cls, path: Path, axes: Axes | None, dataset: str | None) -> NamedArray:
        """The array with the usual name, or the only complex one."""
        variables = _variables(path)
        array = choose_array(path, variables.arrays, variables.others, dataset)
        return NamedArray(array, axes) if axes else _named(array)


def _named(array: StoredArray) -> NamedArray:
    n_axes, is_known = len(array.shape), CMRXRECON_NAMES.fullmatch(array.name)
    if is_known and (n_axes == len(CMRXRECON) or (array.name != "kspace" and n_axes > 2)):
        return NamedArray(array, CMRXRECON[:n_axes])
    return guess_axes(array)


@dataclass(frozen=True)
class _Variables:
    """What a file holds.

    Attributes:
        arrays: complex arrays by name.
        others: names of the rest, with class and size.
        read_real: gives a real array by its name, or None if there is none.
    """

    arrays: dict[str, StoredArray]
    others: list[str]
    read_real: Callable[[str], NDArray[Any] | None]


def _variables(path: Path) -> _Variables:
    with path.open("rb") as file:
        is_hdf5 = b"\x89HDF\r\n\x1a\n" in file.read(4096)
    return _of_version_73(path) if is_hdf5 else _of_version_5(path)


def _of_version_73(path: Path) -> _Variables:
    with open_h5(path) as file:
        arrays, others = h5_arrays(path, file, reverse=True)
        for name in arrays:
            check_written(file[name])

    def read(name: str) -> NDArray[Any] | None:
        with open_h5(path) as file:
            return read_real(find_dataset(file, name)).T if name in file else None

    return _Variables(arrays, others, read)


def _of_version_5(path: Path) -> _Variables:
    listed = {variable.name: variable for variable in read_variables(path)}
    arrays: dict[str, StoredArray] = {}
    for name, variable in listed.items():
        found = stored_array(path, name, variable, partial(nullcontext, variable))
        if found is not None and variable.has_numbers:
            arrays[name] = found
    others = [f"{v.name} {v.kind} {v.shape}" for v in listed.values() if v.name not in arrays]

    def read(name: str) -> NDArray[Any] | None:
        has_numbers = name in listed and listed[name].has_numbers
        return listed[name][()] if has_numbers else None

    return _Variables(arrays, others, read)
