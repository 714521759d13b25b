"""Which formats a reconstruction can be saved in, beside its HDF5 file."""

from __future__ import annotations

from .mrd_output import MrdImageWriter
from .save_options import Writer

WRITERS: dict[str, Writer] = {"ismrmrd": MrdImageWriter()}
"""Writers of arrays, by format."""
