"""``mri-ambient info``: what is installed, or what a file holds."""

from __future__ import annotations

import sys
from ctypes import CDLL
from pathlib import Path
from typing import Annotated, Any

import typer

from mri_ambient._version import __version__

from . import options as opt
from .choices import FORMATS, METHODS, OBJECTIVES, PRESETS
from .console import print_facts, print_json
from .inputs import Reading
from .records import Without, takes_records


@takes_records
def run(
    file: Annotated[
        Path | None,
        typer.Argument(
            help="A scan, a prepared file, a reconstruction, a prior, or a folder.",
            metavar="FILE",
            show_default="what is installed",
        ),
    ] = None,
    *,
    reading: Annotated[Reading, Without("volume", "maps")],
    json_out: opt.Json = False,
) -> None:
    """Print what is installed, or what a file holds."""
    from mri_ambient.evaluation.info import contents, in_text

    facts = installed() if file is None else contents(file, **vars(reading))
    if json_out:
        print_json(facts)
    else:
        print_facts(facts if file is None else in_text(facts))
    if any(entry["kind"] == "unreadable" for entry in facts.get("files", ())):
        raise typer.Exit(1)


def installed() -> dict[str, Any]:
    """What this installation offers."""
    from mri_ambient.io import READERS
    from mri_ambient.priors.weights import shipped_priors

    return {
        "version": __version__,
        "objectives": list(OBJECTIVES),
        "methods": list(METHODS),
        "presets": list(PRESETS),
        "readers": [reader.format for reader in READERS.values()],
        "writers": list(FORMATS),
        "priors": [path.stem for path in shipped_priors()],
        "device": _device(),
    }


def _device() -> str:
    """The device that is used by default; torch is imported only where there may be a GPU."""
    if not _has_gpu_driver():
        return "CPU"
    from mri_ambient.runtime.device import describe_device, pick_device

    return describe_device(pick_device())


def _has_gpu_driver() -> bool:
    """Whether there is a driver of NVIDIA or AMD; True where that is not known."""
    if sys.platform != "linux":
        return True
    try:
        CDLL("libcuda.so.1")
    except OSError:
        return Path("/dev/kfd").exists()
    return True
