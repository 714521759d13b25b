"""What all samplers share."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol, TypeVar

import torch
from torch import Generator, Tensor
from torch.utils.checkpoint import checkpoint

from ..errors import ConfigError, NumericalWarning
from ..physics.operators import SenseOp
from ..physics.solve import conjugate_gradient
from ..priors.prior import DenoiserSource, Prior
from ..priors.schedules import EDM_HIGHEST, EDM_SIGMA_DATA


@dataclass(frozen=True)
class StepInfo:
    """Progress of a sampler.

    Attributes:
        index: number of the step, from 0.
        n_steps: how many there will be.
        sigma: noise level of the step.
        residual: ``||A x0 - y||`` per batch item, normalised units.
    """

    index: int
    n_steps: int
    sigma: float
    residual: Tensor


OnStep = Callable[[StepInfo], None]


class Sampler(Protocol):
    """Denoiser + operator + k-space -> image; a frozen dataclass with its options.

    Attributes:
        name: the key it is chosen by.
        stochastic: whether another generator gives another image.
        needs_grad: whether it differentiates through the denoiser.
        n_evaluations: network evaluations per sample; with ``needs_grad``, backwards as well.
        draws_posterior: whether samples are the posterior's, nearly, given a good prior that sees
            the whole state: options with which their mean and spread were measured to be right.
    """

    name: ClassVar[str]
    stochastic: ClassVar[bool]
    needs_grad: ClassVar[bool]

    @property
    def n_evaluations(self) -> int:
        """Network evaluations per sample."""
        ...

    @property
    def draws_posterior(self) -> bool:
        """Whether samples are the posterior's, given a good prior that sees the whole state."""
        ...

    def __call__(
        self,
        prior: DenoiserSource,
        op: SenseOp,
        ksp: Tensor,
        *,
        noise_std: Tensor,
        rng: Sequence[Generator],
        on_step: OnStep | None = None,
    ) -> Tensor:
        """Reconstruct.

        Args:
            prior: what images look like.
            op: maps ``(b, coil, y, x)`` and mask of the scan.
            ksp: measured k-space ``(b, coil, y, x)``, normalised.
            noise_std: sigma_n per real channel, ``(b,)``.
            rng: one generator per batch item.
            on_step: told about every step.

        Returns:
            Images, complex ``(b, y, x)``, normalised units.
        """
        ...


STARTS = ("noise", "aos", "cg-sense")
"""Where a sampler can start: from nothing, one step of the prior, or CG-SENSE."""

START_CG = 20
"""Conjugate-gradient steps of the start "cg-sense"."""


def check_start(start: str) -> None:
    """Raise ConfigError if it is none of :data:`STARTS`."""
    if start not in STARTS:
        raise ConfigError(f"start must be one of {', '.join(STARTS)}, got {start!r}")


def check_schedule(n_steps: int, sigma_max: float | None) -> None:
    """Raise ConfigError where no schedule of noise levels has these options."""
    if n_steps < 2:
        raise ConfigError(f"at least 2 steps are needed, got {n_steps} (n_steps)")
    if sigma_max is not None and not 0 < sigma_max < math.inf:
        raise ConfigError(f"sigma_max must be positive and finite, got {sigma_max}")


def first_level(highest: float, prior: DenoiserSource, *, most: float | None = None) -> float:
    """The first noise level, given for data of standard deviation 0.5, in units of the prior.

    It is at least twice the smallest trained level. That it was raised, or lies above ``most``, by
    default what the prior was trained on, is warned about.
    """
    level = highest * prior.sigma_data / EDM_SIGMA_DATA
    lowest = 2 * prior.sigma_min
    if most is None:
        most = prior.highest_level if isinstance(prior, Prior) else EDM_HIGHEST
    if level < lowest or highest > most:
        unit = prior.sigma_data / EDM_SIGMA_DATA
        where = (
            f"is raised to {lowest:.4g} (trained from {prior.sigma_min:.4g} on)"
            if level < lowest
            else f"is above all training (up to about {most * unit:.4g})"
        )
        warnings.warn(
            f"the first noise level {level:.4g} {where}",
            NumericalWarning,
            stacklevel=2,
        )
    return max(level, lowest)


State = TypeVar("State")


