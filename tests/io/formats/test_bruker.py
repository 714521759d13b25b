"""Bruker ParaVision scans: what is read of folders made here, and of a scanner's folder."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from array_files import assert_holds
from bruker_files import parameters, write_scan
from brukerapi.dataset import Dataset
from numpy.typing import NDArray

from mri_ambient.errors import ScanFormatError
from mri_ambient.evaluation.info import contents
from mri_ambient.io import find_scans, open_scan
from mri_ambient.io.formats.jcamp import read_parameters
from mri_ambient.physics.axis_fourier import ifftc
from mri_ambient.physics.fourier import ifft2c

SHAPE = (3, 2, 16, 12)
"""(slice, coil, y, x)."""


@pytest.fixture
def ksp(rng) -> NDArray[np.complex64]:
    """K-space of SHAPE, whole numbers."""
    return whole_numbers(SHAPE, rng)


def whole_numbers(shape: tuple[int, ...], rng: torch.Generator) -> NDArray[np.complex64]:
    parts = torch.randint(-1000, 1000, (*shape, 2), generator=rng).to(torch.float32)
    return torch.view_as_complex(parts).numpy()


def in_order(ksp: NDArray[np.complex64]) -> NDArray[np.complex64]:
    """Readouts as a plain 2-D scan acquires them: a line of every slice, then the next line."""
    return ksp.transpose(3, 0, 1, 2).reshape(-1, *ksp.shape[1:3])


def test_lines_come_to_their_slice_and_column(ksp, tmp_path):
    folder = write_scan(tmp_path / "5", in_order(ksp), parameters(SHAPE[2:], 2, 3))
    assert_holds(folder, ksp)
    file = open_scan(folder)
    assert (file.format, file.scan_id, file.fully_sampled) == ("bruker", "5", True)
    assert file.recon_shape == SHAPE[2:] and file.voxel_mm == (2.0, 2.0, 2.0)
    assert file.attributes["acquisition"] == "T2 test"
    assert_holds(folder / "fid", ksp)


def rare(ksp: NDArray[np.complex64]) -> tuple[NDArray[np.complex64], dict[str, object]]:
    """Trains of four echoes, slices in the order 0, 2, 1."""
    steps = [-6, -3, 0, 3, -5, -2, 1, 4, -4, -1, 2, 5]
    order = [0, 2, 1]
    lines = [
        ksp[s, :, :, step + 6]
        for train in range(3)
        for s in order
        for step in steps[4 * train : 4 * train + 4]
    ]
    values = parameters(
        SHAPE[2:], 2, 3, ACQ_phase_factor=4, PVM_EncSteps1=steps, ACQ_obj_order=order,
        Method="<Bruker:RARE>", PULPROG="( 32 )\n<RARE.ppg>", ACQ_scan_size="One_scan",
    )  # fmt: skip
    return np.stack(lines), values


def test_echo_trains_and_interleaved_slices(ksp, tmp_path):
    folder = write_scan(tmp_path / "5", *rare(ksp))
    assert_holds(folder, ksp)


def test_another_reader_finds_the_same_in_these_folders(ksp, tmp_path):
    folder = write_scan(tmp_path / "5", *rare(ksp))
    found = Dataset(str(folder / "fid")).data  # (readout, line, slice, repetition, coil)
    np.testing.assert_array_equal(found[:, :, :, 0].transpose(2, 3, 0, 1), ksp)


def test_a_scanners_folder_is_read_as_others_read_it(real_scans):
    """A mouse in a tube, coronal slices, head up."""
    folder = real_scans.parent / "formats" / "bruker_rare"
    if not folder.exists():
        pytest.skip("no files of other formats")
    file = open_scan(folder)
    assert file.shape == (15, 1, 96, 96) and file.voxel_mm == (0.28125, 0.28125, 1.25)
    assert file.thickness_mm == 1.0
    other = Dataset(str(folder / "fid"))
    wanted = np.abs(other.data[..., 0, 0]).transpose(2, 0, 1)
    ksp = file[:].ksp[:, 0]
    np.testing.assert_allclose(ksp.abs().numpy(), wanted, rtol=1e-5, atol=1e-2)
    # The tube is in the middle of the planned field of view: its walls are equally far outside.
    profile = ifft2c(ksp[6:12]).abs().mean(dim=(0, 1))
    inside = torch.nonzero(profile > 0.5 * profile.median()).flatten()
    assert abs(int(inside[0]) + int(inside[-1]) - 96) <= 2
    # To the feet, to the left, from back to front.
    np.testing.assert_allclose(file.geometry.directions, [[0, 0, -1], [1, 0, 0], [0, -1, 0]])
    np.testing.assert_allclose(file.geometry.positions[7], [-1.4791, 2.78317, 7.52411])
    for position, affine in zip(file.geometry.positions, other.acquisition_affines(), strict=True):
        np.testing.assert_allclose(affine[:3, 3] + 48 * (affine[:3, 0] + affine[:3, 1]), position)
        np.testing.assert_allclose(affine[:3, :2].T, 0.28125 * file.geometry.directions[:2])


def test_the_image_moves_to_the_planned_field_of_view(ksp, tmp_path):
    """By the offset along the phase encoding, here three pixels."""
    values = parameters(SHAPE[2:], 2, 3, ACQ_phase1_offset=[6.0] * 3, ACQ_read_offset=[4.0] * 3)
    file = open_scan(write_scan(tmp_path / "5", in_order(ksp), values))
    moved = torch.roll(ifft2c(torch.from_numpy(ksp[1])), 3, dims=-1)
    got = ifft2c(file[1].ksp[0])
    np.testing.assert_allclose(got.numpy(), moved.numpy(), atol=1e-3 * moved.abs().max())
    # Read (1, 0, 0) and phase (0, 1, 0) of the subject are to the right and to the front.
    np.testing.assert_allclose(file.geometry.positions[0], [-4, -6, 0])


def test_repetitions_are_volumes(ksp, tmp_path):
    values = parameters(SHAPE[2:], 2, 3, NR=2)
    lines = np.concatenate([in_order(ksp), in_order(2 * ksp)])
    folder = write_scan(tmp_path / "5", lines, values)
    assert_holds(folder, 2 * ksp, volume="rep-2")
    assert [scan.stem for scan in find_scans([folder])] == ["5_rep-1", "5_rep-2"]


def test_a_scan_that_was_stopped_has_its_complete_repetitions(ksp, tmp_path):
    values = parameters(SHAPE[2:], 2, 3, NR=5)
    assert_holds(write_scan(tmp_path / "5", in_order(ksp), values), ksp)


@pytest.mark.parametrize("alternates", [False, True])
def test_echoes_are_volumes(alternates, ksp, tmp_path):
    """Two gradient echoes a slice; the second may run backwards."""
    echoes = np.stack([ksp, 2 * ksp], axis=1)  # (slice, echo, coil, y, x)
    if alternates:
        echoes[:, 1] = echoes[:, 1, :, ::-1]
    lines = echoes.transpose(4, 0, 1, 2, 3).reshape(-1, 2, 16)
    values = parameters(
        SHAPE[2:], 2, 3, NI=6, ACQ_n_echo_images=2, ACQ_obj_order=list(range(6)),
        EchoAcqMode="allEchoes" if alternates else "evenEchoes", Method="<Bruker:MGE>",
        ACQ_grad_matrix=np.tile(np.eye(3), (6, 1, 1)),
    )  # fmt: skip
    folder = write_scan(tmp_path / "5", lines, values)
    assert_holds(folder, ksp, volume="con-1")
    assert_holds(folder, 2 * ksp, volume="con-2")


def test_partial_fourier_leaves_columns_out(ksp, tmp_path):
    values = parameters(
        SHAPE[2:], 2, 3, PVM_EncMatrix=[16, 8], ACQ_size=[32, 8],
        PVM_EncSteps1=list(range(-2, 6)), PVM_EncPft=[1.0, 1.5],
    )  # fmt: skip
    folder = write_scan(tmp_path / "5", in_order(ksp[..., 4:]), values)
    ksp[..., :4] = 0
    assert_holds(folder, ksp)
    assert open_scan(folder).acquired.tolist() == [False] * 4 + [True] * 8


def test_a_partial_echo_leaves_rows_out(ksp, tmp_path):
    values = parameters(
        SHAPE[2:], 2, 3, PVM_EncMatrix=[12, 12], ACQ_size=[24, 12], PVM_EncPft=[1.33, 1.0]
    )
    folder = write_scan(tmp_path / "5", in_order(ksp[:, :, 4:]), values)
    ksp[:, :, :4] = 0
    assert_holds(folder, ksp)


def test_accelerated_scans_with_reference_lines(ksp, tmp_path):
    """Every other line, from the second, and the four in the middle."""
    steps = [-5, -3, -2, -1, 0, 1, 3, 5]
    values = parameters(
        SHAPE[2:], 2, 3, PVM_EncMatrix=[16, 8], ACQ_size=[32, 8], PVM_EncSteps1=steps,
        PVM_EncPpi=[1, 2], PVM_EncPpiRefLines=[0, 4],
    )  # fmt: skip
    columns = [step + 6 for step in steps]
    folder = write_scan(tmp_path / "5", in_order(ksp[..., columns]), values)
    ksp[..., [x for x in range(12) if x not in columns]] = 0
    assert_holds(folder, ksp)


def test_zero_filling_is_left_out_and_oversampling_is_known(ksp, tmp_path):
    """The field of view 16 x 24 was planned with 8 x 24 pixels, twice as wide along y."""
    values = parameters(
        SHAPE[2:], 2, 3, PVM_Matrix=[8, 24], PVM_AntiAlias=[2.0, 1.0], PVM_EncZf=[1.0, 2.0],
        PVM_Fov=[16.0, 24.0],
    )  # fmt: skip
    file = open_scan(write_scan(tmp_path / "5", in_order(ksp), values))
    assert file.shape == SHAPE and file.recon_shape == (8, 12)
    assert file.voxel_mm == (2.0, 2.0, 2.0) and file.readout_oversampling == 2


@pytest.mark.parametrize("steps", [(-3, -2, -1, 0, 1, 2), (0, -1, 1, -2, 2, -3), (-1, 0, 1, 2)])
def test_partitions_lie_where_their_steps_say(steps, rng, tmp_path):
    """In order, from the centre, and partial Fourier."""
    full = whole_numbers((2, 16, 6, 12), rng)  # (coil, readout, partition, line)
    places = [step + 3 for step in steps]
    values = parameters(
        (16, 12, len(steps)), 2, PVM_EncSteps2=list(steps), PVM_Matrix=[16, 12, 6],
        PVM_EncPft=[1.0, 1.0, 6 / len(steps)],
    )  # fmt: skip
    lines = full[:, :, places].transpose(2, 3, 0, 1).reshape(-1, 2, 16)
    file = open_scan(write_scan(tmp_path / "5", lines, values), centre="header")
    full[:, :, [z for z in range(6) if z not in places]] = 0
    hybrid = ifftc(torch.from_numpy(full), dim=1)
    got = torch.from_numpy(np.stack([file.read_ksp(i) for i in range(16)], axis=1))
    torch.testing.assert_close(got, hybrid, rtol=0, atol=1e-3 * float(hybrid.abs().max()))


def test_3d_data_become_slices_across_the_readout(rng, tmp_path):
    """The slab lies 4 mm, two partitions, off the centre."""
    full = whole_numbers((2, 16, 10, 12), rng)  # (coil, readout, partition, line)
    values = parameters((16, 12, 10), 2, ACQ_slice_offset=[4.0])
    lines = full.transpose(2, 3, 0, 1).reshape(-1, 2, 16)
    file = open_scan(write_scan(tmp_path / "5", lines, values))
    assert file.shape == (16, 2, 10, 12) and file.voxel_mm == (2.0, 2.0, 2.0)
    hybrid = ifftc(torch.from_numpy(full), dim=1)
    moved = torch.roll(ifft2c(hybrid[:, 5]), -2, dims=-2)
    got = ifft2c(file[5].ksp[0])
    np.testing.assert_allclose(got.numpy(), moved.numpy(), atol=1e-3 * moved.abs().max())
    # y along the slice direction, x against the phase direction, slices against the readout.
    np.testing.assert_allclose(file.geometry.directions, [[0, 0, 1], [0, 1, 0], [1, 0, 0]])
    np.testing.assert_allclose(file.geometry.positions[8], [0, 0, 4])


@pytest.mark.parametrize(("word", "settings"), [("<i4", ""), ("<f8", "STORE_64bit_float")])
def test_paravision_360(word, settings, ksp, tmp_path):
    """Jobs instead of ACQ_size, no blocks; directions are those of the magnet."""
    values = parameters(SHAPE[2:], 2, 3, ACQ_sw_version="( 65 )\n<PV-360.3.4>")
    for name in ("ACQ_size", "GO_raw_data_format", "GO_block_size"):
        del values[name]
    values |= {
        "ACQ_jobs": "( 1 )\n(32, 36, 0, 36, 101, 20000, 36, 1, <job0>)",
        "ACQ_ReceiverSelectPerChan": "( 1, 4 )\nYes Yes No No",
        "ACQ_obj_order": "( 3 )\n0 1 2",
        "ACQ_phase1_offset": "( 3 )\n@3*(0)",
    }
    if settings:
        values["ACQ_ScanPipeJobSettings"] = f"( 1 )\n(STORE_processed, {settings}, 1)"
    folder = write_scan(
        tmp_path / "5", in_order(ksp), values, name="rawdata.job0", word=word, fill_up=False
    )
    assert_holds(folder, ksp)
    # Head first and supine: right, back and foot of the magnet's axes x, y and z.
    np.testing.assert_allclose(
        open_scan(folder).geometry.directions, [[-1, 0, 0], [0, 1, 0], [0, 0, -1]]
    )


def test_directions_are_those_of_the_gradients(ksp, tmp_path):
    """Oblique: rows of the matrix are read, phase and slice direction of the subject."""
    c, s = np.cos(0.3), np.sin(0.3)
    turn = np.array([[0.0, c, s], [1.0, 0.0, 0.0], [0.0, s, -c]])
    values = parameters(SHAPE[2:], 2, 3, ACQ_grad_matrix=np.tile(turn, (3, 1, 1)))
    geometry = open_scan(write_scan(tmp_path / "5", in_order(ksp), values)).geometry
    to_lps = np.diag([-1, -1, 1])
    np.testing.assert_allclose(geometry.directions, np.diag([-1, -1, 1]) @ turn @ to_lps, atol=1e-9)
    np.testing.assert_allclose(geometry.positions[2], 4 * to_lps @ turn[2], atol=1e-9)


def test_folders_stand_for_scans(ksp, tmp_path):
    study = tmp_path / "study"
    for number in (9, 10, 1):
        write_scan(study / str(number), in_order(ksp), parameters(SHAPE[2:], 2, 3))
    (study / "subject").write_text("##END=\n")
    (study / "3").mkdir()
    assert [scan.stem for scan in find_scans([study])] == ["1", "9", "10"]
    for entry in (study / "9", study / "9" / "fid"):
        (scan,) = find_scans([entry])
        assert (scan.stem, scan.name) == ("9", "9/fid")
    facts = contents(study / "9")
    assert (facts["kind"], facts["format"], facts["scan_id"]) == ("scan", "bruker", "9")
    assert len(contents(study)["files"]) == 3


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"Method": "<Bruker:EPI>"}, "not supported: EPI"),
        ({"PULPROG": "( 32 )\n<SPIRAL.ppg>"}, "not supported: spiral"),
        ({"Method": "<Bruker:UTE3D>"}, "not supported: radial"),
        ({"NPro": 402}, "not supported: radial"),
        ({"ACQ_dim_desc": "( 1 )\nSpectroscopic", "ACQ_dim": 1}, "not supported: spectroscopy"),
        ({"AQ_mod": "qf"}, "not supported: samples"),
        ({"ACQ_phase_factor": 5}, "trains of 5"),
        ({"NSLICES": 2}, "2 slices"),
        ({"ACQ_size": [32, 24]}, "36 readouts"),
        ({"ACQ_size": [700, 12]}, "cut off"),
        ({"PVM_EncSteps1": [0, 1, 2]}, "3 steps"),
        ({"BYTORDA": "middle"}, "stored"),
        ({"ACQ_dim": "two"}, "ACQ_dim"),
    ],
)
def test_what_cannot_be_reconstructed_is_refused(values, said, ksp, tmp_path):
    folder = write_scan(tmp_path / "5", in_order(ksp), parameters(SHAPE[2:], 2, 3, **values))
    with pytest.raises(ScanFormatError, match=said):
        open_scan(folder)


def test_incomplete_folders_are_refused(ksp, tmp_path):
    folder = write_scan(tmp_path / "5", in_order(ksp), parameters(SHAPE[2:], 2, 3))
    data = (folder / "fid").read_bytes()
    for n in (len(data) - 1024, len(data) - 100, 0):
        (folder / "fid").write_bytes(data[:n])
        with pytest.raises(ScanFormatError, match="cut off"):
            open_scan(folder)
    (folder / "fid").write_bytes(data)
    (folder / "acqp").unlink()
    with pytest.raises(ScanFormatError, match="acqp"):
        open_scan(folder)


def test_parameter_files(tmp_path):
    file = tmp_path / "acqp"
    file.write_text(
        "##TITLE=x\n$$ comment\n##$A=( 2, 2 )\n1 2 \n@2*(0.5)\n##$B=<a b>\n$$ @vis= A\n"
        "##$C=( 2 )\n(1, <x>, 2) (3, <y>, \n4)\n##$D=(1, 2)\n##END=\n"
    )
    found = read_parameters(file, file)
    assert found.numbers("A").tolist() == [1, 2, 0.5, 0.5] and found.text("B") == "a b"
    assert found.records("C") == [["1", "x", "2"], ["3", "y", "4"]]
    assert found.records("D") == [["1", "2"]] and found.integer("E", 7) == 7
    with pytest.raises(ScanFormatError, match="B"):
        found.numbers("B")
