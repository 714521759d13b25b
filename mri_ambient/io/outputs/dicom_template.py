"""A DICOM series of the same slices, whose patient, study and geometry a reconstruction takes over.

Where the scan tells how its slices lie, the template must agree with it. Otherwise the images tell:
of all turns and slice orders that fit the template's sizes, the one is taken in which they look
most like the template's; where that is not clear, the template is refused.
"""

from __future__ import annotations

import itertools
import mmap
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from ...errors import ConfigError, ScanFormatError
from ..geometry import Geometry
from ..grid import Grid, Turn

if TYPE_CHECKING:
    from pydicom import Dataset

KEPT = (
    # patient
    "PatientName", "PatientID", "IssuerOfPatientID", "PatientBirthDate", "PatientSex", "PatientAge",
    "PatientSize", "PatientWeight",
    # study
    "StudyInstanceUID", "StudyDate", "StudyTime", "StudyID", "StudyDescription", "AccessionNumber",
    "ReferringPhysicianName",
    # series and place
    "SeriesNumber", "ProtocolName", "BodyPartExamined", "Laterality", "PatientPosition",
    "FrameOfReferenceUID", "PositionReferenceIndicator", "ImageOrientationPatient",
    "ImagePositionPatient", "PixelSpacing", "SliceThickness", "SpacingBetweenSlices",
    "SliceLocation",
    # acquisition
    "AcquisitionDate", "AcquisitionTime", "AcquisitionNumber", "ScanningSequence",
    "SequenceVariant", "ScanOptions", "MRAcquisitionType", "SequenceName", "RepetitionTime",
    "EchoTime", "InversionTime", "EchoTrainLength", "EchoNumbers", "FlipAngle", "NumberOfAverages",
    "ImagingFrequency", "ImagedNucleus", "MagneticFieldStrength", "PixelBandwidth",
    "InPlanePhaseEncodingDirection",
)  # fmt: skip
"""Attributes that are taken over. Private ones, which describe the vendor's own images, are not."""

ALSO_USED = ("SeriesInstanceUID", "Rows", "Columns")
"""Others that are looked at."""

TURNS = tuple(Turn(*flags) for flags in itertools.product((False, True), repeat=3))
"""All of them."""

PIXELS_OFF, SLICES_OFF = 1.0, 0.25
"""How far a template may lie beside the scan, in pixels and in distances of slices. Scanners differ
by up to a pixel in what they call the middle of an even matrix."""

BROKEN = (
    AttributeError, EOFError, IndexError, KeyError, NotImplementedError, OSError, OverflowError,
    RuntimeError, TypeError, ValueError, struct.error, zlib.error,
)  # fmt: skip
"""What pydicom raises on damaged files."""

SAME_MM = 0.01
"""Offset that rounding explains."""

MAX_COMPARED = 16
"""Slices that are compared with the template's."""


