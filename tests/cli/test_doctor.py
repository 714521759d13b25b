from __future__ import annotations

import json

import torch


def test_people_and_programs_get_the_same_facts(cli, monkeypatch):
    facts = {"python": "3.11", "packages": {"torch": torch.__version__}}
    asked = []
    monkeypatch.setattr(
        "mri_ambient.evaluation.doctor.examine", lambda device: asked.append(device) or facts
    )
    assert json.loads(cli("doctor", "--device", "cpu", "--json").out) == facts
    lines = cli("doctor", "--device", "cpu").out.splitlines()
    assert lines == ["python: 3.11", "packages:", f"  torch: {torch.__version__}"]
    assert asked == 2 * [torch.device("cpu")]
