"""Make the prior that ships with the package, from magnitude images, in resumable stages.

    python tests/benchmarks/train_default_prior.py IMAGES.zip WORK --time-limit 2h [--ship]

simulates undersampled multi-coil scans (of the images, and of phantoms of the kind the demo shows,
under other seeds), prepares them, and trains the ``kspace`` objective on
them. Every image is scanned once, under one mask; no fully sampled scan is ever made. Run it again
to train on: every stage skips what is done. ``--ship`` writes the prior, in half precision, into
``mri_ambient/weights`` with a card. ``--quick`` runs all of it in seconds on phantoms alone.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import torch

from mri_ambient.checkpoint import load_prior, save_prior
from mri_ambient.cli.common import parse_seconds
from mri_ambient.data_prep import SimulateConfig, prepare_many, simulate_scans
from mri_ambient.device import pick_device
from mri_ambient.noise import LogNormal
from mri_ambient.objectives import Kspace
from mri_ambient.prior import Prior
from mri_ambient.train import Progress, TrainConfig, train
from mri_ambient.weights import DEFAULT

WEIGHTS = Path(__file__).parents[2] / "mri_ambient" / "weights"

MIXTURE = {"random": 0.75, "equispaced": 0.1, "poisson": 0.15}
"""Kinds of mask among the training scans."""

PARTS = {
    "images": SimulateConfig(
        size=(128, 128), coils=(6, 10), mask=MIXTURE, acceleration=(3.0, 7.0), calib=14,
        noise=(0.001, 0.008), jitter=True, seed=11,
    ),
    "phantom": SimulateConfig(
        size=(96, 96), coils=(5, 8), mask=MIXTURE, acceleration=(3.0, 6.0), calib=12,
        noise=(0.001, 0.01), jitter=True, seed=13,
    ),
}  # fmt: skip
"""Training scans; the demo's seed is none of these (tests/cli/test_demo.py)."""

CONFIG = TrainConfig(
    objective=Kspace(law=LogNormal(mean=-2.2, std=1.3)),
    batch_size=4,
    warmup_images=200,
    decay_images=4000,
    n_validation=24,
    check_every=1000,
    save_every=1000,
)


def simulate(images: str, work: Path, counts: dict[str, int], workers: int) -> list[Path]:
    """Every part into a folder of its own."""
    scans = []
    for part, count in counts.items():
        source = "phantom" if part == "phantom" else images
        folder = work / "raw" / part
        scans += simulate_scans(source, folder, PARTS[part], count=count, workers=workers)
        print(f"simulated {part}: {count} scans", flush=True)
    return scans


def card_of(prior: Prior) -> str:
    """The card beside the weights, for people."""
    facts = {key: value for key, value in prior.facts.card.items() if key != "sha256"}
    return f"""# {DEFAULT}

A prior for `mri-ambient reconstruct`, trained on **undersampled scans only**.

| | |
|---|---|
| objective | `{prior.facts.objective}`, denoiser `{prior.facts.kind}` |
| sigma_data | {prior.facts.sigma_data:.3f} |
| smallest trained sigma | {prior.facts.sigma_min:.4f} |
| tau | {prior.facts.tau:.3f} |
| facts | `{json.dumps(facts)}` |
| made by | `python tests/benchmarks/train_default_prior.py IMAGES.zip WORK --ship` |

**Training data.** Multi-coil scans simulated from magnitude images: T1 post-contrast brain slices
of J. Cheng et al., figshare 1512427 (CC BY 4.0), and T1/T2/FLAIR slices of the open_ms_data
longitudinal set of Z. Lesjak et al., University of Ljubljana (CC BY); and procedural head phantoms.
One scan per image, under one mask; no fully sampled scan took part.

**Intended use.** Research: Cartesian brain scans with several coils. Not for diagnosis.

**Limits.** Simulated coils, phase and noise; magnitude images of 8 bits; brains only.
"""


def main() -> None:
    """Simulate, prepare, train, and ship on request."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("images", nargs="?")
    parser.add_argument("work", type=Path, nargs="?")
    parser.add_argument("--time-limit", default="1h")
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--ship", action="store_true")
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    if args.quick:
        import tempfile

        with tempfile.TemporaryDirectory() as folder:
            make("phantom", Path(folder), {"phantom": 6}, args, images=8)
        return
    if args.images is None or args.work is None:
        parser.error("IMAGES and WORK are needed without --quick")
    prior = make(args.images, args.work, {"images": 1800, "phantom": 300}, args)
    if args.ship:
        save_prior(prior, WEIGHTS / f"{DEFAULT}.safetensors", half=True)
        (WEIGHTS / f"{DEFAULT}.md").write_text(card_of(prior))


def make(
    images_from: str,
    work: Path,
    counts: dict[str, int],
    args: argparse.Namespace,
    images: int | None = None,
) -> Prior:
    """The stages, each of which goes on where it was."""
    scans = simulate(images_from, work, counts, args.workers)
    summary = prepare_many(scans, work / "prepared", workers=args.workers)
    print(summary.line(), flush=True)
    config = replace(CONFIG, preset=args.preset)

    def show(progress: Progress) -> None:
        if progress.validation:
            print(
                progress.images,
                f"{progress.images_per_second:.2f}/s",
                progress.validation,
                flush=True,
            )

    device = torch.device("cpu") if args.quick else pick_device(args.device)
    limit = None if images else parse_seconds(args.time_limit)
    train(
        work / "prepared", work / "run", config, images=images, time_limit_s=limit, device=device,
        on_progress=show,
    )  # fmt: skip
    return load_prior(work / "run")


if __name__ == "__main__":
    main()
