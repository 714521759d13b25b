"""What every reader provides: the facts of a scan at once, its slices on demand.

Facts and samples are arrays of numpy; ``file[i]`` makes tensors of them.

:class:`Contents` is what readers look at to recognise their files.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Self

import h5py
import numpy as np
from numpy.typing import NDArray

from ..errors import NumericalWarning, ScanFormatError
from ..physics.patterns import achieved_acceleration, acquired_rows, readout_is_full
from ..runtime.files import file_sha256
from .geometry import Geometry
from .grid import ACQUIRED, Grid
from .hdf5 import open_h5, read_attribute
from .header import build_header, parse_header
from .identifiers import header_without_identifiers, without_identifiers
from .names import name_of, stem_of
from .sampling import Ksp, Mask, Sampling, find_sampling

if TYPE_CHECKING:
    from torch import Tensor

    from ..scan import Scan


class Contents:
    """A file that no reader has opened yet; HDF5 is looked into on demand, and once.

    Formats that are not HDF5 are recognised by the name or first bytes of ``path``.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    @cached_property
    def first_bytes(self) -> bytes:
        """Up to 1024 of them; none of a folder, or of what cannot be read."""
        try:
            with self.path.open("rb") as file:
                return file.read(1024)
        except OSError:
            return b""

    @property
    def kspace(self) -> tuple[tuple[int, ...], str]:
        """Shape and kind of type (as numpy has them) of the dataset ``kspace``; empty if none."""
        return self._hdf5[3]

    @property
    def tag(self) -> str:
        """The root attribute ``mri_ambient_format``; empty if there is none, or no HDF5."""
        return self._hdf5[0]

    @property
    def names(self) -> tuple[str, ...]:
        """Names in the root group; none if the file cannot be read as HDF5."""
        return self._hdf5[1]

    def groups_with(self, *names: str) -> list[str]:
        """The groups in the root that hold these names."""
        if self.error is not None:
            return []
        found = []
        with open_h5(self.path) as file:
            for name in self.names:
                is_here = isinstance(file.get(name, getlink=True), h5py.HardLink)
                group = file.get(name) if is_here else None
                if isinstance(group, h5py.Group) and set(group) >= set(names):
                    found.append(name)
        return found

    @property
    def error(self) -> ScanFormatError | None:
        """Why the file cannot be read as HDF5, or None."""
        return self._hdf5[2]

    @cached_property
    def _hdf5(
        self,
    ) -> tuple[str, tuple[str, ...], ScanFormatError | None, tuple[tuple[int, ...], str]]:
        try:
            with open_h5(self.path, for_text=True) as file:
                tagged = "mri_ambient_format" in file.attrs
                tag = str(read_attribute(file, "mri_ambient_format")) if tagged else ""
                return tag, tuple(sorted(file)), None, _shape_and_kind(file, "kspace")
        except ScanFormatError as error:
            return "", (), error, ((), "")


def _shape_and_kind(file: h5py.File, name: str) -> tuple[tuple[int, ...], str]:
    is_here = isinstance(file.get(name, getlink=True), h5py.HardLink)
    found = file.get(name) if is_here else None
    if not isinstance(found, h5py.Dataset):
        return (), ""
    return found.shape or (), found.dtype.kind


TARGETS = ("reconstruction_rss", "reconstruction_esc")
"""Reference images that files of the fastMRI layout may hold, of several coils and of one."""


