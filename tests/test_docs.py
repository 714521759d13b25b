"""The documentation names what there is: warnings, files, and Python that compiles."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from mri_ambient.errors import WARNINGS

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
LINK = re.compile(r"\]\(([^)\s]+)\)")
PYTHON = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as they are made on GitHub."""
    titles = re.findall(r"^#+ +(.*?) *$", page.read_text(), re.MULTILINE)
    plain = (re.sub(r"[^\w\- ]", "", title.lower()) for title in titles)
    return {title.replace(" ", "-") for title in plain}


def test_every_warning_is_explained():
    page = (ROOT / "docs/reference/warnings.md").read_text()
    assert re.findall(r"^#+ +(W-\S+) *$", page, re.MULTILINE) == list(WARNINGS)


def test_every_warning_is_given_somewhere():
    sources = [p for top in ("mri_ambient", "data_prep", "cli") for p in (ROOT / top).rglob("*.py")]
    text = "\n".join(path.read_text() for path in sources if path.name != "errors.py")
    assert {code for code in WARNINGS if f'"{code}"' not in text} == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    broken = []
    for target in LINK.findall(page.read_text()):
        if "://" in target or target.startswith("mailto:"):
            continue
        name, _, anchor = target.partition("#")
        path = page if not name else (page.parent / name)
        if not path.exists() or (anchor and anchor not in anchors(path)):
            broken.append(target)
    assert broken == []


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_python_examples_compile(page):
    examples = PYTHON.findall(page.read_text())
    assert all(ast.parse(example).body for example in examples)
