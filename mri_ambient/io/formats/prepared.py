"""The prepared file: one scan after data preparation, and the shard that training reads.

============== ==================== ========= ===================================================
dataset        shape                dtype     meaning
============== ==================== ========= ===================================================
ksp            (slice, coil, y, x)  complex64 whitened, compressed, scaled; 0 where not sampled
maps           (slice, coil, y, x, 2) int16   coil sensitivities, Re and Im times 32767
mask           (1, y, x)            bool      sampled positions
acquired       (x,)                 bool      False for columns the scanner never acquires
coil_transform (coil, coil)         complex64 compression x whitening, whole
ismrmrd_header ()                   text      the header of the source, where it had one
============== ==================== ========= ===================================================

With several sets of coil maps, ``maps`` is ``(slice, set, coil, y, x, 2)``.

The other facts are root attributes; ``mri_ambient_format`` marks the file: "prepared/1" with one
set of maps, "prepared/2" with several, which older versions refuse. Slices have HDF5's Fletcher
checksum, so that a damaged one is refused and not trained on.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
from numpy.typing import NDArray

from ...errors import NumericalWarning, ScanFormatError
from ...runtime.files import json_object, json_text
from ..geometry import Geometry
from ..hdf5 import (
    LOCK,
    H5Writer,
    find_dataset,
    finite,
    open_h5,
    positive,
    read_attributes,
    read_complex,
    read_real,
    read_text,
    voxel_sizes,
    write_attributes,
)
from ..names import as_text
from ..sampling import Ksp, Mask, Sampling
from ..scan_file import Contents, ScanFile, stack_slices

if TYPE_CHECKING:
    from ...physics.coverage import MaskFacts
    from ...physics.operators import SenseOp
    from ...scan import Scan

FORMAT, FORMAT_OF_SETS = "prepared/1", "prepared/2"
"""Values of the root attribute ``mri_ambient_format``: with one set of coil maps, with several."""

_OF_SCAN = ("scan_id", "noise_std", "noise_source", "scale", "voxel_mm", "recon_shape")
_FACTS = (
    *_OF_SCAN, "mri_ambient_format", "steps", "source", "source_sha256", "center_sha256", "qc",
    "calib_shape", "geometry", "is_3d",
)  # fmt: skip
"""Root attributes of the format, and those that are fields of :class:`Scan`."""


class PreparedWriter(H5Writer):
    """Write a prepared file slice by slice; it appears under its name when the block ends well.

    Mask, scale, coil transform, noise, ... are those of the first scan written; every later one
    must have the same.

    Args:
        path: where the file goes.
        source: the raw scan; its header and attributes are carried along.
        calib_shape: sides ``(y, x)`` of the calibration block the maps come from.

    Attributes:
        qc, center_sha256: see :class:`PreparedFile`; may be set until the block ends.
    """

    def __init__(self, path: str | Path, source: ScanFile, *, calib_shape: tuple[int, int]) -> None:
        super().__init__(path, len(source))
        self.qc: dict[str, Any] = {}
        self.center_sha256 = ""
        self._source, self._calib_shape = source, calib_shape
        self._first: Scan | None = None

    def write(self, scan: Scan) -> None:
        """Write the slices of a prepared scan, which may differ from the first in nothing else."""
        from ...physics.coil_maps import pack_maps  # of tensors: readers do without torch
        from ...physics.map_sets import split_sets

        if scan.maps is None:
            raise ValueError(f"{scan.scan_id}: a prepared scan has coil maps")
        if self._first is None:
            with LOCK:
                self._create(scan)
            self._first = scan
        elif not _same_facts(self._first, scan):
            raise ValueError(f"{scan.scan_id}: slices {scan.slices} differ in mask, scale or coils")
        self.mark_written(scan.slices)
        for position, index in enumerate(scan.slices):
            maps = split_sets(scan.maps[position], scan.n_sets).movedim(-3, 0)
            stored = pack_maps(maps if scan.n_sets > 1 else maps[0])
            with LOCK:
                self.file["ksp"][index] = scan.ksp[position].numpy(force=True)
                self.file["maps"][index] = stored.numpy(force=True)

    def _create(self, scan: Scan) -> None:
        shape = (self.n_slices, *scan.ksp.shape[1:])
        self.create_slices("ksp", shape, "complex64")
        several = scan.n_sets > 1
        sets = (scan.n_sets,) if several else ()
        self.create_slices("maps", (self.n_slices, *sets, *shape[1:], 2), "int16")
        self.file["mask"] = scan.mask.numpy(force=True)
        self.file["acquired"] = scan.acquired_columns.numpy(force=True)
        self.file["coil_transform"] = _coil_transform(scan)
        if self._source.header_xml is not None:
            self.file["ismrmrd_header"] = self._source.header_xml
        carried = {name: v for name, v in self._source.attributes.items() if name not in _FACTS}
        facts = {
            "mri_ambient_format": FORMAT_OF_SETS if several else FORMAT,
            "steps": json_text(scan.steps),
            "calib_shape": self._calib_shape,
            "source": as_text(self._source.path.name),
            "source_sha256": self._source.sha256,
            "geometry": self._source.geometry and self._source.geometry.to_text(),
            "is_3d": self._source.is_3d or None,
        }
        of_scan = {name: getattr(scan, name) for name in _OF_SCAN}
        write_attributes(self.file, {**carried, **facts, **of_scan})

    def finish(self) -> None:
        """Write what is known only now."""
        late = {"qc": json_text(self.qc), "center_sha256": self.center_sha256}
        write_attributes(self.file, late)


def _coil_transform(scan: Scan) -> Ksp:
    if scan.coil_transform is None:
        return np.eye(scan.n_coils, dtype=np.complex64)
    return scan.coil_transform.numpy(force=True).astype(np.complex64)


def _same_facts(a: Scan, b: Scan) -> bool:
    return (
        all(getattr(a, name) == getattr(b, name) for name in (*_OF_SCAN, "n_coils", "n_sets"))
        and a.mask.equal(b.mask)
        and a.acquired_columns.equal(b.acquired_columns)
        and np.array_equal(_coil_transform(a), _coil_transform(b))
    )


class PreparedFile(ScanFile):
    """A prepared scan on disk: slices come with maps, scale, coil transform and noise.

    Attributes:
        noise_std, noise_source, scale, coil_transform, steps, n_sets: as in a :class:`Scan`.
        calib_shape: sides ``(y, x)`` of the calibration block.
        source, source_sha256: name and hash of the file it was made from.
        center_sha256: hash of its samples at k = 0, as measured; empty if it was not recorded.
        qc: quality figures of ``prep``, JSON-ready.
    """

    format = "prepared"
    prepared = True

    @classmethod
    def recognises(cls, contents: Contents) -> bool:
        """Whether a file was made by ``prep``."""
        return contents.tag in (FORMAT, FORMAT_OF_SETS)

    def __init__(self, path: str | Path) -> None:
        """Read the facts, no slices."""
        super().__init__(path)
        with open_h5(self.path, for_text=True) as file:
            attributes = read_attributes(file)
            self._read_datasets(file)
        try:
            self._read_facts(attributes)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise ScanFormatError(
                f"{self.path}: damaged prepared file, its root attributes are wrong "
                f"({type(error).__name__}: {error}); run prep again"
            ) from error
        self.attributes = {name: v for name, v in attributes.items() if name not in _FACTS}

    def _read_datasets(self, file: h5py.File) -> None:
        ksp = find_dataset(file, "ksp")
        if ksp.dtype != "complex64" or len(ksp.shape or ()) != 4 or 0 in ksp.shape:
            raise self._damaged(f"ksp is {ksp.dtype} {ksp.shape}, wanted (slice, coil, y, x)")
        self.shape = ksp.shape
        n_coils, ny, nx = self.shape[1:]
        maps = find_dataset(file, "maps")
        sets = (maps.shape or (0, 0))[1:-4]
        if maps.dtype != "int16" or maps.shape != (self.shape[0], *sets, *self.shape[1:], 2):
            raise self._damaged(f"maps are {maps.dtype} {maps.shape}, ksp has {ksp.shape}")
        self.n_sets = sets[0] if sets else 1
        self.sampling = Sampling(
            mask=self._read_bool(file, "mask", (1, ny, nx)),
            acquired=self._read_bool(file, "acquired", (nx,)),
        )
        transform = find_dataset(file, "coil_transform")
        is_square = transform.ndim == 2 and transform.shape[0] == transform.shape[1]
        if transform.dtype != "complex64" or not is_square or transform.shape[0] < n_coils:
            raise self._damaged(f"coil_transform has {transform.shape} for {n_coils} virtual coils")
        self.coil_transform = read_complex(transform)
        if not _is_invertible(self.coil_transform):
            raise self._damaged("coil_transform cannot be inverted")
        if "ismrmrd_header" in file:
            xml = read_text(find_dataset(file, "ismrmrd_header"))
            self.header_xml = self.whole_header = xml.decode(errors="replace")

    def _read_bool(self, file: h5py.File, name: str, shape: tuple[int, ...]) -> Mask:
        dataset = find_dataset(file, name)
        if dataset.shape != shape:
            raise self._damaged(f"{name} has {dataset.shape}, wanted {shape}")
        values: Mask = read_real(dataset) != 0
        if not values.any():
            raise self._damaged(f"{name} is False everywhere")
        return values

    def _read_facts(self, facts: dict[str, Any]) -> None:
        if facts["mri_ambient_format"] != (FORMAT_OF_SETS if self.n_sets > 1 else FORMAT):
            raise ValueError(f"mri_ambient_format is {facts['mri_ambient_format']!r}")
        self.scan_id = str(facts["scan_id"])
        if Path(self.scan_id).name != self.scan_id or not self.scan_id:  # files are named by it
            raise ValueError(f"scan_id {self.scan_id!r} is not a file name")
        self.scale = positive(facts["scale"])
        self.noise_std = finite(facts["noise_std"]) if "noise_std" in facts else None
        self.noise_source = str(facts["noise_source"]) if "noise_source" in facts else None
        self.recon_shape = _sizes(facts["recon_shape"])
        self.calib_shape = _sizes(facts["calib_shape"])
        if "voxel_mm" in facts:
            self.voxel_mm = voxel_sizes(facts["voxel_mm"])
        self.is_3d = bool(facts.get("is_3d", False))
        if "geometry" in facts:
            self.geometry = Geometry.from_text(str(facts["geometry"]))
        self.steps = tuple(str(step) for step in json.loads(facts["steps"]))
        self.source, self.source_sha256 = str(facts["source"]), str(facts["source_sha256"])
        self.center_sha256 = str(facts.get("center_sha256", ""))
        self.qc = json_object(str(facts["qc"]))

    def read_ksp(self, index: int) -> Ksp:
        """K-space of one slice in normalised units, complex64 ``(coil, y, x)``."""
        with open_h5(self.path) as file:
            return read_complex(find_dataset(file, "ksp"), index)

    def read_packed_maps(self, index: int) -> NDArray[np.int16]:
        """Coil sensitivities of one slice, packed as stored, int16 ``(coil, set*y, x, 2)``."""
        with open_h5(self.path) as file:
            maps = read_real(find_dataset(file, "maps"), index)
        if self.n_sets == 1:
            return maps
        sets, coils, ny, nx, parts = maps.shape
        return np.moveaxis(maps, 0, 1).reshape(coils, sets * ny, nx, parts)

    def __getitem__(self, index: int | slice) -> Scan:
        from ...physics.coil_maps import unpack_maps  # see ScanFile

        chosen = self._chosen(index)
        maps = unpack_maps(stack_slices(self.read_packed_maps, chosen))
        return replace(self.without_maps(index), maps=maps)

    def without_maps(self, index: int | slice) -> Scan:
        """Some slices, for callers that read the maps with :meth:`read_packed_maps`."""
        import torch  # see ScanFile

        from ...scan import Scan

        chosen = self._chosen(index)
        try:
            return Scan(
                ksp=stack_slices(self.read_ksp, chosen),
                mask=torch.from_numpy(self.mask),
                scan_id=self.scan_id,
                slices=chosen,
                recon_shape=self.recon_shape,
                acquired=torch.from_numpy(self.acquired),
                noise_std=self.noise_std,
                noise_source=self.noise_source,
                scale=self.scale,
                coil_transform=torch.from_numpy(self.coil_transform),
                voxel_mm=self.voxel_mm,
                steps=self.steps,
            )
        except ValueError as error:
            raise self._damaged(f"slices {chosen}: {error}") from error

    def _damaged(self, what: str) -> ScanFormatError:
        return ScanFormatError(f"{self.path}: damaged prepared file, {what}; run prep again")


def _is_invertible(matrix: Ksp) -> bool:
    try:
        return bool(np.isfinite(np.linalg.inv(matrix.astype(np.complex128))).all())
    except np.linalg.LinAlgError:
        return False


def _sizes(value: Any) -> tuple[int, int]:  # noqa: ANN401 -- from a file
    y, x = (int(size) for size in value)
    if min(y, x) < 0:
        raise ValueError(f"sizes of {y} x {x}")
    return y, x


def duplicate_acquisitions(files: Iterable[PreparedFile]) -> list[NumericalWarning]:
    """A warning for every group of files made from one acquisition.

    Every mask keeps k = 0, and its noise never repeats, so that its hash identifies an acquisition.
    """
    groups: dict[str, list[str]] = {}
    for file in files:
        groups.setdefault(file.center_sha256, []).append(file.path.name)
    return [
        NumericalWarning(
            "W-DUPLICATES",
            f"{', '.join(names)}: one acquisition, perhaps under different masks",
        )
        for key, names in groups.items()
        if key and len(names) > 1
    ]


def mask_facts(file: PreparedFile) -> MaskFacts:
    """What coverage is computed from; the coil maps are those of the middle slice."""
    import torch  # see ScanFile

    from ...physics.coil_maps import unpack_maps
    from ...physics.coverage import MaskFacts
    from ...physics.operators import SenseOp

    mask, acquired = torch.from_numpy(file.mask), torch.from_numpy(file.acquired)

    def read_op() -> SenseOp:
        maps = unpack_maps(torch.from_numpy(file.read_packed_maps(len(file) // 2)))
        return SenseOp(maps, mask, file.n_sets)

    return MaskFacts(mask, acquired, read_op)
