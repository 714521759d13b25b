"""Coil maps as 16-bit integers."""

import torch

from mri_ambient.physics.coil_maps import STEPS, pack_maps, unpack_maps


def normalised(rng, *shape):
    maps = torch.complex(torch.randn(*shape, generator=rng), torch.randn(*shape, generator=rng))
    maps = maps / maps.abs().square().sum(dim=-3, keepdim=True).sqrt()
    maps[..., :3] = 0
    return maps


def test_unpacked_maps_differ_by_half_a_step_at_most(rng):
    maps = normalised(rng, 2, 5, 9, 8)
    packed = pack_maps(maps)
    assert packed.dtype == torch.int16 and packed.shape == (2, 5, 9, 8, 2)
    error = torch.view_as_real(unpack_maps(packed) - maps).abs().max()
    assert 0.4 / STEPS < float(error) < 0.501 / STEPS


def test_the_support_is_kept_and_maps_stay_normalised(rng):
    maps = normalised(rng, 2, 5, 9, 8)
    energy = unpack_maps(pack_maps(maps)).abs().square().sum(dim=-3)
    assert bool((energy[..., :3] == 0).all())
    assert float((energy[..., 3:] - 1).square().mean().sqrt()) < 2e-5


def test_packing_again_is_exact(rng):
    once = unpack_maps(pack_maps(normalised(rng, 4, 2, 40, 40)))
    assert torch.equal(unpack_maps(pack_maps(once)), once)


def test_a_coil_that_sees_everything_is_exactly_one():
    maps = torch.ones(1, 4, 4, dtype=torch.complex64)
    assert torch.equal(unpack_maps(pack_maps(maps)), maps)
