"""From a reconstruction on disk to the formats of viewers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from ..errors import ConfigError, OutputExistsError, collected, unknown_name, warn
from ..io import WRITERS, Grid, ReconstructionFile, SaveOptions
from ..io.names import name_of
from ..io.outputs.save_options import Writer
from .report import ReportWriter
from .volume import OnSlice, Volume

PIXELS = 1150
"""Width of a picture with its margins, at least; some of them are cut off."""


@dataclass(frozen=True)
class PngWriter(Writer):
    """The slices, at most 16, as one picture.

    Attributes:
        volume: the scan; if it is fully sampled, reference and error are shown too.
    """

    holds_parts = False
    volume: Volume | None = None

    def outputs(self, result: ReconstructionFile, options: SaveOptions) -> list[str]:
        """One file."""
        return [f"{result.path.stem}.png"]

    def write(self, result: ReconstructionFile, folder: Path, options: SaveOptions) -> None:
        """Draw it."""
        from ..plots import draw_volume, save_figure  # matplotlib is slow to import

        figure = draw_volume(result.path, self._reference(result.shape))
        dpi = max(120, math.ceil(PIXELS / figure.get_figwidth()))
        save_figure(figure, folder / f"{result.path.stem}.png", dpi=dpi)

    def _reference(self, shape: tuple[int, int, int]) -> tuple[str, Tensor] | None:
        """Name and images of the reference; None if there is none, or it does not fit."""
        with collected():  # the report has these warnings
            found = self.volume and self.volume.reference
            if not found:
                return None
            name, images = found.main()
        fits = images.shape == shape and bool(images.isfinite().all())
        return (name.upper(), images) if fits else None


FORMATS: dict[str, Writer] = {**WRITERS, "png": PngWriter(), "report": ReportWriter()}
"""Formats beside HDF5, in which every reconstruction is written."""


FILE_SUFFIXES = (".h5", ".nii", ".gz", ".json", ".mrd", ".dcm", ".png")
"""Names that end like this are meant as those of files."""


def check_folder(folder: Path) -> None:
    """Refuse a new folder that has the name of a file; ConfigError."""
    if folder.suffix.lower() in FILE_SUFFIXES and not folder.exists():
        raise ConfigError(
            f"{folder}: is the name of a file, wanted that of a folder, e.g. {folder.parent}; "
            "files are named after the scan (scan_id of an array)"
        )


def check_formats(formats: Sequence[str]) -> list[str]:
    """The formats beside "h5", each once; ConfigError for one that does not exist."""
    known = ("h5", *FORMATS)
    for name in formats:
        if name not in known:
            raise unknown_name("format", name, known)
    return [name for name in dict.fromkeys(formats) if name != "h5"]


def check_options(formats: Sequence[str], options: SaveOptions, *, with_std: bool = True) -> None:
    """Refuse, before any scan is opened, options that do not fit the formats; see check_saving."""
    if not with_std and set(options.parts) == {"std"} and formats_with_parts(formats):
        raise ConfigError(
            "there is no standard deviation of a single image, so there is nothing to save; leave "
            "parts (--parts) out, or draw several samples (n_samples, --samples 4) by a method "
            "that does"
        )
    for option, name in (("dicom_template", "dicom"), ("bids", "bids")):
        if getattr(options, option) is not None and name not in formats:
            flag = option.replace("_", "-")
            raise ConfigError(
                f"{option} (--{flag}) is for the format {name}; add it to the formats (--save "
                f"{name}), or leave {option} out"
            )
    for name in check_formats(formats):
        FORMATS[name].check_options(options)


def formats_with_parts(formats: Iterable[str] = FORMATS) -> list[str]:
    """Those of the formats, by default of all, whose files hold the parts that the user names."""
    return [name for name in formats if name != "h5" and FORMATS[name].holds_parts]


def check_saving(
    formats: Sequence[str],
    options: SaveOptions,
    stem: str,
    grid: Grid,
    *,
    with_std: bool = True,
) -> None:
    """Refuse, before anything is computed, what could not be saved afterwards.

    Args:
        formats: as for :func:`save_as`.
        options: what the user says about the files.
        stem: what outputs are named after.
        grid: of the final images.
        with_std: whether there is a standard deviation.

    Raises:
        ConfigError: there is no such format, the options do not fit it, or its package is missing.
        ScanFormatError: a format cannot hold images that lie like this.
    """
    check_options(formats, options, with_std=with_std)
    for name in check_formats(formats):
        FORMATS[name].check(stem, grid, options)


def warn_of_older(path: Path, before: int | None, options: SaveOptions | None = None) -> None:
    """Warn of files in other formats that may show the image that was there before.

    Args:
        path: of the reconstruction that took its place.
        before: when that was written, ``st_mtime_ns`` of its file; None if there was none.
        options: of the files that are looked for.

    Warns:
        NumericalWarning: W-OLDER-FILES: what is younger than that image, and older than this one.
    """
    now = path.stat().st_mtime_ns
    if before is None or before == now:
        return
    result, options = ReconstructionFile(path), options or SaveOptions()
    found = []
    for name, writer in FORMATS.items():
        if name == "bids" and options.bids is None:
            continue
        there = [path.parent / output for output in writer.outputs(result, options)]
        times = [(file, file.stat().st_mtime_ns) for file in there if file.exists()]
        found += [file.name for file, at in times if before <= at < now]
    if found:
        warn(
            "W-OLDER-FILES",
            f"{name_of(path)}: replaces an earlier image, which {', '.join(found)} may still show",
        )


def written_at(path: Path) -> int | None:
    """When a reconstruction was written, in nanoseconds; None if there is none."""
    return path.stat().st_mtime_ns if path.exists() else None


def save_as(
    path: Path,
    formats: Sequence[str],
    options: SaveOptions | None = None,
    volume: Volume | None = None,
    *,
    overwrite: bool = False,
    on_slice: OnSlice | None = None,
) -> list[Path]:
    """Write a reconstruction in other formats, beside its file.

    Args:
        path: the HDF5 file.
        formats: keys of :data:`FORMATS`; "h5" is there already.
        options: what the user says about the files.
        volume: the scan, for its reference, and for the report, which shows it reconstructed by
            other methods too.
        overwrite: replace what is there.
        on_slice: called with (done, total) after every slice of these methods.

    Returns:
        What was written; what is younger than the HDF5 file was made from it and is left as it is.

    Raises:
        ConfigError: there is no such format, or the options do not fit it.
        OutputExistsError: there is an older file, which was made from another reconstruction.
        ScanFormatError: a format cannot hold this reconstruction.
    """
    result, options, written = ReconstructionFile(path), options or SaveOptions(), []
    writers = FORMATS | {"png": PngWriter(volume), "report": ReportWriter(volume, on_slice)}
    for name in check_formats(formats):
        writer = writers[name]
        outputs = [path.parent / output for output in writer.outputs(result, options)]
        there = [output for output in outputs if output.exists()]
        older = [file for file in there if file.stat().st_mtime_ns < path.stat().st_mtime_ns]
        if older and not overwrite:
            raise OutputExistsError(
                f"{older[0]}: is older than {path.name}, so that it shows something else; "
                "give overwrite=True (--overwrite) or use another folder"
            )
        if overwrite or len(there) < len(outputs):
            writer.write(result, path.parent, options)
            written += outputs
    return written
