"""Work spread over processes, one thread each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import Any, TypeVar

import torch

from ..errors import MriAmbientError

Job = TypeVar("Job")
Result = TypeVar("Result")


def parallel_map(
    task: Callable[[Job], Result], jobs: Sequence[Job], workers: int, *, chunksize: int = 1
) -> Iterator[Result]:
    """``task`` of every job, in order; in this process unless there are two workers and two jobs.

    Task, jobs and results can be pickled; a process gets the task once, and ``chunksize`` jobs at a
    time.

    Raises:
        MriAmbientError: a process died.
    """
    if workers < 2 or len(jobs) < 2:
        yield from map(task, jobs)
        return
    spawn = get_context("spawn")
    with ProcessPoolExecutor(workers, spawn, initializer=_begin, initargs=(task,)) as pool:
        try:
            yield from pool.map(_do, jobs, chunksize=chunksize)
        except BrokenProcessPool as error:
            raise MriAmbientError(
                "a worker process died, most likely out of memory; run again with fewer workers "
                "(what is finished is kept)"
            ) from error
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


_tasks: list[Callable[[Any], Any]] = []
"""The task of this process."""


def _begin(task: Callable[[Any], Any]) -> None:
    torch.set_num_threads(1)
    _tasks[:] = [task]


def _do(job: Any) -> Any:  # noqa: ANN401 -- of any task
    return _tasks[0](job)
