"""BART's format: ``name.hdr`` holds the sizes of 16 dimensions as text, ``name.cfl`` the numbers.

The numbers are complex64, little-endian, the first dimension fastest. K-space is centred, and zero
where it was not sampled. Dimensions have a fixed meaning: 0 to 2 are the readout and two phase
encodes, of which a 2-D scan uses two, 3 are coils, 5 echoes, 10 repetitions, 11 cardiac phases, 13
slices, 14 averages.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from contextlib import nullcontext, suppress
from functools import cached_property, partial
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import ScanFormatError
from ...runtime.files import file_sha256
from ..scan_file import Contents
from .named_axes import FLAT, Axes, NamedArray, NamedArrayFile, peak
from .stored_arrays import StoredArray

DIMENSIONS = (
    "READ", "PHS1", "PHS2", "COIL", "MAPS", "TE", "COEFF", "COEFF2",
    "ITER", "CSHIFT", "TIME", "TIME2", "LEVEL", "SLICE", "AVG", "BATCH",
)  # fmt: skip
"""As BART calls them."""

MEANING = {3: "coil", 5: "con", 10: "rep", 11: "phs", 13: "slice", 14: "avg", 15: "set"}
"""Axes by dimension, besides those of the matrix."""

MATRICES: dict[tuple[bool, bool, bool], Axes] = {
    (True, True, True): ("y", "x", "z"),
    (False, True, True): ("1", "y", "x"),
    (True, False, True): ("y", "1", "x"),
}
"""Axes of dimensions 0 to 2 by whether they are longer than one; otherwise these are y, x, 1."""


class CflFile(NamedArrayFile):
    """A BART scan; the user names either of its files, or their common stem.

    Dimensions have their usual meaning; ``axes`` names those of a file that uses others. ``maps``
    is a file of coil sensitivities of this matrix, as ``bart ecalib -m1`` writes them, or ``-m2``.
    """

    format = "bart"
    suffixes = (".cfl",)
    options = frozenset({"axes", "volume", "maps", "mask"})

    @classmethod
    def recognises(cls, contents: Contents) -> bool:
        """Whether there are both of the files."""
        path = cfl_path(contents.path)
        return path is not None and path.exists() and path.with_suffix(".hdr").exists()

    def __init__(
        self,
        path: str | Path,
        axes: str | None = None,
        volume: str | None = None,
        maps: str | Path | None = None,
    ) -> None:
        """Read sizes, no numbers."""
        super().__init__(cfl_path(Path(path)) or path, axes, None, volume)
        self._maps_array = None if maps is None else self._open_maps(Path(maps))

    def _open_maps(self, path: Path) -> NamedArray:
        """The coil sensitivities of a file.

        Raises:
            ScanFormatError: they do not fit the k-space.
        """
        path = cfl_path(path) or path
        if self.is_3d:
            raise ScanFormatError(f"{path}: not supported: coil maps of a 3-D scan")
        if not (path.exists() and path.with_suffix(".hdr").exists()):
            raise ScanFormatError(f"{path}: wanted coil maps in BART's format (.cfl and .hdr)")
        array = _array(path, 2)
        maps = NamedArray(array, _axes(path, array.shape, MEANING | {4: "set"}))
        if maps.shape != self.shape or len(maps.volumes) > 2:
            raise ScanFormatError(
                f"{path}: coil maps (slice, coil, y, x) are {maps.shape}, {len(maps.volumes)} sets "
                f"of them, the k-space is {self.shape}; make them with `bart ecalib -m1` (or -m2)"
            )
        return maps

    @cached_property
    def sha256(self) -> str:
        """Hash of the numbers, and of the coil maps where they are given."""
        own = file_sha256(self.path)
        if self._maps_array is None:
            return own
        both = own + file_sha256(self._maps_array.array.path)
        return hashlib.sha256(both.encode()).hexdigest()

    def read_maps(self, index: int) -> NDArray[np.complex64] | None:
        """Coil sensitivities of one slice of the file of maps, complex64 ``(coil, set*y, x)``."""
        maps = self._maps_array
        if maps is None:
            return None
        return np.concatenate([maps.read(index, m) for m in maps.volumes], axis=1)

    @classmethod
    def find_ksp(cls, path: Path, axes: Axes | None, dataset: str | None) -> NamedArray:
        """The array of the two files."""
        path = cfl_path(path) or path
        array = _array(path, 2 if axes is None else len(axes))
        ksp = NamedArray(array, axes or _axes(path, array.shape))
        if ksp.is_3d and axes is None:
            _refuse_slices(ksp)
        return ksp


def read_cfl(path: Path) -> NDArray[np.complex64]:
    """All numbers of a file, in BART's dimensions.

    Raises:
        ScanFormatError: it cannot be read.
    """
    array = CflFile.find_ksp(path, tuple("yx" + "1" * 14), None).array
    return array.read(tuple(slice(None) for _ in array.shape))


def cfl_path(path: Path) -> Path | None:
    """The ``.cfl`` file that is meant by either of the files or their stem; None if none is."""
    if path.suffix == ".cfl":
        return path
    stem = path.with_suffix("") if path.suffix == ".hdr" else path
    found = stem.with_name(f"{stem.name}.cfl")
    with suppress(OSError):  # a name that is too long
        if found.exists() and (path.suffix == ".hdr" or not path.exists()):
            return found
    return None


def _array(path: Path, n_axes: int) -> StoredArray:
    """The array of the two files, without dimensions of size one at the end beyond ``n_axes``."""
    sizes = _read_sizes(path.with_suffix(".hdr"))
    n_bytes = path.stat().st_size
    if n_bytes != 8 * np.prod(sizes, dtype=float):
        raise ScanFormatError(
            f"{path}: holds {n_bytes} bytes, the sizes {' '.join(map(str, sizes))} in "
            f"{path.stem}.hdr need {8 * np.prod(sizes, dtype=float):.0f}; copy both files again"
        )
    used = max((i + 1 for i, n in enumerate(sizes) if n > 1), default=2)
    shape = (*sizes, *[1] * 16)[: max(used, n_axes)]
    return StoredArray(path, "", shape, partial(_open, path, shape))


def _refuse_slices(ksp: NamedArray) -> None:
    """Refuse slices where BART has the second phase encode."""
    middle = tuple(
        n // 2 if name in "yx" else slice(None)
        for name, n in zip(ksp.axes, ksp.array.shape, strict=True)
    )
    energy = np.abs(ksp.array.read(middle)).astype(float) ** 2
    if peak(energy.reshape(len(energy), -1).sum(axis=1)) < FLAT:
        raise ScanFormatError(
            f"{ksp.array.path}: dimension 2 (PHS2) has size {ksp.size('z')}, but energy is spread "
            "evenly along it, as over slices; if it holds slices, name the axes (--axes "
            "y,x,slice,coil)"
        )


def _open(path: Path, shape: tuple[int, ...]) -> nullcontext[NDArray[Any]]:
    return nullcontext(np.memmap(path, "<c8", "r", shape=shape, order="F"))


def _read_sizes(path: Path) -> tuple[int, ...]:
    """The sizes of the dimensions, from the line after the title."""
    lines = path.read_text(errors="replace").splitlines()
    for title, line in pairwise(lines):
        words = line.split()
        if (
            title.strip() == "# Dimensions"
            and words
            and all(re.fullmatch(r"\d{1,18}", w) for w in words)
        ):
            sizes = tuple(int(word) for word in words)
            if len(sizes) <= 16 and min(sizes) > 0:
                return sizes
    raise ScanFormatError(
        f"{path}: gives no sizes; wanted up to 16 positive numbers after a line '# Dimensions'"
    )


def _axes(
    path: Path, shape: tuple[int, ...], meaning: Mapping[int, str] = MappingProxyType(MEANING)
) -> Axes:
    """Names of the dimensions.

    Raises:
        ScanFormatError: the file uses a dimension that means nothing here.
    """
    long = tuple(n > 1 for n in (*shape, 1, 1)[:3])
    matrix = MATRICES.get((long[0], long[1], long[2]), ("y", "x", "1"))
    rest = [meaning.get(i, "1") for i in range(3, len(shape))]
    for i, name in enumerate(rest, start=3):
        if name == "1" and shape[i] > 1:
            raise ScanFormatError(
                f"{path}: dimension {i} ({DIMENSIONS[i]}) has size {shape[i]}; wanted k-space with "
                "coils in dimension 3 and slices in dimension 13, or their names as "
                "axes (--axes)"
            )
    return (*matrix, *rest)[: len(shape)]
