"""Images in HDF5: reconstructions, which fastMRI's evaluator reads too, and samples of a prior."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..._version import __version__
from ...errors import ScanFormatError
from ...runtime.files import json_object
from ..geometry import Geometry
from ..grid import ACQUIRED, Grid
from ..hdf5 import (
    LOCK,
    H5Writer,
    find_dataset,
    open_h5,
    positive,
    read_attributes,
    read_complex,
    read_real,
    voxel_sizes,
    write_attributes,
)
from ..scan_file import Contents

if TYPE_CHECKING:
    from torch import Tensor

RECONSTRUCTION_FORMAT = "reconstruction/1"
"""Value of the root attribute ``mri_ambient_format``."""

SAMPLES_FORMAT = "samples/1"
"""The same of images drawn from a prior."""


class ReconstructionWriter(H5Writer):
    """A reconstruction in HDF5, which fastMRI's evaluator reads, written slice by slice.

    Args:
        path: where it goes; the file appears when the block ends well.
        n_slices: how many slices will be written, in any order, each once.
        shape: size of an image ``(y, x)``, the scan's ``recon_shape``.
        attributes: method, acceleration, voxel_mm, ...; those that are None are left out.
        with_std: whether every slice comes with a standard deviation.
        n_samples: how many samples of every slice are kept.

    ====================== ===================== ========= ===============================
    dataset                shape                 dtype     meaning
    ====================== ===================== ========= ===============================
    reconstruction         (slice, y, x)         float32   magnitude, in scanner units
    reconstruction_std     (slice, y, x)         float32   its standard deviation, if known
    reconstruction_complex (slice, y, x)         complex64 the complex image
    reconstruction_samples (slice, sample, y, x) complex64 its samples, on request
    ====================== ===================== ========= ===============================
    """

    def __init__(
        self,
        path: str | Path,
        n_slices: int,
        shape: tuple[int, int],
        *,
        attributes: Mapping[str, object],
        with_std: bool = False,
        n_samples: int = 0,
    ) -> None:
        super().__init__(path, n_slices)
        self._attributes = attributes
        self._datasets: dict[str, tuple[tuple[int, ...], str]] = {
            "reconstruction": (shape, "float32"),
            "reconstruction_complex": (shape, "complex64"),
        }
        if with_std:
            self._datasets["reconstruction_std"] = (shape, "float32")
        if n_samples:
            self._datasets["reconstruction_samples"] = ((n_samples, *shape), "complex64")

    def write(
        self, index: int, img: Tensor, std: Tensor | None = None, samples: Tensor | None = None
    ) -> None:
        """Write one slice, with the parts that were announced.

        Args:
            index: of the slice in the volume.
            img: complex ``(y, x)`` in scanner units.
            std: standard deviation of the magnitude, real ``(y, x)``, in the same units.
            samples: complex ``(sample, y, x)``.
        """
        parts = {
            "reconstruction": img.abs(),
            "reconstruction_std": std,
            "reconstruction_complex": img if img.is_complex() else None,
            "reconstruction_samples": samples,
        }
        images = {}
        for name, (shape, _) in self._datasets.items():
            part = parts[name]
            if part is None or part.shape != shape:
                found = None if part is None else tuple(part.shape)
                raise ValueError(f"{name} is {found}, wanted {shape}")
            images[name] = part.numpy(force=True)
        self.mark_written((index,))
        with LOCK:
            for name, image in images.items():
                self.file[name][index] = image

    def start(self) -> None:
        """Make the datasets."""
        for name, (shape, dtype) in self._datasets.items():
            self.create_slices(name, (self.n_slices, *shape), dtype)

    def finish(self) -> None:
        """Write the root attributes."""
        facts = {"mri_ambient_format": RECONSTRUCTION_FORMAT, "mri_ambient_version": __version__}
        write_attributes(self.file, {**self._attributes, **facts})


class ReconstructionFile:
    """A reconstruction on disk, from which those in other formats are made.

    Attributes:
        path: the file; its stem names what is made from it.
        shape: ``(slice, y, x)``.
        has_std: whether every slice comes with a standard deviation.
        attributes: scan_id, method, acceleration and other facts, plain values.
        settings: what decided the images.
        voxel_mm: voxel size ``(y, x, slice)``, or None; the last is the distance of the slices.
        geometry: where the slices lie in the patient, or None.
        thickness_mm: thickness of a slice, or None.

    Raises:
        ScanFormatError: the file is damaged or is not a reconstruction.
    """

    geometry: Geometry | None = None
    voxel_mm: tuple[float, float, float] | None = None
    thickness_mm: float | None = None

    def __init__(self, path: str | Path) -> None:
        """Read the facts, no images."""
        self.path = Path(path)
        with open_h5(self.path, for_text=True) as file:
            attributes = read_attributes(file)
            if attributes.pop("mri_ambient_format", None) != RECONSTRUCTION_FORMAT:
                raise ScanFormatError(f"{path}: is not a reconstruction of mri-ambient")
            shape = find_dataset(file, "reconstruction").shape
            if len(shape or ()) != 3 or 0 in shape:
                raise ScanFormatError(f"{path}: images are {shape}, wanted (slice, y, x)")
            self.shape: tuple[int, int, int] = shape
            self.has_std = "reconstruction_std" in file
        try:
            self._read_facts(attributes)
        except (KeyError, TypeError, ValueError) as error:
            raise ScanFormatError(f"{path}: its attributes are damaged ({error})") from error
        self.attributes = attributes

    def _read_facts(self, attributes: dict[str, Any]) -> None:
        self.settings = json_object(str(attributes.pop("settings", "{}")))
        if (geometry := attributes.pop("geometry", None)) is not None:
            self.geometry = Geometry.from_text(str(geometry))
        if (sizes := attributes.pop("voxel_mm", None)) is not None:
            self.voxel_mm = voxel_sizes(sizes)
        if (thickness := attributes.get("thickness_mm")) is not None:
            self.thickness_mm = positive(thickness)

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def grid(self) -> Grid:
        """The pixels of its images, and where they lie."""
        source = str(self.attributes.get("orientation_source", ACQUIRED))
        return Grid(self.shape, self.voxel_mm, self.geometry, source)

    @cached_property
    def report(self) -> dict[str, Any]:
        """The report beside it, ``<stem>.json``; empty if it is not there."""
        path = self.path.with_suffix(".json")
        try:
            return json_object(path.read_bytes()) if path.exists() else {}
        except (OSError, ValueError) as error:
            raise ScanFormatError(
                f"{path}: cannot be read ({error}); reconstruct the scan again"
            ) from error

    def parts(self, wanted: Sequence[str]) -> list[str]:
        """Those of "mag", "phase" and "std" that are wanted and there."""
        return [part for part in wanted if part != "std" or self.has_std]

    def read_part(self, part: str, index: int) -> NDArray[np.float32]:
        """The magnitude, the phase in radians, or the standard deviation of a slice, ``(y, x)``."""
        if part == "std":
            return self.read_std(index).astype(np.float32, copy=False)
        img = self.read(index)
        return np.abs(img) if part == "mag" else np.angle(img)

    def read(self, index: int) -> NDArray[np.complex64]:
        """The image of a slice in scanner units, complex64 ``(y, x)``."""
        with open_h5(self.path) as file:
            return read_complex(find_dataset(file, "reconstruction_complex"), index)

    def read_std(self, index: int) -> NDArray[np.floating[Any]]:
        """The standard deviation of a slice's magnitude, ``(y, x)``."""
        with open_h5(self.path) as file:
            return read_real(find_dataset(file, "reconstruction_std"), index)


