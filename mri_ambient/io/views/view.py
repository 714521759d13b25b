"""A scan seen through another object, which changes some of what it reads."""

from __future__ import annotations

from functools import cached_property

from ..sampling import Ksp
from ..scan_file import ScanFile

OWN = {"suffixes", "options", "warnings", "prepared"}
"""Attributes of a :class:`ScanFile` that a view does not take from its source: what readers say of
their format, and what is said as a file is opened."""


class View(ScanFile):
    """A file with the facts of another one; subclasses change them and read its slices.

    The stored references (:meth:`ScanFile.read_target`) are not passed on.
    """

    def __init__(self, source: ScanFile) -> None:
        self.source = source
        for name in ScanFile.__annotations__:
            if name not in OWN:
                setattr(self, name, getattr(source, name))

    @cached_property
    def sha256(self) -> str:
        """Hash of the file."""
        return self.source.sha256

    def read_maps(self, index: int) -> Ksp | None:
        """See :meth:`ScanFile.read_maps`."""
        return self.source.read_maps(index)

    def read_calib(self, index: int) -> Ksp | None:
        """See :meth:`ScanFile.read_calib`."""
        return self.source.read_calib(index)
