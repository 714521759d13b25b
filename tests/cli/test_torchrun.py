from __future__ import annotations

import pytest

from mri_ambient.cli.torchrun import join_job
from mri_ambient.errors import ConfigError


def test_alone_it_leads(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with join_job("auto") as job:
        assert job == (True, "auto")


def test_a_job_without_its_launcher_is_refused(monkeypatch):
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="torchrun"), join_job("cpu"):
        pass
