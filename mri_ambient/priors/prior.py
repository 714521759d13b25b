"""A prior: a trained denoiser and the facts needed to use it rightly."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol, Self

import torch
from torch import Generator, Tensor

from ..errors import ConfigError
from ..physics.masks import MaskSpec, subsample_further, training_fraction
from ..physics.operators import SenseOp
from ..rng import complex_normals
from .denoisers import DENOISERS, Denoiser
from .schedules import EDM_HIGHEST, LogNormal
from .unet import UNetSpec

DenoiseFn = Callable[[Tensor, Tensor], Tensor]
"""``(z, sigma) -> x0``: state ``(b, coil, y, x)`` and noise level ``(b,)`` to ``(b, y, x)``."""

Further = Literal["scan", "training"] | Tensor
"""Which M~ a mask-conditioned denoiser is given: the scan's own mask, one drawn like those of the
training, or this very one."""


class DenoiserSource(Protocol):
    """What methods need of a prior. :class:`Prior` is one; tests use some in closed form.

    Those that inherit from it need not say what has a default here.
    """

    @property
    def sigma_min(self) -> float:
        """Smallest trained noise level."""
        ...

    @property
    def sigma_data(self) -> float:
        """Standard deviation of the images per real channel."""
        ...

    @property
    def tau(self) -> float:
        """Expected error of one denoising step."""
        ...

    @property
    def mask_conditioned(self) -> bool:
        """Whether the denoised image depends on a mask."""
        ...

    def denoiser(
        self, op: SenseOp, rng: Sequence[Generator], further: Further = "scan"
    ) -> DenoiseFn:
        """Bind maps, mask rule and random state, one generator per batch item."""
        ...

    def training_mask(self, op: SenseOp, rng: Sequence[Generator]) -> Tensor | None:
        """M~ drawn as in training, one per batch item; None if not mask-conditioned."""
        return None

    @property
    def one_level(self) -> bool:
        """Whether it was trained at the scanner's noise only, so that it can take one step."""
        return False

    @property
    def highest_level(self) -> float:
        """Largest noise level of its training, for data of standard deviation 0.5."""
        return EDM_HIGHEST

    @property
    def card(self) -> Mapping[str, Any]:
        """What is known of its training; empty for a prior that was never trained."""
        return {}

    @property
    def compiled(self) -> bool:
        """Whether its networks are compiled."""
        return False

    def was_trained_on(self, source_sha256: str) -> bool:
        """Whether the scan from this raw file was among its training scans, by its card."""
        return scan_digest(source_sha256) in self.card.get("trained_on", ())

    def to(self, device: torch.device | str) -> Self:
        """This prior, its network moved to a device."""
        return self

    def copy_on_cpu(self) -> DenoiserSource:
        """A copy on the CPU, not compiled."""
        return self

    def compile(self) -> None:
        """Compile the networks with ``torch.compile`` when they first meet a size."""

    def autocast(self, enabled: bool) -> AbstractContextManager[None]:
        """A block in which the networks compute in bfloat16, or in single precision."""
        return nullcontext()


SCALE_RULE = "calibration-rss-p99"
"""How scans are normalised before any prior sees them (docs/conventions.md)."""


