"""Several processes that train one prior together, with ``torch.distributed``.

Every process sees its part of each batch; gradients are summed, so that the run is that of a single
process. Alone, nothing here does anything.
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
class Team:
    """The processes of a job.

    Attributes:
        rank: which of them this is; 0 writes the files.
        size: how many there are.
    """

    rank: int = 0
    size: int = 1

    @classmethod
    def joined(cls) -> Team:
        """The process group this process belongs to, or itself alone."""
        if not (distributed.is_available() and distributed.is_initialized()):
            return cls()
        return cls(distributed.get_rank(), distributed.get_world_size())

    @property
    def leads(self) -> bool:
        """Whether this process writes the files."""
        return self.rank == 0

    def from_first(self, make: Callable[[], T]) -> T:
        """What process 0 makes, for everybody; the others do not make it.

        Raises:
            MriAmbientError: in all of them, what process 0 could not do.
        """
        if self.size == 1:
            return make()
        box: list[Any] = [None, None]
        if self.leads:
            try:
                box = [make(), None]
            except MriAmbientError as error:
                box = [None, error]
        with _together():
            distributed.broadcast_object_list(box, src=0)
        made, refused = box
        if refused is not None:
            raise refused
        found: T = made
        return found

    def any(self, flag: bool, device: torch.device) -> bool:
        """Whether any process says yes."""
        if self.size == 1:
            return flag
        votes = torch.tensor(float(flag), device=device)
        with _together():
            distributed.all_reduce(votes)
        return bool(votes > 0)

    def sum_(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors by their sums over all processes."""
        if self.size == 1:
            return
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        with _together():
            distributed.all_reduce(flat)
        first = 0
        for tensor in tensors:
            tensor.copy_(flat[first : first + tensor.numel()].view_as(tensor))
            first += tensor.numel()


@contextmanager
def _together() -> Iterator[None]:
    """Whatever ends another process ends this one, with a sentence.

    Raises:
        MriAmbientError: another process of the job is gone.
    """
    try:
        yield
    except RuntimeError as error:
        raise MriAmbientError(
            f"another process of the job is gone ({str(error).splitlines()[0]:.100}); look for its "
            "own message. Run the same command again, with as many processes as you like: the run "
            "goes on from its last checkpoint"
        ) from error
