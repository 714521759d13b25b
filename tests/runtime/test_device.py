"""Which device is taken, and what is said where it cannot be."""

from __future__ import annotations

import pytest
import torch

from mri_ambient.errors import DeviceError
from mri_ambient.runtime.device import pick_device


def raising(error):
    def zeros(*_, **__):
        raise error

    return zeros


@pytest.mark.parametrize(
    "error",
    [
        AssertionError("Torch not compiled with CUDA enabled"),
        RuntimeError("No CUDA GPUs are available"),
        RuntimeError("CUDA error: invalid device ordinal\nCUDA kernel errors might be"),
    ],
)
def test_a_device_that_is_not_there_is_refused(error, monkeypatch):
    monkeypatch.setattr(torch, "zeros", raising(error))
    with pytest.raises(DeviceError, match=r"'cuda:3' cannot be used.*choose auto") as told:
        pick_device("cuda:3")
    assert str(error).splitlines()[0] in str(told.value)


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("CUDA error: out of memory")],
)
def test_a_device_that_is_full_is_taken(error, monkeypatch):
    """Another process may hold its memory: what needs room there has a way out, or says so."""
    monkeypatch.setattr(torch, "zeros", raising(error))
    assert pick_device("cuda:3") == torch.device("cuda:3")
