"""What a training is given: options that decide the result, and all else of one call."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from ..errors import ConfigError, unknown_name
from ..objectives import Kspace, Objective
from ..priors.denoisers import DENOISERS
from ..priors.facts import UNetSpec
from ..priors.prior import Prior
from ..priors.unet import DEFAULT_NETWORK, network_spec, preset_of
from ..runtime.config import check_number
from ..runtime.device import Runtime, check_precision
from ..runtime.files import as_json

CPU = torch.device("cpu")


@dataclass(frozen=True)
class TrainConfig:
    """Options of a training run: all that decides the prior, given the scans.

    Attributes:
        objective: how the denoiser is learned, with its own options.
        preset: size of the network, a key of ``NETWORKS``; by default that of the prior that is
            started from, or :data:`DEFAULT_NETWORK`.
        wrapper: kind of denoiser, a key of ``DENOISERS``; the objective's own by default.
        batch_size: images per step, over all processes.
        learning_rate: of Adam, after the warm-up.
        warmup_images: the learning rate rises linearly over these.
        decay_images: beyond these it falls with the inverse square root of the images seen.
        cooldown_images: besides, it falls linearly to 0 over so many images before ``end_images``;
            0: it does not.
        end_images: images at which it is 0, if ``cooldown_images`` says so.
        ema_power: weights are averaged with the power profile (1 - 1/t)^(power + 1) of Karras et
            al. 2024 (arXiv 2312.02696, eq. 127), which needs no horizon.
        clip: largest norm of the gradient.
        augment: train on mirrored, conjugated and phase-turned versions of every measurement,
            which are measurements of mirrored, conjugated and phase-turned objects.
        precision: of the network while it trains: "fp32", "bf16" (autocast; the physics and the
            losses stay in single precision), or "auto": bf16 on a GPU, and on a CPU where it is
            faster (:meth:`autocast_on`).
        n_validation: scans set aside for validation.
        check_every: images between validations, which also write the prior and the curves.
        save_every: images between checkpoints.
        patience: stop after this many validations in a row without a smaller held-out error; 0
            never does.
        max_skipped: stop after this many steps in a row whose loss or gradient is not finite.
        seed: of all random numbers.
    """

    objective: Objective = field(default_factory=Kspace)
    preset: str | None = None
    wrapper: str | None = None
    batch_size: int = 8
    learning_rate: float = 1e-3
    warmup_images: int = 400
    decay_images: int = 8000
    cooldown_images: int = 0
    end_images: int = 0
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
        if not isinstance(self.objective, Objective):
            raise ConfigError(
                f"objective is {self.objective!r}, wanted an instance, e.g. Ambient() or "
                'mri_ambient.OBJECTIVES["ambient"]()'
            )
        if self.preset is not None:
            network_spec(self.preset)
        if self.wrapper is not None and self.wrapper not in DENOISERS:
            raise unknown_name("wrapper", self.wrapper, DENOISERS)
        counts = ("batch_size", "warmup_images", "decay_images", "check_every", "save_every")
        for name in (*counts, "max_skipped"):
            check_number(name, getattr(self, name), 1, whole=True)
        for name in ("n_validation", "patience", "cooldown_images", "end_images"):
            check_number(name, getattr(self, name), 0, whole=True)
        check_number("seed", self.seed, whole=True)
        for name in ("learning_rate", "ema_power", "clip"):
            check_number(name, getattr(self, name), above=0, capless=name == "clip")
        if self.end_images < self.cooldown_images or (self.end_images and not self.cooldown_images):
            raise ConfigError(
                f"end_images must be 0 without cooldown_images, and at least as many with it, got "
                f"{self.end_images} and {self.cooldown_images}"
            )
        check_precision(self.precision)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, the objective under its name."""
        return asdict(self) | {"objective": self.objective.as_dict()}

    @property
    def kind(self) -> str:
        """The kind of denoiser, a key of ``DENOISERS``."""
        return self.wrapper or self.objective.wrapper

    @property
    def network(self) -> UNetSpec:
        """Widths and depth of the networks."""
        return network_spec(self.preset or DEFAULT_NETWORK)

    def starting_from(self, start: Prior | None) -> TrainConfig:
        """The same with a preset: its own, or that of the prior that is started from."""
        like_start = None if start is None else preset_of(start.facts.network)
        return replace(self, preset=self.preset or like_start or DEFAULT_NETWORK)

    def learning_rate_at(self, images: int) -> float:
        """Linear warm-up, then constant, then inverse square root, then linear cool-down."""
        warm = min(images / self.warmup_images, 1.0)
        decay = math.sqrt(min(self.decay_images / max(images, 1), 1.0))
        left = (self.end_images - images) / self.cooldown_images if self.cooldown_images else 1.0
        return self.learning_rate * warm * decay * min(max(left, 0.0), 1.0)

    def autocast_on(self, runtime: Runtime, network: UNetSpec) -> bool:
        """Whether such a network trains in bfloat16 there: by choice, or where that is faster.

        Raises:
            ConfigError: it is chosen, but the objective needs single precision.
        """
        chosen = runtime.precision == "bf16"
        if self.objective.full_precision:
            if chosen:
                raise ConfigError(f"objective {self.objective.name!r} as set needs fp32, not bf16")
            return False
        on_cpu = runtime.torch_device.type == "cpu"
        return runtime.bf16 and (chosen or not on_cpu or network.learns_faster_in_bf16)

    def ema_decay_at(self, step: int) -> float:
        """How much of the average is kept at this step (counted from 1)."""
        return float((1 - 1 / step) ** (self.ema_power + 1))


