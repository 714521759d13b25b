"""From what a user names (files, folders, globs) to opened scans."""

from __future__ import annotations

import glob
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from ..errors import ConfigError, ScanFormatError
from ..runtime.warning_log import WarningLog
from .fastmri import FastmriFile
from .mrd import MrdFile
from .prepared import PreparedFile
from .readouts import ReadoutFile
from .reconstruction import RECONSTRUCTION_FORMAT
from .scan_file import Contents, ScanFile

READERS: dict[str, type[ScanFile]] = {
    reader.format: reader for reader in (PreparedFile, FastmriFile, MrdFile)
}
"""Readers by format; the first that recognises a file reads it."""


def open_scan(path: str | Path, *, volume: str | None = None) -> ScanFile:
    """Open a scan of any format in :data:`READERS`.

    Args:
        path: the file.
        volume: name of a volume, e.g. ``con-1_rep-2``, of a file that holds several.

    Raises:
        ScanFormatError: the file is missing, unreadable, truncated, damaged, of another format, or
            holds several volumes, which the message names.
        ConfigError: a volume is named, but files of this format hold a single one.
    """
    contents = Contents(path)
    for reader in READERS.values():
        if reader.recognises(contents):
            if volume is not None and not issubclass(reader, ReadoutFile):
                raise ConfigError(f"{contents.path}: holds a single volume, so none can be chosen")
            with WarningLog().noting() as given:
                file = reader(path) if volume is None else reader(path, volume)  # type: ignore[call-arg]
            file.warnings = tuple(given)
            return file
    path = contents.path
    if contents.error is not None:
        reason = why_no_file(path)
        raise ScanFormatError(reason) if reason else contents.error
    if contents.tag == RECONSTRUCTION_FORMAT:
        raise ScanFormatError(f"{path}: is a reconstruction; give the scan it was made from")
    found = f"format {contents.tag!r}" if contents.tag else f"found {list(contents.names)}"
    known = ", ".join(READERS)
    raise ScanFormatError(f"{path}: no known format; {found}; known formats: {known}")


def find_scans(inputs: Sequence[str | Path]) -> list[Path]:
    """Expand files, folders and globs, in the order given.

    A folder stands for the files directly in it with a suffix of one of the readers, sorted, hidden
    ones left out. What does not exist or holds no scan is kept if there are other inputs: opening
    it fails, and the other scans go on.

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


def why_no_file(path: Path) -> str | None:
    """Why a path is no file but a folder, or a glob without a match; None for any other path."""
    if path.is_dir():
        if _files_in(path):
            return f"{path}: is a folder, wanted one of the files in it"
        return f"{path}: the folder holds no {' or '.join(_suffixes())} file"
    if glob.has_magic(str(path)) and not path.exists():
        return f"{path}: no file matches"
    return None


def _expand(entry: str | Path) -> list[Path]:
    """The files an input stands for, or itself if there are none."""
    path, found = Path(entry), []
    if path.is_dir():
        found = _files_in(path)
    elif glob.has_magic(str(entry)) and not path.exists():
        # Path.glob takes no absolute patterns.
        matches = sorted(glob.glob(str(entry), recursive=True))  # noqa: PTH207
        found = [file for match in matches for file in _expand(match)]
    return found or [path]


def _files_in(folder: Path) -> list[Path]:
    return sorted(
        file
        for file in folder.iterdir()
        if file.suffix.lower() in _suffixes() and not file.name.startswith(".")
    )


def _suffixes() -> list[str]:
    return list(dict.fromkeys(suffix for reader in READERS.values() for suffix in reader.suffixes))
