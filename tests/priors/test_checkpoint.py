"""Priors on disk: they come back as they were, and damaged or foreign files are refused."""

from __future__ import annotations

import json
import os
import pickle
import struct
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers import small_prior
from safetensors.torch import save_file

from mri_ambient.errors import CheckpointError, DeviceError, MriAmbientError
from mri_ambient.priors.checkpoint import load_prior, load_tensors, save_prior, save_tensors
from mri_ambient.priors.denoisers import DENOISERS
from mri_ambient.priors.facts import UNetSpec
from mri_ambient.priors.prior import Prior
from mri_ambient.priors.prior_file import describe_prior
from mri_ambient.priors.unet import n_parameters
from mri_ambient.priors.weights import shipped_priors

READERS = pytest.mark.parametrize("read", [load_prior, describe_prior])
"""With the network, and without."""


@pytest.fixture
def prior() -> Prior:
    return small_prior("conditioned", tau=0.07, card={"n_scans": 3})


def test_a_prior_comes_back_as_it_was(prior, tmp_path):
    save_prior(prior, tmp_path / "prior.safetensors")
    again = load_prior(tmp_path / "prior.safetensors")
    assert again.facts.card.pop("sha256")
    assert again.facts == prior.facts
    state = prior.net.state_dict()
    assert all(torch.equal(state[name], t) for name, t in again.net.state_dict().items())
    assert not any(p.requires_grad for p in again.net.parameters())


@pytest.mark.parametrize("kind", DENOISERS)
def test_its_facts_are_told_without_its_network(kind, tmp_path):
    save_prior(small_prior(kind, card={"n_scans": 3}), tmp_path / "prior.safetensors")
    prior = load_prior(tmp_path)
    assert describe_prior(tmp_path) == (prior.facts, n_parameters(prior.net))


def test_calibrations_by_method_are_read_as_a_list(prior, tmp_path):
    """Older cards hold one entry per method."""
    entry = {"options": {"n_steps": 10}, "n_samples": 4, "factor": 2.5}
    card = prior.facts.card | {"calibration": {"dds": entry}}
    old = Prior(prior.net, replace(prior.facts, card=card))
    save_prior(old, tmp_path / "prior.safetensors")
    known = load_prior(tmp_path / "prior.safetensors").facts.card["calibration"]
    assert known == [{"method": "dds", **entry}]


def test_a_run_folder_stands_for_its_prior(prior, tmp_path):
    save_prior(prior, tmp_path / "prior.safetensors")
    assert load_prior(tmp_path).facts.tau == prior.facts.tau


def test_half_precision_halves_the_file_and_rounds_the_weights(prior, tmp_path):
    save_prior(prior, tmp_path / "full.safetensors")
    save_prior(prior, tmp_path / "half.safetensors", half=True)
    sizes = [(tmp_path / f"{name}.safetensors").stat().st_size for name in ("half", "full")]
    assert sizes[0] < 0.7 * sizes[1]
    again = load_prior(tmp_path / "half.safetensors").net.state_dict()
    for name, tensor in prior.net.state_dict().items():
        torch.testing.assert_close(again[name], tensor, rtol=2**-10, atol=2**-24)


class _Bomb:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was executed",))


@READERS
def test_pickles_are_never_opened(read, tmp_path):
    path = tmp_path / "prior.pt"
    path.write_bytes(pickle.dumps(_Bomb()))
    with pytest.raises(CheckpointError):
        read(path)
    torch.save({"w": torch.zeros(3)}, path)
    with pytest.raises(CheckpointError):
        read(path)


@READERS
def test_foreign_and_damaged_files_are_refused(read, prior, tmp_path):
    path = tmp_path / "prior.safetensors"
    with pytest.raises(CheckpointError) as missing:
        read(path)
    assert all(file.stem in str(missing.value) for file in shipped_priors())
    with pytest.raises(CheckpointError):  # a folder without a prior
        read(tmp_path)
    save_file({"w": torch.zeros(3)}, path)
    with pytest.raises(CheckpointError):  # without our header
        read(path)
    save_tensors(path, {"w": torch.zeros(3)}, {"format": "train/1"})
    with pytest.raises(CheckpointError, match="'train/1'"):
        read(path)
    save_prior(prior, path)
    whole = path.read_bytes()
    for n_bytes in (0, 7, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:n_bytes])
        with pytest.raises(CheckpointError):
            read(path)


