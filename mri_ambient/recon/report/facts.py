"""What a report says about a reconstruction, in words and numbers with units."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from ...errors import WARNINGS
from ...io.scan_file import ScanFile
from ...physics.patterns import calibration_block, is_line_mask, line_coverage
from ..held_out import held_out_means
from ..recipe import POSTERIOR

NOTHING = "\N{EN DASH}"
"""Stands where there is no figure."""

TIMES = "\N{MULTIPLICATION SIGN}"
"""Between the sides of a matrix, and before what a figure is a multiple of."""

REFERENCES = {
    "rss": "root sum of squares of the fully sampled coil images",
    "esc": "emulated single coil of the fully sampled scan",
    "sense": "coil combination of the fully sampled scan",
}
"""What metrics are against."""


class Fact(NamedTuple):
    """A figure with its name, and what it means where the name does not say."""

    name: str
    value: str
    note: str = ""


class Score(NamedTuple):
    """Metrics of one method, as text."""

    name: str
    psnr: str
    ssim: str
    nmse: str


def number(value: float | None, digits: int = 3, unit: str = "") -> str:
    """A number as people read it, with all its digits and its unit."""
    return NOTHING if value is None else f"{f'{value:#.{digits}g}'.rstrip('.')} {unit}".rstrip()


def sides(sizes: Iterable[float]) -> str:
    """Sizes of a matrix or a voxel."""
    return f" {TIMES} ".join(f"{size:.4g}" for size in sizes)


def residuals(report: Mapping[str, Any]) -> list[float]:
    """Data residuals of the slices that hold signal; others have 0, or none without noise."""
    found = [check["data_residual"] for check in report["checks"]]
    return [value for value in found if value]


def key_facts(report: Mapping[str, Any]) -> Iterator[Fact]:
    """What is looked at first."""
    provenance = report["provenance"]
    yield Fact("Acceleration", f"R = {report['acceleration']:.2f}")
    yield Fact(
        "Noise",
        f"{number(report['sigma_n'])} (normalised)",
        f"{number(report['noise_std'])} in the units of the file, per real channel; from: "
        f"{report['noise_source'].replace('-', ' ')}",
    )
    if left := residuals(report):
        mean = f"{fmean(left):.2f} {TIMES} noise"
        yield Fact("Data residual", mean, f"{_range(left)}about 1 is right")
    if means := held_out_means(check.get("held_out") for check in report["checks"]):
        yield Fact(
            "Error on held-out lines",
            number(means["error"]),
            f"ratio to their energy; noise alone {number(means['noise'])}, L1-wavelet "
            f"{number(means['l1_wavelet'])}, CG-SENSE {number(means['cg_sense'])}",
        )
    if "coverage_90" in means:
        yield Fact(
            "Coverage of held-out lines",
            f"{100 * means['coverage_90']:.0f} %",
            f"in 90 % intervals of the standard deviation; {100 * means['coverage_50']:.0f} % in "
            f"50 % intervals; energy of the error over what is predicted: "
            f"{number(means.get('chi_square'))}",
        )
    if scores := report.get("metrics"):
        yield Fact(
            "PSNR",
            number(scores["psnr"], 4, "dB"),
            f"SSIM {number(scores['ssim'])}, NMSE {number(scores['nmse'])} against the "
            f"{REFERENCES[scores['reference']]}",
        )
    yield Fact(
        "Time",
        number(provenance["seconds"], 3, "s"),
        f"of the method on {provenance['device']}, without reading and preparation",
    )


def _range(values: Sequence[float]) -> str:
    return f"{min(values):.2f} to {max(values):.2f} over the slices; " if len(values) > 1 else ""


def scores(report: Mapping[str, Any], others: Mapping[str, Mapping[str, Any]]) -> list[Score]:
    """Metrics of the reconstruction, and of other methods by name; none without a reference."""
    if "metrics" not in report:
        return []
    own = f"this reconstruction ({report['provenance']['method']})"
    return [
        Score(name, number(row["psnr"], 4, "dB"), number(row["ssim"]), number(row["nmse"]))
        for name, row in {own: report["metrics"], **others}.items()
    ]


def std_sentences(provenance: Mapping[str, Any]) -> list[str]:
    """What the standard deviation is, and what it is not."""
    n_samples, samples_are = provenance["n_samples"], provenance["samples_are"]
    factor = provenance["std_factor"]
    lines = [f"The standard deviation is that of the magnitude of {n_samples} {samples_are}."]
    if samples_are != POSTERIOR:
        lines.append("They do not follow the posterior distribution.")
    if factor == 1:
        lines.append("It is not calibrated (factor 1).")
    else:
        lines.append(f"It is multiplied by {factor:.3g}, the calibration factor of the prior.")
    return lines


def warning_rows(report: Mapping[str, Any]) -> list[dict[str, str]]:
    """Code, sentence and remedy of every warning."""
    return [{**entry, "remedy": WARNINGS.get(entry["code"], "")} for entry in report["warnings"]]


def scan_facts(report: Mapping[str, Any], voxel_mm: Sequence[float] | None) -> Iterator[Fact]:
    """What was reconstructed."""
    yield Fact("Input", report["input"])
    if report.get("volume"):
        yield Fact("Volume", report["volume"])
    yield Fact("SHA-256 of the input", report["settings"].get("input_sha256") or NOTHING)
    yield Fact("Slices", str(report["slices"]))
    yield Fact("Coils", str(report["coils"]), "after compression, if there was any")
    yield Fact("Matrix", sides(report["matrix"]), "samples, readout and phase encode")
    yield Fact("Image", sides(report["recon_shape"]), "pixels, rows and columns")
    sizes = f"{sides(voxel_mm)} mm" if voxel_mm is not None else "unknown"
    yield Fact("Voxel", sizes, "row, column, slice")
    yield Fact("Preparation", ", ".join(report["steps"]))


def method_facts(report: Mapping[str, Any], card: Mapping[str, Any], path: Path) -> Iterator[Fact]:
    """How, with what, where and when."""
    provenance = report["provenance"]
    yield Fact("Method", provenance["method"])
    options = ", ".join(f"{k} = {v}" for k, v in provenance["method_options"].items())
    yield Fact("Options", options or NOTHING)
    yield Fact("Seed", str(provenance["seed"]))
    yield Fact("Samples per slice", str(provenance["n_samples"]))
    if provenance["samples_are"]:
        yield Fact("Samples are", provenance["samples_are"])
        yield Fact("Factor of the standard deviation", f"{provenance['std_factor']:.4g}")
    yield from _prior_facts(provenance["prior_sha256"], card)
    if mask := report["settings"].get("mask"):
        yield Fact("Retrospective mask", ", ".join(f"{k} = {v}" for k, v in mask.items()))
    yield Fact("Precision", provenance["precision"])
    yield Fact("Device", provenance["device"])
    yield Fact("Versions", f"mri-ambient {provenance['version']}, torch {provenance['torch']}")
    yield Fact("Time of the method", number(provenance["seconds"], 4, "s"))
    made = datetime.fromtimestamp(path.stat().st_mtime, UTC)
    yield Fact("Images written", f"{made:%Y-%m-%d %H:%M} UTC")


def _prior_facts(sha256: str | None, card: Mapping[str, Any]) -> Iterator[Fact]:
    if sha256:
        yield Fact("SHA-256 of the prior", sha256)
    for key, name in (
        ("data", "Prior was trained on"),
        ("n_scans", "Training scans"),
        ("date", "Date of the prior"),
        ("limits", "Limits of the prior"),
        ("intended_use", "Intended use of the prior"),
    ):
        if card.get(key):
            yield Fact(name, str(card[key]))


def sampling_facts(file: ScanFile) -> Iterator[Fact]:
    """The sampling pattern in numbers."""
    mask, n_columns, n_acquired = file.mask, file.shape[-1], int(file.acquired.sum())
    yield Fact("Acceleration", f"R = {file.acceleration:.2f}", "acquired over sampled positions")
    if is_line_mask(mask):
        lines = f"{int(line_coverage(mask).sum())} of {n_acquired} acquired"
        yield Fact("Sampled columns", lines, "phase encodes")
    else:
        positions = f"{int(mask.sum())} of {mask.shape[-2] * n_acquired} acquired"
        yield Fact("Sampled positions", positions)
    never = f"{n_columns - n_acquired} of them never acquired"
    yield Fact("Columns of k-space", str(n_columns), never)
    block = calibration_block(mask)
    shown = sides(block) if all(block) else "none"
    yield Fact("Calibration block", shown, "fully sampled, rows and columns, each at most 24")
