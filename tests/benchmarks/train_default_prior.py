"""Make the prior that ships with the package, from magnitude images, in resumable stages.

    python tests/benchmarks/train_default_prior.py IMAGES.zip WORK [--ship]

simulates undersampled multi-coil scans (of the images, and of phantoms of the kind the demo shows,
under other seeds), prepares them, and trains the ``kspace`` objective on them in the stages of
:data:`STAGES`, each from the weights of the one before: three passes first, on coarse scans, which
cost little, then on all of them; then three more passes. Every image is scanned once, at one size,
under one mask; no fully sampled scan is ever made. Run it again to go on: what is done is skipped.
``--ship`` writes the prior, in half precision, into ``mri_ambient/priors/weights`` with a card.
``--quick`` runs all of it in seconds on phantoms alone.
"""

from __future__ import annotations

import argparse
import tempfile
import textwrap
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mri_ambient.data_prep import SimulateConfig, prepare, simulate
from mri_ambient.data_prep.simulation.images import ImageSource, Pictures, open_images
from mri_ambient.objectives import Kspace
from mri_ambient.priors.checkpoint import load_prior, save_prior
from mri_ambient.priors.prior import Prior
from mri_ambient.priors.schedules import LogNormal
from mri_ambient.priors.weights import DEFAULT
from mri_ambient.runtime.config import parse_seconds
from mri_ambient.runtime.device import Runtime
from mri_ambient.runtime.files import file_sha256
from mri_ambient.training.config import Progress, TrainConfig
from mri_ambient.training.loop import train
from mri_ambient.training.run import RunFolder

WEIGHTS = Path(__file__).parents[2] / "mri_ambient" / "priors" / "weights"

MIXTURE = {"random": 0.55, "equispaced": 0.15, "gaussian": 0.1, "poisson": 0.2}
"""Kinds of mask among the training scans; a Poisson disc needs R = 1.8 or more."""

LINES = {"random": 0.7, "equispaced": 0.2, "gaussian": 0.1}
"""Those of less acceleration."""


class Share(Pictures):
    """The pictures of an archive whose place in the list, modulo 20, lies in a range."""

    def __init__(self, path: Path, first: int, end: int) -> None:
        super().__init__(path)
        self.first, self.end = first, end

    def __reduce__(self) -> tuple[Any, ...]:
        return (Share, (self.path, self.first, self.end))

    def names(self, count: int | None, n_slices: int) -> list[str]:
        """These alone."""
        names = sorted(super().names(count, n_slices))
        return [name for i, name in enumerate(names) if self.first <= i % 20 < self.end]


@dataclass(frozen=True)
class Part:
    """Scans of one kind.

    Attributes:
        scans: how they are simulated.
        share: which pictures they show, see :class:`Share`; None for phantoms.
        count: how many; None for all of the share.
    """

    scans: SimulateConfig
    share: tuple[int, int] | None = None
    count: int | None = None

    def source(self, images: Path) -> ImageSource:
        """What is scanned."""
        return open_images("phantom") if self.share is None else Share(images, *self.share)


def _scans(
    size: tuple[int, int],
    calib: int,
    acceleration: tuple[float, float],
    coils: tuple[int, int],
    seed: int,
    partial_fourier: tuple[float, float] = (1.0, 1.0),
) -> SimulateConfig:
    """Scans as clinics make them: other coils, noise, positions, shadings from scan to scan."""
    kinds = MIXTURE if acceleration[0] >= 1.8 else LINES
    return SimulateConfig(
        size=size, coils=coils, mask=kinds, acceleration=acceleration, calib=calib,
        noise=(0.0005, 0.1), jitter=True, rotation=15.0, bias=0.2,
        partial_fourier=partial_fourier, seed=seed,
    )  # fmt: skip


PARTIAL = (0.6, 1.0)
"""Share of the columns that scans with partial Fourier acquire."""

