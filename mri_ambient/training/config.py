"""Options of a training run."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from ..errors import ConfigError
from ..objectives import Kspace, Objective
from ..priors.denoisers import DENOISERS
from ..priors.unet import preset
from ..runtime.device import bf16_on, check_precision


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
        return bf16_on(self.precision, device)

    def ema_decay_at(self, step: int) -> float:
        """How much of the average is kept at this step (counted from 1)."""
        return float((1 - 1 / step) ** (self.ema_power + 1))
