"""Readers and writers, one file a format: how scans come in and reconstructions go out.

Files hold arrays of numpy; a slice that is taken from one is a Scan, which holds tensors. Torch is
slow to import: it is imported where tensors are made. What a file holds is told without it, but for
3-D scans, whose slices are computed, and scans that hold images in place of k-space.

``formats/`` holds readers, ``views/`` what changes a scan that was read (k = 0 placed, averages,
calibration lines from elsewhere), ``outputs/`` files of reconstructions.

A new reader is a subclass of :class:`ScanFile` in ``formats/`` and a line of :data:`READERS`; a new
writer is a :class:`~mri_ambient.io.outputs.save_options.Writer` in ``outputs/`` and a line of
:data:`WRITERS`.

Public: ``READERS``, ``ScanPath``, ``open_scan``, ``find_scans``, ``left_out``, ``why_no_file``
(readers); ``ScanFile``, ``Contents`` (scan_file); ``raw_file``, ``name_of``, ``stem_of`` (names);
``FastmriFile`` (fastmri); ``PreparedFile``, ``PreparedWriter`` (prepared); ``ArrayFile`` (arrays);
``Undersampled`` (undersampled); ``Sampling`` (sampling); ``build_header``, ``parse_header``
(header); ``Geometry`` (geometry); ``Grid`` (grid); ``WRITERS`` (writers); ``SaveOptions``
(save_options); ``ReconstructionWriter``, ``ReconstructionFile`` (reconstruction); ``SCAN_FORMATS``,
``convert_scan`` (convert).
"""

from .convert import SCAN_FORMATS, convert_scan
from .formats.arrays import ArrayFile
from .formats.fastmri import FastmriFile
from .formats.prepared import PreparedFile, PreparedWriter
from .geometry import Geometry
from .grid import Grid
from .header import build_header, parse_header
from .names import name_of, raw_file, stem_of
from .outputs.reconstruction import ReconstructionFile, ReconstructionWriter
from .outputs.save_options import SaveOptions
from .readers import READERS, ScanPath, find_scans, left_out, open_scan, why_no_file
from .sampling import Sampling
from .scan_file import Contents, ScanFile
from .views.undersampled import Undersampled
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
