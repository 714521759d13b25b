"""The help of commands with many options: in groups, those that most people need first."""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand

from mri_ambient.errors import ConfigError, close_to

GROUPS: dict[str, tuple[str, ...]] = {
    "Most used": (
        "output", "prior", "method", "preset", "samples", "save", "retrospective", "warn", "device",
        "overwrite",
    ),
    "What to read": (
        "volume", "axes", "dataset", "centre", "mask", "acs", "average", "maps", "map_sets",
        "coils", "energy", "noise_std", "calib_width",
    ),
    "Method": ("steps", "option", "lam", "final_dc", "adapt", "adapt_per"),
    "Sampling": ("mask_type", "calib_lines", "seed"),
    "Checks": ("holdout",),
    "Output": ("keep_samples", "parts", "dicom_template", "bids", "log", "quiet", "verbose"),
    "Many scans": (
        "jobs", "scheduler", "cluster", "shard", "retry_failed", "dry_run", "config",
    ),
    "Machine": ("precision", "batch_size", "compiled", "cpu_fallback"),
}  # fmt: skip
"""Options of ``reconstruct``, by the names of its parameters; others stand under Options."""


MEANT = {"acceleration": "retrospective", "count": "scans"}
"""What options of other names are called here."""


LISTS = ("save", "parts")
"""Options whose values are separated by commas."""


class Command(TyperCommand):
    """A command that names the option that was meant, and takes every list once."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:  # noqa: ANN401 -- of click
        """Read the words of the command line."""
        try:
            self._refuse_repeated(ctx, args)
            return super().parse_args(ctx, args)
        except ConfigError:
            raise
        except Exception as caught:
            error: Any = caught
            if hasattr(error, "possibilities") and hasattr(error, "message"):  # NoSuchOption
                known = [name for param in self.get_params(ctx) for name in param.opts]
                error.message += meant(error.option_name, known)
                error.possibilities = None
            raise

    def _refuse_repeated(self, ctx: Any, args: list[str]) -> None:  # noqa: ANN401 -- of click
        """Refuse a list that is given twice: all but the last would be ignored."""
        _, _, given = self.make_parser(ctx).parse_args(args=list(args))
        for param in given:
            if param.name in LISTS and not param.multiple and given.count(param) > 1:
                name = max(param.opts, key=len)
                raise ConfigError(
                    f"{name} is given {given.count(param)} times; give it once, its values "
                    f"separated by commas: {name} A,B"
                )


def meant(word: str, known: list[str]) -> str:
    """`` (did you mean --...?)`` for an option that there is not; or empty.

    One that begins with the word comes first, then one that it is a part of, then one like it.
    """
    name, names = word.lstrip("-"), [option[2:] for option in known if option.startswith("--")]
    tests = (MEANT.get(name, "").__eq__, lambda n: n.startswith(name), lambda n: name in n)
    found = next((n for test in tests for n in names if test(n)), None) if len(name) > 1 else None
    return f" (did you mean --{found}?)" if found else close_to(word, known)


class GroupedCommand(Command):
    """A command whose help shows its options in :data:`GROUPS`."""

    def format_options(self, ctx: Any, formatter: Any) -> None:  # noqa: ANN401 -- of click
        """Write arguments, then the groups."""
        group_of = {name: group for group, names in GROUPS.items() for name in names}
        order = {name: k for k, name in enumerate(group_of)}
        records: dict[str, list[tuple[str, str]]] = {"Arguments": []}
        records |= {group: [] for group in (*GROUPS, "Options")}
        for param in sorted(self.get_params(ctx), key=lambda p: order.get(p.name or "", 99)):
            argument = param.param_type_name == "argument"
            group = "Arguments" if argument else group_of.get(param.name or "", "Options")
            if record := param.get_help_record(ctx):
                records[group].append(record)
        for group, rows in records.items():
            if rows:
                with formatter.section(group):
                    formatter.write_dl(rows)
