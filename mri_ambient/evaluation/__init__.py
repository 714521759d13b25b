"""Evaluation: scores of folders and held-out lines, audits of priors, facts on files and machine.

Public: ``evaluate`` and ``evaluate_held_out`` (scores); ``calibrate``, ``find_copies`` and
``attack`` (audits); ``examine`` (this machine), ``installed`` and ``contents`` (of a file).
"""

from .calibration import Calibration, calibrate, calibrate_files, with_calibration
from .doctor import examine
from .folders import evaluate
from .held_out import evaluate_held_out
from .info import contents, installed
from .memorization import Memorization, find_copies
from .stability import Attack, attack, attack_slice

__all__ = [
    "Attack",
    "Calibration",
    "Memorization",
    "attack",
    "attack_slice",
    "calibrate",
    "calibrate_files",
    "contents",
    "evaluate",
    "evaluate_held_out",
    "examine",
    "find_copies",
    "installed",
    "with_calibration",
]
