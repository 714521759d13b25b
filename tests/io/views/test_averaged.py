"""Repetitions that are averaged."""

from __future__ import annotations

from pathlib import Path

import h5py
import ismrmrd
import numpy as np
import pytest
import torch
from codes import warns
from memory_scan import head, noise_only
from mrd_files import Line, document, encoding, write

from mri_ambient.data_prep import plan_preparation
from mri_ambient.errors import WRONG_SAMPLES, ScanFormatError
from mri_ambient.evaluation.folders import evaluate
from mri_ambient.io import find_scans, open_scan
from mri_ambient.recon.pipeline import reconstruct
from mri_ambient.recon.recipe import Recipe

pytestmark = pytest.mark.filterwarnings("ignore::mri_ambient.errors.NumericalWarning")

N_REP, N = 3, 64


@pytest.fixture(scope="module")
def clean() -> torch.Tensor:
    """``(slice, coil, y, x)`` without noise, 6 coils."""
    return head(full=True, coils=6, noise=0.0, units=1.0).ksp


@pytest.fixture(scope="module")
def repetitions(clean) -> np.ndarray:
    """Three of them, with white noise of standard deviation 0.02, ``(rep, slice, coil, y, x)``."""
    cov = 0.02**2 * torch.eye(6)
    noise = [noise_only(6, (N, N), cov, seed=seed) for seed in range(N_REP)]
    return torch.stack([clean + part for part in noise]).numpy()


@pytest.fixture
def scan(repetitions, write_scan) -> Path:
    """With a noise scan, and axes rep, slice, coil, y, x."""
    noise = noise_only(6, (128, 128), 0.02**2 * torch.eye(6), seed=9).flatten(1).numpy()
    return write_scan("scan.h5", kspace=repetitions, noise=noise)


AXES = "rep,slice,coil,y,x"


def test_the_mean_is_one_volume(scan, repetitions):
    (found,) = find_scans([scan], axes=AXES, average=True)
    assert found.stem == "scan" and len(find_scans([scan], axes=AXES)) == N_REP
    file = found.open()
    assert (file.volume, file.output_stem, file.scan_id) == ("", "scan", "scan")
    np.testing.assert_allclose(file[:].ksp, repetitions.mean(axis=0), rtol=0, atol=1e-6)
    assert file.steps == ("read", "average 3")


@pytest.mark.parametrize("lines", [slice(None), slice(0, None, 2)], ids=["full", "R=2"])
@pytest.mark.parametrize("with_noise_scan", [True, False])
def test_the_noise_is_that_of_the_mean(lines, with_noise_scan, scan, repetitions, write_scan):
    """Known, 0.02 / sqrt(3); undersampled data alone give it within 10 %."""
    if not with_noise_scan:
        scan = write_scan("scan.h5", kspace=repetitions)
    with h5py.File(scan, "a") as file:
        kept = np.zeros(N, bool)
        kept[lines] = True
        kept[20:44] = True
        file["kspace"][:] *= kept
    opened = open_scan(scan, axes=AXES, average=True)
    preparation = plan_preparation(opened)
    rel = 0.02 if with_noise_scan or lines == slice(None) else 0.1
    assert preparation.noise.std == pytest.approx(0.02 / N_REP**0.5, rel=rel)


def test_whitened_noise_has_a_standard_deviation_of_one(scan, clean):
    """Of the difference to the k-space without noise."""
    file = open_scan(scan, axes=AXES, average=True)
    prepared = plan_preparation(file).apply(file[0])
    mix = prepared.coil_transform.to(torch.complex64) / prepared.scale
    noise = prepared.ksp[0] - torch.einsum("vc,cyx->vyx", mix, clean[0])
    std = torch.view_as_real(noise).std() / prepared.noise_std
    assert float(std) == pytest.approx(1, rel=0.02)


def test_places_count_as_often_as_they_were_measured(repetitions, write_scan):
    ksp = repetitions.copy()
    ksp[1, ..., 40:] = 0
    noise = noise_only(6, (64, 64), torch.eye(6)).flatten(1).numpy()
    path = write_scan("scan.h5", kspace=ksp, noise=noise)
    file = open_scan(path, axes=AXES, average=True)
    wanted = ksp.sum(axis=0) / np.where(np.arange(N) < 40, 3, 2)
    np.testing.assert_allclose(file[:].ksp, wanted, rtol=0, atol=1e-6)
    share = np.sqrt((40 / 3 + 24 / 2) / 64)
    np.testing.assert_allclose(file.noise, noise * share, rtol=1e-5)


def test_drift_of_the_phase_is_removed_and_a_moved_object_is_warned_of(repetitions, write_scan):
    ksp = repetitions * np.exp(1j * np.array([0, 1.0, 2.5]))[:, None, None, None, None]
    path = write_scan("scan.h5", kspace=ksp.astype(np.complex64))
    with warns("W-NO-HEADER"):
        file = open_scan(path, axes=AXES, average=True)
    found, wanted = file[0].ksp.numpy()[0], repetitions.mean(axis=0)[0]
    assert np.linalg.norm(found - wanted) < 0.02 * np.linalg.norm(wanted)
    moved = repetitions.copy()
    moved[2] *= np.exp(2j * np.pi * 10 * np.arange(N) / N)
    write_scan(path.name, kspace=moved)
    with warns("W-NO-HEADER", "W-REPETITIONS"):
        file = open_scan(path, axes=AXES, average=True)
    assert WRONG_SAMPLES & {warning.code for warning in file.warnings}  # nothing is scored


