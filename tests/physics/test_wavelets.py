"""Shrinkage of wavelet coefficients against sigpy, one library against the other, and noise."""

from __future__ import annotations

import numpy as np
import pytest
import sigpy
import torch

from mri_ambient.physics.wavelets import (
    ORTHOGONAL_WAVELETS,
    garrote,
    noise_of,
    shrink_by_ptwt,
    shrink_by_pywt,
    shrink_wavelets,
    soft,
    without_noise,
)
from mri_ambient.rng import complex_normal


def test_the_result_minimises_its_objective(rng):
    # With Haar wavelets on a power of two the transform is orthogonal, borders included: every
    # other image near the result has a larger objective.
    img = complex_normal((1, 16, 16), rng)
    shrunk = shrink_wavelets(img, torch.tensor([0.5]), "haar")

    def objective(x):
        coefficients = sigpy.linop.Wavelet((16, 16), wave_name="haar")(x[0].numpy())
        fidelity = 0.5 * float((x - img).abs().square().sum())
        return fidelity + 0.5 * float(np.abs(coefficients).sum())

    best = objective(shrunk)
    for _ in range(20):
        assert objective(shrunk + 1e-2 * complex_normal(img.shape, rng)) > best


def test_a_threshold_of_zero_returns_the_image_in_its_precision(rng):
    img = complex_normal((2, 9, 8), rng, dtype=torch.complex128)
    torch.testing.assert_close(shrink_wavelets(img, torch.zeros(2), "db4"), img)


def firm(threshold, coefficients):
    """The garrote, as Gao (1998) writes it: d - t^2 / d above t, and 0 below."""
    kept = np.abs(coefficients) > threshold
    return kept * (coefficients - threshold**2 / np.conj(np.where(kept, coefficients, 1)))


@pytest.mark.parametrize(("rule", "other"), [(soft, sigpy.soft_thresh), (garrote, firm)])
@pytest.mark.parametrize("shape", [(48, 44), (35, 40), (32, 17)])
def test_agrees_with_sigpy(shape, rule, other, rng):
    img, threshold = complex_normal((2, *shape), rng), torch.tensor([0.3, 1.0])
    shrunk = shrink_wavelets(img, threshold, "db4", rule)
    transform = sigpy.linop.Wavelet(shape, wave_name="db4")
    for i in range(2):
        want = transform.H(other(float(threshold[i]), transform(img[i].numpy())))
        np.testing.assert_allclose(shrunk[i].numpy(), want, atol=2e-6)


@pytest.mark.parametrize("wavelet", ORTHOGONAL_WAVELETS)
def test_ptwt_for_gpus_agrees_with_pywavelets(wavelet, rng):
    img, threshold = complex_normal((2, 48, 40), rng), torch.tensor([0.3, 1.0])[:, None, None]
    for rule in (soft, garrote):
        ours, other = (
            by(img, threshold, wavelet, 1, rule) for by in (shrink_by_pywt, shrink_by_ptwt)
        )
        torch.testing.assert_close(ours, other, rtol=0, atol=5e-6)


def test_gradients_flow_and_do_not_change_the_result(rng):
    img, threshold = complex_normal((1, 16, 16), rng), torch.tensor([0.3])
    with_gradient = shrink_wavelets(img.requires_grad_(), threshold, "haar")
    without = shrink_wavelets(img.detach(), threshold, "haar")
    torch.testing.assert_close(with_gradient.detach(), without, rtol=0, atol=5e-6)
    with_gradient.abs().square().sum().backward()
    assert float(img.grad.abs().sum()) > 0


def disc(n: int = 96) -> torch.Tensor:
    """An image with an edge, ``(n, n)``: 1 inside a disc, exactly 0 outside."""
    y, x = torch.meshgrid(torch.arange(n) - n // 2, torch.arange(n) - n // 2, indexing="ij")
    return (y**2 + x**2 < (0.4 * n) ** 2).to(torch.complex64)


def test_noise_is_found_beside_edges_and_where_there_is_any(rng):
    inside = disc()
    noise = inside * complex_normal((3, 96, 96), rng)
    sigma = torch.tensor([0.02, 0.2, 0.0])
    img = inside + sigma[:, None, None] * noise
    img[2] = 0
    torch.testing.assert_close(noise_of(img), sigma, rtol=0.1, atol=0)


def test_noise_is_taken_out_and_edges_stay(rng):
    img, sigma = disc(), 0.1
    noisy = img + sigma * complex_normal((1, 96, 96), rng)
    cleaned = without_noise(noisy, torch.tensor([sigma]))
    before, after = (float((x - img).square().abs().mean()) for x in (noisy, cleaned))
    assert after < 0.25 * before
    # No more than the image holds, whatever noise is stated; and nothing without noise.
    known = float(noise_of(noisy))
    torch.testing.assert_close(
        without_noise(noisy, torch.tensor([9.0])), without_noise(noisy, torch.tensor([known]))
    )
    torch.testing.assert_close(without_noise(noisy, torch.zeros(1)), noisy)


def test_gradients_of_shrinkage_are_finite_where_the_image_is_0():
    img = disc(32)[None].requires_grad_()
    without_noise(img, torch.tensor([0.1])).abs().square().sum().backward()
    assert bool(img.grad.isfinite().all())
