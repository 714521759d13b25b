"""The scans that a command works on, and how they are read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from . import options as opt
from .console import print_line
from .parse import pick_shard

if TYPE_CHECKING:
    from mri_ambient.io import ScanPath

SHOWN = 3
"""Names of so many files that are left out are printed."""


@dataclass(frozen=True)
class Reading:
    """How scans are read: the options of :func:`~mri_ambient.io.open_scan`, by their names."""

    volume: opt.VolumeName = None
    axes: opt.AxisNames = None
    dataset: opt.DatasetName = None
    centre: opt.Centre = "auto"
    mask: opt.MaskPath = None
    acs: opt.Acs = None
    average: opt.Average = None
    maps: opt.Maps = None


def chosen_scans(
    inputs: Sequence[str],
    reading: Reading,
    shard: str | None,
    output: Path,
    *,
    flat: bool = False,
) -> list[ScanPath]:
    """The scans of one part of the inputs; a line tells what else is in folders.

    ``output`` and ``flat`` are as :func:`~mri_ambient.io.find_scans` takes them, which says what it
    raises.
    """
    from mri_ambient.io import find_scans, left_out

    scans = find_scans(inputs, output=output, flat=flat, **vars(reading))
    for entry in inputs:
        if others := left_out(entry, output):
            names = ", ".join([*others[:SHOWN], *(["..."] if len(others) > SHOWN else [])])
            files = "file of another kind" if len(others) == 1 else "files of other kinds"
            verb = "was" if len(others) == 1 else "were"
            print_line(f"{len(others)} {files} in {entry} {verb} left out ({names})")
    return pick_shard(scans, shard)
