"""Exit codes: what fails gives one line each, and the documented code at the end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import typer

from mri_ambient.errors import (
    CheckpointError,
    ConfigError,
    DeviceError,
    MriAmbientError,
    OutputExistsError,
    PrepError,
    ScanFormatError,
)
from mri_ambient.runtime.files import check_writable

from .console import print_error

T = TypeVar("T")

SOME_FAILED, USAGE, NO_INPUT, NO_DEVICE, INTERRUPTED, TERMINATED = 1, 2, 3, 4, 130, 143
"""Exit codes; 0: done."""


def exit_code(error: MriAmbientError) -> int:
    """The exit code of an error that ends the command."""
    if isinstance(error, (ConfigError, OutputExistsError)):
        return USAGE
    if isinstance(error, (ScanFormatError, PrepError, CheckpointError)):
        return NO_INPUT
    return NO_DEVICE if isinstance(error, DeviceError) else SOME_FAILED


class Failures:
    """What failed: one line for each, once, and the exit code when everything else is done."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.codes: list[int] = []

    def case(self, case: object, error: MriAmbientError) -> None:
        """A case failed."""
        text = str(error)
        stem = getattr(case, "stem", None)  # of files
        if stem is not None and stem not in text:
            path = getattr(case, "path", case)  # of a volume, that of the file
            text = f"{case}: {text.removeprefix(f'{path}: ')}"
        self._add(text, exit_code(error))

    def damaged(self, sentence: str) -> None:
        """Something could not be read and was left out."""
        self._add(sentence, SOME_FAILED)

    def _add(self, line: str, code: int) -> None:
        if line not in self.lines:
            print_error(f"error: {line}")
        self.lines.append(line)
        self.codes.append(code)

    def end(self, *, nothing_done: bool = False) -> None:
        """Exit with code 1 if anything failed, or with the first error's if nothing was done."""
        if self.codes:
            raise typer.Exit(self.codes[0] if nothing_done else SOME_FAILED)


def run_cases(cases: Sequence[T], work: Callable[[T], None]) -> None:
    """Do every case; one that fails gives one line, and the others are done.

    Raises:
        typer.Exit: code 1 if some failed, or the code of the first error if all did.
        DeviceError: at once, as the next case would fail too.
    """
    failures = Failures()
    for case in cases:
        try:
            work(case)
        except DeviceError:
            raise
        except MriAmbientError as error:
            failures.case(case, error)
    failures.end(nothing_done=len(failures.codes) == len(cases))


def claim_folder(output: Path, name: str, *, overwrite: bool) -> None:
    """Refuse a folder for the file ``name`` that is a training run, has one already, or is shut."""
    check_writable(output / name)
    if (output / "run.json").exists():
        raise OutputExistsError(f"{output}: is a training run; choose another folder")
    if (output / name).exists() and not overwrite:
        raise OutputExistsError(
            f"{output / name}: exists already; use --overwrite or another folder"
        )
