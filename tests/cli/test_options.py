"""Every command explains its options, and does so at once."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest
import typer

from mri_ambient.cli.app import app


def commands() -> Iterator[tuple[str, typer.main.TyperCommand]]:
    """Every command by its name, those of groups included."""
    todo = [("", typer.main.get_command(app))]
    while todo:
        name, command = todo.pop()
        for sub, inner in getattr(command, "commands", {}).items():
            todo.append((f"{name} {sub}".strip(), inner))
        if not hasattr(command, "commands"):
            yield name, command


PARAMETERS = [
    pytest.param(parameter, id=f"{name} {parameter.name}")
    for name, command in commands()
    for parameter in command.params
]


def test_all_commands_are_looked_at():
    assert {name for name, _ in commands()} == {
        "simulate", "prep", "train", "refit", "sample", "reconstruct", "evaluate", "info", "doctor",
        "demo", "audit memorization", "audit stability", "audit calibration",
    }  # fmt: skip


@pytest.mark.parametrize("parameter", PARAMETERS)
def test_every_help_text_names_the_default(parameter):
    assert getattr(parameter, "help", None)
    if not parameter.required and parameter.default is None:
        assert isinstance(parameter.show_default, str)


def test_help_imports_neither_torch_nor_anything_else_that_is_slow():
    names = [name.split() for name, _ in commands()]
    code = (
        "import sys; from typer.testing import CliRunner; from mri_ambient.cli.app import app\n"
        f"for words in {[[], *names]}:\n"
        "    result = CliRunner().invoke(app, [*words, '--help'])\n"
        "    assert result.exit_code == 0, result.output\n"
        "bad = {'torch', 'numpy', 'sigpy', 'fastmri', 'matplotlib'} & set(sys.modules)\n"
        "assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
