"""``mri-ambient train``: a prior from prepared, undersampled scans."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .common import (
    Complaints,
    Device,
    DryRun,
    Quiet,
    Seed,
    Set,
    Verbose,
    be_quiet,
    on_interrupt,
    parse_pairs,
    parse_seconds,
    progress_bar,
    say,
    status_line,
    validation_line,
)
from .job import join_job

if TYPE_CHECKING:
    from mri_ambient.training.loop import Progress


def run(
    data: Annotated[Path, typer.Argument(help="Folder of prepared scans.", metavar="DIR")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder of the run.")],
    objective: Annotated[
        str, typer.Option(help="kspace, ambient, gsure, consistency, ssdu or supervised.")
    ] = "kspace",
    option: Set = None,
    targets: Annotated[
        str | None,
        typer.Option(help="What supervised learns from: full scans (full), or l1-wavelet images."),
    ] = None,
    preset: Annotated[str, typer.Option(help="Size of the networks: tiny, small, base.")] = "tiny",
    wrapper: Annotated[
        str | None,
        typer.Option(
            help="plain, conditioned, unguided or inconsistent; by default the objective's own."
        ),
    ] = None,
    patches: Annotated[
        bool,
        typer.Option("--patches", help="Learn patches and their place: for few scans."),
    ] = False,
    images: Annotated[int | None, typer.Option(help="Stop after this many images.")] = None,
    time_limit: Annotated[
        str | None, typer.Option(help="Stop this call after, e.g., 90s, 10m, 2h.")
    ] = None,
    patience: Annotated[
        int, typer.Option(help="Stop after this many checks without a smaller error; 0: never.")
    ] = 0,
    init: Annotated[
        Path | None, typer.Option(help="Prior file or run folder to start from (fine-tuning).")
    ] = None,
    precision: Annotated[
        str, typer.Option(help="auto (bf16 on a GPU, fp32 on a CPU), fp32 or bf16.")
    ] = "auto",
    batch_size: Annotated[int, typer.Option(help="Images a step, over all processes.")] = 8,
    learning_rate: Annotated[float, typer.Option(help="Adam's, after the warm-up.")] = 1e-3,
    check_every: Annotated[int, typer.Option(help="Images between validations.")] = 2000,
    save_every: Annotated[
        int | None,
        typer.Option(help="Images between checkpoints.", show_default="500, or 50 steps"),
    ] = None,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Write the curves for TensorBoard as well.")
    ] = False,
    workers: Annotated[int, typer.Option(help="Processes that read data; 0: a thread.")] = 0,
    force: Annotated[
        bool, typer.Option("--force", help="Train even on masks that leave images undetermined.")
    ] = False,
    seed: Seed = 0,
    device: Device = "auto",
    dry_run: DryRun = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Train a prior; a run that was stopped goes on where it was.

    Fully sampled images are never needed and, unless the objective is `supervised`, never used.
    Under torchrun, the processes share every batch.
    """
    from mri_ambient.errors import ConfigError, StoppedError
    from mri_ambient.objectives import make_objective
    from mri_ambient.priors.checkpoint import load_prior
    from mri_ambient.runtime.device import keep_freed_memory, pick_device
    from mri_ambient.training.config import TrainConfig
    from mri_ambient.training.dry_run import describe
    from mri_ambient.training.loop import train
    from mri_ambient.training.run import images_seen

    limit = None if time_limit is None else parse_seconds(time_limit)
    options = parse_pairs(option or [])
    if targets is not None:
        if objective != "supervised":
            raise ConfigError("--targets is for --objective supervised: others learn from samples")
        options["images"] = targets
    if patches and wrapper is not None:
        raise ConfigError("--patches is a wrapper of its own; leave out --wrapper")
    config = TrainConfig(
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
    with join_job(device) as job:
        be_quiet(quiet or not job.leads)
        where = pick_device(job.device)
        start = None if init is None else load_prior(init, where)
        trial = where if dry_run else None
        told = describe(
            data, config, trial, images=images, time_limit_s=limit, run=output, init=start,
            force=force,
        )  # fmt: skip
        if dry_run:
            if job.leads:
                typer.echo(told)
            return
        say(told)
        if seen := images_seen(output):
            say(f"{output}: going on from {seen} images")
        keep_freed_memory()
        interrupted = on_interrupt()
        damaged = Complaints()
        with progress_bar() as bars, _board(output, tensorboard and job.leads) as board:
            task = bars.add_task("train", total=images if limit is None else round(limit))
            checked_at: int | None = None
            status = "no step was taken"

            def show(progress: Progress) -> None:
                nonlocal checked_at, status
                status = status_line(progress)
                done = progress.images if limit is None else int(progress.seconds)
                bars.update(task, completed=done, description=f"train {status}")
                speed = {"images_per_second": progress.images_per_second}
                figures = {"loss": progress.loss, **speed, **(progress.validation or {})}
                board(progress.images, figures)
                if verbose and progress.saved:
                    say(status)
                if progress.validation:
                    checked_at = progress.images
                    say(validation_line(progress.images, progress.validation))

            try:
                prior = train(
                    data,
                    output,
                    config,
                    images=images,
                    time_limit_s=limit,
                    device=where,
                    init=start,
                    workers=workers,
                    force=force,
                    on_progress=show,
                    on_damaged=damaged,
                    should_stop=interrupted.is_set,
                )
            except StoppedError as error:
                if not interrupted.is_set():
                    raise
                say(str(error))
                raise typer.Exit(130) from error
            card = prior.facts.card
            last = images_seen(output)  # not those of an earlier, better prior
            if "held_out" in card and card["images_seen"] == last != checked_at:
                board(card["images_seen"], card["held_out"])
    say(f"{output / 'prior.safetensors'}: {card['images_seen']} images seen; {status}")
    if card["images_seen"] < last:
        say(f"{last} images were seen; the error on hidden lines was smallest before")
    if "held_out" in card:
        say(validation_line(card["images_seen"], card["held_out"]))
    if interrupted.is_set():
        raise typer.Exit(130)
    damaged.end()


@contextmanager
def _board(output: Path, wanted: bool) -> Iterator[Callable[[int, dict[str, float]], None]]:
    """What shows figures in TensorBoard, given how many images were seen.

    Raises:
        ConfigError: TensorBoard is wanted and not installed.
    """
    if not wanted:
        yield lambda images, figures: None
        return
    from mri_ambient.errors import ConfigError

    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ConfigError(
            "--tensorboard needs TensorBoard; pip install 'mri-ambient[tensorboard]'"
        ) from error
    with ExitStack() as stack:

        @cache
        def writer() -> Any:  # noqa: ANN401 -- once there is something to show
            return stack.enter_context(SummaryWriter(output / "tensorboard"))

        def show(images: int, figures: dict[str, float]) -> None:
            for name, value in figures.items():
                writer().add_scalar(name, value, images)

        yield show
