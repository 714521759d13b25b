"""A check of HDF5's text before HDF5 reads it.

HDF5 stores text of variable length in global heaps (GCOL; HDF5 file format specification, section
III.E): lists of objects, each with its length. HDF5 2.0 never returns from a list with an object of
length zero, and its loop in C cannot be interrupted. So every list is followed to its end here.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import h5py

from ..errors import ScanFormatError

SEARCHED = 2**20
"""Bytes searched for heaps at each end of a stretch that holds no contiguous dataset."""


def check_heaps(file: h5py.File) -> None:
    """Refuse a file with a damaged text heap."""
    path = Path(file.filename)
    with path.open("rb") as raw:
        for position in _heaps(raw, _gaps(file, path.stat().st_size)):
            raw.seek(position)
            if not _is_sound(raw):
                damage = f"the HDF5 file is damaged (text at byte {position})"
                raise ScanFormatError(f"{path}: {damage}; copy or download it again")


def _gaps(file: h5py.File, size: int) -> Iterator[tuple[int, int]]:
    """Stretches ``[start, stop)`` of the file between its contiguous datasets."""
    datasets = (file.get(name) for name in file)
    extents = [
        (entry.id.get_offset(), entry.id.get_storage_size())
        for entry in datasets
        if isinstance(entry, h5py.Dataset) and entry.id.get_offset() is not None
    ]
    start = 0
    for offset, length in sorted(extents):
        yield start, max(start, min(offset, size))
        start = max(start, min(offset + length, size))
    yield start, size


def _heaps(raw: BinaryIO, gaps: Iterator[tuple[int, int]]) -> Iterator[int]:
    """Where heaps begin."""
    for start, stop in gaps:
        for first in {start, max(start, stop - SEARCHED)}:
            raw.seek(first)
            stretch = raw.read(min(stop - first, SEARCHED))
            for found in re.finditer(rb"GCOL\x01\0\0\0", stretch):
                yield first + found.start()


def _is_sound(raw: BinaryIO) -> bool:
    """Whether the objects of the heap that begins here lead to its end, or on for 16 MiB."""
    n_bytes = int.from_bytes(raw.read(16)[8:], "little")
    heap = raw.read(max(min(n_bytes, 2**24) - 16, 0))
    position = 0
    while position + 16 <= len(heap):
        index, length = struct.unpack_from("<H6xQ", heap, position)
        step = 16 + -(-length // 8) * 8 if index else length
        if step < 16:
            return False
        position += step
    return True
