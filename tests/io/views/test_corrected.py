"""What was measured, told from what processing left of zeros; and scans that need no correction."""

from __future__ import annotations

import fcntl

import h5py
import numpy as np
import pytest
import torch
from array_files import SHAPE, phantom_ksp, write_cfl
from codes import warns

from mri_ambient.errors import ConfigError, ScanFormatError
from mri_ambient.io import FastmriFile, convert_scan, open_scan
from mri_ambient.physics.axis_fourier import fftc
from mri_ambient.physics.mask_spec import MaskSpec
from mri_ambient.rng import complex_normal, rng_for

KSP = torch.from_numpy(phantom_ksp())
MASKS = {
    "columns": MaskSpec("random", 3, 12).draw(SHAPE[2:], rng_for(0, "lines")),
    "rows": MaskSpec("random", 3, 12).draw(SHAPE[:1:-1], rng_for(0, "lines")).mT,
    "samples": MaskSpec("poisson", 4, 12).draw(SHAPE[2:], rng_for(0, "disc")),
    "padding": (torch.arange(56) > 7)[:, None] & (torch.arange(48) < 40)[None, None],
}
"""Sampled positions ``(1, y, x)``."""


@pytest.fixture
def scan(tmp_path):
    """A function that stores k-space in fastMRI layout and opens it."""

    def opened(ksp, **options):
        path = tmp_path / "scan.h5"
        with h5py.File(path, "w") as file:
            file["kspace"] = np.asarray(ksp)
        return open_scan(path, **options)

    return opened


@pytest.mark.parametrize("kind", MASKS)
@pytest.mark.parametrize("size", [1e-7, 1e-5])
def test_residue_is_not_measured(scan, kind, size):
    mask = MASKS[kind]
    with warns("W-NO-HEADER", "W-RESIDUE"):
        file = scan(torch.where(mask, KSP, size * KSP))
    assert np.array_equal(file.mask, mask)
    assert np.array_equal(file[:].ksp, KSP * mask)
    with warns("W-NO-HEADER"):
        zeros = scan(KSP * mask)
    assert isinstance(zeros, FastmriFile)
    assert file.acceleration == zeros.acceleration
    assert np.array_equal(file.acquired, zeros.acquired)


def test_weak_lines_are_measured(scan):
    """A hundredth of their amplitude is no residue, and neither is a single line without signal."""
    weak = torch.where(MASKS["columns"], KSP, 0.02 * KSP)
    weak[..., 0] = 1e-9
    with warns("W-NO-HEADER"):
        assert np.array_equal(scan(weak)[:].ksp, weak)


def test_a_mask_in_a_file_decides(scan, tmp_path):
    mask, lines = MASKS["columns"], MASKS["columns"][0, 0].numpy()
    np.save(tmp_path / "mask.npy", lines)
    np.savez(tmp_path / "mask.npz", other=lines, mask=mask[0].numpy())
    write_cfl(tmp_path / "mask.cfl", lines[None].astype(np.complex64))
    with h5py.File(tmp_path / "mask.h5", "w") as file:
        file["sampled"] = mask[0].numpy().astype(np.uint8)
    for name in ("mask.npy", "mask.npz", "mask.cfl", "mask.h5"):
        with warns("W-NO-HEADER", "W-OUTSIDE-MASK"):
            found = scan(torch.where(mask, KSP, 1e-7 * KSP), mask=tmp_path / name)
            assert np.array_equal(found.mask, mask)
    everything = np.ones(SHAPE[3], np.uint8)
    np.save(tmp_path / "mask.npy", everything)
    with warns("W-NO-HEADER"):
        assert (
            scan(torch.where(mask, KSP, 1e-7 * KSP), mask=tmp_path / "mask.npy").acceleration == 1
        )


