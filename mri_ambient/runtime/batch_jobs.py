"""Workers that a batch system starts: jobs of dask-jobqueue, by a file of settings."""

from __future__ import annotations

import inspect
import signal
from pathlib import Path
from typing import Any

import yaml
from distributed.core import Status
from distributed.deploy import SpecCluster

from ..errors import ConfigError, unknown_name

NEEDED = ("n_workers", "cores", "memory")
"""Settings without which no job can be started."""

NOT_SET = ("self", "loop", "job_cls", "scheduler", "scheduler_cls", "asynchronous")
"""Parameters of the classes of dask-jobqueue that cannot be set by a file."""


def submitted(path: Path) -> SpecCluster:
    """A cluster of jobs by a file of settings, as keys of YAML.

    ``cluster`` is a class of dask-jobqueue (SLURMCluster, PBSCluster, SGECluster, ...), the others
    are its options, ``n_workers`` among them.

    Raises:
        ConfigError: the file cannot be read, there is no such class or option, or the batch system
            refuses the jobs.
    """
    kind, settings = _checked(path)
    n_workers, jobs = settings.pop("n_workers"), None
    try:
        jobs = kind(**settings)
        jobs.sync(_submit, jobs)
    except (ValueError, TypeError, RuntimeError, OSError) as error:
        if jobs is not None:
            for job in jobs.workers.values():
                job.status = Status.closed  # a job that was not accepted cannot be closed
            jobs.close()
        reason = " ".join(str(error).split())
        raise ConfigError(
            f"{path}: {kind.__name__} cannot be started ({reason}); change it"
        ) from error
    jobs.scale(n_workers)
    return jobs


def _checked(path: Path) -> tuple[type[SpecCluster], dict[str, Any]]:
    """The class that a file names, and its other settings, all known and complete."""
    settings, kinds = _settings(path), _kinds_of_cluster()
    name = str(settings.pop("cluster", "nothing"))
    if name not in kinds:
        raise ConfigError(f"{path}: {unknown_name('cluster', name, kinds)}")
    options = sorted(_options(kinds[name]))
    for key in settings:
        if key not in options:
            raise ConfigError(f"{path}: {unknown_name(f'option of {name}', key, options)}")
    for key in NEEDED:
        if key not in settings:
            raise ConfigError(f"{path}: has no {key}; {name} needs {', '.join(NEEDED)}")
    n_workers = settings["n_workers"]
    if not isinstance(n_workers, int) or n_workers < 1:
        raise ConfigError(f"{path}: n_workers is {n_workers!r}, wanted how many are to be started")
    return kinds[name], settings


async def _submit(jobs: SpecCluster) -> None:
    """Submit the first job; ``scale`` would not raise the error of one that is refused."""
    jobs.worker_spec.update(jobs.new_worker_spec())
    await jobs


def _settings(path: Path) -> dict[str, Any]:
    """The keys of a YAML file."""
    try:
        found = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"{path}: cannot be read as YAML ({reason})") from error
    if not isinstance(found, dict):
        raise ConfigError(f"{path}: holds no keys; wanted `cluster: SLURMCluster` and its options")
    return {str(key): value for key, value in found.items()}


def _kinds_of_cluster() -> dict[str, type[SpecCluster]]:
    """The classes of dask-jobqueue by name."""
    on_interrupt = signal.getsignal(signal.SIGINT)
    import dask_jobqueue

    signal.signal(signal.SIGINT, on_interrupt)  # it takes Ctrl-C for itself
    base = dask_jobqueue.JobQueueCluster
    found = vars(dask_jobqueue).items()
    return {k: v for k, v in found if isinstance(v, type) and issubclass(v, base) and v != base}


def _options(kind: type[SpecCluster]) -> set[str]:
    """What a class of dask-jobqueue and its jobs take."""
    classes = (*kind.__mro__, *kind.job_cls.__mro__)
    ours = (one for one in classes if one.__module__.startswith("dask_jobqueue"))
    names = {name for one in ours for name in inspect.signature(one.__init__).parameters}
    return {name for name in names if name not in NOT_SET and not name.endswith("kwargs")}
