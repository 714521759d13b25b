"""One number that makes the spread of samples as large as their error, found on hidden lines.

The standard deviation of samples is too small where a sampler counts the data twice or a prior is
too sure. On hidden measured lines the error of their mean is known; the factor is the one with
which noise and samples together predict its energy,

    factor^2 = (sum |K - y|^2 - sum sigma_n^2) / sum (1 + 1/K) var.

It is fitted on scans that the prior was not trained on, holds for one sampler with its options, and
is stored in the card of the prior.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import groupby, islice
from typing import Any

import torch

from ..errors import ConfigError, ScanFormatError
from ..methods import Method
from ..physics.masks import mask_kind
from ..priors.prior import Prior
from ..recon.checks import inside_interval, residual_and_variance, split_scan
from ..recon.engine import Engine
from ..recon.recipe import ResolvedRecipe, method_options
from ..runtime.device import Runtime
from ..scan import Scan

LEVELS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
"""Central intervals that are drawn."""


@dataclass(frozen=True)
class Calibration:
    """What the spread of samples has to be multiplied with.

    Attributes:
        factor: this number.
        before: coverage of the intervals :data:`LEVELS` by the samples as they are.
        after: and with the factor.
        n_hidden: hidden measurements, Re and Im counted, that it was fitted on.
        n_slices: from so many slices.
        n_samples: samples of each.
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


def calibrate(
    scans: Iterable[Scan],
    recipe: ResolvedRecipe,
    runtime: Runtime | None = None,
    *,
    n_lines: int = 2,
    on_scan: Callable[[int], None] | None = None,
) -> Calibration:
    """Fit the factor on hidden lines of prepared scans.

    Args:
        scans: slices of prepared scans that the prior was not trained on; few are held at a time.
        recipe: a stochastic method with at least two samples, and its prior.
        runtime: device, precision, batch size.
        n_lines: lines to hold out in each scan.
        on_scan: told how many are done after every one.

    Raises:
        ConfigError: samples that do not differ, or noise that is overestimated.
        ScanFormatError: no scans, or none with signal.
    """
    parts, rates, kinds, source = [], [], set(), None
    engine = Engine(recipe, runtime)
    for group in _together(scans, engine):
        cuts = [split_scan(scan, n_lines, recipe.seed) for scan in group]
        results = engine([cut.kept for cut in cuts])
        for scan, cut, result in zip(group, cuts, results, strict=True):
            source = scan.noise_source
            rates.append(scan.acceleration)
            kinds.add(mask_kind(scan.mask))
            if result.samples is None:
                raise ConfigError("a spread needs at least two samples of a stochastic method")
            for i in range(len(scan.slices)):
                y, K = cut.held_out_samples(i), cut.predictions(i, result.samples[:, i])
                if not bool(y.any()):  # a slice without signal tells nothing
                    continue
                parts.append((*residual_and_variance(y, K), cut.sigma_n))
            if on_scan is not None:
                on_scan(len(rates))
    if not parts:
        raise ScanFormatError("there is no scan with signal to calibrate on")
    drawn = sum(float(variance.sum()) for _, variance, _ in parts)
    error = sum(float((r.square() - sigma_n**2).sum()) for r, _, sigma_n in parts)
    if drawn == 0:
        raise ConfigError(f"samples of {recipe.method.name!r} do not differ")
    if error <= 0:
        raise ConfigError(
            "hidden lines are predicted better than their noise allows: the noise of these scans "
            f"is overestimated ({source}); give --noise-std to prep"
        )
    factor = (error / drawn) ** 0.5

    def coverage(scale: float) -> tuple[float, ...]:
        return tuple(
            float(
                torch.cat(
                    [
                        inside_interval(r, scale**2 * v, sigma_n, recipe.n_samples, level).flatten()
                        for r, v, sigma_n in parts
                    ]
                )
                .double()
                .mean()
            )
            for level in LEVELS
        )

    return Calibration(
        factor=factor,
        before=coverage(1.0),
        after=coverage(factor),
        n_hidden=sum(r.numel() for r, _, _ in parts),
        n_slices=len(parts),
        n_samples=recipe.n_samples,
        acceleration=(min(rates), max(rates)),
        sigma_n=(min(s for _, _, s in parts), max(s for _, _, s in parts)),
        mask_kinds=tuple(sorted(kinds)),
    )


def _together(scans: Iterable[Scan], engine: Engine) -> Iterator[list[Scan]]:
    """Neighbours of one matrix size and number of coils, as many as share a call."""
    for (shape, _), alike in groupby(scans, key=lambda scan: (scan.shape, scan.n_coils)):
        while group := list(islice(alike, engine.slices_at_once(shape))):
            yield group


def with_calibration(prior: Prior, method: Method, found: Calibration) -> Prior:
    """The prior with the factor in its card, for this sampler with its options and samples.

    What the card says of others is kept.
    """
    entry: dict[str, Any] = {
        "method": method.name,
        "options": method_options(method),
        "n_samples": found.n_samples,
        "factor": found.factor,
        "acceleration": found.acceleration,
        "sigma_n": found.sigma_n,
        "mask_kinds": found.mask_kinds,
        "n_slices": found.n_slices,
        "n_hidden": found.n_hidden,
    }
    same = ("method", "options", "n_samples")
    others = [
        other
        for other in prior.facts.card.get("calibration", ())
        if any(other[key] != entry[key] for key in same)
    ]
    card = {**prior.facts.card, "calibration": [*others, entry]}
    return replace(prior, facts=replace(prior.facts, card=card))
