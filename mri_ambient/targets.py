"""Images to learn from, where no scan is fully sampled: reconstructions of the training scans.

A folder of targets holds ``<scan_id>.h5`` for every prepared scan, dataset ``samples`` complex64
``(slice, y, x)``, normalised as the scan is. A scan whose file is there is not done again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from .baselines import BASELINES, Baseline
from .data import Item
from .errors import ConfigError
from .io.output import SamplesWriter
from .io.prepared import PreparedFile
from .prior import DenoiserSource
from .reconstruct import Options, reconstruct
from .samplers import Sampler


def make_targets(
    items: Sequence[Item],
    folder: Path,
    method: str | Sampler | Baseline,
    prior: DenoiserSource | None = None,
    options: Options | None = None,
    *,
    shard: tuple[int, int] | None = None,
    on_scan: Callable[[int, int], None] | None = None,
) -> None:
    """Reconstruct every scan of a training set, one image a slice.

    Args:
        items: slices of prepared scans; whole scans are reconstructed.
        folder: where the images go.
        method: a sampler or baseline, or the name of a baseline.
        prior: what images look like; samplers need one.
        options: seed, batch size and device; one sample a slice is drawn.
        shard: do part i of N of the scans only, counted from 1.
        on_scan: told (done, total) after every scan.

    Raises:
        ConfigError: no baseline of this name.
    """
    if isinstance(method, str):
        if method not in BASELINES:
            raise ConfigError(
                f"targets {method!r} are unknown; choose from full, {', '.join(BASELINES)}"
            )
        method = BASELINES[method]()
    options = replace(options or Options(), n_samples=1)
    files = _files(items)
    if shard is not None:
        files = files[shard[0] - 1 :: shard[1]]
    for done, file in enumerate(files, start=1):
        path = folder / f"{file.scan_id}.h5"
        if not path.exists():
            n = options.images_at_once(method, prior, file.shape[-2:], file.shape[1])
            parts = [
                reconstruct(file[i : i + n], method, prior, options).img
                for i in range(0, len(file), n)
            ]
            attributes = {"scan_id": file.scan_id, "method": method.name, "seed": options.seed}
            with SamplesWriter(path, torch.cat(parts), attributes=attributes):
                pass
        if on_scan is not None:
            on_scan(done, len(files))


def _files(items: Sequence[Item]) -> list[PreparedFile]:
    return list({item.file.path: item.file for item in items}.values())
