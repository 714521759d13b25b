"""Training, top to bottom: one loop, resumable to the bit, counted in images.

Everything that shapes the result (learning rate, averaging, masks, noise, order of the slices)
depends on the number of images seen and the seed, never on the clock or on how many processes share
the work; a time limit only stops.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import CheckpointError, ConfigError, DeviceError, MriAmbientError, StoppedError
from ..plots import plot_curves, save_previews
from ..priors.checkpoint import load_prior, load_tensors, save_prior, save_tensors
from ..priors.denoisers import Denoiser
from ..priors.prior import Prior, PriorFacts
from ..priors.unet import n_parameters
from ..recon.recipe import ResolvedRecipe
from ..rng import rng_for
from ..runtime.device import Runtime
from ..runtime.files import atomic_path, make_folder
from ..runtime.prefetch import BatchReader
from ..runtime.process_group import ProcessGroup
from .config import TrainConfig
from .dataset import Dataset, Draw, Group
from .loader import Numbered
from .preflight import begin_run, check_end, check_run, check_trainable, held_out_cases, split
from .run import (
    BEST,
    STATE_FORMAT,
    Log,
    checkpoint_path,
    held_back,
    latest_checkpoint,
    read_identity,
)
from .targets import make_targets, target_method
from .validation import HeldOut, fit_tau, previews

N_PREVIEWS = 4
"""Held-out slices that preview.png shows."""


@dataclass(frozen=True)
class Progress:
    """One line of the log.

    Attributes:
        images: images seen.
        target: images to see, or None if only time stops the run.
        loss: of the last step; NaN if it was skipped.
        images_per_second: over this call.
        seconds: of this call.
        waiting: share of this call's time spent waiting for data.
        validation: figures of a validation, if there was one.
        saved: whether a checkpoint was written.
        skipped: steps of the run without a finite loss and gradient.
    """

    images: int
    target: int | None
    loss: float
    images_per_second: float
    seconds: float
    waiting: float
    validation: dict[str, float] | None
    saved: bool
    skipped: int


class _State:
    """What a run changes: weights, their average, the optimiser, and how far it is."""

    def __init__(self, net: Denoiser, config: TrainConfig) -> None:
        self.net = net
        self.average = deepcopy(net).requires_grad_(False).eval()
        self.optimizer = torch.optim.Adam(
            net.parameters(), lr=config.learning_rate, betas=(0.9, 0.99)
        )
        self.step = 0
        self.skipped = 0
        self.skipped_in_a_row = 0
        self.saved_step = 0
        self.figures: list[str] = []

    def tensors(self) -> dict[str, Tensor]:
        """Everything that is a tensor, by name."""
        tensors = {f"net.{k}": v for k, v in self.net.state_dict().items()}
        tensors |= {f"average.{k}": v for k, v in self.average.state_dict().items()}
        for name, parameter in self.net.named_parameters():
            # Before its first step, and if all were skipped, Adam remembers nothing.
            slots = self.optimizer.state.get(parameter, {})
            for slot in ("exp_avg", "exp_avg_sq"):
                value = slots[slot] if slots else torch.zeros_like(parameter)
                tensors[f"{slot}.{name}"] = value
        return tensors

    def counts(self) -> dict[str, Any]:
        """Everything that is a number."""
        return {
            "format": STATE_FORMAT,
            "step": self.step,
            "skipped": self.skipped,
            "skipped_in_a_row": self.skipped_in_a_row,
        }

    def restore(self, tensors: dict[str, Tensor], counts: dict[str, Any]) -> None:
        """Go on from there."""

        def part(name: str) -> dict[str, Tensor]:
            return {k[len(name) + 1 :]: v for k, v in tensors.items() if k.startswith(f"{name}.")}

        self.step = self.saved_step = int(counts["step"])
        self.skipped = int(counts.get("skipped", 0))
        self.skipped_in_a_row = int(counts.get("skipped_in_a_row", 0))
        self.net.load_state_dict(part("net"))
        self.average.load_state_dict(part("average"))
        first, second = part("exp_avg"), part("exp_avg_sq")
        if (n_updates := self.step - self.skipped) == 0:
            return
        for name, parameter in self.net.named_parameters():
            self.optimizer.state[parameter] = {
                "step": torch.tensor(float(n_updates)),
                "exp_avg": first[name].to(parameter.device),
                "exp_avg_sq": second[name].to(parameter.device),
            }


def train(
    folder: Path,
    run: Path,
    config: TrainConfig,
    *,
    images: int | None = None,
    time_limit_s: float | None = None,
    device: torch.device | str = "cpu",
    init: Prior | None = None,
    teacher: Prior | None = None,
    targets: Path | None = None,
    workers: int = 0,
    force: bool = False,
    on_progress: Callable[[Progress], None] | None = None,
    on_damaged: Callable[[str], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> Prior:
    """Train a prior on prepared scans, or go on with a run that was stopped.

    Processes that joined a ``torch.distributed`` group share every batch; the first of them writes.

    Args:
        folder: prepared scans.
        run: folder of the run, see :mod:`~mri_ambient.training.run`.
        config: options; must be those of the run if it exists.
        images: stop after this many images in total.
        time_limit_s: stop after this many seconds of this call, but not before its first step.
        device: where to train.
        init: start from the weights of this prior instead of fresh ones (fine-tuning); everything
            else about the new prior is measured on the new data.
        teacher: the prior that drew the target images: what it knows, the new one may know too.
        targets: folder of target images (see :mod:`~mri_ambient.training.targets`) for an
            objective that learns from images; made in ``run`` by default.
        workers: processes that read and decode; 0 leaves it to a thread.
        force: train even if the masks cannot tell what the images are.
        on_progress: told after every step.
        on_damaged: given a sentence about every file or slice that cannot be read and is left out.
        should_stop: asked before every step, and before targets of a group of scans are made; True
            stops as a time limit does.

    Returns:
        The prior, as written to ``run/prior.safetensors``; with patience, that of the smallest
        held-out error.

    Raises:
        ConfigError: nothing to stop at, unusable data, another configuration than the run's, or
            an ``init`` of another architecture.
        CheckpointError: a state could not be read or written.
        DeviceError: out of memory.
        StoppedError: stopped before the first image was seen.
        MriAmbientError: too many steps without a finite loss, or a lost process.
    """
    check_end(config, images, time_limit_s)
    if workers < 0:
        raise ConfigError(f"workers must not be negative, got {workers}")
    started = time.monotonic()

    def asked() -> bool:
        return should_stop is not None and should_stop()

    def late() -> bool:
        return time_limit_s is not None and time.monotonic() - started > time_limit_s

    device = torch.device(device)
    processes = ProcessGroup.current()
    identity = run / "run.json"
    stored = processes.from_first(lambda: read_identity(identity) if identity.exists() else None)
    held = None if stored is None else held_back(run, stored)
    dataset = split(folder, config, init, teacher, held=held)
    damage = _Damage(on_damaged)
    damage.note(tuple(dataset.damaged.values()))
    made = targets is not None
    check_trainable(dataset, folder, config, device, init=init, targets_made=made)
    cases = held_out_cases(dataset, config, device, damage.note_one) if processes.is_first else []

    def begin() -> PriorFacts:
        endless = images is None and time_limit_s is None
        check_run(run, stored, dataset, folder, config, init, cases, endless=endless, force=force)
        make_folder(run)
        for torn in run.glob(".tmp-*"):  # of a process that was killed while it wrote
            torn.unlink(missing_ok=True)
        return begin_run(run, stored, dataset, folder, config, init, teacher, cases)

    facts = processes.from_first(begin)
    if config.objective.targets is not None:
        if targets is None:
            targets, asks = run / "targets", count()

            def enough() -> bool:
                # However short the time, a call makes the images of one group.
                return asked() or (next(asks) > 0 and late())

            _make_images(
                dataset, targets, config.objective.targets, device, processes, damage, enough
            )
        dataset = replace(dataset, images=targets)
    net = _first_network(facts, config.seed, init).to(device)
    net.autocast = config.autocast_on(device)
    state = _State(net, config)
    log = Log(run / "log.jsonl")
    _resume(state, run, processes)
    held_out: list[float] = []
    if processes.is_first:
        log.cut(state.step * config.batch_size)
        held_out = log.values("held_out")

    batches = Numbered(dataset, config.batch_size, config.seed, processes.rank, processes.size)
    loader = BatchReader(batches, state.step, workers=workers, pinned=device.type == "cuda")
    first_step, began = state.step, time.monotonic()
    with loader:
        for draw in loader:
            seen = state.step * config.batch_size
            # However short the time, a call takes a step.
            stop = (images is not None and seen >= images) or asked()
            stop = stop or (late() and state.step > first_step)
            if processes.any(
                stop or (processes.is_first and _has_settled(held_out, config)), device
            ):
                break
            damage.note(draw.damaged)
            try:
                loss, figures = _step(state, draw, config, processes, device)
            except torch.OutOfMemoryError as error:
                raise DeviceError(
                    f"out of memory on {device} with {config.batch_size} images a step; train into "
                    "another folder with a smaller --batch-size, or --preset tiny"
                ) from error
            if state.skipped_in_a_row >= config.max_skipped:
                raise _lost(run, draw, state, config, processes.rank)
            seen += config.batch_size
            checked = None
            if _passes(seen, config.check_every, config) and processes.is_first:
                prior, checked = _write_prior(run, state, facts, cases, seen)
                told = checked.get("held_out", math.nan)
                if config.patience and told < min(held_out, default=math.inf):
                    save_prior(prior, run / BEST)
                held_out += [told] if math.isfinite(told) else []  # as the log remembers it
            saved = _passes(seen, config.save_every, config)
            if processes.is_first:
                rate = config.learning_rate_at(seen)
                log.write(images=seen, loss=loss, learning_rate=rate, **figures, **(checked or {}))
                if saved:
                    _save(run, state, config)
                if checked is not None:
                    plot_curves(log.records(), run / "curves.png")
            if on_progress is not None:
                seconds = time.monotonic() - started
                speed = (state.step - first_step) * config.batch_size / (time.monotonic() - began)
                on_progress(
                    Progress(
                        images=seen,
                        target=images,
                        loss=loss,
                        images_per_second=speed,
                        seconds=seconds,
                        waiting=loader.waited / seconds,
                        validation=checked,
                        saved=saved,
                        skipped=state.skipped,
                    )
                )
    if state.step == 0:
        raise StoppedError(
            f"{run}: stopped before the first image was seen; the same command begins"
        )
    prior = Prior(state.average, facts)
    if processes.is_first:
        seen = state.step * config.batch_size
        prior, figures = _write_prior(run, state, facts, cases, seen)
        _save(run, state, config)
        plot_curves(log.records(), run / "curves.png", {"images": seen, **figures})
        prior = _best_of(run, prior, cases) if config.patience else prior
    if config.patience:  # its weights may be earlier ones, which the first process alone has
        state.average.load_state_dict(processes.from_first(lambda: _weights(prior.net)))
    return Prior(state.average, processes.from_first(lambda: prior.facts))


def _make_images(
    dataset: Dataset,
    folder: Path,
    method: str,
    device: torch.device,
    processes: ProcessGroup,
    damage: _Damage,
    should_stop: Callable[[], bool],
) -> None:
    """Reconstruct what an objective learns from; every process makes its part.

    Raises:
        StoppedError: a process was stopped before all were made.
    """
    whole = make_targets(
        dataset.train,
        folder,
        ResolvedRecipe(target_method(method)),
        Runtime(device),
        shard=(processes.rank + 1, processes.size),
        on_damaged=damage.note_one,
        should_stop=should_stop,
    )
    if processes.any(not whole, device):  # and all have made their part
        raise StoppedError(
            f"{folder.parent}: stopped while the images to learn from were made; the same command "
            "goes on"
        )


class _Damage:
    """Passes every sentence on once."""

    def __init__(self, listener: Callable[[str], None] | None) -> None:
        self.listener = listener
        self.known: set[str] = set()

    def note(self, sentences: tuple[str, ...]) -> None:
        for sentence in sentences:
            self.note_one(sentence)

    def note_one(self, sentence: str) -> None:
        if sentence not in self.known and self.listener is not None:
            self.listener(sentence)
        self.known.add(sentence)


def _passes(seen: int, every: int, config: TrainConfig) -> bool:
    """Whether the last step passed a multiple of ``every`` images."""
    return seen // every > (seen - config.batch_size) // every


def _has_settled(held_out: list[float], config: TrainConfig) -> bool:
    """Whether the held-out error has not fallen for ``patience`` validations."""
    if not config.patience or not held_out:
        return False
    return len(held_out) - 1 - int(np.argmin(held_out)) >= config.patience


def _streams(seed: int, what: str, step: int, group: Group) -> list[torch.Generator]:
    """A generator for each slice of a batch, whoever else is in the process's part of it."""
    return [rng_for(seed, what, step, position) for position in group.positions]


