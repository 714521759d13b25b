"""A small, fully convolutional U-Net in the style of EDM (Karras et al. 2022, arXiv 2206.00364).

Residual blocks with group normalisation, noise level by scale and shift, zero-initialised last
convolutions. No attention and no position: any image size works, padded inside.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..errors import unknown_name
from .facts import UNTRAINED, UNetSpec

NETWORKS: dict[str, UNetSpec] = {
    "tiny": UNetSpec(channels=(24, 48, 64, 96), blocks=1, embedding=96),
    # On a CPU, bfloat16 norms of 16 channels are several times faster than those of 4.
    "tiny16": UNetSpec(channels=(32, 48, 64, 96), blocks=1, embedding=96, per_group=16),
    "tiny16-momentum": UNetSpec(
        (32, 48, 64, 96), blocks=1, embedding=96, per_group=16, momentum=True
    ),
    "tiny16-momentum-6": UNetSpec(
        (32, 48, 64, 96), blocks=1, embedding=96, per_group=16, passes=6, momentum=True
    ),
    "small": UNetSpec(channels=(48, 96, 144, 192), blocks=2, embedding=192),
    "base": UNetSpec(channels=(96, 192, 288, 384), blocks=3, embedding=384),
}

DEFAULT_NETWORK = "tiny16-momentum"
"""Learns most in the same time (docs/results/networks.md)."""


def network_spec(name: str) -> UNetSpec:
    """The network of this name.

    Raises:
        ConfigError: there is none.
    """
    if name not in NETWORKS:
        raise unknown_name("network preset", name, NETWORKS)
    return NETWORKS[name]


def preset_of(spec: UNetSpec) -> str | None:
    """The name of such a network, if it has one."""
    return next((name for name, known in NETWORKS.items() if known == spec), None)


def _group_norm(channels: int, per_group: int) -> nn.GroupNorm:
    """At most 32 groups of at least ``per_group`` channels."""
    largest = max(min(32, channels // per_group), 1)
    groups = max(g for g in range(1, largest + 1) if channels % g == 0)
    return nn.GroupNorm(groups, channels)


def zeroed(conv: nn.Conv2d) -> nn.Conv2d:
    """The same, with weights and bias 0."""
    nn.init.zeros_(conv.weight)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    return conv


class _Block(nn.Module):
    """norm, SiLU, conv; norm, scale and shift by the noise level, SiLU, conv; plus identity."""

    def __init__(self, n_in: int, n_out: int, spec: UNetSpec) -> None:
        super().__init__()
        self.norm_in = _group_norm(n_in, spec.per_group)
        self.norm_out = _group_norm(n_out, spec.per_group)
        self.conv_in = nn.Conv2d(n_in, n_out, 3, padding=1)
        self.conv_out = zeroed(nn.Conv2d(n_out, n_out, 3, padding=1))
        self.modulation = nn.Linear(spec.embedding, 2 * n_out)
        self.skip: nn.Conv2d | nn.Identity = (
            nn.Conv2d(n_in, n_out, 1) if n_in != n_out else nn.Identity()
        )

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        return self._second(self.conv_in(_silu(self.norm_in(x))), self.skip(x), emb)

    def doubling(self, coarse: Tensor, fine: Tensor, emb: Tensor) -> Tensor:
        """The same of planes that are doubled in size, and of others of that size behind them.

        Where no group of the norm holds planes of both, the former are doubled as late as possible:
        their norms are the same, and a convolution of doubled planes is a transposed one of planes.
        """
        n, norm, conv, skip = coarse.shape[1], self.norm_in, self.conv_in, self.skip
        per_group = norm.num_channels // norm.num_groups
        if n % per_group or isinstance(skip, nn.Identity):
            return self.forward(torch.cat([_doubled(coarse), fine], dim=1), emb)

        def normed(x: Tensor, channels: slice) -> Tensor:
            weight, bias = norm.weight[channels], norm.bias[channels]
            return _silu(functional.group_norm(x, x.shape[1] // per_group, weight, bias))

        first, others = slice(n), slice(n, None)
        kernel = _of_doubled(_of_doubled(conv.weight[:, first], 2), 3).transpose(0, 1)
        h = functional.conv_transpose2d(normed(coarse, first), kernel, stride=2, padding=1)
        h = h + functional.conv2d(
            normed(fine, others), conv.weight[:, others], conv.bias, padding=1
        )
        identity = _doubled(functional.conv2d(coarse, skip.weight[:, first]))
        identity = identity + functional.conv2d(fine, skip.weight[:, others], skip.bias)
        return self._second(h, identity, emb)

    def _second(self, h: Tensor, identity: Tensor, emb: Tensor) -> Tensor:
        scale, shift = self.modulation(emb)[..., None, None].chunk(2, dim=1)
        h = torch.addcmul(shift, self.norm_out(h), 1 + scale)
        out: Tensor = self.conv_out(_silu(h))
        return out.add_(identity)


def _silu(x: Tensor) -> Tensor:
    """SiLU; in place where there are no gradients, in half of the time."""
    return functional.silu(x, inplace=not torch.is_grad_enabled())


def _doubled(x: Tensor) -> Tensor:
    """Every pixel four times, ``(b, n, 2 y, 2 x)``."""
    return functional.interpolate(x, scale_factor=2, mode="nearest")


def _of_doubled(kernel: Tensor, axis: int) -> Tensor:
    """Four taps that, transposed and with stride 2, are the three of a kernel after doubling."""
    before, own, behind = kernel.unbind(axis)
    return torch.stack([behind, own + behind, before + own, before], axis)


class UNet(nn.Module):
    """Real image channels in, two channels (real, imaginary) out.

    Args:
        spec: widths and depth.
        in_channels: number of input planes.
    """

    def __init__(self, spec: UNetSpec, in_channels: int) -> None:
        super().__init__()
        self.spec = spec
        emb, widths = spec.embedding, spec.channels
        self.frequencies: Tensor
        # On the CPU even where only sizes matter: elsewhere that imports a compiler, in a second.
        steps = torch.linspace(0, math.log(64), emb // 4, device="cpu")
        self.register_buffer(UNTRAINED, steps.exp())
        self.embed = nn.Sequential(
            nn.Linear(2 * (emb // 4), emb), nn.SiLU(), nn.Linear(emb, emb), nn.SiLU()
        )
        self.first = nn.Conv2d(in_channels, widths[0], 3, padding=1)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        n_in = widths[0]
        for width in widths:
            level = nn.ModuleList()
            for _ in range(spec.blocks):
                level.append(_Block(n_in, width, spec))
                n_in = width
            self.down.append(level)
        self.middle = _Block(n_in, n_in, spec)
        for width in reversed(widths):
            level = nn.ModuleList()
            for _ in range(spec.blocks):
                level.append(_Block(n_in + width, width, spec))
                n_in = width
            self.up.append(level)
        self.last_norm = _group_norm(n_in, spec.per_group)
        self.last = zeroed(nn.Conv2d(n_in, 2, 3, padding=1))
        # The weights too: after a norm, a GPU uses the layout of the weights.
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, x: Tensor, c_noise: Tensor) -> Tensor:
        """Planes ``(b, in_channels, y, x)`` and noise label ``(b,)`` to ``(b, 2, y, x)``."""
        angle = c_noise[:, None] * self.frequencies
        emb = self.embed(torch.cat([angle.sin(), angle.cos()], dim=1))
        x, crop = _pad_to_multiple(x, 2 ** (len(self.spec.channels) - 1))
        h = self.first(x.contiguous(memory_format=torch.channels_last))
        skips = []
        for i, level in enumerate(self.down):
            if i > 0:
                h = functional.avg_pool2d(h, 2)
            for block in level:  # type: ignore[attr-defined]
                h = block(h, emb)
                skips.append(h)
        h = self.middle(h, emb)
        for i, level in enumerate(self.up):
            for k, block in enumerate(level):  # type: ignore[arg-type]
                if i > 0 and k == 0:
                    h = block.doubling(h, skips.pop(), emb)
                else:
                    h = block(torch.cat([h, skips.pop()], dim=1), emb)
        out: Tensor = self.last(_silu(self.last_norm(h)))
        return out[..., crop[0], crop[1]]


def _pad_to_multiple(x: Tensor, multiple: int) -> tuple[Tensor, tuple[slice, slice]]:
    """Wrap the image around its edges, as its k-space does, to a size that can be halved.

    Returns:
        The padded planes, and the part of them that is the image.
    """
    ny, nx = x.shape[-2:]
    pads = [-n % multiple for n in (ny, nx)]
    top, left = (pad // 2 for pad in pads)
    crop = (slice(top, top + ny), slice(left, left + nx))
    if not any(pads):
        return x, crop
    rows = (torch.arange(ny + pads[0], device=x.device) - top) % ny
    columns = (torch.arange(nx + pads[1], device=x.device) - left) % nx
    return x[..., rows[:, None], columns], crop


def n_parameters(net: nn.Module) -> int:
    """Number of trained parameters."""
    return sum(p.numel() for p in net.parameters())


def forward_flops(net: UNet, shape: tuple[int, int]) -> int:
    """Floating-point operations of one forward pass on one image ``(y, x)``."""
    from torch.utils.flop_counter import FlopCounterMode

    parameter = next(net.parameters())
    planes = torch.zeros(1, net.first.in_channels, *shape, device=parameter.device)
    label = torch.zeros(1, device=parameter.device)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        net(planes, label)
    return int(counter.get_total_flops())
