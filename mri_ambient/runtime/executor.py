"""Executors: a task done for many cases, in this process, in several, or on a cluster.

All do the same: results come as they are finished, each with the number of its case, the error of a
case stands in place of its result, and numerical warnings are issued here.
:mod:`mri_ambient.runtime.cluster` has the executor on a cluster.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any, Protocol, TypeVar

import torch

from ..errors import DeviceError, MriAmbientError, NumericalWarning, collected, issue
from .memory import keep_freed_memory

SIGNALS = (signal.SIGINT, signal.SIGTERM)
"""By which the user ends a command."""

RETRIES = 1
"""How often the cases of processes that died are done again."""

Case = TypeVar("Case")
Result = TypeVar("Result")


class Executor(Protocol):
    """What does a task for many cases."""

    @property
    def in_process(self) -> bool:
        """Whether this process does them: a task may then hold what cannot be pickled."""
        ...

    def map(
        self, task: Callable[[Case], Result], cases: Sequence[Case]
    ) -> Iterator[tuple[int, Result | MriAmbientError]]:
        """The number of every case and what the task gave for it, as they are finished.

        Task, cases and results can be pickled. Closing the iterator, or an error, cancels what is
        not done yet.

        Args:
            task: what is done. Its MriAmbientError stands in place of the result; others are
                raised.
            cases: what it is done for.

        Raises:
            DeviceError: a device was lost, or memory ran out: the next case would fail too.
            MriAmbientError: processes were lost too often.
        """
        ...


@dataclass(frozen=True)
class Processes:
    """Processes of this machine, one thread each; fewer than two: this process, case by case.

    A process that dies costs the others nothing: what was not finished is done again.
    """

    n: int = 0

    @property
    def in_process(self) -> bool:
        """See :attr:`Executor.in_process`."""
        return self.n < 2

    def map(
        self, task: Callable[[Case], Result], cases: Sequence[Case]
    ) -> Iterator[tuple[int, Result | MriAmbientError]]:
        """See :meth:`Executor.map`."""
        if self.in_process or len(cases) < 2:
            for index, case in enumerate(cases):
                yield index, _found(task, case)
            return
        waiting = dict(enumerate(cases))
        for n_lost in range(RETRIES + 1):
            try:
                for index, result in self._in_pool(task, dict(waiting)):
                    del waiting[index]
                    yield index, result
                return
            except BrokenProcessPool as error:
                if n_lost == RETRIES:
                    raise MriAmbientError(
                        "worker processes died, most likely out of memory; run again with fewer "
                        "workers (what is finished is kept)"
                    ) from error

    def _in_pool(
        self, task: Callable[[Case], Result], cases: Mapping[int, Case]
    ) -> Iterator[tuple[int, Result | MriAmbientError]]:
        """The same by new processes, until one of them dies (BrokenProcessPool)."""
        with _pool(self.n, task) as pool:
            with _signals_later():
                futures = {pool.submit(_do, case): index for index, case in cases.items()}
            for future in as_completed(futures):
                yield futures.pop(future), received(future.result())


@contextmanager
def _pool(n: int, task: Callable[[Case], Result]) -> Iterator[ProcessPoolExecutor]:
    """New processes, which end at once if an error ends the block, or if this process is killed.

    They watch one end of a pipe, of which this process alone holds the other.
    """
    spawn = get_context("spawn")
    watched, held = spawn.Pipe(duplex=False)
    given = (task, watched)
    with watched, held, ProcessPoolExecutor(n, spawn, initializer=_begin, initargs=given) as pool:
        try:
            yield pool
        except BaseException:
            held.close()
            pool.shutdown(cancel_futures=True)
            raise


@contextmanager
def _signals_later() -> Iterator[None]:
    """Ctrl-C and SIGTERM come after the block, in which processes start.

    In its middle they would end these with tracebacks. Processes that start here do not get them
    until :func:`_begin`.
    """
    if not hasattr(signal, "pthread_sigmask"):  # on Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def executor_of(workers: int | Executor) -> Executor:
    """An executor as it is, or so many processes of this machine."""
    return Processes(workers) if isinstance(workers, int) else workers


def completed(
    executor: Executor,
    task: Callable[[Case], Result],
    cases: Sequence[Case],
    on_error: Callable[[Case, MriAmbientError], None] | None = None,
) -> Iterator[tuple[int, Result]]:
    """Number and result of the cases whose task gave one, as they are finished.

    Args:
        executor: see :meth:`Executor.map`.
        task: what is done.
        cases: what it is done for.
        on_error: called with a case that failed and its error; without it the error is raised.
    """
    for index, found in executor.map(task, cases):
        if not isinstance(found, MriAmbientError):
            yield index, found
        elif on_error is None:
            raise found
        else:
            on_error(cases[index], found)


def run_one(executor: Executor, task: Callable[[Case], Result], case: Case) -> Result:
    """The result of a task for a single case."""
    ((_, result),) = completed(executor, task, [case])
    return result


def _found(task: Callable[[Case], Result], case: Case) -> Result | MriAmbientError:
    """What the task gives for a case, or its error; DeviceError is raised."""
    try:
        return task(case)
    except DeviceError:
        raise
    except MriAmbientError as error:
        return error


def attempt(
    task: Callable[[Case], Result], case: Case
) -> tuple[Result | MriAmbientError, list[NumericalWarning]]:
    """What another process sends back: the result of a case, or its error, and its warnings."""
    with collected() as given:
        found = _found(task, case)
    return found, given


def received(sent: tuple[Result, list[NumericalWarning]]) -> Result:
    """The result in what :func:`attempt` gave; its warnings are issued."""
    result, messages = sent
    for message in messages:
        issue(message)
    return result


_tasks: list[Callable[[Any], Any]] = []
"""The task of this process."""


def _begin(task: Callable[[Any], Any], watched: Connection) -> None:
    threading.Thread(target=_end_with, args=(watched,), daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the caller too, who ends this
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)  # they were held back when it started
    torch.set_num_threads(1)
    keep_freed_memory()
    _tasks[:] = [task]


def _end_with(watched: Connection) -> None:
    """End this process, whatever it does, when the other end of a pipe is closed."""
    with suppress(OSError):  # on Windows
        watched.poll(None)
    os._exit(1)


def _do(case: Any) -> Any:  # noqa: ANN401 -- of any task
    return attempt(_tasks[0], case)
