"""What is done with every slice of a volume: preparation, method, checks; several at once."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from concurrent.futures import CancelledError
from contextlib import closing
from dataclasses import dataclass, field, replace
from threading import Event, Lock
from typing import TYPE_CHECKING

from ..errors import MriAmbientError, NumericalWarning, collected, issue
from ..methods.base import OnStep, StepInfo
from ..runtime.prefetch import in_order
from ..scan import Scan
from .adapted import AdaptedRecipes, adaptation_report
from .checks import check_slices
from .engine import Engine, SliceImages
from .recipe import ResolvedRecipe

if TYPE_CHECKING:
    from .volume import Volume

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
                with self.volume.log.noting():
                    for warning in attempt.warnings:
                        issue(warning)
                    if attempt.error is not None:
                        raise attempt.error
                assert attempt.result is not None
                yield attempt.scan, attempt.result, attempt.warnings

    def _attempt(self, scan: Scan) -> _Attempt:
        """The result, or the error, of slices as read; with the warnings, which may say why."""
        attempt = _Attempt(scan)
        with collected() as attempt.warnings:
            try:
                attempt.scan, attempt.result = self._finished(scan)
            except MriAmbientError as error:
                attempt.error = error
        return attempt

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


@dataclass
class _Attempt:
    """Slices, as read or prepared, and their result or why there is none."""

    scan: Scan
    result: SliceImages | None = None
    warnings: list[NumericalWarning] = field(default_factory=list)
    error: MriAmbientError | None = None


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
