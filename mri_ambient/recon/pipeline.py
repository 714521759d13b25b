"""The pipeline of one scan: open, prepare, reconstruct; for the command line and for Python."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError, MriAmbientError
from ..io import ScanPath, Undersampled, find_scans, open_scan, raw_file
from ..io.formats.arrays import ArrayFile
from ..io.scan_file import ScanFile
from ..io.views.corrected import corrected
from ..methods.base import OnStep
from ..runtime.device import Runtime, checked_runtime
from ..runtime.warning_log import WarningLog
from ..scan import Scan
from .recipe import Recipe, ResolvedRecipe
from .reconstruction import Reconstruction
from .slice_store import SliceStore
from .volume import OnSlice, Volume, reconstruct_volume

Source = str | Path | ScanPath | ScanFile | Scan | NDArray[Any]
"""A scan: a path, an open file, or data in memory (see :meth:`Scan.from_numpy`)."""


def reconstruct(
    scan: Source,
    recipe: Recipe | ResolvedRecipe | None = None,
    runtime: Runtime | None = None,
    *,
    on_slice: OnSlice | None = None,
    on_step: OnStep | None = None,
) -> Reconstruction:
    """Prepare and reconstruct a scan, as ``mri-ambient reconstruct`` does.

    Args:
        scan: a raw or prepared scan: a path, what :func:`open_scan` returns, a Scan, or k-space as
            a complex array ``(slice, coil, y, x)`` or ``(coil, y, x)``, zero where not sampled. An
            :class:`~mri_ambient.io.Undersampled` file is scored against its full scan.
        recipe: all that decides the result; by default what suits the shipped prior.
        runtime: device, precision, batch size.
        on_slice: called with (done, total) after every slice.
        on_step: called after every step of a sampler.

    Returns:
        The images in the units of the file; :meth:`Reconstruction.save` writes them.

    Raises:
        MriAmbientError: the scan cannot be read, prepared or reconstructed.
    """
    resolved = resolved_recipe(recipe)
    volume = open_volume(scan, resolved, checked_runtime(runtime))
    store = SliceStore(keep_samples=resolved.keep_samples)
    report = reconstruct_volume(volume, store, on_slice=on_slice, on_step=on_step)
    return replace(Reconstruction.from_store(store, report, volume.file), volume=volume)


def reconstruct_many(
    scans: Source | Iterable[Source],
    recipe: Recipe | None = None,
    runtime: Runtime | None = None,
    *,
    on_error: Callable[[Source, MriAmbientError], None] | None = None,
) -> Iterator[Reconstruction]:
    """Reconstruct scans one by one; see :func:`reconstruct`.

    Args:
        scans: one or several, as :func:`reconstruct` takes them; paths may be globs, and folders
            with those below them.
        recipe: as for :func:`reconstruct`; the prior is loaded once.
        runtime: as for :func:`reconstruct`.
        on_error: called with a scan that failed and its error, before the next scan; without it the
            error is raised.
    """
    resolved, checked = resolved_recipe(recipe), checked_runtime(runtime)
    if isinstance(scans, (str, Path, ScanPath, ScanFile, Scan, np.ndarray)):
        scans = [scans]

    def failed(scan: Source, error: MriAmbientError) -> None:
        if on_error is None:
            raise error
        on_error(scan, error)

    def results() -> Iterator[Reconstruction]:
        for given in scans:
            try:
                found = find_scans([given]) if isinstance(given, (str, Path)) else [given]
            except MriAmbientError as error:
                failed(given, error)
                continue
            for scan in found:
                try:
                    yield reconstruct(scan, resolved, checked)
                except MriAmbientError as error:
                    failed(scan, error)

    return results()


def resolved_recipe(recipe: Recipe | ResolvedRecipe | None) -> ResolvedRecipe:
    """The recipe of an argument, by default that of the shipped prior; ConfigError for others."""
    recipe = Recipe() if recipe is None else recipe
    if not isinstance(recipe, (Recipe, ResolvedRecipe)):
        raise ConfigError(f"recipe is {recipe!r}, wanted a Recipe, e.g. Recipe('dds')")
    return recipe.resolve()


def open_volume(scan: Source, recipe: ResolvedRecipe, runtime: Runtime) -> Volume:
    """A scan, opened and, if the recipe says so, under a retrospective mask.

    Raises:
        ScanFormatError: it cannot be read.
        ConfigError: a retrospective mask for a scan that is not fully sampled.
    """
    log = WarningLog()
    with log.noting():
        file = _opened(scan)
        if recipe.mask is not None:
            file = Undersampled(file, recipe.mask, recipe.seed)
        full = file.full if isinstance(file, Undersampled) else file
    log.add([warning.as_dict() for warning in full.warnings])
    return Volume(file, full, recipe, runtime, log)


def _opened(scan: Source) -> ScanFile:
    if isinstance(scan, ScanFile):
        return scan
    if isinstance(scan, np.ndarray | Scan):
        file = ArrayFile(Scan.from_numpy(scan) if isinstance(scan, np.ndarray) else scan)
        file.check_axes()
        return file if isinstance(scan, Scan) else corrected(file)
    if isinstance(scan, ScanPath):
        return scan.open()
    if not isinstance(scan, (str, Path)):
        raise ConfigError(
            f"a scan is a path, an opened file, a Scan or a numpy array, got {type(scan).__name__}"
        )
    if raw_file(Path(scan)).is_dir():
        raise ConfigError(
            f"{scan}: is a folder, wanted one scan; reconstruct_folder writes the results of all "
            "scans in it, reconstruct_many gives them one by one"
        )
    return open_scan(scan)
