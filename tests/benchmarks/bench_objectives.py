"""Every way to learn a prior, side by side: the same network, scans, budget, seeds and samplers.

    python tests/benchmarks/bench_objectives.py TRAIN.zip VAL.zip WORK [--scan SCAN.h5] [--images N]

simulates one undersampled scan of every training image (one mask an image) at R = 4 and 8, with
little and with much noise, prepares them, and trains a prior by every objective, and by ``kspace``
with its ingredients left out one at a time; ``refit`` goes on from ``kspace``. ``supervised``,
``ambient``, ``gsure``, ``refit`` and "kspace, plain network" have the same single network;
``kspace`` and ``ssdu`` have three of them with data consistency in between, and take several times
as long for an image (parameters and seconds are in every row). Only ``supervised`` is given fully
sampled scans of the same images. Every prior reconstructs simulated scans of validation images,
against the noise-free RSS image inside the support, and the real scan at R = 4 and 8, by one step
with data consistency (mask-conditioned priors) and by one sample and the mean of four of ``dds``
(which does not end with data consistency); classical methods stand beside. Prints one JSON line a
prior and writes WORK/results.json; what is done is not done again, so that it can be run in parts
(``--only NAME``, ``--hours H``). Scans of 256 x 256 want a GPU (``--setting R4-noisy-256``).
``--table RESULTS.json`` prints such a file as Markdown and stops.

``--quick`` runs two objectives on phantoms in seconds and says nothing about quality.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scoring import Case, case_of, difference

from mri_ambient.data_prep import MANIFEST, SimulateConfig, prepare, simulate
from mri_ambient.data_prep.simulation.images import open_images
from mri_ambient.methods import Aos, CgSense, Dds, L1Wavelet, Method, Sampler, ZeroFilled
from mri_ambient.objectives import Ambient, Gsure, Kspace, Objective, Ssdu, Supervised
from mri_ambient.physics.mask_spec import MaskSpec
from mri_ambient.priors.checkpoint import load_prior
from mri_ambient.priors.prior import Prior
from mri_ambient.priors.unet import n_parameters
from mri_ambient.recon.engine import Engine, to_file_units
from mri_ambient.recon.metrics import volume_metrics
from mri_ambient.recon.pipeline import reconstruct
from mri_ambient.recon.recipe import Recipe
from mri_ambient.rng import rng_for
from mri_ambient.runtime.device import Runtime
from mri_ambient.runtime.files import write_json
from mri_ambient.training.config import TrainConfig, TrainJob
from mri_ambient.training.loop import run_training
from mri_ambient.training.preflight import plan
from mri_ambient.training.refit import RefitJob, refit

Row = dict[str, Any]
"""Figures of a prior and a method."""

DATA_SEED, VAL_SEED = 31, 32
NOISE = {"clean": 0.0005, "noisy": 0.025}
"""Noise per real channel in units of the object's maximum; about twice that in normalised units."""


@dataclass(frozen=True)
class Way:
    """One way to learn a prior.

    Attributes:
        objective: with its options.
        wrapper: of the network, if not the objective's own.
        refit: whether two rounds of refit follow.
        everywhere: whether it is tried on all data sets, or on R = 4 with noise alone.
    """

    objective: Objective
    wrapper: str | None = None
    refit: bool = False
    everywhere: bool = True


WAYS = {
    "supervised": Way(Supervised()),
    "supervised by L1-wavelet": Way(Supervised(images="l1-wavelet")),
    "ambient": Way(Ambient()),
    "kspace, plain network": Way(Kspace(), wrapper="plain"),
    "kspace": Way(Kspace()),
    "gsure": Way(Gsure()),
    "ssdu": Way(Ssdu()),
    "kspace + refit": Way(Kspace(), refit=True),
    "kspace, noise in the image": Way(Kspace(noise_domain="image"), everywhere=False),
    "kspace, no noise correction": Way(Kspace(noise_correction=False), everywhere=False),
    "kspace, no weights": Way(Kspace(weights=False), everywhere=False),
    "kspace, weights up to 100": Way(Kspace(max_unseen=100.0), everywhere=False),
    "kspace, frozen masks": Way(Kspace(fresh_masks=False), everywhere=False),
    "kspace, no CG-SENSE image": Way(Kspace(), wrapper="unguided", everywhere=False),
    "kspace, no data consistency": Way(Kspace(), wrapper="inconsistent", everywhere=False),
}


