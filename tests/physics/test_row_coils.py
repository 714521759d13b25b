"""Virtual coils of rows against the coils that they stand for."""

import torch
from helpers import random_maps

from mri_ambient.physics.operators import SenseOp
from mri_ambient.physics.row_coils import CACHE_BYTES, row_coils
from mri_ambient.rng import complex_normal

C128 = torch.complex128


def gram(maps: torch.Tensor) -> torch.Tensor:
    """What the normal operator of lines along y depends on: ``S^H S`` of every row."""
    rows = maps.transpose(-3, -2)
    return rows.mH @ rows


def joined(parts: tuple[torch.Tensor, ...]) -> torch.Tensor:
    """``S^H S`` of every row, from parts."""
    return torch.cat([gram(part) for part in parts], dim=-3)


def test_a_row_needs_as_many_coils_as_it_has_different_sensitivities(rng):
    few = random_maps((2, 3, 5, 40), rng, C128)
    mixing = complex_normal((2, 5, 9, 3), rng, dtype=C128)  # other mixtures in every row
    maps = torch.einsum("byvc,bcyx->bvyx", mixing, few)
    parts = row_coils(maps)
    assert [part.shape for part in parts] == [(2, 3, 5, 40)]
    torch.testing.assert_close(joined(parts), gram(maps), rtol=0, atol=1e-12)


def test_single_precision_loses_no_more_than_rounding(rng):
    x = torch.linspace(-1, 1, 64)
    centres, widths = torch.linspace(-2, 2, 16), torch.rand(16, 32, 1, generator=rng) + 1
    maps = torch.exp(-((x - centres[:, None, None]) / widths).square() + 1j * x)
    maps = maps / maps.abs().square().sum(dim=0).sqrt()
    (part,) = row_coils(maps)
    assert len(part) < 10
    assert (gram(part) - gram(maps)).norm() < 3e-6 * gram(maps).norm()


def test_rows_of_an_empty_image_keep_one_coil_of_zeros():
    (part,) = row_coils(torch.zeros(4, 6, 5, dtype=torch.complex64))
    assert part.shape == (1, 6, 5)
    assert not part.any()


def test_large_images_are_split_and_every_item_is_as_alone(rng):
    maps = random_maps((2, 4, 200, 160), rng)
    maps[1] *= torch.rand(4, 200, 1, generator=rng) < 0.5  # fewer coils here and there
    parts = row_coils(maps)
    assert len(parts) > 1
    assert max(part.numel() * part.element_size() for part in parts) <= CACHE_BYTES
    mask = (torch.rand(2, 1, 1, 160, generator=rng) < 0.3).expand(2, 1, 200, 160)
    x = complex_normal((2, 200, 160), rng)
    both = SenseOp(maps, mask).normal(x)
    for i in range(2):
        assert torch.equal(both[[i]], SenseOp(maps[[i]], mask[[i]]).normal(x[[i]]))
