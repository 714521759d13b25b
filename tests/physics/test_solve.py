"""Conjugate gradients against inverted matrices."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from helpers import dense, random_sense

from mri_ambient.physics.solve import conjugate_gradient, shifted_solutions
from mri_ambient.rng import complex_normal

C128 = torch.complex128


@pytest.mark.parametrize(("shape", "n_coils"), [((6, 5), 3), ((1, 7), 2), ((4, 4), 1)])
@pytest.mark.parametrize("lam", [0.1, 10.0])
def test_solves_the_normal_equations(shape, n_coils, lam, rng):
    op = random_sense(shape, n_coils, rng, C128)
    b = complex_normal(shape, rng, dtype=C128)
    x = conjugate_gradient(lambda v: op.normal(v) + lam * v, b, n_iter=b.numel())
    matrix = dense(op, C128)
    normal = matrix.mH @ matrix + lam * torch.eye(b.numel(), dtype=C128)
    want = torch.linalg.solve(normal, b.flatten())
    torch.testing.assert_close(x.flatten(), want, rtol=0, atol=1e-9)


def test_the_starting_point_does_not_change_the_answer(rng):
    op = random_sense((6, 5), 3, rng, C128)
    b, start = complex_normal((2, 6, 5), rng, dtype=C128)

    def normal(v):
        return op.normal(v) + 0.2 * v

    zero = conjugate_gradient(normal, b, n_iter=40)
    torch.testing.assert_close(conjugate_gradient(normal, b, n_iter=40, x0=start), zero)
    # From the solution itself not even one step is needed.
    near = conjugate_gradient(normal, b, n_iter=1, x0=zero)
    torch.testing.assert_close(near, zero, rtol=0, atol=1e-10)


def test_the_error_never_grows(rng):
    # In the norm of the system, CG is optimal over growing subspaces.
    op = random_sense((7, 6), 2, rng, C128)
    b = complex_normal((7, 6), rng, dtype=C128)

    def normal(v):
        return op.normal(v) + 0.05 * v

    exact = conjugate_gradient(normal, b, n_iter=200)
    errors = []
    for n_iter in range(1, 20):
        e = conjugate_gradient(normal, b, n_iter=n_iter) - exact
        errors.append(torch.vdot(e.flatten(), normal(e).flatten()).real.item())
    assert all(later <= before for before, later in pairwise(errors))
    assert errors[-1] < 1e-3 * errors[0]


def test_an_item_does_not_depend_on_its_batch(rng):
    op = random_sense((8, 8), 3, rng)
    b = complex_normal((4, 8, 8), rng) * torch.tensor([1e-4, 1, 1e3, 0]).view(4, 1, 1)

    def normal(v):
        return op.normal(v) + 0.05 * v

    together = conjugate_gradient(normal, b, n_iter=15)
    for i in range(4):
        alone = conjugate_gradient(normal, b[i : i + 1], n_iter=15)[0]
        assert (together[i] - alone).norm() <= 1e-5 * alone.norm()


def test_a_zero_right_hand_side_has_the_zero_solution():
    b = torch.zeros(2, 5, 5, dtype=torch.complex64)
    assert torch.equal(conjugate_gradient(lambda v: 2 * v, b, n_iter=10), b)


def test_a_converged_item_does_not_change(rng):
    # Two eigenvalues: exact after two steps; the next fifty must not divide 0 by 0.
    eigenvalues = torch.where(torch.arange(36).reshape(6, 6) % 2 == 0, 1.0, 3.0)
    b = complex_normal((2, 6, 6), rng)
    b[1] = 0
    x = conjugate_gradient(lambda v: eigenvalues * v, b, n_iter=52)
    torch.testing.assert_close(x, b / eigenvalues)


@pytest.mark.parametrize("dtype", [torch.complex64, C128], ids=str)
@pytest.mark.parametrize("n_coils", [1, 4])
def test_a_singular_system_is_solved_in_its_range_by_any_number_of_steps(n_coils, dtype, rng):
    # Once the residual is rounding noise, going on would divide it by the noise of p^H A p; with
    # one coil, where A^H A is a projection, that happens from the second step on.
    op = random_sense((16, 16), n_coils, rng, dtype)
    b = op.adjoint(complex_normal((n_coils, 16, 16), rng, dtype=dtype))
    x = conjugate_gradient(op.normal, b, n_iter=400)
    assert (op.normal(x) - b).norm() < 10 * torch.finfo(dtype).eps * b.norm()
    if n_coils == 1:
        # Started at zero, it is the solution of least norm: of a projection, b itself.
        torch.testing.assert_close(x, b)


def test_real_vectors(rng):
    scale = torch.tensor([[1.0], [2.0], [4.0]])
    b = torch.rand(5, 3, 1, generator=rng)
    x = conjugate_gradient(lambda v: scale * v, b, n_iter=3)
    torch.testing.assert_close(x, b / scale)


def test_gradients_are_those_of_the_solution(rng):
    op = random_sense((3, 3), 2, rng, C128)
    b = complex_normal((2, 3, 3), rng, dtype=C128).requires_grad_()
    lam = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)

    def solve(b, lam):
        # Fewer steps than unknowns: the residual is not zero, nothing divides by it.
        return conjugate_gradient(lambda v: op.normal(v) + lam * v, b, n_iter=4)

    assert torch.autograd.gradcheck(solve, (b, lam))


def test_gradients_stay_finite_where_an_item_is_already_solved():
    b = torch.zeros(2, 3, 3, dtype=C128)
    b[0] = 1
    b.requires_grad_()
    conjugate_gradient(lambda v: 2 * v, b, n_iter=5).abs().square().sum().backward()
    assert torch.isfinite(torch.view_as_real(b.grad)).all()
    torch.testing.assert_close(b.grad, b.detach() / 2)


@pytest.mark.parametrize("n_iter", [1, 4, 40])
def test_shifted_solutions_are_the_iterates_of_conjugate_gradients(n_iter, rng):
    op = random_sense((6, 5), 3, rng, C128)
    b = complex_normal((2, 6, 5), rng, dtype=C128)
    b[1] *= 1e-3
    shifts = torch.tensor([[3.0, 0.1], [0.5, 20.0], [0.1, 0.1]], dtype=torch.float64)
    found = shifted_solutions(op.normal, b, shifts, n_iter=n_iter)
    for x, shift in zip(found, shifts[..., None, None], strict=True):
        want = conjugate_gradient(lambda v, s=shift: op.normal(v) + s * v, b, n_iter=n_iter)
        torch.testing.assert_close(x, want, rtol=0, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.complex64, torch.float32])
def test_shifted_solutions_of_an_identity_and_of_zero_are_exact(dtype):
    b = torch.ones(2, 3, 3, dtype=dtype)
    b[1] = 0
    found = shifted_solutions(lambda v: v, b, torch.tensor([[1.0, 1.0], [3.0, 3.0]]), n_iter=5)
    torch.testing.assert_close(found, torch.stack([b / 2, b / 4]))
