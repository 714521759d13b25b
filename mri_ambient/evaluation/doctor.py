"""What a machine can do: versions, memory, and the time of the work that matters."""

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
from ..priors.unet import PRESETS, n_parameters
from ..priors.weights import shipped_priors
from ..runtime.device import describe_device

PACKAGES = ("torch", "numpy", "h5py", "scikit-image", "safetensors", "fastmri", "nibabel")

SHAPE = (256, 256)
N_COILS = 8
"""Of the scan that memory is told for."""

MAX_GFLOP_CPU = 50.0
"""Networks above this are not timed on a CPU: the check should take seconds."""


def examine(device: torch.device) -> dict[str, Any]:
    """Versions, device, memory, shipped priors, and what one call of each network costs."""
    return {
        "mri-ambient": __version__,
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "packages": {name: _version_of(name) for name in PACKAGES},
        "device": describe_device(device),
        "cuda": torch.cuda.is_available(),
        "cores": os.cpu_count(),
        "memory_gib": _memory_gib(),
        "free_disk_gib": round(shutil.disk_usage(".").free / 2**30, 1),
        "priors": {path.stem: _state_of(path) for path in shipped_priors()},
        "networks": {name: _network(name, device) for name in PRESETS},
    }


def _version_of(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _memory_gib() -> float | None:
    """Physical memory, where the system tells it."""
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
    """Networks of the default denoiser on a 256x256 image: size, work, memory, time if short."""
    denoiser = DENOISERS[Kspace.wrapper](PRESETS[name], sigma_data=1.0).to(device).eval()
    gflop = denoiser.flops(SHAPE) / 1e9
    facts = {"parameters": n_parameters(denoiser), "gflop": round(gflop, 1)}
    if device.type == "cuda" or gflop < MAX_GFLOP_CPU:
        facts["seconds"] = round(_seconds(denoiser, device), 4)
    return facts


@torch.no_grad()
def _seconds(denoiser: Denoiser, device: torch.device) -> float:
    """The better of two evaluations after a warm-up."""
    planes = torch.zeros(1, denoiser.in_channels, *SHAPE, device=device)
    label = torch.zeros(1, device=device)
    times = []
    for _ in range(3):
        started = time.perf_counter()
        for net in denoiser.nets:
            net(planes, label)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - started)
    return min(times[1:])
