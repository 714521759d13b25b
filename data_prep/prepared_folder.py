"""Prepared files: one scan, or a folder of them, resumable and in parallel."""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from .._version import __version__
from ..errors import (
    BusyError,
    ConfigError,
    MriAmbientError,
    NumericalWarning,
    OutputExistsError,
    ScanFormatError,
    collected,
    issue,
    warn,
)
from ..io import PreparedFile, PreparedWriter, ScanFile, ScanPath, find_scans, open_scan
from ..io.formats.prepared import duplicate_acquisitions, mask_facts
from ..physics.coverage import Coverage, coverage
from ..runtime.device import Runtime, as_failure, checked_runtime
from ..runtime.executor import Executor, Processes, executor_of
from ..runtime.files import content_sha256, locked, output_folder, remove_torn, write_json
from ..scan import Scan
from .espirit import EspiritMaps
from .normalise import calibration_image
from .preparation import Preparation, PrepConfig, plan_preparation
from .qc import SliceCheck, slice_checks, slice_warnings

MANIFEST = "manifest.json"
"""Name of the file that lists the prepared files of a folder."""


@dataclass(frozen=True)
class ScanResult:
    """What became of one scan.

    Attributes:
        source: the scan.
        status: "done", "skipped" (it was prepared already), "left" (another process prepares it)
            or "failed"; the last two have an ``error``.
        path: the prepared file, or None.
        warnings: what is questionable about it.
    """

    source: ScanPath
    status: str
    path: Path | None = None
    error: MriAmbientError | None = None
    warnings: tuple[NumericalWarning, ...] = ()
    seconds: float = 0.0

    @property
    def message(self) -> str:
        """Why it was not prepared, in one line; empty otherwise."""
        return "" if self.error is None else " ".join(str(self.error).split())

    def line(self) -> str:
        """The result in one line, with the main figures of the prepared file."""
        if self.path is None:
            return f"{self.source.name}: {self.status}, {self.message}"
        file = PreparedFile(self.path)
        qc = file.qc
        return (
            f"{self.source.name}: {self.status} in {self.seconds:.1f} s; "
            f"R = {file.acceleration:.2f}, {qc['virtual_coils']} of {qc['measured_coils']} coils "
            f"({qc['kept_energy']:.1%} of the energy), "
            f"sigma_n = {file.noise_std:.4f} ({file.noise_source})"
        )


@dataclass(frozen=True, repr=False)
class PrepSummary:
    """What :func:`prepare` did, and what the folder holds now.

    Attributes:
        results: one for each scan of this call, in the order given.
        coverage: coverage of k-space by all prepared scans of the folder.
        warnings: what makes these questionable as a training set.
        manifest: the list of prepared scans.
    """

    results: tuple[ScanResult, ...]
    coverage: tuple[Coverage, ...]
    warnings: tuple[NumericalWarning, ...]
    manifest: Path

    def __repr__(self) -> str:
        return f"<PrepSummary {self.line()}>"

    @property
    def failed(self) -> tuple[ScanResult, ...]:
        """The scans that could not be prepared."""
        return tuple(result for result in self.results if result.status == "failed")

    def line(self) -> str:
        """How many scans were prepared, skipped and failed."""
        n_scans = Counter(result.status for result in self.results)
        left = f"{n_scans['left']} left to another process, " if n_scans["left"] else ""
        return (
            f"{n_scans['done']} prepared, {n_scans['skipped']} skipped (prepared already), {left}"
            f"{n_scans['failed']} failed"
        )


