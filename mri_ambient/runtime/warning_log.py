"""Numerical warnings, collected for a report and shown once."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from ..errors import NumericalWarning


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
        """A list that holds the numerical warnings of the block after its end."""
        given: list[NumericalWarning] = []
        caught: list[warnings.WarningMessage] = []
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always", NumericalWarning)
                yield given
        finally:  # also if the block fails: its warnings may say why
            messages = [warning.message for warning in caught]
            given += [message for message in messages if isinstance(message, NumericalWarning)]
            self.add([message.as_dict() for message in given])
            for warning in caught:
                self._show(warning)

    def _show(self, warning: warnings.WarningMessage) -> None:
        text = str(warning.message)
        if isinstance(warning.message, NumericalWarning):
            if text in self.shown:
                return
            self.shown.add(text)
        warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
