"""Scans with implausible numbers: one error that names the file, or a reconstruction."""

from __future__ import annotations

import random
import re
import warnings
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from codes import warns
from memory_scan import MemoryScan
from memory_scan import head as larger_head
from torch import Tensor

from mri_ambient.data_prep import (
    PrepConfig,
    SimulateConfig,
    plan_preparation,
    prepare,
    prepare_file,
    simulate,
)
from mri_ambient.data_prep.compress import plan_compression
from mri_ambient.data_prep.noise import from_noise_scan, outer_products
from mri_ambient.data_prep.noise_estimator import ImageCorners, OuterSamples, ReadoutEdge
from mri_ambient.data_prep.whiten import whitening_matrix
from mri_ambient.errors import (
    ConfigError,
    MriAmbientError,
    NumericalWarning,
    PrepError,
    ScanFormatError,
)
from mri_ambient.io import PreparedFile
from mri_ambient.methods.baselines import CgSense, ZeroFilled
from mri_ambient.recon.pipeline import reconstruct
from mri_ambient.recon.recipe import Recipe
from mri_ambient.rng import complex_normal, rng_for


def head(**options: object) -> MemoryScan:
    """A simulated head of 48x48 with 4 coils and 2 slices."""
    return larger_head(**{"size": (48, 48), "coils": 4, "acceleration": 2, "slices": 2, **options})


# Numbers that are finite but huge


def test_products_of_finite_numbers_are_finite_and_exact():
    small = complex_normal((5, 3, 700), rng_for(0))
    want = (small.to(torch.complex128) @ small.to(torch.complex128).mH) * 1e60
    got = outer_products(small * 1e30)
    assert got.dtype == torch.complex128
    torch.testing.assert_close(got, want, rtol=1e-6, atol=0)
    other = complex_normal((5, 2, 700), rng_for(1))
    want = small.to(torch.complex128) @ other.to(torch.complex128).mH
    torch.testing.assert_close(outer_products(small, other), want)
    assert not outer_products(torch.empty(2, 0, dtype=torch.complex64)).any()


def test_a_covariance_takes_little_more_memory_than_its_slice(monkeypatch):
    largest = 0

    def note(x: Tensor, dtype: torch.dtype) -> Tensor:
        nonlocal largest
        largest = max(largest, 16 * x.numel())
        return real(x, dtype)

    real = Tensor.to
    monkeypatch.setattr(Tensor, "to", note)
    outer_products(torch.ones(15, 640 * 32, dtype=torch.complex64))
    assert 0 < largest <= 2**20


def test_huge_samples_do_not_overflow_where_covariances_are_summed():
    mask = torch.ones(1, 48, 48, dtype=torch.bool)
    ksp = 1e30 * complex_normal((4, 48, 48), rng_for(0))
    assert outer_products(ksp.flatten(1)).isfinite().all()
    edge, corners, outer = ReadoutEdge(mask, 4, 1.0), ImageCorners(mask, 4), OuterSamples(mask, 4)
    for source in (edge, corners, outer):
        source.add(ksp)
    for sums in (edge.outer, edge.inner, corners.sums, corners.lagged, outer.outer, outer.middle):
        assert sums.isfinite().all()
        assert sums.any()


def test_a_scan_in_huge_units_is_prepared_like_any_other():
    usual = head()
    huge = MemoryScan(usual.ksp * 1e20, usual.mask)
    a, b = (plan_preparation(file).apply(file[0]) for file in (usual, huge))
    torch.testing.assert_close(a.ksp, b.ksp, rtol=1e-3, atol=1e-4)
    assert (a.maps - b.maps).abs().max() < 1e-2
    with pytest.raises(PrepError, match=r"^scan\.h5: .*--noise-std"):
        plan_preparation(MemoryScan(usual.ksp * 1e30, usual.mask))


def test_one_huge_sample_outside_the_calibration_block_names_the_slice():
    file = head()
    outer = int(file.mask[0, 0].argmax())
    file.ksp[1, 2, 3, outer] = 1e36
    with warns("W-NOISE-GIVEN"):
        preparation = plan_preparation(file, PrepConfig(noise_std=1e-6))
    preparation.apply(file[0])
    with pytest.raises(PrepError, match=r"^scan\.h5: slice 1 "):
        preparation.apply(file[1])


