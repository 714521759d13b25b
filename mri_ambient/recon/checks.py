"""Checks of a reconstruction that need no reference: figures and flags of every slice."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..errors import ConfigError, warn
from ..physics.solve import conjugate_gradient
from ..scan import Batch, Scan
from .engine import Engine, SliceImages
from .held_out import predict_held_out
from .recipe import ResolvedRecipe

HIGH_RESIDUAL = 2.0
"""A method with a prior that leaves a residual above this, in units of the noise (at least
:data:`RESIDUAL_NOISE`), does not fit the data."""

LOW_RESIDUAL = 0.5
"""With a residual below this share of that of least squares, it fits noise, or the noise is
overestimated."""

HIGH_CHI_SQUARE = 4.0
"""Errors on held-out lines this many times those that samples and noise predict are flagged: the
standard deviation is less than half of what it should be."""

RESIDUAL_NOISE = 0.01
"""Least noise, per real channel, normalised units, that a data residual is compared with."""

WORSE = 1.1
"""Held-out lines predicted with this many times the error of L1-wavelet, noise subtracted from
both, are flagged: a few lines cannot resolve less."""

NOISE_ERROR = 0.1
"""Errors that differ by less than this share of the noise energy are not told apart."""

MOSTLY_NOISE = 0.8
"""Held-out lines with a larger share of noise in their energy are not judged."""

BRIGHT = 3.0
"""Images this many times brighter or darker than a prior's training images are flagged."""

NOISY = 1.5
"""Scans whose noise is this many times that of the noisiest training scan are flagged."""

NULL_SPACE_RIDGE = 0.05
"""Directions that the measurement weakens by more than this (in energy) count as unmeasured."""

NULL_SPACE_CG = 30
"""Conjugate-gradient steps by which they are found."""


def check_slices(engine: Engine, scan: Scan, result: SliceImages, name: str = "") -> SliceImages:
    """The result with the checks of the recipe added to those of every slice.

    W-HELD-OUT-SKIPPED where there are too few lines to hold out; ``name`` is that of the file.
    """
    wanted = engine.recipe.checks
    checks: list[dict[str, Any]] = [dict(check) for check in result.checks]
    if wanted.n_held_out:
        try:
            rows = predict_held_out(engine, scan, wanted.n_held_out)
        except ConfigError as error:
            warn("W-HELD-OUT-SKIPPED", f"{name or scan.scan_id}: {str(error).partition(';')[0]}")
        else:
            for check, row in zip(checks, rows, strict=True):
                check["held_out"] = row
    if wanted.flags:
        batch = Batch.of([scan])
        support = batch.op.support
        for i, check in enumerate(checks):
            if engine.recipe.method.needs_prior:
                share = engine.evaluate(null_space_energy, batch[[i]], result.img[[i]])
                check["prior_share"] = float(share)
            energy = float(result.img[i].abs().square().sum())
            rms = float((energy / (2 * max(int(support[i].sum()), 1))) ** 0.5)
            check["flags"] = list(flags(check, rms, scan, engine.recipe))
    return replace(result, checks=tuple(checks))


@torch.no_grad()
def null_space_energy(batch: Batch, img: Tensor) -> Tensor:
    """Share of each image's energy in the near-null space of A, which the prior adds, ``(b,)``.

    The energy of x - (A^H A + e)^-1 A^H A x over that of x. It is a property of an image; that of a
    mask and coils is :func:`mri_ambient.physics.coverage.null_space_fraction`.
    """
    op = batch.op
    measured = conjugate_gradient(
        lambda v: op.normal(v) + NULL_SPACE_RIDGE * v, op.normal(img), n_iter=NULL_SPACE_CG
    )
    rest, whole = (x.abs().square().sum(dim=(-2, -1)) for x in (img - measured, img))
    return rest / whole.clamp(min=1e-30)


def flags(check: dict[str, Any], rms: float, scan: Scan, recipe: ResolvedRecipe) -> Iterator[str]:
    """Sentences about what does not fit in one slice of a prepared scan, the most serious first.

    Args:
        check: figures of the slice.
        rms: of its image per real channel inside the support, normalised units.
        scan: what was reconstructed.
        recipe: and how.
    """
    sigma_n, prior = float(scan.noise_std or 0.0), recipe.prior
    yield from held_out_flags(check.get("held_out"))
    if residual_in_noise(check["data_residual"], sigma_n) > HIGH_RESIDUAL:
        yield f"has a data residual of {check['data_residual']:.1f} sigma_n"
    if prior is None:
        return
    # What least squares leaves; nothing if there are fewer samples than pixels.
    share = scan.n_sets * scan.shape[0] * scan.shape[1] / (int(scan.mask.sum()) * scan.n_coils)
    least = math.sqrt(max(0.0, 1 - share))
    if check["data_residual"] < LOW_RESIDUAL * least and sigma_n > RESIDUAL_NOISE:
        yield (
            f"has a data residual of {check['data_residual']:.1f} sigma_n, less than its noise "
            "allows: the noise may be overestimated"
        )
    if rms > 0 and not 1 / BRIGHT < rms / prior.sigma_data < BRIGHT:
        yield f"is {rms / prior.sigma_data:.2f} times as bright as the prior's training images"
    # Older cards lack sigma_n; the smallest trained level lies above nearly all training noise.
    most = prior.card.get("sigma_n", [prior.sigma_min])[-1]
    if sigma_n > NOISY * most:
        yield f"has noise {sigma_n:.4f}, the prior's training scans at most {most:.4f}"


def residual_in_noise(data_residual: float, sigma_n: float) -> float:
    """A data residual (given in sigma_n) in units of the noise, at least :data:`RESIDUAL_NOISE`."""
    return data_residual * sigma_n / max(sigma_n, RESIDUAL_NOISE)


def held_out_flags(held_out: dict[str, float] | None) -> Iterator[str]:
    """Sentences about errors on held-out lines that noise does not explain."""
    if not held_out or held_out["noise"] > MOSTLY_NOISE:
        return
    excess, of_l1 = (held_out[name] - held_out["noise"] for name in ("error", "l1_wavelet"))
    uncertain = NOISE_ERROR * held_out["noise"]
    of_zeros = 1 - held_out["noise"]  # of an image without signal
    if excess > of_zeros + uncertain or (excess > of_zeros and excess > of_l1):
        yield f"predicts held-out lines worse than zeros would (error {held_out['error']:.3f})"
    elif excess > max(WORSE * of_l1, 0.0) + uncertain:
        yield (
            f"predicts held-out lines worse (error {held_out['error']:.3f}, noise alone "
            f"{held_out['noise']:.3f}) than L1-wavelet ({held_out['l1_wavelet']:.3f})"
        )
    if held_out.get("chi_square", 0.0) > HIGH_CHI_SQUARE:
        yield (
            "has samples whose standard deviation, with the noise, explains "
            f"1/{held_out['chi_square']:.1f} of the error on held-out lines"
        )
