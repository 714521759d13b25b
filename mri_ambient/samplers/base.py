"""What all samplers share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

from torch import Generator, Tensor

from ..prior import DenoiserSource
from ..sense import SenseOp
from ..solve import conjugate_gradient


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
    """

    name: ClassVar[str]
    stochastic: ClassVar[bool]
    needs_grad: ClassVar[bool]

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
