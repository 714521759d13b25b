"""The field of a receive coil against its closed form."""

from __future__ import annotations

import numpy as np
import torch
from scipy.special import ellipe, ellipk

from mri_ambient.data_prep.simulation.coil_loops import CoilLoops


def test_a_loop_has_the_field_of_its_elliptic_integrals():
    # A loop of radius 50 mm in the plane x = -120 mm, looked at in the plane z = 0.
    radius, nodes = 50.0, 21
    loop = CoilLoops.circles(
        torch.tensor([[-120.0, 0.0, 0.0]]),
        torch.tensor([[0.0, 1.0, 0.0]]),
        torch.tensor([[0.0, 0.0, 1.0]]),
        torch.tensor([radius]),
    )
    field = loop.field((160.0, 160.0), 0.0, nodes)[0]
    axis = np.linspace(-80, 80, nodes)
    y, x = np.meshgrid(axis, axis, indexing="ij")
    d, rho = x + 120.0, np.abs(y) + 1e-9
    # Jackson, Classical Electrodynamics, 5.5 with mu0 I / 4 pi = 1.
    far, near = (radius + rho) ** 2 + d**2, (radius - rho) ** 2 + d**2
    m = 4 * radius * rho / far
    axial = (ellipk(m) + (radius**2 - rho**2 - d**2) / near * ellipe(m)) * 2 / np.sqrt(far)
    radial = (-ellipk(m) + (radius**2 + rho**2 + d**2) / near * ellipe(m)) * 2 * d / rho
    radial = np.sign(y) * radial / np.sqrt(far)
    want = torch.from_numpy(axial - 1j * radial).to(torch.complex64)
    # The wire is 6 mm thick and the loop has 24 corners: 3 % at the closest point, 40 mm away.
    assert (field - want).abs().max() < 0.03 * want.abs().max()
    assert (field - want)[:, 10:].abs().max() < 0.01 * want[:, 10:].abs().max()
