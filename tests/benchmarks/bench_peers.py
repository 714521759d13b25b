"""deepinv's samplers and ours with the same prior on the same scans: quality, work and time.

    python tests/benchmarks/bench_peers.py VAL.zip [--prior PRIOR]

deepinv (BSD-3-Clause) wants an environment of its own; instead of torchvision it is given a stub::

    pip install . && pip install --no-deps deepinv==0.5.0 natsort einops torchmetrics \\
        lightning-utilities

Scans are those of ``bench_samplers.py``. deepinv is given the same maps, masks, k-space and noise
through its ``MultiCoilMRI``, and the prior as its ``Denoiser``, with the mask of our samplers. Its
images are in [0, 1] and DiffPIR clamps to it, so there the problem is shifted and scaled until the
image lies inside; the clipping of DPS is removed. One sample each, in fp32. Every weight of a grid
is printed, for the best in hindsight: that favours deepinv, as our samplers run with their
defaults.

Prints one JSON line per method: PSNR (dB, inside the support, against the noise-free RSS image),
network evaluations (differentiated for DPS, half of them, and A-DPS, all) and seconds per image.
Without deepinv only our rows are printed. ``--quick`` runs one phantom with few steps.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
import torch
from bench_adps import simulate
from scoring import Case
from torch import Tensor
from torch.nn import functional

from mri_ambient.methods import Adps, Aos, Dds, Sampler
from mri_ambient.priors.checkpoint import load_prior
from mri_ambient.priors.prior import DenoiseFn, Prior
from mri_ambient.priors.weights import default_prior
from mri_ambient.recon.engine import Engine
from mri_ambient.recon.recipe import Recipe
from mri_ambient.rng import complex_normal, rng_for
from mri_ambient.runtime.device import Runtime
from mri_ambient.scan import Batch

DIFFPIR_LAMBDA = (0.5, 2.0, 7.0, 30.0)
"""Its default is 7."""

DPS_WEIGHT = {"annealed": (1.0, 3.0, 10.0, 30.0), "norm": (1.0, 10.0, 100.0, 1e3, 1e4)}
"""By form of guidance; its default is "norm" with 1."""

SEED = 7
"""Of the samples."""


class Stub(ModuleType):
    """A module of which every name is a class, strings for want of anything else."""

    __path__: ClassVar[list[str]] = []

    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (str,), {"NEAREST": "nearest"})


def rotate(img: Tensor, angle: float, interpolation: str, expand: bool = False) -> Tensor:
    """Images ``(b, c, y, x)`` turned counter-clockwise by ``angle`` degrees, zeros beside them.

    As ``torchvision.transforms.functional.rotate`` does it, which deepinv's ``Rotate`` calls.
    """
    assert not expand, "only at constant shape"
    cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    ny, nx = img.shape[-2:]
    turn = torch.tensor([[cos, -sin * ny / nx, 0.0], [sin * nx / ny, cos, 0.0]])
    grid = functional.affine_grid(turn.expand(len(img), 2, 3), list(img.shape), align_corners=False)
    return functional.grid_sample(img, grid, mode=interpolation, align_corners=False)


def import_deepinv() -> Any:
    """The package; in place of torchvision, of which it only needs ``rotate``, a stub."""
    parts = ("transforms", "transforms.functional", "utils", "datasets", "datasets.folder")
    for name in ("torchvision", *(f"torchvision.{part}" for part in (*parts, "datasets.utils"))):
        sys.modules[name] = module = Stub(name)
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], child, module)
    sys.modules["torchvision.transforms.functional"].rotate = rotate
    import deepinv

    return deepinv


def planes(img: Tensor) -> Tensor:
    """Complex ``(b, ...)`` to real ``(b, 2, ...)``."""
    return torch.stack([img.real, img.imag], dim=1)


def complex_image(x: Tensor) -> Tensor:
    """Real ``(b, 2, y, x)`` to complex ``(b, y, x)``."""
    return torch.complex(x[:, 0].float(), x[:, 1].float())


def physics_of(deepinv: Any, batch: Batch, scale: float = 1.0) -> Any:
    """deepinv's operator of a batch, whose images are in units of ``scale``."""
    return deepinv.physics.MultiCoilMRI(
        mask=batch.mask.float(),
        coil_maps=batch.maps,
        img_size=tuple(batch.maps.shape[-2:]),
        noise_model=deepinv.physics.GaussianNoise(float(batch.noise_std.mean()) / scale),
    )


