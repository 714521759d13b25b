"""Losses and network of deepinv beside ours: the same scans, trained for the same CPU time.

    python tests/benchmarks/bench_peer_losses.py TRAIN.zip VAL.zip WORK [--minutes 8] [--only NAME]

simulates undersampled scans (64 x 64, 8 coils, R = 4 random lines of which 8 are for calibration,
one mask an image), prepares them, and trains our objectives ``kspace`` and ``ssdu`` (preset
``tiny16``) and the unrolled network MoDL of deepinv by that library's losses for MRI, all on the
same batches, maps, noise and one thread, in bfloat16. MoDL is given the U-Net, the learning rate
and the losses' options of SSIBench, the benchmark of deepinv's authors (github.com/Andrewwango/
ssibench); where the mask law enters a loss, it is that of the scans. "supervised" is given the
noise-free complete k-space of the same scans: a ceiling. Learners take turns of ``--turn`` seconds
of CPU time, so that what else the machine does falls on all alike; they are scored on simulated
scans of other patients: PSNR (dB) and NRMSE inside the support against the noise-free RSS image,
ours by one step with data consistency. For deepinv both the weights and an average of them as ours
are scored, the network's image as it is and after our data consistency with a grid of weights; the
best counts (in hindsight).

deepinv needs the environment that ``bench_peers.py`` names, with libcpab for MO-EI; without it only
our rows are made. What is killed goes on from the last turn. ``--table DOCS`` writes the page
DOCS/peers.md of what is there, after the longest time that all learners have, except for its words
under "How it was measured", and stops. ``--quick`` trains on phantoms in seconds and says nothing
about quality.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import tempfile
import time
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bench_peers import check_physics, complex_image, import_deepinv, physics_of, planes
from scoring import Case, case_of, commit, mean_and_error
from torch import Tensor, nn

from mri_ambient.data_prep import (
    MANIFEST,
    ScanModel,
    SimulateConfig,
    plan_preparation,
    prepare,
    simulate,
)
from mri_ambient.data_prep.compress import compress_coils
from mri_ambient.data_prep.normalise import normalise
from mri_ambient.data_prep.simulation.images import open_images
from mri_ambient.data_prep.whiten import whiten
from mri_ambient.errors import NumericalWarning
from mri_ambient.io import open_scan
from mri_ambient.methods import Aos, CgSense, L1Wavelet, Method, ZeroFilled
from mri_ambient.methods.base import FINAL_CG, data_consistency
from mri_ambient.objectives import Kspace, Objective, Ssdu
from mri_ambient.priors.prior import Prior
from mri_ambient.priors.unet import n_parameters
from mri_ambient.recon.engine import to_file_units
from mri_ambient.rng import rng_for
from mri_ambient.runtime.files import write_json
from mri_ambient.runtime.process_group import ProcessGroup
from mri_ambient.scan import Batch
from mri_ambient.training.config import TrainConfig, TrainJob
from mri_ambient.training.dataset import BatchSequence, SizeGroup
from mri_ambient.training.preflight import TrainPlan, plan
from mri_ambient.training.trainer import Trainer, first_network
from mri_ambient.training.validation import fit_tau

Row = dict[str, Any]

COMMIT = commit()
"""When the script was started."""

TRAIN_SEED, VAL_SEED, SEED = 51, 52, 0
MARKS = (1.0, 2.0, 4.0, 8.0, 16.0)
"""Minutes of CPU time after which learners are scored, and after the last."""

SCANS = SimulateConfig(size=(64, 64), coils=8, calib=8, noise=0.005, jitter=True)
"""Noise in units of the object's maximum: about 0.01 in normalised units."""

BATCH, RATE, DEPTH = 4, 1e-3, 3
"""Of deepinv's rows, as in SSIBench: batch size, learning rate of Adam, iterations of MoDL."""

LARGE = 1e4
"""A factor on its losses, which Adam undoes. Its conjugate gradients add 1e-8 to the energy of a
residual: where gradients are small they run to their limit of 50 iterations. With this factor a
step takes half the time or less."""

CHANNELS = {"wide": (64, 128, 256, 512), "narrow": (32, 64, 128, 256)}
"""Of its U-Net: SSIBench's, and one that sees several times as many images in the same time."""

