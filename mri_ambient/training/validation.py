"""Checks without a reference: hide measured lines, reconstruct, compare with what was hidden."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..methods import Aos, Baseline, CgSense, Dds, L1Wavelet, Method, ZeroFilled
from ..methods.base import data_consistency
from ..physics.masks import subsample_further
from ..priors.prior import DenoiserSource
from ..rng import rng_for
from ..scan import Batch

TAUS = tuple(0.3 * 2 ** (-k / 2) for k in range(13))
"""Candidate errors of an estimate, relative to sigma_data / 0.3: 0.3 down to 0.005."""


@dataclass(frozen=True)
class HeldOut:
    """A slice with some of its measured outer lines hidden.

    Attributes:
        batch: one slice, ``mask`` without the hidden lines.
        hidden: bool ``(1, 1, y, x)``.
    """

    batch: Batch
    hidden: Tensor

    @property
    def tells(self) -> bool:
        """Whether anything was hidden, and anything measured there."""
        return bool(torch.where(self.hidden, self.batch.ksp, 0).any())

    def error(self, img: Tensor) -> float:
        """Energy of ``F S x - y`` over that of ``y``, on the hidden lines."""
        y = torch.where(self.hidden, self.batch.ksp, 0)
        K = torch.where(self.hidden, self.batch.op.expand(img), 0)
        return float((K - y).abs().square().sum() / y.abs().square().sum())


def hold_out(batch: Batch, scan_id: str, *, seed: int) -> HeldOut:
    """Hide a fixed random fifth of the sampled outer lines of one slice; four of a full scan's."""
    fraction = 0.8 if bool((batch.mask[0] | ~batch.acquired[0]).all()) else 0.2
    kept = subsample_further(batch.mask[0].cpu(), fraction, rng_for(seed, "hold out", scan_id))
    kept = kept.to(batch.mask.device)[None]
    return HeldOut(replace(batch, mask=kept), batch.mask & ~kept)


QUICK_LOOK: Method = Dds(n_steps=8, final_dc=False)
"""What draws an image from a prior that cannot take one step, as it knows no masks."""


@torch.no_grad()
def estimate(prior: DenoiserSource, case: HeldOut) -> Tensor:
    """What the prior makes of a slice before the last data consistency: one step, or a sample."""
    method = Aos(final_dc=False) if prior.mask_conditioned else QUICK_LOOK
    rng = [rng_for(0, "held out", i) for i in range(len(case.batch))]
    return method(prior, case.batch, rng)


@torch.no_grad()
def fit_tau(prior: DenoiserSource, cases: Sequence[HeldOut]) -> tuple[float, float, float]:
    """The error to expect of one step (or short sample), found on hidden measured lines.

    Returns:
        tau, the mean held-out error at this tau, and the one without data consistency.
    """
    taus = [tau * prior.sigma_data / 0.3 for tau in TAUS]
    errors = torch.zeros(len(cases), len(taus) + 1)
    for i, case in enumerate(cases):
        x0 = estimate(prior, case)
        errors[i, -1] = case.error(x0)
        for j, tau in enumerate(taus):
            x = _consistent(case, x0, tau)
            errors[i, j] = case.error(x)
    mean = errors.mean(dim=0)
    best = int(mean[:-1].argmin())
    return taus[best], float(mean[best]), float(mean[-1])


def _consistent(case: HeldOut, x0: Tensor, tau: float) -> Tensor:
    batch = case.batch
    return data_consistency(
        batch.op, batch.measured, x0, noise_std=batch.noise_std, tau=tau, n_iter=Aos().n_cg
    )


@torch.no_grad()
def reference_errors(cases: Sequence[HeldOut]) -> dict[str, float]:
    """Mean held-out errors of the classical methods, the bars every prior must clear."""
    if not cases:
        return {}
    found = {}
    for method in (CgSense(), L1Wavelet()):
        errors = [case.error(_baseline(method, case)) for case in cases]
        found[f"held_out_{method.name.replace('-', '_')}"] = sum(errors) / len(errors)
    return found


@torch.no_grad()
def previews(
    prior: DenoiserSource, cases: Sequence[HeldOut], tau: float
) -> list[dict[str, Tensor]]:
    """Magnitudes ``(y, x)`` of held-out slices, by method: what the prior adds to see."""
    rows = []
    for case in cases:
        images = {
            "zero-filled": _baseline(ZeroFilled(), case),
            "CG-SENSE": _baseline(CgSense(), case),
            "prior + DC": _consistent(case, estimate(prior, case), tau),
        }
        rows.append({name: img[0].abs().cpu() for name, img in images.items()})
    return rows


def _baseline(method: Baseline, case: HeldOut) -> Tensor:
    return method(None, case.batch, [])
