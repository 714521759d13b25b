"""Arrays of numpy: ``.npy`` files, which stay on disk, and ``.npz`` archives.

An archive may hold a ``mask`` beside the k-space. Pickled objects are never loaded.
"""

from __future__ import annotations

import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import ScanFormatError
from ..hdf5 import check_size
from ..scan_file import Contents
from .axes_guess import guess_axes
from .named_axes import Axes, NamedArray, NamedArrayFile
from .stored_arrays import StoredArray, choose_array, stored_array

BROKEN = (
    OSError, ValueError, TypeError, EOFError, KeyError, OverflowError, MemoryError, SyntaxError,
    NotImplementedError, zipfile.BadZipFile, zlib.error, tokenize.TokenError,
)  # fmt: skip
"""What numpy raises on damaged files."""


class NumpyFile(NamedArrayFile):
    """K-space in a ``.npy`` or ``.npz`` file."""

    format = "numpy"
    suffixes = (".npy", ".npz")

    @classmethod
    def recognises(cls, contents: Contents) -> bool:
        """By the suffix; an archive of numpy cannot be told from another ZIP file."""
        return contents.path.suffix.lower() in cls.suffixes and contents.path.is_file()

    def __init__(self, path: str | Path, *args: Any, **options: Any) -> None:  # noqa: ANN401
        """Read shapes, and what a guess of the axes needs."""
        super().__init__(path, *args, **options)
        self.take_mask(load_arrays(self.path, "mask").get("mask"))

    @classmethod
    def find_ksp(cls, path: Path, axes: Axes | None, dataset: str | None) -> NamedArray:
        """The array of the file, or of an archive that with the usual name or the only one."""
        arrays: dict[str, StoredArray] = {}
        others = []
        members = load_arrays(path)
        for name, array in members.items():
            # A map of a file is opened again for each slice: what was read does not stay in memory.
            again = (
                partial(_map, path) if isinstance(array, np.memmap) else partial(nullcontext, array)
            )
            found = stored_array(path, name, array, again)
            if found is None:
                others.append(f"{name} {array.dtype} {array.shape}".strip())
            else:
                arrays[name] = found
        ksp = choose_array(path, arrays, others, dataset)
        return guess_axes(ksp) if axes is None else NamedArray(ksp, axes)


def load_arrays(path: Path, *names: str) -> dict[str, NDArray[Any]]:
    """The arrays of a file, or some of them, by name; the one of a ``.npy`` file has none."""
    with _reading(path), path.open("rb") as raw:  # numpy leaves damaged archives open
        if raw.read(2) != b"PK":
            with _map(path) as array:
                return {"": array}
        raw.seek(0)
        with np.load(raw, allow_pickle=False) as loaded:
            for member in loaded.zip.infolist():
                check_member(path, member)
            return {name: loaded[name] for name in loaded.files if name in (names or loaded.files)}


def check_member(path: Path, member: zipfile.ZipInfo) -> None:
    """Refuse a part of an archive that the file cannot hold, or of a size that no scan has."""
    where, n_stored = f"{path}: {member.filename}", member.compress_size
    if n_stored > path.stat().st_size:
        raise ScanFormatError(f"{where} has {n_stored} bytes, more than the file; it is damaged")
    check_size((member.file_size,), 1, where, n_stored)


@contextmanager
def _map(path: Path) -> Iterator[NDArray[Any]]:
    """A ``.npy`` file, mapped into memory."""
    yield np.load(path, mmap_mode="r", allow_pickle=False)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except BROKEN as error:
        text = " ".join(str(error).split())
        raise ScanFormatError(
            f"{path}: cannot be read as a file of numpy ({text}); save complex numbers with "
            "numpy.save, without pickle"
        ) from error
