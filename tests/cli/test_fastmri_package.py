"""What the command line writes goes through the fastmri package's own evaluation, unchanged."""

from __future__ import annotations

import argparse
import json

import numpy as np
import pytest

import mri_ambient as ma
from mri_ambient.data_prep import SimulateConfig, simulate
from mri_ambient.physics.crop import image_crop

pytestmark = pytest.mark.fastmri


@pytest.mark.parametrize("size", [(48, 32), (40, 40), (47, 33)])
def test_fastmri_evaluates_our_reconstructions_to_our_numbers(size, tmp_path):
    from fastmri.evaluate import evaluate

    config = SimulateConfig(size=size, coils=4, full=True, noise=0.01, slices=2)
    scans = simulate("phantom", tmp_path / "full", config, count=2)
    recipe = ma.Recipe("cg-sense", retrospective=ma.MaskSpec("random", 2, 8))
    ours = []
    for rec in ma.reconstruct_many(scans, recipe, ma.Runtime("cpu")):
        rec.save(tmp_path / "out")
        ours.append(rec.metrics)
    for report in (tmp_path / "out").glob("*.json"):
        assert json.loads(report.read_text())["metrics"]["reference"] == "rss"

    args = argparse.Namespace(
        target_path=tmp_path / "full", predictions_path=tmp_path / "out",
        acquisition=None, acceleration=None,
    )  # fmt: skip
    theirs = evaluate(args, "reconstruction_rss").means()
    for name in ("NMSE", "PSNR", "SSIM"):
        mean = sum(row[name.lower()] for row in ours) / len(ours)
        assert np.asarray(theirs[name]).item() == pytest.approx(mean, abs=1e-6, rel=1e-6)


def test_fastmris_loader_reads_what_we_simulate(tmp_path):
    from fastmri.data import SliceDataset

    config = SimulateConfig(size=(40, 32), coils=3, acceleration=2, calib=8, slices=3)
    simulate("phantom", tmp_path, config, count=1)
    dataset = SliceDataset(root=tmp_path, challenge="multicoil")
    assert len(dataset) == 3
    kspace, mask, _target, attributes, _name, index = dataset[1]
    assert kspace.shape == (3, 40, 32)
    assert mask.shape[-1] == 32
    assert index == 1
    assert attributes["padding_right"] == 32


@pytest.mark.parametrize("shape", [(6, 6), (5, 6), (6, 5), (5, 5)])
@pytest.mark.parametrize("size", [(8, 8), (9, 9), (8, 9)])
def test_we_cut_images_where_fastmri_does(size, shape):
    import torch
    from fastmri.data.transforms import center_crop

    img = torch.arange(size[0] * size[1]).view(size)
    assert torch.equal(image_crop(img, shape), center_crop(img, shape))
