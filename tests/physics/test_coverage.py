"""Coverage of k-space by the masks of a data set, and what coils make of its gaps."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable

import numpy as np
import pytest
import torch
from scipy.spatial import Delaunay
from torch import Tensor

from mri_ambient.errors import ScanFormatError
from mri_ambient.physics.coverage import (
    FEW_MASKS,
    MAX_NULL_SPACE,
    PRIOR_SCANS,
    WEAK_EIGENVALUE,
    MaskFacts,
    coverage,
    is_equispaced,
    mask_group,
    null_space_fraction,
    sampling_densities,
)
from mri_ambient.physics.mask_spec import MaskSpec
from mri_ambient.physics.operators import SenseOp
from mri_ambient.rng import complex_normal, rng_for

OUTER = [0, 1, 2, 3, 4, 5, 10, 11, 12, 13, 14, 15]


def coils(n_coils: int, shape: tuple[int, int] = (64, 16), stride: int = 4) -> SenseOp:
    """Plane waves: coil c sees every column of k-space where another is, c strides further."""
    x = torch.arange(shape[1]) / shape[1]
    waves = [torch.exp(2j * math.pi * x * stride * c).expand(shape) for c in range(n_coils)]
    maps = torch.stack(waves) / n_coils**0.5
    return SenseOp(maps.to(torch.complex64), torch.ones(1, *shape, dtype=torch.bool))


def line_mask(outer: list[int]) -> Tensor:
    """16 columns with the middle four and some outer ones sampled."""
    mask = torch.zeros(1, 64, 16, dtype=torch.bool)
    mask[..., [6, 7, 8, 9, *outer]] = True
    return mask


def facts(
    masks: Iterable[Tensor], n_coils: int = 4, stride: int = 1, acquired: Tensor | None = None
) -> list[MaskFacts]:
    """Scans with these masks and plane-wave coils."""

    def one(mask: Tensor) -> MaskFacts:
        shape = (mask.shape[-2], mask.shape[-1])
        columns = torch.ones(shape[1], dtype=torch.bool) if acquired is None else acquired
        return MaskFacts(mask, columns, lambda: coils(n_coils, shape, stride))

    return [one(mask) for mask in masks]


def small(columns: list[list[int]], n_coils: int = 4) -> list[MaskFacts]:
    return facts([line_mask(outer) for outer in columns], n_coils, stride=4)


def random_masks(rate: float, shape: tuple[int, int], n: int, calib: int = 8) -> list[Tensor]:
    return [MaskSpec("random", rate, calib).draw(shape, rng_for(i)) for i in range(n)]


class TestFigures:
    def test_outer_lines_and_distinct_masks_are_counted(self):
        (found,) = coverage(small([[0, 1], [0, 2], [0, 2]]))
        assert (found.kind, found.n_scans, found.n_masks) == ("lines", 3, 2)
        assert (found.least, found.never) == (0, 9)  # of 12 outer lines, 0, 1 and 2 were sampled
        assert found.n_outer == 12
        assert found.mean == pytest.approx((1 + 1 / 3 + 2 / 3) / 12)
        assert found.per_line[:3] == pytest.approx((1, 1 / 3, 2 / 3))
        assert found.per_line[6:10] == (1, 1, 1, 1)

    def test_lines_never_acquired_are_not_missing(self):
        acquired = torch.ones(16, dtype=torch.bool)
        acquired[3:6] = False
        masks = [line_mask([0, 1, 2]), line_mask([10, 11, 12, 13, 14, 15])]
        (found,) = coverage(facts(masks, 1, 4, acquired))
        assert found.never == 0
        assert found.null_space_fraction < 0.02  # with one coil, which determines nothing more

    def test_two_dimensional_masks_are_counted_by_sample(self):
        masks = [MaskSpec("poisson", 4.0, 8).draw((32, 32), rng_for(i)) for i in range(3)]
        (found,) = coverage(facts(masks, 1))
        seen = torch.stack(masks).any(dim=0)[0]
        hull = Delaunay(seen.nonzero().numpy()).find_simplex(np.argwhere(np.ones((32, 32)))) >= 0
        unseen = float((~seen.flatten()[torch.from_numpy(hull)]).double().mean())
        assert 0.35 < unseen < 0.5  # more with the corners, which no disc samples
        assert found.null_space_fraction == pytest.approx(unseen + 0.01, abs=0.05)
        assert (found.kind, found.n_masks, found.per_line) == ("samples", 3, ())
        assert 0 < found.mean < 0.5

    def test_the_line_of_figures_holds_them(self):
        (found,) = coverage(small([[0, 1], [0, 2], [0, 2]]))
        for value in ("3 scans", "64x16", "2 distinct masks", "16.7%", "0.0%", "9 by none"):
            assert value in found.line
        assert coverage(small([[0]]))[0].line.startswith("1 scan of 64x16: 1 distinct mask;")

    def test_each_matrix_size_and_kind_is_judged_by_itself(self):
        """Of sizes 64 and 65, one has a mask for each scan and the other one mask for all."""
        varied = random_masks(2.0, (8, 64), 40)
        repeated = random_masks(2.0, (8, 65), 1) * 40
        planes = [torch.rand((1, 8, 64), generator=rng_for(i)) < 0.5 for i in range(3)]
        found = coverage(facts([*repeated, *planes, *varied], 1))
        assert [(group.shape, group.kind, group.n_scans) for group in found] == [
            ((8, 64), "lines", 40),
            ((8, 64), "samples", 3),
            ((8, 65), "lines", 40),
        ]
        lines, _, others = found
        assert (lines.predictable, lines.identifiable, len(lines.warnings)) == (False, True, 0)
        assert (others.predictable, others.identifiable, len(others.warnings)) == (True, False, 1)
        alone = [coverage(facts(masks, 1))[0] for masks in (varied, repeated)]
        assert [lines, others] == alone
        assert [mask_group(varied[0]), mask_group(planes[0])] == [
            ((8, 64), "lines"), ((8, 64), "samples"),
        ]  # fmt: skip

    def test_files_keep_their_keys(self):
        """Manifests and cards of priors hold these; cards are read again."""
        (found,) = coverage(small([[0, 1]] * 2, 1))
        stored = json.loads(json.dumps(found.as_dict()))
        assert list(stored) == [
            "shape", "kind", "n_scans", "n_masks", "least", "mean", "n_regular", "n_outer", "never",
            "per_line", "revealing", "holes", "left_open",
        ]  # fmt: skip
        assert stored["revealing"] is found.predictable is True and len(stored["holes"]) == 2
        assert stored["left_open"] == found.null_space_fraction > 0.5
        assert stored["shape"] == [64, 16] and stored["never"] == 10


PAIRS = [[a, b] for a in (0, 1, 2, 3, 4, 5, 10) for b in (0, 1, 2, 3, 4, 5, 10) if a < b]


class TestNullSpace:
    @pytest.mark.parametrize(
        ("columns", "n_coils", "share"),
        [
            ([[0, 1]] * 2, 1, 10 / 16),  # the same mask in all scans: its own lines
            ([[0, 1, 2]] * 2, 2, 3 / 16),
            ([[0, 1]] * 2, 4, 0),
            ([[0, 1], [2, 3]] * 2, 1, 10 / 16),  # two that are repeated: still their own
            ([[0, 1], [2, 3]], 1, 8 / 16),  # one for each scan: those of both
            ([[]] * 30, 2, 8 / 16),  # the calibration block alone
            ([[]] * 30, 4, 0),
            (PAIRS, 1, 5 / 16),  # many masks: the lines of any scan
            (PAIRS, 2, 1 / 16),
            ([OUTER] * 2, 1, None),  # full scans
        ],
    )
    def test_the_fraction_is_that_of_a_count(self, columns, n_coils, share):
        """Coil c of these sees a line 4 c columns further, so that a count gives the fraction.

        Determined parts count WEAK_EIGENVALUE / v at most, v >= 1 / coils; one random image of 1024
        pixels: 0.016 (1 sigma).
        """
        (found,) = coverage(small(columns, n_coils))
        if share is None:
            assert found.null_space_fraction is None
        else:
            assert found.null_space_fraction == pytest.approx(share + 0.015, abs=0.055)
        assert found.identifiable == (share is None or share < MAX_NULL_SPACE)

    def test_the_fraction_is_that_of_the_eigenvalues(self, rng):
        """The operator as a matrix: random maps, a third of the field of view outside the object.

        One random image estimates it: its standard error over 16 x 24 pixels is below 0.025.
        """
        maps = complex_normal((3, 24, 24), rng)
        maps[:, 16:] = 0
        maps /= maps.abs().square().sum(0).sqrt().clamp(min=1e-9)
        op = SenseOp(maps, MaskSpec("random", 4.0, 6).draw((24, 24), rng))
        pixels = torch.eye(24 * 24, dtype=torch.complex64).view(-1, 24, 24)
        dense = op.normal(pixels).reshape(24 * 24, 24 * 24)
        inside = op.support.flatten()
        values = torch.linalg.eigvalsh(dense[inside][:, inside]).clamp(min=0)
        wanted = float((WEAK_EIGENVALUE / (values + WEAK_EIGENVALUE)).mean())
        assert 0.1 < wanted < 0.6
        assert null_space_fraction(op) == pytest.approx(wanted, abs=0.08)

    def test_coils_that_see_nothing_have_no_null_space(self):
        maps = torch.zeros(2, 4, 4, dtype=torch.complex64)
        assert null_space_fraction(SenseOp(maps, torch.ones(1, 4, 4, dtype=torch.bool))) == 0

    def test_without_coils_nothing_is_said(self):
        unknown = [MaskFacts(f.mask, f.acquired) for f in small([[0, 1]] * 2)]
        (found,) = coverage(unknown)
        assert found.null_space_fraction is None and found.identifiable
        assert len(found.warnings) == 1

    def test_scans_with_damaged_maps_are_left_out(self):
        def damaged() -> SenseOp:
            raise ScanFormatError("damaged")

        scans = small([[0, 1]] * 3, 1)
        scans[0] = MaskFacts(scans[0].mask, scans[0].acquired, damaged)
        assert coverage(scans)[0].null_space_fraction > 0.5

    @pytest.mark.parametrize("cut", ["an echo", "corners", "a part", "nothing"])
    def test_beyond_the_extent_of_all_scans_is_resolution_and_not_null_space(self, cut):
        """Rows that an asymmetric echo lacks, a shutter's corners, partial Fourier in the plane."""
        y, x = torch.meshgrid(*[(torch.arange(32) - 16) / 16] * 2, indexing="ij")
        reached = {
            "an echo": y > -0.4,
            "corners": y.square() + x.square() < 1,
            "a part": (x > -0.4) & (y > -1),
            "nothing": y > -2,
        }[cut]
        kind = "random" if cut in ("an echo", "nothing") else "poisson"
        masks = [MaskSpec(kind, 2.0, 8).draw((32, 32), rng_for(i)) & reached for i in range(30)]
        (found,) = coverage(facts(masks, 1, stride=4))
        assert (found.null_space_fraction or 0) < 0.06
        assert found.identifiable
        (found,) = coverage(facts([masks[0]] * 3, 1, stride=4))  # one mask has gaps within it
        missed = (~masks[0][0][reached]).double().mean()
        assert found.null_space_fraction == pytest.approx(float(missed) + 0.01, abs=0.12)
        assert not found.identifiable

    def test_a_calibration_block_alone_is_not_taken_for_low_resolution(self):
        y, x = torch.meshgrid(*[torch.arange(64) - 32] * 2, indexing="ij")
        for inside in ((y.abs() < 6) & (x.abs() < 6), y**2 + x**2 < 64):
            (found,) = coverage(facts([inside[None]] * 20, 1))
            assert found.null_space_fraction > 0.7
            assert not found.identifiable

    def test_an_echo_counts_the_half_that_is_read(self):
        (mask,) = random_masks(2, (64, 64), 1)
        (found,) = coverage(facts([(torch.arange(64) > 31)[:, None] & mask] * 20, 1))
        assert found.null_space_fraction == pytest.approx(0.5, abs=0.1)


