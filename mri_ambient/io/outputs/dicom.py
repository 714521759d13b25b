"""DICOM: a series of single-slice files for every part of a volume.

Where the scan tells how its slices lie in the patient, or a template series does, files are MR
Image Storage with position and orientation of every slice; otherwise Secondary Capture. Pixels are
16 bit: images times a power of ten, one for the volume, which the real world value mapping undoes.
The rescale slope is 1 and windows are whole numbers, since many viewers round them. UIDs come from
the images and from what decided them (root 2.25), so that the same result gives the same bytes, and
another one other UIDs.
"""

from __future__ import annotations

import hashlib
import json
import math
import uuid
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..._version import __version__
from ...errors import warn
from ...runtime.files import atomic_folder
from ..grid import Grid
from .dicom_template import SAME_MM, Placement, Template, import_pydicom
from .parts import KINDS, NOT_FOR_DIAGNOSIS, SUFFIXES, made_by, white_level
from .reconstruction import ReconstructionFile
from .save_options import SaveOptions, Writer

if TYPE_CHECKING:
    from pydicom import Dataset
    from pydicom.dataset import FileMetaDataset

FILE_NAME = "slice-{:04d}.dcm"
"""Of a slice, counted from 1."""

GENERAL = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime",
    "StudyID", "AccessionNumber", "ReferringPhysicianName", "Laterality",
)  # fmt: skip
"""Attributes that must be there, and are empty where they are not known."""

OF_MR_IMAGES = (
    "PositionReferenceIndicator", "PatientPosition", "ScanOptions", "RepetitionTime", "EchoTime",
    "EchoTrainLength",
)  # fmt: skip
"""The same, of MR Image Storage only."""


class DicomWriter(Writer):
    """A folder of DICOM files for every part."""

    def check_options(self, options: SaveOptions) -> None:
        """Refuse a missing pydicom."""
        import_pydicom()

    def check(self, stem: str, grid: Grid, options: SaveOptions) -> None:
        """Refuse a template that does not fit, and a missing pydicom.

        Warns:
            NumericalWarning: W-TEMPLATE-OFFSET: it lies beside the scan, within what is accepted.
        """
        self.check_options(options)
        if options.dicom_template is None:
            return
        offset_mm = Template.read(Path(options.dicom_template)).candidates(grid)[0].offset_mm
        if offset_mm > SAME_MM:
            what = f"the slices of the DICOM template lie {offset_mm:.2f} mm from those of the scan"
            warn("W-TEMPLATE-OFFSET", f"{stem}: {what}; the DICOM files have its positions")

    def outputs(self, result: ReconstructionFile, options: SaveOptions) -> list[str]:
        """``<stem>_dicom``, ``<stem>_part-phase_dicom``, ..."""
        return [f"{result.path.stem}{SUFFIXES[part]}_dicom" for part in result.parts(options.parts)]

    def write(self, result: ReconstructionFile, folder: Path, options: SaveOptions) -> None:
        """Write a series of every part."""
        placement = _placement(result, options)
        names = self.outputs(result, options)
        for part, name in zip(result.parts(options.parts), names, strict=True):
            with atomic_folder(folder / name, FILE_NAME.replace("{:04d}", "*")) as temporary:
                Series(result, part, placement).write(temporary)


def _placement(result: ReconstructionFile, options: SaveOptions) -> Placement:
    """By the template, if there is one, otherwise by the geometry of the scan."""
    if options.dicom_template is None:
        turn = result.grid.display_turn()
        return Placement(turn, result.grid.turned(turn), result.grid.orientation_source)
    template = Template.read(Path(options.dicom_template))
    return template.place(result.grid, lambda index: result.read_part("mag", index))


def uid(*words: object) -> str:
    """A UID that follows from its words, by a UUID under the root 2.25."""
    digest = hashlib.sha256(json.dumps(words).encode()).digest()
    return f"2.25.{uuid.UUID(bytes=digest[:16], version=5).int}"


