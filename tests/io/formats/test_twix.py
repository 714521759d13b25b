"""Siemens twix files: what is read of files made line by line, and of a scanner's file."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from array_files import assert_holds
from numpy.typing import NDArray
from twix_files import SYNC, Line, Measurement, write_vb, write_vd

from mri_ambient.errors import ScanFormatError
from mri_ambient.io import find_scans, open_scan
from mri_ambient.io.formats.twix import directions
from mri_ambient.physics.axis_fourier import ifftc

SHAPE = (3, 4, 24, 18)
"""(slice, coil, y, x); the final matrix is 12 x 18."""

RT_FEEDBACK, PHASE_STAB, PHASE_CORRECTION, REFERENCE, REFERENCE_AND_IMAGE = 1, 15, 21, 22, 23
REVERSE, NOISE, DUMMY, LAST = 24, 25, 51, 11

BOTH = pytest.mark.parametrize("write", [write_vb, write_vd], ids=["VB", "VD"])


def protocol(**other: object) -> dict[str, object]:
    """For SHAPE, with a dwell time of 10 us; ``other`` by names with ``__`` for a dot."""
    values = {
        "tProtocolName": '"gre phantom"',
        "sKSpace.lBaseResolution": 12,
        "sKSpace.lPhaseEncodingLines": 18,
        "sKSpace.ucDimension": "0x2",
        "sKSpace.ucTrajectory": "0x1",
        "sSliceArray.asSlice[0].dReadoutFOV": 240.0,
        "sSliceArray.asSlice[0].dPhaseFOV": 180.0,
        "sSliceArray.asSlice[0].dThickness": 5.0,
        "sRXSPEC.alDwellTime[0]": 10000,
    }
    return values | {name.replace("__", "."): value for name, value in other.items()}


@pytest.fixture
def ksp(rng) -> NDArray[np.complex64]:
    """Random k-space of SHAPE."""
    return random_complex(SHAPE, rng)


def random_complex(shape: tuple[int, ...], rng: torch.Generator) -> NDArray[np.complex64]:
    parts = torch.randn((*shape, 2), generator=rng)
    return torch.view_as_complex(parts).numpy().astype(np.complex64)


def every_line(
    ksp: NDArray[np.complex64], change: Callable[[Line], Line] = lambda line: line, **counters: int
) -> list[Line]:
    """All lines, the slices interleaved, each slice 6 mm above the one before."""
    n_slices, _, _, nx = ksp.shape
    return [
        change(
            Line(
                ksp[s, :, :, x],
                {"line": x, "slice": s, **counters},
                center_line=nx // 2,
                position=(1.0, 2.0, 6.0 * s),
            )
        )
        for x in range(nx)
        for s in range(n_slices)
    ]


@BOTH
def test_lines_come_to_their_slice_and_column(write, ksp, tmp_path):
    path = write(tmp_path / "meas_ü.dat", [Measurement(every_line(ksp), protocol())])
    assert_holds(path, ksp)
    file = open_scan(path)
    assert (file.format, file.fully_sampled, file.scan_id) == ("siemens", True, "meas_ü")
    assert file.recon_shape == (12, 18) and file.voxel_mm == (20.0, 10.0, 6.0)
    assert file.readout_oversampling == 2 and file.noise is None
    assert [scan.stem for scan in find_scans([tmp_path])] == ["meas_ü"]


BY_TWIXTOOLS = """
import sys
import numpy as np
import twixtools
for path in sys.argv[1:]:
    found = twixtools.read_twix(path, parse_pmu=False, parse_geometry=False, verbose=False)[-1]
    np.savez(
        path + ".npz",
        line=[block.cLin for block in found["mdb"]], slice=[block.cSlc for block in found["mdb"]],
        samples=[block.data for block in found["mdb"]],
        base=found["hdr"]["MeasYaps"]["sKSpace"]["lBaseResolution"],
        oversampling=found["hdr"]["Meas"]["flReadoutOSFactor"],
    )
