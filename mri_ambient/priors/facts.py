"""What a prior file holds beside the weights, which can be told without torch."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError, unknown_name
from ..physics.mask_spec import MaskSpec

if TYPE_CHECKING:
    from .denoisers import Denoiser

UNTRAINED = "frequencies"
"""Name of the only tensors of a network that are not trained."""

SCALE_RULE = "calibration-rss-p99"
"""How scans are normalised before they are given to a prior (docs/reference/conventions.md)."""


@dataclass(frozen=True)
class UNetSpec:
    """Widths and depth of a network.

    Attributes:
        channels: width of each resolution level, finest first.
        blocks: residual blocks per level on the way down (and on the way up).
        embedding: width of the noise-level embedding.
        per_group: channels that a norm takes together, at least.
        passes: how many such networks follow each other, each with weights of its own, in
            denoisers with data consistency between them.
        momentum: whether each pass starts beyond the last image (:meth:`Conditioned.forward`).
    """

    channels: tuple[int, ...]
    blocks: int
    embedding: int
    per_group: int = 4
    passes: int = 3
    momentum: bool = False

    def __post_init__(self) -> None:
        for name, n, most in (
            ("levels", len(self.channels), 12),
            *(("channels", n, 2**14) for n in self.channels),
            ("blocks", self.blocks, 64),
            ("embedding", self.embedding, 2**16),
            ("per_group", self.per_group, 2**14),
            ("passes", self.passes, 64),
        ):
            if not (isinstance(n, int) and 1 <= n <= most):
                raise ConfigError(f"{name} of a network must be from 1 to {most}, got {n}")

    @property
    def learns_faster_in_bf16(self) -> bool:
        """Whether bfloat16 makes a training step faster, on CPUs where it makes convolutions so.

        It saves a third to a half; norms of fewer channels take as much as the convolutions save.
        """
        return self.per_group >= 16


@dataclass(frozen=True)
class PriorFacts:
    """What a prior file holds beside the weights.

    ``sigma_data``, ``sigma_min``, ``tau`` and ``one_level`` are those of :class:`DenoiserSource`.

    Attributes:
        objective: how it was trained, a key of ``OBJECTIVES``.
        kind: the wrapper around the network, a key of ``DENOISERS``.
        network: widths and depth of the network.
        mask_conditioned: whether the network is given M~; plain priors use whole k-space.
        mask: kind and (median) acceleration of the training masks.
        noise_filled: trained on noise of level sigma outside M~, and not given M~.
        scale_rule: how scans must be normalised.
        card: data, number of scans, images seen, date, versions, metrics, intended use.
    """

    objective: str
    kind: str
    network: UNetSpec
    sigma_data: float
    sigma_min: float
    mask_conditioned: bool
    mask: MaskSpec
    noise_filled: bool = False
    one_level: bool = False
    tau: float = 0.05
    scale_rule: str = SCALE_RULE
    card: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("sigma_data", "sigma_min", "tau"):
            value = getattr(self, name)
            is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if not (is_number and 0 < value < math.inf):
                raise ConfigError(f"{name} of a prior must be positive, got {value!r}")

    @property
    def images_seen(self) -> int:
        """Training images, those of its parent priors included."""
        return int(self.card.get("images_seen_before", 0)) + int(self.card.get("images_seen", 0))

    def build(self) -> Denoiser:
        """A denoiser of this shape with fresh weights.

        Raises:
            ConfigError: this version has no such wrapper.
        """
        from .denoisers import DENOISERS  # networks, which need torch

        if self.kind not in DENOISERS:
            raise unknown_name("denoiser", self.kind, DENOISERS)
        return DENOISERS[self.kind](self.network, self.sigma_data)

    @classmethod
    def from_stored(cls, stored: dict[str, Any]) -> PriorFacts:
        """As the header of a file has them, also of earlier versions.

        Raises:
            ConfigError, KeyError, TypeError, AttributeError: they are damaged, or of a later one.
        """
        card = stored.get("card", {})
        if isinstance(old := card.get("calibration"), dict):  # older files: one entry per method
            entries = [{"method": name, **entry} for name, entry in old.items()]
            stored = {**stored, "card": {**card, "calibration": entries}}
        network = stored["network"]
        spec = UNetSpec(**{**network, "channels": tuple(network["channels"])})
        return cls(**{**stored, "network": spec, "mask": MaskSpec(**stored["mask"])})
