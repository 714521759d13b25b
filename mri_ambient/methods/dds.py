"""Decomposed diffusion sampling: a few conjugate-gradient steps towards the data at every level.

Chung et al. 2024, arXiv 2303.05754, here in multi-coil k-space; the loop and its mathematics are in
:mod:`~mri_ambient.methods.descent`.

With a plain prior (supervised, refit) this draws from the posterior but for two approximations.
Steps are finite, which makes samples narrow (few steps: far too narrow). And the data step takes
the error of D to be tau^2 in every direction, which is exact for images of white pixels; otherwise
the mean is biased by a tenth to a third of a posterior standard deviation
(docs/results/samplers.md; tests/methods/test_posterior.py compares with the closed form). A
mask-conditioned prior is evaluated under the scan's own mask and gives estimates with a spread, not
posterior samples: y enters twice, through the prior and through the data step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from .descent import Descent


@dataclass(frozen=True)
class Dds(Descent):
    """Decomposed diffusion sampling; options are those of :class:`Descent`."""

    name: ClassVar[str] = "dds"
