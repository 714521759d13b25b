"""Is a prior fit to ship? Simulated and real scans, beside CG-SENSE and L1-wavelet at its best.

    python tests/benchmarks/bench_default_prior.py IMAGES_VAL.zip WORK [--prior PRIOR ...]
        [--real SCAN ...]

reconstructs the same scans with every prior (one step with data consistency; by default the one
that ships) and with the classical methods, whose results need no repetition when another prior is
added: one file a scan and setting under WORK/rows, and what is there is not done again. Scans are
simulated from images of other patients than the prior was trained on and prepared from their
undersampled data alone; PSNR (dB) is that of the magnitude inside the support against the
noise-free RSS image. L1-wavelet, and at R = 1 to 2 CG-SENSE, is given the weight that is best for
the scan in hindsight, on the grid of tune_baselines.py and beyond its ends. Real scans that
are fully sampled are undersampled to R = 4 by random lines with ``--seeds`` mask seeds and scored
against |S^H F^H k| of the full data, uncropped. Of others, part of the measured samples is held
out, with as many seeds, and predicted from the rest: the score is the energy of these samples over
that of the error, in dB, from which the table subtracts the noise of these samples.

``--table DOCS`` writes the page DOCS/default-prior.md from what is there, except for its words
under "How it was measured", and stops. ``--quick`` runs a few phantoms and says nothing of quality.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scoring import case_of, commit, mean_and_error
from torch import Tensor
from tune_baselines import WEIGHTS

from mri_ambient.data_prep import SimulateConfig, plan_preparation, simulate
from mri_ambient.data_prep.simulation.images import open_images
from mri_ambient.io import ScanFile, Undersampled, open_scan
from mri_ambient.methods import Aos, CgSense, L1Wavelet, Method
from mri_ambient.physics.mask_spec import MaskSpec
from mri_ambient.priors.checkpoint import load_prior
from mri_ambient.priors.prior import Prior
from mri_ambient.priors.weights import DEFAULT, default_prior
from mri_ambient.recon.engine import Engine, to_file_units
from mri_ambient.recon.held_out import hold_out_of_scan
from mri_ambient.recon.recipe import ResolvedRecipe
from mri_ambient.rng import rng_for
from mri_ambient.runtime.device import Runtime
from mri_ambient.runtime.files import write_json
from mri_ambient.scan import Batch, Scan
from mri_ambient.training.adapter import weights_sha256

Row = dict[str, Any]
Score = Callable[[Tensor], float]
"""Of an image ``(y, x)`` in normalised units, in dB."""

SEED = 61
CG, BEST_CG, BEST_L1 = "CG-SENSE", "CG-SENSE, best weight", "L1-wavelet, best weight"
BEST = {BEST_CG: CgSense, BEST_L1: L1Wavelet}
N_HELD_OUT = 2
"""Lines that are held out; of a 2-D mask, as many samples."""

COMMIT = commit()
"""When the script was started."""

TUNED_ON = "espirit_brain8"
"""Two choices in the design of the denoiser were made while looking at this scan."""


@dataclass(frozen=True)
class Setting:
    """Simulated scans of one kind.

    Attributes:
        scans: how they are simulated.
        count: how many, each of another image.
        wanted: dB over L1-wavelet at its best; None where the rival is CG-SENSE alone.
    """

    scans: SimulateConfig
    count: int
    wanted: float | None = None

    @property
    def rival(self) -> str:
        """The classical method that is given its best weight."""
        return BEST_CG if self.wanted is None else BEST_L1


CLINICAL = SimulateConfig(noise=(0.002, 0.02), jitter=True, seed=SEED)
"""128 x 128, 8 coils; noise in units of the object's maximum, twice that in normalised units."""

CONDITIONS = {
    "8 coils": {},
    "4 coils": {"coils": 4},
    "16 coils": {"coils": 16},
    "low field 0.05": {"noise": 0.025},
    "low field 0.1": {"noise": 0.05},
}
"""Low field: with sigma_n in normalised units."""

