"""Simulated multi-coil scans: anatomy, receive coils, noise, and the files they are written to."""
