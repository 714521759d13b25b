"""Finished slices survive an interruption, and a resumed run ends as if there had been none."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import random_maps, small_prior

from mri_ambient.errors import DeviceError, MriAmbientError, NumericalWarning, OutputExistsError
from mri_ambient.methods import Aos, CgSense
from mri_ambient.priors.checkpoint import load_tensors, save_tensors
from mri_ambient.recon.engine import SliceImages
from mri_ambient.recon.result_file import is_finished, reconstruct_to_folder
from mri_ambient.recon.slice_store import MAX_WAITING, SliceStore
from mri_ambient.rng import complex_normal
from mri_ambient.runtime.device import Runtime
from mri_ambient.scan import Scan

SHAPE = (8, 6)
SETTINGS = {"method": "any", "seed": 0}


@pytest.fixture
def scan(rng) -> Scan:
    """Three prepared slices of five."""
    shape = (3, 2, *SHAPE)
    return Scan(
        ksp=complex_normal(shape, rng), mask=torch.ones(1, *SHAPE, dtype=torch.bool), scan_id="s",
        slices=(1, 2, 4), recon_shape=(6, 6), noise_std=0.1, noise_source="corners", scale=2.0,
        maps=random_maps(shape, rng), steps=("read", "normalise"),
    )  # fmt: skip


@pytest.fixture
def images(scan, rng) -> SliceImages:
    samples = complex_normal((2, 3, *SHAPE), rng)
    return SliceImages(
        img=samples.mean(dim=0), std=samples.abs().std(dim=0),
        samples=samples, checks=tuple({"data_residual": 1.0 + i} for i in range(3)),
        provenance={"method": "any", "seconds": 6.0},
    )  # fmt: skip


class TestStore:
    @pytest.mark.parametrize("in_memory", [True, False])
    def test_slices_come_back_in_file_units_with_their_report(
        self, in_memory, scan, images, tmp_path
    ):
        folder = None if in_memory else tmp_path / "slices"
        store = SliceStore(folder, SETTINGS, keep_samples=True)
        with store:
            store.add(scan, images, 3e-5, [NumericalWarning("W-SECOND-MAP", "look")])
        assert [index in store for index in range(5)] == [False, True, True, False, True]
        assert len(store) == 3
        found = store.read(2).images
        # Unit-norm maps and no coil transform: the weight is 1, the scale 2, one row is cut off.
        torch.testing.assert_close(found["img"], 2 * images.img[1][1:7])
        torch.testing.assert_close(found["std"], 2 * images.std[1][1:7])
        torch.testing.assert_close(found["samples"], 2 * images.samples[:, 1, 1:7])
        checks, facts, given = store.report()
        assert checks == [{"slice": s, "data_residual": 1.0 + i} for i, s in enumerate((1, 2, 4))]
        assert given == [{"code": "W-SECOND-MAP", "text": "look"}]
        assert facts["provenance"] == {"method": "any", "seconds": 6.0}
        assert (facts["noise_std"], facts["sigma_n"], facts["recon_shape"]) == (3e-5, 0.1, [6, 6])
        store.remove()
        assert len(store) == 0 and (in_memory or not folder.exists())

    def test_samples_are_kept_on_request_only(self, scan, images):
        with SliceStore() as store:
            store.add(scan, images, 1.0, [])
        assert set(store.read(1).images) == {"img", "std"}

    def test_only_slices_with_the_same_settings_are_found(self, scan, images, tmp_path):
        def fill() -> None:
            with SliceStore(tmp_path / "a", SETTINGS) as store:
                store.add(scan, images, 1.0, [])

        other = SETTINGS | {"seed": 1}
        fill()
        assert SliceStore(tmp_path / "a", SETTINGS).done == {1, 2, 4}
        assert SliceStore.other_settings(tmp_path / "a", SETTINGS) == []
        assert SliceStore.other_settings(tmp_path / "a", other) == ["seed"]
        for settings in (other, None):
            fill()
            assert len(SliceStore(tmp_path / "a", settings)) == 0
            assert not (tmp_path / "a").exists()

    @pytest.mark.parametrize("damage", ["torn", "foreign", "older"])
    def test_slices_that_cannot_be_used_are_done_again(self, damage, scan, images, tmp_path):
        with SliceStore(tmp_path / "a", SETTINGS) as store:
            store.add(scan, images, 1.0, [])
        path = tmp_path / "a" / "00002.safetensors"
        if damage == "torn":
            path.write_bytes(path.read_bytes()[:40])
        elif damage == "foreign":
            path.write_bytes(b"something else")
        else:  # headers had sentences alone before warnings had codes
            tensors, header = load_tensors(path)
            header["doubts"] = [entry["text"] for entry in header.pop("warnings")]
            save_tensors(path, tensors, header)
        assert SliceStore(tmp_path / "a", SETTINGS).done == {1, 4}
        assert SliceStore.other_settings(tmp_path / "a", SETTINGS) == []

    def test_a_full_disk_is_an_error(self, scan, images, tmp_path, monkeypatch):
        def full(*_):
            raise MriAmbientError("no space left")

        monkeypatch.setattr("mri_ambient.recon.slice_store.save_tensors", full)
        with (
            pytest.raises(MriAmbientError, match="no space left"),
            SliceStore(tmp_path / "a", SETTINGS) as store,
        ):
            store.add(scan, images, 1.0, [])

    def test_a_slow_disk_is_waited_for(self, scan, images, tmp_path, monkeypatch):
        """No more than a few results wait to be written."""
        free, waited = threading.Event(), []

        def slow(*args: object) -> None:
            free.wait(timeout=60)
            save_tensors(*args)

        monkeypatch.setattr("mri_ambient.recon.slice_store.save_tensors", slow)
        with SliceStore(tmp_path / "a", SETTINGS) as store:
            for n in range(MAX_WAITING + 2):
                if n == MAX_WAITING:  # this one waits until there is room
                    threading.Timer(0.2, free.set).start()
                before = free.is_set()
                store.add(scan, images, 1.0, [])
                waited.append(not before and free.is_set())
        assert waited[: MAX_WAITING + 1] == [False] * MAX_WAITING + [True]
        assert len(store) == 3


class Unlucky(CgSense):
    """CG-SENSE on a device that is lost at the n-th call.

    It has the settings of CG-SENSE; ``calls`` counts the images of every call.
    """

    def __init__(self, fails_at: int = 0) -> None:
        super().__init__()
        object.__setattr__(self, "fails_at", fails_at)
        object.__setattr__(self, "calls", [])

    def solve(self, op, ksp, noise_std):
        self.calls.append(len(ksp))
        if len(self.calls) == self.fails_at:
            raise RuntimeError("CUDA error: unspecified launch failure")
        return super().solve(op, ksp, noise_std)


class TestInterruptedRuns:
    """Six slices, two at once; the device is lost at the third of three calls."""

    @pytest.fixture
    def interrupted(self, make_volume, tmp_path) -> Path:
        folder = tmp_path / "cut"
        with pytest.raises(DeviceError):
            reconstruct_to_folder(make_volume(Unlucky(fails_at=3)), folder)
        return folder

    def test_a_resumed_run_ends_as_a_whole_one(self, make_volume, interrupted, tmp_path):
        (hidden,) = interrupted.iterdir()
        assert len(list(hidden.iterdir())) == 4
        method = Unlucky()
        resumed = reconstruct_to_folder(make_volume(method), interrupted)
        assert method.calls == [2]
        whole = reconstruct_to_folder(make_volume(CgSense()), tmp_path / "whole")
        for name in ("reconstruction", "reconstruction_complex"):
            a, b = (read(folder, name) for folder in (interrupted, tmp_path / "whole"))
            np.testing.assert_array_equal(a, b)
        assert resumed["checks"] == whole["checks"]
        assert len(list(interrupted.iterdir())) == 2

    def test_other_settings_do_not_remove_slices_unasked(self, make_volume, interrupted):
        same, other = (make_volume(CgSense(), seed=seed) for seed in (0, 1))
        assert not is_finished(same, interrupted)
        with pytest.raises(OutputExistsError, match=r"slices.*seed"):
            is_finished(other, interrupted)
        assert not is_finished(other, interrupted, overwrite=True)
        method = Unlucky()
        reconstruct_to_folder(make_volume(method, seed=1), interrupted, overwrite=True)
        assert method.calls == [2, 2, 2]

    def test_a_torn_slice_is_done_again(self, make_volume, interrupted):
        path = sorted(next(interrupted.iterdir()).iterdir())[1]
        path.write_bytes(path.read_bytes()[:40])
        method = Unlucky()
        reconstruct_to_folder(make_volume(method), interrupted)
        assert method.calls == [1, 2]

    def test_a_prior_without_a_file_does_not_resume(self, make_volume, tmp_path):
        """Its settings would be those of any other."""
        one, other = small_prior("conditioned"), small_prior("conditioned", sigma_data=0.2)
        reconstruct_to_folder(make_volume(Aos(), one), tmp_path)
        for prior in (one, other):
            with pytest.raises(OutputExistsError, match=r"prior \(-m\)"):
                is_finished(make_volume(Aos(), prior), tmp_path)
        known = small_prior("conditioned", card={"sha256": "ab"})
        reconstruct_to_folder(make_volume(Aos(), known), tmp_path, overwrite=True)
        assert is_finished(make_volume(Aos(), known), tmp_path)

    def test_a_precision_chosen_by_the_device_is_named(self, make_volume, tmp_path):
        """A GPU's "auto" is bf16: on a CPU, the same result needs --precision bf16."""
        prior = small_prior("conditioned", card={"sha256": "ab"})
        volume = make_volume(Aos(), prior, runtime=Runtime("cpu", precision="bf16"))
        reconstruct_to_folder(volume, tmp_path)
        with pytest.raises(OutputExistsError, match=r"\(--precision bf16\)"):
            is_finished(make_volume(Aos(), prior), tmp_path)


def read(folder: Path, name: str) -> np.ndarray:
    import h5py

    with h5py.File(next(folder.glob("*.h5"))) as file:
        return file[name][()]


def test_a_store_of_settings_with_more_keys_is_another(tmp_path, scan, images):
    with SliceStore(tmp_path, SETTINGS) as store:
        store.add(replace(scan), images, 1.0, [])
    assert SliceStore.other_settings(tmp_path, SETTINGS | {"new": 1}) == ["new"]
