"""How much can a small change of the measurement change the image? The worst change, searched for.

Projected gradient ascent (after Antun et al. 2020, doi:10.1073/pnas.1907377117, and Han et al.
2024) finds a perturbation of the measured samples, its norm at most ``k`` times the noise's,
that changes a reconstruction as much as possible. The same search is done against CG-SENSE and
L1-wavelet: some change is in the nature of undersampling, and what counts is how much more a method
with a prior allows.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import ConfigError
from ..methods import CgSense, L1Wavelet, Method
from ..physics.map_sets import magnitude
from ..recon.pipeline import open_volume
from ..recon.recipe import ResolvedRecipe, method_options
from ..recon.volume import Volume
from ..recon.warnings import issue_before
from ..rng import complex_normal, rng_for
from ..runtime.device import Runtime
from ..runtime.executor import Executor, run_one
from ..scan import Batch, Scan

N_WAVELET = 50
"""Iterations of L1-wavelet, all of which the gradient goes through."""

STILL_RISING = 0.02
"""A search whose last tenth raised the change by more was too short, and flatters the method."""

OTHERS: tuple[Method, ...] = (CgSense(), L1Wavelet(n_iter=N_WAVELET))
"""Methods that are attacked beside the one asked for, to compare with."""

STEP = 0.3
"""Length of a step of the ascent, in units of the largest perturbation."""

OnIteration = Callable[[int, int], None]
"""Called with (done, total) after every step of the searches."""


@dataclass(frozen=True)
class Attack:
    """The worst change of the measurement that was found for a method.

    Attributes:
        method: its name.
        size: energy norm of the change, ``||e|| / ||y||``.
        change: of the image, ``||f(y + e) - f(y)|| / ||f(y)||``.
        by_noise: the same for noise of equal energy.
        rising: by how much the last tenth of the search still raised ``change``, relative.
        img: ``f(y)``, magnitude ``(y, x)``.
        attacked: ``f(y + e)``.
    """

    method: str
    size: float
    change: float
    by_noise: float
    rising: float
    img: Tensor
    attacked: Tensor

    @property
    def amplification(self) -> float:
        """Relative change of the image over that of the measurement."""
        return self.change / self.size

    @property
    def figures(self) -> dict[str, float]:
        """All but the images."""
        names = ("size", "change", "by_noise", "rising", "amplification")
        return {name: getattr(self, name) for name in names}


def attack_slice(
    volume: Volume,
    index: int | None = None,
    *,
    k: float = 1.0,
    n_iter: int = 100,
    on_iteration: OnIteration | None = None,
) -> tuple[dict[str, Any], list[Attack]]:
    """Attack one slice of a file, by default the middle one; see :func:`attack`.

    Returns:
        What was done and found, as plain values, and the attacks with their images.

    Raises:
        ConfigError: there is no such slice, or see :func:`attack`.
    """
    file, recipe = volume.file, volume.recipe
    index = len(file) // 2 if index is None else index
    if not 0 <= index < len(file):
        raise ConfigError(f"{file.path}: has slices 0 to {len(file) - 1}, not {index}")
    issue_before(file, recipe)
    scan = volume.preparation.apply(file[index])
    device = volume.runtime.torch_device
    attacks = attack(scan, recipe, k=k, n_iter=n_iter, device=device, on_iteration=on_iteration)
    report = {
        "slice": index,
        "k": k,
        "seed": recipe.seed,
        "method_options": method_options(recipe.method),
        "prior_sha256": recipe.prior_sha256,
        "acceleration": file.acceleration,
        "sigma_n": scan.noise_std,
        "attacks": {attack.method: attack.figures for attack in attacks},
    }
    return report, attacks


def attack_as_task(
    executor: Executor,
    scan: Path,
    recipe: ResolvedRecipe,
    runtime: Runtime,
    index: int | None = None,
    *,
    k: float = 1.0,
    n_iter: int = 100,
) -> tuple[dict[str, Any], list[Attack]]:
    """The same for the file of a scan, as one task of an executor."""
    task = partial(_attack_file, recipe, runtime, index, k, n_iter)
    return run_one(executor, task, scan)


def _attack_file(
    recipe: ResolvedRecipe, runtime: Runtime, index: int | None, k: float, n_iter: int, scan: Path
) -> tuple[dict[str, Any], list[Attack]]:
    return attack_slice(open_volume(scan, recipe, runtime), index, k=k, n_iter=n_iter)


def attack(
    scan: Scan,
    recipe: ResolvedRecipe,
    *,
    k: float = 1.0,
    n_iter: int = 100,
    others: Sequence[Method] | None = None,
    device: torch.device | str = "cpu",
    on_iteration: OnIteration | None = None,
) -> list[Attack]:
    """Attack one slice of a prepared scan: the method, then the others.

    Args:
        scan: prepared; its first slice is attacked.
        recipe: a sampler (its random numbers are kept fixed) with its prior, or a baseline; and
            the seed of the sampler, the starting point and the comparison noise.
        k: norm of the perturbation over that of the noise.
        n_iter: steps of the search.
        others: methods to compare with, :data:`OTHERS` by default; none of the method's own kind.
        device: where to compute.
        on_iteration: called with (done, total) after every step.

    Raises:
        ConfigError: no perturbation or no steps, a scan without noise or a slice without signal, a
            method that differentiates through the prior itself, or one that takes more steps than
            the prior has noise levels.
    """
    if not 0 < k < math.inf or n_iter < 1:
        raise ConfigError(f"k must be positive and there must be steps, got {k} and {n_iter}")
    method = recipe.method
    if not scan.noise_std:
        raise ConfigError(f"{scan.scan_id}: has no noise that a perturbation could be measured by")
    if method.needs_grad:
        raise ConfigError(
            f"method {method.name!r} takes gradients itself and cannot be attacked through them; "
            "use aos, dds, msm or pula"
        )
    batch = Batch.of([scan])[:1].to(device)
    if recipe.prior is not None:
        recipe.prior.to(device)
    if not bool(batch.measured.any()):
        raise ConfigError(f"{scan.scan_id}: the slice has no signal; choose another one")
    others = OTHERS if others is None else others
    methods = [method, *(other for other in others if type(other) is not type(method))]
    total, done = len(methods) * n_iter, itertools.count(1)

    def step_done() -> None:
        if on_iteration is not None:
            on_iteration(next(done), total)

    return [_attack(_Reconstruction(one, recipe, batch, k), n_iter, step_done) for one in methods]


@dataclass(frozen=True)
class _Reconstruction:
    """The image as a function of the k-space, differentiable, always with the same randomness."""

    method: Method
    recipe: ResolvedRecipe
    batch: Batch
    k: float

    def __call__(self, ksp: Tensor) -> Tensor:
        rng = [rng_for(self.recipe.seed, "stability")]
        return self.method(self.recipe.prior, replace(self.batch, ksp=ksp), rng)

    @property
    def radius(self) -> float:
        """Norm of the largest perturbation."""
        batch = self.batch
        # Zero maps fill up coils that are not there.
        n_coils = int((batch.maps.abs().amax(dim=(-2, -1)) > 0).sum())
        expected = math.sqrt(2 * int(batch.mask.sum()) * n_coils)
        return self.k * float(batch.noise_std[0]) * expected

    def noise(self, name: str) -> Tensor:
        """Noise on the measured samples, of the norm of the largest perturbation."""
        rng = rng_for(self.recipe.seed, name)
        drawn = complex_normal(tuple(self.batch.ksp.shape), rng, device=self.batch.ksp.device)
        drawn = drawn * self.batch.mask
        scaled: Tensor = self.radius * drawn / drawn.norm()
        return scaled


def _attack(image: _Reconstruction, n_iter: int, step_done: Callable[[], None]) -> Attack:
    y = image.batch.measured
    with torch.no_grad():
        before = image(y)
        by_noise = image(y + image.noise("noise")) - before
    worst, found = _worst_change(image, before, n_iter, step_done)
    with torch.no_grad():
        attacked = image(y + worst)
    scale = float(before.norm())
    final = float((attacked - before).norm())
    return Attack(
        method=image.method.name,
        size=float(worst.norm() / y.norm()),
        change=final / scale,
        by_noise=float(by_noise.norm()) / scale,
        rising=final / max(found[-math.ceil(n_iter / 10)], 1e-30) - 1,
        img=magnitude(before[0], image.batch.n_sets).cpu(),
        attacked=magnitude(attacked[0], image.batch.n_sets).cpu(),
    )


def _worst_change(
    image: _Reconstruction, before: Tensor, n_iter: int, step_done: Callable[[], None]
) -> tuple[Tensor, list[float]]:
    """Projected gradient ascent.

    Returns:
        The perturbation that changes the image most, and the largest change (norm) after every
        step.
    """
    y, radius, mask = image.batch.measured, image.radius, image.batch.mask
    e = worst = image.noise("start")
    most, found = -1.0, []
    for _ in range(n_iter):
        e = e.detach().requires_grad_()
        change = (image(y + e) - before).norm()
        if float(change.detach()) > most:
            worst, most = e.detach(), float(change.detach())
        found.append(most)
        (grad,) = torch.autograd.grad(change, e)
        with torch.no_grad():
            grad = grad * mask  # a plain prior reads the whole state, a scan has this much
            e = e + STEP * radius * grad / grad.norm().clamp(min=1e-30)
            e = e * (radius / e.norm()).clamp(max=1.0)
        step_done()
    with torch.no_grad():
        if float((image(y + e) - before).norm()) > most:
            worst = e
    return worst, found


def verdict(attacks: Sequence[Attack]) -> str:
    """One line: the worst change of the method's image, beside those of the others."""
    first, *others = attacks
    beside = ", ".join(f"{attack.method} {100 * attack.change:.1f} %" for attack in others)
    line = (
        f"{first.method}: a change of the measurement by {100 * first.size:.1f} % can change the "
        f"image by {100 * first.change:.1f} % (noise of this size: {100 * first.by_noise:.1f} %); "
        f"{beside}"
    )
    late = [attack for attack in attacks if attack.rising > STILL_RISING]
    if late:
        rising = (f"{attack.method} (by {100 * attack.rising:.0f} %)" for attack in late)
        line += (
            f"; {' and '.join(rising)} still rising at the end: take a larger n_iter (--iterations)"
        )
    return line


def images_side_by_side(attacks: Sequence[Attack]) -> tuple[Tensor, list[str]]:
    """Of every method the image, the attacked one and five times their difference, with titles."""
    images, titles = [], []
    for attack in attacks:
        images += [attack.img, attack.attacked, 5 * (attack.attacked - attack.img).abs()]
        titles += [attack.method, "attacked", "difference x 5"]
    return torch.stack(images), titles
