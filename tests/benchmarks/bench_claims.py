"""What papers claim of priors learned from corrupted scans, tested on small simulated scans.

    python tests/benchmarks/bench_claims.py TRAIN.zip VAL.zip WORK [--only CLAIM ...]

simulates and prepares training scans (``KINDS``), trains small priors on them (``PRIORS``), several
of which serve more than one claim, and tests every claim (``CLAIMS``) on simulated scans of other
patients. PSNR is against the noise-free RSS image inside the support. Every prior and every figure
is a file in WORK and is not made again; a training that was stopped is resumed.

``--table DOCS`` writes claims.json of all that is finished and the tables into claims.md, whose
words it keeps, and stops. ``--pictures`` draws the first reconstructions of every line of the
tables, and drawn images, into WORK/pictures, and stops. ``--quick`` trains on phantoms for seconds
and says nothing about quality.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scoring import Case, case_of, commit, difference
from torch import Tensor
from torch.nn import functional

from mri_ambient.data_prep import MANIFEST, SimulateConfig, prepare, simulate
from mri_ambient.data_prep.simulation.images import ImageSource, Phantoms, Pictures
from mri_ambient.errors import NumericalWarning
from mri_ambient.evaluation.memorization import feature, nearest
from mri_ambient.evaluation.stability import Attack, attack
from mri_ambient.methods import Adps, Aos, CgSense, Dds, L1Wavelet, Method, PriorOnly
from mri_ambient.objectives import Ambient, Consistency, Gsure, Kspace, Objective, Supervised
from mri_ambient.plots import draw_previews, save_figure
from mri_ambient.priors.checkpoint import load_prior
from mri_ambient.priors.prior import Prior
from mri_ambient.recon.engine import Engine, SliceImages, to_file_units
from mri_ambient.recon.recipe import Recipe
from mri_ambient.recon.sample import draw_images
from mri_ambient.rng import rng_for
from mri_ambient.runtime.device import Runtime
from mri_ambient.runtime.files import write_json
from mri_ambient.scan import Batch
from mri_ambient.training.adapt import AdaptConfig
from mri_ambient.training.adapt_scans import adapt
from mri_ambient.training.config import TrainConfig, TrainJob
from mri_ambient.training.dataset import Item, load_dataset
from mri_ambient.training.loop import run_training
from mri_ambient.training.preflight import plan
from mri_ambient.training.refit import RefitJob, refit

Row = dict[str, Any]
"""Figures of one cell of a table."""

Cell = tuple[str, str, str]
"""Claim, line and column of a figure."""

TRAIN_SEED, VAL_SEED = 51, 52


@dataclass(frozen=True)
class Kind:
    """Simulated scans of one kind, and the contrast of the pictures that are scanned."""

    scans: SimulateConfig
    contrast: str = "T1ce"


def _kind(contrast: str = "T1ce", **options: Any) -> Kind:
    common = {"coils": 6, "acceleration": 4.0, "calib": 8, "noise": 0.01, "jitter": True}
    return Kind(SimulateConfig(size=(64, 64), **common | options), contrast)


RATES = (8, 4, 2, 6)
"""Of the A-DPS claim, under 2-D masks: of 64 lines at R = 8 all would serve for calibration."""

TASKS = {
    "R = 4 random lines": _kind(),
    "R = 8 Poisson disc": _kind(mask="poisson", calib=12, acceleration=8.0),
    "R = 4 equispaced": _kind(mask="equispaced"),
    "centre of k-space alone, R = 4": _kind(calib=16),
    "R = 1, noise x 5": _kind(full=True, noise=0.05),
    "partial Fourier 0.6, R = 2": _kind(partial_fourier=0.6, acceleration=2.0),
    "R = 4, 2 coils": _kind(coils=2),
}
"""Of the GSURE claim: the priors were trained for the first."""

KINDS = {
    "R4": _kind(),
    "full": _kind(full=True),
    "FLAIR": _kind("FLAIR"),
    "noisy full": _kind(full=True, noise=0.05),
    "noisy R3": _kind(acceleration=3.0, noise=0.05),
    **{f"disc R{r}": _kind(mask="poisson", calib=12, acceleration=float(r)) for r in RATES},
    **TASKS,
}


@dataclass(frozen=True)
class Course:
    """How a prior is trained.

    Attributes:
        kind: of its scans, a key of ``KINDS``.
        objective: with its options.
        images: how many it sees.
        count: scans, a fifth of which, at most 4, is set aside for validation.
        wrapper: of the network, if not the objective's own.
        init: the prior that it starts from.
        refitted: the prior from which samples of the scans are drawn, to be learned.
    """

    kind: str
    objective: Objective
    images: int
    count: int = 400
    wrapper: str | None = None
    init: str | None = None
    refitted: str | None = None


FEW = (20, 100, 500)
"""Scans of the claim about patches."""

NETWORKS = {"patched": "patched", "whole": "plain", "default": "conditioned"}
"""Of that claim; "default" has three networks that alternate with the data, the others one."""

NOISY = ("noisy full", "noisy R3")

PRIORS = {
    "kspace": Course("R4", Kspace(), 2400),
    "supervised": Course("full", Supervised(), 1600),
    "gsure": Course("R4", Gsure(), 1000),
    "refit": Course("R4", Supervised(), 800, 100, refitted="kspace"),
    "long kspace": Course("R4", Kspace(), 4800, 1200),
    "long supervised": Course("full", Supervised(), 4800, 1200),
    **{f"ambient R{rate}": Course(f"disc R{rate}", Ambient(), 4800, 800) for rate in RATES},
    "FLAIR": Course("FLAIR", Kspace(), 400, 20),
    "FLAIR from kspace": Course("FLAIR", Kspace(), 200, 20, init="kspace"),
    "50 supervised": Course("full", Supervised(), 1200, 62),
    "50 ambient": Course("R4", Ambient(), 1200, 62),
    **{f"{kind}": Course(kind, Kspace(), 400, 100) for kind in NOISY},
    **{f"{kind} truncate": Course(kind, Kspace(), 80, 100, init=kind) for kind in NOISY},
    **{f"{kind} consistency": Course(kind, Consistency(), 80, 100, init=kind) for kind in NOISY},
    **{
        f"{count} {name}": Course("R4", Kspace(), 400, count, wrapper)
        for count in FEW
        for name, wrapper in NETWORKS.items()
    },
}

N_SAMPLES = 4
"""Of dds; their mean is scored."""

ADPS, DDS, DRAW = Adps(n_steps=100), Dds(n_steps=16, final_dc=False), PriorOnly(n_steps=40)
DDS_FEW = Dds(n_steps=6, final_dc=False, start="cg-sense")
"""For the attack, which differentiates through all steps."""


N_ADAPT = 30
"""Steps of an adaptation to one scan; "auto" takes longer."""


class Contrast(Pictures):
    """The pictures of one contrast in an archive."""

    def __init__(self, path: Path, contrast: str) -> None:
        super().__init__(path)
        self.contrast = contrast

    def __reduce__(self) -> tuple[Any, ...]:
        return (Contrast, (self.path, self.contrast))

    def names(self, count: int | None, n_slices: int) -> list[str]:
        """These alone."""
        names = super().names(count, n_slices)
        return [
            name for name in names if self._index[self._files[name]]["contrast"] == self.contrast
        ]


class Bench:
    """Scans, priors and figures, as they lie in a folder."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.work = args, args.work
        self.cases = lru_cache(maxsize=4)(self._cases)

    def source(self, archive: str, contrast: str) -> ImageSource:
        """Pictures of a contrast; phantoms in quick mode."""
        return Phantoms() if self.args.quick else Contrast(Path(archive), contrast)

    def scans(self, kind: str) -> SimulateConfig:
        """How scans are simulated; small ones in quick mode."""
        config = KINDS[kind].scans
        return replace(config, size=(32, 32), acceleration=2.0) if self.args.quick else config

    def prepared(self, kind: str, count: int) -> Path:
        """The first training scans of a kind."""
        folder = self.work / "prepared" / f"{kind} {count}"
        if not (folder / MANIFEST).exists():
            source = self.source(self.args.train, KINDS[kind].contrast)
            config = replace(self.scans(kind), seed=TRAIN_SEED)
            prepare(simulate(source, self.work / "raw" / kind, config, count=count), folder)
        return folder

    def _cases(self, kind: str) -> list[Case]:
        """Test scans of a kind, of different pictures; the same pictures for all kinds."""
        source = self.source(self.args.val, KINDS[kind].contrast)
        names = source.names(self.args.cases, 1)
        names = sorted(names, key=lambda name: rng_for(VAL_SEED, name).initial_seed())
        folder, config = self.work / "tests" / kind, replace(self.scans(kind), seed=VAL_SEED)
        folder.mkdir(parents=True, exist_ok=True)
        found = [case_of(source, name, config, folder) for name in names[: self.args.cases]]
        return found

    def paths(self, kind: str) -> list[Path]:
        """The files of the test scans."""
        folder = self.work / "tests" / kind
        return [folder / f"{case.scan.scan_id}.h5" for case in self.cases(kind)]

    def prior(self, name: str) -> Prior:
        """Train a prior, or load what was trained; its seconds are kept."""
        course, run = PRIORS[name], self.work / "priors" / name
        images = 8 if self.args.quick else course.images
        if not (run / "prior.safetensors").exists() or _seen(run) < images:
            began = time.process_time()
            self._train(name, run, images)
            spent = round(time.process_time() - began)
            facts = {"scans": self.count(name), "images": images, "cpu_s": spent}
            write_json(self.work / "priors" / f"{name}.json", facts)
            print(json.dumps({"prior": name, **facts}), flush=True)
        return load_prior(run)

    def count(self, name: str) -> int:
        """Scans of a prior."""
        return 8 if self.args.quick else PRIORS[name].count

    def _train(self, name: str, run: Path, images: int) -> None:
        course = PRIORS[name]
        precision = "fp32" if course.objective.full_precision else "bf16"
        config = TrainConfig(
            objective=course.objective, wrapper=course.wrapper, preset="tiny16",
            precision=precision, check_every=10**6, save_every=200, n_validation=4,
        )  # fmt: skip
        folder = self.prepared(course.kind, self.count(name))
        if course.refitted:
            start = self.prior(course.refitted)
            refit(RefitJob(folder, start, run, rounds=1, sampler=DDS, config=config, images=images))
            return
        init = self.prior(course.init) if course.init else None
        run_training(plan(TrainJob(folder, run, config, images=images, init=init, force=True)))

    def row(self, name: Cell, make: Callable[..., Row], *given: object) -> None:
        """A cell of a claim's table, ``make(*given)`` if it is not there."""
        path = self.work / "rows" / f"{'--'.join(name)}.json"
        if path.exists():
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        row = {"cell": name, "commit": commit()} | make(*given)
        write_json(path, row)
        shown = {key: value for key, value in row.items() if not key.endswith("_each")}
        print(json.dumps({"benchmark": "claims", **shown}), flush=True)

    def items(self, kind: str, count: int) -> tuple[Item, ...]:
        """Prepared training scans."""
        return load_dataset(self.prepared(kind, count), n_validation=0, seed=0).train

    def trained_on(self, name: str) -> list[Item]:
        """The scans of the weights of a prior, without those for validation."""
        course, prior = PRIORS[name], self.prior(name)
        items = self.items(course.kind, course.count)
        return [item for item in items if prior.was_trained_on(item.file.source_sha256)]

    def images(self, kind: str, part: str) -> list[Tensor]:
        """Images of fully sampled scans in normalised units, magnitudes ``(y, x)``."""
        if part == "val":
            return [_image(Batch.of([case.scan])) for case in self.cases(kind)]
        return [_image(item.read()) for item in self.items(kind, PRIORS["50 supervised"].count)]

    def drawn(self, name: str) -> list[Tensor]:
        """Images drawn from a prior with the maps of test scans, magnitudes."""
        prior, cases, found = self.prior(name), self.cases("full"), []
        runtime = Runtime("cpu", precision="bf16")
        for k in range(2 if self.args.quick else self.args.drawn):
            maps = cases[k % len(cases)].scan.maps
            found += draw_images(prior, DRAW, maps, n_images=1, seed=k, runtime=runtime).abs()
        self.keep(f"samples--{name}", found)
        return found

    def keep(self, name: str, images: list[Tensor]) -> None:
        """Keep the first images for the pictures."""
        folder = self.work / "images"
        folder.mkdir(parents=True, exist_ok=True)
        np.save(folder / f"{name}.npy", torch.stack(images[:3]).numpy())

    def scored(
        self, name: Cell, kind: str, method: Method, prior: Prior | list[Prior] | None, n: int = 1
    ) -> None:
        """A cell with the scores of ``n`` samples of every test scan of a kind."""
        self.row(name, self.score, name, kind, method, prior, n)

    def adapted(self, kind: str, paths: list[Path], until: str | int) -> Prior:
        """The prior "kspace", adapted to test scans together."""
        name = f"{kind} {until} {paths[0].stem if len(paths) == 1 else 'all'}.safetensors"
        config = AdaptConfig(2 if self.args.quick else until)
        recipe = Recipe(Aos(), prior=self.prior("kspace"), adapt=config)
        (self.work / "adapted").mkdir(exist_ok=True)
        return adapt(paths, recipe, Runtime("cpu"), output=self.work / "adapted" / name)

    def classical(self, claim: str, line: str, kind: str) -> None:
        """Two cells of methods without a prior."""
        for method in (CgSense(), L1Wavelet()):
            self.scored((claim, line, method.name), kind, method, None)

    def score(
        self, name: Cell, kind: str, method: Method, prior: Prior | list[Prior] | None, n: int = 1
    ) -> Row:
        """PSNR (dB) of every scan, and the spread of the samples over their error."""
        cases, began = self.cases(kind), time.process_time()
        runtime = Runtime("cpu", precision="fp32" if n_steps(method) == 1 else "bf16")
        priors = prior if isinstance(prior, list) else [prior] * len(cases)
        results: list[SliceImages] = []
        for own, case in zip(priors, cases, strict=True):
            engine = Engine(Recipe(method, prior=own, n_samples=n).resolve(), runtime)
            results += engine([case.scan])
        spent = (time.process_time() - began) / len(cases)
        pairs = list(zip(cases, results, strict=True))
        images = [to_file_units(result.img.abs(), case.scan)[0] for case, result in pairs]
        self.keep("--".join(name), images)
        self.keep("--".join([*name[:2], "truth"]), [case.truth for case in cases])
        psnr = [case.psnr(result.img[0]) for case, result in pairs]
        row = {"psnr": float(np.mean(psnr)), "psnr_each": np.round(psnr, 3).tolist()}
        if n > 1:
            row["spread_each"] = [_spread(case, result) for case, result in pairs]
        return row | {"seconds": round(spent, 3)}


