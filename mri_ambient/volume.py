"""A scan's file, reconstructed slice by slice: what is finished is kept, checked, scored, told."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, is_dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any, Protocol, Self

import torch
from torch import Tensor

from ._version import __version__
from .atomic import file_sha256, json_text, write_json
from .baselines import Baseline
from .batch import Batch
from .checkpoint import load_tensors, read_header, save_tensors
from .coverage import is_regular
from .device import autocast_on
from .errors import (
    CheckpointError,
    ConfigError,
    NumericalWarning,
    OutputExistsError,
    ScanFormatError,
)
from .fourier import ifft2c, image_crop
from .io.base import ScanFile
from .io.hdf5 import open_h5, read_attributes
from .io.output import RECONSTRUCTION_FORMAT, ReconstructionWriter
from .masks import is_line_mask
from .metrics import Reference as ReferenceKind
from .metrics import evaluate_volume
from .prior import DenoiserSource, Prior
from .reconstruct import (
    OnStep,
    Options,
    is_sampler,
    is_stochastic,
    on_cpu,
    prior_sha256,
    reconstruct,
    std_factor,
    to_file_units,
)
from .samplers import Aos, Sampler
from .scan import Reconstruction, Scan
from .validate import predict_hidden, prior_share

HIGH_RESIDUAL = 2.0
"""A method with a prior that leaves more than this of the data unexplained, in units of the noise
(at least :data:`LEAST_NOISE`), is worth a warning."""

LEAST_NOISE = 0.01
"""Noise per real channel, normalised units, below which the residual is not compared with it."""

WORSE = 1.1
"""Hidden lines predicted with this many times the error of L1-wavelet, noise taken off both, are
flagged: a few lines tell no finer."""

MOSTLY_NOISE = 0.8
"""Hidden lines with a larger share of noise in their energy tell nothing."""

BRIGHT = 3.0
"""Images this many times brighter or darker than a prior's training images are flagged."""

NOISY = 1.5
"""And scans whose noise is this many times that of the noisiest training scan."""

ALIKE = 1.5
"""A calibration is for scans whose acceleration and noise are within this factor of its own."""

FAR = 2.0
"""A scan undersampled this many times more than a prior's training scans is worth a warning."""


class Preparation(Protocol):
    """What was learned about a volume in a first pass, ready to be applied to its slices."""

    @property
    def doubts(self) -> Sequence[str]:
        """Numerical doubts of the first pass, a sentence each."""
        ...

    @property
    def noise_std(self) -> float:
        """Noise per real channel, in the units of the file."""
        ...

    def apply(self, scan: Scan) -> Scan:
        """Whiten, compress, estimate maps and normalise."""
        ...


@dataclass(frozen=True)
class Reference:
    """The fully sampled scan, for metrics and nothing else.

    Attributes:
        file: the scan without a retrospective mask.
        preparation: of that scan, for maps from the full data.
    """

    file: ScanFile
    preparation: Preparation

    def volumes(self) -> dict[ReferenceKind, Tensor]:
        """Reference magnitudes ``(slice, y, x)`` in file units, RSS first if it can be had.

        Single-coil files are scored as fastMRI scores them, against their emulated single coil
        (ESC). RSS is the file's own target, or computed as fastMRI does; a prepared file no longer
        has the measured coils. SENSE is ``|S^H F^H k|`` with maps from the full data.
        """
        sense = []
        for scan in self.file:
            with warnings.catch_warnings():  # doubts were told when the scan itself was prepared
                warnings.simplefilter("ignore", NumericalWarning)
                prepared = self.preparation.apply(scan)
            full = Batch.of([prepared])
            sense.append(to_file_units(full.op.adjoint(full.ksp).abs(), prepared))
        volumes: dict[ReferenceKind, Tensor] = {}
        if self.file.format != "prepared":
            single = self.file.shape[1] == 1
            stored = self._stored("reconstruction_esc") if single else None
            if stored is not None:
                volumes["esc"] = stored
            else:
                stored = self._stored("reconstruction_rss")
                volumes["rss"] = self._rss() if stored is None else stored
        return volumes | {"sense": torch.cat(sense)}

    def _stored(self, name: str) -> Tensor | None:
        """The file's own target, or None, with a warning if there is one of no use."""
        wanted = (len(self.file), *self.file.recon_shape)
        try:
            stored = self.file.read_target(name)
            if stored is None or (tuple(stored.shape) == wanted and bool(stored.any())):
                return stored
            reason = f"is {tuple(stored.shape)}, wanted {wanted}" if stored.any() else "is zero"
        except ScanFormatError as error:
            reason = f"cannot be used ({error})"
        warnings.warn(
            f"{self.file.path.name}: its {name} {reason}; scored against the RSS of "
            "its k-space instead",
            NumericalWarning,
            stacklevel=2,
        )
        return None

    def _rss(self) -> Tensor:
        images = (ifft2c(scan.ksp).abs().square().sum(dim=-3).sqrt() for scan in self.file)
        return torch.cat([image_crop(img, self.file.recon_shape) for img in images])


