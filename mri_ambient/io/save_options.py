"""What every writer of reconstructions provides, and what the user may say about its files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ..errors import ConfigError
from .reconstruction import ReconstructionFile

PARTS = ("mag", "phase", "std")
"""What can be written of every slice: magnitude, phase, standard deviation of the magnitude."""


@dataclass(frozen=True)
class SaveOptions:
    """What the user may say about the files.

    Attributes:
        parts: of :data:`PARTS`; each becomes a file or a series of its own. A standard deviation is
            left out where there is none.

    Raises:
        ConfigError: there is no such part.
    """

    parts: tuple[str, ...] = ("mag",)

    def __post_init__(self) -> None:
        unknown = [part for part in self.parts if part not in PARTS]
        if unknown or not self.parts:
            raise ConfigError(f"parts are {self.parts}, wanted some of {', '.join(PARTS)}")


class Writer(Protocol):
    """A format in which reconstructions are saved; one class in a file of its own."""

    def outputs(self, result: ReconstructionFile, options: SaveOptions) -> list[str]:
        """Names of the files or folders it will write, which begin with the result's stem."""

    def write(self, result: ReconstructionFile, folder: Path, options: SaveOptions) -> None:
        """Write them into a folder, slice by slice; what appears there is complete.

        Raises:
            ScanFormatError: the format cannot hold this reconstruction.
            ConfigError: the options do not fit it.
        """
