"""What adapting the prior to a scan is worth: PSNR over steps and seconds, and where it is nothing.

    python tests/benchmarks/bench_adapt.py VAL.zip WORK [--real SCAN ...] [--only TEXT]

Simulated scans differ from the prior's training in contrast, anatomy, coils, noise, rate or mask
(``CASES``); they are made of pictures of patients that the prior was not trained on, and of
photographs of scikit-image. Fully sampled real scans are undersampled by random lines at the rates
of ``RATES``; others are taken as they are and judged by their held-out samples alone. PSNR in dB of
the reconstruction by all measured lines is against RSS: of the same scan without noise where it is
simulated, of the scan itself where it is real. ``start`` is the prior as it ships; ``adapted`` what
``--adapt auto`` (or ``--until``) gives; ``curve`` the averaged weights at every check, kept or not:
steps, CPU seconds (without the PSNRs), error on held-out lines, PSNR.

``--method dds`` scores another method's images by the same priors (those of a sampler are means of
its samples), at the start and at every check.

``trade`` compares, for several scans of one kind, adaptation to every scan and to all together.
``--moves norms`` adapts norms and last layers alone, ``--moves low-rank`` adds matrices of low rank
to the convolutions (Hu et al. 2021, arXiv 2106.09685), with ``--rate`` for Adam.

Prints a JSON line per case and writes WORK/adapt.json; what is there is not done again.
``--table RESULTS.json`` prints such a file as Markdown, with mean gains and gains over seconds and
steps, and stops. ``--quick`` runs a phantom for a few steps and says nothing about quality.
"""

from __future__ import annotations

import argparse
import io
import json
import tempfile
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage
from torch import Tensor, nn
from torch.nn.utils.parametrize import register_parametrization

from mri_ambient.data_prep import SimulateConfig, simulate
from mri_ambient.io import open_scan
from mri_ambient.methods import METHODS
from mri_ambient.physics.mask_spec import MaskSpec
from mri_ambient.priors.checkpoint import load_prior
from mri_ambient.priors.prior import Prior
from mri_ambient.priors.weights import DEFAULT
from mri_ambient.recon.adaptation import evenly_spaced
from mri_ambient.recon.adapted import slices_to_learn
from mri_ambient.recon.engine import Engine, to_file_units
from mri_ambient.recon.metrics import volume_metrics
from mri_ambient.recon.pipeline import open_volume
from mri_ambient.recon.recipe import Recipe, ResolvedRecipe
from mri_ambient.recon.reference import rss_volume
from mri_ambient.recon.volume import Volume
from mri_ambient.rng import rng_for
from mri_ambient.runtime.device import Runtime
from mri_ambient.runtime.files import write_json
from mri_ambient.runtime.process_group import ProcessGroup
from mri_ambient.training.adapt import AdaptConfig
from mri_ambient.training.adapt_scans import adapt
from mri_ambient.training.adapter import Adapter, AdaptProgress
from mri_ambient.training.trainer import Trainer

CPU = Runtime("cpu")

RATES = (2.0, 4.0, 8.0)
"""Of the masks of fully sampled real scans."""


@dataclass(frozen=True)
class Case:
    """Simulated scans of one kind, and the mask they are reconstructed under.

    ``pictures`` are "T1ce", "FLAIR", "inverted" (T1ce with its contrast reversed inside the head),
    "photo", or "scanned" (the RSS of a real scan); ``which`` of them is scanned, counted among
    every fifth picture of the archive, or among the fully sampled real scans.
    """

    pictures: str
    which: int = 0
    size: tuple[int, int] = (128, 128)
    coils: int = 8
    noise: float = 0.01
    kind: str = "random"
    rate: float = 4.0
    calib: int = 20

    @property
    def name(self) -> str:
        """All of it in words."""
        return (
            f"{self.pictures} {self.which}, {self.size[0]} x {self.size[1]}, {self.coils} coils, "
            f"noise {self.noise:g}, {self.kind} R = {self.rate:g}"
        )


CASES = (
    Case("photo", 1),
    Case("inverted", 8),
    Case("FLAIR", 3),
    Case("T1ce", 4),
    Case("scanned"),
    Case("inverted", 5),
    Case("photo"),
    Case("FLAIR", 2),
    Case("T1ce", 9),
    Case("inverted", 12, coils=4, noise=0.02),
    Case("T1ce", 13, size=(96, 96), coils=16, noise=0.005),
    Case("inverted", 5, rate=8.0, calib=12),
    Case("inverted", 5, kind="equispaced"),
    Case("T1ce", 2, noise=0.05),
    Case("inverted", 5, rate=2.0),
    Case("inverted", 5, kind="poisson"),
    Case("FLAIR", 2, size=(256, 256)),
)

