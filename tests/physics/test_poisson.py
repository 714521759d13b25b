"""Poisson discs: minimum distances, number of samples, density, randomness, termination."""

from __future__ import annotations

import math
import re
import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mri_ambient.errors import ConfigError
from mri_ambient.physics.crop import center_crop
from mri_ambient.physics.mask_spec import MaskSpec
from mri_ambient.physics.patterns import achieved_acceleration, calibration_block, is_line_mask
from mri_ambient.physics.poisson import SMALLEST_RADIUS, poisson_disc, variable_density_disc
from mri_ambient.rng import rng_for

seeds = st.integers(0, 2**32)
quick = settings(max_examples=50, deadline=None)


def distances(samples: torch.Tensor, width: int, spacing: tuple[float, float]) -> torch.Tensor:
    """Between all pairs of flat indices."""
    places = torch.stack([samples // width * spacing[0], samples % width * spacing[1]], dim=1)
    return torch.cdist(
        places.double(), places.double(), compute_mode="donot_use_mm_for_euclid_dist"
    )


def relative_distance(shape: tuple[int, int]) -> torch.Tensor:
    """From the centre: 1 at the edge of the ellipse."""
    y, x = ((torch.arange(n) - n // 2).double() / (n // 2) for n in shape)
    return torch.hypot(y[:, None], x)


def in_quarters(plane: torch.Tensor) -> list[torch.Tensor]:
    """Quarters of a plane of odd sides without the axes, all with k = 0 at the same corner."""
    ny, nx = (n // 2 for n in plane.shape)
    a, b = plane[:ny].flip(0), plane[ny + 1 :]
    return [part for half in (a, b) for part in (half[:, :nx].flip(1), half[:, nx + 1 :])]


class TestDisc:
    @quick
    @given(
        st.integers(1, 14),
        st.integers(1, 14),
        st.floats(0.1, 5),
        st.sampled_from([(1.0, 1.0), (1.0, 1.5), (2.25, 1.0)]),
        seeds,
    )
    def test_samples_are_exactly_those_of_the_definition(self, ny, nx, largest, spacing, seed):
        """Visited one after the other, with all distances computed."""
        rng = rng_for(seed)
        radius = 0.1 + largest * torch.rand(ny, nx, generator=rng)
        order = torch.randperm(ny * nx, generator=rng)[: max(1, 3 * ny * nx // 4)]
        samples = poisson_disc(radius, order, spacing)
        apart = distances(torch.arange(ny * nx), nx, spacing)
        wanted: list[int] = []
        for place in order.tolist():
            if all(float(apart[place, i]) >= float(radius.view(-1)[i]) for i in wanted):
                wanted.append(place)
        assert samples.tolist() == wanted

    def test_a_radius_below_the_grid_takes_every_position(self, rng):
        order = torch.randperm(30, generator=rng)
        assert torch.equal(poisson_disc(torch.full((5, 6), 0.9), order), order)


class TestVariableDensity:
    @quick
    @given(st.integers(12, 40), st.integers(12, 40), st.floats(0.02, 0.35), seeds)
    def test_the_number_is_exact_and_distances_grow_with_a_slope(self, ny, nx, share, seed):
        """A slope s exists with all samples s d + SMALLEST_RADIUS apart; d of the inner one.

        s is large enough: before 1 % of the samples are removed, circles of radius s + 1.2 around
        them reach all candidates, so that n pi (s + 1.2 + 0.7)^2 is at least the area.
        """
        distance = relative_distance((ny, nx))
        candidates = distance < 1
        area = int(candidates.sum())
        n_samples = max(2, round(share * area))
        disc = variable_density_disc(candidates, distance, n_samples, rng_for(seed))
        assert int(disc.sum()) == n_samples
        assert not (disc & ~candidates).any()
        samples = disc.flatten().nonzero()[:, 0]
        inner = distance.flatten()[samples]
        inner = torch.minimum(inner[:, None], inner).clamp(min=1e-9)
        apart = distances(samples, nx, (1.0, 1.0)).fill_diagonal_(torch.inf)
        slope = float(((apart - SMALLEST_RADIUS) / inner).min())
        assert slope > 0.8 * (math.sqrt(area / (math.pi * n_samples)) - 1.9)

    def test_distances_grow_outwards_as_the_density_falls(self, rng):
        """Mean squared distance to the nearest sample times density: 1 / 4 for independent samples.

        Of samples in a square lattice it is 1.
        """
        distance = relative_distance((129, 129))
        disc = variable_density_disc(distance < 1, distance, 129**2 // 20, rng)
        samples = disc.flatten().nonzero()[:, 0]
        nearest = distances(samples, 129, (1.0, 1.0)).fill_diagonal_(torch.inf).min(dim=1).values
        least, density, filled = [], [], []
        for ring in range(5):
            inside = (distance >= ring / 5) & (distance < (ring + 1) / 5)
            found = nearest[inside.flatten()[samples]]
            least.append(float(found.min()))
            density.append(float(disc[inside].double().mean()))
            filled.append(float(found.mean()) ** 2 * density[-1])
        assert least == sorted(least)
        assert least[-1] > 2 * least[0]
        assert density == sorted(density, reverse=True)
        assert density[0] > 5 * density[-1]
        assert all(0.5 < value < 0.9 for value in filled)

    @pytest.mark.parametrize("n_samples", [0, 1, 2, 3])
    def test_few_samples_are_drawn_as_they_are_wanted(self, n_samples, rng):
        distance = relative_distance((16, 16))
        disc = variable_density_disc(distance < 1, distance, n_samples, rng)
        assert int(disc.sum()) == n_samples

    def test_the_densest_disc_is_returned_if_it_has_too_few_samples(self, rng):
        distance = relative_distance((32, 32))
        candidates = distance < 1
        disc = variable_density_disc(candidates, distance, int(candidates.sum()), rng)
        assert 0.5 < float(disc[candidates].double().mean()) < 0.8
        nothing = torch.zeros_like(candidates)
        assert not variable_density_disc(nothing, distance, 5, rng).any()

    def test_spacing_makes_distances_isotropic_in_relative_units(self, rng):
        """A plane of 61 x 181 with samples three times further apart along y."""
        shape, spacing = (61, 181), (3.0, 1.0)
        distance = relative_distance(shape)
        disc = variable_density_disc(distance < 1, distance, 61 * 181 // 12, rng, spacing)
        samples = disc.flatten().nonzero()[:, 0]
        outer = samples[distance.flatten()[samples] > 0.7]
        apart = distances(outer, shape[1], spacing).fill_diagonal_(torch.inf)
        in_samples = distances(outer, shape[1], (1.0, 1.0)).fill_diagonal_(torch.inf)
        assert float(in_samples.min()) < 2.5 < float(apart.min())

    def test_every_candidate_has_a_chance_and_all_quarters_the_same(self):
        distance = relative_distance((21, 21))
        candidates = distance < 1
        n_draws, n_samples = 200, 70
        counts = torch.zeros(21, 21)
        for seed in range(n_draws):
            counts += variable_density_disc(candidates, distance, n_samples, rng_for(seed))
        # The rarest positions are sampled by about one disc in ten: 0.9^200 is below 1e-9.
        assert bool((counts[candidates] > 0).all())
        assert bool((counts[candidates] < n_draws).all())
        # Quarters have about 15 samples a disc; independent ones would vary by 1.8 % (1 sigma).
        quarters = [float(part.sum()) for part in in_quarters(counts)]
        assert max(quarters) < 1.06 * min(quarters)


class TestMask:
    @quick
    @given(
        st.integers(24, 64),
        st.integers(24, 64),
        st.floats(2, 8),
        st.integers(0, 8),
        st.integers(0, 6),
        seeds,
    )
    def test_rate_and_square_are_as_wanted(self, ny, nx, rate, calib, omitted, seed):
        acquired = torch.arange(nx) >= omitted
        mask = MaskSpec("poisson", rate, calib).draw((ny, nx), rng_for(seed), acquired)
        assert mask.shape == (1, ny, nx) and mask.dtype == torch.bool
        assert not mask[..., ~acquired].any()
        assert center_crop(mask, (calib, calib)).all()
        assert int(mask.sum()) == round(ny * int(acquired.sum()) / rate)
        assert abs(achieved_acceleration(mask, acquired) - rate) < 0.1
        assert not is_line_mask(mask)
        assert not mask[0, 0, 0] and not mask[0, -1, -1]

    @pytest.mark.parametrize("calib", [5, 8, 12, 20])
    def test_the_calibration_block_is_hardly_larger_than_the_square(self, calib):
        """Chance may add a line of few samples; samples beside the square are not dense."""
        for seed in range(4):
            mask = MaskSpec("poisson", 4.0, calib).draw((96, 80), rng_for(seed))
            assert all(calib <= side <= calib + 2 for side in calibration_block(mask))

    @pytest.mark.parametrize("shape", [(1, 90), (2, 90), (90, 1), (90, 2), (5, 200)])
    def test_narrow_planes_are_sampled_at_the_wanted_rate(self, shape, rng):
        mask = MaskSpec("poisson", 3.0, 2).draw(shape, rng)
        assert int(mask.sum()) == round(shape[0] * shape[1] / 3)
        assert center_crop(mask, (min(2, shape[0]), min(2, shape[1]))).all()

    def test_a_square_wider_than_k_space_is_all_of_its_rows(self, rng):
        mask = MaskSpec("poisson", 3.0, 20).draw((8, 200), rng)
        assert center_crop(mask, (8, 20)).all()
        assert int(mask.sum()) == round(8 * 200 / 3)

    def test_global_random_state_is_not_touched(self):
        numpy_state = np.random.get_state()[1].copy()  # noqa: NPY002 -- the global one is tested
        torch_state = torch.get_rng_state()
        MaskSpec("poisson", 4.0, 8).draw((40, 40), rng_for(1))
        assert np.array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002
        assert torch.equal(torch.get_rng_state(), torch_state)

    def test_discs_are_centred_on_k_zero_in_partial_fourier(self):
        acquired = torch.arange(64) >= 20
        mask = MaskSpec("poisson", 4.0, 8).draw((64, 64), rng_for(1), acquired)
        near, far = mask[..., 22:32].double().mean(), mask[..., 54:].double().mean()
        assert near > 2 * far

    @pytest.mark.parametrize(
        ("shape", "rate", "calib", "value"),
        [
            ((32, 32), 6.0, 20, "at most 2.56"),  # 32 * 32 / 20^2
            ((32, 32), 1.2, 4, "32x32"),  # samples keep a distance
            ((32, 32), 5000.0, 0, "leaves 0 of 1024"),
            ((256, 256), 1.3, 20, "256x256"),
        ],
    )
    def test_rates_that_cannot_be_reached_are_refused_at_once(self, shape, rate, calib, value, rng):
        started = time.process_time()
        with pytest.raises(ConfigError) as refused:
            MaskSpec("poisson", rate, calib).draw(shape, rng)
        assert value in str(refused.value)
        assert time.process_time() - started < 2

    def test_the_lowest_rate_that_an_error_names_can_be_drawn(self):
        with pytest.raises(ConfigError) as refused:
            MaskSpec("poisson", 1.2, 4).draw((48, 48), rng_for(0))
        lowest = float(re.search(r"at least (\d\.\d)", str(refused.value))[1])
        assert 1.5 < lowest <= 1.8
        for seed in range(5):
            mask = MaskSpec("poisson", lowest, 4).draw((48, 48), rng_for(seed))
            assert achieved_acceleration(mask) == pytest.approx(lowest, abs=0.01)

    @pytest.mark.parametrize("rate", [2.0, 2.5, 4.0, 10.0, 30.0, 100.0, 500.0])
    def test_a_large_disc_of_any_rate_takes_no_time(self, rate):
        """0.1 s of a 2020s core; the bound is for a busy machine."""
        started = time.process_time()
        mask = MaskSpec("poisson", rate, 10).draw((256, 256), rng_for(0))
        assert time.process_time() - started < 1
        assert int(mask.sum()) == round(256 * 256 / rate)
