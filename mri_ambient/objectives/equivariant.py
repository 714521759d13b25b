r"""The ``equivariant`` objective: another objective, and a penalty that supervises unsampled lines.

If every scan has the same mask, no measurement shows what lies on the lines it leaves out. The
images themselves do: a head that is turned or shifted is as likely as before, and of the turned
head the scanner would have sampled another part (equivariant imaging, Chen et al. 2021,
arXiv 2103.14756). The reconstruction :math:`x_1 = D(y)` is moved by a random rotation and shift T,
measured again by the scan's own coils and mask, with new noise n of the same level, and
reconstructed again; the penalty is the difference:

.. math:: | D(M (F S T x_1 + n)) - T x_1 |^2 .

It is summed over the image, which with :math:`S^H S = 1` is the sum over coils and k-space of the
base's terms, and gradients flow through both reconstructions. Noise levels and their weights are
those of the base.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional
from typing_extensions import override

from ..errors import ConfigError
from ..physics.map_sets import items_as_sets, sets_as_items
from ..priors.denoisers import Denoiser
from ..priors.schedules import MIN_SIGMA
from ..rng import Streams, uniforms
from ..runtime.config import check_number
from ..scan import Batch
from .base import Extended, Loss, abs2, edm_weight, noise_like, per_image_pixel
from .kspace import Kspace
from .ssdu import Ssdu


@dataclass(frozen=True)
class Equivariant(Extended):
    """Options of the ``equivariant`` objective.

    Attributes:
        base: the objective on the measured lines.
        weight: of the penalty.
        rotation: largest angle T turns by, degrees.
        shift: largest shift of T along y and x, as a share of the field of view.
    """

    name: ClassVar[str] = "equivariant"
    learns_unsampled: ClassVar[bool] = True

    base: Kspace | Ssdu = field(default_factory=Ssdu)
    weight: float = 1.0
    rotation: float = 180.0
    shift: float = 0.1

    def __post_init__(self) -> None:
        if not isinstance(self.base, Kspace | Ssdu):
            raise ConfigError(f"base is kspace or ssdu, got {self.base.name!r}")
        check_number("weight", self.weight, above=0)
        check_number("rotation", self.rotation, 0)
        check_number("shift", self.shift, 0)

    @property
    @override
    def one_level(self) -> bool:
        return self.base.one_level

    @override
    def __call__(self, net: Denoiser, batch: Batch, rng: Streams) -> Loss:
        base = self.base(net, batch, rng)
        penalty = self.penalty(net, batch, rng)
        log = {**base.log, "equivariance": penalty.detach()}
        return Loss(base.backward + self.weight * penalty, log)

    def penalty(self, net: Denoiser, batch: Batch, rng: Streams) -> Tensor:
        """The penalty of the module docstring, averaged over the batch."""
        op, y, known = batch.op, batch.measured, batch.noise_std
        motion = self._draw(batch, rng)
        if isinstance(self.base, Kspace):
            sigma = self.base.law.draw(self.base.margin * known, net.sigma_data, rng)
            L = edm_weight(sigma, net.sigma_data).clamp(max=self.base.max_weight)
        else:
            sigma = known.clamp(min=MIN_SIGMA)
            L = torch.full_like(sigma, net.sigma_data**-2)
        level = sigma[:, None, None, None]
        added = (level.square() - known[:, None, None, None].square()).clamp(min=0).sqrt()
        y_t = torch.where(op.mask, y + added * noise_like(y, rng), 0)
        x = op.support * _moved_sets(net(op, y_t, sigma), batch.n_sets, motion)
        again = torch.where(op.mask, op.expand(x) + level * noise_like(y, rng), 0)
        energy = per_image_pixel(abs2(net(op, again, sigma) - x), batch.n_sets)
        return (L * energy).mean()

    def _draw(self, batch: Batch, rng: Streams) -> tuple[Tensor, Tensor, Tensor]:
        """Angles in degrees and shifts along y and x of the images of a batch, each ``(b,)``."""
        device = batch.ksp.device
        angle, dy, dx = (2 * uniforms(rng).to(device) - 1 for _ in range(3))
        return self.rotation * angle, self.shift * dy, self.shift * dx


def _moved_sets(img: Tensor, n_sets: int, motion: Sequence[Tensor]) -> Tensor:
    """Images of one or several sets of maps ``(b, set*y, x)``, those of a scan moved alike."""
    each = (part.repeat_interleave(n_sets) for part in motion)
    return items_as_sets(moved(sets_as_items(img, n_sets), *each), n_sets)


def moved(img: Tensor, angle: Tensor, dy: Tensor, dx: Tensor) -> Tensor:
    """Complex images ``(b, y, x)`` turned about the centre and shifted, bicubic, zeros outside.

    Args:
        img: the images; their pixels are taken to be square.
        angle: from x towards y, degrees, ``(b,)``.
        dy: shift along y after the turn, as a share of the field of view, ``(b,)``.
        dx: shift along x.
    """
    ny, nx = img.shape[-2:]
    cos, sin = torch.cos(torch.deg2rad(angle)), torch.sin(torch.deg2rad(angle))
    # What is seen at a point p of the result lay at R^T (p - shift); coordinates run from -1 to 1.
    rows = [
        torch.stack([cos, sin * ny / nx, -2 * (cos * dx + sin * dy * ny / nx)], dim=-1),
        torch.stack([-sin * nx / ny, cos, -2 * (cos * dy - sin * dx * nx / ny)], dim=-1),
    ]
    theta = torch.stack(rows, dim=-2)
    planes = torch.stack([img.real, img.imag], dim=1)
    grid = functional.affine_grid(theta, list(planes.shape), align_corners=False)
    out = functional.grid_sample(planes, grid, mode="bicubic", align_corners=False)
    return torch.complex(out[:, 0], out[:, 1])
