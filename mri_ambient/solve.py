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
    dims: tuple[int, ...] = (-2, -1),
) -> Tensor:
    """Solve ``normal(x) = b`` for every batch item on its own (Hestenes and Stiefel, 1952).

    A fixed number of iterations, with step lengths per item, makes the answer independent of who
    shares the batch. An item that has converged stays where it is. Differentiable.

    Args:
        normal: a Hermitian positive (semi)definite map, batch axes leading.
        b: right-hand side, complex or real ``(..., y, x)``.
        n_iter: iterations.
        x0: starting point, zero by default.
        dims: the axes of one item's vector.

    Returns:
        The approximate solution, shaped like ``b``.
    """
    x = torch.zeros_like(b) if x0 is None else x0
    r = b if x0 is None else b - normal(x0)
    p = r
    rs = _norm2(r, dims)
    for _ in range(n_iter):
        Ap = normal(p)
        alpha = _ratio(rs, _inner(p, Ap, dims))
        x = x + alpha * p
        r = r - alpha * Ap
        rs_next = _norm2(r, dims)
        p = r + _ratio(rs_next, rs) * p
        rs = rs_next
    return x


def _inner(a: Tensor, b: Tensor, dims: tuple[int, ...]) -> Tensor:
    """Re<a, b> per item; real because the system is Hermitian."""
    return (a.conj() * b).real.sum(dim=dims, keepdim=True)


def _norm2(a: Tensor, dims: tuple[int, ...]) -> Tensor:
    return _inner(a, a, dims)


def _ratio(a: Tensor, b: Tensor) -> Tensor:
    """``a / b``, and 0 where ``b`` is 0 (already solved), with gradients that stay finite."""
    solved = b <= 0
    return torch.where(solved, torch.zeros_like(a), a / torch.where(solved, torch.ones_like(b), b))
