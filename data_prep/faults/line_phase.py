"""Odd and even lines that differ: in phase, or because every other line is stored backwards.

Either leaves a ghost half a field of view away. Readouts of alternating direction (EPI), eddy
currents and unstable gradients change the phase of every other line. A kernel over coils that
predicts a line from its two neighbours does not depend on the line's place, as in GRAPPA (Griswold
et al. 2002, doi:10.1002/mrm.10171). With a phase p between odd and even lines, what a kernel fitted
to even lines predicts of odd ones is 2 p off. Where every other line is backwards, a kernel
predicts lines much better once these are turned round.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ...errors import NumericalWarning

LEAST_PHASE = 0.1
"""Radians that are warned of: a ghost of a twentieth of the image."""

LEAST_FIT = 0.95
"""Correlation of predicted and measured lines from which a phase is believed."""

LEAST_LINES, MAX_COILS = 12, 8
"""Lines of a block that tells anything; coils, the strongest, that are looked at."""

MOST_MISFIT, LEAST_RATIO = 0.2, 2.0
"""Error of a kernel once every other line is turned round, and how much larger it is before. The
second is at most 1.0 in right scans, and 1.8 to 700 in simulated ones with such lines."""

LEAST_MISFIT = 0.05
"""Error as it is stored, below which lines turned round are nearly the same: of an object that is
its own mirror image."""

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
    sources, inside = _neighbours(block)  # for x = 1 ... n - 2
    found = []
    for first in (0, 1):
        own, other = (
            (sources[..., k::2].flatten(1), inside[..., k::2].flatten(1))
            for k in (first, 1 - first)
        )
        kernel = _kernel(*own)
        predicted = kernel @ other[0]
        product = torch.vdot(predicted.flatten(), other[1].flatten())
        fit = product.abs() / (predicted.norm() * other[1].norm()).clamp_min(1e-30)
        turn = float(product.angle()) / 2
        found.append((float(fit), turn if first else -turn))
    (fit, phase), (other_fit, other_phase) = found
    agree = abs(phase - other_phase) < LEAST_PHASE
    mean = (phase + other_phase) / 2
    return mean if agree and min(fit, other_fit) > LEAST_FIT else 0.0


def backwards(block: Tensor) -> bool:
    """Whether every other column is stored backwards: its last sample first.

    Args:
        block: as of :func:`line_phase`.
    """
    if block.shape[-1] < LEAST_LINES or len(block) < 2 or not bool(block.any()):
        return False
    for rows in {0, 1 - block.shape[1] % 2}:  # about the middle of the matrix, and about k = 0
        stored = block[:, rows:]
        turned = stored.clone()
        turned[..., 1::2] = stored[..., 1::2].flip(1)
        misfit = _misfit(turned)
        if misfit < MOST_MISFIT and _misfit(stored) > max(LEAST_RATIO * misfit, LEAST_MISFIT):
            return True
    return False


def _misfit(block: Tensor) -> float:
    """Energy of the error of a kernel that predicts columns from their neighbours, as a share."""
    sources, lines = (part.flatten(1) for part in _neighbours(block))
    error = _kernel(sources, lines) @ sources - lines
    return float(error.abs().square().sum() / lines.abs().square().sum().clamp_min(1e-30))


def _neighbours(block: Tensor) -> tuple[Tensor, Tensor]:
    """Samples on both sides ``(source, y, x)`` of those that they predict ``(coil, y, x)``."""
    block = block[:MAX_COILS].to(torch.complex128)
    near = torch.cat([block[:, s : block.shape[1] - 2 + s] for s in range(3)])
    return torch.cat([near[..., :-2], near[..., 2:]]), block[:, 1:-1, 1:-1]


def _kernel(sources: Tensor, lines: Tensor) -> Tensor:
    """``(coil, source)``, least squares with :data:`RIDGE`."""
    gram = sources @ sources.mH
    ridge = RIDGE * gram.diagonal().real.mean() * torch.eye(len(gram), dtype=gram.dtype)
    kernel: Tensor = torch.linalg.solve(gram + ridge, sources @ lines.mH)
    return kernel.mH


def backwards_warnings(name: str, blocks: Sequence[Tensor]) -> list[NumericalWarning]:
    """W-LINES where every other column, or row, of the slices of a scan is backwards."""
    axes = {"columns": blocks, "rows": [block.mT for block in blocks]}
    return [
        NumericalWarning(
            "W-LINES",
            f"{name}: every other one of the {axis} of k-space is stored backwards, as raw EPI is: "
            "the image is mixed with its mirror image",
        )
        for axis, found in axes.items()
        if any(map(backwards, found))
    ]


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
