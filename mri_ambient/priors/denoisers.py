"""From a network to a denoiser: scalings, and complex images as two channels (only here).

All wrappers take the operator ``A~ = M~ F S`` and a k-space state ``z = F S x + sigma noise`` and
return the denoised image ``D``, 0 outside the support of the maps. Networks are given the image of
every set of maps by itself, as a batch item, whose noise is as white as that of the only one.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional
from typing_extensions import override

from ..physics.map_sets import items_as_sets, repeat_sets, sets_as_items
from ..physics.operators import SenseOp
from ..physics.solve import conjugate_gradient
from .facts import UNetSpec
from .unet import UNet, forward_flops, zeroed

_BF16: ContextVar[bool | None] = ContextVar("_BF16", default=None)
"""Precision of all networks in this thread; None leaves it to :attr:`Denoiser.autocast`."""


@contextmanager
def networks_in_bf16(enabled: bool) -> Iterator[None]:
    """A block in which networks compute in bfloat16 or, not ``enabled``, in single precision.

    It holds for the thread that enters it, as others may use the same network meanwhile.
    """
    token = _BF16.set(enabled)
    try:
        yield
    finally:
        _BF16.reset(token)


def _to_channels(x: Tensor) -> Tensor:
    """Complex ``(b, y, x)`` to real ``(b, 2, y, x)``."""
    return torch.stack([x.real, x.imag], dim=1)


class Denoiser(nn.Module, ABC):
    """What all wrappers share: networks, their scale, and where lower precision is allowed.

    Attributes:
        kind: the name the wrapper is chosen by.
        unrolled: whether ``spec.passes`` networks follow each other in one evaluation, or one.
        momentum: whether a pass starts beyond the last image, where there are several.
        sigma_data: standard deviation of the images per real channel, normalised units.
        autocast: run the networks (never the physics) in bfloat16, where :func:`networks_in_bf16`
            says nothing else.
    """

    kind: str
    in_channels: int
    unrolled: bool = False

    def __init__(self, spec: UNetSpec, sigma_data: float) -> None:
        super().__init__()
        passes = spec.passes if self.unrolled else 1
        self.nets = nn.ModuleList(UNet(spec, self.in_channels) for _ in range(passes))
        self.momentum = spec.momentum
        self.sigma_data = sigma_data
        self.autocast = False
        self.compiled = False

    @abstractmethod
    def forward(self, op: SenseOp, z: Tensor, sigma: Tensor) -> Tensor:
        """Denoise.

        Args:
            op: maps ``(b, coil, y, x)`` and the further mask M~ ``(b, 1, y, x)``.
            z: k-space state ``(b, coil, y, x)``; entries outside M~ are not read.
            sigma: noise level per real channel, ``(b,)``.

        Returns:
            The denoised image, complex ``(b, y, x)``.
        """

    def compile_networks(self, backend: str | Callable[..., Any] = "inductor") -> None:
        """Compile the networks with ``torch.compile`` when they are first used at a size."""
        if not self.compiled:
            for net in self.nets:
                net.compile(backend=backend)
        self.compiled = True

    def start_as(self, other: Denoiser) -> None:
        """Take over weights; where ``other`` has fewer networks, further ones are as its last.

        These add nothing yet, as their last convolution is 0; data consistency goes on.
        """
        for k, net in enumerate(self.nets):
            net.load_state_dict(other.nets[min(k, len(other.nets) - 1)].state_dict())
            if k >= len(other.nets) and isinstance(net, UNet):
                zeroed(net.last)

    def vary(self, rng: Generator) -> None:
        """Draw what varies from one training step to the next; here, nothing."""

    def flops(self, shape: tuple[int, int]) -> int:
        """Floating-point operations of the networks in one evaluation of one image ``(y, x)``."""
        return sum(forward_flops(net, shape) for net in self.nets if isinstance(net, UNet))

    def run_sets(self, op: SenseOp, net: nn.Module, planes: list[Tensor], sigma: Tensor) -> Tensor:
        """:meth:`run` on planes ``(b, n, set*y, x)``, set by set: ``(b, set*y, x)``."""
        alone = [sets_as_items(plane, op.n_sets) for plane in planes]
        out = self.run(net, alone, sigma.repeat_interleave(op.n_sets))
        return items_as_sets(out, op.n_sets)

    def run(self, net: nn.Module, planes: list[Tensor], sigma: Tensor) -> Tensor:
        """A network on real planes ``(b, n, y, x)``, as a complex image ``(b, y, x)``."""
        chosen = _BF16.get()
        enabled = self.autocast if chosen is None else chosen
        with torch.autocast(sigma.device.type, torch.bfloat16, enabled=enabled):
            out = net(torch.cat(planes, dim=1), sigma.float().log() / 4).float()
        return torch.complex(out[:, 0], out[:, 1])

    def scalings(self, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """EDM's ``c_in``, ``c_skip`` and ``c_out`` (Karras et al. 2022, table 1), ``(b, 1, 1)``."""
        sigma, s = sigma[:, None, None], self.sigma_data
        total = sigma.square() + s**2
        return total.rsqrt(), s**2 / total, sigma * s / total.sqrt()


