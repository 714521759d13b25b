"""What reconstructing a folder would do and take, measured before: ``--dry-run``."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch

from ..errors import MriAmbientError, collected
from ..io import ScanPath
from ..runtime.config import time_text
from ..runtime.device import Runtime, describe_device
from ..runtime.files import check_writable
from .adapted import AdaptedRecipes
from .folder import Destination, FolderWork
from .recipe import ResolvedRecipe
from .states import read_states
from .volume import SliceWork, Volume


@dataclass
class FolderPlan:
    """What would be done with the scans of a folder.

    Attributes:
        lines: one for every scan: where its result would go, or why there would be none.
        n_scans, n_slices, n_pixels: of the scans that would be reconstructed.
        n_refused: scans that would fail.
        largest: that of the largest matrix among these.
    """

    lines: list[str] = field(default_factory=list)
    n_scans: int = 0
    n_slices: int = 0
    n_pixels: int = 0
    n_refused: int = 0
    largest: Volume | None = None

    def add(self, volume: Volume) -> None:
        """A scan would be reconstructed."""
        rows, columns = volume.shape
        self.n_scans += 1
        self.n_slices += len(volume.file)
        self.n_pixels += len(volume.file) * rows * columns
        if self.largest is None or rows * columns > self.largest.shape[0] * self.largest.shape[1]:
            self.largest = volume


def plan_folder(
    scans: Sequence[ScanPath], to: Destination, recipe: ResolvedRecipe, runtime: Runtime
) -> FolderPlan:
    """What would be done with every scan; nothing is written."""
    work = FolderWork(to, recipe, runtime, read_states(to.folder))
    plan = FolderPlan()
    for scan in scans:
        path = to.path_of(scan)
        try:
            check_writable(path)
            with collected():
                planned = work.plan(scan)
        except MriAmbientError as error:
            plan.n_refused += 1
            reason = str(error).removeprefix(str(scan.path)).removeprefix(":").strip()
            plan.lines.append(f"{scan}: would fail: {reason}")
            continue
        if planned.finished:
            plan.lines.append(f"{scan}: is finished already")
        else:
            plan.lines.append(f"{scan} -> {path}")
            plan.add(planned.volume)
    return plan


def cost_line(plan: FolderPlan) -> str:
    """Time and memory of one slice of the largest matrix, and the time that all would take.

    Raises:
        MriAmbientError: the slice cannot be reconstructed.
    """
    volume = plan.largest
    if volume is None:
        return "nothing would be reconstructed"
    with collected():
        preparing, seconds = _measured(volume)
    rows, columns = volume.shape
    total = (preparing / len(volume.file) + seconds) * plan.n_pixels / (rows * columns)
    scans = f"{plan.n_scans} scan{'s' * (plan.n_scans > 1)}"
    without = "" if volume.recipe.adapt is None else ", without the adaptation of the prior"
    return (
        f"one slice of {rows}x{columns} ({volume.file.path.name}) takes {seconds:.2f} s and "
        f"{_peak_bytes(volume.runtime) / 2**30:.2f} GiB on "
        f"{describe_device(volume.runtime.torch_device)}; all {plan.n_slices} slices of "
        f"{scans} about {time_text(total)}{without}"
    )


def _measured(volume: Volume) -> tuple[float, float]:
    """Seconds of the first pass over a volume, and those of one slice, libraries loaded.

    As many slices are computed at once as there would be; the time of one is its share.
    """
    volume = replace(volume, recipe=replace(volume.recipe, adapt=None))
    work = SliceWork(volume, AdaptedRecipes(volume, None))
    n_slices = min(work.batches_at_once, len(volume.file))
    middle = len(volume.file) // 2
    seconds: list[float] = []
    started = time.perf_counter()
    _ = volume.preparation
    preparing = time.perf_counter() - started
    while len(seconds) < 2 and sum(seconds) < MOST_SECONDS:
        started = time.perf_counter()
        for _ in work.finish([volume.file[middle : middle + 1]] * n_slices):
            pass
        seconds.append((time.perf_counter() - started) / n_slices)
    return preparing, seconds[-1]


MOST_SECONDS = 5.0
"""A slice that takes longer is not done a second time."""


def _peak_bytes(runtime: Runtime) -> int:
    """The most memory so far: of a GPU what was taken, otherwise that of this process."""
    device = runtime.torch_device
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
