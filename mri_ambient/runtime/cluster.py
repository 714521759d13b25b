"""Scans on a cluster: an executor whose cases are done by the workers of a dask scheduler.

One case a worker at a time, however many threads the worker has: these are torch's. A worker that
is lost costs nothing: the scheduler gives its case to another. All machines see the same folders
under the same paths. This module needs dask.distributed; nothing else here does.
"""

from __future__ import annotations

import ctypes
import logging
import os
import socket
import threading
import time
import uuid
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from distributed import CancelledError, Client, Future, KilledWorker, Worker, get_worker, wait
from distributed.diagnostics.plugin import WorkerPlugin

from .._version import __version__
from ..errors import (
    ConfigError,
    DeviceLostError,
    MriAmbientError,
    ScanFormatError,
    StoppedError,
)
from .batch_jobs import submitted
from .device import device_errors, take_gpu
from .executor import attempt, received

Case = TypeVar("Case")
Result = TypeVar("Result")

LOOK_EVERY_S = 1.0
"""So often it is looked whether further workers have come."""

ANSWERS_IN_S = 10.0
"""A scheduler that takes longer to answer is not there."""

MOST_LOST = 4
"""A case that was with so many workers when they lost their device fails, as dask's own rule is for
workers that end."""

PROFILES = {"profile", "profile-cycle"}
"""Callbacks of a worker that are switched off."""

_ONE_CASE = threading.Lock()
"""Held while this worker does a case."""


class TaskPlugin(WorkerPlugin):  # type: ignore[misc]  # of a package that is not checked
    """A task, as every worker gets it once, also those that come later.

    Args:
        task: done for every case.
        folder: that relative paths begin in.
    """

    def __init__(self, task: Callable[[Any], Any], folder: Path) -> None:
        self.task, self.folder, self.version = task, folder, __version__
        self.thread: int | None = None
        self.lost: DeviceLostError | None = None

    def setup(self, worker: Worker) -> None:
        """Raise ConfigError on a worker that cannot do the task; see :meth:`check`."""
        self.check()
        take_gpu()
        # Samples of what runs: they took 0.17 MiB a scan (docs/results/scale.md).
        for name in PROFILES & worker.periodic_callbacks.keys():
            worker.periodic_callbacks[name].stop()

    def check(self) -> None:
        """Go to the folder of the caller.

        Raises:
            ConfigError: this machine does not see it, or has another version of this package.
        """
        if self.version != __version__:
            raise ConfigError(
                f"worker on {socket.gethostname()}: has mri-ambient {__version__}, wanted "
                f"{self.version}; install the same version on all machines"
            )
        try:
            os.chdir(self.folder)
        except OSError as error:
            raise ConfigError(
                f"{self.folder}: the worker on {socket.gethostname()} cannot see it "
                f"({error.strerror}); work in a folder that all machines share, under one path"
            ) from error

    def do(self, case: Any, paths: Sequence[Path], n_threads: int) -> Any:  # noqa: ANN401 -- of any task
        """See :func:`~mri_ambient.runtime.executor.attempt`; the caller sees these paths.

        Without its device, this worker does no further case.
        """
        with _ONE_CASE:
            if self.lost is not None:
                raise self.lost
            self.thread = threading.get_ident()
            torch.set_num_threads(n_threads)
            try:
                return attempt(partial(self._do, paths), case)
            except DeviceLostError as error:
                self.lost = error
                raise
            finally:
                self.thread = None

    def _do(self, paths: Sequence[Path], case: Any) -> Any:  # noqa: ANN401 -- of any task
        self.check()
        for path in paths:
            if not path.exists():
                raise ScanFormatError(
                    f"{path}: the worker on {socket.gethostname()} cannot see it; scans lie in "
                    "folders that all machines share, under one path"
                )
        with device_errors("cuda"):
            return self.task(case)

    def teardown(self, worker: Worker) -> None:
        """Stop the case that is being done: nobody waits for it any more."""
        if self.thread is not None:
            stop = ctypes.py_object(StoppedError)
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(self.thread), stop)


def _do(name: str, case: Any, paths: Sequence[Path]) -> Any:  # noqa: ANN401 -- of any task
    """What a worker does: the task of this name."""
    worker = get_worker()
    plugin = worker.plugins[name]
    assert isinstance(plugin, TaskPlugin)
    try:
        return plugin.do(case, paths, worker.state.nthreads)
    except DeviceLostError as error:
        return LostDevice(worker.address, error)


@dataclass(frozen=True)
class LostDevice:
    """What a worker without a working device sends in place of a result."""

    worker: str
    error: DeviceLostError


def _paths(case: Any) -> list[Path]:  # noqa: ANN401 -- of any task
    """The files of a case that are there."""
    entries = case if isinstance(case, tuple) else (case,)
    paths = [Path(entry) for entry in entries if isinstance(entry, os.PathLike)]
    return [path for path in paths if path.exists()]


