"""Phase between odd and even lines, which leaves a ghost half a field of view away.

Readouts of alternating direction (EPI), eddy currents and unstable gradients change the phase of
every other line. A kernel over coils that predicts a line from its two neighbours does not depend
on the line's place, as in GRAPPA (Griswold et al. 2002, doi:10.1002/mrm.10171). With a phase p
between odd and even lines, what a kernel fitted to even lines predicts of odd ones is 2 p off.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import NumericalWarning

LEAST_PHASE = 0.1
"""Radians that are warned of: a ghost of a twentieth of the image."""

LEAST_FIT = 0.95
"""Correlation of predicted and measured lines from which a phase is believed."""

LEAST_LINES, MAX_COILS = 12, 8
"""Lines of a block that tells anything; coils, the strongest, that are looked at."""

RIDGE = 0.01
"""Of the fit, over the mean energy of the neighbours."""


def line_phase(block: Tensor) -> float:
    """Phase of the odd columns over the even ones, in radians; 0 where it is not certain.

    Args:
        block: calibration block ``(coil, y, x)`` of whitened coils, the strongest first.
    """
    n = block.shape[-1]
    if n < LEAST_LINES or len(block) < 2 or not bool(block.any()):
        return 0.0
    block = block[:MAX_COILS].to(torch.complex128)
    inside = block[:, 1:-1]
    near = torch.cat([block[:, s : block.shape[1] - 2 + s] for s in range(3)])
    sources = torch.cat([near[..., :-2], near[..., 2:]])  # (source, y, x), for x = 1 ... n - 2
    found = []
    for first in (0, 1):
        own, other = (
            (sources[..., k::2].flatten(1), inside[..., 1:-1][..., k::2].flatten(1))
            for k in (first, 1 - first)
        )
        gram = own[0] @ own[0].mH
        ridge = RIDGE * gram.diagonal().real.mean() * torch.eye(len(gram), dtype=gram.dtype)
        kernel = torch.linalg.solve(gram + ridge, own[0] @ own[1].mH).mH
        predicted = kernel @ other[0]
        product = torch.vdot(predicted.flatten(), other[1].flatten())
        fit = product.abs() / (predicted.norm() * other[1].norm()).clamp_min(1e-30)
        turn = float(product.angle()) / 2
        found.append((float(fit), turn if first else -turn))
    (fit, phase), (other_fit, other_phase) = found
    agree = abs(phase - other_phase) < LEAST_PHASE
    mean = (phase + other_phase) / 2
    return mean if agree and min(fit, other_fit) > LEAST_FIT else 0.0


def line_phase_warnings(name: str, blocks: Sequence[Tensor]) -> list[NumericalWarning]:
    """W-LINE-PHASE for the largest phase, along x or y, of the slices of a scan."""
    found = [(line_phase(block), "columns") for block in blocks]
    found += [(line_phase(block.mT), "rows") for block in blocks]
    phase, lines = max(found, key=lambda one: abs(one[0]))
    if abs(phase) < LEAST_PHASE:
        return []
    text = (
        f"{name}: odd and even {lines} of k-space differ in phase by {abs(phase):.2f} rad, so that "
        "the image has a ghost half a field of view away"
    )
    return [NumericalWarning("W-LINE-PHASE", text)]
