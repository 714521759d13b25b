"""Raw scans written in other formats, and read again by us and by others."""

from __future__ import annotations

import warnings

import h5py
import ismrmrd
import numpy as np
import pytest

from mri_ambient.errors import ConfigError, OutputExistsError
from mri_ambient.io import SCAN_FORMATS, ArrayFile, Geometry, convert_scan, open_scan
from mri_ambient.rng import complex_normal
from mri_ambient.scan import Scan

SHAPE = (3, 2, 15, 12)


@pytest.fixture
def source(rng):
    """A scan in memory with noise, voxel size, geometry and missing columns."""
    ksp = complex_normal(SHAPE, rng)
    ksp[..., [1, 4, 10]] = 0
    noise = complex_normal((2, 700), rng)
    file = ArrayFile(Scan.from_numpy(ksp, scan_id="scan", voxel_mm=(2.0, 1.5, 5.0), noise=noise))
    places = [(1.0 + 3.0 * i, 2.0 - 4.0 * i, 7.0) for i in range(3)]
    file.geometry = Geometry.of_vectors((0, 0, -1), (0.8, 0.6, 0), (0.6, -0.8, 0), places)
    return file


@pytest.mark.parametrize("to", ["fastmri", "ismrmrd"])
def test_the_scan_is_the_same_again(source, to, tmp_path):
    path = convert_scan(source, tmp_path, to)
    assert path == tmp_path / f"scan{SCAN_FORMATS[to].suffix}"
    again = open_scan(path)
    assert (again.format, again.shape) == (to, source.shape)
    for index in range(len(source)):
        assert np.array_equal(again.read_ksp(index), source.read_ksp(index))
    assert np.array_equal(again.noise, source.noise)
    assert np.array_equal(again.mask, source.mask) and np.array_equal(
        again.acquired, source.acquired
    )
    assert again.recon_shape == source.recon_shape
    np.testing.assert_allclose(again.voxel_mm, source.voxel_mm)
    assert not again.warnings


@pytest.mark.parametrize("to", ["fastmri", "ismrmrd"])
@pytest.mark.parametrize("final", [(15, 12), (14, 11), (8, 5)])
def test_geometry_survives(source, to, final, tmp_path):
    """Also where the final image is cut from the middle of the encoded one."""
    source.recon_shape = final
    again = open_scan(convert_scan(source, tmp_path, to))
    assert again.recon_shape == final
    np.testing.assert_allclose(again.geometry.directions, source.geometry.directions, atol=1e-6)
    np.testing.assert_allclose(again.geometry.positions, source.geometry.positions, atol=1e-5)
    assert "geometry" not in again.attributes


def test_the_package_ismrmrd_reads_the_same_lines(source, tmp_path):
    path = convert_scan(source, tmp_path, "ismrmrd")
    file = ismrmrd.Dataset(str(path), "dataset", create_if_needed=False)
    header = ismrmrd.xsd.CreateFromDocument(file.read_xml_header())
    assert header.encoding[0].encodedSpace.matrixSize.x == 15
    lines = [file.read_acquisition(i) for i in range(file.number_of_acquisitions())]
    file.close()
    noise = [line for line in lines if line.is_flag_set(ismrmrd.ACQ_IS_NOISE_MEASUREMENT)]
    np.testing.assert_array_equal(np.hstack([n.data for n in noise]), source.noise)
    image = [line for line in lines if not line.is_flag_set(ismrmrd.ACQ_IS_NOISE_MEASUREMENT)]
    assert len(image) == 3 * 9
    for line in image:
        index, column = line.idx.slice, line.idx.kspace_encode_step_1
        np.testing.assert_array_equal(line.data, source.read_ksp(index)[..., column])
        assert line.center_sample == 7
        np.testing.assert_allclose(line.position, (1 + 3 * index, 2 - 4 * index, 7))
        np.testing.assert_allclose(line.read_dir, (0, 0, -1))
        np.testing.assert_allclose(line.phase_dir, (0.8, 0.6, 0), rtol=1e-6)


def test_bart_dimensions_are_column_major(source, tmp_path):
    """By the definition: sizes in .hdr, the first dimension runs fastest."""
    path = convert_scan(source, tmp_path, "cfl")
    comment, sizes = path.with_suffix(".hdr").read_text().splitlines()[:2]
    assert comment == "# Dimensions"
    dims = tuple(map(int, sizes.split()))
    assert dims == (15, 12, 1, 2, *[1] * 9, 3, 1, 1)
    values = np.fromfile(path, "<c8").reshape(dims, order="F")
    found = values[:, :, 0, :, 0, 0, 0, 0, 0, 0, 0, 0, 0, :, 0, 0]
    expected = np.stack([source.read_ksp(i) for i in range(3)]).transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(found, expected)


def test_a_file_that_is_there_is_replaced_on_request_only(source, tmp_path):
    path = convert_scan(source, tmp_path, "fastmri")
    with pytest.raises(OutputExistsError):
        convert_scan(source, tmp_path, "fastmri")
    assert convert_scan(source, tmp_path, "fastmri", overwrite=True) == path
    with pytest.raises(OutputExistsError):  # the scan itself
        convert_scan(open_scan(path), tmp_path, "ismrmrd", overwrite=True)
    with pytest.raises(ConfigError):
        convert_scan(source, tmp_path, "nifti")


def test_what_fastmri_files_hold_besides_is_kept(knee, tmp_path):
    with h5py.File(knee, "a") as file:
        file["mask"] = np.arange(file["kspace"].shape[-1]) % 3 != 1
        file["reconstruction_esc"] = 2 * file["reconstruction_rss"][()]
    with warnings.catch_warnings(record=True) as given:
        warnings.simplefilter("always")
        source = open_scan(knee)
        again = open_scan(convert_scan(source, tmp_path / "out", "fastmri"))
        assert np.array_equal(again.mask, source.mask)
        assert np.array_equal(again.given_mask, source.given_mask)
    assert {w.message.code for w in given} <= {"W-OUTSIDE-MASK"}  # samples that are not kept
    assert again.header_xml == source.header_xml and again.attributes == source.attributes
    for name in ("reconstruction_rss", "reconstruction_esc"):
        assert source.read_target(name) is not None
        assert np.array_equal(again.read_target(name), source.read_target(name))
