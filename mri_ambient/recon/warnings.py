"""What to doubt: scans a prior does not know, spreads, residuals, and slices that fit nothing."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import Any

from ..errors import NumericalWarning
from ..io.scan_file import ScanFile
from ..methods import Aos, Sampler
from ..methods.baselines import Baseline
from ..methods.presets import is_sampler, is_stochastic
from ..physics.coverage import is_equispaced
from ..physics.masks import mask_kind
from ..priors.prior import DenoiserSource, Prior
from .checks import HIGH_RESIDUAL, LEAST_NOISE
from .engine import ESTIMATES, Options, calibration_of, samples_are

ALIKE = 1.5
"""A calibration is for scans whose acceleration and noise are within this factor of its own."""

FAR = 2.0
"""A scan undersampled this many times more than a prior's training scans is worth a warning."""


def doubt_prior(file: ScanFile, method: Sampler | Baseline, prior: DenoiserSource | None) -> None:
    """Warn where a prior is asked about a kind of scan it was not trained on."""
    if not (is_sampler(method) and isinstance(prior, Prior)):
        return
    for doubt in _prior_doubts(file, method, prior):
        warnings.warn(f"{file.path.name}: the prior {doubt}", NumericalWarning, stacklevel=2)


def _prior_doubts(file: ScanFile, method: Sampler, prior: Prior) -> Iterator[str]:
    trained, rate = prior.facts.mask.acceleration, file.acceleration
    if not prior.knows_masks:
        one_step = isinstance(method, Aos) or getattr(method, "start", "") == Aos.name
        if one_step and rate > 1:
            yield (
                "knows no masks and takes the zero-filled image for a noisy one; use method dds "
                "from noise, or a prior trained with objective kspace or ambient"
            )
        return
    if rate > FAR * trained:
        yield f"was trained at R = {trained:.1f}, far from R = {rate:.1f} of this scan"
    kinds = {group["kind"] for group in prior.facts.card.get("coverage", ())}
    kind = mask_kind(file.mask)
    if kinds and kind not in kinds:
        seen = "whole lines" if kind == "samples" else "2-D masks"
        yield f"saw {seen} only in training, and this scan has others"
    elif is_equispaced(file.mask) and _few_regular(prior):
        yield "saw next to no equispaced masks in training, whose aliasing is unlike that of others"


def _few_regular(prior: Prior) -> bool:
    """Whether under one in twenty of its training scans of whole lines was equispaced."""
    groups = [g for g in prior.facts.card.get("coverage", ()) if g.get("kind") == "lines"]
    n_scans, n_regular = (sum(g.get(name, 0) for g in groups) for name in ("n_scans", "n_regular"))
    return bool(n_regular < 0.05 * n_scans)


def doubt_spread(
    file: ScanFile,
    method: Sampler | Baseline,
    prior: DenoiserSource | None,
    options: Options,
    sigma_n: float,
) -> None:
    """Warn where a spread is as it came out, or multiplied by what was fitted on other scans."""
    if not (isinstance(prior, Prior) and is_stochastic(method) and options.n_samples > 1):
        return
    entry = calibration_of(method, prior, options.n_samples)
    if entry is not None:
        for name, value in (("acceleration", file.acceleration), ("sigma_n", sigma_n)):
            low, high = entry.get(name, (value, value))
            if not low / ALIKE <= value <= high * ALIKE:
                warnings.warn(
                    f"{file.path.name}: the spread is multiplied by {entry['factor']:.2f}, which "
                    f"was fitted on scans with {name} {low:.3g} to {high:.3g}, and this one has "
                    f"{value:.3g}: it may be far off",
                    NumericalWarning,
                    stacklevel=2,
                )
        kinds = entry.get("mask_kinds", [mask_kind(file.mask)])
        if mask_kind(file.mask) not in kinds:
            warnings.warn(
                f"{file.path.name}: the spread is multiplied by {entry['factor']:.2f}, which was "
                f"fitted under masks of {' and '.join(kinds)}, and this scan has another: it may "
                "be far off",
                NumericalWarning,
                stacklevel=2,
            )
    elif known := prior.facts.card.get("calibration"):
        names = sorted({entry["method"] for entry in known})
        warnings.warn(
            f"{file.path.name}: the prior was calibrated for {', '.join(names)} with other options "
            f"or another number of samples than these of {method.name}: the spread is as it came "
            "out",
            NumericalWarning,
            stacklevel=2,
        )
    elif samples_are(method, prior) == ESTIMATES:
        warnings.warn(
            f"{file.path.name}: samples of {method.name} by this prior and with these options are "
            "estimates whose spread was never calibrated, and usually says too little; "
            "`mri-ambient audit calibration` finds the factor",
            NumericalWarning,
            stacklevel=2,
        )


def doubt_checks(file: ScanFile, method: Sampler | Baseline, prior: DenoiserSource | None) -> None:
    """Warn where hidden lines tell too good a tale: the prior has seen them."""
    if not (is_sampler(method) and isinstance(prior, Prior) and prior.facts.card.get("trained_on")):
        return
    if prior.was_trained_on(file.source_sha256):
        warnings.warn(
            f"{file.path.name}: the prior was trained on this scan, hidden lines and all: their "
            "error is smaller than that of lines nobody measured",
            NumericalWarning,
            stacklevel=2,
        )


def doubt_residual(
    file: ScanFile,
    method: Sampler | Baseline,
    checks: Sequence[dict[str, float]],
    noise_std: float,
) -> None:
    """Warn where an image that a prior made leaves much of the measurement unexplained."""
    if not is_sampler(method):
        return
    unit = noise_std / max(noise_std, LEAST_NOISE)
    high = [check for check in checks if check["data_residual"] * unit > HIGH_RESIDUAL]
    if high:
        worst = max(high, key=lambda check: check["data_residual"])
        more = "take more steps, " if hasattr(method, "n_steps") else "take "
        warnings.warn(
            f"{file.path.name}: {method.name} leaves {worst['data_residual']:.1f} sigma_n of the "
            f"measurement unexplained in slice {worst['slice']} (more than {HIGH_RESIDUAL:g} in "
            f"{len(high)} of {len(checks)} slices): the image does not fit the data; "
            f"{more}another method, or look at the maps",
            NumericalWarning,
            stacklevel=2,
        )


def tell_flags(file: ScanFile, checks: Sequence[dict[str, Any]]) -> None:
    """Warn about flagged slices, one warning a scan."""
    flagged = [check for check in checks if check.get("flags")]
    if flagged:
        places = ", ".join(str(check["slice"]) for check in flagged)
        first = flagged[0]
        warnings.warn(
            f"{file.path.name}: {len(flagged)} of {len(checks)} slices are flagged ({places}); "
            f"slice {first['slice']} {first['flags'][0]}",
            NumericalWarning,
            stacklevel=2,
        )
