"""What a fully sampled scan is scored against, and what happens where that cannot be used."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from codes import warns
from memory_scan import MemoryScan, simulated_scan

from mri_ambient.data_prep import SimulateConfig, espirit_maps
from mri_ambient.io import ArrayFile, ScanFile
from mri_ambient.methods import CgSense
from mri_ambient.physics.crop import image_crop
from mri_ambient.physics.fourier import ifft2c
from mri_ambient.physics.mask_spec import MaskSpec
from mri_ambient.recon.engine import to_file_units
from mri_ambient.recon.metrics import evaluate_volume
from mri_ambient.recon.pipeline import open_volume, reconstruct
from mri_ambient.recon.recipe import Recipe, ResolvedRecipe
from mri_ambient.recon.volume import Volume
from mri_ambient.runtime.device import Runtime
from mri_ambient.scan import Batch

CONFIG = SimulateConfig(size=(48, 40), coils=4, full=True, calib=16, noise=0.01)
CPU = Runtime("cpu")


class Scored(MemoryScan):
    """A scan in memory with stored references."""

    sha256 = "ab" * 32

    def __init__(self, ksp: torch.Tensor, **targets: torch.Tensor) -> None:
        super().__init__(ksp, scan_id="head")
        self.targets = targets

    def read_target(self, name: str) -> np.ndarray | None:
        return self.targets[name].numpy() if name in self.targets else None


@pytest.fixture(scope="module")
def full() -> Scored:
    return Scored(simulated_scan("head", CONFIG)[0].ksp)


def of(full: ScanFile, mask: MaskSpec | None = None, runtime: Runtime = CPU) -> Volume:
    return open_volume(full, ResolvedRecipe(CgSense(), mask=mask), runtime)


def test_rss_is_that_of_the_measured_coils_and_sense_that_of_its_maps(full):
    volume = of(full)
    volumes = volume.reference.volumes()
    assert list(volumes) == ["rss", "sense"]
    rss = ifft2c(full.ksp).abs().square().sum(dim=1).sqrt()
    torch.testing.assert_close(volumes["rss"], image_crop(rss, full.recon_shape))
    scan = volume.preparation.apply(full[:])
    batch = Batch.of([scan])
    want = to_file_units(batch.op.adjoint(batch.ksp).abs(), scan)
    torch.testing.assert_close(volumes["sense"], want)


def test_an_undersampled_scan_has_none_and_a_mask_does_not_change_it(full):
    undersampled = MemoryScan(
        full.ksp, MaskSpec("random", 2.0, 16).draw((48, 40), torch.Generator())
    )
    assert of(undersampled).reference is None
    plain, masked = (
        of(full, mask).reference.volumes() for mask in (None, MaskSpec("random", 2.0, 16))
    )
    torch.testing.assert_close(plain, masked, rtol=0, atol=0)


def test_a_prepared_scan_has_sense_only(full):
    """Its coils are no longer the measured ones, in a file or in memory."""
    file = ArrayFile(of(full).preparation.apply(full[:]))
    reference = Volume(file, file, ResolvedRecipe(CgSense()), CPU).reference
    assert list(reference.volumes()) == ["sense"]


def test_a_stored_reference_comes_first(full):
    target = torch.rand(1, *full.recon_shape) + 1
    volumes = of(Scored(full.ksp, reconstruction_rss=target)).reference.volumes()
    assert torch.equal(volumes["rss"], target)


@pytest.mark.parametrize("target", [torch.zeros(1, 48, 40), torch.ones(1, 48, 39)])
def test_a_stored_reference_that_is_not_usable_is_replaced(target, full):
    volume = of(Scored(full.ksp, reconstruction_rss=target))
    with warns("W-REFERENCE"):
        volumes = volume.reference.volumes()
    torch.testing.assert_close(volumes, of(full).reference.volumes())


def test_a_single_coil_is_scored_against_its_emulated_coil(full):
    """ESC, as fastMRI does; RSS of the one coil without it."""
    ksp, target = full.ksp[:, :1], torch.rand(1, *full.recon_shape) + 1
    both = Scored(ksp, reconstruction_esc=target, reconstruction_rss=2 * target)
    for file, kind in ((both, "esc"), (Scored(ksp), "rss")):
        with warns("W-ONE-COIL"):
            volumes = of(file).reference.volumes()
        assert list(volumes) == [kind, "sense"]
        assert torch.equal(volumes[kind], target) == (kind == "esc")


def test_the_report_has_the_metrics_of_both(full):
    rec = reconstruct(full, Recipe("cg-sense", retrospective=MaskSpec("random", 2.0, 16)), CPU)
    for key, (kind, volume) in zip(
        ("metrics", "metrics_sense"), of(full).reference.volumes().items(), strict=True
    ):
        want = evaluate_volume(rec.magnitude, volume.numpy(), reference=kind)
        assert rec.report[key]["psnr"] == pytest.approx(want.psnr)
        assert rec.report[key]["reference"] == kind
    assert rec.metrics == rec.report["metrics"]


def test_a_volume_too_small_to_score_is_kept(full):
    """SSIM needs 7 x 7 pixels."""
    file = Scored(full.ksp)
    file.recon_shape = (6, 40)
    with warns("W-CUT-OFF", "W-NOT-SCORED"):
        rec = reconstruct(file, Recipe("cg-sense"), CPU)
    assert rec.magnitude.shape == (1, 6, 40) and rec.metrics is None


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("CUDA error: out of memory")],
)
def test_its_maps_are_computed_on_the_cpu_if_that_is_allowed(error, full, monkeypatch):
    """A GPU without memory for ESPIRiT, here a device that holds nothing."""

    def crowded(ksp, *args, **options):
        if ksp.device.type != "cpu":
            raise error
        return espirit_maps(ksp, *args, **options)

    expected = of(full).reference.volumes()
    monkeypatch.setattr("mri_ambient.data_prep.preparation.espirit_maps", crowded)
    there = Runtime(torch.device("meta"), cpu_fallback=True)
    with warns():  # preparing the scan itself gives it
        volumes = of(full, runtime=there).reference.volumes()
    torch.testing.assert_close(volumes, expected, rtol=0, atol=0)
