"""Supervised training on images, given or those of full scans."""

from __future__ import annotations

from dataclasses import replace

import torch
from helpers import streams
from toys import make_batch, net_for

from mri_ambient.objectives import Supervised


def test_images_of_full_scans_are_those_scans():
    batch = make_batch(full=True, noise_std=0.0, images=True)
    net = net_for(Supervised())
    by_image = Supervised(images="any")(net, batch, streams(5, 2)).backward
    by_scan = Supervised()(net, replace(batch, img=None), streams(5, 2)).backward
    torch.testing.assert_close(by_image, by_scan, rtol=1e-5, atol=0)


def test_full_scans_are_needed_unless_there_are_images():
    assert Supervised().needs_full and Supervised().targets is None
    given = Supervised(images="posterior")
    assert not given.needs_full and given.targets == "posterior"