@dataclass(frozen=True)
class Setting:
    """One data set: how its scans are simulated.

    Attributes:
        rate: acceleration.
        noise: a key of ``NOISE``.
        size: rows and columns.
        calib: calibration lines.
        n_scans: training scans.
        n_images: images each prior sees.
    """

    rate: float
    noise: str
    size: int = 64
    calib: int = 8
    n_scans: int = 2400
    n_images: int = 8000

    @property
    def name(self) -> str:
        """Folder name."""
        size = f"-{self.size}" if self in LARGE else ""
        return f"R{self.rate:g}-{self.noise}{size}"

    def scans(self, *, full: bool, seed: int) -> SimulateConfig:
        """Its simulation; full and undersampled scans of one seed show the same objects."""
        return SimulateConfig(
            size=(self.size, self.size), coils=6, acceleration=self.rate, calib=self.calib,
            noise=NOISE[self.noise], jitter=True, full=full, seed=seed,
        )  # fmt: skip


SETTINGS = [
    Setting(4.0, "noisy"),
    Setting(4.0, "clean"),
    Setting(8.0, "noisy", size=96, n_scans=1200, n_images=4000),
    Setting(8.0, "clean", size=96, n_scans=1200, n_images=4000),
]
"""At R = 8 larger: of 64 lines eight are measured, all of them for calibration."""

LARGE = [
    Setting(rate, "noisy", size=256, calib=20, n_scans=2400, n_images=24000) for rate in (4.0, 8.0)
]
"""For a GPU: only where they are named."""


def prepared(args: argparse.Namespace, setting: Setting, *, full: bool) -> Path:
    """The training scans of a setting."""
    name = setting.name + ("-full" if full else "")
    folder = args.work / "prepared" / name
    if (folder / MANIFEST).exists():
        return folder
    raw = simulate(
        args.train, args.work / "raw" / name, setting.scans(full=full, seed=DATA_SEED),
        count=setting.n_scans,
    )  # fmt: skip
    prepare(raw, folder)
    return folder


def learn(args: argparse.Namespace, setting: Setting, name: str) -> Prior:
    """Train one prior, or load what was trained."""
    way = WAYS[name]
    run = args.work / "runs" / setting.name / name.replace(" ", "-").replace(",", "")
    images = args.images or setting.n_images
    config = TrainConfig(
        objective=way.objective, wrapper=way.wrapper, preset=args.preset, precision=args.precision,
        check_every=images, n_validation=1 if args.quick else 16,
    )  # fmt: skip
    folder = prepared(args, setting, full=way.objective.needs_full)
    base = args.work / "runs" / setting.name / "kspace" if way.refit else run
    common = {"config": config, "device": args.where, "images": images}
    if (run / "prior.safetensors").exists() and load_prior(run).facts.card["images_seen"] == images:
        return load_prior(run, args.where)
    run_training(plan(TrainJob(folder, base, **common)))
    if not way.refit:
        return load_prior(run, args.where)
    start = load_prior(base, args.where)
    done = refit(RefitJob(folder, start, run, rounds=2, sampler=dds(args), **common))
    assert done is not None
    return done


def cases_of(args: argparse.Namespace, setting: Setting, folder: Path) -> list[Case]:
    """Simulated scans of validation images."""
    source = open_images(str(args.val))
    names = source.names(args.cases, 1)
    names = sorted(names, key=lambda name: rng_for(VAL_SEED, name).initial_seed())[: args.cases]
    config = setting.scans(full=False, seed=VAL_SEED)
    return [case_of(source, name, config, folder) for name in names]


N_SAMPLES = 4
"""Samples of a stochastic sampler; their mean is scored, and each on its own."""


def dds(args: argparse.Namespace) -> Dds:
    """How samples are drawn: by every prior in the same way."""
    return Dds(n_steps=args.steps, final_dc=False)


