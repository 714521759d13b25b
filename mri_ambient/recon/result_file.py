"""The image of one scan as files: begun, resumed, finished, or made with other settings.

Slices that are finished lie in a hidden folder beside the image until all are there.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import BusyError, OutputExistsError
from ..io import ReconstructionFile
from ..methods.base import OnStep
from ..runtime.files import locked
from .recipe import in_words, settings_that_differ
from .reconstruction import differing_from, write_reconstruction
from .slice_store import SliceStore
from .volume import OnSlice, Volume, reconstruct_volume


def reconstruct_to_folder(
    volume: Volume,
    output: Path,
    *,
    overwrite: bool = False,
    on_slice: OnSlice | None = None,
    on_step: OnStep | None = None,
) -> dict[str, Any]:
    """Reconstruct a volume into ``<stem>.h5`` and ``<stem>.json``, whatever its length.

    Finished slices are kept in a hidden folder until all are there, so that a call with the same
    settings resumes where one was interrupted. What is finished is not computed again.

    Returns:
        The report, as in the JSON file; see :func:`reconstruct_volume`.

    Raises:
        MriAmbientError: a slice cannot be reconstructed, or ``output`` cannot be written.
        BusyError: another process is writing this reconstruction.
        OutputExistsError: see :func:`is_finished`; or another process is writing it with other
            settings.
    """
    name = volume.file.output_stem
    path = output / f"{name}.h5"
    settings, file = volume.settings if volume.recipe.reproducible else None, volume.file
    keep_samples = volume.recipe.keep_samples
    with _locked(path, settings):
        if is_finished(volume, output, overwrite=overwrite):
            return ReconstructionFile(path).report
        store = SliceStore(unfinished_folder(output, name), settings, keep_samples=keep_samples)
        report = reconstruct_volume(volume, store, on_slice=on_slice, on_step=on_step)
        write_reconstruction(
            path, lambda index: store.read(index).images, report, file.voxel_mm, file.geometry
        )
        store.remove()
    return report


@contextmanager
def _locked(path: Path, settings: dict[str, Any] | None) -> Iterator[None]:
    """Keep other processes from writing a reconstruction; refuse what one makes otherwise."""
    try:
        with locked(path, settings):
            yield
    except BusyError as error:
        differing = settings_that_differ(settings or {}, error.settings or settings or {})
        if settings and differing:
            raise OutputExistsError(
                f"{path}: another process is making it with other settings "
                f"({in_words(differing, settings)}); use another folder"
            ) from error
        raise


def is_finished(volume: Volume, output: Path, *, overwrite: bool = False) -> bool:
    """Whether ``output`` holds this very reconstruction already.

    Raises:
        OutputExistsError: it holds another file of this name, or slices of one that was
            interrupted, made with other settings, and ``overwrite`` is not set; or a file that is
            not a reconstruction.
    """
    path = output / f"{volume.file.output_stem}.h5"
    there = path.exists()
    differing = differing_settings(volume, output)
    if overwrite:
        return False
    if differing:
        listed = in_words(differing, volume.settings)
        raise OutputExistsError(
            f"{path}: was made with other settings ({listed}); give overwrite=True "
            "(--overwrite) or use another folder"
            if there
            else f"{path}: slices of an interrupted call were made with other settings ({listed}); "
            "use those to resume it, or give overwrite=True (--overwrite), or use another folder"
        )
    if not (there and path.with_suffix(".json").exists()):
        return False
    unfinished = unfinished_folder(output, volume.file.output_stem)
    shutil.rmtree(unfinished, ignore_errors=True)  # if it was killed at the end
    return True


def differing_settings(volume: Volume, output: Path) -> list[str]:
    """Names of the settings that differ from those of the file in ``output``, or of its slices.

    Raises:
        OutputExistsError: there is a file of this name that is not a reconstruction.
    """
    path = output / f"{volume.file.output_stem}.h5"
    unfinished = unfinished_folder(output, volume.file.output_stem)
    if path.exists():
        return differing_from(path, volume.settings, reproducible=volume.recipe.reproducible)
    if unfinished.exists():  # otherwise no hash of the input is needed yet
        return SliceStore.other_settings(unfinished, volume.settings)
    return []


def unfinished_folder(output: Path, name: str) -> Path:
    """Where finished slices of an image are kept until all are; ``name`` may be a pattern."""
    return output / f".{name}.unfinished"