def test_files_of_the_repetitions_of_m4raw(repetitions, write_scan, tmp_path):
    """``<subject>_T101.h5``, ``..02``, ``..03``; other files are scans of their own."""
    names = ["a_T101", "a_T102", "a_T103", "a_T201", "b"]
    for name, ksp in zip(names, [*repetitions, *repetitions], strict=False):
        write_scan(f"{name}.h5", kspace=ksp)
    found = find_scans([tmp_path], average=True)
    assert [scan.stem for scan in found] == ["a_T1", "a_T201", "b"]
    file = found[0].open()
    assert file.output_stem == "a_T1"
    np.testing.assert_allclose(file[:].ksp, repetitions.mean(axis=0), rtol=0, atol=1e-6)
    # Each repetition is scored against the mean of all, and not against its own reference.
    for name, ksp in zip(names[:3], repetitions, strict=True):
        write_scan(f"{name}.h5", kspace=ksp, reconstruction_rss=np.ones((1, N, N)))
    out = tmp_path / "out"
    for scan in find_scans([tmp_path / "a_T1*.h5"]):
        reconstruct(scan, Recipe("zero-filled")).save(out)
    scores = evaluate(out, tmp_path, average=True)["volumes"]
    assert sorted(scores) == names[:3]
    assert all(0 < row["nmse"] < 0.1 for row in scores.values())


def test_numbered_files_of_different_scans_are_refused(repetitions, write_scan, tmp_path):
    ksp = (repetitions[0], np.ascontiguousarray(repetitions[0].swapaxes(2, 3)[..., ::-1]))
    for number, values in enumerate(ksp, start=1):
        write_scan(f"subject0{number}.h5", kspace=values)
    (found,) = find_scans([tmp_path], average=True)
    with pytest.raises(ScanFormatError, match=r"subject02\.h5: is no repetition"):
        found.open()


def test_contrasts_stay_apart_and_are_chosen_by_name(repetitions, write_scan):
    ksp = np.stack([repetitions, 2 * repetitions], axis=1)
    path = write_scan("scan.h5", kspace=ksp)
    axes = {"axes": "rep,con,slice,coil,y,x", "average": True}
    assert [scan.stem for scan in find_scans([path], **axes)] == ["scan_con-1", "scan_con-2"]
    file = open_scan(path, volume="con-2", **axes)
    assert (file.volume, file.output_stem) == ("con-2", "scan_con-2")
    np.testing.assert_allclose(file[:].ksp, 2 * repetitions.mean(axis=0), rtol=0, atol=1e-5)
    for volume in (None, "con-1_rep-2"):
        with pytest.raises(ScanFormatError, match="con-1, con-2"):
            open_scan(path, volume=volume, **axes)


def test_averages_inside_a_file_lower_its_noise(repetitions, tmp_path):
    """ISMRMRD: a noise measurement is of single readouts."""
    noise = noise_only(6, (50, 50), torch.eye(6)).flatten(1).numpy()
    lines = [Line(noise, flags=(ismrmrd.ACQ_IS_NOISE_MEASUREMENT,))]
    lines += [
        Line(ksp[0][:, :, x], x, counters={"average": n})
        for n, ksp in enumerate(repetitions)
        for x in range(N)
    ]
    sizes, mm = (N, N, 1), (200.0, 200.0, 5.0)
    limits = {"kspace_encoding_step_1": (N - 1, N // 2)}
    path = write(tmp_path / "scan.h5", lines, document(encoding(sizes, sizes, mm, mm, limits)))
    file = open_scan(path)
    np.testing.assert_allclose(file.noise, noise / N_REP**0.5, rtol=1e-5)
    np.testing.assert_allclose(file[:].ksp, repetitions.mean(axis=0), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("noise", "pixels"), [(0.5, 0), (0.5, 2), (4, 0), (4, 4)])
@pytest.mark.parametrize("axis", [-2, -1])
def test_movement_between_repetitions_is_warned_of(
    noise, pixels, axis, repetitions, clean, write_scan
):
    """Of which the samples about k = 0 tell little; also where there is much noise."""
    image = np.fft.ifft2(np.fft.ifftshift(clean.numpy(), (-2, -1)))
    moved = np.fft.fftshift(np.fft.fft2(np.roll(image, pixels, axis)), (-2, -1))
    ksp = clean.numpy() + noise * (repetitions - clean.numpy())
    ksp[1] += moved - clean.numpy()
    ksp[1] *= 2j  # which is no movement
    path = write_scan("scan.h5", kspace=ksp.astype(np.complex64))
    with warns("W-NO-HEADER", *["W-REPETITIONS"] * (pixels > 0)):
        open_scan(path, axes=AXES, average=True)
