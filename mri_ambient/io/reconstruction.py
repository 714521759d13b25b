"""Images in HDF5: reconstructions, which fastMRI's evaluator reads too, and samples of a prior."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .._version import __version__
from ..errors import ScanFormatError
from .hdf5 import H5Writer, find_dataset, open_h5, read_attributes, read_complex, write_attributes

RECONSTRUCTION_FORMAT = "reconstruction/1"
"""Value of the root attribute ``mri_ambient_format``."""

SAMPLES_FORMAT = "samples/1"
"""The same of images drawn from a prior."""


class ReconstructionWriter(H5Writer):
    """A reconstruction in HDF5, which fastMRI's evaluator reads.

    Arguments: see :class:`~mri_ambient.io.writers.VolumeWriter`.

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
        """See :meth:`~mri_ambient.io.writers.VolumeWriter.write`."""
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

    @staticmethod
    def settings_of(path: Path) -> dict[str, Any] | None:
        """See :meth:`~mri_ambient.io.writers.VolumeWriter.settings_of`."""
        try:
            with open_h5(path, for_text=True) as file:
                attributes = read_attributes(file)
        except ScanFormatError:
            return None
        if attributes.get("mri_ambient_format") != RECONSTRUCTION_FORMAT:
            return None
        settings: dict[str, Any] = json.loads(str(attributes.get("settings", "{}")))
        return settings


def write_samples(path: str | Path, images: Tensor, attributes: Mapping[str, object]) -> None:
    """Write complex images ``(image, y, x)`` in normalised units, completely or not at all."""
    facts = {"mri_ambient_format": SAMPLES_FORMAT, "mri_ambient_version": __version__}
    with H5Writer(path) as out:
        out.create_slices("samples", tuple(images.shape), "complex64")
        for index, img in enumerate(images):
            out.file["samples"][index] = img.to(torch.complex64).numpy(force=True)
        write_attributes(out.file, {**attributes, **facts})


def read_samples(path: Path, index: int) -> Tensor:
    """Image ``index`` of a file made by :func:`write_samples`, complex64 ``(y, x)``."""
    with open_h5(path) as file:
        dataset = find_dataset(file, "samples")
        if dataset.ndim != 3 or not index < dataset.shape[0]:
            raise ScanFormatError(f"{path}: samples are {dataset.shape}, wanted image {index}")
        return torch.from_numpy(read_complex(dataset, index))


def describe_output(path: Path) -> dict[str, object] | None:
    """The facts in a file written by ``reconstruct`` or ``sample``; None for other files."""
    with open_h5(path, for_text=True) as file:
        attributes = read_attributes(file)
        if attributes.get("mri_ambient_format") not in (RECONSTRUCTION_FORMAT, SAMPLES_FORMAT):
            return None
        images = {name: list(file[name].shape) for name in file}
    settings = attributes.pop("settings", None)
    facts: dict[str, object] = {**attributes, "images": images}
    try:
        return facts if settings is None else facts | {"settings": json.loads(str(settings))}
    except ValueError as error:
        raise ScanFormatError(f"{path}: its settings are damaged ({error})") from error
