"""What many tests share: random operators, and the proofs they must pass."""

from __future__ import annotations

import gc
import importlib.util
import json
import multiprocessing.util
import os
import runpy
import socket
import subprocess
import sys
import tempfile
import warnings
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from multiprocessing import forkserver, resource_tracker
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import h5py
import torch
from matplotlib.figure import Figure
from pictures import touch
from torch import Generator, Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mri_ambient.methods import L1Wavelet, Method, OnStep
from mri_ambient.physics.mask_spec import MaskSpec
from mri_ambient.physics.operators import LinearOperator, SenseOp
from mri_ambient.priors import weights
from mri_ambient.priors.facts import PriorFacts, UNetSpec
from mri_ambient.priors.prior import DenoiserSource, Prior
from mri_ambient.priors.unet import NETWORKS
from mri_ambient.rng import complex_normal, rng_for
from mri_ambient.scan import Batch

PROCESSES = multiprocessing.get_context("forkserver")
"""Processes forked from one that has imported the library and what tests use (see ``serve``)."""

NEEDED_LATER = (
    "mri_ambient.cli.app", "mri_ambient.plots", "mri_ambient.recon.pipeline",
    "mri_ambient.training.refit", "matplotlib.figure", "scipy.interpolate", "scipy.optimize",
    "sigpy.mri", "skimage.metrics", "skimage.morphology", "torch._dynamo",
)  # fmt: skip
"""What the library and the scripts import when they need it, which takes seconds."""


def serve() -> None:
    """Fork the server of PROCESSES from this process: what is imported here is imported there.

    The processes that it forks use it too, instead of starting a server of their own. From Python
    3.14 on, and where there is no /proc, it is started as usual and imports what they need: 7 CPU s
    for every process of pytest and every benchmark that starts some. Python has no public way to
    spare that: processes forked by "fork" would hold each other's pipes, by which those of the
    library end when their caller does.
    """
    if sys.platform != "linux" or sys.version_info >= (3, 14):
        PROCESSES.set_forkserver_preload(list(NEEDED_LATER))
        return
    for name in NEEDED_LATER:
        importlib.import_module(name)
    resource_tracker.ensure_running()
    gc.freeze()
    with mock.patch.object(multiprocessing.util, "spawnv_passfds", _fork_server):
        forkserver.ensure_running()


