"""What every reader offers: a file opened, its facts known, its slices still on disk."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from ..errors import ConfigError, ScanFormatError
from ..physics.masks import MaskSpec, achieved_acceleration
from ..rng import rng_for
from ..runtime.files import file_sha256
from ..scan import Scan
from .hdf5 import open_h5, read_attribute


class Contents:
    """A file for the sniffers to judge, looked into no further than they ask, and only once.

    Args:
        path: the file; a format that is not HDF5 is known by its name, or by what stands in it.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    @property
    def tag(self) -> str:
        """The root attribute ``mri_ambient_format``; empty if there is none, or no HDF5."""
        return self._hdf5[0]

    @property
    def names(self) -> tuple[str, ...]:
        """What the root group holds; empty if the file is no HDF5 that can be read."""
        return self._hdf5[1]

    @property
    def error(self) -> ScanFormatError | None:
        """Why the file cannot be read as HDF5 (missing, damaged, another format, ...), or None."""
        return self._hdf5[2]

    @cached_property
    def _hdf5(self) -> tuple[str, tuple[str, ...], ScanFormatError | None]:
        try:
            with open_h5(self.path, for_text=True) as file:
                tagged = "mri_ambient_format" in file.attrs
                tag = str(read_attribute(file, "mri_ambient_format")) if tagged else ""
                return tag, tuple(sorted(file)), None
        except ScanFormatError as error:
            return "", (), error


class ScanFile(ABC):
    """A scan on disk. ``len(file)`` slices; ``file[i]`` reads slice ``i`` (or a range) as a Scan.

    Attributes:
        format: name of the file format, as ``mri-ambient info`` prints it.
        suffixes: of the files that are tried where a folder is given.
        path: the file.
        scan_id: stem of the raw file; random streams are named after it.
        shape: ``(slice, coil, y, x)``.
        recon_shape: the scanner's final matrix ``(y, x)``, never larger than ``shape``.
        voxel_mm: voxel size ``(y, x, slice)`` of the final image, or None.
        nominal_oversampling: encoded over final field of view along y, as the header says.
        noise: noise-only samples, complex ``(coil, sample)``, or None.
        header_xml: the ISMRMRD header text, or None.
        attributes: whatever else the file says about itself (acquisition, patient_id, ...).
    """

    format: ClassVar[str]
    suffixes: ClassVar[tuple[str, ...]] = (".h5", ".hdf5")
    path: Path
    scan_id: str
    shape: tuple[int, int, int, int]
    recon_shape: tuple[int, int]
    voxel_mm: tuple[float, float, float] | None = None
    nominal_oversampling: float = 1.0
    noise: Tensor | None = None
    header_xml: str | None = None
    attributes: dict[str, object]

    def __init__(self, path: str | Path) -> None:
        """Readers read the facts here, and no slices."""
        self.path = Path(path)
        self.scan_id = self.path.stem

    @cached_property
    def sha256(self) -> str:
        """Hash of the file."""
        return file_sha256(self.path)

    @cached_property
    def source_sha256(self) -> str:
        """Hash of the file, or of the one it was prepared from."""
        return self.sha256

    @cached_property
    def mask(self) -> Tensor:
        """Sampled positions, bool ``(1, y, x)``; streamed over the slices if the data must tell."""
        return self._find_mask()

    @cached_property
    def acquired(self) -> Tensor:
        """Bool ``(x,)``: False for columns the scanner never acquires."""
        return torch.ones(self.shape[-1], dtype=torch.bool)

    @property
    def readout_oversampling(self) -> float:
        """Encoded over final field of view along y; 1.0 if there is none that can be removed.

        Only a readout of which every row was sampled can be cropped in the image domain: otherwise
        the rows alias into each other, or the sampling is not a pattern of lines afterwards.
        """
        plane = self.mask[0]
        readout_is_full = bool((plane.all(dim=0) == plane.any(dim=0)).all())
        return self.nominal_oversampling if readout_is_full else 1.0

    @abstractmethod
    def _find_mask(self) -> Tensor: ...

    @abstractmethod
    def read_ksp(self, index: int) -> Tensor:
        """K-space of one slice, complex64 ``(coil, y, x)``, checked to be finite; a new tensor."""

    def read_target(self, name: str) -> Tensor | None:
        """A reference volume in the file (e.g. ``reconstruction_rss``), ``(slice, y, x)``."""
        return None

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: int | slice) -> Scan:
        chosen = self._chosen(index)
        mask = self.mask  # found before the slices take up memory, which they do only once
        return Scan(
            ksp=stacked(self.read_ksp, chosen).masked_fill_(~mask, 0),
            mask=mask,
            scan_id=self.scan_id,
            slices=chosen,
            recon_shape=self.recon_shape,
            acquired=self.acquired,
            noise=self.noise,
            voxel_mm=self.voxel_mm,
            steps=("read",),
        )

    def _chosen(self, index: int | slice) -> tuple[int, ...]:
        slices = range(len(self))[index]
        chosen = tuple(slices) if isinstance(slices, range) else (slices,)
        if not chosen:
            raise IndexError(f"{self.path}: no slice in {index} of {len(self)}")
        return chosen

    def __iter__(self) -> Iterator[Scan]:
        return (self[i] for i in range(len(self)))

    @property
    def acceleration(self) -> float:
        """The achieved acceleration."""
        return achieved_acceleration(self.mask, self.acquired)

    @property
    def fully_sampled(self) -> bool:
        """Whether every acquired column holds samples in every acquired row."""
        plane = self.mask[0]
        return bool((plane == (plane.any(dim=-1)[:, None] & self.acquired)).all())


def stacked(read: Callable[[int], Tensor], slices: tuple[int, ...]) -> Tensor:
    """What ``read`` gives for each slice, ``(slice, ...)``, with at most one spare copy of one."""
    first = read(slices[0])[None]
    if len(slices) == 1:
        return first
    out = first.new_empty((len(slices), *first.shape[1:]))
    out[0] = first[0]
    for position, index in enumerate(slices[1:], start=1):
        out[position] = read(index)
    return out


class Undersampled(ScanFile):
    """A fully sampled file seen through a mask: what was not selected is never handed on.

    The mask applies immediately after reading, so everything later (noise, coil compression, maps,
    scale, reconstruction) sees an undersampled scan and nothing else.
    """

    def __init__(self, full: ScanFile, spec: MaskSpec, seed: int) -> None:
        if full.format == "prepared":
            raise ConfigError(
                f"{full.path}: prepared already, with maps and scale from all of its samples; a "
                "retrospective mask needs the raw scan"
            )
        if not full.fully_sampled:
            raise ConfigError(
                f"{full.path}: a retrospective mask needs a fully sampled scan, but this one is "
                f"undersampled already (R = {full.acceleration:.2f}); leave out --retrospective"
            )
        self._full = full
        self.format = full.format  # type: ignore[misc]
        for name in (
            "path", "scan_id", "shape", "recon_shape", "acquired", "voxel_mm",
            "nominal_oversampling", "noise", "header_xml", "attributes",
        ):  # fmt: skip
            setattr(self, name, getattr(full, name))
        drawn = spec.draw(full.shape[-2:], rng_for(seed, full.scan_id), full.acquired)
        self.__dict__["mask"] = drawn & full.mask

    def _find_mask(self) -> Tensor:
        return self.mask

    def read_ksp(self, index: int) -> Tensor:
        """The selected samples of one slice, complex64 ``(coil, y, x)``."""
        return self._full.read_ksp(index).masked_fill_(~self.mask[0], 0)
