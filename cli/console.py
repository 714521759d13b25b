"""What is printed: lines, warnings and progress on stderr; tables and JSON on stdout."""

from __future__ import annotations

import csv
import os
import re
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from mri_ambient.errors import ConfigError, NumericalWarning

if TYPE_CHECKING:
    from mri_ambient.io import ScanPath
    from mri_ambient.methods import StepInfo

SHOWN_WARNINGS = 3
"""So many warnings of a code are printed."""

LOG_EVERY_S = 30.0
"""In a log file, where no bar moves, a line about progress is printed so often."""

LOG_TIME = re.compile(rb"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d ")
"""How lines of a log begin."""

ESCAPED = "backslashreplace"
"""How characters of names are printed that the encoding of the output lacks."""

_stderr = Console(stderr=True, highlight=False)
_state = {"quiet": False, "logged_s": 0.0}
_logs: list[Path] = []
_given = Counter[str]()


def open_streams() -> None:
    """Print what the encoding lacks as escapes, and nothing where there is no output (cron)."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115 -- as long as it runs
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors=ESCAPED)


def be_quiet(quiet: bool) -> bool:
    """From now on, print errors only, or everything."""
    _state["quiet"] = quiet
    _given.clear()
    return quiet


def log_to(path: Path | None) -> Path | None:
    """From now on, append all lines that could be printed to this file too, or to none.

    Raises:
        ConfigError: it cannot be written.
    """
    _logs.clear()
    if path is not None:
        try:
            path.open("a").close()
            start = b""
            if path.is_file():
                with path.open("rb") as file:
                    start = file.read(20)
        except OSError as error:
            reason = f"{path}: cannot be written ({error.strerror}); choose another log file"
            raise ConfigError(reason) from error
        if start and not LOG_TIME.match(start):
            raise ConfigError(f"{path}: exists and is no log file; choose another (--log FILE)")
        _logs.append(path)
        _log(f"mri-ambient {' '.join(sys.argv[1:])}")
    return path


def _log(line: str) -> None:
    for path in _logs:
        # A disk that is full by now does not end the work.
        with suppress(OSError), path.open("a", encoding="utf-8", errors=ESCAPED) as file:
            file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {line}\n")


def print_error(line: str) -> None:
    """One line on stderr, also with ``--quiet``."""
    _log(line)
    _stderr.print(_without_controls(line), markup=False, soft_wrap=True)


def _without_controls(text: str) -> str:
    """Without what names of files could tell a terminal to do."""
    return re.sub(r"[\x00-\x08\x0b-\x1f\x7f]", lambda found: repr(found[0])[1:-1], text)


def print_line(line: str) -> None:
    """One line on stderr, unless only errors are printed."""
    if _state["quiet"]:
        _log(line)
    else:
        print_error(line)


def print_result(line: str) -> None:
    """One line on stdout about a result, unless only errors are printed."""
    _log(line)
    if _state["quiet"]:
        return
    try:
        typer.echo(_without_controls(line))
    except OSError as error:  # the scans go on
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        print_error(f"results are no longer printed (stdout: {error.strerror})")


def print_warning(warning: NumericalWarning) -> None:
    """One line about a warning, with its code and remedy; those of many scans are counted only."""
    _given[warning.code] += 1
    (print_line if _given[warning.code] <= SHOWN_WARNINGS else _log)(f"warning {warning}")


def print_more_warnings() -> None:
    """One line about the warnings that were counted only."""
    more = {code: n - SHOWN_WARNINGS for code, n in _given.items() if n > SHOWN_WARNINGS}
    _given.clear()
    if more:
        counted = ", ".join(f"{n} of {code}" for code, n in more.items())
        print_line(f"more warnings: {counted}; reports hold those of each scan, --log FILE all")


@contextmanager
def progress_bar() -> Iterator[Progress]:
    """Bars with the time left on stderr; in a log file, a line every half a minute."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[amount]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    moving = sys.stderr.isatty() and not _state["quiet"]
    _state["logged_s"] = time.monotonic()
    # Results on a terminal go above the bars; those in a file or a pipe are left alone.
    to_terminal = sys.stdout.isatty()
    with Progress(
        *columns, console=_stderr, disable=not moving, transient=True, redirect_stdout=to_terminal
    ) as bars:
        yield bars


