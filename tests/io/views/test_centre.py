"""Scans whose k = 0, field of view or zeros are not where everything else takes them to be.

A head of ellipses with coils around it is measured; what is corrected must give the images of the
scan that was stored right, and a scan that is right must be left alone.
"""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from codes import warns
from torch import Tensor

from mri_ambient.errors import ConfigError, ScanFormatError, collected
from mri_ambient.io import FastmriFile, ScanFile, Undersampled, build_header, open_scan
from mri_ambient.physics.axis_fourier import ifftc
from mri_ambient.physics.fourier import fft2c, ifft2c
from mri_ambient.physics.mask_spec import MaskSpec
from mri_ambient.physics.patterns import calibration_block
from mri_ambient.recon.pipeline import open_volume
from mri_ambient.recon.recipe import Recipe
from mri_ambient.rng import complex_normal, rng_for
from mri_ambient.runtime.device import Runtime

SHAPE = (2, 4, 96, 80)
NOISE = 0.01


def head(centre: tuple[float, float] = (0, 0), size: float = 1.0) -> Tensor:
    """A skull, a brain and two ventricles, real ``(y, x)``; the field of view is from -1 to 1."""
    y, x = torch.meshgrid(
        torch.linspace(-1, 1, SHAPE[2]) - centre[0],
        torch.linspace(-1, 1, SHAPE[3]) - centre[1],
        indexing="ij",
    )

    def ellipse(a: float, b: float, cy: float = 0, cx: float = 0) -> Tensor:
        return (((y / size - cy) / a) ** 2 + ((x / size - cx) / b) ** 2 < 1).float()

    ventricles = ellipse(0.25, 0.08, -0.05, -0.14) + ellipse(0.25, 0.08, -0.05, 0.14)
    return (
        ellipse(0.85, 0.78)
        - 0.5 * ellipse(0.75, 0.68)
        + 0.35 * ellipse(0.7, 0.6)
        - 0.3 * ventricles
    )


def measured(
    img: Tensor | None = None, phase: Tensor | float = 0.0, n_coils: int = 4, noise: float = NOISE
) -> Tensor:
    """Noisy k-space ``(slice, coil, y, x)`` of an image in coils around it."""
    img = head() if img is None else img
    y, x = torch.meshgrid(*(torch.linspace(-1, 1, n) for n in SHAPE[2:]), indexing="ij")
    angle = (2 * torch.pi * torch.arange(n_coils) / n_coils)[:, None, None]
    far = (y - 1.2 * angle.sin()) ** 2 + (x - 1.2 * angle.cos()) ** 2
    coils = torch.polar(torch.exp(-0.8 * far), angle + angle.cos() * x)
    slices = torch.stack([img, 0.9 * img])[:, None]
    ksp = fft2c(torch.polar(slices, torch.as_tensor(phase) + 0.6 * y + 0.9 * x**2) * coils)
    return ksp + noise * complex_normal(tuple(ksp.shape), rng_for(0, "centre"))


FULL = torch.ones(1, *SHAPE[2:], dtype=torch.bool)
LINES = MaskSpec("random", acceleration=3, calib=16).draw(SHAPE[2:], rng_for(0, "lines"))


@pytest.fixture
def write(tmp_path: Path):
    """A function that stores k-space, in fastMRI layout, and gives the path."""

    def stored(ksp: Tensor, **datasets: object) -> Path:
        path = tmp_path / "scan.h5"
        with h5py.File(path, "w") as file:
            file["kspace"] = ksp.numpy()
            for name, value in datasets.items():
                file[name] = value
        return path

    return stored


def magnitude(file: ScanFile) -> Tensor:
    return ifft2c(file[:].ksp).abs()


def difference(file: ScanFile, right: Tensor) -> float:
    """Of the coil images of a file from those of k-space, relative."""
    want = ifft2c(right).abs()
    return float((magnitude(file) - want).norm() / want.norm())


