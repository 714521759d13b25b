"""Priors with a denoiser in closed form, x ~ CN(0, diag), and problems with a known posterior."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from helpers import apply_method, dense, random_sense
from torch import Generator, Tensor

from mri_ambient.methods import Method
from mri_ambient.physics.operators import SenseOp
from mri_ambient.priors.prior import DenoiseFn, DenoiserSource, Further
from mri_ambient.rng import complex_normal, rng_for


class GaussianPrior(DenoiserSource):
    """x has independent pixels of variance ``var`` per real channel; everything in float64.

    The denoiser is the exact posterior mean E[x | A~^H z] for z = F S x + sigma noise on M~.
    """

    sigma_min = sigma_data = tau = 0.1
    mask_conditioned = True

    def __init__(self, var: Tensor, *, sigma_min: float, mask: Tensor | None = None) -> None:
        self.var, self.sigma_min, self.mask = var, sigma_min, mask
        self.sigma_data = float(var.mean().sqrt())

    def further(self, op: SenseOp, further: Further) -> SenseOp:
        if isinstance(further, Tensor):
            return op.with_mask(further)
        return op if further == "scan" or self.mask is None else op.with_mask(self.mask)

    def training_mask(self, op: SenseOp, rng: Sequence[Generator]) -> Tensor | None:
        """Lines kept with probability 0.7 each, one mask per item."""
        width = op.ishape[-1]
        lines = [torch.rand(width, generator=g, dtype=torch.float64) < 0.7 for g in rng]
        return torch.stack(lines)[:, None, None].expand(-1, 1, op.ishape[-2], width)

    def matrix(self, op: SenseOp, sigma: float) -> Tensor:
        """D = matrix @ A~^H z: (A~^H A~ + sigma^2 / var)^-1, (pixel, pixel)."""
        n = self.var.numel()
        eye = torch.eye(n, dtype=torch.complex128).reshape(n, *op.ishape)
        normal = op.normal(eye).reshape(n, n).T
        return torch.linalg.inv(normal + torch.diag((sigma**2 / self.var).flatten()))

    def denoiser(
        self, op: SenseOp, rng: Sequence[Generator], further: Further = "scan"
    ) -> DenoiseFn:
        inner = self.further(op, further)

        def denoise(z: Tensor, sigma: Tensor) -> Tensor:
            u = inner.adjoint(z)
            n = len(u)
            maps = inner.maps.expand(n, *inner.maps.shape[-3:]).to(torch.complex128)
            mask = inner.mask.expand(n, 1, *inner.mask.shape[-2:])
            known: dict[tuple[object, ...], Tensor] = {}
            rows = []
            for i in range(n):
                coils = i if len(inner.maps) == n else 0
                key = (coils, mask[i].numpy().tobytes(), float(sigma[i]))
                if key not in known:
                    known[key] = self.matrix(SenseOp(maps[i], mask[i]), float(sigma[i]))
                rows.append(known[key] @ u[i].flatten().to(torch.complex128))
            return torch.stack(rows).reshape(-1, *op.ishape).to(u.dtype)

        return denoise


class WholeGaussian(GaussianPrior):
    """The same, but it sees the whole state, as plain priors do.

    D = var / (var + sigma^2) S^H F^H z, for maps with sum_c |S_c|^2 = 1 everywhere.
    """

    mask_conditioned = False

    def training_mask(self, op: SenseOp, rng: Sequence[Generator]) -> Tensor | None:
        return None

    def denoiser(
        self, op: SenseOp, rng: Sequence[Generator], further: Further = "scan"
    ) -> DenoiseFn:
        whole = op.with_mask(torch.ones_like(op.mask))

        def denoise(z: Tensor, sigma: Tensor) -> Tensor:
            var = self.var.to(z.real.dtype)
            return var / (var + sigma[:, None, None].square()) * whole.adjoint(z)

        return denoise


class Mixture(WholeGaussian):
    """The whole image is +center or -center with equal chance, plus white noise of ``var``."""

    def __init__(self, center: Tensor, var: float, *, sigma_min: float) -> None:
        super().__init__(torch.full(center.shape, var).double(), sigma_min=sigma_min)
        self.center = center
        self.sigma_data = float((var + center.abs().square().mean() / 2) ** 0.5)

    def denoiser(
        self, op: SenseOp, rng: Sequence[Generator], further: Further = "scan"
    ) -> DenoiseFn:
        whole = op.with_mask(torch.ones_like(op.mask))

        def denoise(z: Tensor, sigma: Tensor) -> Tensor:
            u, sigma = whole.adjoint(z), sigma[:, None, None]
            total = self.var + sigma**2
            along = (self.center.conj() * u).real / total
            sign = torch.tanh(along.sum(dim=(-2, -1), keepdim=True))
            return sign * self.center + self.var / total * (u - sign * self.center)

        return denoise


def measure(op: SenseOp, prior: GaussianPrior, sigma_n: float) -> tuple[Tensor, Tensor]:
    """An image from the prior ``(y, x)``, and its noisy k-space ``(1, coil, y, x)``."""
    rng = rng_for(0, "measure")
    x = prior.var.sqrt() * complex_normal(op.ishape, rng, dtype=torch.complex128)
    noise = complex_normal((1, *op.oshape), rng, dtype=torch.complex128)
    return x, op(x[None]) + sigma_n * op.mask * noise


def even_problem(sigma_n: float) -> tuple[WholeGaussian, SenseOp, Tensor]:
    """A plain prior on 12 pixels of equal variance, three coils, and k-space of one image."""
    rng, shape = rng_for(0, "dds"), (3, 4)
    op = random_sense(shape, 3, rng, torch.complex128)
    prior = WholeGaussian(torch.full(shape, 0.8, dtype=torch.float64), sigma_min=0.01)
    x = prior.var.sqrt() * complex_normal(shape, rng, dtype=torch.complex128)
    noise = complex_normal(op.oshape, rng, dtype=torch.complex128)
    return prior, op, op(x) + sigma_n * op.mask * noise


def posterior(
    prior: GaussianPrior, op: SenseOp, ksp: Tensor, sigma_n: float
) -> tuple[Tensor, Tensor]:
    """Mean ``(pixel,)`` and covariance ``(pixel, pixel)`` per real channel, in closed form."""
    A = dense(op, torch.complex128)
    precision = A.mH @ A / sigma_n**2 + torch.diag(1 / prior.var.flatten()).to(torch.complex128)
    cov = torch.linalg.inv(precision)
    return cov @ A.mH @ ksp.flatten() / sigma_n**2, cov


def draw(
    method: Method, prior: GaussianPrior, op: SenseOp, ksp: Tensor, sigma_n: float, n: int
) -> Tensor:
    """``n`` samples of one measurement, ``(n, pixel)``."""
    many = SenseOp(op.maps.expand(n, *op.oshape), op.mask.expand(n, 1, *op.ishape))
    streams = [rng_for(1, i) for i in range(n)]
    ksp = ksp.expand(n, *op.oshape)
    return apply_method(method, many, ksp, sigma_n, prior=prior, rng=streams).flatten(1)