def test_a_prior_of_another_shape_is_refused(prior, tmp_path):
    path = tmp_path / "prior.safetensors"
    save_prior(prior, path)
    tensors, header = load_tensors(path)
    header["facts"]["network"]["channels"] = [8, 16]
    save_tensors(path, tensors, header)
    with pytest.raises(CheckpointError, match="size mismatch"):  # torch's words
        load_prior(path)
    header["facts"]["surprise"] = 1
    save_tensors(path, tensors, header)
    with pytest.raises(CheckpointError, match="surprise"):
        load_prior(path)


def test_a_file_older_than_an_option_of_the_network_has_its_default(prior, tmp_path):
    path = tmp_path / "prior.safetensors"
    save_prior(prior, path)
    tensors, header = load_tensors(path)
    assert header["facts"]["network"].pop("per_group") == 4
    save_tensors(path, tensors, header)
    assert load_prior(path).facts.network == prior.facts.network


def test_the_groups_of_the_norms_are_those_of_training(tmp_path):
    """Weights fit whatever the groups are: only the header tells them."""
    spec = UNetSpec(channels=(16, 32), blocks=1, embedding=16, per_group=16)
    prior = small_prior("conditioned", network=spec)
    save_prior(prior, tmp_path / "prior.safetensors")
    again = load_prior(tmp_path / "prior.safetensors")
    planes, label = torch.ones(1, 7, 8, 8).cumsum(dim=-1), torch.zeros(1)
    assert torch.equal(again.net.nets[0](planes, label), prior.net.nets[0](planes, label))


@READERS
def test_weights_that_are_not_finite_are_refused(read, prior, tmp_path):
    path = tmp_path / "prior.safetensors"
    with torch.no_grad():
        next(prior.net.parameters()).view(-1)[3] = float("nan")
    save_prior(prior, path)
    with pytest.raises(CheckpointError):
        read(path)


@READERS
def test_a_prior_for_another_kind_of_data_is_refused(read, prior, tmp_path):
    path = tmp_path / "prior.safetensors"
    save_prior(Prior(prior.net, replace(prior.facts, scale_rule="maximum")), path)
    with pytest.raises(CheckpointError, match="'maximum'"):
        read(path)


@READERS
def test_header_noise_never_escapes(read, prior, tmp_path, rng):
    """Flipped bytes anywhere in the header: an error of ours, or a prior that loads."""
    path = tmp_path / "prior.safetensors"
    save_prior(prior, path)
    whole = bytearray(path.read_bytes())
    (n_header,) = struct.unpack("<Q", whole[:8])
    assert b"mri_ambient" in whole[8 : 8 + n_header]
    for _ in range(60):
        bad = bytearray(whole)
        at = int(torch.randint(8 + n_header, (), generator=rng))
        bad[at] ^= 1 << int(torch.randint(8, (), generator=rng))
        path.write_bytes(bytes(bad))
        try:
            read(path)
        except MriAmbientError as error:
            assert str(path) in str(error)


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_file_modes_follow_the_umask(mask, mode, prior, tmp_path):
    before = os.umask(mask)
    try:
        save_prior(prior, tmp_path / "prior.safetensors")
    finally:
        os.umask(before)
    assert (tmp_path / "prior.safetensors").stat().st_mode & 0o777 == mode


def test_a_failed_write_leaves_the_old_file(prior, tmp_path, monkeypatch):
    path = tmp_path / "prior.safetensors"
    save_prior(prior, path)
    before = path.read_bytes()

    def full_disk(path, content):
        with path.open("wb") as file:
            file.write(content[: len(content) // 2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full_disk)
    with pytest.raises(MriAmbientError, match="No space left on device"):
        save_prior(prior, path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_the_header_is_json_a_person_can_read(prior, tmp_path):
    path = tmp_path / "prior.safetensors"
    save_prior(prior, path)
    raw = path.read_bytes()
    (n_header,) = struct.unpack("<Q", raw[:8])
    header = json.loads(json.loads(raw[8 : 8 + n_header])["__metadata__"]["mri_ambient"])
    assert header["facts"]["objective"] == "kspace"


def test_a_device_without_memory_is_an_error(prior, tmp_path, monkeypatch):
    to = torch.nn.Module.to

    def full(module, *device, **layout):
        if device:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return to(module, **layout)

    save_prior(prior, tmp_path / "prior.safetensors")
    monkeypatch.setattr(torch.nn.Module, "to", full)
    with pytest.raises(DeviceError):
        load_prior(tmp_path / "prior.safetensors")