class Bar:
    """One bar of several: the progress callbacks of the library move it.

    Args:
        bars: the bars.
        name: what stands beside it.
        total: how much there is to do.
        unit: in which that is counted, e.g. "slices".
    """

    def __init__(
        self, bars: Progress, name: str, total: float | None = None, unit: str = ""
    ) -> None:
        self.bars, self.name, self.unit = bars, name, unit
        self.task = bars.add_task(name, total=total, amount="")
        bars.update(self.task, amount=self.amount)

    @property
    def _shown(self) -> Task:
        return next(task for task in self.bars.tasks if task.id == self.task)

    @property
    def amount(self) -> str:
        """How much is done, in words; empty where the total is not known."""
        task = self._shown
        return f"{int(task.completed)} of {task.total:.0f} {self.unit}" if task.total else ""

    @property
    def left(self) -> str:
        """How long the rest will take, in words; empty where that is not known."""
        from mri_ambient.runtime.config import time_text

        task = self._shown
        if task.finished or not task.total or task.time_remaining is None:
            return ""
        return f", about {time_text(task.time_remaining)} left"

    def count(self, done: float, total: float | None = None) -> None:
        """So many of all are done."""
        self.bars.update(self.task, completed=done, total=total)
        self._moved()

    def add(self, amount: float = 1) -> None:
        """So many more are done."""
        self.bars.advance(self.task, amount)
        self._moved()

    def _moved(self) -> None:
        self.bars.update(self.task, amount=self.amount)
        self._log()

    def describe(self, text: str) -> None:
        """What stands beside the bar."""
        self.bars.update(self.task, description=text)
        self._log()

    def end(self) -> None:
        """It is gone."""
        self.bars.remove_task(self.task)

    def _log(self) -> None:
        now = time.monotonic()
        if not self.bars.disable or now - _state["logged_s"] < LOG_EVERY_S:
            return
        _state["logged_s"] = now
        task = self._shown
        amount = f": {self.amount}".rstrip() if task.total else ""
        print_line(task.description + amount + self.left)


class VolumeBar(Bar):
    """The bar of one volume, which the steps of a sampler move; it is gone when the block ends."""

    def __init__(self, bars: Progress, name: str, n_slices: int, steps_per_slice: int) -> None:
        super().__init__(bars, name, n_slices, "slices")
        self.steps_per_slice = steps_per_slice

    def __enter__(self) -> VolumeBar:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def on_slice(self, done: int, _total: int) -> None:
        """Some slices are finished."""
        self.count(done)

    def on_step(self, info: StepInfo) -> None:
        """A step of a batch is done."""
        self.add(info.n_images / self.steps_per_slice)


def print_outputs(scans: Sequence[ScanPath], output: Path) -> None:
    """What would become of every input (``--dry-run``), a line each on stdout."""
    from mri_ambient.io import why_no_file

    for scan in scans:
        print_result(why_no_file(scan.path) or f"{scan} -> {output / scan.key}.h5")


def print_written(start: str, paths: Sequence[Path]) -> None:
    """A line on stderr for every file or folder that was written, files with their size."""
    from mri_ambient.runtime.files import size_text

    for path in paths:
        size = f" ({size_text(path.stat().st_size)})" if path.is_file() else ""
        print_line(f"{start}wrote {path}{size}")


def print_json(content: Any) -> None:  # noqa: ANN401 -- whatever a command reports
    """JSON on stdout."""
    from mri_ambient.runtime.files import json_text

    typer.echo(json_text(content, indent=2))


def print_facts(facts: Mapping[str, Any], indent: str = "") -> None:
    """Names and values on stdout, a line each, nested ones indented."""
    for name, value in facts.items():
        if isinstance(value, Mapping):
            typer.echo(f"{indent}{name}:")
            print_facts(value, indent + "  ")
        elif isinstance(value, list) and value and isinstance(value[0], Mapping):
            for number, entry in enumerate(value, start=1):
                typer.echo(f"{indent}{name} {number}:")
                print_facts(entry, indent + "  ")
        else:
            if isinstance(value, (list, tuple)):
                value = ", ".join(str(entry) for entry in value)
            typer.echo(f"{indent}{name}: {value}")


def print_csv(headings: Sequence[str], rows: Mapping[str, Mapping[str, Any]]) -> None:
    """Comma-separated values on stdout; the first column holds the names of the rows."""
    writer = csv.writer(sys.stdout)
    writer.writerow(headings)
    writer.writerows([name, *row.values()] for name, row in rows.items())


def print_table(
    headings: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    last: Sequence[Sequence[str]] = (),
    title: str | None = None,
) -> None:
    """A table on stdout, with last rows that are ruled off."""
    table = Table(title=title)
    width = max((len(row[0]) for row in (*rows, *last)), default=0)
    table.add_column(headings[0], no_wrap=True, overflow="ignore", min_width=width)
    for heading in headings[1:]:
        table.add_column(heading)
    for row in rows:
        table.add_row(*row)
    if last:
        table.add_section()
    for row in last:
        table.add_row(*row)
    Console().print(table)
