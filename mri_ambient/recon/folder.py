"""Folders of scans: every scan becomes files in a folder of the same tree, and a line about it.

Scans are done one after the other, by several processes, or on a cluster. One that fails costs the
others nothing. Of several scans, ``status.jsonl`` says what became of each, and ``summary.csv``
holds the figures; both are written as it goes, by the process that was called.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..errors import (
    BusyError,
    ConfigError,
    MriAmbientError,
    NumericalWarning,
    OutputExistsError,
    ScanFormatError,
    collected,
    issue,
)
from ..io import SaveOptions, ScanPath, find_scans
from ..io.names import as_text, name_of
from ..methods.base import OnStep
from ..runtime.device import Runtime, as_failure, checked_runtime
from ..runtime.executor import Executor, Processes, executor_of
from ..runtime.files import output_folder, remove_torn
from ..runtime.prefetch import prefetch
from .pipeline import open_volume, resolved_recipe
from .recipe import Recipe, ResolvedRecipe, in_words
from .reconstruction import differing_from, is_reconstruction, stored_settings
from .report import add_row, write_overview
from .report.overview import PAGE, TABLE
from .result_file import differing_settings, is_finished, reconstruct_to_folder, unfinished_folder
from .saving import (
    check_folder,
    check_formats,
    check_options,
    check_saving,
    save_as,
    warn_of_older,
    written_at,
)
from .states import DONE, FAILED, LEFT, REFUSED, SKIPPED, STATES, State, read_states
from .volume import OnSlice, Volume

OnVolume = Callable[[str, Volume, int], tuple[OnSlice, OnStep]]
"""Called with name, volume and steps per slice before slices are computed; what to call then."""


@dataclass(frozen=True)
class Destination:
    """Where results go, and in which formats.

    Attributes:
        folder: a path, or its text; gets ``<stem>.h5`` and ``<stem>.json`` of every scan, in the
            folders in which the scans lie.
        formats: further formats, keys of ``mri_ambient.recon.saving.FORMATS``.
        options: of these.
        overwrite: replace what was made with other settings.
        listed: whether ``status.jsonl`` and ``summary.csv`` are written; by default for several
            scans, and where they are there already.
    """

    folder: Path
    formats: Sequence[str] = ()
    options: SaveOptions = field(default_factory=SaveOptions)
    overwrite: bool = False
    listed: bool | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "folder", Path(self.folder))
        if isinstance(self.formats, str):
            object.__setattr__(self, "formats", (self.formats,))

    def check(self, recipe: ResolvedRecipe | None = None) -> None:
        """Raise ConfigError for what cannot work whatever the scan: formats, options, a folder."""
        check_folder(self.folder)
        for path in (self.folder / name for name in (STATES, TABLE, PAGE)):
            if path.is_dir():
                raise ConfigError(
                    f"{path}: is a folder, and a file of this name is to be written; rename it, or "
                    "choose another output"
                )
        with_std = recipe is None or recipe.n_samples > 1
        check_options(check_formats(self.formats), self.options, with_std=with_std)

    def is_listed(self, scans: Sequence[ScanPath]) -> bool:
        """Whether ``status.jsonl`` and ``summary.csv`` are written for these scans."""
        several = len(scans) > 1 or "report" in self.formats
        return (several or bool(read_states(self.folder))) if self.listed is None else self.listed

    def path_of(self, scan: ScanPath) -> Path:
        """The image of a scan."""
        return self.folder / scan.folder / f"{scan.stem}.h5"


@dataclass(frozen=True)
class Outcome:
    """What became of a scan.

    Attributes:
        scan: the scan.
        state: done, skipped, failed or refused, why, and how long it took.
        path: of the image.
        report: of a scan that was reconstructed now, where ``on_outcome`` is given it; the outcomes
            that are returned have None, or many scans would fill the memory.
        written: files in further formats that were written now.
        error: of one that failed or was refused; an :class:`~mri_ambient.errors.InternalError` has
            a traceback.
    """

    scan: ScanPath
    state: State
    path: Path
    report: dict[str, Any] | None = None
    written: tuple[Path, ...] = ()
    error: MriAmbientError | None = None

    @property
    def status(self) -> str:
        """Its status: "done", "skipped", "failed" or "refused"."""
        return self.state.status


def reconstruct_folder(
    inputs: str | Path | Sequence[str | Path | ScanPath],
    output: str | Path | Destination,
    recipe: Recipe | ResolvedRecipe | None = None,
    runtime: Runtime | None = None,
    *,
    overwrite: bool = False,
    retry_failed: bool = False,
    jobs: int | Executor = 1,
    on_outcome: Callable[[Outcome], None] | None = None,
) -> list[Outcome]:
    """Reconstruct all scans of folders, as ``mri-ambient reconstruct`` does.

    What is finished is skipped, what was interrupted goes on, and a scan whose file was replaced
    since is done again.

    Args:
        inputs: folders with all folders below them, files or globs.
        output: where results go.
        recipe: as for :func:`reconstruct`; the prior is loaded once.
        runtime: as for :func:`reconstruct`.
        overwrite: replace what was made with other settings, as in :class:`Destination`.
        retry_failed: only those that failed last time.
        jobs: processes that share the scans, on a CPU; or an executor, such as
            :func:`~mri_ambient.runtime.cluster.cluster` gives.
        on_outcome: called after every scan, in the order in which they are finished.

    Returns:
        What became of the scans, in their order.

    Raises:
        ScanFormatError: there are only folders and globs that hold no scan.
        ConfigError: options that cannot work, or a folder that cannot be written.
        DeviceError: at once, as the next scan would fail too.
    """
    to = output if isinstance(output, Destination) else Destination(Path(output))
    to, resolved = replace(to, overwrite=overwrite or to.overwrite), resolved_recipe(recipe)
    to.check(resolved)
    scans = find_scans(inputs, output=to.folder)
    if retry_failed:
        scans = failed_before(scans, to, resolved)
    return reconstruct_scans(scans, to, resolved, runtime, jobs=jobs, on_outcome=on_outcome)


def reconstruct_scans(
    scans: Sequence[ScanPath],
    to: Destination,
    recipe: ResolvedRecipe,
    runtime: Runtime | None = None,
    *,
    jobs: int | Executor = 1,
    on_volume: OnVolume | None = None,
    on_outcome: Callable[[Outcome], None] | None = None,
) -> list[Outcome]:
    """Reconstruct scans that were found; the rest as :func:`reconstruct_folder` has it.

    ``on_volume`` is called before the slices of a scan are computed; with one job only.
    """
    executor, known = executor_of(jobs), read_states(to.folder)
    listed = to.is_listed(scans)
    checked = checked_runtime(runtime, elsewhere=not isinstance(executor, Processes))
    work = FolderWork(to, recipe, checked, known, on_volume, alone=len(scans) == 1)
    outcomes: dict[int, Outcome] = {}
    with output_folder(to.folder):
        try:
            for index, outcome in work.outcomes(scans, executor):
                outcomes[index] = replace(outcome, report=None)
                if listed:
                    outcome.state.write(to.folder)
                    add_row(to.folder, outcome.state)
                if on_outcome is not None:
                    on_outcome(outcome)
        finally:
            _remove_torn({to.path_of(scan).parent for scan in scans})
            if listed and outcomes:
                write_overview(to.folder, page="report" in to.formats)
    return [outcomes[index] for index in sorted(outcomes)]


def failed_before(
    scans: Sequence[ScanPath], to: Destination, recipe: ResolvedRecipe
) -> list[ScanPath]:
    """The scans that failed when they were last tried, to be reconstructed as the others were.

    Raises:
        OutputExistsError: an image that stays in the folder was made with other settings.
    """
    known, wanted = read_states(to.folder), recipe.choices()
    wanted.pop("version")  # a repaired version is a reason to try again
    failed = [scan for scan in scans if scan.key in known and known[scan.key].status == FAILED]
    replaced = {scan.key for scan in failed if to.overwrite}
    others = {key for key, state in known.items() if state.status != REFUSED}
    for path in (to.folder / f"{key}.h5" for key in sorted(others - replaced) if failed):
        if differing := _differing(path, wanted):
            stored = to.folder / "config.toml"
            raise OutputExistsError(
                f"{path}: was made with other settings ({in_words(differing, wanted)}), and what "
                "failed is tried again (retry_failed, --retry-failed) with those of the rest; use "
                f"their recipe{f' (--config {stored})' if stored.exists() else ''}, or "
                "another folder, or do all anew: overwrite=True (--overwrite) without retry_failed"
            )
    return failed


def _differing(path: Path, wanted: Mapping[str, Any]) -> list[str]:
    """Which of these settings a reconstruction was not made with; empty for any other file."""
    with suppress(OutputExistsError):
        return differing_from(path, wanted) if path.exists() else []
    return []


@dataclass(frozen=True)
class PlannedScan:
    """What is to be done with a scan.

    Attributes:
        volume: the scan, opened.
        finished: whether its image is there already.
        replaced: whether its image was made from an earlier file of this name.
        overwrite: whether what is there is replaced.
    """

    volume: Volume
    finished: bool
    replaced: bool
    overwrite: bool


@dataclass(frozen=True)
class BegunScan:
    """A scan that is ready to be reconstructed.

    Attributes:
        scan: the scan.
        planned: what is to be done with it, or why that is impossible.
        warnings: about it, not shown yet.
        seconds: how long it took to get here.
    """

    scan: ScanPath
    planned: PlannedScan | MriAmbientError
    warnings: tuple[NumericalWarning, ...]
    seconds: float


MOST_AHEAD = 2**30
"""Files above so many bytes are not begun ahead: some readers hold the whole file in memory."""

BUSY = ("cpu",)
"""Where these devices reconstruct a scan, the next one is read ahead but not prepared: there is no
core left for that."""


@dataclass(frozen=True)
class FolderWork:
    """What is done with each scan of a folder.

    Attributes:
        to: where results go.
        recipe: how they are reconstructed.
        runtime: where they are computed.
        known: what became of the scans in earlier calls.
        on_volume: see :func:`reconstruct_scans`.
        alone: whether there is a single scan, which a mistake of ours ends with its traceback.
    """

    to: Destination
    recipe: ResolvedRecipe
    runtime: Runtime
    known: Mapping[str, State]
    on_volume: OnVolume | None = None
    alone: bool = False

    def outcomes(
        self, scans: Sequence[ScanPath], executor: Executor
    ) -> Iterator[tuple[int, Outcome]]:
        """Number and outcome of every scan, as they are finished.

        Raises:
            ConfigError: several processes on a device that is no CPU.
            DeviceError: the device was lost, or memory ran out.
        """
        if isinstance(executor, Processes):
            if executor.n > 1 and self.runtime.torch_device.type != "cpu":
                raise ConfigError(
                    f"jobs (--jobs {executor.n}) are processes on a CPU; run a call for each GPU, "
                    "with part of the inputs and its device (--shard i/N --device cuda:i)"
                )
            if executor.n < 2 or len(scans) < 2:
                yield from enumerate(self._one_by_one(scans))
                return
        for index, found in executor.map(replace(self, on_volume=None), scans):
            if isinstance(found, MriAmbientError):
                found = self._failed(scans[index], found)
            yield index, found

    def _one_by_one(self, scans: Sequence[ScanPath]) -> Iterator[Outcome]:
        with closing(prefetch(map(self._ahead, scans))) as begun:
            for scan in begun:
                yield self._done(self.begin(scan) if isinstance(scan, ScanPath) else scan)

    def __call__(self, scan: ScanPath) -> Outcome:
        """Reconstruct a scan, unless it is finished."""
        return self._done(self.begin(scan))

    def _ahead(self, scan: ScanPath) -> BegunScan | ScanPath:
        """A scan that is begun while another is reconstructed; a large one as it is."""
        with suppress(OSError):
            if scan.path.stat().st_size > MOST_AHEAD:
                return scan
        return self.begin(scan)

    def begin(self, scan: ScanPath) -> BegunScan:
        """Open a scan and find out what is to be done; read it if it is to be reconstructed.

        Raises:
            DeviceError: see :meth:`outcomes`.
        """
        started = time.monotonic()
        planned: PlannedScan | MriAmbientError
        with collected() as given:
            try:
                planned = self.plan(scan)
                if not planned.finished:
                    _ = planned.volume.settings  # the hash of the whole file
                    if self.runtime.torch_device.type not in BUSY:
                        _ = planned.volume.preparation
            except OSError as error:  # such as a name that is too long
                planned = ScanFormatError(f"{scan.path}: cannot be used ({error.strerror})")
            except Exception as error:  # noqa: BLE001 -- the other scans go on
                planned = self.as_failure(error)
        return BegunScan(scan, planned, tuple(given), time.monotonic() - started)

    def _done(self, begun: BegunScan) -> Outcome:
        started = time.monotonic() - begun.seconds
        with _naming_folder(begun.scan):
            for warning in begun.warnings:
                issue(warning)
            outcome = self._outcome(begun)
        state = replace(outcome.state, seconds=round(time.monotonic() - started, 6))
        return replace(outcome, state=state)

    def plan(self, scan: ScanPath) -> PlannedScan:
        """Open a scan, and find out what is to be done with it.

        Raises:
            MriAmbientError: it cannot be read, or its results could not be saved or would replace
                others.
        """
        to, folder = self.to, self.to.path_of(scan).parent
        try:
            volume = open_volume(scan, self.recipe, self.runtime)
        except ScanFormatError:  # it may have been repaired by options for this scan alone
            if to.overwrite or not (reading := self._read_before(scan)):
                raise
            scan = replace(scan, options={**scan.options, **reading})
            volume = open_volume(scan, self.recipe, self.runtime)
        check_saving(to.formats, to.options, scan.stem, volume.file.final_grid)
        replaced = self._was_replaced(volume, scan)
        overwrite = replaced or to.overwrite
        finished = is_finished(volume, folder, overwrite=overwrite)
        return PlannedScan(volume, finished, replaced, overwrite)

    def _outcome(self, begun: BegunScan) -> Outcome:
        scan, planned = begun.scan, begun.planned
        path = self.to.path_of(scan)
        try:
            if isinstance(planned, MriAmbientError):
                raise planned
            with output_folder(path.parent):
                return self._results(scan, path, planned)
        except BusyError:
            return Outcome(scan, _state(scan, SKIPPED, LEFT), path)
        except Exception as error:  # noqa: BLE001 -- the other scans go on
            return self._failed(scan, self.as_failure(error))

    def as_failure(self, error: Exception) -> MriAmbientError:
        """What a scan failed of; see :func:`~mri_ambient.runtime.device.as_failure`."""
        return as_failure(error, self.runtime.device, alone=self.alone)

    def _failed(self, scan: ScanPath, error: MriAmbientError) -> Outcome:
        path = self.to.path_of(scan)
        stays = isinstance(error, OutputExistsError) and is_reconstruction(path)
        state = _state(scan, REFUSED if stays else FAILED, str(error))
        return Outcome(scan, state, path, error=error)

    def _results(self, scan: ScanPath, path: Path, planned: PlannedScan) -> Outcome:
        """Write what is missing of the results of a scan."""
        to, volume, overwrite, report = self.to, planned.volume, planned.overwrite, None
        before = written_at(path)
        state = _state(scan, DONE, REPLACED if planned.replaced else "")
        if planned.finished:
            state = _state(scan, SKIPPED)
        elif is_finished(volume, path.parent, overwrite=overwrite):
            return Outcome(scan, _state(scan, SKIPPED, LEFT), path)
        else:
            on_slice, on_step = self._hooks(scan.name, volume, volume.n_steps)
            report = reconstruct_to_folder(
                volume, path.parent, overwrite=overwrite, on_slice=on_slice, on_step=on_step
            )
        written: list[Path] = []
        if formats := check_formats(to.formats):
            on_slice, _ = self._hooks(f"{scan.name}, {', '.join(formats)}", volume, 1)
            written = save_as(
                path, formats, to.options, volume, overwrite=overwrite, on_slice=on_slice
            )
        warn_of_older(path, before, to.options)
        return Outcome(scan, state, path, report, tuple(written))

    def _hooks(
        self, name: str, volume: Volume, n_steps: int
    ) -> tuple[OnSlice | None, OnStep | None]:
        return self.on_volume(name, volume, n_steps) if self.on_volume else (None, None)

    def _read_before(self, scan: ScanPath) -> dict[str, str]:
        """How the file of a scan that is finished was read: axes, dataset and centre, if given."""
        path = self.to.path_of(scan)
        if scan.key not in self.known or not is_reconstruction(path):
            return {}
        reading: dict[str, str] = stored_settings(path).get("reading", {})
        return reading if reading.keys() <= {"axes", "dataset", "centre"} else {}

    def _was_replaced(self, volume: Volume, scan: ScanPath) -> bool:
        """Whether its result was made from another file under the same path and name."""
        before = self.known.get(scan.key)
        if before is None or before.source != _state(scan, DONE).source:
            return False
        return differing_settings(volume, self.to.path_of(scan).parent) == ["input_sha256"]


@contextmanager
def _naming_folder(scan: ScanPath) -> Iterator[None]:
    """Warnings about a scan in a folder below name that too; they are issued at the end."""
    if scan.folder == Path():
        yield
        return
    given: list[NumericalWarning] = []
    try:
        with collected() as given:
            yield
    finally:
        for warning in given:
            begins = warning.text.startswith(name_of(scan.path))
            place = f"{as_text(scan.folder.as_posix())}/" if begins else ""
            issue(NumericalWarning(warning.code, place + warning.text))


REPLACED = "its file was replaced since it was last reconstructed"
"""Why a scan that was finished is done again."""


def _state(scan: ScanPath, status: str, reason: str = "") -> State:
    return State(scan.key, status, reason, source=str(scan.path.absolute()))


def _remove_torn(outputs: Iterable[Path]) -> None:
    """Remove what workers were writing when they ended."""
    for output in outputs:
        remove_torn(output, *output.glob(unfinished_folder(output, "*").name))