SLOPES = [torch.linspace(-1, 1, n) for n in SHAPE[2:]]
RIGHT = {
    "control": measured() * LINES,
    "fully sampled": measured(),
    "a sample off": measured().roll((1, -1), dims=(-2, -1)),
    "noise": complex_normal(SHAPE, rng_for(0, "noise")),
    "low SNR": measured(noise=0.5) * LINES,
    "one coil": measured(n_coils=1) * LINES,
    "strong phase": measured(phase=8 * SLOPES[0][:, None] ** 2 + 6 * SLOPES[1] ** 3) * LINES,
    "phase ramp": measured(phase=4 * SLOPES[0][:, None]) * LINES,
    "banding": measured(phase=torch.pi * (torch.sin(7 * SLOPES[1]) > 0)) * LINES,
    "off-centre by a quarter": measured(head((0.5, 0), 0.5)) * LINES,
    "off-centre by more": measured(head((0.6, -0.6), 0.35)) * LINES,
    "at the border": measured(head((0, 0.75), 0.6)) * LINES,
    "two legs": measured(head((0, 0.55), 0.5) + head((0, -0.55), 0.5)) * LINES,
    "small": measured(head(size=0.2)),
    "larger than the field of view": measured(head(size=1.3)) * LINES,
    "partial Fourier 5/8": measured() * (torch.arange(80) >= 30),
    "partial echo 5/8": measured() * (torch.arange(96) >= 36)[:, None],
    "Poisson": measured() * MaskSpec("poisson", 5, 16).draw(SHAPE[2:], rng_for(0, "disc")),
    "Gaussian": measured() * MaskSpec("gaussian", 4, 12).draw(SHAPE[2:], rng_for(0, "lines")),
    "no noise": measured(noise=0),
    "a spike": measured().index_put(
        (torch.arange(2), torch.tensor([1]), torch.tensor([20]), torch.tensor([70])),
        torch.tensor([300 + 200j]),
    ),
}


@pytest.mark.parametrize("case", RIGHT)
def test_a_scan_that_is_right_is_left_as_it_is(write, case):
    with warns("W-NO-HEADER"):
        file = open_scan(write(RIGHT[case]))
    assert isinstance(file, FastmriFile)
    assert np.array_equal(file[:].ksp, RIGHT[case])


@pytest.mark.parametrize("dy", [-48, -17, -3, -2, 5, 8, 30])
@pytest.mark.parametrize("dx", [-40, -9, 3, 0])
def test_k_space_that_was_shifted_is_moved_back(write, dy, dx):
    right = RIGHT["control"]
    path = write(right.roll((dy, dx), dims=(-2, -1)))
    with warns("W-CENTRE", "W-NO-HEADER"):
        file = open_scan(path)
    assert np.array_equal(file[:].ksp, right)
    assert np.array_equal(file.mask, LINES)
    assert file.steps == ("read", f"centre {-dy:+d},{-dx:+d}")
    assert calibration_block(file.mask) == (24, 16)


IMAGES = [
    (case, axes)
    for case in ("fully sampled", "one coil", "off-centre by a quarter")
    for axes in ((-2,), (-1,), (-2, -1))
]


@pytest.mark.parametrize(("case", "axes"), [*IMAGES, ("low SNR", (-2,))])
def test_images_in_place_of_k_space_are_transformed(write, axes, case):
    """Along the readout of undersampled scans; along x, where nothing was measured is residue."""
    right = RIGHT[case]
    images = right
    for axis in axes:
        images = ifftc(images, dim=axis)
    filled = -1 in axes and case != "fully sampled"
    with warns("W-IMAGE-SPACE", "W-NO-HEADER", *["W-RESIDUE"] * filled):
        file = open_scan(write(images))
    assert difference(file, right) < 1e-5
    assert np.array_equal(file.mask, FULL if case == "fully sampled" else LINES)
    names = "".join("yx"[axis] for axis in axes)
    assert file.steps == ("read", f"transform-{names}", *["drop-residue"] * filled)