def n_steps(method: Method) -> int:
    """Network evaluations; 1 for methods without a network."""
    return max(method.n_evaluations, 1)


def _image(batch: Batch) -> Tensor:
    """The image of a fully sampled scan, magnitude ``(y, x)``."""
    return CgSense()(None, batch, [])[0].abs()


def _seen(run: Path) -> int:
    return int(load_prior(run).facts.card["images_seen"])


def _spread(case: Case, result: SliceImages) -> float:
    """What samples say of the error of their mean, over that error; 1 if they are right."""
    assert result.samples is not None
    n, img = len(result.samples), to_file_units(result.img.abs(), case.scan)[0]
    std = to_file_units(result.samples.abs().std(dim=0), case.scan)[0]
    inside = img > 0
    expected = (1 + 1 / n) * std[inside].square().mean()
    return float((expected / (img - case.truth)[inside].square().mean()).sqrt())


def adps(bench: Bench) -> None:
    """Priors of several rates and a supervised one at several rates."""
    for rate in RATES:
        kind, line = f"disc R{rate}", f"R = {rate}"
        bench.classical("adps", line, kind)
        for trained in (8, 4, 2, 6):
            prior = bench.prior(f"ambient R{trained}")
            bench.scored(("adps", line, f"R = {trained}, A-DPS"), kind, ADPS, prior)
            bench.scored(("adps", line, f"R = {trained}, one step"), kind, Aos(), prior)
        supervised = bench.prior("long supervised")
        bench.scored(("adps", line, "supervised, A-DPS"), kind, ADPS, supervised)
        bench.scored(("adps", line, "supervised, dds"), kind, DDS, supervised)
        bench.scored(("adps", line, "kspace, one step"), kind, Aos(), bench.prior("long kspace"))


