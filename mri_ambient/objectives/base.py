"""What all objectives share: the form of a loss, further masks and weights of k-space entries."""

from __future__ import annotations

import hashlib
import math
from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from ..errors import ConfigError
from ..physics.masks import subsample_further, unseen_probability
from ..priors.denoisers import Denoiser
from ..rng import Streams, complex_normals, on_device, rng_for
from ..scan import Batch


@dataclass(frozen=True)
class Loss:
    """One training step's loss.

    Attributes:
        backward: the scalar that trains the network.
        log: figures for the log.
    """

    backward: Tensor
    log: dict[str, Tensor]


@dataclass(frozen=True)
class Objective(ABC):
    """How a denoiser is learned; a frozen dataclass with its options.

    Attributes:
        name: the key it is chosen by.
        wrapper: the kind of denoiser it trains by default.
        mask_conditioned: whether its prior is given a mask M~.
        noise_filled: whether it trains on noise of level sigma where nothing was sampled.
        learns_unsampled: whether it learns lines that no scan of a data set samples.
    """

    name: ClassVar[str]
    wrapper: ClassVar[str] = "plain"
    mask_conditioned: ClassVar[bool] = False
    noise_filled: ClassVar[bool] = False
    learns_unsampled: ClassVar[bool] = False

    @property
    def one_level(self) -> bool:
        """Whether it trains at the scanner's noise only, so that priors serve for one step."""
        return False

    @property
    def below_noise(self) -> bool:
        """Whether it trains noise levels below that of the scans."""
        return False

    @property
    def sigma_min_over_noise(self) -> float:
        """Smallest trained noise level, in units of a scan's sigma_n."""
        return 1.2

    @property
    def needs_noise(self) -> bool:
        """Whether its loss corrects for the scanner's noise, which must then be known."""
        return False

    @property
    def needs_full(self) -> bool:
        """Whether it needs fully sampled scans."""
        return False

    @property
    def targets(self) -> str | None:
        """What reconstructs the target images; None if it learns from measurements."""
        return None

    @property
    def full_precision(self) -> bool:
        """Whether the network must compute in single precision."""
        return False

    @abstractmethod
    def __call__(self, net: Denoiser, batch: Batch, rng: Streams) -> Loss:
        """The loss of ``net`` on ``batch``, averaged over its items; item i draws from ``rng[i]``.

        Entries of k-space that were not measured are never read.
        """

    def as_dict(self) -> dict[str, Any]:
        """Name and options, as plain values."""
        return {"name": self.name, **asdict(self)}


@dataclass(frozen=True)
class Extended(Objective):
    """Another objective and a penalty, for a mask-conditioned denoiser.

    Attributes:
        base: the other objective.
    """

    wrapper: ClassVar[str] = "conditioned"
    mask_conditioned: ClassVar[bool] = True

    base: Objective

    @property
    @override
    def needs_noise(self) -> bool:
        return self.base.needs_noise

    @property
    @override
    def sigma_min_over_noise(self) -> float:
        return self.base.sigma_min_over_noise

    @override
    def as_dict(self) -> dict[str, Any]:
        return {**super().as_dict(), "base": self.base.as_dict()}


def edm_weight(sigma: Tensor, sigma_data: float) -> Tensor:
    """lambda(sigma) = (sigma^2 + s^2) / (sigma s)^2 (Karras et al. 2022, table 1)."""
    return (sigma.square() + sigma_data**2) / (sigma * sigma_data).square()


def abs2(x: Tensor) -> Tensor:
    """Squared magnitude, with a gradient that is finite at 0."""
    return torch.view_as_real(x).square().sum(dim=-1)


def per_pixel(energy: Tensor) -> Tensor:
    """Sum over coils, average over the grid: ``(b, coil, y, x)`` to ``(b,)``."""
    return energy.sum(dim=-3).mean(dim=(-2, -1))


def per_image_pixel(energy: Tensor, n_sets: int) -> Tensor:
    """Sum over sets of maps, average over the grid: ``(b, set*y, x)`` to ``(b,)``."""
    return energy.mean(dim=(-2, -1)) * n_sets


def noise_like(x: Tensor, rng: Streams) -> Tensor:
    """White complex noise shaped like ``x``, item i from stream i, drawn where ``x`` is."""
    return complex_normals(tuple(x.shape[1:]), on_device(rng, x.device), device=x.device)


def check_margin(margin: float) -> None:
    """Raise ConfigError unless it is above 1: no state has less noise than the measurement."""
    if not 1 < margin < math.inf:
        raise ConfigError(f"margin must be above 1 and finite, got {margin}")


def check_shares(remove: tuple[float, float]) -> None:
    """Raise ConfigError unless the two numbers are shares in rising order."""
    if len(remove) != 2 or not 0 < remove[0] <= remove[1] < 1:
        raise ConfigError(f"remove must be two shares between 0 and 1, got {remove}")


def thinned(batch: Batch, remove: tuple[float, float], rng: Streams, *, fresh: bool) -> Tensor:
    """M~ ``(b, 1, y, x)``: a random share of the sampled outer lines removed from every mask.

    ``fresh`` draws another M~ every time; otherwise the same lines of a mask are always removed.
    """
    low, high = remove
    seen = []
    for mask, stream in zip(batch.mask.cpu(), rng, strict=True):
        if not fresh:
            stream = rng_for(0, "frozen", hashlib.sha256(mask.numpy().tobytes()).hexdigest())
        fraction = low + (high - low) * float(torch.rand((), generator=stream))
        seen.append(subsample_further(mask, fraction, stream))
    return torch.stack(seen).to(batch.mask.device)


def unseen_weight(batch: Batch, remove: tuple[float, float], cap: float) -> Tensor:
    """min(1 / P(M=1 | M~=0), cap) of every entry, ``(b, 1, y, x)``, for the law of :func:`thinned`.

    P follows from how often the scans of the data set sample an entry, ``batch.density``.
    """
    chance = unseen_probability(batch.density, sum(remove) / 2)
    return (1 / chance.clamp(min=1e-6)).clamp(max=cap)
