"""Readers and writers: how scans come in and reconstructions go out."""

from __future__ import annotations

import glob
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from ..errors import ConfigError, ScanFormatError
from .fastmri import FastmriFile
from .header import Header, build_header, parse_header
from .prepared import FORMAT as PREPARED_FORMAT
from .prepared import PreparedFile, PreparedWriter
from .reconstruction import RECONSTRUCTION_FORMAT, WRITERS, ReconstructionWriter
from .scan_file import Contents, ScanFile, Undersampled

__all__ = [
    "READERS",
    "WRITERS",
    "Contents",
    "FastmriFile",
    "Header",
    "PreparedFile",
    "PreparedWriter",
    "ReconstructionWriter",
    "ScanFile",
    "Undersampled",
    "build_header",
    "find_scans",
    "open_scan",
    "parse_header",
    "why_no_file",
]


def is_prepared(contents: Contents) -> bool:
    """Whether a file was made by ``prep``."""
    return contents.tag == PREPARED_FORMAT


def is_fastmri(contents: Contents) -> bool:
    """Whether a file has the layout of fastMRI and M4Raw."""
    return not contents.tag and "kspace" in contents.names


READERS: dict[Callable[[Contents], bool], type[ScanFile]] = {
    is_prepared: PreparedFile,
    is_fastmri: FastmriFile,
}
"""Readers by the sniffer that recognises their files; the first that says yes reads."""


def open_scan(path: str | Path) -> ScanFile:
    """Open a scan of any known layout.

    Raises:
        ScanFormatError: the file is missing, unreadable, no HDF5, truncated, damaged, or has no
            layout we know.
    """
    contents = Contents(path)
    for sniff, reader in READERS.items():
        if sniff(contents):
            return reader(path)
    if contents.error is not None:
        reason = why_no_file(contents.path)
        raise ScanFormatError(reason) if reason else contents.error
    if contents.tag == RECONSTRUCTION_FORMAT:
        raise ScanFormatError(f"{path}: is a reconstruction already; give the scan it was made of")
    found = f"format {contents.tag!r}" if contents.tag else f"found {list(contents.names)}"
    known = ", ".join(reader.format for reader in READERS.values())
    raise ScanFormatError(f"{path}: no known layout; {found}; known formats: {known}")


def find_scans(inputs: Sequence[str | Path]) -> list[Path]:
    """Expand files, folders and globs, in the order given.

    A folder stands for the files directly in it that end in a suffix of one of the readers
    (``.h5``, ``.hdf5``), sorted, hidden ones left out. A file is passed on as it is, there or not:
    the case fails when it is opened, and the others go on. So is a folder or a glob that holds no
    scan, as long as anything else was given.

    Raises:
        ScanFormatError: there are only folders and globs that hold no scan.
        ConfigError: two files have the same stem, after which outputs are named.
    """
    paths = [path for entry in inputs for path in _expand(entry)]
    reasons = [why_no_file(path) for path in paths]
    files = [path for path, reason in zip(paths, reasons, strict=True) if reason is None]
    if not files:
        given = "; ".join(reason for reason in reasons if reason)
        raise ScanFormatError(given or "no scan was given; name files, folders or globs")
    stem, n_times = Counter(path.stem for path in files).most_common(1)[0]
    if n_times > 1:
        clash = ", ".join(str(path) for path in files if path.stem == stem)
        raise ConfigError(
            f"{n_times} inputs have the stem {stem!r}, after which outputs are named: {clash}; "
            "run them one by one into different folders, or rename them"
        )
    return paths


def _expand(entry: str | Path) -> list[Path]:
    """The files an input stands for, or itself if there are none."""
    path = Path(entry)
    if path.is_dir():
        found = _scans_in(path)
    elif path.exists() or not glob.has_magic(str(entry)):
        found = []
    else:
        # Path.glob takes no absolute patterns.
        matches = sorted(glob.glob(str(entry), recursive=True))  # noqa: PTH207
        found = [file for match in matches for file in _expand(match)]
    return found or [path]


def _scans_in(folder: Path) -> list[Path]:
    suffixes = _suffixes()
    return sorted(
        file
        for file in folder.iterdir()
        if file.suffix.lower() in suffixes and not file.name.startswith(".")
    )


def _suffixes() -> tuple[str, ...]:
    """What files are tried in a folder, of any reader, each once."""
    return tuple(dict.fromkeys(suffix for reader in READERS.values() for suffix in reader.suffixes))


def why_no_file(path: Path) -> str | None:
    """Why a path that was typed stands for no file at all; None where it stands for one."""
    if path.is_dir():
        if _scans_in(path):
            return f"{path}: is a folder, wanted one of the files in it"
        return f"{path}: the folder holds no {' or '.join(_suffixes())} file"
    if glob.has_magic(str(path)) and not path.exists():
        return f"{path}: no file matches"
    return None
