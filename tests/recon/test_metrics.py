"""Scores have closed forms on simple volumes and are fastMRI's on all others."""

from __future__ import annotations

from argparse import Namespace

import h5py
import numpy as np
import pytest

from mri_ambient.errors import ScanFormatError
from mri_ambient.recon.metrics import VolumeMetrics, evaluate_volume, volume_metrics


def volume_pair(shape, *, seed=0, dtype=np.float32, unit=1e-4):
    """A smooth target in a scanner's tiny units, and a noisy, smoother copy."""
    rng = np.random.default_rng(seed)
    y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape[-2:]), indexing="ij")
    disc = np.exp(-3 * (x**2 + y**2)) * (1 + 0.3 * np.cos(9 * x) * np.cos(7 * y))
    target = disc * rng.uniform(0.5, 1, (shape[0], 1, 1))
    reconstruction = np.abs(0.97 * target + 0.03 * rng.standard_normal(shape))
    return (unit * target).astype(dtype), (unit * reconstruction).astype(dtype)


class TestClosedForms:
    def test_a_constant_error_on_a_constant_target(self):
        target, reconstruction = np.full((2, 8, 9), 2.0), np.full((2, 8, 9), 2.5)
        scores = volume_metrics(target, reconstruction)
        assert scores["nmse"] == pytest.approx(0.5**2 / 2**2)
        assert scores["psnr"] == pytest.approx(20 * np.log10(2 / 0.5))
        # Without variance SSIM is the luminance term alone, with C1 = (0.01 * maximum)^2.
        c1 = (0.01 * 2) ** 2
        assert scores["ssim"] == pytest.approx((2 * 2 * 2.5 + c1) / (2**2 + 2.5**2 + c1))

    def test_the_data_range_is_the_maximum_of_the_whole_volume(self):
        target = np.full((2, 7, 7), 1.0)
        target[1, 3, 3] = 10
        reconstruction = target + 0.1
        assert volume_metrics(target, reconstruction)["psnr"] == pytest.approx(40)

    def test_equal_volumes(self):
        target, _ = volume_pair((2, 9, 8))
        assert volume_metrics(target, target) == {"nmse": 0, "psnr": np.inf, "ssim": 1}

    def test_scores_do_not_depend_on_the_unit(self):
        target, reconstruction = volume_pair((3, 20, 16), dtype=np.float64)
        small = volume_metrics(target, reconstruction)
        large = volume_metrics(1e6 * target, 1e6 * reconstruction)
        assert large == pytest.approx(small, rel=1e-9)
        single = [
            np.float32(1e-12) * image.astype(np.float32) for image in (target, reconstruction)
        ]
        assert volume_metrics(*single) == pytest.approx(small, rel=1e-4)

    def test_ssim_is_the_mean_over_slices(self):
        target, reconstruction = volume_pair((1, 12, 12), dtype=np.float64)
        alone = volume_metrics(target, reconstruction)["ssim"]
        both = volume_metrics(
            np.concatenate([target, target]), np.concatenate([reconstruction, target])
        )["ssim"]
        assert both == pytest.approx((alone + 1) / 2)
        assert alone < 0.999


class TestCrop:
    def test_tall_images_are_cut_to_their_central_square(self):
        target, reconstruction = volume_pair((2, 20, 12))
        reconstruction[:, :4], reconstruction[:, 16:] = 9, 9
        scores = evaluate_volume(reconstruction, target)
        assert scores.cropped
        assert scores == VolumeMetrics(
            **volume_metrics(target[:, 4:16], reconstruction[:, 4:16]), cropped=True
        )

    def test_an_odd_border_is_thinner_at_the_start(self):
        target, reconstruction = volume_pair((1, 12, 9))
        want = volume_metrics(target[:, 1:10], reconstruction[:, 1:10])
        assert evaluate_volume(reconstruction, target).nmse == want["nmse"]

    def test_a_larger_reconstruction_is_cut_too(self):
        target, reconstruction = volume_pair((2, 10, 10))
        wide = np.pad(reconstruction, ((0, 0), (3, 3), (2, 2)), constant_values=7)
        assert evaluate_volume(wide, target) == evaluate_volume(reconstruction, target)

    def test_wide_images_are_scored_whole_and_flagged(self):
        target, reconstruction = volume_pair((2, 12, 20))
        scores = evaluate_volume(reconstruction, target, reference="sense")
        assert not scores.cropped
        assert scores.reference == "sense"
        assert scores.nmse == volume_metrics(target, reconstruction)["nmse"]

    def test_an_open_dataset_will_do(self, tmp_path):
        target, reconstruction = volume_pair((2, 10, 8))
        with h5py.File(tmp_path / "both.h5", "w") as file:
            file["target"], file["reconstruction"] = target, reconstruction
            scores = evaluate_volume(file["reconstruction"], file["target"])
        assert scores == evaluate_volume(reconstruction, target)


