"""The factor that makes the standard deviation of samples as large as their error.

The standard deviation of samples is too small where a sampler counts the data twice or a prior is
too narrow. On held-out measured lines the error of their mean is known; the factor is the one with
which noise and samples together predict its energy,

    factor^2 = (sum |K - y|^2 - sum sigma_n^2) / sum (1 + 1/K) var.

It is fitted on scans that the prior was not trained on, holds for one sampler with its options, and
is stored in the card of the prior.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..errors import ConfigError, MriAmbientError, ScanFormatError
from ..io.scan_file import ScanFile
from ..physics.patterns import mask_kind
from ..priors.prior import Prior
from ..recon.adaptation import adapted_to, knows_held_out_lines
from ..recon.engine import Engine, SliceImages
from ..recon.held_out import HeldOutScan, hold_out_of_scan, inside_interval, residual_and_variance
from ..recon.pipeline import Source, open_volume
from ..recon.recipe import ResolvedRecipe, method_options
from ..recon.warnings import issue_before
from ..runtime.device import Runtime
from ..runtime.executor import Executor, completed, executor_of
from ..scan import Scan

LEVELS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
"""Central predictive intervals whose coverage is reported."""


@dataclass(frozen=True)
class Calibration:
    """What the standard deviation of samples has to be multiplied by.

    Attributes:
        factor: this number.
        before: coverage of the intervals :data:`LEVELS` by the samples without the factor.
        after: and with it.
        n_hidden: held-out measurements, Re and Im counted, that it was fitted on.
        n_slices: slices they are from.
        n_samples: samples per slice.
        acceleration: least and most of the scans.
        sigma_n: least and most noise of the scans, normalised.
        mask_kinds: what their masks sample: "lines", "samples" or both.
    """

    factor: float
    before: tuple[float, ...]
    after: tuple[float, ...]
    n_hidden: int
    n_slices: int
    n_samples: int
    acceleration: tuple[float, float]
    sigma_n: tuple[float, float]
    mask_kinds: tuple[str, ...]

    def report(self, recipe: ResolvedRecipe) -> dict[str, Any]:
        """All of it, with the method it holds for, as plain values."""
        method = {"method": recipe.method.name, "method_options": method_options(recipe.method)}
        return {**method, "samples_are": recipe.samples_are, "levels": LEVELS, **asdict(self)}

    def line(self, recipe: ResolvedRecipe) -> str:
        """The finding in one line."""
        at = LEVELS.index(0.9)
        before, after = round(100 * self.before[at]), round(100 * self.after[at])
        return (
            f"{recipe.method.name}: multiply the standard deviation of {self.n_samples} samples "
            f"({recipe.samples_are}) by {self.factor:.2f}; 90 % intervals hold {before} % of "
            f"{self.n_hidden} held-out measurements without the factor and {after} % with it"
        )


def calibrate_files(
    sources: Sequence[Source],
    recipe: ResolvedRecipe,
    runtime: Runtime | None = None,
    *,
    jobs: int | Executor = 1,
    on_scan: Callable[[int], None] | None = None,
    on_error: Callable[[Source, MriAmbientError], None] | None = None,
) -> Calibration:
    """Fit the factor on held-out lines of scans.

    Args:
        sources: scans, raw or prepared, that the prior was not trained on.
        recipe: a stochastic method with at least two samples, its prior, and how many lines are
            held out (``checks``).
        runtime: device, precision, batch size.
        jobs: processes that share the scans, or an executor.
        on_scan: called with the number of slices done, after every one; with several jobs, after
            every scan.
        on_error: called with a scan that cannot be used and the error, and the others are used;
            without it the error is raised. A lost device always is.

    Raises:
        ConfigError: samples that do not differ, no lines to hold out, or overestimated noise.
        ScanFormatError: no scans, or none with signal.
    """
    _check_recipe(recipe)
    progress, executor = _Progress(on_scan), executor_of(jobs)
    task = partial(_file_errors, recipe=recipe, runtime=runtime or Runtime())
    if executor.in_process:
        task = partial(task, on_slice=progress.add)
    parts: dict[int, _ScanErrors] = {}
    for index, found in completed(executor, task, sources, on_error):
        parts[index] = found
        progress.add(0 if executor.in_process else len(found.accelerations))
    return _fit([parts[index] for index in sorted(parts)], recipe)


def _file_errors(
    source: Source,
    *,
    recipe: ResolvedRecipe,
    runtime: Runtime,
    on_slice: Callable[[int], None] | None = None,
) -> _ScanErrors:
    """The errors of a file, all of whose slices have lines enough to be held out."""
    volume = open_volume(source, recipe, runtime)
    _check_not_adapted_to(volume.file, recipe)
    issue_before(volume.file, recipe)

    def slices() -> Iterator[Scan]:
        for scan in volume.file:
            prepared = volume.preparation.apply(scan)
            # One with too few lines is refused here, before those it shares a call with.
            hold_out_of_scan(prepared, recipe.checks.n_held_out, recipe.seed)
            yield prepared

    return _scan_errors(slices(), recipe, runtime, on_slice)


def _check_not_adapted_to(file: ScanFile, recipe: ResolvedRecipe) -> None:
    """Refuse (ConfigError) a scan whose held-out lines the prior was adapted to."""
    assert recipe.prior is not None
    if knows_held_out_lines(recipe, file) and adapted_to(recipe.prior, file):
        raise ConfigError(
            f"{file.path}: the prior was adapted to this scan, so its errors there are too small; "
            "calibrate on other scans, or adapt with the same n_held_out and seed (--holdout "
            f"{recipe.checks.n_held_out} --seed {recipe.seed}) and the scan called as it is here"
        )


def _check_recipe(recipe: ResolvedRecipe) -> None:
    if recipe.n_samples < 2:
        raise ConfigError(
            f"{recipe.method.name} with {recipe.n_samples} sample per slice has no standard "
            "deviation; use dds, msm, pula or adps, with at least two samples"
        )
    if recipe.checks.n_held_out < 1:
        raise ConfigError("a calibration needs held-out lines; set n_held_out in the checks")


class _Progress:
    """Counts slices."""

    def __init__(self, on_scan: Callable[[int], None] | None) -> None:
        self.on_scan, self.n_done = on_scan, 0

    def add(self, n_slices: int) -> None:
        """So many more are done."""
        self.n_done += n_slices
        if n_slices and self.on_scan is not None:
            self.on_scan(self.n_done)


@dataclass(frozen=True)
class _ScanErrors:
    """Errors on the held-out lines of a scan: those of every slice with signal.

    Attributes:
        slices: of these.
        accelerations: of all slices.
        mask_kinds: what their masks sample.
        noise_source: where the noise was measured.
    """

    slices: list[_SliceErrors]
    accelerations: list[float]
    mask_kinds: set[str]
    noise_source: str | None


def _scan_errors(
    scans: Iterator[Scan],
    recipe: ResolvedRecipe,
    runtime: Runtime,
    on_slice: Callable[[int], None] | None,
) -> _ScanErrors:
    """The errors of slices, few of which are held at a time; ``on_slice(1)`` after every one."""
    engine, slices, accelerations = Engine(recipe, runtime), list[_SliceErrors](), list[float]()
    mask_kinds, noise_source = set[str](), None
    for group in _batches(scans, engine):
        splits = [hold_out_of_scan(scan, recipe.checks.n_held_out, recipe.seed) for scan in group]
        results = engine([split.kept for split in splits])
        for scan, split, result in zip(group, splits, results, strict=True):
            slices += _errors(split, result)
            accelerations.append(scan.acceleration)
            mask_kinds.add(mask_kind(scan.mask))
            noise_source = scan.noise_source
            if on_slice is not None:
                on_slice(1)
    return _ScanErrors(slices, accelerations, mask_kinds, noise_source)


def _fit(parts: Sequence[_ScanErrors], recipe: ResolvedRecipe) -> Calibration:
    """The factor of all scans together."""
    slices = [one for part in parts for one in part.slices]
    noise_source = parts[-1].noise_source if parts else None
    factor = _factor(slices, recipe.method.name, noise_source)
    sigma_n = [one.sigma_n for one in slices]
    accelerations = [rate for part in parts for rate in part.accelerations]
    return Calibration(
        factor=factor,
        before=_coverage(slices, 1.0, recipe.n_samples),
        after=_coverage(slices, factor, recipe.n_samples),
        n_hidden=sum(one.residual.numel() for one in slices),
        n_slices=len(slices),
        n_samples=recipe.n_samples,
        acceleration=(min(accelerations), max(accelerations)),
        sigma_n=(min(sigma_n), max(sigma_n)),
        mask_kinds=tuple(sorted(set[str]().union(*(part.mask_kinds for part in parts)))),
    )


def _batches(scans: Iterator[Scan], engine: Engine) -> Iterator[list[Scan]]:
    """Slices of a scan, as many as share a call."""
    for first in scans:
        yield [first, *islice(scans, engine.slices_at_once(first.shape) - 1)]


class _SliceErrors(NamedTuple):
    """Errors on the held-out lines of a slice, and the variance that the samples predict."""

    residual: Tensor
    variance: Tensor
    sigma_n: float


def _errors(split: HeldOutScan, result: SliceImages) -> Iterator[_SliceErrors]:
    """The errors of every slice with signal."""
    assert result.samples is not None
    for i in range(len(split.whole.slices)):
        y, K = split.measured(i), split.predicted(i, result.samples[:, i])
        if bool(y.any()):
            yield _SliceErrors(*residual_and_variance(y, K), split.sigma_n)


def _factor(slices: Sequence[_SliceErrors], method: str, noise_source: str | None) -> float:
    if not slices:
        raise ScanFormatError("there is no scan with signal to calibrate on")
    drawn = sum(float(variance.sum()) for _, variance, _ in slices)
    error = sum(float((r.square() - sigma_n**2).sum()) for r, _, sigma_n in slices)
    if drawn == 0:
        raise ConfigError(f"samples of {method!r} do not differ")
    if error <= 0:
        raise ConfigError(
            "held-out lines are predicted better than their noise allows: the noise of these "
            f"scans is overestimated ({noise_source}); prepare them with noise_std (--noise-std)"
        )
    return math.sqrt(error / drawn)


def _coverage(slices: Sequence[_SliceErrors], factor: float, n_samples: int) -> tuple[float, ...]:
    """Share of the measurements in each of the intervals."""
    shares = []
    for level in LEVELS:
        inside = [
            inside_interval(residual, factor**2 * variance, sigma_n, n_samples, level).flatten()
            for residual, variance, sigma_n in slices
        ]
        shares.append(float(torch.cat(inside).double().mean()))
    return tuple(shares)


def with_calibration(recipe: ResolvedRecipe, found: Calibration) -> Prior:
    """The recipe's prior with the factor in its card, for its sampler, options and samples.

    Factors of other methods in the card are kept.
    """
    prior = recipe.prior
    assert isinstance(prior, Prior)
    method = {"method": recipe.method.name, "options": method_options(recipe.method)}
    entry = {**method, **asdict(found)}
    del entry["before"], entry["after"]
    same = ("method", "options", "n_samples")
    known = prior.card.get("calibration", ())
    others = [other for other in known if any(other[key] != entry[key] for key in same)]
    card = {**prior.card, "calibration": [*others, entry]}
    return replace(prior, facts=replace(prior.facts, card=card))