TAUS = (0.02, 0.04, 0.08, 0.16, 0.32)
"""deepinv's rows: assumed errors of the image in data consistency, in normalised units."""

OURS: dict[str, Objective] = {"kspace": Kspace(), "ssdu": Ssdu()}
LOSSES = ("weighted SSDU", "robust SSDU", "EI", "MO-EI", "supervised")
"""Of deepinv."""

PEERS = [f"{loss}, narrow" for loss in LOSSES] + ["weighted SSDU, wide", "supervised, wide"]


@dataclass(frozen=True)
class Ground:
    """What all learners share: training scans, their noise-free images, validation scans."""

    plan: TrainPlan
    images: Path
    cases: list[Case]

    @cached_property
    def clean(self) -> dict[str, Tensor]:
        """Noise-free images ``(y, x)`` of the training scans, in normalised units."""
        found: dict[str, Tensor] = torch.load(self.images)
        return found


def ground_of(args: argparse.Namespace, scratch: Path) -> Ground:
    """Simulate and prepare what is missing."""
    folder, images = args.work / "prepared", args.work / "images.pt"
    config = replace(args.scans, seed=TRAIN_SEED)
    if not images.exists():
        raw = simulate(args.train, args.work / "raw", config, count=args.n_scans)
        if not (folder / MANIFEST).exists():
            prepare(raw, folder)
        torch.save(clean_images(args, config, raw), images)
    job = TrainJob(
        folder, scratch / "run", TrainConfig(n_validation=args.n_tau), images=1, force=True
    )
    source = open_images(str(args.val))
    names = sorted(
        source.names(args.n_cases, 1), key=lambda name: rng_for(VAL_SEED, name).initial_seed()
    )
    config = replace(args.scans, seed=VAL_SEED)
    cases = [case_of(source, name, config, scratch) for name in names[: args.n_cases]]
    return Ground(plan(job), images, cases)


def clean_images(
    args: argparse.Namespace, config: SimulateConfig, raw: list[Path]
) -> dict[str, Tensor]:
    """What the training scans show: noise-free, complete k-space in the prepared coils."""
    source, found = open_images(str(args.train)), {}
    for path in raw:
        rng = rng_for(config.seed, path.stem, "object")
        model = ScanModel(source.read(path.stem, config.size, 1, rng), config, path.stem)
        file = open_scan(path)
        plan = plan_preparation(file)
        full = config.units * model.clean(0)[None]
        scan = replace(file[0:1], ksp=full, mask=torch.ones_like(file[0:1].mask))
        scan = normalise(compress_coils(whiten(scan, plan.noise), plan.compression), plan.scale)
        maps = open_scan(args.work / "prepared" / path.name)[0:1].maps
        op = Batch.of([replace(scan, maps=maps)]).op
        found[path.stem] = op.combine(scan.ksp)[0]
    return found


class Learner(ABC):
    """A network in training.

    Attributes:
        steps, cpu: steps taken, and seconds of CPU time they took.
    """

    batch_size: int

    def __init__(self, ground: Ground) -> None:
        self.ground, self.steps, self.cpu = ground, 0, 0.0

    @cached_property
    def batches(self) -> BatchSequence:
        """The training scans in this learner's batches, in the same order for all."""
        return BatchSequence(self.ground.plan.dataset, self.batch_size, SEED)

    def turn(self, until_s: float) -> None:
        """Train until so many seconds of CPU time are over."""
        while self.cpu < until_s:
            started = time.process_time()
            self.step()
            self.steps += 1
            self.cpu += time.process_time() - started

    @abstractmethod
    def step(self) -> None:
        """One step of the optimiser."""

    @abstractmethod
    def scored(self) -> Row:
        """Figures on the validation scans."""

    @abstractmethod
    def state(self) -> Row:
        """All that a resumed training needs, beside steps and time."""

    @abstractmethod
    def restore(self, state: Row) -> None:
        """Take over a stored state."""

    @property
    @abstractmethod
    def parameters(self) -> int:
        """Number of weights."""


