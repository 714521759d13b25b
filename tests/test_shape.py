"""The shape of the source: sizes of functions, numbers of parameters, and who imports whom.

    python tests/test_shape.py

prints the layers with the imports of each package, the longest functions, those with the most
parameters, the lines of every package, and the way of a scan from the command line to the physics.
"""

from __future__ import annotations

import ast
import re
import tomllib
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

MAX_LINES, MAX_PARAMETERS = 60, 8
"""Of a function outside cli/; ``self`` and ``cls`` are not counted."""

MAX_BODY = 60
"""Lines of the body of a command."""

WAY_OF_A_SCAN = (
    "cli/reconstruct.py",
    "mri_ambient/recon/folder.py",
    "mri_ambient/recon/volume.py",
    "mri_ambient/recon/engine.py",
    "mri_ambient/methods/base.py",
    "mri_ambient/physics/operators.py",
)
"""The files a reader passes from the command to the operator; each imports the next."""

WAY_OF_A_BATCH = (
    "cli/train.py",
    "mri_ambient/training/loop.py",
    "mri_ambient/training/trainer.py",
)
"""The same for a training batch; the trainer calls the objective of the configuration."""


@dataclass(frozen=True)
class Function:
    """A function or method, where it stands and how large it is."""

    path: Path
    name: str
    n_lines: int
    n_body: int
    n_parameters: int


def sources() -> list[Path]:
    """The source files, each once (two packages are links)."""
    files = [file for top in ("mri_ambient", "data_prep", "cli") for file in walk(ROOT / top)]
    return sorted(files)


def walk(folder: Path) -> Iterator[Path]:
    for entry in folder.iterdir():
        if entry.is_dir() and not entry.is_symlink() and entry.name != "__pycache__":
            yield from walk(entry)
        elif entry.suffix == ".py":
            yield entry


def functions(path: Path) -> Iterator[Function]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            given = node.args
            names = [a.arg for a in (*given.posonlyargs, *given.args, *given.kwonlyargs)]
            n_parameters = len([name for name in names if name not in ("self", "cls")])
            n_parameters += (given.vararg is not None) + (given.kwarg is not None)
            body = node.body[1:] if ast.get_docstring(node) is not None else node.body
            n_body = node.end_lineno - body[0].lineno + 1 if body else 0
            n_lines = node.end_lineno - node.lineno + 1
            yield Function(path.relative_to(ROOT), node.name, n_lines, n_body, n_parameters)