class TestPredictableMasks:
    @pytest.mark.parametrize(
        ("kind", "n_coils", "identifiable"),
        [("equispaced", 1, False), ("equispaced", 8, True), ("random", 1, True)],
    )
    @pytest.mark.parametrize("width", [64, 65, 180])
    def test_equispaced_masks_are_predictable_however_many(
        self, kind, n_coils, identifiable, width
    ):
        """60 masks of 8 rates up to 5.5: every line is sampled, and a removed one leaves a gap.

        Eight coils that see eight neighbouring lines each fill the gaps.
        """
        rates, rng = [2 + 0.5 * (i % 8) for i in range(60)], rng_for(0, kind)
        masks = [MaskSpec(kind, rate, 8).draw((4, width), rng) for rate in rates]
        (found,) = coverage(facts(masks, n_coils))
        assert found.n_masks >= FEW_MASKS
        assert found.never == 0
        assert found.identifiable == identifiable
        assert found.predictable == (kind == "equispaced")
        assert found.n_regular == sum(is_equispaced(mask) for mask in masks)
        assert (found.n_regular > 30) == (kind == "equispaced")

    @pytest.mark.parametrize(
        ("outer", "regular"),
        [
            ([0, 3, 6, 24, 27, 30], True),
            ([1, 4, 7, 24, 27, 30], True),  # the steps agree, the offsets need not
            ([0, 3, 6, 24, 26, 28], False),  # another step by one line
            ([0, 3, 24, 27], False),  # too few lines to tell
            ([0, 1, 2, 29, 30, 31], False),  # no gaps
            ([0, 2, 7, 24, 28, 31], False),
        ],
    )
    def test_equispaced_means_one_step_on_both_sides(self, outer, regular):
        mask = torch.zeros(1, 2, 32, dtype=torch.bool)
        mask[..., [14, 15, 16, 17, *outer]] = True
        assert is_equispaced(mask) == regular

    def test_planes_are_not_equispaced(self):
        plane = (torch.arange(32)[:, None] + torch.arange(32))[None] % 3 == 0
        assert not is_equispaced(plane)

    def test_a_few_scans_with_a_mask_each_are_not_predictable(self):
        """Ten scans at R = 8 of one coil: many lines are in none of them."""
        (found,) = coverage(facts(random_masks(8.0, (8, 128), 10), 1))
        assert not found.predictable and not found.identifiable
        (repeated,) = coverage(facts(random_masks(8.0, (8, 128), 5) * 2, 1))
        assert repeated.predictable and not repeated.identifiable
        assert found.advice != repeated.advice


