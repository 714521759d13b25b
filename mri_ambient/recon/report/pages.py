"""The templates of the pages, and the name of a page."""

from __future__ import annotations

from pathlib import Path

import jinja2

PAGES = jinja2.Environment(
    loader=jinja2.PackageLoader("mri_ambient.recon.report", "."),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
"""The templates; what they show is escaped."""


def report_name(path: Path) -> str:
    """What the report of a reconstruction file is called."""
    return f"{path.stem}_report.html"
