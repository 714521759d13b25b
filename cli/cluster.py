"""Where scans are done: in processes of this machine, or by the workers of a cluster."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from mri_ambient.errors import ConfigError

from .console import print_line

if TYPE_CHECKING:
    from mri_ambient.runtime.executor import Executor


@contextmanager
def scan_executor(
    scheduler: str | None, jobs_file: Path | None, n_processes: int = 1
) -> Iterator[int | Executor]:
    """The workers that ``--scheduler`` or ``--cluster`` names, or so many processes.

    Raises:
        ConfigError: several of them were given, dask is not installed, or see
            :func:`mri_ambient.runtime.cluster.cluster`.
    """
    if scheduler is None and jobs_file is None:
        yield n_processes
        return
    if scheduler is not None and jobs_file is not None:
        raise ConfigError("--scheduler and --cluster both say where scans are done; give one")
    if n_processes > 1:
        raise ConfigError(
            f"{n_processes} processes of this machine and a cluster were given; leave one out"
        )
    try:
        from mri_ambient.runtime.cluster import cluster
    except ImportError as error:
        raise ConfigError(
            f"a cluster needs dask ({error}); install it: pip install 'mri-ambient[cluster]'"
        ) from error
    with cluster(scheduler, jobs_file, say=print_line) as executor:
        yield executor