def _mask_plane(op: SenseOp, like: Tensor) -> Tensor:
    """M~ as a plane ``(b, 1, set*y, x)`` of zeros and ones, the same for every set."""
    plane = op.mask.expand(like.shape[0], 1, *op.oshape[-2:]).float()
    return repeat_sets(plane, op.n_sets)


class Plain(Denoiser):
    """Image in, image out, with EDM's preconditioning: the network of the A-DPS paper.

    ``D = c_skip u + c_out net([c_in u, M~], ln(sigma) / 4)`` with ``u = A~^H z``
    (Karras et al. 2022, table 1; Aali et al. 2024, arXiv 2403.08728).
    """

    kind = "plain"
    in_channels = 3

    @override
    def forward(self, op: SenseOp, z: Tensor, sigma: Tensor) -> Tensor:
        u = op.adjoint(z)
        c_in, c_skip, c_out = self.scalings(sigma)
        return op.support * (c_skip * u + c_out * self._network(op, c_in * u, sigma))

    def _network(self, op: SenseOp, v: Tensor, sigma: Tensor) -> Tensor:
        return self.run_sets(op, self.nets[0], [_to_channels(v), _mask_plane(op, v)], sigma)


class Conditioned(Denoiser):
    """CG-SENSE image in, data consistency out: the denoiser of the ``kspace`` objective.

    With ``u = A~^H z`` and ``s = sigma_data``, ``w`` is a few CG steps of ``(A~^H A~ + sigma^2 /
    s^2 + 0.003) w = u``. From ``x = w`` on, every pass adds ``max(c_out, 0.3 s)`` times the output
    of its network for the planes ``[x / s, w / s, c_in u, M~]`` to x, and then takes a few CG steps
    of ``(A~^H A~ + mu) x = u + mu x'`` from this x', with ``mu = sigma^2 / tau^2 + 0.001`` and
    ``tau = max(0.35 c_out, 0.25 s)``. Gradients flow through all of it.

    With ``momentum``, the k-th pass starts from ``x + (t_k - 1) / t_(k+1) (x - x_before)`` instead
    of ``x``, with ``t_1 = 1`` and ``t_(k+1) = (1 + sqrt(1 + 4 t_k^2)) / 2`` (FISTA; Beck and
    Teboulle 2009, doi:10.1137/080716542).

    Alternating networks and data consistency is the unrolled optimisation of Aggarwal et al. 2019
    (MoDL, doi:10.1109/TMI.2018.2865356), without its shared weights.
    """

    kind = "conditioned"
    in_channels = 7
    unrolled = True
    n_cg_in = 6
    n_cg_out = 4
    guided = True
    consistent = True

    @override
    def forward(self, op: SenseOp, z: Tensor, sigma: Tensor) -> Tensor:
        s = self.sigma_data
        c_in, _, c_out = self.scalings(sigma)
        u = op.adjoint(z)
        w = self._first_guess(op, u, sigma)

        known = [_to_channels(w / s), _to_channels(c_in * u), _mask_plane(op, u)]
        tau = (0.35 * c_out).clamp(min=0.25 * s)
        mu = (sigma[:, None, None] / tau).square() + 0.001
        x = before = w
        for net, beyond in zip(self.nets, self._momenta(), strict=True):
            before, x = x, x + beyond * (x - before) if beyond else x
            change = self.run_sets(op, net, [_to_channels(x / s), *known], sigma)
            x = x + c_out.clamp(min=0.3 * s) * change
            if self.consistent:
                x = conjugate_gradient(
                    lambda v: op.normal(v) + mu * v, u + mu * x, n_iter=self.n_cg_out, x0=x
                )
        return op.support * x

    def _momenta(self) -> list[float]:
        """How far beyond the last image each pass starts, in steps of the last pass."""
        found, t = [], 1.0
        for _ in self.nets:
            t, last = (1 + math.sqrt(1 + 4 * t**2)) / 2, t
            found.append((last - 1) / t if self.momentum else 0.0)
        return found

    def _first_guess(self, op: SenseOp, u: Tensor, sigma: Tensor) -> Tensor:
        if not self.guided:
            _, c_skip, _ = self.scalings(sigma)
            return c_skip * u
        ridge = (sigma[:, None, None] / self.sigma_data).square() + 0.003
        return conjugate_gradient(lambda v: op.normal(v) + ridge * v, u, n_iter=self.n_cg_in)