def _fork_server(path: object, words: object, passed: tuple[int, int]) -> int:
    """In place of a new interpreter, which runs this ``main``."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # threads of pytest-xdist stay behind
        server = os.fork()
    if server:
        return server
    try:
        # What objects of pytest have open stays taken: its numbers must become nothing else's.
        nothing = os.open(os.devnull, os.O_RDWR)
        for number in (int(entry.name) for entry in list(Path("/proc/self/fd").iterdir())):
            if number > 2 and number not in (nothing, *passed):
                os.dup2(nothing, number)
        sys.stdout = os.fdopen(1, "w", buffering=1, closefd=False)
        sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
        warnings.resetwarnings()
        forkserver.ensure_running = resource_tracker.ensure_running
        forkserver._forkserver.ensure_running = resource_tracker.ensure_running
        forkserver.main(*passed, preload=[])
    finally:
        os._exit(0)


def load_script(name: str) -> ModuleType:
    """A script of tests/benchmarks, for what it is made of."""
    path = Path(__file__).parent / "benchmarks" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def run_script(path: Path, words: Sequence[object], printed: Path, shipped: Path) -> None:
    """``python path *words`` beside the file that takes what it prints: the target of a process.

    What it starts of Python by ``subprocess.run`` is forked too. L1-wavelet takes 10 iterations
    unless it is told how many. ``shipped`` holds the priors that it takes for those that ship.
    """
    _become([path, *words], printed)
    weights.__file__ = str(shipped / "__init__.py")
    lam, _, wavelet = L1Wavelet.__init__.__defaults__
    L1Wavelet.__init__.__defaults__ = (lam, 10, wavelet)
    subprocess.run = partial(run_forked, subprocess.run)
    sys.path[0] = str(path.parent)
    os.chdir(printed.parent)
    runpy.run_path(str(path), run_name="__main__")


def run_module(
    name: str, words: Sequence[object], printed: Path, environment: Mapping[str, str]
) -> None:
    """``python -m name``, with the words of its command line: the target of a process."""
    _become(words, printed)
    os.environ.update(environment)
    runpy.run_module(name, run_name="__main__")


def run_torchrun(words: Sequence[object], printed: Path) -> None:
    """``torchrun *words``: the target of a process. Those that it starts are forked too.

    Their numbers are the names of files in a folder ``pids`` beside ``printed``.
    """
    from torch.distributed.elastic.multiprocessing.subprocess_handler import subprocess_handler

    _become(["torchrun", *words], printed)
    subprocess_handler.Popen = partial(Forked, printed)
    runpy.run_module("torch.distributed.run", run_name="__main__")


class Forked:
    """In place of ``subprocess.Popen``: ``python -m name *words`` or ``python -c code *words``."""

    def __init__(
        self, printed: Path, args: Sequence[str], env: Mapping[str, str] | None = None, **_: object
    ) -> None:
        self.args = [str(word) for word in args if word != "-u"]
        self._process = PROCESSES.Process(target=run_words, args=(self.args, printed, env or {}))
        self._process.start()
        self.pid = self._process.pid
        (printed.parent / "pids").mkdir(exist_ok=True)
        (printed.parent / "pids" / str(self.pid)).touch()

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int | None:
        self._process.join(timeout)
        return self.poll()


def run_words(words: Sequence[str], printed: Path, environment: Mapping[str, str]) -> None:
    """What these words start: the target of a process, which leads its own group."""
    os.setsid()
    _, kind, what, *rest = words
    if kind == "-m":
        run_module(what, [what, *rest], printed, environment)
        return
    _become(["-c", *rest], printed)
    exec(what, {"__name__": "__main__"})


def run_forked(
    otherwise: Callable[..., subprocess.CompletedProcess[str]],
    words: Sequence[object],
    *,
    check: bool = False,
    **options: object,
) -> subprocess.CompletedProcess[str]:
    """``subprocess.run``, for Python by a forked process with its output as text."""
    if words[0] != sys.executable:
        return otherwise(words, check=check, **options)
    with tempfile.TemporaryDirectory() as folder:
        printed = Path(folder) / "printed"
        code = Forked(printed, words).wait()
        done = subprocess.CompletedProcess(words, code, printed.read_text(), "")
    if check:
        done.check_returncode()
    return done


def _become(words: Sequence[object], printed: Path) -> None:
    """Take these words, print into this file, render no pictures, and train small networks."""
    gc.freeze()  # the imported library stays: nothing to look through again and again
    sys.argv = [str(word) for word in words]
    Figure.savefig = touch
    for name, spec in NETWORKS.items():
        NETWORKS[name] = replace(spec, channels=(16, 16), embedding=16, passes=2)
    with printed.open("a") as out:
        for stream in (1, 2):
            os.dup2(out.fileno(), stream)


def command(*words: object, folder: Path, n_processes: int = 1) -> tuple[list[int | None], str]:
    """``mri-ambient *words`` in processes of their own, and a job of several of them.

    Returns:
        Exit codes, and what the processes printed, which ``folder`` keeps.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    job = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(n_processes)}
    files = [folder / f"printed-{rank}" for rank in range(n_processes)]
    words = ("mri-ambient", *words)
    for file in files:
        file.unlink(missing_ok=True)
    processes = [
        PROCESSES.Process(
            target=run_module, args=("mri_ambient.cli", words, file, {**job, "RANK": str(rank)})
        )
        for rank, file in enumerate(files)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=300)
    return [process.exitcode for process in processes], "".join(f.read_text() for f in files)


def streams(seed: int, n: int) -> list[Generator]:
    """A random stream for each of n batch items."""
    return [rng_for(seed, "item", i) for i in range(n)]


def random_maps(
    shape: tuple[int, ...], rng: Generator, dtype: torch.dtype = torch.complex64
) -> Tensor:
    """Maps ``(..., coil, y, x)`` with sum_c |S_c|^2 = 1 everywhere."""
    maps = complex_normal(shape, rng, dtype=dtype)
    return maps / maps.abs().square().sum(dim=-3, keepdim=True).sqrt()


