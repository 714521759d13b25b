"""Methods by name, with options as values or text."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from gaussian import WholeGaussian, measure
from helpers import apply_method

from mri_ambient.errors import ConfigError
from mri_ambient.methods import (
    METHODS,
    PRESETS,
    CgSense,
    Dds,
    L1Wavelet,
    Msm,
    Pula,
    default_method,
)
from mri_ambient.methods.presets import method_with_options


def test_every_method_is_listed_by_its_name():
    assert all(method.name == name for name, method in METHODS.items())
    assert all(preset.method.name in METHODS for preset in PRESETS.values())


def test_the_default_depends_on_the_prior(prior):
    assert default_method(prior) == "aos"
    assert default_method(WholeGaussian(prior.var, sigma_min=0.05)) == "dds"


@pytest.mark.parametrize("method", [Dds, Msm, Pula])
def test_options_as_text_are_options(method, op, prior):
    """As the command line gives them, those included that have no number by default."""
    _, y = measure(op, prior, 0.1)
    text = {"n_steps": "3", "n_cg": "7", "sigma_max": "0.5", "start": "aos", "final_dc": "false"}
    given = method(n_steps=3, n_cg=7, sigma_max=0.5, start="aos", final_dc=False)
    read = method_with_options(method.name, text)
    assert read == given
    images = [apply_method(one, op, y, 0.1, prior=prior) for one in (given, read)]
    assert torch.equal(*images)


def test_options_that_are_none_keep_their_default():
    assert method_with_options("cg-sense", {"lam": 0.5, "n_iter": None}) == CgSense(lam=0.5)
    assert method_with_options("l1-wavelet", {"wavelet": "haar"}) == L1Wavelet(wavelet="haar")
    assert method_with_options("dds", {}) == replace(Dds())


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("cg-sense", {"n_steps": 4}, "n_steps"),
        ("magic", {}, "magic"),
        ("dds", {"eta": "much"}, "much"),
        ("dds", {"final_dc": "perhaps"}, "perhaps"),
    ],
)
def test_what_there_is_not_is_refused_by_name(name, options, said):
    with pytest.raises(ConfigError, match=said):
        method_with_options(name, options)
