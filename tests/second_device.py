"""A second device that computes on the CPU, and is as strict about its tensors as a GPU.

Inside ``with second_device() as device`` an error is raised

- where an operation mixes tensors of the device and of the CPU (numbers and copies excepted),
- where a random generator and what it draws for are on different devices,
- where ``.numpy()`` is called without ``.cpu()``.

It holds in the thread of the block. Tensors of the device are a subclass that computes by
``__torch_dispatch__``, below automatic differentiation, so that gradients are on the device too.

Two other ways were tried with torch 2.13 and do not serve. Fake tensors on a pretended "cuda" raise
on mixed devices, but hold no values: ``bool(...)`` and ``.numpy()`` of results are impossible, and
there is no generator of theirs. A Python backend for PrivateUse1 needs private functions that older
versions lack, and its tensors have no storage of their size: the first Fourier transform ends the
process.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Generator, Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

DEVICE = torch.device("mps", 0)
"""A name that torch knows, and that no machine with an NVIDIA GPU has."""

aten = torch.ops.aten

COPIES = (aten.copy_.default, aten._to_copy.default)
"""From device to device."""

LAZY = {aten._conj.default: torch.conj_physical, aten._neg_view.default: torch.neg}
"""Marks on a tensor, which torch resolves before it calls a subclass: done at once."""

INDEXING = (aten.index.Tensor, aten.index_put_.default, aten._index_put_impl_.default)
"""Indices may be on the CPU."""

NO_NUMBERS = (aten.cat.default, aten.stack.default)
"""Elsewhere a tensor of one number may be on the CPU."""

NESTED = (list, tuple, dict)
"""What holds arguments."""


class DeviceMismatchError(RuntimeError):
    """What a GPU would refuse."""


class DeviceTensor(Tensor):
    """A tensor of the device; its values are in the CPU's memory."""

    values: Tensor

    @staticmethod
    def __new__(cls, values: Tensor) -> DeviceTensor:
        # "meta" to torch, so that nothing but this class can compute with it.
        out = Tensor._make_wrapper_subclass(
            cls, values.shape, strides=values.stride(), dtype=values.dtype, device="meta"
        )
        out.values = values
        return out

    @property
    def device(self) -> torch.device:
        return DEVICE

    def __repr__(self) -> str:
        return f"DeviceTensor({self.values!r})"

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return compute(func, args, kwargs or {})


def compute(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """An operation, by its values; the result is where its tensors or its ``device`` are."""
    there, here = [], []
    for tensor in _leaves((args, kwargs)):
        if isinstance(tensor, DeviceTensor):
            there.append(tensor)
        elif isinstance(tensor, Tensor) and (tensor.ndim > 0 or func in NO_NUMBERS):
            here.append(tensor)
    if there and here and func not in COPIES and not _is_indexing(func, args):
        raise DeviceMismatchError(f"{func} of tensors on {DEVICE} and on the CPU")
    on_device = bool(there)
    if (device := kwargs.get("device")) is not None:
        # Of its own tensors torch only knows that they are "meta".
        on_device = device.type == DEVICE.type or (device.type == "meta" and on_device)
        kwargs = {**kwargs, "device": torch.device("cpu")}
    out = LAZY.get(func, func)(
        *map(_values, args), **{key: _values(value) for key, value in kwargs.items()}
    )
    if func._schema.is_mutable and args and isinstance(args[0], Tensor):
        return args[0]  # changed in place
    if not on_device:
        return out
    if isinstance(out, Tensor):
        return DeviceTensor(out)
    return tree_map(lambda x: DeviceTensor(x) if isinstance(x, Tensor) else x, out)


def _values(x: object) -> object:
    """The values of tensors, also in lists; three times faster than ``tree_map``."""
    if isinstance(x, DeviceTensor):
        return x.values
    return [_values(entry) for entry in x] if type(x) in (list, tuple) else x


def _leaves(x: object) -> list[object]:
    """What arguments hold; several times faster than ``tree_leaves``."""
    if isinstance(x, dict):
        x = list(x.values())
    if not isinstance(x, NESTED):
        return [x]
    found = []
    for entry in x:
        if isinstance(entry, NESTED):
            found += _leaves(entry)
        else:
            found.append(entry)
    return found


def _is_indexing(func: Any, args: Sequence[Any]) -> bool:
    """Whether only the indices are on the CPU."""
    if func not in INDEXING:
        return False
    return all(isinstance(x, DeviceTensor) or x.ndim == 0 for x in (args[0], *args[2:3]))


class _Operations(TorchDispatchMode):
    """Every operation, those on tensors of the CPU included."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # or newer versions of torch load their compiler, which takes seconds

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return compute(func, args, kwargs or {})


class DeviceGenerator(Generator):
    """A generator of the device."""

    device = DEVICE


def make_generator(device: torch.device | str = "cpu") -> Generator:
    """In place of ``torch.Generator``."""
    return DeviceGenerator() if torch.device(device).type == DEVICE.type else Generator()


class _Calls(TorchFunctionMode):
    """Every call of torch, with the generators it is given."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        deep = func is Tensor.__deepcopy__  # whose memory is no argument
        leaves = _leaves((args[:1] if deep else args, kwargs))
        on_device = any(isinstance(leaf, DeviceTensor) for leaf in leaves)
        if on_device and func in (Tensor.numpy, Tensor.__array__) and not kwargs.get("force"):
            raise DeviceMismatchError(f"{func.__name__} of a tensor on {DEVICE} without .cpu()")
        if on_device and func in (Tensor.numpy, Tensor.tolist):
            return func(args[0].cpu(), *args[1:], **kwargs)
        wanted = torch.device(kwargs.get("device") or (DEVICE if on_device else "cpu"))
        for rng in leaves:
            if isinstance(rng, Generator) and rng.device.type != wanted.type:
                raise DeviceMismatchError(f"a generator on {rng.device} draws for {wanted}")
        if func in (torch.tensor, torch.as_tensor) and wanted.type == DEVICE.type:
            return func(*args, **{**kwargs, "device": None}).to(DEVICE)
        return func(*args, **kwargs)


@contextmanager
def second_device() -> Iterator[torch.device]:
    """The device, which exists inside the block."""
    with patch("mri_ambient.rng.Generator", make_generator), _Operations(), _Calls():
        yield DEVICE
