"""``mri-ambient evaluate``: fastMRI's numbers for a folder of reconstructions."""

from __future__ import annotations

import csv
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from .common import Json, print_json, run_cases


def run(
    reconstructions: Annotated[
        Path, typer.Argument(help="File or folder written by `reconstruct`.")
    ],
    targets: Annotated[
        Path, typer.Option("--target", help="File or folder of fully sampled scans.")
    ],
    csv_out: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
    json_out: Json = False,
) -> None:
    """Score reconstructions against fully sampled scans: NMSE, PSNR and SSIM per volume.

    The numbers equal those of the fastmri package: volume maximum as data range, central square.
    """
    from dataclasses import asdict

    from mri_ambient.evaluate import mean_metrics, pair_up, score_pair

    rows: dict[str, dict[str, Any]] = {}

    def one(pair: tuple[Path, Path]) -> None:
        rows[pair[0].stem] = asdict(score_pair(*pair))

    try:
        run_cases(pair_up(reconstructions, targets), one)
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
