"""Reading and writing HDF5: damage of any kind becomes one clear error, output is whole or absent.

Readers open files with :func:`open_h5` and check every dataset as they read it; writers derive from
:class:`H5Writer`.
"""

from __future__ import annotations

import math
import mmap
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self

import h5py
import numpy as np
from numpy.typing import NDArray

from ..errors import ScanFormatError, warn
from ..runtime.files import atomic_path, json_text, require_space
from .hdf5_heaps import check_heaps

LOCK = threading.RLock()
"""Held while HDF5 is used, because h5py's own lock fails where several threads open and read files
(h5py issue 2920: segmentation faults). Nothing waits for another thread while it holds it."""

BROKEN = (
    OSError, RuntimeError, KeyError, ValueError, TypeError,
    IndexError, AttributeError, OverflowError, MemoryError, SystemError,
)  # fmt: skip
"""What h5py raises on damaged files, depending on which byte is wrong."""

LARGE = 2**22
"""Arrays of this many bytes get a memory mapping of their own."""

_PLAIN_TYPES = (h5py.h5t.INTEGER, h5py.h5t.FLOAT, h5py.h5t.STRING, h5py.h5t.ENUM)
_PAIR_TYPES = (h5py.h5t.COMPOUND, getattr(h5py.h5t, "COMPLEX", None))
"""Types of attributes that are read: booleans are an ENUM, pairs must be complex numbers."""

MAX_BYTES = 2**30
"""Largest slice or mask that is read; a damaged size field may give more."""

EXPANDING, MOST_EXPANDED = 2**27, 200
"""Nothing compresses k-space by this factor; what is expanded to fewer bytes does no harm."""


@contextmanager
def open_h5(path: Path, *, for_text: bool = False) -> Iterator[h5py.File]:
    """The file, open for reading; ``for_text`` if attributes or other text will be read.

    The text is then checked first, because HDF5 never returns from some damage to it
    (:mod:`~mri_ambient.io.hdf5_heaps`).

    Raises:
        ScanFormatError: it cannot be read as HDF5, or what is read inside the block is damaged.
    """
    try:
        with LOCK, h5py.File(path, "r") as file:
            if for_text:
                check_heaps(file)
            yield file
    except ScanFormatError:
        raise
    except BROKEN as error:
        raise ScanFormatError(f"{path}: {_diagnosis(path, error)}") from error


def _diagnosis(path: Path, error: Exception) -> str:
    if path.is_dir():
        return "is a folder, wanted an HDF5 file (.h5)"
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if isinstance(error, PermissionError):
        return "permission denied; the file may not be read by this user"
    text = _one_line(error)
    if "unable to lock" in text or "already open for write" in text:
        return (
            "is in use by another program, which writes it; close it there, and try again (where "
            "no program has it open, set HDF5_USE_FILE_LOCKING=FALSE, or run h5clear -s)"
        )
    if "truncated" in text:
        return "the HDF5 file is truncated; copy or download it again"
    if not path.exists() or path.stat().st_size == 0:
        return "the file is empty; copy or export it again"
    if "signature" in text:
        return "is not an HDF5 file"
    return f"the HDF5 file is damaged ({text}); copy or download it again"


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def find_dataset(file: h5py.File, name: str) -> h5py.Dataset:
    """The dataset called ``name``."""
    where = f"{file.filename}: "
    if file.get(name, getlink=True) is None:
        raise ScanFormatError(f"{where}no dataset {name!r}; found {sorted(file)}")
    try:
        found = file[name]
    except BROKEN as error:
        damage = f"is a broken link or damaged ({_one_line(error)})"
        raise ScanFormatError(f"{where}{name!r} {damage}") from error
    if not isinstance(found, h5py.Dataset):
        raise ScanFormatError(f"{where}{name!r} is a {type(found).__name__}, wanted a dataset")
    return found


def _where(dataset: h5py.Dataset, index: int | Sequence[int | slice] | None) -> str:
    """File and name of a dataset, or of one of its slices, as errors begin."""
    name = dataset.name.lstrip("/")
    if isinstance(index, Sequence):
        index = next((i for i in index if isinstance(i, int)), None)
    return f"{dataset.file.filename}: {name if index is None else f'slice {index} of {name}'}"