def test_a_mask_that_does_not_fit_is_refused(scan, tmp_path):
    np.savez(tmp_path / "two.npz", a=np.ones(3), b=np.ones(3))
    np.save(tmp_path / "short.npy", np.ones(3))
    for name in ("two.npz", "short.npy"):
        with pytest.raises(ScanFormatError, match="wanted"), warns("W-NO-HEADER"):
            scan(KSP, mask=tmp_path / name)


def test_lines_along_y_are_undersampling(scan):
    with warns("W-NO-HEADER"):
        file = scan(KSP * MASKS["rows"])
    assert file.acceleration == pytest.approx(MASKS["rows"].numel() / int(MASKS["rows"].sum()))
    assert not file.fully_sampled


def test_zero_padding_is_no_undersampling(scan):
    """R is that of the matrix which was sampled; a mask whose edges are thin keeps its own."""
    lines = MaskSpec("random", 3, 16).draw((56, 96), rng_for(0, "lines"))[0, 0]
    padded = torch.nn.functional.pad(lines, (48, 48))
    ksp = torch.from_numpy(phantom_ksp((1, 2, 56, 192)))
    with warns("W-NO-HEADER"):
        file = scan(ksp * padded)
        held = padded.nonzero()
        n_columns = int(held[-1] - held[0]) + 1
        assert file.acceleration == pytest.approx(n_columns / int(lines.sum()))
    thin = MaskSpec("gaussian", 4, 16).draw((56, 192), rng_for(0, "thin"))
    with warns("W-NO-HEADER"):
        assert scan(ksp * thin).acquired.all()


@pytest.mark.parametrize("n", [8, 13, 24])
def test_a_phase_encode_taken_for_slices_is_refused(n, scan):
    volume = torch.from_numpy(phantom_ksp((n, 2, 56, 48)))
    along_z = fftc(volume, dim=0)
    partial = along_z.clone()
    partial[: n // 2 - 2] = 0
    for encoded in (along_z, partial):
        with pytest.raises(ScanFormatError, match="--axes z,coil,y,x"):
            scan(encoded)
    air = volume.clone()
    air[: n // 4] = air[-(n // 4) :] = 0
    air += 0.01 * complex_normal(tuple(air.shape), rng_for(0, "noise"))
    for slices in (volume, air):
        with warns("W-NO-HEADER"):
            assert scan(slices).shape == (n, 2, 56, 48)


def test_a_file_that_is_being_written_is_not_called_damaged(tmp_path):
    path = tmp_path / "scan.h5"
    with h5py.File(path, "w") as file:
        file["kspace"] = KSP.numpy()
    with path.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # as HDF5 does for a writer
        with pytest.raises(ScanFormatError, match="in use by another program"):
            open_scan(path)


def test_other_formats_have_no_mask_option(tmp_path):
    (tmp_path / "a.dat").write_bytes(b"")
    with pytest.raises((ConfigError, ScanFormatError)):
        open_scan(tmp_path / "a.dat", mask="m.npy")


def test_a_corrected_scan_keeps_its_identifiers_where_that_is_wanted(tmp_path):
    path = tmp_path / "scan.h5"
    with h5py.File(path, "w") as file:
        file["kspace"] = np.roll(KSP.numpy(), 4, axis=-1)
        file.attrs["patient_name"] = "Doe"
    with warns("W-NO-HEADER", "W-CENTRE"):
        scan = open_scan(path)
        converted = convert_scan(scan, tmp_path / "out", "fastmri", keep_identifiers=True)
    with h5py.File(converted) as file:
        assert file.attrs["patient_name"] == "Doe"


@pytest.mark.parametrize("centre", ["auto", "header"])
def test_magnitude_images_are_no_scan(centre, tmp_path):
    """Although they look like images in place of k-space, which would be transformed."""
    path = tmp_path / "images.npy"
    np.save(path, np.abs(np.fft.fftshift(np.fft.ifft2(KSP.numpy()))).astype(np.complex64))
    with warns("W-NO-HEADER"), pytest.raises(ScanFormatError, match="magnitude images"):
        bool(open_scan(path, axes="slice,coil,y,x", centre=centre).mask.any())
