"""Readers and writers, one file a format: how scans come in and reconstructions go out.

A new reader is a subclass of :class:`ScanFile` and a line of :data:`READERS`; a new writer is a
class like :class:`VolumeWriter` and a line of :data:`WRITERS`.

Public: ``READERS``, ``open_scan``, ``find_scans``, ``why_no_file`` (readers); ``ScanFile``,
``Contents`` (scan_file); ``FastmriFile`` (fastmri); ``PreparedFile``, ``PreparedWriter``
(prepared); ``ArrayFile`` (arrays); ``Undersampled`` (undersampled); ``Sampling`` (sampling);
``build_header``, ``parse_header`` (header); ``WRITERS``, ``VolumeWriter`` (writers);
``ReconstructionWriter`` (reconstruction).
"""

from .arrays import ArrayFile
from .fastmri import FastmriFile
from .header import build_header, parse_header
from .prepared import PreparedFile, PreparedWriter
from .readers import READERS, find_scans, open_scan, why_no_file
from .reconstruction import ReconstructionWriter
from .sampling import Sampling
from .scan_file import Contents, ScanFile
from .undersampled import Undersampled
from .writers import WRITERS, VolumeWriter

__all__ = [
    "READERS",
    "WRITERS",
    "ArrayFile",
    "Contents",
    "FastmriFile",
    "PreparedFile",
    "PreparedWriter",
    "ReconstructionWriter",
    "Sampling",
    "ScanFile",
    "Undersampled",
    "VolumeWriter",
    "build_header",
    "find_scans",
    "open_scan",
    "parse_header",
    "why_no_file",
]