def is_complex(dtype: np.dtype[Any]) -> bool:
    """Whether a dtype is complex, or a compound of a real and an imaginary number."""
    if dtype.names is None:
        return dtype.kind == "c"
    if len(dtype.names) != 2 or dtype[0].kind not in "fi":
        return False
    # h5py crashes on the overlapping compounds that damaged files can hold.
    return dtype == np.dtype([(name, dtype[0]) for name in dtype.names])


def read_complex(
    dataset: h5py.Dataset, index: int | tuple[int | slice, ...] | None = None
) -> NDArray[np.complex64]:
    """A complex dataset, or one slice along its first axis, as a new complex64 array.

    A tuple has an index or a slice for each of the axes.

    Raises:
        ScanFormatError: it is larger than :data:`MAX_BYTES`, damaged, or holds NaN or Inf (also
            where the values exceed single precision).
    """
    source = () if index is None else index if isinstance(index, tuple) else (index,)
    where = _where(dataset, index)
    every = (*source, *[slice(None)] * (dataset.ndim - len(source)))
    parts = [range(n)[s] for n, s in zip(dataset.shape, every, strict=True)]
    shape = tuple(len(part) for part in parts if isinstance(part, range))
    check_dataset(dataset, shape, 8, where)
    out = _memory_for(shape)
    with _reading(where):
        if dataset.dtype.names is None:
            dataset.read_direct(out, source)
        else:
            pair = dataset[source]
            out.real, out.imag = (pair[name] for name in dataset.dtype.names)
    check_finite(out, where)
    return out


