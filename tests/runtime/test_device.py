"""Which device, precision and batches are taken, and what the errors of a device become."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from mri_ambient.errors import ConfigError, DeviceError, DeviceLostError
from mri_ambient.runtime import device as module
from mri_ambient.runtime.device import (
    BYTES_AT_ONCE,
    CPU_PIXELS,
    GPU_PIXELS,
    MOST_AT_ONCE,
    Runtime,
    describe_device,
    device_error,
    device_errors,
    is_fast_in_bf16,
    out_of_memory,
    pick_device,
    take_gpu,
)

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def raising(error):
    def zeros(*_, **__):
        raise error

    return zeros


class TestDevice:
    @pytest.mark.parametrize(
        "error",
        [
            AssertionError("Torch not compiled with CUDA enabled"),
            RuntimeError("No CUDA GPUs are available"),
            RuntimeError("CUDA error: invalid device ordinal\nCUDA kernel errors might be"),
        ],
    )
    def test_a_device_that_is_not_there_is_refused(self, error, monkeypatch):
        monkeypatch.setattr(torch, "zeros", raising(error))
        with pytest.raises(DeviceError) as caught:
            pick_device("cuda:3")
        assert "cuda:3" in str(caught.value)
        assert str(error).splitlines()[0] in str(caught.value)

    @pytest.mark.parametrize(
        "error",
        [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("CUDA error: out of memory")],
    )
    def test_a_device_that_is_full_is_taken(self, error, monkeypatch):
        """Another process may hold its memory: what needs some later falls back or raises."""
        monkeypatch.setattr(torch, "zeros", raising(error))
        assert pick_device("cuda:3") == torch.device("cuda:3")

    @pytest.mark.parametrize(("there", "device"), [(True, CUDA), (False, CPU)])
    def test_auto_is_a_gpu_where_there_is_one(self, there, device, monkeypatch):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
        assert pick_device() == Runtime().torch_device == device

    def test_processes_of_a_machine_take_a_gpu_each(self, monkeypatch, tmp_path):
        """And keep it; with more processes than GPUs, one is shared."""
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda i: SimpleNamespace(uuid=i))
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
        taken = []
        for _ in range(4):  # locks are those of open files: they hold within a process too
            monkeypatch.setattr(module, "_own_gpu", [])
            take_gpu()
            taken.append(pick_device())
            take_gpu()
            assert Runtime("cuda").device == "cuda" and pick_device() == taken[-1]
        for lock in module._gpu_locks:
            lock.close()
        assert taken[:3] == [torch.device("cuda", i) for i in range(3)]
        assert taken[3] in taken[:3]

    def test_a_process_with_one_gpu_takes_no_lock(self, monkeypatch):
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
        monkeypatch.setattr(module, "lock_file", pytest.fail)
        take_gpu()
        assert not module._own_gpu

    @pytest.mark.parametrize("name", ["tpu", "mps", "cuda:x", ""])
    def test_other_names_are_refused(self, name):
        with pytest.raises(ConfigError):
            pick_device(name)

    def test_a_device_is_described(self):
        assert str(torch.get_num_threads()) in describe_device(CPU)


class TestRuntime:
    def test_values_that_cannot_be_are_refused(self):
        for options in ({"batch_size": 0}, {"precision": "fp16"}, {"device": "tpu"}):
            with pytest.raises(ConfigError):
                Runtime(**{"device": "cpu", **options})

    @pytest.mark.parametrize(
        ("precision", "device", "fast", "bf16"),
        [
            ("auto", CPU, False, False), ("auto", CPU, True, True), ("auto", CUDA, False, True),
            ("fp32", CPU, True, False), ("fp32", CUDA, False, False), ("bf16", CPU, False, True),
        ],
    )  # fmt: skip
    def test_auto_precision_is_bf16_on_a_gpu_and_where_a_cpu_is_faster(
        self, precision, device, fast, bf16, monkeypatch
    ):
        monkeypatch.setattr("mri_ambient.runtime.device.has_fast_bf16", lambda: fast)
        assert Runtime(device, precision).bf16 == bf16

    @pytest.mark.parametrize(
        ("vendor", "flags", "fast"),
        [
            ("GenuineIntel", "avx512f avx512_bf16 amx_bf16 amx_tile", True),
            ("GenuineIntel", "avx512f avx512_bf16", False), ("AuthenticAMD", "avx2", False),
            ("AuthenticAMD", "avx512f avx512_bf16", True), ("AuthenticAMD", "avx512f", False),
        ],
    )  # fmt: skip
    def test_cpus_that_are_faster_in_bf16(self, vendor, flags, fast):
        cpu = f"processor\t: 0\nvendor_id\t: {vendor}\nflags\t\t: fpu {flags}\n"
        assert is_fast_in_bf16(cpu) == fast

    def test_batches_hold_a_number_of_pixels_unless_their_size_is_given(self):
        assert Runtime("cpu").images_at_once((64, 64)) == CPU_PIXELS // 4096
        assert Runtime("cpu").images_at_once((640, 640)) == 1
        assert Runtime(CUDA).images_at_once((640, 640)) == GPU_PIXELS // 640**2
        assert Runtime("cpu", batch_size=7).images_at_once((640, 640)) == 7

    @pytest.mark.parametrize(
        ("n_threads", "share", "expected"),
        [(1, 64, 1), (2, 64, 2), (16, 64, MOST_AT_ONCE), (16, 2, 2), (16, 0.5, 1)],
    )
    def test_batches_at_once_by_threads_and_memory(self, n_threads, share, expected, monkeypatch):
        monkeypatch.setattr(torch, "get_num_threads", lambda: n_threads)
        assert Runtime("cpu").batches_at_once(int(BYTES_AT_ONCE / share)) == expected
        assert Runtime(CUDA).batches_at_once(1) == 1
        assert Runtime("cpu", compile=True).batches_at_once(1) == 1

    def test_the_cpu_takes_one_image_at_a_time_and_does_not_compile(self):
        gpu = Runtime(CUDA, "bf16", batch_size=9, cpu_fallback=True, compile=True)
        assert gpu.can_fall_back and not Runtime(CUDA).can_fall_back
        cpu = gpu.on_cpu()
        assert (cpu.torch_device, cpu.batch_size, cpu.compile) == (CPU, 1, False)
        assert cpu.precision == "bf16" and not cpu.can_fall_back


class CompilerError(RuntimeError):
    __module__ = "torch._dynamo.exc"


class TestErrors:
    @pytest.mark.parametrize(
        ("error", "becomes"),
        [
            (torch.OutOfMemoryError("CUDA out of memory"), torch.OutOfMemoryError),
            (RuntimeError("CUDA error: out of memory"), torch.OutOfMemoryError),
            (RuntimeError("cuFFT error: CUFFT_ALLOC_FAILED"), torch.OutOfMemoryError),
            (RuntimeError("CUDA error: unspecified launch failure"), DeviceLostError),
            (CompilerError("backend='x' raised:\nno compiler here"), DeviceError),
            (RuntimeError("sizes differ"), RuntimeError),
            (ValueError("CUDA error"), ValueError),
        ],
    )
    def test_failures_of_a_device_have_their_class(self, error, becomes):
        with pytest.raises(becomes) as caught, device_errors("cuda"):
            raise error
        assert type(caught.value) is becomes
        assert str(error).splitlines()[-1] in str(caught.value)

    @pytest.mark.parametrize(
        ("words", "is_lost"),
        [
            ("CUDA error: unspecified launch failure", True),
            ("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED", True),
            ("cuFFT error: CUFFT_EXEC_FAILED", True),
            ("sizes differ", False),
        ],
    )
    def test_a_device_is_lost_whichever_library_says_so(self, words, is_lost):
        error = device_error(RuntimeError(words), "cuda:1")
        assert (error is not None) == is_lost
        assert not is_lost or ("cuda:1" in str(error) and words in str(error))
        assert not out_of_memory(RuntimeError(words))
