"""What readers look at to recognise their files."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

from ..errors import ScanFormatError
from .hdf5 import open_h5, read_attribute


class Contents:
    """A file that no reader has opened yet; HDF5 is looked into on demand, and once.

    Attributes:
        path: the file. Formats that are not HDF5 are recognised by its name or first bytes.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    @property
    def tag(self) -> str:
        """The root attribute ``mri_ambient_format``; empty if there is none, or no HDF5."""
        return self._hdf5[0]

    @property
    def names(self) -> tuple[str, ...]:
        """Names in the root group; none if the file is not HDF5 or cannot be read."""
        return self._hdf5[1]

    @property
    def error(self) -> ScanFormatError | None:
        """Why the file cannot be read as HDF5 (missing, damaged, another format, ...), or None."""
        return self._hdf5[2]

    @cached_property
    def _hdf5(self) -> tuple[str, tuple[str, ...], ScanFormatError | None]:
        try:
            with open_h5(self.path, for_text=True) as file:
                tagged = "mri_ambient_format" in file.attrs
                tag = str(read_attribute(file, "mri_ambient_format")) if tagged else ""
                return tag, tuple(sorted(file)), None
        except ScanFormatError as error:
            return "", (), error
