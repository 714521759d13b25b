"""Cases spread over processes: results have numbers, errors arrive, the dead are replaced."""

from __future__ import annotations

import operator
import os
from functools import partial
from pathlib import Path

import pytest

from mri_ambient.errors import DeviceError, MriAmbientError, PrepError
from mri_ambient.runtime.executor import Processes

pytestmark = pytest.mark.usefixtures("forked")

double = partial(operator.mul, 2)


def refuse(case: int) -> int:
    """Fail for odd numbers, and worse for large ones."""
    if case > 9:
        raise DeviceError("lost")
    if case % 2:
        raise PrepError(f"{case} is odd")
    return case


def die_once(marker: Path, case: int) -> int:
    """End this process in the middle of case 0, unless it did so before."""
    if case == 0 and not marker.exists():
        marker.touch()
        os._exit(9)
    return case


@pytest.mark.parametrize("n", [0, 1, 2])
def test_every_result_comes_with_the_number_of_its_case(n):
    assert sorted(Processes(n).map(double, range(7))) == [(k, 2 * k) for k in range(7)]
    assert list(Processes(n).map(double, [])) == []


@pytest.mark.parametrize("n", [0, 2])
def test_the_error_of_a_case_stands_in_place_of_its_result(n):
    found = dict(Processes(n).map(refuse, [4, 3]))
    assert found[0] == 4
    assert type(found[1]) is PrepError and str(found[1]) == "3 is odd"
    for task, error in ((refuse, DeviceError), (partial(operator.truediv, 1.0), ZeroDivisionError)):
        with pytest.raises(error):
            list(Processes(n).map(task, [0, 10]))


def test_what_a_process_that_died_had_not_finished_is_done_by_others(tmp_path):
    task = partial(die_once, tmp_path / "marker")
    assert sorted(Processes(2).map(task, range(3))) == [(k, k) for k in range(3)]
    with pytest.raises(MriAmbientError):
        list(Processes(2, retries=0).map(os._exit, [3, 3]))
