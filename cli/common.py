"""What the commands share: options, progress, one line per failed case, exit codes."""

from __future__ import annotations

import re
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from mri_ambient.errors import (
    CheckpointError,
    ConfigError,
    DeviceError,
    MriAmbientError,
    OutputExistsError,
    PrepError,
    ScanFormatError,
)

if TYPE_CHECKING:
    from mri_ambient.methods.presets import Sampling
    from mri_ambient.physics.masks import MaskSpec
    from mri_ambient.training import loop as train

T = TypeVar("T")

Inputs = Annotated[list[str], typer.Argument(help="Files, folders or globs.", metavar="INPUT...")]


def _folder(path: Path) -> Path:
    if path.exists() and not path.is_dir():
        raise ConfigError(f"{path}: cannot be made a folder (File exists); choose another output")
    return path


Output = Annotated[
    Path,
    typer.Option("-o", "--output", help="Folder to write to.", metavar="OUT", callback=_folder),
]
PriorPath = Annotated[
    Path | None,
    typer.Option(
        "-m", "--prior", help="Prior file, run folder or name of a shipped prior (the default)."
    ),
]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:i.")]
Method = Annotated[
    str | None,
    typer.Option(
        help="aos, dds, msm, pula, adps, zero-filled, cg-sense or l1-wavelet.",
        show_default="aos; dds for a prior that knows no masks",
    ),
]
SamplingPreset = Annotated[
    str | None,
    typer.Option(
        "--preset", help="fast, balanced or quality, instead of a method with its options."
    ),
]
Samples = Annotated[
    int | None,
    typer.Option(
        help="Samples a slice of a stochastic method; their mean is the image.",
        show_default="4, or the preset's",
    ),
]
Seed = Annotated[int, typer.Option("--seed", help="Seed of everything random.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Do again what is done already.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and stop.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
Set = Annotated[
    list[str] | None,
    typer.Option("-O", "--option", help="NAME=VALUE of the objective or method; may be repeated."),
]
Retrospective = Annotated[
    float | None,
    typer.Option(help="Undersample a fully sampled scan to this acceleration first."),
]
MaskType = Annotated[
    str | None,
    typer.Option(
        help="Retrospective mask: random, equispaced, gaussian or poisson.",
        show_default="random",
    ),
]
CalibLines = Annotated[
    int | None,
    typer.Option(help="Retrospective mask: central lines kept.", show_default="20"),
]
Verbose = Annotated[bool, typer.Option("-v", "--verbose", help="Say more about every case.")]
Shard = Annotated[
    str | None, typer.Option("--shard", help="Do part i of N of the inputs, e.g. 2/4.")
]

_console = Console(stderr=True, highlight=False)
_voice = {"quiet": False}


def be_quiet(quiet: bool) -> bool:
    """From now on, print errors only, or everything."""
    _voice["quiet"] = quiet
    return quiet


Quiet = Annotated[bool, typer.Option("-q", "--quiet", callback=be_quiet, help="Print errors only.")]


def say(line: str) -> None:
    """One line for the person in front of the screen (stderr), unless they want errors only."""
    if not _voice["quiet"]:
        complain(line)


def complain(line: str) -> None:
    """One line about something that failed."""
    _console.print(line, markup=False, soft_wrap=True)


class Complaints:
    """One line about everything that could not be read, and exit code 1 when all else is done."""

    def __init__(self) -> None:
        self.told: set[str] = set()

    def __call__(self, sentence: str) -> None:
        """Complain, once about the same."""
        if sentence not in self.told:
            complain(f"error: {sentence}")
        self.told.add(sentence)

    def end(self) -> None:
        """Exit with code 1 if there was anything."""
        if self.told:
            raise typer.Exit(1)


def exit_code(error: MriAmbientError) -> int:
    """The documented exit code of an error that ended the command."""
    if isinstance(error, (ConfigError, OutputExistsError)):
        return 2
    if isinstance(error, (ScanFormatError, PrepError, CheckpointError)):
        return 3
    return 4 if isinstance(error, DeviceError) else 1


def on_interrupt() -> Event:
    """The first Ctrl-C ends the run after its step, with a checkpoint; the second ends it now."""
    asked = Event()

    def stop(*_: object) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()
        say("stopping after this step and writing a checkpoint; Ctrl-C again to stop at once")

    signal.signal(signal.SIGINT, stop)
    return asked


def parse_shard(shard: str | None) -> tuple[int, int] | None:
    """``2/4`` as (2, 4).

    Raises:
        ConfigError: ``shard`` is not ``i/N`` with 1 <= i <= N.
    """
    if shard is None:
        return None
    match = re.fullmatch(r"(\d+)/(\d+)", shard)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise ConfigError(f"--shard is i/N with 1 <= i <= N, e.g. 2/4; got {shard!r}")
    return int(match[1]), int(match[2])


def pick_shard(items: Sequence[T], shard: str | None) -> list[T]:
    """Every N-th item, starting with the i-th.

    Raises:
        ConfigError: ``shard`` is not ``i/N`` with 1 <= i <= N.
    """
    part = parse_shard(shard)
    return list(items) if part is None else list(items[part[0] - 1 :: part[1]])


def choose(kind: str, name: str, choices: dict[str, T]) -> T:
    """Look an option's value up in the dictionary that defines what there is.

    Raises:
        ConfigError: there is no such name.
    """
    if name not in choices:
        raise ConfigError(f"{kind} {name!r} is unknown; choose from {', '.join(choices)}")
    return choices[name]


def pick_sampling(
    preset: str | None,
    method: str | None,
    given: dict[str, Any],
    samples: int | None,
    *,
    prior: Path | None,
) -> Sampling:
    """The method with its options, and how many samples it draws: as asked for, or the preset's.

    Args:
        preset: its name, if one was given.
        method: its name, if one was given; otherwise it is what suits the prior.
        given: options of the method.
        samples: how many were asked for.
        prior: the prior, unless it is the one that ships.

    Raises:
        ConfigError: there is none of this name, an option that it lacks, or a preset beside them.
        CheckpointError: the prior cannot be read.
    """
    from mri_ambient.methods.presets import (
        METHODS,
        SAMPLINGS,
        Sampling,
        default_method,
        with_options,
    )
    from mri_ambient.priors.checkpoint import load_prior
    from mri_ambient.recon.engine import Options

    if preset is None:
        if method is None:
            method = "aos" if prior is None else default_method(load_prior(prior))
        chosen = with_options(choose("method", method, METHODS), given)
        return Sampling(chosen, Options.n_samples if samples is None else samples)
    if method is not None or given:
        raise ConfigError("--preset is a method with its options; leave those out")
    held = choose("preset", preset, SAMPLINGS)
    return Sampling(held.method, held.n_samples if samples is None else samples)


def status_line(progress: train.Progress) -> str:
    """How far a training run is."""
    skipped = f", {progress.skipped} steps skipped" if progress.skipped else ""
    return (
        f"{progress.images} images in {progress.seconds:.0f} s, "
        f"{progress.images_per_second:.1f}/s, loss {progress.loss:.3g}{skipped}"
    )


def validation_line(images: int, figures: dict[str, float]) -> str:
    """What a validation found, beside the classical methods."""
    names = {"CG-SENSE": "held_out_cg_sense", "L1-wavelet": "held_out_l1_wavelet"}
    others = [f"{name} {figures[key]:.4f}" for name, key in names.items() if key in figures]
    text = f"{images} images: error on hidden measured lines {figures['held_out']:.4f}"
    return f"{text} ({', '.join(others)})" if others else text


def parse_seconds(text: str) -> float:
    """``90``, ``90s``, ``10m`` or ``1.5h`` in seconds.

    Raises:
        ConfigError: it is none of these.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smh]?)", text.strip())
    if not match:
        raise ConfigError(f"a time is written like 90s, 10m or 1.5h; got {text!r}")
    return float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[match[2]]


def parse_range(name: str, text: str) -> float | tuple[float, float]:
    """``4`` as a number, ``3:7`` as a pair to draw from.

    Raises:
        ConfigError: it is neither.
    """
    parts = text.split(":")
    try:
        numbers = [float(part) for part in parts]
    except ValueError:
        numbers = []
    if len(numbers) == 1:
        return numbers[0]
    if len(numbers) == 2:
        return numbers[0], numbers[1]
    raise ConfigError(f"{name} is a number or LOW:HIGH, e.g. 4 or 3:7; got {text!r}")


def parse_shares(name: str, text: str) -> str | dict[str, float]:
    """``random`` as it is, ``random:0.8,poisson:0.2`` as shares.

    Raises:
        ConfigError: a share is no number.
    """
    if ":" not in text:
        return text
    pairs = [part.partition(":") for part in text.split(",")]
    try:
        return {kind.strip(): float(share) for kind, _, share in pairs}
    except ValueError as error:
        raise ConfigError(
            f"{name} is one kind or shares like random:0.8,poisson:0.2; got {text!r}"
        ) from error


def claim_folder(output: Path, name: str, *, overwrite: bool) -> None:
    """Refuse a folder for ``name`` that is a training run, or holds one and may not be changed.

    Raises:
        OutputExistsError: it is, or does.
    """
    if (output / "run.json").exists():
        raise OutputExistsError(f"{output}: is a training run; choose another folder")
    if (output / name).exists() and not overwrite:
        raise OutputExistsError(
            f"{output / name}: is there already; use --overwrite or another folder"
        )


def merge_options(flags: Mapping[str, Any], texts: Sequence[str] | None) -> dict[str, Any]:
    """Options given by flags of their own (those that are not None) and by ``-O NAME=VALUE``.

    Raises:
        ConfigError: one is given both ways.
    """
    given = {name: value for name, value in flags.items() if value is not None}
    pairs = parse_pairs(texts or [])
    if twice := sorted(set(given) & set(pairs)):
        raise ConfigError(f"-O {twice[0]}=... is given by an option of its own too; give it once")
    return given | pairs


def parse_pairs(texts: Sequence[str]) -> dict[str, str]:
    """``NAME=VALUE`` texts as a dictionary.

    Raises:
        ConfigError: one of them is none.
    """
    pairs = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not (name and equals):
            raise ConfigError(f"an option is written NAME=VALUE; got {text!r}")
        pairs[name.strip()] = value.strip()
    return pairs


def run_cases(cases: Iterable[T], work: Callable[[T], None]) -> None:
    """Do every case; one that fails costs one line, and the others are done.

    Raises:
        typer.Exit: code 1 if some failed, or the code of the error if all did.
    """
    failed: list[MriAmbientError] = []
    n_cases = 0
    for case in cases:
        n_cases += 1
        try:
            work(case)
        except DeviceError:
            raise
        except MriAmbientError as error:
            complain(f"error: {named(case, str(error))}")
            failed.append(error)
    if failed:
        raise typer.Exit(exit_code(failed[0]) if len(failed) == n_cases else 1)


def named(case: object, message: str) -> str:
    """The message with the name of its file, where it does not say it itself."""
    known = not isinstance(case, Path) or case.stem in message
    return message if known else f"{case}: {message}"


class _Lines(Progress):
    """Progress for a log file: now and then a line, instead of bars that move."""

    every_s = 30.0
    told: float | None = None

    def advance(self, task_id: TaskID, advance: float = 1) -> None:
        """As of a bar."""
        super().advance(task_id, advance)
        self._tell(task_id)

    def update(  # type: ignore[override]  # all that the commands change
        self,
        task_id: TaskID,
        *,
        completed: float | None = None,
        total: float | None = None,
        description: str | None = None,
    ) -> None:
        """As of a bar."""
        super().update(task_id, completed=completed, total=total, description=description)
        self._tell(task_id)

    def _tell(self, task_id: TaskID) -> None:
        task, now = self._tasks[task_id], time.monotonic()
        self.told = now if self.told is None else self.told
        if now - self.told < self.every_s:
            return
        self.told = now
        if not task.total:
            say(task.description)
            return
        left = task.time_remaining
        text = f"{task.description}: {task.completed:.0f} of {task.total:.0f}"
        say(text if left is None else f"{text}, about {left:.0f} s left")


@contextmanager
def progress_bar() -> Iterator[Progress]:
    """Bars with the time left on stderr; where nobody watches, a line every half a minute."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    watched = sys.stderr.isatty() and not _voice["quiet"]
    kind = Progress if watched else _Lines
    with kind(*columns, console=_console, disable=not watched, transient=True) as bars:
        yield bars


def print_json(content: Any) -> None:  # noqa: ANN401 -- whatever a command reports
    """JSON on stdout."""
    from mri_ambient.runtime.files import json_text

    typer.echo(json_text(content, indent=2))


def retrospective_mask(
    acceleration: float | None, mask_type: str | None, calib_lines: int | None
) -> MaskSpec | None:
    """The mask that undersamples full scans, if there is to be one.

    Raises:
        ConfigError: it is described without an acceleration, or impossible.
    """
    from mri_ambient.physics.masks import MaskSpec

    if acceleration is not None:
        lines = 20 if calib_lines is None else calib_lines
        return MaskSpec(mask_type or "random", acceleration, lines)
    if mask_type is not None or calib_lines is not None:
        raise ConfigError(
            "--mask-type and --calib-lines say how --retrospective masks; give it too"
        )
    return None