def check_physics(physics: Any, batch: Batch) -> None:
    """Forward and adjoint are ours, and the adjoint belongs to the forward (dot test)."""
    op, x = batch.op, complex_normal(tuple(batch.maps[:, 0].shape), rng_for(0, "image"))
    y = complex_normal(tuple(batch.ksp.shape), rng_for(0, "ksp"))
    pairs = [(physics.A(planes(x)), planes(op(x)))]
    pairs += [(physics.A_adjoint(planes(y)), planes(op.adjoint(y)))]
    assert all((theirs - ours).norm() < 1e-5 * ours.norm() for theirs, ours in pairs), "differs"
    (forward, _), (adjoint, _) = pairs
    dots = [(forward * planes(y)).sum(), (planes(x) * adjoint).sum()]
    assert (dots[0] - dots[1]).abs() < 1e-5 * x.norm() * y.norm(), f"dot test: {dots}"


@dataclass(frozen=True)
class Problem:
    """One scan as deepinv sees it, in units of ``2 c``, shifted by one half where asked.

    Attributes:
        batch: the scan.
        denoise: the prior, bound to it.
        prior: whose noise levels are never left downwards.
        scale: normalised units of one unit here.
        shift: what is added to both channels.
    """

    batch: Batch
    denoise: DenoiseFn
    prior: Prior
    scale: float
    shift: float

    def physics(self, deepinv: Any) -> Any:
        """Its operator, checked against ours."""
        physics = physics_of(deepinv, self.batch, self.scale)
        check_physics(physics, self.batch)
        return physics

    def measurement(self, physics: Any) -> Tensor:
        """k-space in the units of the problem."""
        op = self.batch.op
        ksp = planes(torch.where(op.mask, self.batch.ksp, 0)) / self.scale
        flat = torch.full((1, 2, *op.ishape), self.shift)
        return ksp + physics.A(flat)

    def into(self, img: Tensor) -> Tensor:
        """Normalised image to the units of the problem."""
        return planes(img) / self.scale + self.shift

    def out_of(self, x: Tensor) -> Tensor:
        """And back."""
        return complex_image((x - self.shift) * self.scale)

    def denoiser(self, deepinv: Any) -> Any:
        """The prior as its Denoiser."""
        problem = self

        class Wrapped(deepinv.models.Denoiser):
            def forward(self, x: Tensor, sigma: Any, **_: Any) -> Tensor:
                level = problem.scale * torch.as_tensor(sigma, dtype=torch.float32).reshape(-1)[:1]
                level = level.clamp(min=problem.prior.sigma_min)
                state = problem.batch.op.expand(problem.out_of(x))
                return problem.into(problem.denoise(state, level))

        return Wrapped()


def diffpir(deepinv: Any, prior: Prior, batch: Batch, n_steps: int, weight: float) -> Tensor:
    """``deepinv.sampling.DiffPIR``."""
    zero_filled = batch.op.adjoint(batch.ksp)
    largest = 1.5 * float(planes(zero_filled).abs().max())
    denoise = prior.denoiser(batch.op, [rng_for(SEED, "mask")], further="scan")
    problem = Problem(batch, denoise, prior, scale=2 * largest, shift=0.5)
    physics = problem.physics(deepinv)
    sampler = deepinv.sampling.DiffPIR(
        problem.denoiser(deepinv), deepinv.optim.L2(), max_iter=n_steps, lambda_=weight,
        sigma=float(batch.noise_std) / problem.scale,
    )  # fmt: skip
    y = problem.measurement(physics)
    return problem.out_of(sampler(y, physics, seed=SEED, x_init=problem.into(zero_filled)))