def random_sense(
    shape: tuple[int, int],
    n_coils: int,
    rng: Generator,
    dtype: torch.dtype = torch.complex64,
    n_sets: int = 1,
) -> SenseOp:
    mask = torch.rand((1, *shape), generator=rng) < 0.5
    mask[..., shape[0] // 2, shape[1] // 2] = True
    maps = random_maps((n_coils, *shape), rng, dtype)
    return SenseOp(maps if n_sets == 1 else random_sets(maps, n_sets, rng), mask, n_sets)


def random_sets(maps: Tensor, n_sets: int, rng: Generator) -> Tensor:
    """Maps ``(..., coil, y, x)`` and further sets, orthonormal: ``(..., coil, set*y, x)``."""
    others = [complex_normal(tuple(maps.shape), rng, dtype=maps.dtype) for _ in range(n_sets - 1)]
    sets = torch.stack([maps, *others], dim=-1).movedim(-4, -2)  # (..., y, x, coil, set)
    return torch.linalg.qr(sets).Q.movedim(-1, -4).movedim(-1, -4).flatten(-3, -2)


def shaken(net: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """A network whose zero-initialised layers are not zero."""
    rng = rng_for(seed)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=rng))
    return net.eval()


def small_prior(kind: str = "plain", **facts: object) -> Prior:
    """A prior of a few thousand random weights; ``facts`` are those of :class:`PriorFacts`."""
    given = {
        "objective": "supervised" if kind == "plain" else "kspace", "kind": kind,
        "network": UNetSpec(channels=(8, 12), blocks=1, embedding=16, passes=2), "sigma_data": 0.3,
        "sigma_min": 0.02, "mask_conditioned": kind != "plain", "mask": MaskSpec("random", 2, 8),
    }  # fmt: skip
    known = PriorFacts(**(given | facts))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Prior(shaken(known.build()), known)


def apply_method(
    method: Method,
    op: SenseOp,
    ksp: Tensor,
    noise_std: float | Tensor,
    *,
    prior: DenoiserSource | None = None,
    rng: Sequence[Generator] | None = None,
    on_step: OnStep | None = None,
) -> Tensor:
    """Images by a method from k-space ``(b, coil, y, x)``, with gradients if it needs them."""
    noise = torch.as_tensor(noise_std, dtype=ksp.real.dtype).expand(len(ksp))
    streams = [rng_for(0, i) for i in range(len(ksp))] if rng is None else rng
    with torch.set_grad_enabled(method.needs_grad):
        return method(prior, Batch.of_measurement(op, ksp, noise), streams, on_step).detach()


def report_of(folder: Path, scan: Path) -> dict[str, Any]:
    """The report of a reconstructed scan in an output folder."""
    return json.loads((folder / f"{scan.stem}.json").read_text())


def centred_dft(n: int) -> Tensor:
    """The matrix of the transform of an axis, from its formula, complex128 ``(n, n)``."""
    j = torch.arange(n, dtype=torch.float64) - n // 2
    return torch.exp(-2j * torch.pi * torch.outer(j, j) / n) / n**0.5


def dense(op: LinearOperator, dtype: torch.dtype = torch.complex64) -> Tensor:
    """The matrix of an operator, (numel of oshape, numel of ishape)."""
    n = int(torch.tensor(op.ishape).prod())
    eye = torch.eye(n, dtype=dtype).reshape(n, *op.ishape)
    return op(eye).reshape(n, -1).T


def assert_adjoint(
    op: LinearOperator,
    *,
    rng: Generator,
    rtol: float = 1e-12,
    dtype: torch.dtype = torch.complex128,
) -> None:
    """<A x, y> = <x, A^H y>, with an error scaled by the vectors."""
    x = complex_normal(op.ishape, rng, dtype=dtype)
    y = complex_normal(op.oshape, rng, dtype=dtype)
    lhs = torch.vdot(op(x).flatten(), y.flatten())
    rhs = torch.vdot(x.flatten(), op.H(y).flatten())
    assert (lhs - rhs).abs() <= rtol * x.norm() * y.norm(), f"<Ax,y>={lhs:.6g}, <x,Ay>={rhs:.6g}"


class PeakBytes(TorchDispatchMode):
    """Counts the bytes of all tensors alive inside the block, and the most there were at once."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: set[int] = set()

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # or newer versions of torch load their compiler, which takes seconds

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                self._count(leaf.untyped_storage())
        return out

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, n_bytes = storage._cdata, storage.nbytes()
        if key not in self._known:
            self._known.add(key)
            self.now += n_bytes
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._drop, key, n_bytes)

    def _drop(self, key: int, n_bytes: int) -> None:
        self._known.discard(key)
        self.now -= n_bytes


def damage_samples(path: Path, index: int = 0) -> None:
    """Flip a bit in the samples of a slice of a prepared file, which opens all the same."""
    with h5py.File(path) as file:
        where = file["ksp"].id.get_chunk_info(index).byte_offset + 20
    content = bytearray(path.read_bytes())
    content[where] ^= 1
    path.write_bytes(content)
