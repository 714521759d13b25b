"""How often samples that belong together are warned of (never), and those that do not.

    python tests/benchmarks/bench_lines.py IMAGES.zip [SCAN...] [--images 60]

simulates scans (4 to 16 coils, 64 to 192 a side, R = 1 to 4, noise of 0.0005 to 0.1), prepares them
right (:data:`RIGHT`) and with a fault (:data:`FAULTS`, :data:`BROKEN`, :data:`COMPUTED`), prints
for each the share of scans that one of :data:`CODES` names, in simulated scans and in fully sampled
real ones (each as it is, with every other coil, and with half of its readout), and one JSON line.
Ends with 1 if a right scan is warned of. ``--quick`` takes one phantom and 4 coils.
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from mri_ambient.data_prep import plan_preparation
from mri_ambient.data_prep.simulation.images import open_images
from mri_ambient.data_prep.simulation.scan_model import ScanModel, SimulateConfig
from mri_ambient.errors import MriAmbientError, NumericalWarning, collected
from mri_ambient.io import find_scans
from mri_ambient.io.formats.arrays import ArrayFile
from mri_ambient.physics.axis_fourier import fftc, ifftc
from mri_ambient.physics.fourier import fft2c, ifft2c, reverse
from mri_ambient.rng import rng_for
from mri_ambient.scan import Scan

SIZES = ((64, 64), (96, 80), (128, 112), (192, 160))
CALIB = 16
CODES = {"W-LINES", "W-LINE-PHASE", "W-CLIPPED", "W-CONJUGATE", "W-INTERPOLATED"}


def turned(ksp: Tensor, columns: slice, factor: complex) -> Tensor:
    """Some columns times a number."""
    ksp = ksp.clone()
    ksp[..., columns] *= factor
    return ksp


def copied(ksp: Tensor) -> Tensor:
    """A line beside k = 0 that is the next one."""
    ksp = ksp.clone()
    ksp[..., ksp.shape[-1] // 2 + 2] = ksp[..., ksp.shape[-1] // 2 + 3]
    return ksp


def interpolated(ksp: Tensor) -> Tensor:
    """Every other line from its neighbours."""
    ksp = ksp.clone()
    odd = ksp[..., 1:-1:2]
    odd[:] = (ksp[..., 0:-2:2][..., : odd.shape[-1]] + ksp[..., 2::2][..., : odd.shape[-1]]) / 2
    return ksp


def middle(ksp: Tensor, n: int = 10) -> slice:
    """Lines around k = 0."""
    return slice(ksp.shape[-1] // 2 - n // 2, ksp.shape[-1] // 2 + n // 2)


def filtered(ksp: Tensor, window: Callable[[int], Tensor]) -> Tensor:
    """Every sample times a window along rows and columns, as some scanners export k-space."""
    return ksp * window(ksp.shape[-2])[:, None] * window(ksp.shape[-1])


def hamming(n: int) -> Tensor:
    """Of 0.08 at the edges."""
    return torch.hamming_window(n, periodic=False)


def gaussian(n: int) -> Tensor:
    """Of 0.14 at the edges."""
    return torch.exp(-2 * torch.linspace(-1, 1, n).square())


def rounded(ksp: Tensor, bits: int) -> Tensor:
    """To integers of so many bits."""
    scale = ksp.abs().max() / 2 ** (bits - 1)
    return torch.view_as_complex(torch.view_as_real(ksp / scale).round())


def clipped(ksp: Tensor, share: float) -> Tensor:
    """Real and imaginary parts up to a share of the largest of each coil."""
    parts = torch.view_as_real(ksp)
    limit = share * parts.abs().amax(dim=(-3, -2, -1), keepdim=True)
    return torch.view_as_complex(parts.clamp(-limit, limit))


def filled_in(ksp: Tensor, columns: slice) -> Tensor:
    """Columns as the conjugates of those on the other side of k = 0, where these were measured."""
    other = reverse(reverse(ksp, -2), -1).conj()
    other = torch.where(other != 0, other, ksp)
    ksp = ksp.clone()
    ksp[..., columns] = other[..., columns]
    return ksp


def echo_train(ksp: Tensor, n: int = 8, decay: float = 0.15) -> Tensor:
    """Lines of ``n`` echoes, the first in the middle, ``decay`` of T2 apart."""
    n_columns = ksp.shape[-1]
    distance = (torch.arange(n_columns) - n_columns // 2).abs()
    return ksp * torch.exp(-decay * (2 * n * distance // (n_columns + 1)))


def misplaced(ksp: Tensor) -> Tensor:
    """The line of k = 0 stored in place of the outermost one, as a navigator."""
    ksp = ksp.clone()
    ksp[..., torch.nonzero(ksp.any(dim=(0, 1)))[0]] = ksp[..., [ksp.shape[-1] // 2]]
    return ksp


def three_clipped(ksp: Tensor) -> Tensor:
    """Real and imaginary parts of a coil up to the third largest."""
    parts = torch.view_as_real(ksp).clone()
    limit = float(parts[0].abs().flatten().topk(3).values[-1])
    parts[0] = parts[0].clamp(-limit, limit)
    return torch.view_as_complex(parts)


def read_backwards(ksp: Tensor) -> Tensor:
    """Every other line from its last sample to its first, as raw EPI is."""
    ksp = ksp.clone()
    ksp[..., 1::2] = ksp[..., 1::2].flip(-2)
    return ksp


def missed(ksp: Tensor) -> Tensor:
    """The line of k = 0 holds what the outermost one holds, which is mostly noise."""
    ksp = ksp.clone()
    ksp[..., [ksp.shape[-1] // 2]] = ksp[..., torch.nonzero(ksp.any(dim=(0, 1)))[0]]
    return ksp


RIGHT: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda ksp: ksp,
    "none, Hamming filter": lambda ksp: filtered(ksp, hamming),
    "none, Gaussian filter": lambda ksp: filtered(ksp, gaussian),
    "none, trains of 8 echoes": echo_train,
    "none, rounded to 16 bits": lambda ksp: rounded(ksp, 16),
    "none, rounded to 12 bits": lambda ksp: rounded(ksp, 12),
}
"""What is done to samples whose lines belong together."""

FAULTS: dict[str, Callable[[Tensor], Tensor]] = {
    "every other line times 0.5": lambda ksp: turned(ksp, slice(1, None, 2), 0.5),
    "every other line times 0.8": lambda ksp: turned(ksp, slice(1, None, 2), 0.8),
    "every fourth line turned by 0.6 rad": lambda k: turned(k, slice(1, None, 4), np.exp(0.6j)),
    "half of the lines turned by 1 rad": lambda k: turned(
        k, slice(k.shape[-1] // 2 + 1, None), np.exp(1j)
    ),
    "a line copied from its neighbour": copied,
    "every other line interpolated": interpolated,
    "ten lines in the middle times 3": lambda ksp: turned(ksp, middle(ksp), 3),
    "calibration lines times 3": lambda ksp: turned(ksp, middle(ksp, CALIB), 3),
    "calibration lines times 1.5": lambda ksp: turned(ksp, middle(ksp, CALIB), 1.5),
    "calibration lines turned by 1 rad": lambda k: turned(k, middle(k, CALIB), np.exp(1j)),
    "every other line read backwards": read_backwards,
    "the line of k = 0 in place of the outermost": misplaced,
    "the line of k = 0 missed by the receiver": missed,
    "three samples clipped": three_clipped,
    "clipped at half of the largest": lambda ksp: clipped(ksp, 0.5),
    "clipped at a fifth of the largest": lambda ksp: clipped(ksp, 0.2),
    "the right half filled in": lambda k: filled_in(k, slice(k.shape[-1] // 2 + 1, None)),
    "the outer quarter filled in": lambda k: filled_in(k, slice(3 * k.shape[-1] // 4, None)),
}


def lost(ksp: Tensor, dim: int, place: int = 0) -> Tensor:
    """Without the line so many from k = 0: those behind it stand one place off."""
    n, at = ksp.shape[dim], ksp.shape[dim] // 2 + place
    last = torch.zeros_like(ksp.narrow(dim, 0, 1))
    return torch.cat([ksp.narrow(dim, 0, at), ksp.narrow(dim, at + 1, n - at - 1), last], dim)


def doubled(ksp: Tensor, dim: int) -> Tensor:
    """The line of k = 0 twice: those behind it stand one place off."""
    n, at = ksp.shape[dim], ksp.shape[dim] // 2
    return torch.cat([ksp.narrow(dim, 0, at + 1), ksp.narrow(dim, at, n - at - 1)], dim)


BROKEN: dict[str, Callable[[Tensor], Tensor]] = {
    "the line of k = 0 lost": lambda ksp: lost(ksp, -1),
    "the line of k = 0 stored twice": lambda ksp: doubled(ksp, -1),
    "the fifth line from k = 0 lost": lambda ksp: lost(ksp, -1, 5),
    "the twentieth line from k = 0 lost": lambda ksp: lost(ksp, -1, 20),
    "the readout's sample of k = 0 lost": lambda ksp: lost(ksp, -2),
    "its twelfth sample from k = 0 lost": lambda ksp: lost(ksp, -2, 12),
    "lines from k = 0 on of another sign": lambda k: turned(k, slice(k.shape[-1] // 2, None), -1),
    "lines from the twentieth on of another sign": lambda k: turned(
        k, slice(k.shape[-1] // 2 + 20, None), -1
    ),
}
"""What happens to all lines, before the mask leaves some out."""


def cropped_images(ksp: Tensor, rate: int = 3) -> Tensor:
    """Of undersampled images without their border."""
    under = torch.zeros_like(ksp)
    under[..., 1::rate] = ksp[..., 1::rate]
    under[..., middle(ksp, CALIB)] = ksp[..., middle(ksp, CALIB)]
    img = ifft2c(under)
    ny, nx = (n // 12 for n in img.shape[-2:])
    inside = torch.zeros_like(img)
    inside[..., ny:-ny, nx:-nx] = img[..., ny:-ny, nx:-nx]
    return fft2c(inside)


COMPUTED: dict[str, Callable[[Tensor], Tensor]] = {
    "images of every third line, cropped": cropped_images,
}
"""What makes complete k-space of one that was undersampled."""


def is_named(ksp: Tensor) -> bool | None:
    """Whether the lines of a slice ``(coil, y, x)`` are warned of; None if it is refused."""
    with collected():
        try:
            scan = Scan.from_numpy(ksp[None].numpy())
            found = plan_preparation(ArrayFile(scan)).warnings
        except MriAmbientError:
            return None
    return any(warning.code in CODES for warning in found)


Slice = tuple[Tensor, Tensor]
"""Fully sampled k-space ``(coil, y, x)`` and a mask ``(y, x)``."""


def simulated(images: str, count: int, coils: tuple[int, int]) -> Iterator[Slice]:
    """Slices of simulated scans."""
    source = open_images(images)
    for k, name in enumerate(source.names(count, 1)[:count]):
        rate = (1.0, 2.0, 3.0, 4.0)[k % 4]
        config = SimulateConfig(
            SIZES[k // 4 % 4], coils, calib=CALIB, noise=(0.0005, 0.1), jitter=True,
            acceleration=rate,
        )  # fmt: skip
        anatomy = source.read(name, config.size, 1, rng_for(7, name))
        full, under = (
            ScanModel(anatomy, replace(config, full=full), f"{name} {k}").measure(0)
            for full in (True, rate == 1)
        )
        yield full, (under != 0).any(dim=0)


def real(scans: list[str]) -> Iterator[Slice]:
    """Slices of real scans, and parts of them."""
    for path in find_scans(scans) if scans else ():
        file = path.open()
        if not file.fully_sampled:
            continue
        for part in file:
            ksp = part.ksp[0]
            for coils in (ksp, ksp[::2], ksp[1::2], half(ksp)):
                yield coils, torch.ones(coils.shape[1:], dtype=torch.bool)


def half(ksp: Tensor) -> Tensor:
    """With half of the readout, which lies along y."""
    img = ifftc(ksp, dim=-2)
    n = img.shape[-2]
    return fftc(img[..., n // 4 : n // 4 + n // 2, :], dim=-2)


def shares(slices: list[Slice]) -> dict[str, float]:
    """The share that is named, by fault; of those whose lines are sampled."""
    found = {}
    for name, fault in (RIGHT | FAULTS | BROKEN | COMPUTED).items():
        named = []
        for ksp, mask in slices:
            if name in COMPUTED and not mask.all():
                continue
            damaged = fault(ksp * mask if name in RIGHT | FAULTS else ksp)
            named.append(is_named(torch.where(mask, damaged, 0)))
        told = [one for one in named if one is not None]
        found[name] = round(sum(told) / max(len(told), 1), 3)
    return found


def main() -> int:
    """Print the shares."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("images", nargs="?", default="phantom")
    parser.add_argument("scans", nargs="*")
    parser.add_argument("--images", dest="count", type=int, default=60)
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    args.coils = (4, 16)
    if args.quick:
        args.count, args.coils = 1, (4, 4)
    warnings.simplefilter("ignore", NumericalWarning)
    kinds = {
        "simulated": list(simulated(args.images, args.count, args.coils)),
        "real": list(real(args.scans)),
    }
    figures = {kind: shares(slices) for kind, slices in kinds.items()}
    for fault in RIGHT | FAULTS | BROKEN | COMPUTED:
        print(
            f"| {fault} | {' | '.join(f'{100 * figures[kind][fault]:.0f} %' for kind in kinds)} |"
        )
    numbers = {f"n_{kind}": len(slices) for kind, slices in kinds.items()}
    print(json.dumps({"benchmark": "lines", **numbers, **figures}))
    return int(any(figures[kind][name] for kind in kinds for name in RIGHT))


if __name__ == "__main__":
    sys.exit(main())
