"""Where to compute."""

from __future__ import annotations

import ctypes
import sys
import warnings
from contextlib import suppress

import torch

from ..errors import ConfigError, DeviceError, NumericalWarning


def pick_device(name: str = "auto") -> torch.device:
    """``auto`` is the GPU where there is one and the CPU, with a warning, where there is none.

    Raises:
        ConfigError: the name is none of a device.
        DeviceError: the device asked for is not there.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        warnings.warn("no GPU found, computing on the CPU", NumericalWarning, stacklevel=2)
        return torch.device("cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"--device is auto, cpu or cuda[:i]; got {name!r}") from error
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"--device is auto, cpu or cuda[:i]; got {name!r}")
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        if isinstance(error, RuntimeError) and out_of_memory(error):
            return device  # it is there, and whoever needs room on it says so
        reason = str(error).splitlines()[0]
        raise DeviceError(
            f"device {name!r} cannot be used ({reason}); choose auto, cpu or cuda[:i]"
        ) from error
    return device


OUT_OF_MEMORY = ("DefaultCPUAllocator", "out of memory", "ALLOC_FAILED")
"""How errors of the CPU and of the libraries of a GPU say it, where torch does not."""


def out_of_memory(error: RuntimeError) -> bool:
    """Whether an error means that memory ran out."""
    return isinstance(error, torch.OutOfMemoryError) or any(
        words in str(error) for words in OUT_OF_MEMORY
    )


LOST = ("CUDA error", "CUDA driver error", "cuDNN error", "cuFFT error", "CUBLAS_STATUS_EXECUTION")
"""How errors of a GPU that no longer works begin."""


def lost(error: RuntimeError, device: torch.device | str) -> DeviceError | None:
    """What to say where an error means that a GPU is no longer there; None where it does not."""
    if not any(words in str(error) for words in LOST):
        return None
    reason = str(error).splitlines()[0]
    return DeviceError(
        f"device {str(device)!r} was lost ({reason}); what is finished is kept: run the same "
        "command again"
    )


PRECISIONS = ("auto", "fp32", "bf16")
"""Of networks: "auto" is bf16 on a GPU and fp32 on a CPU."""


def check_precision(precision: str) -> None:
    """Raise ConfigError if it is none of :data:`PRECISIONS`."""
    if precision not in PRECISIONS:
        raise ConfigError(
            f"precision {precision!r} is unknown; choose from {', '.join(PRECISIONS)}"
        )


def autocast_on(precision: str, device: torch.device) -> bool:
    """Whether networks compute in bfloat16."""
    return precision == "bf16" or (precision == "auto" and device.type == "cuda")


def describe_device(device: torch.device) -> str:
    """Name and memory, for reports."""
    if device.type == "cuda":
        facts = torch.cuda.get_device_properties(device)
        return f"{facts.name}, {facts.total_memory / 2**30:.0f} GiB"
    return f"CPU, {torch.get_num_threads()} threads"


def keep_freed_memory() -> None:
    """Have glibc keep the memory of freed tensors for the next ones; elsewhere, nothing happens.

    By default the memory of a large tensor goes back to the system and is asked for again, zeroed
    page by page, which on a CPU takes as long as a Fourier transform of it. Meant for processes
    that train, whose tensors have the same sizes over and over.
    """
    _set_malloc({_MMAP_THRESHOLD: 2**25, _TRIM_THRESHOLD: 2**31 - 1, _TOP_PAD: 2**28})


def return_freed_memory() -> None:
    """Have glibc give the memory of freed tensors of 4 MiB and more back; elsewhere, nothing.

    By default it learns to keep blocks of the sizes it sees, and a long volume takes a quarter more
    memory than a short one. Meant for processes that prepare scans slice by slice.
    """
    _set_malloc({_MMAP_THRESHOLD: 2**22})


_MMAP_THRESHOLD, _TRIM_THRESHOLD, _TOP_PAD = -3, -1, -2
"""Parameters of mallopt, as malloc.h names them; 2**25 is the largest threshold it takes."""


def _set_malloc(parameters: dict[int, int]) -> None:
    if sys.platform != "linux":
        return
    with suppress(OSError, AttributeError):  # another C library has no such call
        mallopt = ctypes.CDLL(None).mallopt
        for parameter, value in parameters.items():
            mallopt(parameter, value)
