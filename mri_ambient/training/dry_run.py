"""What a run would be, and what it would take: told before it begins, without beginning it."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from ..objectives import Gsure
from ..priors.denoisers import DENOISERS
from ..priors.prior import Prior
from ..priors.unet import n_parameters, preset
from ..recon.engine import Engine
from ..recon.recipe import ResolvedRecipe
from ..rng import rng_for
from ..runtime.config import to_toml
from ..runtime.device import Runtime, describe_device
from ..runtime.process_group import ProcessGroup
from ..scan import UPPER_BOUND
from .config import TrainConfig
from .dataset import MIN_SIGMA, Item
from .preflight import MIXED, check_end, check_run, check_trainable, held_out_cases, split
from .run import held_back, read_identity
from .targets import target_method


def describe(
    folder: Path,
    config: TrainConfig,
    device: torch.device | None = None,
    *,
    images: int | None = None,
    time_limit_s: float | None = None,
    run: Path | None = None,
    init: Prior | None = None,
    force: bool = False,
) -> str:
    """What a run would be: data, network, work per image.

    With a device, one image of the largest size is trained on it, and the options, its memory and
    time are told too.

    Args:
        folder: prepared scans.
        config: options.
        device: where to train.
        images: how many it would see.
        time_limit_s: seconds it would take.
        run: its folder; one that was begun keeps the scans it held back.
        init: the prior it starts from.
        force: as for :func:`train`.

    Raises:
        ConfigError, CheckpointError: with a device, where :func:`train` would refuse.
    """
    identity = None if run is None else run / "run.json"
    stored = read_identity(identity) if identity is not None and identity.exists() else None
    held = None if run is None or stored is None else held_back(run, stored)
    dataset = split(folder, config, init, held=held)
    if device is not None:
        check_end(config, images, time_limit_s)
        check_trainable(dataset, folder, config, device, init=init, targets_made=False)
        cases = held_out_cases(dataset, config, device, lambda _: None)
        check_run(
            run, stored, dataset, folder, config, init, cases,
            endless=images is None and time_limit_s is None, force=force,
        )  # fmt: skip
    kind = config.wrapper or config.objective.wrapper
    sizes = sorted({item.shape for item in dataset.train})
    net = DENOISERS[kind](preset(config.preset), sigma_data=1.0)
    flops = net.flops(sizes[-1])
    text = (
        f"{config.objective.name} on {len(dataset.train)} slices of {dataset.n_scans} scans "
        f"({len(dataset.validation)} set aside), "
        f"matrices {', '.join(f'{y}x{x}' for y, x in sizes)}; "
        f"{kind} {config.preset} network, {n_parameters(net) / 1e6:.2f} M parameters, "
        f"{flops / 1e9:.1f} GFLOP an evaluation at {sizes[-1][0]}x{sizes[-1][1]}"
    )
    if device is not None and dataset.mixes_patients:
        text += f"; {MIXED}"
    n_full = sum(item.acceleration == 1 for item in dataset.train)
    if n_full and not config.objective.needs_full:
        text += f"; {n_full} slices are fully sampled, which objective supervised makes more of"
    n_silent = sum(item.noise_std < MIN_SIGMA for item in dataset.train)
    if n_silent and isinstance(config.objective, Gsure):
        text += (
            f"; {n_silent} slices have next to no noise, so gsure's divergence has next to no "
            "weight there, and it learns by plain squares on what was sampled"
        )
    n_bounds = sum(item.file.noise_source == UPPER_BOUND for item in dataset.train)
    if n_bounds and config.objective.needs_noise:
        text += (
            f"; of {n_bounds} slices the noise is an upper bound, and objective "
            f"{config.objective.name} takes off too much: give --noise-std to prep if it is known"
        )
    if device is None:
        return text
    largest = max(dataset.train, key=lambda item: item.shape[0] * item.shape[1])
    bf16 = config.autocast_on(device)
    resolved = replace(config, wrapper=kind, precision="bf16" if bf16 else "fp32")
    made = set() if run is None else {path.stem for path in (run / "targets").glob("*.h5")}
    n_targets = sum(item.scan_id not in made for item in dataset.train)
    trial = _trial(largest, n_targets, resolved, device, images, time_limit_s)
    return f"{to_toml(resolved.as_dict())}\n{text}\n{trial}"


def _trial(
    item: Item,
    n_targets: int,
    config: TrainConfig,
    device: torch.device,
    images: int | None,
    time_limit_s: float | None,
) -> str:
    """Train one image, and say what a step of a whole batch takes, of each process of a job."""
    kind = config.wrapper or config.objective.wrapper
    net = DENOISERS[kind](preset(config.preset), sigma_data=0.3).to(device).train()
    net.autocast = config.autocast_on(device)
    batch = item.read().to(device)
    to_make = 0.0
    if config.objective.targets is not None:
        recipe = ResolvedRecipe(target_method(config.objective.targets))
        engine = Engine(recipe, Runtime(device))
        for _ in range(2):  # the first time, libraries are loaded
            (target,) = engine([item.file[item.index]])
        batch = replace(batch, img=target.img.to(device))
        to_make = n_targets * target.provenance["seconds"]
    weights = {tuple(parameter.shape) for parameter in net.parameters()}
    weights |= {shape[::-1] for shape in weights}
    kept = 0
    times = []

    def count(tensor: Tensor) -> Tensor:
        nonlocal kept
        if tuple(tensor.shape) not in weights:  # these are kept once, not for every image
            kept += tensor.numel() * tensor.element_size()
        return tensor

    for trial in range(2):
        started, kept = time.perf_counter(), 0
        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            loss = config.objective(net, batch, [rng_for(config.seed, "trial", trial)])
        loss.backward.backward()  # type: ignore[no-untyped-call]
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - started)
    seconds, processes = times[-1], ProcessGroup.current()
    # Weights, gradients, two moments and the average; what one image keeps for its gradients.
    n_bytes = 5 * 4 * n_parameters(net) + math.ceil(config.batch_size / processes.size) * kept
    text = (
        f"about {n_bytes / 2**30:.1f} GiB of memory on {describe_device(device)}; "
        f"one image of {item.shape[0]}x{item.shape[1]} takes {seconds:.2f} s there"
    )
    if to_make:
        text += f", to make {n_targets} targets first {format_seconds(to_make / processes.size)}"
    if processes.size > 1:
        text += f" in each of {processes.size} processes"
    if images is not None:
        text += f", {images} images at most {format_seconds(seconds * images / processes.size)}"
    if time_limit_s is not None:
        seen = int(time_limit_s * processes.size / seconds)
        text += f"; at least {seen} images in {format_seconds(time_limit_s)}"
    return text


def format_seconds(seconds: float) -> str:
    """``90 s``, ``10 min`` or ``1.5 h``."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
