"""A second device that computes on the CPU, and is as strict about its tensors as a GPU.

Inside ``SecondDevice()``, ``DEVICE`` holds tensors whose values lie in the CPU's memory. It raises

- where an operation mixes its tensors with those of the CPU (numbers and copies excepted),
- where a random generator and the numbers it draws are on different devices,
- where ``.numpy()`` or ``.tolist()`` is called before ``.cpu()``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

DEVICE = torch.device("mps", 0)
"""A name that no build for CPUs or NVIDIA GPUs has a use for."""


class DeviceMismatchError(RuntimeError):
    """What a GPU would raise."""


class OnDevice(Tensor):
    """A tensor of the second device; ``values`` lie on the CPU."""

    values: Tensor

    @staticmethod
    def __new__(cls, values: Tensor) -> OnDevice:
        # To torch it lies nowhere ("meta"), so that nothing but this class can compute with it.
        out = Tensor._make_wrapper_subclass(
            cls, values.shape, strides=values.stride(), dtype=values.dtype, device="meta"
        )
        out.values = values
        return out

    @property
    def device(self) -> torch.device:
        return DEVICE

    def __repr__(self) -> str:
        return f"OnDevice({self.values!r})"

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return compute(func, args, kwargs or {})


def values_of(x: object) -> object:
    return x.values if isinstance(x, OnDevice) else x


ANY_DEVICE = (
    torch.ops.aten.copy_.default,
    torch.ops.aten._to_copy.default,
    torch.ops.aten.index.Tensor,  # indices may lie on the CPU
    torch.ops.aten.index_put_.default,
    torch.ops.aten._index_put_impl_.default,
)


def compute(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """The operation on the values; its results lie where its tensors do, or on ``device``."""
    tensors = [x for x in tree_flatten((args, kwargs))[0] if isinstance(x, Tensor)]
    there = [x for x in tensors if isinstance(x, OnDevice)]
    here = [x for x in tensors if not isinstance(x, OnDevice) and x.ndim > 0]
    if there and here and func not in ANY_DEVICE:
        raise DeviceMismatchError(f"{func}: tensors on {DEVICE} and on the CPU")
    device = kwargs.get("device")
    if device is not None and torch.device(device).type != DEVICE.type:
        stays = torch.device(device).type == "meta" and bool(there)  # the device torch knows of
    else:
        stays = bool(there) if device is None else True
    if device is not None:
        kwargs = {**kwargs, "device": torch.device("cpu")}
    if func is torch.ops.aten._local_scalar_dense.default:
        return func(args[0].values)
    out = func(*tree_map(values_of, args), **tree_map(values_of, kwargs))
    if func._schema.is_mutable and func is not torch.ops.aten.native_batch_norm.default:
        if args and isinstance(args[0], Tensor):
            return args[0]
        return kwargs.get("out", out)
    if func is torch.ops.aten.copy_.default:
        return args[0]
    return tree_map(lambda x: OnDevice(x) if isinstance(x, Tensor) else x, out) if stays else out


class _Operations(TorchDispatchMode):
    """Sees every operation, those on tensors of the CPU included."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return compute(func, args, kwargs or {})


class SecondGenerator(torch.Generator):
    """A generator of the second device."""

    device = DEVICE


def generator(device: torch.device | str = "cpu") -> torch.Generator:
    """In place of ``torch.Generator``."""
    return SecondGenerator() if torch.device(device).type == DEVICE.type else torch.Generator()


class _Calls(TorchFunctionMode):
    """Sees every call of torch, with the generators that it was given."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        flat = tree_flatten((args, kwargs))[0]
        on_device = any(isinstance(x, OnDevice) for x in flat)
        if on_device and func in (Tensor.numpy, Tensor.tolist, Tensor.__array__):
            raise DeviceMismatchError(f"{func.__name__} of a tensor on {DEVICE}; use .cpu() first")
        for rng in [x for x in flat if isinstance(x, torch.Generator)]:
            device = torch.device(kwargs.get("device") or (DEVICE if on_device else "cpu"))
            if isinstance(rng, SecondGenerator) != (device.type == DEVICE.type):
                raise DeviceMismatchError(f"a generator on {rng.device} draws for {device}")
        return func(*args, **kwargs)


@contextmanager
def second_device() -> Iterator[torch.device]:
    """The device, inside the block."""
    with patch("mri_ambient.rng.Generator", generator), _Operations(), _Calls():
        yield DEVICE
