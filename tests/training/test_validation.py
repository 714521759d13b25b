"""Held-out lines: the errors are right, tau is fitted to them, and hidden values are never read."""

from __future__ import annotations

from dataclasses import replace
from itertools import count
from types import SimpleNamespace

import pytest
import torch
from gaussian import GaussianPrior
from helpers import random_maps, small_prior

from mri_ambient.errors import MriAmbientError
from mri_ambient.methods import CgSense
from mri_ambient.physics.mask_spec import MaskSpec
from mri_ambient.physics.operators import SenseOp
from mri_ambient.priors.checkpoint import load_prior
from mri_ambient.rng import complex_normal
from mri_ambient.scan import Batch
from mri_ambient.training.run import RunFolder
from mri_ambient.training.validation import (
    REFERENCES,
    TAUS,
    HeldOutSlice,
    Validator,
    fit_tau,
    hold_out_of_slice,
    reference_errors,
)

SHAPE = (12, 40)
SIGMA_N = 0.05


@pytest.fixture
def batch(rng) -> Batch:
    """One slice of white pixels of variance 0.09 per real channel, three coils, R = 2."""
    maps = random_maps((1, 3, *SHAPE), rng)
    mask = MaskSpec("random", 2, 6).draw(SHAPE, rng)
    op = SenseOp(maps, mask[None])
    x = 0.3 * complex_normal((1, *SHAPE), rng)
    noise = SIGMA_N * complex_normal((1, 3, *SHAPE), rng)
    ksp = torch.where(mask[None], op(x) + noise, 0)
    return Batch.of_measurement(op, ksp, torch.tensor([SIGMA_N]))


def test_a_fifth_of_the_outer_lines_is_held_out(batch):
    case = hold_out_of_slice(batch, "head/0", seed=0)
    assert not (case.held_out & case.batch.mask).any()
    assert torch.equal(case.held_out | case.batch.mask, batch.mask)
    n_held = int(case.held_out.any(dim=-2).sum())
    n_outer = int(batch.mask.any(dim=-2).sum()) - 6
    assert n_held == pytest.approx(n_outer / 5, abs=1)
    again, other = (hold_out_of_slice(batch, "head/0", seed=seed).held_out for seed in (0, 1))
    assert torch.equal(again, case.held_out) and not torch.equal(other, case.held_out)


def test_most_lines_of_a_full_scan_are_held_out(batch):
    full = replace(batch, mask=torch.ones_like(batch.mask))
    case = hold_out_of_slice(full, "head/0", seed=0)
    assert int(case.held_out.any(dim=-2).sum()) == round(0.8 * (40 - 24))


def test_the_error_is_that_of_the_held_out_samples(batch):
    """1 for zeros, 0 for an image that has them; other values elsewhere change nothing."""
    case = hold_out_of_slice(batch, "head/0", seed=0)
    assert case.error(torch.zeros(1, *SHAPE, dtype=torch.complex64)) == pytest.approx(1)
    img = CgSense()(None, case.batch, [])
    y, K = (torch.where(case.held_out, k, 0) for k in (batch.ksp, batch.op.expand(img)))
    want = float((K - y).abs().square().sum() / y.abs().square().sum())
    assert case.error(img) == pytest.approx(want, rel=1e-5)
    elsewhere = torch.where(case.held_out, batch.ksp, complex("nan+nanj"))
    poisoned = replace(case, batch=replace(case.batch, ksp=elsewhere))
    assert poisoned.error(img) == pytest.approx(want, rel=1e-5)


def test_held_out_lines_are_not_used_for_the_prediction(batch):
    case = hold_out_of_slice(batch, "head/0", seed=0)
    poisoned = torch.where(case.held_out, complex("nan+nanj"), batch.ksp)
    other = replace(case, batch=replace(case.batch, ksp=poisoned))
    images = [CgSense()(None, which.batch, []) for which in (case, other)]
    assert torch.equal(*images)


def test_a_slice_without_signal_is_not_usable(batch):
    assert hold_out_of_slice(batch, "head/0", seed=0).usable
    assert not hold_out_of_slice(replace(batch, ksp=0 * batch.ksp), "head/0", seed=0).usable


class Exact(GaussianPrior):
    mask_conditioned, one_level = True, False


def test_tau_is_the_best_of_its_candidates(batch):
    """With an exact prior the fitted error is below that of no data consistency and CG-SENSE."""
    prior = Exact(torch.full(SHAPE, 0.09, dtype=torch.float64), sigma_min=0.01)
    cases = [hold_out_of_slice(batch, f"head/{i}", seed=0) for i in range(3)]
    tau, error, without = fit_tau(prior, cases)
    assert tau in [pytest.approx(t * prior.sigma_data / 0.3) for t in TAUS]
    references = [reference_errors(case) for case in cases]
    assert error <= 1.05 * without
    assert error < sum(found["held_out_cg_sense"] for found in references) / 3


