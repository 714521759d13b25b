"""Parameter files of Bruker ParaVision (``acqp``, ``method``): JCAMP-DX as Bruker writes it.

A parameter is ``##$NAME=value``, or ``##$NAME=( 2, 3 )`` with an array of that shape on the lines
after it. Lines that begin with ``$$`` are comments; ``@4*(0)`` stands for four zeros.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...errors import ScanFormatError

LARGEST = 2**31
"""Whole numbers are smaller."""


@dataclass(frozen=True)
class Parameters:
    """Parameters of one or several files.

    Attributes:
        path: the scan, for messages.
        values: text of every parameter by its name, without its shape.
    """

    path: Path
    values: Mapping[str, str]

    def __contains__(self, name: str) -> bool:
        return name in self.values

    def text(self, name: str, default: str = "") -> str:
        """A parameter without the brackets of a string."""
        return self.values.get(name, default).strip().removeprefix("<").removesuffix(">")

    def words(self, name: str) -> list[str]:
        """The entries of an array of names; empty if it is missing."""
        return self.values.get(name, "").split()

    def numbers(self, name: str) -> NDArray[np.float64]:
        """The entries of an array of numbers, flat; empty if it is missing.

        Raises:
            ScanFormatError: it holds something else.
        """
        try:
            return np.array([float(word) for word in self.words(name)])
        except ValueError as error:
            raise ScanFormatError(
                f"{self.path}: the parameter {name} is {self.values[name][:40]!r}, wanted numbers"
            ) from error

    def integers(self, name: str) -> list[int]:
        """As :meth:`numbers`, rounded."""
        numbers = self.numbers(name)
        if not (np.abs(numbers) < LARGEST).all():
            raise ScanFormatError(
                f"{self.path}: the parameter {name} is {self.values[name][:40]!r}, wanted whole "
                "numbers of usual size; the parameter files are damaged"
            )
        return [round(number) for number in numbers.tolist()]

    def number(self, name: str, default: float | None = None) -> float:
        """A number, the first one of an array.

        Raises:
            ScanFormatError: it is missing and has no default, or is not a finite number.
        """
        found = self.numbers(name)
        if len(found) and np.isfinite(found[0]):
            return float(found[0])
        if default is None or len(found):
            raise ScanFormatError(
                f"{self.path}: the parameter {name} is missing, or not a finite number; the "
                "parameter files are damaged or of software that is not known"
            )
        return default

    def integer(self, name: str, default: int | None = None) -> int:
        """As :meth:`number`, rounded."""
        found = self.integers(name)
        return found[0] if found else round(self.number(name, default))

    def records(self, name: str) -> list[list[str]]:
        """The entries of an array of records ``(a, b, c) (d, e, f)``; empty if it is missing."""
        found = re.findall(r"\(([^()]*)\)", self.values.get(name, ""))
        return [[part.strip().strip("<>") for part in record.split(",")] for record in found]


def read_parameters(path: Path, *files: Path) -> Parameters:
    """Read parameter files; a later one wins where two hold the same parameter.

    Args:
        path: the scan, for messages.
        files: parameter files.

    Raises:
        ScanFormatError: one of them is missing or cannot be read.
    """
    values: dict[str, str] = {}
    for file in files:
        try:
            values |= _parse(file.read_text("latin-1"))
        except OSError as error:
            raise ScanFormatError(
                f"{path}: its parameter file {file.name} cannot be read ({error.strerror}); copy "
                "the whole folder of the scan"
            ) from error
    return Parameters(path, values)


def _parse(text: str) -> dict[str, str]:
    lines = (line for line in text.splitlines() if not line.startswith("$$"))
    found = {}
    for entry in "\n".join(lines).split("\n##"):
        name, is_given, value = entry.removeprefix("##").partition("=")
        if is_given and name.startswith("$"):
            shape, has_shape, rest = value.partition(")\n")
            is_array = has_shape and re.fullmatch(r"\(\s*[\d\s,]+", shape)
            found[name[1:].strip()] = _expand(rest if is_array else value)
    return found


def _expand(value: str) -> str:
    """Repeated values written out."""

    def repeated(match: re.Match[str]) -> str:
        return " ".join([match.group(2)] * min(int(match.group(1)), 10**6))

    return re.sub(r"@(\d+)\*\(([^()]*)\)", repeated, value)