def gsure(bench: Bench) -> None:
    """One prior for many tasks."""
    for task in TASKS:
        bench.classical("gsure", task, task)
        for name in ("supervised", "gsure"):
            bench.scored(("gsure", task, f"{name}, dds"), task, DDS, bench.prior(name), 2)
        for name in ("gsure", "kspace"):
            bench.scored(("gsure", task, f"{name}, one step"), task, Aos(), bench.prior(name))


def fine_tuning(bench: Bench) -> None:
    """Twenty scans of another contrast."""
    bench.classical("fine-tuning", "FLAIR", "FLAIR")
    for way, name in (
        ("none", "kspace"),
        ("from scratch", "FLAIR"),
        ("fine-tuned", "FLAIR from kspace"),
    ):
        bench.scored(("fine-tuning", "FLAIR", way), "FLAIR", Aos(), bench.prior(name))
    for way, adapted in (("all", adapted_to_all), ("each", adapted_to_each)):
        cell = ("fine-tuning", "FLAIR", f"adapted to {way}")
        bench.row(cell, adapted, bench, cell)


def adapted_to_all(bench: Bench, cell: Cell) -> Row:
    """Scores of one prior for all FLAIR test scans."""
    began = time.process_time()
    prior = bench.adapted("FLAIR", bench.paths("FLAIR"), "auto")
    spent = (time.process_time() - began) / bench.args.cases
    return bench.score(cell, "FLAIR", Aos(), prior) | {"adapt_seconds": round(spent, 2)}


