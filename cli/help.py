"""The help of commands with many options: in groups, those that most people need first."""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand

GROUPS: dict[str, tuple[str, ...]] = {
    "Most used": (
        "output", "prior", "method", "preset", "samples", "save", "retrospective", "warn", "device",
        "overwrite",
    ),
    "What to read": (
        "volume", "axes", "dataset", "centre", "mask", "acs", "average", "maps", "map_sets",
        "coils", "noise_std",
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


class GroupedCommand(TyperCommand):
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