def score(magnitude: Tensor, reference: Reference) -> dict[str, Any]:
    """FastMRI's numbers, against RSS where it can be had, and against SENSE."""
    scores = [
        asdict(evaluate_volume(magnitude.numpy(), volume.numpy(), reference=kind))
        for kind, volume in reference.volumes().items()
    ]
    return {"metrics": scores[0], "metrics_sense": scores[-1]}


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
                "input_sha256": file_sha256(file.path),
                "method": {"name": method.name} | asdict(method),  # type: ignore[call-overload]
                "prior_sha256": prior_sha256(prior),
                "seed": options.seed,
                "n_samples": options.n_samples if is_stochastic(method) else 1,
                "keep_samples": options.keep_samples and is_stochastic(method),
                "bf16": autocast_on(options.precision, torch.device(options.device)),
                "compiled": options.compiled and is_sampler(method),
                "version": __version__,
                **extra,
            }
        )
    )
    return plain


def is_done(output: Path, scan_id: str, wanted: dict[str, Any], *, overwrite: bool = False) -> bool:
    """Whether ``output`` holds this very reconstruction already.

    Raises:
        OutputExistsError: it holds something else of this name: never overwritten if it is no
            reconstruction of ours, overwritten on request if it was made with other settings.
    """
    image, report = output / f"{scan_id}.h5", output / f"{scan_id}.json"
    if not image.exists():
        return False
    found = _settings_of(image)
    if overwrite:
        return False
    differing = sorted(key for key in wanted if wanted[key] != found.get(key))
    if differing:
        raise OutputExistsError(
            f"{image}: was made with other settings ({', '.join(differing)}); use --overwrite or "
            "another folder"
        )
    return report.exists()


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
    settings goes on where one was cut off. They are written while the next are computed.

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
        on_step: told about every step of a sampler.

    Returns:
        The report, as written to the JSON file.

    Raises:
        MriAmbientError: a slice cannot be reconstructed, or ``output`` cannot be written.
        OutputExistsError: a file of this name is there and no reconstruction.
    """
    options = options or Options()
    if (image := output / f"{file.scan_id}.h5").exists():
        _settings_of(image)
    folder = output / f".{file.scan_id}.unfinished"
    finished = _Finished(folder, made_with, keep_samples=options.keep_samples)
    checking = checking or Checking()
    n_images = options.images_at_once(method, prior, file.shape[-2:], file.shape[1])
    n_slices = max(1, n_images // (options.n_samples if is_stochastic(method) else 1))
    scores: dict[str, Any] = {}
    doubts = list(preparation.doubts)
    told: set[str] = set()
    with _noted(doubts, told):
        doubt_prior(file, method, prior)
    with finished:
        missing = [index for index in range(len(file)) if index not in finished]
        for first, last in _runs(missing, n_slices):
            noted: list[str] = []
            with _noted(noted, told):
                prepared = preparation.apply(file[first:last])
                result = reconstruct(prepared, method, prior, options, on_step=on_step)
                if result.provenance["device"] != str(torch.device(options.device)):
                    # The device was too small, and so it is for the slices to come.
                    prior = on_cpu(prior)
                    options = replace(options, device="cpu", batch_size=1, compiled=False)
                elif fitted := result.provenance["fitted"]:
                    options = replace(options, batch_size=fitted)
                result = checking(prepared, result, method, prior, options)
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
        _doubt_spread(file, method, prior, options, facts["sigma_n"])
        _doubt_residual(file, method, checks, facts["sigma_n"])
        _tell_flags(file, checks)
        if reference is not None:
            magnitude = [finished.read(index)[0]["img"].abs() for index in range(len(file))]
            scores = _scores(file, torch.stack(magnitude), reference)
    report = {"scan_id": file.scan_id, "input": file.path.name, "slices": len(file), **facts}
    report |= {"acceleration": file.acceleration, "checks": checks, "doubts": doubts, **scores}
    report["settings"] = made_with or {}
    write_json(output / f"{file.scan_id}.json", report)
    finished.remove()
    return report


@dataclass(frozen=True)
class Checking:
    """What is checked of every slice beside the data residual, without a reference.

    Attributes:
        n_hidden: measured outer lines to hide, for a second reconstruction that predicts them; 0
            leaves that out.
        flags: look for what does not fit the prior.
    """

    n_hidden: int = 0
    flags: bool = False

    def __call__(
        self,
        scan: Scan,
        result: Reconstruction,
        method: Sampler | Baseline,
        prior: DenoiserSource | None,
        options: Options,
    ) -> Reconstruction:
        """The result with more in its checks."""
        checks: list[dict[str, Any]] = [dict(check) for check in result.checks]
        if self.n_hidden:
            rows = self._hidden(scan, method, prior, options)
            for check, row in zip(checks if rows else [], rows, strict=True):
                check["held_out"] = row
        if self.flags:
            batch = Batch.of([scan])
            shares = prior_share(batch, result.img)
            for i, check in enumerate(checks):
                if is_sampler(method):
                    check["prior_share"] = float(shares[i])
                support = batch.op.support[i]
                energy = float(result.img[i].abs().square().sum())
                rms = (energy / (2 * max(int(support.sum()), 1))) ** 0.5
                check["flags"] = list(_flags(check, rms, scan, method, prior))
        return replace(result, checks=tuple(checks))

    def _hidden(
        self,
        scan: Scan,
        method: Sampler | Baseline,
        prior: DenoiserSource | None,
        options: Options,
    ) -> list[dict[str, float]]:
        """What hidden lines tell, or a warning where there are too few: the image is worth more."""
        try:
            return predict_hidden(scan, method, prior, options, self.n_hidden)
        except ConfigError as error:
            warnings.warn(
                f"{scan.scan_id}: hidden lines are not checked: {error}",
                NumericalWarning,
                stacklevel=2,
            )
            return []


def _flags(
    check: dict[str, Any],
    rms: float,
    scan: Scan,
    method: Sampler | Baseline,
    prior: DenoiserSource | None,
) -> Iterator[str]:
    """Sentences about what does not fit, of one slice."""
    sigma_n = float(scan.noise_std or 0.0)
    if check["data_residual"] * sigma_n / max(sigma_n, LEAST_NOISE) > HIGH_RESIDUAL:
        yield f"leaves {check['data_residual']:.1f} sigma_n of the measurement unexplained"
    yield from _hidden_flags(check.get("held_out"))
    if not (is_sampler(method) and isinstance(prior, Prior)):
        return
    if rms > 0 and not 1 / BRIGHT < rms / prior.sigma_data < BRIGHT:
        yield f"is {rms / prior.sigma_data:.2f} times as bright as the prior's training images"
    # Cards of older priors do not say it; the smallest trained level lies above nearly all of them.
    most = prior.facts.card.get("sigma_n", [prior.sigma_min])[-1]
    if sigma_n > NOISY * most:
        yield f"has noise {sigma_n:.4f}, the prior's training scans at most {most:.4f}"


def _hidden_flags(held_out: dict[str, float] | None) -> Iterator[str]:
    """What is wrong with predictions of hidden lines, beyond what their noise explains."""
    if not held_out or held_out["noise"] > MOSTLY_NOISE:
        return
    excess, of_l1 = (held_out[name] - held_out["noise"] for name in ("error", "l1_wavelet"))
    if held_out["error"] > 1 and excess > of_l1:
        yield f"predicts hidden lines worse than nothing would (error {held_out['error']:.3f})"
    elif excess > max(WORSE * of_l1, 0.0):
        yield (
            f"predicts hidden lines worse (error {held_out['error']:.3f}, noise alone "
            f"{held_out['noise']:.3f}) than L1-wavelet ({held_out['l1_wavelet']:.3f})"
        )


def _tell_flags(file: ScanFile, checks: Sequence[dict[str, Any]]) -> None:
    """Warn about flagged slices, one warning a scan."""
    flagged = [check for check in checks if check.get("flags")]
    if flagged:
        places = ", ".join(str(check["slice"]) for check in flagged)
        first = flagged[0]
        warnings.warn(
            f"{file.path.name}: {len(flagged)} of {len(checks)} slices are flagged ({places}); "
            f"slice {first['slice']} {first['flags'][0]}",
            NumericalWarning,
            stacklevel=2,
        )


def _runs(missing: list[int], most: int) -> Iterator[tuple[int, int]]:
    """Runs ``[first, last)`` of neighbours, none longer than ``most``."""
    while missing:
        length = 1
        while length < min(most, len(missing)) and missing[length] == missing[0] + length:
            length += 1
        yield missing[0], missing[0] + length
        missing = missing[length:]


class _Finished:
    """Slices of a reconstruction that are done, each a file of its own, written by a thread.

    Args:
        folder: where they are kept.
        settings: what they were made with; slices made with others, or with None, are dropped.
        keep_samples: whether samples are kept beside their mean.
    """

    def __init__(
        self, folder: Path, settings: dict[str, Any] | None, *, keep_samples: bool
    ) -> None:
        self.folder, self.settings, self.keep_samples = folder, settings, keep_samples
        self.done: set[int] = set()
        for path in sorted(folder.glob("*.safetensors")):
            try:
                header = read_header(path)
            except CheckpointError:  # of a write that was cut off
                continue
            if settings is None or header.get("settings") != settings:
                self.remove()
                return
            self.done.add(int(header["slice"]))

    def __contains__(self, index: int) -> bool:
        return index in self.done

    def __len__(self) -> int:
        return len(self.done)

    def __enter__(self) -> Self:
        self.thread = ThreadPoolExecutor(max_workers=1)
        self.writing: list[Future[None]] = []
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.thread.shutdown(wait=True)
        for future in self.writing if kind is None else []:
            future.result()

    def add(self, scan: Scan, result: Reconstruction, noise_std: float, doubts: list[str]) -> None:
        """Keep the slices of a result; raises what went wrong with earlier ones."""
        while self.writing and self.writing[0].done():
            self.writing.pop(0).result()
        self.writing.append(self.thread.submit(self._write, scan, result, noise_std, doubts))
        self.done.update(scan.slices)

    def _write(
        self, scan: Scan, result: Reconstruction, noise_std: float, doubts: list[str]
    ) -> None:
        tensors = {"img": to_file_units(result.img, scan)}
        if result.std is not None:
            tensors["std"] = to_file_units(result.std, scan)
        if result.samples is not None and self.keep_samples:
            samples = [to_file_units(images, scan) for images in result.samples]
            tensors["samples"] = torch.stack(samples, dim=1)
        for i, index in enumerate(scan.slices):
            header = {
                "settings": self.settings,
                "slice": index,
                "check": {"slice": index, **result.checks[i]},
                "doubts": doubts,
                "facts": json.loads(json_text(_facts(scan, result, noise_std))),
                "seconds": result.provenance["seconds"] / len(scan.slices),
            }
            parts = {name: tensor[i] for name, tensor in tensors.items()}
            save_tensors(self.folder / f"{index:05d}.safetensors", parts, header)

    def read(self, index: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Images of a slice in file units, and its header."""
        return load_tensors(self.folder / f"{index:05d}.safetensors")

    @property
    def provenance(self) -> dict[str, Any]:
        """How the last of the images was made."""
        found: dict[str, Any] = self.read(max(self.done))[1]["facts"]["provenance"]
        return found

    def report(self) -> tuple[list[dict[str, Any]], dict[str, Any], list[str]]:
        """The checks of all slices, facts about scan and method, and doubts, each told once."""
        headers = [self.read(index)[1] for index in sorted(self.done)]
        facts: dict[str, Any] = headers[-1]["facts"]
        facts["provenance"]["seconds"] = sum(header["seconds"] for header in headers)
        doubts = dict.fromkeys(doubt for header in headers for doubt in header["doubts"])
        return [header["check"] for header in headers], facts, list(doubts)

    def remove(self) -> None:
        """Forget all of them."""
        self.done.clear()
        shutil.rmtree(self.folder, ignore_errors=True)


