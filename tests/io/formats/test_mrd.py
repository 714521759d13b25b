"""2-D scans in ISMRMRD files, and what is read from them."""

from __future__ import annotations

import re
import shutil
import subprocess
import warnings
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import h5py
import ismrmrd
import mrd_files
import numpy as np
import pytest
import sound_files
import torch
from array_files import assert_holds
from mrd_files import Line
from numpy.typing import NDArray

from mri_ambient.errors import NumericalWarning, ScanFormatError
from mri_ambient.io import ScanFile, build_header, find_scans, open_scan
from mri_ambient.physics.fourier import ifft2c
from mri_ambient.physics.mask_spec import MaskSpec
from mri_ambient.recon.pipeline import reconstruct
from mri_ambient.recon.recipe import Recipe

SHAPE = (3, 4, 24, 18)
"""(slice, coil, y, x)."""

PLAIN = Recipe("zero-filled")

DUMMY = ismrmrd.ACQ_IS_DUMMYSCAN_DATA

MULTIBAND = (
    "<parallelImaging><multiband><multiband_factor>2</multiband_factor></multiband>"
    "</parallelImaging>"
)

PHASE_CORRECTION = ismrmrd.ACQ_IS_PHASECORR_DATA


def header(extra: str = "", oversampling: int = 1) -> str:
    """For SHAPE; ``extra`` is added to the encoding."""
    _, n_coils, ny, nx = SHAPE
    text = build_header(
        (ny, nx), (ny // oversampling, nx), (240.0 * oversampling, 180.0), (240.0, 180.0), 5.0,
        SHAPE[0], n_coils,
    )  # fmt: skip
    return text.replace(
        "<trajectory>cartesian</trajectory>", f"<trajectory>cartesian</trajectory>{extra}"
    )


def write(
    path: Path, lines: Iterable[Line], xml: str | None = None, group: str = "dataset"
) -> Path:
    return mrd_files.write(path, lines, xml or header(), group)


@pytest.fixture
def ksp(rng) -> NDArray[np.complex64]:
    """Random k-space of SHAPE."""
    parts = torch.randn((*SHAPE, 2), generator=rng)
    return torch.view_as_complex(parts).numpy().astype(np.complex64)


def every_line(
    ksp: NDArray[np.complex64], change: Callable[[Line], Line] = lambda x: x
) -> list[Line]:
    """All lines, the slices interleaved, each slice 6 mm above the one before."""
    return [
        change(Line(ksp[s, :, :, x], step1=x, slice=s, position=(0.0, 0.0, 6.0 * s)))
        for x in range(SHAPE[3])
        for s in range(SHAPE[0])
    ]


def test_lines_come_to_their_slice_and_column(ksp, tmp_path):
    path = write(tmp_path / "scan.h5", every_line(ksp))
    assert_holds(path, ksp)
    file = open_scan(path)
    assert (file.format, file.fully_sampled, file.scan_id) == ("ismrmrd", True, "scan")
    assert file.recon_shape == SHAPE[2:] and file.voxel_mm == (10.0, 10.0, 6.0)


def test_the_group_may_have_any_name(ksp, tmp_path):
    assert_holds(write(tmp_path / "scan.mrd", every_line(ksp), group="measurement"), ksp)


def test_slices_are_ordered_by_position(ksp, tmp_path):
    """The counters run downwards."""

    def downwards(line: Line) -> Line:
        line.slice = SHAPE[0] - 1 - line.slice
        return line

    assert_holds(write(tmp_path / "scan.h5", every_line(ksp, downwards)), ksp)


def test_without_positions_slices_are_ordered_by_counter(ksp, tmp_path):
    def nowhere(line: Line) -> Line:
        line.position = (0.0, 0.0, 0.0)
        return line

    assert_holds(write(tmp_path / "scan.h5", every_line(ksp, nowhere)), ksp)


@pytest.mark.parametrize("center", [12, 11])
def test_reversed_readouts_are_turned_round(center, ksp, tmp_path):
    """Their centre is counted after the turn, or in the order acquired: 12 becomes 11 of 24."""

    def every_other(line: Line) -> Line:
        if line.step1 % 2:
            line.samples, line.flags = line.samples[:, ::-1], (ismrmrd.ACQ_IS_REVERSE,)
            line.center = center
        return line

    path = write(tmp_path / "scan.h5", every_line(ksp, every_other))
    assert_holds(path, ksp)
    assert open_scan(path).fully_sampled


@pytest.mark.parametrize("center", [6, 9])
def test_reversed_partial_echoes(center, ksp, tmp_path):
    """16 of 24 samples, k = 0 at 6: in reversed ones too, or at 9 in the order acquired."""

    def partial(line: Line) -> Line:
        line.samples, line.center = line.samples[:, 6:22], 6
        if line.step1 % 2:
            line.samples, line.center = line.samples[:, ::-1], center
            line.flags = (ismrmrd.ACQ_IS_REVERSE,)
        return line

    path = write(tmp_path / "scan.h5", every_line(ksp, partial))
    ksp[:, :, :6] = ksp[:, :, 22:] = 0
    assert_holds(path, ksp)


@pytest.mark.parametrize("flag", [23, 24, 26, 27, 28, 29, 30, 31])
def test_readouts_of_no_image_are_left_out(flag, ksp, tmp_path):
    lines = every_line(ksp)
    others = [replace(line, samples=100 * line.samples[:, ::-1], flags=(flag,)) for line in lines]
    assert_holds(write(tmp_path / "scan.h5", [*lines, *others]), ksp)


def test_slices_at_other_positions_are_other_slices_whatever_their_counter(ksp, tmp_path):
    lines = every_line(ksp)
    for line in lines:
        line.position, line.slice = (0.0, 0.0, 7.0 * line.slice), 0
    file = opened(write(tmp_path / "scan.h5", lines))
    assert file.shape == SHAPE
    for index in range(SHAPE[0]):
        np.testing.assert_array_equal(file.read_ksp(index), ksp[index])
    np.testing.assert_allclose(file.geometry.positions[:, 2], [0, 7, 14])
    assert "W-HEADER-COUNTS" in [warning.code for warning in file.warnings]


def test_a_field_of_view_that_follows_the_patient_is_one_slice(ksp, tmp_path):
    lines = every_line(ksp)
    for line in lines:
        line.position = (0.1 * line.step1, 0.0, 7.0 * line.slice)
    assert_holds(write(tmp_path / "scan.h5", lines), ksp)


@pytest.mark.parametrize("center", [0, 11, 23])
def test_centres_of_whole_readouts_may_be_off(center, ksp, tmp_path):
    lines = every_line(ksp, lambda line: replace(line, center=center))
    assert_holds(write(tmp_path / "scan.h5", lines), ksp)


@pytest.mark.parametrize("center", [0, 12, 24])
def test_oversampling_may_have_been_removed_though_the_header_has_it(center, ksp, tmp_path):
    """As Gadgetron writes it: the samples are those of SHAPE, the header has twice the rows."""
    _, n_coils, ny, nx = SHAPE
    fields = (480.0, 180.0), (240.0, 180.0)
    xml = build_header((2 * ny, nx), (ny, nx), *fields, 5.0, SHAPE[0], n_coils)
    path = write(tmp_path / "scan.h5", every_line(ksp, lambda x: replace(x, center=center)), xml)
    assert_holds(path, ksp)
    file = open_scan(path)
    assert file.fully_sampled and file.readout_oversampling == 1
    assert file.recon_shape == SHAPE[2:] and file.voxel_mm == (10.0, 10.0, 6.0)


def test_averages_are_averaged(ksp, tmp_path):
    lines = every_line(ksp)
    again = [Line(3 * line.samples, line.step1, line.slice, {"average": 1}, position=line.position)
             for line in lines]  # fmt: skip
    assert_holds(write(tmp_path / "scan.h5", lines + again), 2 * ksp)


def test_an_asymmetric_echo_leaves_rows_out(ksp, tmp_path):
    def late(line: Line) -> Line:
        line.samples, line.center = line.samples[:, 6:], SHAPE[2] // 2 - 6
        return line

    path = write(tmp_path / "scan.h5", every_line(ksp, late))
    ksp[:, :, :6] = 0
    assert_holds(path, ksp)
    assert open_scan(path).mask[0].any(axis=1).tolist() == [False] * 6 + [True] * 18


def test_partial_fourier_leaves_columns_out(ksp, tmp_path):
    """By the limits: the centre is at step 5, the last one is step 13."""
    limits = (
        "<encodingLimits><kspace_encoding_step_1><minimum>0</minimum><maximum>13</maximum>"
        "<center>5</center></kspace_encoding_step_1></encodingLimits>"
    )
    xml = header()
    start, end = xml.index("<encodingLimits>"), xml.index("</encodingLimits>") + 17
    lines = [line for line in every_line(ksp) if line.step1 >= 4]
    for line in lines:
        line.step1 -= 4
    path = write(tmp_path / "scan.h5", lines, xml[:start] + limits + xml[end:])
    ksp[..., :4] = 0
    assert_holds(path, ksp)
    file = open_scan(path)
    assert file.acquired.tolist() == [False] * 4 + [True] * 14 and file.fully_sampled


@pytest.mark.parametrize(("mode", "used"), [("embedded", True), ("separate", False)])
def test_calibration_lines_count_if_they_are_of_this_measurement(mode, used, ksp, tmp_path):
    def calibration(line: Line) -> Line:
        line.flags = (ismrmrd.ACQ_IS_PARALLEL_CALIBRATION,) if line.step1 in (8, 9) else ()
        return line

    extra = f"<parallelImaging><calibrationMode>{mode}</calibrationMode></parallelImaging>"
    path = write(tmp_path / "scan.h5", every_line(ksp, calibration), header(extra))
    if not used:
        ksp[..., 8:10] = 0
    assert_holds(path, ksp)


def test_a_noise_measurement_is_scaled_to_the_bandwidth_of_the_image(ksp, tmp_path, rng):
    """Dwell times 2 and 8 us, filters leave 0.5: the image has 2 / 8 / 0.5 of its power."""
    parts = torch.randn((SHAPE[1], 4000, 2), generator=rng)
    noise = torch.view_as_complex(parts).numpy().astype(np.complex64)
    xml = header().replace(
        "<receiverChannels>",
        "<relativeReceiverNoiseBandwidth>0.5</relativeReceiverNoiseBandwidth><receiverChannels>",
    )
    lines = [Line(noise, flags=(ismrmrd.ACQ_IS_NOISE_MEASUREMENT,), dwell_us=2.0)]

    def slow(line: Line) -> Line:
        line.dwell_us = 8.0
        return line

    path = write(tmp_path / "scan.h5", lines + every_line(ksp, slow), xml)
    assert_holds(path, ksp)
    np.testing.assert_allclose(open_scan(path).noise, noise * np.sqrt(0.5), rtol=1e-5)


def test_volumes_have_names_and_one_is_chosen(ksp, tmp_path):
    lines = [
        Line((c + 10 * r + 1) * line.samples, line.step1, line.slice,
             {"contrast": c, "repetition": r}, position=line.position)
        for c in range(2) for r in range(2) for line in every_line(ksp)
    ]  # fmt: skip
    path = write(tmp_path / "scan.h5", lines)
    assert_holds(path, 12 * ksp, volume="con-2_rep-2")
    assert open_scan(path, volume="con-2_rep-1").scan_id == "scan_con-2_rep-1"
    for volume in (None, "con-3_rep-1"):
        with pytest.raises(ScanFormatError, match="con-1_rep-2"):
            open_scan(path, volume=volume)


@pytest.mark.filterwarnings("ignore::mri_ambient.errors.NumericalWarning")
def test_images_of_two_volumes_do_not_overwrite_each_other(ksp, tmp_path):
    lines = [
        Line((r + 1) * line.samples, line.step1, line.slice, {"repetition": r},
             position=line.position)
        for r in range(2) for line in every_line(ksp)
    ]  # fmt: skip
    path = write(tmp_path / "scan.h5", lines)
    recs = [reconstruct(open_scan(path, volume=name), PLAIN) for name in ("rep-1", "rep-2")]
    saved = [rec.save(tmp_path / "out") for rec in recs]
    assert [file.name for file in saved] == ["scan_rep-1.h5", "scan_rep-2.h5"]
    assert recs[0].report["settings"] != recs[1].report["settings"]
    np.testing.assert_allclose(recs[1].magnitude, 2 * recs[0].magnitude, rtol=0.02)
    undersampled = reconstruct(
        open_scan(path, volume="rep-2"), replace(PLAIN, retrospective=MaskSpec("random", 1.5, 8))
    )
    assert undersampled.save(tmp_path / "half").name == "scan_rep-2.h5"


@pytest.mark.filterwarnings("ignore::mri_ambient.errors.NumericalWarning")
def test_an_image_is_that_of_the_same_k_space_in_another_format(ksp, tmp_path):
    """With readout oversampling, undersampled; to the bit."""
    xml = header(oversampling=2)
    ksp[..., [0, 2, 3, 16]] = 0
    lines = [line for line in every_line(ksp) if ksp[..., line.step1].any()]
    ours = write(tmp_path / "scan.h5", lines, xml)
    other = tmp_path / "other" / "scan.h5"
    other.parent.mkdir()
    with h5py.File(other, "w") as file:
        file["kspace"], file["ismrmrd_header"] = ksp, xml
    found, wanted = (reconstruct(path, PLAIN).complex for path in (ours, other))
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.filterwarnings("ignore::mri_ambient.errors.NumericalWarning")
def test_records_that_another_writer_padded(real_scans):
    """A simulated brain by MRIReco.jl; ismrmrd itself cannot read it."""
    path = real_scans.parent / "formats" / "ismrmrd_simulated_brain.h5"
    if not path.exists():
        pytest.skip("no files of other formats")
    file = open_scan(path)
    assert file.shape == (1, 1, 256, 256) and file.fully_sampled
    rec = reconstruct(file, PLAIN)
    centre, corner = rec.magnitude[0, 96:160, 96:160], rec.magnitude[0, :16, :16]
    assert centre.mean() > 50 * corner.mean()


def backwards(lines: list[Line]) -> list[Line]:
    """Every other line is flagged as reversed."""
    for line in lines[::2]:
        line.flags = (ismrmrd.ACQ_IS_REVERSE,)
    return lines


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda lines, xml: (lines, xml.replace("cartesian", "spiral")), "spiral"),
        (lambda lines, xml: (lines, xml.replace("<x>24</x>", "<x>20</x>", 1)), "20"),
        (lambda lines, xml: (lines, xml.replace("<y>18</y>", "<y>10</y>", 1)), "10 columns"),
        (lambda lines, xml: (lines, xml.replace("<x>24</x>", "<x>999999999</x>", 1)), "999999999"),
        (lambda lines, xml: (lines, xml.replace("<y>18</y>", "<y>999999999</y>", 1)), "999999999"),
        (lambda lines, xml: (lines, xml.replace("cartesian", "epi")), "not supported: EPI"),
        (lambda lines, xml: (lines, xml.replace("</trajectory>", f"</trajectory>{MULTIBAND}")),
         "multiband"),
        (lambda lines, xml: ([*backwards(lines), Line(lines[0].samples, flags=(PHASE_CORRECTION,))],
                             xml), "not supported: EPI"),
        (lambda lines, xml: ([*lines, Line(lines[0].samples[:, :18], center=0)], xml), "outside"),
        (lambda lines, xml: ([*lines, Line(lines[0].samples[:2])], xml), "coils"),
        (lambda lines, xml: ([*lines, Line(lines[0].samples, encoding=1)], xml), "encoding"),
        (lambda lines, xml: ([Line(lines[0].samples, flags=(DUMMY,))], xml), "no readouts"),
        (lambda lines, xml: (lines, "<a/>"), "ismrmrdHeader"),
        (lambda lines, xml: ([*lines, Line(lines[0].samples[:, :9], center=9)], xml), "centre"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_refused(change, said, ksp, tmp_path):
    path = write(tmp_path / "scan.h5", *change(every_line(ksp), header()))
    with pytest.raises(ScanFormatError, match=said):
        open_scan(path)


def test_records_of_another_kind_are_refused(tmp_path):
    path = tmp_path / "scan.h5"
    for head in ([("time", "u4")], [("flags", "u8"), ("idx", [("slice", "u2")])]):
        with h5py.File(path, "w") as file:
            file["dataset/xml"] = header()
            file["dataset/data"] = np.zeros(3, [("head", head), ("data", "f4", (2,))])
        with pytest.raises(ScanFormatError, match="facts"):
            open_scan(path)


def test_nan_in_a_readout_is_refused(ksp, tmp_path):
    ksp[1, 2, 3, 4] = np.nan
    file = open_scan(write(tmp_path / "scan.h5", every_line(ksp)))
    with pytest.raises(ScanFormatError):
        file.read_ksp(1)


def test_compressed_records_are_the_same(ksp, tmp_path):
    path = write(tmp_path / "scan.h5", every_line(ksp))
    with h5py.File(path, "a") as file:
        records = file["dataset/data"][:]
        dtype = file["dataset/data"].dtype
        del file["dataset/data"]
        file.create_dataset("dataset/data", data=records, dtype=dtype, chunks=(7,), compression=4)
    assert_holds(path, ksp)


@pytest.mark.skipif(
    shutil.which("ismrmrd_generate_cartesian_shepp_logan") is None, reason="no ismrmrd-tools"
)
@pytest.mark.filterwarnings("ignore::mri_ambient.errors.NumericalWarning")
def test_the_phantom_of_the_standard(tmp_path):
    """Noise scan, 2-fold oversampling, 3 repetitions that sample other lines; by ISMRMRD's tool."""
    options = ["-m", "64", "-c", "6", "-a", "3", "-w", "0", "-n", "0.01", "-C", "-d", "other"]
    command = ["ismrmrd_generate_cartesian_shepp_logan", *options, "-o", tmp_path / "scan.h5"]
    subprocess.run(command, check=True, capture_output=True)
    scans = find_scans([tmp_path])
    assert [scan.volume for scan in scans] == ["rep-1", "rep-2", "rep-3"]
    file = scans[1].open()
    assert (file.shape, file.recon_shape, file.noise.shape[0]) == ((1, 6, 128, 64), (64, 64), 6)
    source = ismrmrd.Dataset(str(tmp_path / "scan.h5"), "other", create_if_needed=False)
    lines = [source.read_acquisition(i) for i in range(source.number_of_acquisitions())]
    source.close()
    image = [line for line in lines if not line.is_flag_set(ismrmrd.ACQ_IS_NOISE_MEASUREMENT)]
    for line in (line for line in image if line.idx.repetition == 1):
        found = file.read_ksp(0)[:, :, line.idx.kspace_encode_step_1]
        np.testing.assert_array_equal(found, line.data)
    whole = np.zeros((6, 128, 64), np.complex64)
    for line in image:
        whole[:, :, line.idx.kspace_encode_step_1] = line.data
    rss = (ifft2c(torch.from_numpy(whole)).abs() ** 2).sum(dim=0).sqrt()[32:96].numpy()
    rec = reconstruct(file, Recipe("cg-sense")).magnitude[0]
    inside = rss > 0.1 * rss.max()
    assert np.linalg.norm((rec - rss)[inside]) < 0.15 * np.linalg.norm(rss[inside])


def test_only_files_with_several_volumes_have_one_to_choose(tmp_path):
    with h5py.File(tmp_path / "scan.h5", "w") as file:
        file["kspace"] = np.ones(SHAPE, np.complex64)
    with pytest.raises(ScanFormatError):
        open_scan(tmp_path / "scan.h5", volume="rep-1")


def opened(path: Path) -> ScanFile:
    """Its warnings are in ``warnings``."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NumericalWarning)
        return open_scan(path)


def codes_of_opening(path: Path) -> list[str]:
    return [warning.code for warning in opened(path).warnings]


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda lines, xml: ([line for line in lines if line.slice != 1], xml), "W-MISSING-SLICES"),
        (lambda lines, xml: ([line for line in lines if line.step1 != 5], xml), "W-MISSING-LINES"),
        (lambda lines, xml: (lines, xml.replace("<receiverChannels>4", "<receiverChannels>8")),
         "W-HEADER-COUNTS"),
        (lambda lines, xml: (lines, xml.replace("<maximum>2<", "<maximum>1<")),
         "W-HEADER-COUNTS"),
    ],
    ids=["slice", "line", "coils", "slices"],
)  # fmt: skip
def test_what_the_header_announces_is_missed(change, code, ksp, tmp_path):
    path = write(tmp_path / "scan.h5", *change(every_line(ksp), header()))
    assert codes_of_opening(path) == [code]


@pytest.mark.parametrize(
    ("first", "last", "steps"),
    [(0, 12, "12 to 20"), (9, 21, "0 to 8"), (0, 13, None), (8, 21, None), (4, 17, None)],
)
def test_many_lines_at_one_end_of_the_limits_are_missed(first, last, steps, tmp_path, rng):
    """By a header that gives its limits; one without may belong to a partial Fourier scan."""
    ksp = torch.view_as_complex(torch.randn(2, 8, 21, 2, generator=rng)).numpy()
    lines = [Line(ksp[..., x], step1=x) for x in range(first, last)]
    xml = build_header((8, 21), (8, 21), (80.0, 210.0), (80.0, 210.0), 5.0, 1, 2)
    file = opened(write(tmp_path / "scan.h5", lines, xml))
    assert [warning.code for warning in file.warnings] == ["W-MISSING-LINES"] * bool(steps)
    assert not steps or f"steps {steps} of" in file.warnings[0].text
    xml = re.sub("<encodingLimits>.*</encodingLimits>", "", xml)
    assert codes_of_opening(write(tmp_path / "free.h5", lines, xml)) == []


def test_regular_undersampling_is_not_missing_lines(ksp, tmp_path):
    extra = (
        "<parallelImaging><accelerationFactor><kspace_encoding_step_1>3</kspace_encoding_step_1>"
        "</accelerationFactor></parallelImaging>"
    )
    lines = [line for line in every_line(ksp) if line.step1 % 3 == 1]
    assert codes_of_opening(write(tmp_path / "whole.h5", lines, header(extra))) == []
    irregular = [line for line in every_line(ksp) if line.step1 in (0, 3, 7, 8, 9, 10, 14, 16)]
    assert codes_of_opening(write(tmp_path / "irregular.h5", irregular)) == []


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"directions": ((1, 0, 0), (0.6, 0.8, 0), (0, 0, 1))}, "W-GEOMETRY"),
        ({"position": (0, 0, 40)}, "W-GEOMETRY"),
        ({"directions": np.zeros((3, 3))}, None),
        ({"position": (0, 0, 0)}, None),
    ],
    ids=["skew", "one place", "no directions", "no positions"],
)
def test_a_place_that_contradicts_itself_is_not_known(change, code, ksp, tmp_path):
    lines = every_line(ksp, lambda line: replace(line, **change))
    path = write(tmp_path / "scan.h5", lines)
    assert codes_of_opening(path) == ([code] if code else [])
    file = opened(path)
    assert file.geometry is None and file.voxel_mm == (10, 10, 5)
    np.testing.assert_allclose(file.read_ksp(2), ksp[2], rtol=1e-6)


def test_slices_in_several_directions_have_no_geometry(ksp, tmp_path):
    """A localiser."""

    def tilted(line: Line) -> Line:
        turned = ((1, 0, 0), (0, 0, -1), (0, 1, 0)) if line.slice == 2 else line.directions
        return replace(line, directions=turned)

    path = write(tmp_path / "scan.h5", every_line(ksp, tilted))
    assert codes_of_opening(path) == ["W-GEOMETRY"]


def test_a_gap_between_slices_is_told(ksp, tmp_path):
    def further(line: Line) -> Line:
        return replace(line, position=(0, 0, 40)) if line.slice == 2 else line

    path = write(tmp_path / "scan.h5", every_line(ksp, further))
    assert codes_of_opening(path) == ["W-SLICE-POSITIONS"]
    np.testing.assert_allclose(opened(path).geometry.positions[:, 2], [0, 6, 40])


def test_one_of_several_groups_is_chosen(ksp, tmp_path):
    path = write(tmp_path / "scan.h5", every_line(ksp), group="first")
    write(path, every_line(3 * ksp), group="second")
    with pytest.raises(ScanFormatError, match="first, second"):
        open_scan(path)
    assert_holds(path, 3 * ksp, dataset="second")
    assert find_scans([path], dataset="first")[0].open().shape == SHAPE
    with pytest.raises(ScanFormatError, match="third"):
        open_scan(path, dataset="third")


def test_noise_may_have_a_group_of_its_own(ksp, tmp_path, rng):
    noise = torch.view_as_complex(torch.randn(SHAPE[1], 400, 2, generator=rng)).numpy()
    path = write(tmp_path / "scan.h5", every_line(ksp))
    lines = [Line(noise, flags=(ismrmrd.ACQ_IS_NOISE_MEASUREMENT,))]
    write(path, lines, group="a noise scan")
    assert_holds(path, ksp)
    np.testing.assert_array_equal(open_scan(path).noise, noise)


def test_the_image_may_have_the_second_of_two_encodings(ksp, tmp_path):
    other = mrd_files.encoding((8, 8, 1), (8, 8, 1), (80, 80, 5), (80, 80, 5))
    xml = header().replace("<encoding>", f"{other}<encoding>", 1)
    lines = every_line(ksp, lambda line: replace(line, encoding=1))
    assert_holds(write(tmp_path / "scan.h5", lines, xml), ksp)


def test_a_file_of_images_is_told_from_a_scan(tmp_path):
    file = ismrmrd.Dataset(str(tmp_path / "scan.h5"), "dataset")
    file.write_xml_header(header().encode())
    file.append_image("image_0", ismrmrd.Image.from_array(np.ones((8, 8), np.complex64)))
    file.close()
    with pytest.raises(ScanFormatError, match=r"images \(dataset/image_0\)"):
        open_scan(tmp_path / "scan.h5")


def test_waveforms_do_no_harm(ksp, tmp_path):
    path = write(tmp_path / "scan.h5", every_line(ksp))
    file = ismrmrd.Dataset(str(path), "dataset", create_if_needed=False)
    file.append_waveform(ismrmrd.Waveform.from_array(np.zeros((2, 5), np.uint32)))
    file.close()
    assert_holds(path, ksp)


def test_repetitions_that_sample_different_lines_share_their_centre(ksp, tmp_path):
    """Calibration mode interleaved: every repetition holds every third line."""
    extra = "<parallelImaging><calibrationMode>interleaved</calibrationMode></parallelImaging>"
    lines = [replace(line, counters={"repetition": line.step1 % 3}) for line in every_line(ksp)]
    path = write(tmp_path / "scan.h5", lines, header(extra))
    file = open_scan(path, volume="rep-2")
    np.testing.assert_allclose(file.read_calib(1), ksp[1], rtol=1e-6)
    assert bool(file.calib_mask.all()) and file.acceleration == 3


@pytest.mark.parametrize("kind", ["no final matrix", "no field of view", "limits left at zero"])
def test_headers_may_say_little(kind, ksp, tmp_path):
    xml = header()
    if kind == "no final matrix":
        start, end = xml.index("<reconSpace>"), xml.index("</reconSpace>") + len("</reconSpace>")
        xml = xml[:start] + xml[end:]
    elif kind == "no field of view":
        xml = re.sub(r"<fieldOfView_mm>.*?</fieldOfView_mm>",
                     "<fieldOfView_mm><x>0</x><y>0</y><z>0</z></fieldOfView_mm>", xml)  # fmt: skip
    else:
        xml = xml.replace("<center>9</center>", "<center>0</center>")
    path = write(tmp_path / "scan.h5", every_line(ksp), xml)
    assert_holds(path, ksp)
    assert (open_scan(path).voxel_mm is None) == (kind == "no field of view")


def test_a_final_image_of_larger_pixels_keeps_the_field_of_view(ksp, tmp_path):
    """The scanner's matrix is 12 x 9 over the same field of view."""
    xml = header()
    start = xml.index("<reconSpace>")
    recon = xml[start:].replace("<x>24</x>", "<x>12</x>", 1).replace("<y>18</y>", "<y>9</y>", 1)
    path = write(tmp_path / "scan.h5", every_line(ksp), xml[:start] + recon)
    assert open_scan(path).recon_shape == SHAPE[2:]


def test_readouts_that_were_never_written_are_refused(tmp_path):
    """HDF5 would take any amount of memory for them."""
    path = sound_files.write_mrd(tmp_path)
    with h5py.File(path, "a") as file:
        data = file["dataset/data"]
        data.resize(data.shape[0] + 10 * data.chunks[0], axis=0)
    with pytest.raises(ScanFormatError, match="fewer readouts"):
        open_scan(path)
