"""Soft thresholding of wavelet coefficients against sigpy, and one library against the other."""

from __future__ import annotations

import numpy as np
import pytest
import sigpy
import torch

from mri_ambient.physics.wavelets import (
    ORTHOGONAL_WAVELETS,
    shrink_by_ptwt,
    shrink_by_pywt,
    shrink_wavelets,
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


@pytest.mark.parametrize("shape", [(48, 44), (35, 40), (32, 17)])
def test_agrees_with_sigpy(shape, rng):
    img, threshold = complex_normal((2, *shape), rng), torch.tensor([0.3, 1.0])
    shrunk = shrink_wavelets(img, threshold, "db4")
    transform = sigpy.linop.Wavelet(shape, wave_name="db4")
    for i in range(2):
        soft = sigpy.soft_thresh(float(threshold[i]), transform(img[i].numpy()))
        np.testing.assert_allclose(shrunk[i].numpy(), transform.H(soft), atol=2e-6)


@pytest.mark.parametrize("wavelet", ORTHOGONAL_WAVELETS)
def test_ptwt_for_gpus_agrees_with_pywavelets(wavelet, rng):
    img, threshold = complex_normal((2, 48, 40), rng), torch.tensor([0.3, 1.0])[:, None, None]
    ours, other = (by(img, threshold, wavelet, 1) for by in (shrink_by_pywt, shrink_by_ptwt))
    torch.testing.assert_close(ours, other, rtol=0, atol=5e-6)


def test_gradients_flow_and_do_not_change_the_result(rng):
    img, threshold = complex_normal((1, 16, 16), rng), torch.tensor([0.3])
    with_gradient = shrink_wavelets(img.requires_grad_(), threshold, "haar")
    without = shrink_wavelets(img.detach(), threshold, "haar")
    torch.testing.assert_close(with_gradient.detach(), without, rtol=0, atol=5e-6)
    with_gradient.abs().square().sum().backward()
    assert float(img.grad.abs().sum()) > 0
