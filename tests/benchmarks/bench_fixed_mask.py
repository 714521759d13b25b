"""Training where every scan has the same mask, as one protocol gives: what can be learned there.

    python tests/benchmarks/bench_fixed_mask.py TRAIN.zip VAL.zip WORK [--images N] [--only NAME]

simulates fully sampled scans of training images, keeps the samples of one equispaced mask of R = 4
in all of them (``supervised`` keeps everything), and trains a prior by each of ``WAYS``, with the
same network and number of images. Every prior reconstructs simulated scans of validation images
under the same mask in one step; PSNR is against the noise-free RSS image inside the support.
Classical methods stand beside, and the prior that ships, which saw other masks. Some priors are
also adapted to each of the validation scans, and to all of them together, as by ``--adapt auto``.

Prints a JSON line a prior and writes WORK/results.json; what is there is not done again.
``--table RESULTS.json`` prints such a file as Markdown. ``--quick`` trains on phantoms for seconds
and says nothing about quality.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import h5py
import numpy as np
import torch
from scoring import Case, difference

from mri_ambient.data_prep import MANIFEST, SimulateConfig, plan_preparation, prepare
from mri_ambient.data_prep.simulation.files import write_scan
from mri_ambient.data_prep.simulation.images import ImageSource, open_images
from mri_ambient.data_prep.simulation.scan_model import ScanModel
from mri_ambient.io import open_scan
from mri_ambient.methods import Aos, CgSense, L1Wavelet, Method, ZeroFilled
from mri_ambient.objectives import Equivariant, Kspace, Objective, Ssdu
from mri_ambient.objectives.base import Loss, abs2, per_pixel
from mri_ambient.physics.crop import center_crop
from mri_ambient.physics.fourier import ifft2c
from mri_ambient.physics.mask_spec import MaskSpec
from mri_ambient.priors.checkpoint import load_prior
from mri_ambient.priors.denoisers import Denoiser
from mri_ambient.priors.prior import Prior
from mri_ambient.priors.schedules import MIN_SIGMA
from mri_ambient.priors.weights import default_prior
from mri_ambient.recon.engine import Engine
from mri_ambient.recon.recipe import Recipe
from mri_ambient.rng import Streams, rng_for
from mri_ambient.runtime.device import Runtime
from mri_ambient.runtime.files import write_json
from mri_ambient.scan import Batch
from mri_ambient.training.adapt import AdaptConfig
from mri_ambient.training.adapt_scans import adapt
from mri_ambient.training.config import TrainConfig, TrainJob
from mri_ambient.training.loop import run_training
from mri_ambient.training.preflight import plan

Row = dict[str, Any]

MASK = MaskSpec("equispaced", 4.0, calib=8)
SCANS = SimulateConfig(size=(64, 64), coils=6, noise=0.005, jitter=True, full=True, seed=41)
VAL_SEED = 42


@dataclass(frozen=True)
class SupervisedAtMask(Objective):
    """The true image is the target, the samples of the one mask the input: the upper bound."""

    name: ClassVar[str] = "supervised at the mask"
    wrapper: ClassVar[str] = "conditioned"
    mask_conditioned: ClassVar[bool] = True
    one_level: ClassVar[bool] = True
    needs_full: ClassVar[bool] = True

    def __call__(self, net: Denoiser, batch: Batch, rng: Streams) -> Loss:
        """Squared error of the reconstruction."""
        seen = torch.from_numpy(the_mask()).expand_as(batch.mask)
        y, sigma = batch.measured, batch.noise_std.clamp(min=MIN_SIGMA)
        img = net(batch.op.with_mask(seen), torch.where(seen, y, 0), sigma)
        loss = per_pixel(abs2(batch.op.expand(img) - y)).mean() / net.sigma_data**2
        return Loss(loss, {})


WAYS: dict[str, Objective] = {
    "supervised": SupervisedAtMask(),
    "ssdu": Ssdu(),
    "kspace": Kspace(),
    "equivariant, ssdu": Equivariant(Ssdu()),
    "equivariant, kspace": Equivariant(Kspace()),
    "equivariant, ssdu, 15 degrees": Equivariant(Ssdu(), rotation=15.0),
    "equivariant, ssdu, shifts alone": Equivariant(Ssdu(), rotation=0.0),
    "equivariant, ssdu, weight 0.3": Equivariant(Ssdu(), weight=0.3),
    "equivariant, ssdu, weight 3": Equivariant(Ssdu(), weight=3.0),
}


ADAPTED = (default_prior().stem, "equivariant, ssdu")
"""Priors that are adapted to the validation scans too."""


def the_mask() -> Any:
    """The mask of all scans, bool ``(x,)``."""
    mask = MASK.draw(SCANS.size, rng_for(SCANS.seed, "mask"))
    return mask[0, 0].numpy()


def keep_mask(path: Path) -> None:
    """Make an undersampled scan of a fully sampled one."""
    lines = the_mask()
    with h5py.File(path, "r+") as file:
        ksp = file["kspace"][:] * lines
        del file["kspace"], file["reconstruction_rss"]
        file.create_dataset("kspace", data=ksp)
        file["mask"] = lines


def scan_of(source: ImageSource, name: str, config: SimulateConfig, path: Path) -> ScanModel:
    """Simulate one fully sampled scan."""
    anatomy = source.read(name, config.size, 1, rng_for(config.seed, name, "object"))
    model = ScanModel(anatomy, config, name)
    write_scan(model, path)
    return model


def prepared(args: argparse.Namespace, *, full: bool) -> Path:
    """The training scans."""
    folder = args.work / "prepared" / ("full" if full else "fixed")
    if (folder / MANIFEST).exists():
        return folder
    raw = args.work / "raw" / folder.name
    raw.mkdir(parents=True, exist_ok=True)
    source = open_images(args.train)
    paths = []
    for name in source.names(args.scans, 1)[: args.scans]:
        paths.append(raw / f"{name}.h5")
        scan_of(source, name, SCANS, paths[-1])
        if not full:
            keep_mask(paths[-1])
    prepare(paths, folder)
    return folder


def cases_of(args: argparse.Namespace, folder: Path) -> list[Case]:
    """Simulated scans of validation images."""
    folder.mkdir(parents=True, exist_ok=True)
    source, config = open_images(args.val), replace(SCANS, seed=VAL_SEED)
    cases = []
    for name in source.names(args.cases, 1)[: args.cases]:
        path = folder / f"{name}.h5"
        model = scan_of(source, name, config, path)
        keep_mask(path)
        file = open_scan(path)
        rss = ifft2c(config.units * model.clean(0)).abs().square().sum(dim=0).sqrt()
        scan = plan_preparation(file).apply(file[0])
        cases.append(Case(scan, center_crop(rss, file.recon_shape)))
    return cases


def learn(args: argparse.Namespace, name: str) -> tuple[Prior, float]:
    """A prior and the CPU seconds of this call; the prior that ships is read."""
    if name == default_prior().stem:
        return load_prior(name), 0.0
    run = args.work / "runs" / name.replace(" ", "-").replace(",", "")
    config = TrainConfig(
        objective=WAYS[name], preset=args.preset, precision=args.precision,
        check_every=args.images, n_validation=1 if args.quick else 16,
        batch_size=2 if args.quick else 8,
    )  # fmt: skip
    began = time.process_time()
    folder = prepared(args, full=WAYS[name].needs_full)
    run_training(plan(TrainJob(folder, run, config, images=args.images, force=True)))
    return load_prior(run), time.process_time() - began


def adapted(
    args: argparse.Namespace, start: Prior, parts: list[list[Path]]
) -> tuple[Row, list[Prior]]:
    """A prior for every part of the scans, and the CPU seconds."""
    recipe = Recipe(Aos(), prior=start, adapt=AdaptConfig(1 if args.quick else "auto"))
    began = time.process_time()
    priors = [adapt(part, recipe, Runtime("cpu")) for part in parts]
    return {"cpu_s": round(time.process_time() - began)}, priors


def score(cases: list[Case], method: Method, priors: Sequence[Prior | None]) -> Row:
    """Mean PSNR and that of every case, with one prior for all or one for each."""
    engines = [Engine(Recipe(method, prior=prior).resolve(), Runtime("cpu")) for prior in priors]
    pairs = zip(cases, engines if len(priors) > 1 else engines * len(cases), strict=True)
    each = [case.psnr(engine([case.scan])[0].img[0]) for case, engine in pairs]
    return {"psnr": round(float(np.mean(each)), 3), "psnr_each": [round(x, 3) for x in each]}


def rows_of(args: argparse.Namespace, results: dict[str, Row]) -> Iterator[str]:
    """Fill ``results`` one row at a time, and name each when it is there."""
    with tempfile.TemporaryDirectory() as scratch:
        cases = cases_of(args, Path(scratch))
        for method in (ZeroFilled(), CgSense(), L1Wavelet()):
            if method.name not in results:
                results[method.name] = score(cases, method, [None])
                yield method.name
        paths = [Path(scratch) / f"{case.scan.scan_id}.h5" for case in cases]
        parts = {"each": [[path] for path in paths], "all": [paths]}
        trained = [name for name in WAYS if name in (args.only or WAYS)]
        for name in (default_prior().stem, *trained):
            prior = None
            if name not in results:
                prior, spent = learn(args, name)
                row = {"cpu_s": round(spent)} if spent else {}
                results[name] = row | score(cases, Aos(), [prior])
                yield name
            for way in parts if name in ADAPTED else ():
                if (key := f"{name}, adapted to {way}") not in results:
                    start = prior or learn(args, name)[0]
                    row, priors = adapted(args, start, parts[way])
                    results[key] = row | score(cases, Aos(), priors)
                    yield key


def table(results: dict[str, Row]) -> Iterator[str]:
    """Markdown, with the difference to CG-SENSE and its standard error over the scans."""
    yield "| learned by | PSNR (dB) | over CG-SENSE | CPU s |"
    yield "|---|---|---|---|"
    for name, row in sorted(results.items(), key=lambda item: item[1]["psnr"]):
        over = difference(row, results["cg-sense"])
        yield f"| {name} | {row['psnr']:.2f} | {over} | {row.get('cpu_s', '')} |"


def main() -> None:
    """Learn, score, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("train", nargs="?", default="phantom")
    parser.add_argument("val", nargs="?", default="phantom")
    parser.add_argument("work", nargs="?", type=Path)
    parser.add_argument("--images", type=int, default=4000, help="images each prior sees")
    parser.add_argument("--scans", type=int, default=1000, help="training scans")
    parser.add_argument("--cases", type=int, default=24, help="validation scans")
    parser.add_argument("--preset", default="tiny16")
    parser.add_argument("--precision", default="bf16")
    parser.add_argument("--only", action="append", help="only these ways")
    parser.add_argument("--table", type=Path, help="results to print, as Markdown")
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    if args.table is not None:
        print(*table(json.loads(args.table.read_text())), sep="\n")
        return
    if args.quick:
        args.work = Path(tempfile.mkdtemp())
        args.images, args.scans, args.cases = 2, 2, 1
        args.only, args.precision = ["equivariant, kspace"], "fp32"
    elif args.work is None:
        parser.error("TRAIN, VAL and WORK are needed without --quick")
    path = args.work / "results.json"
    results = json.loads(path.read_text()) if path.exists() else {}
    for key in rows_of(args, results):
        print(json.dumps({"benchmark": "fixed_mask", "row": key, **results[key]}), flush=True)
        write_json(path, results)


if __name__ == "__main__":
    main()
