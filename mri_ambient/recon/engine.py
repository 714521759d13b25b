"""From a prepared scan to an image: batches of slices through a method, and back to file units."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from .._version import __version__
from ..errors import ConfigError, DeviceError, MriAmbientError, NumericalWarning
from ..methods import Aos, OnStep, PriorOnly, Sampler
from ..methods.baselines import Baseline
from ..methods.presets import check_levels, is_sampler, is_stochastic
from ..physics.fourier import image_crop
from ..physics.units import rss_weight
from ..priors.prior import DenoiserSource, Prior
from ..rng import rng_for
from ..runtime.device import autocast_on, check_precision, lost, out_of_memory
from ..scan import Batch, Reconstruction, Scan
from .memory import bytes_per_image, images_at_once

COMPILER = ("torch._dynamo", "torch._inductor")
"""Where the errors of ``torch.compile`` are defined."""

ESTIMATES = "estimates with a spread"
"""What samples are called that are not drawn from the posterior."""

FAR_TOO_BRIGHT = 10.0
"""Drawn images this many times as bright as a prior's training images are none."""

LEAST_SIDE = 16
"""Smaller images have no room for a calibration block."""

T = TypeVar("T")


@dataclass(frozen=True)
class Options:
    """How to reconstruct, whatever the method.

    Attributes:
        seed: of everything random.
        n_samples: samples per slice of a stochastic method; their mean is the image.
        batch_size: slices x samples that share a call of the method; by default as many as the
            free memory allows and are of use. Halved whenever memory runs out.
        device: where to compute.
        precision: of the networks, see :data:`PRECISIONS`; physics and state stay in fp32.
        cpu_fallback: go on with the CPU where a single image is too much for the device.
        keep_samples: write the samples beside their mean.
        compiled: translate the networks with ``torch.compile``, which takes minutes once.
    """

    seed: int = 0
    n_samples: int = 4
    batch_size: int | None = None
    device: torch.device | str = "cpu"
    precision: str = "auto"
    cpu_fallback: bool = False
    keep_samples: bool = False
    compiled: bool = False

    def __post_init__(self) -> None:
        if self.n_samples < 1:
            raise ConfigError(f"at least one sample is needed, got {self.n_samples} (n_samples)")
        if self.batch_size is not None and self.batch_size < 1:
            raise ConfigError(f"the batch size must be at least 1, got {self.batch_size}")
        check_precision(self.precision)

    def images_at_once(
        self,
        method: Sampler | Baseline,
        prior: DenoiserSource | None,
        shape: tuple[int, int],
        n_coils: int,
    ) -> int:
        """Slices x samples that share a call of the method."""
        if self.batch_size is not None:
            return self.batch_size
        net = prior.net if isinstance(prior, Prior) and is_sampler(method) else None
        backwards = is_sampler(method) and method.needs_grad
        n_bytes = bytes_per_image(net, shape, n_coils, needs_grad=backwards)
        return images_at_once(n_bytes, shape, torch.device(self.device))

    def slices_at_once(
        self,
        method: Sampler | Baseline,
        prior: DenoiserSource | None,
        shape: tuple[int, int, int, int],
    ) -> int:
        """Slices of a volume ``(slice, coil, y, x)`` that are read and reconstructed together."""
        _, n_coils, ny, nx = shape
        n_images = self.images_at_once(method, prior, (ny, nx), n_coils)
        return max(1, n_images // (self.n_samples if is_stochastic(method) else 1))


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
        prior: what images look like; samplers need one. Its network is moved to the device.
        options: seed, samples, batch size, device.
        on_step: told about every step of a sampler.

    Returns:
        Images in normalised units; :func:`to_file_units` leads back to the scanner's.

    Raises:
        ConfigError: a sampler without a prior.
        DeviceError: out of memory even with a single image at a time.
    """
    (result,) = reconstruct_many([scan], method, prior, options, on_step=on_step)
    return result


def reconstruct_many(
    scans: Sequence[Scan],
    method: Sampler | Baseline,
    prior: DenoiserSource | None = None,
    options: Options | None = None,
    *,
    on_step: OnStep | None = None,
) -> list[Reconstruction]:
    """Reconstruct the slices of several prepared scans of one matrix size and number of coils.

    As :func:`reconstruct` does each of them, but their slices share calls of the method: scans of a
    slice each would leave a GPU idle.
    """
    options = options or Options()
    for scan in scans:
        if scan.noise_std is None:
            raise ValueError(f"{scan.scan_id}: not prepared; noise_std is missing")
    if len({(scan.shape, scan.n_coils) for scan in scans}) > 1:  # coils that pad would draw noise
        raise ValueError("scans of several sizes or numbers of coils")
    started = time.monotonic()
    n_samples = options.n_samples if is_stochastic(method) else 1
    whole = Batch.of(scans)
    names = [(scan.scan_id, index) for scan in scans for index in scan.slices]
    items = [(row, k) for row in range(len(whole)) for k in range(n_samples)]
    work = _Work(method, prior, options, on_step)
    samples = work.room_for((n_samples, *whole.ksp[:, 0].shape), whole.ksp.dtype)
    size = options.images_at_once(method, prior, scans[0].shape, scans[0].n_coils)

    def compute(chunk: list[tuple[int, int]]) -> Tensor:
        rng = [rng_for(options.seed, *names[row], k) for row, k in chunk]
        return work(whole[[row for row, _ in chunk]], rng)

    fitted = None
    for chunk, images, allowed in _backing_off(compute, items, size, work.move_to_cpu):
        fitted = allowed if allowed < size else None
        work.fetch(images, [samples[k, row] for row, k in chunk])
    work.wait()
    factor = std_factor(method, prior, n_samples) or 1.0
    provenance = {
        **_provenance(method, work.prior, options, n_samples, work.device),
        "std_factor": factor,
        "device": str(work.device),
        "fitted": fitted,  # images at once, where more were too much
    }
    seconds = (time.monotonic() - started) / len(whole)
    results, first = [], 0
    for scan in scans:
        rows = slice(first, first := first + len(scan.slices))
        drawn = samples[:, rows]
        img = drawn.mean(dim=0)
        _check_finite(img, scan, method)
        results.append(
            Reconstruction(
                img=img,
                scan_id=scan.scan_id,
                slices=scan.slices,
                std=factor * drawn.abs().std(dim=0) if n_samples > 1 else None,
                samples=drawn if n_samples > 1 else None,
                checks=tuple(work.residuals(whole[rows], img)),
                provenance=provenance | {"seconds": seconds * len(scan.slices)},
            )
        )
    return results


def std_factor(
    method: Sampler | Baseline, prior: DenoiserSource | None, n_samples: int
) -> float | None:
    """What the prior's card says the spread of so many samples of this method lacks, if it does."""
    entry = calibration_of(method, prior, n_samples)
    return None if entry is None else float(entry["factor"])


def calibration_of(
    method: Sampler | Baseline, prior: DenoiserSource | None, n_samples: int
) -> dict[str, Any] | None:
    """What the prior's card says of so many samples of this method with its options."""
    if not (is_sampler(method) and isinstance(prior, Prior)):
        return None
    wanted = {"method": method.name, "options": asdict(method), "n_samples": n_samples}  # type: ignore[call-overload]
    for entry in prior.facts.card.get("calibration", ()):
        if all(entry[key] == value for key, value in wanted.items()):
            found: dict[str, Any] = entry
            return found
    return None


def samples_are(method: Sampler | Baseline, prior: DenoiserSource | None) -> str:
    """What samples may be called.

    Only a prior that sees the whole state can draw from the posterior; one that was trained under
    masks has seen the data already, or never sees all of the state. And the method must take steps
    that are small enough; A-DPS is biased by itself.
    """
    plain = isinstance(prior, Prior) and not prior.knows_masks
    right = plain and is_sampler(method) and method.draws_posterior
    return "posterior samples" if right else ESTIMATES


class _Work:
    """A method at work on a device, until it has to go on with the CPU."""

    def __init__(
        self,
        method: Sampler | Baseline,
        prior: DenoiserSource | None,
        options: Options,
        on_step: OnStep | None,
    ) -> None:
        self.method, self.prior, self.on_step = method, prior, on_step
        self.options, self.device = options, torch.device(options.device)
        if is_sampler(method) and isinstance(prior, Prior):
            try:
                with _running_out():
                    prior.to(self.device)
            except torch.OutOfMemoryError as error:
                if not self.move_to_cpu():
                    raise DeviceError(
                        f"out of memory: the prior does not fit on {self.device}; use --device "
                        "cpu or --cpu-fallback"
                    ) from error
        on_device = self.device == torch.device(options.device)  # and not fallen back
        if options.compiled and on_device and is_sampler(method) and isinstance(prior, Prior):
            prior.net.compile_networks()

    def __call__(self, batch: Batch, rng: list[torch.Generator]) -> Tensor:
        """Images of a batch, on the device."""
        with self._told(), self._precision(), _running_out():
            return self._run(batch.to(self.device), rng)

    def room_for(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Where images are collected: for a GPU in page-locked memory, if there is any."""
        if self.device.type == "cuda":
            with suppress(RuntimeError):
                return torch.empty(shape, dtype=dtype, pin_memory=True)
        return torch.empty(shape, dtype=dtype)

    def fetch(self, images: Tensor, places: list[Tensor]) -> None:
        """Copy images to the CPU, while a GPU goes on with the next; wait before they are used."""
        with self._told():
            for img, place in zip(images, places, strict=True):
                place.copy_(img, non_blocking=place.is_pinned())

    def wait(self) -> None:
        """Until all that a GPU was given to do is done."""
        asked = torch.device(self.options.device)
        if asked.type == "cuda":
            with self._told():
                try:
                    torch.cuda.synchronize(asked)
                except RuntimeError as error:
                    never_there = self.device.type == "cpu" and out_of_memory(error)
                    if not never_there:  # as it had no room, not even to be asked
                        raise

    def residuals(self, batch: Batch, img: Tensor) -> Iterator[dict[str, float]]:
        """Per slice: RMS of A x - y over the measured samples, in units of sigma_n per channel.

        0 for a slice that no coil sees.
        """
        for i in range(len(batch)):
            rms = here_or_on_the_cpu(_residual, batch[[i]], img[[i]], self.device)
            yield {"data_residual": rms}

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Failures of the compiler or the device become errors that say what to do."""
        try:
            yield
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            if type(error).__module__.startswith(COMPILER):
                raise DeviceError(
                    f"the networks cannot be compiled ({str(error).splitlines()[0]}); leave "
                    "--compile out"
                ) from error
            if told := lost(error, self.device):
                raise told from error
            raise

    def _run(self, batch: Batch, rng: list[torch.Generator]) -> Tensor:
        method, op, noise_std = self.method, batch.op, batch.noise_std
        ksp = torch.where(batch.mask, batch.ksp, 0)
        if not is_sampler(method):
            return method(op, ksp, noise_std=noise_std)
        if self.prior is None:
            raise ConfigError(f"method {method.name!r} needs a prior; name one with -m")
        if not isinstance(method, Aos):
            check_levels(self.prior, method.name)
        with torch.set_grad_enabled(method.needs_grad):
            images = method(self.prior, op, ksp, noise_std=noise_std, rng=rng, on_step=self.on_step)
        return images.detach()

    @contextmanager
    def _precision(self) -> Iterator[None]:
        """Networks in the precision that was asked for."""
        if not isinstance(self.prior, Prior):
            yield
            return
        net = self.prior.net
        before, net.autocast = net.autocast, autocast_on(self.options.precision, self.device)
        try:
            yield
        finally:
            net.autocast = before

    def move_to_cpu(self) -> bool:
        """Go on with the CPU, if that is wanted and it is elsewhere."""
        if not self.options.cpu_fallback or self.device.type == "cpu":
            return False
        warnings.warn(
            f"out of memory on {self.device}, going on with the CPU",
            NumericalWarning,
            stacklevel=2,
        )
        self.device, self.prior = torch.device("cpu"), on_cpu(self.prior)
        return True


def here_or_on_the_cpu(
    check: Callable[[Batch, Tensor], T], batch: Batch, img: Tensor, device: torch.device | str
) -> T:
    """``check(batch, img)`` on a device, or on the CPU if it has no room: images are not lost."""
    try:
        with _running_out():
            return check(batch.to(device), img.to(device))
    except torch.OutOfMemoryError:
        return check(batch.to("cpu"), img.cpu())
    except RuntimeError as error:
        if told := lost(error, device):
            raise told from error
        raise


@contextmanager
def _running_out() -> Iterator[None]:
    """What libraries say when memory runs out becomes torch's own error."""
    try:
        yield
    except RuntimeError as error:
        if out_of_memory(error) and not isinstance(error, torch.OutOfMemoryError):
            raise torch.OutOfMemoryError(str(error)) from error
        raise


def on_cpu(prior: DenoiserSource | None) -> DenoiserSource | None:
    """A copy of the prior on the CPU, not compiled."""
    if not isinstance(prior, Prior):
        return prior
    net = prior.facts.build()  # not a copy on a device that is full
    net.load_state_dict({name: tensor.cpu() for name, tensor in prior.net.state_dict().items()})
    return replace(prior, net=net.requires_grad_(False).eval())


def _backing_off(
    compute: Callable[[list[tuple[int, int]]], Tensor],
    items: list[tuple[int, int]],
    size: int,
    at_last: Callable[[], bool],
) -> Iterator[tuple[list[tuple[int, int]], Tensor, int]]:
    """``compute`` on chunks of ``items``; chunks are halved whenever memory runs out.

    Where a single item is too much, ``at_last`` may know what to do, and then it is tried again.

    Yields:
        The chunk, its images, and how many items were allowed in it.

    Raises:
        DeviceError: a single item is too much.
    """
    while items:
        chunk, images, reason = items[:size], None, ""
        try:
            images = compute(chunk)
        except torch.OutOfMemoryError as error:
            reason = str(error).splitlines()[0]
        if images is None:  # and the error, whose traceback holds the batch, is gone
            torch.cuda.empty_cache()
            if len(chunk) > 1:
                size = len(chunk) // 2
            elif not at_last():
                raise DeviceError(
                    f"out of memory with a single image at a time: {reason}; use --device cpu, "
                    "fewer coils, or (with reconstruct) --cpu-fallback"
                )
            continue
        yield chunk, images, size
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


def _residual(batch: Batch, img: Tensor) -> float:
    """RMS of A x - y of one slice over the measured samples, in units of sigma_n per channel."""
    ksp = torch.where(batch.mask, batch.ksp, 0)
    residual = (batch.op(img) - ksp).abs().square().sum()
    n_coils = (batch.maps.abs().amax(dim=(-2, -1)) > 0).sum()
    n_samples = (batch.mask.sum() * n_coils).clamp(min=1)
    return float((residual / (2 * n_samples)).sqrt() / batch.noise_std)


def _provenance(
    method: Sampler | Baseline,
    prior: DenoiserSource | None,
    options: Options,
    n_samples: int,
    device: torch.device,
) -> dict[str, Any]:
    return {
        "method": method.name,
        "method_options": asdict(method),  # type: ignore[call-overload]
        "prior_sha256": prior_sha256(prior) if is_sampler(method) else None,
        "seed": options.seed,
        "n_samples": n_samples,
        "samples_are": samples_are(method, prior) if is_stochastic(method) else None,
        "precision": precision_of(method, options, device),
        "compiled": is_sampler(method) and isinstance(prior, Prior) and prior.net.compiled,
        "version": __version__,
        "torch": torch.__version__,
    }


def precision_of(
    method: Sampler | Baseline, options: Options, device: torch.device | str | None = None
) -> str:
    """What networks compute in; fp32 where there are none."""
    where = torch.device(options.device if device is None else device)
    return "bf16" if is_sampler(method) and autocast_on(options.precision, where) else "fp32"


def prior_sha256(prior: DenoiserSource | None) -> str | None:
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
        seed: of everything random; image k depends on how many are drawn by rounding alone.
        device: where to compute.
        on_step: told about every step of every image.

    Returns:
        Complex ``(n_images, y, x)``, on the CPU.

    Raises:
        ConfigError: no images, too small ones, or guidance by a prior that knows no masks.
        MriAmbientError: they left all that the prior knows.
    """
    check_levels(prior, sampler.name)
    if n_images < 1:
        raise ConfigError(f"at least one image must be drawn, got {n_images}")
    if min(shape) < LEAST_SIDE:
        raise ConfigError(
            f"images have at least {LEAST_SIDE} pixels a side, got {shape[0]} x {shape[1]}"
        )
    if maps is None:
        maps = torch.ones(1, 1, *shape, dtype=torch.complex64)
    if isinstance(prior, Prior):
        prior.to(device)
    coils = maps.to(device)

    def compute(chunk: list[tuple[int, int]]) -> Tensor:
        rng = [rng_for(seed, "sample", k) for _, k in chunk]
        shared = coils.expand(len(rng), -1, -1, -1)
        with _running_out():
            return sampler(prior, shared, rng=rng, on_step=on_step).cpu()

    net = prior.net if isinstance(prior, Prior) else None
    needs_grad, size = sampler.guidance > 0, (maps.shape[-2], maps.shape[-1])
    n_bytes = bytes_per_image(
        net, size, maps.shape[-3], needs_grad=needs_grad, n_evaluations=2
    )  # guidance compares two of them
    at_once = images_at_once(n_bytes, size, torch.device(device))
    items = [(0, k) for k in range(n_images)]
    parts = _backing_off(compute, items, at_once, lambda: False)
    drawn = torch.cat([images for _, images, _ in parts])
    rms = drawn.abs().square().mean(dim=(-2, -1)).div(2).sqrt()
    if not bool((rms < FAR_TOO_BRIGHT * prior.sigma_data).all()):  # nor where it is NaN
        raise MriAmbientError(
            f"images went astray ({float(rms.max()) / prior.sigma_data:.3g} times as bright as the "
            "prior's training images); take "
            + ("less guidance" if sampler.guidance else "more steps, or another prior")
        )
    return drawn
