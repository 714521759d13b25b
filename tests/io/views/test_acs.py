"""Calibration lines that lie apart from the scan."""

from __future__ import annotations

import re
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from array_files import write_cfl
from codes import warns
from memory_scan import head

from mri_ambient.data_prep import plan_preparation, prepare_file
from mri_ambient.errors import ConfigError, ScanFormatError, collected
from mri_ambient.io import PreparedFile, build_header, open_scan
from mri_ambient.physics.fourier import fft2c, ifft2c
from mri_ambient.physics.patterns import calibration_block
from mri_ambient.physics.solve import conjugate_gradient
from mri_ambient.recon.pipeline import reconstruct
from mri_ambient.recon.recipe import Recipe
from mri_ambient.scan import Batch, Scan

pytestmark = pytest.mark.filterwarnings("ignore::mri_ambient.errors.NumericalWarning")

N = 64
BLOCK = slice(N // 2 - 12, N // 2 + 12)
EVERY_THIRD = np.arange(N) % 3 == 2
OUTER = (np.arange(N) % 2 == 0) & ((np.arange(N) < 20) | (np.arange(N) >= 44))
"""Columns without any of the block."""
HOLE = (np.arange(N) < N // 2 - 10) | (np.arange(N) >= N // 2 + 10)
"""Columns of a scan without its centre; the block is two columns wider on each side."""


@pytest.fixture(scope="module")
def ksp() -> np.ndarray:
    """A fully sampled head, ``(slice, coil, y, x)``."""
    return head(full=True, slices=2, noise=0.005).ksp.numpy()


def with_block(columns: np.ndarray) -> np.ndarray:
    return columns | np.isin(np.arange(N), np.arange(N)[BLOCK])


def maps(path: Path, **options: object) -> torch.Tensor:
    """Of the measured coils in the first slice, of norm 1 in the support."""
    file = open_scan(path, **options)
    return of_measured_coils(plan_preparation(file).apply(file[0]))


@pytest.fixture(scope="module")
def own_maps(ksp, tmp_path_factory) -> torch.Tensor:
    """Of a scan of every third line with its block."""
    path = tmp_path_factory.mktemp("own") / "own.h5"
    with h5py.File(path, "w") as file:
        file["kspace"] = ksp * with_block(EVERY_THIRD)
    return maps(path)


def of_measured_coils(prepared: Scan) -> torch.Tensor:
    """Its maps, of the coils as they were measured."""
    virtual = prepared.maps[0].flatten(1)
    measured = torch.linalg.solve(prepared.coil_transform.to(virtual.dtype), virtual)
    return (measured / measured.norm(dim=0).clamp_min(1e-30)).view(prepared.maps.shape[1:])


def likeness(a: torch.Tensor, b: torch.Tensor) -> float:
    """Cosine of the angle between coil sensitivities of two maps, over their common support."""
    cosines = (a.conj() * b).sum(dim=0).abs()
    return float(cosines[a.any(dim=0) & b.any(dim=0)].mean())


def test_lines_with_the_samples_of_the_scan_complete_it(ksp, write_scan):
    whole = open_scan(write_scan("whole.h5", kspace=ksp * with_block(EVERY_THIRD)))
    scan = write_scan("scan.h5", kspace=ksp * EVERY_THIRD)
    file = open_scan(scan, acs=write_scan("acs.h5", kspace=ksp[..., BLOCK]))
    assert file.calib_mask is None and np.array_equal(file.mask, whole.mask)
    assert np.array_equal(file[:].ksp, whole[:].ksp)
    assert file.steps == ("read", "complete-by-acs")
    assert file.sha256 not in (open_scan(scan).sha256, whole.sha256)


def test_lines_complete_a_scan_without_a_centre(ksp, write_scan):
    whole = open_scan(write_scan("whole.h5", kspace=ksp * with_block(OUTER)))
    scan = write_scan("scan.h5", kspace=ksp * OUTER)
    acs = write_scan("acs.h5", kspace=ksp[:, :, 8:56, BLOCK])
    with warns("W-NO-HEADER", "W-CENTRE-APART"):
        file = open_scan(scan, acs=acs)
    assert calibration_block(file.mask) == (24, 24)
    middle = slice(8, 56)  # rows of the block
    assert np.array_equal(file[0].ksp[:, :, middle], whole[0].ksp[:, :, middle])


@pytest.mark.parametrize("gain", [3j, 0.01])
@pytest.mark.parametrize("rows", [slice(None), slice(20, 44)], ids=["all rows", "24 rows"])
def test_other_lines_give_the_maps_of_the_own_block(gain, rows, ksp, own_maps, write_scan):
    scan = write_scan("scan.h5", kspace=ksp * EVERY_THIRD)
    acs = write_scan("acs.h5", kspace=(gain * ksp[:, :, rows, BLOCK]).astype(np.complex64))
    file = open_scan(scan, acs=acs)
    assert int(file.mask[0].any(axis=0).sum()) == EVERY_THIRD.sum()
    assert likeness(maps(scan, acs=acs), own_maps) > 0.999


def test_the_image_is_right(ksp, write_scan):
    full = reconstruct(write_scan("full.h5", kspace=ksp), Recipe("cg-sense")).magnitude
    scan = write_scan("scan.h5", kspace=ksp * EVERY_THIRD, calib=3 * ksp[..., BLOCK])
    found = reconstruct(scan, Recipe("cg-sense")).magnitude
    assert np.linalg.norm(found - full) < 0.12 * np.linalg.norm(full)


def test_formats_of_the_lines(ksp, write_scan, tmp_path):
    scan = write_scan("scan.h5", kspace=ksp * EVERY_THIRD, raw=ksp[..., BLOCK])
    block = 2 * ksp[..., BLOCK]
    np.save(tmp_path / "acs.npy", block)
    dims = block.transpose(2, 3, 1, 0)[:, :, None, :, *[None] * 9, :]
    write_cfl(tmp_path / "acs.cfl", dims)
    write_scan("several.h5", first=block, second=block)
    folder = tmp_path / "folder"
    folder.mkdir()
    write_scan("folder/scan.h5", kspace=block)
    wanted = maps(scan, acs=f"{scan}:raw")
    for acs in ("acs.npy", "acs.cfl", "several.h5:second", "folder"):
        assert likeness(maps(scan, acs=tmp_path / acs), wanted) > 0.999, acs


def test_a_dataset_beside_the_kspace_that_does_not_fit_is_not_used(ksp, write_scan):
    for acs in (ksp[:, :4, :, BLOCK], np.abs(ksp), np.zeros(3)):
        path = write_scan("scan.h5", kspace=ksp * with_block(EVERY_THIRD), acs=acs)
        with warns("W-NO-HEADER", "W-CALIBRATION-LINES"):
            file = open_scan(path)
        assert file.steps == ("read",)


def test_slices_of_a_3d_scan_have_lines_beside_them(ksp, write_scan):
    path = write_scan("scan.h5", kspace=ksp * EVERY_THIRD, acs=2 * ksp[..., BLOCK])
    with h5py.File(path, "a") as file:
        file.attrs["is_3d"] = True
    file = open_scan(path)
    assert file.is_3d and file.calib_mask is not None


@pytest.mark.parametrize(
    "change",
    [
        lambda ksp: ksp[:, :7],
        lambda ksp: ksp[:1],
        lambda ksp: ksp[:, [1, 0, 3, 2, 5, 4, 7, 6]],
    ],
    ids=["a coil less", "a slice less", "coils in another order"],
)
def test_lines_of_another_scan_are_refused(change, ksp, write_scan):
    acs = write_scan("acs.h5", kspace=change(2 * ksp[..., BLOCK]))
    with pytest.raises(ScanFormatError, match=r"acs\.h5"):
        open_scan(write_scan("scan.h5", kspace=ksp * EVERY_THIRD), acs=acs)


@pytest.mark.parametrize("fov_mm, fits", [(90.0, True), (120.0, False)])
def test_the_field_of_view_is_compared(fov_mm, fits, ksp, write_scan):
    def header(nx: int, mm: float) -> str:
        return build_header((N, nx), (N, nx), (240.0, mm), (240.0, mm), 5.0, n_slices=2, n_coils=8)

    scan = write_scan("scan.h5", kspace=ksp * EVERY_THIRD, ismrmrd_header=header(N, 90.0))
    acs = write_scan("acs.h5", kspace=2 * ksp[..., BLOCK], ismrmrd_header=header(24, fov_mm))
    if fits:
        assert open_scan(scan, acs=acs).calib_mask is not None
        return
    with pytest.raises(ScanFormatError, match="field of view"):
        open_scan(scan, acs=acs)


def test_prepared_files_keep_what_was_done(ksp, write_scan, tmp_path):
    scan = write_scan("scan.h5", kspace=ksp * EVERY_THIRD)
    file = open_scan(scan, acs=write_scan("acs.h5", kspace=2 * ksp[..., BLOCK]))
    prepared = prepare_file(file, tmp_path / "prepared")
    found = PreparedFile(prepared)
    assert "acs" in found.steps and found.source_sha256 == file.sha256
    images = [reconstruct(one, Recipe("cg-sense")).complex for one in (file, prepared)]
    np.testing.assert_allclose(images[0], images[1], rtol=0, atol=1e-5 * abs(images[0]).max())
    with pytest.raises(ConfigError):
        open_scan(prepared, acs=scan)
    with pytest.raises(ConfigError):
        open_scan(scan, acs=prepared)


def test_lines_in_memory(ksp, write_scan):
    scan = Scan.from_numpy(ksp * EVERY_THIRD, acs=3 * ksp[:, :, 20:44, BLOCK])
    acs = write_scan("acs.h5", kspace=3 * ksp[..., BLOCK])
    file = open_scan(write_scan("scan.h5", kspace=ksp * EVERY_THIRD), acs=acs)
    found, wanted = (reconstruct(one, Recipe("cg-sense")).magnitude for one in (scan, file))
    np.testing.assert_allclose(found, wanted, rtol=0, atol=0.01 * wanted.max())
    with pytest.raises(ValueError, match="coils"):
        Scan.from_numpy(ksp, acs=ksp[:, :3])


def other_contrast(ksp: np.ndarray) -> np.ndarray:
    """The same coils with bright tissue dark, as T1- and T2-weighted images are."""
    img = image(ksp)
    rss = np.sqrt((np.abs(img) ** 2).sum(axis=1, keepdims=True))
    weight = np.where(rss > 0.08 * rss.max(), rss.max() / rss.clip(1e-3 * rss.max()) - 1, 0)
    return kspace(img * weight)


def other_phase(ksp: np.ndarray) -> np.ndarray:
    """The same image with a smooth phase."""
    y, x = np.meshgrid(np.linspace(-1, 1, N), np.linspace(-1, 1, N), indexing="ij")
    return kspace(image(ksp) * np.exp(1j * (1.5 * x**2 + y**2 + 0.5 * x * y)))


def noisy(ksp: np.ndarray, level: float = 1.0, seed: int = 0) -> np.ndarray:
    """Noise ``level`` times as strong as a coil image on average."""
    rng = np.random.default_rng(seed)
    noise = level * rng.standard_normal((2, *ksp.shape)) * np.sqrt((np.abs(ksp) ** 2).mean() / 2)
    return (ksp + noise[0] + 1j * noise[1]).astype(np.complex64)


def low_resolution(ksp: np.ndarray) -> np.ndarray:
    return ksp[:, :, 16:48]


def image(ksp: np.ndarray) -> np.ndarray:
    turned = np.fft.ifft2(np.fft.ifftshift(ksp, axes=(2, 3)))
    return np.fft.fftshift(turned, axes=(2, 3))


def kspace(img: np.ndarray) -> np.ndarray:
    turned = np.fft.fft2(np.fft.ifftshift(img, axes=(2, 3)))
    return np.fft.fftshift(turned, axes=(2, 3)).astype(np.complex64)


RIGHT = [other_contrast, other_phase, noisy, low_resolution]
WRONG = {
    "along y": lambda acs: acs[:, :, ::-1],
    "along x": lambda acs: acs[..., ::-1],
    "along y and x": lambda acs: acs[:, :, ::-1, ::-1],
    "conjugated": np.conj,
    "y and x exchanged": lambda acs: acs.swapaxes(2, 3),
}


@pytest.mark.parametrize("first, last", [(16, 40), (24, 48), (19, 43), (21, 45)])
@pytest.mark.parametrize("axis", [2, 3])
def test_lines_whose_centre_is_not_in_their_middle(first, last, axis, ksp, write_scan):
    part = [slice(None), slice(None), slice(8, 56), slice(20, 44)]
    part[axis] = slice(first, last)
    placed = np.zeros_like(ksp)
    placed[tuple(part)] = 3 * ksp[tuple(part)]
    path = write_scan("scan.h5", kspace=ksp * EVERY_THIRD, acs=placed[tuple(part)])
    with warns("W-NO-HEADER", *["W-CENTRE"] * (1 if last - first == 24 else 2)):
        file = open_scan(path)
    assert file.format == "fastmri" and np.array_equal(file.read_calib(1), placed[1])


@pytest.mark.parametrize("columns", [HOLE, HOLE & (np.arange(N) % 3 == 1)], ids=["R 1", "R 3"])
@pytest.mark.parametrize("factor", [2.0, 0.3, np.exp(0.8j), -5j])
def test_lines_of_another_gain_or_phase_complete_a_scan_without_its_centre(
    factor, columns, ksp, write_scan
):
    scan = write_scan("scan.h5", kspace=ksp * columns)
    acs = write_scan("acs.h5", kspace=(ksp[..., BLOCK] / factor).astype(np.complex64))
    with warns("W-NO-HEADER", "W-CENTRE-APART") as found:
        file = open_scan(scan, acs=acs)
    assert f"{abs(factor):.3g}" in found[-1].text and f"{np.angle(factor):.2f}" in found[-1].text
    whole = ksp[0] * with_block(columns)
    np.testing.assert_allclose(file[0].ksp[0], whole, rtol=0, atol=1e-5 * abs(whole).max())
    assert np.array_equal(file.mask[0, 0], with_block(columns))


def test_lines_with_noise_complete_a_scan_without_its_centre(ksp, write_scan):
    scan = write_scan("scan.h5", kspace=noisy(ksp, 0.1, seed=1) * HOLE)
    acs = write_scan("acs.h5", kspace=2 * noisy(ksp, 0.1, seed=2)[..., BLOCK])
    with warns("W-NO-HEADER", "W-CENTRE-APART"):
        file = open_scan(scan, acs=acs)
    error = file[0].ksp[0, ..., BLOCK].numpy() - ksp[0, ..., BLOCK]
    assert np.linalg.norm(error) < 0.1 * np.linalg.norm(ksp[0, ..., BLOCK])


@pytest.mark.parametrize("change", [other_contrast, other_phase])
def test_a_scan_without_its_centre_needs_lines_of_its_contrast(change, ksp, write_scan):
    scan = write_scan("scan.h5", kspace=ksp * HOLE)
    with pytest.raises(ScanFormatError, match="contrast"):
        open_scan(scan, acs=write_scan("acs.h5", kspace=change(ksp)[..., BLOCK]))


@pytest.mark.parametrize("acceleration", [2, 4, 6, 8])
def test_equispaced_lines_beside_the_centre_do_not_lack_it(acceleration, ksp, write_scan):
    columns = np.arange(N) % acceleration == acceleration // 2
    scan = write_scan("scan.h5", kspace=ksp * columns)
    with warns("W-NO-HEADER"):
        file = open_scan(scan, acs=write_scan("acs.h5", kspace=2 * ksp[..., BLOCK]))
    assert file.calib_mask is not None and np.array_equal(file.mask[0, 0], columns)


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("columns", [EVERY_THIRD, HOLE], ids=["every third", "hole"])
def test_lines_that_are_mirrored_or_conjugated_are_refused(wrong, columns, ksp, write_scan):
    acs = write_scan("acs.h5", kspace=np.ascontiguousarray(WRONG[wrong](2 * ksp[..., BLOCK])))
    with pytest.raises(ScanFormatError, match=wrong):
        open_scan(write_scan("scan.h5", kspace=ksp * columns), acs=acs)


@pytest.mark.parametrize("wider", [(0, 16), (16, 16), (10, 0), (0, -12)])
def test_lines_of_another_field_of_view_are_refused(wider, ksp, write_scan):
    """Images with zeros around them, or cut off, have k-space at other places."""
    img = ifft2c(torch.from_numpy(ksp))
    y, x = (n // 2 for n in wider)
    other = fft2c(torch.nn.functional.pad(img, (x, x, y, y)))
    middle = tuple(slice(n // 2 - 12, n // 2 + 12) for n in other.shape[-2:])
    acs = write_scan("acs.h5", kspace=2 * other[:, :, middle[0], middle[1]].numpy())
    with pytest.raises(ScanFormatError, match="field of view") as error:
        open_scan(write_scan("scan.h5", kspace=ksp * EVERY_THIRD), acs=acs)
    found = [float(word) for word in re.findall(r"([0-9.]+) times", str(error.value))]
    np.testing.assert_allclose(found, [1 + n / N for n in wider], atol=0.03)


@pytest.mark.parametrize("change", RIGHT)
@pytest.mark.parametrize("acceleration", [2, 3, 4])
def test_lines_of_another_contrast_are_not_refused(change, acceleration, ksp, write_scan):
    scan = write_scan("scan.h5", kspace=ksp * (np.arange(N) % acceleration == 1))
    with warns("W-NO-HEADER"):
        file = open_scan(scan, acs=write_scan("acs.h5", kspace=2 * change(ksp)[..., BLOCK]))
    assert file.calib_mask is not None


CHOP = (-1.0) ** np.arange(N)
BY_FOURTH = np.arange(N) % 4 == 2


@pytest.mark.parametrize("columns", [EVERY_THIRD, BY_FOURTH, with_block(EVERY_THIRD)])
@pytest.mark.parametrize("chopped", ["scan", "lines", "both", "lines along y"])
def test_images_half_a_field_of_view_off_are_moved_together(
    chopped, columns, ksp, own_maps, write_scan
):
    """Signs that alternate in the scan, in the lines, or in both: the maps fit the scan.

    At R = 4 the signs of the scan are all the same.
    """
    scan, block = ksp * columns, 2j * ksp[..., BLOCK]
    if chopped in ("scan", "both"):
        scan = scan * CHOP
    if chopped in ("lines", "both"):
        block = block * CHOP[BLOCK]
    if chopped == "lines along y":
        block = block * CHOP[:, None]
    paths = [
        write_scan(f"{name}.h5", kspace=part.astype(np.complex64))
        for name, part in (("scan", scan), ("acs", block))
    ]
    with collected() as given:
        file = open_scan(paths[0], acs=paths[1])
        prepared = plan_preparation(file).apply(file[0])
    silent = chopped == "scan" and columns is BY_FOURTH
    assert ("W-HALF-FOV" in [warning.code for warning in given]) == (not silent)
    assert likeness(of_measured_coils(prepared), own_maps) > 0.995
    batch = Batch.of([prepared])
    img = conjugate_gradient(batch.op.normal, batch.op.adjoint(batch.ksp), n_iter=30)
    res = batch.ksp - batch.op.forward(img)
    assert float(res.norm() / batch.ksp.norm()) < 0.1
