"""Where to compute."""

from __future__ import annotations

import warnings

import torch

from .errors import DeviceError, NumericalWarning


def pick_device(name: str = "auto") -> torch.device:
    """``auto`` is the GPU where there is one and the CPU, with a warning, where there is none.

    Raises:
        DeviceError: the device asked for is not there.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        warnings.warn("no GPU found, computing on the CPU", NumericalWarning, stacklevel=2)
        return torch.device("cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise DeviceError(
            f"device {name!r} cannot be used ({reason}); choose auto, cpu or cuda[:i]"
        ) from error
    return device


def describe_device(device: torch.device) -> str:
    """Name and memory, for reports."""
    if device.type == "cuda":
        facts = torch.cuda.get_device_properties(device)
        return f"{facts.name}, {facts.total_memory / 2**30:.0f} GiB"
    return f"CPU, {torch.get_num_threads()} threads"
