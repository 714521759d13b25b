"""``mri-ambient info``: what is installed, or what a file holds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from .common import Json, print_json


def run(
    file: Annotated[
        Path | None,
        typer.Argument(help="A scan, a prepared file, a reconstruction, a prior, or a folder."),
    ] = None,
    json_out: Json = False,
) -> None:
    """Say what is installed, or what a file holds."""
    facts = _installed() if file is None else _contents(file)
    if json_out:
        print_json(facts)
    else:
        _print_plain(facts)
    if any(entry["kind"] == "unreadable" for entry in facts.get("files", ())):
        raise typer.Exit(1)


def _installed() -> dict[str, Any]:
    import torch

    from mri_ambient._version import __version__
    from mri_ambient.io import READERS, WRITERS
    from mri_ambient.methods.presets import METHODS, SAMPLINGS
    from mri_ambient.objectives import OBJECTIVES
    from mri_ambient.priors.weights import shipped_priors
    from mri_ambient.runtime.device import describe_device

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return {
        "version": __version__,
        "objectives": list(OBJECTIVES),
        "methods": list(METHODS),
        "presets": list(SAMPLINGS),
        "readers": [reader.format for reader in READERS.values()],
        "writers": list(WRITERS),
        "priors": [path.stem for path in shipped_priors()],
        "device": describe_device(device),
    }


def _contents(path: Path) -> dict[str, Any]:
    from dataclasses import asdict

    from mri_ambient.io import find_scans
    from mri_ambient.priors.checkpoint import load_prior
    from mri_ambient.priors.unet import n_parameters
    from mri_ambient.priors.weights import find_prior

    path = find_prior(path)
    if path.is_dir() and not (path / "prior.safetensors").exists():
        return {"kind": "folder", "files": [_file_contents(file) for file in find_scans([path])]}
    if path.is_dir() or path.suffix == ".safetensors":
        prior = load_prior(path)
        facts = asdict(prior.facts)
        denoiser = facts.pop("kind")
        facts["card"].pop("trained_on", None)  # digests: for programs to know a scan again
        parameters = n_parameters(prior.net)
        return {"kind": "prior", "denoiser": denoiser, "parameters": parameters, **facts}
    return _of_file(path)


def _of_file(path: Path) -> dict[str, Any]:
    from mri_ambient.io.reconstruction import describe_output

    output = describe_output(path)
    return _scan_contents(path) if output is None else {"kind": "output", **output}


def _file_contents(path: Path) -> dict[str, Any]:
    """What a file of a folder holds, or what is wrong with it."""
    from mri_ambient.errors import MriAmbientError

    try:
        return {"file": path.name, **_of_file(path)}
    except MriAmbientError as error:
        return {"file": path.name, "kind": "unreadable", "error": str(error)}


def _scan_contents(path: Path) -> dict[str, Any]:
    from mri_ambient.io import PreparedFile, open_scan
    from mri_ambient.physics.masks import calibration_block, is_line_mask

    scan = open_scan(path)
    facts: dict[str, Any] = {
        "kind": "scan",
        "format": scan.format,
        "scan_id": scan.scan_id,
        "slices": scan.shape[0],
        "coils": scan.shape[1],
        "matrix": scan.shape[2:],
        "recon_shape": scan.recon_shape,
        "voxel_mm": scan.voxel_mm,
        "readout_oversampling": scan.readout_oversampling,
        "acceleration": scan.acceleration,
        "fully_sampled": scan.fully_sampled,
        "mask": "lines" if is_line_mask(scan.mask) else "2-D",
        "calibration_block": calibration_block(scan.mask),
        "acquired_columns": int(scan.acquired.sum()),
        "noise_scan": scan.noise is not None,
    }
    if isinstance(scan, PreparedFile):
        facts |= {
            "sigma_n": scan.noise_std,
            "noise_std": scan.qc.get("noise_std_file"),
            "scale": scan.scale,
            "steps": scan.steps,
        }
    return facts


def _print_plain(facts: dict[str, Any], indent: str = "") -> None:
    for name, value in facts.items():
        if isinstance(value, dict):
            typer.echo(f"{indent}{name}:")
            _print_plain(value, indent + "  ")
            continue
        if isinstance(value, list) and value and isinstance(value[0], dict):
            for entry in value:
                typer.echo("")
                _print_plain(entry, indent)
            continue
        if isinstance(value, (list, tuple)):
            value = ", ".join(str(entry) for entry in value)
        typer.echo(f"{indent}{name}: {value}")
