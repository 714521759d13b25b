"""The presets, A-DPS and classical methods on the same scans, simulated and real: which to use.

    python tests/benchmarks/bench_presets.py VAL.zip WORK [--scan SCAN.h5 ...]

Simulated scans are those of ``bench_samplers.py`` (``--count`` for every noise level). Fully
sampled real scans are undersampled by random lines at every rate of ``RATES`` and scored against
SENSE; others are taken as they are and have no PSNR. Each method, with the number of samples of its
preset, gives PSNR (dB) and SSIM of the image, network evaluations and seconds per image. A second
reconstruction, from all but two measured lines, shows how it predicts these: the energy of the
error over that of the measurement, and, for samples, the share of held-out measurements in the
central 50 and 90 % predictive intervals and chi-square, as ``mri-ambient evaluate`` does. Prints
one JSON line per scan and method and writes WORK/presets.json; what is there is not done again.
``--table RESULTS.json`` prints such a file as Markdown and stops.

``--quick`` runs one phantom with few steps and says nothing about quality.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from bench_adps import simulate
from scoring import Case, commit

from mri_ambient.data_prep import plan_preparation
from mri_ambient.io import Undersampled, open_scan
from mri_ambient.methods import PRESETS, Adps, CgSense, L1Wavelet, Preset, ZeroFilled
from mri_ambient.physics.mask_spec import MaskSpec
from mri_ambient.priors.checkpoint import load_prior
from mri_ambient.priors.prior import Prior
from mri_ambient.priors.weights import default_prior
from mri_ambient.recon.engine import Engine, SliceImages, to_file_units
from mri_ambient.recon.held_out import predict_held_out
from mri_ambient.recon.metrics import evaluate_volume, volume_metrics
from mri_ambient.recon.recipe import ResolvedRecipe
from mri_ambient.recon.reference import Reference
from mri_ambient.runtime.device import Runtime, pick_device
from mri_ambient.runtime.files import write_json
from mri_ambient.scan import Scan
from mri_ambient.training.adapter import weights_sha256

Row = dict[str, float]
Score = Callable[[SliceImages], Row]
"""Scores of an image; of prospective scans, none."""

CLASSICAL = {"zero-filled": ZeroFilled(), "CG-SENSE": CgSense(), "L1-wavelet": L1Wavelet()}
METHODS = {name: Preset(method, 1) for name, method in CLASSICAL.items()}
METHODS |= PRESETS | {"A-DPS, 500 steps": Preset(Adps(n_steps=500), 1)}

RATES = ((2.0, 20), (4.0, 20), (8.0, 12))
"""Rates and calibration lines of the masks of fully sampled real scans."""

N_HELD_OUT = 2
"""Lines that are held out."""


@dataclass(frozen=True)
class Scored:
    """A prepared scan, and how its images are scored."""

    scan: Scan
    score: Score


def simulated(args: argparse.Namespace, folder: Path) -> list[Scored]:
    """Scans whose noise-free images are known."""

    def of(case: Case) -> Scored:
        def score(result: SliceImages) -> Row:
            ours = to_file_units(result.img.abs(), case.scan)
            ssim = volume_metrics(case.truth[None].numpy(), ours.numpy())["ssim"]
            return {"psnr": case.psnr(result.img[0]), "ssim": ssim}

        return Scored(case.scan, score)

    cases = simulate(args.images, args.count, folder, quick=args.quick)
    return [of(case) for case in cases]


def real(path: Path, args: argparse.Namespace) -> dict[str, list[Scored]]:
    """The first slice of a real scan; if fully sampled, under ``--seeds`` masks of every rate."""
    full = open_scan(path)
    if not full.fully_sampled:
        scan = plan_preparation(full).apply(full[0:1])
        return {f"{path.stem}, R = {full.acceleration:.1f}": [Scored(scan, lambda _: {})]}
    truth = Reference(full, plan_preparation(full)).volumes()["sense"][0].numpy()

    def under(mask: MaskSpec, seed: int) -> Scored:
        file = Undersampled(full, mask, seed)
        scan = plan_preparation(file).apply(file[0:1])

        def against_sense(result: SliceImages) -> Row:
            ours = to_file_units(result.img.abs(), scan)
            metrics = evaluate_volume(ours.numpy(), truth[None], reference="sense")
            return {"psnr": metrics.psnr, "ssim": metrics.ssim}

        return Scored(scan, against_sense)

    return {
        f"{path.stem}, R = {rate:g}": [
            under(MaskSpec("random", rate, calib), seed) for seed in range(args.seeds)
        ]
        for rate, calib in RATES
    }


def evaluate(scans: list[Scored], preset: Preset, prior: Prior, runtime: Runtime) -> Row:
    """Means over scans."""
    method, n = preset.method, preset.n_samples
    recipe = ResolvedRecipe(method, prior if method.needs_prior else None, n_samples=n)
    engine = Engine(recipe, replace(runtime, batch_size=n))
    rows = []
    for one in scans:
        started = time.perf_counter()
        (result,) = engine([one.scan])
        row = {"seconds": time.perf_counter() - started, **one.score(result)}
        rows.append(row | predict_held_out(engine, one.scan, N_HELD_OUT)[0])
    names = list(rows[0])
    return {name: round(float(np.mean([row[name] for row in rows])), 4) for name in names}


COLUMNS = {
    "evaluations": ("evaluations", "d"), "s": ("seconds", ".1f"), "PSNR": ("psnr", ".2f"),
    "SSIM": ("ssim", ".3f"), "error on held-out lines": ("error", ".3f"),
    "in 50 %": ("coverage_50", ".0%"), "in 90 %": ("coverage_90", ".0%"),
    "chi-square": ("chi_square", ".2f"),
}  # fmt: skip


def table(results: dict[str, Row]) -> Iterator[str]:
    """Markdown: a line per scan and method."""
    yield f"| scan | method | {' | '.join(COLUMNS)} |"
    yield "|---" * (len(COLUMNS) + 2) + "|"
    for scan in dict.fromkeys(key.split(" | ")[0] for key in results):
        for key, row in results.items():
            if key.startswith(f"{scan} | "):
                values = [
                    format(row[name], as_) if name in row else "" for name, as_ in COLUMNS.values()
                ]
                yield f"| {key} | {' | '.join(values)} |"
    yield f"\nCommits: {', '.join(sorted({row['commit'] for row in results.values()}))}"


def main() -> None:
    """Reconstruct, score, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("images", nargs="?", default="phantom")
    parser.add_argument("work", nargs="?", type=Path)
    parser.add_argument("--count", type=int, default=4, help="simulated scans per noise level")
    parser.add_argument("--scan", type=Path, action="append", default=[], help="real scans")
    parser.add_argument("--seeds", type=int, default=1, help="masks of real scans at every rate")
    parser.add_argument("--only", action="append", help="only these methods")
    parser.add_argument("--prior", type=Path)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--table", type=Path, help="results to print, as Markdown")
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    if args.table is not None:
        print(*table(json.loads(args.table.read_text())), sep="\n")
        return
    methods = {
        name: preset for name, preset in METHODS.items() if not args.only or name in args.only
    }
    if args.quick:
        args.count, args.work = 1, Path(tempfile.mkdtemp())
        methods = {
            name: Preset(replace(preset.method, n_steps=2), n_samples=2)
            for name, preset in methods.items()
            if name in ("balanced", "A-DPS, 500 steps")
        }
    elif args.work is None:
        parser.error("VAL and WORK are needed without --quick")
    runtime = Runtime(pick_device(args.device))
    prior = load_prior(args.prior or default_prior(), runtime.torch_device)
    made_with = {"weights": weights_sha256(prior.net), "count": args.count, "seeds": args.seeds}
    path = args.work / "presets.json"
    results = json.loads(path.read_text()) if path.exists() else {}
    with tempfile.TemporaryDirectory() as folder:
        scans = {"simulated, R = 4": simulated(args, Path(folder))}
        for scan in args.scan:
            scans |= real(scan, args)
        for name, preset in methods.items():
            for scan_name, scored in scans.items():
                key = f"{scan_name} | {name}"
                if key in results and made_with.items() <= results[key].items():
                    continue
                row = evaluate(scored, preset, prior, runtime)
                if preset.method.needs_prior:
                    row["evaluations"] = preset.n_samples * preset.method.n_evaluations
                results[key] = row | made_with | {"scans": len(scored), "commit": commit()}
                print(json.dumps({"row": key, **results[key]}), flush=True)
                write_json(path, results)


if __name__ == "__main__":
    main()