def _step(
    state: _State, draw: Draw, config: TrainConfig, processes: ProcessGroup, device: torch.device
) -> tuple[float, dict[str, float]]:
    """One optimiser step on one batch; slices of different sizes are weighted by their number.

    A step whose loss or gradient is not finite changes nothing but the count of such steps.

    Returns:
        The loss and the figures over all processes; NaN and nothing for such a step.
    """
    state.net.train()
    state.net.vary(rng_for(config.seed, "vary", state.step))
    state.optimizer.zero_grad(set_to_none=True)
    total = torch.zeros((), device=device)
    figures: dict[str, Tensor] = {}
    for group in draw.groups:
        batch = group.batch.to(device)
        if config.augment:
            batch = batch.augmented(_streams(config.seed, "augment", state.step, group))
        rng = _streams(config.seed, "step", state.step, group)
        loss = config.objective(state.net, batch, rng)
        share = len(batch) / config.batch_size
        (loss.backward * share).backward()  # type: ignore[no-untyped-call]
        total += loss.backward.detach() * share
        for name, value in loss.log.items():
            figures[name] = figures.get(name, 0.0) + value * share
    parameters = list(state.net.parameters())
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    state.figures = state.figures or processes.from_first(lambda: sorted(figures))
    told = [torch.as_tensor(figures.get(name, 0.0), device=device) for name in state.figures]
    processes.sum_([total, *told, *(p.grad for p in parameters if p.grad is not None)])
    norm = torch.nn.utils.clip_grad_norm_(parameters, config.clip)
    state.step += 1
    if not math.isfinite(float(total + norm)):
        state.skipped += 1
        state.skipped_in_a_row += 1
        return math.nan, {}
    state.skipped_in_a_row = 0
    for options in state.optimizer.param_groups:
        options["lr"] = config.learning_rate_at(state.step * config.batch_size)
    state.optimizer.step()
    keep = config.ema_decay_at(state.step)
    with torch.no_grad():
        pairs = zip(state.average.parameters(), parameters, strict=True)
        for average, weight in pairs:
            average.lerp_(weight, 1 - keep)
    return float(total), dict(zip(state.figures, map(float, told), strict=True))


