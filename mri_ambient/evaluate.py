"""Folders of reconstructions against folders of references, as fastMRI pairs them: by name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

from .errors import ConfigError, ScanFormatError
from .io.hdf5 import find_dataset, open_h5, read_real
from .metrics import Reference, VolumeMetrics, evaluate_volume

TARGETS: dict[str, Reference] = {"reconstruction_rss": "rss", "reconstruction_esc": "esc"}
"""Datasets that hold a reference, and what it is; the first that is there counts."""


def pair_up(reconstructions: Path, targets: Path) -> list[tuple[Path, Path]]:
    """Reconstructions with the target of the same name.

    Raises:
        ScanFormatError: there is nothing to score, or a reconstruction has no target.
    """
    if reconstructions.is_file() and targets.is_file():
        return [(reconstructions, targets)]
    files = [reconstructions] if reconstructions.is_file() else sorted(reconstructions.glob("*.h5"))
    if not files:
        raise ScanFormatError(f"{reconstructions}: no reconstructions (*.h5) here")
    if not targets.is_dir():
        raise ConfigError(f"{targets}: wanted a folder of targets, one for each reconstruction")
    return [(file, targets / file.name) for file in files]


def score_pair(reconstruction: Path, target: Path) -> VolumeMetrics:
    """Score one reconstruction.

    Args:
        reconstruction: a file with the dataset ``reconstruction``.
        target: a file with one of :data:`TARGETS`; it need not hold k-space, as for fastMRI.

    Raises:
        ScanFormatError: a file is damaged, holds no image of the kind, or the two do not fit.
    """
    with open_h5(reconstruction) as file:
        dataset = find_dataset(file, reconstruction, "reconstruction")
        volume = read_real(dataset, reconstruction, "reconstruction")
    with open_h5(target) as file:
        name = next((name for name in TARGETS if name in file), None)
        if name is None:
            raise ScanFormatError(
                f"{target}: holds no reference ({' or '.join(TARGETS)}); found {sorted(file)}"
            )
        reference = read_real(find_dataset(file, target, name), target, name)
    try:
        return evaluate_volume(volume, reference, reference=TARGETS[name])
    except ScanFormatError as error:
        raise ScanFormatError(f"{reconstruction}: {error}") from error


def mean_metrics(rows: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """Means over volumes."""
    return {key: fmean(row[key] for row in rows.values()) for key in ("nmse", "psnr", "ssim")}
