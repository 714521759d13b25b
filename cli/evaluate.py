"""``mri-ambient evaluate``: fastMRI's numbers, or what hidden lines tell without a reference."""

from __future__ import annotations

import csv
import sys
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from .common import (
    Device,
    Json,
    Method,
    PriorPath,
    Samples,
    SamplingPreset,
    Seed,
    Set,
    merge_options,
    pick_sampling,
    print_json,
    progress_bar,
    run_cases,
    say,
)


def run(
    context: typer.Context,
    inputs: Annotated[
        Path,
        typer.Argument(
            help="What `reconstruct` wrote; without --target, scans. A file or a folder.",
            metavar="INPUT",
        ),
    ],
    targets: Annotated[
        Path | None, typer.Option("--target", help="File or folder of fully sampled scans.")
    ] = None,
    holdout: Annotated[
        int, typer.Option(help="Measured lines to hide, without --target.", min=1)
    ] = 2,
    method: Method = None,
    preset: SamplingPreset = None,
    prior: PriorPath = None,
    samples: Samples = None,
    steps: Annotated[int | None, typer.Option(help="Noise levels of a sampler.")] = None,
    option: Set = None,
    seed: Seed = 0,
    device: Device = "auto",
    csv_out: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
    json_out: Json = False,
) -> None:
    """Score reconstructions against fully sampled scans, or a method on scans without any.

    With --target: NMSE, PSNR and SSIM per volume; the numbers equal those of the fastmri package
    (volume maximum as data range, central square). Without: a few measured lines of every scan are
    hidden, predicted from the rest by the method, CG-SENSE and L1-wavelet, and compared; of
    samples, also whether they spread as much as they should.
    """
    if targets is not None:
        _refuse_method_options(context)
        _against_targets(inputs, targets, csv_out=csv_out, json_out=json_out)
        return
    from mri_ambient.data_prep import plan
    from mri_ambient.errors import ScanFormatError
    from mri_ambient.io import find_scans, open_scan
    from mri_ambient.methods.presets import is_sampler, is_stochastic
    from mri_ambient.priors.checkpoint import load_prior
    from mri_ambient.priors.weights import default_prior
    from mri_ambient.recon.checks import predict_hidden
    from mri_ambient.recon.engine import Options, samples_are, std_factor
    from mri_ambient.recon.warnings import doubt_checks, doubt_prior, doubt_spread
    from mri_ambient.runtime.device import pick_device

    given = merge_options({"n_steps": steps}, option)
    sampling = pick_sampling(preset, method, given, samples, prior=prior)
    chosen, samples = sampling.method, sampling.n_samples
    where = pick_device(device)
    loaded = load_prior(prior or default_prior(), where) if is_sampler(chosen) else None
    options = Options(seed=seed, n_samples=samples, device=where)
    found: dict[str, list[dict[str, float]]] = {}
    spread: dict[str, Any] = {}
    if is_stochastic(chosen) and samples > 1:
        spread = {
            "n_samples": samples,
            "samples_are": samples_are(chosen, loaded),
            "std_factor": std_factor(chosen, loaded, samples) or 1.0,
        }

    def one(path: Path) -> None:
        file = open_scan(path)
        doubt_prior(file, chosen, loaded)
        doubt_checks(file, chosen, loaded)
        preparation = plan(file, device=where)
        n_slices = options.slices_at_once(chosen, loaded, file.shape)
        rows: list[dict[str, float]] = []
        n_steps = getattr(chosen, "n_steps", 1) * (samples if is_stochastic(chosen) else 1)
        work = bars.add_task(path.name, total=len(file) * n_steps)

        try:
            for first in range(0, len(file), n_slices):
                scan = preparation.apply(file[first : first + n_slices])
                rows += predict_hidden(
                    scan, chosen, loaded, options, holdout,
                    on_step=lambda info: bars.advance(work, len(info.residual)),
                )  # fmt: skip
                bars.update(work, completed=len(rows) * n_steps)
        finally:
            bars.remove_task(work)
        doubt_spread(file, chosen, loaded, options, scan.noise_std or 0.0)
        if spread:
            what, factor = spread["samples_are"], spread["std_factor"]
            say(f"{path.name}: {samples} {what} a slice, spread x {factor:.2f}")
        if not any(rows):
            raise ScanFormatError(f"{path}: no slice has signal on the hidden lines")
        found[path.stem] = rows

    try:
        with progress_bar() as bars:
            run_cases(find_scans([inputs]), one)
    finally:
        if json_out and found:
            facts = {"method": chosen.name, "method_options": asdict(chosen), **spread}  # type: ignore[call-overload]
            print_json(facts | {"scans": found})
        elif found:
            _print_hidden({name: _mean(rows) for name, rows in found.items()}, csv_out=csv_out)


