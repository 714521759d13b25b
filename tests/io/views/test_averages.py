"""Averages that differ by more than noise are warned of, in any format."""

from __future__ import annotations

from pathlib import Path

import mrd_files
import numpy as np
import pytest
from array_files import phantom_ksp
from codes import warns
from mrd_files import Line
from numpy.typing import NDArray

from mri_ambient.io import build_header, open_scan
from mri_ambient.io.views.averages import LEAST_DIFFERENCE, difference

HEAD = phantom_ksp((1, 4, 64, 64))[0]

Ksp = NDArray[np.complex64]


def noisy(ksp: Ksp, seed: int, std: float = 0.02) -> Ksp:
    parts = np.random.default_rng(seed).standard_normal((2, *ksp.shape)).astype(np.float32)
    return ksp + std * (parts[0] + 1j * parts[1])


def moved(ksp: Ksp) -> Ksp:
    """By two pixels along x."""
    return ksp * np.exp(-4j * np.pi * np.arange(64) / 64).astype(np.complex64)


FAULTS = {"another sign": lambda ksp: -ksp, "weaker": lambda ksp: ksp / 2, "moved": moved}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("std", [0.0, 0.02])
def test_differences_are_those_of_the_signal(fault, std):
    first = noisy(HEAD, 0, std)
    assert difference(first, noisy(FAULTS[fault](HEAD), 1, std)) > 1.5 * LEAST_DIFFERENCE
    assert difference(first, noisy(HEAD, 2, std)) < LEAST_DIFFERENCE / 10


def test_nothing_is_said_of_noise_or_of_averages_without_places_in_common():
    first, second = noisy(0 * HEAD, 0), noisy(0 * HEAD, 1)
    assert difference(first, second) == 0
    first, second = HEAD.copy(), -HEAD
    first[..., ::2], second[..., 1::2] = 0, 0
    assert difference(first, second) == 0


@pytest.mark.parametrize("fault", [None, "moved"])
@pytest.mark.parametrize("three_d", [False, True])
def test_arrays_are_looked_at(fault, three_d, tmp_path):
    second = FAULTS[fault](HEAD) if fault else HEAD
    values = np.stack([noisy(HEAD, 0), noisy(second, 1)])
    axes = "avg,coil,y,x"
    if three_d:
        weights = np.array([0.1, 1, 0.1], np.complex64)
        values, axes = np.multiply.outer(weights, values), f"z,{axes}"
    np.save(tmp_path / "scan.npy", values)
    with warns("W-NO-HEADER", *["W-AVERAGES"] * bool(fault)):
        file = open_scan(tmp_path / "scan.npy", axes=axes)
    assert any(warning.code == "W-AVERAGES" for warning in file.warnings) == bool(fault)


@pytest.mark.parametrize("fault", [None, "another sign"])
@pytest.mark.parametrize("step2", [0, 1])
def test_readouts_are_looked_at(fault, step2, tmp_path: Path):
    """Also where only some lines were measured twice, and of 3-D scans."""
    second = FAULTS[fault](HEAD) if fault else HEAD
    lines = [
        Line(ksp[:, :, x], x, counters={"average": average, "kspace_encode_step_2": z})
        for average, ksp in enumerate((noisy(HEAD, 0), noisy(second, 1)))
        for z in range(step2 + 1)
        for x in (range(64) if average == 0 else range(20, 44))
    ]
    xml = build_header((64, 64), (64, 64), (240.0, 240.0), (240.0, 240.0), 5.0, 1, 4)
    if step2:
        xml = mrd_files.document(
            mrd_files.encoding((64, 64, 2), (64, 64, 2), (240, 240, 10), (240, 240, 10))
        )
    path = mrd_files.write(tmp_path / "scan.h5", lines, xml)
    with warns(*["W-AVERAGES"] * bool(fault)):
        open_scan(path, centre="header")
