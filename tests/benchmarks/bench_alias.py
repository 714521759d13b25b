"""Two sets of coil maps against one and against BART, on a head larger than the field of view.

    python tests/benchmarks/bench_alias.py SCAN.h5 [--accelerations 2 4] [--seeds 3] [--images DIR]

undersamples a fully sampled scan (20 calibration lines), reconstructs it from the selected samples
alone, and scores every magnitude, uncropped, against the RSS of the full data and against the SENSE
image of two sets of maps from the full data, which has less noise. Each with one and with two sets:

- ours: zero-filled, CG-SENSE, L1-wavelet and ``aos`` with the shipped prior, all with their default
  options;
- BART, if it is installed: ``ecalib -m1 / -m2`` on the same samples, and ``pics -l1 -i100`` with
  weight 0.005, and with the best of 5 weights for each mask and reference in hindsight (one at an
  edge of the range is said). Its image is the RSS of the coil images that its sets make together,
  as ours is.

Prints a line per mask and one JSON line with means, and the worst of the differences between
``aos`` with two sets and others. ``--quick`` runs on a simulated scan, with one mask and two
weights, and says nothing about quality.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import statistics
import subprocess
import tempfile
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mri_ambient.data_prep import PrepConfig, SimulateConfig, plan_preparation, simulate
from mri_ambient.errors import NumericalWarning
from mri_ambient.io import ScanFile, Undersampled, open_scan
from mri_ambient.methods import Aos, CgSense, L1Wavelet, Method, ZeroFilled
from mri_ambient.physics.map_sets import magnitude
from mri_ambient.physics.mask_spec import MaskSpec
from mri_ambient.priors.checkpoint import load_prior
from mri_ambient.priors.prior import Prior
from mri_ambient.priors.weights import default_prior
from mri_ambient.recon.engine import Engine, to_file_units
from mri_ambient.recon.recipe import ResolvedRecipe
from mri_ambient.recon.reference import rss_volume
from mri_ambient.runtime.device import Runtime
from mri_ambient.scan import Batch

WEIGHTS = (0.001, 0.0025, 0.005, 0.01, 0.025)
Scores = dict[str, float]
METHODS: tuple[Method, ...] = (ZeroFilled(), CgSense(), L1Wavelet(), Aos())


def psnr(img: Tensor, reference: Tensor) -> float:
    """In dB, with the reference's maximum as peak; magnitudes ``(slice, y, x)``."""
    error = (img - reference).square().mean()
    return float(10 * torch.log10(reference.max() ** 2 / error))


def references(full: ScanFile) -> dict[str, Tensor]:
    """RSS of the full data, and their SENSE image with two sets of maps, ``(slice, y, x)``."""
    scan = plan_preparation(full, PrepConfig(map_sets=2)).apply(full[0])
    img = Batch.of([scan]).op.adjoint(scan.ksp)
    return {
        "RSS": rss_volume(full),
        "SENSE": to_file_units(img, scan, magnitude(img, scan.n_sets)),
    }


def ours(file: ScanFile, n_sets: int, prior: Prior) -> dict[str, Tensor]:
    """Magnitudes by our methods, by name."""
    scan = plan_preparation(file, PrepConfig(map_sets=n_sets)).apply(file[0])  # type: ignore[arg-type]
    images = {}
    for method in METHODS:
        recipe = ResolvedRecipe(method, prior if method.needs_prior else None)
        (result,) = Engine(recipe, Runtime("cpu"))([scan])
        images[f"{method.name}, {n_sets}"] = to_file_units(result.img, scan).abs()
    return images


def write_cfl(path: Path, values: Tensor) -> None:
    """Coil arrays ``(coil, y, x)`` in BART's format, beside ``path``."""
    n_coils, ny, nx = values.shape
    path.with_suffix(".hdr").write_text(f"# Dimensions\n{ny} {nx} 1 {n_coils}\n")
    path.with_suffix(".cfl").write_bytes(values.permute(0, 2, 1).contiguous().numpy().tobytes())


def read_cfl(path: Path) -> Tensor:
    """An array with BART's dimensions 0, 1, 3 and 4 as ``(set, coil, y, x)``."""
    sizes = [int(n) for n in path.with_suffix(".hdr").read_text().splitlines()[1].split()]
    values = np.fromfile(path.with_suffix(".cfl"), np.complex64)
    ny, nx, _, n_coils, n_sets = (*sizes, 1, 1, 1)[:5]
    return torch.from_numpy(values.reshape(n_sets, n_coils, nx, ny)).transpose(-1, -2)