def _scores(file: ScanFile, magnitude: Tensor, reference: Reference) -> dict[str, Any]:
    """Scores, or a doubt where the reference is of no use: the image is worth keeping."""
    try:
        return score(magnitude, reference)
    except ScanFormatError as error:
        warnings.warn(f"{file.path.name}: not scored: {error}", NumericalWarning, stacklevel=2)
        return {}


def doubt_prior(file: ScanFile, method: Sampler | Baseline, prior: DenoiserSource | None) -> None:
    """Warn where a prior is asked about a kind of scan it was not trained on."""
    if not (is_sampler(method) and isinstance(prior, Prior)):
        return
    trained, rate = prior.facts.mask.acceleration, file.acceleration
    kinds = {group["kind"] for group in prior.facts.card.get("coverage", ())}
    kind = "lines" if is_line_mask(file.mask) else "samples"
    doubt = ""
    if isinstance(method, Aos) and not prior.knows_masks and rate > 1:
        doubt = (
            "knows no masks and takes the zero-filled image for a noisy one; use method dds, or a "
            "prior trained with objective kspace or ambient"
        )
    elif prior.knows_masks and rate > FAR * trained:
        doubt = f"was trained at R = {trained:.1f}, far from R = {rate:.1f} of this scan"
    elif prior.knows_masks and kinds and kind not in kinds:
        seen = "whole lines" if kind == "samples" else "2-D masks"
        doubt = f"saw {seen} only in training, and this scan has others"
    elif prior.knows_masks and is_regular(file.mask) and _few_regular(prior):
        doubt = (
            "saw next to no equispaced masks in training, whose aliasing is unlike that of others"
        )
    if doubt:
        warnings.warn(f"{file.path.name}: the prior {doubt}", NumericalWarning, stacklevel=2)


