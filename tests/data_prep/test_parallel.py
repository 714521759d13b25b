"""Jobs spread over processes: the order stays, and errors arrive."""

from __future__ import annotations

import operator
import os
from functools import partial

import pytest

from mri_ambient.data_prep.parallel import parallel_map
from mri_ambient.errors import MriAmbientError

double = partial(operator.mul, 2)


@pytest.mark.parametrize(("workers", "chunksize"), [(0, 1), (1, 1), (2, 3)])
def test_results_are_in_the_order_of_the_jobs(workers, chunksize):
    jobs = range(7)
    found = list(parallel_map(double, jobs, workers, chunksize=chunksize))
    assert found == [0, 2, 4, 6, 8, 10, 12]
    assert list(parallel_map(double, [], workers)) == []


@pytest.mark.parametrize("workers", [0, 2])
def test_the_error_of_a_job_reaches_the_caller(workers):
    results = parallel_map(partial(operator.truediv, 1.0), [2.0, 0.0, 4.0], workers)
    assert next(results) == 0.5
    with pytest.raises(ZeroDivisionError):
        list(results)


def test_a_process_that_ends_early_is_an_error():
    with pytest.raises(MriAmbientError):
        list(parallel_map(os._exit, [3, 3], 2))