def adapted_to_each(bench: Bench, cell: Cell) -> Row:
    """Scores of a prior for every FLAIR test scan."""
    began = time.process_time()
    priors = [bench.adapted("FLAIR", [path], N_ADAPT) for path in bench.paths("FLAIR")]
    spent = (time.process_time() - began) / bench.args.cases
    return bench.score(cell, "FLAIR", Aos(), priors) | {"adapt_seconds": round(spent, 2)}


def tweedie(bench: Bench) -> None:
    """Noise levels below the data's noise: left out, or learned by consistency."""
    for kind in NOISY:
        bench.classical("tweedie", f"{kind}, one step", kind)
        for way in ("truncate", "consistency"):
            prior = bench.prior(f"{kind} {way}")
            bench.scored(("tweedie", f"{kind}, one step", way), kind, Aos(), prior)
            bench.scored(("tweedie", f"{kind}, samples", way), kind, DDS, prior, N_SAMPLES)


def instabilities(bench: Bench) -> None:
    """The worst small change of the measurement."""
    kspace, supervised = bench.prior("kspace"), bench.prior("supervised")
    ways: dict[str, tuple[Method, Prior | None]] = {
        "CG-SENSE": (CgSense(), None),
        "kspace, one step": (Aos(), kspace),
        "adapted, one step": (Aos(), kspace),
        "supervised, dds": (DDS_FEW, supervised),
        "L1-wavelet": (L1Wavelet(n_iter=50), None),
    }
    for way, (method, prior) in ways.items():
        bench.row(
            ("instabilities", way, ""), attacked, bench, method, prior, way.startswith("adapted")
        )


