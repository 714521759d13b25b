"""Whether the images drawn from a prior are copies of its training scans.

Each drawn image is compared with its nearest neighbour among the training scans. Which distances
are normal is known from scans that the prior was not trained on: the distances from them to *their*
nearest training scans. Images of the scans are their CG-SENSE reconstructions, since no others
exist.

The distance is 1 minus the correlation of magnitudes, averaged over blocks to 32 x 32 and the
nearest of the mirror images that training shows.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn import functional

from ..errors import ConfigError, MriAmbientError, ScanFormatError
from ..methods import CgSense, PriorOnly
from ..physics.map_sets import first_set, magnitude
from ..priors.prior import Prior
from ..recon.sample import draw_images
from ..recon.warnings import issue_weakness
from ..runtime.device import Runtime
from ..runtime.executor import Executor, executor_of
from ..training.config import Hooks
from ..training.dataset import Item, load_dataset

Case = TypeVar("Case")

SIDE = 32
"""Pixels a side of what is compared: finer detail is noise, aliasing and registration."""

MUCH_FARTHER = 2.0
"""Drawn images this many times farther from the scans than scans are from one another are no images
of such scans."""

N_PAIRS = 4
"""Drawn images that are shown beside their nearest training scan."""


@dataclass(frozen=True)
class Memorization:
    """How near drawn images come to training scans.

    Attributes:
        sample_distances: of each drawn image to its nearest training scan.
        held_out_distances: of each scan that was not trained on to its nearest training scan.
        nearest: name ``scan/slice`` of the nearest training scan of each drawn image.
        pairs: the drawn images nearest to a training scan, and these, magnitudes ``(y, x)``.
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
    def drawn_are_unlike(self) -> bool:
        """Whether the drawn images are unlike all scans, so that nothing follows from this."""
        return median(self.sample_distances) > MUCH_FARTHER * median(self.held_out_distances)

    @property
    def report(self) -> dict[str, Any]:
        """All but the images, as plain values."""
        return {
            "sample_distances": self.sample_distances,
            "held_out_distances": self.held_out_distances,
            "nearest": self.nearest,
            "suspects": self.n_suspects,
            "expected_by_chance": self.expected,
        }

    @property
    def line(self) -> str:
        """The finding in one line."""
        line = (
            f"{self.n_suspects} of {len(self.sample_distances)} drawn images are nearer to a "
            f"training scan than all {len(self.held_out_distances)} scans that were not trained on "
            f"({self.expected:.1f} expected by chance); nearest {min(self.sample_distances):.3f} "
            f"against {min(self.held_out_distances):.3f}"
        )
        if self.drawn_are_unlike:
            line += (
                ". The drawn images are much farther from all scans than scans are from one "
                "another: this prior does not draw such images, so the audit shows nothing"
            )
        return line


def find_copies(
    prior: Prior,
    folder: Path,
    *,
    n_samples: int = 16,
    n_steps: int = 40,
    seed: int = 0,
    device: torch.device | str = "cpu",
    jobs: int | Executor = 1,
    hooks: Hooks | None = None,
) -> Memorization:
    """Compare what a prior draws with what it was trained on.

    Args:
        prior: its card must say which scans it was trained on.
        folder: these scans, prepared, and some that it was not trained on, such as those that were
            set aside for validation.
        n_samples: images to draw, with the maps of the scans that were not trained on.
        n_steps: network evaluations per image.
        seed: of the images.
        device: where to compute.
        jobs: processes that share the scans and the images, or an executor.
        hooks: ``on_target`` is called with (done, total) after every scan and every drawn image,
            ``on_damaged`` with a sentence about every file or slice that cannot be read.

    Raises:
        ConfigError: there are no scans of one of the two kinds.
        ScanFormatError: none of one kind can be read.
    """
    if n_samples < 1:
        raise ConfigError(f"at least one image must be drawn, got {n_samples}")
    issue_weakness(prior)
    hooks = hooks or Hooks()
    damaged = hooks.on_damaged
    trained, held_out = _scans(prior, folder, seed, damaged)
    total, done = len(trained) + len(held_out) + n_samples, itertools.count(1)

    def count() -> None:
        hooks.on_target(next(done), total)

    runtime, executor = Runtime(device), executor_of(jobs)
    reconstruct = partial(_cg_sense, runtime)
    found = _each(reconstruct, [*trained, *held_out], executor, count)
    n_trained = len(trained)
    trained, known = _features(trained, folder, found[:n_trained], damaged)
    held_out, unseen = _features(held_out, folder, found[n_trained:], damaged)
    draw = partial(_drawn, prior, PriorOnly(n_steps=n_steps), runtime)
    cases = [(seed + k, held_out[k % len(held_out)]) for k in range(n_samples)]
    images = _all(_each(draw, cases, executor, count))
    distances, index = nearest(torch.stack([feature(img) for img in images]), known)
    closest = distances.argsort()[:N_PAIRS].tolist()
    beside = _all(_each(reconstruct, [trained[int(index[i])] for i in closest], executor))
    return Memorization(
        sample_distances=tuple(distances.tolist()),
        held_out_distances=tuple(nearest(unseen, known)[0].tolist()),
        nearest=tuple(f"{trained[i].scan_id}/{trained[i].index}" for i in index.tolist()),
        pairs=tuple((images[i], other) for i, other in zip(closest, beside, strict=True)),
    )