def write_samples(path: str | Path, images: Tensor, attributes: Mapping[str, object]) -> None:
    """Write complex images ``(image, y, x)`` in normalised units, completely or not at all."""
    facts = {"mri_ambient_format": SAMPLES_FORMAT, "mri_ambient_version": __version__}
    with LOCK, H5Writer(path) as out:
        out.create_slices("samples", tuple(images.shape), "complex64")
        for index, img in enumerate(images):
            out.file["samples"][index] = img.numpy(force=True).astype(np.complex64)
        write_attributes(out.file, {**attributes, **facts})


def read_samples(path: Path, index: int) -> NDArray[np.complex64]:
    """Image ``index`` of a file made by :func:`write_samples`, complex64 ``(y, x)``."""
    with open_h5(path) as file:
        dataset = find_dataset(file, "samples")
        if dataset.ndim != 3 or not index < dataset.shape[0]:
            raise ScanFormatError(f"{path}: samples are {dataset.shape}, wanted image {index}")
        return read_complex(dataset, index)


def describe_output(path: Path) -> dict[str, object] | None:
    """The facts in a file written by ``reconstruct`` or ``sample``; None for other files."""
    if Contents(path).tag not in (RECONSTRUCTION_FORMAT, SAMPLES_FORMAT):
        return None
    with open_h5(path, for_text=True) as file:
        attributes = read_attributes(file)
        images = {name: list(file[name].shape) for name in file}
    settings = attributes.pop("settings", None)
    facts: dict[str, object] = {**attributes, "images": images}
    try:
        return facts if settings is None else facts | {"settings": json_object(str(settings))}
    except ValueError as error:
        raise ScanFormatError(f"{path}: its settings are damaged ({error})") from error