@pytest.mark.parametrize(
    ("target", "reconstruction", "values"),
    [
        (np.ones((2, 8, 8)), np.ones((3, 8, 8)), ["(3, 8, 8)", "(2, 8, 8)"]),
        (np.ones((2, 8, 8)), np.ones((2, 8, 7)), ["8x7", "8x8"]),
        (np.ones((2, 8, 9)), np.ones((2, 9, 9)), ["(2, 9, 9)", "(2, 8, 9)"]),
        (np.ones((2, 6, 6)), np.ones((2, 6, 6)), ["6x6", "7"]),
        (np.ones((2, 20, 6)), np.ones((2, 20, 6)), ["6x6", "7"]),
        (np.ones((8, 8)), np.ones((8, 8)), ["reference", "(8, 8)"]),
        (np.ones((0, 8, 8)), np.ones((0, 8, 8)), ["(0, 8, 8)"]),
        (np.zeros((2, 8, 8)), np.ones((2, 8, 8)), ["reference", "maximum 0"]),
        (np.ones((2, 8, 8)), np.ones((2, 8, 8)) * 1j, ["reconstruction", "complex128"]),
        (np.ones((2, 8, 8)), np.full((2, 8, 8), np.nan), ["reconstruction", "128"]),
    ],
)
def test_what_cannot_be_scored_is_refused(target, reconstruction, values):
    with pytest.raises(ScanFormatError) as caught:
        evaluate_volume(reconstruction, target)
    assert all(value in str(caught.value) for value in values)


def test_integers_are_magnitudes_too():
    target = np.arange(2 * 8 * 8).reshape(2, 8, 8)
    scores = volume_metrics(target, np.maximum(target - 3, 0).astype(np.uint8))
    assert (
        scores["nmse"] == volume_metrics(target.astype(float), np.maximum(target - 3.0, 0))["nmse"]
    )


SHAPES = [(3, 16, 16), (2, 40, 23), (2, 41, 24), (1, 7, 7), (4, 64, 48)]


@pytest.mark.fastmri
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", SHAPES)
def test_scores_are_those_of_fastmris_functions(shape, dtype):
    from fastmri import evaluate

    target, reconstruction = volume_pair(shape, seed=3, dtype=dtype)
    ours = volume_metrics(target, reconstruction)
    assert ours["nmse"] == pytest.approx(evaluate.nmse(target, reconstruction).item(), abs=1e-6)
    assert ours["psnr"] == pytest.approx(evaluate.psnr(target, reconstruction).item(), abs=1e-6)
    assert ours["ssim"] == pytest.approx(evaluate.ssim(target, reconstruction).item(), abs=1e-6)


@pytest.mark.fastmri
def test_scores_are_those_of_fastmris_evaluator_over_folders(tmp_path):
    from fastmri.evaluate import evaluate

    targets, predictions = tmp_path / "targets", tmp_path / "predictions"
    targets.mkdir()
    predictions.mkdir()
    ours = []
    for seed, shape in enumerate(SHAPES):
        target, reconstruction = volume_pair(shape, seed=seed)
        # A reconstruction larger than the reference's square, as at the encoded matrix.
        reconstruction = np.pad(reconstruction, ((0, 0), (2, 3), (1, 2)))
        with h5py.File(targets / f"file{seed}.h5", "w") as file:
            file["reconstruction_rss"] = target
            file.attrs["acquisition"] = "AXT2"
        with h5py.File(predictions / f"file{seed}.h5", "w") as file:
            file["reconstruction"] = reconstruction
        ours.append(evaluate_volume(reconstruction, target))
    args = Namespace(
        target_path=targets, predictions_path=predictions, acquisition=None, acceleration=None
    )
    theirs = evaluate(args, "reconstruction_rss")
    for name in ("nmse", "psnr", "ssim"):
        values = np.array([getattr(scores, name) for scores in ours])
        statistics = theirs.metrics[name.upper()]
        assert values.mean() == pytest.approx(np.asarray(statistics.mean()).item(), abs=1e-6)
        assert values.std(ddof=1) == pytest.approx(np.asarray(statistics.stddev()).item(), abs=1e-6)


@pytest.mark.fastmri
def test_fastmri_refuses_wide_images():
    # Why such volumes are flagged: there is no published number they could be compared with.
    from fastmri.data.transforms import center_crop

    with pytest.raises(ValueError, match="Invalid shapes"):
        center_crop(np.ones((2, 12, 20)), (20, 20))