class Ours(Learner):
    """One of our objectives, trained by the library's own trainer."""

    def __init__(self, name: str, ground: Ground, preset: str) -> None:
        super().__init__(ground)
        config = TrainConfig(objective=OURS[name], preset=preset, precision="bf16")
        job = replace(ground.plan.job, config=config)
        self.facts, self.batch_size = plan(job).facts, config.batch_size
        net = first_network(self.facts, SEED, None)
        net.autocast = True
        self.trainer = Trainer(net, config, ProcessGroup.current())

    def step(self) -> None:
        self.trainer.step(self.batches[self.steps])

    def scored(self) -> Row:
        prior = Prior(self.trainer.average, self.facts)
        with prior.autocast(False):
            prior.tau, error, _ = fit_tau(prior, self.ground.plan.cases)
            images = [Aos()(prior, batch, [rng_for(0)])[0] for batch in batches_of(self.ground)]
        return {"held_out": round(error, 4), "weights": "average"} | score(self.ground, images)

    def state(self) -> Row:
        return {"tensors": self.trainer.tensors(), "counts": self.trainer.counts()}

    def restore(self, state: Row) -> None:
        self.trainer.restore(state["tensors"], state["counts"])

    @property
    def parameters(self) -> int:
        return n_parameters(self.trainer.net)


class Bf16(nn.Module):
    """A denoiser of deepinv that runs in bfloat16 while it trains."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net.to(memory_format=torch.channels_last)

    def forward(self, x: Tensor, sigma: Any = None) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=self.training):
            out: Tensor = self.net(x.contiguous(memory_format=torch.channels_last), sigma).float()
        return out


class Peer(Learner):
    """MoDL of deepinv, trained by one of its losses."""

    batch_size = BATCH

    def __init__(self, name: str, ground: Ground) -> None:
        super().__init__(ground)
        self.deepinv = import_deepinv()
        torch.manual_seed(rng_for(SEED, "initial weights").initial_seed())
        loss, _, network = name.rpartition(", ")
        widths = CHANNELS[network]
        unet = self.deepinv.models.UNet(2, 2, channels_per_scale=widths, batch_norm=False)
        self.net = self.deepinv.models.MoDL(denoiser=Bf16(unet), num_iter=DEPTH)
        self.losses = losses_of(loss, self.deepinv, ground)
        for each in self.losses:
            self.net = each.adapt_model(self.net)
        self.average = deepcopy(self.net).requires_grad_(False).eval()
        self.optimizer = torch.optim.Adam(self.net.parameters(), lr=RATE)
        self.keep_at = TrainConfig().ema_decay_at

    def step(self) -> None:
        (group,) = self.batches[self.steps].groups
        torch.manual_seed(rng_for(SEED, "step", self.steps).initial_seed())
        batch = self._augmented(group)
        physics = physics_of(self.deepinv, batch)
        y = planes(batch.measured)
        self.net.train()
        self.optimizer.zero_grad()
        x_net = (
            self.net(y, physics, update_parameters=True) if self._splits else self.net(y, physics)
        )
        given = {"x_net": x_net, "y": y, "physics": physics, "model": self.net}
        given["x"] = planes(batch.img)
        (LARGE * sum(loss(**given).mean() for loss in self.losses)).backward()
        self.optimizer.step()
        keep = self.keep_at(self.steps + 1)
        with torch.no_grad():
            pairs = zip(self.average.parameters(), self.net.parameters(), strict=True)
            for average, weight in pairs:
                average.lerp_(weight, 1 - keep)

    @property
    def _splits(self) -> bool:
        return isinstance(self.net, self.deepinv.loss.SplittingLoss.SplittingModel)

    def _augmented(self, group: SizeGroup) -> Batch:
        """A batch with noise-free images, augmented as ours is."""
        names = [name.partition("/")[0] for name in group.names]
        images = torch.stack([self.ground.clean[name] for name in names])
        streams = [rng_for(SEED, "augment", self.steps, i) for i in group.positions]
        return replace(group.batch.to("cpu"), img=images).augmented(streams)

    @torch.no_grad()
    def scored(self) -> Row:
        rows = []
        for weights, net in (("last", self.net.eval()), ("average", self.average)):
            images = [
                complex_image(net(planes(batch.measured), physics_of(self.deepinv, batch)))
                for batch in batches_of(self.ground)
            ]
            found = {tau: score(self.ground, consistent(self.ground, images, tau)) for tau in TAUS}
            found[None] = score(self.ground, [img[0] for img in images])
            plain = {"weights": weights, "plain_psnr": found[None]["psnr"]}
            rows += [plain | {"tau": tau} | row for tau, row in found.items()]
        return max(rows, key=lambda row: row["psnr"])

    def state(self) -> Row:
        parts = {"net": self.net, "average": self.average, "optimizer": self.optimizer}
        return {name: part.state_dict() for name, part in parts.items()}

    def restore(self, state: Row) -> None:
        self.net.load_state_dict(state["net"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])

    @property
    def parameters(self) -> int:
        return n_parameters(self.net)


def losses_of(name: str, deepinv: Any, ground: Ground) -> list[Any]:
    """The losses that are summed, with SSIBench's options and the mask law of our scans."""
    shape = ground.plan.dataset.train[0].shape
    law = mask_law(deepinv, shape, SCANS.acceleration, SCANS.calib)
    split = deepinv.physics.generator.MultiplicativeSplittingMaskGenerator(
        (1, *shape), mask_law(deepinv, shape, 2, 0)
    )
    noise = deepinv.physics.GaussianNoise(
        float(np.mean([item.noise_std for item in ground.plan.dataset.train]))
    )

    class AdjointMC(deepinv.loss.MCLoss):
        """Misfit to the measurement after the adjoint, as SSIBench has it for several coils."""

        def forward(self, y: Tensor, x_net: Tensor, physics: Any, **_: Any) -> Any:
            return self.metric(physics.A_adjoint(physics.A(x_net)), physics.A_adjoint(y))

    if name == "weighted SSDU":
        return [deepinv.loss.mri.WeightedSplittingLoss(split, law)]
    if name == "robust SSDU":
        return [deepinv.loss.mri.RobustSplittingLoss(split, law, noise)]
    if name == "EI":
        return [AdjointMC(), deepinv.loss.EILoss(deepinv.transform.Rotate())]
    if name == "MO-EI":
        warp = deepinv.transform.CPABDiffeomorphism()
        return [AdjointMC(), deepinv.loss.MOEILoss(warp, physics_generator=law)]
    return [deepinv.loss.SupLoss()]


