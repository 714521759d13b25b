"""Decomposed diffusion sampling: a few conjugate-gradient steps towards the data at every level.

Chung et al. 2024, arXiv 2303.05754, here in multi-coil k-space; the loop and its mathematics are in
:mod:`~mri_ambient.methods.descent`.

With a prior that sees the whole state (supervised, refit) this draws from the posterior but for two
approximations. Steps are finite, which makes samples narrow (few steps: far too narrow). And the
data step takes the error of D to be tau^2 in every direction, which is exact for images of white
pixels; elsewhere the mean ends a tenth to a third of a posterior standard deviation off
(docs/results/samplers.md; tests/test_samplers.py compares with the closed form). A mask-conditioned
prior is asked through the scan's own mask and gives estimates with a spread: it has seen y before
the data step shows it again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from .descent import Descent


@dataclass(frozen=True)
class Dds(Descent):
    """Decomposed diffusion sampling; options are those of :class:`Descent`."""

    name: ClassVar[str] = "dds"