def prepare_file(
    source: str | Path | ScanFile,
    output: str | Path,
    config: PrepConfig | None = None,
    *,
    picture: bool = False,
    device: torch.device | str = "cpu",
) -> Path:
    """Prepare a scan, slice by slice, into ``output/<scan_id>.h5``, replacing an older one.

    Args:
        source: the scan, opened or not.
        output: folder for the prepared file, made if needed.
        config: options of the chain.
        picture: also draw the middle slice into ``output/qc/<scan_id>.png``.
        device: where to compute coil maps.

    Raises:
        PrepError: the scan cannot be prepared.
        ScanFormatError: it cannot be read.
        ConfigError: it is a prepared file already.
    """
    file = source if isinstance(source, ScanFile) else open_scan(source)
    if isinstance(file, PreparedFile):
        raise ConfigError(f"{file.path}: is prepared already; give the scan it was made from")
    path = Path(output) / f"{file.scan_id}.h5"
    _check_replaceable(path)
    preparation = plan_preparation(file, config, device=device)
    with (
        locked(path),
        PreparedWriter(path, file, calib_shape=preparation.calib_shape) as writer,
    ):
        checks = _write_slices(writer, file, preparation, Path(output) if picture else None)
        found = slice_warnings(file.path.name, checks)
        for warning in found:
            issue(warning)
        writer.qc = _qc(file, preparation, checks, [*preparation.warnings, *found])
    return path


