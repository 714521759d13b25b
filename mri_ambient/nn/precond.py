"""From a network to a denoiser: scalings, and complex images as two channels (only here).

Both wrappers take the operator ``A~ = M~ F S`` and a k-space state ``z = F S x + sigma noise`` and
return the denoised image ``D``, 0 outside the support of the maps. All sizes are per image.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..sense import SenseOp
from ..solve import conjugate_gradient
from .unet import UNet, UNetSpec


def _to_channels(x: Tensor) -> Tensor:
    """Complex ``(b, y, x)`` to real ``(b, 2, y, x)``."""
    return torch.stack([x.real, x.imag], dim=1)


def _to_complex(x: Tensor) -> Tensor:
    """Real ``(b, 2, y, x)`` to complex ``(b, y, x)``, in single precision."""
    x = x.float()
    return torch.complex(x[:, 0], x[:, 1])


class Denoiser(nn.Module):
    """What both wrappers share: the network, its scale, and where lower precision is allowed.

    Attributes:
        kind: the name the wrapper is chosen by.
        sigma_data: standard deviation of the images per real channel, normalised units.
        autocast: run the network (never the physics) in bfloat16.
    """

    kind: str
    in_channels: int

    def __init__(self, spec: UNetSpec, sigma_data: float) -> None:
        super().__init__()
        self.net = UNet(spec, self.in_channels)
        self.sigma_data = sigma_data
        self.autocast = False

    def forward(self, op: SenseOp, z: Tensor, sigma: Tensor) -> Tensor:
        """Denoise.

        Args:
            op: maps ``(b, coil, y, x)`` and the further mask M~ ``(b, 1, y, x)``.
            z: k-space state ``(b, coil, y, x)``; entries outside M~ are not read.
            sigma: noise level per real channel, ``(b,)``.

        Returns:
            The denoised image, complex ``(b, y, x)``.
        """
        raise NotImplementedError

    def _run(self, planes: Tensor, sigma: Tensor) -> Tensor:
        with torch.autocast(planes.device.type, torch.bfloat16, enabled=self.autocast):
            out = self.net(planes, sigma.float().log() / 4)
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
        planes = torch.cat([_to_channels(c_in * u), _mask_plane(op, u)], dim=1)
        return op.support * (c_skip * u + c_out * self._run(planes, sigma))


class Conditioned(Denoiser):
    """CG-SENSE image in, data consistency out: the denoiser of the ``kspace`` objective.

    With ``u = A~^H z`` and ``s = sigma_data``: ``x' = w + max(c_out, 0.3 s) net([w / s, c_in u,
    M~])`` where ``w`` is a few CG steps of ``(A~^H A~ + sigma^2 / s^2 + 0.003) w = u``; then ``D``
    is a few CG steps, from x', of ``(A~^H A~ + mu) D = u + mu x'`` with ``mu = sigma^2 / tau^2 +
    0.001`` and ``tau = max(0.35 c_out, 0.25 s)``. Gradients flow through both.
    """

    kind = "conditioned"
    in_channels = 5
    n_cg_in = 6
    n_cg_out = 4

    def forward(self, op: SenseOp, z: Tensor, sigma: Tensor) -> Tensor:
        """Denoise; see :meth:`Denoiser.forward`."""
        s = self.sigma_data
        sigma_ = sigma[:, None, None]
        c_out = self._c_out(sigma_)
        u = op.adjoint(z)
        ridge = (sigma_ / s).square() + 0.003
        w = conjugate_gradient(lambda v: op.normal(v) + ridge * v, u, n_iter=self.n_cg_in)

        c_in = (sigma_.square() + s**2).rsqrt()
        planes = [_to_channels(w / s), _to_channels(c_in * u), _mask_plane(op, u)]
        x = w + c_out.clamp(min=0.3 * s) * self._run(torch.cat(planes, dim=1), sigma)

        tau = (0.35 * c_out).clamp(min=0.25 * s)
        mu = (sigma_ / tau).square() + 0.001
        return op.support * conjugate_gradient(
            lambda v: op.normal(v) + mu * v, u + mu * x, n_iter=self.n_cg_out, x0=x
        )


DENOISERS: dict[str, type[Denoiser]] = {"plain": Plain, "conditioned": Conditioned}
