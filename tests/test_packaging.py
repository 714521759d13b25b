"""What is installed is what is in the repository, and it runs where no checkout is near.

The wheel is built from a copy of the working tree, installed into a fresh virtual environment and
run from another folder. Dependencies are those of the running environment: its ``site-packages``
come last on the path. (``--system-site-packages`` would point at the base interpreter, not at the
virtual environment the tests run in, and would obey an editable install's ``.pth`` file there.)
"""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import site
import subprocess
import sys
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

import mri_ambient

ROOT = Path(__file__).parents[1]
LINKS = {"data_prep": "../data_prep", "cli": "../cli"}
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
DATA = {".safetensors", ".md", ".typed", ".html", ".css", ".js"}


def folders_with_code() -> set[Path]:
    """Real folders below the three roots that hold Python files, relative to the checkout."""
    found = (
        path.parent
        for top in ("mri_ambient", *LINKS)
        for path in (ROOT / top).rglob("*.py")
        if not any((ROOT / top / link) in path.parents for link in LINKS)
    )
    return {folder.relative_to(ROOT) for folder in found}


def as_package(folder: Path) -> str:
    """Dotted name under which a folder is installed."""
    parts = folder.parts if folder.parts[0] == "mri_ambient" else ("mri_ambient", *folder.parts)
    return ".".join(parts)


class TestLayout:
    def test_the_declared_packages_are_the_folders(self):
        declared = PYPROJECT["tool"]["setuptools"]["packages"]
        assert sorted(declared) == sorted(as_package(folder) for folder in folders_with_code())

    def test_every_folder_is_a_regular_package(self):
        # A folder without __init__.py imports from a checkout and may vanish from a wheel.
        missing = [f for f in folders_with_code() if not (ROOT / f / "__init__.py").is_file()]
        assert missing == []

    @pytest.mark.parametrize("name", LINKS)
    def test_the_links_are_relative_and_lead_to_the_mapped_folders(self, name):
        link = ROOT / "mri_ambient" / name
        assert link.is_symlink()
        assert link.readlink() == Path(LINKS[name])
        assert PYPROJECT["tool"]["setuptools"]["package-dir"][f"mri_ambient.{name}"] == name

    def test_the_version_is_written_once(self):
        assert PYPROJECT["project"]["dynamic"] == ["version"]
        source = PYPROJECT["tool"]["setuptools"]["dynamic"]["version"]
        assert source == {"attr": "mri_ambient._version.__version__"}
        elsewhere = [
            path
            for folder in folders_with_code()
            for path in (ROOT / folder).glob("*.py")
            if f'"{mri_ambient.__version__}"' in path.read_text() and path.name != "_version.py"
        ]
        assert elsewhere == []


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of the working tree, built in a copy so that the checkout stays clean."""
    work = tmp_path_factory.mktemp("wheel")
    source = work / "source"
    source.mkdir()
    for name in ("mri_ambient", "data_prep", "cli"):
        shutil.copytree(
            ROOT / name,
            source / name,
            symlinks=True,
            ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"),
        )
    for name in ("pyproject.toml", "LICENSE", "README.md"):
        shutil.copy(ROOT / name, source)
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "-o", work, source, cwd=work)
    return next(work.glob("*.whl"))


@pytest.fixture(scope="module")
def elsewhere(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Elsewhere:
    """The wheel, installed alone into a fresh environment."""
    folder = tmp_path_factory.mktemp("elsewhere")
    venv.create(folder / "venv", with_pip=False)
    installed = Elsewhere(folder)
    run(
        *(sys.executable, "-m", "pip", "--python", installed.python, "install"),
        *("--no-index", "--no-deps", "--disable-pip-version-check", wheel),
        cwd=folder,
    )
    # Lines of a .pth file are appended to the path, and .pth files in *those* folders are not read.
    (installed.site_packages / "zz_dependencies.pth").write_text("\n".join(site.getsitepackages()))
    return installed


class Elsewhere:
    """A fresh environment with the wheel in it, and a working folder far from the checkout."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.bin = folder, folder / "venv" / "bin"
        self.python = self.bin / "python"

    @property
    def site_packages(self) -> Path:
        return next((self.folder / "venv" / "lib").glob("python*/site-packages"))

    def run(self, *command: object) -> str:
        return run(*command, cwd=self.folder)


def run(*command: object, cwd: Path) -> str:
    """Standard output of a command that must succeed, with no trace of this process's path."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


class TestWheel:
    def test_holds_exactly_the_files_of_the_repository(self, wheel):
        with zipfile.ZipFile(wheel) as archive:
            packed = {name for name in archive.namelist() if ".dist-info/" not in name}
        on_disk = {
            Path(*as_package(folder).split("."), path.name).as_posix()
            for folder in folders_with_code()
            for path in (ROOT / folder).iterdir()
            if path.suffix in {".py", *DATA}
        }
        assert packed == on_disk

    def test_carries_licence_and_version(self, wheel):
        with zipfile.ZipFile(wheel) as archive:
            names = archive.namelist()
            metadata = archive.read(next(n for n in names if n.endswith("/METADATA"))).decode()
        assert f"\nVersion: {mri_ambient.__version__}\n" in metadata
        assert "\nLicense-Expression: BSD-3-Clause\n" in metadata
        assert any(name.endswith("/licenses/LICENSE") for name in names)

    def test_nothing_generic_lands_in_site_packages(self, elsewhere):
        ours = {path.name for path in elsewhere.site_packages.iterdir()}
        assert ours == {
            "mri_ambient",
            f"mri_ambient-{mri_ambient.__version__}.dist-info",
            "zz_dependencies.pth",
        }

    def test_every_module_imports_and_none_from_the_checkout(self, elsewhere):
        code = (
            "import importlib, pkgutil, mri_ambient\n"
            "walk = pkgutil.walk_packages(mri_ambient.__path__, 'mri_ambient.')\n"
            "modules = [importlib.import_module(module.name) for module in walk]\n"
            "print(mri_ambient.__file__, *(module.__file__ for module in modules), sep='\\n')"
        )
        files = [Path(line) for line in elsewhere.run(elsewhere.python, "-c", code).splitlines()]
        assert all(file.is_relative_to(elsewhere.site_packages) for file in files)
        assert len(files) == sum(len(list((ROOT / f).glob("*.py"))) for f in folders_with_code())

    @pytest.mark.parametrize("way", ["script", "module"])
    def test_the_command_line_starts(self, elsewhere, way):
        command = (
            [elsewhere.bin / "mri-ambient"]
            if way == "script"
            else [elsewhere.python, "-m", "mri_ambient.cli.app"]
        )
        assert "reconstruct" in elsewhere.run(*command, "--help")
        assert (
            elsewhere.run(*command, "--version").strip() == f"mri-ambient {mri_ambient.__version__}"
        )


def test_nobody_imports_the_mapped_folders_by_their_own_names():
    """`cli` and `data_prep` exist in a checkout only; inside them the linter cannot tell."""
    folders = [ROOT / top for top in ("mri_ambient", "tests", *LINKS)]
    sources = [path for folder in folders for path in folder.rglob("*.py")]
    pattern = re.compile(r"^\s*(from|import) (cli|data_prep)\b", re.MULTILINE)
    assert len(sources) > 100
    assert [str(path) for path in sources if pattern.search(path.read_text())] == []


def test_the_installed_version_is_the_sources():
    assert importlib.metadata.version("mri-ambient") == mri_ambient.__version__
