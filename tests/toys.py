"""Small batches and networks for the objectives, and linear problems with a known answer."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from helpers import random_maps, shaken, streams
from numpy.typing import NDArray
from scipy.sparse.linalg import LinearOperator, cg
from torch import Tensor

from mri_ambient.objectives import (
    Ambient,
    Consistency,
    Equivariant,
    Gsure,
    Kspace,
    Loss,
    Objective,
    Ssdu,
    Supervised,
)
from mri_ambient.physics.mask_spec import MaskSpec
from mri_ambient.physics.masks import sampling_density
from mri_ambient.physics.operators import SenseOp
from mri_ambient.priors.denoisers import DENOISERS, Denoiser
from mri_ambient.priors.facts import UNetSpec
from mri_ambient.priors.schedules import LogNormal
from mri_ambient.rng import complex_normal, rng_for
from mri_ambient.scan import Batch

SPEC = UNetSpec(channels=(8, 12), blocks=1, embedding=16, passes=2)
SHAPE = (16, 20)

EVERY: dict[str, Objective] = {
    "kspace": Kspace(),
    "kspace, noise in the image": Kspace(noise_domain="image"),
    "kspace, bare": Kspace(weights=False, fresh_masks=False, noise_correction=False),
    "ambient": Ambient(),
    "ambient, corrected": Ambient(noise_correction=True),
    "gsure": Gsure(),
    "gsure without divergence": Gsure(divergence=False),
    "consistency": Consistency(),
    "consistency on ambient": Consistency(base=Ambient()),
    "equivariant": Equivariant(),
    "equivariant on kspace": Equivariant(Kspace()),
    "ssdu": Ssdu(),
    "supervised": Supervised(),
    "supervised by images": Supervised(images="l1-wavelet"),
}
"""Every objective with options that lead through other code."""


def make_batch(
    *,
    n: int = 2,
    shape: tuple[int, int] = SHAPE,
    coils: int = 3,
    full: bool = False,
    noise_std: float = 0.02,
    kind: str = "random",
    images: bool = False,
) -> Batch:
    """Noisy measurements of random images under masks of R = 2 (Poisson 2.5), or 1."""
    rng = rng_for(0, "batch")
    maps = random_maps((n, coils, *shape), rng)
    spec = MaskSpec(kind, 1.0 if full else 2.5 if kind == "poisson" else 2.0, 4)
    mask = torch.stack([spec.draw(shape, rng) for _ in range(n)])
    op = SenseOp(maps, mask)
    img = 0.3 * complex_normal((n, *shape), rng)
    ksp = op(img) + noise_std * mask * complex_normal((n, coils, *shape), rng)
    acquired = torch.ones(n, shape[1], dtype=torch.bool)
    density = torch.stack([sampling_density(m) for m in mask])
    sigma_n = torch.full((n,), noise_std)
    return Batch(ksp, maps, mask, acquired, sigma_n, density, img if images else None)


def batch_for(objective: Objective, **options: object) -> Batch:
    """A batch that the objective can learn from."""
    return make_batch(full=objective.needs_full, images=objective.targets is not None, **options)


def net_for(objective: Objective, spec: UNetSpec = SPEC) -> Denoiser:
    """A small denoiser of the objective's kind."""
    torch.manual_seed(0)
    return shaken(DENOISERS[objective.wrapper](spec, 0.3))


def gradients(net: torch.nn.Module, loss: Loss) -> list[Tensor]:
    net.zero_grad()
    loss.backward.backward()
    return [p.grad.clone() for p in net.parameters()]


def poisoned(batch: Batch, *, everything: bool = False) -> Batch:
    """NaN wherever nothing was measured, or in all of k-space."""
    bad = torch.full_like(batch.ksp, complex("nan+nanj"))
    return replace(batch, ksp=bad if everything else torch.where(batch.mask, batch.ksp, bad))


