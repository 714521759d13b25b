"""One convention: centred, orthonormal, k = 0 at n // 2."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import centred_dft

from mri_ambient.physics.axis_fourier import fftc, ifftc
from mri_ambient.physics.crop import center_crop, center_pad, image_crop
from mri_ambient.physics.fourier import decentre, fft2c, ifft2c, reverse
from mri_ambient.rng import complex_normal

SHAPES = [(8, 8), (7, 9), (8, 5), (1, 6), (1, 1), (320, 3)]


@pytest.mark.parametrize("shape", SHAPES)
def test_transform_equals_its_formula(shape, rng):
    img = complex_normal(shape, rng, dtype=torch.complex128)
    want = centred_dft(shape[0]) @ img @ centred_dft(shape[1]).T
    torch.testing.assert_close(fft2c(img), want, rtol=0, atol=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
def test_transform_equals_numpy_with_shifts(shape, rng):
    img = complex_normal((2, 3, *shape), rng, dtype=torch.complex128)
    shifted = np.fft.ifftshift(img.numpy(), axes=(-2, -1))
    want = np.fft.fftshift(np.fft.fft2(shifted, norm="ortho"), axes=(-2, -1))
    np.testing.assert_allclose(fft2c(img).numpy(), want, rtol=0, atol=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
def test_transform_is_unitary(shape, rng):
    a, b = complex_normal((2, *shape), rng, dtype=torch.complex128)
    torch.testing.assert_close(ifft2c(fft2c(a)), a, rtol=0, atol=1e-12)
    torch.testing.assert_close(fft2c(ifft2c(a)), a, rtol=0, atol=1e-12)
    inner = torch.vdot(fft2c(a).flatten(), b.flatten())
    torch.testing.assert_close(inner, torch.vdot(a.flatten(), ifft2c(b).flatten()))


def test_a_centred_delta_is_flat_in_kspace():
    img = torch.zeros(8, 8, dtype=torch.complex64)
    img[4, 4] = 1
    torch.testing.assert_close(fft2c(img), torch.full_like(img, 1 / 8))


@pytest.mark.parametrize("shape", [(8, 6), (7, 9), (8, 5)])
def test_a_constant_image_is_a_delta_at_the_middle(shape):
    ksp = fft2c(torch.ones(shape, dtype=torch.complex128))
    want = torch.zeros_like(ksp)
    want[shape[0] // 2, shape[1] // 2] = (shape[0] * shape[1]) ** 0.5
    torch.testing.assert_close(ksp, want, rtol=0, atol=1e-12)


@pytest.mark.parametrize("shape", [(6, 8), (7, 9), (6, 9)])
def test_transforms_of_single_axes_compose(shape, rng):
    img = complex_normal((2, *shape), rng)
    torch.testing.assert_close(fftc(fftc(img, -1), -2), fft2c(img), rtol=0, atol=1e-5)
    torch.testing.assert_close(ifftc(ifftc(img, -2), -1), ifft2c(img), rtol=0, atol=1e-5)


@pytest.mark.parametrize("shape", [(640, 372), (321, 213)])
def test_single_precision_is_accurate_on_long_axes(shape, rng):
    img = complex_normal(shape, rng)
    error = fft2c(img).to(torch.complex128) - fft2c(img.to(torch.complex128))
    assert error.norm() < 1e-6 * img.norm()


@pytest.mark.parametrize("shape", SHAPES)
def test_diagonals_in_kspace_need_no_shift(shape, rng):
    # The normal operator relies on this: the centring phases cancel.
    img = complex_normal(shape, rng, dtype=torch.complex128)
    mask = torch.rand(shape, generator=rng) < 0.5
    uncentred = torch.fft.ifft2(torch.fft.fft2(decentre(img)) * mask)
    torch.testing.assert_close(uncentred, decentre(ifft2c(fft2c(img) * mask)), rtol=0, atol=1e-12)
    torch.testing.assert_close(decentre(img).abs(), img.abs(), rtol=0, atol=1e-12)


def test_real_images_have_the_transform_of_complex_ones(rng):
    for shape in ((5, 7), (6, 4)):
        x = torch.randn(shape, generator=rng)
        torch.testing.assert_close(fft2c(x), fft2c(x + 0j))


def test_precision_is_kept():
    for dtype in (torch.complex64, torch.complex128):
        for shape in ((4, 4), (5, 4)):
            assert fft2c(torch.ones(shape, dtype=dtype)).dtype == dtype
            assert ifft2c(torch.ones(shape, dtype=dtype)).dtype == dtype


def test_gradients_flow_after_an_inference_mode_call():
    # The phases are cached; a cache filled without gradients must also work with them.
    with torch.inference_mode():
        fft2c(torch.ones(11, 12, dtype=torch.complex128))
    img = torch.ones(11, 12, dtype=torch.complex128, requires_grad=True)
    fft2c(img).abs().square().sum().backward()
    torch.testing.assert_close(img.grad, 2 * img.detach())


@pytest.mark.parametrize("n", [4, 5, 6, 7])
@pytest.mark.parametrize("keep", [1, 2, 3, 4])
def test_cropping_keeps_the_centre_in_the_centre(n, keep):
    x = torch.zeros(2, n, n)
    x[:, n // 2, n // 2] = 1
    small = center_crop(x, (keep, keep))
    assert small[:, keep // 2, keep // 2].tolist() == [1, 1]
    assert small.shape == (2, keep, keep)


@pytest.mark.parametrize(("small", "large"), [(3, 7), (3, 8), (4, 7), (4, 8), (5, 5)])
def test_padding_undoes_cropping(small, large, rng):
    x = torch.rand(2, small, small + 1, generator=rng)
    padded = center_pad(x, (large, large + 1))
    assert padded.sum() == pytest.approx(x.sum())
    assert torch.equal(center_crop(padded, (small, small + 1)), x)


def test_low_frequencies_cropped_from_kspace_are_a_smaller_image():
    # A cosine with 2 periods keeps its 2 periods on the coarser grid.
    x = torch.arange(16) - 8
    img = torch.cos(2 * torch.pi * 2 * x / 16).expand(16, 16).to(torch.complex128)
    small = ifft2c(center_crop(fft2c(img), (9, 9))) * 9 / 16
    want = torch.cos(2 * torch.pi * 2 * (torch.arange(9) - 4) / 9).expand(9, 9)
    torch.testing.assert_close(small, want.to(torch.complex128), rtol=0, atol=1e-6)


@pytest.mark.parametrize("n", [4, 5, 6, 7])
@pytest.mark.parametrize("keep", [1, 2, 3, 4])
def test_images_are_cropped_as_fastmri_does(n, keep):
    """From row (n - keep) // 2 on: at most one row earlier than around pixel n // 2."""
    x = torch.arange(n)[:, None] * torch.ones(n)
    first = (n - keep) // 2
    assert image_crop(x, (keep, keep))[:, 0].tolist() == list(range(first, first + keep))


@pytest.mark.parametrize(
    ("change", "shape"), [(center_crop, (5, 4)), (image_crop, (4, 5)), (center_pad, (4, 3))]
)
def test_impossible_sizes_are_refused(change, shape):
    with pytest.raises(ValueError) as refused:
        change(torch.zeros(4, 4), shape)
    assert "(4, 4)" in str(refused.value) and str(shape) in str(refused.value)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dim", [-2, -1])
def test_mirroring_an_image_mirrors_its_kspace(shape, dim, rng):
    img = complex_normal((2, *shape), rng, dtype=torch.complex128)
    torch.testing.assert_close(
        fft2c(reverse(img, dim)), reverse(fft2c(img), dim), rtol=0, atol=1e-12
    )
    assert torch.equal(reverse(reverse(img, dim), dim), img)
    center = img.shape[dim] // 2
    assert torch.equal(reverse(img, dim).select(dim, center), img.select(dim, center))