def mask_law(deepinv: Any, shape: tuple[int, int], acceleration: float, calib: int) -> Any:
    """deepinv's generator of masks of random lines with some in the centre, as ours are."""
    return deepinv.physics.generator.RandomMaskGenerator(
        (1, *shape), acceleration=acceleration, center_fraction=calib / shape[1]
    )


def batches_of(ground: Ground) -> Iterator[Batch]:
    """The validation scans, one by one."""
    return (Batch.of([case.scan]) for case in ground.cases)


def consistent(ground: Ground, images: list[Tensor], tau: float) -> list[Tensor]:
    """Images ``(1, y, x)`` after data consistency, ``(y, x)``."""
    return [
        data_consistency(
            batch.op, batch.measured, img, noise_std=batch.noise_std, tau=tau, n_iter=FINAL_CG
        )[0]
        for batch, img in zip(batches_of(ground), images, strict=True)
    ]


def score(ground: Ground, images: list[Tensor]) -> Row:
    """PSNR (dB) and NRMSE of images ``(y, x)`` of the validation scans, inside the support."""
    psnr, nrmse = [], []
    for case, img in zip(ground.cases, images, strict=True):
        psnr.append(case.psnr(img[None]))
        ours = to_file_units(img[None].abs(), case.scan)[0]
        inside = ours > 0
        nrmse.append(float((ours - case.truth)[inside].norm() / case.truth[inside].norm()))
    return {
        "psnr": round(float(np.mean(psnr)), 3),
        "nrmse": round(float(np.mean(nrmse)), 4),
        "psnr_each": [round(value, 3) for value in psnr],
        "nrmse_each": [round(value, 4) for value in nrmse],
    }