def test_images_stored_without_shifts_are_transformed(write):
    """And moved, since the head lies in the corners."""
    right = RIGHT["fully sampled"]
    images = torch.fft.ifft2(torch.fft.ifftshift(right, dim=(-2, -1)))
    with warns("W-IMAGE-SPACE", "W-HALF-FOV", "W-NO-HEADER"):
        file = open_scan(write(images))
    want = ifft2c(right).abs() / images[0, 0].numel() ** 0.5
    assert float((magnitude(file) - want).norm() / want.norm()) < 1e-5


def test_images_are_k_space_if_the_user_says_so(write):
    images = ifft2c(RIGHT["fully sampled"])
    with warns("W-NO-HEADER"):
        assert np.array_equal(open_scan(write(images), centre="header")[:].ksp, images)


@pytest.mark.parametrize(("width", "noise"), [(1, 0.1), (6, 0), (8, 0), (16, 0)])
def test_k_space_of_narrow_objects_is_no_image(write, width, noise):
    """Of a bar as wide as a few pixels, energy is spread over its k-space."""
    img = torch.zeros(SHAPE[2:])
    img[40:56, 40 : 40 + width] = 1
    ksp = measured(img, noise=noise)
    with warns("W-NO-HEADER"):
        assert np.array_equal(open_scan(write(ksp))[:].ksp, ksp)


def spokes(turns: float, n_spokes: int = 64) -> Tensor:
    """Samples of a head on lines through k = 0, an angle of ``turns`` half turns apart."""
    ny, nx = SHAPE[2:]
    img = ifft2c(measured())
    t = (torch.arange(64) - 32) / 64
    angle = torch.pi * turns * torch.arange(n_spokes)[:, None]
    y, x = torch.arange(ny) - ny // 2, torch.arange(nx) - nx // 2
    ky, kx = (t * angle.sin())[..., None], (t * angle.cos())[..., None]
    rows, columns = (torch.exp(-2j * torch.pi * k * n) for k, n in ((ky, y), (kx, x)))
    return torch.einsum("scyx,jky,jkx->scjk", img, rows, columns) / (ny * nx) ** 0.5


@pytest.mark.parametrize("turns", [1 / 64, 0.618])
@pytest.mark.parametrize("turned", [False, True])
def test_radial_scans_are_refused(write, turns, turned):
    ksp = spokes(turns)
    path = write(ksp.mT.contiguous() if turned else ksp)
    with warns("W-NO-HEADER"), pytest.raises(ScanFormatError, match="radial"):
        open_scan(path)
    with warns("W-NO-HEADER"):
        open_scan(path, centre="header")


