"""Writing ISMRMRD (MRD): raw scans as readouts, reconstructions as images.

The layouts are those of the package ``ismrmrd``. In both, the readout is the standard's x.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree

import h5py
import numpy as np
from numpy.typing import NDArray

from ...errors import ScanFormatError
from ...physics.crop import center_crop
from ...physics.patterns import calibration_block
from ..formats.mrd_index import CALIBRATION, NOISE
from ..geometry import Geometry, crop_shift
from ..hdf5 import LOCK, H5Writer
from ..header import parse_header
from ..scan_file import ScanFile, header_of
from .reconstruction import ReconstructionFile
from .save_options import SaveOptions, Writer

GROUP = "dataset"
"""Name of the group; programs expect this one."""

FIRST_IN_SLICE, LAST_IN_SLICE = 7, 8
"""Flags of a readout, numbered as in the standard."""

NOISE_LINE = 256
"""Noise samples in a record."""

IMAGE_TYPES = {"mag": 1, "phase": 2, "std": 1}
"""The standard's numbers: magnitude 1, phase 2."""

FLOAT = 5
"""The standard's number of single precision."""


def _layout() -> ModuleType:
    """The record types of the package, which takes a while to import."""
    return import_module("ismrmrd.hdf5")


class _MrdWriter(H5Writer):
    """A group with a header and records, which are appended."""

    def __init__(self, path: Path, xml: str) -> None:
        super().__init__(path)
        self._xml = xml

    def start(self) -> None:
        """Write the header, and make room for records."""
        group = self.file.create_group(GROUP)
        group.create_dataset("xml", data=[self._xml.encode()], dtype=h5py.special_dtype(vlen=bytes))
        self.records = group.create_dataset(
            "data", (0,), maxshape=(None,), dtype=_layout().acquisition_dtype, chunks=(64,)
        )

    def append(self, heads: NDArray[np.void], samples: Iterator[NDArray[np.complex64]]) -> None:
        """Records of one slice: heads, and samples ``(coil, sample)`` of each."""
        first = len(self.records)
        records = np.zeros(len(heads), _layout().acquisition_dtype)
        records["head"] = heads
        for record, values in zip(records, samples, strict=True):
            record["traj"] = np.zeros(0, np.float32)
            record["data"] = np.ascontiguousarray(values).view(np.float32).ravel()
        with LOCK:
            self.records.resize(first + len(heads), axis=0)
            self.records[first:] = records


def write_mrd(file: ScanFile, path: Path) -> None:
    """Write a scan as ISMRMRD: a record for every phase-encode line that was sampled.

    Slices are counted in their order; of a 2-D mask, lines are written with zeros in between.
    """
    xml, geometry = header_of(file), _encoded_geometry(file)
    header = parse_header(xml)
    first_column = header.first_column
    with _MrdWriter(path, xml) as out:
        if file.noise is not None:
            lines = file.noise
            cuts = range(0, lines.shape[1] - lines.shape[1] % NOISE_LINE, NOISE_LINE)
            noise = [lines[:, cut : cut + NOISE_LINE] for cut in cuts] or [lines]
            if len(cuts) and lines.shape[1] % NOISE_LINE:
                noise.append(lines[:, cuts[-1] + NOISE_LINE :])
            for part in noise:
                heads = _heads(1, part.shape)
                heads["flags"] = 1 << (NOISE - 1)
                out.append(heads, iter([part]))
        for index in range(len(file)):
            ksp = file.read_ksp(index)
            columns = np.flatnonzero(ksp.any(axis=(0, 1)))
            heads = _heads(len(columns), (ksp.shape[0], ksp.shape[1]))
            heads["idx"]["kspace_encode_step_1"] = columns - first_column
            heads["idx"]["slice"] = index
            _place(heads, geometry, index, header.rise)
            if len(columns):
                heads["flags"][0] = 1 << (FIRST_IN_SLICE - 1)
                heads["flags"][-1] |= 1 << (LAST_IN_SLICE - 1)
            lines = ksp.transpose(2, 0, 1)
            out.append(heads, (lines[column] for column in columns))
            if file.calib_mask is not None:
                _append_calibration(out, file, index, first_column)


