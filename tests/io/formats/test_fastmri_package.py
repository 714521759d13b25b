"""The fastmri package reads what we write, and sees in its files what we see."""

from __future__ import annotations

from argparse import Namespace

import numpy as np
import pytest
import torch

from mri_ambient.io import ReconstructionWriter, open_scan

pytestmark = pytest.mark.fastmri


@pytest.mark.parametrize("name", ["knee", "knee_test"])
def test_its_loader_reads_our_files_as_we_do(name, request):
    from fastmri.data.mri_data import SliceDataset

    path = request.getfixturevalue(name)
    file, dataset = open_scan(path), SliceDataset(path.parent, challenge="multicoil")
    assert len(dataset) == len(file)
    for index in range(len(file)):
        ksp, mask, target, attrs, filename, number = dataset[index]
        assert (filename, number) == (path.name, index)
        np.testing.assert_array_equal(ksp, file.read_ksp(index))
        assert (attrs["padding_left"], attrs["padding_right"]) == (3, 43)
        assert attrs["encoding_size"][:2] == file.shape[-2:]
        assert attrs["recon_size"][:2] == file.recon_shape
        assert attrs["acquisition"] == file.attributes["acquisition"]
        if name == "knee":
            assert mask is None
            np.testing.assert_array_equal(target, file.read_target("reconstruction_rss")[index])
        else:
            assert target is None
            sampled = mask.astype(bool) & file.acquired
            assert np.array_equal(sampled, file.mask[0, 0])


def test_its_evaluator_reads_our_reconstructions(knee, tmp_path):
    from fastmri.evaluate import evaluate

    file = open_scan(knee)
    target = file.read_target("reconstruction_rss")
    recon = tmp_path / "recon"
    with ReconstructionWriter(recon / knee.name, 2, file.recon_shape, attributes={}) as out:
        for index in range(2):
            out.write(index, torch.from_numpy(1.1 * target[index]) + 0j)
    (tmp_path / "target").mkdir()
    knee.rename(tmp_path / "target" / knee.name)
    options = Namespace(
        target_path=tmp_path / "target", predictions_path=recon, acquisition=None, acceleration=None
    )
    metrics = evaluate(options, "reconstruction_rss")
    assert float(metrics.means()["NMSE"]) == pytest.approx(0.01, rel=1e-4)
