"""Which formats a reconstruction can be saved in, beside its HDF5 file."""

from __future__ import annotations

from .bids import BidsWriter
from .dicom import DicomWriter
from .mrd_output import MrdImageWriter
from .nifti import NiftiWriter
from .save_options import Writer

WRITERS: dict[str, Writer] = {
    "nifti": NiftiWriter(),
    "dicom": DicomWriter(),
    "bids": BidsWriter(),
    "ismrmrd": MrdImageWriter(),
}
"""Writers of arrays, by format."""
