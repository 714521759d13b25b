"""The presets, A-DPS and classical methods on the same scans, simulated and real: which to use.

    python tests/benchmarks/bench_presets.py VAL.zip WORK [--scan SCAN.h5 ...]

Simulated scans are those of ``bench_samplers.py`` (``--count`` for every noise level). Fully
sampled real scans are undersampled by random lines at every rate of ``RATES`` and scored against
SENSE; others are taken as they are and have no PSNR. Each method, with the number of samples that
its preset names, gives PSNR (dB) and SSIM of the image, network evaluations and seconds an image. A
second reconstruction, from all but two measured lines, tells how it predicts these: the energy of
the error over that of the measurement, and, for samples, the share of hidden measurements in the
central 50 and 90 % predictive intervals and chi-square, as ``mri-ambient evaluate`` does. Prints
one JSON line a scan and method and writes WORK/presets.json; what is there is not done again.
``--table RESULTS.json`` prints such a file as Markdown and stops.

``--quick`` runs one phantom with few steps and says nothing about quality.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from bench_adps import simulate
from tune_baselines import Case

from mri_ambient.data_prep import plan_preparation
from mri_ambient.io import Undersampled, open_scan
from mri_ambient.methods import Adps
from mri_ambient.methods.baselines import CgSense, L1Wavelet, ZeroFilled
from mri_ambient.methods.presets import SAMPLINGS, Sampling, is_sampler
from mri_ambient.physics.masks import MaskSpec
from mri_ambient.priors.checkpoint import load_prior
from mri_ambient.priors.prior import Prior
from mri_ambient.priors.weights import default_prior
from mri_ambient.recon.checks import predict_hidden
from mri_ambient.recon.engine import Options, Reconstruction, reconstruct, to_file_units
from mri_ambient.recon.metrics import evaluate_volume, volume_metrics
from mri_ambient.recon.reference import plan_reference
from mri_ambient.runtime.device import pick_device
from mri_ambient.runtime.files import write_json
from mri_ambient.scan import Scan

Row = dict[str, float]
Score = Callable[[Reconstruction], Row]
"""What is known of an image: of prospective scans, nothing."""

CLASSICAL = {"zero-filled": ZeroFilled(), "CG-SENSE": CgSense(), "L1-wavelet": L1Wavelet()}
METHODS = {name: Sampling(method, 1) for name, method in CLASSICAL.items()}
METHODS |= SAMPLINGS | {"A-DPS, 500 steps": Sampling(Adps(n_steps=500), 1)}

RATES = ((2.0, 20), (4.0, 20), (8.0, 12))
"""Rates and calibration lines of the masks of fully sampled real scans."""

N_HIDDEN = 2


@dataclass(frozen=True)
class Judged:
    """A prepared scan, and what its images are compared with."""

    scan: Scan
    score: Score


def simulated(args: argparse.Namespace, folder: Path) -> list[Judged]:
    """Scans whose noise-free images are known."""

    def of(case: Case) -> Judged:
        def score(result: Reconstruction) -> Row:
            ours = to_file_units(result.img.abs(), case.scan)
            ssim = volume_metrics(case.truth[None].numpy(), ours.numpy())["ssim"]
            return {"psnr": case.psnr(result.img[0]), "ssim": ssim}

        return Judged(case.scan, score)

    return [of(case) for case in simulate(args.images, args.count, folder)]


def real(path: Path, args: argparse.Namespace) -> dict[str, list[Judged]]:
    """The first slice of a real scan, under ``--seeds`` masks of every rate if it is whole."""
    full = open_scan(path)
    if not full.fully_sampled:
        scan = plan_preparation(full).apply(full[0:1])
        return {f"{path.stem}, R = {full.acceleration:.1f}": [Judged(scan, lambda _: {})]}
    reference = plan_reference(full)
    assert reference is not None
    truth = reference.volumes()["sense"][0].numpy()

    def under(mask: MaskSpec, seed: int) -> Judged:
        file = Undersampled(full, mask, seed)
        scan = plan_preparation(file).apply(file[0:1])

        def against_sense(result: Reconstruction) -> Row:
            ours = to_file_units(result.img.abs(), scan)
            metrics = evaluate_volume(ours.numpy(), truth[None], reference="sense")
            return {"psnr": metrics.psnr, "ssim": metrics.ssim}

        return Judged(scan, against_sense)

    return {
        f"{path.stem}, R = {rate:g}": [
            under(MaskSpec("random", rate, calib), seed) for seed in range(args.seeds)
        ]
        for rate, calib in RATES
    }


def judge(judged: list[Judged], how: Sampling, prior: Prior, device: str) -> Row:
    """Means over scans."""
    n = how.n_samples
    rows = []
    for one in judged:
        options = Options(n_samples=n, batch_size=n, device=device)
        started = time.perf_counter()
        result = reconstruct(one.scan, how.method, prior, options)
        row = {"seconds": time.perf_counter() - started, **one.score(result)}
        rows.append(row | predict_hidden(one.scan, how.method, prior, options, N_HIDDEN)[0])
    names = list(rows[0])
    return {name: round(float(np.mean([row[name] for row in rows])), 4) for name in names}


def weights_sha256(prior: Prior) -> str:
    """Hash of the network's weights: a card may be added to."""
    found = hashlib.sha256()
    for name, tensor in sorted(prior.net.state_dict().items()):
        found.update(name.encode())
        found.update(tensor.cpu().contiguous().numpy().tobytes())
    return found.hexdigest()


