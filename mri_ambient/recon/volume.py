"""A scan's file, reconstructed slice by slice: what is finished is kept, checked, scored, told."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, is_dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from .._version import __version__
from ..data_prep.prepare import Preparation
from ..errors import NumericalWarning, OutputExistsError, ScanFormatError
from ..io.hdf5 import open_h5, read_attributes
from ..io.reconstruction import RECONSTRUCTION_FORMAT, ReconstructionWriter
from ..io.scan_file import ScanFile
from ..methods import OnStep, Sampler
from ..methods.baselines import Baseline
from ..methods.presets import is_sampler, is_stochastic
from ..priors.prior import DenoiserSource
from ..runtime.files import json_text, write_json
from ..runtime.prefetch import one_ahead
from .checks import Checking
from .engine import Options, on_cpu, precision_of, prior_sha256, reconstruct
from .finished import Finished
from .reference import Reference, score
from .warnings import doubt_checks, doubt_prior, doubt_residual, doubt_spread, tell_flags


def settings(
    file: ScanFile,
    method: Sampler | Baseline,
    prior: DenoiserSource | None,
    options: Options,
    **more: Any,  # noqa: ANN401 -- preparation and mask options, dataclasses or None
) -> dict[str, Any]:
    """All that decides the result, as plain values: how a finished file is recognised."""
    extra = {key: asdict(value) if is_dataclass(value) else value for key, value in more.items()}  # type: ignore[arg-type]
    plain: dict[str, Any] = json.loads(
        json_text(
            {
                "input_sha256": file.sha256,
                "method": {"name": method.name} | asdict(method),  # type: ignore[call-overload]
                "prior_sha256": prior_sha256(prior),
                "seed": options.seed,
                "n_samples": options.n_samples if is_stochastic(method) else 1,
                "keep_samples": options.keep_samples and is_stochastic(method),
                "precision": precision_of(method, options),
                "compiled": options.compiled and is_sampler(method),
                "version": __version__,
                **extra,
            }
        )
    )
    return plain


def is_done(output: Path, name: str, wanted: dict[str, Any], *, overwrite: bool = False) -> bool:
    """Whether ``output`` holds this very reconstruction, ``<name>.h5``, already.

    Raises:
        OutputExistsError: it holds something else of this name: never overwritten if it is no
            reconstruction of ours, overwritten on request if it, or some slices of it, was made
            with other settings.
    """
    image, report = output / f"{name}.h5", output / f"{name}.json"
    if not image.exists():
        n_others, names = Finished.others(_unfinished(output, name), wanted)
        if n_others and not overwrite:
            raise OutputExistsError(
                f"{image}: {n_others} slices were finished with other settings "
                f"({_named(names, wanted)}) by a call that was cut off; give those to go on, or "
                "use --overwrite or another folder"
            )
        return False
    found = _settings_of(image)
    if overwrite:
        return False
    differing = sorted(key for key in wanted if wanted[key] != found.get(key))
    if differing:
        raise OutputExistsError(
            f"{image}: was made with other settings ({_named(differing, wanted)}); use --overwrite "
            "or another folder"
        )
    return report.exists()


def _named(differing: Sequence[str], wanted: dict[str, Any]) -> str:
    """Settings by name; of the precision, which another device may have chosen, also the value."""
    other = {"fp32": "bf16", "bf16": "fp32"}.get(wanted["precision"], "")
    names = (f"--precision {other}" if name == "precision" else name for name in differing)
    return ", ".join(names)


def _unfinished(output: Path, name: str) -> Path:
    """Where finished slices are kept until all are."""
    return output / f".{name}.unfinished"


def _settings_of(image: Path) -> dict[str, Any]:
    """The settings a reconstruction was made with.

    Raises:
        OutputExistsError: the file is something else, perhaps somebody's raw data.
    """
    try:
        with open_h5(image, for_text=True) as file:
            attributes = read_attributes(file, image)
    except ScanFormatError:
        attributes = {}
    if attributes.get("mri_ambient_format") != RECONSTRUCTION_FORMAT:
        raise OutputExistsError(
            f"{image}: is there already and no reconstruction of mri-ambient's, so it is never "
            "written over; choose another output folder"
        )
    found: dict[str, Any] = json.loads(str(attributes.get("settings", "{}")))
    return found


def reconstruct_file(
    file: ScanFile,
    preparation: Preparation,
    method: Sampler | Baseline,
    prior: DenoiserSource | None,
    output: Path,
    options: Options | None = None,
    *,
    reference: Reference | None = None,
    made_with: dict[str, Any] | None = None,
    checking: Checking | None = None,
    on_slice: Callable[[int, int], None] | None = None,
    on_step: OnStep | None = None,
) -> dict[str, Any]:
    """Reconstruct a scan slice by slice and write ``<stem>.h5`` and ``<stem>.json``.

    Finished slices are kept in a hidden folder until all are there, so that a call with the same
    settings goes on where one was cut off. They are written, and the next ones read, while others
    are computed.

    Args:
        file: the scan, raw or prepared, perhaps seen through a retrospective mask.
        preparation: what the first pass over it learned.
        method: a sampler or a baseline.
        prior: what images look like; samplers need one.
        output: folder to write to.
        options: seed, samples, batch size, device.
        reference: the fully sampled scan, to score the result against.
        made_with: the settings, see :func:`settings`; stored in the report. Without them nothing
            can be gone on with.
        checking: what is checked of every slice beside the data residual.
        on_slice: told (done, total) after every slice.
        on_step: told about every step of a sampler, also where hidden lines are predicted.

    Returns:
        The report, as written to the JSON file.

    Raises:
        MriAmbientError: a slice cannot be reconstructed, or ``output`` cannot be written.
        OutputExistsError: a file of this name is there and no reconstruction.
    """
    options = options or Options()
    if (image := output / f"{file.path.stem}.h5").exists():
        _settings_of(image)
    finished = Finished(
        _unfinished(output, file.path.stem), made_with, keep_samples=options.keep_samples
    )
    checking = checking or Checking()
    n_slices = options.slices_at_once(method, prior, file.shape)
    scores: dict[str, Any] = {}
    doubts = list(preparation.doubts)
    told: set[str] = set()
    with _noted(doubts, told):
        doubt_prior(file, method, prior)
        if checking.n_hidden:
            doubt_checks(file, method, prior)
    missing = [index for index in range(len(file)) if index not in finished]
    scans = one_ahead(file[first:last] for first, last in _runs(missing, n_slices))
    with finished, closing(scans):
        for scan in scans:
            noted: list[str] = []
            with _noted(noted, told):
                prepared = preparation.apply(scan)
                result = reconstruct(prepared, method, prior, options, on_step=on_step)
                if result.provenance["device"] != str(torch.device(options.device)):
                    # The device was too small, and so it is for the slices to come.
                    prior = on_cpu(prior)
                    options = replace(options, device="cpu", batch_size=1, compiled=False)
                elif fitted := result.provenance["fitted"]:
                    options = replace(options, batch_size=fitted)
                result = checking(prepared, result, method, prior, options, on_step=on_step)
            finished.add(prepared, result, preparation.noise_std, noted)
            if on_slice is not None:
                on_slice(len(finished), len(file))
    with _writer(image, file, method, options, made_with or {}, finished.provenance) as out:
        for index in range(len(file)):
            parts = finished.read(index)[0]
            out.write(index, parts["img"], parts.get("std"), parts.get("samples"))
    checks, facts, noted = finished.report()
    doubts += noted
    with _noted(doubts, told):
        doubt_spread(file, method, prior, options, facts["sigma_n"])
        doubt_residual(file, method, checks, facts["sigma_n"])
        tell_flags(file, checks)
        if reference is not None:
            magnitude = [finished.read(index)[0]["img"].abs() for index in range(len(file))]
            scores = _scores(file, torch.stack(magnitude), reference)
    report = {"scan_id": file.scan_id, "input": file.path.name, "slices": len(file), **facts}
    report |= {"acceleration": file.acceleration, "checks": checks, "doubts": doubts, **scores}
    report["settings"] = made_with or {}
    write_json(output / f"{file.path.stem}.json", report)
    finished.remove()
    return report


def _runs(missing: list[int], most: int) -> Iterator[tuple[int, int]]:
    """Runs ``[first, last)`` of neighbours, none longer than ``most``."""
    while missing:
        length = 1
        while length < min(most, len(missing)) and missing[length] == missing[0] + length:
            length += 1
        yield missing[0], missing[0] + length
        missing = missing[length:]


def _scores(file: ScanFile, magnitude: Tensor, reference: Reference) -> dict[str, Any]:
    """Scores, or a doubt where the reference is of no use: the image is worth keeping."""
    try:
        return score(magnitude, reference)
    except ScanFormatError as error:
        warnings.warn(f"{file.path.name}: not scored: {error}", NumericalWarning, stacklevel=2)
        return {}


@contextmanager
def _noted(doubts: list[str], told: set[str]) -> Iterator[None]:
    """Numerical warnings go on to the caller, those not ``told`` yet, and into the report."""
    caught: list[warnings.WarningMessage] = []
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", NumericalWarning)
            yield
    finally:  # what fails may have been doubted first
        for warning in caught:
            if isinstance(warning.message, NumericalWarning):
                doubts.append(str(warning.message))
                if doubts[-1] in told:
                    continue
                told.add(doubts[-1])
            warnings.warn_explicit(
                warning.message, warning.category, warning.filename, warning.lineno
            )


def _writer(
    image: Path,
    file: ScanFile,
    method: Sampler | Baseline,
    options: Options,
    made_with: dict[str, Any],
    provenance: dict[str, Any],
) -> ReconstructionWriter:
    several = options.n_samples > 1 and is_stochastic(method)
    # What the standard deviation is, for who opens the file without the report beside it.
    told = ("n_samples", "samples_are", "std_factor") if several else ()
    return ReconstructionWriter(
        image,
        len(file),
        file.recon_shape,
        attributes={
            "method": method.name,
            "acceleration": file.acceleration,
            "scan_id": file.scan_id,
            "voxel_mm": file.voxel_mm,
            "settings": json_text(made_with),
            **{name: provenance[name] for name in told},
        },
        with_std=several,
        n_samples=options.n_samples if several and options.keep_samples else 0,
    )


def summary_line(report: dict[str, Any]) -> str:
    """One line about a finished reconstruction."""
    provenance = report["provenance"]
    what = provenance["method"]
    if provenance["n_samples"] > 1:
        what += f" ({provenance['n_samples']} {provenance['samples_are']}"
        factor = provenance["std_factor"]
        what += ")" if factor == 1 else f", spread x {factor:.2f})"
    residuals = [check["data_residual"] for check in report["checks"]]
    residuals = [value for value in residuals if value > 0] or [0.0]  # empty slices tell nothing
    line = (
        f"{report['input']}: {what}, R = {report['acceleration']:.2f}, "
        f"sigma_n = {report['sigma_n']:.4f} ({report['noise_source']}), "
        f"residual {fmean(residuals):.2f} sigma_n, "
        f"{provenance['seconds']:.1f} s"
    )
    if "metrics" in report:
        scores = report["metrics"]
        line += (
            f"; PSNR {scores['psnr']:.2f} dB, SSIM {scores['ssim']:.3f}, "
            f"NMSE {scores['nmse']:.4f} against {scores['reference'].upper()}"
        )
        if scores["reference"] != "sense":
            line += f", PSNR {report['metrics_sense']['psnr']:.2f} dB against SENSE"
    return line


def slice_lines(report: dict[str, Any]) -> list[str]:
    """One line about every slice of a finished reconstruction."""
    return [_slice_line(check) for check in report["checks"]]


def _slice_line(check: dict[str, Any]) -> str:
    line = f"  slice {check['slice']}: data residual {check['data_residual']:.3f} sigma_n"
    if held_out := check.get("held_out"):
        line += (
            f", error on hidden lines {held_out['error']:.4f} (CG-SENSE "
            f"{held_out['cg_sense']:.4f}, L1-wavelet {held_out['l1_wavelet']:.4f})"
        )
    if "prior_share" in check:
        line += f", {100 * check['prior_share']:.1f} % of the energy is the prior's"
    return "; ".join([line, *check.get("flags", ())])
