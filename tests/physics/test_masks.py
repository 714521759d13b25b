"""Masks: achieved rate, calibration kept, the distribution they are drawn from."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mri_ambient.errors import ConfigError
from mri_ambient.physics.crop import center_crop
from mri_ambient.physics.mask_spec import MaskSpec
from mri_ambient.physics.masks import (
    MASKS,
    hold_out_lines,
    hold_out_one_in,
    outer_samples,
    sampling_density,
    subsample_further,
    training_fraction,
    unseen_probability,
)
from mri_ambient.physics.patterns import (
    achieved_acceleration,
    acquired_rows,
    calibration_block,
    is_line_mask,
    line_coverage,
    readout_is_full,
)
from mri_ambient.rng import rng_for


def unseen(mask: torch.Tensor, fraction: float, acquired: torch.Tensor | None = None) -> float:
    """P(M=1 | M~=0) of outer positions, which all have the same density here."""
    chance = unseen_probability(sampling_density(mask, acquired), fraction)
    everything = torch.ones(mask.shape[-1], dtype=torch.bool) if acquired is None else acquired
    outer = everything & ~(mask & ~outer_samples(mask))
    assert chance[outer].unique().numel() == 1
    return float(chance[outer][0])


LINE_KINDS = ["random", "equispaced", "gaussian"]

seeds = st.integers(0, 2**32)
line_specs = st.builds(
    MaskSpec,
    kind=st.sampled_from(LINE_KINDS),
    acceleration=st.floats(1.0, 5.0),
    calib=st.integers(0, 8),
)
quick = settings(max_examples=50, deadline=None)


def columns(width: int, left: int = 0, right: int = 0) -> torch.Tensor:
    """Acquired columns: all but ``left`` and ``right`` ones at the edges."""
    x = torch.arange(width)
    return (x >= left) & (x < width - right)


def paper_mask(rate: int) -> torch.Tensor:
    """320 columns, 20 calibration lines, the rest of 320 / rate not next to them."""
    lines = torch.zeros(320, dtype=torch.bool)
    lines[150:170] = True
    outer = torch.tensor([i for i in range(320) if not 147 <= i < 173])
    n_outer = round(320 / rate) - 20
    lines[outer[torch.randperm(len(outer), generator=rng_for(rate))[:n_outer]]] = True
    return lines.expand(1, 4, 320).clone()


class TestDrawing:
    @quick
    @given(line_specs, st.integers(45, 70), st.integers(0, 6), st.integers(0, 6), seeds)
    def test_the_centre_is_kept_and_only_acquired_columns_are_sampled(
        self, spec, width, left, right, seed
    ):
        acquired = columns(width, left, right)
        mask = spec.draw((3, width), rng_for(seed), acquired)
        assert mask.shape == (1, 3, width)
        assert mask.dtype == torch.bool
        assert is_line_mask(mask)
        assert center_crop(mask, (3, spec.calib)).all()
        assert not mask[..., ~acquired].any()

    @quick
    @given(line_specs, st.integers(45, 70), st.integers(0, 6), seeds)
    def test_the_achieved_rate_is_the_wanted_one(self, spec, width, left, seed):
        acquired = columns(width, left)
        mask = spec.draw((3, width), rng_for(seed), acquired)
        n_lines, wanted = int(line_coverage(mask).sum()), int(acquired.sum()) / spec.acceleration
        assert achieved_acceleration(mask, acquired) == pytest.approx(int(acquired.sum()) / n_lines)
        if spec.kind != "equispaced" or spec.acceleration == 1:
            assert abs(n_lines - wanted) <= 0.5

    @quick
    @given(st.integers(2, 8), st.integers(0, 20), st.integers(150, 330), seeds)
    def test_equispaced_lines_are_equispaced(self, rate, calib, width, seed):
        spec = MaskSpec("equispaced", float(rate), calib)
        mask = spec.draw((1, width), rng_for(seed))
        lines = torch.nonzero(mask[0, 0]).flatten()
        left = width // 2 - calib // 2
        outside = lines[(lines < left) | (lines >= left + calib)]
        # Neighbours on one side of the centre: two lines across it may be several steps apart.
        gaps = [int(gap) for side in (outside[outside < left], outside[outside >= left + calib])
                for gap in side.diff()]  # fmt: skip
        if not gaps:
            return
        step = gaps[0]
        assert set((outside % step).tolist()) == {int(outside[0]) % step}
        # Every line of the comb outside the centre is there.
        comb = torch.arange(int(outside[0]) % step, width, step)
        assert torch.isin(comb, lines).all()

        # A larger step has too few lines, a smaller one too many (an offset may cost one line).
        def n_lines(step: int) -> int:
            return len(set(range(0, width, step)) | set(range(left, left + calib)))

        assert n_lines(step + 1) - 1 <= width / rate <= n_lines(max(step - 1, 1)) + 1

    def test_equispaced_at_320_columns_has_r_4(self):
        mask = MaskSpec("equispaced", 4.0, 20).draw((2, 320), rng_for(3))
        assert achieved_acceleration(mask) == pytest.approx(4, rel=0.02)

    @quick
    @given(st.floats(1.5, 40), st.integers(0, 30), st.integers(0, 5), seeds)
    def test_equispaced_masks_of_partial_fourier_sample_something(self, rate, left, right, seed):
        acquired = columns(60, left, right)
        try:
            mask = MaskSpec("equispaced", rate, 0).draw((1, 60), rng_for(seed), acquired)
        except ConfigError:
            assert round(int(acquired.sum()) / rate) < 1
        else:
            assert mask.any()
            assert not mask[..., ~acquired].any()

    def test_offsets_of_equispaced_masks_vary(self):
        spec = MaskSpec("equispaced", 4.0, 4)
        drawn = {tuple(spec.draw((1, 64), rng_for(i))[0, 0].tolist()) for i in range(30)}
        assert len(drawn) > 1

    def test_every_outer_line_of_a_random_mask_has_the_same_chance(self):
        n, width, calib = 2000, 60, 8
        spec = MaskSpec("random", 3.0, calib)
        counts = sum(spec.draw((1, width), rng_for(i))[0, 0].double() for i in range(n))
        outer = torch.cat([counts[: 30 - 4], counts[30 + 4 :]])
        p = (20 - calib) / (width - calib)
        # Chi-square with 51 degrees, stretched by 52 / 51 because every mask has the same number of
        # lines: above 99 with probability 1e-4.
        chi2 = ((outer - n * p) ** 2 / (n * p * (1 - p))).sum()
        assert chi2 < 99
        assert counts[26:34].eq(n).all()

    def test_gaussian_lines_are_denser_around_the_centre(self):
        spec = MaskSpec("gaussian", 4.0, 4)
        counts = sum(spec.draw((1, 64), rng_for(i))[0, 0].double() for i in range(400))
        inner, rim = counts[16:30].mean(), torch.cat([counts[:8], counts[-8:]]).mean()
        # Densities differ by exp(-1/2 (4 * 0.14)^2) to exp(-1/2 (4 * 0.44)^2), a factor of 4.
        assert inner > 2 * rim

    def test_full_sampling_takes_every_acquired_column(self, rng):
        acquired = columns(12, 2, 1)
        for kind in MASKS:
            mask = MaskSpec(kind, 1.0, 4).draw((5, 12), rng, acquired)
            assert torch.equal(mask, acquired.expand(1, 5, 12))
            assert achieved_acceleration(mask, acquired) == 1

    @pytest.mark.parametrize("kind", MASKS)
    def test_the_stream_decides(self, kind):
        spec = MaskSpec(kind, 3.0, 6)
        draws = [spec.draw((32, 48), rng_for(seed, "scan")) for seed in (5, 5, 6)]
        assert torch.equal(draws[0], draws[1])
        assert not torch.equal(draws[0], draws[2])


class TestRefusals:
    @pytest.mark.parametrize(
        ("options", "values"),
        [
            ({"kind": "spiral"}, ["'spiral'", *MASKS]),
            ({"acceleration": 0.5}, ["0.5"]),
            ({"acceleration": math.nan}, ["nan"]),
            ({"acceleration": math.inf}, ["inf"]),
            ({"calib": -1}, ["-1"]),
        ],
    )
    def test_a_spec_checks_itself(self, options, values):
        with pytest.raises(ConfigError) as refused:
            MaskSpec(**options)
        assert all(value in str(refused.value) for value in values)

    @pytest.mark.parametrize("kind", LINE_KINDS)
    def test_a_rate_that_the_calibration_lines_exclude(self, kind, rng):
        with pytest.raises(ConfigError) as refused:
            MaskSpec(kind, 8.0, 20).draw((4, 64), rng)
        # Of 64 lines, 8 would be sampled, 20 are needed, and 64 / 20 is the highest rate.
        assert re.findall(r"\d+(?:\.\d+)?", str(refused.value)) == ["8", "8", "64", "20", "3.20"]

    def test_the_suggested_rate_can_be_drawn(self, rng):
        mask = MaskSpec("random", 3.2, 20).draw((4, 64), rng)
        assert int(line_coverage(mask).sum()) == 20

    def test_a_rate_that_leaves_no_line(self, rng):
        with pytest.raises(ConfigError) as refused:
            MaskSpec("random", 1000.0, 0).draw((4, 64), rng)
        assert "0 of 64" in str(refused.value)

    def test_a_mask_without_samples_has_no_rate(self):
        with pytest.raises(ValueError):
            achieved_acceleration(torch.zeros(1, 4, 4, dtype=torch.bool))

    @pytest.mark.parametrize("fraction", [-0.1, 1.1, math.nan])
    def test_a_fraction_outside_0_to_1(self, fraction, rng):
        with pytest.raises(ValueError, match=str(fraction)):
            subsample_further(paper_mask(4), fraction, rng)

    @pytest.mark.parametrize("kind", ["random", "poisson"])
    @pytest.mark.parametrize("n_lines", [0, -1, 20])
    def test_more_than_half_of_the_outer_lines_or_none_are_not_held_out(self, kind, n_lines, rng):
        mask = MaskSpec(kind, 3, 8).draw((40, 48), rng)
        with pytest.raises(ConfigError):
            hold_out_lines(mask, n_lines, rng)


class TestMeasuring:
    @quick
    @given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 6), st.floats(0.5, 1), seeds)
    def test_calibration_block_by_brute_force(self, ny, nx, limit, density, seed):
        mask = torch.rand((1, ny, nx), generator=rng_for(seed)) < density
        sizes = [
            (h, w)
            for h in range(1, min(ny, limit) + 1)
            for w in range(1, min(nx, limit) + 1)
            if center_crop(mask, (h, w)).all()
        ]
        height, width = calibration_block(mask, limit)
        if not sizes:
            assert (height, width) == (0, 0)
            return
        assert (height, width) in sizes
        assert height * width == max(h * w for h, w in sizes)

    def test_calibration_block_of_common_masks(self):
        lines = torch.zeros(1, 40, 50, dtype=torch.bool)
        lines[..., 15:35] = True
        assert calibration_block(lines) == (24, 20)
        assert calibration_block(torch.ones(1, 230, 180, dtype=torch.bool)) == (24, 24)
        both = torch.stack([lines[0], torch.ones(40, 50, dtype=torch.bool)])
        assert calibration_block(both) == (24, 20)

    def test_line_masks_are_distinguished_from_planes(self):
        lines = paper_mask(4)
        assert is_line_mask(lines)
        short = lines.clone()
        short[:, :1] = False  # a row without samples changes nothing
        assert is_line_mask(short)
        dotted = lines.clone()
        dotted[0, 1, 155] = False
        assert not is_line_mask(dotted)

    def test_never_acquired_columns_do_not_count(self):
        acquired = columns(12, 2, 2)
        mask = torch.zeros(1, 3, 12, dtype=torch.bool)
        mask[..., [2, 4, 6, 8]] = True
        assert achieved_acceleration(mask) == 3
        assert achieved_acceleration(mask, acquired) == 2

    def test_outer_samples_and_the_block_are_the_mask(self):
        mask = paper_mask(4)
        outer = outer_samples(mask)
        assert int(line_coverage(outer).sum()) == 60
        assert not outer[..., 150:170].any()
        assert torch.equal(outer | (mask & ~outer), mask)

    def test_outer_samples_of_a_plane_leave_its_square(self):
        plane = torch.rand((1, 40, 40), generator=rng_for(0)) < 0.3
        plane[..., 15:25, 15:25] = True
        height, width = calibration_block(plane)
        outer = outer_samples(plane)
        assert int(outer.sum()) == int(plane.sum()) - height * width
        assert not center_crop(outer, (height, width)).any()


class TestSubsampling:
    @quick
    @given(line_specs, st.integers(45, 70), st.floats(0, 1), seeds)
    def test_removes_the_share_of_outer_lines_and_nothing_else(self, spec, width, fraction, seed):
        mask = spec.draw((3, width), rng_for(seed))
        thin = subsample_further(mask, fraction, rng_for(seed, "further"))
        outer = outer_samples(mask)
        assert not (thin & ~mask).any()
        assert torch.equal(thin & ~outer, mask & ~outer)
        assert is_line_mask(thin)
        n_outer = int(line_coverage(outer).sum())
        n_removed = int(line_coverage(mask).sum() - line_coverage(thin).sum())
        at_least = 1 if fraction > 0 and n_outer else 0
        assert n_removed == max(round(fraction * n_outer), at_least)

    @quick
    @given(st.floats(0, 1), st.floats(0.1, 0.9), seeds)
    def test_removes_single_samples_of_planes(self, fraction, density, seed):
        mask = torch.rand((1, 12, 13), generator=rng_for(seed)) < density
        mask[..., 4:9, 4:9] = True
        thin = subsample_further(mask, fraction, rng_for(seed, "further"))
        outer = outer_samples(mask)
        assert torch.equal(thin & ~outer, mask & ~outer)
        assert not (thin & ~mask).any()
        n_outer, n_removed = int(outer.sum()), int(mask.sum() - thin.sum())
        assert n_removed == max(round(fraction * n_outer), 1 if fraction > 0 and n_outer else 0)

    @quick
    @given(st.sampled_from(["random", "poisson"]), st.integers(1, 4), seeds)
    def test_held_out_are_as_many_lines_or_as_many_samples_as_they_hold(self, kind, n_lines, seed):
        mask = MaskSpec(kind, 3, 4).draw((40, 48), rng_for(seed))
        kept = hold_out_lines(mask, n_lines, rng_for(seed, "held out"))
        outer = outer_samples(mask)
        assert not (kept & ~mask).any()
        assert torch.equal(kept & ~outer, mask & ~outer)
        assert int((mask & ~kept).sum()) == n_lines * 40
        if is_line_mask(mask):
            assert int(line_coverage(mask & ~kept).sum()) == n_lines

    @quick
    @given(st.sampled_from(["random", "poisson"]), st.integers(2, 5), seeds)
    def test_one_in_so_many_is_held_out_at_all_radii(self, kind, n, seed):
        """Of the n that are nearest to k = 0, of the next n, and so on, one each."""
        mask = MaskSpec(kind, 3, 4).draw((40, 48), rng_for(seed))
        kept = hold_out_one_in(n, mask, rng_for(seed, "held out"))
        outer, gone = outer_samples(mask), mask & ~kept
        assert not (kept & ~mask).any() and not (gone & ~outer).any()
        y, x = torch.meshgrid(torch.arange(40) - 20, torch.arange(48) - 24, indexing="ij")
        if is_line_mask(mask):
            radius, is_gone = (x[:1].abs()[outer[:, 0]], gone[:, 0][outer[:, 0]])
        else:
            radius, is_gone = torch.hypot(y / 40, x / 48)[outer[0]], gone[outer]
        ordered = is_gone[radius.argsort(stable=True)]
        groups = ordered[: len(ordered) // n * n].view(-1, n)
        if len(ordered) >= n:
            assert (groups.sum(dim=1) == 1).all() and int(ordered.sum()) == len(groups)
        else:
            assert int(ordered.sum()) == int(len(ordered) >= 2)

    def test_a_mask_of_calibration_lines_alone_is_kept(self, rng):
        lines = torch.zeros(1, 3, 30, dtype=torch.bool)
        lines[..., 10:20] = True
        assert torch.equal(subsample_further(lines, 0.4, rng), lines)
        assert training_fraction(lines) == 0

    @pytest.mark.parametrize(("rate", "n_removed", "chance"), [
        (2, 54, 0.252), (4, 16, 0.0625), (6, 8, 0.029), (8, 5, 0.0175),
    ])  # fmt: skip
    def test_the_papers_rule_goes_from_r_to_r_plus_1(self, rate, n_removed, chance):
        mask = paper_mask(rate)
        n_outer = int(line_coverage(outer_samples(mask)).sum())
        fraction = training_fraction(mask)
        assert fraction * n_outer == pytest.approx(n_removed)
        thin = subsample_further(mask, fraction, rng_for(0))
        assert int(line_coverage(mask).sum() - line_coverage(thin).sum()) == n_removed
        assert achieved_acceleration(thin) == pytest.approx(rate + 1, rel=0.02)
        assert unseen(mask, fraction) == pytest.approx(chance, rel=0.02)

    @pytest.mark.parametrize(("rate", "weight"), [(2, 6), (4, 19), (6, 37), (8, 63)])
    def test_weights_of_unseen_lines_when_5_to_40_percent_are_removed(self, rate, weight):
        assert 1 / unseen(paper_mask(rate), 0.225) == pytest.approx(weight, abs=0.5)

    def test_unseen_probability_is_the_frequency_in_draws(self):
        # M random at R = 3, then 20 % of its outer lines removed: of the positions that are then
        # empty, which share was in M?
        spec, n_empty, n_was_sampled = MaskSpec("random", 3.0, 6), 0, 0
        chances = []
        for i in range(400):
            mask = spec.draw((1, 96), rng_for(i))
            thin = subsample_further(mask, 0.2, rng_for(i, "further"))
            n_outer = int(outer_samples(mask).sum())
            removed = int((mask & ~thin).sum())
            n_empty += int((~thin).sum())
            n_was_sampled += removed
            chances.append(unseen(mask, removed / n_outer))
        # Exact but for the lines beside the centre that chance makes part of the block.
        assert n_was_sampled / n_empty == pytest.approx(np.mean(chances), rel=1e-3)

    def test_never_acquired_columns_are_neither_seen_nor_unseen(self):
        mask = torch.zeros(1, 2, 40, dtype=torch.bool)
        mask[..., [8, 12, 18, 19, 20, 21, 25, 30]] = True
        # 4 of 20 acquired outer lines are sampled: p f / (1 - p (1 - f)) with p = 4 / 20.
        assert unseen(mask, 0.5, columns(40, 8, 8)) == pytest.approx(0.1 / 0.9)

    def test_planes_count_positions(self):
        mask = torch.zeros(1, 10, 10, dtype=torch.bool)
        mask[..., 3:7, 3:7] = True
        mask[0, 0, ::2] = True
        p = 5 / 84
        assert unseen(mask, 0.2) == pytest.approx(p * 0.2 / (1 - p * 0.8))


@quick
@given(st.integers(1, 9), st.integers(1, 9), st.floats(0.2, 1.0), seeds)
def test_patterns_of_arrays_are_those_of_tensors(ny, nx, density, seed):
    """Rows and columns left out, single samples: what files and scans are told is the same."""
    mask = torch.rand(1, ny, nx, generator=rng_for(seed)) < density
    mask[:, seed % ny :] &= density < 0.6
    mask[0, 0, 0] = True
    for measure in (is_line_mask, readout_is_full, achieved_acceleration, calibration_block):
        assert measure(mask) == measure(mask.numpy())
    assert acquired_rows(mask[0]).tolist() == acquired_rows(mask[0].numpy()).tolist()
    rows = mask[0].any(dim=1).nonzero().flatten().tolist()
    inside = range(rows[0], rows[-1] + 1)
    assert acquired_rows(mask[0]).tolist() == [y in inside for y in range(ny)]
    assert line_coverage(mask).tolist() == line_coverage(mask.numpy()).tolist()
