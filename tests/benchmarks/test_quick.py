"""Every benchmark runs in its quick mode, in a process of its own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from helpers import PROCESSES, run_script

from mri_ambient.priors.checkpoint import load_prior, save_prior
from mri_ambient.priors.prior import Prior
from mri_ambient.priors.weights import shipped_priors

SCRIPTS = sorted(Path(__file__).parent.glob("bench_*.py"))


@pytest.fixture(scope="module")
def shipped(tmp_path_factory) -> Path:
    """Priors with the names and facts of those that ship, but small networks, untrained."""
    folder = tmp_path_factory.mktemp("weights")
    for path in shipped_priors():
        facts = load_prior(path).facts
        small = replace(facts.network, channels=(16, 16), embedding=16, passes=2)
        facts = replace(facts, network=small)
        save_prior(Prior(facts.build(), facts), folder / path.name)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_quick_mode_runs(script, server, shipped, tmp_path):
    printed = tmp_path / "printed"
    process = PROCESSES.Process(target=run_script, args=(script, ["--quick"], printed, shipped))
    process.start()
    process.join(timeout=600)
    process.kill()  # or else what hangs goes on beside other tests
    assert process.exitcode == 0, printed.read_text()[-4000:]
    assert "\n{" in "\n" + printed.read_text(), "it prints its figures"
