"""Training, top to bottom: one loop, resumable to the bit, counted in images.

Everything that shapes the result (learning rate, averaging, masks, noise, order of the slices)
depends on the number of images seen and the seed, never on the clock or on how many processes share
the work; a time limit only stops.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Collection
from copy import deepcopy
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ._version import __version__
from .atomic import make_folder, write_json
from .checkpoint import load_tensors, save_prior, save_tensors
from .config import to_toml, write_toml
from .coverage import Coverage
from .data import (
    MIN_SIGMA,
    Dataset,
    Draw,
    Group,
    Item,
    load_dataset,
    measure_coverage,
    measure_sigma_data,
    smallest_sigma,
    typical_mask,
)
from .device import autocast_on, check_precision, describe_device
from .distributed import Team
from .errors import (
    CheckpointError,
    ConfigError,
    DeviceError,
    MriAmbientError,
    ScanFormatError,
)
from .loader import Loader, Numbered
from .masks import MaskSpec
from .nn.precond import DENOISERS, Denoiser
from .nn.unet import n_parameters, preset
from .objectives import Kspace, Objective
from .prior import Prior, PriorFacts
from .reconstruct import Options
from .report import plot_curves, save_previews
from .rng import rng_for
from .runs import (
    STATE_FORMAT,
    Log,
    check_data,
    checkpoint_path,
    held_back,
    latest_checkpoint,
    read_identity,
)
from .targets import make_targets, target_method
from .validate import HeldOut, fit_tau, hide_lines, previews, reference_errors

N_PREVIEWS = 4
"""Held-out slices that preview.png shows."""


@dataclass(frozen=True)
class TrainConfig:
    """Options of a training run.

    Attributes:
        objective: how the denoiser is learned, with its own options.
        preset: size of the network, a key of ``PRESETS``.
        wrapper: kind of denoiser; the objective's own choice by default.
        batch_size: images per step.
        learning_rate: Adam's, after the warm-up.
        warmup_images: the learning rate rises linearly over these.
        decay_images: beyond these it falls with the inverse square root of the images seen.
        ema_power: weights are averaged with the power profile (1 - 1/t)^(power + 1) of Karras et
            al. 2024 (arXiv 2312.02696, eq. 127), which needs no horizon.
        clip: largest norm of the gradient.
        augment: show mirrored, conjugated and phase-turned versions of every measurement, which
            are measurements of mirrored, conjugated and phase-turned objects.
        precision: of the network while it trains: "fp32", "bf16" (autocast; the physics and the
            losses stay in single precision), or "auto": bf16 on a GPU, fp32 on a CPU.
        n_validation: scans set aside.
        check_every: images between validations, which also write the prior and the curves.
        save_every: images between checkpoints.
        patience: stop after this many validations in a row without a smaller held-out error; 0
            never does.
        max_skipped: stop after this many steps in a row whose loss or gradient is not finite.
        seed: of everything random.
    """

    objective: Objective = field(default_factory=Kspace)
    preset: str = "tiny"
    wrapper: str | None = None
    batch_size: int = 8
    learning_rate: float = 1e-3
    warmup_images: int = 400
    decay_images: int = 8000
    ema_power: float = 6.94
    clip: float = 1.0
    augment: bool = True
    precision: str = "auto"
    n_validation: int = 8
    check_every: int = 2000
    save_every: int = 500
    patience: int = 0
    max_skipped: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        preset(self.preset)
        if self.wrapper is not None and self.wrapper not in DENOISERS:
            raise ConfigError(
                f"wrapper {self.wrapper!r} is unknown; choose from {', '.join(DENOISERS)}"
            )
        counts = ("batch_size", "warmup_images", "decay_images", "check_every", "save_every")
        for name in (*counts, "max_skipped"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.patience < 0:
            raise ConfigError(f"patience must not be negative, got {self.patience}")
        if not 0 < self.learning_rate < math.inf:
            raise ConfigError(f"learning_rate must be positive, got {self.learning_rate}")
        check_precision(self.precision)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, the objective under its name."""
        return asdict(self) | {"objective": self.objective.as_dict()}

    def learning_rate_at(self, images: int) -> float:
        """Linear warm-up, then constant, then inverse square root."""
        warm = min(images / self.warmup_images, 1.0)
        decay = math.sqrt(min(self.decay_images / max(images, 1), 1.0))
        return self.learning_rate * warm * decay

    def autocast_on(self, device: torch.device) -> bool:
        """Whether the network trains in bfloat16.

        Raises:
            ConfigError: it should, but the objective needs single precision.
        """
        if self.objective.full_precision:
            if self.precision == "bf16":
                raise ConfigError(f"objective {self.objective.name!r} as set needs fp32, not bf16")
            return False
        return autocast_on(self.precision, device)

    def ema_decay_at(self, step: int) -> float:
        """How much of the average is kept at this step (counted from 1)."""
        return float((1 - 1 / step) ** (self.ema_power + 1))


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
        run: folder of the run, see :mod:`~mri_ambient.runs`.
        config: options; must be those of the run if it exists.
        images: stop after this many images in total.
        time_limit_s: stop after this many seconds of this call.
        device: where to train.
        init: start from the weights of this prior instead of fresh ones (fine-tuning); everything
            else about the new prior is measured on the new data.
        teacher: the prior that drew the target images: what it knows, the new one may know too.
        targets: folder of target images (see :mod:`~mri_ambient.targets`) for an objective that
            learns from images; made in ``run`` by default.
        workers: processes that read and decode; 0 leaves it to a thread.
        force: train even if the masks cannot tell what the images are.
        on_progress: told after every step.
        on_damaged: given a sentence about every file or slice that cannot be read and is left out.
        should_stop: asked before every step; True stops as a time limit does.

    Returns:
        The prior, as written to ``run/prior.safetensors``.

    Raises:
        ConfigError: nothing to stop at, unusable data, another configuration than the run's, or
            an ``init`` of another architecture.
        CheckpointError: a state could not be read or written.
        DeviceError: out of memory.
        MriAmbientError: too many steps without a finite loss, or a lost process.
    """
    if images is None and time_limit_s is None and not config.patience:
        raise ConfigError("say when to stop: a number of images, a time limit, or patience")
    if images is not None and images < 1:
        raise ConfigError(f"at least one image must be seen, got images={images}")
    if workers < 0:
        raise ConfigError(f"workers must not be negative, got {workers}")
    started = time.monotonic()
    device = torch.device(device)
    team = Team.joined()
    identity = run / "run.json"
    stored = team.from_first(lambda: read_identity(identity) if identity.exists() else None)
    held = None if stored is None else held_back(run, stored)
    dataset = split(folder, config, init, teacher, held=held)
    damage = _Damage(on_damaged)
    damage.note(tuple(dataset.damaged.values()))
    made = targets is not None
    _check(dataset, folder, config, device, init=init, targets_made=made)
    cases = _cases(dataset, config, device, damage) if team.leads else []

    def begin() -> PriorFacts:
        if stored is None or (images is None and time_limit_s is None):
            _check_patience(config, cases)
        if stored is None:  # what was begun goes on, also where scans broke
            _check_masks(dataset, folder, config, force=force)
        make_folder(run)
        return _prepare_run(run, stored, dataset, folder, config, init, teacher, cases)

    facts = team.from_first(begin)
    if config.objective.targets is not None:
        if targets is None:
            make_targets(
                dataset.train,
                run / "targets",
                config.objective.targets,
                options=Options(device=device),
                shard=(team.rank + 1, team.size),
                on_damaged=damage.note_one,
            )
            team.any(False, device)  # until all have made their part
        dataset = replace(dataset, images=targets or run / "targets")
    net = _first_network(facts, config.seed, init).to(device)
    net.autocast = config.autocast_on(device)
    state = _State(net, config)
    log = Log(run / "log.jsonl")
    _resume(state, run, team)
    held_out: list[float] = []
    if team.leads:
        log.cut(state.step * config.batch_size)
        held_out = log.values("held_out")

    batches = Numbered(dataset, config.batch_size, config.seed, team.rank, team.size)
    loader = Loader(batches, state.step, workers=workers, pinned=device.type == "cuda")
    first_step = state.step
    with loader as draws:
        for draw in draws:
            seen = state.step * config.batch_size
            late = time_limit_s is not None and time.monotonic() - started > time_limit_s
            stop = (images is not None and seen >= images) or late
            stop = stop or (should_stop is not None and should_stop())
            if team.any(stop or (team.leads and _has_settled(held_out, config)), device):
                break
            damage.note(draw.damaged)
            try:
                loss, figures = _step(state, draw, config, team, device)
            except torch.OutOfMemoryError as error:
                raise DeviceError(
                    f"out of memory on {device} with {config.batch_size} images a step; train into "
                    "another folder with a smaller --batch-size, or --preset tiny"
                ) from error
            if state.skipped_in_a_row >= config.max_skipped:
                raise _lost(run, draw, state, config, team.rank)
            seen += config.batch_size
            checked = None
            if _passes(seen, config.check_every, config) and team.leads:
                checked = _write_prior(run, state, facts, cases, seen)[1]
                told = checked.get("held_out", math.nan)
                held_out += [told] if math.isfinite(told) else []  # as the log remembers it
            saved = _passes(seen, config.save_every, config)
            if team.leads:
                rate = config.learning_rate_at(seen)
                log.write(images=seen, loss=loss, learning_rate=rate, **figures, **(checked or {}))
                if saved:
                    _save(run, state, config)
                if checked is not None:
                    plot_curves(log.records(), run / "curves.png")
            if on_progress is not None:
                seconds = time.monotonic() - started
                speed = (state.step - first_step) * config.batch_size / seconds
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
    prior = Prior(state.average, facts)
    if team.leads:
        seen = state.step * config.batch_size
        prior, figures = _write_prior(run, state, facts, cases, seen)
        _save(run, state, config)
        plot_curves(log.records(), run / "curves.png", {"images": seen, **figures})
    return replace(prior, facts=team.from_first(lambda: prior.facts))


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


def split(
    folder: Path, config: TrainConfig, *elders: Prior | None, held: Collection[str] | None = None
) -> Dataset:
    """Scans to train on, and scans to judge by, which the new prior cannot know of.

    What judged the priors it learns from (its start, its teacher) judges again, and what they know
    judges nothing. A run that goes on keeps the scans it ``held`` back.
    """
    known = [elder for elder in elders if elder is not None]
    judged = [elder.facts.card.get("validation_scans", ()) for elder in known]
    return load_dataset(
        folder,
        n_validation=config.n_validation,
        seed=config.seed,
        first={scan_id for ids in judged for scan_id in ids},
        never=lambda file: any(elder.was_trained_on(file.source_sha256) for elder in known),
        held=held,
    )


def _check(
    dataset: Dataset,
    folder: Path,
    config: TrainConfig,
    device: torch.device,
    *,
    init: Prior | None,
    targets_made: bool,
) -> None:
    """Refuse, before anything is written, what cannot be trained.

    Raises:
        ConfigError: no scans to train on, undersampled scans where full ones are needed, an unknown
            way to make targets, an ``init`` of another architecture, or a precision that the
            objective cannot do with.
    """
    if not dataset.train:
        reasons = f": {min(dataset.damaged.values())}" if dataset.damaged else ""
        raise ConfigError(f"{folder}: no scan to train on can be read{reasons}")
    objective = config.objective
    config.autocast_on(device)
    if objective.targets is not None and not targets_made:
        target_method(objective.targets)
    kind = config.wrapper or objective.wrapper
    if init is not None and (init.facts.kind, init.facts.network) != (kind, preset(config.preset)):
        raise ConfigError(
            f"the initial prior is a {init.facts.kind!r} denoiser with {init.facts.network}, but a "
            f"{kind!r} one with {preset(config.preset)} is to be trained; choose the same preset "
            "and wrapper, or leave --init out"
        )
    if objective.needs_full and any(item.acceleration > 1 for item in dataset.train):
        raise ConfigError(
            f"objective {objective.name!r} needs fully sampled scans, but {folder} holds "
            "undersampled ones; use kspace or ambient, or --targets l1-wavelet"
        )


def _check_patience(config: TrainConfig, cases: list[HeldOut]) -> None:
    """Refuse patience without anything to watch."""
    if config.patience and not cases:
        raise ConfigError(
            "patience watches the error on hidden lines of scans that are set aside, and there are "
            "none: at least five scans are needed"
        )


def _check_masks(dataset: Dataset, folder: Path, config: TrainConfig, *, force: bool) -> None:
    """Refuse masks that leave most scans' images undetermined."""
    objective = config.objective
    if force or objective.needs_full or objective.targets is not None:
        return
    groups = measure_coverage(dataset.train, warn=False)
    wrong = [group for group in groups if not group.identifiable]
    if 2 * sum(group.n_scans for group in wrong) > sum(group.n_scans for group in groups):
        worst = max(wrong, key=lambda group: group.n_scans)
        raise ConfigError(
            f"{folder}: {worst.line}. The coils leave {worst.left_open:.0%} of an image open: "
            "nothing tells aliased images from true ones, so the prior would be wrong. "
            f"{worst.advice.capitalize()}, or pass --force"
        )


