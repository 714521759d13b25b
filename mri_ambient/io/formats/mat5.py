"""MATLAB's files of version 5 to 7 (MathWorks, "MAT-File Format", chapter 1), without scipy.

A file is a list of elements, each a type, a length and data; those of version 7 are compressed. An
array consists of elements itself: flags, sizes, name, real part, imaginary part. Scipy crashes on
damaged files, and reads all numbers to know whether they are complex. Here, arrays that are not
compressed stay on disk.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from ...errors import ScanFormatError
from ..hdf5 import check_size

NUMBERS = {
    1: "i1",
    2: "u1",
    3: "i2",
    4: "u2",
    5: "i4",
    6: "u4",
    7: "f4",
    9: "f8",
    12: "i8",
    13: "u8",
}
"""Types of elements that hold numbers."""

MATRIX, COMPRESSED = 14, 15
"""Types of elements that hold an array."""

CLASSES = (
    "unknown", "cell", "struct", "object", "char", "sparse", "double", "single", "int8", "uint8",
    "int16", "uint16", "int32", "uint32", "int64", "uint64", "function", "opaque",
)  # fmt: skip
"""Classes of arrays, by their number; those from double to uint64 hold numbers."""

IS_COMPLEX = 0x0800
HEAD = 2**12
"""Bytes at the beginning of an array in which its flags, sizes and name must be."""


@dataclass(frozen=True)
class Variable:
    """An array of a file; numbers are read when they are asked for.

    Attributes:
        path: the file.
        name: of the array.
        kind: its class, as MATLAB calls it.
        shape: its size.
        is_complex: whether it has an imaginary part.
        order: "<" or ">", of its bytes.
        place: where its elements are in the file, and how many bytes; compressed or not.
        compressed: whether they are.
    """

    path: Path
    name: str
    kind: str
    shape: tuple[int, ...]
    is_complex: bool
    order: str
    place: tuple[int, int]
    compressed: bool

    @property
    def has_numbers(self) -> bool:
        """Whether it is neither text, a cell, a structure nor sparse."""
        return 6 <= CLASSES.index(self.kind) <= 15

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the values it gives."""
        return np.dtype(np.complex128 if self.is_complex else np.float64)

    def __getitem__(self, where: Any) -> NDArray[Any]:  # noqa: ANN401 -- as numpy has it
        with _reading(self.path):
            values = [part[where] for part in self._parts()]
        return values[0] + 1j * values[1] if self.is_complex else np.asarray(values[0])

    def _parts(self) -> list[NDArray[Any]]:
        """Real and imaginary part, as they are stored."""
        content = self._content if self.compressed else self._mapped()
        n, parts = math.prod(self.shape), []
        for kind, start, stop in list(_elements(content, self.order))[3 : 4 + self.is_complex]:
            numbers = np.frombuffer(content[start:stop], self.order + NUMBERS[kind])
            if len(numbers) != n:
                raise ValueError(f"{self.name} has {len(numbers)} of {n} numbers")
            parts.append(numbers.reshape(self.shape, order="F"))
        if len(parts) != 1 + self.is_complex:
            raise ValueError(f"{self.name} has no imaginary part")
        return parts

    def _mapped(self) -> NDArray[np.uint8]:
        start, n_bytes = self.place
        return np.memmap(self.path, np.uint8, "r")[start : start + n_bytes]

    @cached_property
    def _content(self) -> NDArray[np.uint8]:
        """The elements of a compressed array."""
        start, n_bytes = self.place
        with self.path.open("rb") as file:
            file.seek(start)
            packed = file.read(n_bytes)
        n_numbers = math.prod(self.shape) * (1 + self.is_complex)
        check_size((n_numbers,), 8, f"{self.path}: {self.name}", len(packed))
        expanded = zlib.decompressobj().decompress(packed, 8 * n_numbers + HEAD)
        return np.frombuffer(expanded, np.uint8)[8:]


def read_variables(path: Path) -> list[Variable]:
    """The arrays of a file.

    Raises:
        ScanFormatError: it is no MATLAB file of version 5 to 7, or is damaged.
    """
    with path.open("rb") as file:
        head = file.read(128)
        order = {b"IM": "<", b"MI": ">"}.get(head[126:])
        if order is None:
            raise ScanFormatError(
                f"{path}: is no MATLAB file of version 5 or later; save it again, in MATLAB with "
                "save(name, variable, '-v7.3')"
            )
        with _reading(path):
            return list(_variables(path, file, order))


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except (struct.error, zlib.error, ValueError, IndexError, KeyError, MemoryError) as error:
        raise ScanFormatError(
            f"{path}: the MATLAB file is damaged ({error}); copy it or save it again"
        ) from error


def _variables(path: Path, file: BinaryIO, order: str) -> Iterator[Variable]:
    size = path.stat().st_size
    while len(tag := file.read(8)) == 8:
        kind, n_bytes = struct.unpack(f"{order}II", tag)
        start = file.tell()
        if start + n_bytes > size:
            raise ValueError("it was cut off")
        head = file.read(min(n_bytes, HEAD))
        if kind == COMPRESSED:
            head = zlib.decompressobj().decompress(head, HEAD)
            kind, head = struct.unpack(f"{order}I", head[:4])[0], head[8:]
        if kind == MATRIX:
            place = (start, n_bytes)
            yield _variable(path, head, order, place, compressed=tag[:4] != _code(MATRIX, order))
        file.seek(start + n_bytes)


def _code(kind: int, order: str) -> bytes:
    return struct.pack(f"{order}I", kind)


def _variable(
    path: Path, head: bytes, order: str, place: tuple[int, int], *, compressed: bool
) -> Variable:
    """An array by its flags, sizes and name."""
    first = np.frombuffer(head, np.uint8)
    found = [first[start:stop] for _, start, stop in _elements(first, order, n=3)]
    word = int(np.frombuffer(found[0], f"{order}u4")[0])
    shape = tuple(int(n) for n in np.frombuffer(found[1], f"{order}i4"))
    name = found[2].tobytes().decode("utf-8", errors="replace")
    if len(shape) < 2 or min(shape) < 0:
        raise ValueError(f"an array has the size {shape}")
    kind = CLASSES[min(word & 0xFF, len(CLASSES) - 1)]
    check_size(shape, 1, f"{path}: {name}")
    return Variable(path, name, kind, shape, bool(word & IS_COMPLEX), order, place, compressed)


def _elements(content: NDArray[np.uint8], order: str, n: int = 5) -> Iterator[tuple[int, int, int]]:
    """Type, first and last byte of up to n elements; short ones hold their data in the tag."""
    position = 0
    for _ in range(n):
        if position + 8 > len(content):
            return
        kind, length = struct.unpack(f"{order}II", content[position : position + 8].tobytes())
        is_short = kind >> 16 != 0
        if is_short:
            kind, length = kind & 0xFFFF, kind >> 16
        start = position + (4 if is_short else 8)
        yield kind, start, start + length
        position = position + 8 if is_short else start + -(-length // 8) * 8
