"""Lines about a finished reconstruction, for a terminal."""

from __future__ import annotations

from statistics import fmean
from typing import Any

from ..adaptation import adaptation_line
from ..held_out import held_out_means


def summary_line(report: dict[str, Any]) -> str:
    """One line about a finished reconstruction."""
    provenance = report["provenance"]
    method = provenance["method"]
    if provenance["n_samples"] > 1:
        factor = provenance["std_factor"]
        calibrated = "" if factor == 1 else f", standard deviation x {factor:.2f}"
        method += f" ({provenance['n_samples']} {provenance['samples_are']}{calibrated})"
    residuals = [check["data_residual"] for check in report["checks"]]
    residuals = [value for value in residuals if value > 0] or [0.0]  # empty slices have 0
    line = (
        f"{report['input']}: {method}, R = {report['acceleration']:.2f}, "
        f"sigma_n = {report['sigma_n']:.4f} ({report['noise_source']}), "
        f"residual {fmean(residuals):.2f} sigma_n, method {provenance['seconds']:.1f} s"
    )
    if "map_sets" in report:
        line += f", {report['map_sets']} sets of coil maps"
    if held_out := held_out_means(check.get("held_out") for check in report["checks"]):
        line += (
            f", error on held-out lines {held_out['error']:.4f} of their energy (CG-SENSE "
            f"{held_out['cg_sense']:.4f}, L1-wavelet {held_out['l1_wavelet']:.4f})"
        )
    if "adaptation" in report:
        line += f"; {adaptation_line(report['adaptation'])}"
    if "metrics" in report:
        scores = report["metrics"]
        line += (
            f"; PSNR {scores['psnr']:.2f} dB, SSIM {scores['ssim']:.3f}, "
            f"NMSE {scores['nmse']:.4f} against {scores['reference'].upper()}"
        )
        if scores["reference"] != "sense" and report["acceleration"] > 1:
            line += f", PSNR {report['metrics_sense']['psnr']:.2f} dB against SENSE"
    return line


def slice_lines(report: dict[str, Any]) -> list[str]:
    """One line about every slice of a finished reconstruction."""
    lines = []
    for check in report["checks"]:
        line = f"  slice {check['slice']}: data residual {check['data_residual']:.3f} sigma_n"
        if held_out := check.get("held_out"):
            line += (
                f", error on held-out lines {held_out['error']:.4f} (CG-SENSE "
                f"{held_out['cg_sense']:.4f}, L1-wavelet {held_out['l1_wavelet']:.4f})"
            )
        if adaptation := check.get("adaptation"):
            line += f", prior {adaptation['kept']} after {adaptation['steps']} steps of adaptation"
        if "prior_share" in check:
            line += f", null-space energy {100 * check['prior_share']:.1f} %"
        lines.append("; ".join([line, *check.get("flags", ())]))
    return lines
