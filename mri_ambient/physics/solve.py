"""Conjugate gradients for batches of Hermitian positive (semi)definite systems."""

from collections.abc import Callable

import torch
from torch import Tensor


def conjugate_gradient(
    normal: Callable[[Tensor], Tensor],
    b: Tensor,
    *,
    n_iter: int,
    x0: Tensor | None = None,
) -> Tensor:
    """Solve ``normal(x) = b`` for every batch item separately (Hestenes and Stiefel, 1952).

    The number of iterations is fixed and step lengths are per item, so that a result does not
    depend on the rest of the batch. An item whose residual is rounding noise is not changed any
    more: this noise may lie in the null space of a semidefinite map, where the next step would be
    unbounded. Differentiable.

    Args:
        normal: a Hermitian positive (semi)definite map, batch axes leading.
        b: right-hand side, complex or real ``(..., y, x)``.
        n_iter: iterations.
        x0: starting point, zero by default.
    """
    x = torch.zeros_like(b) if x0 is None else x0
    r = b if x0 is None else b - normal(x0)
    p = r
    rs = _inner(r, r)
    rounding = (4 * torch.finfo(b.dtype).eps) ** 2 * torch.maximum(_inner(b, b), rs)
    for _ in range(n_iter):
        unsolved = rs > rounding
        Ap = normal(p)
        alpha = _ratio(rs, _inner(p, Ap), unsolved)
        x = torch.addcmul(x, alpha, p)
        r = torch.addcmul(r, alpha, Ap, value=-1)
        rs_next = _inner(r, r)
        p = torch.addcmul(r, _ratio(rs_next, rs, unsolved), p)
        rs = rs_next
    return x


def shifted_solutions(
    normal: Callable[[Tensor], Tensor], b: Tensor, shifts: Tensor, *, n_iter: int
) -> Tensor:
    """Solve ``normal(x) + shift * x = b`` for many shifts at the cost of one.

    A shift does not change the Krylov space, so that these are the iterates of
    :func:`conjugate_gradient` from zero, but for rounding: Lanczos vectors, and a small tridiagonal
    system for every shift (Frommer and Maass 1999, doi:10.1137/S1064827596313310).

    Args:
        normal: a Hermitian positive semidefinite map, batch axes leading.
        b: right-hand side, complex or real ``(..., y, x)``.
        shifts: positive, ``(shift, ...)``, the other axes those of the batch.
        n_iter: iterations.

    Returns:
        The solutions ``(shift, ..., y, x)``.
    """
    norm = _inner(b, b).sqrt()
    vectors = [_divided(b, norm)]
    diagonal: list[Tensor] = []
    beside: list[Tensor] = []
    for i in range(n_iter):
        v = normal(vectors[i])
        if i > 0:
            v = v - beside[-1] * vectors[i - 1]
        diagonal.append(_inner(vectors[i], v))
        v = v - diagonal[-1] * vectors[i]
        beside.append(_inner(v, v).sqrt())
        vectors.append(_divided(v, beside[-1]))
    # On the CPU: the systems are small, and not every device has double precision.
    alpha, beta = (
        torch.stack(part)[..., 0, 0].movedim(0, -1).cpu().double() for part in (diagonal, beside)
    )
    off = torch.diag_embed(beta[..., :-1], offset=1)
    T = torch.diag_embed(alpha) + off + off.mT
    shifted = T + shifts.cpu().double()[..., None, None] * torch.eye(n_iter, dtype=T.dtype)
    rhs = torch.zeros_like(T[..., 0])
    rhs[..., 0] = norm[..., 0, 0].cpu()
    weights = torch.linalg.solve(shifted, rhs.expand(shifted.shape[:-1])).to(b)
    return torch.einsum("s...n,n...yx->s...yx", weights, torch.stack(vectors[:-1]))


def _divided(v: Tensor, norm: Tensor) -> Tensor:
    """A unit vector, or zero where the norm is zero."""
    return v * torch.where(norm > 0, norm, torch.inf).reciprocal()


def _inner(a: Tensor, b: Tensor) -> Tensor:
    """Re<a, b> per item; <x, normal(x)> is real because the map is Hermitian."""
    if not a.is_complex():
        return (a * b).sum(dim=(-2, -1), keepdim=True)
    products = torch.view_as_real(a) * torch.view_as_real(b)
    return products.sum(dim=(-3, -2, -1))[..., None, None]


def _ratio(a: Tensor, b: Tensor, unsolved: Tensor) -> Tensor:
    """``a / b``, or 0 where the item is solved or ``b`` is 0, with finite gradients."""
    divides = unsolved & (b > 0)
    return torch.where(divides, a / torch.where(divides, b, 1), 0)
