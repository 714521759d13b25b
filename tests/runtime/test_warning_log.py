"""Numerical warnings are collected for the report and shown once; others pass."""

from __future__ import annotations

import warnings

import pytest
from codes import warns

from mri_ambient.errors import NumericalWarning, warn
from mri_ambient.runtime.warning_log import WarningLog


def test_a_warning_is_noted_in_each_block_and_shown_once():
    log = WarningLog()
    with warns("W-SECOND-MAP", "W-RESIDUAL"):
        with log.noting() as first:
            warn("W-SECOND-MAP", "a")
            warn("W-SECOND-MAP", "a")
        with log.noting() as second:
            warn("W-SECOND-MAP", "a")
            warn("W-RESIDUAL", "b")
    assert [warning.text for warning in first] == ["a", "a"]
    assert [warning.text for warning in second] == ["a", "b"]
    assert log.entries == [
        {"code": "W-SECOND-MAP", "text": "a"},
        {"code": "W-RESIDUAL", "text": "b"},
    ]
    assert log.codes == {"W-SECOND-MAP", "W-RESIDUAL"}


def test_added_warnings_are_reported_and_not_shown():
    log = WarningLog()
    entry = {"code": "W-RESIDUAL", "text": "b"}
    with warns():
        log.add([entry, entry])
    assert log.entries == [entry]


def test_a_failure_comes_after_its_warnings():
    log = WarningLog()
    with warns("W-RESIDUAL"), pytest.raises(ZeroDivisionError), log.noting():
        warn("W-RESIDUAL", "b")
        raise ZeroDivisionError
    assert log.codes == {"W-RESIDUAL"}


def test_warnings_that_are_errors_are_noted_first():
    log = WarningLog()
    with warnings.catch_warnings():
        warnings.simplefilter("error", NumericalWarning)
        with pytest.raises(NumericalWarning), log.noting():
            warn("W-RESIDUAL", "b")
    assert log.codes == {"W-RESIDUAL"}


def test_foreign_warnings_are_shown_every_time_and_not_reported():
    log = WarningLog()
    with pytest.warns(UserWarning, match="of a library") as caught:
        for _ in range(2):
            with log.noting() as noted:
                warnings.warn("of a library", UserWarning, stacklevel=1)
    assert len(caught) == 2 and noted == log.entries == []
