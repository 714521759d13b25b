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

from ..errors import NumericalWarning

LEAST_MISFIT = 3.0
"""Error across lines, over what is expected of right ones, that is warned of."""

LEAST_COILS, MAX_COILS = 4, 8
"""Virtual coils of signal, the strongest, that are looked at: fewer do not predict lines."""

LEAST_SIDE = 12
"""Rows and columns without which nothing is said."""

NOISE = 2.0
"""Energy of the noise of a whitened sample."""

LEAST_SIGNAL = 3.0
"""Energy of a coil that counts, over that of the noise: one without signal predicts nothing."""

KERNEL = 0.003
"""Error of a kernel where there is no noise, as a share of the energy that it predicts."""


def line_misfit(block: Tensor) -> float:
    """How much worse the columns beside a column predict it than its samples predict each other.

    The largest mean squared error of a column, over what is expected: that of noise (1), the
    largest within columns, and :data:`KERNEL`. 0 where the block is too small or has too few coils.

    Args:
        block: calibration block ``(coil, y, x)`` of whitened coils, the strongest first.
    """
    energy = block.abs().square().mean(dim=(1, 2))
    block = block[energy > LEAST_SIGNAL * NOISE][:MAX_COILS].to(torch.complex128)
    if len(block) < LEAST_COILS or min(block.shape[1:]) < LEAST_SIDE:
        return 0.0
    near = _rows_around(block, 2)
    sources = torch.cat([row[..., side] for row in near for side in (slice(-2), slice(2, None))])
    across, predicted = prediction_errors(sources, near[2][..., 1:-1])
    own = [row[..., 1:-1] for row in _rows_around(block, 3)]
    within, _ = prediction_errors(torch.cat(own[:3] + own[4:]), own[3])
    return float((across / (1 + within.max() + KERNEL * predicted)).max())


def _rows_around(block: Tensor, reach: int) -> list[Tensor]:
    """The rows ``y - reach ... y + reach`` of every row y that has them, each ``(coil, y, x)``."""
    n = block.shape[1] - 2 * reach
    return [block[:, first : first + n] for first in range(2 * reach + 1)]


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


def line_warnings(name: str, blocks: Sequence[Tensor]) -> list[NumericalWarning]:
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