def imports(path: Path) -> set[Path]:
    """Source files that a source file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            base = folder_of(path, node)
            if base is not None:
                found |= {file for alias in node.names for file in files_of(base, alias.name)}
    return found


def folder_of(path: Path, node: ast.ImportFrom) -> Path | None:
    parts = (node.module or "").split(".")
    if node.level:
        parent = path.parent
        for _ in range(node.level - 1):
            # data_prep and cli lie beside the package they belong to.
            parent = ROOT / "mri_ambient" if parent.parent == ROOT else parent.parent
        return parent.joinpath(*filter(None, parts))
    return ROOT.joinpath(*parts) if parts[0] == "mri_ambient" else None


def files_of(base: Path, name: str) -> list[Path]:
    candidates = (base / f"{name}.py", base.with_suffix(".py"), base / "__init__.py")
    return [file.resolve() for file in candidates if file.is_file()][:1]


@cache
def all_functions(*, of_cli: bool) -> list[Function]:
    found = [function for path in sources() for function in functions(path)]
    return [function for function in found if (function.path.parts[0] == "cli") == of_cli]


def listed(found: list[Function]) -> list[str]:
    return [f"{f.path}: {f.name} ({f.n_lines} lines, {f.n_parameters} parameters)" for f in found]


def test_no_function_is_long():
    assert listed([f for f in all_functions(of_cli=False) if f.n_lines > MAX_LINES]) == []


def test_no_function_has_many_parameters():
    assert listed([f for f in all_functions(of_cli=False) if f.n_parameters > MAX_PARAMETERS]) == []


def test_commands_are_options_one_call_and_output():
    assert listed([f for f in all_functions(of_cli=True) if f.n_body >= MAX_BODY]) == []


@pytest.mark.parametrize("way", [WAY_OF_A_SCAN, WAY_OF_A_BATCH], ids=["scan", "batch"])
def test_the_way_to_the_physics_is_short(way):
    assert len(way) <= 6
    for here, there in pairwise(way):
        assert ROOT / there in imports(ROOT / here), f"{here} does not import {there}"


OPTION = re.compile(r"--([a-z][a-z-]+)")
COMMANDS = ("reconstruct --", "evaluate --")
ARGUMENTS = {
    "calib-lines": "calib", "config": "recipe", "holdout": "n_held_out", "iterations": "n_iter",
    "save": "format", "shard": "inputs", "targets": "images", "warn": "flags",
}  # fmt: skip
"""Options that are called otherwise in Python."""


def texts(node: ast.AST) -> Iterator[str]:
    """The texts in a source but for docstrings; of f-strings with the source of their fields."""
    if isinstance(node, ast.JoinedStr):
        yield "".join(
            str(part.value) if isinstance(part, ast.Constant) else ast.unparse(part)
            for part in node.values
        )
    elif isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    else:
        for child in ast.iter_child_nodes(node):
            if not (isinstance(node, ast.Expr) and isinstance(child, ast.Constant)):
                yield from texts(child)


def test_messages_of_the_library_name_the_argument_and_then_the_option():
    """``noise_std (--noise-std)``: who calls it from Python knows no options."""
    wrong = []
    library = (path for path in sources() if path.relative_to(ROOT).parts[0] != "cli")
    named_there = (code for path in library if "--" in (code := path.read_text("utf-8")))
    for text in (text for code in named_there for text in texts(ast.parse(code))):
        for option in [] if text.startswith(COMMANDS) else OPTION.finditer(text):
            before = text[: option.start()]
            named = ARGUMENTS.get(option[1], option[1].replace("-", "_")) in before
            if not (named and before.count("(") > before.count(")")):
                wrong.append(text)
    assert wrong == []


def layers() -> list[list[str]]:
    """Packages and modules of every layer of the import contract, from the top."""
    contract = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    found = next(c["layers"] for c in contract["contracts"] if c["containers"] == ["mri_ambient"])
    return [layer.split(" | ") for layer in found]


def package_of(path: Path) -> str:
    """The package or module of the library that a source file belongs to."""
    parts = path.resolve().relative_to(ROOT).with_suffix("").parts
    return parts[1] if parts[0] == "mri_ambient" else parts[0]


def imports_between_packages() -> dict[str, Counter[str]]:
    """For every package, how many of its files import each other package."""
    found: dict[str, Counter[str]] = defaultdict(Counter)
    for path in sources():
        here = package_of(path)
        found[here].update({package_of(file) for file in imports(path)} - {here, "__init__"})
    return found


def test_every_layer_is_a_package_or_module():
    names = [name for layer in layers() for name in layer]
    package = ROOT / "mri_ambient"
    entries = [e for e in package.iterdir() if e.is_dir() or e.suffix == ".py"]
    there = {entry.stem for entry in entries} - {"__init__", "__pycache__"}
    assert there == set(names)


def test_imports_between_packages_go_down_the_layers():
    """As ``lint-imports`` checks it, by the counts that ``main`` prints."""
    level = {name: k for k, layer in enumerate(layers()) for name in layer}
    for here, counts in imports_between_packages().items():
        below = {name for name in counts if here in level and level[name] <= level[here]}
        assert below == set(), here


def test_tests_import_public_names_only():
    private = []
    for path in (ROOT / "tests").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("mri_ambient"):
                names = [a.name for a in node.names if a.name.startswith("_")]
                names = [name for name in names if not name.startswith("__")]
                private += [f"{path.relative_to(ROOT)}: {node.module}.{name}" for name in names]
    assert private == []


def main() -> None:
    """Print the figures."""
    print("layers, and how many files of each package import those below")
    between = imports_between_packages()
    for layer in layers():
        for name in layer:
            counts = ", ".join(f"{other} {n}" for other, n in between[name].most_common())
            print(f"  {name:12s}{counts or '-'}")
    print("longest functions")
    for f in sorted(all_functions(of_cli=False), key=lambda f: -f.n_lines)[:15]:
        print(f"  {f.n_lines:4d} lines  {f.path}: {f.name}")
    print("most parameters")
    for f in sorted(all_functions(of_cli=False), key=lambda f: -f.n_parameters)[:10]:
        print(f"  {f.n_parameters:4d}        {f.path}: {f.name}")
    print("longest command bodies")
    for f in sorted(all_functions(of_cli=True), key=lambda f: -f.n_body)[:8]:
        print(f"  {f.n_body:4d} lines  {f.path}: {f.name}")
    print("lines of source")
    sizes: dict[str, int] = {}
    for path in sources():
        package = "/".join(path.relative_to(ROOT).parts[:-1][:2])
        sizes[package] = sizes.get(package, 0) + len(path.read_text().splitlines())
    for package, n in sizes.items():
        print(f"  {n:6d}      {package}")
    print(f"  {sum(sizes.values()):6d}      in all")
    print("way of a scan: " + " -> ".join(WAY_OF_A_SCAN))
    print("way of a batch: " + " -> ".join(WAY_OF_A_BATCH))


if __name__ == "__main__":
    main()
