"""Numerical warnings, collected for a report and shown once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from ..errors import NumericalWarning, collected, issue


class WarningLog:
    """Collects numerical warnings for the report, and shows each once."""

    def __init__(self) -> None:
        self.entries: list[dict[str, str]] = []
        self.shown: set[str] = set()

    @property
    def codes(self) -> set[str]:
        """Codes of the warnings so far."""
        return {entry["code"] for entry in self.entries}

    def add(self, entries: Sequence[dict[str, str]]) -> None:
        """Add warnings, as code and text, to the report; none twice."""
        for entry in entries:
            if entry not in self.entries:
                self.entries.append(entry)

    @contextmanager
    def noting(self) -> Iterator[list[NumericalWarning]]:
        """The numerical warnings of the block, which are reported and shown when it ends."""
        given: list[NumericalWarning] = []
        try:
            with collected() as given:
                yield given
        finally:  # also if the block fails: its warnings may say why
            self.add([warning.as_dict() for warning in given])
            for warning in given:
                self._show(warning)

    def _show(self, warning: NumericalWarning) -> None:
        if str(warning) not in self.shown:
            self.shown.add(str(warning))
            issue(warning)
