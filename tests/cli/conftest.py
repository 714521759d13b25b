"""The command line, called as a user does but in this process; and scans and priors for it."""

from __future__ import annotations

import io
import re
import shutil
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

import pytest
import typer.main
from helpers import small_prior

from mri_ambient.cli import app as module
from mri_ambient.data_prep import SimulateConfig, simulate
from mri_ambient.methods import L1Wavelet
from mri_ambient.priors.checkpoint import save_prior
from mri_ambient.priors.facts import UNetSpec
from mri_ambient.priors.unet import DEFAULT_NETWORK, NETWORKS

SMALL = UNetSpec(channels=(8, 12), blocks=1, embedding=16)


@pytest.fixture(autouse=True)
def few_pictures(unrendered: None) -> None:
    """Most commands render no pictures."""


@pytest.fixture
def short_wavelets(monkeypatch: pytest.MonkeyPatch) -> None:
    """What held-out lines are compared with takes 10 of its 200 iterations, in this process."""
    monkeypatch.setattr("mri_ambient.recon.held_out.L1Wavelet", partial(L1Wavelet, n_iter=10))


@pytest.fixture(scope="session", autouse=True)
def commands_built_once() -> Iterator[None]:
    """Typer would make them from their signatures in every call."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(typer.main, "get_command", cache(typer.main.get_command))
        yield


STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Printed(NamedTuple):
    """What a command printed."""

    out: str
    err: str

    @property
    def errors(self) -> list[str]:
        """Its lines about errors."""
        return [line for line in self.err.splitlines() if line.startswith("error: ")]

    @property
    def codes(self) -> list[str]:
        """Codes of its warnings, in order."""
        return re.findall(r"^warning \[(W-[A-Z-]+)\]", self.err, re.MULTILINE)


Cli = Callable[..., Printed]


def call(*words: object, code: int = 0) -> Printed:
    """Run a command, errors and exit codes included; it must end with this code."""
    out, err = io.StringIO(), io.StringIO()
    handlers = {number: signal.getsignal(number) for number in STOPS}
    argv = sys.argv
    sys.argv = ["mri-ambient", *map(str, words)]
    try:
        with (
            redirect_stdout(out),
            redirect_stderr(err),
            warnings.catch_warnings(),
            pytest.raises(SystemExit) as stop,
        ):
            module.main()
    finally:
        sys.argv = argv
        for number, handler in handlers.items():
            signal.signal(number, handler)
    printed = Printed(out.getvalue(), err.getvalue())
    assert (stop.value.code or 0) == code, f"{stop.value.code}\n{printed.out}\n{printed.err}"
    return printed


@pytest.fixture(scope="session")
def cli() -> Cli:
    return call


@pytest.fixture(scope="session")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of two fully sampled scans of one slice, to be read only."""
    folder = tmp_path_factory.mktemp("scans") / "full"
    config = SimulateConfig(size=(40, 32), coils=3, full=True, noise=0.005)
    simulate("phantom", folder, config, count=2)
    return folder


@pytest.fixture(scope="session")
def scan(full: Path) -> Path:
    """The first of them, to be read only."""
    return min(full.glob("*.h5"))


@pytest.fixture
def full_copy(full: Path, tmp_path: Path) -> Path:
    """A copy of the folder, to be changed."""
    return Path(shutil.copytree(full, tmp_path / "full"))


@pytest.fixture(scope="session")
def prior_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A mask-conditioned prior with random weights."""
    path = tmp_path_factory.mktemp("prior") / "prior.safetensors"
    save_prior(small_prior("conditioned", tau=0.1), path)
    return path


class Trained(NamedTuple):
    """Raw scans, prepared ones, and a run that trained on four of them, to be read only."""

    raw: Path
    prepared: Path
    run: Path


@pytest.fixture(scope="session")
def trained_once(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    made = Trained(*(tmp_path_factory.mktemp("trained") / name for name in Trained._fields))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(NETWORKS, DEFAULT_NETWORK, SMALL)
        call("simulate", "phantom", "-o", made.raw, "--scans", 6, "--size", 24, 24, "--coils", 3,
             "--acceleration", 2, "--calib-lines", 8)  # fmt: skip
        call("prep", made.raw, "-o", made.prepared, "--device", "cpu", "--no-pictures")
        call("train", made.prepared, "-o", made.run, "--images", 4, "--batch-size", 2,
             "--learning-rate", 2e-3, "--precision", "fp32", "--device", "cpu")  # fmt: skip
    return made


@pytest.fixture
def trained(trained_once: Trained, monkeypatch: pytest.MonkeyPatch) -> Trained:
    """The same, while the smallest network is as small as theirs."""
    monkeypatch.setitem(NETWORKS, DEFAULT_NETWORK, SMALL)
    return trained_once
