"""What importing costs, and what library code never touches."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LIBRARY = [
    path
    for top in ("mri_ambient", "data_prep")
    for path in sorted((ROOT / top).rglob("*.py"))
    if not any(ROOT / "mri_ambient" / link in path.parents for link in ("data_prep", "cli"))
]
FORBIDDEN = {
    "sys.argv": "only the command line reads arguments",
    "os.environ": "options are arguments, not environment variables",
    "os.getenv": "options are arguments, not environment variables",
    "torch.load": "loading must never execute code; use safetensors",
    "torch.save": "files must load without executing code; use safetensors",
    "pickle": "loading must never execute code; use safetensors",
    "eval": "data are never code",
    "exec": "data are never code",
    "input": "only the command line talks to people",
}


def loaded_after(code: str, candidates: set[str]) -> set[str]:
    """Which of the packages a fresh interpreter has loaded after running ``code``."""
    ask = f"{code}\nimport sys\nprint(*sorted({candidates!r} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", ask], cwd=ROOT, capture_output=True, text=True, check=True
    )
    # One line: importing printed nothing of its own.
    (line,) = done.stdout.splitlines()
    assert done.stderr == ""
    return set(line.split())


def test_the_command_line_starts_without_the_heavy_packages():
    # ``--help`` must not take seconds.
    heavy = {"torch", "scipy", "sigpy", "numba", "matplotlib", "skimage", "h5py"}
    assert loaded_after("import mri_ambient.cli.app", heavy) == set()


def test_the_library_imports_without_what_only_a_part_of_it_needs():
    code = (
        "import mri_ambient.data_prep, mri_ambient.evaluation.info, mri_ambient.training.loop\n"
        "from mri_ambient.priors.checkpoint import load_prior\n"
        "load_prior('brain-kspace-wide')"
    )
    parts = {"sigpy", "numba", "nibabel", "fastmri", "typer"}
    slow = {"matplotlib", "scipy", "skimage", "torch._dynamo", "sympy"}
    assert loaded_after(code, parts | slow) == set()


@pytest.mark.parametrize("path", LIBRARY, ids=lambda path: str(path.relative_to(ROOT)))
def test_library_code_keeps_to_its_arguments(path):
    used = {}
    for node in ast.walk(ast.parse(path.read_text())):
        names = [ast.unparse(node)] if isinstance(node, ast.Attribute | ast.Name) else []
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [getattr(node, "module", None) or "", *(alias.name for alias in node.names)]
        for name in names:
            if name in FORBIDDEN:
                used[f"line {node.lineno}: {name}"] = FORBIDDEN[name]
    assert used == {}
