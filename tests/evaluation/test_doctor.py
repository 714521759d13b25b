from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import torch

from mri_ambient.evaluation import doctor
from mri_ambient.priors.unet import NETWORKS

PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]


def names(requirements: list[str]) -> set[str]:
    return {re.match(r"[\w-]+", requirement)[0] for requirement in requirements}


def test_every_required_and_optional_package_is_reported():
    """As pyproject.toml lists them; the extras for developers are left out."""
    assert set(doctor.PACKAGES) == names(PROJECT["dependencies"])
    extras = PROJECT["optional-dependencies"]
    assert set(doctor.OPTIONAL.values()) == set(extras) - {"test", "lint"}
    for package, extra in doctor.OPTIONAL.items():
        assert package in names(extras[extra])
    found = doctor.packages()
    assert set(found) == {*doctor.PACKAGES, *doctor.OPTIONAL}
    assert found["torch"] == torch.__version__


def test_a_missing_package_comes_with_what_installs_it(monkeypatch):
    monkeypatch.setattr(doctor, "PACKAGES", ("no-such-package",))
    monkeypatch.setattr(doctor, "OPTIONAL", {"no-such-option": "nifti"})
    found = doctor.packages()
    assert found["no-such-package"] == "not installed"
    assert "mri-ambient[nifti]" in found["no-such-option"]


def test_a_damaged_prior_is_named_and_small_networks_are_timed(monkeypatch, tmp_path):
    (tmp_path / "junk.safetensors").write_bytes(b"junk")
    good = doctor.shipped_priors()
    monkeypatch.setattr(doctor, "shipped_priors", lambda: [*good, tmp_path / "junk.safetensors"])
    monkeypatch.setattr(doctor, "SHAPE", (32, 32))
    monkeypatch.setattr(doctor, "MAX_GFLOP_CPU", 1.25)
    facts = doctor.examine(torch.device("cpu"))
    assert str(tmp_path) in facts["priors"].pop("junk")
    assert set(facts["priors"].values()) == {"loads"}
    assert list(facts["networks"]) == list(NETWORKS)  # other test modules may add a preset
    sizes = [facts["networks"][name]["parameters"] for name in ("tiny", "small", "base")]
    assert sizes == sorted(sizes)
    for name, timed in (("tiny", True), ("base", False)):
        network = facts["networks"][name]
        assert (network["gflop"] < doctor.MAX_GFLOP_CPU) == ("seconds" in network) == timed


@pytest.mark.gpu
def test_on_a_gpu_the_peak_of_an_evaluation_is_measured():
    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    network = doctor.examine(torch.device("cuda"))["networks"]["tiny"]
    assert 20 < network["peak_mib"] < 400