class Unguided(Conditioned):
    """``conditioned`` without the CG-SENSE image: it starts from ``c_skip u``. For comparison."""

    kind = "unguided"
    guided = False


class Inconsistent(Conditioned):
    """``conditioned`` without data consistency after its networks. For comparison."""

    kind = "inconsistent"
    consistent = False


class Patched(Plain):
    """``plain`` with a network that is given patches and their positions, never a whole image.

    A patch prior learns from few scans (Hu et al. 2024, arXiv 2406.02462). In training the image is
    cut once, at an offset that changes from step to step; in use it is cut at four offsets half a
    patch apart, and the patches are blended with windows that add up to 1. Losses and samplers use
    the assembled image. Outside the image there are zeros.
    """

    kind = "patched"
    in_channels = 4
    side = 32
    offsets = ((0, 0), (0, side // 2), (side // 2, 0), (side // 2, side // 2))

    def __init__(self, spec: UNetSpec, sigma_data: float) -> None:
        super().__init__(spec, sigma_data)
        self.offset = (0, 0)

    def vary(self, rng: Generator) -> None:
        """Draw where the image is cut in this step."""
        y, x = torch.randint(self.side, (2,), generator=rng).tolist()
        self.offset = (y, x)

    @override
    def flops(self, shape: tuple[int, int]) -> int:
        n_patches = 0
        for offset in self.offsets:
            y, x = (-(-(n + first) // self.side) for n, first in zip(shape, offset, strict=True))
            n_patches += y * x
        return super().flops((self.side, self.side)) * n_patches

    def _network(self, op: SenseOp, v: Tensor, sigma: Tensor) -> Tensor:
        alone = sets_as_items(v, op.n_sets)
        return items_as_sets(self._whole(alone, sigma.repeat_interleave(op.n_sets)), op.n_sets)

    def _whole(self, v: Tensor, sigma: Tensor) -> Tensor:
        """The network on all patches of images ``(b, y, x)``."""
        planes = torch.cat([_to_channels(v), _position(v)], dim=1)
        if self.training:
            return self._assembled(planes, sigma, self.offset)
        out = torch.zeros_like(v)
        for offset in self.offsets:
            out = out + self._window(v, offset) * self._assembled(planes, sigma, offset)
        return out

    def _assembled(self, planes: Tensor, sigma: Tensor, offset: tuple[int, int]) -> Tensor:
        """The network on the patches of a grid that starts ``offset`` pixels outside the image."""
        n, channels, ny, nx = planes.shape
        side, (top, left) = self.side, offset
        bottom, right = (-(m + first) % side for m, first in ((ny, top), (nx, left)))
        padded = functional.pad(planes, (left, right, top, bottom))
        rows, columns = (length // side for length in padded.shape[-2:])
        patches = padded.view(n, channels, rows, side, columns, side)
        patches = patches.permute(0, 2, 4, 1, 3, 5).reshape(-1, channels, side, side)
        out = self.run(self.nets[0], [patches], sigma.repeat_interleave(rows * columns))
        whole = out.view(n, rows, columns, side, side).permute(0, 1, 3, 2, 4)
        whole = whole.reshape(n, rows * side, columns * side)
        return whole[:, top : top + ny, left : left + nx]

    def _window(self, like: Tensor, offset: tuple[int, int]) -> Tensor:
        """sin^2 over each patch; the windows of grids half a patch apart add up to 1."""
        waves = []
        for n, first in zip(like.shape[-2:], offset, strict=True):
            place = (torch.arange(n, device=like.device) + first + 0.5) / self.side
            waves.append((torch.pi * place).sin().square())
        return torch.outer(*waves)


def _position(img: Tensor) -> Tensor:
    """The position of each pixel, -1 to 1 along y and along x, ``(b, 2, y, x)``."""
    axes = [(torch.arange(n, device=img.device) + 0.5) / n * 2 - 1 for n in img.shape[-2:]]
    plane = torch.stack(torch.meshgrid(*axes, indexing="ij"))
    return plane.expand(len(img), -1, -1, -1)


DENOISERS: dict[str, type[Denoiser]] = {
    denoiser.kind: denoiser for denoiser in (Plain, Conditioned, Unguided, Inconsistent, Patched)
}