def step_by_step(step: Callable[[Tensor], State], state: Tensor, rng: Sequence[Generator]) -> State:
    """``step(state)``, computed again where gradients come back through it.

    So a gradient through a sampler takes the memory of one of its steps, not of all. What the step
    draws from ``rng`` is the same both times. Without gradients it is just called.
    """
    if not torch.is_grad_enabled():
        return step(state)
    begun, first = [generator.get_state() for generator in rng], True

    def repeatable(state: Tensor) -> State:
        nonlocal first
        if first:
            first = False
            return step(state)
        now = [generator.get_state() for generator in rng]
        for generator, drawn in zip(rng, begun, strict=True):
            generator.set_state(drawn)
        try:
            return step(state)
        finally:
            for generator, drawn in zip(rng, now, strict=True):
                generator.set_state(drawn)

    done: State = checkpoint(repeatable, state, use_reentrant=False, preserve_rng_state=False)
    return done


def one_step(
    prior: DenoiserSource,
    op: SenseOp,
    ksp: Tensor,
    *,
    noise_std: Tensor,
    rng: Sequence[Generator],
) -> Tensor:
    """``E[x | A^H y]`` as a prior knows it: the measurement as it is, under the scan's mask."""
    return prior.denoiser(op, rng, further="scan")(ksp, noise_std.clamp(min=prior.sigma_min))


def first_image(
    start: str,
    prior: DenoiserSource,
    op: SenseOp,
    ksp: Tensor,
    *,
    noise_std: Tensor,
    rng: Sequence[Generator],
) -> Tensor:
    """The image a sampler starts from: 0, one step of the prior, or a CG-SENSE image.

    CG-SENSE weighs the image's energy by what the prior knows of it, ``||x||^2 / s^2``.
    """
    if start == "aos":
        return one_step(prior, op, ksp, noise_std=noise_std, rng=rng)
    nothing = torch.zeros_like(ksp[:, 0])
    if start == "noise":
        return nothing
    return data_consistency(
        op, ksp, nothing, noise_std=noise_std, tau=prior.sigma_data, n_iter=START_CG
    )


CG_UNDER_MASKS = 20
"""Conjugate-gradient steps of a data step where the prior knows masks: more change nothing."""

CG_OF_PLAIN = 40
"""The same for a prior that sees everything: fewer leave its samples too far off, or too narrow,
where the noise is small (``test_samples_as_by_default_are_the_posterior_of_a_plain_prior``)."""


def cg_steps(n_cg: int | None, prior: DenoiserSource) -> int:
    """Conjugate-gradient steps of a data step: as given, or what the prior needs."""
    return n_cg or (CG_UNDER_MASKS if prior.knows_masks else CG_OF_PLAIN)


def check_cg(n_cg: int | None) -> None:
    """Raise ConfigError if it is no number of steps."""
    if n_cg is not None and (n_cg < 1 or not isinstance(n_cg, int)):
        raise ConfigError(f"n_cg must be a whole number of at least 1, got {n_cg}")


FINAL_CG = 10
"""Conjugate-gradient steps of the last solve."""


def finish(
    prior: DenoiserSource,
    op: SenseOp,
    ksp: Tensor,
    x: Tensor,
    *,
    noise_std: Tensor,
) -> Tensor:
    """The last data-consistency solve, with the error to expect of the prior.

    A prior that sees the whole state is asked at noise levels that say how far to trust it, and its
    samples are left alone. Under masks it errs by more than the last of these levels. Its tau is
    the error of an estimate of the mean; a sample's squared error is twice that.
    """
    if not prior.knows_masks:
        return x
    tau = math.sqrt(2) * prior.tau
    return data_consistency(op, ksp, x, noise_std=noise_std, tau=tau, n_iter=FINAL_CG)


def data_consistency(
    op: SenseOp, ksp: Tensor, x0: Tensor, *, noise_std: Tensor, tau: float, n_iter: int
) -> Tensor:
    """argmin_x ||A x - y||^2 / max(sigma_n^2, 1e-4) + ||x - x0||^2 / tau^2, by CG from ``x0``.

    ``tau`` is the error to expect of ``x0`` per real channel; sigma_n has a floor so that a
    noiseless scan does not turn the solve into an ill-posed inversion.
    """
    ridge = noise_std.square().clamp(min=1e-4)[:, None, None] / tau**2
    return conjugate_gradient(
        lambda v: op.normal(v) + ridge * v, op.adjoint(ksp) + ridge * x0, n_iter=n_iter, x0=x0
    )
