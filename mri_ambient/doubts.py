"""What to doubt: scans a prior does not know, spreads, residuals, and slices that fit nothing."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from .baselines import Baseline
from .batch import Batch
from .coverage import is_regular
from .errors import ConfigError, NumericalWarning
from .io.base import ScanFile
from .masks import mask_kind
from .methods import is_sampler, is_stochastic
from .prior import DenoiserSource, Prior
from .reconstruct import ESTIMATES, Options, calibration_of, here_or_on_the_cpu, samples_are
from .samplers import Aos, OnStep, Sampler
from .scan import Reconstruction, Scan
from .validate import predict_hidden, prior_share

HIGH_RESIDUAL = 2.0
"""A method with a prior that leaves more than this of the data unexplained, in units of the noise
(at least :data:`LEAST_NOISE`), is worth a warning."""

LOW_RESIDUAL = 0.5
"""And one that leaves less than this share of what least squares would fits noise, or the noise is
said to be larger than it is."""

HIGH_CHI_SQUARE = 4.0
"""Errors on hidden lines this many times what samples and noise predict are flagged: the spread is
less than half of what it should be."""

LEAST_NOISE = 0.01
"""Noise per real channel, normalised units, below which the residual is not compared with it."""

WORSE = 1.1
"""Hidden lines predicted with this many times the error of L1-wavelet, noise taken off both, are
flagged: a few lines tell no finer."""

MOSTLY_NOISE = 0.8
"""Hidden lines with a larger share of noise in their energy tell nothing."""

BRIGHT = 3.0
"""Images this many times brighter or darker than a prior's training images are flagged."""

NOISY = 1.5
"""And scans whose noise is this many times that of the noisiest training scan."""

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
    elif is_regular(file.mask) and _few_regular(prior):
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


@dataclass(frozen=True)
class Checking:
    """What is checked of every slice beside the data residual, without a reference.

    Attributes:
        n_hidden: measured outer lines to hide, for a second reconstruction that predicts them; 0
            leaves that out.
        flags: look for what does not fit the prior.
    """

    n_hidden: int = 0
    flags: bool = False

    def __call__(
        self,
        scan: Scan,
        result: Reconstruction,
        method: Sampler | Baseline,
        prior: DenoiserSource | None,
        options: Options,
        *,
        on_step: OnStep | None = None,
    ) -> Reconstruction:
        """The result with more in its checks; ``on_step`` is told about a second sampling."""
        checks: list[dict[str, Any]] = [dict(check) for check in result.checks]
        if self.n_hidden:
            rows = self._hidden(scan, method, prior, options, on_step)
            for check, row in zip(checks if rows else [], rows, strict=True):
                check["held_out"] = row
        if self.flags:
            batch = Batch.of([scan])
            for i, check in enumerate(checks):
                if is_sampler(method):
                    share = here_or_on_the_cpu(
                        prior_share, batch[[i]], result.img[[i]], options.device
                    )
                    check["prior_share"] = float(share)
                support = batch.op.support[i]
                energy = float(result.img[i].abs().square().sum())
                rms = (energy / (2 * max(int(support.sum()), 1))) ** 0.5
                check["flags"] = list(_flags(check, rms, scan, method, prior))
        return replace(result, checks=tuple(checks))

    def _hidden(
        self,
        scan: Scan,
        method: Sampler | Baseline,
        prior: DenoiserSource | None,
        options: Options,
        on_step: OnStep | None,
    ) -> list[dict[str, float]]:
        """What hidden lines tell, or a warning where there are too few: the image is worth more."""
        try:
            return predict_hidden(scan, method, prior, options, self.n_hidden, on_step=on_step)
        except ConfigError as error:
            warnings.warn(
                f"{scan.scan_id}: hidden lines are not checked: {error}",
                NumericalWarning,
                stacklevel=2,
            )
            return []


def _flags(
    check: dict[str, Any],
    rms: float,
    scan: Scan,
    method: Sampler | Baseline,
    prior: DenoiserSource | None,
) -> Iterator[str]:
    """Sentences about what does not fit, of one slice, the gravest first."""
    sigma_n = float(scan.noise_std or 0.0)
    yield from _hidden_flags(check.get("held_out"))
    if check["data_residual"] * sigma_n / max(sigma_n, LEAST_NOISE) > HIGH_RESIDUAL:
        yield f"leaves {check['data_residual']:.1f} sigma_n of the measurement unexplained"
    if not (is_sampler(method) and isinstance(prior, Prior)):
        return
    if check["data_residual"] < LOW_RESIDUAL * _least_residual(scan) and sigma_n > LEAST_NOISE:
        yield (
            f"explains the measurement to {check['data_residual']:.1f} sigma_n, better than its "
            "noise allows: the noise may be smaller than is said"
        )
    if rms > 0 and not 1 / BRIGHT < rms / prior.sigma_data < BRIGHT:
        yield f"is {rms / prior.sigma_data:.2f} times as bright as the prior's training images"
    # Cards of older priors do not say it; the smallest trained level lies above nearly all of them.
    most = prior.facts.card.get("sigma_n", [prior.sigma_min])[-1]
    if sigma_n > NOISY * most:
        yield f"has noise {sigma_n:.4f}, the prior's training scans at most {most:.4f}"


def _least_residual(scan: Scan) -> float:
    """What least squares would leave, in sigma_n; 0 where there are no more samples than pixels."""
    n_samples = int(scan.mask.sum()) * scan.n_coils
    return math.sqrt(max(0.0, 1 - scan.shape[0] * scan.shape[1] / n_samples))


def _hidden_flags(held_out: dict[str, float] | None) -> Iterator[str]:
    """What is wrong with predictions of hidden lines, beyond what their noise explains."""
    if not held_out or held_out["noise"] > MOSTLY_NOISE:
        return
    excess, of_l1 = (held_out[name] - held_out["noise"] for name in ("error", "l1_wavelet"))
    if excess > 1 or (held_out["error"] > 1 and excess > of_l1):
        yield f"predicts hidden lines worse than nothing would (error {held_out['error']:.3f})"
    elif excess > max(WORSE * of_l1, 0.0):
        yield (
            f"predicts hidden lines worse (error {held_out['error']:.3f}, noise alone "
            f"{held_out['noise']:.3f}) than L1-wavelet ({held_out['l1_wavelet']:.3f})"
        )
    if held_out.get("chi_square", 0.0) > HIGH_CHI_SQUARE:
        yield (
            f"has samples whose spread, with the noise, explains 1/{held_out['chi_square']:.1f} of "
            "the error on hidden lines"
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
