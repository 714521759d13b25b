"""The signature of all methods, and the loop of those that take many steps (:class:`Sampler`)."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import pairwise
from typing import ClassVar, Literal, TypeVar

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from typing_extensions import override

from ..errors import ConfigError, warn
from ..physics.operators import SenseOp
from ..physics.solve import conjugate_gradient
from ..physics.units import energy
from ..priors.prior import DenoiseFn, DenoiserSource
from ..priors.schedules import EDM_SIGMA_DATA, rho_schedule
from ..rng import Streams, complex_normals
from ..runtime.config import check_number
from ..scan import Batch

FINAL_CG = 10
"""Conjugate-gradient steps of the last data-consistency solve."""

CG_CONDITIONED = 20
"""Conjugate-gradient steps of a data step with a mask-conditioned prior: more change nothing."""

CG_PLAIN = 40
"""The same with a plain prior: with fewer, samples are biased or too narrow where there is little
noise (``tests/methods/test_posterior.py``)."""

START_CG = 20
"""Conjugate-gradient steps of a CG-SENSE image that a sampler starts from."""

STEP_NOISE, BASELINE_NOISE, FINAL_NOISE = 1e-3, 0.002, 0.01
"""Least noise, per real channel, normalised units: a scan with less is treated as if it had this
much in the data steps of dds and pula; in the weights of baselines; and in the last
data-consistency solve and the steps of adps. A noiseless scan has other errors, e.g. of its maps,
and would make the solve an ill-posed inversion."""

STARTS = ("noise", "aos", "cg-sense")
"""What a sampler can start from: noise, one step of the prior, or a CG-SENSE image."""


@dataclass(frozen=True)
class StepInfo:
    """Progress of a sampler.

    Attributes:
        index: number of the step, from 0.
        n_steps: how many there will be.
        sigma: noise level of the step.
        op: ``A`` of the batch.
        img: the current image x0, ``(b, y, x)``.
        ksp: measured k-space y, ``(b, coil, y, x)``.
    """

    index: int
    n_steps: int
    sigma: float
    op: SenseOp
    img: Tensor
    ksp: Tensor

    @property
    def n_images(self) -> int:
        """Number of batch items."""
        return len(self.img)

    @cached_property
    def residual(self) -> Tensor:
        """``||A x0 - y||`` per batch item, normalised units, ``(b,)``."""
        return energy(self.op(self.img) - self.ksp, dim=(-3, -2, -1)).sqrt()


OnStep = Callable[[StepInfo], None]


class Method(ABC):
    """Batch (and prior) -> images; a frozen dataclass with its options.

    Attributes:
        name: the key it is chosen by.
        needs_prior: whether it uses a prior; baselines ignore the one they are given.
        stochastic: whether the image depends on the random generator.
        needs_grad: whether it differentiates through the denoiser.
        n_steps: noise levels; 1 for methods without any.
    """

    name: ClassVar[str]
    needs_prior: ClassVar[bool] = True
    stochastic: ClassVar[bool] = False
    needs_grad: ClassVar[bool] = False
    n_steps: int = 1

    @property
    def starts_in_one_step(self) -> bool:
        """Whether its first image is one step of the prior from the zero-filled image."""
        return False

    @property
    def draws_posterior(self) -> bool:
        """Whether samples nearly follow the posterior, given a good plain prior.

        True only for options for which their mean and standard deviation were measured.
        """
        return False

    @property
    def n_evaluations(self) -> int:
        """Network evaluations per sample; with ``needs_grad``, each with a backward pass."""
        return 1 if self.needs_prior else 0

    @abstractmethod
    def __call__(
        self,
        prior: DenoiserSource | None,
        batch: Batch,
        rng: Streams,
        on_step: OnStep | None = None,
    ) -> Tensor:
        """Reconstruct a batch of slices.

        Args:
            prior: the prior; ignored unless ``needs_prior``.
            batch: measurements, maps, masks and noise, normalised. Maps have ``S^H S = 1`` in their
                support, so that ``||A|| <= 1``.
            rng: one generator per batch item.
            on_step: called after every step of a sampler.

        Returns:
            Images, complex ``(b, y, x)``, of several sets ``(b, set*y, x)``, normalised units, zero
            outside the support.
        """


@dataclass
class Problem:
    """A batch and a prior, as the steps of a sampler use them.

    Attributes:
        prior: the prior.
        op: ``A = M F S`` of the scan.
        ksp: measured k-space y, ``(b, coil, y, x)``, zero where not sampled.
        noise_std: sigma_n per real channel, ``(b,)``.
        rng: one generator per batch item.
        data: ``A^H y``.
        denoise: the prior's denoiser for this scan, under the sampler's choice of M~.
    """

    prior: DenoiserSource
    op: SenseOp
    ksp: Tensor
    noise_std: Tensor
    rng: Streams
    data: Tensor
    denoise: DenoiseFn

    def white(self, shape: Sequence[int] | None = None) -> Tensor:
        """White noise like the k-space, or ``(b, *shape)``, standard deviation 1 per channel."""
        wanted = tuple(self.ksp.shape[1:] if shape is None else shape)
        return complex_normals(wanted, self.rng, device=self.ksp.device, dtype=self.ksp.dtype)

    def level(self, sigma: float) -> Tensor:
        """The same noise level for every batch item, ``(b,)``."""
        return torch.full_like(self.noise_std, sigma)


class Sampler(Method):
    """A method that descends noise levels; subclasses define how to ``begin`` and to ``step``.

    Attributes:
        n_steps: noise levels, each with one network evaluation.
        further: M~ of mask-conditioned priors: the scan's own mask, or one drawn as in training.
        most: first noise level without a warning; None is the largest of the prior's training.
        start: what it starts from: "noise", or a reconstruction by one step of the prior ("aos") or
            by CG-SENSE ("cg-sense"), which has the low resolutions right, so that high noise levels
            are left out.
        sigma_max: first noise level, for data of standard deviation 0.5 per channel; by default 10
            from "noise" and 1 from a reconstruction.
        n_cg: conjugate-gradient steps of a data step; by default 20, with a plain prior 40.
        final_dc: end with a data-consistency solve, if the prior is mask-conditioned.
    """

    stochastic = True
    further: ClassVar[Literal["scan", "training"]] = "scan"
    most: ClassVar[float | None] = None
    start: str = "noise"
    sigma_max: float | None = None
    n_cg: int | None = None
    final_dc: bool = False

    def __post_init__(self) -> None:
        check_number("n_steps", self.n_steps, 2, whole=True)
        if self.sigma_max is not None:
            check_number("sigma_max", self.sigma_max, above=0)
        check_cg(self.n_cg)
        if self.start not in STARTS:
            raise ConfigError(f"start must be one of {', '.join(STARTS)}, got {self.start!r}")

    @property
    @override
    def n_evaluations(self) -> int:
        return self.n_steps + self.starts_in_one_step

    @property
    @override
    def starts_in_one_step(self) -> bool:
        return self.start == "aos"

    def bind(self, prior: DenoiserSource, op: SenseOp, rng: Streams) -> DenoiseFn:
        """The denoiser for a scan."""
        return prior.denoiser(op, rng, further=self.further)

    @abstractmethod
    def begin(self, problem: Problem, sigma: float) -> Tensor:
        """The first state, at the first noise level."""

    @abstractmethod
    def step(
        self, problem: Problem, state: Tensor, sigma: float, sigma_next: float
    ) -> tuple[Tensor, Tensor]:
        """From one noise level to the next: the new state, and the current image."""

    def end(self, problem: Problem, state: Tensor, img: Tensor) -> Tensor:
        """The result: the image of the last step, with the data-consistency solve if wanted.

        For mask-conditioned priors only: their error is larger than the last noise level, by which
        the data step weighs them. ``tau`` is the error of an estimate of the mean; the squared
        error of a sample is twice as large.
        """
        prior = problem.prior
        if not (self.final_dc and prior.mask_conditioned):
            return img
        tau = math.sqrt(2) * prior.tau
        return data_consistency(
            problem.op, problem.ksp, img, noise_std=problem.noise_std, tau=tau, n_iter=FINAL_CG
        )

    @override
    def __call__(
        self,
        prior: DenoiserSource | None,
        batch: Batch,
        rng: Streams,
        on_step: OnStep | None = None,
    ) -> Tensor:
        prior = required(prior, self.name)
        check_levels(prior, self.name)
        op, ksp = batch.op, batch.measured
        denoise = self.bind(prior, op, rng)
        highest = self.sigma_max or (10.0 if self.start == "noise" else 1.0)
        first = first_level(highest, prior, most=self.most)
        sigmas = [*rho_schedule(self.n_steps, first, prior.sigma_min).tolist(), 0.0]
        problem = Problem(prior, op, ksp, batch.noise_std, rng, op.adjoint(ksp), denoise)
        state = img = self.begin(problem, sigmas[0])
        for i, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
            step = partial(self.step, problem, sigma=sigma, sigma_next=sigma_next)
            state, img = step(state) if self.needs_grad else recomputed(step, state, rng)
            if on_step is not None:
                on_step(StepInfo(i, self.n_steps, sigma, op, img, ksp))
        return self.end(problem, state, img)

    def first_image(self, problem: Problem) -> Tensor:
        """What it starts from: 0, one step of the prior, or a CG-SENSE image.

        CG-SENSE is regularised by the prior's variance, ``||x||^2 / s^2``.
        """
        prior, op, ksp, noise_std = problem.prior, problem.op, problem.ksp, problem.noise_std
        if self.start == "aos":
            return one_step(prior, op, ksp, noise_std=noise_std, rng=problem.rng)
        zero = torch.zeros_like(problem.data)
        if self.start == "noise":
            return zero
        tau = prior.sigma_data
        return data_consistency(op, ksp, zero, noise_std=noise_std, tau=tau, n_iter=START_CG)

    def solve(self, problem: Problem, ridge: Tensor, b: Tensor, x0: Tensor | None = None) -> Tensor:
        """``(A^H A + ridge)^-1 b`` by the conjugate gradients of a data step, from ``x0``."""
        n_iter = self.n_cg or (CG_CONDITIONED if problem.prior.mask_conditioned else CG_PLAIN)
        return conjugate_gradient(
            lambda v: problem.op.normal(v) + ridge * v, b, n_iter=n_iter, x0=x0
        )


def required(prior: DenoiserSource | None, method: str) -> DenoiserSource:
    """The prior; ConfigError if there is none."""
    if prior is None:
        raise ConfigError(f"method {method!r} needs a prior (-m)")
    return prior


def check_levels(prior: DenoiserSource, method: str) -> None:
    """Raise ConfigError if the prior was trained at a single noise level."""
    if prior.one_level:
        raise ConfigError(
            f"method {method!r} takes many steps, but the prior was trained at the scanner's noise "
            "only (objective 'ssdu'); use method aos"
        )


def check_cg(n_cg: int | None) -> None:
    """Raise ConfigError if it is not a positive whole number."""
    if n_cg is not None:
        check_number("n_cg", n_cg, 1, whole=True)


def first_level(highest: float, prior: DenoiserSource, *, most: float | None = None) -> float:
    """The first noise level for this prior, at least twice its smallest trained level.

    W-FIRST-LEVEL if it had to be raised, or lies above ``most``.

    Args:
        highest: the level for data of standard deviation 0.5 per channel.
        prior: the prior; levels scale with its ``sigma_data``.
        most: in the units of ``highest``; by default the largest level of the prior's training.
    """
    unit = prior.sigma_data / EDM_SIGMA_DATA
    level, lowest = highest * unit, 2 * prior.sigma_min
    most = prior.highest_level if most is None else most
    text = f"the first noise level {level:.4g} "
    if level < lowest:
        text += f"is raised to {lowest:.4g}: the prior was trained from {prior.sigma_min:.4g} on"
        warn("W-FIRST-LEVEL", text)
    elif highest > most:
        text += f"is above the prior's training, up to about {most * unit:.4g}"
        warn("W-FIRST-LEVEL", text)
    return max(level, lowest)


Result = TypeVar("Result")


def recomputed(step: Callable[[Tensor], Result], state: Tensor, rng: Streams) -> Result:
    """``step(state)``, computed again in the backward pass, if there is one.

    A gradient through a sampler then takes the memory of one of its steps, not of all. Both times
    the step draws the same numbers from ``rng``. Without gradients it is called once.
    """
    if not torch.is_grad_enabled():
        return step(state)
    begun, first = [generator.get_state() for generator in rng], True

    def repeatable(state: Tensor) -> Result:
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

    done: Result = checkpoint(repeatable, state, use_reentrant=False, preserve_rng_state=False)
    return done


def one_step(
    prior: DenoiserSource, op: SenseOp, ksp: Tensor, *, noise_std: Tensor, rng: Streams
) -> Tensor:
    """``E[x | A^H y]`` by the prior: the measurement as it is, under the scan's mask."""
    return prior.denoiser(op, rng, further="scan")(ksp, noise_std.clamp(min=prior.sigma_min))


def data_consistency(
    op: SenseOp, ksp: Tensor, x0: Tensor, *, noise_std: Tensor, tau: float, n_iter: int
) -> Tensor:
    """argmin_x ||A x - y||^2 / max(sigma_n, 0.01)^2 + ||x - x0||^2 / tau^2, by CG from ``x0``.

    ``tau`` is the expected error of ``x0`` per real channel; see :data:`FINAL_NOISE`.
    """
    return consistent(op, op.adjoint(ksp), x0, noise_std=noise_std, tau=tau, n_iter=n_iter)


def consistent(
    op: SenseOp, data: Tensor, x0: Tensor, *, noise_std: Tensor, tau: float, n_iter: int
) -> Tensor:
    """:func:`data_consistency`, given ``A^H y``."""
    ridge = floored_variance(noise_std)[:, None, None] / tau**2
    return conjugate_gradient(
        lambda v: op.normal(v) + ridge * v, data + ridge * x0, n_iter=n_iter, x0=x0
    )


def floored_variance(noise_std: Tensor) -> Tensor:
    """max(sigma_n, 0.01)^2, the weight of the prior beside the data; see :data:`FINAL_NOISE`."""
    return noise_std.square().clamp(min=FINAL_NOISE**2)
