"""One call from a raw file to a reconstruction, for Python users."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..data_prep.prepare import PrepConfig, plan
from ..errors import ConfigError
from ..io import Undersampled, open_scan
from ..methods import Sampler
from ..methods.baselines import Baseline
from ..methods.presets import METHODS, SAMPLINGS, default_method, is_sampler
from ..physics.masks import MaskSpec
from ..priors.checkpoint import load_prior
from ..priors.prior import Prior
from ..priors.weights import default_prior
from .checks import Checking
from .engine import Options
from .reference import plan_reference
from .volume import reconstruct_file, settings


def reconstruct_raw(
    path: str | Path,
    output: str | Path,
    *,
    method: str | Sampler | Baseline | None = None,
    prior: Prior | str | Path | None = None,
    retrospective: float | MaskSpec | None = None,
    prep: PrepConfig | None = None,
    options: Options | None = None,
    checking: Checking | None = None,
) -> dict[str, Any]:
    """Prepare and reconstruct a scan, as ``mri-ambient reconstruct`` does.

    Args:
        path: a raw or prepared scan.
        output: folder for ``<stem>.h5`` (images in scanner units) and ``<stem>.json``.
        method: a key of ``METHODS`` or ``SAMPLINGS`` (a preset, which also says how many samples
            are drawn unless ``options`` are given), or an instance with options of its own, e.g.
            ``L1Wavelet(lam=0.01)``; by default what suits the prior, one step with data consistency
            for the one that ships.
        prior: a prior or its file; the one that ships with the package by default.
        retrospective: undersample a fully sampled scan first, by random lines to this acceleration
            or by a recipe.
        prep: options of the preparation.
        options: seed, samples, batch size, device.
        checking: what is checked without a reference: hidden lines, flags; nothing by default.

    Returns:
        The report that also stands in the JSON file.

    Raises:
        MriAmbientError: the scan cannot be read, prepared or reconstructed.
    """
    prep, checking = prep or PrepConfig(), checking or Checking()
    if method is None:
        prior = prior if isinstance(prior, Prior) else load_prior(Path(prior or default_prior()))
        method = default_method(prior)
    if isinstance(method, str) and method in SAMPLINGS:
        preset = SAMPLINGS[method]
        method, options = preset.method, options or Options(n_samples=preset.n_samples)
    elif isinstance(method, str):
        if method not in METHODS:
            known = ", ".join([*METHODS, *SAMPLINGS])
            raise ConfigError(f"method {method!r} is unknown; choose from {known}")
        method = METHODS[method]()
    options = options or Options()
    if isinstance(retrospective, int | float):
        retrospective = MaskSpec(acceleration=float(retrospective))
    if is_sampler(method) and not isinstance(prior, Prior):
        prior = load_prior(Path(prior or default_prior()))
    full = open_scan(path)
    file = full if retrospective is None else Undersampled(full, retrospective, options.seed)
    preparation = plan(file, prep, device=options.device, cpu_fallback=options.cpu_fallback)
    reference = plan_reference(
        full,
        prep,
        device=options.device,
        cpu_fallback=options.cpu_fallback,
        made=preparation if file is full else None,
    )
    loaded = prior if isinstance(prior, Prior) else None
    return reconstruct_file(
        file,
        preparation,
        method,
        loaded,
        Path(output),
        options,
        reference=reference,
        made_with=settings(
            file, method, loaded, options, prep=prep, mask=retrospective, checking=checking
        ),
        checking=checking,
    )