def learner_of(name: str, args: argparse.Namespace, ground: Ground) -> Learner:
    """A learner, at the beginning of its training."""
    return Ours(name, ground, args.preset) if name in OURS else Peer(name, ground)


def compete(args: argparse.Namespace, scratch: Path) -> None:
    """Train all learners in turns, score each at the marks."""
    ground, rows = ground_of(args, scratch), args.work / "rows"
    rows.mkdir(exist_ok=True)
    write_json(rows / "references.json", [{"learner": "references", "rows": references(ground)}])
    if args.deepinv:
        check_physics(
            physics_of(import_deepinv(), next(batches_of(ground))), next(batches_of(ground))
        )
    learners = {name: learner_of(name, args, ground) for name in args.only}
    for name, learner in learners.items():
        resume(learner, args.work / f"{file_name(name)}.pt")
    limit, marks = 60 * args.minutes, [60 * mark for mark in MARKS]
    for until in [*np.arange(args.turn, limit, args.turn), limit]:
        for name, learner in learners.items():
            if learner.cpu >= until:
                continue
            before = learner.cpu
            learner.turn(float(until))
            row = {"learner": name, "cpu_s": round(learner.cpu, 1), "steps": learner.steps}
            if any(before < mark <= learner.cpu for mark in (*marks, limit)):
                write_row(rows / f"{file_name(name)}.json", row, learner)
            print(json.dumps({"benchmark": "peer losses", **row}), flush=True)
            save(learner, args.work / f"{file_name(name)}.pt")


def file_name(name: str) -> str:
    """Of a learner's files."""
    return name.replace(" ", "_")


def save(learner: Learner, path: Path) -> None:
    """Store a training under a temporary name first."""
    state = {"steps": learner.steps, "cpu": learner.cpu, "state": learner.state()}
    torch.save(state, path.with_suffix(".tmp"))
    path.with_suffix(".tmp").rename(path)


def resume(learner: Learner, path: Path) -> None:
    """Take over a stored training, if there is one."""
    if path.exists():
        stored = torch.load(path)
        learner.steps, learner.cpu = stored["steps"], stored["cpu"]
        learner.restore(stored["state"])


def write_row(path: Path, row: Row, learner: Learner) -> None:
    """Add the scores of this moment to the learner's file."""
    row |= {"images": learner.steps * learner.batch_size, "parameters": learner.parameters}
    row |= learner.scored() | {"commit": COMMIT}
    earlier = json.loads(path.read_text()) if path.exists() else []
    write_json(path, [*(r for r in earlier if r["cpu_s"] < row["cpu_s"]), row])


def references(ground: Ground) -> dict[str, Row]:
    """The classical methods with their default weights."""

    def images(method: Method) -> list[Tensor]:
        return [method(None, batch, [])[0] for batch in batches_of(ground)]

    methods = (ZeroFilled(), CgSense(), L1Wavelet())
    return {method.name: score(ground, images(method)) for method in methods}


HEAD = (
    "learner", "weights (M)", "images seen", "PSNR", "NRMSE", "`kspace` leads by",
    "PSNR of the network alone", "earlier: PSNR (after so many CPU seconds)",
)  # fmt: skip


def measured(rows: Path) -> tuple[dict[str, list[Row]], dict[str, Row]]:
    """Rows of the learners, to the last mark that all have; those of the classical methods."""
    lists = map(read_json, rows.glob("*.json"))
    found = {marks[-1]["learner"]: marks for marks in lists}
    plain = found.pop("references")[-1]["rows"]
    n_marks = min(len(marks) for marks in found.values())
    return {name: marks[:n_marks] for name, marks in found.items()}, plain


