"""Where a volume was sampled, found from its k-space, a mask and a header."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from codes import warns
from torch import Tensor

from mri_ambient.errors import ScanFormatError
from mri_ambient.io.sampling import Sampling, find_sampling
from mri_ambient.physics.mask_spec import MaskSpec
from mri_ambient.rng import complex_normal

SHAPE = (3, 2, 40, 30)
PATH = Path("scan.h5")


@pytest.fixture
def full(rng) -> Tensor:
    """K-space of a volume without a single zero."""
    return complex_normal(SHAPE, rng)


def lines(*columns: int | range) -> Tensor:
    """A mask plane with the given columns sampled."""
    plane = torch.zeros(SHAPE[-2:], dtype=torch.bool)
    for column in columns:
        plane[:, list(column) if isinstance(column, range) else column] = True
    return plane


def found(ksp: Tensor, given: Tensor | None = None, padding=None) -> Sampling:
    given = None if given is None else given.numpy()
    return find_sampling(PATH, ksp.numpy().__getitem__, SHAPE, given, padding)


EVERY_THIRD = lines(range(0, 30, 3), range(12, 18))


def test_lines_are_found(full):
    got = found(full * EVERY_THIRD)
    assert np.array_equal(got.mask[0], EVERY_THIRD)
    assert got.acquired.all()


def test_a_position_counts_if_any_slice_and_coil_holds_data(full):
    ksp = full * EVERY_THIRD
    ksp[0, 0], ksp[1, 1] = 0, 0
    ksp[2, :, :10] = 0
    assert np.array_equal(found(ksp).mask[0], EVERY_THIRD)


def test_stray_zeros_do_not_break_lines(full):
    ksp = full * EVERY_THIRD
    ksp[..., 5, :] = 0  # a row of zeros is no stray zero, but a row never sampled
    ksp[..., 7:10, 12] = 0
    ksp[..., 30, 3] = -0.0
    want = EVERY_THIRD.clone()
    want[5] = False
    assert np.array_equal(found(ksp).mask[0], want)


def test_partial_echo_is_rows_never_sampled(full):
    full[..., :12, :] = 0
    got = found(full)
    assert not got.mask[0, :12].any()
    assert got.mask[0, 12:].all()
    assert got.acquired.all()


def test_a_poisson_disc_is_taken_as_it_is(full, rng):
    mask = MaskSpec("poisson", 4.0, 8).draw(SHAPE[-2:], rng)
    got = found(full * mask)
    assert np.array_equal(got.mask, mask)
    assert got.acquired.all()


@pytest.mark.parametrize("padding", [None, (0, 30), (3, 27)])
def test_columns_outside_an_unbroken_run_were_never_acquired(full, padding):
    run = lines(range(3, 27))
    got = found(full * run, padding=padding)
    assert np.array_equal(got.mask[0], run)
    assert np.array_equal(got.acquired, run[0])


def test_a_short_run_of_lines_is_an_undersampled_scan(full):
    assert found(full * lines(range(10, 20))).acquired.all()


def test_with_gaps_the_header_decides(full):
    padding = (2, 28)
    want = torch.arange(30).ge(2) & torch.arange(30).lt(28)
    got = found(full * EVERY_THIRD * want, padding=padding)
    assert np.array_equal(got.acquired, want)


def test_a_header_that_the_data_contradicts_is_ignored(full):
    with warns("W-HEADER-LIMITS") as caught:
        got = found(full * EVERY_THIRD, padding=(5, 20))
    assert "5 to 19" in str(caught[0])
    assert np.array_equal(got.mask[0], EVERY_THIRD)
    assert got.acquired.all()


def test_a_mask_in_the_file_is_taken(full):
    got = found(full * EVERY_THIRD, given=EVERY_THIRD)
    assert np.array_equal(got.mask[0], EVERY_THIRD)


def test_a_mask_that_runs_on_into_columns_never_acquired_is_cut_silently(full):
    acquired = lines(range(4, 26))
    got = found(full * acquired * EVERY_THIRD, given=EVERY_THIRD, padding=(4, 26))
    assert np.array_equal(got.mask[0], EVERY_THIRD & acquired)


def test_samples_outside_the_mask_are_ignored_with_a_warning(full):
    n_hidden = int((~EVERY_THIRD).sum())
    with warns("W-OUTSIDE-MASK") as caught:
        got = found(full, given=EVERY_THIRD)
    assert f"{n_hidden} of 1200" in str(caught[0])
    assert np.array_equal(got.mask[0], EVERY_THIRD)


def test_masked_positions_that_hold_zeros_are_not_sampled(full):
    held = EVERY_THIRD & ~lines(0, 27)
    with warns("W-MASK-ZEROS") as caught:
        got = found(full * held, given=EVERY_THIRD)
    assert "80 of the 560" in str(caught[0])
    assert np.array_equal(got.mask[0], held)


@pytest.mark.filterwarnings("ignore::mri_ambient.errors.NumericalWarning")
def test_a_mask_of_elliptically_sampled_k_space_may_run_into_its_corners(full):
    y, x = torch.arange(-20, 20)[:, None], torch.arange(-15, 15)
    ellipse = (y / 20) ** 2 + (x / 15) ** 2 < 1
    got = found(full * ellipse, given=EVERY_THIRD)
    assert np.array_equal(got.mask[0], EVERY_THIRD & ellipse)


@pytest.mark.parametrize("shift", [1, -2])
def test_a_mask_that_is_off_by_a_column_is_refused(full, shift):
    mask = lines(range(0, 30, 5), range(8, 22))
    with pytest.raises(ScanFormatError) as caught:
        found(full * mask, given=mask.roll(shift, dims=1))
    assert f"off by {abs(shift)} column" in str(caught.value) and "--mask" in str(caught.value)


def test_a_mask_that_contradicts_single_samples_is_refused(full, rng):
    one, other = (MaskSpec("poisson", 3.0, 6).draw(SHAPE[-2:], rng)[0] for _ in range(2))
    with pytest.raises(ScanFormatError) as caught:
        found(full * one, given=other)
    assert "contradict" in str(caught.value) and "off by" not in str(caught.value)


def test_columns_lost_from_fully_sampled_k_space_do_not_make_a_mask_wrong(full):
    full[..., 3] = 0
    with warns("W-OUTSIDE-MASK", "W-MASK-ZEROS"):
        assert not found(full, given=EVERY_THIRD).mask[..., 3].any()


def test_lines_that_one_coil_lost_count_as_not_measured(full):
    ksp = full.repeat(1, 1, 1, 2)
    ksp[1, 1, :, 33] = 0
    ksp[2, 0, :25, 40] = 0
    with warns("W-MISSING-COLUMNS") as caught:
        got = find_sampling(PATH, ksp.numpy().__getitem__, (3, 2, 40, 60))
    assert np.flatnonzero(~got.mask[0].any(axis=0)).tolist() == [33, 40]
    assert "coil 1 of slice 1, coil 0 of slice 2" in str(caught[0])


@pytest.mark.parametrize("part", [np.s_[1, 0, :, 20:], np.s_[2, 1, 10:], np.s_[:, 1, :, 4:8]])
def test_coils_that_lost_more_are_refused(full, part):
    full[part] = 0
    with pytest.raises(ScanFormatError) as caught:
        found(full)
    assert "single coils hold zeros" in str(caught.value)


def test_coils_without_any_sample_and_weak_ones_lost_nothing(rng):
    """Rounded to integers, outer samples of weak coils are 0."""
    y, x = torch.meshgrid(torch.linspace(-3, 3, 40), torch.linspace(-3, 3, 30), indexing="ij")
    ksp = complex_normal(SHAPE, rng) * torch.exp(-(x.square() + y.square()))
    gain = torch.tensor([40.0, 3.0])[:, None, None]
    rounded = torch.view_as_complex(torch.view_as_real(ksp * gain).round())
    assert 0 < int((rounded[:, 1] != 0).sum()) < 0.7 * int((rounded[:, 0] != 0).sum())
    found(rounded)
    rounded[:, 1] = 0
    found(rounded)


def test_single_samples_rounded_to_zero_are_no_lost_lines(full, rng):
    """Where a mask leaves few samples in a line, and a weak coil holds zeros for most of these."""
    mask = MaskSpec("poisson", 4.0, 8).draw(SHAPE[-2:], rng)[0]
    ksp = full * mask
    counts = mask.sum(dim=0)
    column = int(torch.where(counts >= 4, counts, 99).argmin())
    assert counts[column] < 9
    ksp[1, 1, mask[:, column].nonzero()[2:, 0], column] = 0
    assert np.array_equal(found(ksp).mask[0], mask)


def test_partial_echo_needs_no_warning_beside_a_mask_of_lines(full):
    ksp = full * EVERY_THIRD
    ksp[..., :12, :] = 0
    got = found(ksp, given=EVERY_THIRD)
    assert not got.mask[0, :12].any()


def test_an_inverted_mask_is_refused(full):
    with pytest.raises(ScanFormatError) as caught:
        found(full * EVERY_THIRD, given=~EVERY_THIRD)
    assert "640 of the 640" in str(caught.value)


def test_nothing_but_zeros_is_refused(full):
    with pytest.raises(ScanFormatError) as caught:
        found(full * 0)
    assert str(PATH) in str(caught.value)


def test_an_empty_slice_is_reported(full):
    full[1] = 0
    with warns("W-EMPTY-SLICES") as caught:
        found(full)
    assert "[1]" in str(caught[0])


def test_slices_sampled_in_different_places_are_refused(full):
    full[0] *= EVERY_THIRD
    full[1:] *= EVERY_THIRD.roll(1, dims=1)
    with pytest.raises(ScanFormatError) as caught:
        found(full)
    assert all(fact in str(caught.value) for fact in ("slice 0", "560", "880"))


def test_slices_with_other_poisson_discs_are_refused(full, rng):
    for ksp in full:
        ksp *= MaskSpec("poisson", 6.0, 4).draw(SHAPE[-2:], rng)[0]
    with pytest.raises(ScanFormatError) as caught:
        found(full)
    assert "slice 0" in str(caught.value)


def test_lost_lines_of_some_slices_count_as_not_measured(full):
    """Also a line of which a third is lost; as data, the zeros would be an artefact."""
    full[1, ..., 4], full[2, :, :14, 9] = 0, 0
    with warns("W-MISSING-COLUMNS") as caught:
        mask = found(full).mask
    assert np.flatnonzero(~mask.all(axis=(0, 1))).tolist() == [4, 9] and not mask[..., 4].any()
    assert all(fact in str(caught[0]) for fact in ("[1, 2]", "1 of 30"))


def test_samples_rounded_to_zero_are_no_lost_lines(full):
    """In many columns of a weak slice, as where samples are stored as integers."""
    full[1, :, ::3, ::2] = 0
    assert found(full).mask.all()


def test_half_a_slice_is_refused(full):
    full[2, :, :20] = 0
    with pytest.raises(ScanFormatError):
        found(full)


def test_real_numbers_are_no_kspace(full):
    for part in (full.real, 1j * full.imag):
        with pytest.raises(ScanFormatError):
            found(part.to(full.dtype))
