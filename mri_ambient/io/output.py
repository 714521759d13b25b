"""What ``reconstruct`` leaves behind: one HDF5 file a scan that fastMRI's own evaluator reads."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import h5py
import torch
from torch import Tensor

from .._version import __version__
from ..atomic import atomic_path, write_json
from .hdf5 import H5Writer, write_attributes

__all__ = ["RECONSTRUCTION_FORMAT", "WRITERS", "ReconstructionWriter", "atomic_path", "write_json"]

RECONSTRUCTION_FORMAT = "reconstruction/1"
"""Value of the root attribute ``mri_ambient_format``."""


class ReconstructionWriter(H5Writer):
    """Write a reconstruction slice by slice; it appears under its name when the block ends well.

    ====================== ============= ========= ===============================
    dataset                shape         dtype     meaning
    ====================== ============= ========= ===============================
    reconstruction         (slice, y, x) float32   magnitude, in scanner units
    reconstruction_std     (slice, y, x) float32   its standard deviation, if known
    reconstruction_complex (slice, y, x) complex64 the complex image
    ====================== ============= ========= ===============================

    Args:
        path: where the file goes.
        n_slices: how many slices will be written, in any order, each once.
        shape: size of an image ``(y, x)``, the scan's ``recon_shape``.
        attributes: root attributes (method, prior_sha256, acceleration, voxel_mm, ...); those that
            are None are left out.
        with_std: whether every slice comes with a standard deviation.
        with_complex: whether the complex image is kept beside its magnitude.
    """

    def __init__(
        self,
        path: str | Path,
        n_slices: int,
        shape: tuple[int, int],
        *,
        attributes: Mapping[str, object],
        with_std: bool = False,
        with_complex: bool = True,
    ) -> None:
        super().__init__(path)
        self._attributes = attributes
        self._missing = set(range(n_slices))
        kinds = {"reconstruction": "float32"}
        if with_std:
            kinds["reconstruction_std"] = "float32"
        if with_complex:
            kinds["reconstruction_complex"] = "complex64"
        self._kinds, self._shape = kinds, (n_slices, *shape)

    def write(self, index: int, img: Tensor, std: Tensor | None = None) -> None:
        """Write one slice.

        Args:
            index: of the slice in the volume.
            img: complex ``(y, x)`` in scanner units, or real where only a magnitude is kept.
            std: standard deviation of the magnitude, real ``(y, x)``, in the same units.

        Raises:
            ValueError: the slice was written before, has the wrong shape, or lacks a part.
        """
        parts = {"reconstruction": img.abs(), "reconstruction_std": std}
        if img.is_complex():
            parts["reconstruction_complex"] = img
        if index not in self._missing:
            raise ValueError(f"{self.path}: slice {index} was written before or is out of range")
        for name in self._kinds:
            part = parts.get(name)
            if part is None or part.shape != self._shape[1:]:
                found = None if part is None else tuple(part.shape)
                raise ValueError(f"{name} is {found}, wanted {self._shape[1:]}")
            self.file[name][index] = part.numpy(force=True)
        self._missing.remove(index)

    def start(self) -> None:
        """Make the datasets."""
        for name, dtype in self._kinds.items():
            self.create_slices(name, self._shape, dtype)

    def finish(self) -> None:
        """Write the root attributes; every slice must have been written."""
        if self._missing:
            raise ValueError(f"{self.path}: slices {sorted(self._missing)} were never written")
        facts = {"mri_ambient_format": RECONSTRUCTION_FORMAT, "mri_ambient_version": __version__}
        write_attributes(self.file, {**self._attributes, **facts})


def write_samples(path: str | Path, images: Tensor) -> None:
    """Write images drawn from a prior: dataset ``samples``, complex64 ``(image, y, x)``.

    Raises:
        MriAmbientError: the file cannot be written.
    """
    with atomic_path(path) as temporary, h5py.File(temporary, "w") as file:
        file["samples"] = images.to(torch.complex64).numpy(force=True)
        write_attributes(
            file, {"mri_ambient_format": "samples/1", "mri_ambient_version": __version__}
        )


WRITERS: dict[str, type[ReconstructionWriter]] = {"h5": ReconstructionWriter}
"""Output formats by the name ``reconstruct --format`` takes; all write slice by slice."""
