"""Scans seen through what changes them: corrected, averaged, undersampled, with calibration lines.

What is judged by the samples before something changes (where k = 0 is, residue, samples that two
parts share) lives beside it.
"""
