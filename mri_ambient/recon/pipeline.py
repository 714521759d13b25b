"""The pipeline: open, prepare, reconstruct, write; for the command line and for Python."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError, MriAmbientError, OutputExistsError
from ..io import ScanPath, Undersampled, find_scans, open_scan
from ..io.arrays import ArrayFile
from ..io.scan_file import ScanFile
from ..methods.base import OnStep
from ..runtime.device import Runtime
from ..runtime.files import locked
from ..runtime.warning_log import WarningLog
from ..scan import Scan
from .recipe import Recipe, ResolvedRecipe
from .reconstruction import Reconstruction, stored_settings, write_reconstruction
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
    resolved = _resolved(recipe)
    volume = open_volume(scan, resolved, _checked(runtime))
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
        scans: one or several, as :func:`reconstruct` takes them; paths may be folders and globs.
        recipe: as for :func:`reconstruct`; the prior is loaded once.
        runtime: as for :func:`reconstruct`.
        on_error: called with a scan that failed and its error, before the next scan; without it the
            error is raised.
    """
    resolved, checked = _resolved(recipe), _checked(runtime)
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


def _resolved(recipe: Recipe | ResolvedRecipe | None) -> ResolvedRecipe:
    recipe = Recipe() if recipe is None else recipe
    if not isinstance(recipe, (Recipe, ResolvedRecipe)):
        raise ConfigError(f"recipe is {recipe!r}, wanted a Recipe, e.g. Recipe('dds')")
    return recipe.resolve()


def _checked(runtime: Runtime | None) -> Runtime:
    runtime = Runtime() if runtime is None else runtime
    if not isinstance(runtime, Runtime):
        raise ConfigError(f"runtime is {runtime!r}, wanted a Runtime, e.g. Runtime('cpu')")
    return runtime


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
    if isinstance(scan, np.ndarray):
        scan = Scan.from_numpy(scan)
    if isinstance(scan, Scan):
        return ArrayFile(scan)
    if isinstance(scan, ScanPath):
        return scan.open()
    if not isinstance(scan, (str, Path)):
        raise ConfigError(
            f"a scan is a path, an opened file, a Scan or a numpy array, got {type(scan).__name__}"
        )
    return open_scan(scan)


def reconstruct_to_folder(
    volume: Volume,
    output: Path,
    *,
    on_slice: OnSlice | None = None,
    on_step: OnStep | None = None,
) -> dict[str, Any]:
    """Reconstruct a volume into ``<stem>.h5`` and ``<stem>.json``, whatever its length.

    Finished slices are kept in a hidden folder until all are there, so that a call with the same
    settings resumes where one was interrupted.

    Returns:
        The report, as written to the JSON file; see :func:`reconstruct_volume`.

    Raises:
        MriAmbientError: a slice cannot be reconstructed, ``output`` cannot be written, or another
            process is writing this reconstruction.
        OutputExistsError: there is a file of this name that is not a reconstruction.
    """
    name = volume.file.output_stem
    path = output / f"{name}.h5"
    if path.exists():
        stored_settings(path)
    settings, file = volume.settings if volume.recipe.reproducible else None, volume.file
    keep_samples = volume.recipe.keep_samples
    with locked(path):
        store = SliceStore(_unfinished(output, name), settings, keep_samples=keep_samples)
        report = reconstruct_volume(volume, store, on_slice=on_slice, on_step=on_step)
        write_reconstruction(
            path, lambda index: store.read(index).images, report, file.voxel_mm, file.geometry
        )
        store.remove()
    return report


def is_finished(volume: Volume, output: Path, *, overwrite: bool = False) -> bool:
    """Whether ``output`` holds this very reconstruction already.

    Raises:
        OutputExistsError: it holds another file of this name, or slices of one that was
            interrupted, made with other settings, and ``overwrite`` is not set; or a file that is
            not a reconstruction.
    """
    name, wanted = volume.file.output_stem, volume.settings
    path = output / f"{name}.h5"
    if not path.exists():
        n_others, differing = SliceStore.with_other_settings(_unfinished(output, name), wanted)
        if n_others and not overwrite:
            raise OutputExistsError(
                f"{path}: {n_others} slices of an interrupted call were made with other settings "
                f"({_listed(differing, wanted)}); use those to resume it, or --overwrite, or "
                "another folder"
            )
        return False
    found = stored_settings(path)
    if overwrite:
        return False
    differing = sorted(key for key in wanted if wanted[key] != found.get(key))
    if not volume.recipe.reproducible:
        differing = sorted({*differing, "prior_sha256"})
    if differing:
        raise OutputExistsError(
            f"{path}: was made with other settings ({_listed(differing, wanted)}); use --overwrite "
            "or another folder"
        )
    if not path.with_suffix(".json").exists():
        return False
    shutil.rmtree(_unfinished(output, name), ignore_errors=True)  # if it was killed at the end
    return True


def _listed(differing: Sequence[str], wanted: dict[str, Any]) -> str:
    """Settings by name; the precision, which may follow from the device, as an option."""
    other = {"fp32": "bf16", "bf16": "fp32"}.get(wanted["precision"], "")
    return ", ".join(f"--precision {other}" if key == "precision" else key for key in differing)


def _unfinished(output: Path, name: str) -> Path:
    """Where finished slices are kept until all are."""
    return output / f".{name}.unfinished"
