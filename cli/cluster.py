"""Where scans are done: in processes of this machine, or by the workers of a cluster."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mri_ambient.errors import ConfigError

from . import options as opt
from .console import print_line

if TYPE_CHECKING:
    from mri_ambient.runtime.executor import Executor


@dataclass(frozen=True)
class Where:
    """The cluster that does the scans, if any."""

    scheduler: opt.Scheduler = None
    cluster: opt.ClusterFile = None

    @property
    def elsewhere(self) -> bool:
        """Whether other machines do them."""
        return self.scheduler is not None or self.cluster is not None

    @contextmanager
    def executor(self, n_processes: int = 1) -> Iterator[Executor]:
        """The workers of the cluster, or so many processes of this machine.

        Raises:
            ConfigError: several of them were given, dask is not installed, or see
                :func:`mri_ambient.runtime.cluster.cluster`.
        """
        if self.scheduler is not None and self.cluster is not None:
            raise ConfigError("--scheduler and --cluster both say where scans are done; give one")
        if self.elsewhere and n_processes > 1:
            raise ConfigError(
                f"{n_processes} processes of this machine and a cluster were given; leave one out"
            )
        if not self.elsewhere:
            from mri_ambient.runtime.executor import Processes

            yield Processes(n_processes)
            return
        try:
            from mri_ambient.runtime.cluster import cluster
        except ImportError as error:
            raise ConfigError(
                f"a cluster needs dask ({error}); install it: pip install 'mri-ambient[cluster]'"
            ) from error
        with cluster(self.scheduler, self.cluster, say=print_line) as executor:
            yield executor
