"""Batches: augmentation gives measurements of another object; stacking, moving, packed maps."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest
import torch
from helpers import random_maps, streams

from mri_ambient.physics.coil_maps import pack_maps
from mri_ambient.physics.fourier import fft2c, reverse
from mri_ambient.physics.operators import SenseOp
from mri_ambient.rng import complex_normal
from mri_ambient.scan import Batch

N = 24


def measured(shape: tuple[int, int], rng: torch.Generator) -> tuple[torch.Tensor, Batch]:
    """Random objects, and noiseless measurements of them by a random mask."""
    img = complex_normal((N, *shape), rng)
    maps = random_maps((N, 3, *shape), rng)
    mask = torch.rand(N, 1, *shape, generator=rng) < 0.5
    acquired = torch.arange(shape[1]).expand(N, -1) > 1
    mask = mask & acquired[:, None, None, :]
    ksp = torch.where(mask, fft2c(maps * img[:, None]), 0)
    density = torch.rand(N, 1, *shape, generator=rng)
    noise_std = torch.rand(N, generator=rng)
    return img, Batch(ksp, maps, mask, acquired, noise_std, density, img)


def versions(img: torch.Tensor) -> list[torch.Tensor]:
    """The eight mirrored and conjugated versions of an object."""
    found = []
    for flip_y, flip_x, conjugate in product((False, True), repeat=3):
        version = img.conj() if conjugate else img
        version = reverse(version, -2) if flip_y else version
        found.append(reverse(version, -1) if flip_x else version)
    return found


@pytest.mark.parametrize("shape", [(8, 10), (7, 9), (8, 5)])
def test_an_augmented_slice_is_a_measurement_of_one_of_eight_versions(shape, rng):
    img, batch = measured(shape, rng)
    out = batch.augmented(streams(0, N))
    chosen = []
    for i in range(N):
        errors = []
        for version in versions(img[i]):
            ksp = torch.where(out.mask[i], fft2c(out.maps[i] * version), 0)
            turn = torch.vdot(ksp.flatten(), out.ksp[i].flatten())
            errors.append(float((ksp * turn / turn.abs() - out.ksp[i]).norm() / ksp.norm()))
        chosen.append(min(range(8), key=errors.__getitem__))
        assert errors[chosen[-1]] < 1e-5
        assert sorted(errors)[1] > 0.1
        # The target image moves with the measurement.
        target = fft2c(out.maps[i] * out.img[i])
        torch.testing.assert_close(torch.where(out.mask[i], target, 0), out.ksp[i])
    # All eight occur: 24 fair draws miss one of them with probability 8 (7/8)^24 = 0.33; the
    # generator is fixed, so this either always passes or never does.
    assert len(set(chosen)) >= 6


def test_augmentation_measures_nothing_new(rng):
    _, batch = measured((8, 10), rng)
    out = batch.augmented(streams(1, N))
    assert torch.equal(out.mask.sum(dim=(1, 2, 3)), batch.mask.sum(dim=(1, 2, 3)))
    assert not bool((out.mask & ~out.acquired[:, None, None, :]).any())
    assert torch.equal(out.acquired.sum(dim=-1), batch.acquired.sum(dim=-1))
    assert torch.equal(out.noise_std, batch.noise_std)
    moved = torch.where(out.mask, out.density, 0).flatten(1).sort(dim=1).values
    before = torch.where(batch.mask, batch.density, 0).flatten(1).sort(dim=1).values
    torch.testing.assert_close(moved, before)
    energy, kept = (b.ksp.abs().square().sum(dim=(1, 2, 3)) for b in (batch, out))
    torch.testing.assert_close(energy, kept)


def test_augmentation_does_not_read_unmeasured_entries(rng):
    _, batch = measured((8, 10), rng)
    poisoned = replace(batch, ksp=torch.where(batch.mask, batch.ksp, complex("nan+nanj")))
    clean, dirty = (b.augmented(streams(2, N)) for b in (batch, poisoned))
    assert torch.equal(clean.mask, dirty.mask)
    assert torch.equal(torch.where(dirty.mask, dirty.ksp, 0), clean.ksp * clean.mask)


def test_batches_of_fewer_coils_are_padded_with_zeros(rng):
    _, batch = measured((8, 10), rng)
    fewer = replace(batch, ksp=batch.ksp[:, :2], maps=batch.maps[:, :2])
    both = Batch.stack([batch, fewer])
    assert len(both) == 2 * N and both.ksp.shape[1] == 3
    assert float(both.ksp[N:, 2].abs().max()) == float(both.maps[N:, 2].abs().max()) == 0
    assert torch.equal(both[N:].ksp[:, :2], fewer.ksp)


def test_batches_with_and_without_images_do_not_stack(rng):
    _, batch = measured((8, 10), rng)
    with pytest.raises(ValueError, match="img"):
        Batch.stack([batch, replace(batch, img=None)])


def test_the_measured_k_space_is_zero_where_nothing_was_sampled(rng):
    _, batch = measured((8, 10), rng)
    poisoned = replace(batch, ksp=torch.where(batch.mask, batch.ksp, complex("nan+nanj")))
    assert torch.equal(poisoned.measured, batch.ksp * batch.mask)


def test_packed_maps_are_unpacked_on_the_way(rng):
    """16 bits a component: within 2e-5."""
    _, batch = measured((8, 10), rng)
    moved = replace(batch, maps=pack_maps(batch.maps)).to("cpu")
    torch.testing.assert_close(moved.maps, batch.maps, rtol=0, atol=4e-5)
    assert batch.to("cpu").maps is batch.maps


def test_a_measurement_by_an_operator_is_a_batch(rng):
    op = SenseOp(random_maps((2, 3, 8, 10), rng), torch.ones(1, 1, 8, 10) > 0)
    ksp = complex_normal((2, 3, 8, 10), rng)
    batch = Batch.of_measurement(op, ksp, torch.tensor([0.1, 0.2]))
    assert batch.mask.shape == batch.density.shape == (2, 1, 8, 10)
    assert torch.equal(batch[[1]].op.adjoint(batch[[1]].measured), op.adjoint(ksp)[1:])


@pytest.mark.parametrize(("shape", "first", "n"), [((8, 6), 2, 4), ((9, 7), 0, 5), ((7, 8), 3, 4)])
def test_rows_are_a_measurement_of_these_rows_of_the_object(shape, first, n, rng):
    """Where the readout is full: the same lines of k-space, and noise of the same strength."""
    img, batch = measured(shape, rng)
    lines = torch.rand(N, 1, 1, shape[1], generator=rng) < 0.5
    mask = lines.expand(N, 1, *shape)
    whole = replace(batch, mask=mask, ksp=fft2c(batch.maps * img[:, None]))
    rows = whole.rows(first, n)
    want = rows.op(img[:, first : first + n])
    torch.testing.assert_close(rows.ksp, want, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(rows.img, img[:, first : first + n])
    noise = replace(whole, ksp=complex_normal(tuple(batch.ksp.shape), rng), mask=mask | True)
    assert float(noise.rows(first, n).ksp.abs().square().mean()) == pytest.approx(2, rel=0.1)
