"""Random streams: the same for the same keys, independent of the batch, of unit variance."""

from __future__ import annotations

import pytest
import torch

from mri_ambient.rng import complex_normal, complex_normals, on_device, rng_for, uniforms


def streams(seed, n):
    return [rng_for(seed, "item", i) for i in range(n)]


def test_seeds_are_fixed_for_all_times():
    """sha256 of "0/scan/3", first eight bytes, halved."""
    assert rng_for(0, "scan", 3).initial_seed() == 0x47F73DCFA5BAEA4C
    assert rng_for(0, "scan", 3).initial_seed() == rng_for(0, "scan/3").initial_seed()


@pytest.mark.parametrize("other", [(1, "scan", 3), (0, "scan", 4), (0, "slice", 3), (0,)])
def test_other_keys_have_other_streams(other):
    assert not torch.equal(torch.rand(5, generator=rng_for(*other)),
                           torch.rand(5, generator=rng_for(0, "scan", 3)))  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
def test_noise_is_white_with_unit_variance_per_real_channel(dtype, rng):
    noise = complex_normal((200, 500), rng, dtype=dtype)
    assert noise.dtype == dtype
    parts = torch.view_as_real(noise).double().view(-1, 2)
    # 1e5 numbers: 0.0032 (1 sigma) for means and the correlation, 0.0045 for variances.
    assert float(parts.mean(dim=0).abs().max()) < 0.015
    assert float((parts.T @ parts / 1e5 - torch.eye(2)).abs().max()) < 0.02


def test_an_item_does_not_depend_on_its_batch():
    together = complex_normals((3, 4), streams(0, 4))
    for i in range(4):
        assert torch.equal(together[i], complex_normals((3, 4), [rng_for(0, "item", i)])[0])
        assert torch.equal(together[i], complex_normal((3, 4), rng_for(0, "item", i)))
    assert uniforms(streams(0, 4)).tolist() == [
        float(torch.rand(1, generator=stream)) for stream in streams(0, 4)
    ]


def test_on_the_cpu_streams_stay_the_same():
    given = streams(0, 2)
    assert all(a is b for a, b in zip(on_device(given, torch.device("cpu")), given, strict=True))
