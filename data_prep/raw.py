"""One call from a raw file to a reconstruction, for Python users."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..checkpoint import load_prior
from ..io import Undersampled, open_scan
from ..masks import MaskSpec
from ..prior import Prior
from ..reconstruct import METHODS, Options, Reference, is_sampler, reconstruct_file, settings
from ..samplers import Aos
from ..weights import default_prior
from .prepare import PrepConfig, plan


def reconstruct_raw(
    path: str | Path,
    output: str | Path,
    *,
    method: Any = None,  # noqa: ANN401 -- any of METHODS
    prior: Prior | str | Path | None = None,
    retrospective: MaskSpec | None = None,
    prep: PrepConfig | None = None,
    options: Options | None = None,
) -> dict[str, Any]:
    """Prepare and reconstruct a scan, as ``mri-ambient reconstruct`` does.

    Args:
        path: a raw or prepared scan.
        output: folder for ``<stem>.h5`` (images in scanner units) and ``<stem>.json``.
        method: an instance of one of ``METHODS``; one step with data consistency by default.
        prior: a prior or its file; the one that ships with the package by default.
        retrospective: undersample a fully sampled scan by this recipe first.
        prep: options of the preparation.
        options: seed, samples, batch size, device.

    Returns:
        The report that also stands in the JSON file.

    Raises:
        MriAmbientError: the scan cannot be read, prepared or reconstructed.
    """
    method, options, prep = method or Aos(), options or Options(), prep or PrepConfig()
    if type(method) not in METHODS.values():
        raise TypeError(f"method must be one of {sorted(METHODS)}, got {method!r}")
    if is_sampler(method) and not isinstance(prior, Prior):
        prior = load_prior(Path(prior or default_prior()), options.device)
    full = open_scan(path)
    file = full if retrospective is None else Undersampled(full, retrospective, options.seed)
    preparation = plan(file, prep, device=options.device)
    reference = None
    if full.fully_sampled:
        reference = Reference(
            full, preparation if file is full else plan(full, prep, device=options.device)
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
