"""What the training commands show while they run, and how a signal stops them."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING

import typer
from rich.progress import Progress as Bars

import mri_ambient as ma
from mri_ambient.errors import ConfigError, StoppedError

from .console import Bar, print_line
from .exit_codes import INTERRUPTED, TERMINATED, Failures

if TYPE_CHECKING:
    from mri_ambient.training.config import Hooks, Progress

Board = Callable[[int, dict[str, float]], None]
"""Shows figures after so many images."""


class Interruption(Event):
    """Set when a run is to end, and the exit code of the command then."""

    exit_code = INTERRUPTED


def on_interrupt() -> Interruption:
    """Set by the first Ctrl-C or SIGTERM: the run ends after its step. The second ends it at once.

    In a job of several processes SIGTERM ends each at once: the others may be gone already.
    """
    interrupted = Interruption()

    def stop(number: int, _: object) -> None:
        code = INTERRUPTED if number == signal.SIGINT else TERMINATED
        if interrupted.is_set():
            raise KeyboardInterrupt if code == INTERRUPTED else SystemExit(code)
        interrupted.exit_code = code
        interrupted.set()
        again = "; Ctrl-C again to stop at once" if code == INTERRUPTED else ""
        print_line(f"stopping after this step and writing a checkpoint{again}")

    signal.signal(signal.SIGINT, stop)
    if "WORLD_SIZE" not in os.environ:
        signal.signal(signal.SIGTERM, stop)
    return interrupted


@contextmanager
def resumable(interrupted: Interruption) -> Iterator[None]:
    """Inside the block, a signal may stop a run before it has a prior; the command then ends."""
    try:
        yield
    except StoppedError as error:
        if not interrupted.is_set():
            raise
        print_line(str(error))
        raise typer.Exit(interrupted.exit_code) from error


def status_line(progress: Progress) -> str:
    """How far a training run is."""
    skipped = f", {progress.skipped} steps skipped" if progress.skipped else ""
    n_now = progress.images_now
    resumed = f", {n_now} of them" if n_now < progress.images else ""
    return (
        f"{progress.images} images{resumed} in {progress.seconds:.0f} s "
        f"(training at {progress.images_per_second:.1f}/s), loss {progress.loss:.3g}{skipped}"
    )


def validation_line(images: int, figures: dict[str, float]) -> str:
    """What a validation found, beside the classical methods."""
    names = {"CG-SENSE": "held_out_cg_sense", "L1-wavelet": "held_out_l1_wavelet"}
    others = [f"{name} {figures[key]:.4f}" for name, key in names.items() if key in figures]
    text = f"{images} images: error on held-out lines {figures['held_out']:.4f}"
    if "n_slices" in figures:  # the time limit came
        text += f" on {figures['n_slices']} of the slices"
    return f"{text} ({', '.join(others)})" if others else text


class TrainingView:
    """Shows a training run: its bar, its validations, and its figures on a board.

    The bar counts images, or seconds if ``by_time``. ``verbose`` prints how far the run is at every
    checkpoint; ``prefix`` begins the lines about validations.
    """

    def __init__(
        self,
        bar: Bar,
        board: Board | None = None,
        *,
        by_time: bool,
        verbose: bool = False,
        prefix: str = "",
    ) -> None:
        self.bar, self.board = bar, board or (lambda images, figures: None)
        self.by_time, self.verbose, self.prefix = by_time, verbose, prefix
        self.status, self.validated_at = "no step was taken", -1
        self.parts: dict[str, Bar] = {}

    def hooks(self, failures: Failures, interrupted: Interruption) -> Hooks:
        """The hooks of a training that it shows."""
        from mri_ambient.training.config import Hooks

        return Hooks(
            self.show, self.make_target, self.validate, failures.damaged, interrupted.is_set
        )

    def show(self, progress: Progress) -> None:
        """A step is done."""
        self.status = status_line(progress)
        self.bar.describe(f"{self.bar.name} {self.status}")
        self.bar.count(int(progress.seconds) if self.by_time else progress.images)
        figures = {"loss": progress.loss, "images_per_second": progress.images_per_second}
        self.board(progress.images, figures | (progress.validation or {}))
        if self.verbose and progress.saved:
            print_line(self.status)
        if progress.validation:
            self.validated_at = progress.images
            print_line(self.prefix + validation_line(progress.images, progress.validation))

    def validate(self, done: int, total: int) -> None:
        """A slice of a validation is done."""
        self._show_part("validate", done, total, "slices")

    def make_target(self, done: float, total: int) -> None:
        """A scan has its images to learn from."""
        self._show_part("make targets", done, total, "scans")

    def _show_part(self, name: str, done: float, total: int, unit: str) -> None:
        if name not in self.parts:
            self.parts[name] = Bar(self.bar.bars, f"{self.bar.name}: {name}", total, unit)
        self.parts[name].count(done)
        if done == total:
            self.parts.pop(name).end()

    def finish(self, prior: ma.Prior, path: Path, images: int) -> None:
        """The run ended after so many images; with patience, the prior may be an earlier one."""
        card = prior.facts.card
        seen, figures = card["images_seen"], card.get("held_out")
        if figures and seen == images != self.validated_at:
            self.board(seen, figures)
        print_line(f"{path}: {seen} images seen; {self.status}")
        if seen < images:
            print_line(
                f"{images} images were seen; the error on held-out lines was smallest before"
            )
        if figures:
            print_line(validation_line(seen, figures))


def round_hooks(
    bars: Bars,
    number: int,
    total: float | None,
    *,
    by_time: bool,
    failures: Failures,
    interrupted: Interruption,
) -> Hooks:
    """The hooks of a round of a refit, which show its samples and its training on two bars.

    ``total`` is the number of images, or seconds if ``by_time``, that the round trains for.
    """
    from mri_ambient.training.config import Hooks

    samples = Bar(bars, f"round {number}: sample", unit="scans")

    @cache
    def view() -> TrainingView:
        bar = Bar(bars, f"round {number}: train", total)
        return TrainingView(bar, by_time=by_time, prefix=f"round {number}: ")

    return Hooks(
        on_progress=lambda progress: view().show(progress),
        on_validation=lambda done, total: view().validate(done, total),
        on_target=samples.count,
        on_damaged=failures.damaged,
        should_stop=interrupted.is_set,
    )


@contextmanager
def tensorboard(folder: Path, *, wanted: bool) -> Iterator[Board | None]:
    """A board that writes for TensorBoard; None unless ``wanted``.

    Raises:
        ConfigError: TensorBoard is wanted and not installed.
    """
    if not wanted:
        yield None
        return
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ConfigError(
            "--tensorboard needs TensorBoard; pip install 'mri-ambient[tensorboard]'"
        ) from error
    with SummaryWriter(folder) as writer:

        def show(images: int, figures: dict[str, float]) -> None:
            for name, value in figures.items():
                writer.add_scalar(name, value, images)

        yield show
