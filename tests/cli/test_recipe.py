"""Options become a recipe and a runtime; those without effect are named."""

from __future__ import annotations

import pytest
import torch
from helpers import small_prior

from mri_ambient.cli.console import be_quiet
from mri_ambient.cli.recipe import Undersampling, make_recipe, make_runtime, note_unused
from mri_ambient.errors import ConfigError
from mri_ambient.io import SaveOptions
from mri_ambient.methods import PRESETS, Aos, CgSense, Dds
from mri_ambient.physics.mask_spec import MaskSpec
from mri_ambient.priors.checkpoint import save_prior
from mri_ambient.recon.folder import Destination
from mri_ambient.recon.recipe import Checks, ResolvedRecipe


def test_the_default_suits_the_prior(prior_file, tmp_path):
    save_prior(small_prior("plain"), tmp_path / "plain.safetensors")
    for prior, method in (
        (None, Aos()), (prior_file, Aos()), (tmp_path / "plain.safetensors", Dds()),
    ):  # fmt: skip
        assert make_recipe(flags={}, prior=prior).method == method


def test_what_is_given_is_taken(prior_file, capsys):
    recipe = make_recipe(
        method="dds", flags={"n_steps": 3}, option=["eta=0.5"], prior=prior_file, samples=2,
        keep_samples=True, seed=7, checks=Checks(1),
    )  # fmt: skip
    assert recipe.method == Dds(n_steps=3, eta=0.5)
    assert (recipe.n_samples, recipe.keep_samples, recipe.seed) == (2, True, 7)
    assert recipe.checks.n_held_out == 1
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_a_method_with_its_options_and_samples(name):
    recipe = make_recipe(flags={}, preset=name)
    preset = PRESETS[name]
    assert (recipe.method, recipe.n_samples) == (preset.method, preset.n_samples)
    if name == "quality":
        assert make_recipe(flags={}, preset=name, samples=2).n_samples == 2


@pytest.mark.parametrize(
    "given",
    [
        {"preset": "fast", "method": "dds"},
        {"preset": "fast", "flags": {"n_steps": 3}},
        {"preset": "best"},
        {"preset": "dds"},
        {"method": "magic"},
        {"method": "cg-sense", "flags": {"n_steps": 5}},
        {"samples": 0},
    ],
)
def test_what_cannot_be_is_refused(given):
    with pytest.raises(ConfigError):
        make_recipe(**{"flags": {}, **given})


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"method": "aos", "samples": 3}, "aos"),
        ({"method": "cg-sense", "keep_samples": True}, "cg-sense"),
        ({"method": "dds", "samples": 1, "keep_samples": True}, "single sample"),
    ],
)
def test_options_without_effect_are_named(given, named, capsys):
    recipe = make_recipe(**{"flags": {}, **given})
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("note: ")
    assert named in line
    assert recipe.n_samples == 1


@pytest.mark.parametrize(
    ("formats", "parts", "adapt", "n_notes"),
    [
        ((), ("mag",), None, 0),
        (("nifti",), ("mag", "phase"), None, 0),
        ((), ("phase",), None, 1),
        (("png", "h5"), ("mag", "phase"), None, 1),
        (("nifti",), ("mag", "std"), None, 1),
        (("png",), ("phase",), "auto", 2),
    ],
)
def test_what_is_asked_for_in_vain_is_named(formats, parts, adapt, n_notes, tmp_path, capsys):
    to = Destination(tmp_path, formats, SaveOptions(parts))
    note_unused(to, ResolvedRecipe(CgSense()), adapt)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == n_notes and all(line.startswith("note: ") for line in lines)


def test_a_prior_that_is_not_used_is_not_read(tmp_path, capsys):
    recipe = make_recipe(method="cg-sense", flags={}, prior=tmp_path / "nowhere")
    assert (recipe.method, recipe.prior) == (CgSense(), None)
    assert str(tmp_path / "nowhere") in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "there", "quiet", "n_lines"),
    [("auto", True, False, 1), ("auto", True, True, 0), ("cpu", True, False, 0),
     ("auto", False, False, 0)],
)  # fmt: skip
def test_a_gpu_that_is_not_used_is_one_line(
    name, there, quiet, n_lines, monkeypatch, capsys, tmp_path
):
    """Only where it would have been taken, and it is no warning; a machine may have none."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(
        "mri_ambient.cli.recipe.NVIDIA", tmp_path if there else tmp_path / "nowhere"
    )
    be_quiet(quiet)
    try:
        assert make_runtime(name).torch_device.type == "cpu"
    finally:
        be_quiet(False)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == n_lines
    assert not any("warning" in line for line in lines)


def test_a_runtime_takes_its_options():
    runtime = make_runtime("cpu", batch_size=3, precision="bf16")
    assert (runtime.batch_size, runtime.bf16) == (3, True)
    with pytest.raises(ConfigError):
        make_runtime("cpu", precision="fp8")


def test_a_retrospective_mask_needs_an_acceleration():
    assert Undersampling(None, None, None).mask is None
    assert Undersampling(4, None, None).mask == MaskSpec("random", 4, 20)
    assert Undersampling(3, "gaussian", 12).mask == MaskSpec("gaussian", 3, 12)
    for mask_type, lines in (("gaussian", None), (None, 12)):
        with pytest.raises(ConfigError, match="--retrospective"):
            _ = Undersampling(None, mask_type, lines).mask
