"""Numerical warnings in tests, known by their codes."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from mri_ambient.errors import NumericalWarning


@contextmanager
def warns(*codes: str) -> Iterator[list[NumericalWarning]]:
    """The block warns with exactly these codes, each as often as it is given, in any order.

    Gives a list that holds the warnings after the block.
    """
    found: list[NumericalWarning] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield found
    for warning in caught:
        assert isinstance(warning.message, NumericalWarning), warning.message
        found.append(warning.message)
    got = sorted(warning.code for warning in found)
    assert got == sorted(codes), f"{got}: {[str(warning) for warning in found]}"


def codes(caught: Iterable[warnings.WarningMessage]) -> list[str]:
    """Codes of the numerical warnings among those that were recorded."""
    return [w.message.code for w in caught if isinstance(w.message, NumericalWarning)]
