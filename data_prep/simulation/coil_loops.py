"""Circular receive coils in space and their fields, by the law of Biot and Savart."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

WIRE_MM = 6.0
"""Thickness of a coil's conductor, which keeps its field finite."""

N_SEGMENTS = 24
"""Straight pieces of a coil loop."""


@dataclass(frozen=True)
class Ellipse:
    """Outline of the anatomy: centre and half axes, mm from the middle of the field of view."""

    y: float
    x: float
    half_y: float
    half_x: float


@dataclass(frozen=True)
class CoilLoops:
    """Circular receive loops in straight pieces.

    Attributes:
        points: middles of the pieces, x, y, z in mm, ``(coil, piece, 3)``.
        steps: the pieces as vectors, mm, ``(coil, piece, 3)``.
    """

    points: Tensor
    steps: Tensor

    @classmethod
    def circles(cls, center: Tensor, across: Tensor, along: Tensor, radius: Tensor) -> CoilLoops:
        """Loops in the planes of two unit vectors; vectors ``(coil, 3)``, radii ``(coil,)``."""
        turn = 2 * torch.pi * torch.arange(N_SEGMENTS) / N_SEGMENTS
        cos, sin = turn.cos()[:, None], turn.sin()[:, None]
        r, across, along = radius[:, None, None], across[:, None], along[:, None]
        points = center[:, None] + r * (cos * across + sin * along)
        return cls(points, r * (2 * torch.pi / N_SEGMENTS) * (cos * along - sin * across))

    @property
    def centers(self) -> Tensor:
        """Centres of the loops ``(coil, 3)``, mm."""
        return self.points.mean(dim=1)

    def field(self, fov_mm: tuple[float, float], z_mm: float, nodes: int) -> Tensor:
        """Receive fields B1- = Bx - i By on a grid over the field of view, ``(coil, y, x)``.

        Biot-Savart for a unit current, B = sum dl x r / (|r|^2 + a^2)^(3/2) with wire thickness a;
        by reciprocity a coil receives what it would transmit, in the rotating frame (Hoult 2000,
        doi:10.1002/1099-0534(2000)12:4<173::AID-CMR1>3.0.CO;2-Q).
        """
        y, x = (torch.linspace(-fov / 2, fov / 2, nodes) for fov in fov_mm)
        points = self.points[..., None, None, :]
        ry, rx = y[:, None] - points[..., 1], x - points[..., 0]
        rz = z_mm - points[..., 2]
        lx, ly, lz = self.steps[..., None, None, :].unbind(dim=-1)
        weight = (rx.square() + ry.square() + rz.square() + WIRE_MM**2).pow(-1.5)
        bx = ((ly * rz - lz * ry) * weight).sum(dim=1)
        by = ((lz * rx - lx * rz) * weight).sum(dim=1)
        return torch.complex(bx, -by)


def draw_loops(n_coils: int, body: Ellipse, rng: Generator) -> CoilLoops:
    """Loops on rings of eight, 25 to 80 mm from a body, of random angle, size and tilt."""
    n_rings = math.ceil(n_coils / 8)
    ring = torch.arange(n_coils) % n_rings
    per_ring = n_coils / n_rings

    place = torch.arange(n_coils) / n_coils + uniform(-0.15, 0.15, (n_coils,), rng) / per_ring
    angle = 2 * torch.pi * (place + torch.rand((), generator=rng))
    gap = uniform(25, 60, (), rng) + uniform(0, 20, (n_coils,), rng)
    x = body.x + (body.half_x + gap) * angle.cos()
    y = body.y + (body.half_y + gap) * angle.sin()
    z = 70.0 * (ring - (n_rings - 1) / 2) + uniform(-20, 20, (n_coils,), rng)
    center = torch.stack([x, y, z], dim=-1)
    arc = torch.pi * (body.half_x + body.half_y + 90.0) / per_ring
    radius = (0.5 * arc * uniform(1.0, 1.7, (n_coils,), rng)).clamp(30.0, 90.0)

    turn, tilt = (uniform(-0.25, 0.25, (n_coils,), rng) for _ in range(2))
    zero = torch.zeros(n_coils)
    across = torch.stack([-(angle + turn).sin(), (angle + turn).cos(), zero], dim=-1)
    outward = torch.stack([(angle + turn).cos(), (angle + turn).sin(), zero], dim=-1)
    along = tilt.sin()[:, None] * outward
    along[:, 2] = tilt.cos()

    return CoilLoops.circles(center, across, along, radius)


def outline(img: Tensor, fov_mm: tuple[float, float]) -> Ellipse:
    """The ellipse, along the axes, around all but 1 % of the body in images ``(slice, y, x)``.

    The body is what exceeds 8 % of the object's maximum, which is 1.
    """
    body = torch.nn.functional.max_pool2d(img.amax(dim=0)[None, None], 4, ceil_mode=True)[0, 0]
    index = torch.nonzero(body > 0.08).float()
    mm = (index + 0.5) / torch.tensor(body.shape) * torch.tensor(fov_mm) - torch.tensor(fov_mm) / 2
    low, high = mm.quantile(torch.tensor([0.005, 0.995]), dim=0)
    center, half = (low + high) / 2, (high - low).clamp(min=10.0) / 2
    reach = float(((mm - center) / half).norm(dim=-1).quantile(0.99))
    y, x = center.tolist()
    half_y, half_x = (reach * half).tolist()
    return Ellipse(y, x, half_y, half_x)


def uniform(low: float, high: float, shape: tuple[int, ...], rng: Generator) -> Tensor:
    """Random numbers between ``low`` and ``high``."""
    return low + (high - low) * torch.rand(shape, generator=rng)
