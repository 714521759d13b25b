"""Checks without a reference: hide measured lines, reconstruct, compare with what was hidden."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .baselines import Baseline, CgSense, L1Wavelet, ZeroFilled
from .batch import Batch
from .masks import subsample_further
from .prior import DenoiserSource
from .rng import rng_for
from .samplers import Aos, data_consistency
from .sense import SenseOp

TAUS = tuple(0.3 * 2 ** (-k / 2) for k in range(13))
"""Candidate errors of one step, relative to sigma_data / 0.3: 0.3 down to 0.005."""


@dataclass(frozen=True)
class HeldOut:
    """A slice with some of its measured outer lines hidden.

    Attributes:
        batch: one slice, ``mask`` without the hidden lines.
        hidden: bool ``(1, 1, y, x)``.
    """

    batch: Batch
    hidden: Tensor

    def error(self, img: Tensor) -> float:
        """Energy of ``F S x - y`` over that of ``y``, on the hidden lines."""
        y = torch.where(self.hidden, self.batch.ksp, 0)
        K = torch.where(self.hidden, self.batch.op.expand(img), 0)
        return float((K - y).abs().square().sum() / y.abs().square().sum())


def hide_lines(batch: Batch, scan_id: str, *, seed: int, fraction: float = 0.2) -> HeldOut:
    """Hide a fixed random share of the sampled outer lines of one slice."""
    kept = subsample_further(batch.mask[0].cpu(), fraction, rng_for(seed, "hold out", scan_id))
    kept = kept.to(batch.mask.device)[None]
    return HeldOut(replace(batch, mask=kept), batch.mask & ~kept)


@torch.no_grad()
def one_step(prior: DenoiserSource, case: HeldOut) -> Tensor:
    """What the prior makes of a slice in one step, before data consistency."""
    batch = case.batch
    ksp = torch.where(batch.mask, batch.ksp, 0)
    return Aos(final_dc=False)(
        prior, batch.op, ksp, noise_std=batch.noise_std, rng=[rng_for(0)] * len(batch)
    )


@torch.no_grad()
def fit_tau(prior: DenoiserSource, cases: Sequence[HeldOut]) -> tuple[float, float, float]:
    """The error to expect of one step, found on hidden measured lines.

    Returns:
        tau, the mean held-out error at this tau, and the one without data consistency.
    """
    taus = [tau * prior.sigma_data / 0.3 for tau in TAUS]
    errors = torch.zeros(len(cases), len(taus) + 1)
    for i, case in enumerate(cases):
        x0 = one_step(prior, case)
        errors[i, -1] = case.error(x0)
        for j, tau in enumerate(taus):
            x = _consistent(case, x0, tau)
            errors[i, j] = case.error(x)
    mean = errors.mean(dim=0)
    best = int(mean[:-1].argmin())
    return taus[best], float(mean[best]), float(mean[-1])


def _consistent(case: HeldOut, x0: Tensor, tau: float) -> Tensor:
    op: SenseOp = case.batch.op
    ksp = torch.where(case.batch.mask, case.batch.ksp, 0)
    return data_consistency(op, ksp, x0, noise_std=case.batch.noise_std, tau=tau, n_iter=Aos().n_cg)


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
def previews(prior: DenoiserSource, cases: Sequence[HeldOut]) -> list[dict[str, Tensor]]:
    """Magnitudes ``(y, x)`` of held-out slices, by method: what the prior adds to see."""
    rows = []
    for case in cases:
        images = {
            "zero-filled": _baseline(ZeroFilled(), case),
            "CG-SENSE": _baseline(CgSense(), case),
            "one step + DC": _consistent(case, one_step(prior, case), prior.tau),
        }
        rows.append({name: img[0].abs().cpu() for name, img in images.items()})
    return rows


def _baseline(method: Baseline, case: HeldOut) -> Tensor:
    batch = case.batch
    ksp = torch.where(batch.mask, batch.ksp, 0)
    return method(batch.op, ksp, noise_std=batch.noise_std)
