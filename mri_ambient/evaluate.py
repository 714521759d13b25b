"""Folders of reconstructions against folders of references, as fastMRI pairs them: by name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from .errors import ConfigError, ScanFormatError
from .io import open_scan
from .io.hdf5 import open_h5
from .metrics import VolumeMetrics, evaluate_volume

TARGETS = ("reconstruction_rss", "reconstruction_esc")


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

    Raises:
        ScanFormatError: a file is damaged, or holds no image of the kind.
    """
    with open_h5(reconstruction) as file:
        if "reconstruction" not in file:
            raise ScanFormatError(
                f"{reconstruction}: no dataset 'reconstruction'; found {sorted(file)}"
            )
        volume = np.asarray(file["reconstruction"])
    scan = open_scan(target)
    for name in TARGETS:
        reference = scan.read_target(name)
        if reference is not None:
            return evaluate_volume(volume, reference.numpy(), reference="rss")
    raise ScanFormatError(f"{target}: holds no reference ({' or '.join(TARGETS)})")


def mean_metrics(rows: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """Means over volumes."""
    return {key: fmean(row[key] for row in rows.values()) for key in ("nmse", "psnr", "ssim")}