def import_pydicom() -> Any:  # noqa: ANN401 -- a module
    """The package pydicom.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import pydicom
    except ImportError as error:
        raise ConfigError(
            "DICOM needs the package pydicom; install it: pip install 'mri-ambient[dicom]'"
        ) from error
    return pydicom


@dataclass(frozen=True)
class Placement:
    """How slices are turned for a series, and where they then lie.

    Attributes:
        turn: of every slice.
        grid: of the turned slices.
        source: where orientations come from, in words.
        headers: what is taken over from a template for every slice; empty without one.
        offset_mm: how far the template lies from where the scan says the slices are.
    """

    turn: Turn
    grid: Grid
    source: str
    headers: tuple[Dataset, ...] = ()
    offset_mm: float = 0.0

    def header(self, index: int) -> Dataset:
        """What is taken over for a slice."""
        empty = cast("Dataset", {})
        return self.headers[index] if self.headers else empty


@dataclass(frozen=True)
class Template:
    """A DICOM series.

    Attributes:
        folder: where it was read.
        paths: its files, in the order of their positions along the normal.
        headers: their attributes of :data:`KEPT`.
        grid: of its images.
    """

    folder: Path
    paths: tuple[Path, ...]
    headers: tuple[Dataset, ...]
    grid: Grid

    @classmethod
    def read(cls, folder: Path) -> Template:
        """Read the attributes of the files in a folder, and in those below it.

        Raises:
            ConfigError: it holds no MR images, several series, several images of a slice, or slices
                that are not parallel.
        """
        found = _read_headers(folder)
        _check_one_series(folder, [header for _, header in found])
        try:
            grid, order = _grid_of([header for _, header in found])
        except (AttributeError, TypeError, ValueError, ScanFormatError) as error:
            raise ConfigError(
                f"{folder}: the template's slices have no usable position, orientation or pixel "
                f"spacing ({error}); give the series as the scanner exported it"
            ) from error
        paths, headers = (tuple(column[i] for i in order) for column in zip(*found, strict=True))
        return cls(folder, paths, tuple(_kept(header) for header in headers), grid)

    def candidates(self, grid: Grid) -> list[Placement]:
        """The ways in which images may lie in the template: one, if their geometry is known.

        Raises:
            ConfigError: there is none.
        """
        turns = [turn for turn in TURNS if self._has_sizes(grid.turned(turn))]
        if not turns:
            raise ConfigError(
                f"{self.folder}: the template has {_sizes(self.grid)}, the images are "
                f"{_sizes(grid)}; {_REMEDY}"
            )
        if grid.is_placed:
            return [self._by_geometry(grid, turns)]
        n_slices, source = grid.shape[0], "template, found by comparing the images with it"
        orders = [range(n_slices), range(n_slices)[::-1]][: min(n_slices, 2)]
        return [self._placement(turn, order, source) for turn in turns for order in orders]

    def place(self, grid: Grid, read: Callable[[int], NDArray[np.float32]]) -> Placement:
        """How images lie in the template.

        Args:
            grid: of the images.
            read: gives the magnitude of a slice, ``(y, x)``.

        Raises:
            ConfigError: they do not fit, or it cannot be told how.
        """
        candidates = self.candidates(grid)
        if len(candidates) == 1:
            return candidates[0]
        likeness = self._likeness(candidates, read)
        best, second = np.argsort(-likeness)[:2]
        if likeness[best] < 0.5 or likeness[best] - likeness[second] < 0.02:
            raise ConfigError(
                f"{self.folder}: the scan does not tell how its slices lie, and the images do not "
                f"tell how they lie in the template (correlation {likeness[best]:.2f}, and "
                f"{likeness[second]:.2f} mirrored or turned); save DICOM without the template"
            )
        return candidates[int(best)]

    def _has_sizes(self, grid: Grid) -> bool:
        sizes, ours = grid.voxel_mm, self.grid.voxel_mm
        close = sizes is None or ours is None or np.allclose(sizes[:2], ours[:2], rtol=0.01)
        return grid.shape == self.grid.shape and bool(close)

    def _placement(self, turn: Turn, order: Sequence[int], source: str) -> Placement:
        headers = tuple(self.headers[i] for i in order)
        geometry = self.grid.geometry
        if geometry is None:
            raise ValueError("a template has a geometry")
        moved = replace(geometry, positions=geometry.positions[list(order)])
        return Placement(turn, replace(self.grid, geometry=moved), source, headers)

    def _by_geometry(self, grid: Grid, turns: Sequence[Turn]) -> Placement:
        """The turn after which directions agree, and the slices at the same positions."""
        theirs, ours = self.grid.geometry, [grid.turned(turn).geometry for turn in turns]
        if theirs is None:
            raise ValueError("a template has a geometry")
        agreement = [_agreement(geometry, theirs) for geometry in ours]
        best = int(np.argmax(agreement))
        geometry = ours[best]
        if geometry is None or agreement[best] < np.cos(np.radians(1)):
            raise ConfigError(
                f"{self.folder}: the template's slices are turned by "
                f"{np.degrees(np.arccos(min(agreement[best], 1))):.0f} degrees against the scan's; "
                f"{_REMEDY}"
            )
        order, offset_mm = self._offsets(geometry, theirs)
        source = "template, which agrees with the acquisition geometry of the scan"
        if offset_mm > SAME_MM:
            source += f" but for {offset_mm:.2f} mm"
        placement = self._placement(turns[best], order, source)
        return replace(placement, offset_mm=offset_mm)

    def _offsets(self, ours: Geometry, theirs: Geometry) -> tuple[list[int], float]:
        """The slice of the template at the place of each of ours, and how far it is off in mm."""
        offsets = ours.positions[:, None] - theirs.positions
        order = np.abs(offsets @ theirs.directions[2]).argmin(axis=1)
        apart = offsets[range(len(order)), order]
        off = np.abs(apart @ theirs.directions.T).max(axis=0)
        offset_mm = float(np.linalg.norm(apart, axis=1).max())
        y_mm, x_mm, thickness_mm = self.grid.voxel_mm or (1.0, 1.0, 1.0)
        steps = np.abs(np.diff(theirs.positions @ theirs.directions[2]))
        slice_mm = float(steps.min()) if len(steps) else thickness_mm
        allowed = np.array([PIXELS_OFF * y_mm, PIXELS_OFF * x_mm, SLICES_OFF * slice_mm])
        if len(set(order.tolist())) < len(order) or (off > 1.01 * allowed).any():
            found = ", ".join(f"{mm:.2f} mm {way}" for mm, way in zip(off, _WAYS, strict=True))
            raise ConfigError(
                f"{self.folder}: the template's slices lie elsewhere, by {offset_mm:.2f} mm "
                f"({found}), wanted at most {PIXELS_OFF:g} pixel and {SLICES_OFF:g} of the slice "
                f"distance; {_REMEDY}"
            )
        return order.tolist(), offset_mm

    def _likeness(
        self, candidates: Sequence[Placement], read: Callable[[int], NDArray[np.float32]]
    ) -> NDArray[np.float64]:
        """Mean correlation of our slices with the template's, for every candidate."""
        n_slices = len(self.paths)
        chosen = np.unique(np.linspace(0, n_slices - 1, min(n_slices, MAX_COMPARED)).astype(int))
        place_of = {id(header): i for i, header in enumerate(self.headers)}
        total = np.zeros(len(candidates))
        for index in chosen.tolist():
            img = read(index)
            for i, candidate in enumerate(candidates):
                theirs = self._pixels(place_of[id(candidate.headers[index])])
                total[i] += _correlation(candidate.turn(img), theirs) / len(chosen)
        return total

    def _pixels(self, index: int) -> NDArray[np.float32]:
        path = self.paths[index]
        try:
            pixels = _dataset(path).pixel_array
        except (*BROKEN, import_pydicom().errors.BytesLengthException) as error:
            raise ConfigError(
                f"{path}: the pixels of the template cannot be read ({error}); decompress it, e.g. "
                "with dcmdjpeg, or save DICOM without the template"
            ) from error
        return cast("NDArray[np.float32]", pixels.astype(np.float32))


