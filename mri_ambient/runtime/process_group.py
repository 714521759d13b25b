"""The processes that train one prior together, with ``torch.distributed``.

Each process computes a part of every batch, and gradients are summed, so that the run equals that
of a single process. With one process, nothing is communicated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed

from ..errors import MriAmbientError

T = TypeVar("T")


@dataclass(frozen=True)
class ProcessGroup:
    """The processes of a job.

    Attributes:
        rank: number of this process; process 0 writes the files.
        size: how many processes there are.
    """

    rank: int = 0
    size: int = 1

    @classmethod
    def current(cls) -> ProcessGroup:
        """The process group of this process; a group of one where none was started."""
        if not (distributed.is_available() and distributed.is_initialized()):
            return cls()
        return cls(distributed.get_rank(), distributed.get_world_size())

    @property
    def is_first(self) -> bool:
        """Whether this process writes the files."""
        return self.rank == 0

    def from_first(self, make: Callable[[], T]) -> T:
        """The result of ``make`` in process 0, or its MriAmbientError, sent to all processes."""
        if self.size == 1:
            return make()
        message: list[Any] = [None]
        if self.is_first:
            try:
                message = [make()]
            except MriAmbientError as error:
                message = [error]
        with _lost_process_reported():
            distributed.broadcast_object_list(message, src=0)
        if isinstance(message[0], MriAmbientError):
            raise message[0]
        result: T = message[0]
        return result

    def any(self, flag: bool, device: torch.device) -> bool:
        """Whether the flag is true in any process."""
        if self.size == 1:
            return flag
        n_true = torch.tensor(float(flag), device=device)
        with _lost_process_reported():
            distributed.all_reduce(n_true)
        return bool(n_true > 0)

    def sum_(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors by their sums over all processes."""
        if self.size == 1:
            return
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        with _lost_process_reported():
            distributed.all_reduce(flat)
        parts = flat.split_with_sizes([tensor.numel() for tensor in tensors])
        for tensor, part in zip(tensors, parts, strict=True):
            tensor.copy_(part.view_as(tensor))


@contextmanager
def _lost_process_reported() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise MriAmbientError(
            f"another process of the job has ended ({str(error).splitlines()[0]:.100}); see its "
            "own message, and run the same command again to continue from the last checkpoint"
        ) from error
