"""Images to learn from, where no scan is fully sampled: reconstructions of the training scans.

A folder of targets holds ``<scan_id>.h5`` for every prepared scan, dataset ``samples`` complex64
``(slice, y, x)``, normalised as the scan is, and says which scan it was made of. A scan whose file
is there is not done again, unless the file is damaged.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import ConfigError, ScanFormatError
from ..io.hdf5 import open_h5, read_attributes
from ..io.prepared import PreparedFile
from ..io.reconstruction import write_samples
from ..methods import BASELINES, Method
from ..recon.engine import Engine
from ..recon.recipe import ResolvedRecipe, method_options, plain
from ..runtime.device import Runtime
from ..runtime.files import write_json
from .dataset import Item, prepared_digest

TOGETHER, PIXELS_TOGETHER = 16, 2**18
"""Slices, and pixels, that scans which are worked on together have at most: enough for a GPU, and
few where it may take long to stop. Neither memory nor the device decides it: every process makes
the same groups."""


def make_targets(
    items: Sequence[Item],
    folder: Path,
    recipe: ResolvedRecipe,
    runtime: Runtime | None = None,
    *,
    shard: tuple[int, int] | None = None,
    on_scan: Callable[[int, int], None] | None = None,
    on_damaged: Callable[[str], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> bool:
    """Reconstruct every scan of a training set, one image a slice.

    Scans of one matrix size and number of coils are worked on together. Which ones does not depend
    on what is there already, nor on ``shard``, and so neither do the images.

    Args:
        items: slices of prepared scans; whole scans are reconstructed.
        folder: where the images go.
        recipe: method, prior and seed; one sample per slice is drawn.
        runtime: device, precision, batch size.
        shard: do part i of N of these groups only, counted from 1.
        on_scan: told (done, total) after every scan.
        on_damaged: given a sentence about every scan that cannot be read and is left out.
        should_stop: asked before images are made, as many as are worked on together.

    Returns:
        Whether all were made; False if it was stopped.

    Raises:
        ConfigError: no baseline of this name, or ``folder`` holds images that were made by another
            method, prior or seed, or of other scans.
    """
    runtime = runtime or Runtime()
    check_made_by(folder, recipe, runtime)
    made_by = folder / "made-by.json"
    if not made_by.exists():
        write_json(made_by, _made_by(recipe, runtime))

    def damaged(error: ScanFormatError) -> None:
        if on_damaged is not None:
            on_damaged(str(error))

    engine = Engine(recipe, runtime)
    groups = list(_groups(_files(items)))
    if shard is not None:
        groups = groups[shard[0] - 1 :: shard[1]]
    done, n_files = 0, sum(len(group) for group in groups)
    for group in groups:
        digests = {file.scan_id: prepared_digest(file) for file in group}
        missing = {name for name in digests if not _is_made(folder / f"{name}.h5", digests[name])}
        if missing and should_stop is not None and should_stop():
            return False
        for name, images in _images(group, missing, engine, damaged):
            attributes = {"scan_id": name, "made_of": digests[name], "method": recipe.method.name}
            write_samples(folder / f"{name}.h5", images, attributes)
        for _ in group:
            done += 1
            if on_scan is not None:
                on_scan(done, n_files)
    return True


def _groups(files: list[PreparedFile]) -> Iterator[list[PreparedFile]]:
    """Files that are worked on together, a long one alone."""
    waiting: dict[tuple[int, ...], list[PreparedFile]] = {}
    for file in files:
        alike = file.shape[1:]
        group = waiting.setdefault(alike, [])
        most = min(TOGETHER, PIXELS_TOGETHER // (file.shape[-2] * file.shape[-1]))
        if group and sum(len(other) for other in group) + len(file) > most:
            yield group
            group = waiting[alike] = []
        group.append(file)
    yield from waiting.values()


def _images(
    group: list[PreparedFile],
    missing: set[str],
    engine: Engine,
    damaged: Callable[[ScanFormatError], None],
) -> Iterator[tuple[str, Tensor]]:
    """Scan and images ``(slice, y, x)`` of the missing files of a group that can be read."""
    if not missing:
        return
    if len(group) == 1:  # it may be long, and is never held as a whole
        (file,) = group
        try:
            n_slices = engine.slices_at_once(file.shape[-2:])
            starts = range(0, len(file), n_slices)
            parts = [engine([file[first : first + n_slices]])[0].img for first in starts]
        except ScanFormatError as error:
            damaged(error)
        else:
            yield file.scan_id, torch.cat(parts)
        return
    scans = []
    for file in group:
        try:
            scans.append(file[:])
        except ScanFormatError as error:
            damaged(error)
    if any(scan.scan_id in missing for scan in scans):  # and with them all that share their calls
        for result in engine(scans):
            if result.scan_id in missing:
                yield result.scan_id, result.img


def target_method(name: str) -> Method:
    """The method of this name that makes targets.

    Raises:
        ConfigError: there is none.
    """
    if name not in BASELINES:
        raise ConfigError(f"targets {name!r} are unknown; choose from full, {', '.join(BASELINES)}")
    return BASELINES[name]()


def _is_made(path: Path, digest: str) -> bool:
    """Whether the image of this prepared scan is there, in a file that can be read.

    Raises:
        ConfigError: it is that of another scan.
    """
    if not path.exists():
        return False
    try:
        with open_h5(path, for_text=True) as file:
            found = read_attributes(file, path).get("made_of", digest)  # older ones do not say it
    except ScanFormatError:
        return False
    if found != digest:
        raise ConfigError(
            f"{path}: is the image of another scan of this name, or of one that was prepared "
            "otherwise; delete its folder, or choose another"
        )
    return True


def _made_by(recipe: ResolvedRecipe, runtime: Runtime) -> dict[str, Any]:
    method = recipe.method
    made_by = {"method": method.name, "options": method_options(method), "seed": recipe.seed}
    if method.needs_prior:
        made_by |= {"prior_sha256": recipe.prior_sha256, "bf16": runtime.bf16}
    return plain(made_by)


def check_made_by(
    folder: Path, recipe: ResolvedRecipe, runtime: Runtime, *, finished: bool = False
) -> None:
    """Refuse a folder whose images something else made.

    Args:
        folder: of the images.
        recipe: method, prior and seed that make them.
        runtime: device and precision.
        finished: none will be made any more, so that the device does not matter.

    Raises:
        ConfigError: the method, its options, the prior or the seed differ.
    """
    path = folder / "made-by.json"
    if not path.exists():
        return
    made_by, stored = _made_by(recipe, runtime), json.loads(path.read_text(encoding="utf-8"))
    if finished:
        made_by.pop("bf16", None)
    differing = sorted(key for key in made_by if stored.get(key, made_by[key]) != made_by[key])
    if differing:
        raise ConfigError(
            f"{folder}: holds images that were made by something else ({', '.join(differing)}); "
            "use another folder, or delete it"
        )


def _files(items: Sequence[Item]) -> list[PreparedFile]:
    return list({item.file.path: item.file for item in items}.values())