HIGH_R = {
    "R = 4": Setting(replace(CLINICAL, acceleration=4.0), 20, wanted=2.5),
    "R = 4, 256 x 256": Setting(replace(CLINICAL, size=(256, 256)), 4, wanted=2.5),
    "R = 8": Setting(replace(CLINICAL, acceleration=8.0, calib=12), 20, wanted=2.5),
    "R = 8, 256 x 256": Setting(
        replace(CLINICAL, acceleration=8.0, size=(256, 256)), 4, wanted=2.5
    ),
} | {
    f"R = 4, {name}": Setting(replace(CLINICAL, **changes), 5, wanted=0.0)
    for name, changes in CONDITIONS.items()
    if changes
}
MASKS_AT_LOW_R: dict[str, dict[str, Any]] = {
    "all, R = 1": {"full": True},
    **{f"random, R = {rate:g}": {"acceleration": rate} for rate in (1.5, 2.0)},
    **{f"gaussian, R = {r:g}": {"mask": "gaussian", "acceleration": r} for r in (1.5, 2.0)},
    "equispaced, R = 1.7": {"mask": "equispaced", "acceleration": 2.0},
    "poisson, R = 1.7": {"mask": "poisson", "acceleration": 1.7},
    "poisson, R = 2": {"mask": "poisson", "acceleration": 2.0},
    "partial Fourier 0.65, R = 1.5": {"partial_fourier": 0.65, "acceleration": 1.5},
}
"""With 20 calibration lines, every other line outside them makes R = 1.7."""

LOW_R = {
    f"{mask}, {name}": Setting(replace(CLINICAL, **changes, **options), 2)
    for mask, options in MASKS_AT_LOW_R.items()
    for name, changes in CONDITIONS.items()
}
QUICK = {
    "R = 4": Setting(replace(CLINICAL, size=(48, 48), coils=4, calib=8), 1, wanted=2.5),
    "random, R = 2, 4 coils": Setting(
        replace(CLINICAL, size=(48, 48), coils=4, calib=8, acceleration=2.0), 1
    ),
}


@dataclass(frozen=True)
class Target:
    """A prepared scan, and how its images are scored.

    Attributes:
        scan: what is reconstructed.
        score: see :data:`Score`.
        noise: of held-out samples, the share of noise in their energy.
    """

    scan: Scan
    score: Score
    noise: float = 0.0

    def of(self, method: Method, prior: Prior | None = None) -> float:
        """The score of a method."""
        (result,) = Engine(ResolvedRecipe(method, prior), Runtime("cpu"))([self.scan])
        return round(self.score(result.img[0]), 4)

    def best(self, kind: type[CgSense] | type[L1Wavelet]) -> tuple[float, float]:
        """Score and weight of a classical method at its best, climbing from its default weight."""
        first, second = WEIGHTS[kind][:2].tolist()
        usual = kind.lam_per_noise * float(self.scan.noise_std)
        step, scores = math.log(second / first), {}
        k = round(math.log(max(usual, first) / first) / step)
        while True:
            for near in {k - 1, k, k + 1} - set(scores):
                scores[near] = self.of(kind(lam=first * math.exp(step * near)))
            best = max((k - 1, k, k + 1), key=scores.__getitem__)
            if best == k:
                return scores[k], first * math.exp(step * k)
            k = best


def simulated(images: str, setting: Setting) -> Iterator[tuple[str, Callable[[], Target]]]:
    """Names of scans, and what makes them."""
    source = open_images(images)
    key = json.dumps(setting.scans.as_json())
    names = sorted(source.names(None if images != "phantom" else 9, 1))
    names.sort(key=lambda name: rng_for(SEED, key, name).initial_seed())

    def make(name: str) -> Target:
        with tempfile.TemporaryDirectory() as folder:
            case = case_of(source, name, setting.scans, Path(folder))
        return Target(case.scan, lambda img: case.psnr(img[None]))

    return ((name, partial(make, name)) for name in names[: setting.count])


def real(path: Path, seeds: int) -> Iterator[tuple[str, Callable[[], Target]]]:
    """A scan under mask seeds, or with held-out samples."""
    file = open_scan(path)
    make = undersampled if file.fully_sampled else held_out
    return ((f"seed {seed}", partial(make, file, seed)) for seed in range(seeds))