def half_off(ksp: Tensor, *axes: int) -> Tensor:
    """K-space of images that are half a field of view off along axes -2 and -1."""
    return fft2c(ifft2c(ksp).roll([ksp.shape[axis] // 2 for axis in axes], dims=axes))


@pytest.mark.parametrize("axes", [(-2,), (-1,), (-2, -1)])
@pytest.mark.parametrize("shape", [(96, 80), (95, 79)])
def test_images_half_a_field_of_view_off_are_moved(write, axes, shape):
    right = fft2c(ifft2c(RIGHT["fully sampled"])[..., : shape[0], : shape[1]])
    with warns("W-HALF-FOV", "W-NO-HEADER"):
        file = open_scan(write(half_off(right, *axes)))
    assert difference(file, right) < 1e-5
    assert file.steps == ("read", "half-field")


@pytest.mark.parametrize("n_lines", [8, 10, 12])
def test_few_calibration_lines_show_it_too(write, n_lines):
    kept = (torch.arange(SHAPE[3]) % 4 == 0) | ((torch.arange(SHAPE[3]) - 40).abs() < n_lines / 2)
    ksp = half_off(RIGHT["fully sampled"], -1) * kept
    with warns("W-HALF-FOV", "W-NO-HEADER"):
        assert open_scan(write(ksp)).steps == ("read", "half-field")


def test_a_head_that_leaves_no_gap_is_moved_if_the_other_axis_is_certain(write):
    right = measured(head(size=1.12))
    with warns("W-HALF-FOV", "W-NO-HEADER"):
        assert difference(open_scan(write(half_off(right, -2, -1))), right) < 1e-5
    with warns("W-HALF-FOV", "W-NO-HEADER"):
        assert difference(open_scan(write(half_off(right, -1))), right) < 1e-5


@pytest.mark.parametrize("n_coils", [4, 8])
def test_legs_that_touch_the_border_stay(write, n_coils):
    """Energy runs on across it, and there is none between them; but coils see two objects."""
    legs = head((0, 1.33), 0.46) + head((0, -1.33), 0.46) + head((0, 0.67), 0.46)
    legs = legs + head((0, -0.67), 0.46)  # what is beyond the border is folded in
    right = measured(legs, n_coils=n_coils)
    profile = ifft2c(right).abs().square().sum(dim=(0, 1, 2))
    assert min(profile[0], profile[-1]) > 0.25 * profile.max() > 2.5 * profile[35:45].max()
    with warns("W-NO-HEADER"):
        assert np.array_equal(open_scan(write(right))[:].ksp, right)


def test_both_at_once_as_an_fft_without_shifts_leaves_them(write):
    img = ifft2c(RIGHT["fully sampled"])
    with warns("W-CENTRE", "W-HALF-FOV", "W-NO-HEADER"):
        file = open_scan(write(torch.fft.fft2(img)))
    assert difference(file, np.sqrt(img[0, 0].numel()) * RIGHT["fully sampled"]) < 1e-5


def test_a_reference_that_is_off_too_is_moved(write):
    rss = ifft2c(RIGHT["fully sampled"]).abs().square().sum(dim=1).sqrt()
    for target in (rss, rss.roll((48, 40), dims=(-2, -1))):
        path = write(half_off(RIGHT["fully sampled"], -2, -1), reconstruction_rss=target.numpy())
        with warns("W-HALF-FOV", "W-NO-HEADER"):
            assert np.array_equal(open_scan(path).read_target("reconstruction_rss"), rss)


def test_the_user_decides(write):
    ksp = RIGHT["control"].roll((5, 0), dims=(-2, -1))
    path = write(ksp)
    with warns(*["W-NO-HEADER"] * 3):
        assert np.array_equal(open_scan(path, centre="header")[:].ksp, ksp)
        assert np.array_equal(open_scan(path, centre="53,40")[:].ksp, RIGHT["control"])
        assert open_scan(path, centre=(50, 41)).steps == ("read", "centre -2,-1")
    for wrong in ("96,40", "middle", "1", "1,2,3", "-1,4", "48,20,90,80", "48,20,96,170"):
        with pytest.raises(ConfigError, match="wanted auto, header"), warns("W-NO-HEADER"):
            open_scan(path, centre=wrong)


def test_slices_that_differ_are_refused(write):
    ksp = RIGHT["fully sampled"].clone()
    ksp[0], ksp[1] = ksp[0].roll(9, dims=-2), ksp[1].roll(-7, dims=-2)
    with pytest.raises(ScanFormatError, match="--centre Y,X"), warns("W-NO-HEADER"):
        open_scan(write(ksp))


def test_columns_of_partial_fourier_that_were_not_stored(write):
    """Found by the samples; their number is that which makes k = 0 the middle."""
    falling = torch.exp(
        -(((torch.arange(80) - 40) / 25.0) ** 2)
    )  # as of images without sharp edges
    right = measured(noise=0) * falling + measured(0 * head(), noise=1e-4)
    with warns("W-CENTRE", "W-NO-HEADER") as found:
        file = open_scan(write(right[..., 20:]))
    assert file.shape == SHAPE
    assert np.array_equal(file[:].ksp, torch.nn.functional.pad(right[..., 20:], (20, 0)))
    assert (file.recon_shape, int(file.acquired.sum()), file.acceleration) == ((96, 80), 60, 1)
    assert "20 of 80 columns" in found[0].text + found[1].text


def test_lines_that_were_skipped_do_not_show_whether_columns_are_missing(write):
    """None was drawn beyond the mirror image of the end that is nearer to k = 0."""
    right = measured(noise=0.002) * LINES
    right[..., 71:] = 0
    with warns("W-CENTRE", "W-NO-HEADER"):
        assert not open_scan(write(right[..., 10:])).ends_known


@pytest.mark.parametrize("kept", [slice(20, 80), slice(0, 60)], ids=["left", "right"])
@pytest.mark.parametrize("lines", [FULL, LINES], ids=["full", "undersampled"])
def test_what_ends_in_noise_is_not_scored_and_the_user_decides(write, kept, lines):
    """Columns may be missing, or may have gone round: nothing tells in a noisy scan."""
    right = measured(noise=0.05) * lines
    path, at = write(right[..., kept]), 40 - kept.start
    with warns("W-CENTRE", "W-NO-HEADER") as found:
        file = open_scan(path)
    assert (file.shape[2:], file.fully_sampled, file.ends_known) == ((96, 60), False, False)
    assert f"48,{at},96,80" in found[0].text + found[1].text
    with pytest.raises(ConfigError, match="--centre"):
        Undersampled(file, MaskSpec("random", 3, 16), seed=0)
    with warns(*["W-NO-HEADER"] * 2):
        moved, placed = (open_scan(path, centre=f"48,{at}{full}") for full in ("", ",96,80"))
    assert moved.fully_sampled == (lines is FULL)
    before = kept.start
    want = torch.nn.functional.pad(right[..., kept], (before, 80 - 60 - before))
    assert np.array_equal(placed[:].ksp, want)
    assert (placed.recon_shape, placed.one_sided) == ((96, 80), True)
    with h5py.File(path, "r+") as file:  # a reference that cannot be read is none
        file["reconstruction_rss"] = np.zeros((1, 96, 80, 2))
    with collected():
        volume = open_volume(
            open_scan(path, centre=f"48,{at},96,80"), Recipe("cg-sense").resolve(), Runtime("cpu")
        )
        assert volume.reference is None


@pytest.mark.parametrize("size", [(97, 85), (96, 85), (97, 80)])
def test_the_corner_of_an_odd_matrix_is_found(write, size):
    """An FFT without shifts puts k = 0 there; its mirror image is its neighbour."""
    ksp = fft2c(torch.nn.functional.pad(ifft2c(measured()), (0, size[1] - 80, 0, size[0] - 96)))
    right = ksp * MaskSpec("random", acceleration=3, calib=16).draw(size, rng_for(0, "lines"))
    corner = right.roll((-(size[0] // 2), -(size[1] // 2)), dims=(-2, -1))
    with warns("W-CENTRE", "W-NO-HEADER"):
        assert np.array_equal(open_scan(write(corner))[:].ksp, right)


def test_the_header_places_columns_of_partial_fourier(write):
    header = build_header(
        SHAPE[2:], SHAPE[2:], (240.0, 200.0), (240.0, 200.0), 5.0, 2, 4, padding=(20, 80)
    )
    mask = LINES[0, 0, 20:].numpy()
    with warns():
        file = open_scan(write(RIGHT["control"][..., 20:], ismrmrd_header=header, mask=mask))
    want = LINES & (torch.arange(80) >= 20)
    assert np.array_equal(file[:].ksp, RIGHT["fully sampled"] * want)
    assert (file.voxel_mm, int(file.acquired.sum())) == ((2.5, 2.5, 5.0), 60)