def _drawn(prior: Prior, sampler: PriorOnly, runtime: Runtime, case: tuple[int, Item]) -> Tensor:
    """The magnitude of an image by its seed, with the maps of a slice."""
    seed, item = case
    batch = item.read()
    maps = first_set(batch.maps, batch.n_sets)
    return draw_images(prior, sampler, maps, n_images=1, seed=seed, runtime=runtime)[0].abs()


def _each(
    task: Callable[[Case], Tensor],
    cases: Sequence[Case],
    executor: Executor,
    count: Callable[[], None] = lambda: None,
) -> list[Tensor | ScanFormatError]:
    """What the task gives for every case, in their order."""
    found: dict[int, Tensor | ScanFormatError] = {}
    for index, result in executor.map(task, cases):
        if isinstance(result, MriAmbientError) and not isinstance(result, ScanFormatError):
            raise result
        found[index] = result
        count()
    return [found[index] for index in sorted(found)]


def _all(found: Sequence[Tensor | ScanFormatError]) -> list[Tensor]:
    """These images; the error of one that could not be read is raised."""
    images = []
    for image in found:
        if isinstance(image, ScanFormatError):
            raise image
        images.append(image)
    return images


def _scans(
    prior: Prior, folder: Path, seed: int, damaged: Callable[[str], None]
) -> tuple[list[Item], list[Item]]:
    """Slices that the prior was trained on, and others."""
    items = load_dataset(folder, n_validation=0, seed=seed)
    for sentence in items.damaged.values():
        damaged(sentence)
    if "trained_on" not in prior.facts.card:
        raise ConfigError("the prior's card does not say which scans it was trained on")
    kinds: dict[bool, list[Item]] = {True: [], False: []}
    for item in items.train:
        kinds[prior.was_trained_on(item.file.source_sha256)].append(item)
    if not kinds[True] or not kinds[False]:
        raise ConfigError(
            f"{folder}: holds {len(kinds[True])} slices that the prior was trained on and "
            f"{len(kinds[False])} others; name the folder it was trained on, with at least 5 "
            "scans, some of which were set aside for validation"
        )
    return kinds[True], kinds[False]


def _features(
    items: list[Item],
    folder: Path,
    images: Sequence[Tensor | ScanFormatError],
    damaged: Callable[[str], None],
) -> tuple[list[Item], Tensor]:
    """The slices that can be read, and the features of their images."""
    readable, found = [], []
    for item, img in zip(items, images, strict=True):
        if isinstance(img, ScanFormatError):
            damaged(str(img))
            continue
        found.append(feature(img))
        readable.append(item)
    if not readable:
        raise ScanFormatError(f"{folder}: none of the scans compared with can be read")
    return readable, torch.stack(found)


def feature(img: Tensor) -> Tensor:
    """A magnitude image ``(y, x)`` as a unit vector without mean, ``(SIDE, SIDE)``."""
    small = functional.adaptive_avg_pool2d(img[None, None].float(), SIDE)[0, 0]
    small = small - small.mean()
    unit: Tensor = small / small.norm().clamp(min=1e-12)
    return unit


def nearest(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Distance of each of ``a`` to the nearest of ``b`` or its mirror images, and which one."""
    best = torch.full((len(a),), torch.inf)
    index = torch.zeros(len(a), dtype=torch.long)
    for dims in ((), (-1,), (-2,), (-2, -1)):
        correlation = a.flatten(1) @ b.flip(dims).flatten(1).T
        value, at = (1 - correlation).min(dim=1)
        index = torch.where(value < best, at, index)
        best = torch.minimum(value, best)
    return best, index


def _cg_sense(runtime: Runtime, item: Item) -> Tensor:
    batch = item.read().to(runtime.torch_device)
    return magnitude(CgSense()(None, batch, [])[0], batch.n_sets).cpu()