def middle(file: ScanFile) -> slice:
    """The slice in the middle of the volume."""
    return slice(len(file) // 2, len(file) // 2 + 1)


def undersampled(file: ScanFile, seed: int) -> Target:
    """A fully sampled slice under a mask, scored against SENSE with maps from the full data."""
    full = plan_preparation(file).apply(file[middle(file)])
    batch = Batch.of([full])
    reference = to_file_units(batch.op.adjoint(batch.ksp), full).abs()
    under = Undersampled(file, MaskSpec("random", 4.0, 20), seed)
    scan = plan_preparation(under).apply(under[middle(file)])

    def psnr(img: Tensor) -> float:
        error = (to_file_units(img[None], scan).abs() - reference).square().mean()
        return float(10 * torch.log10(reference.max() ** 2 / error))

    return Target(scan, psnr)


def held_out(file: ScanFile, seed: int) -> Target:
    """A scan without some of its samples, scored by how these are predicted."""
    split = hold_out_of_scan(plan_preparation(file).apply(file[middle(file)]), N_HELD_OUT, seed)
    y = split.measured(0)
    noise = 2 * split.sigma_n**2 * y.numel() / float(y.abs().square().sum())
    return Target(split.kept, lambda img: -10 * math.log10(split.error(0, img)), noise)


def fill(path: Path, make: Callable[[], Target], priors: dict[str, Prior], rival: str) -> None:
    """Add to the file of a scan the scores that are missing."""
    row: Row = json.loads(path.read_text()) if path.exists() else {"scores": {}}
    scores = row["scores"]
    if not {CG, rival, *priors} - set(scores):
        return
    target = make()
    row |= {"sigma_n": round(float(target.scan.noise_std), 5), "noise": round(target.noise, 5)}
    if CG not in scores:
        scores[CG] = target.of(CgSense())
    if rival not in scores:
        scores[rival], weight = target.best(BEST[rival])
        row["weight"] = float(f"{weight:.4g}")
    for key in set(priors) - set(scores):
        scores[key] = target.of(Aos(), priors[key])
    write_json(path, row | {"commit": COMMIT})
    print(json.dumps({"benchmark": "default prior", "row": path.stem} | row), flush=True)


def measure(args: argparse.Namespace) -> None:
    """All settings and scans, by all priors."""
    rows, priors = args.work / "rows", {}
    rows.mkdir(parents=True, exist_ok=True)
    known = args.work / "priors.json"
    names: dict[str, Row] = json.loads(known.read_text()) if known.exists() else {}
    for given in args.prior or [default_prior()]:
        prior = load_prior(given)
        key = weights_sha256(prior.net)[:12]
        priors[key] = prior
        name = DEFAULT if given == default_prior() else str(given)
        names[key] = {"name": name, "images_seen": prior.facts.images_seen}
    write_json(known, names)
    for setting_name, setting in args.settings.items():
        for name, make in simulated(args.images, setting):
            path = rows / f"{setting_name}--{name}.json"
            fill(path, make, priors, setting.rival)
    for scan in args.real:
        for name, make in real(scan, args.seeds):
            fill(rows / f"{scan.stem}--{name}.json", make, priors, BEST_L1)


@dataclass(frozen=True)
class Results:
    """What was measured.

    Attributes:
        rows: by setting or real scan, the rows of its scans.
        priors: by key, name and images seen.
    """

    rows: dict[str, list[Row]]
    priors: dict[str, Row]

    @classmethod
    def read(cls, work: Path) -> Results:
        """All that is there."""
        rows: dict[str, list[Row]] = {}
        for path in sorted((work / "rows").glob("*--*.json")):
            row = json.loads(path.read_text())
            row["scores"] = without_noise(row)
            rows.setdefault(path.stem.partition("--")[0], []).append(row)
        return cls(rows, json.loads((work / "priors.json").read_text()))

    def gains(self, setting: str, prior: str, rival: str) -> list[float]:
        """dB of a prior over a rival, scan by scan."""
        pairs = [row["scores"] for row in self.rows.get(setting, [])]
        return [s[prior] - s[rival] for s in pairs if prior in s and rival in s]

    def real_scans(self) -> list[str]:
        """Names of real scans."""
        return [name for name in self.rows if name not in HIGH_R | LOW_R | QUICK]


def without_noise(row: Row) -> dict[str, float]:
    """Scores, in dB; of held-out samples, noise is subtracted from the energy of the errors."""
    noise, scores = row.get("noise", 0.0), row["scores"]
    if noise == 0:
        return dict(scores)
    return {k: -10 * math.log10(10 ** (-value / 10) - noise) for k, value in scores.items()}


def verdict(margin: float) -> str:
    """Whether a target is met, or by how much it is missed; NaN is not run."""
    return "" if math.isnan(margin) else "met" if margin >= 0 else f"**missed by {-margin:.2f}**"


def targets(found: Results, prior: str) -> Iterator[tuple[str, str, str, str]]:
    """Target, what is wanted, what was measured, verdict: the same lines for every prior."""
    for name, setting in HIGH_R.items():
        if setting.wanted:
            gains = found.gains(name, prior, BEST_L1)
            wanted = f"≥ {setting.wanted:g} dB over L1-wavelet"
            met = verdict(float(np.mean(gains or math.nan)) - setting.wanted)
            yield f"{name}, {setting.count} scans", wanted, mean_and_error(gains), met
    for name in found.real_scans():
        gains = found.gains(name, prior, BEST_L1)
        mean, worst = float(np.mean(gains or math.nan)), min(gains, default=math.nan)
        label = f"{name}, {len(found.rows[name])} seeds"
        label += " (was tuned on)" if name == TUNED_ON else ""
        wanted = "mean ≥ 2 dB over L1-wavelet"
        yield label, wanted, mean_and_error(gains), verdict(mean - 2)
        yield f"{name}, worst seed", "> 0 dB", f"{worst:+.2f}", verdict(worst)
    low = [(gain, name) for name in LOW_R for gain in found.gains(name, prior, BEST_CG)]
    worst, name = min(low, default=(math.nan, "not run"))
    below = sum(gain < 0 for gain, _ in low)
    shown = f"{below} of {len(low)} scans below; worst {worst:+.2f} ({name})"
    yield "R = 1 to 2, every mask", "never below CG-SENSE at its best", shown, verdict(worst)


def target_table(found: Results) -> Iterator[str]:
    """Markdown: how many targets are met, and every target, a pair of columns a prior."""
    columns = [list(targets(found, key)) for key in found.priors]
    for row, lines in zip(found.priors.values(), columns, strict=True):
        verdicts = [line[-1] for line in lines if line[-1]]
        met = verdicts.count("met")
        yield f"`{row['name']}` meets {met} of the {len(verdicts)} targets that were measured.\n"
    names = [f"{row['name']}, dB | target" for row in found.priors.values()]
    yield f"| scans | wanted | {' | '.join(names)} |"
    yield "|---" * (2 + 2 * len(columns)) + "|"
    for lines in zip(*columns, strict=True):
        cells = [cell for _, _, measured, met in lines for cell in (measured, met)]
        yield f"| {lines[0][0]} | {lines[0][1]} | {' | '.join(cells)} |"


def setting_table(found: Results, names: list[str], rival: str) -> Iterator[str]:
    """Markdown: means and paired gains of some settings."""
    first, *others = found.priors
    heads = [f"{row['name']} | over {rival} | worst scan" for row in found.priors.values()]
    heads += [f"{found.priors[key]['name']} over {found.priors[first]['name']}" for key in others]
    yield f"| scans | number | sigma_n | {CG} | {rival} | {' | '.join(heads)} |"
    yield "|---" * (5 + 3 * len(found.priors) + len(others)) + "|"
    for name in names:
        rows = found.rows.get(name, [])
        if not rows:
            continue
        cells = [name, str(len(rows)), f"{np.median([row['sigma_n'] for row in rows]):.3f}"]
        for key in (CG, rival):
            cells.append(f"{np.mean([row['scores'][key] for row in rows]):.2f}")
        for key in found.priors:
            gains = found.gains(name, key, rival)
            values = [row["scores"][key] for row in rows if key in row["scores"]]
            mean = f"{np.mean(values):.2f}" if values else ""
            worst = f"{min(gains):+.2f}" if gains else ""
            cells += [mean, mean_and_error(gains), worst]
        cells += [mean_and_error(found.gains(name, key, first)) for key in others]
        yield f"| {' | '.join(cells)} |"


def low_table(found: Results) -> Iterator[str]:
    """Markdown: the smallest and the mean gain over CG-SENSE, a line a mask, a column a scan."""
    for key, prior in found.priors.items():
        yield f"\n{prior['name']}, mean (worst scan):\n"
        yield f"| mask | {' | '.join(CONDITIONS)} |"
        yield "|---" * (1 + len(CONDITIONS)) + "|"
        for mask in MASKS_AT_LOW_R:
            gains = [found.gains(f"{mask}, {name}", key, BEST_CG) for name in CONDITIONS]
            cells = [f"{np.mean(g):+.2f} ({min(g):+.2f})" if g else "" for g in gains]
            yield f"| {mask} | {' | '.join(cells)} |"


def default_line(found: Results) -> Iterator[str]:
    """Which prior is the default, and by how much it is better than the first one."""
    first, *others = found.priors
    settings = [name for name in (*HIGH_R, *found.real_scans()) if found.rows.get(name)]
    for key in others:
        if found.priors[key]["name"] == DEFAULT and settings:
            means = [float(np.mean(found.gains(name, key, first))) for name in settings]
            yield (
                f"**`{DEFAULT}` is the default**: {min(means):+.2f} to {max(means):+.2f} dB over "
                f"`{found.priors[first]['name']}` in the means of the scans below "
                f"({settings[0]}: {means[0]:+.2f}).\n"
            )


def page(found: Results, words: str) -> Iterator[str]:
    """The page; ``words`` are those under "How it was measured"."""
    yield "# The prior that ships\n"
    yield from default_line(found)
    yield from target_table(found)
    yield f"\n{words.strip()}\n"
    yield "## Higher acceleration\n"
    yield from setting_table(found, list(HIGH_R), BEST_L1)
    yield "\n## Real scans\n"
    yield from setting_table(found, found.real_scans(), BEST_L1)
    yield "\n## R = 1 to 2, dB over CG-SENSE at its best weight"
    yield from low_table(found)
    seen = [f"{p['name']}: `{key}`, {p['images_seen']} images" for key, p in found.priors.items()]
    commits = sorted({row["commit"] for rows in found.rows.values() for row in rows})
    yield f"\nWeights (sha256) and images seen: {'; '.join(seen)}. Commits: {', '.join(commits)}."


def write_page(args: argparse.Namespace) -> None:
    """The page of what is there, with the words it has."""
    path, head = args.table / "default-prior.md", "## How it was measured"
    text = path.read_text() if path.exists() else ""
    words = f"{head}{text.partition(head)[2].partition('## Higher acceleration')[0]}"
    path.write_text("\n".join([*page(Results.read(args.work), words), ""]))


def main() -> None:
    """Measure, or write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("images", nargs="?", default="phantom")
    parser.add_argument("work", type=Path, nargs="?")
    parser.add_argument("--prior", type=Path, action="append")
    parser.add_argument("--real", type=Path, action="append", default=[])
    parser.add_argument("--seeds", type=int, default=15, help="of masks of real scans")
    parser.add_argument("--table", type=Path, metavar="DOCS", help="write the page, and stop")
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    args.settings = HIGH_R | LOW_R
    if args.quick:
        args.work, args.settings, args.seeds = Path(tempfile.mkdtemp()), QUICK, 1
        full = SimulateConfig(size=(24, 96), coils=4, full=True)
        args.real = simulate("phantom", args.work / "raw", full, count=1)
    elif args.work is None:
        parser.error("IMAGES and WORK are needed without --quick")
    if args.table is not None:
        write_page(args)
        return
    torch.set_num_threads(1)
    measure(args)


if __name__ == "__main__":
    main()
