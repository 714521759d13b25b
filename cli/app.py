"""``mri-ambient``: the list of commands, and how errors become exit codes.

Exit codes: 0 done; 1 some cases failed, the others are written; 2 usage; 3 no usable input;
4 no usable device or out of memory; 130 interrupted; 143 terminated.

Command modules import torch and the library inside their functions, so that ``--help`` is fast.
Threads of torch then sleep while they wait for each other, instead of keeping the cores busy:
where other programs use the cores too, that is several times as fast.
"""

from __future__ import annotations

import os
import signal
import sys
import warnings
from typing import Annotated, NoReturn

import typer

from mri_ambient._version import __version__
from mri_ambient.errors import MriAmbientError, NumericalWarning
from mri_ambient.runtime.memory import keep_freed_memory

from . import (
    adapt,
    audit,
    convert,
    demo,
    doctor,
    evaluate,
    info,
    prep,
    reconstruct,
    refit,
    sample,
    simulate,
    train,
)
from .console import be_quiet, log_to, open_streams, print_error, print_more_warnings, print_warning
from .exit_codes import INTERRUPTED, TERMINATED, exit_code
from .help import Command, GroupedCommand
from .parse import check_words

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read when torch is imported

HELP = {"help_option_names": ["-h", "--help"]}
"""Both give the help of a command."""

app = typer.Typer(
    name="mri-ambient",
    help="MRI reconstruction with diffusion priors learned from undersampled scans alone. "
    "Research only, not for diagnosis.",
    no_args_is_help=True,
    context_settings=HELP,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
COMMANDS = (
    simulate, convert, prep, train, adapt, refit, sample, reconstruct, evaluate, info, doctor, demo,
)  # fmt: skip
for command in COMMANDS:
    name = command.__name__.rsplit(".", 1)[-1]
    kind = GroupedCommand if command is reconstruct else Command
    app.command(name, cls=kind, context_settings=HELP)(command.run)
app.add_typer(audit.app, name="audit")

FROM_CHECKPOINT = (
    "the same command goes on from the last checkpoint, or from the start if there is none yet"
)
RESUMES = dict.fromkeys(
    ("simulate", "prep", "reconstruct"), "what is finished is kept, the same command resumes"
) | dict.fromkeys(("train", "adapt", "refit"), FROM_CHECKPOINT)
"""What commands that go on where they were stopped do then."""


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"mri-ambient {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Options that stand before the command."""
    be_quiet(False)
    log_to(None)


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    """One line for our own warnings; those of other libraries are not for users."""
    if isinstance(message, NumericalWarning):
        print_warning(message)


class Terminated(SystemExit):
    """A signal ended this process."""

    def __init__(self, number: int) -> None:
        super().__init__(TERMINATED)
        self.signal = signal.Signals(number).name


def _terminate(number: int, _: object) -> NoReturn:
    raise Terminated(number)


def main() -> None:
    """Run the command line; the process ends with a documented exit code."""
    open_streams()
    warnings.showwarning = _show_warning
    warnings.simplefilter("default", NumericalWarning)
    keep_freed_memory()
    # Other processes end this one by SIGTERM; it then removes its temporary files.
    signal.signal(signal.SIGTERM, _terminate)
    # So does the end of a terminal, unless it is to go on (nohup); Windows has no such signal.
    hang_up = getattr(signal, "SIGHUP", None)
    if hang_up is not None and signal.getsignal(hang_up) != signal.SIG_IGN:
        signal.signal(hang_up, _terminate)
    try:
        check_words(sys.argv[1:])
        app()
    except MriAmbientError as error:
        print_error(f"error: {error}")
        sys.exit(exit_code(error))
    except RuntimeError as error:
        from mri_ambient.runtime.device import device_error

        found = device_error(error, "cuda")
        if found is None:
            raise
        print_error(f"error: {found}")
        sys.exit(exit_code(found))
    except SystemExit as stop:
        if stop.code in (INTERRUPTED, TERMINATED):
            reason = "interrupted"
            if stop.code == TERMINATED:
                reason = f"terminated ({getattr(stop, 'signal', 'SIGTERM')})"
            if stop.code == TERMINATED and "WORLD_SIZE" in os.environ:
                reason += ", perhaps because a process of the job was lost"
            if resumes := RESUMES.get("".join(sys.argv[1:2])):
                reason += f"; {resumes}"
            print_error(reason)
        raise
    finally:
        print_more_warnings()


if __name__ == "__main__":
    main()
