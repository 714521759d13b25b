"""Numerical warnings are collected for the report and shown once; others pass."""

from __future__ import annotations

import warnings

import pytest
from codes import warns

from mri_ambient.errors import NumericalWarning, warn
from mri_ambient.runtime.journal import Journal


def test_a_warning_is_noted_in_each_block_and_shown_once():
    journal = Journal()
    with warns("W-SECOND-MAP", "W-RESIDUAL"):
        with journal.noting() as first:
            warn("W-SECOND-MAP", "a")
            warn("W-SECOND-MAP", "a")
        with journal.noting() as second:
            warn("W-SECOND-MAP", "a")
            warn("W-RESIDUAL", "b")
    assert [str(warning) for warning in first] == ["a", "a"]
    assert [str(warning) for warning in second] == ["a", "b"]
    assert journal.entries == [
        {"code": "W-SECOND-MAP", "text": "a"},
        {"code": "W-RESIDUAL", "text": "b"},
    ]
    assert journal.codes == {"W-SECOND-MAP", "W-RESIDUAL"}


def test_added_warnings_are_reported_and_not_shown():
    journal = Journal()
    entry = {"code": "W-RESIDUAL", "text": "b"}
    with warns():
        journal.add([entry, entry])
    assert journal.entries == [entry]


def test_a_failure_comes_after_its_warnings():
    journal = Journal()
    with warns("W-RESIDUAL"), pytest.raises(ZeroDivisionError), journal.noting():
        warn("W-RESIDUAL", "b")
        raise ZeroDivisionError
    assert journal.codes == {"W-RESIDUAL"}


def test_warnings_that_are_errors_are_noted_first():
    journal = Journal()
    with warnings.catch_warnings():
        warnings.simplefilter("error", NumericalWarning)
        with pytest.raises(NumericalWarning), journal.noting():
            warn("W-RESIDUAL", "b")
    assert journal.codes == {"W-RESIDUAL"}


def test_foreign_warnings_are_shown_every_time_and_not_reported():
    journal = Journal()
    with pytest.warns(UserWarning, match="of a library") as caught:
        for _ in range(2):
            with journal.noting() as noted:
                warnings.warn("of a library", UserWarning, stacklevel=1)
    assert len(caught) == 2 and noted == journal.entries == []
