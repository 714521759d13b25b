"""Options from a TOML file (``--config``), and those in force as such a file beside the results."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path
from typing import Any

import typer

from mri_ambient.errors import ConfigError, MriAmbientError, unknown_name

from .console import print_line

STORED = "config.toml"
"""Name of the file beside the results."""

HEAD = "# Options of `mri-ambient reconstruct`, which wrote this file.\n"
"""Its first line; a file without it is somebody else's, and stays."""

OF_THE_CALL = (
    "config", "output", "overwrite", "dry-run", "retry-failed", "shard", "log", "help", "jobs",
    "scheduler", "cluster", "quiet", "verbose",
)  # fmt: skip
"""Options that say nothing about the results, and are not stored."""

OF_THE_METHOD = ("method", "preset", "option", "steps", "lambda", "final-dc", "samples")
"""Options that are those of a method: another one on the command line replaces all of them."""


def read_config(context: typer.Context, path: Path | None) -> Path | None:
    """Take the options of a file as defaults, which the command line overrides.

    A key is an option without its dashes, such as ``noise-std``; lists stand for commas, or for an
    option that may be repeated.

    Raises:
        ConfigError: the file cannot be read, or names an option that there is not, or a value that
            cannot be.
    """
    if path is None:
        return None
    try:
        values = tomllib.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"{path}: cannot be read as TOML ({reason})") from error
    options = _options(context)
    if "config" in values:
        raise ConfigError(f"{path}: names another file of options (config); copy what is in it")
    for key in values:
        if key not in options:
            raise unknown_name(f"{path}: option", key, options)
    context.default_map = dict(context.default_map or {})
    words = {word.partition("=")[0] for word in sys.argv}
    if words & {"--method", "--preset"}:  # another method has options of its own
        values = {key: value for key, value in values.items() if key not in OF_THE_METHOD}
    try:
        for option, value in ((options[key], value) for key, value in values.items()):
            context.default_map[option.name] = text = _value(option, value)
            if words.isdisjoint((*option.opts, *option.secondary_opts)):  # or else those count
                option.process_value(context, text)
    except MriAmbientError as error:
        raise type(error)(f"{path}: {error}") from error
    except typer.BadParameter as error:
        raise ConfigError(f"{path}: {error.format_message()}") from error
    return path


def store_config(
    context: typer.Context, used: dict[str, Any], folder: Path, *, replace: bool
) -> None:
    """Write the options of a call, defaults included, so that the file repeats it.

    Args:
        context: of the call.
        used: what stood for options that were left out, by their names without dashes.
        folder: where its results are.
        replace: those of an earlier call.

    Raises:
        MriAmbientError: it cannot be written.
    """
    from mri_ambient.runtime.config import to_toml
    from mri_ambient.runtime.files import atomic_path

    values = {key: context.params.get(p.name or "") for key, p in _options(context).items()} | used
    plain = {key: str(v) if isinstance(v, Path) else v for key, v in values.items()}
    text = HEAD + to_toml({key: v for key, v in plain.items() if key not in OF_THE_CALL})
    path = folder / STORED
    is_new = not path.exists()
    if not (is_new or (path.is_file() and path.read_bytes().startswith(HEAD.encode()))):
        print_line(f"{path}: is another file, and stays; the options of this call are not stored")
    elif replace or is_new:
        with atomic_path(path) as temporary:
            temporary.write_text(text, encoding="utf-8")


def _options(context: typer.Context) -> dict[str, Any]:
    """The options of a command, by their long names without dashes."""
    found = (p for p in context.command.params if p.param_type_name == "option")
    return {max(p.opts, key=len).lstrip("-"): p for p in found}


def _value(option: Any, value: object) -> object:  # noqa: ANN401 -- of click
    """A value as the command line would give it."""
    texts = list(map(str, value)) if isinstance(value, list) else [str(value)]
    if any("\0" in text for text in texts):
        raise ConfigError(f"{option.name}: a text holds a NUL character; no file has such a name")
    if "" in texts:
        raise ConfigError(f"{option.name}: is empty; give a value, or leave it out")
    return ",".join(texts) if isinstance(value, list) and not option.multiple else value