def dps(
    deepinv: Any, prior: Prior, batch: Batch, n_steps: int, weight: float, guidance: str
) -> Tensor:
    """``deepinv.sampling.DPS`` on the noise levels of our priors (variance exploding)."""
    denoise = prior.denoiser(batch.op, [rng_for(SEED, "mask")], further="training")
    problem = Problem(batch, denoise, prior, scale=1.0, shift=0.0)
    sampler = deepinv.sampling.DPS(
        problem.denoiser(deepinv), schedule="ve", num_steps=n_steps, weight=weight,
        guidance=guidance, minus_one_one=False, rng=torch.Generator(),
    )  # fmt: skip
    sampler.data_fidelity.clip = None
    physics = problem.physics(deepinv)
    return problem.out_of(sampler(problem.measurement(physics), physics, seed=SEED))


Method = Callable[[Case], Tensor]


def ours(prior: Prior, method: Sampler) -> Method:
    """One of our samplers, as users get it."""
    recipe = Recipe(method, prior=prior, n_samples=1, seed=SEED)
    engine = Engine(recipe.resolve(), Runtime("cpu"))
    return lambda case: engine([case.scan])[0].img[0]


def peers(deepinv: Any, prior: Prior, n_steps: int) -> dict[str, tuple[int, Method]]:
    """Rows of deepinv: evaluations and method."""
    rows: dict[str, tuple[int, Method]] = {}
    for steps in (20, n_steps):
        for weight in DIFFPIR_LAMBDA:

            def run_diffpir(case: Case, steps: int = steps, weight: float = weight) -> Tensor:
                return diffpir(deepinv, prior, Batch.of([case.scan]), steps, weight)[0]

            rows[f"deepinv DiffPIR {steps}, lambda {weight:g}"] = steps, run_diffpir
    for guidance, weights in DPS_WEIGHT.items():
        for weight in weights:

            def run_dps(case: Case, weight: float = weight, guidance: str = guidance) -> Tensor:
                return dps(deepinv, prior, Batch.of([case.scan]), n_steps, weight, guidance)[0]

            rows[f"deepinv DPS {n_steps}, {guidance} {weight:g}"] = 2 * (n_steps - 1), run_dps
    return rows


def main() -> None:
    """Reconstruct, score, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("images", nargs="?", default="phantom")
    parser.add_argument("--count", type=int, default=1, help="scans per noise level")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--prior", type=Path, default=None)
    parser.add_argument("--only", action="append", help="only methods of these beginnings")
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    prior = load_prior(args.prior or default_prior())
    if args.quick:
        args.count, args.steps = 1, 2
        square = torch.rand(1, 2, 6, 6)
        assert torch.equal(rotate(square, 90, "nearest"), square.rot90(dims=(-2, -1)))
    steps, few = args.steps, (2, 3) if args.quick else (10, 20)
    samplers = [Aos(), *(Dds(n_steps=n) for n in few), Adps(n_steps=steps)]
    rows = {
        f"{method.name} {method.n_evaluations}": (method.n_evaluations, ours(prior, method))
        for method in samplers
    }
    if importlib.util.find_spec("deepinv") is None:
        print(json.dumps({"benchmark": "peers", "deepinv": "not installed: only our rows"}))
    else:
        rows |= peers(import_deepinv(), prior, steps)
    with tempfile.TemporaryDirectory() as folder:
        cases = simulate(args.images, args.count, Path(folder), quick=args.quick)
        for name, (evaluations, run) in rows.items():
            if args.only and not name.startswith(tuple(args.only)):
                continue
            scores, times = [], []
            for case in cases:
                started = time.perf_counter()
                img = run(case)
                times.append(time.perf_counter() - started)
                scores.append(case.psnr(img))
            finite = bool(np.isfinite(scores).all())
            row = {
                "benchmark": "peers",
                "method": name,
                "evaluations": evaluations,
                "psnr": round(float(np.mean(scores)), 3) if finite else "diverged",
                "worst": round(min(scores), 3) if finite else "diverged",
                "seconds": round(float(np.median(times)), 2),
                "scans": len(scores),
                "prior_sha256": prior.facts.card["sha256"],
            }
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
