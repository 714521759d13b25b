"""One adaptation for a folder of reconstructions: all of them are made with the same prior."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ..errors import MriAmbientError
from ..io import ScanPath, find_scans
from ..priors.checkpoint import load_prior
from ..recon.folder import Destination
from ..recon.pipeline import Source, resolved_recipe
from ..recon.recipe import Recipe, ResolvedRecipe
from ..runtime.device import Runtime, checked_runtime
from ..runtime.executor import Executor, Processes, executor_of
from .adapt_scans import adapt_as_task

SHARED = "adapted.safetensors"
"""Name of the prior, in the folder of the reconstructions."""


def adapt_for_folder(
    inputs: str | Path | Sequence[str | Path | ScanPath],
    to: Destination,
    recipe: Recipe | ResolvedRecipe,
    runtime: Runtime | None = None,
    *,
    jobs: int | Executor = 1,
) -> ResolvedRecipe:
    """The recipe with one prior adapted to all scans, as ``reconstruct --adapt-per folder`` has it.

    The prior is written to the folder (:data:`SHARED`). One that is there is read if it was made
    with these settings, whatever the scans: some may have been repaired or added.

    Args:
        inputs: the scans, as :func:`~mri_ambient.reconstruct_folder` takes them. Those that cannot
            be read are left out; their errors come when they are reconstructed.
        to: where the reconstructions go; its ``overwrite`` replaces the prior too.
        recipe: with an adaptation; without one, or with a method that uses no prior, it is given
            back as it is.
        runtime: where to compute.
        jobs: an executor does it as one task.

    Raises:
        ConfigError: a prior that cannot be adapted.
        OutputExistsError: the file exists and is another prior.
        MriAmbientError: no scan can be read and prepared.
    """
    resolved, executor = resolved_recipe(recipe), executor_of(jobs)
    if resolved.adapt is None:
        return resolved
    scans, path = find_scans(inputs, output=to.folder), to.folder / SHARED
    where = checked_runtime(runtime, elsewhere=not isinstance(executor, Processes))
    prior = adapt_as_task(
        executor, scans, resolved, where, path, overwrite=to.overwrite, on_error=_comes_later,
        any_scans=True,
    )  # fmt: skip
    return replace(resolved, prior=prior, adapt=None)


def with_shared_prior(recipe: ResolvedRecipe, to: Destination) -> ResolvedRecipe:
    """The recipe with the prior that an earlier call adapted to all scans, unless that is replaced.

    Methods without a prior keep their recipe; without such a file, nothing was made by this recipe.
    """
    path = to.folder / SHARED
    if recipe.adapt is None:
        return recipe
    kept = path.is_file() and not to.overwrite
    return replace(recipe, prior=load_prior(path) if kept else None, adapt=None)


def _comes_later(scan: Source, error: MriAmbientError) -> None:
    """When the scan is reconstructed."""
