"""Images drawn from a prior alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from gaussian import GaussianPrior
from helpers import random_maps, small_prior

from mri_ambient.errors import ConfigError, MriAmbientError
from mri_ambient.methods import PriorOnly
from mri_ambient.priors.prior import Prior
from mri_ambient.recon.sample import draw_images, uniform_maps
from mri_ambient.runtime.device import Runtime

CPU = Runtime("cpu")


class TestDrawImages:
    def test_images_drawn_together_are_those_drawn_alone(self, rng):
        prior = GaussianPrior(0.2 + torch.rand((16, 18), generator=rng), sigma_min=1e-2)
        maps = random_maps((1, 2, 16, 18), rng)
        together = draw_images(prior, PriorOnly(n_steps=3), maps, n_images=3, seed=5)
        assert together.shape == (3, 16, 18)
        for n, batch_size in ((3, 2), (1, 1)):
            runtime = replace(CPU, batch_size=batch_size)
            other = draw_images(
                prior, PriorOnly(n_steps=3), maps, n_images=n, seed=5, runtime=runtime
            )
            torch.testing.assert_close(other, together[:n])

    def test_diverged_images_are_refused(self):
        """A guided state that grows tenfold a step; a prior that gives NaN."""
        prior, maps = small_prior("conditioned"), uniform_maps((32, 32))
        with pytest.raises(MriAmbientError):
            draw_images(prior, PriorOnly(n_steps=8, guidance=50.0), maps, n_images=1)
        with torch.no_grad():
            next(prior.net.parameters()).fill_(float("nan"))
        with pytest.raises(MriAmbientError):
            draw_images(prior, PriorOnly(n_steps=3), maps, n_images=1)

    @pytest.mark.parametrize(("n_images", "side"), [(0, 32), (1, 15)])
    def test_no_images_and_tiny_ones_are_refused(self, n_images, side):
        with pytest.raises(ConfigError):
            draw_images(small_prior(), PriorOnly(), uniform_maps((32, side)), n_images=n_images)

    def test_they_are_computed_in_single_precision_by_default(self, device_of_batches, monkeypatch):
        """On a GPU as well, where "auto" is bf16 for reconstructions."""
        prior, seen = small_prior(), []
        monkeypatch.setattr(Prior, "to", lambda self, _: self)
        monkeypatch.setattr(torch.cuda, "synchronize", lambda _: None)
        prior.net.nets[0].first.register_forward_hook(lambda *a: seen.append(a[2].dtype))
        for precision in ("auto", "bf16"):
            runtime = Runtime(torch.device("cuda"), precision=precision)
            draw_images(prior, PriorOnly(n_steps=2), uniform_maps((16, 16)), n_images=1,
                        runtime=runtime)  # fmt: skip
        assert seen == [torch.float32] * 2 + [torch.bfloat16] * 2
