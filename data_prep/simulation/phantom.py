"""A procedural head: axial slices with folded cortex, drawn from random numbers alone.

Anatomy is described by distances in mm, so one head looks the same on every matrix: layers lie
under the skin, sulci are the zero lines of a random field that is stretched towards the middle
of the head, cortex is what lies within 3 mm of liquor, and ventricles and deep nuclei are
ellipses and capsules bent by another random field. Edges are as wide as a pixel. A table of
tissue intensities, jittered, gives the contrast (T1, T1 with contrast agent, T2, FLAIR, proton
density). Neighbouring slices cut the same anatomy at other heights.

It has the textures that matter to reconstruction (thin bright and dark lines, edges of every
direction, flat and mottled regions, small isolated features); it is not an anatomical atlas.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Generator, Tensor
from torch.nn.functional import grid_sample

HEAD_MM = (222.0, 186.0)
"""Size of the region around a head ``(y, x)``, mm."""

SLICE_MM = 5.0
"""Distance of neighbouring slices in a small stack."""

STACK_MM = 70.0
"""Height of a stack of many slices."""

DOMAIN_MM = 150.0
"""Random fields reach this far from the middle of the head."""

TISSUES = ("skin", "fat", "bone", "marrow", "liquor", "grey", "white", "nuclei", "vessel", "lesion")

CONTRASTS = {
    "T1": (0.55, 0.95, 0.06, 0.50, 0.14, 0.46, 0.72, 0.56, 0.22, 0.34),
    "T1ce": (0.55, 0.90, 0.06, 0.45, 0.12, 0.38, 0.50, 0.42, 1.00, 0.75),
    "T2": (0.40, 0.50, 0.04, 0.25, 1.00, 0.58, 0.40, 0.46, 0.08, 0.80),
    "FLAIR": (0.45, 0.55, 0.05, 0.25, 0.10, 0.62, 0.48, 0.54, 0.12, 1.00),
    "PD": (0.55, 0.75, 0.06, 0.35, 0.78, 0.82, 0.66, 0.72, 0.15, 0.92),
}
"""Signal of each of :data:`TISSUES`, 1 for the brightest."""


def pixel_mm(shape: tuple[int, int]) -> float:
    """Pixel size at which a head fills the matrix ``(y, x)``."""
    return max(HEAD_MM[0] / shape[0], HEAD_MM[1] / shape[1])


def slice_mm(n_slices: int) -> float:
    """Distance of neighbouring slices in a stack of ``n_slices``."""
    return min(SLICE_MM, STACK_MM / n_slices)


def head_phantom(shape: tuple[int, int], rng: Generator, n_slices: int = 1) -> Tensor:
    """A head: magnitude with maximum 1, ``(slice, y, x)``, the same on every matrix.

    Args:
        shape: matrix ``(y, x)``; pixels are square, :func:`pixel_mm` large.
        rng: random stream.
        n_slices: neighbouring slices, :func:`slice_mm` apart, from below to above.
    """
    head = _Head(rng)
    px = pixel_mm(shape)
    y, x = torch.meshgrid(*((torch.arange(n) - n // 2) * px for n in shape), indexing="ij")
    heights = [slice_mm(n_slices) * (i - (n_slices - 1) / 2) for i in range(n_slices)]
    img = torch.stack([head.cut(y, x, head.level + z, px) for z in heights])
    return img / img.max()


@dataclass(frozen=True)
class _Field:
    """A smooth random function of y, x, z with standard deviation about 1.

    Two sheets of random nodes are mixed with weights that turn as z grows, so neighbouring slices
    have related values.
    """

    nodes: Tensor
    length_mm: float

    @classmethod
    def draw(cls, length_mm: float, rng: Generator) -> _Field:
        n = math.ceil(2 * DOMAIN_MM / length_mm) + 1
        return cls(1.25 * torch.randn(2, n, n, generator=rng), length_mm)

    def __call__(self, y: Tensor, x: Tensor, z: float) -> Tensor:
        angle = z / (2 * self.length_mm)
        sheet = math.cos(angle) * self.nodes[0] + math.sin(angle) * self.nodes[1]
        return _sample(sheet, y / DOMAIN_MM, x / DOMAIN_MM)


def _sample(nodes: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """Bicubic interpolation of ``nodes`` at places given in [-1, 1]."""
    places = torch.stack([x, y], dim=-1)
    sampled = grid_sample(
        nodes[None, None], places[None], mode="bicubic", padding_mode="border", align_corners=True
    )
    return sampled[0, 0]


class _Head:
    """The random parameters of one head; :meth:`cut` draws its slice at a height."""

    def __init__(self, rng: Generator) -> None:
        self._rng = rng
        self.level = self._between(-4.0, 44.0)
        self.half_y, self.half_x = self._between(92, 103), self._between(72, 83)
        self.turn = self._between(-0.12, 0.12)
        self.shift = (self._between(-3, 3), self._between(-3, 3))
        self.fat, self.bone = self._between(2.5, 6.0), self._between(4.5, 7.5)
        self.gap = self._between(0.8, 3.5)
        self.cortex, self.sulcus = self._between(2.5, 3.4), self._between(0.3, 0.9)
        self.sulcal_depth = self._between(17, 25)
        self.ventricle = self._between(0.6, 1.5)
        self.bend_y, self.bend_x = (_Field.draw(75.0, rng) for _ in range(2))
        self.wiggle_y, self.wiggle_x = (_Field.draw(17.0, rng) for _ in range(2))
        self.swell, self.rough = _Field.draw(32.0, rng), _Field.draw(16.0, rng)
        self.opening, self.mottle = (_Field.draw(9.0, rng) for _ in range(2))
        self.grain = _Field.draw(3.5, rng)
        self.bias = _Field.draw(120.0, rng)
        self.folds = torch.randn(2, 2, 5, 22, generator=rng)
        # Up to six small spots in white matter; a tumour in one head of four.
        n_lesions = int(torch.randint(7, (), generator=rng))
        self.lesions = [
            self._draw_ball(1.2 + 5 * self._between(0, 1) ** 3) for _ in range(n_lesions)
        ]
        mass = self._draw_ball(self._between(9, 18))
        self.mass = mass if self._between(0, 1) < 0.25 else None
        # Vessels cross the slice; those in liquor are visible.
        self.vessels = [
            _Ball(self._between(-80, 80), self._between(-65, 65), 0.0, self._between(0.5, 1.1))
            for _ in range(24)
        ]
        contrast = list(CONTRASTS)[int(torch.randint(len(CONTRASTS), (), generator=rng))]
        jitter = torch.exp(0.08 * torch.randn(len(TISSUES), generator=rng))
        signal: list[float] = (torch.tensor(CONTRASTS[contrast]) * jitter).tolist()
        self.signal = dict(zip(TISSUES, signal, strict=True))

    def _between(self, low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=self._rng))

    def _draw_ball(self, radius: float) -> _Ball:
        side = 1 if self._between(-1, 1) > 0 else -1
        y, x = self._between(-55, 55), side * self._between(18, 42)
        return _Ball(y, x, self.level + self._between(-8, 8), radius)

    def cut(self, y: Tensor, x: Tensor, z: float, px: float) -> Tensor:
        """Magnitude at the places ``(y, x)`` at height ``z``, all in mm, edges ``px`` wide."""
        y, x = self._own_frame(y, x, z)
        slab = _Slab(y, x, z, px, torch.zeros_like(y))
        brain = self._paint_shell(slab)
        tissue = self._distance_to_liquor(slab, brain)
        texture = 1 + 0.03 * self.mottle(y, x, z) + 0.02 * self.grain(y, x, z)
        slab.paint(tissue, self.signal["grey"] * texture)
        slab.paint(tissue - self.cortex, self.signal["white"] * texture, soft_mm=0.4)
        self._paint_nuclei(slab, texture)
        self._paint_ventricles(slab)
        for ball in self.lesions:
            slab.paint(_least(ball.depth(slab), tissue), self.signal["lesion"], soft_mm=0.6)
        self._paint_mass(slab, brain)
        for ball in self.vessels:
            depth = ball.radius - torch.hypot(slab.y - ball.y, slab.x - ball.x)
            slab.paint(_least(depth, 2 - tissue, tissue + 6), self.signal["vessel"])
        return slab.img.clamp(min=0) * (1 + 0.07 * self.bias(y, x, z))

    def _own_frame(self, y: Tensor, x: Tensor, z: float) -> tuple[Tensor, Tensor]:
        """Places in the head's own axes: shifted, turned and bent."""
        y, x = y - self.shift[0], x - self.shift[1]
        cos, sin = math.cos(self.turn), math.sin(self.turn)
        y, x = cos * y + sin * x, cos * x - sin * y
        return y + 2.5 * self.bend_y(y, x, z), x + 2.5 * self.bend_x(y, x, z)

    def _paint_shell(self, slab: _Slab) -> Tensor:
        """Skin, fat, skull and the liquor around the brain; returns the depth under the skull."""
        v, u = slab.y / self.half_y, slab.x / self.half_x
        u = u * (1 - 0.04 * v.clamp(-1, 1))  # narrower in front
        angle = torch.atan2(v, u)
        # A head is fuller than an ellipse; the radius is 1 on the skin of the largest slice.
        radius = (v.abs().pow(2.3) + u.abs().pow(2.3)).pow(1 / 2.3)
        size = math.sqrt(1 - (max(slab.z, 0.0) / 100) ** 2)
        depth = (size - radius) * torch.hypot(self.half_y * angle.sin(), self.half_x * angle.cos())
        mottle = self.mottle(slab.y, slab.x, slab.z)
        skull = depth - 1.6 - self.fat * (1 + 0.18 * self.swell(slab.y, slab.x, slab.z))
        brain = skull - self.bone * (1 + 0.08 * self.rough(slab.y, slab.x, slab.z))
        slab.paint(depth, self.signal["skin"])
        slab.paint(depth - 1.6, self.signal["fat"] * (1 + 0.12 * mottle))
        slab.paint(skull, self.signal["bone"])
        slab.paint(
            _least(skull - 1.7, -brain - 1.7),
            self.signal["marrow"] * (0.85 + 0.25 * mottle),
            soft_mm=0.4,
        )
        slab.paint(brain, self.signal["liquor"])
        return brain

    def _distance_to_liquor(self, slab: _Slab, brain: Tensor) -> Tensor:
        """Depth in brain tissue, distance to the nearest liquor in mm; negative inside liquor."""
        y, x, z = slab.y, slab.x, slab.z
        surface = brain - self.gap
        # The halves are joined by the corpus callosum, which ends some way above the ventricles.
        joined = 34.0 * math.sqrt(max(1 - max(z - 6.0, 0.0) / 26.0, 0.0))
        fissure = torch.hypot(x, torch.relu(joined - y.abs())) - 0.7
        surface = torch.minimum(surface, fissure)

        dy, dx = 3.5 * self.wiggle_y(y, x, z), 3.5 * self.wiggle_x(y, x, z)
        fold, core = self._fold(y + dy, x + dx, z)
        slope = torch.stack(torch.gradient(fold, spacing=slab.px)).square().sum(dim=0)
        across = fold.abs() / (slope + 0.03**2).sqrt()
        reach = self.sulcal_depth + 5 * self.swell(y, x, z)
        sulci = torch.hypot(across, torch.relu(torch.maximum(surface - reach, core)))
        # Narrower with depth, and here and there closed, so that cortex touches cortex.
        width = 1.2 - 0.8 * (surface / reach).clamp(0, 1) + 0.6 * self.opening(y, x, z)
        sulci = sulci - (self.sulcus * width).clamp(min=-0.2)
        return _least(surface, sulci, self._sylvian(slab))

    def _sylvian(self, slab: _Slab) -> Tensor:
        """Distance to the liquor between temporal lobe and insula, either side, mm."""
        y = slab.y + 3 * self.wiggle_y(slab.y, slab.x, slab.z)
        side = slab.x.abs() + 2.5 * self.wiggle_x(slab.y, slab.x, slab.z)
        opening = _capsule(y, side, (-8.0, 75.0), (-4.0, 43.0))
        insula = _capsule(y, side - 0.01 * y.square(), (-16.0, 38.0), (16.0, 39.0))
        closing = 0.08 * max(slab.z - 8.0, 0.0)  # above the temporal lobe it is gone
        return torch.minimum(opening, insula + 0.3) - 0.9 + closing

    def _fold(self, y: Tensor, x: Tensor, z: float) -> tuple[Tensor, Tensor]:
        """A random function whose zero lines are sulci, and the depth (mm) in the core of a half.

        It varies faster along the surface than towards the middle. Each half has its own, in polar
        coordinates around a core without sulci, where the coordinates would converge.
        """
        v, u = y / (0.74 * self.half_y), (x.abs() - 0.4 * self.half_x) / (0.42 * self.half_x)
        angle, radius = torch.atan2(v, u) / torch.pi, torch.hypot(v, u)
        turn = z / 28.0
        halves = math.cos(turn) * self.folds[0] + math.sin(turn) * self.folds[1]
        n = halves.shape[-1]
        around = torch.cat([halves[..., -3:], halves, halves[..., :3]], dim=-1)
        # Of the n + 6 nodes the n + 1 in the middle go once around.
        place = 1.4 * radius - 1, (angle * n + 1) / (n + 5)
        fold = torch.where(x > 0, _sample(around[0], *place), _sample(around[1], *place))
        return fold, 0.42 * self.half_x * (0.4 - radius)

    def _paint_nuclei(self, slab: _Slab, texture: Tensor) -> None:
        """Caudate, lentiform nucleus and thalamus, which end below the ventricles' top."""
        size = 1 - max(slab.z - 4.0, 0.0) / 18.0
        if size <= 0.1:
            return
        signal, side = self.signal["nuclei"] * texture, slab.x.abs()
        caudate = _ellipse(slab.y, side, (-24.0, 11.0), (10.0 * size, 4.5 * size), 0.2)
        lentiform = _ellipse(slab.y, side, (-4.0, 25.0), (17.0 * size, 6.0 * size), 0.3)
        thalamus = _ellipse(slab.y, side, (13.0, 10.0), (13.0 * size, 8.0 * size), -0.45)
        for nucleus in (caudate, lentiform, thalamus):
            slab.paint(nucleus, signal, soft_mm=0.6)

    def _paint_ventricles(self, slab: _Slab) -> None:
        """Lateral ventricles, two arcs back to back, and the slit of the third."""
        size = self.ventricle * (1 - (slab.z - 10.0) ** 2 / 22.0**2)
        if size <= 0.05:
            return
        y, side = slab.y, slab.x.abs() + self.wiggle_y(slab.y, slab.x, slab.z)
        t = ((y - 4.0) / 44.0).clamp(-1, 1)
        middle = 4.0 + 4.5 * size + torch.where(t > 0, 17.0, 8.0) * t.square()
        width = size * (3.6 + 2.5 * t.square() + 1.5 * t) * (1 - t.square()).sqrt()
        lateral = width - 0.3 - (side - middle).abs() - torch.relu((y - 4.0).abs() - 44.0)
        third = _ellipse(y, slab.x, (9.0, 0.0), (13.0, 1.7 * self.ventricle), 0.0)
        slab.paint(0.8 * lateral, self.signal["liquor"])
        if slab.z < 6:
            slab.paint(third, self.signal["liquor"])

    def _paint_mass(self, slab: _Slab, brain: Tensor) -> None:
        """A tumour with a bright rim and oedema around it, which fills nearby sulci."""
        if self.mass is None:
            return
        depth = self.mass.depth(slab) + 3 * self.rough(slab.y, slab.x, slab.z)
        oedema = 0.6 * self.signal["white"] + 0.4 * self.signal["lesion"]
        core = 0.5 * (self.signal["liquor"] + self.signal["grey"])
        slab.paint(_least(depth + 9, brain - 8), oedema, soft_mm=2.5)
        slab.paint(_least(depth, brain - 2), self.signal["lesion"], soft_mm=0.4)
        slab.paint(_least(depth - 3, brain - 5), core, soft_mm=0.8)


