"""``mri-ambient doctor``: can this machine do the work?"""

from __future__ import annotations

from .common import Device, Json, print_json
from .info import _print_plain


def run(device: Device = "auto", json_out: Json = False) -> None:
    """Check this machine: versions, devices, memory, speed of one network call."""
    from mri_ambient.evaluation.doctor import examine
    from mri_ambient.runtime.device import pick_device

    facts = examine(pick_device(device))
    if json_out:
        print_json(facts)
    else:
        _print_plain(facts)