def attacked(bench: Bench, method: Method, prior: Prior | None, adapting: bool) -> Row:
    """The worst changes of all test scans."""
    found: list[Attack] = []
    for case, path in zip(bench.cases("R4"), bench.paths("R4"), strict=True):
        own = bench.adapted("R4", [path], N_ADAPT) if adapting else prior
        n_iter = 2 if bench.args.quick else 20
        recipe = Recipe(method, prior=own).resolve()
        found += attack(case.scan, recipe, n_iter=n_iter, others=())
    figures = ("change", "by_noise", "rising", "amplification")
    return {f"{name}_each": [getattr(one, name) for one in found] for name in figures}


def patches(bench: Bench) -> None:
    """Few scans."""
    quick = 1 if bench.args.quick else None
    for count in FEW[:quick]:
        bench.classical("patches", f"{count} scans", "R4")
        for name in list(NETWORKS)[:quick]:
            prior = bench.prior(f"{count} {name}")
            bench.scored(("patches", f"{count} scans", name), "R4", Aos(), prior)


SCALES = (1, 2, 4)
"""Pixels are averaged over so many before patches are compared."""

SIDE = 6
"""Pixels a side of a patch."""


def ambient(bench: Bench) -> None:
    """Images drawn from priors, compared with held-out images and with training images."""
    held_out = bench.images("full", "val")
    bench.row(("samples", "training images", ""), likeness, bench.images("full", "train"), held_out)
    for name in ("supervised", "refit", "gsure", "kspace"):
        bench.row(("samples", name, ""), likeness_of_drawn, bench, name, held_out)
    for name in ("50 supervised", "50 ambient"):
        bench.row(("memorisation", name, ""), nearness_of_drawn, bench, name, held_out)


