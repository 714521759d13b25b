"""Placeholder until the io room is merged."""

from .scan_file import ScanFile


class ArrayFile(ScanFile):
    """Placeholder."""
