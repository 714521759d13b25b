"""Anatomy for simulated scans: folders or archives of pictures, NIfTI files, the phantom.

A source is a list of names; each name is one real object ``(slice, y, x)``. Objects are read one at
a time, so memory does not depend on the size of an archive.
"""

from __future__ import annotations

import csv
import io
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Generator, Tensor

from ...errors import ConfigError
from ...io.formats.numpy_files import check_member
from .phantom import SLICE_MM, head_phantom, pixel_mm, slice_mm

PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
"""Suffixes of picture files."""

NIFTI = (".nii", ".nii.gz")
"""Suffixes of NIfTI files."""


@dataclass(frozen=True)
class Anatomy:
    """One object to scan.

    Attributes:
        img: real, not negative, maximum 1, ``(slice, y, x)``.
        subject: name of the person; pictures of one person share it.
        pixel_mm: size of a pixel, or None if unknown.
        slice_mm: distance between slices.
    """

    img: Tensor
    subject: str
    pixel_mm: float | None = None
    slice_mm: float = SLICE_MM


class ImageSource(ABC):
    """A list of named objects, each read on request."""

    @abstractmethod
    def names(self, count: int | None, n_slices: int) -> list[str]:
        """The names from which ``count`` objects of ``n_slices`` slices are chosen, each once.

        Raises:
            ConfigError: the source has no such objects.
        """

    @abstractmethod
    def read(self, name: str, shape: tuple[int, int], n_slices: int, rng: Generator) -> Anatomy:
        """The object of one of the :meth:`names`, for a scan of matrix ``(y, x)``.

        Only the phantom depends on ``shape`` and ``rng``.

        Raises:
            ConfigError: the object cannot be read or holds nothing.
        """


class Phantoms(ImageSource):
    """Procedural heads, any number of them."""

    def names(self, count: int | None, n_slices: int) -> list[str]:
        """One for each of ``count``."""
        if count is None:
            raise ConfigError(
                "the phantom gives any number of scans; say how many to simulate: count (--scans N)"
            )
        return [f"phantom_{i:05d}" for i in range(count)]

    def read(self, name: str, shape: tuple[int, int], n_slices: int, rng: Generator) -> Anatomy:
        """Draw a head at twice the matrix, so that the scan truncates its k-space."""
        fine = (2 * shape[0], 2 * shape[1])
        img = head_phantom(fine, rng, n_slices)
        return Anatomy(img, name, pixel_mm(fine), slice_mm(n_slices))


# Also one that is encrypted, or packed in a way that Python does not know.
BROKEN_ARCHIVE = (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError)
"""Errors that a damaged zip archive may lead to."""