def likeness_of_drawn(bench: Bench, name: str, held_out: list[Tensor]) -> Row:
    """How like held-out images the images are that a prior draws."""
    return likeness(bench.drawn(name), held_out)


def nearness_of_drawn(bench: Bench, name: str, held_out: list[Tensor]) -> Row:
    """How near the images that a prior draws are to its training images."""
    trained = {item.file.scan_id for item in bench.trained_on(name)}
    clean = [
        item for item in bench.items("full", PRIORS[name].count) if item.file.scan_id in trained
    ]
    return nearness(bench.drawn(name), [_image(item.read()) for item in clean], held_out)


def patches_of(images: list[Tensor], scale: int) -> list[Tensor]:
    """Patches of every image with something in them, ``(patch, SIDE^2)``, brightness of 1."""
    found = []
    for img in images:
        small = functional.avg_pool2d(img[None, None] / img.square().mean().sqrt(), scale)
        cut = functional.unfold(small, SIDE)[0].T
        found.append(cut[cut.mean(dim=1) > 0.3])
    return found


def frechet(a: Tensor, b: Tensor) -> float:
    """Frechet distance between Gaussians fitted to vectors, over the variance of ``b``."""
    C, D = (torch.cov(x.T.double()) for x in (a, b))
    values, vectors = torch.linalg.eigh(D)
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    cross = torch.linalg.eigvalsh(root @ C @ root).clamp(min=0).sqrt().sum()
    distance = (a.mean(0) - b.mean(0)).double().square().sum() + C.trace() + D.trace() - 2 * cross
    return float(distance / D.trace())


def likeness(images: list[Tensor], held_out: list[Tensor]) -> Row:
    """Frechet distance of patches at every scale, with its standard error over the images."""
    row: Row = {"n": len(images)}
    for scale in SCALES:
        ours, theirs = patches_of(images, scale), torch.cat(patches_of(held_out, scale))
        row[f"frechet_{scale}"] = frechet(torch.cat(ours), theirs)
        rng = np.random.default_rng(0)
        resampled = [
            frechet(torch.cat([ours[i] for i in rng.integers(len(ours), size=len(ours))]), theirs)
            for _ in range(20)
        ]
        row[f"error_{scale}"] = float(np.std(resampled))
    return row


def nearness(images: list[Tensor], trained: list[Tensor], held_out: list[Tensor]) -> Row:
    """Distances to the nearest training image, of drawn and of held-out images."""
    known = torch.stack([feature(img) for img in trained])
    ours, theirs = (
        nearest(torch.stack([feature(img) for img in group]), known)[0]
        for group in (images, held_out)
    )
    suspects = int((ours < theirs.min()).sum())
    return {
        "n": len(images), "trained": len(trained), "suspects": suspects,
        "expected": len(images) / (len(held_out) + 1),
        "median": float(ours.median()), "least": float(ours.min()),
        "held_out_median": float(theirs.median()), "held_out_least": float(theirs.min()),
    }  # fmt: skip


CLAIMS: dict[str, Callable[[Bench], None]] = {
    "adps": adps,
    "gsure": gsure,
    "ambient": ambient,
    "fine-tuning": fine_tuning,
    "tweedie": tweedie,
    "instabilities": instabilities,
    "patches": patches,
}


