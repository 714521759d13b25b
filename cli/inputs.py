"""The scans that a command works on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .console import print_line
from .parse import pick_shard

if TYPE_CHECKING:
    from mri_ambient.io import ScanPath

SHOWN = 3
"""Names of so many files that are left out are printed."""


def chosen_scans(
    inputs: Sequence[str],
    shard: str | None,
    output: Path,
    *,
    flat: bool = False,
    **given: Any,  # noqa: ANN401 -- options of the readers
) -> list[ScanPath]:
    """The scans of one part of the inputs; a line tells what else is in folders.

    ``output``, ``flat`` and ``given`` are as :func:`~mri_ambient.io.find_scans` takes them, which
    says what it raises.
    """
    from mri_ambient.io import find_scans, left_out

    scans = find_scans(inputs, output=output, flat=flat, **given)
    for entry in inputs:
        if others := left_out(entry, output):
            names = ", ".join([*others[:SHOWN], *(["..."] if len(others) > SHOWN else [])])
            files = "file of another kind" if len(others) == 1 else "files of other kinds"
            verb = "was" if len(others) == 1 else "were"
            print_line(f"{len(others)} {files} in {entry} {verb} left out ({names})")
    return pick_shard(scans, shard)
