"""The network: any size, no leak between batch items, circular borders."""

from __future__ import annotations

import pytest
import torch
from helpers import shaken

from mri_ambient.errors import ConfigError
from mri_ambient.priors.facts import UNetSpec
from mri_ambient.priors.unet import NETWORKS, UNet, forward_flops, n_parameters, network_spec

SPEC = UNetSpec(channels=(8, 12, 16), blocks=1, embedding=16)


@pytest.mark.parametrize("shape", [(16, 16), (17, 23), (5, 9), (30, 12)])
def test_any_size_works(shape, rng):
    net = shaken(UNet(SPEC, 3))
    out = net(torch.randn(2, 3, *shape, generator=rng), torch.tensor([-0.5, 0.1]))
    assert out.shape == (2, 2, *shape)
    assert bool(torch.isfinite(out).all())


def test_padding_wraps_around_the_edges(rng):
    """An image is evaluated as its circular padding to a multiple of 4, and cropped again."""
    net, label = shaken(UNet(SPEC, 2)), torch.zeros(1)
    x = torch.randn(1, 2, 13, 18, generator=rng)
    padded = torch.nn.functional.pad(x, (1, 1, 1, 2), mode="circular")
    inner = net(padded, label)[..., 1:14, 1:19]
    torch.testing.assert_close(net(x, label), inner, rtol=1e-5, atol=1e-6)


def test_items_of_a_batch_do_not_see_each_other(rng):
    net = shaken(UNet(SPEC, 3))
    x = torch.randn(3, 3, 16, 16, generator=rng)
    label = torch.tensor([-1.0, 0.0, 0.3])
    together = net(x, label)
    alone = torch.cat([net(x[i : i + 1], label[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-6)


def test_presets_grow_and_count_their_work():
    sizes = [n_parameters(UNet(NETWORKS[name], 5)) for name in ("tiny", "small", "base")]
    assert sizes == sorted(sizes)
    conv = torch.nn.Conv2d(3, 8, 3, padding=1)
    net = UNet(SPEC, 3)
    assert forward_flops(net, (32, 32)) > 2 * conv.weight.numel() * 32 * 32
    assert forward_flops(net, (64, 32)) == pytest.approx(2 * forward_flops(net, (32, 32)), rel=0.05)


@pytest.mark.parametrize("channels", [(8, 12, 16), (8, 12, 18)])
def test_planes_are_doubled_before_or_after_their_convolution(channels, rng):
    """The second network has a norm whose groups hold planes of both."""
    spec = UNetSpec(channels=channels, blocks=1, embedding=16)
    net = shaken(UNet(spec, 3)).double()
    emb = torch.randn(2, 16, generator=rng, dtype=torch.float64)
    for level, below, width in zip(net.up[1:], channels[:0:-1], channels[-2::-1], strict=True):
        coarse = torch.randn(2, below, 5, 3, generator=rng, dtype=torch.float64)
        fine = torch.randn(2, width, 10, 6, generator=rng, dtype=torch.float64)
        doubled = coarse.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
        expected = level[0](torch.cat([doubled, fine], dim=1), emb)
        torch.testing.assert_close(level[0].doubling(coarse, fine, emb), expected)


@pytest.mark.parametrize("name", ["tiny", "tiny16"])
def test_norms_take_the_channels_of_a_group_together(name, rng):
    spec = NETWORKS[name]
    net = UNet(spec, 5)
    norms = [module for module in net.modules() if isinstance(module, torch.nn.GroupNorm)]
    sizes = {norm.num_channels // norm.num_groups for norm in norms}
    assert min(sizes) == spec.per_group
    # The one that is normed first: mean 0 and variance 1 over the channels of a group.
    size = spec.per_group
    x = torch.randn(1, spec.channels[0], 8, 8, generator=rng)
    each = norms[0](x).unflatten(1, (-1, size)).flatten(2)
    want, found = torch.ones(each.shape[:2]), each.var(dim=-1, correction=0)
    torch.testing.assert_close(each.mean(dim=-1), 0 * want, atol=1e-4, rtol=0)
    torch.testing.assert_close(found, want, atol=1e-4, rtol=0)


def test_an_unknown_preset_names_the_known_ones():
    with pytest.raises(ConfigError) as caught:
        network_spec("huge")
    assert all(name in str(caught.value) for name in ("huge", *NETWORKS))
