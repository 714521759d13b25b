"""Readers and writers, one file a format: how scans come in and reconstructions go out.

A new reader is a subclass of :class:`ScanFile` and a line of :data:`READERS`; a new writer is a
class like :class:`VolumeWriter` and a line of :data:`WRITERS`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..errors import ScanFormatError
from ..runtime.journal import Journal
from . import find
from .arrays import ArrayFile
from .fastmri import FastmriFile
from .header import Header, build_header, parse_header
from .prepared import PreparedFile, PreparedWriter
from .reconstruction import RECONSTRUCTION_FORMAT, ReconstructionWriter, VolumeWriter
from .sampling import Sampling
from .scan_file import Contents, ScanFile
from .undersampled import Undersampled

__all__ = [
    "READERS",
    "WRITERS",
    "ArrayFile",
    "Contents",
    "FastmriFile",
    "Header",
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

READERS: dict[str, type[ScanFile]] = {"prepared": PreparedFile, "fastmri": FastmriFile}
"""Readers by format; the first that recognises a file reads it."""

WRITERS: dict[str, type[VolumeWriter]] = {"h5": ReconstructionWriter}
"""What ``reconstruct`` writes, by format, which is the suffix of the file."""


def open_scan(path: str | Path) -> ScanFile:
    """Open a scan of any format in :data:`READERS`.

    Raises:
        ScanFormatError: the file is missing, unreadable, truncated, damaged, or of another format.
    """
    contents = Contents(path)
    for reader in READERS.values():
        if reader.recognises(contents):
            with Journal().noting() as given:
                file = reader(path)
            file.warnings = tuple(given)
            return file
    raise _unknown(contents)


def _unknown(contents: Contents) -> ScanFormatError:
    path = contents.path
    if contents.error is not None:
        reason = why_no_file(path)
        return ScanFormatError(reason) if reason else contents.error
    if contents.tag == RECONSTRUCTION_FORMAT:
        return ScanFormatError(f"{path}: is a reconstruction; give the scan it was made from")
    found = f"format {contents.tag!r}" if contents.tag else f"found {list(contents.names)}"
    known = ", ".join(READERS)
    return ScanFormatError(f"{path}: no known format; {found}; known formats: {known}")


def find_scans(inputs: Sequence[str | Path]) -> list[Path]:
    """Expand files, folders and globs, in the order given.

    A folder stands for the files directly in it with a suffix of one of the readers, sorted, hidden
    ones left out. What does not exist or holds no scan is kept if there are other inputs: opening
    it fails, and the other scans go on.

    Raises:
        ScanFormatError: there are only folders and globs that hold no scan.
        ConfigError: two files have the same stem, after which outputs are named.
    """
    return find.find_files(inputs, _suffixes())


def why_no_file(path: Path) -> str | None:
    """Why a path is no file but a folder, or a glob without a match; None for any other path."""
    return find.why_no_file(path, _suffixes())


def _suffixes() -> tuple[str, ...]:
    return tuple(dict.fromkeys(suffix for reader in READERS.values() for suffix in reader.suffixes))
