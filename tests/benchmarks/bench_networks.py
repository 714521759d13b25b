"""A search for a better network and training at equal time: the ``kspace`` objective, one core.

    python tests/benchmarks/bench_networks.py TRAIN.zip VAL.zip WORK --rung short [--only NAME]

simulates undersampled scans of all training images (one mask an image), prepares them, and trains
every candidate (:data:`CANDIDATES`) for the same time on one thread. The clock must not depend on
what else the machine does: steps of a candidate and of the present network are timed in turn, the
smallest CPU time of three repetitions counts, data included and validation excluded, and in the
time in which the present network would see a number of images the candidate sees as many more as
its images take less. Every trained candidate reconstructs simulated scans of other patients: the
error on held-out measured lines is the one that ``mri-ambient train`` reports; PSNR and NRMSE are
those of ``aos`` against the noise-free image, inside the support.

A candidate, seed and rung writes one small file when it is finished, and is not done again; what
was killed begins anew. ``--table DOCS`` writes networks.json of all that is finished, and its
tables into networks.md, whose words it keeps, and stops; ``--speed`` prints seconds an image and
stops; ``--quick`` trains one candidate on phantoms in seconds and says nothing about quality.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scoring import Case, case_of
from torch import Tensor, nn
from torch.nn import functional

from mri_ambient.data_prep import MANIFEST, PrepConfig, SimulateConfig, prepare, simulate
from mri_ambient.data_prep.simulation.images import open_images
from mri_ambient.errors import NumericalWarning
from mri_ambient.methods import Aos, CgSense, L1Wavelet, Method, ZeroFilled
from mri_ambient.objectives import Kspace
from mri_ambient.objectives.base import Loss
from mri_ambient.physics.operators import SenseOp
from mri_ambient.physics.solve import conjugate_gradient
from mri_ambient.plots import draw_previews, save_figure
from mri_ambient.priors.denoisers import Conditioned
from mri_ambient.priors.facts import PriorFacts, UNetSpec
from mri_ambient.priors.prior import Prior
from mri_ambient.priors.schedules import LogNormal
from mri_ambient.priors.unet import UNet
from mri_ambient.recon.engine import to_file_units
from mri_ambient.rng import rng_for
from mri_ambient.runtime.files import write_json
from mri_ambient.scan import Batch
from mri_ambient.training.config import TrainConfig, TrainJob
from mri_ambient.training.dataset import BatchSequence, Dataset
from mri_ambient.training.preflight import plan
from mri_ambient.training.validation import (
    HeldOutSlice,
    fit_tau,
    hold_out_of_slice,
    reference_errors,
)

MIXTURE = {"random": 0.75, "equispaced": 0.1, "poisson": 0.15}
"""Kinds of mask, as in train_default_prior.py."""

TRAIN_SEED, VAL_SEED = 41, 42
POWERS = (6.94, 20.0)
"""Of the averages of the weights that every run keeps; the weights themselves are scored too."""

MARKS = (0.5, 1.0)
"""Shares of the time after which a candidate is scored."""


@dataclass(frozen=True)
class Candidate:
    """A network, how it alternates with the data, and how it is trained.

    Attributes:
        block: "present" for the library's U-Net; "grouped" for the same with groups of 16 channels,
            whose norms are several times faster in bfloat16; "lean" for a U-Net without norms, with
            sums instead of concatenated skips and ReLU; "normed" for "lean" with group norms.
        channels, blocks, embedding: as in :class:`UNetSpec`.
        passes: how often network and data step follow each other.
        shared: all passes have one network, which is given the number of the pass.
        n_cg: conjugate-gradient steps of a data step; 0 is one gradient step of a learned length.
        n_cg_in: those of the first guess.
        momentum: a pass starts beyond the last image, by FISTA's factors.
        memory: planes that a network leaves to the next one, beside the image.
        every_pass: the loss is that of the last image plus a tenth of that of every earlier one.
        batch: images a step.
        rate: largest learning rate.
        schedule: "root" as in the library; "linear", "cosine": to 0 at the end of the time;
            "constant".
        warmup: images over which the rate rises.
        decay: images from which "root" falls.
        bf16: the networks train in bfloat16.
        small_first: share of the time spent on the coarser scans of the rung.
        optimizer: "adam", or "muon" for the 3 x 3 convolutions of the blocks and Adam for the rest.
    """

    block: str = "present"
    channels: tuple[int, ...] = (24, 48, 64, 96)
    blocks: int = 1
    embedding: int = 96
    passes: int = 3
    shared: bool = False
    n_cg: int = 4
    n_cg_in: int = 6
    momentum: bool = False
    memory: int = 0
    every_pass: bool = False
    batch: int = 8
    rate: float = 1e-3
    schedule: str = "root"
    warmup: int = 400
    decay: int = 8000
    bf16: bool = False
    small_first: float = 0.0
    optimizer: str = "adam"


PRESENT = Candidate()
GROUPED = Candidate(block="grouped", channels=(32, 48, 64, 96), bf16=True, schedule="linear")
LEAN = Candidate(block="lean", channels=(32, 64, 96, 128), bf16=True, schedule="linear")
MOMENTUM = replace(GROUPED, momentum=True)
WIDE = (64, 96, 128, 192)

CANDIDATES = {
    "present": PRESENT,
    "present, bf16": replace(PRESENT, bf16=True),
    "present, linear": replace(PRESENT, schedule="linear"),
    "present, momentum": replace(PRESENT, momentum=True),
    "lean": LEAN,
    "lean, rate x 2": replace(LEAN, rate=2e-3),
    "lean wide": replace(LEAN, channels=(64, 128, 192, 256)),
    "normed": replace(LEAN, block="normed"),
    "grouped": GROUPED,
    "grouped, fp32": replace(GROUPED, bf16=False),
    "grouped 128": replace(GROUPED, channels=(32, 64, 96, 128)),
    "grouped wide": replace(GROUPED, channels=WIDE),
    "grouped deep": replace(GROUPED, blocks=2),
    "grouped, 6 passes": replace(GROUPED, passes=6),
    "grouped, 8 passes": replace(GROUPED, passes=8),
    "grouped, 3 passes shared": replace(GROUPED, shared=True),
    "grouped, 6 passes shared": replace(GROUPED, passes=6, shared=True),
    "grouped, 8 passes shared": replace(GROUPED, passes=8, shared=True),
    "grouped wide, 3 passes shared": replace(GROUPED, channels=WIDE, shared=True),
    "grouped, memory 8": replace(GROUPED, memory=8),
    "grouped, loss on every pass": replace(GROUPED, every_pass=True),
    "grouped, momentum": MOMENTUM,
    "grouped, momentum, loss on every pass": replace(MOMENTUM, every_pass=True),
    "grouped, momentum, 3 passes shared": replace(MOMENTUM, shared=True),
    "grouped, momentum, 6 passes": replace(MOMENTUM, passes=6),
    "grouped, momentum, CG 2": replace(MOMENTUM, n_cg=2),
    "grouped, gradient steps": replace(GROUPED, n_cg=0),
    "grouped, CG 2": replace(GROUPED, n_cg=2),
    "grouped, CG 8": replace(GROUPED, n_cg=8),
    "grouped, rate x 0.5": replace(GROUPED, rate=5e-4),
    "grouped, rate x 2": replace(GROUPED, rate=2e-3),
    "grouped, rate x 4": replace(GROUPED, rate=4e-3),
    "grouped, long warm-up": replace(GROUPED, warmup=1600),
    "grouped, cosine": replace(GROUPED, schedule="cosine"),
    "grouped, constant": replace(GROUPED, schedule="constant"),
    "grouped, root": replace(GROUPED, schedule="root"),
    "grouped, batch 4": replace(GROUPED, batch=4),
    "grouped, batch 2": replace(GROUPED, batch=2),
    "grouped, batch 1": replace(GROUPED, batch=1),
    "grouped, Muon": replace(GROUPED, optimizer="muon", rate=3e-3),
    "grouped, momentum, Muon": replace(MOMENTUM, optimizer="muon", rate=3e-3),
    "grouped, momentum, 6 passes, Muon": replace(MOMENTUM, passes=6, optimizer="muon", rate=3e-3),
    "grouped, root, Muon": replace(GROUPED, schedule="root", optimizer="muon", rate=3e-3),
    "grouped, momentum, root": replace(MOMENTUM, schedule="root"),
    "grouped, momentum, root, batch 4": replace(MOMENTUM, schedule="root", batch=4),
    "grouped, momentum, root, Muon": replace(
        MOMENTUM, schedule="root", optimizer="muon", rate=3e-3
    ),
    "grouped, small first": replace(GROUPED, small_first=0.3),  # at 96 x 96 only
}


@dataclass(frozen=True)
class Rung:
    """How long candidates train, on what, and on how much they are scored.

    Attributes:
        images: the time of a training, as the number of images that the present network sees in it.
        size: rows and columns of the scans.
        smaller: those of the scans for ``small_first``.
        n_scans: training scans; None for one of every image.
        n_cases: validation scans.
        n_timed: images over which steps are timed.
    """

    images: int
    size: int = 64
    smaller: int = 64
    n_scans: int | None = None
    n_cases: int = 40
    n_timed: int = 32

    def scans(self, size: int, seed: int) -> SimulateConfig:
        """How its scans are simulated."""
        rate, calib = (2.5, 8) if size <= 64 else (3.0, 10)
        return SimulateConfig(
            size=(size, size), coils=(6, 9), mask=MIXTURE, acceleration=(rate, 2 * rate),
            calib=calib, noise=(0.0008, 0.006), jitter=True, seed=seed,
        )  # fmt: skip


RUNGS = {
    "short": Rung(1400),
    "middle": Rung(5600),
    "long": Rung(22400),
    "short96": Rung(1400, size=96),
    "middle96": Rung(5600, size=96),
}
QUICK = Rung(4, size=40, smaller=40, n_scans=3, n_cases=2, n_timed=2)


def unet(candidate: Candidate, in_channels: int) -> UNet:
    """The library's U-Net, with other groups and outputs where the candidate has them."""
    per_group = 16 if candidate.block == "grouped" else 4
    spec = UNetSpec(candidate.channels, candidate.blocks, candidate.embedding, per_group)
    net = UNet(spec, in_channels)
    if candidate.memory:
        net.last = nn.Conv2d(candidate.channels[0], 2 + candidate.memory, 3, padding=1)
        nn.init.zeros_(net.last.weight)
        nn.init.zeros_(net.last.bias)
    return net


