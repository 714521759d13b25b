"""Checks of a reconstruction without a reference: held-out lines, misfit to the prior."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from scipy.special import stdtrit
from torch import Tensor

from ..errors import ConfigError, NumericalWarning
from ..methods.base import OnStep, Sampler
from ..methods.baselines import Baseline, CgSense, L1Wavelet
from ..methods.presets import is_sampler
from ..physics.masks import hold_out_lines
from ..physics.operators import SenseOp
from ..physics.solve import conjugate_gradient
from ..priors.prior import DenoiserSource, Prior
from ..rng import rng_for
from ..scan import Batch, Reconstruction, Scan
from .engine import Options, here_or_on_the_cpu, reconstruct

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
    kept = hold_out_lines(scan.mask.cpu(), n_lines, rng_for(seed, "hold out", scan.scan_id))
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


HIGH_RESIDUAL = 2.0
"""A method with a prior that leaves more than this of the data unexplained, in units of the noise
(at least :data:`LEAST_NOISE`), is worth a warning."""


LOW_RESIDUAL = 0.5
"""And one that leaves less than this share of what least squares would fits noise, or the noise is
said to be larger than it is."""


HIGH_CHI_SQUARE = 4.0
"""Errors on hidden lines this many times what samples and noise predict are flagged: the spread is
less than half of what it should be."""


LEAST_NOISE = 0.01
"""Noise per real channel, normalised units, below which the residual is not compared with it."""


WORSE = 1.1
"""Hidden lines predicted with this many times the error of L1-wavelet, noise taken off both, are
flagged: a few lines tell no finer."""


MOSTLY_NOISE = 0.8
"""Hidden lines with a larger share of noise in their energy tell nothing."""


BRIGHT = 3.0
"""Images this many times brighter or darker than a prior's training images are flagged."""


NOISY = 1.5
"""And scans whose noise is this many times that of the noisiest training scan."""


@dataclass(frozen=True)
class Checking:
    """What is checked of every slice beside the data residual, without a reference.

    Attributes:
        n_hidden: measured outer lines to hide, for a second reconstruction that predicts them; 0
            leaves that out.
        flags: look for what does not fit the prior.
    """

    n_hidden: int = 0
    flags: bool = False

    def __call__(
        self,
        scan: Scan,
        result: Reconstruction,
        method: Sampler | Baseline,
        prior: DenoiserSource | None,
        options: Options,
        *,
        on_step: OnStep | None = None,
    ) -> Reconstruction:
        """The result with more in its checks; ``on_step`` is told about a second sampling."""
        checks: list[dict[str, Any]] = [dict(check) for check in result.checks]
        if self.n_hidden:
            rows = self._hidden(scan, method, prior, options, on_step)
            for check, row in zip(checks if rows else [], rows, strict=True):
                check["held_out"] = row
        if self.flags:
            batch = Batch.of([scan])
            for i, check in enumerate(checks):
                if is_sampler(method):
                    share = here_or_on_the_cpu(
                        prior_share, batch[[i]], result.img[[i]], options.device
                    )
                    check["prior_share"] = float(share)
                support = batch.op.support[i]
                energy = float(result.img[i].abs().square().sum())
                rms = (energy / (2 * max(int(support.sum()), 1))) ** 0.5
                check["flags"] = list(_flags(check, rms, scan, method, prior))
        return replace(result, checks=tuple(checks))

    def _hidden(
        self,
        scan: Scan,
        method: Sampler | Baseline,
        prior: DenoiserSource | None,
        options: Options,
        on_step: OnStep | None,
    ) -> list[dict[str, float]]:
        """What hidden lines tell, or a warning where there are too few: the image is worth more."""
        try:
            return predict_hidden(scan, method, prior, options, self.n_hidden, on_step=on_step)
        except ConfigError as error:
            warnings.warn(
                f"{scan.scan_id}: hidden lines are not checked: {error}",
                NumericalWarning,
                stacklevel=2,
            )
            return []


def _flags(
    check: dict[str, Any],
    rms: float,
    scan: Scan,
    method: Sampler | Baseline,
    prior: DenoiserSource | None,
) -> Iterator[str]:
    """Sentences about what does not fit, of one slice, the gravest first."""
    sigma_n = float(scan.noise_std or 0.0)
    yield from _hidden_flags(check.get("held_out"))
    if check["data_residual"] * sigma_n / max(sigma_n, LEAST_NOISE) > HIGH_RESIDUAL:
        yield f"leaves {check['data_residual']:.1f} sigma_n of the measurement unexplained"
    if not (is_sampler(method) and isinstance(prior, Prior)):
        return
    if check["data_residual"] < LOW_RESIDUAL * _least_residual(scan) and sigma_n > LEAST_NOISE:
        yield (
            f"explains the measurement to {check['data_residual']:.1f} sigma_n, better than its "
            "noise allows: the noise may be smaller than is said"
        )
    if rms > 0 and not 1 / BRIGHT < rms / prior.sigma_data < BRIGHT:
        yield f"is {rms / prior.sigma_data:.2f} times as bright as the prior's training images"
    # Cards of older priors do not say it; the smallest trained level lies above nearly all of them.
    most = prior.facts.card.get("sigma_n", [prior.sigma_min])[-1]
    if sigma_n > NOISY * most:
        yield f"has noise {sigma_n:.4f}, the prior's training scans at most {most:.4f}"


def _least_residual(scan: Scan) -> float:
    """What least squares would leave, in sigma_n; 0 where there are no more samples than pixels."""
    n_samples = int(scan.mask.sum()) * scan.n_coils
    return math.sqrt(max(0.0, 1 - scan.shape[0] * scan.shape[1] / n_samples))


def _hidden_flags(held_out: dict[str, float] | None) -> Iterator[str]:
    """What is wrong with predictions of hidden lines, beyond what their noise explains."""
    if not held_out or held_out["noise"] > MOSTLY_NOISE:
        return
    excess, of_l1 = (held_out[name] - held_out["noise"] for name in ("error", "l1_wavelet"))
    if excess > 1 or (held_out["error"] > 1 and excess > of_l1):
        yield f"predicts hidden lines worse than nothing would (error {held_out['error']:.3f})"
    elif excess > max(WORSE * of_l1, 0.0):
        yield (
            f"predicts hidden lines worse (error {held_out['error']:.3f}, noise alone "
            f"{held_out['noise']:.3f}) than L1-wavelet ({held_out['l1_wavelet']:.3f})"
        )
    if held_out.get("chi_square", 0.0) > HIGH_CHI_SQUARE:
        yield (
            f"has samples whose spread, with the noise, explains 1/{held_out['chi_square']:.1f} of "
            "the error on hidden lines"
        )