@pytest.mark.parametrize("value", [1e30, 3e38, 3e38 + 3e38j])
@pytest.mark.parametrize("noise_std", [None, 1e-6])
def test_one_huge_sample_in_the_calibration_block_is_an_image_or_an_error(value, noise_std):
    file = head()
    file.ksp[1, 2, 24, 24] = value
    try:
        preparation = plan_preparation(file, PrepConfig(noise_std=noise_std))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NumericalWarning)
            scans = [preparation.apply(scan) for scan in file]
    except PrepError as error:
        assert str(error).startswith("scan.h5: ")
        assert "\n" not in str(error)
    else:
        assert all(scan.ksp.isfinite().all() and scan.maps.isfinite().all() for scan in scans)


@pytest.mark.parametrize("noise_std", [1e-15, 1e15])
def test_a_noise_level_that_no_image_can_have_names_the_file(noise_std):
    file = head()
    file = MemoryScan(file.ksp / noise_std**0.1, file.mask)  # 6e-7 becomes 2e-8 or 2e-5
    with pytest.raises(PrepError, match=r"^scan\.h5: .*--noise-std"):
        plan_preparation(file, PrepConfig(noise_std=noise_std))


@pytest.mark.parametrize("noise_std", [1e-200, 1e-16, 1e16, 1e200, torch.nan])
def test_a_noise_level_no_scan_has_is_no_option(noise_std):
    with pytest.raises(ConfigError, match="noise_std"):
        PrepConfig(noise_std=noise_std)


# Covariances that are none


def test_a_noise_scan_of_zeros_is_refused(tmp_path):
    zeros = torch.zeros(4, 99, dtype=torch.complex64)
    with pytest.raises(PrepError):
        from_noise_scan(zeros)
    usual = head()
    file = MemoryScan(usual.ksp, usual.mask, noise=zeros)
    with pytest.raises(PrepError, match=r"^scan\.h5: .*--noise-std"):
        plan_preparation(file)
    assert plan_preparation(file, PrepConfig(noise_std=1e-6)).noise.source == "given"


def test_a_noise_scan_of_huge_samples_is_taken():
    noise = complex_normal((4, 400), rng_for(0))
    small, huge = from_noise_scan(noise), from_noise_scan(1e30 * noise)
    torch.testing.assert_close(huge.cov, 1e60 * small.cov, rtol=1e-5, atol=0)


@pytest.mark.parametrize(
    "cov",
    [
        torch.zeros(3, 3),
        torch.full((3, 3), torch.nan),
        torch.full((3, 3), torch.inf),
        -torch.eye(3),
        torch.ones(3, 3),
        1e-90 * torch.eye(3, dtype=torch.float64),
    ],
)
def test_a_covariance_that_cannot_be_whitened_is_refused(cov):
    with pytest.raises(PrepError):
        whitening_matrix(cov.to(torch.complex128))


@pytest.mark.parametrize("value", [0.0, torch.nan, torch.inf])
def test_a_covariance_that_cannot_be_compressed_is_refused(value):
    with pytest.raises(PrepError, match=f"{3 * value:.3g}"):
        plan_compression(torch.full((3, 3), value, dtype=torch.complex128), 9)


def test_a_decomposition_that_fails_anywhere_names_the_file(monkeypatch):
    def fail(*_: object, **__: object) -> None:
        raise torch.linalg.LinAlgError("did not converge\nat all")

    file = head()
    preparation = plan_preparation(file)
    monkeypatch.setattr("mri_ambient.data_prep.noise_estimator.NoiseEstimator.estimate", fail)
    with pytest.raises(PrepError, match=r"^scan\.h5: "):
        plan_preparation(file)
    monkeypatch.setattr("mri_ambient.data_prep.preparation.espirit_maps", fail)
    with pytest.raises(PrepError, match=r"^scan\.h5: "):
        preparation.apply(file[0])


# Empty slices


