"""One adaptation for several scans: the adapted prior, in memory or in a file."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import (
    CheckpointError,
    ConfigError,
    MriAmbientError,
    OutputExistsError,
    PrepError,
)
from ..io import ScanPath, find_scans
from ..io.scan_file import ScanFile
from ..priors.checkpoint import load_prior, save_prior
from ..priors.prior import Prior
from ..recon.adaptation import AdaptationData, evenly_spaced, hashed_name
from ..recon.adapted import slices_to_learn
from ..recon.pipeline import Source, open_volume, resolved_recipe
from ..recon.recipe import Recipe, ResolvedRecipe
from ..recon.volume import Volume
from ..recon.warnings import issue_weakness
from ..runtime.device import Runtime, checked_runtime
from ..runtime.executor import Executor, run_one
from ..runtime.files import file_sha256, locked
from ..scan import Scan
from .adapt import AdaptConfig
from .adapter import digest_of

MOST_SLICES = 32
"""Slices of all scans together, at most: they are held in memory."""

OnError = Callable[[Source, MriAmbientError], None]


def adapt(
    scans: Source | Iterable[Source],
    recipe: Recipe | ResolvedRecipe | None = None,
    runtime: Runtime | None = None,
    *,
    output: str | Path | None = None,
    overwrite: bool = False,
    on_error: OnError | None = None,
) -> Prior:
    """Adapt one prior to scans together, by its own objective, as ``mri-ambient adapt`` does.

    Args:
        scans: one or several, as :func:`~mri_ambient.reconstruct` takes them; paths may be folders
            and globs, in any order. At most :data:`MOST_SLICES` slices are used, evenly spaced.
        recipe: its prior, seed, preparation and retrospective mask, its ``adapt`` (by default
            ``AdaptConfig()``), and in ``checks`` how many lines of every scan are set aside.
        runtime: where to compute.
        output: a file for the prior. While there is none its state is kept beside it, so that a
            call that was interrupted resumes; a finished one is read.
        overwrite: replace a prior that was adapted otherwise.
        on_error: called with a scan that cannot be read and its error; without it the error is
            raised.

    Returns:
        The adapted prior, or the prior of the recipe where the error on held-out lines did not
        fall. Its card says which under "adaptation".

    Raises:
        ConfigError: a prior that cannot be adapted, or ``output`` is the file that it came from.
        OutputExistsError: the file exists and is another prior, and ``overwrite`` is not set.
        MriAmbientError: no scan can be read and prepared.
    """
    resolved = resolved_recipe(Recipe(adapt=AdaptConfig()) if recipe is None else recipe)
    resolved = replace(resolved, adapt=resolved.adapt or AdaptConfig())
    shared = _Shared(scans, resolved, checked_runtime(runtime), on_error or _raise)
    if output is None:
        return shared.adapt(None)
    return shared.adapt_to_file(Path(output), overwrite=overwrite)


def adapt_as_task(
    executor: Executor,
    scans: Sequence[ScanPath],
    recipe: ResolvedRecipe,
    runtime: Runtime,
    output: Path,
    *,
    overwrite: bool,
    on_error: OnError,
    any_scans: bool = False,
) -> Prior:
    """The same as one task of an executor, such as a worker of a cluster with a GPU.

    ``any_scans``: a prior that is there is read if it was adapted with these settings, to whatever
    scans.
    """
    task = partial(_adapted, recipe, runtime, output, overwrite, any_scans)
    failed, nothing = run_one(executor, task, tuple(scans))
    for scan, error in failed:
        on_error(scan, error)
    if nothing is not None:
        raise nothing
    return load_prior(output)


def _adapted(
    recipe: ResolvedRecipe,
    runtime: Runtime,
    output: Path,
    overwrite: bool,
    any_scans: bool,
    scans: Sequence[ScanPath],
) -> tuple[list[tuple[Source, MriAmbientError]], PrepError | None]:
    """The scans that cannot be read, and an error if that is all; or else the file is there."""
    failed: list[tuple[Source, MriAmbientError]] = []

    def note(scan: Source, error: MriAmbientError) -> None:
        failed.append((scan.path if isinstance(scan, ScanFile) else scan, error))

    shared = _Shared(scans, recipe, runtime, note)
    try:
        shared.adapt_to_file(output, overwrite=overwrite, any_scans=any_scans)
    except PrepError as error:
        return failed, error
    return failed, None


def _raise(_: Source, error: MriAmbientError) -> None:
    raise error


class _Shared:
    """An adaptation to several volumes, those that can be opened."""

    def __init__(
        self,
        scans: Source | Iterable[Source],
        recipe: ResolvedRecipe,
        runtime: Runtime,
        on_error: OnError,
    ) -> None:
        assert recipe.adapt is not None
        if recipe.prior is None:
            raise ConfigError(f"method {recipe.method.name!r} uses no prior that could be adapted")
        recipe.adapt.check(recipe.prior)
        issue_weakness(recipe.prior)
        self.scans, self.recipe, self.runtime, self.on_error = scans, recipe, runtime, on_error
        self.adaptation = recipe.adapt
        self.first: MriAmbientError | None = None

    @cached_property
    def volumes(self) -> list[Volume]:
        """Those that can be opened; at most as many as there may be slices, evenly spaced."""
        found: list[Volume] = []
        for scan in self._sources():
            try:
                found.append(open_volume(scan, self.recipe, self.runtime))
            except MriAmbientError as error:
                self._failed(scan, error)
        names = Counter(volume.file.scan_id for volume in found)

        def order(volume: Volume) -> tuple[str, str]:
            """By name; those that share one by content, which takes reading the whole file."""
            name = volume.file.scan_id
            return name, volume.file.source_sha256 if names[name] > 1 else ""

        found.sort(key=order)
        return [found[i] for i in evenly_spaced(len(found), MOST_SLICES)]

    def _sources(self) -> Iterator[Source]:
        scans = self.scans
        if isinstance(scans, (str, Path, ScanPath, ScanFile, Scan, np.ndarray)):
            scans = [scans]
        for given in scans:
            yield from find_scans([given]) if isinstance(given, (str, Path)) else [given]

    def _failed(self, scan: Source, error: MriAmbientError) -> None:
        self.first = self.first or error
        self.on_error(scan, error)

    @property
    def identity(self) -> dict[str, Any]:
        """All that decides the result beside the weights of the start."""
        return {"volumes": [volume.settings for volume in self.volumes]}

    @cached_property
    def slices(self) -> list[tuple[Volume, list[Scan]]]:
        """The volumes that can be prepared, and what is learned from them."""
        most = min(self.adaptation.n_slices, MOST_SLICES // max(len(self.volumes), 1))
        found: list[tuple[Volume, list[Scan]]] = []
        for volume in self.volumes:
            try:
                indices = evenly_spaced(len(volume.file), most)
                found.append((volume, slices_to_learn(volume, indices)))
            except MriAmbientError as error:
                self._failed(volume.file, error)
        if found:
            return found
        if self.first is None:
            raise ConfigError("there is no scan to adapt the prior to; name scans that can be read")
        raise PrepError(
            f"no scan can be read and prepared, so the prior was not adapted ({self.first})"
        )

    def adapt(self, folder: Path | None) -> Prior:
        """The adapted prior."""
        data = AdaptationData(
            read=lambda: [scan for _, scans in self.slices for scan in scans],
            scans=lambda: [hashed_name(volume.file) for volume, _ in self.slices],
            identity=self.identity,
            folder=folder,
        )
        prior = self.adaptation(data, self.recipe, self.runtime)
        assert isinstance(prior, Prior)
        return prior

    def adapt_to_file(self, path: Path, *, overwrite: bool, any_scans: bool = False) -> Prior:
        """The adapted prior, as it is written to the file or was found there."""
        start = self.recipe.prior
        assert isinstance(start, Prior)
        if path.is_file() and file_sha256(path) == start.card.get("sha256"):
            raise ConfigError(
                f"{path}: is the prior that it starts from, which is never changed; choose another "
                "output"
            )
        state = path.with_name(f".{path.stem}.unfinished")
        with locked(path):
            if not path.exists() or overwrite:
                save_prior(self.adapt(state), path)
            elif any_scans:
                _check_made_by(path, "settings", self.recipe.choices(self.runtime), start)
            else:
                _check_made_by(path, "identity", self.identity, start)
            shutil.rmtree(state, ignore_errors=True)
        return load_prior(path)


def _check_made_by(path: Path, what: str, values: dict[str, Any], start: Prior) -> None:
    """Refuse a file that is not a prior adapted by these values of what its card has a hash of."""
    try:
        prior = load_prior(path)
    except CheckpointError as error:
        raise OutputExistsError(
            f"{path}: exists and is not a prior, so it is never overwritten; choose another output"
        ) from error
    if prior.card.get("adaptation", {}).get(f"{what}_sha256") != digest_of(values, start):
        raise OutputExistsError(
            f"{path}: is another prior, or was adapted to other scans or with other options; "
            "give overwrite=True (--overwrite) or choose another output"
        )