def bart_images(file: ScanFile, n_sets: int, weights: tuple[float, ...]) -> dict[float, Tensor]:
    """RSS of the coil images by ``pics -l1``, by weight."""
    images = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)

        def bart(*words: object) -> None:
            subprocess.run(["bart", *map(str, words)], check=True, cwd=folder, capture_output=True)

        write_cfl(folder / "ksp", file[0].ksp[0])
        bart("ecalib", f"-m{n_sets}", "-r24", "ksp", "maps")
        maps = read_cfl(folder / "maps")
        for weight in weights:
            bart("pics", "-l1", "-S", "-i100", f"-r{weight}", "ksp", "maps", "img")
            coil_img = (maps * read_cfl(folder / "img")).sum(dim=0)
            images[weight] = coil_img.abs().square().sum(dim=0).sqrt()[None]
    return images


def images_of(file: ScanFile, prior: Prior, weights: tuple[float, ...]) -> dict[str, Tensor]:
    """Magnitudes by every method with one and with two sets; of BART one for every weight."""
    images = {}
    for n_sets in (1, 2):
        images |= ours(file, n_sets, prior)
        if shutil.which("bart"):
            found = bart_images(file, n_sets, weights)
            images |= {f"bart -r{weight}, {n_sets}": img for weight, img in found.items()}
    return images


def scores_of(images: dict[str, Tensor], reference: Tensor, weights: tuple[float, ...]) -> Scores:
    """PSNR by method; of BART with weight 0.005 and with the best."""
    scores = {name: psnr(img, reference) for name, img in images.items()}
    for n_sets in (1, 2):
        of_bart = {w: scores.pop(f"bart -r{w}, {n_sets}", None) for w in weights}
        if None in of_bart.values():
            continue
        best = max(weights, key=lambda weight: of_bart[weight] or 0.0)
        if len(weights) > 2 and best in (weights[0], weights[-1]):
            print(f"  the best weight of BART with {n_sets} sets, {best}, is at an edge")
        scores[f"bart -r0.005, {n_sets}"] = of_bart[0.005]
        scores[f"bart, best weight, {n_sets}"] = of_bart[best]
    return scores


def compare(
    path: Path, accelerations: list[float], n_seeds: int, calib: int, folder: Path | None
) -> dict[str, object]:
    """Every mask; figures by acceleration and reference."""
    full, prior, results = open_scan(path), load_prior(default_prior()), {}
    weights = WEIGHTS if n_seeds > 1 else WEIGHTS[2:4]
    wanted = references(full)
    for rate in accelerations:
        rows: dict[str, list[Scores]] = {name: [] for name in wanted}
        for seed in range(n_seeds):
            file = Undersampled(full, MaskSpec("random", rate, calib), seed)
            images = images_of(file, prior, weights)
            for name, reference in wanted.items():
                rows[name].append(scores_of(images, reference, weights))
                shown = (f"{method}: {value:.2f}" for method, value in rows[name][-1].items())
                print(f"R = {rate:g}, seed {seed}, {name}: {'; '.join(shown)}", flush=True)
            if folder is not None and seed == 0:
                draw(folder / f"alias-{rate:g}.png", images, wanted["RSS"])
        for name, scores in rows.items():
            results[f"R = {rate:g}, {name}"] = summary(scores)
    return results


def summary(rows: list[Scores]) -> dict[str, dict[str, float]]:
    """Means, and the worst of the gains of ``aos`` with two sets."""
    means = {name: round(statistics.fmean(row[name] for row in rows), 2) for name in rows[0]}
    others = [name for name in rows[0] if name.startswith(("zero", "bart"))]
    worst = {name: round(min(row["aos, 2"] - row[name] for row in rows), 2) for name in others}
    return {"psnr": means, "worst gain of aos, 2": worst}


def draw(path: Path, images: dict[str, Tensor], reference: Tensor) -> None:
    """All images, and five times their errors."""
    from mri_ambient.plots import draw_comparison, save_figure

    shown = {name: img[0].numpy() for name, img in images.items()}
    scores = {name: f"{psnr(img, reference):.2f} dB" for name, img in images.items()}
    save_figure(draw_comparison(reference[0].numpy(), shown, scores), path)


def main() -> None:
    """Compare and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scan", type=Path, nargs="?")
    parser.add_argument("--accelerations", type=float, nargs="+", default=[2.0, 4.0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--images", type=Path)
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    warnings.simplefilter("ignore", NumericalWarning)
    if args.quick:
        with tempfile.TemporaryDirectory() as folder:
            config = SimulateConfig(size=(48, 48), coils=4, full=True, noise=0.01)
            scan = simulate("phantom", Path(folder), config, count=1)[0]
            results = compare(scan, [2.0], 1, 12, args.images)
    elif args.scan is None:
        parser.error("SCAN is needed without --quick")
    else:
        results = compare(args.scan, args.accelerations, args.seeds, 20, args.images)
    about = {"machine": platform.machine(), "torch": torch.__version__, "seeds": args.seeds}
    print(json.dumps({"benchmark": "alias", **about, **results}))


if __name__ == "__main__":
    main()