class Lean(nn.Module):
    """A U-Net without concatenated skips: sums, strided convolutions, ReLU; norms by choice."""

    def __init__(self, candidate: Candidate, in_channels: int) -> None:
        super().__init__()
        widths, emb = candidate.channels, candidate.embedding
        block = partial(LeanBlock, embedding=emb, normed=candidate.block == "normed")
        self.register_buffer("frequencies", torch.exp(torch.linspace(0, math.log(64), emb // 4)))
        self.embed = nn.Sequential(
            nn.Linear(2 * (emb // 4), emb), nn.SiLU(), nn.Linear(emb, emb), nn.SiLU()
        )
        self.first = nn.Conv2d(in_channels, widths[0], 3, padding=1)
        self.down = nn.ModuleList(level(block, width, candidate.blocks) for width in widths)
        self.up = nn.ModuleList(level(block, width, candidate.blocks) for width in widths)
        pairs = list(pairwise(widths))
        self.shrink = nn.ModuleList(nn.Conv2d(a, b, 2, stride=2) for a, b in pairs)
        self.grow = nn.ModuleList(nn.ConvTranspose2d(b, a, 2, stride=2) for a, b in pairs)
        self.last = nn.Conv2d(widths[0], 2 + candidate.memory, 3, padding=1)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)
        self.to(memory_format=torch.channels_last)

    def forward(self, x: Tensor, c_noise: Tensor) -> Tensor:
        """Planes ``(b, in_channels, y, x)`` and noise label ``(b,)`` to ``(b, 2, y, x)``."""
        angle = c_noise[:, None] * self.frequencies
        emb = self.embed(torch.cat([angle.sin(), angle.cos()], dim=1))
        h = self.first(x.contiguous(memory_format=torch.channels_last))
        skips = []
        for i, blocks in enumerate(self.down):
            h = self.shrink[i - 1](h) if i > 0 else h
            for block in blocks:
                h = block(h, emb)
            skips.append(h)
        for i in reversed(range(len(self.up))):
            h = self.grow[i](h) + skips[i] if i + 1 < len(self.up) else h
            for block in self.up[i]:
                h = block(h, emb)
        return self.last(h)


def level(block: Any, width: int, count: int) -> nn.ModuleList:
    """The blocks of one resolution."""
    return nn.ModuleList(block(width) for _ in range(count))


class LeanBlock(nn.Module):
    """conv, scale and shift by the noise level, ReLU, conv; plus identity."""

    def __init__(self, width: int, embedding: int, normed: bool) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(max(width // 16, 1), width) if normed else nn.Identity()
        self.conv_in = nn.Conv2d(width, width, 3, padding=1)
        self.conv_out = nn.Conv2d(width, width, 3, padding=1)
        nn.init.zeros_(self.conv_out.weight)
        nn.init.zeros_(self.conv_out.bias)
        self.modulation = nn.Linear(embedding, 2 * width)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        scale, shift = self.modulation(emb)[..., None, None].chunk(2, dim=1)
        h = torch.addcmul(shift, self.conv_in(self.norm(x)), 1 + scale)
        return x + self.conv_out(functional.relu(h, inplace=True))


class Searched(Conditioned):
    """The library's ``conditioned`` denoiser with what a candidate changes.

    ``images`` are those after every pass of the last evaluation.
    """

    def __init__(self, candidate: Candidate, sigma_data: float) -> None:
        super().__init__(UNetSpec((4,), 1, 4), sigma_data)  # its networks are replaced
        self.candidate, self.n_cg_in = candidate, candidate.n_cg_in
        count = 1 if candidate.shared else candidate.passes
        n_planes = self.in_channels + candidate.memory
        make = Lean if candidate.block in ("lean", "normed") else unet
        self.nets = nn.ModuleList(make(candidate, n_planes) for _ in range(count))
        self.lengths = nn.Parameter(torch.ones(candidate.passes), requires_grad=not candidate.n_cg)
        self.images: list[Tensor] = []

    def forward(self, op: SenseOp, z: Tensor, sigma: Tensor) -> Tensor:
        """See :meth:`Denoiser.forward`."""
        s, candidate = self.sigma_data, self.candidate
        c_in, _, c_out = self.scalings(sigma)
        u = op.adjoint(z)
        w = self._first_guess(op, u, sigma)
        mask = op.mask.expand(len(u), 1, *u.shape[-2:]).float()
        known = torch.cat([channels(w / s), channels(c_in * u), mask], dim=1)
        tau = (0.35 * c_out).clamp(min=0.25 * s)
        mu = (sigma[:, None, None] / tau).square() + 0.001
        memory = known.new_zeros(len(u), candidate.memory, *u.shape[-2:])
        x = before = w
        self.images, t, support = [], 1.0, op.support
        for k in range(candidate.passes):
            t, earlier = (1 + math.sqrt(1 + 4 * t * t)) / 2, t
            start = x + (earlier - 1) / t * (x - before) if candidate.momentum else x
            # Noise labels lie between -2 and 1: those of one pass are far from the next one's.
            label = sigma.float().log() / 4 + (4 * k if candidate.shared else 0)
            planes = torch.cat([channels(start / s), known, memory], dim=1)
            change, memory = self._change(0 if candidate.shared else k, planes, label)
            moved = start + c_out.clamp(min=0.3 * s) * change
            before, x = x, self._data_step(op, u, mu, moved, k)
            self.images.append(support * x)
        return self.images[-1]

    def _change(self, k: int, planes: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        """The change of the image, and what is left to the next network."""
        with torch.autocast("cpu", torch.bfloat16, enabled=self.autocast):
            out = self.nets[k](planes, label).float()
        return torch.complex(out[:, 0], out[:, 1]), out[:, 2:]

    def _data_step(self, op: SenseOp, u: Tensor, mu: Tensor, x: Tensor, k: int) -> Tensor:
        if not self.candidate.n_cg:
            return x - self.lengths[k] * (op.normal(x) - u)
        return conjugate_gradient(
            lambda v: op.normal(v) + mu * v, u + mu * x, n_iter=self.candidate.n_cg, x0=x
        )


def channels(x: Tensor) -> Tensor:
    """Complex ``(b, y, x)`` to real ``(b, 2, y, x)``."""
    return torch.stack([x.real, x.imag], dim=1)


class Muon:
    """Momentum, orthogonalised per kernel, for 3 x 3 convolutions (Jordan et al. 2024).

    A kernel is a matrix ``(out, in * 9)``; five Newton-Schulz steps bring the singular values of
    its momentum close to 1. Steps are scaled to the size of Adam's (Liu et al. 2025,
    arXiv 2502.16982), so that learning rates are alike.
    """

    def __init__(self, weights: list[nn.Parameter]) -> None:
        self.groups: dict[torch.Size, list[nn.Parameter]] = {}
        for weight in weights:
            self.groups.setdefault(weight.shape, []).append(weight)
        self.momenta = {
            shape: torch.zeros(len(group), shape[0], shape[1:].numel())
            for shape, group in self.groups.items()
        }

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """Change the weights by their gradients."""
        for shape, group in self.groups.items():
            grads = torch.stack([weight.grad.flatten(1) for weight in group])
            momentum = self.momenta[shape].mul_(0.95).add_(grads)
            change = orthogonal(grads + 0.95 * momentum).view(len(group), *shape)
            size = 0.2 * math.sqrt(max(shape[0], shape[1:].numel()))
            for weight, each in zip(group, change, strict=True):
                weight.sub_(each, alpha=rate * size)


def orthogonal(x: Tensor) -> Tensor:
    """Matrices ``(n, rows, columns)``, wide ones, with their singular values brought near 1."""
    x = (x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-9)).bfloat16()
    for _ in range(5):
        gram = x @ x.mT
        x = 3.4445 * x + (2.0315 * gram @ gram - 4.7750 * gram) @ x
    return x.float()


class Replay(nn.Module):
    """A denoiser that returns an image it was given."""

    def __init__(self, img: Tensor, sigma_data: float) -> None:
        super().__init__()
        self.img, self.sigma_data = img, sigma_data

    def forward(self, op: SenseOp, z: Tensor, sigma: Tensor) -> Tensor:
        """The image."""
        return self.img


def loss_of(objective: Kspace, net: Searched, batch: Batch, keys: tuple[Any, ...]) -> Loss:
    """The objective's loss, and with ``every_pass`` a tenth of that of every earlier image."""

    def streams() -> list[torch.Generator]:  # the same numbers for every pass
        return [rng_for(*keys, i) for i in range(len(batch))]

    loss = objective(net, batch, streams())
    if not net.candidate.every_pass:
        return loss
    total = loss.backward
    for img in net.images[:-1]:
        total = total + 0.1 * objective(Replay(img, net.sigma_data), batch, streams()).backward
    return Loss(total, loss.log)


@dataclass(frozen=True)
class Ground:
    """What all candidates of a rung share: scans, what was measured on them, and validation."""

    datasets: dict[int, Dataset]
    facts: PriorFacts
    cases: list[Case]
    batches: list[Batch]
    held_out: list[HeldOutSlice]


OBJECTIVE = Kspace(law=LogNormal(mean=-3.2, std=1.8))
"""As in train_default_prior.py."""


def ground_of(args: argparse.Namespace, rung: Rung, scratch: Path) -> Ground:
    """Simulate and prepare what is missing, and measure it."""
    datasets = {}
    for size in sorted({rung.smaller, rung.size}):
        folder = args.work / "data" / "prepared" / f"train{size}"
        if not (folder / MANIFEST).exists():
            raw = args.work / "data" / "raw" / f"train{size}"
            config = rung.scans(size, TRAIN_SEED)
            scans = simulate(args.train, raw, config, count=rung.n_scans)
            prepare(scans, folder, PrepConfig(map_sets=1))  # what is searched has one set
        config = TrainConfig(objective=OBJECTIVE, n_validation=0)
        planned = plan(TrainJob(folder, scratch / "run", config, images=1, force=args.quick))
        datasets[size] = planned.dataset
    source = open_images(str(args.val))
    names = source.names(rung.n_cases, 1)
    names = sorted(names, key=lambda name: rng_for(VAL_SEED, name).initial_seed())
    config = rung.scans(rung.size, VAL_SEED)
    cases = [case_of(source, name, config, scratch) for name in names[: rung.n_cases]]
    batches = [Batch.of([case.scan]) for case in cases]
    held_out = [
        hold_out_of_slice(batch, case.scan.scan_id, seed=VAL_SEED)
        for batch, case in zip(batches, cases, strict=True)
    ]
    usable = [case for case in held_out if case.usable]
    return Ground(datasets, planned.facts, cases, batches, usable)


class Training:
    """One candidate in training.

    Attributes:
        share: the part of its time that is over, of ``n_images`` images in all.
        cpu, wall: seconds of this process so far, validation excluded.
    """

    def __init__(
        self, candidate: Candidate, rung: Rung, ground: Ground, seed: int, n_images: float
    ) -> None:
        self.candidate, self.rung, self.ground, self.seed = candidate, rung, ground, seed
        self.n_images, self.share = n_images, 0.0
        torch.manual_seed(rng_for(seed, "initial weights").initial_seed())
        self.net = Searched(candidate, ground.facts.sigma_data)
        self.net.autocast = candidate.bf16
        self.parameters = [p for p in self.net.parameters() if p.requires_grad]
        kernels = [
            conv.weight
            for conv in self.net.modules()
            if candidate.optimizer == "muon"
            and isinstance(conv, nn.Conv2d)
            and conv.kernel_size == (3, 3)
            and min(conv.weight.shape[:2]) >= candidate.channels[0]
        ]
        self.muon, known = Muon(kernels), {id(kernel) for kernel in kernels}
        rest = [p for p in self.parameters if id(p) not in known]
        self.optimizer = torch.optim.Adam(rest, lr=candidate.rate, betas=(0.9, 0.99), fused=True)
        self.averages = {power: deepcopy(self.net).requires_grad_(False) for power in POWERS}
        self.batches = {
            size: BatchSequence(dataset, candidate.batch, seed)
            for size, dataset in ground.datasets.items()
        }
        self.steps, self.skipped, self.cpu, self.wall = 0, 0, 0.0, 0.0

    def rate(self) -> float:
        """The learning rate of the next step."""
        c, images = self.candidate, (self.steps + 1) * self.candidate.batch
        left = max(1 - self.share, 0.0)
        factor = {
            "root": math.sqrt(min(c.decay / images, 1.0)),
            "linear": left,
            "cosine": (1 - math.cos(math.pi * left)) / 2,
            "constant": 1.0,
        }[c.schedule]
        return c.rate * min(images / c.warmup, 1.0) * factor

    def step(self) -> None:
        """Read a batch, take a step, update the averages."""
        cpu, wall = time.process_time(), time.perf_counter()
        small = self.share < self.candidate.small_first
        size = self.rung.smaller if small else self.rung.size
        sequence = self.batches[size]
        (group,) = sequence[self.steps].groups
        keys = (self.seed, "step", self.steps)
        augment = [rng_for(self.seed, "augment", self.steps, i) for i in group.positions]
        batch = group.batch.to("cpu").augmented(augment)
        self.net.train()
        self.optimizer.zero_grad(set_to_none=True)
        loss = loss_of(OBJECTIVE, self.net, batch, keys)
        loss.backward.backward()
        norm = nn.utils.clip_grad_norm_(self.parameters, 1.0)
        rate = self.rate()
        for options in self.optimizer.param_groups:
            options["lr"] = rate
        self.steps += 1
        self.share += self.candidate.batch * (size / self.rung.size) ** 2 / self.n_images
        if math.isfinite(float(norm)):
            self.optimizer.step()
            self.muon.step(rate)
            self._average()
        else:
            self.skipped += 1
        self.net.images = []
        self.cpu += time.process_time() - cpu
        self.wall += time.perf_counter() - wall

    def _average(self) -> None:
        weights = [p.detach() for p in self.net.parameters()]
        for power, average in self.averages.items():
            keep = (1 - 1 / self.steps) ** (power + 1)
            torch._foreach_lerp_(list(average.parameters()), weights, 1 - keep)

    def scores(self) -> dict[str, dict[str, float]]:
        """Figures of every average and of the weights as they are."""
        nets = {f"average {power:g}": net for power, net in self.averages.items()} | {
            "last": self.net
        }
        if self.share < 1:
            nets = dict(list(nets.items())[:1])
        return {name: score(net, self.ground) for name, net in nets.items()}

    def run(self, picture: Path) -> dict[str, Any]:
        """Train until the time is over; draw what became of some validation scans."""
        curve = []
        for mark in MARKS:
            while self.share < mark or self.steps == 0:
                self.step()
            images = self.steps * self.candidate.batch
            curve.append({"cpu_s": round(self.cpu), "images": images, "scores": self.scores()})
            print(json.dumps(curve[-1]), flush=True)
        best = min(curve[-1]["scores"].items(), key=lambda item: item[1]["held_out"])
        draw(self.net, best[1]["tau"], self.ground, picture)
        return {
            "average": best[0],
            **best[1],
            "images": images,
            "cpu_s": round(self.cpu, 1),
            "wall_s": round(self.wall, 1),
            "parameters": sum(p.numel() for p in self.parameters),
            "skipped": self.skipped,
            "curve": curve,
        }


@torch.no_grad()
def score(net: Searched, ground: Ground) -> dict[str, float]:
    """Held-out error with tau fitted to it, and what ``aos`` with this tau reaches."""
    autocast, net.autocast = net.autocast, False
    prior = Prior(net.eval(), ground.facts)
    tau, error, without = fit_tau(prior, ground.held_out)
    prior.tau = tau
    found = {"held_out": error, "held_out_no_dc": without, "tau": tau}
    found |= against_truth(Aos(), prior, ground)
    net.autocast, net.images = autocast, []
    return {name: round(value, 5) for name, value in found.items()}


def against_truth(method: Method, prior: Prior | None, ground: Ground) -> dict[str, float]:
    """Mean PSNR (dB) and NRMSE inside the support."""
    psnr, nrmse = [], []
    for case, batch in zip(ground.cases, ground.batches, strict=True):
        img = method(prior, batch, [rng_for(0, "score")])
        psnr.append(case.psnr(img[0]))
        ours = to_file_units(img[0].abs(), case.scan)[0]
        inside = ours > 0
        nrmse.append(float((ours - case.truth)[inside].norm() / case.truth[inside].norm()))
    return {"psnr": float(np.mean(psnr)), "nrmse": float(np.mean(nrmse))}


@torch.no_grad()
def draw(net: Searched, tau: float, ground: Ground, path: Path) -> None:
    """Some validation scans by CG-SENSE and by ``aos`` with the last weights, beside the truth."""
    prior, rows = Prior(net.eval(), ground.facts), []
    prior.tau, net.autocast = tau, False
    for case, batch in list(zip(ground.cases, ground.batches, strict=True))[:4]:
        images = {
            "CG-SENSE": CgSense()(None, batch, []),
            "aos": Aos()(prior, batch, [rng_for(0, "score")]),
        }
        row = {name: to_file_units(img.abs(), case.scan)[0] for name, img in images.items()}
        rows.append(row | {"truth": case.truth})
    path.parent.mkdir(exist_ok=True)
    save_figure(draw_previews(rows), path)


def reference_rows(ground: Ground) -> dict[str, Any]:
    """Figures of the classical methods on the same scans."""
    rows: dict[str, Any] = {
        method.name: against_truth(method, None, ground)
        for method in (ZeroFilled(), CgSense(), L1Wavelet())
    }
    errors = [reference_errors(case) for case in ground.held_out]
    return rows | {name: sum(one[name] for one in errors) / len(errors) for name in errors[0]}


def seconds_an_image(candidates: list[Candidate], rung: Rung, ground: Ground) -> list[float]:
    """CPU seconds an image of candidates that take the same steps in turn: the fastest of three."""
    trainings = [Training(candidate, rung, ground, 0, math.inf) for candidate in candidates]
    times: list[list[list[float]]] = [[] for _ in trainings]
    for _ in range(4):  # the first is the warm-up
        for training, runs in zip(trainings, times, strict=True):
            training.steps, steps = 0, []
            while training.steps * training.candidate.batch < rung.n_timed:
                before = training.cpu
                training.step()
                steps.append(training.cpu - before)
            runs.append(steps)
    return [float(np.min(runs[1:], axis=0).sum()) / rung.n_timed for runs in times]


def speed(name: str, args: argparse.Namespace, rung: Rung, ground: Ground) -> dict[str, float]:
    """Seconds an image, and how many images are seen while the present network sees one."""
    path = args.work / "speeds" / f"{rung.size}--{name.replace(' ', '_')}.json"
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        present, ours = seconds_an_image([CANDIDATES["present"], CANDIDATES[name]], rung, ground)
        row = {"s_per_image": round(ours, 4), "images_per_present": round(present / ours, 3)}
        write_json(path, row)
    found: dict[str, float] = json.loads(path.read_text())
    return found


def search(args: argparse.Namespace, rung: Rung) -> None:
    """Train and score what is not finished."""
    results = args.work / "results"
    results.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        ground = ground_of(args, rung, Path(scratch))
        path = results / f"{args.rung}--references.json"
        if not path.exists():
            write_json(path, reference_rows(ground))
        for name in args.only or CANDIDATES:
            candidate = CANDIDATES[name]
            pace = speed(name, args, rung, ground)
            if args.speed:
                print(json.dumps({"candidate": name} | pace), flush=True)
                continue
            n_images = rung.images * pace["images_per_present"]
            for seed in args.seed:
                path = results / f"{args.rung}--{name.replace(' ', '_')}--{seed}.json"
                if path.exists():
                    continue
                row = {"benchmark": "networks", "rung": args.rung, "candidate": name, "seed": seed}
                print(json.dumps(row), flush=True)
                training = Training(candidate, rung, ground, seed, n_images)
                row |= (
                    pace
                    | training.run(args.work / "previews" / f"{path.stem}.png")
                    | {"options": asdict(candidate)}
                )
                write_json(path, row)
                print(json.dumps({k: v for k, v in row.items() if k != "curve"}), flush=True)


HEAD = (
    "candidate", "seeds", "parameters", "images", "images for one of present", "held-out error",
    "at half time", "PSNR (dB)", "NRMSE", "best average", "unlike present",
)  # fmt: skip


def collected(results: Path) -> dict[str, Any]:
    """All that is finished: by rung, the classical methods and the rows of candidates and seeds."""
    found: dict[str, Any] = {}
    for path in sorted(results.glob("*--*.json")):
        row, rung = json.loads(path.read_text()), path.name.partition("--")[0]
        part = found.setdefault(rung, {"references": {}, "rows": []})
        if path.name.endswith("--references.json"):
            part["references"] = row
        else:
            part["rows"].append(row)
    return found


def spread(rows: list[dict[str, Any]], value: Callable[[dict[str, Any]], float], form: str) -> str:
    """The mean over seeds, and half of their range where there are several."""
    values = [value(row) for row in rows]
    text = format(float(np.mean(values)), form)
    half = (max(values) - min(values)) / 2
    return text if len(values) == 1 else f"{text} ± {format(half, form)}"


def differences(options: dict[str, Any]) -> str:
    """The options of a candidate that are not the present network's."""
    present = json.loads(json.dumps(asdict(PRESENT)))
    changed = {key: value for key, value in options.items() if value != present[key]}
    return ", ".join(f"{key} {value}" for key, value in changed.items())


def line_of(name: str, rows: list[dict[str, Any]]) -> str:
    """A candidate's line of the table."""

    def halfway(row: dict[str, Any]) -> float:
        return min(scores["held_out"] for scores in row["curve"][0]["scores"].values())

    cells = [
        name,
        ", ".join(str(row["seed"]) for row in rows),
        f"{rows[0]['parameters'] / 1e6:.2f} M",
        spread(rows, lambda row: row["images"], ".0f"),
        f"{rows[0]['images_per_present']:.2f}",
        spread(rows, lambda row: row["held_out"], ".4f"),
        spread(rows, halfway, ".4f"),
        spread(rows, lambda row: row["psnr"], ".2f"),
        spread(rows, lambda row: row["nrmse"], ".4f"),
        ", ".join(dict.fromkeys(row["average"] for row in rows)),
        differences(rows[0]["options"]),
    ]
    return f"| {' | '.join(cells)} |"


def table(found: dict[str, Any]) -> Iterator[str]:
    """Markdown: a table a rung, the smallest held-out error first."""
    for name, rung in RUNGS.items():
        if name not in found:
            continue
        part = found[name]
        size = f"{rung.size} x {rung.size}"
        yield f"\n## {name}: {size}, time for {rung.images} images of the present network\n"
        yield f"| {' | '.join(HEAD)} |"
        yield "|---" * len(HEAD) + "|"
        by_name: dict[str, list[dict[str, Any]]] = {}
        for row in sorted(part["rows"], key=lambda row: row["seed"]):
            by_name.setdefault(row["candidate"], []).append(row)
        order = sorted(by_name, key=lambda n: np.mean([row["held_out"] for row in by_name[n]]))
        yield from (line_of(candidate, by_name[candidate]) for candidate in order)
        texts = [
            f"{method} {row['psnr']:.2f} dB, NRMSE {row['nrmse']:.4f}"
            for method, row in part["references"].items()
            if isinstance(row, dict)
        ]
        yield f"\nOn the same scans: {'; '.join(texts)}."


def write_table(args: argparse.Namespace) -> None:
    """networks.json of all that is finished, and its tables in place of those in networks.md."""
    found = collected(args.work / "results")
    write_json(args.table / "networks.json", found)
    page = args.table / "networks.md"
    words = (
        page.read_text().partition("\n## ")[0] if page.exists() else "# Networks at equal time\n"
    )
    page.write_text("\n".join([words.rstrip("\n"), *table(found), ""]))


def main() -> None:
    """Train, score, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("train", nargs="?", default="phantom")
    parser.add_argument("val", nargs="?", default="phantom")
    parser.add_argument("work", nargs="?", type=Path)
    parser.add_argument("--rung", choices=RUNGS, default="short")
    parser.add_argument("--only", action="append", choices=CANDIDATES, metavar="NAME")
    parser.add_argument("--seed", action="append", type=int)
    parser.add_argument("--table", type=Path, metavar="DOCS", help="write the table, and stop")
    parser.add_argument("--speed", action="store_true")
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    args.seed, rung = args.seed or [0], RUNGS[args.rung]
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", NumericalWarning)
    if args.quick:
        args.only, rung = ["grouped, 6 passes shared"], QUICK
        for name in ("present", *args.only):
            small = {"channels": (16, 16), "embedding": 16, "batch": 2}
            CANDIDATES[name] = replace(CANDIDATES[name], **small)
        args.work, args.rung = Path(tempfile.mkdtemp()), "quick"
    elif args.work is None:
        parser.error("TRAIN, VAL and WORK are needed without --quick")
    if args.table is not None:
        write_table(args)
        return
    search(args, rung)


if __name__ == "__main__":
    main()
