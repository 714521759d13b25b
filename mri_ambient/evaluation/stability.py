"""How much can a small change of the measurement change the image? The worst change, searched for.

Projected gradient ascent (after Antun et al. 2020, doi:10.1073/pnas.1907377117, and Han et al.
2024) finds a perturbation of the measured samples, its norm at most ``k`` times the noise's,
that changes a reconstruction as much as possible. The same search is done against CG-SENSE and
L1-wavelet: some change is in the nature of undersampling, and what counts is how much more a method
with a prior allows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..errors import ConfigError
from ..methods import CgSense, L1Wavelet, Method
from ..priors.prior import DenoiserSource
from ..rng import complex_normal, rng_for
from ..scan import Batch, Scan

N_WAVELET = 50
"""Iterations of L1-wavelet, all of which the gradient goes through."""

STILL_RISING = 0.02
"""A search whose last tenth raised the change by more was too short, and flatters the method."""

STEP = 0.3
"""Length of a step of the ascent, in units of the largest perturbation."""


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


def stability(
    scan: Scan,
    method: Method,
    prior: DenoiserSource | None,
    *,
    k: float = 1.0,
    n_iter: int = 100,
    seed: int = 0,
    device: torch.device | str = "cpu",
    on_step: Callable[[int, int], None] | None = None,
) -> list[Attack]:
    """Attack one slice of a prepared scan: the method, then CG-SENSE and L1-wavelet.

    Args:
        scan: prepared; its first slice is attacked.
        method: a sampler (its random numbers are kept fixed) or a baseline.
        prior: what images look like.
        k: norm of the perturbation over that of the noise.
        n_iter: steps of the ascent.
        seed: of the starting point, the comparison noise and the sampler.
        device: where to compute.
        on_step: told (done, total) after every step.

    Raises:
        ConfigError: a budget that is none, a scan without noise or a slice without signal, or a
            method that takes more steps than the prior has noise levels.
    """
    if not 0 < k < math.inf or n_iter < 1:
        raise ConfigError(f"k must be positive and there must be steps, got {k} and {n_iter}")
    if not scan.noise_std:
        raise ConfigError(f"{scan.scan_id}: has no noise that a perturbation could be measured by")
    if method.needs_grad:
        raise ConfigError(
            f"method {method.name!r} takes gradients itself and cannot be attacked through them; "
            "use aos, dds, msm or pula"
        )
    batch = Batch.of([scan])[:1].to(device)
    if prior is not None:
        prior.to(device)
    if not bool(torch.where(batch.mask, batch.ksp, 0).any()):
        raise ConfigError(f"{scan.scan_id}: the slice has no signal; choose another one")
    methods: list[Method] = [method]
    others = (CgSense(), L1Wavelet(n_iter=N_WAVELET))
    methods += [other for other in others if type(other) is not type(method)]
    attacks = []
    for number, one in enumerate(methods):

        def tell(done: int, number: int = number) -> None:
            if on_step is not None:
                on_step(number * n_iter + done, len(methods) * n_iter)

        attacks.append(_attack(_reconstruction(one, prior, batch, seed), batch, one.name, k,
                               n_iter, seed, tell))  # fmt: skip
    return attacks


def _reconstruction(
    method: Method, prior: DenoiserSource | None, batch: Batch, seed: int
) -> Callable[[Tensor], Tensor]:
    """The image as a function of the k-space, differentiable, always with the same randomness."""

    def image(ksp: Tensor) -> Tensor:
        return method(prior, replace(batch, ksp=ksp), [rng_for(seed, "stability")])

    return image


def _attack(
    image: Callable[[Tensor], Tensor],
    batch: Batch,
    name: str,
    k: float,
    n_iter: int,
    seed: int,
    tell: Callable[[int], None],
) -> Attack:
    y = torch.where(batch.mask, batch.ksp, 0)
    # Zero maps fill up coils that are not there.
    n_coils = int((batch.maps.abs().amax(dim=(-2, -1)) > 0).sum())
    radius = k * float(batch.noise_std[0]) * (2 * int(batch.mask.sum()) * n_coils) ** 0.5

    def noise(what: str) -> Tensor:
        drawn = complex_normal(tuple(y.shape), rng_for(seed, what), device=y.device)
        drawn = drawn * batch.mask
        scaled: Tensor = radius * drawn / drawn.norm()
        return scaled

    with torch.no_grad():
        before = image(y)
        by_noise = image(y + noise("noise")) - before
    worst, most, found = noise("start"), -1.0, []
    e = worst
    for step in range(n_iter):
        e = e.detach().requires_grad_()
        change = (image(y + e) - before).norm()
        if float(change.detach()) > most:
            worst, most = e.detach(), float(change.detach())
        found.append(most)
        (grad,) = torch.autograd.grad(change, e)
        with torch.no_grad():
            grad = grad * batch.mask  # a plain prior reads the whole state, a scan has this much
            e = e + STEP * radius * grad / grad.norm().clamp(min=1e-30)
            e = e * (radius / e.norm()).clamp(max=1.0)
        tell(step + 1)
    with torch.no_grad():
        if float((image(y + e) - before).norm()) > most:
            worst = e
        attacked = image(y + worst)
    scale = float(before.norm())
    final = float((attacked - before).norm())
    return Attack(
        method=name,
        size=float(worst.norm() / y.norm()),
        change=final / scale,
        by_noise=float(by_noise.norm()) / scale,
        rising=final / max(found[-math.ceil(n_iter / 10)], 1e-30) - 1,
        img=before[0].abs().cpu(),
        attacked=attacked[0].abs().cpu(),
    )


def verdict(attacks: Sequence[Attack]) -> str:
    """One line: the method's worst change beside the others'."""
    first, *others = attacks
    rising = [
        f"{one.method} (by {100 * one.rising:.0f} %)"
        for one in attacks
        if one.rising > STILL_RISING
    ]
    beside = ", ".join(f"{attack.method} {100 * attack.change:.1f} %" for attack in others)
    return (
        f"{first.method}: a change of the measurement by {100 * first.size:.1f} % can change the "
        f"image by {100 * first.change:.1f} % (noise of this size: {100 * first.by_noise:.1f} %); "
        f"{beside}"
    ) + (
        f"; {' and '.join(rising)} still rising at the end: take more --iterations"
        if rising
        else ""
    )
