"""A whole volume: slices go from the file through the engine into a store; then the report."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from threading import Event, Lock
from typing import Any

import torch

from ..data_prep import Preparation, plan_preparation
from ..errors import MriAmbientError, NumericalWarning, ScanFormatError, collected, warn
from ..io.grid import ACQUIRED
from ..io.names import name_of
from ..io.scan_file import TARGETS, ScanFile
from ..methods.base import OnStep, StepInfo
from ..runtime.device import Runtime
from ..runtime.executor import received
from ..runtime.prefetch import in_order, prefetch
from ..runtime.warning_log import WarningLog
from ..scan import Scan
from .adapted import AdaptedRecipes, adaptation_report
from .checks import check_slices
from .engine import Engine, SliceImages
from .recipe import ResolvedRecipe
from .reference import Reference
from .slice_store import SliceStore
from .warnings import issue_after, issue_before

OnSlice = Callable[[int, int], None]
"""Called with (done, total) after every slice."""


@dataclass(frozen=True)
class Volume:
    """A scan and its recipe; what is learned from its data is computed when first needed.

    Attributes:
        file: the scan, raw or prepared, perhaps under a retrospective mask.
        full: the same without the retrospective mask.
        recipe: how it is reconstructed.
        runtime: where it is computed.
        log: the warnings so far.
    """

    file: ScanFile
    full: ScanFile
    recipe: ResolvedRecipe
    runtime: Runtime
    log: WarningLog = field(default_factory=WarningLog)

    @cached_property
    def settings(self) -> dict[str, Any]:
        """All that decides the result, as plain values."""
        return self.recipe.settings(self.file, self.runtime)

    @cached_property
    def preparation(self) -> Preparation:
        """Noise, virtual coils and scale, from a first pass over the slices."""
        with self.log.noting():
            return self._plan(self.file)

    @cached_property
    def reference(self) -> Reference | None:
        """What the image is scored against; None if the scan is not fully sampled.

        None as well for k-space that ends on one side, unless the file holds a reference: the RSS
        of such samples is blurred.
        """
        if not self.full.fully_sampled:
            return None
        if self.full.one_sided and not _has_target(self.full):
            return None
        if self.file is self.full:
            return Reference(self.full, self.preparation)
        with collected():  # of the scan itself gives the same
            return Reference(self.full, self._plan(self.full))

    def _plan(self, file: ScanFile) -> Preparation:
        return plan_preparation(
            file,
            self.recipe.preparation,
            device=self.runtime.torch_device,
            cpu_fallback=self.runtime.cpu_fallback,
        )

    @property
    def shape(self) -> tuple[int, int]:
        """Matrix ``(y, x)`` of the file."""
        return self.file.shape[-2:]

    @property
    def n_steps(self) -> int:
        """Steps of the method for one slice: all samples, held-out lines included."""
        repeats = 2 if self.recipe.checks.n_held_out else 1
        return self.recipe.method.n_steps * self.recipe.n_samples * repeats


def _has_target(file: ScanFile) -> bool:
    """Whether a file holds a reference that can be read."""
    with suppress(ScanFormatError):
        return any(file.read_target(name) is not None for name in TARGETS)
    return False


def reconstruct_volume(
    volume: Volume,
    store: SliceStore,
    *,
    on_slice: OnSlice | None = None,
    on_step: OnStep | None = None,
) -> dict[str, Any]:
    """Reconstruct the slices that the store lacks, and report on all of them.

    The next slices are read, and finished ones written, while others are computed.

    Returns:
        The report of the volume: facts, checks, warnings, metrics, provenance, settings.

    Raises:
        MriAmbientError: a slice cannot be reconstructed or stored.
    """
    file, log, preparation = volume.file, volume.log, volume.preparation
    with log.noting():
        issue_before(file, volume.recipe)
        recipes = AdaptedRecipes(volume, store.folder)
        work = SliceWork(volume, recipes, on_step)
    missing = [index for index in range(len(file)) if index not in store]
    runs = neighbouring_runs(missing, work.slices_at_once)
    scans = prefetch(file[first:last] for first, last in runs)
    with store, closing(scans), closing(work.finish(scans)) as finished:
        for scan, result, given in finished:
            store.add(scan, result, preparation.noise.std, given)
            if on_slice is not None:
                on_slice(len(store), len(file))
    adaptation = adaptation_report(recipes.shared) if recipes.shared else {}
    return _report(volume, store, log) | adaptation


Finished = tuple[Scan, SliceImages, list[NumericalWarning]]
"""Prepared slices, their images, and what is questionable about them."""


class SliceWork:
    """Prepares, reconstructs and checks slices; on a CPU with several threads several at once.

    Args:
        volume: whose slices they are.
        recipes: the recipe of each.
        on_step: called after every step of a sampler.
    """

    def __init__(
        self, volume: Volume, recipes: AdaptedRecipes, on_step: OnStep | None = None
    ) -> None:
        self.volume, self.recipes = volume, recipes
        self.steps = _Steps(on_step)
        self.shared = recipes.shared and self._engine(recipes.shared)

    @property
    def slices_at_once(self) -> int:
        """Slices that are read and reconstructed in one batch."""
        return self.shared.slices_at_once(self.volume.shape) if self.shared else 1

    @property
    def batches_at_once(self) -> int:
        """Batches that are computed at once; one where the prior is adapted to every slice."""
        _, n_coils, ny, nx = self.volume.file.shape
        n_bytes = 8 * self.slices_at_once * n_coils * ny * nx
        return self.volume.runtime.batches_at_once(n_bytes) if self.shared else 1

    def finish(self, scans: Iterable[Scan]) -> Generator[Finished, None, None]:
        """Slices as read, finished, in their order. Their warnings are issued.

        Raises:
            MriAmbientError: a slice cannot be reconstructed.
        """
        attempts = in_order(self._attempt, scans, self.batches_at_once, self.steps.stop)
        with closing(attempts):
            for attempt in attempts:
                with self.volume.log.noting() as given:
                    found = received(attempt)
                    if isinstance(found, MriAmbientError):
                        raise found
                yield *found, given

    def _attempt(
        self, scan: Scan
    ) -> tuple[tuple[Scan, SliceImages] | MriAmbientError, list[NumericalWarning]]:
        """The result of slices as read, or the error; and the warnings, which may say why.

        Unlike those of an executor's task, errors of the device come after their warnings, too.
        """
        found: tuple[Scan, SliceImages] | MriAmbientError
        with collected() as given:
            try:
                found = self._finished(scan)
            except MriAmbientError as error:
                found = error
        return found, given

    def _finished(self, scan: Scan) -> tuple[Scan, SliceImages]:
        prepared = self.volume.preparation.apply(scan)
        engine = self.shared or self._engine(self.recipes(scan.slices[0]))
        (result,) = engine([prepared])
        result = check_slices(engine, prepared, result, self.volume.file.path.name)
        if self.recipes.per_slice:
            row = adaptation_report(engine.recipe)
            result = replace(result, checks=tuple(c | row for c in result.checks))
        return prepared, result

    def _engine(self, recipe: ResolvedRecipe) -> Engine:
        return Engine(recipe, self.volume.runtime, self.steps)


class _Steps:
    """Steps of samplers, passed on one at a time; none follows after :meth:`stop`."""

    def __init__(self, on_step: OnStep | None) -> None:
        self.on_step, self.lock, self.stopped = on_step, Lock(), Event()

    def __call__(self, info: StepInfo) -> None:
        if self.stopped.is_set():
            raise CancelledError
        if self.on_step is not None:
            with self.lock:
                self.on_step(info)

    def stop(self) -> None:
        """Samplers end at their next step."""
        self.stopped.set()


def _report(volume: Volume, store: SliceStore, log: WarningLog) -> dict[str, Any]:
    """The report of a finished volume; issues the warnings about its images."""
    file, grid = volume.file, volume.file.final_grid
    checks, facts, given_before = store.report()
    # An adapted prior has no file.
    facts["provenance"] |= {"prior_sha256": volume.recipe.prior_sha256}
    log.add(given_before)
    scores: dict[str, Any] = {}
    with log.noting():
        issue_after(file, volume.recipe, facts["sigma_n"], checks, log.codes)
        if volume.reference is not None:
            magnitude = [store.read(index).images["img"].abs() for index in range(len(file))]
            scores = volume.reference.score(torch.stack(magnitude))
        elif file is not volume.full and volume.full.fully_sampled:
            warn(
                "W-NOT-SCORED",
                f"{name_of(file.path)}: not scored: k-space ends on one side, and the image of all "
                "its samples is blurred",
            )
    return {
        "scan_id": file.scan_id,
        "input": name_of(file.path),
        **({"volume": file.volume} if file.volume else {}),
        **({"protocol": file.protocol} if file.protocol else {}),
        **({"thickness_mm": file.thickness_mm} if file.thickness_mm else {}),
        **({"orientation_source": grid.source} if grid.source != ACQUIRED else {}),
        "slices": len(file),
        **facts,
        "acceleration": file.acceleration,
        "checks": checks,
        "doubts": [entry["text"] for entry in log.entries],
        "warnings": log.entries,
        **scores,
        "settings": volume.settings,
    }


def neighbouring_runs(indices: Sequence[int], most: int) -> Iterator[tuple[int, int]]:
    """Rising indices as runs ``[first, last)`` of neighbours, none longer than ``most``."""
    while indices:
        length = 1
        while length < min(most, len(indices)) and indices[length] == indices[0] + length:
            length += 1
        yield indices[0], indices[0] + length
        indices = indices[length:]
