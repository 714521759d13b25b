"""``mri-ambient refit``: a plain prior from posterior samples of the training scans."""

from __future__ import annotations

import time
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import mri_ambient as ma
from mri_ambient.errors import ConfigError
from mri_ambient.runtime.config import parse_seconds

from . import options as opt
from .choices import NETWORKS, PRECISIONS, PRIOR_METHODS, known, one_of
from .console import be_quiet, print_line, progress_bar
from .exit_codes import Failures
from .parse import merge_options, parse_shard
from .recipe import make_runtime
from .records import takes_records
from .torchrun import join_job
from .training_view import on_interrupt, round_hooks, validation_line

if TYPE_CHECKING:
    from mri_ambient.methods import Sampler
    from mri_ambient.training.run import Identity


@dataclass(frozen=True)
class Drawing:
    """How samples are drawn."""

    method: Annotated[
        str,
        typer.Option(
            help="How samples are drawn: dds, msm, pula or adps.",
            callback=known("sampler", *PRIOR_METHODS),
        ),
    ] = "dds"
    steps: opt.Steps = None
    option: opt.MethodOption = None

    @property
    def sampler(self) -> Sampler:
        """The sampler, without the last data-consistency solve: it makes samples too similar."""
        from mri_ambient.methods.presets import METHODS, method_with_options

        given = merge_options({"n_steps": self.steps}, self.option)
        if "final_dc" in {field.name for field in fields(METHODS[self.method])}:  # type: ignore[arg-type]
            given = {"final_dc": False} | given
        return method_with_options(self.method, given)  # type: ignore[return-value]


@dataclass(frozen=True)
class Training:
    """How the prior is trained on them."""

    preset: Annotated[
        str | None,
        typer.Option(
            help=f"Size of the network: {one_of(NETWORKS)}.",
            show_default="that of RUN",
            callback=known("network preset", *NETWORKS),
        ),
    ] = None
    patches: opt.Patches = False
    batch_size: Annotated[
        int | None,
        typer.Option(
            help="Images per step, and samples drawn at once.",
            show_default="that of RUN, and as many samples as fit into memory",
        ),
    ] = None
    learning_rate: Annotated[
        float | None,
        typer.Option(help="Learning rate of Adam after the warm-up.", show_default="that of RUN"),
    ] = None
    precision: Annotated[
        str | None,
        typer.Option(
            help="Of networks: auto, fp32 or bf16.",
            show_default="that of RUN",
            callback=known("precision", *PRECISIONS),
        ),
    ] = None
    seed: Annotated[
        int | None, typer.Option(help="Seed of everything random.", show_default="that of RUN")
    ] = None

    def config(self, of_run: Identity) -> ma.TrainConfig:
        """The options of the run, unless others are given.

        The seed decides which scans are set aside: with that of the run, no training scan of it is
        held out.
        """
        names = ("preset", "batch_size", "learning_rate", "precision", "n_validation", "seed")
        options = {name: of_run.option(name) for name in names}
        given = {name: value for name, value in vars(self).items() if value is not None}
        given["wrapper"] = "patched" if given.pop("patches") else None
        return ma.TrainConfig(**options | given)


Run = Annotated[Path, typer.Argument(help="Folder of a training run.", metavar="RUN")]
Output = Annotated[
    Path | None,
    typer.Option("-o", "--output", help="Folder to write to.", show_default="RUN/refit"),
]
Data = Annotated[
    Path | None,
    typer.Option(help="Folder of prepared scans.", show_default="those RUN was trained on"),
]
Rounds = Annotated[int, typer.Option(help="How often to draw samples and train on them.")]
Images = Annotated[
    int | None, typer.Option(help="Images a round trains on.", show_default="as many as RUN")
]


@takes_records
def run(
    run_folder: Run,
    *,
    output: Output = None,
    data: Data = None,
    rounds: Rounds = 2,
    images: Images = None,
    time_limit: opt.TimeLimit = None,
    drawing: Drawing,
    training: Training,
    device: opt.Device = "auto",
    shard: opt.Shard = None,
    quiet: opt.Quiet = False,
) -> None:
    """Train a plain prior on posterior samples of the scans.

    A sample of every training scan is drawn and a plain prior trained on them; the second round
    (--rounds) repeats this with the new prior. What was drawn or trained already is not done again.
    `--shard i/N` draws part of the samples and stops, so that machines that are not connected can
    share the work; a call without it goes on to train. Under torchrun, the processes share the
    samples and every batch.
    """
    started = time.monotonic()
    from mri_ambient.training.refit import RefitJob, refit
    from mri_ambient.training.run import RunFolder

    limit = None if time_limit is None else parse_seconds(time_limit)
    part, begun = parse_shard(shard), RunFolder(run_folder)
    identity = begun.identity
    data = data or (None if identity.folder is None else Path(identity.folder))
    if data is None:
        raise ConfigError(f"{run_folder}: the folder of its scans is not stored; give it (--data)")
    if images is None and limit is None:
        images = begun.images_seen
    sampler, config = drawing.sampler, training.config(identity)
    output = output or run_folder / "refit"
    interrupted, failures = on_interrupt(), Failures()
    with join_job(device) as (leads, place), progress_bar() as bars:
        be_quiet(quiet or not leads)
        where = make_runtime(place).torch_device
        print_line(f"reading and measuring the scans of {data}")
        job = RefitJob(
            data, ma.load_prior(run_folder, where), output, rounds, sampler, config, images=images,
            time_limit_s=limit, batch_size=training.batch_size, device=where, shard=part,
        )  # fmt: skip
        hooks = partial(
            round_hooks, bars, total=images if limit is None else limit,
            by_time=limit is not None, failures=failures, interrupted=interrupted,
        )  # fmt: skip
        prior = refit(job, hooks, started=started)
    if interrupted.is_set() or (prior is None and part is None):
        print_line("stopped; the same command resumes")
        raise typer.Exit(interrupted.exit_code)
    if prior is None:
        print_line(f"samples of part {shard} are drawn; draw the others, then run without --shard")
    else:
        card, path = prior.facts.card, output / "prior.safetensors"
        print_line(f"{path}: {card['images_seen']} images seen in the last round")
        if "held_out" in card:
            print_line(validation_line(card["images_seen"], card["held_out"]))
    failures.end()