_WAYS = "along the columns", "along the rows", "through the slices"

_REMEDY = "give the series of this very scan, or none"


def _read_headers(folder: Path) -> list[tuple[Path, Dataset]]:
    """The MR images in a folder, without pixels."""
    mr_image = import_pydicom().uid.MRImageStorage
    found = []
    if not folder.is_dir():
        raise ConfigError(f"{folder}: is no folder, wanted one with a DICOM series")
    for path in sorted(path for path in folder.rglob("*") if _is_dicom(path)):
        with _reading(path):
            header = _dataset(path, stop_before_pixels=True)
            if header.get("SOPClassUID") == mr_image:
                _kept(header)  # values are decoded only now
                for name in ALSO_USED:
                    header.get(name)
                found.append((path, header))
    if not found:
        raise ConfigError(
            f"{folder}: holds no MR images as a DICOM template; give the folder of a series of "
            "single-slice files (MR Image Storage)"
        )
    return found


def _is_dicom(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:  # a folder, or a file that may not be read
        return False


def _dataset(path: Path, *, stop_before_pixels: bool = False) -> Dataset:
    """What a file holds; in a map, of which no more can be read than there is."""
    pydicom = import_pydicom()
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    return cast("Dataset", pydicom.dcmread(mapped, stop_before_pixels=stop_before_pixels))


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except (*BROKEN, import_pydicom().errors.BytesLengthException) as error:
        raise ConfigError(
            f"{path}: is damaged ({' '.join(str(error).split())[:200]}); export the series again"
        ) from error


def _check_one_series(folder: Path, headers: Sequence[Dataset]) -> None:
    for name, word in (
        ("PatientID", "patients"),
        ("StudyInstanceUID", "studies"),
        ("SeriesInstanceUID", "series"),
        ("FrameOfReferenceUID", "frames of reference"),
    ):
        values = sorted({str(header.get(name, "")) for header in headers})
        if len(values) > 1:
            raise ConfigError(
                f"{folder}: holds {len(values)} {word}, wanted one as a DICOM template; give the "
                "folder of one series"
            )


def _grid_of(headers: Sequence[Dataset]) -> tuple[Grid, list[int]]:
    """The grid of a series, and its files in the order of their positions."""
    first = headers[0]
    x_dir, y_dir = np.reshape([float(v) for v in first.ImageOrientationPatient], (2, 3))
    normal = np.cross(x_dir, y_dir)
    y_mm, x_mm = (float(size) for size in first.PixelSpacing)
    rows, columns = int(first.Rows), int(first.Columns)
    for header in headers:
        same = np.allclose(header.ImageOrientationPatient, first.ImageOrientationPatient, atol=1e-3)
        if not same or (header.Rows, header.Columns) != (rows, columns):
            raise ValueError("slices are not parallel, or of several sizes")
    corners = np.array([[float(v) for v in header.ImagePositionPatient] for header in headers])
    places = corners @ normal
    order = np.argsort(places, kind="stable").tolist()
    if len(headers) > 1 and np.diff(places[order]).min() < 1e-2:
        raise ValueError("several images lie at the same position")
    centers = corners + y_dir * y_mm * (rows // 2) + x_dir * x_mm * (columns // 2)
    geometry = Geometry.of_vectors(y_dir, x_dir, normal, centers[order])
    thickness = float(first.get("SliceThickness") or 1.0)
    return Grid((len(headers), rows, columns), (y_mm, x_mm, thickness), geometry), order


def _kept(header: Dataset) -> Dataset:
    """The attributes that are taken over; text is encoded anew."""
    kept: Dataset = import_pydicom().Dataset()
    for name in KEPT:
        if name in header:
            value = header[name].value
            text = header[name].VR in ("PN", "LO", "SH", "ST", "LT", "UT")
            setattr(kept, name, str(value) if text and value is not None else value)
    return kept


def _agreement(ours: Geometry | None, theirs: Geometry) -> float:
    """Cosine of the largest angle between the in-plane directions."""
    if ours is None:
        return -1.0
    return float((ours.directions[:2] * theirs.directions[:2]).sum(axis=1).min())


def _correlation(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    a, b = a - a.mean(), b - b.mean()
    norm = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float((a * b).sum()) / norm if norm else 0.0


def _sizes(grid: Grid) -> str:
    """In words."""
    n, y, x = grid.shape
    sizes = "" if grid.voxel_mm is None else " of {:.3g} x {:.3g} mm".format(*grid.voxel_mm[:2])
    return f"{n} slices of {y} x {x} pixels{sizes}"
