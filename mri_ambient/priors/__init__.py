"""Trained denoisers: networks, noise levels, the Prior record and its file."""