class TestWarnings:
    def test_one_warning_per_group_with_what_lacks_supervision(self):
        several, single = (coverage(small([[0, 1], [2, 3]], n))[0] for n in (4, 1))
        for found in (several, single):
            (warning,) = found.warnings
            assert warning.code == "W-COVERAGE"
            assert (found.n_scans, found.shape) == (2, (64, 16))
            assert (found.never, found.n_masks) == (8, 2)
            assert f"{found.null_space_fraction:.1%}" in warning.text
            assert len(found.gaps) == 2
        assert several.identifiable and not single.identifiable

    def test_most_scans_sharing_a_few_of_many_masks_is_a_gap(self):
        """Sixteen masks, but two of them in 200 of 214 scans."""
        masks = random_masks(2.0, (8, 64), 16)
        (found,) = coverage(facts([*masks[:2] * 100, *masks[2:]], 1))
        assert found.n_masks == FEW_MASKS and found.never == 0
        assert found.predictable and len(found.gaps) == len(found.warnings) == 1

    def test_many_masks_that_cover_everything_give_none(self):
        (found,) = coverage(small([[a, b] for a in OUTER for b in OUTER if a < b]))
        assert found.n_masks == 66
        assert found.warnings == found.gaps == ()

    def test_fully_sampled_scans_and_single_scans_give_none(self):
        assert coverage(small([OUTER, OUTER]))[0].warnings == ()
        assert coverage(small([[0]]))[0].warnings == ()