def _append_calibration(out: _MrdWriter, file: ScanFile, index: int, first_column: int) -> None:
    """Calibration lines of their own: the rectangle around k = 0 that they fill."""
    calib, mask = file.read_calib(index), file.calib_mask
    if calib is None or mask is None:
        return
    block = center_crop(calib, calibration_block(mask, max(file.shape[2:])))
    n_lines = block.shape[2]
    heads = _heads(n_lines, block.shape[:2])
    first = file.shape[3] // 2 - n_lines // 2 - first_column
    heads["idx"]["kspace_encode_step_1"] = first + np.arange(n_lines)
    heads["idx"]["slice"], heads["flags"] = index, 1 << (CALIBRATION - 1)
    out.append(heads, iter(block.transpose(2, 0, 1)))


def _heads(count: int, shape: tuple[int, ...]) -> NDArray[np.void]:
    """Heads of records of this shape ``(coil, sample)``, k = 0 in the middle."""
    heads = np.zeros(count, _layout().acquisition_header_dtype)
    heads["version"] = 1
    heads["active_channels"] = heads["available_channels"] = shape[0]
    heads["number_of_samples"], heads["center_sample"] = shape[1], shape[1] // 2
    return heads


def _encoded_geometry(file: ScanFile) -> Geometry | None:
    """Geometry of the encoded field of view, from whose middle the final image is cut."""
    if file.geometry is None or file.voxel_mm is None:
        return file.geometry
    y, x = crop_shift(file.shape[2:], file.recon_shape)
    return file.geometry.seen_from((-y, -x), file.voxel_mm)


def _place(heads: NDArray[np.void], geometry: Geometry | None, index: int, rise: int = 1) -> None:
    """Directions and position of a slice, if they are known; the readout is along y."""
    if geometry is not None:
        y_dir, x_dir, normal = geometry.directions
        heads["read_dir"], heads["phase_dir"] = rise * y_dir, rise * x_dir
        heads["slice_dir"] = normal
        heads["position"] = geometry.positions[index]


class MrdImageWriter(Writer):
    """Images of ISMRMRD: ``<stem>.mrd``, with a group ``image_<number>`` of each part."""

    def outputs(self, result: ReconstructionFile, options: SaveOptions) -> list[str]:
        """One file."""
        return [f"{result.path.stem}.mrd"]

    def write(self, result: ReconstructionFile, folder: Path, options: SaveOptions) -> None:
        """Write it slice by slice, data ``(slice, 1, 1, x, y)`` as the standard has it."""
        n_slices, ny, nx = result.shape
        if max(ny, nx) > 65535:
            raise ScanFormatError(f"{result.path}: images of {ny} x {nx} do not fit into ISMRMRD")
        with LOCK, H5Writer(folder / self.outputs(result, options)[0]) as out:
            for number, part in enumerate(result.parts(options.parts)):
                group = out.file.create_group(f"{GROUP}/image_{number}")
                heads = self._heads(result, part, number)
                group["header"] = heads
                data = group.create_dataset("data", (n_slices, 1, 1, nx, ny), "float32")
                for index in range(n_slices):
                    data[index, 0, 0] = result.read_part(part, index).T
                text = self._attributes(result, part)
                group.create_dataset(
                    "attributes", data=[text] * n_slices, dtype=h5py.special_dtype(vlen=str)
                )

    def _heads(self, result: ReconstructionFile, part: str, number: int) -> NDArray[np.void]:
        n_slices, ny, nx = result.shape
        heads = np.zeros(n_slices, _layout().image_header_dtype)
        heads["version"], heads["data_type"], heads["channels"] = 1, FLOAT, 1
        heads["image_type"], heads["image_series_index"] = IMAGE_TYPES[part], number
        heads["matrix_size"] = ny, nx, 1
        y_mm, x_mm, slice_mm = result.voxel_mm or (0.0, 0.0, 0.0)
        heads["field_of_view"] = y_mm * ny, x_mm * nx, result.thickness_mm or slice_mm
        heads["slice"] = heads["image_index"] = np.arange(n_slices)
        heads["attribute_string_len"] = len(self._attributes(result, part))
        for index in range(n_slices):
            _place(heads[index : index + 1], result.geometry, index)
        return heads

    def _attributes(self, result: ReconstructionFile, part: str) -> str:
        """What programs show beside an image, in the standard's own notation."""
        method, rate = result.attributes.get("method"), result.attributes.get("acceleration")
        text = f"{part}; {method}, R = {rate}; research only, not for diagnosis"
        meta = ElementTree.Element("ismrmrdMeta")
        entry = ElementTree.SubElement(meta, "meta")
        ElementTree.SubElement(entry, "name").text = "ImageComment"
        ElementTree.SubElement(entry, "value").text = text
        return ElementTree.tostring(meta, encoding="unicode")
