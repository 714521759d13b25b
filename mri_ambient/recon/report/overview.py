"""The overview of a folder of reconstructions: ``index.html`` and ``summary.csv``."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from io import StringIO
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from PIL import Image

from ..._version import __version__
from ...errors import ScanFormatError, with_remedy
from ...io import Contents, ReconstructionFile
from ...io.outputs.parts import white_level
from ...io.outputs.reconstruction import RECONSTRUCTION_FORMAT
from ...runtime.files import append_line, atomic_path
from ..held_out import held_out_means
from ..states import FAILED, STATES, State, read_states
from .facts import residuals
from .images import data_uri, grey_levels
from .pages import PAGES, report_name

PAGE, TABLE = "index.html", "summary.csv"
"""Names of the two files."""

THUMBNAIL = 96
"""Longer side of a small image, in pixels."""

MOST_TIMES = 5
"""How often the files are written again because another process finished a scan meanwhile."""

FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""Text that begins so is a formula for spreadsheets."""


DAMAGED = (ScanFormatError, OSError, ValueError, KeyError, TypeError, AttributeError)
"""Errors that a damaged result may lead to."""


@dataclass(frozen=True)
class Row:
    """One scan of a folder.

    Attributes:
        scan: stem of its files, with the folder they lie in below that of the overview.
        error: why it failed, or why it cannot be read; empty for one that is finished.
        figures: by column of :data:`COLUMNS`; those that a scan does not have are missing.
        warnings: as the report holds them.
        files: names of its files, by what they are.
    """

    scan: str
    error: str = ""
    figures: dict[str, Any] = field(default_factory=dict)
    warnings: tuple[dict[str, str], ...] = ()
    files: dict[str, str] = field(default_factory=dict)

    @property
    def badness(self) -> tuple[float, ...]:
        """Larger is worse: failed, number of warnings, held-out error, residual."""
        held_out, residual = (self.figures.get(key) for key in ("held_out_error", "residual"))
        return (bool(self.error), len(self.warnings), held_out or 0.0, residual or 0.0)

    @property
    def codes(self) -> list[str]:
        """Codes of its warnings, each once."""
        return list(dict.fromkeys(entry["code"] for entry in self.warnings))

    @property
    def sentences(self) -> list[str]:
        """Its warnings in words, with their remedies."""
        return [f"{entry['code']}: {with_remedy(**entry)}" for entry in self.warnings]

    def cells(self) -> dict[str, Any]:
        """A line of ``summary.csv``, by column."""
        status = "failed" if self.error else "done"
        texts = {"scan": self.scan, "status": status, "error": self.error} | self.files
        counts = {"n_warnings": len(self.warnings), "warnings": " ".join(self.codes)}
        return {name: as_cell((texts | counts | self.figures).get(name)) for name in COLUMNS}


COLUMNS = (
    "scan", "status", "method", "R", "noise", "residual", "held_out_error", "held_out_noise",
    "held_out_l1_wavelet", "psnr", "ssim", "nmse", "reference", "seconds", "n_warnings",
    "warnings", "error", "image", "json", "report",
)  # fmt: skip
"""Of ``summary.csv``; docs/reference/files.md says what they hold."""


def write_overview(folder: str | Path, *, page: bool = True) -> list[Path]:
    """Write ``summary.csv`` and, with ``page``, ``index.html`` of all reconstructions in a folder.

    Folders below it count where ``status.jsonl`` names scans in them. Each file is replaced as a
    whole, so that several processes may work in one folder; what another one finishes meanwhile is
    added.

    Raises:
        MriAmbientError: they cannot be written.
    """
    folder = Path(folder)
    page = page or (folder / PAGE).exists()
    for _ in range(MOST_TIMES):
        before = _state(folder)
        rows = sorted(read_rows(folder), key=lambda row: row.badness, reverse=True)
        if page:
            _write_page(folder / PAGE, rows)
        _write_table(folder / TABLE, rows)
        if _state(folder) == before:
            break
    return [folder / PAGE, folder / TABLE] if page else [folder / TABLE]


def add_row(folder: Path, state: State) -> None:
    """Append the line of a scan to ``summary.csv``, where it stands until that is written anew.

    Raises:
        MriAmbientError: it cannot be written.
    """
    path = folder / f"{state.scan}.h5"
    row = _row(folder, path) if state.status != FAILED and path.exists() else None
    row = row or (_failed(state) if state.status == FAILED else None)
    if row is not None:  # or else another process makes it, and adds its line
        append_line(folder / TABLE, csv_line(row.cells().values()), first=csv_line(COLUMNS) + "\n")


def csv_line(values: Iterable[object]) -> str:
    """Values as a line of a CSV file, without its end."""
    text = StringIO()
    csv.writer(text, lineterminator="").writerow(values)
    return text.getvalue()


def _folders(folder: Path, states: Iterable[str]) -> list[Path]:
    """The folder, and those below it that hold scans."""
    return sorted({folder, *(folder / Path(scan).parent for scan in states)})


