"""The engine: batches of slices x samples through a method, smaller ones when memory runs out."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from ..errors import ConfigError, DeviceError, MriAmbientError, warn
from ..methods.base import Method, OnStep
from ..physics.crop import image_crop
from ..physics.map_sets import combine_sets, magnitude
from ..physics.units import energy, nonzero_along, rss_weight
from ..rng import rng_for
from ..runtime.device import Runtime, device_errors
from ..scan import Batch, Scan
from .recipe import ResolvedRecipe

T = TypeVar("T")


@dataclass(frozen=True)
class SliceImages:
    """Images of slices of one scan, in the scan's normalised units.

    Attributes:
        img: the image, complex ``(slice, y, x)``, of several sets of maps ``(slice, set*y, x)``;
            the mean of the samples where there are several.
        std: standard deviation of the samples' magnitude, real ``(slice, y, x)``, or None.
        samples: complex ``(sample, slice, y, x)`` or ``(sample, slice, set*y, x)``, where there are
            several.
        checks: one dictionary of figures per slice, e.g. the data residual.
        provenance: method, options, seed, hashes, versions, device and seconds.
    """

    img: Tensor
    std: Tensor | None = None
    samples: Tensor | None = None
    checks: tuple[dict[str, Any], ...] = ()
    provenance: dict[str, Any] = field(default_factory=dict)


class Engine:
    """Runs one recipe on one device, scan after scan.

    Once memory ran out, later batches are smaller; once it fell back to the CPU, it stays there.

    Args:
        recipe: method, prior, seed and samples. The network of the prior is moved to the device.
        runtime: device, precision, batch size.
        on_step: called after every step of a sampler.

    Raises:
        ConfigError: the recipe adapts its prior to each scan, which :func:`reconstruct` does first.
        DeviceError: the prior does not fit on the device.
    """

    def __init__(
        self, recipe: ResolvedRecipe, runtime: Runtime | None = None, on_step: OnStep | None = None
    ) -> None:
        if recipe.adapt is not None:
            raise ConfigError(
                "this recipe adapts its prior to every scan, which only reconstruct does; adapt "
                "the prior first (mri_ambient.adapt) and use it as it is"
            )
        self.recipe, self.runtime, self.on_step = recipe, runtime or Runtime(), on_step
        self.first_device = self.device
        self.reduced = False  # whether memory ran out, and batches are smaller since
        self.prior = recipe.prior
        if self.prior is None:
            return
        try:
            with device_errors(self.device):
                self.prior.to(self.device)
        except torch.OutOfMemoryError as error:
            if not self._fall_back():
                raise DeviceError(
                    f"out of memory: the prior does not fit on {self.device}; use the device "
                    "cpu (--device cpu), or cpu_fallback (--cpu-fallback)"
                ) from error
        if self.runtime.compile:  # a fallback switches it off
            self.prior.compile()

    @property
    def device(self) -> torch.device:
        """Where it computes now."""
        return self.runtime.torch_device

    def variant(self, method: Method) -> Engine:
        """An engine for one image by a method that needs no prior, on the same device."""
        return Engine(self.recipe.with_method(method), self.runtime)

    def slices_at_once(self, shape: tuple[int, int]) -> int:
        """Slices of a matrix ``(y, x)`` that are read and reconstructed together."""
        return max(1, self.runtime.images_at_once(shape) // self.recipe.n_samples)

    def __call__(self, scans: Sequence[Scan]) -> list[SliceImages]:
        """Reconstruct the slices of prepared scans of one matrix size, number of coils and of sets.

        Their slices share calls of the method, so that scans of one slice each fill a GPU.

        Raises:
            DeviceError: out of memory even with a single image at a time, or the device was lost.
            MriAmbientError: the method gave values that are not finite.
        """
        # Not padded with zero coils either: these would draw from the random streams.
        if len({(scan.shape, scan.n_coils, scan.n_sets) for scan in scans}) > 1:
            raise ValueError("scans of several matrix sizes, numbers of coils or of sets")
        started = time.monotonic()
        batch = Batch.of(scans)
        names = [(scan.scan_id, index) for scan in scans for index in scan.slices]
        samples = self.draw(batch, names)
        provenance = self.recipe.provenance(self.runtime)
        provenance["compiled"] = self.prior is not None and self.prior.compiled
        provenance["fitted"] = self.runtime.batch_size if self.reduced else None
        seconds = (time.monotonic() - started) / len(batch)
        results, first = [], 0
        for scan in scans:
            rows = slice(first, first := first + len(scan.slices))
            facts = provenance | {"seconds": seconds * len(scan.slices)}
            results.append(self._images(scan, batch[rows], samples[:, rows], facts))
        return results

    def _images(
        self, scan: Scan, batch: Batch, samples: Tensor, provenance: dict[str, Any]
    ) -> SliceImages:
        img = samples.mean(dim=0)
        finite = img.isfinite().flatten(1).all(dim=1).tolist()
        if not all(finite):
            bad = [index for index, good in zip(scan.slices, finite, strict=True) if not good]
            raise MriAmbientError(
                f"{scan.scan_id}: {self.recipe.method.name} gave values that are not finite in "
                f"slices {bad}; look at the scan with `mri-ambient prep`, or use another prior or "
                "method"
            )
        several = len(samples) > 1
        std = None
        if several:
            std = self.recipe.std_factor * magnitude(samples, scan.n_sets).std(dim=0)
        residuals = [
            self.evaluate(data_residual, batch[i : i + 1], img[i : i + 1])
            for i in range(len(batch))
        ]
        return SliceImages(
            img=img,
            std=std,
            samples=samples if several else None,
            checks=tuple({"data_residual": residual} for residual in residuals),
            provenance=provenance,
        )

    def draw(self, batch: Batch, names: Sequence[tuple[object, ...]]) -> Tensor:
        """All samples of all slices, ``(sample, slice, y, x)``, on the CPU.

        Args:
            batch: the slices.
            names: what the random streams of each slice are named after.
        """
        n_samples = self.recipe.n_samples
        out = torch.empty((n_samples, len(batch), *batch.op.ishape), dtype=batch.ksp.dtype)
        if self.device.type == "cuda":
            with suppress(RuntimeError):  # page-locked memory, if it can be had
                out = torch.empty_like(out, pin_memory=True)
        items = [(row, k) for row in range(len(batch)) for k in range(n_samples)]
        shape = (batch.ksp.shape[-2], batch.ksp.shape[-1])
        while items:
            chunk = items[: self.runtime.images_at_once(shape)]
            rng = [rng_for(self.recipe.seed, *names[row], k) for row, k in chunk]
            rows = [row for row, _ in chunk]
            each_once = slice(rows[0], rows[0] + len(rows)) if n_samples == 1 else rows
            images, reason = self._attempt(batch[each_once], rng)
            if images is None:
                self._back_off(len(chunk), reason)
                continue
            with device_errors(self.device):
                for img, (row, k) in zip(images, chunk, strict=True):
                    # From a GPU without waiting: see _wait.
                    out[k, row].copy_(img, non_blocking=out.is_pinned())
            items = items[len(chunk) :]
        self._wait()
        return out

    def _attempt(self, batch: Batch, rng: list[torch.Generator]) -> tuple[Tensor | None, str]:
        """Images of a batch, on the device; or None and the reason if memory ran out.

        The error itself is not returned: its traceback would keep the batch in memory.
        """
        method, prior = self.recipe.method, self.prior
        precision = nullcontext() if prior is None else prior.autocast(self.runtime.bf16)
        try:
            with device_errors(self.device), precision, torch.set_grad_enabled(method.needs_grad):
                return method(prior, batch.to(self.device), rng, self.on_step).detach(), ""
        except torch.OutOfMemoryError as error:
            return None, str(error).splitlines()[0]

    def _back_off(self, n_images: int, reason: str) -> None:
        """Halve the batches, or go on with the CPU; DeviceError if neither is possible."""
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if n_images > 1:
            self.runtime = replace(self.runtime, batch_size=n_images // 2)
            self.reduced = True
        elif not self._fall_back():
            raise DeviceError(
                f"out of memory with a single image at a time: {reason}; use the device cpu "
                "(--device cpu), fewer coils, or cpu_fallback (reconstruct --cpu-fallback)"
            )

    def _fall_back(self) -> bool:
        """Go on with the CPU, if that is allowed; False if it is not."""
        if not self.runtime.can_fall_back:
            return False
        warn("W-CPU-FALLBACK", f"out of memory on {self.device}, going on with the CPU")
        self.runtime = self.runtime.on_cpu()
        if self.prior is not None:
            self.prior = self.prior.copy_on_cpu()
        return True

    def _wait(self) -> None:
        """Wait until the GPU has computed and copied everything."""
        if self.first_device.type != "cuda":
            return
        try:
            with device_errors(self.first_device):
                torch.cuda.synchronize(self.first_device)
        except torch.OutOfMemoryError as error:
            if self.device.type == "cpu":  # the GPU had no memory even to start, and did nothing
                return
            raise DeviceError(
                f"out of memory on {self.device}: {str(error).splitlines()[0]}; use a smaller "
                "batch_size (--batch-size), or the device cpu (--device cpu)"
            ) from error

    def evaluate(self, figure: Callable[[Batch, Tensor], T], batch: Batch, img: Tensor) -> T:
        """A figure of an image, on the device, or on the CPU if the device has no memory left."""
        try:
            with device_errors(self.device):
                return figure(batch.to(self.device), img.to(self.device))
        except torch.OutOfMemoryError:
            return figure(batch.to("cpu"), img.cpu())


def data_residual(batch: Batch, img: Tensor) -> float:
    """RMS of A x - y of one slice over the measured samples, in units of sigma_n per channel.

    0 for a slice without coil sensitivity.
    """
    residual = energy(batch.op(img) - batch.measured)
    n_coils = nonzero_along(batch.maps, -2).any(dim=-1).sum()
    n_samples = (batch.mask.sum() * n_coils).clamp(min=1)
    return float((residual / (2 * n_samples)).sqrt() / batch.noise_std)


def to_file_units(img: Tensor, scan: Scan, values: Tensor | None = None) -> Tensor:
    """RSS-equivalent images in the units of the scan's file, cut to the scanner's final matrix.

    Several sets of maps give one image, of the phase of their sum.

    Args:
        img: normalised, complex ``(slice, y, x)`` or, of several sets, ``(slice, set*y, x)``.
        scan: the prepared slices it was made from.
        values: real ``(slice, y, x)``, brought to these units in place of the image, such as its
            magnitude (:func:`~mri_ambient.physics.map_sets.magnitude`) or standard deviation.
    """
    if scan.maps is None:
        raise ValueError(f"{scan.scan_id}: not prepared; maps are missing")
    combined, maps = combine_sets(img, scan.maps, scan.n_sets)
    weight = rss_weight(maps, scan.coil_transform)
    return image_crop(
        (combined if values is None else values) * weight * scan.scale, scan.recon_shape
    )
