"""Is a prior safe to hand on? Whether the images it draws are copies of its training scans.

Each drawn image is compared with its nearest neighbour among the training scans. How near is
unremarkable is told by scans the prior never saw: the distances from them to *their* nearest
training scans. Images of the training scans are their CG-SENSE reconstructions, since no others
exist.

The distance is 1 minus the correlation of magnitudes, averaged over blocks to 32 x 32 and the
nearest of the mirror images that training shows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch
from torch import Tensor
from torch.nn import functional

from ..errors import ConfigError, ScanFormatError
from ..methods import PriorOnly
from ..methods.baselines import CgSense
from ..priors.prior import Prior
from ..recon.engine import draw_images
from ..runtime.device import Runtime
from ..training.dataset import Item, load_dataset

SIDE = 32
"""Pixels a side of what is compared: finer detail is noise, aliasing and registration."""

FAR_OFF = 2.0
"""Drawn images this many times farther from the scans than scans are from one another are none."""


@dataclass(frozen=True)
class Memorization:
    """How near drawn images come to training scans.

    Attributes:
        sample_distances: of each drawn image to its nearest training scan.
        held_out_distances: of each scan that was not trained on to its nearest training scan.
        nearest: name ``scan/slice`` of the nearest training scan of each drawn image.
        pairs: the four drawn images nearest to a training scan, and these, magnitudes ``(y, x)``.
    """

    sample_distances: tuple[float, ...]
    held_out_distances: tuple[float, ...]
    nearest: tuple[str, ...]
    pairs: tuple[tuple[Tensor, Tensor], ...]

    @property
    def n_suspects(self) -> int:
        """Drawn images nearer to a training scan than any scan that was not trained on."""
        closest = min(self.held_out_distances)
        return sum(distance < closest for distance in self.sample_distances)

    @property
    def expected(self) -> float:
        """How many there would be if drawn images were scans like the ones not trained on."""
        return len(self.sample_distances) / (len(self.held_out_distances) + 1)

    @property
    def line(self) -> str:
        """The finding in one line."""
        told = (
            f"{self.n_suspects} of {len(self.sample_distances)} drawn images are nearer to a "
            f"training scan than all {len(self.held_out_distances)} scans that were not trained on "
            f"({self.expected:.1f} would be by chance); nearest {min(self.sample_distances):.3f} "
            f"against {min(self.held_out_distances):.3f}"
        )
        if median(self.sample_distances) > FAR_OFF * median(self.held_out_distances):
            told += (
                ". The drawn images are much farther from every scan than scans are from one "
                "another: the prior does not draw such images, and this says nothing about it"
            )
        return told


def memorization(
    prior: Prior,
    folder: Path,
    *,
    n_samples: int = 16,
    n_steps: int = 40,
    seed: int = 0,
    device: torch.device | str = "cpu",
    on_image: Callable[[int, int], None] | None = None,
    on_damaged: Callable[[str], None] | None = None,
) -> Memorization:
    """Compare what a prior draws with what it was trained on.

    Args:
        prior: its card must say which scans it was trained on.
        folder: these scans, prepared, and some that it was not trained on, such as those that were
            set aside then.
        n_samples: images to draw, with the maps of the scans that were set aside.
        n_steps: network evaluations an image.
        seed: of the images.
        device: where to compute.
        on_image: told (done, total) after every scan and every drawn image.
        on_damaged: given a sentence about every file or slice that cannot be read and is left out.

    Raises:
        ConfigError: there are no scans of one of the two kinds.
        ScanFormatError: none of one kind can be read.
    """
    if n_samples < 1:
        raise ConfigError(f"at least one image must be drawn, got {n_samples}")
    dataset = load_dataset(folder, n_validation=0, seed=seed)
    seen = [prior.was_trained_on(item.file.source_sha256) for item in dataset.train]
    trained = [item for item, yes in zip(dataset.train, seen, strict=True) if yes]
    held = [item for item, yes in zip(dataset.train, seen, strict=True) if not yes]
    tell = on_damaged or (lambda sentence: None)
    for sentence in dataset.damaged.values():
        tell(sentence)
    if "trained_on" not in prior.facts.card:
        raise ConfigError("the prior's card does not say which scans it was trained on")
    if not held or not trained:
        raise ConfigError(
            f"{folder}: holds {len(trained)} slices that the prior was trained on and {len(held)} "
            "others; name the folder it was trained on, with at least 5 scans, some of them set "
            "aside"
        )
    total, done = len(held) + len(trained) + n_samples, 0

    def tick() -> None:
        nonlocal done
        done += 1
        if on_image is not None:
            on_image(done, total)

    def features(items: list[Item]) -> tuple[list[Item], Tensor]:
        read, found = [], []
        for item in items:
            try:
                found.append(feature(_cg_sense(item, device)))
                read.append(item)
            except ScanFormatError as error:
                tell(str(error))
            tick()
        if not read:
            raise ScanFormatError(f"{folder}: none of the scans compared with can be read")
        return read, torch.stack(found)

    (trained, known), (held, unseen) = features(trained), features(held)
    images = []
    for k in range(n_samples):
        maps = held[k % len(held)].read().maps
        sampler, runtime = PriorOnly(n_steps=n_steps), Runtime(torch.device(device))
        drawn = draw_images(prior, sampler, maps, n_images=1, seed=seed + k, runtime=runtime)
        images.append(drawn[0].abs())
        tick()
    samples = torch.stack([feature(img) for img in images])
    distances, index = nearest(samples, known)
    order = distances.argsort()[:4].tolist()
    return Memorization(
        sample_distances=tuple(distances.tolist()),
        held_out_distances=tuple(nearest(unseen, known)[0].tolist()),
        nearest=tuple(f"{trained[i].scan_id}/{trained[i].index}" for i in index.tolist()),
        pairs=tuple((images[i], _cg_sense(trained[int(index[i])], device)) for i in order),
    )


def feature(img: Tensor) -> Tensor:
    """A magnitude image ``(y, x)`` as a unit vector without mean, ``(SIDE, SIDE)``."""
    small = functional.adaptive_avg_pool2d(img[None, None].float(), SIDE)[0, 0]
    small = small - small.mean()
    unit: Tensor = small / small.norm().clamp(min=1e-12)
    return unit


def nearest(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Distance of each of ``a`` to the nearest of ``b`` or its mirror images, and which it is."""
    best = torch.full((len(a),), torch.inf)
    index = torch.zeros(len(a), dtype=torch.long)
    for dims in ((), (-1,), (-2,), (-2, -1)):
        correlation = a.flatten(1) @ b.flip(dims).flatten(1).T
        value, at = (1 - correlation).min(dim=1)
        index = torch.where(value < best, at, index)
        best = torch.minimum(value, best)
    return best, index


def _cg_sense(item: Item, device: torch.device | str) -> Tensor:
    return CgSense()(None, item.read().to(device), [])[0].abs().cpu()
