"""From prepared scans to a prior: configuration, data set, run folder, loop, validation."""
