"""Folders of reconstructions against folders of references, paired by name as in fastMRI."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import Any

import h5py
from numpy.typing import NDArray

from ..errors import MriAmbientError, ScanFormatError
from ..io.hdf5 import find_dataset, open_h5, read_real
from ..io.readers import open_scan
from ..recon.metrics import ReferenceKind, VolumeMetrics, evaluate_volume
from ..recon.reference import rss_volume

TARGETS: dict[str, ReferenceKind] = {"reconstruction_rss": "rss", "reconstruction_esc": "esc"}
"""Datasets that hold a reference, and what it is."""


def evaluate(
    reconstructions: str | Path,
    target: str | Path,
    *,
    on_error: Callable[[Path, MriAmbientError], None] | None = None,
) -> dict[str, Any]:
    """NMSE, PSNR and SSIM of reconstructions, as the fastmri package computes them.

    Args:
        reconstructions: a file that ``reconstruct`` wrote, or a folder of them.
        target: the fully sampled scan, or a folder of files of the same names. They hold one of
            :data:`TARGETS`; where they hold none, the RSS of their full k-space is computed.
        on_error: called with a reconstruction that cannot be scored and the error, and the others
            are scored; without it the error is raised.

    Returns:
        ``volumes``: the fields of :class:`VolumeMetrics` by file stem; ``mean``: means over the
        volumes of ``nmse``, ``psnr`` and ``ssim``, empty without volumes.

    Raises:
        ScanFormatError: there is nothing to score, or see ``on_error``.
    """
    volumes: dict[str, dict[str, Any]] = {}
    for path, full in pair_up(Path(reconstructions), Path(target)):
        try:
            volumes[path.stem] = asdict(score_pair(path, full))
        except MriAmbientError as error:
            if on_error is None:
                raise
            on_error(path, error)
    return {"volumes": volumes, "mean": mean_metrics(volumes)}


def pair_up(reconstructions: Path, targets: Path) -> list[tuple[Path, Path]]:
    """Reconstructions with the target of the same name.

    Raises:
        ScanFormatError: there is nothing to score, or no reconstruction has the target's name.
    """
    if reconstructions.is_file() and targets.is_file():
        return [(reconstructions, targets)]
    for path in (reconstructions, targets):
        if not path.exists():
            raise ScanFormatError(f"{path}: no such file or folder")
    is_file = reconstructions.is_file()
    files = [reconstructions] if is_file else sorted(reconstructions.glob("[!.]*.h5"))
    if not files:
        raise ScanFormatError(f"{reconstructions}: no reconstructions (*.h5) here")
    if targets.is_dir():
        return [(file, targets / file.name) for file in files]
    files = [file for file in files if file.stem == targets.stem]
    if not files:
        raise ScanFormatError(
            f"{reconstructions}: no reconstruction is called {targets.stem!r} as the target is"
        )
    return [(files[0], targets)]


def score_pair(reconstruction: Path, target: Path) -> VolumeMetrics:
    """Score a file with the dataset ``reconstruction`` against a fully sampled scan.

    Raises:
        ScanFormatError: a file is damaged or holds no such image, or the two do not fit.
    """
    with open_h5(reconstruction) as file:
        volume = read_real(find_dataset(file, "reconstruction"))
    reference, kind = _reference(target)
    try:
        return evaluate_volume(volume, reference, reference=kind)
    except ScanFormatError as error:
        raise ScanFormatError(f"{reconstruction}: {error}") from error


def _reference(target: Path) -> tuple[NDArray[Any], ReferenceKind]:
    """The reference that a file holds, or the RSS of its full k-space."""
    with open_h5(target) as file:
        name = _target_name(file)
        if name is not None:
            return read_real(find_dataset(file, name)), TARGETS[name]
    none = f"{target}: holds no reference ({' or '.join(TARGETS)})"
    try:
        scan = open_scan(target)
    except ScanFormatError as error:
        raise ScanFormatError(f"{none} to score against, and no k-space; {error}") from error
    if scan.prepared or not scan.fully_sampled:
        found = "prepared" if scan.prepared else f"undersampled (R = {scan.acceleration:.2f})"
        raise ScanFormatError(f"{none}, and its k-space is {found}; give the fully sampled scan")
    return rss_volume(scan).numpy(), "rss"


def _target_name(file: h5py.File) -> str | None:
    """The dataset that fastMRI scores against.

    Its emulated single coil for single-coil k-space, otherwise the root sum of squares; the other
    one where only that is there.
    """
    shape: tuple[int, ...] = getattr(file.get("kspace"), "shape", ())
    single = len(shape) == 3 or (len(shape) == 4 and shape[1] == 1)
    names = reversed(TARGETS) if single else TARGETS
    return next((name for name in names if name in file), None)


def mean_metrics(volumes: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """Means over volumes; empty without any."""
    if not volumes:
        return {}
    return {key: fmean(row[key] for row in volumes.values()) for key in ("nmse", "psnr", "ssim")}
