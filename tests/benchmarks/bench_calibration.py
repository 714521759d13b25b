"""Are samples as far from the truth as they should be? Every rule for M~, with an exact prior.

    python tests/benchmarks/bench_calibration.py [--signals 200] [--noise 0.05] [--rate 4]

Signals of 64 pixels with a known Gaussian law (neighbours correlated over ``--length`` pixels),
smooth coils, random lines, noise per channel as given: posterior mean and error are known in closed
form, and so is the exact denoiser under every mask. Each signal is measured once and sampled four
times, by training masks of the scan's rate.

Printed, one JSON line per rule: the mean squared error of one sample over that of the posterior
mean (2.00 for posterior samples), of the mean of four samples (1.25), and the variance of the
samples over the posterior's (1.00), with standard errors over the signals; and how far the mean of
the samples' law is from the posterior's (0.00). Rules of ``dds``, with a constant share of fresh
noise: a prior that sees everything (plain priors), the scan's mask, one fresh random mask per step,
the average of six, one mask for all steps. Beside them ``dds`` with fresh noise as by default,
``msm`` (coverage-weighted averages), ``pula``, and A-DPS, with a plain prior and with its single
mask. No sampler ends with a data-consistency solve: the denoisers are exact.

``--quick`` runs a few signals and few steps.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Generator, Tensor

from mri_ambient.methods import Adps, Dds, Msm, Pula, Sampler
from mri_ambient.physics.operators import SenseOp
from mri_ambient.priors.prior import DenoiseFn, DenoiserSource, Further
from mri_ambient.rng import complex_normal, rng_for
from mri_ambient.scan import Batch

N = 64
N_SAMPLES = 4


@dataclass(frozen=True)
class Exact(DenoiserSource):
    """The exact denoiser of CN(0, 2 cov), under masks by one of several rules.

    Attributes:
        cov: covariance per real channel, ``(N, N)``.
        rule: "everything", "sampler" (the mask that the sampler chooses), "fresh" (random masks,
            new for every evaluation) or "frozen" (one random mask for all).
        lines: share of the lines that a training mask keeps.
        n_masks: how many denoised images are averaged where masks are fresh.
    """

    cov: Tensor
    rule: str
    lines: float = 0.25
    n_masks: int = 1
    sigma_min: float = 0.01
    tau: float = 0.05

    @property
    def mask_conditioned(self) -> bool:
        """Whether the denoised image depends on a mask."""
        return self.rule != "everything"

    @property
    def sigma_data(self) -> float:
        """Standard deviation per real channel."""
        return float(self.cov.diagonal().mean().sqrt())

    def training_mask(self, op: SenseOp, rng: Sequence[Generator]) -> Tensor | None:
        """Random lines with the middle ones always kept."""
        return torch.stack([lines(g, self.lines) for g in rng])

    def denoiser(
        self, op: SenseOp, rng: Sequence[Generator], further: Further = "scan"
    ) -> DenoiseFn:
        """See :class:`~mri_ambient.priors.prior.DenoiserSource`."""
        if self.rule == "fresh":
            given = replace(self, rule="sampler")

            def average(z: Tensor, sigma: Tensor) -> Tensor:
                masks = [given.training_mask(op, rng) for _ in range(self.n_masks)]
                images = [given.denoiser(op, rng, further=mask)(z, sigma) for mask in masks]
                return torch.stack(images).mean(dim=0)

            return average
        if self.rule == "everything":
            mask = torch.ones(1, 1, 1, N, dtype=torch.bool)
        elif self.rule == "frozen" or further == "training":
            mask = torch.stack([lines(g, self.lines) for g in rng])
        else:
            mask = op.mask if isinstance(further, str) else further
        inner = op.with_mask(mask)
        eye = torch.eye(N, dtype=op.maps.dtype)[:, None]
        normal = torch.stack(
            [SenseOp(op.maps[0], m).normal(eye)[:, 0].mT for m in mask]
        )  # (b, N, N), or (1, N, N) of one mask

        def denoise(z: Tensor, sigma: Tensor) -> Tensor:
            u = inner.adjoint(z)[:, 0, :, None]
            if len(normal) == 1 and bool((sigma == sigma[0]).all()):  # one system for all
                left = self.cov.to(u) @ normal[0] + sigma[0] ** 2 * torch.eye(N)
                return torch.linalg.solve(left, self.cov.to(u) @ u[..., 0].mT).mT[:, None]
            left = self.cov.to(u) @ normal + sigma[:, None, None] ** 2 * torch.eye(N)
            return torch.linalg.solve(left, self.cov.to(u) @ u)[:, None, :, 0]

        return denoise


def lines(rng: Generator, share: float, calib: int = 4) -> Tensor:
    """A random line mask ``(1, 1, N)`` with ``calib`` central lines."""
    mask = torch.zeros(N, dtype=torch.bool)
    mask[N // 2 - calib // 2 : N // 2 + calib // 2] = True
    rest = (~mask).nonzero()[:, 0]
    n_more = round(share * N) - calib
    mask[rest[torch.randperm(len(rest), generator=rng)[:n_more]]] = True
    return mask[None, None]


def coils(n: int) -> Tensor:
    """Smooth coils with phase, normalised: ``(n, 1, N)``."""
    x = torch.linspace(-1, 1, N, dtype=torch.float64)
    centers = torch.linspace(-1, 1, n, dtype=torch.float64)[:, None]
    size = torch.exp(-((x - centers) ** 2) / 0.8)
    maps = torch.polar(size, 2 * centers * x)
    return (maps / maps.abs().square().sum(dim=0).sqrt())[:, None]


def measure(
    n: int, sigma_n: float, n_coils: int = 8, rate: float = 4.0, length: float = 8.0
) -> tuple[Tensor, Tensor, Tensor, Tensor, SenseOp, Tensor]:
    """Signals, what a scan measures of them, and their posterior.

    Returns:
        Truth ``(n, N)``, k-space ``(n, n_coils, 1, N)``, posterior means ``(n, N)``, covariances
        ``(n, N, N)``, the operator, and the prior covariance.
    """
    place = torch.arange(N, dtype=torch.float64)
    cov = torch.exp(-(place[:, None] - place).abs() / length)
    root = torch.linalg.cholesky(cov).to(torch.complex128)
    maps = coils(n_coils)
    masks = torch.stack([lines(rng_for(0, "scan", i), 1 / rate) for i in range(n)])
    op = SenseOp(maps.expand(n, n_coils, 1, N), masks)
    noises = [rng_for(0, "signal", i) for i in range(n)]
    x = torch.stack([root @ complex_normal((N,), g, dtype=torch.complex128) for g in noises])
    noise = [complex_normal((n_coils, 1, N), g, dtype=torch.complex128) for g in noises]
    y = op(x[:, None]) + sigma_n * torch.stack(noise) * masks
    prior = Exact(cov, "sampler")
    mean = prior.denoiser(op, noises, "scan")(y, torch.full((n,), sigma_n).double())[:, 0]
    eye = torch.eye(N, dtype=torch.complex128)[:, None]
    normal = torch.stack([SenseOp(maps, m).normal(eye)[:, 0].mT for m in masks])
    post = torch.linalg.inv(normal / sigma_n**2 + torch.linalg.inv(cov).to(normal))
    return x, y, mean, post, op, cov


def ratio(above: Tensor, below: Tensor) -> tuple[float, float]:
    """Ratio of two means over the signals and its standard error."""
    value = above.mean() / below.mean()
    error = (above - value * below).std() / len(above) ** 0.5 / below.mean()
    return round(float(value), 3), round(float(error), 3)


def bias(samples: Tensor, mean: Tensor, post: Tensor) -> float:
    """RMS distance of the samples' law's mean from the posterior's, in posterior deviations.

    Over the eigendirections of the posterior, alike; what the mean of few samples is off by chance
    is taken off.

    Args:
        samples: ``(sample, signal, N)``.
        mean: posterior means ``(signal, N)``.
        post: their covariances per real channel, ``(signal, N, N)``.
    """
    variance, directions = torch.linalg.eigh(post)

    def along(x: Tensor) -> Tensor:
        return (directions.mH @ x[..., None])[..., 0].abs().square() / (2 * variance)

    middle = samples.mean(dim=0)
    chance = sum(along(one - middle) for one in samples) / (len(samples) - 1) / len(samples)
    return round(float((along(middle - mean) - chance).mean().clamp(min=0).sqrt()), 3)


def main() -> None:
    """Sample, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--signals", type=int, default=200)
    parser.add_argument("--noise", type=float, default=0.05, help="per channel")
    parser.add_argument("--coils", type=int, default=8)
    parser.add_argument("--rate", type=float, default=4.0, help="of the scan and of training masks")
    parser.add_argument("--length", type=float, default=8.0, help="of correlation, in pixels")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--n-cg", type=int, help="of dds, msm and pula, unlike their own default")
    parser.add_argument("--share", type=float, default=0.5, help="of fresh noise, of even dds")
    parser.add_argument("--only", action="append", help="only rules of these beginnings")
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    if args.quick:
        args.signals, args.steps = 3, 2
    x, y, mean, post, op, cov = measure(
        args.signals, args.noise, args.coils, args.rate, args.length
    )
    plain, masked, fresh, frozen = (
        Exact(cov, rule, lines=1 / args.rate)
        for rule in ("everything", "sampler", "fresh", "frozen")
    )
    dds = Dds(n_steps=args.steps, n_cg=args.n_cg, final_dc=False)
    even = replace(dds, renoise="diffpir", eta=args.share**2)
    msm = Msm(n_steps=args.steps, n_cg=args.n_cg, final_dc=False)
    pula = Pula(n_steps=2 * args.steps, n_cg=args.n_cg, final_dc=False)
    adps = Adps(n_steps=5 * args.steps, step_size=0.5)
    rules: dict[str, tuple[Sampler, Exact]] = {
        "even dds, plain prior": (even, plain),
        "even dds, six random masks, averaged": (even, replace(fresh, n_masks=6)),
        "even dds, the scan's mask": (even, masked),
        "even dds, one random mask": (even, fresh),
        "even dds, one mask for all steps": (even, frozen),
        "dds, plain prior": (dds, plain),
        "dds, the scan's mask": (dds, masked),
        "msm, one random mask": (replace(msm, n_masks=1), masked),
        "msm, six random masks": (replace(msm, n_masks=6), masked),
        "pula, plain prior": (pula, plain),
        "pula, the scan's mask": (pula, masked),
        "adps, plain prior": (adps, plain),
        "adps, one mask for all steps": (adps, masked),
    }
    best = (mean - x).abs().square().sum(dim=1)
    wide = 2 * post.diagonal(dim1=1, dim2=2).real.sum(dim=1)
    batch = Batch.of_measurement(op, y, torch.full((args.signals,), args.noise).double())
    for name, (method, prior) in rules.items():
        if args.only and not name.startswith(tuple(args.only)):
            continue
        draws = []
        for k in range(N_SAMPLES):
            streams = [rng_for(1, i, k) for i in range(args.signals)]
            with torch.set_grad_enabled(method.needs_grad):
                out = method(prior, batch, streams)
            draws.append(out.detach()[:, 0])
        samples = torch.stack(draws)
        one = (samples - x).abs().square().sum(dim=2).mean(dim=0)
        four = (samples.mean(dim=0) - x).abs().square().sum(dim=1)
        spread = samples.var(dim=0).sum(dim=1)
        row = {
            "benchmark": "calibration",
            "rule": name,
            "evaluations": method.n_evaluations * prior.n_masks,
        }
        pairs = {"one": (one, best), "mean_of_4": (four, best), "spread": (spread, wide)}
        for key, pair in pairs.items():
            row[key], row[f"{key}_error"] = ratio(*pair)
        row["bias"] = bias(samples, mean, post)
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
