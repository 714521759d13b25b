"""The SENSE operator against its matrix."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import assert_adjoint, centred_dft, dense, random_maps, random_sense

from mri_ambient.physics.fourier import fft2c
from mri_ambient.physics.operators import SenseOp
from mri_ambient.rng import complex_normal

C128 = torch.complex128
CASES = [((8, 8), 4, 1), ((7, 9), 3, 1), ((1, 6), 2, 1), ((6, 1), 2, 1), ((5, 4), 1, 1)]
SEVERAL = [((8, 6), 4, 2), ((5, 7), 3, 2), ((4, 3), 4, 3)]
"""Sizes, coils and sets of maps."""


@pytest.fixture(params=CASES + SEVERAL, ids=str)
def op(request, rng):
    shape, n_coils, n_sets = request.param
    return random_sense(shape, n_coils, rng, C128, n_sets)


def matrix_by_hand(op: SenseOp) -> torch.Tensor:
    """mask · F · maps with explicit Fourier matrices and diagonals, the sets side by side."""
    _, ny, nx = op.oshape
    fourier = torch.kron(centred_dft(ny), centred_dft(nx))
    mask = torch.diag(op.mask.flatten().to(C128))
    by_set = op.maps.reshape(len(op.maps), op.n_sets, -1).unbind(dim=1)
    rows = [torch.cat([mask @ fourier @ torch.diag(s) for s in maps]) for maps in by_set]
    return torch.cat(rows, dim=1)


def test_forward_is_mask_fourier_maps(op):
    torch.testing.assert_close(dense(op, C128), matrix_by_hand(op), rtol=0, atol=1e-12)


def test_adjoint_is_the_conjugate_transpose(op):
    torch.testing.assert_close(dense(op.H, C128), dense(op, C128).mH, rtol=0, atol=1e-12)


def test_adjoint_by_dot_product(op, rng):
    assert_adjoint(op, rng=rng)


def test_normal_is_adjoint_of_forward(op, rng):
    x = complex_normal((3, *op.ishape), rng, dtype=C128)
    torch.testing.assert_close(op.normal(x), op.adjoint(op.forward(x)), rtol=0, atol=1e-12)


def test_adjoint_of_the_adjoint_is_the_operator(op, rng):
    assert op.H.H is op
    assert (op.H.ishape, op.H.oshape) == (op.oshape, op.ishape)
    x = complex_normal(op.ishape, rng, dtype=C128)
    torch.testing.assert_close(op.H.normal(op(x)), op(op.H(op(x))), rtol=0, atol=1e-12)


def test_gradients_flow_after_use_in_inference_mode(op, rng):
    # Tensors cached without gradients must also work for a sampler that needs them.
    x = complex_normal(op.ishape, rng, dtype=C128)
    with torch.inference_mode():
        op.normal(x)
    x.requires_grad_()
    op.normal(x).real.sum().backward()
    ones = torch.ones(op.ishape, dtype=C128)
    torch.testing.assert_close(x.grad, op.normal(ones))


def test_leading_axes_are_batch(op, rng):
    x = complex_normal((2, 3, *op.ishape), rng, dtype=C128)
    one_by_one = torch.stack([torch.stack([op(image) for image in row]) for row in x])
    torch.testing.assert_close(op(x), one_by_one)
    torch.testing.assert_close(op.H(op(x))[1, 2], op.H(op(x[1, 2])))


def test_every_slice_has_its_own_maps_and_mask(rng):
    maps = random_maps((2, 3, 6, 5), rng, C128)
    mask = torch.rand((2, 1, 6, 5), generator=rng) < 0.5
    x = complex_normal((2, 6, 5), rng, dtype=C128)
    both = SenseOp(maps, mask)
    for i in range(2):
        alone = SenseOp(maps[i], mask[i])
        torch.testing.assert_close(both(x)[i], alone(x[i]))
        torch.testing.assert_close(both.normal(x)[i], alone.normal(x[i]))


def test_one_set_of_coils_under_several_masks(rng):
    maps, masks = random_maps((2, 5, 4), rng, C128), torch.rand(3, 1, 5, 4, generator=rng) < 0.5
    op, x = SenseOp(maps, masks), complex_normal((5, 4), rng, dtype=C128)
    torch.testing.assert_close(op.normal(x), op.adjoint(op(x)))
    for i, mask in enumerate(masks):
        torch.testing.assert_close(op.normal(x)[i], SenseOp(maps, mask).normal(x))


def test_full_sampling_returns_the_image_inside_the_support(rng):
    maps = random_maps((4, 7, 6), rng, C128)
    maps[:, :2] = 0
    op = SenseOp(maps, torch.ones(1, 7, 6, dtype=torch.bool))
    x = complex_normal((7, 6), rng, dtype=C128)
    assert op.support.sum() == 5 * 6
    torch.testing.assert_close(op.normal(x), x * op.support, rtol=0, atol=1e-12)


def test_the_norm_is_at_most_one(op):
    assert torch.linalg.matrix_norm(dense(op, C128), ord=2) <= 1 + 1e-12


def test_positions_not_sampled_are_never_read(op, rng):
    y = op(complex_normal(op.ishape, rng, dtype=C128))
    poisoned = torch.where(op.mask, y, torch.nan)
    assert torch.equal(op.adjoint(poisoned), op.adjoint(y))


def test_line_masks_broadcast_along_the_readout(rng):
    maps = random_maps((3, 6, 5), rng, C128)
    lines = torch.tensor([True, False, True, True, False]).expand(1, 1, 5)
    x = complex_normal((6, 5), rng, dtype=C128)
    torch.testing.assert_close(
        SenseOp(maps, lines)(x), SenseOp(maps, lines.expand(1, 6, 5).clone())(x)
    )


def test_another_mask_keeps_the_coils(op, rng):
    mask = ~op.mask
    x = complex_normal(op.ishape, rng, dtype=C128)
    torch.testing.assert_close(op(x) + op.with_mask(mask)(x), op.expand(x))
    coil_img = (op.maps * x).reshape(len(op.maps), op.n_sets, *op.oshape[1:]).sum(dim=1)
    torch.testing.assert_close(op.expand(x), fft2c(coil_img))


def test_moving_to_a_device_moves_everything(op):
    moved = op.to("meta")
    assert (moved.maps.device.type, moved.mask.device.type) == ("meta", "meta")


@pytest.mark.parametrize(("shape", "n_coils"), [((16, 16), 4), ((15, 17), 3), ((16, 15), 2)])
def test_agrees_with_sigpy(shape, n_coils, rng):
    import sigpy.mri

    op = random_sense(shape, n_coils, rng)
    theirs = sigpy.mri.linop.Sense(op.maps.numpy(), weights=op.mask[0].float().numpy())
    x, y = complex_normal(op.ishape, rng), complex_normal(op.oshape, rng)
    np.testing.assert_allclose(op(x).numpy(), theirs(x.numpy()), rtol=0, atol=1e-5)
    np.testing.assert_allclose(op.H(y).numpy(), theirs.H(y.numpy()), rtol=0, atol=1e-5)


ONES = torch.ones(2, 4, 4, dtype=C128)
MASK = torch.ones(1, 4, 4, dtype=torch.bool)


@pytest.mark.parametrize(
    ("maps", "mask", "value"),
    [
        (ONES[0], MASK, "(4, 4)"),
        (ONES.real, MASK, "float64"),
        (ONES, MASK.float(), "float32"),
        (ONES, MASK[..., :3], "(1, 4, 3)"),
        (ONES, MASK.expand(2, 4, 4), "(2, 4, 4)"),
    ],
)
def test_maps_and_masks_that_do_not_fit_are_refused(maps, mask, value):
    with pytest.raises(ValueError) as refused:
        SenseOp(maps, mask)
    assert value in str(refused.value)
