"""The overview of a folder of reconstructions: ``index.html`` and ``summary.csv``."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from PIL import Image

from ..._version import __version__
from ...errors import MriAmbientError, ScanFormatError, with_remedy
from ...io import Contents, ReconstructionFile
from ...io.parts import white_level
from ...io.reconstruction import RECONSTRUCTION_FORMAT
from ...runtime.files import atomic_path, json_object, write_json
from .facts import held_out_means, residuals
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


@dataclass(frozen=True)
class Row:
    """One scan of a folder.

    Attributes:
        scan: stem of its files.
        error: why it failed, or why it cannot be read; empty for one that is finished.
        figures: by column of :data:`COLUMNS`; those that a scan does not have are missing.
        warnings: as the report holds them.
        thumbnail: address of a small image of the middle slice; empty without one.
        files: names of its files, by what they are.
    """

    scan: str
    error: str = ""
    figures: dict[str, Any] = field(default_factory=dict)
    warnings: tuple[dict[str, str], ...] = ()
    thumbnail: str = ""
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
        status = "failed" if self.error else "finished"
        texts = {"scan": self.scan, "status": status, "error": self.error} | self.files
        counts = {"n_warnings": len(self.warnings), "warnings": " ".join(self.codes)}
        return {name: as_cell((texts | counts | self.figures).get(name)) for name in COLUMNS}


COLUMNS = (
    "scan", "status", "method", "R", "noise", "residual", "held_out_error", "held_out_noise",
    "held_out_l1_wavelet", "psnr", "ssim", "nmse", "reference", "seconds", "n_warnings",
    "warnings", "error", "image", "json", "report",
)  # fmt: skip
"""Of ``summary.csv``; docs/reference/files.md says what they hold."""


@contextmanager
def noted_failure(folder: Path, scan: str) -> Iterator[None]:
    """If the block fails, the reason stands in the overview until the scan is finished."""
    note = folder / f".{scan}.failed.json"
    try:
        yield
    except MriAmbientError as error:
        write_json(note, {"scan": scan, "error": str(error)})
        raise
    note.unlink(missing_ok=True)


def write_overview(folder: str | Path) -> list[Path]:
    """Write ``index.html`` and ``summary.csv`` from all reconstructions in a folder.

    Each is replaced as a whole, so that several processes may work in one folder; what another one
    finishes meanwhile is added.

    Raises:
        MriAmbientError: they cannot be written.
    """
    folder = Path(folder)
    for _ in range(MOST_TIMES):
        before = _state(folder)
        rows = sorted(read_rows(folder), key=lambda row: row.badness, reverse=True)
        _write_page(folder / PAGE, rows)
        _write_table(folder / TABLE, rows)
        if _state(folder) == before:
            break
    return [folder / PAGE, folder / TABLE]


def _state(folder: Path) -> set[tuple[str, int]]:
    """What the overview is made from, by name and time."""
    found = set()
    for pattern in ("*.h5", "*.json", ".*.failed.json"):
        for path in folder.glob(pattern):
            with suppress(FileNotFoundError):  # removed just now
                found.add((path.name, path.stat().st_mtime_ns))
    return found


def read_rows(folder: Path) -> list[Row]:
    """The scans of a folder, finished and failed, by name."""
    rows = {row.scan: row for row in map(_row, sorted(folder.glob("*.h5"))) if row is not None}
    for note in sorted(folder.glob(".*.failed.json")):
        scan = note.name.removeprefix(".").removesuffix(".failed.json")
        image = folder / f"{scan}.h5"
        if not image.exists() or image.stat().st_mtime_ns < note.stat().st_mtime_ns:
            rows[scan] = replace(rows.get(scan, Row(scan)), error=_reason(note))
    return [rows[name] for name in sorted(rows)]


def _reason(note: Path) -> str:
    """Why a scan failed."""
    try:
        return str(json_object(note.read_bytes())["error"])
    except (OSError, ValueError, KeyError):
        return f"{note.name}: cannot be read; reconstruct the scan again"


def _row(path: Path) -> Row | None:
    """A reconstruction; None for another file."""
    if Contents(path).tag != RECONSTRUCTION_FORMAT:
        return None
    names = {"image": path.name, "json": f"{path.stem}.json", "report": report_name(path)}
    files = {key: name for key, name in names.items() if (path.parent / name).exists()}
    try:
        result = ReconstructionFile(path)
        report, thumbnail = result.report, draw_thumbnail(result)
        if not report:
            reason = f"{path.name}: has no {path.stem}.json beside it; reconstruct the scan again"
            return Row(path.stem, reason, thumbnail=thumbnail, files=files)
        return Row(path.stem, "", figures(report), tuple(report["warnings"]), thumbnail, files)
    except (
        ScanFormatError, OSError, ValueError, KeyError, TypeError, AttributeError,
    ) as error:  # fmt: skip
        reason = f"{path.name}: cannot be read ({error!r}); reconstruct the scan again"
        return Row(path.stem, reason, files=files)


def figures(report: dict[str, Any]) -> dict[str, Any]:
    """The figures of a report, by column."""
    scores, held_out = report.get("metrics", {}), held_out_means(report["checks"])
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


def draw_thumbnail(result: ReconstructionFile) -> str:
    """The middle slice in a window of its own, as the address of a small image."""
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
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(row.cells() for row in rows)


def _write_page(path: Path, rows: list[Row]) -> None:
    page = PAGES.get_template("index.html").stream(
        rows=rows,
        version=__version__,
        shown={name for row in rows for name in row.figures},
        table=TABLE,
        folder=path.resolve().parent.name,
    )
    with atomic_path(path) as temporary:
        page.dump(str(temporary), encoding="utf-8")
