"""Which formats a reconstruction can be saved in, beside its HDF5 file."""

from __future__ import annotations

from .dicom import DicomWriter
from .nifti import NiftiWriter
from .writer import PARTS, SaveOptions, Writer

__all__ = ["PARTS", "WRITERS", "SaveOptions", "Writer"]

WRITERS: dict[str, Writer] = {
    "nifti": NiftiWriter(),
    "dicom": DicomWriter(),
}
"""Writers of arrays, by format."""
