"""Where and how to compute: device, precision and batches, and what errors of a device mean."""

from __future__ import annotations

import getpass
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import IO

import torch

from ..errors import (
    ConfigError,
    DeviceError,
    DeviceLostError,
    InternalError,
    MriAmbientError,
    unknown_name,
)
from .config import check_number
from .files import lock_file

PRECISIONS = ("auto", "fp32", "bf16")
"""Of networks: "auto" is bf16 on a GPU and on a CPU where it is faster (:func:`has_fast_bf16`), and
fp32 on other CPUs."""

CPU_PIXELS, GPU_PIXELS = 2**16, 2**22
"""Pixels of the images that are computed at once, unless a batch size is given; halved whenever
memory runs out. On a CPU, more at once are no faster (docs/results/speed.md)."""

MOST_AT_ONCE, BYTES_AT_ONCE = 4, 2**27
"""Items that threads of a CPU compute at once: at most so many, of so many bytes of k-space
together. Each takes many times the memory of its k-space."""

LOST = ("CUDA error", "CUDA driver error", "cuDNN error", "cuFFT error", "CUBLAS_STATUS_EXECUTION")
"""Words in the errors of a GPU that no longer works."""


@cache
def has_fast_bf16() -> bool:
    """Whether convolutions on this CPU are faster in bf16 (:func:`is_fast_in_bf16`).

    Known on Linux only.
    """
    try:
        return is_fast_in_bf16(Path("/proc/cpuinfo").read_text())
    except OSError:
        return False


def is_fast_in_bf16(cpuinfo: str) -> bool:
    """Whether such a CPU has AMX, or is one of AMD with AVX512-BF16.

    With Intel's AVX512-BF16 alone, bf16 is slower than fp32 (docs/results/speed.md).
    """
    amd = "AuthenticAMD" in cpuinfo
    return "amx_bf16" in cpuinfo or (amd and "avx512_bf16" in cpuinfo)


