"""What every writer of reconstructions provides, and what the user may say about its files."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

from ...errors import ConfigError
from ..grid import Grid
from .reconstruction import ReconstructionFile

PARTS = ("mag", "phase", "std")
"""What can be written of every slice: magnitude, phase, standard deviation of the magnitude."""


@dataclass(frozen=True)
class SaveOptions:
    """What the user may say about the files.

    Attributes:
        parts: of :data:`PARTS`; each becomes a file or a series of its own. A standard
            deviation is left out where there is none beside other parts, and refused alone.
        dicom_template: folder with a DICOM series of the same slices, whose patient, study and
            geometry the DICOM files take over.
        bids: subject, and perhaps session and contrast of a BIDS dataset, e.g.
            ``sub-01/ses-01/T2w``.

    Raises:
        ConfigError: there is no such part.
    """

    parts: tuple[str, ...] = ("mag",)
    dicom_template: str | Path | None = None
    bids: str | None = None

    def __post_init__(self) -> None:
        unknown = [part for part in self.parts if part not in PARTS]
        if unknown or not self.parts:
            raise ConfigError(f"parts are {self.parts}, wanted some of {', '.join(PARTS)}")


class Writer(ABC):
    """A format in which reconstructions are saved; a subclass in a file of its own.

    Attributes:
        holds_parts: whether it has the parts that the user names, and not one picture of all.
    """

    holds_parts: bool = True

    def check_options(self, options: SaveOptions) -> None:
        """Refuse, before any scan is opened, options that cannot work whatever the images are.

        Raises:
            ConfigError: they lack something or are wrong, or a package is missing.
        """
        return None

    def check(self, stem: str, grid: Grid, options: SaveOptions) -> None:
        """Refuse, before anything is computed, images that could not be saved afterwards.

        Args:
            stem: what outputs are named after.
            grid: of the images.
            options: what the user says about the files.

        Raises:
            ScanFormatError: the format cannot hold images that lie like this.
            ConfigError: the options do not fit them, or a package is missing.
        """
        return None

    @abstractmethod
    def outputs(self, result: ReconstructionFile, options: SaveOptions) -> list[str]:
        """Paths of the files or folders it will write, which are made from this result alone."""

    @abstractmethod
    def write(self, result: ReconstructionFile, folder: Path, options: SaveOptions) -> None:
        """Write them into a folder, slice by slice; what appears there is complete.

        Raises:
            ScanFormatError: the format cannot hold this reconstruction.
            ConfigError: the options do not fit it.
        """
