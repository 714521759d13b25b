"""What every writer provides, and what the user may say about its files."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError
from .grid import Grid
from .reconstruction import ReconstructionFile

PARTS = ("mag", "phase", "std")
"""What can be written of every slice: magnitude, phase, standard deviation of the magnitude."""

SUFFIXES = {"mag": "", "phase": "_part-phase", "std": "_desc-std"}
"""How files of a part are named after the stem."""

KINDS = {
    "mag": ("Magnitude", "arbitrary"),
    "phase": ("Phase", "rad"),
    "std": ("Standard deviation of the magnitude", "arbitrary"),
}
"""What a part is, and its unit as BIDS writes it."""

NOT_FOR_DIAGNOSIS = "research only, not for diagnosis"
"""Stands in every file of a viewer's format."""


@dataclass(frozen=True)
class SaveOptions:
    """What the user may say about the files.

    Attributes:
        parts: of :data:`PARTS`; each becomes a file or a series of its own. A standard deviation is
            left out where there is none.
        dicom_template: folder with a DICOM series of the same slices, whose patient, study and
            geometry ours takes over.
        bids: subject, session and contrast of a BIDS dataset, e.g. ``sub-01/ses-01/T2w``; the last
            two may be left out.

    Raises:
        ConfigError: there is no such part.
    """

    parts: tuple[str, ...] = ("mag",)
    dicom_template: Path | None = None
    bids: str | None = None

    def __post_init__(self) -> None:
        unknown = [part for part in self.parts if part not in PARTS]
        if unknown or not self.parts:
            raise ConfigError(f"parts are {self.parts}, wanted some of {', '.join(PARTS)}")


class Writer(Protocol):
    """A format in which reconstructions are saved; a subclass in a file of its own."""

    def check(self, grid: Grid, options: SaveOptions) -> None:
        """Refuse, before anything is computed, images that could not be saved afterwards.

        Args:
            grid: of the images.
            options: what the user says about the files.

        Raises:
            ScanFormatError: the format cannot hold images that lie like this.
            ConfigError: the options do not fit them, or a package is missing.
        """

    def outputs(self, result: ReconstructionFile, options: SaveOptions) -> list[str]:
        """Paths of the files or folders it will write, each made from this result alone."""

    def write(self, result: ReconstructionFile, folder: Path, options: SaveOptions) -> None:
        """Write them into a folder, slice by slice; what appears there is complete.

        Raises:
            ScanFormatError: the format cannot hold this reconstruction.
            ConfigError: the options do not fit it.
        """


def parts_of(result: ReconstructionFile, options: SaveOptions) -> list[str]:
    """The parts that the user wants and the result has."""
    return [part for part in options.parts if part != "std" or result.has_std]


def white_level(images: Iterable[NDArray[np.float32]]) -> float:
    """What is shown white of magnitudes: exceeded by 0.5 % of the pixels, at most a million seen.

    Few bright pixels, as of fat beside a coil, do not decide it.
    """
    seen = [img.ravel()[:: max(1, img.size // 16384)] for img in images]
    return float(np.quantile(np.concatenate(seen), 0.995)) or 1.0


def in_words(result: ReconstructionFile) -> str:
    """Method and acceleration of a result."""
    method, rate = result.attributes.get("method"), result.attributes.get("acceleration")
    known = [str(method)] if method else []
    return " ".join([*known, *([f"R={float(str(rate)):.2f}"] if rate else [])])