class Toy:
    """x ~ CN(0, diag var) on 2 x 6 pixels, four coils, three lines always seen, one more measured.

    The further mask is the same for all, which of the other three lines was measured beside it is
    random, so that given M~ every line has its chance.
    """

    shape, sigma = (2, 6), 0.5

    def __init__(self, n: int, noise_std: float, *, full: bool = False) -> None:
        rng = rng_for(0, "toy")
        self.n, self.noise_std = n, noise_std
        self.maps = random_maps((4, *self.shape), rng)
        self.var = 0.3 + torch.rand(self.shape, generator=rng)
        self.seen = torch.zeros(1, *self.shape, dtype=torch.bool)
        self.seen[..., 2:5] = True
        extra = torch.tensor([0, 1, 5])[torch.randint(3, (n,), generator=rng)]
        mask = self.seen.expand(n, 1, *self.shape).clone()
        mask[torch.arange(n), ..., extra] = True
        if full:
            mask[:] = True
        self.x = self.var.sqrt() * complex_normal((n, *self.shape), rng)
        maps = self.maps.expand(n, -1, -1, -1)
        noise = noise_std * complex_normal((n, 4, *self.shape), rng)
        ksp = mask * (SenseOp(maps, mask)(self.x) + noise)
        density = torch.where(self.seen, 1.0, 1.0 if full else 1 / 3)
        self.batch = Batch(
            ksp, maps, mask, torch.ones(n, 6, dtype=torch.bool),
            torch.full((n,), noise_std), density.expand(n, 1, *self.shape),
        )  # fmt: skip

    @property
    def G(self) -> Tensor:  # noqa: N802 -- a matrix
        """A~^H A~, (pixel, pixel)."""
        eye = torch.eye(12, dtype=torch.complex64).reshape(12, *self.shape)
        return SenseOp(self.maps, self.seen).normal(eye).reshape(12, 12).T

    @property
    def C(self) -> Tensor:  # noqa: N802 -- a matrix
        """The covariance of x, (pixel, pixel)."""
        return torch.diag(self.var.flatten()).to(torch.complex64)

    def answer(self, var_image: float, var_kspace: float) -> tuple[Tensor, Tensor]:
        """W of E[x | u] = W u for u = G (x + image noise) + A~^H (k-space noise), and E[u u^H]."""
        G, C = self.G, self.C
        cov_u = G @ (C + var_image * torch.eye(12)) @ G + var_kspace * G
        return C @ G @ torch.linalg.pinv(cov_u, hermitian=True, rtol=1e-5), cov_u

    def minimiser(self, objective: Objective) -> Tensor:
        """The matrix W of D = W u that minimises the empirical loss, found exactly.

        The loss is quadratic in W: scipy's conjugate gradients find the minimum, a third of the
        steps with (E[u u^H])^-1 for the part of the Hessian that acts on the inputs.
        """
        net, seen = LinearDenoiser(), []
        net.register_forward_pre_hook(
            lambda _, args: seen.append(args[0].adjoint(args[1]).detach())
        )
        loss = objective(net, self.batch, streams(1, self.n)).backward
        (grad,) = torch.autograd.grad(loss, net.weight, create_graph=True)

        def hessian(v: NDArray[np.float64]) -> Tensor:
            along = torch.from_numpy(v).float().view_as(grad)
            return torch.autograd.grad(grad, net.weight, along, retain_graph=True)[0].flatten()

        u = torch.cat(seen).detach().flatten(-2).to(torch.complex128)
        cov_u = u.T @ u.conj() / len(u)
        inverse = torch.linalg.inv(cov_u + 1e-3 * cov_u.diagonal().real.mean() * torch.eye(12))

        def precondition(v: NDArray[np.float64]) -> Tensor:
            V = torch.view_as_complex(torch.from_numpy(v).view(12, 12, 2))
            return torch.view_as_real(V @ inverse).flatten()

        size = (grad.numel(), grad.numel())
        best, failed = cg(
            LinearOperator(size, hessian, dtype=np.float64), -grad.detach().flatten().numpy(),
            rtol=1e-3, maxiter=60, M=LinearOperator(size, precondition, dtype=np.float64),
        )  # fmt: skip
        assert not failed
        return torch.view_as_complex(torch.from_numpy(best).float().view(12, 12, 2))

    def excess(self, W: Tensor, best: Tensor, cov_u: Tensor) -> float:
        """E ||W u - best u||^2 over the error of the best, E ||best u - x||^2."""
        gap = W - best
        lost = (gap @ cov_u @ gap.mH).diagonal().real.sum()
        error = self.var.sum() - (best @ cov_u @ best.mH).diagonal().real.sum()
        return float(lost / error)


class LinearDenoiser(torch.nn.Module):
    """D = W A~^H z."""

    sigma_data = 0.8

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(12, 12, 2))

    def forward(self, op: SenseOp, z: Tensor, sigma: Tensor) -> Tensor:
        u = op.adjoint(z).flatten(-2)
        return (u @ torch.view_as_complex(self.weight).T).reshape(-1, *op.ishape)


class Exact(torch.nn.Module):
    """E[x | A~^H z] of the toy, for noise in k-space or the image, times a factor (1 is right)."""

    sigma_data = 0.8

    def __init__(self, toy: Toy, factor: float = 1.0, *, in_image: bool = False) -> None:
        super().__init__()
        self.toy, self.factor, self.in_image = toy, factor, in_image
        self.G, self.C = toy.G, toy.C

    def forward(self, op: SenseOp, z: Tensor, sigma: Tensor) -> Tensor:
        G, C, var = self.G, self.C, sigma[:, None, None].square()
        if self.in_image:
            cov_u = G @ (C + var * torch.eye(12)) @ G
            W = C @ G @ torch.linalg.pinv(cov_u, hermitian=True, rtol=1e-5)
        else:
            W = torch.linalg.inv(G + var * torch.linalg.inv(C))
        u = op.adjoint(z).flatten(-2)
        return self.factor * (W @ u[..., None]).reshape(-1, *op.ishape)


class At(LogNormal):
    """Always the same level."""

    def draw(self, at_least: Tensor, sigma_data: float, rng: object) -> Tensor:
        return torch.full_like(at_least, Toy.sigma)


N_TOY = 8000
"""Draws. With 144 complex weights the minimiser has an excess error of a few times 144 / N."""

N_WRONG = 2000
"""Enough to tell a plain mistake, which costs 10 % and more, from their 3 times larger scatter."""

RIGHT = {
    "kspace": 0.009,
    "kspace, no weights": 0.006,
    "ambient": 0.008,
    "gsure": 0.003,
    "gsure, no divergence": 0.008,
}
"""Excess errors below which a loss is taken to be right: up to twice what these seeds give."""

WRONG = 0.1
"""And above which a plain mistake must lie."""
