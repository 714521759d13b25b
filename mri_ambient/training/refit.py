"""Refit: a plain prior from posterior samples of the training scans, in a few rounds.

Expectation maximisation with a diffusion prior (Rozet et al. 2024, arXiv 2405.13712): every round
draws one sample of every training scan, given its own measurements and the prior so far (posterior
samples from a plain prior; a mask-conditioned one in the first round gives estimates with a spread)
and trains an ordinary prior on these images. Samples, never means: trained on means or on samples
of too little spread it diverges after a few rounds. One or two rounds are meant.

A round lies in its own folder: ``targets/`` with the samples, and a training run. Samples that are
there are not drawn again, and a run that was stopped goes on. Processes that joined a
``torch.distributed`` group share the samples and every batch.
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import torch

from ..errors import ConfigError, NumericalWarning, StoppedError
from ..methods import Dds, Sampler
from ..methods.base import check_levels
from ..objectives import Supervised
from ..priors.checkpoint import load_prior
from ..priors.prior import Prior
from ..priors.unet import preset
from ..recon.recipe import ResolvedRecipe
from ..runtime.device import Runtime
from ..runtime.files import atomic_path
from ..runtime.process_group import ProcessGroup
from .config import TrainConfig
from .loop import Progress, train
from .preflight import check_settings, split
from .run import images_seen, read_identity
from .targets import check_made_by, make_targets


@dataclass(frozen=True)
class RefitConfig:
    """Options of a refit.

    Attributes:
        rounds: how often samples are drawn and a prior is trained.
        sampler: how a sample is drawn; by default without the last data-consistency solve, which
            takes variety from samples.
        training: options of the training; the objective is the refit's own.
    """

    rounds: int = 2
    sampler: Sampler = field(default_factory=lambda: Dds(final_dc=False))
    training: TrainConfig = field(default_factory=TrainConfig)

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise ConfigError(f"rounds must be at least 1, got {self.rounds}")
        if not self.sampler.stochastic:
            raise ConfigError(
                f"method {self.sampler.name!r} gives one image, not samples; a prior refitted to "
                "such images loses their variety"
            )


def refit(
    folder: Path,
    start: Prior,
    output: Path,
    config: RefitConfig | None = None,
    *,
    images: int | None = None,
    time_limit_s: float | None = None,
    batch_size: int | None = None,
    device: torch.device | str = "cpu",
    shard: tuple[int, int] | None = None,
    on_sample: Callable[[int, int, int], None] | None = None,
    on_damaged: Callable[[str], None] | None = None,
    on_progress: Callable[[int, Progress], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> Prior | None:
    """Draw and train, round by round.

    Args:
        folder: the prepared scans that ``start`` was trained on.
        start: the prior of the first round.
        output: folder for ``round-1``, ... and the last round's ``prior.safetensors``.
        config: options.
        images: images that each round trains on in total.
        time_limit_s: seconds that each call of a round's training may take.
        batch_size: slices whose samples are drawn together; by default as many as the free memory
            allows and are of use.
        device: where to compute.
        shard: draw the samples of part i of N of the groups of scans only, counted from 1, and
            train nothing; in the first round that has not seen all ``images`` (the first, without
            a number). For processes that know nothing of one another.
        on_sample: told (round, done, total) after every scan.
        on_damaged: given a sentence about every file or slice that cannot be read and is left out.
        on_progress: told (round, progress) after every training step.
        should_stop: asked before every group of scans that is sampled and every training step.

    Returns:
        The refitted prior; None for a shard, or if it was stopped before its end.

    Raises:
        ConfigError: impossible options, nothing to stop at, scans that cannot be trained on, or
            rounds there that were made with other options, priors or scans.
        MriAmbientError: a lost process.
    """
    if images is None and time_limit_s is None and shard is None:
        raise ConfigError("say when a round stops: a number of images or a time limit")
    processes, device = ProcessGroup.current(), torch.device(device)
    if shard is not None and processes.size > 1:
        raise ConfigError("processes of one job share the samples as it is: leave out shard i/N")
    part = (processes.rank + 1, processes.size) if processes.size > 1 else shard
    heard = False

    def asked() -> bool:
        nonlocal heard  # once is enough
        heard = heard or (should_stop is not None and should_stop())
        return heard

    def interrupted() -> bool:
        return processes.any(asked(), device)

    config = config or RefitConfig()
    check_levels(start, config.sampler.name)
    training = replace(config.training, objective=Supervised(images="posterior"))
    dataset = split(folder, training, start)
    if on_damaged is not None:
        for sentence in dataset.damaged.values():
            on_damaged(sentence)
    prior, network = start, preset(training.preset)
    for round_ in range(1, config.rounds + 1):
        here = output / f"round-{round_}"
        targets = here / "targets"

        def drawn(done: int, total: int, round_: int = round_) -> None:
            if on_sample is not None:
                on_sample(round_, done, total)

        kind = training.wrapper or Supervised.wrapper
        warm = prior if (prior.facts.kind, prior.facts.network) == (kind, network) else None
        # Another seed every round: a sample must not repeat the noise of the one before.
        recipe = ResolvedRecipe(config.sampler, prior, seed=training.seed + round_)
        runtime = Runtime(device, training.precision, batch_size)
        if processes.from_first(partial(_is_finished, output, round_, images)):
            check_made_by(targets, recipe, runtime, finished=True)
            check_settings(here, read_identity(here / "run.json"), training, warm)
            if images is not None and (seen := images_seen(here)) < images:
                warnings.warn(
                    f"{here}: stays as it is, with {seen} images seen, as round {round_ + 1} was "
                    "drawn from it",
                    NumericalWarning,
                    stacklevel=2,
                )
            prior = load_prior(here, device)
            continue
        whole = make_targets(
            dataset.train,
            targets,
            recipe,
            runtime,
            shard=part,
            on_scan=drawn,
            on_damaged=on_damaged,
            should_stop=asked,
        )
        stopped = processes.any(not whole, device)  # and everybody's samples are there
        if shard is not None or stopped:
            return None  # the next round's samples need this round's prior

        def trained(progress: Progress, round_: int = round_) -> None:
            if on_progress is not None:
                on_progress(round_, progress)

        try:
            train(
                folder,
                here,
                training,
                images=images,
                time_limit_s=time_limit_s,
                device=device,
                init=warm,
                teacher=prior,
                targets=targets,
                on_progress=trained,
                on_damaged=on_damaged,
                should_stop=asked,
            )
        except StoppedError:
            if not interrupted():
                raise
            return None
        if interrupted():
            return None
        prior = load_prior(here, device)
    processes.from_first(lambda: _copy(here / "prior.safetensors", output / "prior.safetensors"))
    return load_prior(output, device)


def _copy(source: Path, path: Path) -> None:
    with atomic_path(path) as temporary:
        shutil.copy(source, temporary)


def _is_finished(output: Path, round_: int, images: int | None) -> bool:
    """Whether a round has trained to its end: its prior must not change once it is sampled from."""
    here = output / f"round-{round_}"
    if not (here / "prior.safetensors").exists():
        return False
    if (output / f"round-{round_ + 1}").exists():
        return True
    return images is not None and images_seen(here) >= images
