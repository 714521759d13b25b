"""What training one image takes, measured before a run: the figures of ``--dry-run``."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import torch

from ..recon.engine import Engine
from ..rng import rng_for
from ..runtime.config import time_text, to_toml
from ..runtime.device import describe_device
from ..runtime.memory import peak_bytes
from ..runtime.process_group import ProcessGroup
from ..scan import Batch
from .config import TrainJob
from .preflight import TrainPlan


@dataclass(frozen=True)
class ImageCost:
    """What training one image takes.

    Attributes:
        shape: its matrix ``(y, x)``, the largest of the scans.
        seconds, peak_bytes: its time; peak memory of the GPU, or of the process on a CPU.
        n_targets, target_seconds: target images to make before the training, and time for one.
    """

    shape: tuple[int, int]
    seconds: float
    peak_bytes: int
    n_targets: int = 0
    target_seconds: float = 0.0

    def describe(self, job: TrainJob, n_done: int) -> str:
        """The figures, and what they mean for a job after ``n_done`` images, in one line."""
        n_processes = ProcessGroup.current().size
        memory = f" and {self.peak_bytes / 2**30:.2f} GiB"
        text = (
            f"one image of {self.shape[0]}x{self.shape[1]} takes {self.seconds:.2f} s{memory} on "
            f"{describe_device(job.device)}"
        )
        if self.n_targets:
            seconds = self.n_targets * self.target_seconds / n_processes
            text += f", to make {self.n_targets} targets first {time_text(seconds)}"
        if n_processes > 1:
            text += f" in each of {n_processes} processes"
        if n_done:
            text += f"; {n_done} images are done"
        if job.images is not None:
            left = max(job.images - n_done, 0)
            total = self.seconds * left / n_processes
            text += f"; the steps of {left} images take {time_text(total)}"
        if job.time_limit_s is not None:
            seen = int(job.time_limit_s * n_processes / self.seconds)
            text += f"; about {seen} images in {time_text(job.time_limit_s)}"
        return f"{text}; reading and validation take more"


def dry_run(plan: TrainPlan) -> str:
    """The text of ``--dry-run``: the options, the plan, and what one image takes.

    Nothing in the options is left to the device or the objective.
    """
    config = plan.job.config
    precision = "bf16" if config.autocast_on(plan.job.runtime, plan.facts.network) else "fp32"
    options = replace(config, wrapper=config.kind, precision=precision).as_dict()
    cost = measure_image(plan).describe(plan.job, plan.run.images_seen)
    return f"{to_toml(options)}\n{plan.describe()}\n{cost}"


def measure_image(plan: TrainPlan) -> ImageCost:
    """Train one image of the largest matrix twice, and measure the second time.

    Nothing is written, and the weights are not those of the run.
    """
    device = plan.job.device
    item = max(plan.dataset.train, key=lambda item: item.shape[0] * item.shape[1])
    batch, n_targets, target_seconds = item.read().to(device), 0, 0.0
    if (folder := plan.target_folder) is not None:
        n_targets = sum(len(file) for file in folder.missing(plan.dataset.train))
        engine = Engine(folder.recipe, folder.runtime)
        for _ in range(2):  # the first time, libraries are loaded
            (target,) = engine([item.file[item.index]])
        batch = replace(batch, img=target.img.to(device))
        target_seconds = target.provenance["seconds"]
    seconds = _measure_step(plan, batch)
    return ImageCost(item.shape, seconds, peak_bytes(device), n_targets, target_seconds)


def _measure_step(plan: TrainPlan, batch: Batch) -> float:
    """Seconds of the second of two losses with their gradients."""
    config, device = plan.job.config, plan.job.device
    net = plan.facts.build().to(device).train()
    net.autocast = config.autocast_on(plan.job.runtime, plan.facts.network)
    on_gpu = device.type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(device)
    seconds = 0.0
    for attempt in range(2):
        started = time.perf_counter()
        loss = config.objective(net, batch, [rng_for(config.seed, "trial", attempt)])
        loss.backward.backward()  # type: ignore[no-untyped-call]
        if on_gpu:
            torch.cuda.synchronize(device)
        seconds = time.perf_counter() - started
    return seconds
