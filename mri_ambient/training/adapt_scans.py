"""One adaptation for several scans: the adapted prior, in memory or in a file."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import CheckpointError, ConfigError, MriAmbientError, OutputExistsError
from ..io import ScanPath, find_scans
from ..io.scan_file import ScanFile
from ..priors.checkpoint import load_prior, save_prior
from ..priors.prior import Prior, scan_digest
from ..recon.adaptation import AdaptationData, evenly_spaced
from ..recon.adapted import slices_to_learn
from ..recon.pipeline import Source, open_volume
from ..recon.recipe import Recipe, ResolvedRecipe
from ..recon.volume import Volume
from ..recon.warnings import issue_weakness
from ..runtime.device import Runtime
from ..runtime.executor import Executor
from ..runtime.files import locked
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
            and globs. At most :data:`MOST_SLICES` slices are used, evenly spaced.
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
        ConfigError: a prior that cannot be adapted.
        OutputExistsError: the file exists and is another prior, and ``overwrite`` is not set.
        MriAmbientError: no scan can be read.
    """
    resolved = (Recipe(adapt=AdaptConfig()) if recipe is None else recipe).resolve()
    resolved = replace(resolved, adapt=resolved.adapt or AdaptConfig())
    shared = _Shared(resolved, runtime or Runtime(), on_error or _raise)
    shared.open(scans)
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
) -> Prior:
    """The same as one task of an executor, such as a worker of a cluster with a GPU."""
    task = partial(_adapted, recipe, runtime, output, overwrite)
    ((_, failed),) = executor.map(task, [tuple(scans)])
    if isinstance(failed, MriAmbientError):
        raise failed
    for scan, error in failed:
        on_error(scan, error)
    return load_prior(output)


def _adapted(
    recipe: ResolvedRecipe,
    runtime: Runtime,
    output: Path,
    overwrite: bool,
    scans: Sequence[ScanPath],
) -> list[tuple[Source, MriAmbientError]]:
    """The scans that cannot be read; the prior is in the file."""
    failed: list[tuple[Source, MriAmbientError]] = []

    def note(scan: Source, error: MriAmbientError) -> None:
        failed.append((scan.path if isinstance(scan, ScanFile) else scan, error))

    adapt(scans, recipe, runtime, output=output, overwrite=overwrite, on_error=note)
    return failed


def _raise(_: Source, error: MriAmbientError) -> None:
    raise error


class _Shared:
    """An adaptation to several volumes, those that can be opened."""

    def __init__(self, recipe: ResolvedRecipe, runtime: Runtime, on_error: OnError) -> None:
        assert recipe.adapt is not None
        if recipe.prior is None:
            raise ConfigError(f"method {recipe.method.name!r} uses no prior that could be adapted")
        recipe.adapt.check(recipe.prior)
        issue_weakness(recipe.prior)
        self.recipe, self.runtime, self.on_error = recipe, runtime, on_error
        self.adaptation = recipe.adapt
        self.volumes: list[Volume] = []

    def open(self, scans: Source | Iterable[Source]) -> None:
        """Open the scans; at most as many as there may be slices, evenly spaced, are used."""
        if isinstance(scans, (str, Path, ScanPath, ScanFile, Scan, np.ndarray)):
            scans = [scans]
        for given in scans:
            for scan in find_scans([given]) if isinstance(given, (str, Path)) else [given]:
                try:
                    self.volumes.append(open_volume(scan, self.recipe, self.runtime))
                except MriAmbientError as error:
                    self.on_error(scan, error)
        chosen = evenly_spaced(len(self.volumes), MOST_SLICES)
        self.volumes = [self.volumes[i] for i in chosen]

    @property
    def identity(self) -> dict[str, Any]:
        """All that decides the result beside the weights of the start."""
        return {"volumes": [volume.settings for volume in self.volumes]}

    def read(self) -> list[Scan]:
        """Prepared slices of the volumes, without those of volumes that cannot be prepared."""
        most = min(self.adaptation.n_slices, MOST_SLICES // max(len(self.volumes), 1))
        found: list[Scan] = []
        for volume in self.volumes:
            try:
                found += slices_to_learn(volume, evenly_spaced(len(volume.file), most))
            except MriAmbientError as error:
                self.on_error(volume.file, error)
        return found

    def adapt(self, folder: Path | None) -> Prior:
        """The adapted prior."""
        if not self.volumes:
            raise ConfigError("there is no scan to adapt the prior to; name scans that can be read")
        files = [volume.file for volume in self.volumes]
        scans = {file.scan_id: scan_digest(file.source_sha256) for file in files}
        data = AdaptationData(scans, self.read, self.identity, folder)
        prior = self.adaptation(data, self.recipe, self.runtime)
        assert isinstance(prior, Prior)
        return prior

    def adapt_to_file(self, path: Path, *, overwrite: bool) -> Prior:
        """The adapted prior, as it is written to the file or was found there."""
        assert isinstance(self.recipe.prior, Prior)
        state = path.with_name(f".{path.stem}.unfinished")
        with locked(path):
            if path.exists() and not overwrite:
                _check_finished(path, digest_of(self.identity, self.recipe.prior))
            else:
                save_prior(self.adapt(state), path)
            shutil.rmtree(state, ignore_errors=True)
        return load_prior(path)


def _check_finished(path: Path, digest: str) -> None:
    """Refuse a file that is not the result of this very adaptation."""
    try:
        prior = load_prior(path)
    except CheckpointError as error:
        raise OutputExistsError(
            f"{path}: exists and is not a prior, so it is never overwritten; choose another output"
        ) from error
    if prior.card.get("adaptation", {}).get("identity_sha256") != digest:
        raise OutputExistsError(
            f"{path}: is another prior, or was adapted to other scans or with other options; use "
            "--overwrite or another output"
        )
