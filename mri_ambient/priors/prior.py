"""A prior: a trained denoiser, and the facts that are needed to use it."""

from __future__ import annotations

import hashlib
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Literal, Self

import torch
from torch import Generator, Tensor

from ..physics.mask_spec import MaskSpec
from ..physics.masks import subsample_further, training_fraction
from ..physics.operators import SenseOp
from ..rng import complex_normals
from .denoisers import Denoiser, networks_in_bf16
from .facts import PriorFacts
from .schedules import EDM_HIGHEST, LogNormal
from .unet import n_parameters

DenoiseFn = Callable[[Tensor, Tensor], Tensor]
"""``(z, sigma) -> x0``: state ``(b, coil, y, x)`` and noise level ``(b,)`` to ``(b, y, x)``."""

Further = Literal["scan", "training"] | Tensor
"""M~ of a mask-conditioned denoiser: the scan's own mask, one drawn as in training, or a tensor."""


class DenoiserSource(ABC):
    """What methods need of a prior: :class:`Prior`, or a denoiser in closed form in tests.

    Attributes:
        sigma_min: smallest trained noise level per real channel, normalised units.
        sigma_data: standard deviation of the (training) images per real channel.
        tau: standard deviation of the error of one denoising step per real channel.
        mask_conditioned: whether the denoised image depends on a mask.
        one_level: whether it was trained at the scanner's noise only, so that it serves for one
            step.
        highest_level: largest noise level of its training, for data of standard deviation 0.5.
        trained_acceleration: median acceleration of its training masks; 0 if it is not known.
        card: what is known of its training; empty for a prior that was not trained.
    """

    sigma_min: float
    sigma_data: float
    tau: float
    mask_conditioned: bool
    one_level: bool = False
    highest_level: float = EDM_HIGHEST
    trained_acceleration: float = 0.0
    card: Mapping[str, Any] = MappingProxyType({})

    @abstractmethod
    def denoiser(
        self, op: SenseOp, rng: Sequence[Generator], further: Further = "scan"
    ) -> DenoiseFn:
        """The denoiser for a scan.

        Args:
            op: maps ``(b, coil, y, x)`` and mask of the scan.
            rng: one generator per batch item; "training" draws a mask from each.
            further: which M~ the denoiser is given. Plain priors are given the whole state.

        Returns:
            ``denoiser(z, sigma) -> x0``.
        """

    def training_mask(self, op: SenseOp, rng: Sequence[Generator]) -> Tensor | None:
        """M~ drawn as in training, bool ``(b, 1, y, x)``; None if not mask-conditioned."""
        return None

    def was_trained_on(self, source_sha256: str) -> bool:
        """Whether its card lists the scan from this raw file among the training scans."""
        return scan_digest(source_sha256) in self.card.get("trained_on", ())

    @property
    def compiled(self) -> bool:
        """Whether its networks are compiled."""
        return False

    def compile(self) -> None:  # noqa: B027 -- nothing to compile by default
        """Compile the networks with ``torch.compile`` when they are first used at a size."""

    def to(self, device: torch.device | str) -> Self:
        """This prior, with its network moved to a device."""
        return self

    def copy_on_cpu(self) -> DenoiserSource:
        """A copy on the CPU, not compiled."""
        return self

    def autocast(self, enabled: bool) -> AbstractContextManager[None]:
        """A block, of one thread, in which the networks compute in bfloat16 or single precision."""
        return nullcontext()


def scan_digest(source_sha256: str) -> str:
    """How a card lists a training scan: by the hash of its raw file, whatever the file's name."""
    return source_sha256[:12]


def name_digest(scan_id: str) -> str:
    """How a card lists a scan whose name matters: names may tell who was scanned."""
    return hashlib.sha256(scan_id.encode("utf-8", "surrogatepass")).hexdigest()[:12]


def validation_names(card: Mapping[str, Any]) -> set[str]:
    """The scans that a prior was validated on, by :func:`name_digest`; older cards hold names."""
    listed = card.get("validation_scans", ())
    return {name if re.fullmatch("[0-9a-f]{12}", name) else name_digest(name) for name in listed}


@dataclass(eq=False, repr=False)
class Prior(DenoiserSource):
    """Weights plus facts; samplers use ``prior.denoiser(op, rng)``.

    Attributes:
        net: the denoiser module.
        facts: what is needed to use it.
    """

    net: Denoiser
    facts: PriorFacts

    def __post_init__(self) -> None:
        facts = self.facts
        self.sigma_min, self.sigma_data, self.tau = facts.sigma_min, facts.sigma_data, facts.tau
        self.mask_conditioned = facts.mask_conditioned or facts.noise_filled
        self.one_level, self.card = facts.one_level, facts.card
        self.trained_acceleration = float(facts.mask.acceleration)
        options = facts.card.get("objective_options", {})
        law = options.get("base", options).get("law")
        self.highest_level = EDM_HIGHEST if law is None else LogNormal(**law).highest

    def __repr__(self) -> str:
        n_weights = n_parameters(self.net)
        return (
            f"<Prior {self.facts.objective}, {self.facts.kind}, {n_weights / 1e6:.2f} M weights, "
            f"{self.facts.images_seen} images seen>"
        )

    def denoiser(
        self, op: SenseOp, rng: Sequence[Generator], further: Further = "scan"
    ) -> DenoiseFn:
        """See :meth:`DenoiserSource.denoiser`."""
        shape = (op.oshape[-2], op.oshape[-1])
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

    def training_mask(self, op: SenseOp, rng: Sequence[Generator]) -> Tensor | None:
        """See :meth:`DenoiserSource.training_mask`."""
        if not self.mask_conditioned:
            return None
        shape = (op.oshape[-2], op.oshape[-1])
        masks = [self._draw_mask(shape, generator) for generator in rng]
        return torch.stack(masks).to(op.maps.device)

    def _further_mask(self, op: SenseOp, rng: Sequence[Generator], further: Further) -> Tensor:
        if isinstance(further, Tensor):
            return further
        drawn = self.training_mask(op, rng) if further == "training" else None
        return op.mask if drawn is None else drawn

    def _draw_mask(self, shape: tuple[int, int], rng: Generator) -> Tensor:
        """A mask drawn as in training: at its acceleration, then subsampled further."""
        spec = self.facts.mask
        # A narrow matrix holds fewer calibration lines at the same rate.
        calib = min(spec.calib, int(0.6 * shape[-1] / spec.acceleration))
        mask = MaskSpec(spec.kind, spec.acceleration, calib).draw(shape, rng)
        if self.facts.noise_filled:
            return mask
        return subsample_further(mask, training_fraction(mask), rng)

    @property
    def compiled(self) -> bool:
        """See :attr:`DenoiserSource.compiled`."""
        return self.net.compiled

    def compile(self) -> None:
        """See :meth:`DenoiserSource.compile`."""
        self.net.compile_networks()

    def to(self, device: torch.device | str) -> Self:
        """See :meth:`DenoiserSource.to`."""
        self.net.to(device)
        return self

    def copy_on_cpu(self) -> Prior:
        """See :meth:`DenoiserSource.copy_on_cpu`."""
        net = self.facts.build()  # a deep copy would need memory on the device
        state = self.net.state_dict()
        net.load_state_dict({name: tensor.cpu() for name, tensor in state.items()})
        return replace(self, net=net.requires_grad_(False).eval())

    def autocast(self, enabled: bool) -> AbstractContextManager[None]:
        """See :meth:`DenoiserSource.autocast`."""
        return networks_in_bf16(enabled)
