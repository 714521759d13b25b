"""Signal beyond both sides of the final field of view is found, that beyond one side is not."""

from __future__ import annotations

import pytest
import torch
from codes import warns
from memory_scan import simulated_scan

from mri_ambient.data_prep import PrepConfig, SimulateConfig, plan_preparation
from mri_ambient.data_prep.faults.cut_off import cut_off, cut_off_warnings, energies
from mri_ambient.physics.fourier import fft2c


def object_of(first: int, last: int) -> torch.Tensor:
    """K-space ``(1, y, x)`` of a bar from one column of 80 to another."""
    img = torch.zeros(1, 64, 80, dtype=torch.complex64)
    img[:, 16:48, first:last] = 1
    return fft2c(img)


@pytest.mark.parametrize(
    ("first", "last", "kept", "share"),
    [
        (10, 70, 0.5, 1 / 6),  # 10 of 60 columns beyond each side of 20 to 60
        (10, 70, 0.25, 1 / 3),
        (22, 58, 0.5, 0.0),
        (40, 80, 0.5, 0.0),  # beyond one side
        (10, 70, 1.0, 0.0),
    ],
)
def test_the_share_is_that_beyond_each_side(first, last, kept, share):
    _, along_x = energies(object_of(first, last))
    assert cut_off(along_x, kept) == pytest.approx(share, abs=0.02)


def test_a_warning_names_the_axis():
    slices = [energies(object_of(10, 70)), energies(object_of(20, 60))]
    (warning,) = cut_off_warnings("scan", slices, (1.0, 0.5))
    assert warning.code == "W-CUT-OFF" and "along x" in warning.text
    assert (
        cut_off_warnings("scan", slices, (0.9, 0.9)) == cut_off_warnings("scan", [], (1, 0.5)) == []
    )


@pytest.mark.parametrize(("columns", "codes"), [(48, []), (24, ["W-CUT-OFF"])])
def test_the_preparation_warns(columns, codes):
    config = SimulateConfig(size=(48, 48), coils=4, full=True)
    scan, _ = simulated_scan("head", config)
    scan.recon_shape = (48, columns)
    with warns(*codes):
        plan_preparation(scan, PrepConfig(map_sets=1))
