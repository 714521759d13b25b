"""Readers and writers: how scans come in and reconstructions go out."""

from __future__ import annotations

import glob
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..atomic import atomic_path, file_sha256, json_text, write_json
from ..errors import ConfigError, ScanFormatError
from .base import ScanFile, Undersampled
from .fastmri import FastmriFile
from .hdf5 import open_h5
from .header import Header, build_header, parse_header
from .output import WRITERS, ReconstructionWriter
from .prepared import FORMAT as PREPARED_FORMAT
from .prepared import PreparedFile, PreparedWriter

__all__ = [
    "READERS",
    "WRITERS",
    "FastmriFile",
    "Header",
    "PreparedFile",
    "PreparedWriter",
    "ReconstructionWriter",
    "ScanFile",
    "Undersampled",
    "atomic_path",
    "build_header",
    "file_sha256",
    "find_scans",
    "json_text",
    "open_scan",
    "parse_header",
    "write_json",
]

SUFFIXES = (".h5", ".hdf5")
"""What counts as a scan when a folder is given."""


@dataclass(frozen=True)
class Contents:
    """What one look into an HDF5 file shows; the sniffers judge it.

    Attributes:
        tag: the root attribute ``mri_ambient_format``, empty if there is none.
        names: what the root group holds.
    """

    tag: str
    names: tuple[str, ...]


def is_prepared(contents: Contents) -> bool:
    """Whether a file was made by ``prep``."""
    return contents.tag == PREPARED_FORMAT


def is_fastmri(contents: Contents) -> bool:
    """Whether a file has the layout of fastMRI and M4Raw."""
    return not contents.tag and "kspace" in contents.names


READERS: dict[Callable[[Contents], bool], type[PreparedFile] | type[FastmriFile]] = {
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
    contents = look_into(path)
    for sniff, reader in READERS.items():
        if sniff(contents):
            return reader(path)
    found = f"format {contents.tag!r}" if contents.tag else f"found {list(contents.names)}"
    known = ", ".join(reader.format for reader in READERS.values())
    raise ScanFormatError(f"{path}: no known layout; {found}; known formats: {known}")


def look_into(path: str | Path) -> Contents:
    """Open an HDF5 file once and note what tells its layout.

    Raises:
        ScanFormatError: it is missing, unreadable, no HDF5, truncated or damaged.
    """
    with open_h5(Path(path), for_text=True) as file:
        tag = file.attrs.get("mri_ambient_format", "")
        return Contents(tag=str(tag), names=tuple(sorted(file)))


def find_scans(inputs: Sequence[str | Path]) -> list[Path]:
    """Expand files, folders and globs, in the order given.

    A folder stands for the ``.h5`` and ``.hdf5`` files directly in it, sorted, hidden ones left
    out. A file is passed on as it is, there or not: the case fails when it is opened, and the
    others go on.

    Raises:
        ScanFormatError: a folder or a glob holds no scan.
        ConfigError: two files have the same stem, after which outputs are named.
    """
    paths = [path for entry in inputs for path in _expand(entry)]
    if not paths:
        raise ScanFormatError("no scan was given; name files, folders or globs")
    stem, n_times = Counter(path.stem for path in paths).most_common(1)[0]
    if n_times > 1:
        clash = ", ".join(str(path) for path in paths if path.stem == stem)
        raise ConfigError(
            f"{n_times} inputs have the stem {stem!r}, after which outputs are named: {clash}; "
            "run them one by one into different folders, or rename them"
        )
    return paths


def _expand(entry: str | Path) -> list[Path]:
    path = Path(entry)
    if path.is_dir():
        found = sorted(file for file in path.iterdir() if _is_candidate(file))
        what = f"{entry}: the folder holds no {' or '.join(SUFFIXES)} file"
    elif path.exists() or not glob.has_magic(str(entry)):
        return [path]
    else:
        # Path.glob takes no absolute patterns.
        matches = sorted(glob.glob(str(entry), recursive=True))  # noqa: PTH207
        found = [file for match in matches for file in _expand(match)]
        what = f"{entry}: no file matches"
    if not found:
        raise ScanFormatError(what)
    return found


def _is_candidate(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()
