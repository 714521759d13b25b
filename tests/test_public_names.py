"""What is public is written down in ``__all__``, exists and explains itself."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import types

import pytest

import mri_ambient

MODULES = sorted(
    module.name for module in pkgutil.walk_packages(mri_ambient.__path__, "mri_ambient.")
)
DECLARING = ["mri_ambient", *(n for n in MODULES if hasattr(importlib.import_module(n), "__all__"))]


def test_all_is_exactly_what_type_checkers_see():
    # Names load on first use (PEP 562), so only the source says what the package offers.
    source = ast.parse(inspect.getsource(mri_ambient))
    imported = {
        alias.asname or alias.name
        for node in ast.walk(source)
        if isinstance(node, ast.ImportFrom) and node.level
        for alias in node.names
    }
    assert sorted(mri_ambient.__all__) == sorted(imported)
    assert set(dir(mri_ambient)) == imported  # the interface alone


@pytest.mark.parametrize("name", mri_ambient.__all__)
def test_no_submodule_hides_a_public_name(name):
    # Importing mri_ambient.x sets the attribute x of the package to that module.
    assert not isinstance(getattr(mri_ambient, name), types.ModuleType)


@pytest.mark.parametrize("name", DECLARING)
def test_declared_names_exist(name):
    module = importlib.import_module(name)
    missing = [entry for entry in module.__all__ if not hasattr(module, entry)]
    assert missing == []


@pytest.mark.parametrize("name", ["mri_ambient", *MODULES])
def test_modules_and_their_public_functions_explain_themselves(name):
    module = importlib.import_module(name)
    silent = [
        f"{name}.{key}"
        for key, value in vars(module).items()
        if not key.startswith("_")
        and (inspect.isfunction(value) or inspect.isclass(value))
        and value.__module__ == name
        and not inspect.getdoc(value)
    ]
    assert silent == []
    assert module.__doc__, f"{name} has no docstring"


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = mri_ambient.no_such_name
