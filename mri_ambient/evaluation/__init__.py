"""Evaluation: scores of folders and held-out lines, audits of priors, facts on files and machine.

Public: ``evaluate`` (folders), ``evaluate_held_out`` (held_out); ``calibrate_files``,
``with_calibration`` (calibration), ``find_copies`` (memorization), ``attack_slice`` (stability);
``examine`` (doctor), ``contents`` (info).
"""
