"""From a prepared scan to an image: batches of slices through a method, and back to file units."""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, is_dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, Protocol

import torch
from torch import Tensor
from typing_extensions import TypeIs

from ._version import __version__
from .baselines import BASELINES, Baseline
from .batch import Batch
from .config import parse_option
from .errors import (
    ConfigError,
    DeviceError,
    MriAmbientError,
    NumericalWarning,
    OutputExistsError,
    ScanFormatError,
)
from .fourier import ifft2c, image_crop
from .io import file_sha256, json_text, write_json
from .io.base import ScanFile
from .io.hdf5 import open_h5, read_attributes
from .io.output import RECONSTRUCTION_FORMAT, ReconstructionWriter
from .metrics import Reference as ReferenceKind
from .metrics import evaluate_volume
from .prior import DenoiserSource, Prior
from .rng import rng_for
from .samplers import SAMPLERS, Aos, PriorOnly, Sampler, StepInfo
from .scan import Reconstruction, Scan
from .units import rss_weight

METHODS: dict[str, type[Sampler] | type[Baseline]] = {**SAMPLERS, **BASELINES}
"""Everything ``reconstruct --method`` takes."""

LEAST_SIDE = 16
"""Smaller images have no room for a calibration block."""

HIGH_RESIDUAL = 2.0
"""A method with a prior that leaves more than this of the data unexplained, in units of the noise
(at least :data:`LEAST_NOISE`), is worth a warning."""

LEAST_NOISE = 0.01
"""Noise per real channel, normalised units, below which the residual is not compared with it."""

FAR = 2.0
"""A scan undersampled this many times more than a prior's training scans is worth a warning."""

