"""What a machine can do: versions, memory, and the time and memory of a network evaluation."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from .._version import __version__
from ..errors import CheckpointError
from ..objectives import Kspace
from ..priors.checkpoint import load_prior
from ..priors.denoisers import DENOISERS, Denoiser
from ..priors.unet import NETWORKS, n_parameters
from ..priors.weights import shipped_priors
from ..runtime.device import describe_device

PACKAGES = (
    "torch", "numpy", "scipy", "h5py", "scikit-image", "PyWavelets", "ptwt", "typer",
    "rich", "safetensors", "matplotlib", "pillow", "tomli-w", "typing-extensions",
    "ismrmrd", "nibabel", "jinja2",
)  # fmt: skip
"""What the package needs."""

OPTIONAL = {
    "pydicom": "dicom", "tensorboard": "tensorboard", "fastmri": "fastmri",
    "distributed": "cluster", "dask-jobqueue": "cluster",
}  # fmt: skip
"""What some of its functions need, and the extra that installs it."""

SHAPE = (256, 256)
"""Matrix of the image that the networks are timed on."""

MAX_GFLOP_CPU = 50.0
"""Networks above this are not timed on a CPU: the check should take seconds."""


def examine(device: torch.device) -> dict[str, Any]:
    """Versions, device, memory, shipped priors, and the cost of an evaluation of each network."""
    return {
        "mri-ambient": __version__,
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "packages": packages(),
        "device": describe_device(device),
        "cuda": torch.cuda.is_available(),
        "cores": os.cpu_count(),
        "memory_gib": _memory_gib(),
        "free_disk_gib": round(shutil.disk_usage(".").free / 2**30, 1),
        "priors": {path.stem: _state_of(path) for path in shipped_priors()},
        "networks": {name: _network(name, device) for name in NETWORKS},
    }


def packages() -> dict[str, str]:
    """Versions of required and optional packages; for missing ones, how they are installed."""
    found = {}
    for name in (*PACKAGES, *OPTIONAL):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            extra = OPTIONAL.get(name)
            remedy = f" (optional: pip install 'mri-ambient[{extra}]')" if extra else ""
            found[name] = f"not installed{remedy}"
    return found


def _memory_gib() -> float | None:
    """Physical memory; None where the system does not say."""
    try:
        n_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError):
        return None
    return round(n_bytes / 2**30, 1)


def _state_of(path: Path) -> str:
    try:
        load_prior(path)
    except CheckpointError as error:
        return str(error)
    return "loads"


def _network(name: str, device: torch.device) -> dict[str, Any]:
    """Networks of the default denoiser on one image: parameters, work, time, and memory on a GPU.

    Time and memory are measured, unless that would take long.
    """
    kind, spec = DENOISERS[Kspace.wrapper], NETWORKS[name]
    with torch.device("meta"):  # which computes shapes alone
        shapes = kind(spec, sigma_data=1.0).to("meta")
        gflop = shapes.flops(SHAPE) / 1e9
    facts = {"parameters": n_parameters(shapes), "gflop": round(gflop, 1)}
    if device.type == "cuda" or gflop < MAX_GFLOP_CPU:
        facts |= _cost(kind(spec, sigma_data=1.0).to(device).eval(), device)
    return facts


@torch.no_grad()
def _cost(denoiser: Denoiser, device: torch.device) -> dict[str, float]:
    """Seconds of an evaluation, the better of two after a warm-up; on a GPU also MiB it needs.

    The memory is the peak beside the weights.
    """
    planes = torch.zeros(1, denoiser.in_channels, *SHAPE, device=device)
    label = torch.zeros(1, device=device)
    on_gpu = device.type == "cuda"
    if on_gpu:
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
    times = []
    for _ in range(3):
        started = time.perf_counter()
        for net in denoiser.nets:
            net(planes, label)
        if on_gpu:
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - started)
    cost = {"seconds": round(min(times[1:]), 4)}
    if on_gpu:
        cost["peak_mib"] = round((torch.cuda.max_memory_allocated(device) - before) / 2**20, 1)
    return cost
