"""What ``mri-ambient info`` prints of a file: what it holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..errors import MriAmbientError
from ..io import PreparedFile, ScanFile, ScanPath, find_scans, raw_file
from ..io.outputs.reconstruction import RECONSTRUCTION_FORMAT, ReconstructionFile, describe_output
from ..io.views.view import View
from ..physics.patterns import calibration_block, is_line_mask
from ..priors.prior_file import describe_prior
from ..priors.weights import find_prior

FORMAT_NAMES = {
    "prepared": "prepared by mri-ambient",
    "matlab": "MATLAB",
    "calgary-campinas": "Calgary-Campinas",
    "fastmri": "fastMRI layout",
    "ismrmrd": "ISMRMRD",
    "siemens": "Siemens twix",
    "bruker": "Bruker ParaVision",
    "hdf5": "HDF5",
    "bart": "BART",
    "numpy": "numpy",
}
"""Formats of scans in words, by the keys of :data:`READERS`."""


def contents(
    path: Path,
    **options: Any,  # noqa: ANN401 -- of several readers
) -> dict[str, Any]:
    """What a scan, a reconstruction, a prior, or a folder holds.

    Args:
        path: the file or folder.
        options: of the readers of scans, as :func:`mri_ambient.io.open_scan` takes them.

    Raises:
        MriAmbientError: it cannot be read. Of a folder, such files are listed as "unreadable".
    """
    path = raw_file(find_prior(path))
    if path.is_dir() and not (path / "prior.safetensors").exists():
        return {
            "kind": "folder",
            "files": [_entry(scan) for scan in find_scans([path], results=True, **options)],
        }
    if path.is_dir() or path.suffix == ".safetensors":
        prior, n_weights = describe_prior(path)
        facts = asdict(prior)
        denoiser = facts.pop("kind")
        facts["card"].pop("trained_on", None)  # hashes by which programs recognise a scan
        return {"kind": "prior", "denoiser": denoiser, "parameters": n_weights, **facts}
    scans = [ScanPath(path)] if path.is_dir() else find_scans([path], **options)
    if len(scans) > 1:
        return {"kind": "volumes", "files": [_entry(scan) for scan in scans]}
    return _file_contents(scans[0])


def _entry(scan: ScanPath) -> dict[str, Any]:
    try:
        return {"file": scan.name, **_file_contents(scan)}
    except MriAmbientError as error:
        return {"file": scan.name, "kind": "unreadable", "error": str(error)}


def _file_contents(found: ScanPath) -> dict[str, Any]:
    if (output := describe_output(found.path)) is not None:
        output.pop("geometry", None)
        if output.get("mri_ambient_format") == RECONSTRUCTION_FORMAT:
            output["orientation"] = ReconstructionFile(found.path).grid.plane
        return {"kind": "output", **output}
    scan = found.open()
    facts: dict[str, Any] = {
        "kind": "scan",
        "summary": _summary(scan),
        "use_with": _commands(scan),
        "format": scan.format,
        "format_name": FORMAT_NAMES.get(scan.format, scan.format),
        "scan_id": scan.scan_id,
        "slices": scan.shape[0],
        "coils": scan.shape[1],
        "matrix": scan.shape[2:],
        "recon_shape": scan.recon_shape,
        "voxel_mm": scan.voxel_mm,
        "thickness_mm": scan.thickness_mm,
        "orientation": scan.final_grid.plane,
        "readout_oversampling": scan.readout_oversampling,
        "acceleration": scan.acceleration,
        "fully_sampled": scan.fully_sampled,
        "mask": "lines" if is_line_mask(scan.mask) else "2-D",
        "calibration_block": calibration_block(
            scan.mask if scan.calib_mask is None else scan.calib_mask
        ),
        "calibration_lines": "of the image" if scan.calib_mask is None else "separate",
        "acquired_columns": int(scan.acquired.sum()),
        "noise_scan": scan.noise is not None,
    }
    if isinstance(scan, View):
        facts["corrections"] = list(scan.steps[1:])
    if isinstance(scan, PreparedFile):
        facts |= {
            "sigma_n": scan.noise_std,
            "noise_std": scan.qc.get("noise_std_file"),
            "scale": scan.scale,
            "steps": scan.steps,
        }
    return facts


def _summary(scan: ScanFile) -> str:
    """What a scan is, in plain words."""
    (n_slices, n_coils, ny, nx), rate = scan.shape, scan.acceleration
    sampled = "fully sampled" if scan.fully_sampled else f"undersampled (R = {rate:.2f})"
    sampled += "" if scan.ends_known else ", or cut at one end"
    kind = f"{'prepared ' if scan.prepared else ''}{'3-D' if scan.is_3d else '2-D'} scan"
    coils = "1 coil" if n_coils == 1 else f"{n_coils} coils"
    slices = "1 slice" if n_slices == 1 else f"{n_slices} slices"
    volume = f", volume {scan.volume}" if scan.volume else ""
    where = f"{scan.final_grid.plane}, {FORMAT_NAMES.get(scan.format, scan.format)}"
    return f"{kind}, {sampled}, {coils}, {slices} of {ny} x {nx}, {where}{volume}"


RANGES = ("coils", "acceleration", "sigma_n")
"""Facts of a card that are three numbers."""


def in_text(facts: Mapping[str, Any]) -> dict[str, Any]:
    """The facts as they are printed: numbers rounded, a file or volume a line."""
    kind = facts["kind"]
    if kind in ("folder", "volumes"):
        lines = {entry["file"]: _line(entry) for entry in facts["files"]}
        return {"kind": kind, "number": len(lines), "files" if kind == "folder" else kind: lines}
    shown = dict(facts)
    if shown.get("acceleration") is not None:
        shown["acceleration"] = f"{shown['acceleration']:.2f}"
    if shown.get("voxel_mm") is not None:
        shown["voxel_mm"] = [f"{size:.4g}" for size in shown["voxel_mm"]]
    if kind == "prior":
        ranges = {name: f"{name} (least, median, largest)" for name in RANGES}
        shown["card"] = {ranges.get(k, k): value for k, value in shown["card"].items()}
        shown = _rounded(shown)
    return shown


def _rounded(value: Any) -> Any:  # noqa: ANN401 -- any plain value
    """Four digits of every number that is not whole."""
    if isinstance(value, dict):
        return {key: _rounded(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_rounded(one) for one in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


def _line(entry: Mapping[str, Any]) -> str:
    """What a file of a folder holds, in a line."""
    if "summary" in entry or "error" in entry:
        return str(entry.get("summary") or entry["error"])
    shapes = [" x ".join(map(str, shape)) for shape in entry.get("images", {}).values()]
    return ", ".join([entry["kind"], *filter(None, [entry.get("method")]), *shapes[:1]])


def _commands(scan: ScanFile) -> list[str]:
    """Commands that can use a scan."""
    if scan.prepared:
        return ["train", "reconstruct", "evaluate"]
    full = ["reconstruct --retrospective 4", "evaluate --target"] if scan.fully_sampled else []
    return ["prep", "reconstruct", *full, "evaluate"]
