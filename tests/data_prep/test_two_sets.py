"""Two sets of maps: when they are needed, what they span, and that they tell two places apart."""

from __future__ import annotations

import shutil
import subprocess

import h5py
import numpy as np
import pytest
import torch
from codes import warns
from folded import folded
from helpers import dense

from mri_ambient.data_prep import PrepConfig, plan_preparation, prepare_file
from mri_ambient.data_prep.espirit import espirit_maps, second_map_share
from mri_ambient.data_prep.qc import calibration_residual
from mri_ambient.data_prep.set_basis import smooth_basis
from mri_ambient.errors import ConfigError, PrepError
from mri_ambient.io import ArrayFile, PreparedFile, open_scan
from mri_ambient.physics.map_sets import split_sets
from mri_ambient.physics.mask_spec import MaskSpec
from mri_ambient.physics.operators import SenseOp
from mri_ambient.rng import complex_normal
from mri_ambient.scan import Batch, Scan

SHAPE, WIDE, NARROW = (40, 48), 72, 36
"""The field of view, and objects wider and narrower than its 48 pixels."""

without_header = pytest.mark.filterwarnings("ignore:.W-NO-HEADER")


def scan_of(width, rng):
    return Scan.from_numpy(folded(SHAPE, width, rng, noise=0.01).ksp.numpy())


def planes(maps):
    """Projections onto what the sets span, ``(y, x, coil, coil)``."""
    S = split_sets(maps, 2).permute(2, 3, 0, 1)
    return S @ S.mH


@pytest.mark.parametrize("width", [60, 72])
def test_the_share_is_that_of_the_pixels_that_fold(width, rng):
    scene = folded(SHAPE, width, rng, noise=0.01)
    found = espirit_maps(scene.ksp[None], (24, 24))
    assert float(second_map_share(found)) == pytest.approx((width - 48) / 48, abs=0.1)


@pytest.mark.parametrize(("width", "n_sets"), [(24, 1), (36, 1), (60, 2), (72, 2)])
def test_two_sets_are_chosen_where_the_object_folds(width, n_sets, rng):
    with warns(*["W-MAP-SETS"] * (n_sets - 1)):
        assert plan_preparation(ArrayFile(scan_of(width, rng))).n_sets == n_sets


def test_the_choice_can_be_made_by_hand(rng):
    file = ArrayFile(scan_of(NARROW, rng))
    assert plan_preparation(file, PrepConfig(map_sets=2)).apply(file[0]).n_sets == 2
    with pytest.raises(ConfigError, match="map_sets=3"):
        PrepConfig(map_sets=3)


def test_noise_needs_no_second_set(rng):
    ksp = complex_normal((1, 8, *SHAPE), rng)
    assert plan_preparation(ArrayFile(Scan.from_numpy(ksp.numpy()))).n_sets == 1


@pytest.mark.filterwarnings("ignore::mri_ambient.errors.NumericalWarning")
@pytest.mark.parametrize(
    ("name", "n_sets"), [("alias_brain8", 2), ("espirit_brain8", 1), ("poisson_brain8", 1)]
)
def test_real_heads(real_scans, name, n_sets):
    assert plan_preparation(open_scan(real_scans / f"{name}.h5")).n_sets == n_sets


def test_both_places_lie_in_what_two_sets_span(rng):
    scene = folded(SHAPE, WIDE, rng)
    maps = espirit_maps(scene.ksp[None], (24, 24), n_sets=2).maps[0]
    for S in (scene.inside, scene.outside):
        rest = S - torch.einsum("yxcd,dyx->cyx", planes(maps), S)
        known = scene.folds & (S != 0).any(dim=0)
        known[:, 12:-12] = False
        lost = rest.norm(dim=0)[known] / S.norm(dim=0)[known]
        assert float(lost.median()) < 0.05
    calib = scene.ksp[None, :, 8:32, 12:36]
    one = espirit_maps(scene.ksp[None], (24, 24)).maps
    with_one, with_two = (
        calibration_residual(calib, one),
        calibration_residual(calib, maps[None], 2),
    )
    assert float(with_two) < 0.1 * float(with_one)


def test_a_smooth_basis_spans_the_same_and_continues_the_first_set(rng):
    scene = folded(SHAPE, WIDE, rng)
    maps = scene.maps
    angle = 3 * torch.rand(SHAPE, generator=rng) * scene.folds  # another basis in every pixel
    turn = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], dim=-1)
    turn = turn.reshape(*SHAPE, 2, 2).to(maps.dtype)
    mixed = torch.einsum("csyx,yxst->ctyx", split_sets(maps, 2), turn).flatten(1, 2)
    found = smooth_basis(mixed[None])[0]
    torch.testing.assert_close(planes(found), planes(mixed), rtol=0, atol=1e-5)
    first, before = (split_sets(m, 2)[:, 0] for m in (found, maps))
    assert torch.equal(first[:, ~scene.folds], before[:, ~scene.folds])
    alike = (first.conj() * before).sum(dim=0).abs()[scene.folds & (before != 0).any(dim=0)]
    assert float(alike.median()) > 0.95
    mixed_first = split_sets(mixed, 2)[:, 0]
    unlike = (mixed_first.conj() * before).sum(dim=0).abs()[scene.folds & (before != 0).any(dim=0)]
    assert float(unlike.median()) < 0.85


