"""Reconstructions as images of ISMRMRD, read by the package ``ismrmrd``."""

from __future__ import annotations

import ismrmrd
import numpy as np
import torch

from mri_ambient.io import WRITERS, Geometry, ReconstructionFile, ReconstructionWriter, SaveOptions
from mri_ambient.rng import complex_normal


def test_the_package_reads_the_images(tmp_path, rng):
    img = complex_normal((2, 7, 5), rng)
    std = torch.rand((2, 7, 5), generator=rng)
    geometry = Geometry.of_vectors((0, 1, 0), (1, 0, 0), (0, 0, 1), [(0, 0, 0), (0, 0, 6)])
    facts = {
        "method": "aos", "acceleration": 4.0, "voxel_mm": (1.0, 2.0, 3.0),
        "geometry": geometry.to_text(),
    }  # fmt: skip
    with ReconstructionWriter(
        tmp_path / "scan.h5", 2, (7, 5), attributes=facts, with_std=True
    ) as out:
        for index in range(2):
            out.write(index, img[index], std[index])
    result, options = ReconstructionFile(tmp_path / "scan.h5"), SaveOptions(("mag", "phase", "std"))
    assert WRITERS["ismrmrd"].outputs(result, options) == ["scan.mrd"]
    WRITERS["ismrmrd"].write(result, tmp_path, options)
    file = ismrmrd.Dataset(str(tmp_path / "scan.mrd"), "dataset", create_if_needed=False)
    parts = {0: img.abs(), 1: img.angle(), 2: std}
    for number, part in parts.items():
        assert file.number_of_images(f"image_{number}") == 2
        for index in range(2):
            image = file.read_image(f"image_{number}", index)
            np.testing.assert_allclose(image.data[0, 0].T, part[index].numpy(), rtol=1e-6)
            assert image.matrix_size == (7, 5, 1)  # x, y, z of the standard: x is the readout
            assert list(image.field_of_view) == [7, 10, 3]
            assert list(image.position) == [0, 0, 6 * index] and list(image.read_dir) == [0, 1, 0]
            assert image.image_type == (2 if number == 1 else 1)
            assert "R = 4.0" in image.attribute_string
    file.close()
