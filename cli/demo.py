"""``mri-ambient demo``: the whole path on simulated heads, with everything it makes kept."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import mri_ambient as ma
from mri_ambient.errors import OutputExistsError
from mri_ambient.runtime.config import parse_seconds

from . import options as opt
from .choices import readable
from .console import Bar, print_line, print_table, progress_bar
from .recipe import make_runtime

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from mri_ambient.training.config import Progress

ACCELERATION, CALIB_LINES = 4.0, 12
SIZE = (96, 96)
N_SCANS = 40
DEMO_SEED = 2026
"""Seed of the demo's heads; the shipped prior was trained on phantoms of other seeds (tested)."""

N_ADPS = 100
"""Noise levels of A-DPS."""

Tick = Callable[[float], None]


def run(
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder to write to.")] = Path(
        "mri-ambient-demo"
    ),
    train_time: Annotated[
        str,
        typer.Option(
            help="How long to train, to show how, e.g. 30s or 2m.", callback=readable(parse_seconds)
        ),
    ] = "30s",
    device: opt.Device = "auto",
    quiet: opt.Quiet = False,
) -> None:
    """Show every step on simulated heads, in a few minutes.

    Undersampled scans are simulated, prepared and trained on for half a minute; then a held-out
    head is reconstructed six ways. Training uses undersampled scans only. The reconstructions use
    the prior that ships with the package; the one trained on the spot is shown beside it.
    """
    from mri_ambient.plots import draw_comparison, save_figure
    from mri_ambient.runtime.files import write_json

    if (output / "run").exists():
        raise OutputExistsError(f"{output}: holds a demo already; choose another folder with -o")
    runtime = make_runtime(device)
    warnings.filterwarnings("ignore", r"\[W-PRIOR-WEAK")  # the last lines say so, of half a minute
    seconds = parse_seconds(train_time)

    with _stage("1/5 simulate undersampled scans", N_SCANS) as tick:
        raw = _simulate(output / "raw", full=False, count=N_SCANS, tick=tick)
    with _stage("2/5 prepare them", len(raw)) as tick:
        ma.prepare(raw, output / "prepared", on_scan=lambda *_: tick(1))
    with _stage("3/5 train on the measurements alone", seconds) as tick:
        fresh = _train(output, seconds, runtime, tick)
    with _stage("4/5 simulate a held-out head", 1) as tick:
        full = _simulate(output / "held-out", full=True, count=1, tick=tick)[0]
    with _stage("5/5 reconstruct it", N_ADPS + 6) as tick:
        rows, images = _reconstruct(full, output / "recon", fresh, runtime, tick)

    write_json(output / "demo.json", rows)
    scores = {row["method"]: f"{row['psnr']:.1f} dB, SSIM {row['ssim']:.2f}" for row in rows}
    figure = draw_comparison(images.pop("reference"), images, scores)
    save_figure(figure, output / "demo.png", dpi=150)
    _print_rows(rows)
    seen = fresh.facts.images_seen
    print_line(f"the prior trained just now has seen {seen} images; a useful one needs thousands")
    print_line(f"figure: {output / 'demo.png'}; every file in between is in {output}")


@contextmanager
def _stage(name: str, total: float) -> Iterator[Tick]:
    """A stage with a bar and the time left; one line in a log file."""
    with progress_bar() as bars:
        if bars.disable:
            print_line(name)
        yield Bar(bars, name, total).add


def _simulate(folder: Path, *, full: bool, count: int, tick: Tick) -> list[Path]:
    from mri_ambient.data_prep import SimulateConfig

    config = SimulateConfig(
        size=SIZE,
        coils=6,
        acceleration=ACCELERATION,
        calib=CALIB_LINES,
        noise=0.01,
        full=full,
        seed=DEMO_SEED + full,
    )
    return ma.simulate("phantom", folder, config, count=count, on_scan=lambda _: tick(1))


def _train(output: Path, seconds: float, runtime: ma.Runtime, tick: Tick) -> ma.Prior:
    last = 0.0

    def show(progress: Progress) -> None:
        nonlocal last
        now = min(progress.seconds, seconds)  # the last step ends after the time limit
        tick(now - last)
        last = now

    config = ma.TrainConfig(batch_size=4, warmup_images=40, check_every=10**9, n_validation=4)
    return ma.train(
        output / "prepared",
        output / "run",
        config,
        time_limit=seconds,
        runtime=runtime,
        on_progress=show,
    )


def _reconstruct(
    path: Path, output: Path, fresh: ma.Prior, runtime: ma.Runtime, tick: Tick
) -> tuple[list[dict[str, Any]], dict[str, ArrayLike]]:
    """Scores and images of a retrospectively undersampled scan, and the reference."""
    from mri_ambient.io import Undersampled

    recipes = {
        "zero-filled": ma.Recipe("zero-filled"),
        "CG-SENSE": ma.Recipe("cg-sense"),
        "L1-wavelet": ma.Recipe("l1-wavelet"),
        "A-OS": ma.Recipe("aos"),
        "A-DPS": ma.Recipe("adps", {"n_steps": N_ADPS}, n_samples=1),
        "A-OS, trained just now": ma.Recipe("aos", prior=fresh),
    }
    full = ma.open_scan(path)
    scan = Undersampled(full, ma.MaskSpec("random", ACCELERATION, CALIB_LINES), seed=DEMO_SEED)
    reference = full.read_target("reconstruction_rss")
    assert reference is not None  # fully sampled scans are simulated with one
    rows: list[dict[str, Any]] = []
    images: dict[str, ArrayLike] = {"reference": reference[0]}
    for name, recipe in recipes.items():
        rec = ma.reconstruct(scan, recipe, runtime, on_step=lambda info: tick(info.n_steps > 1))
        tick(1)
        rec.save(output / name.lower().replace(" ", "-").replace(",", ""))
        images[name] = rec.magnitude[0]
        seconds, acceleration = rec.report["provenance"]["seconds"], rec.report["acceleration"]
        facts = {"seconds": seconds, "acceleration": acceleration}
        rows.append({"method": name, **(rec.metrics or {}), **facts})
    return rows, images


def _print_rows(rows: list[dict[str, Any]]) -> None:
    formats = {"psnr": ".2f", "ssim": ".3f", "nmse": ".4f", "seconds": ".1f"}
    print_table(
        ["method", "PSNR", "SSIM", "NMSE", "seconds"],
        [[row["method"], *(f"{row[key]:{form}}" for key, form in formats.items())] for row in rows],
        title=f"held-out head, R = {rows[0]['acceleration']:.2f}, against RSS of the full scan",
    )
