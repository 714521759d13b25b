"""What ``reconstruct`` shows: a bar for all scans, one for the current one, a line about each."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from mri_ambient.errors import InternalError

from .console import (
    Bar,
    VolumeBar,
    print_error,
    print_line,
    print_more_warnings,
    print_result,
    print_written,
)
from .exit_codes import Failures, exit_code

if TYPE_CHECKING:
    from rich.progress import Progress

    from mri_ambient.io import ScanPath
    from mri_ambient.methods.base import OnStep
    from mri_ambient.recon.folder import Destination, Outcome
    from mri_ambient.recon.recipe import ResolvedRecipe
    from mri_ambient.recon.volume import OnSlice, Volume
    from mri_ambient.runtime.device import Runtime

    from .adaptation_view import AdaptationView

WORDS = {
    "done": "reconstructed", "skipped": "finished before", "left": "left to another process",
    "failed": "failed", "refused": "refused, as what is there was made otherwise",
}  # fmt: skip
"""What can become of a scan."""

SHOWN = 3
"""So many scans that failed are named at the end."""


def print_plan(
    scans: list[ScanPath], to: Destination, recipe: ResolvedRecipe, runtime: Runtime
) -> None:
    """What would be done with every scan, and what it would take (``--dry-run``).

    Raises:
        typer.Exit: all would fail; with the code of that.
    """
    from mri_ambient.recon.dry_run import cost_line, plan_folder

    plan = plan_folder(scans, to, recipe, runtime)
    cost = cost_line(plan)  # which may find scans that would fail
    for line in plan.lines:
        print_result(line)
    n_scans, n_refused = len(plan.todo), plan.n_refused
    n_finished = len(plan.lines) - n_scans - n_refused
    print_result(f"{n_scans} to reconstruct, {n_finished} finished before, {n_refused} would fail")
    print_result(cost)
    if n_refused == len(plan.lines):
        raise typer.Exit(exit_code(plan.errors[0]))


class FolderView:
    """The bars and lines of one call; the counts are printed when the block ends.

    Args:
        bars: where the bars are.
        n_scans: how many scans there are.
        output: where results go.
        adaptation: describes an adaptation on the bar of the scan.
        verbose: print a line about every slice.
    """

    def __init__(
        self,
        bars: Progress,
        n_scans: int,
        output: Path,
        adaptation: AdaptationView,
        *,
        verbose: bool,
    ) -> None:
        self.bars, self.n_scans, self.output = bars, n_scans, output
        self.adaptation, self.verbose = adaptation, verbose
        self.counts, self.failures = Counter[str](), Failures()
        self.failed: list[str] = []
        self.scan: VolumeBar | None = None
        self.all = Bar(bars, self._progress(), n_scans, "scans") if n_scans > 1 else None

    def __enter__(self) -> FolderView:
        return self

    def __exit__(self, *_: object) -> None:
        self._print_counts()

    def _progress(self) -> str:
        n_failed = self.counts["failed"]
        number = min(self.counts.total() + 1, self.n_scans)
        return f"scan {number} of {self.n_scans}" + (f", {n_failed} failed" if n_failed else "")

    def begin(self, name: str, volume: Volume, n_steps: int) -> tuple[OnSlice, OnStep]:
        """The slices of a scan are computed from now on."""
        if self.scan is not None:
            self.scan.end()
        before = f"{self._progress()}{self.all.left}: " if self.bars.disable and self.all else ""
        self.scan = VolumeBar(self.bars, before + name, len(volume.file), n_steps)
        self.adaptation.bar = self.scan
        return self.scan.on_slice, self.scan.on_step

    def end(self, outcome: Outcome) -> None:
        """A scan is done."""
        if self.scan is not None:
            self.scan.end()
            self.scan = self.adaptation.bar = None
        left = outcome.status == "skipped" and outcome.state.reason
        self.counts["left" if left else outcome.status] += 1
        self._print(outcome)
        if self.all is not None:
            self.all.count(self.counts.total())
            self.all.describe(self._progress())

    def _print(self, outcome: Outcome) -> None:
        from mri_ambient.recon.report import slice_lines, summary_line

        name = outcome.scan.name
        if outcome.error is not None:
            if outcome.status == "failed":
                self.failed.append(str(outcome.scan))
            self.failures.case(outcome.scan, outcome.error)
            if isinstance(outcome.error, InternalError):
                print_error(outcome.error.trace)
        elif outcome.report is None:
            reason = outcome.state.reason or "is finished already (--overwrite replaces it)"
            print_line(f"{name}: {reason}")
        else:
            if outcome.state.reason:
                print_line(f"{name}: {outcome.state.reason}")
            folder = f"{outcome.scan.folder}/" if outcome.scan.folder != Path() else ""
            print_result(f"{folder}{summary_line(outcome.report)}; wrote {outcome.path}")
            for line in slice_lines(outcome.report) if self.verbose else ():
                print_result(line)
        print_written(f"{name}: ", outcome.written)

    def _print_counts(self) -> None:
        """Say which scans failed, where the figures are, and how many of all scans were done."""
        print_more_warnings()
        if self.n_scans < 2:
            return
        if self.failed:
            names = ", ".join([*self.failed[:SHOWN], *(["..."] if self.failed[SHOWN:] else [])])
            path = self.output / "status.jsonl"
            print_line(f"failed: {names}; {path} says why, --retry-failed tries again")
        lists = (self.output / name for name in ("index.html", "summary.csv"))
        print_written("", [path for path in lists if path.exists() and self.counts.total()])
        n_left = self.n_scans - self.counts.total()
        done = [f"{self.counts[key]} {word}" for key, word in WORDS.items() if self.counts[key]]
        print_line(", ".join([*done, *([f"{n_left} not reached"] if n_left else [])]))

    def exit(self) -> None:
        """End with the exit code of what failed, if anything did."""
        self.failures.end(nothing_done=len(self.failures.codes) == self.counts.total())