TOGETHER = tuple(Case("inverted", which) for which in (2, 8, 12))
"""The scans of the trade between adaptation to each and to all together."""


def picture(args: argparse.Namespace, case: Case) -> NDArray[np.uint8]:
    """The picture of a case."""
    if case.pictures == "photo":
        return photo(("camera", "coins", "moon")[case.which])
    if case.pictures == "scanned":
        return scanned(args.real[case.which])
    contrast = "T1ce" if case.pictures == "inverted" else case.pictures
    with zipfile.ZipFile(args.archive) as images:
        index = next(name for name in images.namelist() if name.endswith("index.csv"))
        rows = [row.split(",") for row in images.read(index).decode().splitlines()[1:]]
        names = [row[0] for row in rows[::5] if row[2] == contrast]
        (path,) = (n for n in images.namelist() if n.endswith(names[case.which]))
        img = np.asarray(Image.open(io.BytesIO(images.read(path))).convert("L"))
    return inverted(img) if case.pictures == "inverted" else img


def inverted(img: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Dark tissue becomes bright inside the head, whose outside stays dark."""
    closed = ndimage.binary_closing(img > 20, iterations=3)
    head = ndimage.binary_fill_holes(closed)
    return np.where(head, (230 - 0.9 * img.astype(float)).clip(0), 0).astype(np.uint8)


def photo(name: str) -> NDArray[np.uint8]:
    """A photograph of scikit-image in a dark frame."""
    from skimage import data

    img = np.asarray(Image.fromarray(getattr(data, name)()).convert("L").resize((256, 256)))
    y, x = np.mgrid[-1:1:256j, -1:1:256j]
    return np.where(x**2 + y**2 < 0.9, img, 0).astype(np.uint8)


def scanned(path: Path) -> NDArray[np.uint8]:
    """The RSS of a fully sampled real scan, in the middle of 256 x 256 pixels."""
    rss = rss_volume(open_scan(path)).numpy()[0]
    margins = [((256 - n) // 2, 256 - n - (256 - n) // 2) for n in rss.shape]
    img = np.pad(rss / np.percentile(rss, 99.9) * 235, margins).clip(0, 255)
    return img.astype(np.uint8)


@dataclass(frozen=True)
class Full:
    """A fully sampled scan, and the one without noise that it is compared with, if there is one."""

    path: Path
    clean: Path | None = None


def scan_of(args: argparse.Namespace, case: Case) -> Full:
    """The simulated, fully sampled scan of a case."""
    work = args.work
    name = f"{case.pictures}-{case.which}-{case.size[0]}-{case.coils}-{case.noise:g}"
    folder = work / "pictures" / name
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture(args, case)).save(folder / f"{name}.png")
    config = SimulateConfig(
        size=case.size, coils=case.coils, noise=case.noise, full=True, jitter=True, seed=5
    )
    (path,) = simulate(folder, work / "scans", config)
    (clean,) = simulate(folder, work / "clean", replace(config, noise=0.0))
    return Full(path, clean)


class Scored:
    """A volume, with its PSNR by a prior (None if there is no reference)."""

    def __init__(self, full: Full, recipe: ResolvedRecipe) -> None:
        self.volume: Volume = open_volume(full.path, recipe, CPU)
        self.truth = None if full.clean is None else rss_volume(open_scan(full.clean)).numpy()
        self.scans = [self.volume.preparation.apply(scan) for scan in self.volume.file]
        self.recipe = replace(recipe, adapt=None)

    def psnr(self, prior: Prior) -> float | None:
        """Of the reconstruction by all measured lines."""
        if self.truth is None and self.volume.reference is None:
            return None
        engine = Engine(replace(self.recipe, prior=prior), CPU)
        images = [to_file_units(engine([scan])[0].img, scan).abs() for scan in self.scans]
        if self.truth is not None:
            return float(volume_metrics(self.truth, torch.cat(images).numpy())["psnr"])
        return float(self.volume.reference.score(torch.cat(images))["metrics"]["psnr"])


RANK = 4
"""Of the matrices that ``--moves low-rank`` adds."""


class LowRank(nn.Module):
    """Adds the product of two thin matrices, zero at first, to the weights of a convolution."""

    def __init__(self, weight: Tensor, rng: torch.Generator) -> None:
        super().__init__()
        n_out, n_in = len(weight), weight[0].numel()
        self.up = nn.Parameter(torch.zeros(n_out, RANK))
        self.down = nn.Parameter(torch.randn(RANK, n_in, generator=rng) / n_in**0.5)

    def forward(self, weight: Tensor) -> Tensor:
        return weight + (self.up @ self.down).reshape(weight.shape)


def limit(net: nn.Module, moves: str) -> None:
    """Let only part of the parameters of a network move."""
    net.requires_grad_(False)
    for name, module in list(net.named_modules()):
        if moves == "low-rank" and isinstance(module, nn.Conv2d):
            register_parametrization(module, "weight", LowRank(module.weight, rng_for(0, name)))
        last = name.rpartition(".")[2] == "last"
        if moves == "norms" and (last or isinstance(module, nn.GroupNorm)):
            module.requires_grad_(True)


def measure(
    full: Full, recipe: ResolvedRecipe, config: AdaptConfig, moves: str = "all"
) -> dict[str, Any]:
    """PSNR and error on held-out lines while the prior is adapted."""
    scored, prior = Scored(full, recipe), recipe.prior
    assert isinstance(prior, Prior)
    adapter = Adapter(prior, config.rules(prior, recipe.seed, "auto"), CPU, {})
    if moves != "all":
        limit(adapter.trainer.net, moves)
        adapter.trainer = Trainer(adapter.trainer.net, adapter.rules.train, ProcessGroup.current())
    curve: list[list[float | None]] = []
    psnr = {0: scored.psnr(prior)}
    spent, began = 0.0, time.process_time()

    def show(progress: AdaptProgress) -> None:
        nonlocal spent
        if adapter.curve[-1][0] != progress.step:
            return
        paused = time.process_time()
        psnr[progress.step] = scored.psnr(replace(prior, net=adapter.trainer.average))
        seconds = round(paused - began - spent, 1)
        curve.append([progress.step, seconds, progress.error, psnr[progress.step]])
        spent += time.process_time() - paused

    chosen = evenly_spaced(len(scored.volume.file), config.n_slices)
    adapter(lambda: slices_to_learn(scored.volume, chosen), show)
    report = adapter.report()
    return {
        "acceleration": scored.volume.file.acceleration,
        "start": psnr[0],
        "adapted": psnr[adapter.best_step],
        "until": str(config.until),
        "cpu_seconds": curve[-1][1] if curve else 0.0,
        **{k: report[k] for k in ("kept", "kept_step", "steps", "held_out_before")},
        "held_out_after": report["held_out_after"],
        "curve": curve,
    }


def trade(scans: list[Full], recipe: ResolvedRecipe, config: AdaptConfig) -> dict[str, Any]:
    """PSNR of every scan by the start, by a prior for each scan, and by one for all."""
    assert isinstance(recipe.prior, Prior)
    scored, paths = [Scored(full, recipe) for full in scans], [full.path for full in scans]
    with_config = replace(recipe, adapt=config)
    began = time.process_time()
    single = [adapt(path, with_config, CPU) for path in paths]
    middle = time.process_time()
    shared = adapt(paths, with_config, CPU)
    ended = time.process_time()
    return {
        "start": [one.psnr(recipe.prior) for one in scored],
        "each": [one.psnr(prior) for one, prior in zip(scored, single, strict=True)],
        "together": [one.psnr(shared) for one in scored],
        "cpu_seconds_each": round(middle - began, 1),
        "cpu_seconds_together": round(ended - middle, 1),
        "steps_each": [prior.card["adaptation"]["steps"] for prior in single],
        "steps_together": shared.card["adaptation"]["steps"],
    }


def cases(args: argparse.Namespace, prior: Prior) -> Iterator[tuple[str, Full, ResolvedRecipe]]:
    """Name, scan and recipe of every case."""
    for case in QUICK if args.quick else CASES:
        if args.only in case.name and (case.pictures != "scanned" or args.real):
            recipe = recipe_of(prior, case.kind, case.rate, case.calib, args.seed, args.method)
            yield case.name, scan_of(args, case), recipe
    for path in args.real:
        full = open_volume(path, recipe_of(prior), CPU).file.fully_sampled
        for rate in RATES if full else (None,):
            name = path.stem if rate is None else f"{path.stem}, random R = {rate:g}"
            calib = 12 if rate == 8 else 20
            recipe = recipe_of(prior, "random", rate, calib, args.seed, args.method)
            yield name, Full(path), recipe


QUICK = (Case("photo", size=(32, 32), coils=3, rate=2.0, calib=8),)


def recipe_of(
    prior: Prior,
    kind: str = "random",
    rate: float | None = None,
    calib: int = 20,
    seed: int = 1,
    method: str = "aos",
) -> ResolvedRecipe:
    mask = None if rate is None else MaskSpec(kind, rate, calib)
    return Recipe(method, prior=prior, retrospective=mask, seed=seed).resolve()


def table(results: dict[str, Any]) -> str:
    """The results as Markdown."""
    lines = [
        "| scan | start | adapted | gain | error on held-out lines | steps (kept) | CPU s |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, row in results.items():
        if "curve" not in row or "moves" in row:
            continue
        start, adapted = row["start"], row["adapted"]
        shown = ["", "", ""] if start is None else [f"{start:.2f}", f"{adapted:.2f}"]
        if start is not None:
            shown.append(f"{adapted - start:+.2f}")
        error = f"{row['held_out_before']:.4f} -> {row['held_out_after']:.4f}"
        if row.get("until", "auto") != "auto":
            name += f", until {row['until']}"
        steps = f"{row['steps']} ({row['kept_step']})"
        lines.append(
            "| " + " | ".join([name, *shown, error, steps, f"{row['cpu_seconds']}"]) + " |"
        )
    return "\n".join(lines)


def means(results: dict[str, Any]) -> str:
    """Mean gains (dB) at R = 4 under random lines, of real scans and of simulated ones."""
    lines = []
    real, simulated = groups(results)
    heads = {name: row for name, row in real.items() if name.startswith(HEADS)}
    seen = {name: row for name, row in simulated.items() if name.startswith(CHOSEN_ON)}
    new = {name: row for name, row in simulated.items() if name not in seen}
    for name, group in {
        "real": real, "real heads": heads, "simulated": simulated,
        "simulated, choices were made on": seen, "simulated, others": new,
    }.items():  # fmt: skip
        mean = np.mean([row["adapted"] - row["start"] for row in group.values()] or [np.nan])
        lines.append(f"{name}, R = 4: {mean:.2f} dB, {len(group)} scans and masks")
    simulated = list(simulated.values())
    for k in range(4):
        each = [r["curve"][min(k, len(r["curve"]) - 1)][-1] - r["start"] for r in simulated]
        lines.append(f"after {10 * k + 10} steps for all: {np.mean(each or [np.nan]):.2f} dB")
    return "\n".join(lines)


CHOSEN_ON = (
    "photo 0", "photo 1", "inverted 5", "inverted 8", "inverted 12", "FLAIR 2", "T1ce 9", "T1ce 13",
)  # fmt: skip
"""Scans that choices of the method were made on; one of them is a real one, espirit_brain8."""

HEADS = ("espirit_brain8", "alias_brain8", "matlab_t1_sagittal")
"""Real scans of heads."""


def groups(results: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The rows at R = 4 under random lines, of the method and training that ship: real, simulated.

    Of the real ones both masks; simulations by others are left out.
    """
    rows = {
        name: row
        for name, row in results.items()
        if "random R = 4" in name and not {"moves", "method"} & row.keys()
    }
    real = {n: r for n, r in rows.items() if "noise" not in n and "simulated" not in n}
    simulated = {n: r for n, r in rows.items() if "noise" in n and "seed" not in n}
    return real, simulated


def gain_within(row: dict[str, Any], seconds: float) -> float:
    """Gain (dB) of the average with the smallest error so far, if stopped after CPU seconds.

    0 while it is larger than that of the start, and where the start was kept in the end.
    """
    if row["kept"] == "start":
        return 0.0
    start = [0, 0.0, row["held_out_before"], row["start"]]
    so_far = [start, *(point for point in row["curve"] if point[1] <= seconds)]
    return float(min(so_far, key=lambda point: point[2])[3] - row["start"])


def within(results: dict[str, Any]) -> str:
    """Gains after so many CPU seconds as Markdown: mean and worst over the scans."""
    real, simulated = (list(group.values()) for group in groups(results))
    lines = ["| stopped after | real scans: mean | worst | simulated: mean | worst |"]
    lines.append("|---|---|---|---|---|")
    for seconds in (20, 30, 60, np.inf):
        found = [[gain_within(row, seconds) for row in group] for group in (real, simulated)]
        cells = [f"{f(gains or [np.nan]):+.2f}" for gains in found for f in (np.mean, np.min)]
        name = "`auto`" if seconds == np.inf else f"{seconds} CPU s"
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


SHOWN = (10, 20, 30, 50, 80, 120, 150)
"""Steps in the table of gains."""


def over_steps(results: dict[str, Any]) -> str:
    """Gains (dB) of the averages over steps as Markdown, whether they are kept or not."""
    usual = ", random R = 4", ", 128 x 128, 8 coils", ", noise 0.01"
    what = f"random R = 4; simulated{''.join(usual[1:])} unless stated"
    lines = [f"| {what} | {' | '.join(map(str, SHOWN))} | kept |"]
    lines.append("|---" * (len(SHOWN) + 2) + "|")
    for group in groups(results):
        for name, row in group.items():
            psnr = {step: value - row["start"] for step, _, _, value in row["curve"]}
            cells = [f"{psnr[step]:+.2f}" if step in psnr else "" for step in SHOWN]
            kept = f"{row['adapted'] - row['start']:+.2f} ({row['kept_step']})"
            for words in usual:
                name = name.replace(words, "")
            lines.append(f"| {name} | {' | '.join(cells)} | {kept} |")
    return "\n".join(lines)


def moves_table(results: dict[str, Any]) -> str:
    """What moves, as Markdown: the gain at every check, in dB, and CPU seconds a step."""
    lines = ["| scan | what moves | rate | gain (dB) after every 10 steps | CPU s a step |"]
    lines.append("|---|---|---|---|---|")
    for row in results.values():
        if "moves" in row:
            gains = " / ".join(f"{psnr - row['start']:.2f}" for *_, psnr in row["curve"])
            seconds = row["cpu_seconds"] / row["steps"]
            cells = (row["scan"], row["moves"], f"{row['rate']:g}", gains, f"{seconds:.2f}")
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("archive", nargs="?", type=Path)
    parser.add_argument("work", nargs="?", type=Path)
    parser.add_argument("--real", nargs="*", type=Path, default=[])
    parser.add_argument("--only", default="")
    parser.add_argument("--until", default="auto")
    parser.add_argument("--prior", default=DEFAULT)
    parser.add_argument("--seed", type=int, default=1, help="of mask and adaptation")
    parser.add_argument("--method", choices=[n for n, m in METHODS.items() if m.needs_prior],
                        default="aos")  # fmt: skip
    parser.add_argument("--moves", choices=("all", "norms", "low-rank"))
    parser.add_argument("--rate", type=float, default=AdaptConfig.learning_rate)
    parser.add_argument("--table", type=Path)
    parser.add_argument("--quick", action="store_true")
    return parser.parse_args()


def run(args: argparse.Namespace) -> None:
    """Every case that is not in the results yet."""
    config = AdaptConfig(1, check_every=1) if args.quick else AdaptConfig(args.until)
    config = replace(config, learning_rate=args.rate)
    prior = load_prior("brain-kspace-wide" if args.quick else args.prior)  # of half the time
    path = args.work / "adapt.json"
    results = json.loads(path.read_text()) if path.exists() else {}
    for name, scan, recipe in cases(args, prior):
        scan_name = name
        if args.seed != 1:
            name = f"{name}, seed {args.seed}"
        if args.method != "aos":
            name = f"{name}, {args.method}"
        if args.moves:
            name = f"{name}, {args.moves}, rate {args.rate:g}"
        if args.only in name and name not in results:
            results[name] = measure(scan, recipe, config, args.moves or "all")
            if args.method != "aos":
                results[name]["method"] = args.method
            if args.moves:
                results[name] |= {"scan": scan_name, "moves": args.moves, "rate": args.rate}
            print(json.dumps({name: results[name]}), flush=True)
            write_json(path, results)
    if args.only in "trade" and "trade" not in results:
        together = [replace(QUICK[0], which=k) for k in (0, 1)] if args.quick else TOGETHER
        scans = [scan_of(args, case) for case in together]
        results["trade"] = trade(scans, recipe_of(prior, "random", together[0].rate,
                                                  together[0].calib), config)  # fmt: skip
        print(json.dumps({"trade": results["trade"]}), flush=True)
        write_json(path, results)


def main() -> None:
    args = arguments()
    torch.set_num_threads(1)
    if args.table:
        results = json.loads(args.table.read_text())
        shown = (table, moves_table, means, within, over_steps)
        print(*(make(results) for make in shown), sep="\n\n")
    elif args.quick:
        with tempfile.TemporaryDirectory() as folder:
            args.work = Path(folder)
            run(args)
    else:
        run(args)


if __name__ == "__main__":
    main()
