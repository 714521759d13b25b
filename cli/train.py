"""``mri-ambient train``: a prior from prepared, undersampled scans."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

import mri_ambient as ma
from mri_ambient.errors import ConfigError
from mri_ambient.runtime.config import parse_seconds

from . import options as opt
from .choices import (
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
from .exit_codes import INTERRUPTED, Failures
from .parse import parse_pairs
from .recipe import make_runtime
from .torchrun import join_job
from .training_view import TrainingView, on_interrupt, resumable, tensorboard


def run(
    data: Annotated[
        Path,
        typer.Argument(help="Folder of prepared scans.", metavar="DIR", callback=folder_there),
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder of the run.")],
    objective: Annotated[
        str, typer.Option(help=f"{one_of(OBJECTIVES)}.", callback=known("objective", *OBJECTIVES))
    ] = "kspace",
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
    ] = None,
    targets: Annotated[
        str | None,
        typer.Option(
            help="Target images of supervised: of full scans (full), or l1-wavelet images.",
            show_default="full",
        ),
    ] = None,
    preset: Annotated[
        str,
        typer.Option(
            help="Size of the networks: tiny, tiny16, tiny16-momentum, tiny16-momentum-6, "
            "small, base.",
            callback=known("network preset", *NETWORKS),
        ),
    ] = "tiny",
    wrapper: Annotated[
        str | None,
        typer.Option(
            help=f"Kind of denoiser: {one_of(WRAPPERS)}.",
            callback=known("wrapper", *WRAPPERS),
            show_default="the objective's own",
        ),
    ] = None,
    patches: opt.Patches = False,
    images: Annotated[
        int | None, typer.Option(help="Stop after this many images.", show_default="none")
    ] = None,
    time_limit: opt.TimeLimit = None,
    patience: Annotated[
        int,
        typer.Option(help="Stop after this many validations without a smaller error; 0: never."),
    ] = 0,
    init: Annotated[
        Path | None,
        typer.Option(
            help="Prior file or run folder to start from (fine-tuning).",
            show_default="random weights",
            callback=shipped_or_there,
        ),
    ] = None,
    precision: opt.Precision = "auto",
    batch_size: Annotated[int, typer.Option(help="Images per step, over all processes.")] = 8,
    learning_rate: Annotated[
        float, typer.Option(help="Learning rate of Adam after the warm-up.")
    ] = 1e-3,
    check_every: Annotated[int, typer.Option(help="Images between validations.")] = 2000,
    save_every: Annotated[
        int | None,
        typer.Option(help="Images between checkpoints.", show_default="500, or 50 steps if more"),
    ] = None,
    use_tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Write the curves for TensorBoard as well.")
    ] = False,
    workers: Annotated[int, typer.Option(help="Processes that read data; 0: a thread.")] = 0,
    force: Annotated[
        bool, typer.Option("--force", help="Train even on masks that leave images undetermined.")
    ] = False,
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
    if patches and wrapper is not None:
        raise ConfigError("--patches is a wrapper of its own; leave out --wrapper")
    if targets is not None and objective != "supervised":
        raise ConfigError(
            "--targets is for --objective supervised; the others use no target images"
        )
    if images is None and time_limit is None and not patience:
        raise ConfigError("say when to stop: --images, --time-limit or --patience")
    from mri_ambient.objectives import make_objective
    from mri_ambient.training.config import TrainJob
    from mri_ambient.training.dry_run import dry_run as try_out
    from mri_ambient.training.loop import run_training
    from mri_ambient.training.preflight import plan

    limit = None if time_limit is None else parse_seconds(time_limit)
    options = parse_pairs(option) | ({} if targets is None else {"images": targets})
    config = ma.TrainConfig(
        objective=make_objective(objective, options),
        preset=preset,
        wrapper="patched" if patches else wrapper,
        batch_size=batch_size,
        learning_rate=learning_rate,
        check_every=check_every,
        save_every=max(500, 50 * batch_size) if save_every is None else save_every,
        patience=patience,
        precision=precision,
        seed=seed,
    )
    with join_job(device) as (leads, place):
        be_quiet(quiet or not leads)
        where = make_runtime(place).torch_device
        start = None if init is None else ma.load_prior(init, where)
        print_line(f"reading and measuring the scans of {data}")
        planned = plan(TrainJob(
            data, output, config, images=images, time_limit_s=limit, init=start, device=where,
            workers=workers, force=force,
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
            total, unit = (images, "images") if limit is None else (round(limit), "s")
            bar = Bar(bars, "train", total, unit)
            view = TrainingView(bar, figures, by_time=limit is not None, verbose=verbose)
            with resumable(interrupted):
                prior = run_training(planned, view.hooks(failures, interrupted))
            view.finish(prior, planned.run.prior, planned.run.images_seen)
    if interrupted.is_set():
        raise typer.Exit(INTERRUPTED)
    failures.end()