def _memory_for(shape: tuple[int, ...]) -> NDArray[np.complex64]:
    """Memory for complex64 that returns to the system when the array is deleted.

    malloc keeps a freed slice of a knee for later: reading 40 then leaves 60 MB behind, not 25.
    """
    n_bytes = 8 * math.prod(shape)
    if sys.platform != "linux" or n_bytes < LARGE:
        return np.empty(shape, np.complex64)
    memory = mmap.mmap(-1, n_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with suppress(OSError, AttributeError):  # some kernels have no huge pages
        memory.madvise(mmap.MADV_HUGEPAGE)  # as numpy does; twice as fast to fill
    return np.frombuffer(memory, np.complex64).reshape(shape)


@contextmanager
def _reading(where: str) -> Iterator[None]:
    try:
        yield
    except BROKEN as error:
        raise ScanFormatError(
            f"{where} is damaged ({_one_line(error)}); copy or download the file again"
        ) from error


def read_real(dataset: h5py.Dataset, index: int | None = None) -> NDArray[Any]:
    """A dataset of real numbers or booleans, or one slice along its first axis.

    Raises:
        ScanFormatError: it holds something else, NaN or Inf, or more than :data:`MAX_BYTES`.
    """
    where = _where(dataset, index)
    if dataset.dtype.kind not in "buif":
        raise ScanFormatError(f"{where} holds {dataset.dtype}, wanted real numbers")
    shape = dataset.shape if index is None else dataset.shape[1:]
    check_dataset(dataset, shape, dataset.dtype.itemsize, where)
    with _reading(where):
        out: NDArray[Any] = np.asarray(dataset[() if index is None else index])
    if out.dtype.kind == "f":
        check_finite(out, where)
    return out


def check_finite(values: NDArray[Any], where: str) -> None:
    """Refuse NaN and Inf; ``where`` names file and array."""
    with np.errstate(all="ignore"):
        if np.isfinite(values.sum()):  # so all terms are finite; no temporary array is needed
            return
    n_bad = values.size - int(np.count_nonzero(np.isfinite(values)))
    if n_bad:
        found = f"NaN or Inf in {n_bad} of {values.size} places"
        raise ScanFormatError(f"{where} holds {found}; export the scan again")


def check_size(
    shape: Sequence[int] | None, itemsize: int, where: str, n_stored: int | None = None
) -> None:
    """Refuse a size that no scan has, before memory is allocated for it.

    ``n_stored`` is the number of bytes in the file, of compressed data.
    """
    if shape is None:
        raise ScanFormatError(f"{where} is empty")
    n_bytes = itemsize * math.prod(shape)
    most = MAX_BYTES if n_stored is None else max(EXPANDING, MOST_EXPANDED * n_stored)
    if n_bytes > min(most, MAX_BYTES):
        size = f"{n_bytes / 2**30:.1f}".removesuffix(".0") + " GiB"
        stored = f", of {n_stored} bytes" if n_stored else ""
        raise ScanFormatError(f"{where} would take {size}{stored}; the file is damaged")


def check_dataset(
    dataset: h5py.Dataset, shape: Sequence[int] | None, itemsize: int, where: str
) -> None:
    """Refuse (see :func:`check_size`) a part of a dataset, or chunks that are expanded for it."""
    is_elsewhere = dataset.is_virtual or dataset.external is not None
    n_stored = None if is_elsewhere else dataset.id.get_storage_size()
    if n_stored is not None and n_stored > dataset.file.id.get_filesize():
        raise ScanFormatError(f"{where} has {n_stored} bytes, more than the file; it is damaged")
    check_size(shape, itemsize, where, n_stored)
    if n_stored is None or dataset.chunks is None:
        return
    check_size(dataset.chunks, dataset.dtype.itemsize, f"a chunk of {where}", n_stored)
    n_chunks = dataset.size // math.prod(dataset.chunks)
    if n_chunks > max(10_000, n_stored):  # HDF5 takes its time for each
        raise ScanFormatError(f"{where} has {n_chunks} chunks in {n_stored} bytes; it is damaged")


def check_written(dataset: h5py.Dataset) -> None:
    """Refuse an array that is empty, or of which hardly anything was ever written."""
    where = _where(dataset, None)
    if not dataset.size:
        raise ScanFormatError(f"{where} is empty, its shape is {dataset.shape}")
    n_stored = dataset.id.get_storage_size()
    # Nothing compresses k-space that much: a size is damaged.
    if not dataset.is_virtual and dataset.nbytes > 10_000 * n_stored:
        raise ScanFormatError(
            f"{where} should hold {dataset.nbytes} bytes, but only {n_stored} were ever written"
        )


def read_text(dataset: h5py.Dataset) -> bytes:
    """A dataset of one string, of fixed or variable length."""
    where = _where(dataset, None)
    check_dataset(dataset, dataset.shape, dataset.dtype.itemsize, where)
    if _announced_length(dataset) > dataset.file.id.get_filesize():
        raise ScanFormatError(f"{where} is longer than the file; it is damaged")
    value: Any = None
    if (
        dataset.size == 1 and h5py.check_string_dtype(dataset.dtype) is not None
    ):  # h5py crashes on some damaged types
        with _reading(where):
            value = dataset[()]
    if isinstance(value, np.ndarray) and value.size == 1:
        value = value.item()
    if isinstance(value, (str, bytes)):
        return value.encode() if isinstance(value, str) else value
    raise ScanFormatError(f"{where} holds {dataset.dtype} {dataset.shape}, wanted one text")


def _announced_length(dataset: h5py.Dataset) -> int:
    """Bytes of a text of variable length, for which HDF5 takes memory; 0 if it is compressed."""
    kind = dataset.id.get_type()
    if dataset.size != 1 or kind.get_class() != h5py.h5t.STRING or not kind.is_variable_str():
        return 0
    if dataset.chunks is not None:
        if dataset.id.get_create_plist().get_nfilters() or not dataset.id.get_storage_size():
            return 0
        stored = dataset.id.read_direct_chunk((0,) * dataset.ndim)[1]
    elif (offset := dataset.id.get_offset()) is None:
        return 0
    else:
        with Path(dataset.file.filename).open("rb") as raw:
            raw.seek(offset)
            stored = raw.read(4)
    return int.from_bytes(stored[:4], "little")


def read_attributes(file: h5py.File) -> dict[str, object]:
    """The root attributes as plain Python values; the unreadable are left out with a warning."""
    attributes, unreadable = {}, []
    for name in file.attrs:
        try:
            attributes[_clean(name)] = read_attribute(file, name)
        except BROKEN as error:
            unreadable.append(f"{name!r} ({_one_line(error)})")
    if unreadable:
        text = f"attributes that cannot be read: {', '.join(unreadable)}"
        warn("W-ATTRIBUTE", f"{Path(file.filename).name}: {text}")
    return attributes


def read_attribute(file: h5py.File, name: str) -> object:
    """A root attribute as a plain Python value; raises any of :data:`BROKEN` if it is damaged.

    The type is checked before the value is read: one damaged bit turns text into a list of text,
    on which h5py crashes.
    """
    stored = file.attrs.get_id(name).get_type()
    kind = stored.get_class()
    if kind not in _PLAIN_TYPES and not (kind in _PAIR_TYPES and is_complex(stored.dtype)):
        raise TypeError(f"its type is {type(stored).__name__}, wanted numbers or text")
    return _plain(file.attrs[name])


def _plain(value: Any) -> object:  # noqa: ANN401 -- whatever HDF5 can hold
    if isinstance(value, bytes):
        return _clean(value.decode("utf-8", errors="replace"))
    if isinstance(value, str):
        return _clean(value)
    if isinstance(value, (np.ndarray, np.generic)):
        return _plain(value.tolist())
    if isinstance(value, list):
        return [_plain(entry) for entry in value]
    return value if isinstance(value, (bool, int, float)) else str(value)


def _clean(text: str) -> str:
    """Text that can be printed and stored: without lone surrogates and NUL."""
    return text.encode("utf-8", errors="replace").decode("utf-8").replace("\0", "")


def finite(value: Any) -> float:  # noqa: ANN401 -- from a file
    """A finite number of at least 0; TypeError or ValueError for another value."""
    number = float(value)
    if not 0 <= number < math.inf:
        raise ValueError(f"{number} where a finite number of at least 0 was wanted")
    return number


def positive(value: Any) -> float:  # noqa: ANN401 -- from a file
    """The same, and not 0."""
    number = finite(value)
    if number == 0:
        raise ValueError("0 where a positive number was wanted")
    return number


def voxel_sizes(value: Any) -> tuple[float, float, float]:  # noqa: ANN401 -- from a file
    """Three positive numbers, in mm."""
    y, x, z = (positive(size) for size in value)
    return y, x, z


class H5Writer:
    """A context manager that writes one HDF5 file, completely or not at all.

    The file appears at ``path`` when the block ends well and ``n_slices`` slices were written, in
    any order, each once. Until then :attr:`file` is open under a temporary name, and is used with
    :data:`LOCK` held.
    """

    file: h5py.File

    def __init__(self, path: str | Path, n_slices: int = 0) -> None:
        self.path, self.n_slices = Path(path), n_slices
        self._missing = set(range(n_slices))

    def start(self) -> None:
        """What is written first, before the block."""

    def finish(self) -> None:
        """What is written last, after the block."""

    def mark_written(self, slices: tuple[int, ...]) -> None:
        """Note that slices are written."""
        if not self._missing.issuperset(slices):
            raise ValueError(
                f"{self.path}: slices {slices} are out of range or were written before"
            )
        self._missing.difference_update(slices)

    def create_slices(self, name: str, shape: tuple[int, ...], dtype: str) -> None:
        """A dataset of which each entry along the first axis is one checksummed chunk."""
        require_space(self.path, math.prod(shape) * np.dtype(dtype).itemsize)
        with LOCK:
            self.file.create_dataset(name, shape, dtype, chunks=(1, *shape[1:]), fletcher32=True)

    def __enter__(self) -> Self:
        self._opened = self._open()
        with LOCK:
            self._opened.__enter__()
        return self

    def __exit__(self, *error: Any) -> bool | None:  # noqa: ANN401 -- as contextlib passes them
        with LOCK:
            return self._opened.__exit__(*error)

    @contextmanager
    def _open(self) -> Iterator[None]:
        with atomic_path(self.path) as temporary:
            # The 1.10 format has checksums of its structure. There is no chunk cache because HDF5
            # 2.0 crashes if it cannot write cached chunks to a full disk.
            self.file = h5py.File(temporary, "w", libver=("v110", "v110"), rdcc_nbytes=0)
            try:
                self.start()
                yield
                if self._missing:
                    missing = sorted(self._missing)
                    raise ValueError(f"{self.path}: slices {missing} were never written")
                self.finish()
            except BaseException:
                with suppress(OSError, RuntimeError):  # the first error is the one to report
                    self.file.close()
                raise
            try:
                self.file.close()
            except RuntimeError as error:  # of h5py, where the last bytes could not be written
                raise OSError(str(error)) from error


def write_attributes(file: h5py.File, attributes: Mapping[str, object]) -> None:
    """Root attributes: numbers, text and tuples of numbers as they are, the rest as JSON."""
    for name, value in attributes.items():
        if value is not None:
            native = isinstance(value, (bool, int, float, str, tuple))
            file.attrs[name] = value if native else json_text(value)
