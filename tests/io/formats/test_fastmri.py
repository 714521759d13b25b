"""The fastMRI reader on small files of every kind it should meet."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
import torch
from codes import warns

from mri_ambient.io import build_header, open_scan

M4RAW_HEADER = """<?xml version="1.0"?>
<ns0:ismrmrdHeader xmlns:ns0="http://www.ismrm.org/ISMRMRD"><ns0:encoding>
<ns0:encodedSpace><ns0:matrixSize><ns0:x>12</ns0:x><ns0:y>10</ns0:y><ns0:z>1</ns0:z></ns0:matrixSize>
<ns0:fieldOfView_mm><ns0:x>240</ns0:x><ns0:y>200</ns0:y><ns0:z>5</ns0:z></ns0:fieldOfView_mm>
</ns0:encodedSpace></ns0:encoding></ns0:ismrmrdHeader>"""


def test_a_knee_training_file(knee, knee_ksp):
    file = open_scan(knee)
    assert file.format == "fastmri"
    assert file.scan_id == "file1000001"
    assert file.shape == (2, 3, 64, 46)
    assert len(file) == 2
    assert file.recon_shape == (32, 32)
    assert file.voxel_mm == pytest.approx((4.375, 4.375, 4.5))
    assert file.readout_oversampling == 2
    assert file.attributes["acquisition"] == "CORPD_FBK"
    assert file.header_xml is not None
    assert file.noise is None
    # Columns 3 to 42 were acquired, all of them: fully sampled, R = 1.
    assert np.flatnonzero(file.acquired).tolist() == list(range(3, 43))
    assert np.array_equal(file.mask[0], np.broadcast_to(file.acquired, (64, 46)))
    assert file.fully_sampled
    assert file.acceleration == 1
    assert np.array_equal(file.read_ksp(1), knee_ksp[1])


def test_slices_come_as_scans(knee, knee_ksp):
    file = open_scan(knee)
    scan = file[1]
    assert np.array_equal(scan.ksp, knee_ksp[1:])
    assert (scan.scan_id, scan.slices, scan.recon_shape) == ("file1000001", (1,), (32, 32))
    assert (scan.voxel_mm, scan.steps) == (file.voxel_mm, ("read",))
    assert np.array_equal(file[:].ksp, knee_ksp)
    assert file[-1].slices == (1,)
    assert [scan.slices for scan in file] == [(0,), (1,)]
    with pytest.raises(IndexError):
        file[2]
    with pytest.raises(IndexError):
        file[2:]


def test_a_knee_test_file(knee_test, knee_ksp, knee_lines):
    file = open_scan(knee_test)
    acquired = torch.arange(46).ge(3) & torch.arange(46).lt(43)
    assert np.array_equal(file.mask, (knee_lines & acquired).expand(1, 64, 46))
    assert np.array_equal(file.acquired, acquired)
    assert not file.fully_sampled
    assert file.acceleration == pytest.approx(40 / int((knee_lines & acquired).sum()))
    assert file.recon_shape == (32, 32)
    assert file.read_target("reconstruction_rss") is None
    assert np.array_equal(file[0].ksp, knee_ksp[:1] * knee_lines)


def test_the_mask_is_found_where_the_file_has_none(knee_test, knee_lines):
    with h5py.File(knee_test, "a") as file:
        del file["mask"]
    file = open_scan(knee_test)
    assert np.array_equal(file.mask[0, 0], knee_lines.numpy() & file.acquired)


def test_data_outside_the_mask_is_never_handed_on(write_scan, knee_ksp, knee_header, knee_lines):
    path = write_scan(kspace=knee_ksp, ismrmrd_header=knee_header, mask=knee_lines)
    file = open_scan(path)
    with warns("W-OUTSIDE-MASK"):
        assert not file.fully_sampled
    assert np.array_equal(file[0].ksp, knee_ksp[:1] * knee_lines)
    assert np.array_equal(file.read_ksp(0), knee_ksp[0] * knee_lines)


@pytest.mark.parametrize(
    "mask",
    [
        np.ones(10, bool),
        np.ones(10, np.uint8),
        np.ones(10, np.float64),
        np.ones((12, 10), np.int32),
        np.ones((1, 10)),
        np.ones((1, 1, 10, 1)),
        np.ones((1, 12, 10)),
    ],
)
def test_masks_of_many_shapes_and_types(write_scan, small_ksp, mask):
    path = write_scan(kspace=small_ksp, ismrmrd_header=M4RAW_HEADER, mask=mask)
    assert open_scan(path).mask.all()


def test_the_reference_image(knee):
    file = open_scan(knee)
    target = file.read_target("reconstruction_rss")
    assert target is not None
    assert target.dtype == np.float32
    assert target.shape == (2, 32, 32)
    assert float(target.max()) == pytest.approx(file.attributes["max"])
    assert file.read_target("reconstruction_esc") is None


def test_the_reference_image_gives_the_final_matrix(write_scan, small_ksp):
    path = write_scan(
        kspace=small_ksp, ismrmrd_header=M4RAW_HEADER, reconstruction_rss=np.ones((2, 8, 6))
    )
    assert open_scan(path).recon_shape == (8, 6)


def test_a_matrix_larger_than_the_image_is_cropped_to_what_fits(write_scan, small_ksp):
    header = build_header((12, 10), (8, 14), (24.0, 10.0), (12.0, 14.0), 3.0, 2, 3)
    file = open_scan(write_scan(kspace=small_ksp, ismrmrd_header=header))
    assert file.readout_oversampling == 2
    assert file.recon_shape == (6, 10)


def test_single_coil(write_scan, small_ksp):
    path = write_scan(
        kspace=small_ksp[:, 0], ismrmrd_header=M4RAW_HEADER, reconstruction_esc=np.ones((2, 8, 8))
    )
    file = open_scan(path)
    assert file.shape == (2, 1, 12, 10)
    assert np.array_equal(file[1].ksp, small_ksp[1:, :1])
    assert file.recon_shape == (8, 8)


def test_m4raw(write_scan, small_ksp):
    path = write_scan(
        "2022061003_T201.h5",
        kspace=small_ksp,
        ismrmrd_header=M4RAW_HEADER,
        reconstruction_rss=np.ones((2, 12, 10), np.float32),
        attrs={"acquisition": "AXT2", "max": 121.58, "patient_id": "cd" * 16},
    )
    file = open_scan(path)
    assert file.recon_shape == (12, 10)
    assert file.voxel_mm == pytest.approx((20, 20, 5))
    assert file.readout_oversampling == 1
    assert file.fully_sampled


@pytest.mark.parametrize("header", [None, "", b"  \n"])
def test_no_header(write_scan, small_ksp, header):
    path = write_scan(kspace=small_ksp, ismrmrd_header=header)
    with warns("W-NO-HEADER"):
        file = open_scan(path)
    assert file.recon_shape == (12, 10)
    assert file.voxel_mm is None
    assert file.readout_oversampling == 1
    assert file.header_xml is None
    assert file.fully_sampled


@pytest.mark.parametrize("text", [np.bytes_(M4RAW_HEADER.encode()), [M4RAW_HEADER]])
def test_headers_stored_in_other_ways(write_scan, small_ksp, text):
    assert open_scan(write_scan(kspace=small_ksp, ismrmrd_header=text)).voxel_mm is not None


def test_oversampling_that_was_removed_before_is_not_removed_again(write_scan, small_ksp):
    header = build_header((24, 10), (12, 10), (48.0, 10.0), (24.0, 10.0), 3.0, 2, 3, (1, 9))
    ksp = small_ksp.clone()
    ksp[..., 0], ksp[..., 9] = 0, 0
    file = open_scan(write_scan(kspace=ksp, ismrmrd_header=header))
    assert file.readout_oversampling == 1
    assert file.recon_shape == (12, 10)
    assert file.voxel_mm == pytest.approx((2, 1, 3))
    assert np.flatnonzero(file.acquired).tolist() == list(range(1, 9))


def test_a_header_of_another_matrix_is_reported(write_scan, small_ksp):
    header = build_header((12, 16), (12, 16), (12.0, 16.0), (12.0, 16.0), 3.0, 2, 3, (4, 6))
    path = write_scan(kspace=small_ksp, ismrmrd_header=header)
    with warns("W-HEADER-MISMATCH") as found:
        file = open_scan(path)
    assert all(matrix in found[0].text for matrix in ("12 x 16", "12 x 10"))
    assert file.voxel_mm is None
    assert file.acquired.all()
    assert file.recon_shape == (12, 10)


def test_oversampling_cannot_be_removed_from_a_partial_echo(write_scan, knee_ksp, knee_header):
    knee_ksp[..., :10, :] = 0
    file = open_scan(write_scan(kspace=knee_ksp, ismrmrd_header=knee_header))
    assert file.nominal_oversampling == 2
    assert file.readout_oversampling == 1
    assert file.fully_sampled


@pytest.mark.parametrize("dtype", [np.complex128, ">c8"])
def test_other_complex_types_are_cast(write_scan, small_ksp, dtype):
    path = write_scan(kspace=small_ksp.numpy().astype(dtype), ismrmrd_header=M4RAW_HEADER)
    assert np.array_equal(open_scan(path).read_ksp(1), small_ksp[1])


@pytest.mark.parametrize("names", [("r", "i"), ("real", "imag")])
@pytest.mark.parametrize("real", ["<f4", "<f8"])
def test_compounds_of_two_numbers_are_complex(write_scan, small_ksp, names, real):
    pair = np.empty(small_ksp.shape, dtype=[(name, real) for name in names])
    pair[names[0]], pair[names[1]] = small_ksp.real, small_ksp.imag
    path = write_scan(kspace=pair, ismrmrd_header=M4RAW_HEADER)
    assert np.array_equal(open_scan(path).read_ksp(0), small_ksp[0])


def test_a_noise_scan(write_scan, small_ksp):
    noise = small_ksp[0].reshape(3, -1)
    file = open_scan(write_scan(kspace=small_ksp, ismrmrd_header=M4RAW_HEADER, noise=noise))
    assert np.array_equal(file.noise, noise)
    assert np.array_equal(file[0].noise, noise)


def test_a_dataset_that_only_happens_to_be_called_noise(write_scan, small_ksp):
    path = write_scan(kspace=small_ksp, ismrmrd_header=M4RAW_HEADER, noise=np.float32(0.1))
    with warns("W-NOISE-DATASET"):
        assert open_scan(path).noise is None


def test_attributes_become_plain_values(write_scan, small_ksp):
    attrs = {
        "text": "AXT2",
        "raw": np.bytes_(b"AXT\xff"),
        "number": np.float32(0.5),
        "flag": np.bool_(True),
        "list": np.arange(3),
        "strings": ["a", "b"],
        "complex": 1j,
        "empty": h5py.Empty("f4"),
    }
    path = write_scan(kspace=small_ksp, ismrmrd_header=M4RAW_HEADER, attrs=attrs)
    got = open_scan(path).identifiers
    assert got["text"] == "AXT2"
    assert got["raw"] == "AXT\ufffd"
    assert got["number"] == 0.5
    assert got["flag"] is True
    assert got["list"] == [0, 1, 2]
    assert got["strings"] == ["a", "b"]
    assert got["complex"] == "1j"
    assert set(got) == set(attrs)


def test_an_external_link_is_followed(write_scan, small_ksp):
    write_scan("data.h5", k=small_ksp)
    path = write_scan(kspace=h5py.ExternalLink("data.h5", "k"), ismrmrd_header=M4RAW_HEADER)
    assert np.array_equal(open_scan(path).read_ksp(0), small_ksp[0])


def test_real_scans(real_scans):
    for name, shape in (("espirit", (1, 8, 230, 180)), ("alias", (1, 8, 320, 168))):
        file = open_scan(real_scans / f"{name}_brain8.h5")
        assert file.shape == shape
        assert file.recon_shape == shape[-2:]
        assert file.fully_sampled
        assert file.acceleration == 1
        assert file.acquired.all()


def test_a_real_prospective_poisson_scan(real_scans, write_scan):
    with h5py.File(real_scans / "poisson_brain8.h5") as raw:
        ksp, mask = raw["kspace"][()], torch.from_numpy(raw["mask"][()])
    for path in (real_scans / "poisson_brain8.h5", write_scan(kspace=ksp)):
        with warns("W-NO-HEADER"):
            file = open_scan(path)
        assert np.array_equal(file.mask[0], mask)
        assert not file.fully_sampled
        assert file.acquired.all()
        assert 100 / file.acceleration == pytest.approx(12.43, abs=0.01)