def _few_regular(prior: Prior) -> bool:
    """Whether under one in twenty of its training scans of whole lines was equispaced."""
    groups = [g for g in prior.facts.card.get("coverage", ()) if g.get("kind") == "lines"]
    n_scans, n_regular = (sum(g.get(name, 0) for g in groups) for name in ("n_scans", "n_regular"))
    return bool(n_regular < 0.05 * n_scans)


def _doubt_spread(
    file: ScanFile,
    method: Sampler | Baseline,
    prior: DenoiserSource | None,
    options: Options,
    sigma_n: float,
) -> None:
    """Warn where a prior was calibrated, but not for this method, these options or such scans."""
    if not (isinstance(prior, Prior) and is_stochastic(method) and options.n_samples > 1):
        return
    known = prior.facts.card.get("calibration", {})
    factor = std_factor(method, prior, options.n_samples)
    if factor is not None:
        for name, value in (("acceleration", file.acceleration), ("sigma_n", sigma_n)):
            low, high = known[method.name].get(name, (value, value))
            if not low / ALIKE <= value <= high * ALIKE:
                warnings.warn(
                    f"{file.path.name}: the spread is multiplied by {factor:.2f}, which was fitted "
                    f"on scans with {name} {low:.3g} to {high:.3g}, and this one has {value:.3g}: "
                    "it may be far off",
                    NumericalWarning,
                    stacklevel=2,
                )
    elif known:
        warnings.warn(
            f"{file.path.name}: the prior was calibrated for {', '.join(known)} with other options "
            f"or another number of samples than these of {method.name}: the spread is as it came "
            "out",
            NumericalWarning,
            stacklevel=2,
        )