def with_empty_slice(index: int, **options: object) -> tuple[MemoryScan, MemoryScan]:
    """A scan of three slices of which one is zero, and the same without that slice."""
    usual = head(slices=3, **options)
    ksp = usual.ksp.clone()
    ksp[index] = 0
    others = [i for i in range(3) if i != index]
    return MemoryScan(ksp, usual.mask), MemoryScan(usual.ksp[others], usual.mask)


@pytest.mark.parametrize("mask", ["random", "poisson"])
def test_an_empty_slice_changes_nothing_for_the_others(mask):
    # Neither noise nor scale nor virtual coils: they would be taken from zeros.
    file, others = with_empty_slice(1, mask=mask)
    a, b = (plan_preparation(scan, PrepConfig(energy=0.99)) for scan in (file, others))
    assert torch.equal(a.noise.cov, b.noise.cov)
    assert a.scale == b.scale
    assert a.compression.n_coils == b.compression.n_coils
    assert a.compression.kept_energy == b.compression.kept_energy
    assert torch.equal(a.apply(file[2]).ksp, b.apply(others[1]).ksp)


def test_an_empty_slice_has_zero_maps_and_a_warning_with_its_number():
    file, _ = with_empty_slice(1)
    preparation = plan_preparation(file)
    with warns():
        assert preparation.apply(file[0]).maps.any()
    with warns("W-BLANK-CALIBRATION") as found:
        scan = preparation.apply(file[1])
    assert re.findall(r"\b\d+", found[0].text) == ["1", "1", "1"]  # one of one, and which
    assert not scan.maps.any()
    assert not scan.ksp.any()
    with warns("W-BLANK-CALIBRATION") as found:
        together = preparation.apply(file[0:3])
    assert re.findall(r"\b\d+", found[0].text) == ["1", "3", "1"]
    assert (together.maps != 0).flatten(1).any(dim=1).tolist() == [True, False, True]


def test_an_empty_slice_of_a_single_coil_has_a_zero_map_too():
    file, _ = with_empty_slice(0, coils=1)
    with warns("W-ONE-COIL", "W-BLANK-CALIBRATION"):
        preparation = plan_preparation(file)
        assert not preparation.apply(file[0]).maps.any()
    assert (preparation.apply(file[1]).maps == 1).all()