"""
"""In a process of its own: twixtools imports pyplot."""


def read_by_twixtools(*paths: Path) -> list[dict[str, NDArray]]:
    subprocess.run([sys.executable, "-c", BY_TWIXTOOLS, *map(str, paths)], check=True)
    return [dict(np.load(f"{path}.npz")) for path in paths]


def test_another_reader_finds_the_same_in_these_files(ksp, tmp_path):
    parts = [Measurement(every_line(ksp), protocol())]
    paths = [write(tmp_path / f"{write.__name__}.dat", parts) for write in (write_vb, write_vd)]
    for found in read_by_twixtools(*paths):
        assert (int(found["base"]), float(found["oversampling"])) == (12, 2)
        assert len(found["samples"]) == SHAPE[0] * SHAPE[3]
        wanted = ksp.transpose(0, 3, 1, 2)[found["slice"], found["line"]]
        np.testing.assert_array_equal(found["samples"], wanted)


def test_a_scanners_file_is_read_as_others_read_it(real_scans, tmp_path):
    path = real_scans.parent / "formats" / "siemens_gre_phantom.dat"
    if not path.exists():
        pytest.skip("no files of other formats")
    file = open_scan(path)
    assert file.shape == (1, 2, 320, 160) and file.recon_shape == (160, 160)
    assert file.voxel_mm == (1.25, 1.25, 4.0) and file.fully_sampled
    (tmp_path / "scan.dat").symlink_to(path)
    (found,) = read_by_twixtools(tmp_path / "scan.dat")
    ksp = file.read_ksp(0).transpose(2, 0, 1)
    np.testing.assert_array_equal(ksp[found["line"]], found["samples"])
    # The surface of the liquid lies towards the front, at high x; a transverse slice.
    np.testing.assert_allclose(file.geometry.directions[1], [0, -1, 0], atol=0.04)
    np.testing.assert_allclose(file.geometry.directions[2], [0, 0, 1], atol=0.04)


@BOTH
def test_readouts_of_no_image_are_left_out(write, ksp, tmp_path):
    other = np.full(SHAPE[1:3], 100, np.complex64)
    flags = [RT_FEEDBACK, PHASE_STAB, PHASE_CORRECTION, DUMMY, NOISE]
    lines = [Line(other, {"line": 3}, (flag,), center_line=9) for flag in flags]
    if write is write_vd:
        lines.append(Line(other, flags=(SYNC,)))
    assert_holds(
        write(tmp_path / "scan.dat", [Measurement(lines + every_line(ksp), protocol())]), ksp
    )


@BOTH
def test_reversed_readouts_are_turned_round(write, ksp, tmp_path):
    """The second of two echoes runs backwards."""

    def backwards(line: Line) -> Line:
        return replace(line, samples=line.samples[:, ::-1], flags=(REVERSE,))

    lines = every_line(2 * ksp) + every_line(ksp, backwards, contrast=1)
    path = write(tmp_path / "scan.dat", [Measurement(lines, protocol())])
    assert_holds(path, ksp, volume="con-2")
    assert_holds(path, 2 * ksp, volume="con-1")


def test_volumes_have_names_and_one_is_chosen(ksp, tmp_path):
    lines = [
        line
        for r in range(2) for s in range(2)
        for line in every_line((2 * r + s + 1) * ksp, repetition=r, set=s)
    ]  # fmt: skip
    path = write_vd(tmp_path / "scan.dat", [Measurement(lines, protocol(lRepetitions=1))])
    assert_holds(path, 4 * ksp, volume="rep-2_set-2")
    assert [scan.volume for scan in find_scans([path])] == [
        "rep-1_set-1", "rep-1_set-2", "rep-2_set-1", "rep-2_set-2"
    ]  # fmt: skip
    with pytest.raises(ScanFormatError, match="rep-2_set-1"):
        open_scan(path)


def test_averages_are_averaged(ksp, tmp_path):
    lines = every_line(ksp) + every_line(3 * ksp, average=1)
    assert_holds(write_vd(tmp_path / "scan.dat", [Measurement(lines, protocol())]), 2 * ksp)


def test_slices_are_ordered_by_position(ksp, tmp_path):
    """The counters run downwards."""

    def downwards(line: Line) -> Line:
        return replace(line, counters={**line.counters, "slice": 2 - line.counters["slice"]})

    path = write_vd(tmp_path / "scan.dat", [Measurement(every_line(ksp, downwards), protocol())])
    assert_holds(path, ksp)
    np.testing.assert_allclose(open_scan(path).geometry.positions[:, 2], [0, 6, 12])


@BOTH
def test_partial_fourier_leaves_columns_out(write, ksp, tmp_path):
    """The first five lines are missing: the counter begins after them, its centre is line 4."""

    def later(line: Line) -> Line:
        counters = {**line.counters, "line": line.counters["line"] - 5}
        return replace(line, counters=counters, center_line=4)

    lines = [line for line in every_line(ksp, later) if line.counters["line"] >= 0]
    path = write(tmp_path / "scan.dat", [Measurement(lines, protocol())])
    ksp[..., :5] = 0
    assert_holds(path, ksp)
    file = open_scan(path)
    assert file.acquired.tolist() == [False] * 5 + [True] * 13 and file.fully_sampled


def test_an_asymmetric_echo_leaves_rows_out(ksp, tmp_path):
    def late(line: Line) -> Line:
        return replace(line, samples=line.samples[:, 6:], center_sample=6)

    path = write_vd(tmp_path / "scan.dat", [Measurement(every_line(ksp, late), protocol())])
    ksp[:, :, :6] = 0
    assert_holds(path, ksp)


def test_samples_that_were_cut_off_count_as_not_measured(ksp, tmp_path):
    cut = [replace(line, cut=(3, 2)) for line in every_line(ksp)]
    path = write_vd(tmp_path / "scan.dat", [Measurement(cut, protocol())])
    ksp[:, :, :3] = 0
    ksp[:, :, 22:] = 0
    assert_holds(path, ksp)


def test_phase_oversampling_widens_the_encoded_field_of_view(ksp, tmp_path):
    values = protocol(sKSpace__dPhaseOversamplingForDialog=0.5)
    file = open_scan(write_vd(tmp_path / "scan.dat", [Measurement(every_line(ksp), values)]))
    assert file.recon_shape == (12, 12) and file.voxel_mm == (20.0, 15.0, 6.0)


def reference(line: Line) -> Line:
    """Lines 5 to 13 are reference lines, every other one of the image too."""
    number = line.counters["line"]
    both = (REFERENCE, REFERENCE_AND_IMAGE) if number % 4 else (REFERENCE_AND_IMAGE,)
    flags = (both if number % 2 == 0 else (REFERENCE,)) if 5 <= number <= 13 else ()
    return replace(line, flags=flags)


def accelerated(ksp: NDArray[np.complex64], **counters: int) -> list[Line]:
    """Every other line, and reference lines."""
    lines = every_line(ksp, reference, **counters)
    return [line for line in lines if line.counters["line"] % 2 == 0 or line.flags]


def test_integrated_reference_lines_belong_to_the_image(ksp, tmp_path):
    values = protocol(sPat__ucRefScanMode="0x2", sPat__lAccelFactPE=2)
    path = write_vd(tmp_path / "scan.dat", [Measurement(accelerated(ksp), values)])
    ksp[..., [1, 3, 15, 17]] = 0
    assert_holds(path, ksp)
    assert open_scan(path).calib_mask is None


def test_separate_reference_lines_are_for_the_coil_maps(ksp, tmp_path):
    values = protocol(sPat__ucRefScanMode="0x4", sPat__lAccelFactPE=2)
    path = write_vd(tmp_path / "scan.dat", [Measurement(accelerated(ksp), values)])
    file = open_scan(path)
    assert file.calib_mask[0, 0].tolist() == [5 <= x <= 13 for x in range(18)]
    np.testing.assert_allclose(file.read_calib(1)[..., 5:14], ksp[1, ..., 5:14], rtol=1e-6)
    ksp[..., 1::2] = 0
    assert_holds(path, ksp)


def test_reference_lines_of_the_first_repetition_serve_the_others(ksp, tmp_path):
    values = protocol(sPat__ucRefScanMode="0x2", sPat__lAccelFactPE=2)
    plain = [replace(line, flags=()) for line in every_line(2 * ksp, repetition=1)]
    lines = [*accelerated(ksp), *(line for line in plain if line.counters["line"] % 2 == 0)]
    file = open_scan(write_vd(tmp_path / "scan.dat", [Measurement(lines, values)]), volume="rep-2")
    np.testing.assert_allclose(file.read_calib(0)[..., 5:14], ksp[0, ..., 5:14], rtol=1e-6)


@pytest.mark.filterwarnings("ignore::mri_ambient.errors.NumericalWarning")
def test_reference_lines_of_another_matrix_are_left_out(ksp, tmp_path):
    values = protocol(sPat__ucRefScanMode="0x4")
    other = Line(np.ones((4, 30), np.complex64), {"line": 9}, (REFERENCE,), center_line=9)
    path = write_vd(tmp_path / "scan.dat", [Measurement([other, *every_line(ksp)], values)])
    assert_holds(path, ksp)
    file = open_scan(path)
    assert file.calib_mask is None and [w.code for w in file.warnings] == ["W-CALIBRATION-LINES"]


def test_3d_data_become_slices_across_the_readout(rng, tmp_path):
    """Slices along the readout, x the lines, y the partitions; sagittal readout to the feet."""
    full = random_complex((4, 24, 10, 18), rng)  # (coil, readout, partition, line)
    half = np.sqrt(0.5)
    lines = [
        Line(full[:, :, z, x], {"line": x, "partition": z}, center_line=9, center_partition=5,
             position=(1, 2, 3), quaternion=(half, 0, half, 0))
        for z in range(10) for x in range(18)
    ]  # fmt: skip
    values = protocol(
        sKSpace__ucDimension=4, sKSpace__lPartitions=10,
        **{"sSliceArray.asSlice[0].dThickness": 50.0},
    )  # fmt: skip
    file = open_scan(write_vd(tmp_path / "scan.dat", [Measurement(lines, values)]))
    assert file.shape == (12, 4, 10, 18) and file.voxel_mm == (5.0, 10.0, 20.0)
    hybrid = ifftc(torch.from_numpy(full), dim=1)[:, 6:18]
    for index in range(12):
        np.testing.assert_allclose(file.read_ksp(index), hybrid[:, index], atol=1e-5)
    turn = rotation("y", 90)
    np.testing.assert_allclose(
        file.geometry.directions, [-turn[:, 2], -turn[:, 0], -turn[:, 1]], atol=1e-6
    )
    np.testing.assert_allclose(file.geometry.positions[6], [1, 2, 3], atol=1e-5)


def test_noise_is_scaled_to_the_bandwidth_of_the_image(ksp, tmp_path, rng):
    """256 samples at 130 Hz each: 30 us; 10 us for the image; filters leave 0.793."""
    noise = random_complex((4, 256), rng)
    lines = [Line(noise, flags=(NOISE,)), *every_line(ksp)]
    file = open_scan(write_vd(tmp_path / "scan.dat", [Measurement(lines, protocol())]))
    np.testing.assert_allclose(file.noise, noise * np.sqrt(30 / 10 / 0.793), rtol=1e-5)
    file = open_scan(write_vb(tmp_path / "vb.dat", [Measurement(lines, protocol())]))
    dwell_us = 1e6 / 256 / 130
    np.testing.assert_allclose(file.noise, noise * np.sqrt(dwell_us / 7.93), rtol=1e-5)


def test_noise_of_other_coils_is_left_out(ksp, tmp_path, rng):
    noise, other = random_complex((4, 256), rng), random_complex((3, 256), rng)
    lines = [Line(noise, flags=(NOISE,)), Line(other, flags=(NOISE,)), *every_line(ksp)]
    file = open_scan(write_vd(tmp_path / "scan.dat", [Measurement(lines, protocol())]))
    np.testing.assert_allclose(file.noise, noise * np.sqrt(30 / 7.93), rtol=1e-5)


def test_the_image_is_that_of_the_last_measurement_with_one(ksp, tmp_path, rng):
    """Noise may be of a measurement before it, with the same coils."""
    noise, other = random_complex((4, 256), rng), random_complex((4, 256), rng)
    parts = [
        Measurement([Line(noise, flags=(NOISE,)), *every_line(5 * ksp)], protocol()),
        Measurement([Line(other, flags=(NOISE,), coils=(4, 5, 6, 7))], protocol()),
        Measurement(every_line(ksp), protocol()),
        Measurement([Line(other, flags=(RT_FEEDBACK,))], protocol()),
    ]
    path = write_vd(tmp_path / "scan.dat", parts)
    assert_holds(path, ksp)
    assert_holds(path, 5 * ksp, volume="meas-1")
    np.testing.assert_allclose(open_scan(path).noise, noise * np.sqrt(30 / 7.93), rtol=1e-5)
    assert open_scan(path, volume="meas-1").scan_id == "scan_meas-1"
    with pytest.raises(ScanFormatError, match="no readouts"):
        open_scan(path, volume="meas-4")
    with pytest.raises(ScanFormatError, match="4 measurements"):
        open_scan(path, volume="meas-5")


def rotation(axis: str, degrees: float) -> NDArray[np.float64]:
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    i, j = {"x": (1, 2), "y": (2, 0), "z": (0, 1)}[axis]
    matrix = np.eye(3)
    matrix[[i, i, j, j], [i, j, i, j]] = c, -s, s, c
    return matrix


@pytest.mark.parametrize("axis", ["x", "y", "z"])
@pytest.mark.parametrize("degrees", [0, 30, 90, -120])
def test_directions_are_the_columns_of_the_rotation(axis, degrees):
    half = np.radians(degrees) / 2
    quaternion = [np.cos(half), *(np.sin(half) * (name == axis) for name in "xyz")]
    got = np.stack(directions(np.array(quaternion)), axis=1)
    np.testing.assert_allclose(got, rotation(axis, degrees), atol=1e-12)


def test_geometry_is_that_of_the_records(ksp, tmp_path):
    """Sagittal: the slices rise to the left, readout runs to the feet, phase to the back.

    An image of the inverse FFT rises against readout and phase.
    """
    half = np.sqrt(0.5)
    turn = rotation("y", 90)  # phase, read, normal = -z, y, x
    lines = [
        replace(line, quaternion=(half, 0, half, 0), position=(6.0 * line.counters["slice"], 1, 2))
        for line in every_line(ksp)
    ]
    geometry = open_scan(write_vd(tmp_path / "scan.dat", [Measurement(lines, protocol())])).geometry
    np.testing.assert_allclose(
        geometry.directions, [-turn[:, 1], -turn[:, 0], turn[:, 2]], atol=1e-6
    )
    np.testing.assert_allclose(geometry.positions, [[0, 1, 2], [6, 1, 2], [12, 1, 2]])


def test_slices_of_several_directions_have_no_geometry(ksp, tmp_path):
    """A localizer; its slices are ordered by their counters."""
    half = np.sqrt(0.5)
    turns = [(1, 0, 0, 0), (half, 0, half, 0), (half, half, 0, 0)]
    lines = [
        replace(line, quaternion=turns[line.counters["slice"]], position=(0, 0, 0))
        for line in every_line(ksp)
    ]
    path = write_vd(tmp_path / "scan.dat", [Measurement(lines, protocol())])
    assert_holds(path, ksp)
    assert open_scan(path).geometry is None


@BOTH
@pytest.mark.parametrize("share", [0.3, 0.9])
def test_a_file_that_was_cut_off_is_refused(write, share, ksp, tmp_path):
    whole = write(tmp_path / "whole.dat", [Measurement(every_line(ksp), protocol())]).read_bytes()
    start = 20256 if write is write_vd else 10016
    path = tmp_path / "scan.dat"
    path.write_bytes(whole[: start + int(share * (len(whole) - start))])
    with pytest.raises(ScanFormatError, match="cut off after"):
        open_scan(path)
    path.write_bytes(whole[:9000])
    with pytest.raises(ScanFormatError, match="cut off"):
        open_scan(path)


@BOTH
def test_a_file_without_its_end_is_read_if_no_readout_is_missing(write, ksp, tmp_path):
    lines = every_line(ksp)
    lines[-1] = replace(lines[-1], flags=(LAST,))
    path = write(tmp_path / "scan.dat", [Measurement(lines, protocol(), end=False)])
    assert_holds(path, ksp)
    path = write(tmp_path / "two.dat", [Measurement(lines, protocol(lRepetitions=1), end=False)])
    with pytest.raises(ScanFormatError, match="1 of 2 repetitions"):
        open_scan(path)


def test_a_file_cut_off_before_its_image_is_refused(ksp, tmp_path):
    """Its adjustment is no image of the scan; zeros at the end are no readouts."""
    parts = [Measurement(every_line(ksp), protocol()), Measurement(every_line(ksp), protocol())]
    path = write_vd(tmp_path / "scan.dat", parts)
    data = path.read_bytes()
    size = (len(data) - 10240) // 2
    path.write_bytes(data[: 10240 + size - 100])
    with pytest.raises(ScanFormatError, match="cut off"):
        open_scan(path)
    path.write_bytes(data[: 10240 + size + 15000] + bytes(size - 15000))
    with pytest.raises(ScanFormatError, match="cut off"):
        open_scan(path)
    assert_holds(path, ksp, volume="meas-1")


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"sKSpace__ucTrajectory": "0x2"}, "not supported: radial"),
        ({"sKSpace__ucTrajectory": 4}, "not supported: spiral"),
        ({"sFastImaging__lEPIFactor": 18}, "not supported: EPI"),
        ({"sSliceAcceleration__lMultiBandFactor": 2}, "not supported: simultaneous"),
        ({"sKSpace__lBaseResolution": 7}, "14"),
        ({"sKSpace__lPhaseEncodingLines": 10}, "10 lines"),
        ({"sKSpace__lPhaseEncodingLines": 999999999}, "999999999"),
        ({"sKSpace__lBaseResolution": "twelve"}, "twelve"),
    ],
)
def test_what_cannot_be_reconstructed_is_refused(values, said, ksp, tmp_path):
    path = write_vd(tmp_path / "scan.dat", [Measurement(every_line(ksp), protocol(**values))])
    with pytest.raises(ScanFormatError, match=said):
        open_scan(path)


def test_a_single_line_is_no_image(ksp, tmp_path):
    lines = [line for line in every_line(ksp) if line.counters["line"] == 9]
    path = write_vd(tmp_path / "scan.dat", [Measurement(lines, protocol())])
    with pytest.raises(ScanFormatError, match="not supported: spectroscopy"):
        open_scan(path)


def test_a_centre_that_was_left_at_zero_is_in_the_middle(ksp, tmp_path):
    lines = [replace(line, center_line=0) for line in every_line(ksp)]
    assert_holds(write_vd(tmp_path / "scan.dat", [Measurement(lines, protocol())]), ksp)


def test_lines_of_one_image_in_both_directions_are_refused(ksp, tmp_path):
    lines = [replace(line, flags=(REVERSE,) if line.counters["line"] % 2 else ())
             for line in every_line(ksp)]  # fmt: skip
    path = write_vd(tmp_path / "scan.dat", [Measurement(lines, protocol())])
    with pytest.raises(ScanFormatError, match="not supported: EPI"):
        open_scan(path)


def test_a_header_without_a_protocol_is_refused(ksp, tmp_path):
    path = write_vd(tmp_path / "scan.dat", [Measurement(every_line(ksp), {})])
    with pytest.raises(ScanFormatError, match="Meas"):
        open_scan(path)


def test_a_volume_of_a_measurement_has_both_in_its_name(ksp, tmp_path):
    lines = [line for c in range(2) for line in every_line((c + 1) * ksp, contrast=c)]
    parts = [Measurement(lines, protocol()), Measurement(every_line(5 * ksp), protocol())]
    path = write_vd(tmp_path / "scan.dat", parts)
    assert_holds(path, 2 * ksp, volume="meas-1_con-2")
    assert open_scan(path, volume="meas-1_con-2").output_stem == "scan_meas-1_con-2"
    with pytest.raises(ScanFormatError, match="con-1"):
        open_scan(path, volume="meas-1")


@pytest.mark.parametrize("content", [b"", b"1 2 3\n" * 1000, bytes(20000), b"\xff" * 20000])
def test_other_dat_files_are_refused(content, tmp_path):
    path = tmp_path / "scan.dat"
    path.write_bytes(content)
    with pytest.raises(ScanFormatError, match="Siemens"):
        open_scan(path)