def _doubt_residual(
    file: ScanFile,
    method: Sampler | Baseline,
    checks: Sequence[dict[str, float]],
    noise_std: float,
) -> None:
    """Warn where an image that a prior made leaves much of the measurement unexplained."""
    if not is_sampler(method):
        return
    unit = noise_std / max(noise_std, LEAST_NOISE)
    high = [check for check in checks if check["data_residual"] * unit > HIGH_RESIDUAL]
    if high:
        worst = max(high, key=lambda check: check["data_residual"])
        warnings.warn(
            f"{file.path.name}: {method.name} leaves {worst['data_residual']:.1f} sigma_n of the "
            f"measurement unexplained in slice {worst['slice']} (more than {HIGH_RESIDUAL:g} in "
            f"{len(high)} of {len(checks)} slices): the image does not fit the data; take more "
            "steps, another method, or look at the maps",
            NumericalWarning,
            stacklevel=2,
        )


@contextmanager
def _noted(doubts: list[str], told: set[str]) -> Iterator[None]:
    """Numerical warnings go on to the caller, those not ``told`` yet, and into the report."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", NumericalWarning)
        yield
    for warning in caught:
        if isinstance(warning.message, NumericalWarning):
            doubts.append(str(warning.message))
            if doubts[-1] in told:
                continue
            told.add(doubts[-1])
        warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)


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


def _facts(prepared: Scan, result: Reconstruction, noise_std: float) -> dict[str, Any]:
    """What the report says of the scan as it was prepared, and of how the image was made."""
    return {
        "coils": prepared.n_coils,
        "matrix": list(prepared.shape),
        "recon_shape": list(prepared.recon_shape),
        "sigma_n": prepared.noise_std,
        "noise_std": noise_std,
        "noise_source": prepared.noise_source,
        "scale": prepared.scale,
        "steps": list(prepared.steps),
        "provenance": result.provenance,
    }


def summary_line(report: dict[str, Any]) -> str:
    """One line about a finished reconstruction."""
    provenance = report["provenance"]
    what = provenance["method"]
    if provenance["n_samples"] > 1:
        what += f" ({provenance['n_samples']} {provenance['samples_are']}"
        factor = provenance["std_factor"]
        what += ")" if factor == 1 else f", spread x {factor:.2f})"
    line = (
        f"{report['input']}: {what}, R = {report['acceleration']:.2f}, "
        f"sigma_n = {report['sigma_n']:.4f} ({report['noise_source']}), "
        f"residual {fmean(check['data_residual'] for check in report['checks']):.2f} sigma_n, "
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