def _refuse_method_options(context: typer.Context) -> None:
    """With --target, images are scored as they are.

    Raises:
        ConfigError: an option says how to reconstruct.
    """
    from mri_ambient.errors import ConfigError

    of_both = {"inputs", "targets", "csv_out", "json_out"}
    for parameter in context.command.params:
        source = context.get_parameter_source(str(parameter.name))
        told = source is not None and source.name == "COMMANDLINE"
        if told and parameter.name not in of_both:
            raise ConfigError(
                f"{parameter.opts[-1]} says how to reconstruct; with --target, images are scored "
                "as they are: `mri-ambient reconstruct` makes them"
            )


SHORT = {
    "cg_sense": "CG-SENSE", "l1_wavelet": "L1", "chi_square": "chi2", "coverage_50": "50 %",
    "coverage_90": "90 %",
}  # fmt: skip
"""Headings of a narrow table."""


def _mean(rows: list[dict[str, float]]) -> dict[str, float]:
    told = [row for row in rows if row]  # slices without signal tell nothing
    return {key: fmean(row[key] for row in told) for key in told[0]}


def _print_hidden(rows: dict[str, dict[str, float]], *, csv_out: bool) -> None:
    """Means over the slices of every scan."""
    names = list(next(iter(rows.values())))
    if csv_out:
        writer = csv.writer(sys.stdout)
        writer.writerow(["scan", *names])
        writer.writerows([scan, *row.values()] for scan, row in rows.items())
        return
    table = Table()
    table.add_column("scan", no_wrap=True, overflow="ignore", min_width=max(map(len, rows)))
    for name in names:
        table.add_column(SHORT.get(name, name))
    for scan, row in rows.items():
        table.add_row(scan, *(f"{value:.3f}" for value in row.values()))
    Console().print(table)


def _against_targets(inputs: Path, targets: Path, *, csv_out: bool, json_out: bool) -> None:
    from dataclasses import asdict

    from mri_ambient.evaluation.folders import mean_metrics, pair_up, score_pair

    rows: dict[str, dict[str, Any]] = {}

    def one(pair: tuple[Path, Path]) -> None:
        rows[pair[0].stem] = asdict(score_pair(*pair))

    try:
        run_cases(pair_up(inputs, targets), one)
    finally:
        if rows:
            mean = mean_metrics(rows)
            if json_out:
                print_json({"volumes": rows, "mean": mean})
            elif csv_out:
                _print_csv(rows)
            else:
                _print_table(rows, mean)


def _print_csv(rows: dict[str, dict[str, Any]]) -> None:
    writer = csv.writer(sys.stdout)
    writer.writerow(["volume", "nmse", "psnr", "ssim", "cropped", "reference"])
    for name, row in rows.items():
        writer.writerow([name, *row.values()])


def _print_table(rows: dict[str, dict[str, Any]], mean: dict[str, float]) -> None:
    table = Table("volume", "NMSE", "PSNR", "SSIM", "against")
    for name, row in rows.items():
        note = row["reference"].upper() + ("" if row["cropped"] else ", uncropped")
        table.add_row(name, *_numbers(row), note)
    if len(rows) > 1:
        table.add_section()
        table.add_row(f"mean of {len(rows)}", *_numbers(mean), "")
    Console().print(table)


def _numbers(row: dict[str, Any]) -> tuple[str, str, str]:
    return f"{row['nmse']:.4f}", f"{row['psnr']:.2f}", f"{row['ssim']:.4f}"