def test_two_sets_reconstruct_what_one_cannot(rng):
    shape = (6, 20)
    scene = folded(shape, 30, rng)
    mask = MaskSpec("equispaced", 2.0, 4).draw(shape, rng)
    y, truth = (k.to(torch.complex128) for k in (torch.where(mask, scene.ksp, 0), scene.ksp))

    def error(n_sets):
        maps = scene.maps[:, : n_sets * shape[0]].to(torch.complex128)
        op = SenseOp(maps, mask, n_sets)
        img = torch.linalg.pinv(dense(op, torch.complex128), rtol=1e-9) @ y.flatten()
        return float((op.expand(img.reshape(op.ishape)) - truth).norm() / truth.norm())

    assert error(2) < 1e-4
    assert error(1) > 0.1


@without_header
def test_sets_that_are_given_are_used(rng, tmp_path):
    scene = folded(SHAPE, WIDE, rng, noise=0.01)
    write(tmp_path / "k", scene.ksp[None])
    # Not orthonormal, as they would be of no program: what they span counts.
    write(tmp_path / "m", torch.stack([scene.inside, scene.outside + scene.inside]))
    file = open_scan(tmp_path / "k.cfl", maps=tmp_path / "m.cfl")
    scan = plan_preparation(file).apply(file[0])
    assert scan.n_sets == 2 and "given-maps" in scan.steps
    op = Batch.of([scan]).op
    x = complex_normal(op.ishape, rng) * op.support[0]
    torch.testing.assert_close(op.combine(op.expand(x[None])), x[None], atol=2e-4, rtol=0)
    assert float(calibration_residual(scan.ksp, scan.maps, 2)) < 0.01
    assert plan_preparation(file, PrepConfig(map_sets=1)).apply(file[0]).n_sets == 1


@without_header
def test_more_sets_than_are_given_are_refused(rng, tmp_path):
    scene = folded(SHAPE, NARROW, rng, noise=0.01)
    write(tmp_path / "k", scene.ksp[None])
    write(tmp_path / "m", scene.inside[None])
    file = open_scan(tmp_path / "k.cfl", maps=tmp_path / "m.cfl")
    with pytest.raises(PrepError, match="--map-sets"):
        plan_preparation(file, PrepConfig(map_sets=2)).apply(file[0])


def write(path, sets):
    """Arrays ``(set, coil, y, x)`` in BART's format."""
    n_sets, n_coils, ny, nx = sets.shape
    path.with_suffix(".hdr").write_text(f"# Dimensions\n{ny} {nx} 1 {n_coils} {n_sets}\n")
    path.with_suffix(".cfl").write_bytes(sets.mT.contiguous().numpy().tobytes())


@pytest.mark.skipif(shutil.which("bart") is None, reason="bart is not installed")
def test_the_sets_span_what_those_of_bart_span(rng, tmp_path):
    scene = folded(SHAPE, WIDE, rng, noise=0.01)
    write(tmp_path / "k", scene.ksp[None])
    command = ["bart", "ecalib", "-m2", "-r24:24:1", "-c0.9", "k", "m"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    theirs = torch.from_numpy(np.fromfile(tmp_path / "m.cfl", np.complex64))
    theirs = theirs.reshape(2, 8, SHAPE[1], SHAPE[0]).mT.movedim(0, 1).flatten(1, 2)
    ours = espirit_maps(scene.ksp[None], (24, 24), n_sets=2).maps[0]
    both = [(split_sets(maps, 2)[:, 1] != 0).any(dim=0) for maps in (ours, theirs)]
    assert float((both[0] ^ both[1]).float().mean()) < 0.1
    shared = (planes(ours) @ planes(theirs)).diagonal(dim1=-2, dim2=-1).sum(dim=-1).real / 2
    assert float(shared[both[0] & both[1]].median()) > 0.99


@pytest.mark.filterwarnings("ignore::mri_ambient.errors.NumericalWarning")
def test_prepared_files_hold_both_numbers_of_sets(rng, tmp_path):
    for width, tag, sets in ((NARROW, "prepared/1", ()), (WIDE, "prepared/2", (2,))):
        file = ArrayFile(scan_of(width, rng))
        path = prepare_file(file, tmp_path / tag.replace("/", "-"))
        prepared, here = PreparedFile(path), plan_preparation(file).apply(file[0])
        assert (prepared.n_sets, prepared[0].n_sets) == (here.n_sets, here.n_sets)
        assert torch.equal(prepared[0].maps, here.maps)
        with h5py.File(path) as h5:
            assert h5.attrs["mri_ambient_format"] == tag
            assert h5["maps"].shape == (1, *sets, 8, *SHAPE, 2)