OnStep = Callable[[StepInfo], None]


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
class Options:
    """How to reconstruct, whatever the method.

    Attributes:
        seed: of everything random.
        n_samples: samples per slice of a stochastic method; their mean is the image.
        batch_size: slices x samples that share a call of the method.
        device: where to compute.
    """

    seed: int = 0
    n_samples: int = 1
    batch_size: int = 1
    device: torch.device | str = "cpu"

    def __post_init__(self) -> None:
        for name in ("n_samples", "batch_size"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, got {getattr(self, name)}")


def reconstruct(
    scan: Scan,
    method: Sampler | Baseline,
    prior: DenoiserSource | None = None,
    options: Options | None = None,
    *,
    on_step: OnStep | None = None,
) -> Reconstruction:
    """Reconstruct the slices of a prepared scan.

    Args:
        scan: prepared (with maps and noise_std); any number of slices.
        method: a sampler or a baseline.
        prior: what images look like; samplers need one.
        options: seed, samples, batch size, device.
        on_step: told about every step of a sampler.

    Returns:
        Images in normalised units; :func:`to_file_units` leads back to the scanner's.

    Raises:
        ConfigError: a sampler without a prior.
        DeviceError: out of memory even with a single image at a time.
    """
    options = options or Options()
    if scan.noise_std is None:
        raise ValueError(f"{scan.scan_id}: not prepared; noise_std is missing")
    started = time.monotonic()
    n_samples = options.n_samples if is_stochastic(method) else 1
    items = [(i, k) for i in range(len(scan.slices)) for k in range(n_samples)]
    whole = Batch.of([scan])
    samples = torch.empty(n_samples, *scan.ksp[:, 0].shape, dtype=scan.ksp.dtype)

    def compute(chunk: list[tuple[int, int]]) -> Tensor:
        rows = [i for i, _ in chunk]
        rng = [rng_for(options.seed, scan.scan_id, scan.slices[i], k) for i, k in chunk]
        return _run(method, prior, whole[rows].to(options.device), rng, on_step).cpu()

    for chunk, images in _backing_off(compute, items, options.batch_size):
        for (i, k), img in zip(chunk, images, strict=True):
            samples[k, i] = img
    img = samples.mean(dim=0)
    _check_finite(img, scan, method)
    return Reconstruction(
        img=img,
        scan_id=scan.scan_id,
        slices=scan.slices,
        std=samples.abs().std(dim=0) if n_samples > 1 else None,
        samples=samples if n_samples > 1 else None,
        checks=tuple(_residuals(whole, img)),
        provenance=_provenance(method, prior, options, n_samples, time.monotonic() - started),
    )


def _run(
    method: Sampler | Baseline,
    prior: DenoiserSource | None,
    batch: Batch,
    rng: list[torch.Generator],
    on_step: OnStep | None,
) -> Tensor:
    ksp = torch.where(batch.mask, batch.ksp, 0)
    if not is_sampler(method):
        return method(batch.op, ksp, noise_std=batch.noise_std)
    if prior is None:
        raise ConfigError(f"method {method.name!r} needs a prior; name one with -m")
    if not isinstance(method, Aos):
        _check_levels(prior, method.name)
    with torch.set_grad_enabled(method.needs_grad):
        return method(
            prior, batch.op, ksp, noise_std=batch.noise_std, rng=rng, on_step=on_step
        ).detach()


def _check_levels(prior: DenoiserSource, method: str) -> None:
    """Refuse to walk down noise levels a prior never saw.

    Raises:
        ConfigError: the prior knows a single level.
    """
    if isinstance(prior, Prior) and prior.facts.one_level:
        raise ConfigError(
            f"method {method!r} takes many steps, but the prior (objective "
            f"{prior.facts.objective!r}) saw no noise but the scanner's; use method aos"
        )


def is_sampler(method: Sampler | Baseline) -> TypeIs[Sampler]:
    """Whether a method asks a prior."""
    return type(method) in SAMPLERS.values()


def is_stochastic(method: Sampler | Baseline) -> bool:
    """Whether samples of a method differ."""
    return is_sampler(method) and method.stochastic


def _backing_off(
    compute: Callable[[list[tuple[int, int]]], Tensor], items: list[tuple[int, int]], size: int
) -> Iterator[tuple[list[tuple[int, int]], Tensor]]:
    """``compute`` on chunks of ``items``; chunks are halved whenever memory runs out.

    Raises:
        DeviceError: a single item is too much.
    """
    while items:
        chunk = items[:size]
        try:
            images = compute(chunk)
        except torch.OutOfMemoryError as error:
            if len(chunk) == 1:
                raise DeviceError(
                    f"out of memory with a single image at a time: {str(error).splitlines()[0]}; "
                    "use --device cpu, or fewer coils"
                ) from error
            size = len(chunk) // 2
            continue
        yield chunk, images
        items = items[size:]


def _check_finite(img: Tensor, scan: Scan, method: Sampler | Baseline) -> None:
    """Refuse to hand over NaN or Inf.

    Raises:
        MriAmbientError: the image of a slice holds some.
    """
    finite = img.isfinite().flatten(1).all(dim=1)
    if not bool(finite.all()):
        bad = [index for index, good in zip(scan.slices, finite.tolist(), strict=True) if not good]
        raise MriAmbientError(
            f"{scan.scan_id}: {method.name} gave values that are not finite in slices {bad}; "
            "look at the scan with `mri-ambient prep`, or try another prior or method"
        )


def _residuals(batch: Batch, img: Tensor) -> Iterator[dict[str, float]]:
    """Per slice: RMS of A x - y over the measured samples, in units of sigma_n per channel.

    0 for a slice that no coil sees.
    """
    ksp = torch.where(batch.mask, batch.ksp, 0)
    residual = (batch.op(img) - ksp).abs().square()
    coils = (batch.maps.abs().amax(dim=(-2, -1)) > 0).sum(dim=-1)
    n_samples = batch.mask.sum(dim=(-3, -2, -1)) * coils
    rms = (residual.sum(dim=(-3, -2, -1)) / (2 * n_samples.clamp(min=1))).sqrt() / batch.noise_std
    return ({"data_residual": float(value)} for value in rms)


def _provenance(
    method: Sampler | Baseline,
    prior: DenoiserSource | None,
    options: Options,
    n_samples: int,
    seconds: float,
) -> dict[str, Any]:
    return {
        "method": method.name,
        "method_options": asdict(method),  # type: ignore[call-overload]
        "prior_sha256": _sha256(prior) if is_sampler(method) else None,
        "seed": options.seed,
        "n_samples": n_samples,
        "device": str(options.device),
        "version": __version__,
        "torch": torch.__version__,
        "seconds": seconds,
    }


def _sha256(prior: DenoiserSource | None) -> str | None:
    """Hash of the prior's file; None for one that was never in a file."""
    return prior.facts.card.get("sha256") if isinstance(prior, Prior) else None


def to_file_units(img: Tensor, scan: Scan) -> Tensor:
    """RSS-equivalent images in the units of the scan's file, cut to the scanner's final matrix.

    Args:
        img: normalised, ``(slice, y, x)``, complex or real.
        scan: the prepared slices it was made from.

    Returns:
        ``(slice, *scan.recon_shape)``.
    """
    if scan.maps is None:
        raise ValueError(f"{scan.scan_id}: not prepared; maps are missing")
    weight = rss_weight(scan.maps, scan.coil_transform)
    return image_crop(img * weight * scan.scale, scan.recon_shape)


def draw_images(
    prior: DenoiserSource,
    sampler: PriorOnly,
    *,
    n_images: int,
    shape: tuple[int, int],
    maps: Tensor | None = None,
    seed: int = 0,
    device: torch.device | str = "cpu",
    on_step: OnStep | None = None,
) -> Tensor:
    """Images the prior believes in, normalised units.

    Args:
        prior: what images look like.
        sampler: how they are drawn.
        n_images: how many.
        shape: size ``(y, x)``; ignored if maps are given.
        maps: coil maps ``(1, coil, y, x)`` of a prepared scan; without them one coil sees all.
        seed: of everything random; image k does not depend on how many are drawn.
        device: where to compute.
        on_step: told about every step of every image.

    Returns:
        Complex ``(n_images, y, x)``, on the CPU.
    """
    _check_levels(prior, sampler.name)
    if n_images < 1:
        raise ConfigError(f"at least one image must be drawn, got {n_images}")
    if min(shape) < LEAST_SIDE:
        raise ConfigError(
            f"images have at least {LEAST_SIDE} pixels a side, got {shape[0]} x {shape[1]}"
        )
    if maps is None:
        maps = torch.ones(1, 1, *shape, dtype=torch.complex64)
    images = [
        sampler(prior, maps.to(device), rng=[rng_for(seed, "sample", k)], on_step=on_step)
        for k in range(n_images)
    ]
    return torch.cat(images).cpu()


def with_options(
    method: type[Sampler] | type[Baseline], given: dict[str, Any]
) -> Sampler | Baseline:
    """A method with the options that were given (not None) and its own defaults.

    Args:
        method: the method.
        given: values, or the text of values.

    Raises:
        ConfigError: an option this method does not have, or text that is no value of its kind.
    """
    options = {name: value for name, value in given.items() if value is not None}
    known = {field.name: field.default for field in fields(method)}  # type: ignore[arg-type]
    if unknown := sorted(set(options) - set(known)):
        raise ConfigError(
            f"method {method.name!r} has no option {', '.join(unknown)}; it has {sorted(known)}"
        )
    for name, value in options.items():
        if isinstance(value, str) and not isinstance(known[name], str):
            options[name] = parse_option(name, value, known[name])
    return method(**options)


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
                "prior_sha256": _sha256(prior),
                "seed": options.seed,
                "n_samples": options.n_samples,
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
    on_slice: Callable[[int, int], None] | None = None,
    on_step: OnStep | None = None,
) -> dict[str, Any]:
    """Reconstruct a scan slice by slice and write ``<stem>.h5`` and ``<stem>.json``.

    Args:
        file: the scan, raw or prepared, perhaps seen through a retrospective mask.
        preparation: what the first pass over it learned.
        method: a sampler or a baseline.
        prior: what images look like; samplers need one.
        output: folder to write to.
        options: seed, samples, batch size, device.
        reference: the fully sampled scan, to score the result against.
        made_with: the settings, see :func:`settings`; stored in the report.
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
    checks: list[dict[str, float]] = []
    magnitudes: list[Tensor] = []
    facts: dict[str, Any] = {}
    scores: dict[str, Any] = {}
    seconds = 0.0
    doubts = list(preparation.doubts)
    with _noted(doubts):
        _doubt_prior(file, method, prior)
        with _writer(image, file, method, options, made_with or {}) as out:
            for scan in _portions(file, options):
                prepared = preparation.apply(scan)
                result = reconstruct(prepared, method, prior, options, on_step=on_step)
                images = to_file_units(result.img, prepared)
                std = None if result.std is None else to_file_units(result.std, prepared)
                for i, index in enumerate(scan.slices):
                    out.write(index, images[i], None if std is None else std[i])
                    checks.append({"slice": index, **result.checks[i]})
                magnitudes.append(images.abs())
                facts = _facts(prepared, result, preparation.noise_std)
                seconds = seconds + result.provenance["seconds"]
                if on_slice is not None:
                    on_slice(len(checks), len(file))
        _doubt_residual(file, method, checks, facts["sigma_n"])
        if reference is not None:
            scores = _scores(file, torch.cat(magnitudes), reference)
    facts["provenance"]["seconds"] = seconds
    report = {"scan_id": file.scan_id, "input": file.path.name, "slices": len(file), **facts}
    report |= {"acceleration": file.acceleration, "checks": checks, "doubts": doubts, **scores}
    report["settings"] = made_with or {}
    write_json(output / f"{file.scan_id}.json", report)
    return report


def _portions(file: ScanFile, options: Options) -> Iterator[Scan]:
    """As many slices at a time as share a call of the method."""
    n_slices = max(1, options.batch_size // options.n_samples)
    for first in range(0, len(file), n_slices):
        yield file[first : first + n_slices]


def _scores(file: ScanFile, magnitude: Tensor, reference: Reference) -> dict[str, Any]:
    """Scores, or a doubt where the reference is of no use: the image is worth keeping."""
    try:
        return score(magnitude, reference)
    except ScanFormatError as error:
        warnings.warn(f"{file.path.name}: not scored: {error}", NumericalWarning, stacklevel=2)
        return {}


def _doubt_prior(file: ScanFile, method: Sampler | Baseline, prior: DenoiserSource | None) -> None:
    """Warn where a prior is asked about a kind of scan it was not trained on."""
    if not (is_sampler(method) and isinstance(prior, Prior)):
        return
    trained, rate = prior.facts.mask.acceleration, file.acceleration
    doubt = ""
    if isinstance(method, Aos) and not prior.facts.mask_conditioned and rate > 1:
        doubt = (
            "knows no masks and takes the zero-filled image for a noisy one; use method adps, or a "
            "prior trained with objective kspace or ambient"
        )
    elif prior.facts.mask_conditioned and rate > FAR * trained:
        doubt = f"was trained at R = {trained:.1f}, far from R = {rate:.1f} of this scan"
    if doubt:
        warnings.warn(f"{file.path.name}: the prior {doubt}", NumericalWarning, stacklevel=2)


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
def _noted(doubts: list[str]) -> Iterator[None]:
    """Numerical warnings go on to the caller and into the report as well."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", NumericalWarning)
        yield
    for warning in caught:
        if isinstance(warning.message, NumericalWarning):
            doubts.append(str(warning.message))
        warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)


def _writer(
    image: Path,
    file: ScanFile,
    method: Sampler | Baseline,
    options: Options,
    made_with: dict[str, Any],
) -> ReconstructionWriter:
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
        },
        with_std=options.n_samples > 1 and is_stochastic(method),
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
    line = (
        f"{report['input']}: {provenance['method']}, R = {report['acceleration']:.2f}, "
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
    return [
        f"  slice {check['slice']}: data residual {check['data_residual']:.3f} sigma_n"
        for check in report["checks"]
    ]