class ScanFile(ABC):
    """A scan of ``len(file)`` slices; ``file[i]`` reads slice ``i`` (or a range) as a Scan.

    A new format is a subclass in a file of its own and a line of :data:`~mri_ambient.io.READERS`.
    It has ``format``, ``suffixes`` unless its files end in ``.h5`` or ``.hdf5``,
    :meth:`recognises`, :meth:`read_ksp`, and ``__init__(path)``, which sets ``shape``,
    ``recon_shape`` and of the other attributes what the file holds. Where k-space was sampled is
    found from the samples unless ``sampling`` is set or overridden.

    Attributes:
        format: its key in :data:`~mri_ambient.io.READERS`.
        suffixes: suffixes of the files that a folder or a glob stands for.
        options: names of the keyword arguments of ``__init__``, each optional: what the user may
            say about files of this format.
        path: the file.
        volume: name of the volume, if the file holds several; otherwise empty.
        volumes: names of all volumes of the file.
        scan_id: stem of the raw file; seeds the random streams.
        shape: ``(slice, coil, y, x)``.
        recon_shape: the scanner's final matrix ``(y, x)``, never larger than ``shape``.
        voxel_mm: voxel size ``(y, x, slice)`` of the final image, or None; the last is the distance
            of the slices.
        geometry: where the slices of the final image lie in the patient, or None if the file does
            not say; positions are those of pixel ``(y // 2, x // 2)`` of ``recon_shape``.
        is_3d: whether slices lie across the readout of a 3-D scan, so that y and x are both phase
            encodes.
        nominal_oversampling: encoded over final field of view along y, according to the header.
        noise: noise-only samples, complex ``(coil, sample)``, or None.
        given_mask: sampled positions as the file states them, bool ``(y, x)``, or None.
        header_xml: the ISMRMRD header text without identifiers, or None.
        attributes: what else the file holds about the scan (acquisition, ...), and thickness_mm and
            orientation_source, which are carried along with them; no identifiers but the patient's
            id, as a hash.
        identifiers: all attributes of the file, also those that no output gets.
        whole_header: the ISMRMRD header text as it is, or None.
        ends_known: False where rows or columns may be missing beyond one end of k-space, and the
            samples do not show whether they are.
        calib_mask: where calibration lines that do not belong to the image (separate reference
            scans) were sampled, bool ``(1, y, x)``; None if the image's own centre is used.
        reading: what the user said about how it is read, where that is not the default; with
            :attr:`sha256` it tells what the samples are.
        warnings: given when it was opened.
        steps: what was done to the k-space that is read, in order.
        prepared: whether slices come with maps, scale and noise, which preparation fills in.
    """

    format: str
    suffixes: tuple[str, ...] = (".h5", ".hdf5")
    options: frozenset[str] = frozenset()
    path: Path
    volume: str = ""
    volumes: tuple[str, ...] = ("",)
    scan_id: str
    shape: tuple[int, int, int, int]
    recon_shape: tuple[int, int]
    voxel_mm: tuple[float, float, float] | None = None
    geometry: Geometry | None = None
    is_3d: bool = False
    nominal_oversampling: float = 1.0
    noise: Ksp | None = None
    given_mask: Mask | None = None
    header_xml: str | None = None
    attributes: dict[str, object]
    identifiers: dict[str, object]
    whole_header: str | None = None
    calib_mask: Mask | None = None
    ends_known: bool = True
    reading: Mapping[str, Any] = MappingProxyType({})
    warnings: tuple[NumericalWarning, ...] = ()
    steps: tuple[str, ...] = ("read",)
    prepared: bool = False

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.scan_id = stem_of(self.path)
        self.attributes, self.identifiers = {}, {}

    @property
    def output_stem(self) -> str:
        """What outputs are named after: the stem of the file, and the volume."""
        return "_".join(filter(None, [stem_of(self.path), self.volume]))

    def __repr__(self) -> str:
        facts = [
            name_of(self.path),
            *filter(None, [self.volume]),
            " x ".join(str(n) for n in self.shape),
        ]
        if "sampling" in vars(self):  # otherwise all slices would be read for it
            facts.append(f"R = {self.acceleration:.2f}")
        return f"<{type(self).__name__} {', '.join(facts)}>"

    @classmethod
    def recognises(cls, contents: Contents) -> bool:
        """Whether a file has this format; never, for a class that reads no file."""
        return False

    @classmethod
    def volumes_in(cls, path: Path, **options: Any) -> tuple[str, ...]:  # noqa: ANN401 -- as __init__
        """Names of the volumes of a file, ``("",)`` for a single one; it is read with ``options``.

        Raises:
            ScanFormatError: the file is damaged.
        """
        return ("",)

    def pick_volume(self, volumes: Iterable[str], volume: str | None) -> None:
        """Set ``volume``, and with it what outputs and random streams are named after.

        Args:
            volumes: names of the volumes of the file, which become ``volumes``.
            volume: the name of one of them; None for the only one.

        Raises:
            ScanFormatError: there is no such volume, or there are several to choose from.
        """
        self.volumes = tuple(volumes)
        if volume is None and len(self.volumes) == 1:
            volume = self.volumes[0]
        if volume is None or volume not in self.volumes:
            if self.volumes == ("",):
                raise ScanFormatError(
                    f"{self.path}: holds a single volume; leave out the volume {volume!r}"
                )
            wanted = "one of them must be chosen" if volume is None else f"not {volume!r}"
            raise ScanFormatError(
                f"{self.path}: holds {len(self.volumes)} volumes, {', '.join(self.volumes)}; "
                f"{wanted}: choose it by volume (--volume NAME)"
            )
        self.volume = volume
        self.scan_id = self.output_stem

    @abstractmethod
    def read_ksp(self, index: int) -> Ksp:
        """K-space of one slice, complex64 ``(coil, y, x)``, checked to be finite; a new array."""

    def read_target(self, name: str) -> NDArray[np.float32] | None:
        """A reference volume in the file (e.g. ``reconstruction_rss``), ``(slice, y, x)``."""
        return None

    def averages(self) -> Iterator[Ksp]:
        """Averages of a slice in the middle, before they are averaged, complex64 ``(coil, y, x)``.

        Nothing if there is a single one. Zero where an average holds nothing.
        """
        return iter(())

    def read_calib(self, index: int) -> Ksp | None:
        """Calibration lines of one slice where :attr:`calib_mask` is set, complex64 as k-space.

        Their contrast and gain may differ from those of the image.
        """
        return None

    def read_maps(self, index: int) -> Ksp | None:
        """Coil sensitivities of one slice that come with the scan, complex64 ``(coil, y, x)``."""
        return None

    @cached_property
    def sampling(self) -> Sampling:
        """Where k-space was sampled; found in one pass over the slices when first needed."""
        return find_sampling(self.path, self.read_ksp, self.shape)

    @cached_property
    def sha256(self) -> str:
        """Hash of the file."""
        return file_sha256(self.path)

    @cached_property
    def source_sha256(self) -> str:
        """Hash of the raw file: of this one, or of the one it was prepared from."""
        return self.sha256

    def take_header(self, xml: str) -> None:
        """Set the ISMRMRD header."""
        self.whole_header, self.header_xml = xml, header_without_identifiers(xml)

    def take_attributes(self, found: Mapping[str, object]) -> None:
        """Set the attributes, and the identifiers among them."""
        self.attributes, self.identifiers = without_identifiers(found), dict(found)

    def keep_identifiers(self) -> Self:
        """From now on, outputs that carry attributes or header get them with all identifiers."""
        self.attributes = {**self.attributes, **self.identifiers}
        self.header_xml = self.whole_header
        return self

    @property
    def protocol(self) -> str:
        """Name of the protocol; empty if the file does not say."""
        if given := self.attributes.get("acquisition"):
            return str(given)
        return "" if self.header_xml is None else parse_header(self.header_xml).protocol

    @property
    def thickness_mm(self) -> float | None:
        """Thickness of a slice, which gaps or overlaps make another length than their distance.

        None if neither attributes nor header say, and of 3-D scans.
        """
        given = self.attributes.get("thickness_mm")
        if isinstance(given, int | float) and math.isfinite(given) and given > 0:
            return float(given)
        header = None if self.header_xml is None else parse_header(self.header_xml)
        return None if header is None or header.partitions.n_encoded > 1 else header.slice_mm

    @property
    def mask(self) -> Mask:
        """Sampled positions, bool ``(1, y, x)``."""
        return self.sampling.mask

    @property
    def acquired(self) -> Mask:
        """Bool ``(x,)``: False for columns the scanner never acquires."""
        return self.sampling.acquired

    @property
    def readout_oversampling(self) -> float:
        """Encoded over final field of view along y; 1.0 if it cannot be removed.

        It can be where every row of the readout was sampled: otherwise the rows alias into each
        other, or the sampling is not a pattern of lines afterwards.
        """
        return self.nominal_oversampling if readout_is_full(self.mask) else 1.0

    @property
    def final_grid(self) -> Grid:
        """The pixels of the final image, and where they lie."""
        shape, source = (len(self), *self.recon_shape), self.attributes.get("orientation_source")
        return Grid(shape, self.voxel_mm, self.geometry, str(source or ACQUIRED))

    @property
    def acceleration(self) -> float:
        """Achieved, over the acquired columns."""
        return achieved_acceleration(self.mask, self.acquired)

    @property
    def fully_sampled(self) -> bool:
        """Whether every acquired column has samples in every acquired row, and none is missing."""
        plane, whole = self.mask[0], acquired_rows(self.mask[0])[:, None] & self.acquired
        return self.ends_known and bool((plane == whole).all())

    @property
    def one_sided(self) -> bool:
        """Whether k-space ends much nearer to k = 0 on one side (partial Fourier, partial echo).

        By a sixteenth of the matrix or more; images of the samples alone are then blurred.
        """
        plane = self.mask[0] & self.acquired
        for axis in (0, 1):
            n = plane.shape[axis]
            held = np.flatnonzero(plane.any(axis=1 - axis)) - n // 2
            if 16 * abs(int(held[0] + held[-1])) > n + 16:
                return True
        return False

    def __len__(self) -> int:
        return self.shape[0]

    def __iter__(self) -> Iterator[Scan]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, index: int | slice) -> Scan:
        import torch  # what a file holds is told without it, since it is slow to import

        from ..scan import Scan

        chosen = self._chosen(index)
        mask = torch.from_numpy(self.mask)  # first: its pass over the slices needs memory too
        return Scan(
            ksp=stack_slices(self.read_ksp, chosen).masked_fill_(~mask, 0),
            given_maps=self._maps(chosen),
            calib=None if self.calib_mask is None else stack_slices(self._read_calib, chosen),
            mask=mask,
            scan_id=self.scan_id,
            slices=chosen,
            recon_shape=self.recon_shape,
            acquired=torch.from_numpy(self.acquired),
            noise=None if self.noise is None else torch.from_numpy(self.noise),
            voxel_mm=self.voxel_mm,
            steps=self.steps,
        )

    def _maps(self, chosen: tuple[int, ...]) -> Tensor | None:
        maps = {index: self.read_maps(index) for index in chosen}
        found = {index: part for index, part in maps.items() if part is not None}
        return stack_slices(found.__getitem__, chosen) if len(found) == len(maps) else None

    def _read_calib(self, index: int) -> Ksp:
        calib, mask = self.read_calib(index), self.calib_mask
        if calib is None or mask is None:
            raise ValueError(f"{self.path}: calib_mask is set, but there are no lines")
        return zero_outside(mask[0], calib)

    def _chosen(self, index: int | slice) -> tuple[int, ...]:
        slices = range(len(self))[index]
        chosen = (slices,) if isinstance(slices, int) else tuple(slices)
        if not chosen:
            raise IndexError(f"{self.path}: no slice in {index} of {len(self)}")
        return chosen


