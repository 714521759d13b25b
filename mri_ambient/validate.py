"""Checks without a reference: hide measured lines, reconstruct, compare with what was hidden."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from scipy.special import stdtrit
from torch import Tensor

from .baselines import Baseline, CgSense, L1Wavelet, ZeroFilled
from .batch import Batch
from .masks import hide_lines, subsample_further
from .prior import DenoiserSource
from .reconstruct import Options, reconstruct
from .rng import rng_for
from .samplers import Aos, Dds, OnStep, Sampler, data_consistency
from .scan import Scan
from .sense import SenseOp
from .solve import conjugate_gradient

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


QUICK_LOOK: Sampler = Dds(n_steps=8, final_dc=False)
"""What draws an image from a prior that cannot take one step, as it knows no masks."""


@torch.no_grad()
def estimate(prior: DenoiserSource, case: HeldOut) -> Tensor:
    """What the prior makes of a slice before the last data consistency: one step, or a sample."""
    batch = case.batch
    method = Aos(final_dc=False) if prior.knows_masks else QUICK_LOOK
    return method(
        prior,
        batch.op,
        torch.where(batch.mask, batch.ksp, 0),
        noise_std=batch.noise_std,
        rng=[rng_for(0, "held out", i) for i in range(len(batch))],
    )


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
    batch = case.batch
    ksp = torch.where(batch.mask, batch.ksp, 0)
    return method(batch.op, ksp, noise_std=batch.noise_std)


TOLD_LEVELS = (0.5, 0.9)
"""Central intervals whose coverage is told."""


def predict_hidden(
    scan: Scan,
    method: Sampler | Baseline,
    prior: DenoiserSource | None,
    options: Options,
    n_lines: int,
    *,
    on_step: OnStep | None = None,
) -> list[dict[str, float]]:
    """Hide measured outer lines, reconstruct from the rest, and compare with what was hidden.

    Needs no reference, and cannot be fooled by the data residual: the method never saw these lines.
    The same lines are hidden in all slices; they are the most of what a check can know, and still
    not the lines that were never measured.

    Args:
        scan: prepared.
        method: a sampler or a baseline.
        prior: what images look like.
        options: of the reconstruction; samples give the spread that is checked.
        n_lines: how many to hide.
        on_step: told about every step of a sampler.

    Returns:
        For every slice (nothing for one without signal): ``error``, energy of F S x - y over that
        of y on the hidden lines; ``noise``, what the scanner's noise alone makes of it;
        ``cg_sense`` and ``l1_wavelet``, the same error of these methods. With several samples also
        ``coverage_50`` and ``coverage_90``, the share of hidden measurements (Re and Im) in the
        central predictive intervals, Student's t with the samples' degrees of freedom; and
        ``chi_square``, the energy of the error over what samples and noise predict, 1 if they are
        right. The spread is that of ``reconstruction_std``: with the factor of the prior's card.

    Raises:
        ConfigError: there are not enough lines.
    """
    cut = cut_lines(scan, n_lines, options.seed)
    result = reconstruct(cut.seen, method, prior, options, on_step=on_step)
    others = {
        name: reconstruct(cut.seen, baseline, None, options).img
        for name, baseline in (("cg_sense", CgSense()), ("l1_wavelet", L1Wavelet()))
    }
    rows: list[dict[str, float]] = []
    for i in range(len(scan.slices)):
        y, K = cut.hidden_samples(i), cut.predictions(i, result.img[i : i + 1])[0]
        energy = float(y.abs().square().sum())
        if energy == 0:  # a slice without signal tells nothing
            rows.append({})
            continue
        row = {
            "error": float((K - y).abs().square().sum()) / energy,
            "noise": 2 * cut.sigma_n**2 * y.numel() / energy,
        }
        for name, img in others.items():
            K = cut.predictions(i, img[i : i + 1])[0]
            row[name] = float((K - y).abs().square().sum()) / energy
        if result.samples is not None:
            K = cut.predictions(i, result.samples[:, i])
            factor = result.provenance["std_factor"]
            row |= _spread_checks(y, K, cut.sigma_n, factor)
        rows.append(row)
    return rows


@dataclass(frozen=True)
class CutScan:
    """A prepared scan of which some measured lines are hidden.

    Attributes:
        whole: all that was measured.
        seen: without the hidden lines.
        maps: of the scan, ``(slice, coil, y, x)``.
        hidden: bool ``(1, y, x)``.
    """

    whole: Scan
    seen: Scan
    maps: Tensor
    hidden: Tensor

    @property
    def sigma_n(self) -> float:
        """Noise per real channel."""
        return float(self.whole.noise_std or 0.0)

    def hidden_samples(self, i: int) -> Tensor:
        """What was measured on the hidden lines of the i-th slice, all coils, ``(n,)``."""
        return self.whole.ksp[i][self.hidden.expand(self.whole.ksp[i].shape)]

    def predictions(self, i: int, images: Tensor) -> Tensor:
        """What images ``(k, y, x)`` of the i-th slice say they are, ``(k, n)``."""
        K = SenseOp(self.maps[i], self.hidden).expand(images)
        return K[:, self.hidden.expand(K.shape[1:])]


def cut_lines(scan: Scan, n_lines: int, seed: int) -> CutScan:
    """Hide ``n_lines`` measured outer lines, drawn by seed and scan.

    Raises:
        ConfigError: there are not enough lines.
    """
    if scan.maps is None:
        raise ValueError(f"{scan.scan_id}: not prepared; maps are missing")
    kept = hide_lines(scan.mask.cpu(), n_lines, rng_for(seed, "hold out", scan.scan_id))
    seen = replace(scan, mask=kept, ksp=torch.where(kept, scan.ksp, 0))
    return CutScan(scan, seen, scan.maps, scan.mask & ~kept)


def _spread_checks(y: Tensor, K: Tensor, sigma_n: float, factor: float = 1.0) -> dict[str, float]:
    """Coverage and chi-square of measurements ``(n,)`` by samples of them ``(sample, n)``."""
    residual, drawn = residual_and_variance(y, K)
    drawn = factor**2 * drawn  # what the prior's card says that the spread lacks
    found = {"chi_square": float(residual.square().sum() / (drawn + sigma_n**2).sum())}
    for level in TOLD_LEVELS:
        inside = covered(residual, drawn, sigma_n, len(K), level)
        found[f"coverage_{round(100 * level)}"] = float(inside.double().mean())
    return found


def residual_and_variance(y: Tensor, K: Tensor) -> tuple[Tensor, Tensor]:
    """Measured less predicted, and the variance that samples give it, per real channel ``(n, 2)``.

    The mean of K samples has 1/K of their variance, and what it predicts has all of it.
    """
    residual = torch.view_as_real(K.mean(dim=0) - y).double()
    return residual, torch.view_as_real(K).var(dim=0).double() * (1 + 1 / len(K))


def covered(
    residual: Tensor, drawn: Tensor, sigma_n: float, n_samples: int, level: float
) -> Tensor:
    """Which residuals lie in the central predictive interval: Student's t.

    Degrees of freedom by Welch and Satterthwaite: the noise is known, the samples' variance was
    estimated from ``n_samples``.
    """
    total = drawn + sigma_n**2
    freedom = (n_samples - 1) * (total / drawn.clamp(min=1e-30)).square()
    width = torch.from_numpy(stdtrit(freedom.clamp(max=1e6).numpy(), (1 + level) / 2))
    return residual.abs() <= width * total.sqrt()


PRIOR_RIDGE = 0.05
"""Directions that the measurement weakens by more than this (in energy) count as unmeasured."""


@torch.no_grad()
def prior_share(batch: Batch, img: Tensor, *, n_cg: int = 30) -> Tensor:
    """Share of each image's energy that the measurement cannot have given, ``(b,)``.

    What is left of x without (A^H A + e)^-1 A^H A x: its part in the near-null space of A.
    """
    measured = conjugate_gradient(
        lambda v: batch.op.normal(v) + PRIOR_RIDGE * v, batch.op.normal(img), n_iter=n_cg
    )
    left, whole = (x.abs().square().sum(dim=(-2, -1)) for x in (img - measured, img))
    return left / whole.clamp(min=1e-30)