def samplers_for(prior: Prior, args: argparse.Namespace) -> dict[str, Sampler]:
    """The methods that suit a prior."""
    facts = prior.facts
    found: dict[str, Sampler] = {}
    if facts.mask_conditioned or facts.noise_filled:
        found["aos"] = Aos()
    if not facts.one_level:
        found["dds, mean of 4"] = dds(args)
    return found


def score(args: argparse.Namespace, cases: list[Case], method: Method, prior: Prior | None) -> Row:
    """PSNR inside the support, SSIM and NMSE of the whole image: means, and every case's PSNR."""
    rows = []
    recipe = Recipe(method, prior=prior, n_samples=N_SAMPLES).resolve()
    engine = Engine(recipe, Runtime(args.where, batch_size=N_SAMPLES))
    for case in cases:
        (result,) = engine([case.scan])
        ours = to_file_units(result.img.abs(), case.scan)
        metrics = volume_metrics(case.truth[None].numpy(), ours.numpy())
        row = {"psnr": case.psnr(result.img[0]), "ssim": metrics["ssim"], "nmse": metrics["nmse"]}
        if result.samples is not None:
            row["psnr_one"] = float(np.mean([case.psnr(img[0]) for img in result.samples]))
        rows.append(row)
    means = {key: round(float(np.mean([row[key] for row in rows])), 4) for key in rows[0]}
    return means | {"psnr_each": [round(row["psnr"], 3) for row in rows]}


def score_real(args: argparse.Namespace, method: Method, prior: Prior | None) -> Row:
    """Against SENSE on the real scan, R = 4 and 8: a figure for every mask, for samples one.

    (Samples of a scan of this size take minutes on a CPU.)
    """
    if args.scan is None:
        return {}
    found: Row = {}
    for rate, calib in ((4.0, 20), (8.0, 12)):
        scores = []
        for seed in range(1 if isinstance(method, Dds) else args.seeds):
            recipe = Recipe(
                method, prior=prior, seed=seed, n_samples=N_SAMPLES,
                retrospective=MaskSpec("random", rate, calib),
            )  # fmt: skip
            report = reconstruct(args.scan, recipe, Runtime(args.where)).report
            scores.append(report["metrics_sense"])
        for name in ("psnr", "ssim", "nmse"):
            found[f"real_{name}_R{rate:g}"] = [round(metrics[name], 4) for metrics in scores]
    return found


def rows_of(args: argparse.Namespace, results: dict[str, Row]) -> Iterator[str]:
    """Fill ``results`` one row at a time, and name each when it is there."""
    with tempfile.TemporaryDirectory() as scratch:
        for setting in args.settings:
            cases = cases_of(args, setting, Path(scratch) / setting.name)
            for method in (ZeroFilled(), CgSense(), L1Wavelet()):
                key = f"{setting.name} | {method.name}"
                if key not in results:
                    results[key] = score(args, cases, method, None) | score_real(args, method, None)
                    yield key
            for name, way in WAYS.items():
                skipped = not way.everywhere and setting.name != SETTINGS[0].name and not args.quick
                if skipped or (args.only and name not in args.only):
                    continue
                if any(key.startswith(f"{setting.name} | {name} | ") for key in results):
                    continue
                began = time.monotonic()
                prior = learn(args, setting, name)
                facts = {
                    "parameters": n_parameters(prior.net),
                    "seconds": round(time.monotonic() - began),  # of this call: 0 if it was there
                }
                for label, method in samplers_for(prior, args).items():
                    key = f"{setting.name} | {name} | {label}"
                    row = facts | score(args, cases, method, prior)
                    results[key] = row | score_real(args, method, prior)
                    yield key


HEAD = (
    "prior", "parameters", "one step + DC", "one sample of dds", "mean of 4", "one/mean",
    "difference to kspace", "SSIM", "NMSE", "real R = 4: PSNR, SSIM, NMSE", "real R = 8",
)  # fmt: skip


def best_of(results: dict[str, Row], setting: Setting, name: str) -> Row:
    """The row of a prior's better method."""
    keys = [f"{setting.name} | {name}{label}" for label in ("", " | aos", " | dds, mean of 4")]
    rows = [results[key] for key in keys if key in results]
    return max(rows, key=lambda row: row["psnr"]) if rows else {}