def stack_slices(read: Callable[[int], NDArray[Any]], slices: tuple[int, ...]) -> Tensor:
    """``read(i)`` of each slice, ``(slice, ...)``, with one slice in memory twice at most."""
    import torch  # see ScanFile.__getitem__

    first = torch.from_numpy(read(slices[0]))[None]
    if len(slices) == 1:
        return first
    out = first.new_empty((len(slices), *first.shape[1:]))
    out[0] = first[0]
    for position, index in enumerate(slices[1:], start=1):
        out[position] = torch.from_numpy(read(index))
    return out


def zero_outside(mask: Mask, ksp: Ksp) -> Ksp:
    """K-space ``(coil, y, x)`` itself, set to zero outside a mask ``(y, x)``."""
    bits = ksp.view(np.uint64)  # a sample each: five times as fast as a choice by the mask
    bits &= np.where(mask, ~np.uint64(0), np.uint64(0))
    return ksp


def header_of(file: ScanFile) -> str:
    """An ISMRMRD header of a scan: its own if it describes this k-space, otherwise a new one.

    Fields of view are 0 where the voxel size is not known.
    """
    ny, nx = file.shape[2:]
    if file.header_xml is not None:
        header = parse_header(file.header_xml)
        if header.encoded_shape == (ny, nx) and header.partitions.n_encoded == 1:
            return file.header_xml
    rows = round(ny / file.nominal_oversampling)
    y_mm, x_mm, slice_mm = file.voxel_mm or (0.0, 0.0, 0.0)
    # A field of view that is cut beyond the oversampling is smaller; else pixels would be larger.
    final_rows = file.recon_shape[0] if file.recon_shape[0] < 0.9 * rows else rows
    return build_header(
        (ny, nx),
        (rows, nx) if file.voxel_mm is None else file.recon_shape,
        (y_mm * ny, x_mm * nx),
        (y_mm * final_rows, x_mm * file.recon_shape[1]),
        file.thickness_mm or slice_mm,
        n_slices=len(file),
        n_coils=file.shape[1],
    )
