"""Quality figures of prepared slices, and the warnings that follow from them."""

from __future__ import annotations

import pickle
import re
from dataclasses import replace

import pytest
import torch
from codes import warns
from memory_scan import head

from mri_ambient.data_prep import PrepConfig, plan_preparation, prepare_file
from mri_ambient.data_prep.qc import SliceCheck, calibration_residual, slice_warnings
from mri_ambient.errors import NumericalWarning
from mri_ambient.io import PreparedFile
from mri_ambient.physics.crop import center_crop
from mri_ambient.physics.fourier import fft2c
from mri_ambient.rng import complex_normal, rng_for

GOOD = SliceCheck(
    0, blank=False, support=0.5, eigenvalue=0.99, second_map=0.0, calib_residual=0.01,
    calib_noise=0.01,
)  # fmt: skip


@pytest.mark.parametrize(
    ("noise", "codes"), [(0.03, []), (0.12, ["W-SECOND-MAP"]), (0.5, ["W-NOISY-CALIBRATION"])]
)
def test_noise_is_not_taken_for_a_folded_field_of_view(noise, codes):
    """A head that fits, in noise that gives ESPIRiT eigenvalues of 1 in places or everywhere."""
    file = head(noise=noise)
    with warns(*codes):
        plan_preparation(file).apply(file[0])


def test_an_empty_support_is_one_warning():
    file = head()
    with warns("W-EMPTY-SUPPORT"):
        plan_preparation(file, PrepConfig(crop=1.0)).apply(file[0])


def test_a_real_scan_larger_than_its_field_of_view_has_one_warning(real_scans, tmp_path):
    with warns("W-FOLDED-FOV") as found:
        path = prepare_file(real_scans / "alias_brain8.h5", tmp_path, PrepConfig(map_sets=1))
    qc = PreparedFile(path).qc
    assert qc["warnings"] == [warning.as_dict() for warning in found]
    assert qc["doubts"] == [warning["text"] for warning in qc["warnings"]]
    assert qc["slices"][0]["second_map"] > 0.1
    with warns():
        good = PreparedFile(prepare_file(real_scans / "espirit_brain8.h5", tmp_path)).qc
    assert good["warnings"] == good["doubts"] == []
    assert good["slices"][0]["calib_residual"] < 0.01 < qc["slices"][0]["calib_residual"]


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"blank": True, "support": 0.0}, "W-BLANK-CALIBRATION"),
        ({"second_map": 0.1, "calib_residual": 0.1}, "W-FOLDED-FOV"),
        ({"second_map": 0.1}, "W-SECOND-MAP"),
        ({"second_map": 0.1, "calib_noise": 0.6, "calib_residual": 0.6}, "W-NOISY-CALIBRATION"),
        ({"support": 0.01}, "W-EMPTY-SUPPORT"),
    ],
)
def test_every_problem_is_one_warning_that_lists_its_slices(change, code):
    bad = [replace(GOOD, index=index, **change) for index in (2, 4)]
    (found,) = slice_warnings("scan", [GOOD, *bad])
    assert found.code == code
    assert re.findall(r"\d+", found.text)[:4] == ["2", "3", "2", "4"]  # so many of all, and which


def test_nothing_is_said_of_slices_of_air():
    air = replace(GOOD, second_map=0.9, calib_noise=0.98, calib_residual=0.98)
    assert slice_warnings("scan", [GOOD, air]) == []


def test_a_warning_gives_the_figure_of_the_worst_slice():
    folded = replace(GOOD, second_map=0.1, calib_residual=0.1)
    bad = [replace(folded, index=2), replace(folded, index=4, second_map=0.3)]
    (found,) = slice_warnings("scan", bad)
    assert re.findall(r"\d+", found.text) == ["2", "2", "2", "4", "4", "30"]


def test_a_warning_can_be_sent_to_another_process():
    (found,) = slice_warnings("scan", [replace(GOOD, support=0.0)])
    copy = pickle.loads(pickle.dumps(found))
    assert (type(copy), copy.as_dict()) == (NumericalWarning, found.as_dict())


def test_the_residual_is_what_the_maps_cannot_produce():
    # Coils (1, 1) / sqrt(2) everywhere: the part of the data along (1, -1) is left, all of it.
    maps = torch.full((1, 2, 16, 12), 0.5**0.5, dtype=torch.complex64)
    along, across = complex_normal((2, 16, 12), rng_for(0))
    img = torch.stack([along + 0.5 * across, along - 0.5 * across])[None]
    calib = center_crop(fft2c(img), (8, 8))
    want = 0.5 * fft2c(across)
    share = 2 * center_crop(want, (8, 8)).abs().square().sum() / calib.abs().square().sum()
    torch.testing.assert_close(calibration_residual(calib, maps), share[None])
    assert calibration_residual(torch.zeros_like(calib), maps) == 0