@dataclass(frozen=True)
class PriorFacts:
    """What a prior file says beside its weights.

    Attributes:
        objective: how it was trained, a key of ``OBJECTIVES``.
        kind: the wrapper around the network, a key of ``DENOISERS``.
        network: widths and depth of the network.
        sigma_data: standard deviation of the training images per real channel.
        sigma_min: smallest trained noise level per real channel, normalised units.
        mask_conditioned: False if it was trained on whole k-space and ignores masks.
        noise_filled: where M~ holds nothing, it was shown noise of level sigma and no mask.
        one_level: it knows no noise level but its scans' own, and can only take one step.
        mask: the kind of mask and the (median) rate it was trained at.
        tau: error to expect of the denoiser in one step, for the final data-consistency solve: its
            standard deviation per real channel, normalised units; measured for priors that know
            masks, others are not asked for one step.
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
        if self.kind not in DENOISERS:
            raise ConfigError(
                f"denoiser {self.kind!r} is unknown; choose from {', '.join(DENOISERS)}"
            )

    @property
    def images_seen(self) -> int:
        """By this prior and those it started from."""
        return int(self.card.get("images_seen_before", 0)) + int(self.card.get("images_seen", 0))

    def build(self) -> Denoiser:
        """A denoiser of this shape with fresh weights."""
        return DENOISERS[self.kind](self.network, self.sigma_data)


def scan_digest(source_sha256: str) -> str:
    """What the card keeps of the raw file of a training scan: whatever its name, it is known again.

    Args:
        source_sha256: hash of the file it was prepared from.
    """
    return source_sha256[:12]


@dataclass(frozen=True)
class Prior(DenoiserSource):
    """Weights plus facts. ``prior.denoiser(op, rng)`` is all a sampler ever sees.

    Attributes:
        net: the denoiser module.
        facts: what is needed to use it rightly.
    """

    net: Denoiser
    facts: PriorFacts

    def to(self, device: torch.device | str) -> Self:
        """This prior, its network moved to a device."""
        self.net.to(device)
        return self

    def copy_on_cpu(self) -> Prior:
        """A copy on the CPU, not compiled."""
        net = self.facts.build()  # not a copy on a device that is full
        state = self.net.state_dict()
        net.load_state_dict({name: tensor.cpu() for name, tensor in state.items()})
        return replace(self, net=net.requires_grad_(False).eval())

    def compile(self) -> None:
        """Compile the networks with ``torch.compile`` when they first meet a size."""
        self.net.compile_networks()

    @property
    def compiled(self) -> bool:
        """Whether its networks are compiled."""
        return self.net.compiled

    @contextmanager
    def autocast(self, enabled: bool) -> Iterator[None]:
        """A block in which the networks compute in bfloat16, or in single precision."""
        before, self.net.autocast = self.net.autocast, enabled
        try:
            yield
        finally:
            self.net.autocast = before

    @property
    def card(self) -> Mapping[str, Any]:
        """Data, number of scans, images seen, date, versions, metrics, intended use."""
        return self.facts.card

    @property
    def one_level(self) -> bool:
        """Whether it was trained at the scanner's noise only, so that it can take one step."""
        return self.facts.one_level

    @property
    def sigma_min(self) -> float:
        """Smallest trained noise level."""
        return self.facts.sigma_min

    @property
    def sigma_data(self) -> float:
        """Standard deviation of the training images per real channel."""
        return self.facts.sigma_data

    @property
    def tau(self) -> float:
        """Standard deviation of the error of one step per real channel, normalised units."""
        return self.facts.tau

    @property
    def highest_level(self) -> float:
        """Largest noise level of its training, for data of standard deviation 0.5."""
        options = self.facts.card.get("objective_options", {})
        law = options.get("base", options).get("law")
        return EDM_HIGHEST if law is None else LogNormal(**law).highest

    def denoiser(
        self, op: SenseOp, rng: Sequence[Generator], further: Further = "scan"
    ) -> DenoiseFn:
        """Bind the prior to a scan.

        Args:
            op: maps ``(b, coil, y, x)`` and mask of the scan.
            rng: one generator per batch item; "training" draws a mask from each.
            further: which M~ the denoiser is given. Priors that know neither masks nor holes ignore
                it and see the whole state.

        Returns:
            ``denoiser(z, sigma) -> x0``.
        """
        shape = (op.ishape[-2], op.ishape[-1])
        everything = torch.ones(1, 1, *shape, dtype=torch.bool, device=op.maps.device)
        facts = self.facts
        mask = self._further_mask(op, rng, further) if self.mask_conditioned else everything
        inner = op.with_mask(mask if facts.mask_conditioned else everything)

        def denoise(z: Tensor, sigma: Tensor) -> Tensor:
            if facts.noise_filled:
                noise = complex_normals(tuple(z.shape[1:]), rng, device=z.device)
                z = torch.where(mask, z, sigma[:, None, None, None] * noise)
            out: Tensor = self.net(inner, z, sigma)
            return out

        return denoise

    @property
    def mask_conditioned(self) -> bool:
        """Whether the denoised image depends on a mask."""
        return self.facts.mask_conditioned or self.facts.noise_filled

    def training_mask(self, op: SenseOp, rng: Sequence[Generator]) -> Tensor | None:
        """M~ drawn as in training, bool ``(b, 1, y, x)``; None if the prior knows no masks."""
        if not self.mask_conditioned:
            return None
        shape = (op.ishape[-2], op.ishape[-1])
        masks = [self._draw_mask(shape, generator) for generator in rng]
        return torch.stack(masks).to(op.maps.device)

    def _further_mask(self, op: SenseOp, rng: Sequence[Generator], further: Further) -> Tensor:
        if isinstance(further, Tensor):
            return further
        drawn = self.training_mask(op, rng) if further == "training" else None
        return op.mask if drawn is None else drawn

    def _draw_mask(self, shape: tuple[int, int], rng: Generator) -> Tensor:
        """A mask drawn as in training: one of its rate, thinned further where it was then."""
        spec = self.facts.mask
        # A narrow matrix holds fewer calibration lines at the same rate.
        calib = min(spec.calib, int(0.6 * shape[-1] / spec.acceleration))
        mask = MaskSpec(spec.kind, spec.acceleration, calib).draw(shape, rng)
        if self.facts.noise_filled:
            return mask
        return subsample_further(mask, training_fraction(mask), rng)