def _lost(run: Path, draw: Draw, state: _State, config: TrainConfig, rank: int) -> MriAmbientError:
    """What to say after too many skipped steps; this process's part of the last batch is kept."""
    part = f"-{rank}" if rank else ""
    path = run / f"skipped-{state.step * config.batch_size:09d}{part}.safetensors"
    tensors = {
        f"{i}.{name}": value
        for i, group in enumerate(draw.groups)
        for name, value in vars(group.batch.to("cpu")).items()
        if value is not None
    }
    names = [list(group.names) for group in draw.groups]
    save_tensors(path, tensors, {"format": "batch/1", "step": state.step, "slices": names})
    listed = ", ".join(name for group in names for name in group)
    return MriAmbientError(
        f"{run}: {config.max_skipped} steps in a row gave no finite loss or gradient; the last "
        f"batch is in {path.name}. Look at its scans ({listed:.300}), or train into another folder "
        "with a smaller --learning-rate or --precision fp32"
    )


def _resume(state: _State, run: Path, processes: ProcessGroup) -> None:
    """Bring every process to where the run is."""

    def newest() -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        checkpoint = latest_checkpoint(run)
        return None if checkpoint is None else load_tensors(checkpoint)

    stored = processes.from_first(newest)
    if stored is None:
        return
    try:
        state.restore(*stored)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(
            f"{run}: its newest checkpoint does not fit the run "
            f"({' '.join(str(error).split())[:80]}); delete it to go on from the one before"
        ) from error