def of_real_scan(row: Row, rate: str) -> str:
    """PSNR, SSIM and NMSE under the first mask; of an earlier version's rows PSNR of all masks."""
    psnr = row.get(f"real_psnr_{rate}")
    if not isinstance(psnr, list):
        return "" if psnr is None else f"{psnr:.1f}"
    ssim, nmse = (row[f"real_{name}_{rate}"][0] for name in ("ssim", "nmse"))
    return f"{psnr[0]:.2f}, {ssim:.3f}, {nmse:.4f}"


def table(results: dict[str, Row]) -> Iterator[str]:
    """Markdown: a table a setting, a line a prior; after one/mean, all is of the better method.

    The real scan's figures are those of its first mask, which every row has.
    """
    for setting in SETTINGS + LARGE:
        rows = {key: row for key, row in results.items() if key.startswith(f"{setting.name} | ")}
        if not rows:
            continue
        yield f"\n**{setting.name}**\n"
        yield f"| {' | '.join(HEAD)} |"
        yield "|---" * len(HEAD) + "|"
        kspace = best_of(results, setting, "kspace")
        for name in dict.fromkeys(key.split(" | ")[1] for key in rows):
            step = rows.get(f"{setting.name} | {name} | aos", {})
            drawn = rows.get(f"{setting.name} | {name} | dds, mean of 4", {})
            plainly = rows.get(f"{setting.name} | {name}", {})
            best = best_of(results, setting, name)
            numbers = [
                f"{best['parameters'] / 1e6:.2f} M" if "parameters" in best else "",
                *(f"{row['psnr']:.2f}" if row else "" for row in (step or plainly,)),
                f"{drawn['psnr_one']:.2f}" if drawn else "",
                f"{drawn['psnr']:.2f}" if drawn else "",
                f"{10 ** ((drawn['psnr'] - drawn['psnr_one']) / 10):.2f}" if drawn else "",
                difference(best, kspace),
                f"{best['ssim']:.3f}",
                f"{best['nmse']:.4f}",
                *(of_real_scan(best, rate) for rate in ("R4", "R8")),
            ]
            yield f"| {' | '.join([name, *numbers])} |"


def main() -> None:
    """Learn, score, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("train", nargs="?", default="phantom")
    parser.add_argument("val", nargs="?", default="phantom")
    parser.add_argument("work", nargs="?", type=Path)
    parser.add_argument("--scan", type=Path, default=None)
    parser.add_argument("--images", type=int, help="images each prior sees, unlike the setting's")
    parser.add_argument("--cases", type=int, default=12, help="validation scans")
    parser.add_argument("--seeds", type=int, default=3, help="masks of the real scan")
    parser.add_argument("--steps", type=int, default=30, help="of dds")
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--only", action="append", help="only these ways")
    parser.add_argument("--setting", action="append", help="only these data sets, as R4-noisy")
    parser.add_argument("--hours", type=float, default=1e9, help="start nothing after this")
    parser.add_argument("--table", type=Path, help="results to print, as Markdown")
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    if args.table is not None:
        print(*table(json.loads(args.table.read_text())), sep="\n")
        return
    chosen = args.setting or [setting.name for setting in SETTINGS]
    args.settings = [setting for setting in SETTINGS + LARGE if setting.name in chosen]
    if args.quick:
        args.work = Path(tempfile.mkdtemp())
        args.device, args.cases, args.steps = "cpu", 1, 3
        args.settings = [Setting(2.0, "noisy", size=32, n_scans=3, n_images=8)]
        args.only = args.only or ["kspace + refit", "gsure"]
    elif args.work is None:
        parser.error("TRAIN, VAL and WORK are needed without --quick")
    args.where = Runtime(args.device).torch_device
    started = time.monotonic()
    path = args.work / "results.json"
    results = json.loads(path.read_text()) if path.exists() else {}
    for key in rows_of(args, results):
        print(json.dumps({"benchmark": "objectives", "row": key, **results[key]}), flush=True)
        write_json(path, results)
        if time.monotonic() - started > 3600 * args.hours:
            break


if __name__ == "__main__":
    main()
