"""The processes that ``torchrun`` starts: they are connected before a command does its work."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from mri_ambient.errors import ConfigError, DeviceError, MriAmbientError


@contextmanager
def join_job(device: str) -> Iterator[tuple[bool, str]]:
    """Join the processes named by torchrun's environment; without it, this is the only process.

    Gives whether this process prints and writes, and the name of its device: if that was ``auto``
    or ``cuda``, the GPU of its local rank.

    Raises:
        ConfigError: the environment is not torchrun's.
        DeviceError: there are more processes than GPUs.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield True, device
        return
    import torch
    from torch import distributed

    on_gpu = device in ("auto", "cuda") and torch.cuda.is_available()
    if on_gpu:
        place = int(os.environ.get("LOCAL_RANK", "0"))
        if place >= torch.cuda.device_count():
            raise DeviceError(
                f"process {place + 1} of this machine has no GPU of its own, there are "
                f"{torch.cuda.device_count()}; start fewer, or use --device cpu"
            )
        device = f"cuda:{place}"
        torch.cuda.set_device(device)
    try:
        # The process that makes the last targets may take hours longer than the first.
        distributed.init_process_group("nccl" if on_gpu else "gloo", timeout=timedelta(days=1))
    except ValueError as error:
        raise ConfigError(
            f"WORLD_SIZE is {size}, but the processes cannot be connected ({error}); start them "
            "with torchrun, or unset WORLD_SIZE"
        ) from error
    try:
        yield distributed.get_rank() == 0, device
        distributed.barrier()  # a process that leaves early breaks the connections of the others
    except MriAmbientError:
        raise  # at once: where another process was lost, torchrun soon ends this one too
    except BaseException:
        distributed.destroy_process_group()
        raise
    distributed.destroy_process_group()