@dataclass(frozen=True)
class _Ball:
    """A place (mm) and a radius around it."""

    y: float
    x: float
    z: float
    radius: float

    def depth(self, slab: _Slab) -> Tensor:
        """Distance to the surface, positive inside."""
        away = (slab.y - self.y).square() + (slab.x - self.x).square() + (slab.z - self.z) ** 2
        return self.radius - away.sqrt()


@dataclass
class _Slab:
    """A slice being painted: places in mm, height, pixel size, and the image so far."""

    y: Tensor
    x: Tensor
    z: float
    px: float
    img: Tensor

    def paint(self, depth: Tensor, signal: Tensor | float, soft_mm: float = 0.0) -> None:
        """Cover what lies at positive ``depth``, with an edge a pixel plus ``soft_mm`` wide."""
        share = torch.sigmoid(depth / (0.3 * self.px + soft_mm))
        self.img = self.img + share * (signal - self.img)


def _least(*depths: Tensor) -> Tensor:
    """Depth under the nearest of several surfaces."""
    return torch.stack(depths).amin(dim=0)


def _ellipse(
    y: Tensor, x: Tensor, center: tuple[float, float], half: tuple[float, float], tilt: float
) -> Tensor:
    """About the distance to the edge of an ellipse, positive inside."""
    cos, sin = math.cos(tilt), math.sin(tilt)
    dy, dx = y - center[0], x - center[1]
    u, v = cos * dy + sin * dx, cos * dx - sin * dy
    return (1 - torch.hypot(u / half[0], v / half[1])) * min(half)


def _capsule(y: Tensor, x: Tensor, a: tuple[float, float], b: tuple[float, float]) -> Tensor:
    """Distance to the straight line from ``a`` to ``b``."""
    dy, dx = b[0] - a[0], b[1] - a[1]
    along = (((y - a[0]) * dy + (x - a[1]) * dx) / (dy * dy + dx * dx)).clamp(0, 1)
    return torch.hypot(y - a[0] - along * dy, x - a[1] - along * dx)
