"""One pipeline for paths, files, scans and arrays; into memory or into a folder."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
from array_files import phantom_ksp
from helpers import small_prior
from memory_scan import simulated_scan

from mri_ambient.data_prep import SimulateConfig
from mri_ambient.errors import (
    ArrayError,
    ConfigError,
    MriAmbientError,
    OutputExistsError,
    ScanFormatError,
)
from mri_ambient.io import ArrayFile, Undersampled, open_scan
from mri_ambient.methods import Aos, CgSense, Dds
from mri_ambient.physics.mask_spec import MaskSpec
from mri_ambient.recon.pipeline import open_volume, reconstruct, reconstruct_many
from mri_ambient.recon.recipe import Recipe, ResolvedRecipe
from mri_ambient.recon.result_file import is_finished, reconstruct_to_folder
from mri_ambient.runtime.device import Runtime
from mri_ambient.scan import Scan

pytestmark = pytest.mark.filterwarnings("ignore::mri_ambient.errors.NumericalWarning")

CPU = Runtime("cpu", batch_size=6)
CG = Recipe("cg-sense")


class TestSources:
    def test_all_kinds_of_scans_give_the_same_image(self, phantom):
        """A path, as text as well, an open file, a scan, and its k-space as an array."""
        file = open_scan(phantom)
        raw = file[:]
        base = reconstruct(phantom, CG, CPU)
        for scan in (str(phantom), file, raw, Scan.from_numpy(raw.ksp.numpy(), scan_id="a")):
            np.testing.assert_array_equal(reconstruct(scan, CG, CPU).complex, base.complex)
        array = reconstruct(raw.ksp.numpy(), CG, CPU)
        np.testing.assert_array_equal(array.complex, base.complex)
        assert (base.scan_id, array.scan_id) == (file.scan_id, "array")

    def test_a_slice_alone_is_a_volume_of_one(self, phantom):
        ksp = open_scan(phantom)[2].ksp[0].numpy()
        assert reconstruct(ksp, CG, CPU).complex.shape == (1, 24, 24)

    @pytest.mark.parametrize("made", [np.asarray, Scan.from_numpy])
    def test_arrays_with_swapped_axes_are_refused(self, made):
        swapped = phantom_ksp().swapaxes(0, 1)
        with pytest.raises(ArrayError):
            open_volume(made(swapped), CG.resolve(), CPU)
        meant = ArrayFile(Scan.from_numpy(swapped))
        assert open_volume(meant, CG.resolve(), CPU).file is meant

    def test_a_prepared_scan_is_not_prepared_again(self, prepared):
        volume = open_volume(prepared, CG.resolve(), CPU)
        assert isinstance(volume.file, ArrayFile) and volume.file is volume.full
        scan = volume.preparation.apply(volume.file[1])
        assert scan.steps == prepared.steps and scan.noise_std == prepared.noise_std

    def test_progress_is_passed_on(self, prepared):
        slices, steps = [], []
        reconstruct(
            prepared, Recipe(Dds(n_steps=2), prior=small_prior(), n_samples=1), CPU,
            on_slice=lambda *s: slices.append(s), on_step=steps.append,
        )  # fmt: skip
        assert slices[-1] == (6, 6) and len(steps) == 2


class TestRetrospective:
    def test_a_mask_is_drawn_by_seed_and_scan(self):
        full, _ = simulated_scan("head", SimulateConfig(size=(48, 40), coils=4, full=True))
        mask = MaskSpec("random", 2.0, 16)
        masks = [
            open_volume(full, ResolvedRecipe(CgSense(), mask=mask, seed=seed), CPU).file.mask
            for seed in (0, 0, 1)
        ]
        assert (masks[0] == masks[1]).all() and not (masks[0] == masks[2]).all()
        volume = open_volume(full, ResolvedRecipe(CgSense(), mask=mask), CPU)
        assert isinstance(volume.file, Undersampled) and volume.full is full
        assert volume.file.acceleration == pytest.approx(2.0)

    def test_an_undersampled_scan_is_refused(self, phantom):
        with pytest.raises(ConfigError, match=phantom.name):
            reconstruct(phantom, Recipe("cg-sense", retrospective=2.0), CPU)


class TestMany:
    def test_folders_files_and_arrays_in_turn(self, phantom, prepared):
        found = list(reconstruct_many([phantom.parent, prepared, phantom], CG, CPU))
        assert [rec.scan_id for rec in found] == [phantom.stem] * 3
        np.testing.assert_array_equal(found[0].complex, found[2].complex)

    def test_one_scan_is_a_scan_and_not_its_slices(self, phantom, prepared):
        for scan in (phantom, open_scan(phantom), prepared, open_scan(phantom)[:].ksp.numpy()):
            (rec,) = reconstruct_many(scan, CG, CPU)
            assert len(rec.complex) == 6

    def test_the_prior_is_loaded_once_and_before_the_first_scan(self, prepared):
        with pytest.raises(MriAmbientError, match="nowhere"):
            reconstruct_many([prepared, prepared], Recipe("aos", prior="nowhere"), CPU)

    def test_a_failure_is_raised_or_handed_over(self, phantom, tmp_path):
        broken = tmp_path / "broken.h5"
        broken.write_bytes(b"nothing")
        failed = []
        found = list(
            reconstruct_many([broken, phantom], CG, CPU, on_error=lambda *a: failed.append(a))
        )
        assert [rec.scan_id for rec in found] == [phantom.stem]
        ((scan, error),) = failed
        assert Path(scan) == broken and isinstance(error, ScanFormatError)
        with pytest.raises(ScanFormatError):
            list(reconstruct_many([broken, phantom], CG, CPU))

    def test_an_empty_folder_and_a_glob_without_a_match_are_failures(self, phantom, tmp_path):
        empty, glob = tmp_path, tmp_path / "*.h5"
        failed = []
        found = list(
            reconstruct_many([empty, phantom, glob], CG, CPU, on_error=lambda *a: failed.append(a))
        )
        assert [rec.scan_id for rec in found] == [phantom.stem]
        assert [scan for scan, _ in failed] == [empty, glob]
        assert all(isinstance(error, ScanFormatError) for _, error in failed)
        with pytest.raises(ScanFormatError):
            list(reconstruct_many(empty, CG, CPU))


class TestFolder:
    def test_a_finished_reconstruction_is_recognised(self, make_volume, tmp_path):
        volume, other = make_volume(CgSense()), make_volume(CgSense(lam=0.5))
        assert not is_finished(volume, tmp_path)
        report = reconstruct_to_folder(volume, tmp_path)
        assert sorted(path.suffix for path in tmp_path.iterdir()) == [".h5", ".json"]
        assert is_finished(volume, tmp_path)
        assert not is_finished(volume, tmp_path, overwrite=True)
        with pytest.raises(OutputExistsError, match="method"):
            is_finished(other, tmp_path)
        assert not is_finished(other, tmp_path, overwrite=True)
        next(tmp_path.glob("*.json")).unlink()
        assert not is_finished(volume, tmp_path)  # half of it is missing
        assert report["settings"] == volume.settings

    def test_what_is_no_reconstruction_is_never_overwritten(self, make_volume, tmp_path):
        volume = make_volume(CgSense())
        with h5py.File(tmp_path / volume.file.path.name, "w") as file:
            file["kspace"] = np.zeros(3)
        for call in (
            lambda: is_finished(volume, tmp_path),
            lambda: is_finished(volume, tmp_path, overwrite=True),
            lambda: reconstruct_to_folder(volume, tmp_path),
        ):
            with pytest.raises(OutputExistsError):
                call()
        with h5py.File(tmp_path / volume.file.path.name) as file:
            assert list(file) == ["kspace"]

    def test_a_call_in_memory_and_one_into_a_folder_agree(self, prepared, make_volume, tmp_path):
        prior = small_prior("conditioned")
        rec = reconstruct(prepared, Recipe(Aos(), prior=prior), CPU)
        report = reconstruct_to_folder(make_volume(Aos(), prior), tmp_path)
        with h5py.File(next(tmp_path.glob("*.h5"))) as file:
            np.testing.assert_allclose(
                file["reconstruction_complex"][()], rec.complex, rtol=1e-4, atol=1e-9
            )
        assert [check["slice"] for check in report["checks"]] == list(range(6))