def _cases(
    dataset: Dataset, config: TrainConfig, device: torch.device, damage: _Damage
) -> list[HeldOut]:
    """At most 16 slices of the validation scans with some of their lines hidden."""
    chosen = dataset.validation[:: max(1, len(dataset.validation) // 16)]
    cases = []
    for item in chosen:
        try:
            batch = item.read().to(device)
        except ScanFormatError as error:
            damage.note((str(error),))
            continue
        case = hide_lines(batch, f"{item.scan_id}/{item.index}", seed=config.seed)
        cases += [case] if case.tells else []
    return cases


def describe(
    folder: Path,
    config: TrainConfig,
    device: torch.device | None = None,
    *,
    images: int | None = None,
    run: Path | None = None,
    init: Prior | None = None,
    force: bool = False,
) -> str:
    """What a run would be: data, network, work per image.

    With a device, one image of the largest size is trained on it, and the options, its memory and
    time are told too.

    Args:
        folder: prepared scans.
        config: options.
        device: where to train.
        images: how many a time is told for.
        run: its folder; one that was begun keeps the scans it held back.
        init: the prior it starts from.
        force: as for :func:`train`.

    Raises:
        ConfigError: with a device, where :func:`train` would refuse the data.
    """
    identity = None if run is None else run / "run.json"
    stored = read_identity(identity) if identity is not None and identity.exists() else None
    held = None if run is None or stored is None else held_back(run, stored)
    dataset = split(folder, config, init, held=held)
    if device is not None:
        _check(dataset, folder, config, device, init=init, targets_made=False)
        if stored is None:
            _check_patience(config, _cases(dataset, config, device, _Damage(None)))
            _check_masks(dataset, folder, config, force=force)
    kind = config.wrapper or config.objective.wrapper
    sizes = sorted({item.shape for item in dataset.train})
    net = DENOISERS[kind](preset(config.preset), sigma_data=1.0)
    flops = net.flops(sizes[-1])
    text = (
        f"{config.objective.name} on {len(dataset.train)} slices of {dataset.n_scans} scans "
        f"({len(dataset.validation)} set aside), "
        f"matrices {', '.join(f'{y}x{x}' for y, x in sizes)}; "
        f"{kind} {config.preset} network, {n_parameters(net) / 1e6:.2f} M parameters, "
        f"{flops / 1e9:.1f} GFLOP an evaluation at {sizes[-1][0]}x{sizes[-1][1]}"
    )
    if not config.objective.needs_full and all(item.acceleration == 1 for item in dataset.train):
        text += "; the scans are fully sampled, which objective supervised makes more of"
    if device is None:
        return text
    largest = max(dataset.train, key=lambda item: item.shape[0] * item.shape[1])
    return f"{to_toml(config.as_dict())}\n{text}\n" + _trial(largest, config, device, images)


def _trial(item: Item, config: TrainConfig, device: torch.device, images: int | None) -> str:
    """Train one image, and say what a step of a whole batch takes."""
    kind = config.wrapper or config.objective.wrapper
    net = DENOISERS[kind](preset(config.preset), sigma_data=0.3).to(device).train()
    net.autocast = config.autocast_on(device)
    batch = item.read().to(device)
    if config.objective.targets is not None:
        batch = replace(batch, img=batch.op.adjoint(batch.ksp))
    kept = 0
    times = []

    def count(tensor: Tensor) -> Tensor:
        nonlocal kept
        kept += tensor.numel() * tensor.element_size()
        return tensor

    for trial in range(2):
        started, kept = time.perf_counter(), 0
        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            loss = config.objective(net, batch, [rng_for(config.seed, "trial", trial)])
        loss.backward.backward()  # type: ignore[no-untyped-call]
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - started)
    seconds = times[-1]
    # Weights, gradients, two moments and the average; what one image keeps for its gradients.
    n_bytes = 5 * 4 * n_parameters(net) + config.batch_size * kept
    text = (
        f"about {n_bytes / 2**30:.1f} GiB of memory on {describe_device(device)}; "
        f"one image of {item.shape[0]}x{item.shape[1]} takes {seconds:.2f} s there"
    )
    if images is not None:
        text += f", {images} images at most {format_seconds(seconds * images)}"
    return text


def format_seconds(seconds: float) -> str:
    """``90 s``, ``10 min`` or ``1.5 h``."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _streams(seed: int, what: str, step: int, group: Group) -> list[torch.Generator]:
    """A generator for each slice of a batch, whoever else is in the process's part of it."""
    return [rng_for(seed, what, step, position) for position in group.positions]


def _step(
    state: _State, draw: Draw, config: TrainConfig, team: Team, device: torch.device
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
    state.figures = state.figures or team.from_first(lambda: sorted(figures))
    told = [torch.as_tensor(figures.get(name, 0.0), device=device) for name in state.figures]
    team.sum_([total, *told, *(p.grad for p in parameters if p.grad is not None)])
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


def _resume(state: _State, run: Path, team: Team) -> None:
    """Bring every process to where the run is."""

    def newest() -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        checkpoint = latest_checkpoint(run)
        return None if checkpoint is None else load_tensors(checkpoint)

    stored = team.from_first(newest)
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


def _prepare_run(
    run: Path,
    stored: dict[str, Any] | None,
    dataset: Dataset,
    folder: Path,
    config: TrainConfig,
    init: Prior | None,
    teacher: Prior | None,
    cases: list[HeldOut],
) -> PriorFacts:
    """Write the run's configuration, or check that it is the same run; say what is trained."""
    started_from = None if init is None else init.facts.card.get("sha256", "unsaved")
    wanted = json.loads(json.dumps({"config": config.as_dict(), "init": started_from}))
    if stored is not None:
        # A run of an earlier version lacks the options that came later: it had their defaults.
        defaults = json.loads(json.dumps(TrainConfig(objective=type(config.objective)()).as_dict()))
        options = defaults["objective"] | stored["config"].get("objective", {})
        held = defaults | stored["config"] | {"init": stored.get("init")}
        held["objective"] = options
        asked = wanted["config"] | {"init": started_from}
        differing = [key for key in asked if asked[key] != held.get(key)]
        if differing:
            raise ConfigError(
                f"{run}: holds a run with other settings ({', '.join(sorted(differing))}); "
                "give the same ones to go on with it, or choose another folder"
            )
        damaged = {path.name for path in dataset.damaged}
        check_data(run, stored["data"], dataset.identity, damaged)
        measured = stored["measured"]
        if not measured["references"]:  # where they could not be read at the start
            measured = measured | {"references": reference_errors(cases)}
    else:
        kind, rate, calib = typical_mask(dataset.train)
        measured = {
            "sigma_data": measure_sigma_data(dataset.train),
            "sigma_min": _smallest_sigma(dataset, config.objective),
            "mask": {"kind": kind, "acceleration": rate, "calib": calib},
            "coverage": [_summary(group) for group in measure_coverage(dataset.train)],
            "references": reference_errors(cases),
        }
        stored = wanted | {"data": dataset.identity, "measured": measured}
        write_toml(run / "config.toml", wanted["config"])
        write_json(run / "run.json", stored | {"folder": str(folder.resolve())})
    objective = config.objective
    trained_on = {digest.partition(":")[0] for digest in stored["data"]["train"].values()}
    for elder in (init, teacher):
        trained_on |= set() if elder is None else set(elder.facts.card.get("trained_on", ()))
    card: dict[str, Any] = {
        "n_scans": len(stored["data"]["train"]) + len(stored["data"]["validation"]),
        "n_train_slices": len(dataset.train),
        "trained_on": sorted(trained_on),
        "validation_scans": sorted(stored["data"]["validation"]),
        "matrices": sorted({f"{y}x{x}" for y, x in (item.shape for item in dataset.train)}),
        "coils": _spread([item.file.shape[1] for item in dataset.train]),
        "acceleration": _spread([item.acceleration for item in dataset.train]),
        "sigma_n": _spread([item.noise_std for item in dataset.train]),
        "coverage": measured["coverage"],
        "objective_options": objective.as_dict(),
        "preset": config.preset,
        "init": started_from,
        "images_seen_before": 0 if init is None else init.facts.images_seen,
        "teacher": None if teacher is None else teacher.facts.card.get("sha256", "unsaved"),
        "version": __version__,
        "torch": torch.__version__,
        "references": measured["references"],
        "intended_use": "research only, not for diagnosis",
    }
    card["limits"] = (
        f"knows scans like its training scans (matrices {', '.join(card['matrices'])}; "
        f"{_range(card['coils'])} coils; R = {_range(card['acceleration'])}; noise "
        f"{_range(card['sigma_n'])} after normalisation), their anatomy and contrast; others are "
        "reconstructed with a warning or wrongly"
    )
    return PriorFacts(
        objective=objective.name,
        kind=config.wrapper or objective.wrapper,
        network=preset(config.preset),
        sigma_data=measured["sigma_data"],
        sigma_min=measured["sigma_min"],
        mask_conditioned=objective.mask_conditioned,
        mask=MaskSpec(**measured["mask"]),
        noise_filled=objective.noise_filled,
        one_level=objective.one_level,
        tau=0.3 * measured["sigma_data"],
        card=card,
    )


def _smallest_sigma(dataset: Dataset, objective: Objective) -> float:
    """Where a sampler may end: above the noise of the scans, unless the objective knows better."""
    if objective.below_noise or objective.one_level or objective.targets is not None:
        return MIN_SIGMA
    return smallest_sigma(dataset.train, objective.nearest)


def _spread(values: list[float]) -> list[float]:
    """Smallest, median and largest."""
    return [float(np.quantile(values, q)) for q in (0, 0.5, 1)]


def _range(spread: list[float]) -> str:
    low, _, high = (f"{value:.3g}" for value in spread)
    return low if low == high else f"{low} to {high}"


def _summary(group: Coverage) -> dict[str, Any]:
    """Coverage figures for the card; the share of every single line is left to the manifest."""
    return {key: value for key, value in asdict(group).items() if key != "per_line"}


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
    if cases and prior.knows_masks:  # the others' is a sample's, not that of one step
        facts = replace(facts, tau=tau)
    prior = Prior(state.average, replace(facts, card=card))
    save_prior(prior, run / "prior.safetensors")
    if cases:
        save_previews(previews(prior, cases[:N_PREVIEWS], tau), run / "preview.png")
    return prior, figures


def _save(run: Path, state: _State, config: TrainConfig) -> None:
    """Write a checkpoint; keep the one before it and no more."""
    if state.step == state.saved_step:
        return
    path = checkpoint_path(run, state.step * config.batch_size)
    save_tensors(path, state.tensors(), state.counts())
    state.saved_step = state.step
    for old in sorted(run.glob("checkpoint-*.safetensors"))[:-2]:
        old.unlink()