class TestDensities:
    def test_shares_are_shrunk_towards_their_mean(self):
        scans = small([[0, 1], [0, 2], [0, 2]])
        ((group, density),) = sampling_densities(scans).items()
        assert group == ((64, 16), "lines")
        assert density.shape == (1, 1, 16)
        mean = 2 / 12
        shares = {0: 1.0, 1: 1 / 3, 2: 2 / 3, 3: 0.0}
        for line, share in shares.items():
            wanted = (3 * share + PRIOR_SCANS * mean) / (3 + PRIOR_SCANS)
            assert float(density[0, 0, line]) == pytest.approx(wanted)
        assert density[0, 0, 6:10].tolist() == [1, 1, 1, 1]

    def test_the_density_of_many_planes_is_the_one_they_are_drawn_from(self):
        probability = torch.linspace(0.1, 0.6, 40).expand(40, 40)
        masks = [torch.rand((1, 40, 40), generator=rng_for(i)) < probability for i in range(200)]
        for mask in masks:
            mask[..., 16:24, 16:24] = True
        (density,) = sampling_densities(facts(masks)).values()
        assert density.shape == (1, 40, 40)
        assert density[0, 18:22, 18:22].min() == 1
        outer = torch.ones(40, 40, dtype=torch.bool)
        outer[12:28, 12:28] = False
        error = (density[0] - probability)[outer]
        # 200 scans times 28 positions and more: 0.007 (1 sigma); edges average over one side only.
        assert error.abs().mean() < 0.012
        assert error.abs().max() < 0.06


def test_no_scans_have_no_figures():
    assert coverage([]) == [] and sampling_densities([]) == {}