class Pictures(ImageSource):
    """Pictures in a folder or a zip archive.

    An ``index.csv`` beside them may give the columns file, group (the subject) and pixel_mm.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Pictures, (self.path,))  # an open archive cannot be pickled

    @cached_property
    def _zip(self) -> zipfile.ZipFile | None:
        if self.path.is_dir():
            return None
        try:
            return zipfile.ZipFile(self.path)
        except BROKEN_ARCHIVE as error:
            raise ConfigError(f"{self.path}: not a readable zip archive ({error})") from error

    @cached_property
    def _files(self) -> dict[str, str]:
        """Name of the object to name of the file."""
        if self._zip is None:
            files: Iterable[str] = (entry.name for entry in self.path.iterdir() if entry.is_file())
        else:
            files = self._zip.namelist()
        # Some archivers add hidden shadow files.
        visible = (file for file in files if not PurePath(file).name.startswith("."))
        pictures = sorted(file for file in visible if file.lower().endswith(PICTURES))
        if not pictures:
            raise ConfigError(f"{self.path}: no pictures here; wanted {', '.join(PICTURES)}")
        return dict(zip(_unique_stems(self.path, pictures), pictures, strict=True))

    @cached_property
    def _index(self) -> dict[str, dict[str, str]]:
        """Rows of ``index.csv`` by file name; empty without that file."""
        try:
            lines = self._bytes("index.csv").decode().splitlines()
            return {row["file"]: row for row in csv.DictReader(lines) if "file" in row}
        except (KeyError, FileNotFoundError):
            return {}
        except (UnicodeDecodeError, csv.Error, *BROKEN_ARCHIVE) as error:
            raise ConfigError(f"{self.path}: index.csv cannot be read ({error})") from error

    def _bytes(self, file: str) -> bytes:
        if self._zip is None:
            return (self.path / file).read_bytes()
        check_member(self.path, self._zip.getinfo(file))
        return self._zip.read(file)

    def names(self, count: int | None, n_slices: int) -> list[str]:
        """One for each picture."""
        if n_slices != 1:
            raise ConfigError(
                f"{self.path}: pictures are single slices, wanted scans of {n_slices} slices; use "
                "NIfTI files or the phantom for volumes"
            )
        return list(self._files)

    def read(self, name: str, shape: tuple[int, int], n_slices: int, rng: Generator) -> Anatomy:
        """Decode one picture to grey values."""
        file = self._files[name]
        where = str(self.path / file)
        try:
            with Image.open(io.BytesIO(self._bytes(file))) as picture:
                is_grey = picture.mode in ("L", "F", "I") or picture.mode.startswith("I;16")
                pixels = np.asarray(picture if is_grey else picture.convert("L"))
        except (UnidentifiedImageError, OSError, EOFError, *BROKEN_ARCHIVE) as error:
            raise ConfigError(f"{where}: cannot be read as a picture ({error})") from error
        row = self._index.get(file, {})
        return Anatomy(
            _unit_maximum(pixels[None], where),
            subject=row.get("group") or name,
            pixel_mm=_number(row.get("pixel_mm"), where),
        )


class Niftis(ImageSource):
    """NIfTI volumes, cut along their last axis."""

    def __init__(self, files: Iterable[Path]) -> None:
        self.files = sorted(files)
        stems = _unique_stems(self.files[0].parent, [file.name for file in self.files])
        self._by_stem = dict(zip(stems, self.files, strict=True))

    def names(self, count: int | None, n_slices: int) -> list[str]:
        """One for every block of ``n_slices`` neighbouring slices that show anatomy."""
        return [
            f"{stem}_s{first:03d}"
            for stem, file in self._by_stem.items()
            for first in _blocks(_load_nifti(file)[0], n_slices)
        ]

    def read(self, name: str, shape: tuple[int, int], n_slices: int, rng: Generator) -> Anatomy:
        """Cut one block out of its volume."""
        stem, _, first = name.rpartition("_s")
        volume, (pixel, _, thickness) = _load_nifti(self._by_stem[stem])
        block = volume[..., int(first) : int(first) + n_slices]
        img = _unit_maximum(np.moveaxis(block, -1, 0), str(self._by_stem[stem]))
        return Anatomy(img, stem, pixel, thickness)


def open_images(images: str | Path | ImageSource) -> ImageSource:
    """The source called ``images``: a folder, a zip archive, a NIfTI file, or ``"phantom"``.

    Raises:
        ConfigError: there is nothing, or nothing that can be scanned.
    """
    if isinstance(images, ImageSource):
        return images
    if str(images) == "phantom":
        return Phantoms()
    path = Path(images)
    if not path.exists():
        raise ConfigError(
            f"{path}: no such file or folder; give a folder or zip archive of pictures, a NIfTI "
            'file or a folder of them, or "phantom"'
        )
    if path.is_dir():
        niftis = [entry for entry in path.iterdir() if entry.name.lower().endswith(NIFTI)]
        return Niftis(niftis) if niftis else Pictures(path)
    if path.name.lower().endswith(NIFTI):
        return Niftis([path])
    if path.suffix.lower() == ".zip":
        return Pictures(path)
    raise ConfigError(f"{path}: not a folder, a zip archive or a NIfTI file")


def _unique_stems(where: Path, files: list[str]) -> list[str]:
    """File names without suffix, which become scan names and must differ."""
    stems = [
        PurePath(file.removesuffix(".gz")).with_suffix("").as_posix().replace("/", "_")
        for file in files
    ]
    twice = [stem for stem, n in Counter(stems).items() if n > 1]
    if twice:
        raise ConfigError(
            f"{where}: {len(twice)} names occur twice (e.g. {twice[0]!r} with several endings); "
            "rename the files so that every scan has a name of its own"
        )
    return stems


def _number(text: str | None, where: str) -> float | None:
    if not text:
        return None
    try:
        return float(text)
    except ValueError:
        raise ConfigError(f"{where}: index.csv says pixel_mm = {text!r}, not a number") from None


def _unit_maximum(pixels: np.ndarray[Any, Any], where: str) -> Tensor:
    img = torch.from_numpy(np.array(pixels, dtype=np.float32))
    if not bool(torch.isfinite(img).all()) or float(img.min()) < 0:
        raise ConfigError(f"{where}: magnitudes must be finite and not negative")
    if float(img.max()) == 0:
        raise ConfigError(f"{where}: the image is all zero, there is nothing to scan")
    return img / img.max()


@lru_cache(maxsize=1)  # consecutive scans are mostly of one volume
def _load_nifti(file: Path) -> tuple[np.ndarray[Any, Any], tuple[float, ...]]:
    """A volume ``(y, x, slice)`` and its voxel size in mm."""
    import nibabel

    try:
        image: Any = nibabel.load(file)
        volume = np.asarray(image.dataobj, dtype=np.float32)
    except (
        nibabel.filebasedimages.ImageFileError,
        nibabel.spatialimages.HeaderDataError,
        OSError,
        ValueError,
        EOFError,
        zlib.error,
    ) as error:
        raise ConfigError(f"{file}: cannot be read as NIfTI ({error})") from error
    if volume.ndim == 4 and volume.shape[-1] == 1:
        volume = volume[..., 0]
    if volume.ndim != 3:
        raise ConfigError(f"{file}: wanted a volume of three axes, found {volume.shape}")
    # Rows run along the second axis, backwards, so that axial volumes stand upright. Resampled
    # volumes undershoot zero at edges.
    volume = np.rot90(volume).clip(min=0)
    return volume, tuple(float(size) for size in image.header.get_zooms()[:3])


def _blocks(volume: np.ndarray[Any, Any], n_slices: int) -> list[int]:
    """First slice of every block of slices that all show anatomy: a twentieth is bright."""
    bright = (volume > 0.1 * volume.max()).mean(axis=(0, 1)) > 0.05
    starts, first = [], 0
    while first + n_slices <= len(bright):
        if bright[first : first + n_slices].all():
            starts.append(first)
            first += n_slices
        else:
            first += 1
    return starts
