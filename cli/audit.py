"""``mri-ambient audit``: whether a prior is safe to share and to use."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import mri_ambient as ma
from mri_ambient.errors import ScanFormatError

from . import options as opt
from .choices import shipped_or_there
from .cluster import Where
from .console import Bar, print_json, print_line, progress_bar
from .exit_codes import Failures, claim_folder
from .help import Command
from .recipe import Undersampling, make_recipe, make_runtime
from .records import takes_records

if TYPE_CHECKING:
    from matplotlib.figure import Figure

app = typer.Typer(no_args_is_help=True, help="Check a prior before it is used or shared.")

PriorFile = Annotated[
    Path,
    typer.Argument(
        help="Prior: a file, a run folder, or the name of a shipped prior.",
        metavar="PRIOR",
        callback=shipped_or_there,
    ),
]

SliceIndex = Annotated[
    int | None,
    typer.Option("--slice", help="Slice to test, counted from 0.", show_default="the middle one"),
]
Size = Annotated[
    float, typer.Option("--k", help="Size (norm) of the change over that of the noise.")
]
Calibrated = Annotated[
    str | None,
    typer.Option(help="The sampler to calibrate: dds, msm, pula or adps.", show_default="dds"),
]


@app.command(cls=Command)
@takes_records
def memorization(
    prior: PriorFile,
    data: Annotated[
        Path, typer.Argument(help="The prepared scans it was trained on.", metavar="DATA")
    ],
    *,
    output: opt.Output = Path("audit"),
    samples: Annotated[int, typer.Option(help="Images to draw.")] = 16,
    steps: Annotated[int, typer.Option(help="Network evaluations per image.")] = 40,
    where: Where,
    seed: opt.Seed = 0,
    device: opt.Device = "auto",
    json_out: opt.Json = False,
    overwrite: opt.Overwrite = False,
    quiet: opt.Quiet = False,
) -> None:
    """Are the images a prior draws copies of its training scans?

    OUT gets memorization.json and memorization.png: distances to the nearest training scan, of
    drawn images and of scans that were not trained on, and the nearest pairs.
    """
    from mri_ambient.evaluation.memorization import find_copies
    from mri_ambient.plots import draw_memorization
    from mri_ambient.training.config import Hooks

    loaded = ma.load_prior(prior)
    claim_folder(output, "memorization.json", overwrite=overwrite)
    failures = Failures()
    with where.executor() as executor, progress_bar() as bars:
        runtime = make_runtime(device, elsewhere=where.elsewhere)
        found = find_copies(
            loaded,
            data,
            n_samples=samples,
            n_steps=steps,
            seed=seed,
            device=runtime.device,
            jobs=executor,
            hooks=Hooks(on_target=Bar(bars, "audit").count, on_damaged=failures.damaged),
        )
    figure = draw_memorization(found.sample_distances, found.held_out_distances, found.pairs)
    _write(output, "memorization", found.report, figure, json_out=json_out)
    print_line(found.line)
    failures.end()


@app.command(cls=Command)
@takes_records
def stability(
    scan: Annotated[Path, typer.Argument(help="A scan, raw or prepared.", metavar="SCAN")],
    *,
    output: opt.Output = Path("audit"),
    prior: opt.PriorPath = None,
    method: opt.Method = None,
    option: opt.MethodOption = None,
    slice_index: SliceIndex = None,
    steps: opt.Steps = None,
    undersampling: Undersampling,
    k: Size = 1.0,
    iterations: Annotated[int, typer.Option(help="Steps of the search.")] = 100,
    where: Where,
    seed: opt.Seed = 0,
    device: opt.Device = "auto",
    json_out: opt.Json = False,
    overwrite: opt.Overwrite = False,
    quiet: opt.Quiet = False,
) -> None:
    """How much can noise change the image, at worst?

    The change of the measurement is no larger than the noise. Of a sampler, one sample with its
    random numbers kept fixed is tested. OUT gets stability.json
    and stability.png: the method, CG-SENSE and L1-wavelet before and after the worst change that
    was found for each, and five times the difference of the magnitudes.
    """
    from mri_ambient.evaluation.stability import (
        attack_as_task,
        attack_slice,
        images_side_by_side,
        verdict,
    )
    from mri_ambient.plots import draw_montage
    from mri_ambient.recon.pipeline import open_volume

    recipe = make_recipe(
        method=method,
        flags={"n_steps": steps},
        option=option,
        prior=prior,
        seed=seed,
        retrospective=undersampling.mask,
    )
    claim_folder(output, "stability.json", overwrite=overwrite)
    with where.executor() as executor, progress_bar() as bars:
        runtime = make_runtime(device, elsewhere=where.elsewhere)
        given: dict[str, Any] = {"index": slice_index, "k": k, "n_iter": iterations}
        if executor.in_process:
            volume, bar = open_volume(scan, recipe, runtime), Bar(bars, "attack")
            report, attacks = attack_slice(volume, **given, on_iteration=bar.count)
        else:
            report, attacks = attack_as_task(executor, scan, recipe, runtime, **given)
    images, titles = images_side_by_side(attacks)
    figure = draw_montage(images, top=float(images[0].max()), titles=titles, columns=3)
    _write(output, "stability", report, figure, json_out=json_out)
    print_line(verdict(attacks))


@app.command(cls=Command)
@takes_records
def calibration(
    prior: PriorFile,
    data: Annotated[
        Path,
        typer.Argument(help="Scans it was not trained on, raw or prepared.", metavar="DATA"),
    ],
    *,
    output: opt.Output = Path("audit"),
    method: Calibrated = None,
    preset: opt.SamplingPreset = None,
    steps: opt.Steps = None,
    option: opt.MethodOption = None,
    samples: opt.Samples = None,
    holdout: opt.HeldOutLines = 2,
    where: Where,
    seed: opt.Seed = 0,
    device: opt.Device = "auto",
    json_out: opt.Json = False,
    overwrite: opt.Overwrite = False,
    quiet: opt.Quiet = False,
) -> None:
    """Is the standard deviation as large as the error?

    If not, the factor between the two is fitted on held-out lines. OUT gets calibration.json,
    calibration.png (share of held-out measurements in predictive intervals) and prior.safetensors,
    whose card holds the factor: `reconstruct` with this prior, method and options multiplies
    `reconstruction_std` by it and reports it as `std_factor`.
    """
    from mri_ambient.evaluation.calibration import LEVELS, calibrate_files, with_calibration
    from mri_ambient.io import find_scans
    from mri_ambient.plots import draw_calibration
    from mri_ambient.recon.recipe import Checks

    recipe = make_recipe(
        method=method if preset else method or "dds",
        preset=preset,
        flags={"n_steps": steps},
        option=option,
        prior=prior,
        samples=samples,
        seed=seed,
        checks=Checks(holdout),
    )
    for name in ("calibration.json", "prior.safetensors"):
        claim_folder(output, name, overwrite=overwrite)
    paths, failures = find_scans([data]), Failures()
    with where.executor() as executor, progress_bar() as bars:
        runtime = make_runtime(device, elsewhere=where.elsewhere)
        bar = Bar(bars, "calibrate")
        try:
            found = calibrate_files(
                paths, recipe, runtime, jobs=executor, on_scan=bar.count, on_error=failures.case
            )
        except ScanFormatError:
            failures.end(nothing_done=True)  # every scan failed, and has its line
            raise
    figure = draw_calibration(LEVELS, found.before, found.after)
    _write(output, "calibration", found.report(recipe), figure, json_out=json_out)
    ma.save_prior(with_calibration(recipe, found), output / "prior.safetensors")
    print_line(found.line(recipe))
    failures.end()


def _write(
    output: Path, name: str, report: dict[str, Any], figure: Figure, *, json_out: bool
) -> None:
    """Write the report and its figure into the folder; print the report too with ``json_out``."""
    from mri_ambient.plots import save_figure
    from mri_ambient.runtime.files import write_json

    write_json(output / f"{name}.json", report)
    if json_out:
        print_json(report)
    save_figure(figure, output / f"{name}.png")
