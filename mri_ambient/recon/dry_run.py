"""What reconstructing a folder would do and take, measured before: ``--dry-run``."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from ..errors import MriAmbientError, collected
from ..io import ScanPath
from ..runtime.config import time_text
from ..runtime.device import Runtime, describe_device
from ..runtime.files import check_writable
from ..runtime.memory import peak_bytes
from .adapted import AdaptedRecipes
from .folder import Destination, FolderWork
from .recipe import ResolvedRecipe
from .states import read_states
from .volume import SliceWork, Volume


@dataclass(frozen=True)
class ToDo:
    """A scan that would be reconstructed.

    Attributes:
        index: of its line.
        scan: the scan.
        n_slices: of it.
        shape: size of its matrix, (y, x).
    """

    index: int
    scan: ScanPath
    n_slices: int
    shape: tuple[int, int]


@dataclass
class FolderPlan:
    """What would be done with the scans of a folder.

    Attributes:
        work: what is done with each.
        lines: one for every scan: where its result would go, or why there would be none.
        todo: those that would be reconstructed.
        errors: of scans that would fail.
    """

    work: FolderWork
    lines: list[str] = field(default_factory=list)
    todo: list[ToDo] = field(default_factory=list)
    errors: list[MriAmbientError] = field(default_factory=list)

    @property
    def n_refused(self) -> int:
        """How many scans would fail."""
        return len(self.errors)

    @property
    def n_slices(self) -> int:
        """Of all scans that would be reconstructed."""
        return sum(one.n_slices for one in self.todo)

    @property
    def n_pixels(self) -> int:
        """Of all slices that would be reconstructed."""
        return sum(one.n_slices * math.prod(one.shape) for one in self.todo)

    def add(self, scan: ScanPath) -> None:
        """Open a scan and add it."""
        path = self.work.to.path_of(scan)
        try:
            check_writable(path)
            with collected():
                planned = self.work.plan(scan)
        except Exception as error:  # noqa: BLE001 -- the other scans go on
            self.lines.append(self._refused(scan, self.work.as_failure(error)))
            return
        if planned.finished:
            self.lines.append(f"{scan}: is finished already")
            return
        volume = planned.volume
        self.todo.append(ToDo(len(self.lines), scan, len(volume.file), volume.shape))
        self.lines.append(f"{scan} -> {path}")

    def refuse(self, one: ToDo, error: MriAmbientError) -> None:
        """A scan that was added would fail."""
        self.todo.remove(one)
        self.lines[one.index] = self._refused(one.scan, error)

    def _refused(self, scan: ScanPath, error: MriAmbientError) -> str:
        self.errors.append(error)
        reason = str(error).removeprefix(str(scan.path)).removeprefix(":").strip()
        return f"{scan}: would fail: {reason}"


def plan_folder(
    scans: Sequence[ScanPath], to: Destination, recipe: ResolvedRecipe, runtime: Runtime
) -> FolderPlan:
    """What would be done with every scan; nothing is written.

    Raises:
        ConfigError: results cannot be written.
    """
    check_writable(to.folder, inside=True)
    work = FolderWork(to, recipe, runtime, read_states(to.folder), alone=len(scans) == 1)
    plan = FolderPlan(work)
    for scan in scans:
        plan.add(scan)
    return plan


def cost_line(plan: FolderPlan) -> str:
    """Time and memory of one slice of the largest matrix, and the time that all would take.

    A scan whose slice cannot be reconstructed is refused, and another one is measured.

    Raises:
        DeviceError: the device was lost, or memory ran out.
    """
    while plan.todo:
        largest = max(plan.todo, key=lambda one: math.prod(one.shape))
        try:
            with collected():
                volume = plan.work.plan(largest.scan).volume
                return _cost(plan, volume, *_measured(volume))
        except Exception as error:  # noqa: BLE001 -- the other scans go on
            plan.refuse(largest, plan.work.as_failure(error))
    return "nothing would be reconstructed"


def _cost(plan: FolderPlan, volume: Volume, preparing: float, seconds: float) -> str:
    rows, columns = volume.shape
    total = (preparing / len(volume.file) + seconds) * plan.n_pixels / (rows * columns)
    scans = f"{len(plan.todo)} scan{'s' * (len(plan.todo) > 1)}"
    without = "" if volume.recipe.adapt is None else ", without the adaptation of the prior"
    return (
        f"one slice of {rows}x{columns} ({volume.file.path.name}) takes {seconds:.2f} s and "
        f"{peak_bytes(volume.runtime.torch_device) / 2**30:.2f} GiB on "
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