def _first_network(facts: PriorFacts, seed: int, init: Prior | None) -> Denoiser:
    """Weights of a prior, or from the seed, leaving torch's global random state as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(rng_for(seed, "initial weights").initial_seed())
        net = facts.build()
    if init is not None:
        net.load_state_dict(init.net.state_dict())
    return net


def _write_prior(
    run: Path, state: _State, facts: PriorFacts, cases: list[HeldOut], seen: int
) -> tuple[Prior, dict[str, float]]:
    """Judge the averaged weights, fit the tau that goes with them, and write them as a prior."""
    figures: dict[str, float] = {}
    card = {
        **facts.card,
        "images_seen": seen,
        "steps_skipped": state.skipped,
        "parameters": n_parameters(state.average),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
    }
    prior = Prior(state.average, facts)
    if cases:
        tau, error, without = fit_tau(prior, cases)
        figures = {"held_out": error, "held_out_no_dc": without, **facts.card["references"]}
        card["held_out"] = figures = {**figures, "tau": tau}
    error = figures.get("held_out", 0.0)
    if not (math.isfinite(error) and all(bool(p.isfinite().all()) for p in prior.net.parameters())):
        raise MriAmbientError(
            f"{run}: after {seen} images the prior gives no numbers any more, and was not written; "
            "train into another folder with a smaller --learning-rate or --precision fp32"
        )
    if cases and prior.mask_conditioned:  # the others' is a sample's, not that of one step
        facts = replace(facts, tau=tau)
    prior = Prior(state.average, replace(facts, card=card))
    save_prior(prior, run / "prior.safetensors")
    _draw(prior, cases, figures.get("tau", 0.0), run)
    return prior, figures


def _best_of(run: Path, last: Prior, cases: list[HeldOut]) -> Prior:
    """The last prior, or the one whose held-out error was the smallest of all checks.

    That becomes the run's prior. Where nothing judges the last any more, it is given as it is.
    """
    if not (run / BEST).exists() or "held_out" not in last.facts.card:
        return last
    best = load_prior(run / BEST)
    known, now = (prior.facts.card["held_out"] for prior in (best, last))
    if known["held_out"] >= now["held_out"]:
        return last
    with atomic_path(run / "prior.safetensors") as path:
        shutil.copyfile(run / BEST, path)
    _draw(best, cases, known["tau"], run)
    return best


def _draw(prior: Prior, cases: list[HeldOut], tau: float, run: Path) -> None:
    """Held-out slices as the prior sees them."""
    if cases:
        device = cases[0].batch.ksp.device
        save_previews(previews(prior.to(device), cases[:N_PREVIEWS], tau), run / "preview.png")


def _weights(net: Denoiser) -> dict[str, Tensor]:
    """All weights, on the CPU."""
    return {name: tensor.cpu() for name, tensor in net.state_dict().items()}


def _save(run: Path, state: _State, config: TrainConfig) -> None:
    """Write a checkpoint; keep the one before it and no more."""
    if state.step == state.saved_step:
        return
    path = checkpoint_path(run, state.step * config.batch_size)
    save_tensors(path, state.tensors(), state.counts())
    state.saved_step = state.step
    for old in sorted(run.glob("checkpoint-*.safetensors"))[:-2]:
        old.unlink()
