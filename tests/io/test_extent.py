"""Whether k-space ends beside k = 0, by the energies of its samples."""

from __future__ import annotations

import numpy as np
import pytest

from mri_ambient.io.extent import extent, find_extents

N = 64


def energies(shape=(N, N), place=(N // 2, N // 2), noise=1e-6, seed=0):
    """Of samples as an object and noise give them: exponential, falling with the distance."""
    y, x = (np.arange(n) - at for n, at in zip(shape, place, strict=True))
    mean = (1 + y[:, None] ** 2 + x**2) ** -1.5 + noise
    return mean * np.random.default_rng(seed).exponential(size=shape)


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize(
    ("case", "found"),
    [("cut", "cut"), ("rolled", "whole"), ("noise", "unknown"), ("still", "whole")],
)
def test_whole_lines(case, found, turned):
    """Partial Fourier of 5/8 ends beside k = 0; rolled k-space comes back at its other end."""
    at = {"cut": N // 8, "rolled": N // 4, "noise": 3 * N // 8, "still": N // 2}[case]
    energy = energies(noise=1e-1 if case == "noise" else 1e-6)
    energy = energy[:, N // 2 - at :] if case == "cut" else np.roll(energy, at - N // 2, axis=1)
    if turned:  # k = 0 is at n - 1 - at then
        energy, at = energy[:, ::-1], energy.shape[1] - 1 - at
    assert extent(energy.sum(axis=0), at) == found
    assert find_extents(energy, (N // 2, at)) == ["whole", found]
    assert find_extents(energy.T, (at, N // 2)) == [found, "whole"]


@pytest.mark.parametrize("seed", range(10))
def test_random_samples_never_show_that_k_space_is_whole(seed):
    """Sums over random samples fluctuate; by themselves, some of these would."""
    hit = np.random.default_rng(seed).random((N, N)) < 0.25
    hit[N // 2 - 6 : N // 2 + 6, N // 2 - 6 : N // 2 + 6] = True
    energy = np.where(hit, energies(seed=seed), 0)[:, 3 * N // 8 :]
    assert find_extents(energy, (N // 2, N // 8))[1] in ("cut", "unknown")
    rolled = np.roll(np.where(hit, energies(seed=seed), 0), N // 8, axis=0)
    assert find_extents(rolled, (5 * N // 8, N // 2))[0] == "unknown"