class ClusterExecutor:
    """The workers of a scheduler; see :func:`cluster`.

    Args:
        client: connected to it.
        say: called with a line about it, now and whenever no worker is left.
    """

    in_process = False

    def __init__(self, client: Client, say: Callable[[str], None] | None = None) -> None:
        self.client, self.say = client, say
        self.n_workers = len(client.nthreads())
        self._tell()

    def _tell(self) -> None:
        """Say where the scheduler and its dashboard are, and how many workers there are."""
        workers = f"{self.n_workers} worker{'s' * (self.n_workers != 1)}"
        waits = "" if self.n_workers else ", scans wait until there is one"
        address, dashboard = self.client.scheduler.address, self.client.dashboard_link
        if self.say is not None:
            self.say(f"cluster {address}: {workers}{waits}; dashboard {dashboard}")

    def map(
        self, task: Callable[[Case], Result], cases: Sequence[Case]
    ) -> Iterator[tuple[int, Result | MriAmbientError]]:
        """See :meth:`mri_ambient.runtime.executor.Executor.map`.

        A case that its worker cannot see, or whose workers were lost again and again, has that for
        its error.

        Raises:
            ConfigError: a worker cannot do the task; see :meth:`TaskPlugin.check`.
        """
        name = f"mri-ambient-{uuid.uuid4().hex}"
        waiting, running = deque(enumerate(cases)), dict[Future[Any], int]()
        n_lost = Counter[int]()
        try:
            with _scheduler_errors():
                self.client.register_plugin(TaskPlugin(task, Path.cwd()), name=name)
            while waiting or running:
                for index, case in self._next(waiting, len(running)):
                    future = self.client.submit(_do, name, case, _paths(case), pure=False)
                    running[future] = index
                for future in _finished(running):
                    index, found = running.pop(future), _result(future)
                    future.release()  # or else a worker that is retired would hand it on first
                    if isinstance(found, LostDevice):
                        self._retire(found)
                        n_lost[index] += 1
                        if n_lost[index] < MOST_LOST:
                            waiting.appendleft((index, cases[index]))
                            continue
                        found = found.error
                    yield index, found
        finally:
            with suppress(OSError, ValueError, CancelledError):  # it is lost, or knows no such task
                self.client.cancel(list(running))
                self.client.unregister_worker_plugin(name)

    def _retire(self, lost: LostDevice) -> None:
        """Give no more cases to a worker."""
        with _scheduler_errors():
            is_new = lost.worker in self.client.nthreads()
            self.client.retire_workers([lost.worker])
        if is_new and self.say is not None:
            reason = str(lost.error).partition(";")[0]
            self.say(f"worker {lost.worker} takes no more scans: {reason}")

    def _next(self, waiting: deque[tuple[int, Case]], n_running: int) -> list[tuple[int, Case]]:
        """As many cases as there are workers without one."""
        before = self.n_workers
        with _scheduler_errors():
            self.n_workers = len(self.client.nthreads())
        if before and not self.n_workers:
            self._tell()
        return [waiting.popleft() for _ in range(min(len(waiting), self.n_workers - n_running))]


def _finished(running: Collection[Future[Any]]) -> list[Future[Any]]:
    """Those that are done, after a while at most."""
    if not running:
        time.sleep(LOOK_EVERY_S)
    else:
        with _scheduler_errors(), suppress(TimeoutError):
            wait(list(running), timeout=LOOK_EVERY_S, return_when="FIRST_COMPLETED")
    return [future for future in running if future.done()]


def _result(future: Future[Any]) -> Any:  # noqa: ANN401 -- of any task
    """The result of a case, or its error."""
    try:
        found = future.result()
        return found if isinstance(found, LostDevice) else received(found)
    except CancelledError:
        with _scheduler_errors():
            raise
    except KilledWorker as error:
        return MriAmbientError(
            f"{error.allowed_failures + 1} workers were lost while they worked on it, most likely "
            "out of memory; start workers with more memory, and run the same command again"
        )


@contextmanager
def _scheduler_errors() -> Iterator[None]:
    """A scheduler that is lost becomes a MriAmbientError."""
    try:
        yield
    except (OSError, CancelledError) as error:
        raise MriAmbientError(
            f"the dask scheduler was lost ({type(error).__name__}); start it again, and run the "
            "same command again (what is finished is kept)"
        ) from error


@contextmanager
def cluster(
    scheduler: str | None = None,
    jobs: Path | None = None,
    *,
    say: Callable[[str], None] | None = None,
) -> Iterator[ClusterExecutor]:
    """An executor on the workers of a scheduler, or on those that a batch system starts.

    Args:
        scheduler: address of a dask scheduler, e.g. ``tcp://head:8786``.
        jobs: file of settings of jobs, see :func:`submitted`; the scheduler then runs in this
            process, and the jobs end with the block.
        say: called with a line about it, now and whenever no worker is left.

    Raises:
        ConfigError: no scheduler answers, or the jobs cannot be submitted.
    """
    # A lost worker is no news for users: its scan goes to another one, or fails with a sentence.
    logging.getLogger("distributed.client").setLevel(logging.ERROR)
    if jobs is not None:
        with submitted(jobs) as job_queue, Client(job_queue) as client:
            yield ClusterExecutor(client, say)
        return
    try:
        client = Client(scheduler, timeout=ANSWERS_IN_S)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{scheduler}: no dask scheduler answers there ({type(error).__name__}); start one "
            "with `dask scheduler` and give the address that it prints, e.g. tcp://head:8786"
        ) from error
    with client:
        yield ClusterExecutor(client, say)