HEADS = {
    "adps": "supervised, A-DPS",
    "gsure": "supervised, dds",
    "fine-tuning": "none",
    "tweedie": "truncate",
    "patches": "whole",
}
"""Claims whose cells are PSNRs, and the column that the others are compared with."""

Table = dict[str, dict[str, Row]]
"""Line to column to figures."""


def finished(work: Path) -> dict[str, Any]:
    """Everything that is there: the cells by claim, line and column, and what priors took."""
    found: dict[str, Any] = {"priors": {}}
    for path in sorted((work / "priors").glob("*.json")):
        found["priors"][path.stem] = json.loads(path.read_text())
    for path in sorted((work / "rows").glob("*.json")):
        row = json.loads(path.read_text())
        claim, line, column = row.pop("cell")
        found.setdefault(claim, {}).setdefault(line, {})[column] = row
    return found


def grid(table: Table, reference: str) -> Iterator[str]:
    """PSNR in every cell, and its mean difference to the reference column of the same line."""
    classical = (CgSense.name, L1Wavelet.name)
    columns = sorted(
        {column for row in table.values() for column in row},
        key=lambda column: (column != reference, column in classical, column),
    )
    yield f"| | {' | '.join(columns)} |"
    yield "|---" * (len(columns) + 1) + "|"
    for line, row in table.items():
        cells = [_cell(row.get(column), row.get(reference)) for column in columns]
        yield f"| {line} | {' | '.join(cells)} |"
    for key, what in {"seconds": "CPU s a scan", "adapt_seconds": "CPU s a scan to adapt"}.items():
        found = [[row[c][key] for row in table.values() if key in row.get(c, {})] for c in columns]
        if any(found):
            means = [f"{np.mean(one):.2f}" if one else "" for one in found]
            yield f"| {what} | {' | '.join(means)} |"


def _cell(row: Row | None, reference: Row | None) -> str:
    if row is None:
        return ""
    text = f"{row['psnr']:.2f}"
    if reference is None or row["psnr_each"] == reference["psnr_each"]:
        return text
    return f"{text} ({difference(row, reference)})"


def spreads(table: Table) -> Iterator[str]:
    """What samples say of their error, over it: mean and standard error over the scans."""
    yield "| scans | way | spread over error |"
    yield "|---|---|---|"
    for line, row in table.items():
        for column, cell in row.items():
            if "spread_each" in cell:
                yield f"| {line} | {column} | {_mean(cell['spread_each'])} |"


def attacks(table: Table) -> Iterator[str]:
    """Amplification, and its ratio to CG-SENSE."""
    yield "| | worst change of the image | by equal noise | amplification | over CG-SENSE |"
    yield "|---|---|---|---|---|"
    base = np.array(table["CG-SENSE"][""]["amplification_each"])
    for line, row in table.items():
        cell = row[""]
        figures = [_mean(cell[f"{name}_each"]) for name in ("change", "by_noise", "amplification")]
        ratio = _mean((np.array(cell["amplification_each"]) / base).tolist())
        yield f"| {line} | {' | '.join(figures)} | {ratio} |"


def _mean(values: list[float]) -> str:
    return f"{np.mean(values):.3f} ± {np.std(values, ddof=1) / len(values) ** 0.5:.3f}"


def likenesses(table: Table) -> Iterator[str]:
    """Patch statistics of drawn images."""
    yield f"| images | {' | '.join(f'pixels x {scale}' for scale in SCALES)} |"
    yield "|---" * (len(SCALES) + 1) + "|"
    for line, row in table.items():
        cell = row[""]
        figures = [f"{cell[f'frechet_{k}']:.3f} ± {cell[f'error_{k}']:.3f}" for k in SCALES]
        yield f"| {line} | {' | '.join(figures)} |"


def copies(table: Table) -> Iterator[str]:
    """Distances to training images."""
    yield "| prior | median | smallest | held-out: median | smallest | nearer than all held-out |"
    yield "|---|---|---|---|---|---|"
    for line, row in table.items():
        cell = row[""]
        names = ("median", "least", "held_out_median", "held_out_least")
        figures = " | ".join(f"{cell[name]:.3f}" for name in names)
        chance = f"{cell['suspects']} of {cell['n']} ({cell['expected']:.1f} by chance)"
        yield f"| {line} | {figures} | {chance} |"


