"""Complex arrays in files, read part by part, whatever the type of their numbers.

Complex numbers are stored as such, as a compound of a real and an imaginary number, or as pairs
of numbers along the last axis (which may also run over coils: real, imaginary, real, ...). The
order of bytes and of axes in memory does not matter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from ...errors import ScanFormatError
from ..hdf5 import (
    check_dataset,
    check_finite,
    check_size,
    find_dataset,
    is_complex,
    open_h5,
    read_complex,
)

Selection = tuple[int | slice, ...]
Open = Callable[[], AbstractContextManager[Any]]

KSP_NAMES = ("kspace", "ksp", "kdata", "k_space", "kspace_full", "kus", "kdata_full")
"""What k-space is usually called; it is taken without asking if only one of them is there."""

PAIRS = (
    "save the k-space as complex numbers, or as floats with real and imaginary part along a last "
    "axis of length 2, and name its axes (--axes slice,coil,y,x)"
)
"""What to do where there are no complex numbers."""


@dataclass(frozen=True)
class StoredArray:
    """A complex array in a file.

    Attributes:
        path: the file.
        name: of the array in the file; empty if the file holds only this one.
        shape: of its complex numbers.
        open: gives the array as it is stored: of numpy, or a dataset of h5py.
        as_pairs: whether its last axis holds pairs of floats, which ``shape`` does not count.
        reverse: whether it is stored with its axes in reverse order (MATLAB in HDF5).
    """

    path: Path
    name: str
    shape: tuple[int, ...]
    open: Open
    as_pairs: bool = False
    reverse: bool = False

    @property
    def where(self) -> str:
        """File and array, as messages begin."""
        return f"{self.path}: {self.name}".rstrip(": ")

    def read(self, selection: Selection) -> NDArray[np.complex64]:
        """A part, as a new complex64 array without the axes at which an index is given.

        Raises:
            ScanFormatError: it is damaged, or holds NaN or Inf.
        """
        stored = selection[::-1] if self.reverse else selection
        with self.open() as array:
            if isinstance(array, h5py.Dataset) and not self.as_pairs:
                values = read_complex(array, stored)
            else:
                values = self._read_numbers(array, stored)
        return values.T if self.reverse else values

    def _read_numbers(self, array: Any, stored: Selection) -> NDArray[np.complex64]:  # noqa: ANN401
        parts = [range(n)[part] for n, part in zip(self.shape, stored, strict=True)]
        sizes = [len(part) for part in parts if isinstance(part, range)]
        if isinstance(array, h5py.Dataset):
            check_dataset(array, sizes, 8, self.where)
        else:
            check_size(sizes, 8, self.where)
        part = array[stored]  # of pairs, all of the last axis
        with np.errstate(all="ignore"):  # what exceeds single precision is refused below
            if self.as_pairs:
                part = np.ascontiguousarray(part, np.float32).view(np.complex64).reshape(sizes)
            elif part.dtype.names:
                part = part[part.dtype.names[0]] + 1j * part[part.dtype.names[1]]
            values: NDArray[np.complex64] = np.array(part, np.complex64)
        check_finite(values, self.where)
        return values


def stored_array(
    path: Path,
    name: str,
    array: Any,  # noqa: ANN401 -- of numpy or h5py
    open_array: Open,
    *,
    reverse: bool = False,
) -> StoredArray | None:
    """An array of a file, if it is complex, not empty and has two to seven axes.

    Args:
        path: the file.
        name: of the array.
        array: the array itself, or what has its shape and dtype.
        open_array: see :class:`StoredArray`.
        reverse: see :class:`StoredArray`.
    """
    shape, dtype = tuple(int(n) for n in array.shape or ()), array.dtype
    as_pairs = dtype.kind in "fi" and len(shape) > 2 and shape[-1] == 2 and not reverse
    if 0 in shape or not (as_pairs or is_complex(dtype)) or not 2 <= len(shape) - as_pairs <= 7:
        return None
    if reverse:
        shape = shape[::-1]
    return StoredArray(path, name, shape[:-1] if as_pairs else shape, open_array, as_pairs, reverse)


def h5_array(
    path: Path, dataset: h5py.Dataset, name: str, *, reverse: bool = False
) -> StoredArray | None:
    """A dataset of an HDF5 file, if it is a complex array; see :func:`stored_array`."""
    return stored_array(path, name, dataset, partial(open_dataset, path, name), reverse=reverse)


@contextmanager
def open_dataset(path: Path, name: str) -> Iterator[h5py.Dataset]:
    """A dataset of a file that is opened for it."""
    with open_h5(path) as file:
        yield find_dataset(file, name)


def h5_arrays(
    path: Path, file: h5py.File, *, reverse: bool = False
) -> tuple[dict[str, StoredArray], list[str]]:
    """The complex arrays of an HDF5 file in all its groups, and the names of other datasets."""
    arrays: dict[str, StoredArray] = {}
    others: list[str] = []

    def note(name: str, entry: h5py.Dataset | h5py.Group) -> None:
        if not isinstance(entry, h5py.Dataset) or name.startswith("#"):
            return
        found = h5_array(path, entry, name, reverse=reverse)
        if found is None:
            others.append(f"{name} {entry.dtype} {entry.shape}")
        else:
            arrays[name] = found

    file.visititems(note)
    return arrays, others


def choose_array(
    path: Path, arrays: Mapping[str, StoredArray], others: Sequence[str], dataset: str | None
) -> StoredArray:
    """The k-space of a file: by its name, or the only complex array.

    Args:
        path: the file.
        arrays: its complex arrays by name.
        others: what else the file holds, for the message.
        dataset: the name the user gave, or None.

    Raises:
        ScanFormatError: there is no such array, or there are several to choose from.
    """
    if dataset is not None:
        if dataset in arrays:
            return arrays[dataset]
        raise ScanFormatError(
            f"{path}: {dataset!r} is no complex array of this file; {_listed(arrays, others)}"
        )
    usual = [name for name in arrays if name.rpartition("/")[2].lower() in KSP_NAMES]
    whole = [name for name, array in arrays.items() if not array.as_pairs]
    names = usual or whole or list(arrays)
    if len(names) == 1:
        return arrays[names[0]]
    if not names:
        raise ScanFormatError(
            f"{path}: holds no complex array, so no k-space; {_listed(arrays, others)}; {PAIRS}"
        )
    raise ScanFormatError(
        f"{path}: {_listed({name: arrays[name] for name in names}, ())}; say which is the k-space "
        f"with dataset (--dataset {names[0]})"
    )


def _listed(arrays: Mapping[str, StoredArray], others: Sequence[str]) -> str:
    found = [f"{name} {' x '.join(map(str, a.shape))}" for name, a in arrays.items()]
    text = f"holds {len(found)} complex arrays: {', '.join(found)}" if len(found) > 1 else ""
    if len(found) == 1:
        text = f"the only complex array is {found[0]}"
    rest = f"found {', '.join(sorted(others)[:8]) or 'nothing'}" if others or not found else ""
    return "; ".join(filter(None, [text, rest]))
