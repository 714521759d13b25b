"""Which formats a reconstruction can be saved in, beside its HDF5 file."""

from __future__ import annotations

from .outputs.bids import BidsWriter
from .outputs.dicom import DicomWriter
from .outputs.mrd_output import MrdImageWriter
from .outputs.nifti import NiftiWriter
from .outputs.save_options import Writer

WRITERS: dict[str, Writer] = {
    "nifti": NiftiWriter(),
    "dicom": DicomWriter(),
    "bids": BidsWriter(),
    "ismrmrd": MrdImageWriter(),
}
"""Writers of arrays, by format."""