def commit() -> str:
    """The commit this script is of; empty outside a repository."""
    words = ("git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD")
    return subprocess.run(words, capture_output=True, text=True, check=False).stdout.strip()


COLUMNS = {
    "evaluations": ("evaluations", "d"), "s": ("seconds", ".1f"), "PSNR": ("psnr", ".2f"),
    "SSIM": ("ssim", ".3f"), "error on hidden lines": ("error", ".3f"),
    "in 50 %": ("coverage_50", ".0%"), "in 90 %": ("coverage_90", ".0%"),
    "chi-square": ("chi_square", ".2f"),
}  # fmt: skip


def table(results: dict[str, Row]) -> Iterator[str]:
    """Markdown: a line a scan and method."""
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
    """Reconstruct, judge, print."""
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
    methods = {name: how for name, how in METHODS.items() if not args.only or name in args.only}
    if args.quick:
        args.count, args.work = 1, Path(tempfile.mkdtemp())
        methods = {
            name: replace(how, method=replace(how.method, n_steps=3), n_samples=2)
            for name, how in methods.items()
            if name in ("balanced", "A-DPS, 500 steps")
        }
    elif args.work is None:
        parser.error("VAL and WORK are needed without --quick")
    device = pick_device(args.device)
    prior = load_prior(args.prior or default_prior(), device)
    made_with = {"weights": weights_sha256(prior), "count": args.count, "seeds": args.seeds}
    path = args.work / "presets.json"
    results = json.loads(path.read_text()) if path.exists() else {}
    with tempfile.TemporaryDirectory() as folder:
        scans = {"simulated, R = 4": simulated(args, Path(folder))}
        for scan in args.scan:
            scans |= real(scan, args)
        for name, how in methods.items():
            for scan_name, judged in scans.items():
                key = f"{scan_name} | {name}"
                if key in results and made_with.items() <= results[key].items():
                    continue
                row = judge(judged, how, prior, device)
                if is_sampler(how.method):
                    row["evaluations"] = how.n_samples * how.method.n_evaluations
                results[key] = row | made_with | {"scans": len(judged), "commit": commit()}
                print(json.dumps({"row": key, **results[key]}), flush=True)
                write_json(path, results)


if __name__ == "__main__":
    main()
