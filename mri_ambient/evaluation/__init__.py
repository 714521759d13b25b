"""Judging results and priors: metrics over folders, calibration, memorization, stability."""
