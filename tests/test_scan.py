"""A Scan cannot be inconsistent, and cannot be changed."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from mri_ambient.scan import Scan


def make_scan(**changes) -> Scan:
    lines = torch.tensor([True, False, True, True, False, True])
    mask = lines.expand(1, 4, 6).clone()
    ksp = torch.ones(2, 3, 4, 6, dtype=torch.complex64) * mask
    fields = {"ksp": ksp, "mask": mask, "scan_id": "s", "slices": (0, 1), "recon_shape": (4, 6)}
    return Scan(**fields | changes)


def test_facts_are_read_off_the_data():
    scan = make_scan()
    assert (scan.n_coils, scan.shape) == (3, (4, 6))
    assert scan.acceleration == pytest.approx(6 / 4)


def test_never_acquired_columns_do_not_count():
    acquired = torch.tensor([True, True, True, True, False, True])
    assert make_scan(acquired=acquired).acceleration == pytest.approx(5 / 4)


def test_a_step_gives_a_new_scan_and_is_written_down():
    scan = make_scan()
    scaled = scan.with_step("scale", ksp=scan.ksp / 2, scale=2.0).with_step("look")
    assert scaled.steps == ("scale", "look")
    assert (scan.steps, scan.scale) == ((), 1.0)
    assert torch.equal(scaled.ksp * 2, scan.ksp)


def test_a_scan_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        make_scan().scale = 2.0


@pytest.mark.parametrize("value", [1.0, 1e-30, float("nan"), float("inf")])
def test_nothing_may_hide_where_nothing_was_sampled(value):
    ksp = make_scan().ksp.clone()
    ksp[1, 2, 3, 4] = value
    with pytest.raises(ValueError, match="ksp is not zero where mask is False"):
        make_scan(ksp=ksp)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ksp": torch.zeros(2, 3, 4, 6)}, r"ksp must be complex .* torch.float32 \(2, 3, 4, 6\)"),
        ({"ksp": torch.zeros(3, 4, 6) + 0j}, r"ksp must be complex \(slice, coil, y, x\)"),
        ({"mask": torch.ones(1, 4, 5) > 0}, r"mask must be bool \(1, 4, 6\), got .* \(1, 4, 5\)"),
        ({"mask": torch.ones(1, 4, 6)}, r"mask must be bool \(1, 4, 6\), got torch.float32"),
        ({"slices": (0,)}, "1 slice indices for 2 slices"),
        ({"maps": torch.zeros(2, 2, 4, 6) + 0j}, r"maps \(2, 2, 4, 6\) do not match ksp"),
    ],
)
def test_what_does_not_fit_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        make_scan(**changes)