def test_tau_is_not_chosen_by_the_noisiest_scan(batch, monkeypatch):
    """Errors by tau: one falls by a third where the other rises by a tenth of its large one."""
    little, much = hold_out_of_slice(batch, "a", seed=0), hold_out_of_slice(batch, "b", seed=0)
    errors = {"a": {0.3: 0.3, 0.212: 0.2}, "b": {0.3: 2.0, 0.212: 2.2}}
    monkeypatch.setattr("mri_ambient.training.validation.estimate", lambda *_: None)
    monkeypatch.setattr("mri_ambient.training.validation._consistent", lambda c, x, tau: tau)
    monkeypatch.setattr(
        HeldOutSlice, "error", lambda case, tau: errors[case.name].get(tau and round(tau, 3), 9.0)
    )
    prior = Exact(torch.full(SHAPE, 0.09, dtype=torch.float64), sigma_min=0.01)
    assert prior.sigma_data == pytest.approx(0.3)
    tau, error, _ = fit_tau(prior, [little, much])
    assert (tau, error) == (pytest.approx(TAUS[1]), pytest.approx(1.2))


def test_of_equal_errors_the_largest_tau_is_taken(batch, monkeypatch):
    errors = {0.3: 0.501, 0.212: 0.4009, 0.15: 0.4003, 0.106: 0.4}
    monkeypatch.setattr("mri_ambient.training.validation.estimate", lambda *_: None)
    monkeypatch.setattr("mri_ambient.training.validation._consistent", lambda c, x, tau: tau)
    monkeypatch.setattr(
        HeldOutSlice, "error", lambda case, tau: errors.get(tau and round(tau, 3), 0.4)
    )
    prior = Exact(torch.full(SHAPE, 0.09, dtype=torch.float64), sigma_min=0.01)
    tau, error, _ = fit_tau(prior, [hold_out_of_slice(batch, "a", seed=0)])
    assert (tau, error) == (pytest.approx(TAUS[2]), pytest.approx(0.4003))


# The validator


@pytest.fixture
def validator(batch, tmp_path) -> Validator:
    prior = small_prior("conditioned")
    cases = [hold_out_of_slice(batch, "head/0", seed=0)]
    return Validator(RunFolder(tmp_path), prior.facts, cases, patience=2)


@pytest.mark.pictures
def test_a_validation_writes_the_prior_with_its_figures(validator):
    net = small_prior("conditioned").net
    figures = validator(net, images=8, skipped=1)
    assert set(figures) == {"held_out", "held_out_no_dc", "tau", *REFERENCES}
    written = load_prior(validator.run.prior)
    assert written.tau == figures["tau"]
    assert written.card["held_out"] == figures
    assert (written.card["images_seen"], written.card["steps_skipped"]) == (8, 1)
    assert (validator.run.path / "preview.png").exists()
    before = validator.run.prior.stat().st_mtime_ns
    assert validator(net, images=8, skipped=1) == figures  # validated once
    assert validator.run.prior.stat().st_mtime_ns == before


@pytest.mark.pictures
def test_a_deadline_ends_it_before_a_slice_that_would_pass_it(validator, batch, monkeypatch):
    """The figures are those of the slices done; classical methods are measured once a slice."""
    clock = count(step=10.0)  # a slice takes 10 s
    module = "mri_ambient.training.validation"
    monkeypatch.setattr(f"{module}.time", SimpleNamespace(monotonic=lambda: next(clock)))
    net = small_prior("conditioned").net
    alone = validator(net, images=8, skipped=0)
    validator.cases = [*validator.cases, hold_out_of_slice(batch, "head/1", seed=0)]
    clock = count(step=10.0)
    late = validator(net, images=16, skipped=0, deadline=25.0)
    assert late == alone | {"n_slices": 1}
    whole = validator(net, images=24, skipped=0)
    assert "n_slices" not in whole and whole["held_out_cg_sense"] != alone["held_out_cg_sense"]
    monkeypatch.setattr(f"{module}.reference_errors", pytest.fail)
    again = Validator(validator.run, validator.facts, validator.cases, patience=0)
    assert again(net, images=24, skipped=0) == whole


def test_weights_that_are_not_finite_are_not_written(validator):
    net = small_prior("conditioned").net
    with torch.no_grad():
        next(iter(net.parameters())).fill_(torch.nan)
    for cases in (validator.cases, ()):
        validator.cases = cases
        with pytest.raises(MriAmbientError):
            validator(net, images=8, skipped=0)
    assert not validator.run.prior.exists()


def test_the_error_has_settled_after_so_many_validations_without_a_smaller_one(validator):
    settled = []
    for error in (0.5, 0.4, 0.45, 0.41, 0.39):
        validator.errors.append(error)
        settled.append(validator.has_settled)
    assert settled == [False, False, False, True, False]
    validator.patience = 0
    assert not validator.has_settled
