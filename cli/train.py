"""``mri-ambient train``: a prior from prepared, undersampled scans."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

import mri_ambient as ma
from mri_ambient.errors import ConfigError
from mri_ambient.runtime.config import parse_seconds

from . import options as opt
from .choices import (
    DEFAULT_NETWORK,
    NETWORKS,
    OBJECTIVE_OPTIONS,
    OBJECTIVES,
    WRAPPERS,
    folder_there,
    known,
    named_values,
    one_of,
    shipped_or_there,
)
from .console import Bar, be_quiet, print_line, progress_bar
from .exit_codes import Failures
from .parse import parse_pairs
from .recipe import make_runtime
from .records import takes_records
from .torchrun import join_job
from .training_view import TrainingView, on_interrupt, resumable, tensorboard


@dataclass(frozen=True)
class Learning:
    """What is learned from the scans, and by which network."""

    objective: Annotated[
        str, typer.Option(help=f"{one_of(OBJECTIVES)}.", callback=known("objective", *OBJECTIVES))
    ] = "kspace"
    option: Annotated[
        list[str] | None,
        typer.Option(
            "-O",
            "--option",
            metavar="NAME=VALUE",
            help="An option of the objective; may be repeated.",
            show_default="the objective's defaults",
            callback=named_values("option of an objective", OBJECTIVE_OPTIONS),
        ),
    ] = None
    targets: Annotated[
        str | None,
        typer.Option(
            help="Target images of supervised: of full scans (full), or l1-wavelet images.",
            show_default="full",
        ),
    ] = None
    preset: Annotated[
        str | None,
        typer.Option(
            help=f"Size of the networks: {one_of(NETWORKS)}.",
            callback=known("network preset", *NETWORKS),
            show_default=f"that of --init, or {DEFAULT_NETWORK}",
        ),
    ] = None
    wrapper: Annotated[
        str | None,
        typer.Option(
            help=f"Kind of denoiser: {one_of(WRAPPERS)}.",
            callback=known("wrapper", *WRAPPERS),
            show_default="the objective's own",
        ),
    ] = None
    patches: opt.Patches = False

    def __post_init__(self) -> None:
        if self.patches and self.wrapper is not None:
            raise ConfigError("--patches is a wrapper of its own; leave out --wrapper")
        if self.targets is not None and self.objective != "supervised":
            raise ConfigError(
                "--targets is for --objective supervised; the others use no target images"
            )

    @property
    def arguments(self) -> dict[str, Any]:
        """Arguments of a TrainConfig."""
        from mri_ambient.objectives import make_objective

        options = parse_pairs(self.option)
        options |= {} if self.targets is None else {"images": self.targets}
        return {
            "objective": make_objective(self.objective, options),
            "preset": self.preset,
            "wrapper": "patched" if self.patches else self.wrapper,
        }


@dataclass(frozen=True)
class Stopping:
    """When the training ends."""

    images: Annotated[
        int | None, typer.Option(help="Stop after this many images.", show_default="none")
    ] = None
    time_limit: opt.TimeLimit = None
    patience: Annotated[
        int,
        typer.Option(help="Stop after this many validations without a smaller error; 0: never."),
    ] = 0

    def __post_init__(self) -> None:
        if self.images is None and self.time_limit is None and not self.patience:
            raise ConfigError("say when to stop: --images, --time-limit or --patience")

    @property
    def seconds(self) -> float | None:
        """The time limit."""
        return None if self.time_limit is None else parse_seconds(self.time_limit)

    @property
    def total(self) -> tuple[int | None, str]:
        """How much there is to do, and in which unit."""
        return (self.images, "images") if self.seconds is None else (round(self.seconds), "s")


@dataclass(frozen=True)
class Steps:
    """The steps of the training, and how often it is looked at."""

    precision: opt.Precision = "auto"
    batch_size: Annotated[int, typer.Option(help="Images per step, over all processes.")] = 8
    learning_rate: Annotated[
        float, typer.Option(help="Learning rate of Adam after the warm-up.")
    ] = 1e-3
    check_every: Annotated[int, typer.Option(help="Images between validations.")] = 2000
    save_every: Annotated[
        int | None,
        typer.Option(help="Images between checkpoints.", show_default="500, or 50 steps if more"),
    ] = None

    @property
    def arguments(self) -> dict[str, Any]:
        """Arguments of a TrainConfig."""
        save_every = max(500, 50 * self.batch_size) if self.save_every is None else self.save_every
        return vars(self) | {"save_every": save_every}


Data = Annotated[
    Path, typer.Argument(help="Folder of prepared scans.", metavar="DIR", callback=folder_there)
]
Output = Annotated[Path, typer.Option("-o", "--output", help="Folder of the run.")]
Start = Annotated[
    Path | None,
    typer.Option(
        "--init",
        help="Prior to start from (fine-tuning): a file, a run folder, or a shipped prior.",
        show_default="random weights",
        callback=shipped_or_there,
    ),
]
TensorBoard = Annotated[
    bool, typer.Option("--tensorboard", help="Write the curves for TensorBoard as well.")
]
Workers = Annotated[int, typer.Option(help="Processes that read data; 0: a thread.")]
Force = Annotated[
    bool, typer.Option("--force", help="Train even on masks that leave images undetermined.")
]


@takes_records
def run(
    data: Data,
    output: Output,
    *,
    learning: Learning,
    stopping: Stopping,
    init: Start = None,
    steps: Steps,
    use_tensorboard: TensorBoard = False,
    workers: Workers = 0,
    force: Force = False,
    seed: opt.Seed = 0,
    device: opt.Device = "auto",
    dry_run: opt.DryRun = False,
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = False,
) -> None:
    """Train a prior; a run that was stopped resumes.

    Fully sampled images are never needed and, unless the objective is `supervised`, never used.
    Under torchrun, the processes share every batch.
    """
    started = time.monotonic()
    from mri_ambient.training.config import TrainJob
    from mri_ambient.training.dry_run import dry_run as try_out
    from mri_ambient.training.loop import run_training
    from mri_ambient.training.preflight import plan

    config = ma.TrainConfig(
        **learning.arguments, **steps.arguments, patience=stopping.patience, seed=seed
    )
    with join_job(device) as (leads, place):
        be_quiet(quiet or not leads)
        where = make_runtime(place).torch_device
        start = None if init is None else ma.load_prior(init, where)
        print_line(f"reading and measuring the scans of {data}")
        planned = plan(TrainJob(
            data, output, config, images=stopping.images, time_limit_s=stopping.seconds, init=start,
            device=where, workers=workers, force=force,
        ), started=started)  # fmt: skip
        if dry_run:
            if leads:
                typer.echo(try_out(planned))
            return
        print_line(planned.describe())
        if n_done := planned.run.images_seen:
            print_line(f"{output}: resumes after {n_done} images")
        interrupted, failures = on_interrupt(), Failures()
        board = tensorboard(output / "tensorboard", wanted=use_tensorboard and leads)
        with progress_bar() as bars, board as figures:
            bar, by_time = Bar(bars, "train", *stopping.total), stopping.seconds is not None
            view = TrainingView(bar, figures, by_time=by_time, verbose=verbose)
            with resumable(interrupted):
                prior = run_training(planned, view.hooks(failures, interrupted))
            view.finish(prior, planned.run.prior, planned.run.images_seen)
    if interrupted.is_set():
        raise typer.Exit(interrupted.exit_code)
    failures.end()
