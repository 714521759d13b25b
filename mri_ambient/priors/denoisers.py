"""From a network to a denoiser: scalings, and complex images as two channels (only here).

Both wrappers take the operator ``A~ = M~ F S`` and a k-space state ``z = F S x + sigma noise`` and
return the denoised image ``D``, 0 outside the support of the maps. All sizes are per image.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

from ..physics.operators import SenseOp
from ..physics.solve import conjugate_gradient
from .unet import UNet, UNetSpec, forward_flops


def _to_channels(x: Tensor) -> Tensor:
    """Complex ``(b, y, x)`` to real ``(b, 2, y, x)``."""
    return torch.stack([x.real, x.imag], dim=1)


def _to_complex(x: Tensor) -> Tensor:
    """Real ``(b, 2, y, x)`` to complex ``(b, y, x)``, in single precision."""
    x = x.float()
    return torch.complex(x[:, 0], x[:, 1])


class Denoiser(nn.Module, ABC):
    """What all wrappers share: networks, their scale, and where lower precision is allowed.

    Attributes:
        kind: the name the wrapper is chosen by.
        n_passes: how many networks of the same shape, each with weights of its own, follow each
            other in one evaluation.
        spec: their widths and depth.
        nets: these networks.
        sigma_data: standard deviation of the images per real channel, normalised units.
        autocast: run the network (never the physics) in bfloat16.
        compiled: whether ``torch.compile`` was asked for the networks.
    """

    kind: str
    in_channels: int
    n_passes: int = 1

    def __init__(self, spec: UNetSpec, sigma_data: float) -> None:
        super().__init__()
        self.spec = spec
        self.nets = nn.ModuleList(UNet(spec, self.in_channels) for _ in range(self.n_passes))
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
        """Have ``torch.compile`` translate the networks, when they first meet a size."""
        if not self.compiled:
            for net in self.nets:
                net.compile(backend=backend)
        self.compiled = True

    def vary(self, rng: Generator) -> None:
        """Draw what varies from one training step to the next; here, nothing."""

    def flops(self, shape: tuple[int, int]) -> int:
        """Floating-point operations of the networks in one evaluation of one image ``(y, x)``."""
        return sum(forward_flops(net, shape) for net in self.nets if isinstance(net, UNet))

    def _run(self, net: nn.Module, planes: list[Tensor], sigma: Tensor) -> Tensor:
        with torch.autocast(sigma.device.type, torch.bfloat16, enabled=self.autocast):
            out = net(torch.cat(planes, dim=1), sigma.float().log() / 4)
        return _to_complex(out)

    def _c_out(self, sigma: Tensor) -> Tensor:
        return sigma * self.sigma_data / (sigma.square() + self.sigma_data**2).sqrt()


def _mask_plane(op: SenseOp, like: Tensor) -> Tensor:
    """M~ as a plane ``(b, 1, y, x)`` of zeros and ones; never scaled."""
    return op.mask.expand(like.shape[0], 1, *like.shape[-2:]).float()


class Plain(Denoiser):
    """Image in, image out, with EDM's preconditioning: the network of the A-DPS paper.

    ``D = c_skip u + c_out net([c_in u, M~], ln(sigma) / 4)`` with ``u = A~^H z``
    (Karras et al. 2022, table 1; Aali et al. 2024, arXiv 2403.08728).
    """

    kind = "plain"
    in_channels = 3

    def forward(self, op: SenseOp, z: Tensor, sigma: Tensor) -> Tensor:
        """Denoise; see :meth:`Denoiser.forward`."""
        u = op.adjoint(z)
        var, s2 = sigma.square()[:, None, None], self.sigma_data**2
        c_in, c_skip = (var + s2).rsqrt(), s2 / (var + s2)
        c_out = self._c_out(sigma)[:, None, None]
        planes = [_to_channels(c_in * u), _mask_plane(op, u)]
        return op.support * (c_skip * u + c_out * self._run(self.nets[0], planes, sigma))


class Conditioned(Denoiser):
    """CG-SENSE image in, data consistency out: the denoiser of the ``kspace`` objective.

    With ``u = A~^H z`` and ``s = sigma_data``, ``w`` is a few CG steps of ``(A~^H A~ + sigma^2 /
    s^2 + 0.003) w = u``. From ``x = w`` on, every pass adds what its network makes of the planes
    ``[x / s, w / s, c_in u, M~]``, times ``max(c_out, 0.3 s)``, to x, and then takes a few CG steps
    of ``(A~^H A~ + mu) x = u + mu x'`` from this x', with ``mu = sigma^2 / tau^2 + 0.001`` and
    ``tau = max(0.35 c_out, 0.25 s)``. Gradients flow through all of it.

    Networks and data consistency in turns are the unrolled optimisation of Aggarwal et al. 2019
    (MoDL, doi:10.1109/TMI.2018.2865356), without its shared weights.
    """

    kind = "conditioned"
    in_channels = 7
    n_passes = 3
    n_cg_in = 6
    n_cg_out = 4
    guided = True
    consistent = True

    def forward(self, op: SenseOp, z: Tensor, sigma: Tensor) -> Tensor:
        """Denoise; see :meth:`Denoiser.forward`."""
        s = self.sigma_data
        sigma_ = sigma[:, None, None]
        c_out = self._c_out(sigma_)
        u = op.adjoint(z)
        w = self._first_guess(op, u, sigma_)

        c_in = (sigma_.square() + s**2).rsqrt()
        known = [_to_channels(w / s), _to_channels(c_in * u), _mask_plane(op, u)]
        tau = (0.35 * c_out).clamp(min=0.25 * s)
        mu = (sigma_ / tau).square() + 0.001
        x = w
        for net in self.nets:
            guess = self._run(net, [_to_channels(x / s), *known], sigma)
            x = x + c_out.clamp(min=0.3 * s) * guess
            if self.consistent:
                x = conjugate_gradient(
                    lambda v: op.normal(v) + mu * v, u + mu * x, n_iter=self.n_cg_out, x0=x
                )
        return op.support * x

    def _first_guess(self, op: SenseOp, u: Tensor, sigma: Tensor) -> Tensor:
        s = self.sigma_data
        if not self.guided:
            return s**2 / (sigma.square() + s**2) * u
        ridge = (sigma / s).square() + 0.003
        return conjugate_gradient(lambda v: op.normal(v) + ridge * v, u, n_iter=self.n_cg_in)


class Unguided(Conditioned):
    """``conditioned`` without the CG-SENSE image: it starts from ``c_skip u``. For comparison."""

    kind = "unguided"
    guided = False


class Inconsistent(Conditioned):
    """``conditioned`` without data consistency after its networks. For comparison."""

    kind = "inconsistent"
    consistent = False


class Patched(Denoiser):
    """EDM's preconditioning of a network that sees patches and where they lie, never a whole image.

    A patch prior learns from few scans (Hu et al. 2024, arXiv 2406.02462). In training the image is
    cut once, at an offset that changes from step to step; in use it is cut at four offsets half a
    patch apart, and the patches are blended with windows that add up to 1. The assembled image is
    what a loss or a sampler sees. Outside the image there are zeros.
    """

    kind = "patched"
    in_channels = 4
    side = 32

    def __init__(self, spec: UNetSpec, sigma_data: float) -> None:
        super().__init__(spec, sigma_data)
        self.offset = (0, 0)

    def vary(self, rng: Generator) -> None:
        """Where the image is cut in this step."""
        y, x = torch.randint(self.side, (2,), generator=rng).tolist()
        self.offset = (y, x)

    def flops(self, shape: tuple[int, int]) -> int:
        """Floating-point operations of one evaluation in use; see :meth:`Denoiser.flops`."""
        grids = (self._n_patches(shape, (y, x)) for y in self._halves for x in self._halves)
        return super().flops((self.side, self.side)) * sum(grids)

    def forward(self, op: SenseOp, z: Tensor, sigma: Tensor) -> Tensor:
        """Denoise; see :meth:`Denoiser.forward`."""
        u = op.adjoint(z)
        var, s2 = sigma.square()[:, None, None], self.sigma_data**2
        c_in, c_skip = (var + s2).rsqrt(), s2 / (var + s2)
        planes = torch.cat([_to_channels(c_in * u), _position(u)], dim=1)
        if self.training:
            made = self._assembled(planes, sigma, self.offset)
        else:
            made = torch.zeros_like(u)
            for offset in ((y, x) for y in self._halves for x in self._halves):
                window = self._window(u, offset)
                made = made + window * self._assembled(planes, sigma, offset)
        return op.support * (c_skip * u + self._c_out(sigma)[:, None, None] * made)

    @property
    def _halves(self) -> tuple[int, int]:
        return (0, self.side // 2)

    def _n_patches(self, shape: tuple[int, int], offset: tuple[int, int]) -> int:
        y, x = (-(-(n + first) // self.side) for n, first in zip(shape, offset, strict=True))
        return int(y * x)

    def _assembled(self, planes: Tensor, sigma: Tensor, offset: tuple[int, int]) -> Tensor:
        """What the network makes of the patches of a grid that starts ``offset`` outside."""
        n, channels, ny, nx = planes.shape
        side, (top, left) = self.side, offset
        bottom, right = (-(m + first) % side for m, first in ((ny, top), (nx, left)))
        padded = functional.pad(planes, (left, right, top, bottom))
        rows, columns = (length // side for length in padded.shape[-2:])
        patches = padded.view(n, channels, rows, side, columns, side)
        patches = patches.permute(0, 2, 4, 1, 3, 5).reshape(-1, channels, side, side)
        out = self._run(self.nets[0], [patches], sigma.repeat_interleave(rows * columns))
        whole = out.view(n, rows, columns, side, side).permute(0, 1, 3, 2, 4)
        whole = whole.reshape(n, rows * side, columns * side)
        return whole[:, top : top + ny, left : left + nx]

    def _window(self, like: Tensor, offset: tuple[int, int]) -> Tensor:
        """sin^2 over each patch; those of grids half a patch apart add up to 1."""
        waves = []
        for n, first in zip(like.shape[-2:], offset, strict=True):
            place = (torch.arange(n, device=like.device) + first + 0.5) / self.side
            waves.append((torch.pi * place).sin().square())
        return torch.outer(*waves)


def _position(img: Tensor) -> Tensor:
    """Where each pixel lies, -1 to 1 along y and along x, ``(b, 2, y, x)``."""
    axes = [(torch.arange(n, device=img.device) + 0.5) / n * 2 - 1 for n in img.shape[-2:]]
    plane = torch.stack(torch.meshgrid(*axes, indexing="ij"))
    return plane.expand(len(img), -1, -1, -1)


DENOISERS: dict[str, type[Denoiser]] = {
    denoiser.kind: denoiser for denoiser in (Plain, Conditioned, Unguided, Inconsistent, Patched)
}