def test_slices_whose_centre_is_empty_everywhere_are_refused():
    file = head(noise=0.02)
    file.ksp[..., 12:36, 12:36] = 0
    with pytest.raises(PrepError, match=r"^scan\.h5: .*24 x 16"):
        plan_preparation(file)


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small undersampled scan on disk, with a noise scan: 2 slices, 4 coils, 32x32."""
    config = SimulateConfig(
        size=(32, 32), coils=4, calib=12, acceleration=1.5, slices=2, noise=0.02, units=1.0
    )
    folder = tmp_path_factory.mktemp("raw")
    (path,) = simulate("phantom", folder, config, count=1)
    with h5py.File(path) as source, h5py.File(folder / "scan.h5", "w") as file:
        file["kspace"] = source["kspace"][()]  # without the checksums that reveal any damage
        file["ismrmrd_header"] = source["ismrmrd_header"][()]
        file["noise"] = complex_normal((4, 64), rng_for(0)).numpy() * np.float32(0.02)
        file.attrs.update({"acquisition": "AXT2", "max": 1.0})
    return folder / "scan.h5"


@pytest.mark.parametrize("method", [ZeroFilled(), CgSense()])
@pytest.mark.filterwarnings("ignore::mri_ambient.errors.NumericalWarning")
def test_an_empty_slice_is_reconstructed_to_zeros(raw, tmp_path, method):
    path = tmp_path / "scan.h5"
    path.write_bytes(raw.read_bytes())
    with h5py.File(path, "a") as file:
        file["kspace"][0] = 0
    images = reconstruct(path, Recipe(method)).magnitude
    assert not images[0].any()
    assert images[1].max() > 0
    assert np.isfinite(images).all()


def test_an_empty_slice_is_prepared_with_figures_and_a_picture(raw, tmp_path):
    path = tmp_path / "scan.h5"
    path.write_bytes(raw.read_bytes())
    with h5py.File(path, "a") as file:
        file["kspace"][1] = 0  # the middle one of two, which is drawn
    with warns("W-EMPTY-SLICES", "W-BLANK-CALIBRATION"):
        file = PreparedFile(prepare_file(path, tmp_path / "out", picture=True))
    assert [check["blank"] for check in file.qc["slices"]] == [False, True]
    assert file.qc["slices"][1]["calib_residual"] == 0
    assert [warning["code"] for warning in file.qc["warnings"]] == ["W-BLANK-CALIBRATION"]
    assert not file[1].maps.any()


# Files


def test_a_failing_scan_among_others_costs_one_line(raw, tmp_path):
    bad = tmp_path / "bad.h5"
    bad.write_bytes(raw.read_bytes())
    with h5py.File(bad, "a") as file:
        file["noise"][...] = 0
    (tmp_path / "empty").mkdir()
    with warns("W-SCAN-FAILED", "W-SCAN-FAILED"):
        summary = prepare([bad, tmp_path / "empty", raw], tmp_path / "out")
    assert [result.status for result in summary.results] == ["failed", "failed", "done"]
    first, second = (result.message for result in summary.failed)
    assert first.startswith(f"{bad}: ")
    assert second.startswith(f"{tmp_path / 'empty'}: ")


def test_a_source_that_is_gone_is_an_error_where_its_result_is_there(raw, tmp_path):
    source = tmp_path / "scan.h5"
    source.write_bytes(raw.read_bytes())
    prepare([source], tmp_path / "out")
    source.unlink()
    with warns("W-SCAN-FAILED"):
        summary = prepare([source], tmp_path / "out")
    assert [str(source) in result.message for result in summary.failed] == [True]
    source.mkdir()
    with pytest.raises(ScanFormatError, match=str(source)):
        prepare([source], tmp_path / "out")
    assert (tmp_path / "out" / "scan.h5").exists()


def test_a_coil_transform_that_cannot_be_inverted_is_refused(raw, tmp_path):
    path = prepare_file(raw, tmp_path)
    with h5py.File(path, "a") as file:
        file["coil_transform"][1] = 0
    with pytest.raises(ScanFormatError, match=path.name):
        PreparedFile(path)


def damage(content: bytes, data: dict[str, tuple[int, int]], rng: random.Random) -> bytes:
    """Flip bytes anywhere, in the structure, or in the exponents of samples; or blank samples."""
    damaged = bytearray(content)
    kind = rng.choice(["anywhere", "structure", "exponent", "exponent", "blank"])
    n_flips = rng.choice([1, 5, 50])
    if kind == "anywhere":
        for _ in range(n_flips):
            damaged[rng.randrange(len(content))] = rng.randrange(256)
    elif kind == "structure":
        outside = [i for i in range(len(content)) if not any(a <= i < b for a, b in data.values())]
        for position in rng.sample(outside, n_flips):
            damaged[position] ^= 1 << rng.randrange(8)
    elif kind == "exponent":
        start, stop = data[rng.choice(sorted(data))]
        for _ in range(n_flips):
            damaged[start + 4 * rng.randrange((stop - start) // 4) + 3] = rng.randrange(256)
    else:
        start, stop = data[rng.choice(sorted(data))]
        length = rng.choice([stop - start, (stop - start) // 2, 512])
        damaged[start : start + length] = bytes(length)
    return bytes(damaged)


@pytest.mark.filterwarnings("ignore::mri_ambient.errors.NumericalWarning")
@pytest.mark.filterwarnings("ignore:overflow")
def test_a_damaged_file_is_reconstructed_or_refused_and_nothing_else(raw, tmp_path):
    content, rng, n_refused = raw.read_bytes(), random.Random(0), 0
    with h5py.File(raw) as file:
        data = {
            name: (file[name].id.get_offset(), file[name].id.get_offset() + file[name].nbytes)
            for name in ("kspace", "noise")
        }
    path = tmp_path / "scan.h5"
    for number in range(40):
        path.write_bytes(damage(content, data, rng))
        try:
            found = reconstruct(path, Recipe((ZeroFilled(), CgSense())[number % 2]))
        except MriAmbientError as error:
            n_refused += 1
            assert "scan" in str(error)
            assert "\n" not in str(error)
            continue
        assert np.isfinite(found.magnitude).all()
    assert 10 < n_refused < 34