COARSE = {
    "wide64": Part(_scans((64, 64), 8, (1.8, 4.5), (1, 12), 31), share=(0, 8)),
    "partial64": Part(_scans((64, 64), 8, (1.55, 4.0), (4, 12), 32, PARTIAL), share=(8, 10)),
}
FINE = {
    "wide96": Part(_scans((96, 96), 10, (1.8, 6.0), (8, 32), 33), share=(10, 12)),
    "wide128": Part(_scans((128, 128), 12, (2.0, 8.0), (1, 16), 34), share=(12, 15)),
    "partial128": Part(_scans((128, 128), 12, (1.55, 6.0), (4, 16), 35, PARTIAL), share=(15, 16)),
    "wide192": Part(_scans((192, 160), 16, (2.0, 8.0), (4, 16), 36), share=(16, 18)),
    "wide256": Part(_scans((256, 256), 20, (2.0, 8.0), (4, 12), 37), share=(18, 19)),
    "wide320": Part(_scans((320, 264), 24, (2.0, 8.0), (4, 12), 38), share=(19, 20)),
    "phantom": Part(_scans((96, 96), 12, (1.8, 6.0), (4, 9), 39), count=160),
}
"""Training scans; the demo's seed is none of these (tests/cli/test_demo.py)."""

SCANS = {"coarse": COARSE, "all": COARSE | FINE}
"""By stage."""

CONFIG = TrainConfig(
    objective=Kspace(law=LogNormal(mean=-3.2, std=1.8)),
    preset="tiny16-momentum",
    precision="bf16",
    batch_size=4,
    n_validation=24,
    check_every=1000,
    save_every=200,
)
"""More small noise levels than EDM's law has: one step is taken at the noise of the scan."""


@dataclass(frozen=True)
class Stage:
    """A part of the training.

    Attributes:
        scans: which, a key of :data:`SCANS`.
        images: how many are seen.
        config: options.
    """

    scans: str
    images: int
    config: TrainConfig = CONFIG


def _ending(scans: str, images: int, preset: str, learning_rate: float) -> Stage:
    """A stage with a learning rate that falls to 0."""
    falling = replace(
        CONFIG, preset=preset, learning_rate=learning_rate, warmup_images=200,
        decay_images=10**8, cooldown_images=images - 200, end_images=images,
    )  # fmt: skip
    return Stage(scans, images, falling)


DEEP = "tiny16-momentum-6"
"""Preset of the last stages."""

STAGES = {
    "coarse": Stage("coarse", 20000),
    "all": Stage("all", 16600, replace(CONFIG, learning_rate=6e-4, decay_images=3000)),
    "calm": _ending("all", 1600, "tiny16-momentum", 2.6e-4),
    "deep": _ending("coarse", 2200, DEEP, 3e-4),
    "last": _ending("all", 4000, DEEP, 3e-4),
}
"""In this order; the first learn faster than six passes would."""


DATA = (
    "multi-coil scans simulated from magnitude images: T1 post-contrast brain slices of J. Cheng "
    "et al., figshare 1512427 (CC BY 4.0); T1/T2/FLAIR slices of the open_ms_data longitudinal set "
    "of Z. Lesjak et al., University of Ljubljana (CC BY); procedural head phantoms"
)
"""What the shipped prior's card says of its data."""


def ship(prior: Prior) -> None:
    """Put a prior into the package, in half precision, with cards for programs and for people."""
    before = sum(stage.images for stage in STAGES.values()) - prior.facts.card["images_seen"]
    card = prior.facts.card | {"data": DATA, "images_seen_before": before}
    shipped = replace(prior, facts=replace(prior.facts, card=card))
    save_prior(shipped, WEIGHTS / f"{DEFAULT}.safetensors", half=True)
    (WEIGHTS / f"{DEFAULT}.md").write_text(card_of(shipped))