def _write_slices(
    writer: PreparedWriter, file: ScanFile, preparation: Preparation, pictures: Path | None
) -> list[SliceCheck]:
    """Prepare and write every slice; the middle one is also drawn, into ``pictures/qc``."""
    center, measured = hashlib.sha256(), False
    checks: list[SliceCheck] = []
    for index in range(len(file)):
        raw = file[index]
        values = raw.ksp[..., raw.shape[0] // 2, raw.shape[1] // 2].contiguous()
        center.update(values.numpy().tobytes())
        measured = measured or bool(values.any())
        scan, found = preparation.apply_espirit(raw)
        writer.write(scan)
        checks += slice_checks(scan, found, preparation.calib_shape)
        if pictures is not None and index == len(file) // 2:
            path = pictures / "qc" / f"{file.scan_id}.png"
            _draw(path, file, preparation, scan, found, checks[-1])
        del raw, scan, found  # or they are in memory together with the next ones
    writer.center_sha256 = center.hexdigest() if measured else ""
    return checks


def _draw(
    path: Path,
    file: ScanFile,
    preparation: Preparation,
    scan: Scan,
    found: EspiritMaps | None,
    check: SliceCheck,
) -> None:
    """Draw one prepared slice, with figures beside it."""
    from ..plots import draw_scan, save_figure  # matplotlib is slow to import

    noise, compression = preparation.noise, preparation.compression
    facts = {
        "matrix": f"{preparation.n_rows} x {file.shape[3]} (y, x)",
        "acceleration": f"{file.acceleration:.2f}",
        "coils": f"{compression.n_coils} of {file.shape[1]}, {compression.kept_energy:.2%} energy",
        "noise": f"{noise.std:.3g} in the file, from {noise.source}",
        "noise, normalised": f"{1 / preparation.scale:.4f} per real channel",
        "scale": f"{preparation.scale:.4g}",
        "calibration block": "{} x {} (y, x)".format(*preparation.calib_shape),
        "support": f"{check.support:.1%} of the field of view",
        "eigenvalue in it": f"{check.eigenvalue:.4f}",
        "sets of coil maps": f"{scan.n_sets}, another fits in {check.second_map:.1%} of it",
        "calibration residual": f"{check.calib_residual:.2%} of the energy",
    }
    calib = scan.calibration(preparation.calib_shape)[0]
    eigenvalues = () if found is None else (found.eigenvalue[0], found.second_eigenvalue[0])
    save_figure(draw_scan(scan, calibration_image(calib, scan.shape), eigenvalues, facts), path)


def _qc(
    file: ScanFile,
    preparation: Preparation,
    checks: Sequence[SliceCheck],
    found: Sequence[NumericalWarning],
) -> dict[str, Any]:
    """The quality figures a prepared file stores."""
    return {
        "version": __version__,
        "config": preparation.config.as_dict(),
        "config_sha256": config_sha256(preparation.config),
        **({"reading": dict(file.reading)} if file.reading else {}),
        "acceleration": file.acceleration,
        "measured_coils": file.shape[1],
        "virtual_coils": preparation.compression.n_coils,
        "kept_energy": preparation.compression.kept_energy,
        "noise_std_file": preparation.noise.std,
        "noise_samples": preparation.noise.n_samples,
        "slices": [asdict(check) for check in checks],
        **_listed(found),
    }


def _listed(found: Sequence[NumericalWarning]) -> dict[str, Any]:
    """Warnings as files hold them: the sentences, and code and sentence."""
    return {
        "doubts": [warning.text for warning in found],
        "warnings": [warning.as_dict() for warning in found],
    }


def config_sha256(config: PrepConfig) -> str:
    """Hash of the options; a file prepared with other options is not up to date."""
    return content_sha256(config.as_dict())


def prepare(
    inputs: str | Path | Sequence[str | Path | ScanPath],
    output: str | Path,
    config: PrepConfig | None = None,
    *,
    workers: int | Executor = 0,
    overwrite: bool = False,
    pictures: bool = False,
    runtime: Runtime | None = None,
    on_scan: Callable[[ScanResult], None] | None = None,
) -> PrepSummary:
    """Prepare many scans; one that fails is noted and the others go on.

    A scan whose prepared file was made from the same bytes with the same options is skipped, so an
    interrupted call can be repeated.

    Args:
        inputs: files, folders or globs (see :func:`mri_ambient.io.find_scans`).
        output: folder for the prepared files and their list, ``manifest.json``.
        config: options of the chain.
        workers: processes to spread the scans over, or an executor; 0 works in this one.
        overwrite: prepare again what is prepared already, also with other options.
        pictures: also draw one picture a scan (see :func:`prepare_file`) and how often each line
            was sampled, ``qc/coverage.png``.
        runtime: its device is where coil maps are computed.
        on_scan: called with each result when it is there. It is then the caller who shows the
            failure and the warnings of each scan, and those of the summary.

    Warns:
        NumericalWarning: what is questionable about a scan or about all, and W-SCAN-FAILED.

    Raises:
        ScanFormatError: no input is a file.
        ConfigError: two scans have the same stem.
        OutputExistsError: the scans are in the output folder.
    """
    output = Path(output)
    scans = find_scans(inputs, output=output, flat=True)
    where = checked_runtime(runtime, elsewhere=not isinstance(executor_of(workers), Processes))
    alone = len(scans) == 1
    task = partial(_prepare_one, output, config or PrepConfig(), overwrite, pictures, where, alone)
    results: dict[int, ScanResult] = {}
    with output_folder(output):
        _check_elsewhere(scans, output)
        try:
            for index, found in executor_of(workers).map(task, scans):
                if isinstance(found, MriAmbientError):
                    found = ScanResult(scans[index], "failed", error=found)
                results[index] = found
                (on_scan or _issue_warnings)(found)
        finally:
            remove_torn(output, output / "qc")  # of workers that were killed
    summary = _summarise(tuple(results[index] for index in sorted(results)), output)
    for warning in summary.warnings if on_scan is None else ():
        issue(warning)
    if pictures:
        _draw_coverage(summary.coverage, output / "qc" / "coverage.png")
    return summary


def _check_elsewhere(scans: Sequence[ScanPath], output: Path) -> None:
    """Refuse a folder that holds scans to be prepared."""
    if any(scan.path.exists() and scan.path.parent.samefile(output) for scan in scans):
        raise OutputExistsError(
            f"{output}: holds the scans to be prepared; choose another output folder"
        )


def _draw_coverage(covered: Sequence[Coverage], path: Path) -> None:
    """Draw how often each line was sampled, where lines were."""
    from ..plots import draw_coverage, save_figure

    if lines := {group.line: group.per_line for group in covered if group.per_line}:
        save_figure(draw_coverage(lines), path)


def _issue_warnings(result: ScanResult) -> None:
    if result.status == "failed":
        warn("W-SCAN-FAILED", result.message)
    for warning in result.warnings:
        issue(warning)


def _prepare_one(
    output: Path,
    config: PrepConfig,
    overwrite: bool,
    pictures: bool,
    runtime: Runtime,
    alone: bool,
    source: ScanPath,
) -> ScanResult:
    start = time.monotonic()
    path = output / f"{source.stem}.h5"
    with collected() as found:
        try:
            status = "done"
            exists = not overwrite and path.exists() and source.path.is_file()
            if exists and _is_finished(path, source, config):
                status = "skipped"
            else:
                device = runtime.torch_device
                prepare_file(source.open(), output, config, picture=pictures, device=device)
        except Exception as error:  # noqa: BLE001 -- the other scans go on
            failure = as_failure(error, runtime.device, alone=alone)
            status = "left" if isinstance(failure, BusyError) else "failed"
            # Without its traceback, which refers to the slices.
            failure.__cause__ = failure.__context__ = None
            return ScanResult(source, status, error=failure.with_traceback(None))
    return ScanResult(source, status, path, None, tuple(found), time.monotonic() - start)


def _is_finished(path: Path, source: ScanPath, config: PrepConfig) -> bool:
    """Whether ``path`` was made from these bytes with these options; ConfigError if not."""
    _check_replaceable(path)
    found = PreparedFile(path)
    if found.source_sha256 != source.open().sha256:
        other = "another scan"
    elif found.qc.get("config_sha256") != config_sha256(config):
        other = "other options"
    elif found.qc.get("reading", {}) != source.reading:
        other = "other options of reading (mask, axes, dataset, centre, acs)"
    else:
        return True
    raise ConfigError(
        f"{path}: was prepared from {other}; give overwrite=True (--overwrite) or choose another "
        "output folder"
    )


def _check_replaceable(path: Path) -> None:
    """Refuse to replace anything but a prepared file: it could be raw data."""
    if not path.exists():
        return
    try:
        found = open_scan(path)
    except ScanFormatError:
        return  # damaged: --overwrite may replace it
    if not isinstance(found, PreparedFile):
        raise ConfigError(f"{path}: is a raw scan; choose another output folder")


def _summarise(results: tuple[ScanResult, ...], output: Path) -> PrepSummary:
    """Coverage and list of all prepared files of the folder, whichever call or shard made them."""
    files = []
    for path in sorted(output.glob("[!.]*.h5")):
        try:
            file = open_scan(path)
        except MriAmbientError:
            continue  # another kind of file, or damaged: training reports it
        if isinstance(file, PreparedFile):
            files.append(file)
    covered = tuple(coverage(mask_facts(file) for file in files))
    found = [warning for group in covered for warning in group.warnings]
    found += duplicate_acquisitions(files)
    summary = PrepSummary(results, covered, tuple(found), output / MANIFEST)
    if not files and not output.exists():
        return summary
    content = {
        "mri_ambient_format": "manifest/1",
        "scans": [_entry(file) for file in files],
        "failed": [
            {"source": result.source.name, "message": result.message} for result in summary.failed
        ],
        "coverage": [group.as_dict() for group in covered],
        **_listed(found),
    }
    write_json(summary.manifest, content)
    return summary


def _entry(file: PreparedFile) -> dict[str, Any]:
    """The entry of a prepared scan in the manifest."""
    return {
        "scan_id": file.scan_id,
        "file": file.path.name,
        "source": file.source,
        "source_sha256": file.source_sha256,
        "shape": file.shape,
        "acceleration": file.acceleration,
        "sigma_n": file.noise_std,
        "noise_std": file.qc.get("noise_std_file"),
        "noise_source": file.noise_source,
        "scale": file.scale,
        "doubts": file.qc.get("doubts", []),
        "warnings": file.qc.get("warnings", []),
    }