@dataclass(frozen=True)
class Runtime:
    """Where and how to compute. It does not decide the result, beyond rounding.

    Attributes:
        device: "auto" (a GPU where there is one), "cpu", "cuda", "cuda:1", ... or a torch device.
            It is looked for where it is first used, which may be another machine.
        precision: of the networks, one of :data:`PRECISIONS`; physics and state stay in fp32.
        batch_size: slices x samples computed at once; None starts with :data:`CPU_PIXELS` or
            :data:`GPU_PIXELS` pixels. Halved whenever memory runs out.
        cpu_fallback: go on with the CPU if a single image is too large for the device.
        compile: compile the networks with ``torch.compile``, which takes minutes once.
        auto_bf16_on_cpu: whether "auto" is bf16 on a CPU. The machine where this is made decides it
            for all that it is sent to, so that unlike CPUs give the same images.

    Raises:
        ConfigError: there is no such kind of device, precision or batch size.
    """

    device: torch.device | str = "auto"
    precision: str = "auto"
    batch_size: int | None = None
    cpu_fallback: bool = False
    compile: bool = False
    auto_bf16_on_cpu: bool = field(default_factory=lambda: has_fast_bf16())

    def __post_init__(self) -> None:
        if self.batch_size is not None:
            check_number("batch_size", self.batch_size, 1, whole=True)
        check_precision(self.precision)
        if isinstance(self.device, str) and self.device != "auto":
            kind_of_device(self.device)

    @property
    def torch_device(self) -> torch.device:
        """The device of this machine; see :func:`pick_device`."""
        return self.device if isinstance(self.device, torch.device) else pick_device(self.device)

    @property
    def bf16(self) -> bool:
        """Whether networks compute in bfloat16."""
        if self.precision == "auto":
            return self.torch_device.type == "cuda" or self.auto_bf16_on_cpu
        return self.precision == "bf16"

    @property
    def can_fall_back(self) -> bool:
        """Whether the CPU may take over."""
        return self.cpu_fallback and self.torch_device.type != "cpu"

    def on_cpu(self) -> Runtime:
        """The same on the CPU, one image at a time, after a GPU had too little memory."""
        return replace(self, device=torch.device("cpu"), batch_size=1, compile=False)

    def images_at_once(self, shape: tuple[int, int]) -> int:
        """Slices x samples of a matrix ``(y, x)`` that are computed at once."""
        if self.batch_size is not None:
            return self.batch_size
        pixels = CPU_PIXELS if self.torch_device.type == "cpu" else GPU_PIXELS
        return max(1, pixels // (shape[0] * shape[1]))

    def batches_at_once(self, n_bytes: int) -> int:
        """Batches of so many bytes of k-space that are computed at once; one on a GPU."""
        return 1 if self.torch_device.type != "cpu" or self.compile else at_once(n_bytes)


def at_once(n_bytes: int) -> int:
    """Items of so many bytes of k-space that threads of the CPU compute at once."""
    most = min(torch.get_num_threads(), MOST_AT_ONCE)
    return max(1, min(most, BYTES_AT_ONCE // n_bytes))


def pick_device(name: str = "auto") -> torch.device:
    """The device of this name; ``auto`` is the GPU where there is one, else the CPU.

    Raises:
        ConfigError: there is no such kind of device.
        DeviceError: this machine has no such device.
    """
    if name == "auto":
        return torch.device("cuda", *_own_gpu) if torch.cuda.is_available() else torch.device("cpu")
    device = kind_of_device(name)
    if device == torch.device("cuda"):
        device = torch.device("cuda", *_own_gpu)
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        if isinstance(error, RuntimeError) and out_of_memory(error):
            return device  # it exists; what needs memory on it will raise
        reason = str(error).splitlines()[0]
        wanted = "choose auto, cpu or cuda[:i]"
        raise DeviceError(f"device {name!r} cannot be used ({reason}); {wanted}") from error
    return device


_own_gpu: list[int] = []
"""The GPU that this process has taken; empty: the first one."""

_gpu_locks: list[IO[str]] = []
"""Held as long as this process lives."""


def take_gpu() -> None:
    """From now on, ``cuda`` is a GPU that no other process of this user has taken in this way.

    With more processes than GPUs, some share one.
    """
    n_gpus = torch.cuda.device_count()
    if n_gpus < 2 or _own_gpu:
        return
    for index in range(n_gpus):
        name = f"mri-ambient-{getpass.getuser()}-{torch.cuda.get_device_properties(index).uuid}"
        if lock := lock_file(Path(tempfile.gettempdir()) / f"{name}.lock"):
            _gpu_locks.append(lock)
            _own_gpu.append(index)
            return
    _own_gpu.append(os.getpid() % n_gpus)


def kind_of_device(name: str) -> torch.device:
    """The device of this name, whether this machine has it or not; ConfigError for other names."""
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"a device is auto, cpu or cuda[:i]; got {name!r}") from error
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"a device is auto, cpu or cuda[:i]; got {name!r}")
    return device


def check_precision(precision: str) -> None:
    """Raise ConfigError if it is not one of :data:`PRECISIONS`."""
    if precision not in PRECISIONS:
        raise unknown_name("precision", precision, PRECISIONS)


def describe_device(device: torch.device) -> str:
    """Name and memory, for reports."""
    if device.type == "cuda":
        facts = torch.cuda.get_device_properties(device)
        return f"{facts.name}, {facts.total_memory / 2**30:.0f} GiB"
    n_threads = torch.get_num_threads()
    return f"CPU, {n_threads} thread{'s' * (n_threads > 1)}"


def out_of_memory(error: RuntimeError) -> bool:
    """Whether an error, of torch or of a library that it calls, means that memory ran out."""
    words = ("DefaultCPUAllocator", "out of memory", "ALLOC_FAILED")
    return isinstance(error, torch.OutOfMemoryError) or any(word in str(error) for word in words)


def checked_runtime(runtime: Runtime | None, *, elsewhere: bool = False) -> Runtime:
    """The runtime of an argument.

    Raises:
        ConfigError: it is anything else.
        DeviceError: this machine has no such device, and it is not for other machines
            (``elsewhere``).
    """
    runtime = Runtime() if runtime is None else runtime
    if not isinstance(runtime, Runtime):
        raise ConfigError(f"runtime is {runtime!r}, wanted a Runtime, e.g. Runtime('cpu')")
    if not elsewhere and isinstance(runtime.device, str):
        pick_device(runtime.device)
    return runtime


def as_failure(error: Exception, device: torch.device | str, *, alone: bool) -> MriAmbientError:
    """What one of several scans failed of, in the block that caught it.

    Args:
        error: what was raised.
        device: where was computed.
        alone: whether there are no other scans.

    Raises:
        DeviceError: the other scans would fail too.
        Exception: a mistake of ours, and there are no other scans.
    """
    if isinstance(error, RuntimeError):
        error = device_error(error, device) or error
    if isinstance(error, DeviceError):
        raise error
    if isinstance(error, MriAmbientError):
        return error
    if alone:
        raise error
    return InternalError.of(error)


def device_error(error: RuntimeError, device: torch.device | str) -> DeviceError | None:
    """The error for a device without memory, lost, or without a compiler; None for any other."""
    reason = str(error).partition("\n")[0]
    if out_of_memory(error):
        return DeviceError(
            f"out of memory: {reason}; use the device cpu (--device cpu) or, to "
            "reconstruct, cpu_fallback (--cpu-fallback)"
        )
    if type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
        reason = " ".join(str(error).split())[:150]
        return DeviceError(
            f"networks cannot be compiled ({reason}); do without compile (--compile)"
        )
    if any(words in str(error) for words in LOST):
        again = "run the same command again to go on"
        return DeviceLostError(f"device {str(device)!r} was lost ({reason}); {again}")
    return None


@contextmanager
def device_errors(device: torch.device | str) -> Iterator[None]:
    """Errors of torch inside the block become those of :func:`device_error`.

    Raises:
        torch.OutOfMemoryError: memory ran out, in whichever library; the caller may take less.
        DeviceError: the device was lost, or networks cannot be compiled.
    """
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        if out_of_memory(error):
            raise torch.OutOfMemoryError(str(error)) from error
        if found := device_error(error, device):
            raise found from error
        raise
