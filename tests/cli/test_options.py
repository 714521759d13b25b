"""Every command explains its options, and does so at once."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest
import typer

import mri_ambient as ma
from mri_ambient.cli import choices
from mri_ambient.cli.app import app
from mri_ambient.cli.help import GROUPS
from mri_ambient.cli.recipe import FLAGS, Undersampling
from mri_ambient.errors import ConfigError
from mri_ambient.io import SCAN_FORMATS
from mri_ambient.io.formats.named_axes import ALIASES, AXES
from mri_ambient.io.outputs.bids import NAME
from mri_ambient.io.outputs.save_options import PARTS
from mri_ambient.methods import METHODS, PRESETS, CgSense, L1Wavelet
from mri_ambient.objectives import OBJECTIVES
from mri_ambient.physics.masks import MASKS
from mri_ambient.priors.denoisers import DENOISERS
from mri_ambient.priors.unet import DEFAULT_NETWORK, NETWORKS
from mri_ambient.priors.weights import DEFAULT
from mri_ambient.recon.recipe import DEFAULT_SAMPLES
from mri_ambient.recon.saving import FORMATS
from mri_ambient.runtime.device import CPU_PIXELS, GPU_PIXELS, PRECISIONS


def commands() -> Iterator[tuple[str, typer.main.TyperCommand]]:
    """Every command by its name, those of groups included."""
    todo = [("", typer.main.get_command(app))]
    while todo:
        name, command = todo.pop()
        for sub, inner in getattr(command, "commands", {}).items():
            todo.append((f"{name} {sub}".strip(), inner))
        if not hasattr(command, "commands"):
            yield name, command


PARAMETERS = [
    pytest.param(parameter, id=f"{name} {parameter.name}")
    for name, command in commands()
    for parameter in command.params
]


def test_all_commands_are_looked_at():
    assert {name for name, _ in commands()} == {
        "simulate", "convert", "prep", "train", "adapt", "refit", "sample", "reconstruct",
        "evaluate", "info", "doctor", "demo",
        "audit memorization", "audit stability", "audit calibration",
    }  # fmt: skip


@pytest.mark.parametrize("parameter", PARAMETERS)
def test_every_help_text_names_the_default(parameter):
    assert getattr(parameter, "help", None)
    if not parameter.required and parameter.default is None:
        assert isinstance(parameter.show_default, str)


def parameter(command: str, name: str) -> typer.core.TyperOption:
    """A parameter of a command, by its name in the function."""
    return next(p for p in dict(commands())[command].params if p.name == name)


def names_in(text: str) -> list[str]:
    """The names that a help text lists, after its colon if there is one: ``a, b or c``."""
    listed = re.search(r"(?:[\w ()-]+: )?([\w-]+(?:, [\w-]+)+(?: or [\w-]+)?)", text)
    return re.split(", | or ", listed[1])


SHIPPED = [name for name in NETWORKS if name != "test"]
"""Networks; tests of training add one."""

STOCHASTIC = [name for name, method in METHODS.items() if method.stochastic]


@pytest.mark.parametrize(
    ("command", "name", "known"),
    [
        *(
            (command, "method", METHODS)
            for command in ("reconstruct", "evaluate", "audit stability")
        ),
        ("refit", "method", STOCHASTIC),
        ("audit calibration", "method", STOCHASTIC),
        *(
            (command, "preset", PRESETS)
            for command in ("reconstruct", "evaluate", "audit calibration")
        ),
        ("train", "preset", SHIPPED),
        ("convert", "to", SCAN_FORMATS),
        ("refit", "preset", SHIPPED),
        ("train", "objective", OBJECTIVES),
        ("train", "wrapper", [name for name in DENOISERS if name != "patched"]),
        *(
            (command, "mask_type", MASKS)
            for command in ("reconstruct", "audit stability", "simulate")
        ),
    ],
)
def test_help_lists_the_names_that_there_are(command, name, known):
    assert names_in(parameter(command, name).help) == list(known)


def test_help_states_the_defaults_of_the_library():
    samplers = {name: METHODS[name].n_steps for name in STOCHASTIC}
    stated = {}
    for names, n_steps in re.findall(
        r"([a-z, ]+) (\d+)", parameter("reconstruct", "steps").show_default
    ):
        stated |= {name.strip(): int(n_steps) for name in names.split(",")}
    assert stated == samplers

    lam = parameter("reconstruct", "lam").show_default
    weights = [CgSense.lam_per_noise, L1Wavelet.lam_per_noise]
    assert [float(number) for number in re.findall(r"[\d.]+", lam)] == weights

    pixels = parameter("reconstruct", "batch_size").show_default
    assert [2 ** int(power) for power in re.findall(r"2\^(\d+)", pixels)] == [
        CPU_PIXELS,
        GPU_PIXELS,
    ]

    samples = parameter("reconstruct", "samples").show_default
    assert int(re.search(r"\d+", samples)[0]) == DEFAULT_SAMPLES
    lines = int(parameter("reconstruct", "calib_lines").show_default)
    assert lines == ma.MaskSpec().calib == Undersampling(4).mask.calib
    assert DEFAULT in parameter("reconstruct", "prior").show_default


def test_options_of_train_have_the_defaults_of_its_configuration():
    defaults = ma.TrainConfig()
    shared = {field.name for field in fields(ma.TrainConfig)} - {
        "objective",
        "wrapper",
        "save_every",
    }
    options = {p.name: p.default for p in dict(commands())["train"].params if p.name in shared}
    assert options == {name: getattr(defaults, name) for name in options} and len(options) > 5
    assert parameter("train", "objective").default == defaults.objective.name
    stated = parameter("train", "save_every").show_default
    assert int(re.search(r"\d+", stated)[0]) == defaults.save_every


def test_flags_stand_for_options_of_methods():
    options = {field.name for method in METHODS.values() for field in fields(method)}
    assert set(FLAGS) <= options
    names = {p.opts[0] for p in dict(commands())["reconstruct"].params}
    names |= {name for p in dict(commands())["reconstruct"].params for name in p.secondary_opts}
    assert set(FLAGS.values()) <= names


def test_names_that_options_take_are_those_of_the_library():
    assert tuple(METHODS) == choices.METHODS
    assert tuple(PRESETS) == choices.PRESETS
    assert choices.PRECISIONS == PRECISIONS
    assert ("h5", *FORMATS) == choices.FORMATS
    assert tuple(OBJECTIVES) == choices.OBJECTIVES
    assert (tuple(SHIPPED), DEFAULT_NETWORK) == (choices.NETWORKS, choices.DEFAULT_NETWORK)
    assert tuple(name for name in DENOISERS if name != "patched") == choices.WRAPPERS
    assert tuple(n for n, method in METHODS.items() if method.needs_prior) == choices.PRIOR_METHODS
    assert tuple(SCAN_FORMATS) == choices.SCAN_FORMATS
    assert (PARTS, NAME.pattern) == (choices.PARTS, choices.BIDS_NAME)
    assert tuple(dict.fromkeys((*AXES, *ALIASES))) == choices.AXES
    for named, listed in (
        (METHODS, choices.METHOD_OPTIONS), (OBJECTIVES, choices.OBJECTIVE_OPTIONS)
    ):  # fmt: skip
        assert {field.name for kind in named.values() for field in fields(kind)} == set(listed)


def test_every_group_of_the_help_holds_options_of_reconstruct():
    names = {p.name for p in dict(commands())["reconstruct"].params}
    grouped = [name for group in GROUPS.values() for name in group]
    assert len(grouped) == len(set(grouped)) and set(grouped) <= names
    assert len(GROUPS["Most used"]) == 10


@pytest.mark.parametrize("words", [("-h",), ("reconstruct", "-h"), ("audit", "stability", "-h")])
def test_help_has_a_short_name(words, cli):
    assert cli(*words).out == cli(*words[:-1], "--help").out


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (("reconstruct", ".", "-o", "out", "--metod", "dds"), "--method"),
        (("reconstruct", ".", "-o", "out", "--method", "l1wavelet"), "l1-wavelet"),
        (("reconstruct", ".", "-o", "out", "--preset", "balance"), "balanced"),
        (("reconstruct", ".", "-o", "out", "--save", "h5,nifty"), "nifti"),
        (("reconstruct", ".", "-o", "out", "--mask-type", "gauss"), "gaussian"),
        (("reconstruct", ".", "-o", "out", "-m", "brain-kspace"), DEFAULT),
        (("reconstruct", "test_optoins.py", "-o", "out"), "test_options.py"),
        (("train", "data", "-o", "run", "--objective", "kspce"), "kspace"),
        (("recontruct", "x.h5"), "reconstruct"),
        (("reconstruct", ".", "-o", "out", "--device", "gpu"), "cuda"),
        (("reconstruct", ".", "-o", "out", "--shard", "5/4"), "i/N"),
        (("prep", ".", "-o", "out", "--map-sets", "3"), "auto, 1, 2"),
        (("prep", ".", "-o", "out", "--centre", "header,64"), "Y,X"),
        (("prep", ".", "-o", "out", "--axes", "slice,coli,y,x"), "coil"),
        (("prep", ".", "-o", "out", "--axes", "slice,coil,y"), "y and x"),
        (("prep", ".", "-o", "out", "--mask", "test_optoins.py"), "test_options.py"),
        (("prep", ".", "-o", "out", "--acs", "test_optoins.py:acs"), "test_options.py"),
        (("reconstruct", ".", "-o", "out", "--adapt", "soon"), "90s"),
        (("reconstruct", ".", "-o", "out", "--adapt-per", "volumes"), "volume"),
        (("reconstruct", ".", "-o", "out", "--parts", "mag,phases"), "phase"),
        (("reconstruct", ".", "-o", "out", "-O", "eta"), "NAME=VALUE"),
        (("reconstruct", ".", "-o", "out", "-O", "etaa=1"), "eta"),
        (("reconstruct", ".", "-o", "out", "--bids", "01/T2w"), "sub-LABEL"),
        (("reconstruct", ".", "-o", "out", "--dicom-template", "test_optoins.py"), "options.py"),
        (("adapt", ".", "-o", "out", "--until", "soon"), "90s"),
        (("train", "data", "-o", "run", "-O", "wieght=1"), "weight"),
        (("train", "data", "-o", "run", "--time-limit", "soon"), "90s"),
        (("refit", "run", "--method", "cg-sense"), "dds"),
        (("convert", ".", "-o", "out", "--to", "fastmir"), "fastmri"),
        (("demo", "--train-time", "soon"), "90s"),
        (("simulate", "phantom", "-o", "out", "--acceleration", "2-4"), "LOW:HIGH"),
        (("simulate", "phantom", "-o", "out", "--mask-type", "random:1,poison:1"), "poisson"),
        (("train", "data", "-o", "run", "--init", "brain-kspace"), DEFAULT),
        (("audit", "calibration", "brain-kspace", "data"), DEFAULT),
        (("reconstruct", ".", "-o", "out", "--cluster", "test_optoins.py"), "test_options.py"),
    ],
)
def test_a_typo_is_answered_with_the_nearest_name(words, hint, cli, monkeypatch):
    """And before torch is imported, which takes seconds."""
    monkeypatch.chdir(Path(__file__).parent)
    monkeypatch.setitem(sys.modules, "mri_ambient.recon.recipe", None)  # cannot be imported
    monkeypatch.setitem(sys.modules, "mri_ambient.io", None)
    code = 3 if "brain-kspace" in words or words[1] == "test_optoins.py" else 2
    assert hint in cli(*words, code=code).err.replace("Try ", "")


RECONSTRUCT = ("reconstruct", ".", "-o", "out")


@pytest.mark.parametrize(
    ("words", "name"),
    [
        ((*RECONSTRUCT, "--adapt", "1", "--adapt-per"), "folder,"),
        ((*RECONSTRUCT, "--adapt", "1", "--adapt-per"), "slice,volume"),
        ((*RECONSTRUCT, "--adapt", "1", "--adapt-per"), " folder"),
        ((*RECONSTRUCT, "--method"), "dds,"),
        ((*RECONSTRUCT, "--preset"), "fast,quality"),
        ((*RECONSTRUCT, "--mask-type"), "random,poisson"),
        ((*RECONSTRUCT, "--precision"), "bf16 "),
        (("train", "data", "-o", "run", "--objective"), "kspace,"),
        (("train", "data", "-o", "run", "--wrapper"), ","),
        (("train", "data", "-o", "run", "--preset"), "tiny,small"),
        (("refit", "run", "--method"), "dds,msm"),
        (("convert", ".", "-o", "out", "--to"), "fastmri,cfl"),
    ],
)
def test_an_option_that_takes_one_name_takes_no_list(words, name, cli, monkeypatch):
    """It is read exactly, before torch is imported; the error quotes what was given."""
    monkeypatch.chdir(Path(__file__).parent)
    monkeypatch.setitem(sys.modules, "mri_ambient.recon.recipe", None)  # cannot be imported
    monkeypatch.setitem(sys.modules, "mri_ambient.io", None)
    assert f"{name!r} is unknown" in cli(*words, name, code=2).err


@pytest.mark.parametrize(
    ("check", "given"),
    [
        (choices.known_list("format", *choices.FORMATS), "nifti, png,report"),
        (choices.known_list("part", *choices.PARTS), "mag,phase"),
        (choices.known_axes, "Slice, coil,y,x"),
    ],
)
def test_a_list_of_names_is_taken_as_it_is(check, given):
    assert check(given) == given


def test_an_axis_without_a_name_is_refused():
    with pytest.raises(ConfigError, match="''"):
        choices.known_axes("slice,coil,y,x,")


def test_first_lines_fit_into_the_list_of_commands():
    for name, command in commands():
        first = inspect.cleandoc(command.help).splitlines()[0]
        assert len(first) < 60 and first[-1] in ".?", name


def test_help_imports_neither_torch_nor_anything_else_that_is_slow():
    names = [name.split() for name, _ in commands()]
    code = (
        "import sys; from typer.testing import CliRunner; from mri_ambient.cli.app import app\n"
        f"for words in {[[], *names]}:\n"
        "    result = CliRunner().invoke(app, [*words, '--help'])\n"
        "    assert result.exit_code == 0, result.output\n"
        "bad = {'torch', 'numpy', 'sigpy', 'fastmri', 'matplotlib'} & set(sys.modules)\n"
        "assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