@dataclass(frozen=True)
class Series:
    """One part of a result as a DICOM series.

    Attributes:
        result: the reconstruction.
        part: "mag", "phase" or "std".
        placement: how its slices are turned, and where they lie.
    """

    result: ReconstructionFile
    part: str
    placement: Placement

    def images(self) -> Iterator[NDArray[np.float32]]:
        """The slices as they are shown, ``(y, x)``."""
        for index in range(len(self.result)):
            yield self.placement.turn(self.result.read_part(self.part, index))

    def write(self, folder: Path) -> None:
        """Write the slices, one file each."""
        for index, img in enumerate(self.images()):
            path = folder / FILE_NAME.format(index + 1)
            self._file(index, img).save_as(path, enforce_file_format=True)

    @property
    def is_mr_image(self) -> bool:
        """Whether it is MR Image Storage, which needs positions."""
        return self.placement.grid.is_placed

    @cached_property
    def exponent(self) -> int:
        """Of the power of ten by which images are multiplied: the largest that 16 bits hold."""
        if self.part == "phase":
            return 4  # 31416 is pi
        top = max(float(img.max()) for img in self.images()) or 1.0
        return math.floor(math.log10(65535 / top))

    @cached_property
    def digest(self) -> str:
        """Of all that makes this series: images, where they lie, and how they were made."""
        found, grid = hashlib.sha256(), self.placement.grid
        for img in self.images():
            found.update(np.ascontiguousarray(img).tobytes())
        place = (grid.shape, grid.voxel_mm, grid.geometry and grid.geometry.to_text())
        study = self.placement.header(0).get("StudyInstanceUID", "")
        facts = (self.part, __version__, made_by(self.result), self.result.settings, place, study)
        found.update(json.dumps(facts).encode())
        return found.hexdigest()

    def _file(self, index: int, img: NDArray[np.float32]) -> Dataset:
        """What the file of a slice holds."""
        data: Dataset = import_pydicom().Dataset()
        attributes = {
            **dict.fromkeys(GENERAL, ""),
            **self._study(),
            **(self._plane(index) if self.is_mr_image else self._capture()),
            "ProtocolName": str(self.result.attributes.get("protocol", ""))[:64],
            "InstanceNumber": index + 1,
            "SOPInstanceUID": uid("instance", self.digest, index),
        }
        for name, value in attributes.items():
            setattr(data, name, value)
        # What is set below would change the elements that the template shares.
        data.update(deepcopy(self.placement.header(index)))
        for name, value in (self._series() | self._texts() | self._pixels(img)).items():
            setattr(data, name, value)
        data.file_meta = _file_meta(data)
        return data

    def _study(self) -> dict[str, Any]:
        """Results of one scan share patient, study and frame of reference."""
        source = str(self.result.settings.get("input_sha256") or self.digest)
        return {
            # Archives take studies without a PatientID for those of one patient.
            "PatientID": f"mri-ambient-{source[:12]}",
            "StudyInstanceUID": uid("study", source),
            **({"FrameOfReferenceUID": uid("frame", source)} if self.is_mr_image else {}),
        }

    def _series(self) -> dict[str, Any]:
        from pydicom.uid import MRImageStorage, SecondaryCaptureImageStorage

        kind = {"mag": ["M", "NONE"], "phase": ["P", "NONE"], "std": ["OTHER", "STD"]}[self.part]
        number = self.placement.header(0).get("SeriesNumber", 0) or 0
        return {
            "SpecificCharacterSet": "ISO_IR 192",
            "SOPClassUID": MRImageStorage if self.is_mr_image else SecondaryCaptureImageStorage,
            "ImageType": ["DERIVED", "SECONDARY", *kind],
            "Modality": "MR",
            "SeriesInstanceUID": uid("series", self.digest),
            "SeriesNumber": int(number) + 1000 * (1 + list(SUFFIXES).index(self.part)),
            "Manufacturer": "mri-ambient",
            "ManufacturerModelName": "mri-ambient",
            "SoftwareVersions": __version__,
        }

    def _texts(self) -> dict[str, Any]:
        made, (kind, _) = made_by(self.result), KINDS[self.part]
        short = {"mag": "", "phase": " phase", "std": " std"}[self.part]
        return {
            "SeriesDescription": f"{made}{short}; {NOT_FOR_DIAGNOSIS}"[:64],
            "DerivationDescription": (
                f"{kind}, reconstructed from k-space by {made} with mri-ambient {__version__}; "
                f"orientation: {self.placement.source}; {NOT_FOR_DIAGNOSIS}"
            )[:1024],
            "ImageComments": NOT_FOR_DIAGNOSIS,
        }

    def _plane(self, index: int) -> dict[str, Any]:
        """What only MR Image Storage has."""
        grid = self.placement.grid
        geometry, voxel_mm = grid.geometry, grid.voxel_mm
        if geometry is None or voxel_mm is None:
            raise ValueError("the images have no place")
        between = np.diff(geometry.positions, axis=0) @ geometry.directions[2]
        spacing = {"SpacingBetweenSlices": _decimal(np.abs(between).mean())} if len(between) else {}
        y_dir, x_dir, _ = geometry.directions
        corner = geometry.corner(index, grid.shape[1:], voxel_mm)
        return {
            **dict.fromkeys(OF_MR_IMAGES, ""),
            "ScanningSequence": "RM",
            "SequenceVariant": "NONE",
            "MRAcquisitionType": "2D",
            "InPlanePhaseEncodingDirection": "COL" if self.placement.turn.transpose else "ROW",
            "PixelSpacing": [_decimal(size) for size in voxel_mm[:2]],
            "SliceThickness": _decimal(self.result.thickness_mm or voxel_mm[2]),
            "ImageOrientationPatient": [_decimal(v) for v in (*x_dir, *y_dir)],
            "ImagePositionPatient": [_decimal(v) for v in corner],
            **spacing,
        }

    def _capture(self) -> dict[str, Any]:
        """What only Secondary Capture has."""
        sizes = self.placement.grid.voxel_mm
        spacing = {"PixelSpacing": [_decimal(size) for size in sizes[:2]]} if sizes else {}
        return {"ConversionType": "WSD", "PatientOrientation": "", **spacing}

    def _pixels(self, img: NDArray[np.float32]) -> dict[str, Any]:
        signed = self.part == "phase"
        low, high = (-32768, 32767) if signed else (0, 65535)
        scaled = img.astype(np.float64) * 10.0**self.exponent
        stored = np.rint(scaled).clip(low, high).astype("<i2" if signed else "<u2")
        center, width = self._window
        return {
            "SamplesPerPixel": 1,
            "PhotometricInterpretation": "MONOCHROME2",
            "Rows": img.shape[0],
            "Columns": img.shape[1],
            "BitsAllocated": 16,
            "BitsStored": 16,
            "HighBit": 15,
            "PixelRepresentation": int(signed),
            "RescaleIntercept": "0",
            "RescaleSlope": "1",
            "RescaleType": "US",
            "RealWorldValueMappingSequence": [self._real_world(low, high)],
            "WindowCenter": str(center),
            "WindowWidth": str(width),
            "PixelData": stored.tobytes(),
        }

    def _real_world(self, low: int, high: int) -> Dataset:
        """The values of stored numbers: those of the HDF5 file, or radians."""
        pydicom = import_pydicom()
        unit: Dataset = pydicom.Dataset()
        item: Dataset = pydicom.Dataset()
        code, meaning = ("rad", "radian") if self.part == "phase" else ("1", "no units")
        unit.CodeValue, unit.CodingSchemeDesignator, unit.CodeMeaning = code, "UCUM", meaning
        kind = "SS" if low < 0 else "US"
        item.add_new("RealWorldValueFirstValueMapped", kind, low)
        item.add_new("RealWorldValueLastValueMapped", kind, high)
        item.RealWorldValueIntercept, item.RealWorldValueSlope = 0.0, 10.0**-self.exponent
        item.LUTExplanation = KINDS[self.part][0]
        item.LUTLabel = self.part.upper()
        item.MeasurementUnitsCodeSequence = [unit]
        return item

    @cached_property
    def _window(self) -> tuple[int, int]:
        """Centre and width of what is shown, of stored numbers, both whole."""
        if self.part == "phase":
            return 0, 62832
        white = white_level(self.images()) * 10.0**self.exponent
        half = max(1, round(min(white, 65535) / 2))
        return half, 2 * half


def _decimal(value: float) -> str:
    """As DICOM writes numbers, in at most 16 characters."""
    from pydicom.valuerep import format_number_as_ds

    return format_number_as_ds(float(value) + 0.0)  # 0.0 instead of -0.0


def _file_meta(data: Dataset) -> FileMetaDataset:
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import UID, ExplicitVRLittleEndian

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = data.SOPClassUID
    meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = UID(uid("implementation", "mri-ambient"))
    meta.ImplementationVersionName = f"MRIAMBIENT {__version__}"[:16]
    return meta