def card_of(prior: Prior) -> str:
    """The card beside the weights, which are there already, for people."""
    card = prior.facts.card
    low, middle, high = card["sigma_n"]
    file = WEIGHTS / f"{DEFAULT}.safetensors"
    command = "train_default_prior.py IMAGES.zip WORK --ship"
    seen, before = card["images_seen"], card["images_seen_before"]
    data = textwrap.fill(
        f"{card['data'][0].upper()}{card['data'][1:]}.", 100, initial_indent=" " * 19
    )
    judged = textwrap.fill(
        f"Its error on held-out measured lines, {card['held_out']['held_out']:.3f} (CG-SENSE: "
        f"{card['held_out']['held_out_cg_sense']:.3f}), is that of scans it was not trained on; "
        "other slices of the same patients may have been.", 100,
    )  # fmt: skip
    return f"""# {DEFAULT}

A prior for `mri-ambient reconstruct`, trained on **undersampled scans only**.

| | |
|---|---|
| objective | `{prior.facts.objective}`, denoiser `{prior.facts.kind}` |
| sigma_data | {prior.facts.sigma_data:.3f} |
| smallest trained sigma | {prior.facts.sigma_min:.4f} |
| tau | {prior.facts.tau:.3f} |
| sha256 | `{file_sha256(file)}` |
| scans | {card["n_scans"]}, R = {card["acceleration"][0]:.1f} to {card["acceleration"][-1]:.1f} |
| noise of the scans | {low:.4f} to {high:.4f}, median {middle:.4f} |
| all of the card | `mri-ambient info {DEFAULT}` |
| made by | `python tests/benchmarks/{command}` |
| images seen | {before} before the last stage, then {seen} of all sizes |

**Training data.** {data.strip()}
One scan per image, under one mask; no fully sampled scan took part.
{judged}

**Intended use.** Research: Cartesian brain scans with several coils. Not for diagnosis.

**Limits.** Simulated coils, phase and noise; magnitude images of 8 bits; brains only. It completes
measurements: images drawn from it alone (`mri-ambient sample`) are no heads.
"""


def main() -> None:
    """Simulate, prepare, train, and ship on request."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("images", nargs="?", type=Path)
    parser.add_argument("work", type=Path, nargs="?")
    parser.add_argument("--time-limit", default="1000h", help="of training, for this call")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--ship", action="store_true")
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    args.end = time.monotonic() + parse_seconds(args.time_limit)
    if args.quick:
        with tempfile.TemporaryDirectory() as folder:
            args.device, args.images, args.work = "cpu", Path(), Path(folder)
            scans = {"coarse": {"phantom": replace(FINE["phantom"], count=6)}}
            config = replace(CONFIG, precision="fp32", n_validation=1)
            first = make(args, "coarse", Stage("coarse", 8, config), scans, None)
            deep = Stage("coarse", 4, replace(config, preset=DEEP))
            make(args, "deep", deep, scans, first)
        return
    if args.images is None or args.work is None:
        parser.error("IMAGES and WORK are needed without --quick")
    prior = None
    for name, stage in STAGES.items():
        prior = make(args, name, stage, SCANS, prior)
        if prior.facts.card["images_seen"] < stage.images:
            print(f"out of time in stage {name}; the same command goes on")
            return
    if args.ship:
        ship(prior)


def make(
    args: argparse.Namespace,
    name: str,
    stage: Stage,
    scans: dict[str, dict[str, Part]],
    init: Prior | None,
) -> Prior:
    """Simulate, prepare and train what is not done; each goes on where it was."""
    run, prepared = args.work / f"run-{name}", args.work / "prepared" / stage.scans
    if RunFolder(run).prior.exists():
        prior = load_prior(run)  # its file holds a date: the next stage hangs on this very one
        if prior.facts.card["images_seen"] == stage.images:
            return prior
    raw: list[Path] = []
    for kind, part in scans[stage.scans].items():
        raw += simulate(
            part.source(args.images), args.work / "raw" / kind, part.scans,
            count=part.count, workers=args.workers,
        )  # fmt: skip
        print(f"{name}: simulated {kind}, {len(raw)} scans so far", flush=True)
    print(prepare(raw, prepared, workers=args.workers).line(), flush=True)
    train(
        prepared,
        run,
        stage.config,
        images=stage.images,
        time_limit=f"{max(args.end - time.monotonic(), 1):.0f}s",
        init=init,
        runtime=Runtime(args.device),
        on_progress=_show,
    )
    return load_prior(run)


def _show(progress: Progress) -> None:
    if progress.validation:
        rate = f"{progress.images_per_second:.2f}/s"
        print(progress.images, rate, progress.validation, flush=True)


if __name__ == "__main__":
    main()
