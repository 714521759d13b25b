"""Every benchmark runs in its quick mode, in a process of its own."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers import PROCESSES, run_script

SCRIPTS = sorted(Path(__file__).parent.glob("bench_*.py"))


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_quick_mode_runs(script, server, tmp_path):
    printed = tmp_path / "printed"
    process = PROCESSES.Process(target=run_script, args=(script, ["--quick"], printed))
    process.start()
    process.join(timeout=600)
    process.kill()  # or else what hangs goes on beside other tests
    assert process.exitcode == 0, printed.read_text()[-4000:]
    assert "\n{" in "\n" + printed.read_text(), "it prints its figures"
