"""What is wrong with the samples of a scan, found by the samples themselves.

One fault a module, which finds it in a slice and words its warning. :mod:`.scan_faults` calls them:
``ScanFaults.add`` slice by slice, ``ScanFaults.warnings`` in the order of the report. Spikes and
coils of noise alone are taken out as the preparation reads. :mod:`.line_energies` and
:mod:`.virtual_coils` hold what several detectors use.
"""
