"""ISMRMRD (MRD), the vendor-neutral format of raw data (Inati et al. 2017, doi:10.1002/mrm.26089).

A group, usually called ``dataset``, holds ``xml``, the header, and ``data``, a record a readout.
Records are read by the names of their fields, since some writers pad them; the package ``ismrmrd``
reads such records at the wrong places.

Used are the readouts of the image, with the calibration lines of the same measurement (calibration
mode embedded, interleaved or not given), noise measurements, and positions. Navigators, phase
correction, dummy scans and separate calibration scans are left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import ScanFormatError
from .hdf5 import check_finite, find_dataset, open_h5, read_text
from .header import Header, parse_header
from .readouts import VOLUME_COUNTERS, ReadoutFile, Readouts
from .scan_file import Contents

NOISE, CALIBRATION, REVERSE = 19, 20, 22
"""Flags of a readout, numbered as in the standard: noise, calibration only, acquired backwards."""

OTHERS = (23, 24, 26, 27, 28, 29)
"""Flags of readouts that belong to no image: navigator, phase correction, HP feedback, dummy scan,
RT feedback, surface coil correction."""

HEAD = (
    "flags", "active_channels", "number_of_samples", "center_sample", "discard_pre",
    "discard_post", "encoding_space_ref", "sample_time_us", "position", "slice_dir", "idx",
)  # fmt: skip
COUNTERS = ("kspace_encode_step_1", "kspace_encode_step_2", "slice", *VOLUME_COUNTERS.values())
"""What is read of every record's head, and of the counters in it."""


class MrdFile(ReadoutFile):
    """A volume of an ISMRMRD file.

    Args:
        path: the file.
        volume: name of the volume, if there are several, e.g. ``con-1_rep-2``.

    Raises:
        ScanFormatError: the file is damaged, is not Cartesian, or holds several volumes.
    """

    format = "ismrmrd"
    suffixes = (".h5", ".hdf5", ".mrd")
    options = frozenset({"volume"})

    @classmethod
    def recognises(cls, contents: Contents) -> bool:
        """Whether a group of the file holds a header and readouts."""
        return not contents.tag and contents.group_with("xml", "data") is not None

    @classmethod
    def volumes_in(cls, path: Path, **_: Any) -> tuple[str, ...]:  # noqa: ANN401
        """Names of the volumes of a file, ``("",)`` for a single one."""
        return tuple(_Index.read(path).readouts.volumes())

    def __init__(self, path: str | Path, volume: str | None = None) -> None:
        """Read header and counters, no samples."""
        super().__init__(path)
        index = _Index.read(self.path)
        self._group, self.readouts = index.group, index.readouts
        self.choose_volume(volume)
        self._set_geometry(index.header, index.head)
        noise = np.flatnonzero(_has(index.flags, NOISE))
        self.noise = self._read_noise(noise, index.head, index.header)

    def _set_geometry(self, header: Header, head: NDArray[np.void]) -> None:
        n_coils = np.unique(head["active_channels"][self.readouts.row])
        if len(n_coils) > 1:
            raise ScanFormatError(
                f"{self.path}: readouts have {n_coils.tolist()} coils, wanted one number of coils"
            )
        ny, nx = header.encoded_shape
        longest = int(self.readouts.n_samples.max())
        if longest > ny:
            raise ScanFormatError(
                f"{self.path}: readouts have up to {longest} samples, the header gives an encoded "
                f"matrix of {ny}; the header belongs to other data"
            )
        short, center = self.readouts.n_samples < ny, self.readouts.center
        if bool((short & ((center < 0) | (center >= self.readouts.n_samples))).any()):
            raise ScanFormatError(
                f"{self.path}: readouts of fewer than {ny} samples have their centre outside of "
                "them; the file is damaged"
            )
        n_slices = len(np.unique(self.readouts.slice))
        self.shape = (n_slices, int(n_coils[0]), ny, nx)
        self.check_columns()
        self.header_xml, self.padding, self.voxel_mm = header.xml, header.padding, header.voxel_mm
        self.nominal_oversampling = header.readout_oversampling
        self.recon_shape = header.final_matrix((round(ny / self.nominal_oversampling), nx))

    def _read_noise(
        self, rows: NDArray[np.int64], head: NDArray[np.void], header: Header
    ) -> Tensor | None:
        """Noise measurements, scaled to the bandwidth of the image's readouts.

        The power of noise is inversely proportional to the dwell time of a sample; filters leave
        ``relativeReceiverNoiseBandwidth`` of it in a noise measurement.
        """
        rows = rows[head["active_channels"][rows] == self.shape[1]]
        if not len(rows):
            return None
        samples = np.concatenate(list(self.read_samples(rows.tolist())), axis=1)
        check_finite(samples, f"{self.path}: noise measurement")
        own = float(head["sample_time_us"][rows[0]])
        image = float(head["sample_time_us"][self.readouts.row[0]])
        if own > 0 and image > 0:
            samples = samples * np.float32(np.sqrt(own / (image * header.noise_bandwidth)))
        if samples.shape[1] <= self.shape[1]:
            return None
        return torch.from_numpy(samples)

    def read_samples(self, rows: Sequence[int]) -> Iterator[NDArray[np.complex64]]:
        """The samples of records, each ``(coil, sample)``."""
        with open_h5(self.path) as file:
            data = find_dataset(file, f"{self._group}/data")
            for first, last in _runs(rows):
                heads = data.fields("head")[first:last]
                for head, values in zip(heads, data.fields("data")[first:last], strict=True):
                    shape = (int(head["active_channels"]), int(head["number_of_samples"]))
                    if values.size != 2 * shape[0] * shape[1]:
                        raise ScanFormatError(
                            f"{self.path}: a readout holds {values.size} numbers, its header says "
                            f"{shape[0]} coils with {shape[1]} complex samples; the file is damaged"
                        )
                    samples = values.astype(np.float32, copy=False).view(np.complex64)
                    end = shape[1] - int(head["discard_post"])
                    kept = samples.reshape(shape).copy()
                    kept[:, : int(head["discard_pre"])] = 0
                    kept[:, end:] = 0
                    yield kept


