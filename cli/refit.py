"""``mri-ambient refit``: a plain prior from posterior samples of the training scans."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .common import (
    Complaints,
    Device,
    Quiet,
    Set,
    Shard,
    be_quiet,
    choose,
    merge_options,
    on_interrupt,
    parse_seconds,
    parse_shard,
    progress_bar,
    say,
    status_line,
    validation_line,
)
from .job import join_job

if TYPE_CHECKING:
    from mri_ambient.training.loop import Progress


def run(
    run_folder: Annotated[Path, typer.Argument(help="Folder of a training run.", metavar="RUN")],
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="Folder to write to; by default RUN/refit."),
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Prepared scans; by default those RUN was trained on.")
    ] = None,
    rounds: Annotated[int, typer.Option(help="How often to draw samples and train on them.")] = 2,
    images: Annotated[
        int | None,
        typer.Option(help="Images a round trains on.", show_default="as many as RUN saw"),
    ] = None,
    time_limit: Annotated[
        str | None, typer.Option(help="Stop a round's training in this call after 90s, 10m, 2h.")
    ] = None,
    method: Annotated[
        str, typer.Option(help="How samples are drawn: dds, msm, pula or adps.")
    ] = "dds",
    steps: Annotated[
        int | None, typer.Option(help="Network evaluations a sample.", show_default="50 of dds")
    ] = None,
    option: Set = None,
    preset: Annotated[
        str | None, typer.Option(help="Size of the network; by default that of RUN.")
    ] = None,
    patches: Annotated[
        bool, typer.Option("--patches", help="Learn patches and their place: for few scans.")
    ] = False,
    batch_size: Annotated[
        int | None,
        typer.Option(
            help="Images a step, and samples drawn at once.",
            show_default="that of RUN, and as many samples as fit into memory",
        ),
    ] = None,
    learning_rate: Annotated[
        float | None, typer.Option(help="Adam's, after the warm-up.", show_default="that of RUN")
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option(help="Of networks: auto, fp32 or bf16.", show_default="that of RUN"),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Seed of everything random.", show_default="that of RUN")
    ] = None,
    device: Device = "auto",
    shard: Shard = None,
    quiet: Quiet = False,
) -> None:
    """Draw a posterior sample of every training scan and train a plain prior on them, twice.

    What was drawn or trained already is not done again. `--shard i/N` draws part of the samples and
    stops, so that machines that do not know one another can share the work; a call without it goes
    on to train. Under torchrun, the processes share the samples and every batch.
    """
    from mri_ambient.errors import ConfigError
    from mri_ambient.methods import SAMPLERS
    from mri_ambient.methods.presets import with_options
    from mri_ambient.priors.checkpoint import load_prior
    from mri_ambient.runtime.device import keep_freed_memory, pick_device
    from mri_ambient.training.config import TrainConfig
    from mri_ambient.training.refit import RefitConfig, refit
    from mri_ambient.training.run import images_seen, read_identity

    limit = None if time_limit is None else parse_seconds(time_limit)
    part = parse_shard(shard)
    stored = read_identity(run_folder / "run.json")
    data = data or (Path(stored["folder"]) if "folder" in stored else None)
    if data is None:
        raise ConfigError(f"{run_folder}: does not say where its scans are; name them with --data")
    if images is None and limit is None:
        images = images_seen(run_folder)

    def of_run(key: str, given: Any = None) -> Any:  # noqa: ANN401 -- any option
        held = stored["config"].get(key, getattr(TrainConfig, key))  # an older run lacks the newer
        return held if given is None else given

    given = merge_options({"n_steps": steps}, option)
    kind = choose("sampler", method, SAMPLERS)
    if "final_dc" in {field.name for field in fields(kind)}:  # type: ignore[arg-type]
        given = {"final_dc": False} | given  # it takes variety from samples
    config = RefitConfig(
        rounds=rounds,
        sampler=with_options(kind, given),  # type: ignore[arg-type]
        training=TrainConfig(
            preset=of_run("preset", preset),
            wrapper="patched" if patches else None,
            batch_size=of_run("batch_size", batch_size),
            learning_rate=of_run("learning_rate", learning_rate),
            precision=of_run("precision", precision),
            n_validation=of_run("n_validation"),
            # The same seed sets the same scans aside: none that RUN saw becomes held-out.
            seed=of_run("seed", seed),
        ),
    )
    interrupted = on_interrupt()
    damaged = Complaints()
    with join_job(device) as job:
        be_quiet(quiet or not job.leads)
        where = pick_device(job.device)
        keep_freed_memory()
        with progress_bar() as bars:
            tasks: dict[str, object] = {}

            def bar(name: str, total: float | None) -> object:
                if name not in tasks:
                    tasks[name] = bars.add_task(name, total=total)
                return tasks[name]

            def sampled(round_: int, done: int, total: int) -> None:
                bars.update(bar(f"round {round_}: sample", total), completed=done)  # type: ignore[arg-type]

            def trained(round_: int, progress: Progress) -> None:
                done = progress.images if limit is None else progress.seconds
                name = f"round {round_}: train"
                task = bar(name, images if limit is None else limit)
                text = f"{name} {status_line(progress)}"
                bars.update(task, completed=done, description=text)  # type: ignore[arg-type]
                if progress.validation:
                    line = validation_line(progress.images, progress.validation)
                    say(f"round {round_}: {line}")

            prior = refit(
                data,
                load_prior(run_folder, where),
                output or run_folder / "refit",
                config,
                images=images,
                time_limit_s=limit,
                batch_size=batch_size,
                device=where,
                shard=part,
                on_sample=sampled,
                on_damaged=damaged,
                on_progress=trained,
                should_stop=interrupted.is_set,
            )
    if interrupted.is_set() or (prior is None and part is None):
        say("stopped; the same command goes on")
        raise typer.Exit(130)
    if prior is None:
        say(f"samples of part {shard} are drawn; draw the others, then run without --shard")
    else:
        path = (output or run_folder / "refit") / "prior.safetensors"
        card = prior.facts.card
        say(f"{path}: {card['images_seen']} images seen in the last round")
        if "held_out" in card:
            say(validation_line(card["images_seen"], card["held_out"]))
    damaged.end()
