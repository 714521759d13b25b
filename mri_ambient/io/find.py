"""From the files, folders and globs that a user names to a list of scan files."""

from __future__ import annotations

import glob
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from ..errors import ConfigError, ScanFormatError


def find_files(inputs: Sequence[str | Path], suffixes: tuple[str, ...]) -> list[Path]:
    """The scans that inputs stand for (see :func:`mri_ambient.io.find_scans`)."""
    paths = [path for entry in inputs for path in _expand(entry, suffixes)]
    reasons = [why_no_file(path, suffixes) for path in paths]
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


def why_no_file(path: Path, suffixes: tuple[str, ...]) -> str | None:
    """Why a path is no file but a folder, or a glob without a match; None for any other path."""
    if path.is_dir():
        if _files_in(path, suffixes):
            return f"{path}: is a folder, wanted one of the files in it"
        return f"{path}: the folder holds no {' or '.join(suffixes)} file"
    if glob.has_magic(str(path)) and not path.exists():
        return f"{path}: no file matches"
    return None


def _expand(entry: str | Path, suffixes: tuple[str, ...]) -> list[Path]:
    """The files an input stands for, or itself if there are none."""
    path, found = Path(entry), []
    if path.is_dir():
        found = _files_in(path, suffixes)
    elif glob.has_magic(str(entry)) and not path.exists():
        # Path.glob takes no absolute patterns.
        matches = sorted(glob.glob(str(entry), recursive=True))  # noqa: PTH207
        found = [file for match in matches for file in _expand(match, suffixes)]
    return found or [path]


def _files_in(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    return sorted(
        file
        for file in folder.iterdir()
        if file.suffix.lower() in suffixes and not file.name.startswith(".")
    )
