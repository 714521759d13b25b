"""What scans are called: by their files, except raw data of ParaVision, all called the same."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

RAW_FILES = ("fid", "rawdata.job0")
"""What ParaVision calls the raw data of every scan; the folder has the name of the scan."""


def raw_file(path: Path) -> Path:
    """The raw data of a ParaVision scan where ``path`` is its folder; any other path as it is."""
    with suppress(OSError):  # a folder that cannot be read
        if path.is_dir() and any((path / name).is_file() for name in ("acqp", "method")):
            return next((path / name for name in RAW_FILES if (path / name).is_file()), path)
    return path


def name_of(path: Path) -> str:
    """How a scan is named to users: by its file; of raw data of ParaVision, with the folder."""
    name = f"{stem_of(path)}/{path.name}" if path.name in RAW_FILES else path.name
    return as_text(name)


def stem_of(path: Path) -> str:
    """What a scan is called: the stem of its file, or of the folder that holds its raw data."""
    return as_text(path.absolute().parent.name if path.name in RAW_FILES else path.stem)


def as_text(name: str) -> str:
    """A name on disk as text that can be written: bytes that are not UTF-8 become ``%FC``."""
    return re.sub("[\udc80-\udcff]", lambda byte: f"%{ord(byte[0]) - 0xDC00:02X}", name)


def without_repetition(name: str) -> str:
    """The name of a volume, or stem of an output, without the part ``rep-2``."""
    return "_".join(part for part in name.split("_") if not re.fullmatch(r"rep-\d+", part))


def series_of(stem: str) -> str | None:
    """The stem of a file without the number of its repetition, two digits; None if it has none."""
    found = re.fullmatch(r"(.*\D\d?)(0[1-9]|[1-9]\d)", stem)
    return found[1] if found else None
