"""Lines of k-space that do not belong together: measured of another object, or by another receiver.

Movement between shots, echoes of unequal strength, lines that were lost, copied, interpolated or
taken from another scan give a wrong image, and an RSS that is wrong in the same way. A kernel over
coils predicts a sample from its neighbours and does not depend on the place, as in GRAPPA (Griswold
et al. 2002, doi:10.1002/mrm.10171) and SPIRiT (Lustig and Pauly 2010, doi:10.1002/mrm.22428). Lines
belong together if those beside a line predict it no worse than the samples of the line predict each
other; the second also tells how far coils and noise allow a prediction at all.

Figures: docs/decisions/acquisitions.md.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ...errors import NumericalWarning
from .virtual_coils import (
    LEAST_COILS,
    LEAST_SIDE,
    LEAST_VARIATION,
    LITTLE_VARIATION,
    NOISE,
    coil_variation,
    of_signal,
    rows_around,
)

LEAST_MISFIT = 3.0
"""Error across lines, over what is expected of right ones, that is warned of."""

KERNEL = 0.003
"""Error of a kernel where there is no noise, as a share of the energy that it predicts."""

BADLY = 10.0
"""How many times larger an error is then expected: of slabs it is up to 5 times that of others, of
copied or interpolated lines 67 times or more."""


def line_misfit(block: Tensor) -> float:
    """How much worse the columns beside a column predict it than its samples predict each other.

    The largest mean squared error of a column, over what is expected: that of noise (1), the
    largest within columns, and :data:`KERNEL`; :data:`BADLY` times that where coils hardly differ
    along x. 0 where they do not, and where the block is too small or has too few coils.

    Args:
        block: calibration block ``(coil, y, x)`` of whitened coils, the strongest first.
    """
    block = block[of_signal(block)].to(torch.complex128)
    if len(block) < LEAST_COILS or min(block.shape[1:]) < LEAST_SIDE:
        return 0.0
    if (variation := coil_variation(block)) < LEAST_VARIATION:
        return 0.0
    near = rows_around(block, 2)
    sources = torch.cat([row[..., side] for row in near for side in (slice(-2), slice(2, None))])
    across, predicted = prediction_errors(sources, near[2][..., 1:-1])
    own = [row[..., 1:-1] for row in rows_around(block, 3)]
    within, _ = prediction_errors(torch.cat(own[:3] + own[4:]), own[3])
    expected = 1 + within.max() + KERNEL * predicted
    factor = BADLY if variation < LITTLE_VARIATION else 1.0
    return float((across / expected).max()) / factor


def prediction_errors(sources: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Mean squared error of every column that one kernel predicts, and the energy of what it does.

    Args:
        sources: neighbours of each sample, ``(source, y, x)``.
        target: the samples, ``(coil, y, x)``.

    Returns:
        Errors and energies, real ``(x,)``, over the error that noise makes.
    """
    known, wanted = sources.flatten(1), target.flatten(1)
    ridge = NOISE * len(target) * torch.eye(len(known), dtype=known.dtype)
    kernel = torch.linalg.solve(known @ known.mH + ridge, known @ wanted.mH).mH
    predicted = (kernel @ known).view(target.shape)
    noise = NOISE * (1 + kernel.abs().square().sum(dim=1).mean())  # of a sample and its sources
    parts = (target - predicted, predicted)
    error, energy = (part.abs().square().mean(dim=(0, 1)) / noise for part in parts)
    return error, energy


def misfit_warnings(name: str, blocks: Sequence[Tensor]) -> list[NumericalWarning]:
    """W-LINES for the largest misfit, along x or y, of the slices of a scan."""
    found = [(line_misfit(block), "columns") for block in blocks]
    found += [(line_misfit(block.mT), "rows") for block in blocks]
    misfit, lines = max(found)
    if misfit < LEAST_MISFIT:
        return []
    text = (
        f"{name}: {lines} of k-space do not belong together: their neighbours predict one of them "
        f"with {misfit:.2g} times the squared error that is expected"
    )
    return [NumericalWarning("W-LINES", text)]
