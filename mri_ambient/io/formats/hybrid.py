"""3-D Cartesian k-space as 2-D slices: an inverse FFT along the readout, kept in a temporary file.

A 3-D scan measures whole lines along its readout. Transforming these is exact and leaves one 2-D
problem in both phase-encoding directions for every position along the readout. Lines come in the
order of the scan, and a slice needs one number of each: they are sorted on disk, so that memory
does not grow with the volume.
"""

from __future__ import annotations

import shutil
import tempfile
import weakref
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from ...errors import MriAmbientError
from ...physics.axis_fourier import ifftc
from ...runtime.files import size_text
from ..hdf5 import check_finite

CHUNK_BYTES = 2**27
"""Memory of the lines that are sorted at once."""


class HybridSlices:
    """Slices across the readout of one 3-D volume, on disk until the object is deleted.

    The file has no name, so that nothing is left behind however the process ends.

    Args:
        path: the scan, for messages.
        shape: ``(slice, coil, y, x)``: slices are the middle positions along the readout (readout
            oversampling is cut off), y and x the two phase encodes.
        n_lines: how many lines will be added, for the space they need.

    Raises:
        MriAmbientError: the temporary folder has too little space.
    """

    def __init__(self, path: Path, shape: tuple[int, int, int, int], n_lines: int) -> None:
        self.path, self.shape = path, shape
        n_slices, n_coils, ny, nx = shape
        line_bytes = 8 * n_slices * n_coils
        _require_temporary_space(path, n_lines * line_bytes)
        self._file = tempfile.TemporaryFile(prefix="mri-ambient-")  # noqa: SIM115 -- lives with self
        weakref.finalize(self, self._file.close)
        self._lock = Lock()
        capacity = max(1, min(n_lines, CHUNK_BYTES // line_bytes))
        self._buffer = np.empty((n_slices, capacity, n_coils), np.complex64)
        self._places: list[NDArray[np.int64]] = []
        self._chunks: list[_Chunk] = []
        self._count = np.zeros(ny * nx, np.int32)

    @property
    def mask(self) -> NDArray[np.bool_]:
        """Where lines were added, bool ``(y, x)``."""
        found: NDArray[np.bool_] = self._count.reshape(self.shape[2:]) > 0
        return found

    def add(self, lines: NDArray[np.complex64], y: NDArray[np.int64], x: NDArray[np.int64]) -> None:
        """Add sampled lines; those of one place are averaged.

        Args:
            lines: k-space along the readout, ``(n, coil, sample)``, k = 0 at ``sample // 2``.
            y: row of the matrix to which each belongs, ``(n,)``.
            x: its column, ``(n,)``.

        Raises:
            ScanFormatError: a line holds NaN or Inf.
        """
        check_finite(lines, f"{self.path}: readouts")
        n_slices, capacity = self._buffer.shape[0], self._buffer.shape[1]
        places = y * self.shape[3] + x
        np.add.at(self._count, places, 1)
        first = lines.shape[2] // 2 - n_slices // 2
        while len(lines):
            start = sum(len(part) for part in self._places)
            n = min(len(lines), capacity - start, 256)
            profiles = ifftc(lines[:n], dim=-1)
            kept = profiles[:, :, first : first + n_slices]
            self._buffer[:, start : start + n] = kept.transpose(2, 0, 1)
            self._places.append(places[:n])
            if start + n == capacity:
                self._write_buffer()
            lines, places = lines[n:], places[n:]

    def read(self, index: int) -> NDArray[np.complex64]:
        """K-space of one slice, complex64 ``(coil, y, x)``, zero where no line was added."""
        self._write_buffer()
        n_coils = self.shape[1]
        out = np.zeros((len(self._count), n_coils), np.complex64)
        for chunk in self._chunks:
            values = self._read_values(chunk, index)
            if chunk.repeats:
                np.add.at(out, chunk.places, values)
            else:
                out[chunk.places] += values
        out /= np.maximum(self._count, 1)[:, None]
        return out.T.reshape(self.shape[1:])

    def _read_values(self, chunk: _Chunk, index: int) -> NDArray[np.complex64]:
        values = np.empty((len(chunk.places), self.shape[1]), np.complex64)
        with self._lock:  # the next slices are read in a thread of their own
            self._file.seek(chunk.offset + index * values.nbytes)
            n_read = self._file.readinto(values.data.cast("B"))
        if n_read != values.nbytes:
            raise MriAmbientError(f"{self.path}: its temporary file was cut off; start again")
        return values

    def _write_buffer(self) -> None:
        """Move the lines in memory to the disk, slice by slice."""
        with self._lock:
            if not self._places:
                return
            places = np.concatenate(self._places)
            values = np.ascontiguousarray(self._buffer[:, : len(places)])
            offset = self._file.seek(0, 2)
            try:
                self._file.write(values.data.cast("B"))
                self._file.flush()
            except OSError as error:
                raise _no_space(self.path, error.strerror or str(error)) from error
            repeats = len(np.unique(places)) < len(places)
            self._chunks.append(_Chunk(offset, places, repeats))
            self._places = []


@dataclass(frozen=True)
class _Chunk:
    """Lines that lie together on disk, ``(slice, line, coil)``.

    Attributes:
        offset: where they begin, in bytes.
        places: of every line in the flattened matrix.
        repeats: whether a place occurs twice.
    """

    offset: int
    places: NDArray[np.int64]
    repeats: bool


def _require_temporary_space(path: Path, n_bytes: int) -> None:
    free = shutil.disk_usage(tempfile.gettempdir()).free
    if n_bytes > free:
        raise _no_space(path, f"{size_text(n_bytes)} are needed, {size_text(free)} are free")


def _no_space(path: Path, reason: str) -> MriAmbientError:
    return MriAmbientError(
        f"{path}: the slices of a 3-D scan cannot be kept in {tempfile.gettempdir()} ({reason}); "
        "set TMPDIR to a folder with more space"
    )
