"""Refit: a plain prior from posterior samples of the training scans, in a few rounds.

Expectation maximisation with a diffusion prior (Rozet et al. 2024, arXiv 2405.13712): every round
draws one sample of every training scan, given its own measurements and the prior so far (posterior
samples from a plain prior; a mask-conditioned one in the first round gives estimates with a spread)
and trains an ordinary prior on these images. Samples, never means: trained on means or on samples
of too little spread it diverges after a few rounds. One or two rounds are meant.

A round lies in its own folder: ``targets/`` with the samples, and a training run. Samples that are
there are not drawn again, and a run that was stopped is resumed. Processes that joined a
``torch.distributed`` group share the samples and every batch.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from ..errors import ConfigError, StoppedError, warn
from ..methods import Dds, Sampler
from ..methods.base import check_levels
from ..objectives import Supervised
from ..priors.checkpoint import load_prior
from ..priors.prior import Prior
from ..recon.recipe import ResolvedRecipe
from ..recon.warnings import issue_weakness
from ..runtime.device import Runtime
from ..runtime.files import atomic_path
from ..runtime.process_group import ProcessGroup
from .config import CPU, Hooks, TrainConfig, TrainJob
from .loop import run_training
from .preflight import plan
from .run import RunFolder
from .targets import TargetFolder


@dataclass(frozen=True)
class RefitJob:
    """One call of a refit.

    Attributes:
        data: the prepared scans that ``start`` was trained on.
        start: the prior of the first round.
        output: folder for ``round-1``, ... and the last round's ``prior.safetensors``.
        rounds: how often samples are drawn and a prior is trained.
        sampler: how a sample is drawn; by default without the last data-consistency solve, which
            makes samples vary less.
        config, images: of the training of each round, as in :class:`~.config.TrainJob`; the
            objective is the refit's own.
        time_limit_s: stop after this many seconds of this call, also while samples are drawn; of
            the time that is left then, the training gets as much as every further round.
        batch_size, device: of the sampling, see :class:`~mri_ambient.runtime.device.Runtime`.
        shard: draw part i of N of the samples only, counted from 1, and train nothing; in the first
            round that has not seen all ``images``. For processes that are started independently.

    Raises:
        ConfigError: impossible options, or nothing ends a round.
    """

    data: Path
    start: Prior
    output: Path
    rounds: int = 2
    sampler: Sampler = field(default_factory=lambda: Dds(final_dc=False))
    config: TrainConfig = field(default_factory=TrainConfig)
    images: int | None = None
    time_limit_s: float | None = None
    batch_size: int | None = None
    device: torch.device = CPU
    shard: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise ConfigError(f"rounds must be at least 1, got {self.rounds}")
        if not self.sampler.stochastic:
            raise ConfigError(
                f"method {self.sampler.name!r} gives one image, not samples; a prior refitted to "
                "such images has too little variety; use dds, msm, pula or adps"
            )
        if self.images is None and self.time_limit_s is None and self.shard is None:
            raise ConfigError(
                "say when a round stops: images (--images) or time_limit (--time-limit)"
            )
        check_levels(self.start, self.sampler.name)
        config = self.config.starting_from(self.start)
        config = replace(config, objective=Supervised(images="posterior"))
        object.__setattr__(self, "config", config)


@dataclass(frozen=True)
class Round:
    """A round of a refit, counted from 1: samples from ``prior``, and a training run on them.

    ``deadline`` is when the call ends, as ``time.monotonic`` counts.
    """

    job: RefitJob
    number: int
    prior: Prior
    deadline: float = math.inf

    @property
    def folder(self) -> RunFolder:
        """Folder of its training run, and of the samples."""
        return RunFolder(self.job.output / f"round-{self.number}")

    @property
    def samples(self) -> TargetFolder:
        """The samples it trains on."""
        job = self.job
        # Another seed every round: a sample must not repeat the noise of the one before.
        seed = job.config.seed + self.number
        recipe = ResolvedRecipe(job.sampler, self.prior, seed=seed)
        runtime = Runtime(job.device, job.config.precision, job.batch_size)
        return TargetFolder(self.folder.path / "targets", recipe, runtime)

    @property
    def training(self) -> TrainJob:
        """Its training, which starts from the weights of the prior where they fit."""
        job, facts = self.job, self.prior.facts
        fits = (facts.kind, facts.network) == (job.config.kind, job.config.network)
        return TrainJob(
            data=job.data,
            run=self.folder.path,
            config=job.config,
            images=job.images,
            time_limit_s=math.inf,
            init=self.prior if fits else None,
            teacher=self.prior,
            targets=self.samples.path,
            device=job.device,
        )

    def is_finished(self) -> bool:
        """Whether it is trained to its end; once sampled from, its prior must not change."""
        if not self.folder.prior.exists():
            return False
        if (self.job.output / f"round-{self.number + 1}").exists():
            return True
        return self.job.images is not None and self.folder.images_seen >= self.job.images

    def check(self) -> None:
        """Refuse a finished round of other options, prior or scans; warn of one cut short."""
        self.samples.check(finished=True)
        self.folder.check_settings(self.folder.identity, self.training)
        seen = self.folder.images_seen
        if self.job.images is not None and seen < self.job.images:
            warn(
                "W-ROUND-KEPT",
                f"{self.folder.path}: is kept with {seen} images seen, as the samples of round "
                f"{self.number + 1} were drawn from it",
            )

    def complete(self, hooks: Hooks) -> bool:
        """Draw the missing samples and train on them; whether it went on to its end."""
        processes, device = ProcessGroup.current(), self.job.device
        planned = plan(self.training)
        for sentence in planned.damaged:
            hooks.on_damaged(sentence)
        items, shard = planned.dataset.train, self.job.shard
        whole = self.samples.make(items, shard=shard, hooks=hooks, deadline=self.deadline)
        if not whole or shard is not None:
            return False
        n_left = self.job.rounds + 1 - self.number
        limit_s = (self.deadline - time.monotonic()) / n_left
        try:
            run_training(planned.within(limit_s), hooks)
        except StoppedError:
            if not processes.any(hooks.should_stop(), device):
                raise
        return not processes.any(hooks.should_stop(), device)


def refit(
    job: RefitJob,
    hooks: Callable[[int], Hooks] = lambda round_number: Hooks(),
    *,
    started: float | None = None,
) -> Prior | None:
    """Draw samples and train on them, round by round.

    Args:
        job: the scans, the folder and the options of all rounds.
        hooks: the hooks of a round, by its number.
        started: when the call began, as ``time.monotonic`` counts; by default now.

    Returns:
        The refitted prior; None for a shard, or if it was stopped before its end.

    Raises:
        ConfigError: scans that cannot be trained on, or rounds that were made with other options,
            priors or scans.
        StoppedError: the time limit ended while samples were drawn.
        MriAmbientError: another process is gone.
    """
    processes = ProcessGroup.current()
    if job.shard is not None and processes.size > 1:
        raise ConfigError("the processes of one job share the samples: leave out shard i/N")
    issue_weakness(job.start)
    limit_s = math.inf if job.time_limit_s is None else job.time_limit_s
    prior = job.start
    deadline = (time.monotonic() if started is None else started) + limit_s
    for number in range(1, job.rounds + 1):
        current = Round(job, number, prior, deadline if job.shard is None else math.inf)
        if processes.from_first(current.is_finished):
            current.check()
        elif not current.complete(hooks(number)):
            return None
        prior = load_prior(current.folder.path, job.device)
    processes.from_first(lambda: _copy(current.folder.prior, job.output / "prior.safetensors"))
    return load_prior(job.output, job.device)


def _copy(source: Path, path: Path) -> None:
    with atomic_path(path) as temporary:
        shutil.copy(source, temporary)
