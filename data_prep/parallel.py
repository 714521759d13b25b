"""Work spread over processes, a thread each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import TypeVar

import torch

from ..errors import MriAmbientError
from ..runtime.device import return_freed_memory

Job = TypeVar("Job")
Result = TypeVar("Result")


def parallel_map(
    task: Callable[[Job], Result], jobs: Sequence[Job], workers: int, *, chunksize: int = 1
) -> Iterator[Result]:
    """``task`` of every job, in order; in this process where there are no two workers or jobs.

    Args:
        task: can be pickled, as its jobs and results can.
        jobs: what to do.
        workers: processes.
        chunksize: jobs that a process is given at once.

    Raises:
        MriAmbientError: a process died.
    """
    if workers < 2 or len(jobs) < 2:
        yield from map(task, jobs)
        return
    with ProcessPoolExecutor(workers, get_context("spawn"), _start_worker) as pool:
        try:
            yield from pool.map(task, jobs, chunksize=chunksize)
        except BrokenProcessPool as error:
            raise MriAmbientError(
                "a worker process died, most likely out of memory; run again with fewer workers "
                "(what is finished is kept)"
            ) from error
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _start_worker() -> None:
    torch.set_num_threads(1)
    return_freed_memory()