@dataclass(frozen=True)
class TrainJob:
    """One call of a training: what it is given beside the hooks.

    Attributes:
        data, run, config, images: as in :func:`~mri_ambient.training.loop.train`.
        time_limit_s: stop after this many seconds of the call, the last validation included, but
            not before its first step.
        init: start from the weights of this prior; everything else about the new one is measured
            on the new scans.
        teacher: the prior that drew the target images; its training scans count as seen.
        targets: folder of target images (see :mod:`~mri_ambient.training.targets`); by default
            they are made in ``run/targets`` if the objective learns from images.
        device: where to train.
        workers: processes that read and decode; with 0 a thread does.
        force: train even if the masks leave the images undetermined.

    Raises:
        ConfigError: nothing ends the training, or a number is impossible.
    """

    data: Path
    run: Path
    config: TrainConfig = field(default_factory=TrainConfig)
    images: int | None = None
    time_limit_s: float | None = None
    init: Prior | None = None
    teacher: Prior | None = None
    targets: Path | None = None
    device: torch.device = CPU
    workers: int = 0
    force: bool = False

    def __post_init__(self) -> None:
        if self.only_patience_ends and not self.config.patience:
            raise ConfigError(
                "say when to stop: images (--images), time_limit (--time-limit), or patience of "
                "TrainConfig (--patience)"
            )
        if self.images is not None and self.images < 1:
            raise ConfigError(f"at least one image must be seen, got images={self.images}")
        if self.workers < 0:
            raise ConfigError(f"workers must not be negative, got {self.workers}")
        last = self.config.end_images
        if last and (self.images is None or self.images > last):
            raise ConfigError(
                f"the learning rate is 0 from {last} images on (end_images); give images "
                f"(--images) of at most as many, got {self.images}"
            )
        object.__setattr__(self, "config", self.config.starting_from(self.init))

    @property
    def only_patience_ends(self) -> bool:
        """Whether neither a number of images nor a time limit stops it."""
        return self.images is None and self.time_limit_s is None

    @property
    def parents(self) -> tuple[Prior, ...]:
        """The priors that the new one learns from."""
        return tuple(prior for prior in (self.init, self.teacher) if prior is not None)

    @property
    def runtime(self) -> Runtime:
        """Where it trains, and in which precision."""
        return Runtime(self.device, self.config.precision)

    def settings(self) -> dict[str, Any]:
        """The options and the prior it starts from, as ``run.json`` holds them."""
        init = None if self.init is None else self.init.facts.card.get("sha256", "unsaved")
        return as_json({"config": self.config.as_dict(), "init": init})


@dataclass(frozen=True)
class Progress:
    """How far a training is after a step.

    Attributes:
        images, images_now: images seen; those of this call.
        loss: of the last step; NaN if it was skipped.
        images_per_second, seconds, waiting: of this call; the share of time it waited for data.
        validation: figures of a validation, if there was one.
        saved: whether a checkpoint was written.
        skipped: steps of the run without a finite loss and gradient.
    """

    images: int
    images_now: int
    loss: float
    images_per_second: float
    seconds: float
    waiting: float
    validation: dict[str, float] | None
    saved: bool
    skipped: int


@dataclass(frozen=True)
class Hooks:
    """Functions of the caller that a training calls.

    Attributes:
        on_progress: called after every step.
        on_target: called with (done, total) after every scan whose target images are there, and
            with fractions of scans while their samples are drawn.
        on_validation: called with (done, total) after every slice of a validation.
        on_damaged: called with one sentence about a file or slice that cannot be read, again
            whenever it is met.
        should_stop: called before every step, and before the targets of a group of scans are made;
            True stops as a time limit does, and must stay True.
    """

    on_progress: Callable[[Progress], None] = lambda _: None
    on_target: Callable[[float, int], None] = lambda done, total: None
    on_validation: Callable[[int, int], None] = lambda done, total: None
    on_damaged: Callable[[str], None] = lambda _: None
    should_stop: Callable[[], bool] = lambda: False
