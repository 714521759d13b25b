"""Reconstructions in files, one module a format, and what several formats share."""
