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
