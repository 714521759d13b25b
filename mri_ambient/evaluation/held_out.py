"""A score without a reference: how a method predicts measured lines that it was not given.

The held-out lines are not the lines that were never measured, whose error may be larger.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import ScanFormatError
from ..io.readers import ScanPath
from ..methods.base import OnStep
from ..recon.engine import Engine
from ..recon.folder import OnVolume
from ..recon.held_out import predict_held_out
from ..recon.pipeline import open_volume
from ..recon.recipe import ResolvedRecipe, method_options
from ..recon.volume import OnSlice, Volume
from ..recon.warnings import issue_after, issue_before
from ..runtime.device import Runtime


def evaluate_scan(
    scan: ScanPath,
    *,
    recipe: ResolvedRecipe,
    runtime: Runtime,
    on_volume: OnVolume | None = None,
) -> list[dict[str, float]]:
    """Open a scan, and see :func:`evaluate_held_out`; ``on_volume`` gives what it calls then."""
    volume = open_volume(scan, recipe, runtime)
    if on_volume is None:
        return evaluate_held_out(volume)
    on_slice, on_step = on_volume(scan.name, volume, recipe.method.n_steps * recipe.n_samples)
    return evaluate_held_out(volume, on_slice=on_slice, on_step=on_step)


def evaluate_held_out(
    volume: Volume, *, on_slice: OnSlice | None = None, on_step: OnStep | None = None
) -> list[dict[str, float]]:
    """The figures of every slice of a scan by :func:`~mri_ambient.recon.held_out.predict_held_out`.

    The checks of its recipe say how many lines are held out.

    Raises:
        ConfigError: there are not enough lines.
        ScanFormatError: no slice has signal on the held-out lines.
    """
    file, recipe = volume.file, volume.recipe
    issue_before(file, recipe)
    engine = Engine(recipe, volume.runtime, on_step)
    n_slices = engine.slices_at_once(file.shape[-2:])
    rows: list[dict[str, float]] = []
    for first in range(0, len(file), n_slices):
        scan = volume.preparation.apply(file[first : first + n_slices])
        rows += predict_held_out(engine, scan, recipe.checks.n_held_out)
        if on_slice is not None:
            on_slice(len(rows), len(file))
    if not any(rows):
        raise ScanFormatError(f"{file.path}: no slice has signal on the held-out lines")
    issue_after(file, recipe, scan.noise_std or 0.0)
    return rows


def held_out_report(
    recipe: ResolvedRecipe, scans: Mapping[str, Sequence[dict[str, float]]]
) -> dict[str, Any]:
    """The method with its options, what its samples are, and the figures of every scan."""
    method = recipe.method
    report: dict[str, Any] = {"method": method.name, "method_options": method_options(method)}
    if recipe.n_samples > 1:
        report |= {
            "n_samples": recipe.n_samples,
            "samples_are": recipe.samples_are,
            "std_factor": recipe.std_factor,
        }
    return {**report, "scans": scans}
