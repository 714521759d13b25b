"""``mri-ambient demo``: the whole path on simulated heads, with everything it makes kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from .common import Device, Quiet, parse_seconds, progress_bar, say

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from mri_ambient.methods import Sampler
    from mri_ambient.methods.baselines import Baseline
    from mri_ambient.priors.prior import Prior
    from mri_ambient.training.loop import Progress

SIZE = (96, 96)
N_COILS = 6
ACCELERATION = 4.0
CALIB_LINES = 12
NOISE = 0.01
N_SCANS = 40
DEMO_SEED = 2026
"""Seed of the demo's heads; the shipped prior was trained on phantoms of other seeds (tested)."""

N_ADPS = 100

Tick = Callable[[float], None]


def run(
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder to write to.")] = Path(
        "mri-ambient-demo"
    ),
    train_time: Annotated[str, typer.Option(help="How long to train, to show how.")] = "30s",
    device: Device = "auto",
    quiet: Quiet = False,
) -> None:
    """Simulate, prepare, train for half a minute, reconstruct a held-out head six ways.

    Training sees undersampled scans only. The reconstructions use the prior that ships with the
    package; the one trained on the spot is shown beside it.
    """
    from mri_ambient.data_prep import prepare_many
    from mri_ambient.errors import OutputExistsError
    from mri_ambient.priors.checkpoint import load_prior
    from mri_ambient.priors.weights import default_prior
    from mri_ambient.runtime.device import keep_freed_memory, pick_device
    from mri_ambient.runtime.files import write_json
    from mri_ambient.training.config import TrainConfig
    from mri_ambient.training.loop import train

    if (output / "run").exists():
        raise OutputExistsError(f"{output}: holds a demo already; choose another folder with -o")
    where = pick_device(device)
    keep_freed_memory()
    seconds = parse_seconds(train_time)

    with _stage("1/5 simulate undersampled scans", N_SCANS) as tick:
        raw = _simulate(output / "raw", full=False, count=N_SCANS, tick=tick)
    with _stage("2/5 prepare them", len(raw)) as tick:
        prepare_many(raw, output / "prepared", on_scan=lambda *_: tick(1))
    with _stage("3/5 train on the measurements alone", seconds) as tick:
        last = 0.0

        def trained(progress: Progress) -> None:
            nonlocal last
            tick(progress.seconds - last)
            last = progress.seconds

        fresh = train(
            output / "prepared",
            output / "run",
            TrainConfig(batch_size=4, warmup_images=40, check_every=10**9, n_validation=4),
            time_limit_s=seconds,
            device=where,
            on_progress=trained,
        )
    with _stage("4/5 simulate a held-out head", 1) as tick:
        full = _simulate(output / "held-out", full=True, count=1, tick=tick)[0]
    with _stage("5/5 reconstruct it", N_ADPS + 5) as tick:
        shipped = load_prior(default_prior(), where)
        rows, images = _reconstruct(full, output / "recon", shipped, fresh, where, tick)

    write_json(output / "demo.json", rows)
    _draw(images, rows, output / "demo.png")
    Console().print(_table(rows))
    say(f"figure: {output / 'demo.png'}; every file in between is in {output}")


@contextmanager
def _stage(name: str, total: float) -> Iterator[Tick]:
    """A stage with a bar and the time left; one line where nobody watches."""
    with progress_bar() as bars:
        if bars.disable:
            say(name)
        task = bars.add_task(name, total=total)
        yield lambda amount: bars.advance(task, amount)


def _simulate(folder: Path, *, full: bool, count: int, tick: Tick) -> list[Path]:
    from mri_ambient.data_prep import SimulateConfig, simulate_scans

    config = SimulateConfig(
        size=SIZE,
        coils=N_COILS,
        acceleration=ACCELERATION,
        calib=CALIB_LINES,
        noise=NOISE,
        full=full,
        seed=DEMO_SEED + full,
    )
    return simulate_scans("phantom", folder, config, count=count, on_scan=lambda _: tick(1))


def _reconstruct(
    path: Path,
    output: Path,
    shipped: Prior,
    fresh: Prior,
    device: torch.device,
    tick: Tick,
) -> tuple[list[dict[str, Any]], dict[str, Tensor]]:
    """Every method on one retrospectively undersampled scan: scores and images."""
    import torch

    from mri_ambient.data_prep import plan
    from mri_ambient.io import Undersampled, open_scan
    from mri_ambient.io.hdf5 import open_h5
    from mri_ambient.methods import Adps, Aos
    from mri_ambient.methods.baselines import CgSense, L1Wavelet, ZeroFilled
    from mri_ambient.physics.masks import MaskSpec
    from mri_ambient.recon.engine import Options
    from mri_ambient.recon.reference import plan_reference
    from mri_ambient.recon.volume import reconstruct_file

    full = open_scan(path)
    scan = Undersampled(full, MaskSpec("random", ACCELERATION, CALIB_LINES), seed=DEMO_SEED)
    preparation, reference = plan(scan), plan_reference(full)
    assert reference is not None
    methods: dict[str, tuple[Sampler | Baseline, Prior | None]] = {
        "zero-filled": (ZeroFilled(), None),
        "CG-SENSE": (CgSense(), None),
        "L1-wavelet": (L1Wavelet(), None),
        "A-OS": (Aos(), shipped),
        "A-DPS": (Adps(n_steps=N_ADPS), shipped),
        "A-OS, trained just now": (Aos(), fresh),
    }
    rows, images = [], {"reference": reference.volumes()["rss"][0]}
    for name, (method, prior) in methods.items():
        folder = output / name.lower().replace(" ", "-").replace(",", "")
        report = reconstruct_file(
            scan,
            preparation,
            method,
            prior,
            folder,
            Options(n_samples=1, device=device),
            reference=reference,
            on_step=lambda info: tick(1 if info.n_steps > 1 else 0),
        )
        tick(0 if isinstance(method, Adps) else 1)
        rows.append({"method": name, **report["metrics"], **_seconds(report)})
        with open_h5(folder / f"{scan.scan_id}.h5") as file:
            images[name] = torch.from_numpy(file["reconstruction"][0])
    return rows, images


def _seconds(report: dict[str, Any]) -> dict[str, float]:
    return {
        "seconds": report["provenance"]["seconds"],
        "acceleration": report["acceleration"],
    }


def _draw(images: dict[str, Tensor], rows: list[dict[str, Any]], path: Path) -> None:
    from mri_ambient.plots import save_comparison

    reference = images.pop("reference")
    scores = {row["method"]: f"{row['psnr']:.1f} dB, SSIM {row['ssim']:.2f}" for row in rows}
    save_comparison(reference, images, scores, path)


def _table(rows: list[dict[str, Any]]) -> Table:
    table = Table(
        "method", "PSNR", "SSIM", "NMSE", "seconds",
        title=f"held-out head, R = {rows[0]['acceleration']:.2f}, against RSS of the full scan",
    )  # fmt: skip
    for row in rows:
        table.add_row(
            row["method"],
            f"{row['psnr']:.2f}",
            f"{row['ssim']:.3f}",
            f"{row['nmse']:.4f}",
            f"{row['seconds']:.1f}",
        )
    return table
