"""``mri-ambient doctor``: can this machine do the work?"""

from __future__ import annotations

from . import options as opt
from .console import print_facts, print_json
from .recipe import make_runtime


def run(device: opt.Device = "auto", json_out: opt.Json = False) -> None:
    """Check this machine: versions, devices, memory, speed."""
    from mri_ambient.evaluation.doctor import examine

    facts = examine(make_runtime(device).torch_device)
    (print_json if json_out else print_facts)(facts)