def table(rows: Path) -> Iterator[str]:
    """Markdown: a line a learner, the best first, then the classical methods."""
    found, plain = measured(rows)
    first = found["kspace"][-1]
    n_shown = len(HEAD) - all(len(marks) == 1 for marks in found.values())  # of earlier, nothing
    yield f"| {' | '.join(HEAD[:n_shown])} |"
    yield "|---" * n_shown + "|"
    for name, marks in sorted(found.items(), key=lambda item: -item[1][-1]["psnr"]):
        row = marks[-1]
        lead = np.subtract(first["psnr_each"], row["psnr_each"])
        cells = [
            f"**`{name}`**, ours" if name in OURS else f"deepinv MoDL, {name}",
            f"{row['parameters'] / 1e6:.1f}",
            f"{row['images']}",
            f"{row['psnr']:.2f}",
            f"{row['nrmse']:.4f}",
            "" if name == "kspace" else mean_and_error(lead),
            f"{row['plain_psnr']:.2f}" if "plain_psnr" in row else "",
            ", ".join(f"{mark['psnr']:.2f} ({mark['cpu_s']:.0f})" for mark in marks[:-1]),
        ]
        yield f"| {' | '.join(cells[:n_shown])} |"
    for name, row in plain.items():
        lead = mean_and_error(np.subtract(first["psnr_each"], row["psnr_each"]))
        cells = [name, "", "", f"{row['psnr']:.2f}", f"{row['nrmse']:.4f}", lead, "", ""]
        yield f"| {' | '.join(cells[:n_shown])} |"
    seconds = [round(marks[-1]["cpu_s"]) for marks in found.values()]
    commits = ", ".join(sorted({marks[-1]["commit"] for marks in found.values()}))
    yield f"\nCPU seconds of each: {min(seconds)} to {max(seconds)}; commits: {commits}."


def read_json(path: Path) -> list[Row]:
    """The rows of a file."""
    found: list[Row] = json.loads(path.read_text())
    return found


def verdict(rows: Path) -> str:
    """By how much ``kspace`` leads deepinv's best row that saw no images; negative if it trails."""
    found = {name: marks[-1] for name, marks in measured(rows)[0].items()}
    peers = [name for name in found if name in PEERS and not name.startswith("supervised")]
    best = max(peers, key=lambda name: found[name]["psnr"])
    lead = np.subtract(found["kspace"]["psnr_each"], found[best]["psnr_each"])
    seconds = min(row["cpu_s"] for row in found.values())
    return (
        f"After {seconds / 60:.1f} minutes of CPU time each, `kspace` leads deepinv's best\n"
        f"self-supervised row ({best}) by {mean_and_error(lead)} dB."
    )


def write_table(args: argparse.Namespace) -> None:
    """The page peers.md of what is there, with the words it has."""
    page, head, rows = args.table / "peers.md", "## How it was measured", args.work / "rows"
    words = page.read_text().partition(head)[2] if page.exists() else "\n"
    lines = ["# Other people's losses\n", verdict(rows), "", *table(rows), "", f"{head}{words}"]
    page.write_text("\n".join(lines))


def main() -> None:
    """Train, score, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("train", nargs="?", default="phantom")
    parser.add_argument("val", nargs="?", default="phantom")
    parser.add_argument("work", nargs="?", type=Path)
    parser.add_argument("--minutes", type=float, default=8.0, help="CPU time of a learner")
    parser.add_argument("--turn", type=float, default=60.0, help="seconds of a turn")
    parser.add_argument("--scans", dest="n_scans", type=int, default=808, help="for training")
    parser.add_argument("--cases", dest="n_cases", type=int, default=40, help="for validation")
    parser.add_argument("--only", action="append", choices=[*OURS, *PEERS], metavar="NAME")
    parser.add_argument("--table", type=Path, metavar="DOCS", help="write the table, and stop")
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    args.deepinv = importlib.util.find_spec("deepinv") is not None
    args.preset, args.n_tau, args.scans = "tiny16", 8, SCANS
    args.only = args.only or [*OURS, *(PEERS if args.deepinv else ())]
    if args.quick:
        args.preset, args.n_tau, args.minutes, args.n_scans, args.n_cases = "tiny", 1, 1e-4, 5, 1
        args.work, args.scans = Path(tempfile.mkdtemp()), replace(SCANS, size=(48, 48))
        args.only = [
            name for name in args.only if name in ("kspace", "EI, narrow", "robust SSDU, narrow")
        ]
    elif args.work is None:
        parser.error("TRAIN, VAL and WORK are needed without --quick")
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", NumericalWarning)
    if args.table is not None:
        write_table(args)
        return
    with tempfile.TemporaryDirectory() as scratch:
        compete(args, Path(scratch))


if __name__ == "__main__":
    main()