@dataclass(frozen=True)
class _Index:
    """What a file holds, without samples.

    Attributes:
        group: name of the group.
        header: of the file.
        head: of every readout.
        readouts: those of images, of all volumes.
    """

    group: str
    header: Header
    head: NDArray[np.void]
    readouts: Readouts

    @property
    def flags(self) -> NDArray[np.int64]:
        """Of every readout."""
        return self.head["flags"].astype(np.int64)

    @classmethod
    def read(cls, path: Path) -> _Index:
        group = Contents(path).group_with("xml", "data") or "dataset"
        with open_h5(path, for_text=True) as file:
            header = _read_header(path, find_dataset(file, f"{group}/xml"))
            head = _read_heads(path, find_dataset(file, f"{group}/data"))
        return cls(group, header, head, _image_readouts(path, head, header))


def _read_header(path: Path, xml: h5py.Dataset) -> Header:
    try:
        header = parse_header(read_text(xml))
    except ScanFormatError as error:
        raise ScanFormatError(f"{path}: {error}") from error
    if header.trajectory not in ("cartesian", ""):
        raise ScanFormatError(
            f"{path}: not supported: trajectory {header.trajectory!r}; only Cartesian "
            "readouts can be reconstructed"
        )
    return header


def _read_heads(path: Path, data: h5py.Dataset) -> NDArray[np.void]:
    names = data.dtype.names or ()
    if not {"head", "data"} <= set(names) or data.ndim != 1 or data.shape[0] == 0:
        raise ScanFormatError(f"{path}: {data.name} holds no readouts")
    stored = data.dtype["head"].names or ()
    if not set(HEAD) <= set(stored) or not set(COUNTERS) <= set(data.dtype["head"]["idx"].names):
        raise ScanFormatError(
            f"{path}: readouts in {data.name} lack facts of ISMRMRD; found {', '.join(stored)}"
        )
    heads: NDArray[np.void] = data.fields("head")[:]
    return heads


def _image_readouts(path: Path, head: NDArray[np.void], header: Header) -> Readouts:
    flags = head["flags"].astype(np.int64)
    separate = header.calibration_mode in ("separate", "external")
    left_out = _has(flags, NOISE, *OTHERS) | (_has(flags, CALIBRATION) & separate)
    row = np.flatnonzero(~left_out)
    if not len(row):
        raise ScanFormatError(f"{path}: holds no readouts of an image")
    head = head[row]
    spaces = np.unique(head["encoding_space_ref"]).tolist()
    if len(spaces) > 1:
        raise ScanFormatError(
            f"{path}: not supported: readouts of {len(spaces)} encoding spaces in one file"
        )
    if head["idx"]["kspace_encode_step_2"].max() > 0:
        raise ScanFormatError(f"{path}: not supported yet: 3-D encoding")
    reverse = _has(flags[row], REVERSE)
    n_samples = head["number_of_samples"].astype(int)
    center = head["center_sample"].astype(int)
    step = head["idx"]["kspace_encode_step_1"].astype(int)
    return Readouts(
        row=row,
        column=step + header.first_column,
        slice=head["idx"]["slice"].astype(int),
        counters={name: head["idx"][name].astype(int) for name in VOLUME_COUNTERS.values()},
        n_samples=n_samples,
        center=np.where(reverse, n_samples - 1 - center, center),
        reverse=reverse,
        position=head["position"].astype(float),
        normal=head["slice_dir"].astype(float),
    )


def _has(flags: NDArray[np.int64], *wanted: int) -> NDArray[np.bool_]:
    """Whether one of these flags, counted from 1, is set."""
    found: NDArray[np.bool_] = (flags & sum(1 << (flag - 1) for flag in wanted)) != 0
    return found


def _runs(rows: Sequence[int], most: int = 256) -> Iterator[tuple[int, int]]:
    """Rows as runs ``[first, last)`` of neighbours: HDF5 reads these at once."""
    first = 0
    for i in range(1, len(rows) + 1):
        if i == len(rows) or rows[i] != rows[i - 1] + 1 or i - first == most:
            yield rows[first], rows[i - 1] + 1
            first = i
