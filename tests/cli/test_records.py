"""A record of options is, on the command line, an option for each of its fields."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from mri_ambient.cli.records import Without, takes_records


@dataclass(frozen=True)
class Box:
    """A box."""

    width: Annotated[int, typer.Option("-w", "--width", help="In cm.")] = 2
    colour: Annotated[str, typer.Option(help="Of its lid.")] = "red"

    def __post_init__(self) -> None:
        if self.width < 1:
            raise typer.BadParameter("no width")


def output_of(app: typer.Typer, *words: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, words)
    assert result.exit_code == code, result.output
    return result.output


def app_of(run) -> typer.Typer:
    app = typer.Typer(rich_markup_mode=None)
    app.command()(run)
    return app


@takes_records
def with_record(
    name: str, *, n: int = 1, box: Box, fast: Annotated[bool, typer.Option("--fast")] = False
) -> None:
    """Pack."""
    typer.echo(f"{name} {n} {box} {fast}")


def flat(
    name: str,
    n: int = 1,
    width: Annotated[int, typer.Option("-w", "--width", help="In cm.")] = 2,
    colour: Annotated[str, typer.Option(help="Of its lid.")] = "red",
    fast: Annotated[bool, typer.Option("--fast")] = False,
) -> None:
    """Pack."""


def test_the_command_line_is_that_of_the_fields():
    flat.__name__ = with_record.__name__
    assert output_of(app_of(with_record), "--help") == output_of(app_of(flat), "--help")


@pytest.mark.parametrize(
    ("words", "box"), [((), Box()), (("-w", "3"), Box(3)), (("--colour", "x"), Box(2, "x"))]
)
def test_the_record_holds_what_was_given(words, box):
    assert output_of(app_of(with_record), "a", *words, "--fast") == f"a 1 {box} True\n"


def test_a_record_checks_itself():
    assert "no width" in output_of(app_of(with_record), "a", "-w", "0", code=2)


def test_a_field_that_is_left_out_is_no_option_and_keeps_its_default():
    @takes_records
    def run(box: Annotated[Box, Without("colour")]) -> None:
        typer.echo(str(box))

    assert output_of(app_of(run), "-w", "3") == f"{Box(3)}\n"
    output_of(app_of(run), "--colour", "x", code=2)
