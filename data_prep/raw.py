"""One call from a raw file to a reconstruction, for Python users."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..baselines import Baseline
from ..checkpoint import load_prior
from ..errors import ConfigError
from ..io import Undersampled, open_scan
from ..masks import MaskSpec
from ..methods import METHODS, is_sampler
from ..prior import Prior
from ..reconstruct import Options
from ..samplers import Sampler
from ..volume import reconstruct_file, settings
from ..weights import default_prior
from .prepare import PrepConfig, plan, plan_reference


def reconstruct_raw(
    path: str | Path,
    output: str | Path,
    *,
    method: str | Sampler | Baseline = "aos",
    prior: Prior | str | Path | None = None,
    retrospective: float | MaskSpec | None = None,
    prep: PrepConfig | None = None,
    options: Options | None = None,
) -> dict[str, Any]:
    """Prepare and reconstruct a scan, as ``mri-ambient reconstruct`` does.

    Args:
        path: a raw or prepared scan.
        output: folder for ``<stem>.h5`` (images in scanner units) and ``<stem>.json``.
        method: a key of ``METHODS``, or an instance with options of its own, e.g.
            ``L1Wavelet(lam=0.01)``; one step with data consistency by default.
        prior: a prior or its file; the one that ships with the package by default.
        retrospective: undersample a fully sampled scan first, by random lines to this acceleration
            or by a recipe.
        prep: options of the preparation.
        options: seed, samples, batch size, device.

    Returns:
        The report that also stands in the JSON file.

    Raises:
        MriAmbientError: the scan cannot be read, prepared or reconstructed.
    """
    options, prep = options or Options(), prep or PrepConfig()
    if isinstance(method, str):
        if method not in METHODS:
            raise ConfigError(f"method {method!r} is unknown; choose from {', '.join(METHODS)}")
        method = METHODS[method]()
    if isinstance(retrospective, int | float):
        retrospective = MaskSpec(acceleration=float(retrospective))
    if is_sampler(method) and not isinstance(prior, Prior):
        prior = load_prior(Path(prior or default_prior()), options.device)
    full = open_scan(path)
    file = full if retrospective is None else Undersampled(full, retrospective, options.seed)
    preparation = plan(file, prep, device=options.device)
    reference = plan_reference(
        full, prep, device=options.device, made=preparation if file is full else None
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
        made_with=settings(file, method, loaded, options, prep=prep, mask=retrospective),
    )
