"""Readers and writers, one file a format: how scans come in and reconstructions go out.

Files hold arrays of numpy; a slice that is taken from one is a Scan, which holds tensors. Torch is
slow to import: it is imported where tensors are made. What a file holds is told without it, but for
3-D scans, whose slices are computed, and scans that hold images in place of k-space.

A new reader is a subclass of :class:`ScanFile` and a line of :data:`READERS`; a new writer is a
function from a :class:`ReconstructionFile` to files, and a line of :data:`WRITERS`.

Public: ``READERS``, ``ScanPath``, ``open_scan``, ``find_scans``, ``left_out``, ``why_no_file``
(readers); ``ScanFile``, ``Contents`` (scan_file); ``raw_file``, ``name_of``, ``stem_of`` (names);
``FastmriFile`` (fastmri); ``PreparedFile``, ``PreparedWriter`` (prepared); ``ArrayFile`` (arrays);
``Undersampled`` (undersampled); ``Sampling`` (sampling); ``build_header``, ``parse_header``
(header); ``Geometry`` (geometry); ``Grid`` (grid); ``WRITERS`` (writers); ``SaveOptions``
(save_options); ``ReconstructionWriter``, ``ReconstructionFile`` (reconstruction); ``SCAN_FORMATS``,
``convert_scan`` (convert).
"""

from .arrays import ArrayFile
from .convert import SCAN_FORMATS, convert_scan
from .fastmri import FastmriFile
from .geometry import Geometry
from .grid import Grid
from .header import build_header, parse_header
from .names import name_of, raw_file, stem_of
from .prepared import PreparedFile, PreparedWriter
from .readers import READERS, ScanPath, find_scans, left_out, open_scan, why_no_file
from .reconstruction import ReconstructionFile, ReconstructionWriter
from .sampling import Sampling
from .save_options import SaveOptions
from .scan_file import Contents, ScanFile
from .undersampled import Undersampled
from .writers import WRITERS

__all__ = [
    "READERS",
    "SCAN_FORMATS",
    "WRITERS",
    "ArrayFile",
    "Contents",
    "FastmriFile",
    "Geometry",
    "Grid",
    "PreparedFile",
    "PreparedWriter",
    "ReconstructionFile",
    "ReconstructionWriter",
    "Sampling",
    "SaveOptions",
    "ScanFile",
    "ScanPath",
    "Undersampled",
    "build_header",
    "convert_scan",
    "find_scans",
    "left_out",
    "name_of",
    "open_scan",
    "parse_header",
    "raw_file",
    "stem_of",
    "why_no_file",
]