def _state(folder: Path) -> set[tuple[str, int]]:
    """What the overview is made from, by name and time."""
    found = set()
    patterns = [STATES, "*.h5", "*.json"]
    for sub in _folders(folder, read_states(folder)):
        for path in (path for pattern in patterns for path in sub.glob(pattern)):
            with suppress(FileNotFoundError):  # removed just now
                found.add((str(path), path.stat().st_mtime_ns))
    return found


def read_rows(folder: Path) -> list[Row]:
    """The scans of a folder, finished and failed, by name."""
    states = read_states(folder)
    paths = [path for sub in _folders(folder, states) for path in sorted(sub.glob("[!.]*.h5"))]
    rows = {row.scan: row for path in paths if (row := _row(folder, path)) is not None}
    for scan, state in states.items():
        image = folder / f"{scan}.h5"
        if state.status == FAILED and not (image.exists() and image.stat().st_mtime > state.at):
            # Figures of an image that is there are not of the call that failed.
            files = rows[scan].files if scan in rows else {}
            rows[scan] = replace(_failed(state), files=files)
    return [rows[name] for name in sorted(rows)]


def _failed(state: State) -> Row:
    """A scan of which there is no image."""
    return Row(state.scan, state.reason, {"seconds": state.seconds} if state.seconds else {})


def _row(folder: Path, path: Path) -> Row | None:
    """A reconstruction in a folder or below it; None for another file."""
    if Contents(path).tag != RECONSTRUCTION_FORMAT:
        return None
    names = {"image": path.name, "json": f"{path.stem}.json", "report": report_name(path)}
    below, scan = path.parent.relative_to(folder), path.with_suffix("").relative_to(folder)
    there = {key: path.parent / name for key, name in names.items()}
    made = path.stat().st_mtime_ns
    files = {
        key: (below / file.name).as_posix()
        for key, file in there.items()
        if file.exists() and (key != "report" or file.stat().st_mtime_ns >= made)
    }
    row = Row(scan.as_posix(), files=files)
    try:
        report = ReconstructionFile(path).report
        if not report:
            reason = f"{path.name}: has no {path.stem}.json beside it; reconstruct the scan again"
            return replace(row, error=reason)
        warnings = tuple(report["warnings"])
        return replace(row, figures=figures(report), warnings=warnings)
    except DAMAGED as error:
        reason = f"{path.name}: cannot be read ({error!r}); reconstruct the scan again"
        return replace(row, error=reason)


def figures(report: dict[str, Any]) -> dict[str, Any]:
    """The figures of a report, by column."""
    scores = report.get("metrics", {})
    held_out = held_out_means(check.get("held_out") for check in report["checks"])
    names = {"error": "held_out_error", "noise": "held_out_noise"}
    names |= {"l1_wavelet": "held_out_l1_wavelet"}
    left = residuals(report)
    return {
        "method": report["provenance"]["method"],
        "R": report["acceleration"],
        "noise": report["sigma_n"],
        **({"residual": fmean(left)} if left else {}),
        **{column: held_out[key] for key, column in names.items() if key in held_out},
        **{key: scores[key] for key in ("psnr", "ssim", "nmse", "reference") if key in scores},
        "seconds": report["provenance"]["seconds"],
    }


def draw_thumbnail(path: Path) -> str:
    """The middle slice in a window of its own, as the address of a small image; or empty."""
    try:
        return _thumbnail(ReconstructionFile(path))
    except DAMAGED:
        return ""


def _thumbnail(result: ReconstructionFile) -> str:
    turn = result.grid.display_turn()
    img = turn(np.abs(result.read(len(result) // 2)))
    small = Image.fromarray(grey_levels(img, white_level([img])))
    sides = turn.pair((result.voxel_mm or (1.0, 1.0))[:2])
    height, width = (n * size for n, size in zip(img.shape, sides, strict=True))
    scale = THUMBNAIL / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return data_uri(np.asarray(small.resize(size, Image.Resampling.LANCZOS)), lossless=False)


def as_cell(value: object) -> object:
    """A value for a spreadsheet: text that it would take for a formula is led by an apostrophe."""
    if isinstance(value, str):
        text = " ".join(value.splitlines()) if "\n" in value else value
        return f"'{text}" if text.startswith(FORMULA) else text
    return "" if value is None else f"{value:.6g}" if isinstance(value, float) else value


def _write_table(path: Path, rows: list[Row]) -> None:
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(row.cells() for row in rows)


def _write_page(path: Path, rows: list[Row]) -> None:
    page = PAGES.get_template("index.html").stream(
        rows=rows,
        thumbnails={
            row.scan: draw_thumbnail(path.parent / row.files["image"])
            for row in rows
            if "image" in row.files
        },
        version=__version__,
        shown={name for row in rows for name in row.figures},
        table=TABLE,
        folder=path.resolve().parent.name,
    )
    with atomic_path(path) as temporary:
        page.dump(str(temporary), encoding="utf-8")
