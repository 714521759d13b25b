"""ISMRMRD (MRD), the vendor-neutral format of raw data (Inati et al. 2017, doi:10.1002/mrm.26089).

A group, usually called ``dataset``, holds ``xml``, the header, and ``data``, a record a readout.
Records are read by the names of their fields, since some writers pad them; the package ``ismrmrd``
reads such records at the wrong places.

Used are the readouts of the image, calibration lines, noise measurements, positions and directions.
Navigators, phase correction and dummy scans are left out. Which readouts are which:
:mod:`~mri_ambient.io.formats.mrd_index`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import ScanFormatError, warn
from ..grid import REVERSED
from ..hdf5 import check_finite, find_dataset, open_h5
from ..header import Header
from ..scan_file import Contents
from .mrd_index import MrdIndex, find_groups
from .readouts import Matrix, ReadoutFile, Readouts

AT_ONCE = 64
"""Records that are read together."""


class MrdFile(ReadoutFile):
    """A volume of an ISMRMRD file.

    Args:
        path: the file.
        volume: name of the volume, if there are several, e.g. ``con-1_rep-2``.
        dataset: name of the group, if there are several with images.

    Raises:
        ScanFormatError: the file is damaged, is not Cartesian, or holds several volumes.
    """

    format = "ismrmrd"
    suffixes = (".h5", ".hdf5", ".mrd")
    options = frozenset({"volume", "dataset"})

    @classmethod
    def recognises(cls, contents: Contents) -> bool:
        """Whether a group of the file holds a header, or images."""
        return not contents.tag and bool(
            contents.groups_with("xml") or contents.groups_with("image_0")
        )

    @classmethod
    def volumes_in(cls, path: Path, dataset: str | None = None, **_: Any) -> tuple[str, ...]:  # noqa: ANN401
        """Names of the volumes of a file, ``("",)`` for a single one."""
        group, _noise = find_groups(path, dataset)
        return tuple(MrdIndex.read(path, group).readouts.volumes())

    def __init__(
        self, path: str | Path, volume: str | None = None, dataset: str | None = None
    ) -> None:
        """Read header and counters, no samples."""
        super().__init__(path)
        self._group, noise_group = find_groups(self.path, dataset)
        index = MrdIndex.read(self.path, self._group)
        if not len(index.readouts):
            raise ScanFormatError(f"{self.path}: holds no readouts of an image")
        self.take_header(index.header.xml)
        self.readouts, self._head = index.readouts, index.head
        self.calibration = index.calibration
        self.choose_volume(volume)
        if index.is_interleaved(self.readouts):
            self.calibration = index.readouts.over_time().belonging_to(self.readouts)
        n_coils = self._count_coils(index)
        matrix = _matrix(index.header, is_3d=self.readouts.is_3d)
        self.lay_out(_without_oversampling(matrix, self.readouts), n_coils)
        if self.geometry is not None and index.header.rise < 0:
            self.attributes["orientation_source"] = REVERSED
        index.check_completeness(self.readouts, n_coils)
        noise = index if noise_group is None else MrdIndex.read(self.path, noise_group)
        self.noise = self.noise_of_mean(self._read_noise(noise, index))

    def _count_coils(self, index: MrdIndex) -> int:
        """Number of coils of the image; calibration lines of others are left out."""
        channels = index.head["active_channels"]
        n_coils = np.unique(channels[self.readouts.row])
        if len(n_coils) > 1:
            raise ScanFormatError(
                f"{self.path}: readouts have {n_coils.tolist()} coils, wanted one number of coils"
            )
        if self.calibration is not None:
            others = np.unique(channels[self.calibration.row])
            if others.tolist() != n_coils.tolist():
                warn(
                    "W-CALIBRATION-LINES",
                    f"{self.path.name}: calibration lines have {others.tolist()} coils, the image "
                    f"has {n_coils[0]}; they are not used",
                )
                self.calibration = None
        return int(n_coils[0])

    def _read_noise(self, source: MrdIndex, image: MrdIndex) -> NDArray[np.complex64] | None:
        """Noise measurements, scaled to the bandwidth of the image's readouts.

        The power of noise is inversely proportional to the dwell time of a sample; filters leave
        ``relativeReceiverNoiseBandwidth`` of it in a noise measurement.
        """
        rows = source.noise_rows[source.head["active_channels"][source.noise_rows] == self.shape[1]]
        if not len(rows):
            return None
        parts = _read_records(self.path, source.group, source.head, rows.tolist())
        samples = np.concatenate(list(parts), axis=1)
        check_finite(samples, f"{self.path}: noise measurement")
        own = float(source.head["sample_time_us"][rows[0]])
        wanted = float(image.head["sample_time_us"][self.readouts.row[0]])
        if own > 0 and wanted > 0:
            power = own / (wanted * source.header.noise_bandwidth)
            samples = samples * np.float32(np.sqrt(power))
        if samples.shape[1] <= self.shape[1]:
            return None
        return samples

    def read_samples(self, rows: Sequence[int]) -> Iterator[NDArray[np.complex64]]:
        """The samples of records, each ``(coil, sample)``."""
        return _read_records(self.path, self._group, self._head, rows)


def _matrix(header: Header, *, is_3d: bool) -> Matrix:
    ny, nx = header.encoded_shape
    z, voxel_mm = header.partitions, header.voxel_mm
    if not is_3d:
        sizes = (ny, nx, 1), (*header.final_matrix, 1)
    else:
        sizes = (ny, nx, z.n_encoded), (*header.final_matrix, z.n_recon)
        if voxel_mm is not None and z.encoded_mm is not None:
            voxel_mm = (*voxel_mm[:2], z.encoded_mm / z.n_encoded)
    return Matrix(
        *sizes, voxel_mm, header.readout_oversampling, padding=(header.padding, z.padding)
    )


def _without_oversampling(matrix: Matrix, readouts: Readouts) -> Matrix:
    """The matrix of readouts whose oversampling was removed, which the header still describes.

    As by Gadgetron: all of them are shorter by this factor, and k = 0 is in their middle.
    """
    rows = round(matrix.encoded[0] / matrix.oversampling)
    center = readouts.center[(readouts.center > 0) & (readouts.center < rows - 1)]
    if (readouts.n_samples != rows).any() or (abs(center - rows // 2) > 1).any():
        return matrix
    return replace(matrix, encoded=(rows, *matrix.encoded[1:]), oversampling=1.0)


def _read_records(
    path: Path, group: str, heads: NDArray[np.void], rows: Sequence[int]
) -> Iterator[NDArray[np.complex64]]:
    """Samples ``(coil, sample)`` of records, rows rising."""
    for start in range(0, len(rows), AT_ONCE):
        chosen = rows[start : start + AT_ONCE]
        with open_h5(path) as file:  # not while it waits for its next call
            # Single records take HDF5 three times as long.
            records = find_dataset(file, f"{group}/data").fields("data")[chosen]
        for head, values in zip(heads[chosen], records, strict=True):
            shape = (int(head["active_channels"]), int(head["number_of_samples"]))
            if values.size != 2 * shape[0] * shape[1]:
                raise ScanFormatError(
                    f"{path}: a readout holds {values.size} numbers, its header says "
                    f"{shape[0]} coils with {shape[1]} complex samples; the file is damaged"
                )
            samples = values.astype(np.float32, copy=False).view(np.complex64).reshape(shape)
            samples[:, : int(head["discard_pre"])] = 0
            samples[:, shape[1] - int(head["discard_post"]) :] = 0
            yield samples