def trainings(priors: dict[str, Row]) -> Iterator[str]:
    """What every prior was trained on, for how long."""
    yield "| prior | scans | objective | images | CPU s |"
    yield "|---|---|---|---|---|"
    for name, course in PRIORS.items():
        if name in priors:
            start = course.init or course.refitted
            what = course.objective.name + (f", from {start}" if start else "")
            row = priors[name]
            count = row.get("scans", course.count)
            scans = f"{count} {KINDS[course.kind].contrast}, {course.kind}"
            yield f"| {name} | {scans} | {what} | {row['images']} | {row['cpu_s']} |"


def tables(found: dict[str, Any]) -> Iterator[str]:
    """Markdown: the tables of all claims."""
    yield "\n## Tables\n"
    titles = {"adps": "A-DPS", "gsure": "GSURE", "fine-tuning": "Fine-tuning"}
    titles |= {"tweedie": "Tweedie consistency", "patches": "Patches"}
    for claim, reference in HEADS.items():
        if claim in found:
            yield f"\n### {titles[claim]}\n"
            yield from grid(found[claim], reference)
    others = {
        "tweedie": ("Spread of samples", spreads),
        "samples": ("Drawn images", likenesses),
        "memorisation": ("Memorisation", copies),
        "instabilities": ("Worst-case changes", attacks),
        "priors": ("Priors", trainings),
    }
    for claim, (title, make) in others.items():
        if claim in found:
            yield f"\n### {title}\n"
            yield from make(found[claim])


def write_tables(work: Path, docs: Path) -> None:
    """claims.json, and its tables in place of those in claims.md."""
    found, page = finished(work), docs / "claims.md"
    write_json(docs / "claims.json", found)
    words = page.read_text().partition("\n## Tables")[0] if page.exists() else "# Claims, tested"
    page.write_text("\n".join([words.rstrip("\n"), *tables(found), ""]))


def draw_pictures(work: Path) -> None:
    """A picture of every line of the tables: three test scans by its columns, and the truth."""
    (work / "pictures").mkdir(exist_ok=True)
    groups: dict[str, dict[str, Any]] = {}
    for path in sorted((work / "images").glob("*.npy")):
        group, _, column = path.stem.rpartition("--")
        groups.setdefault(group, {})[column] = np.load(path)
    for group, images in groups.items():
        if group:
            n = len(next(iter(images.values())))
            rows = [{name: stack[i] for name, stack in images.items()} for i in range(n)]
            save_figure(draw_previews(rows), work / "pictures" / f"{group}.png")


def main() -> None:
    """Train, test, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("train", nargs="?", default="phantom")
    parser.add_argument("val", nargs="?", default="phantom")
    parser.add_argument("work", nargs="?", type=Path)
    parser.add_argument("--only", action="append", choices=CLAIMS)
    parser.add_argument("--train-only", action="append", choices=PRIORS, metavar="PRIOR")
    parser.add_argument("--cases", type=int, default=20, help="test scans of every kind")
    parser.add_argument("--drawn", type=int, default=48, help="images drawn from a prior")
    parser.add_argument("--table", type=Path, metavar="DOCS", help="write the tables, and stop")
    parser.add_argument("--pictures", action="store_true", help="draw the pictures, and stop")
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", NumericalWarning)
    if args.quick:
        args.work, args.cases = Path(tempfile.mkdtemp()), 1
        args.only = args.only or ["patches"]
    elif args.work is None:
        parser.error("TRAIN, VAL and WORK are needed without --quick")
    if args.table:
        write_tables(args.work, args.table)
        return
    if args.pictures:
        draw_pictures(args.work)
        return
    bench = Bench(args)
    for name in args.train_only or ():
        bench.prior(name)
    for claim in () if args.train_only else args.only or CLAIMS:
        CLAIMS[claim](bench)
    if args.quick:
        write_tables(args.work, args.work)
        draw_pictures(args.work)


if __name__ == "__main__":
    main()
