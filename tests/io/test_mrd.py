"""ISMRMRD files that the package ismrmrd writes, and what is read from them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

import h5py
import ismrmrd
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from mri_ambient.errors import ConfigError, ScanFormatError
from mri_ambient.io import build_header, open_scan
from mri_ambient.physics.masks import MaskSpec
from mri_ambient.recon.pipeline import reconstruct
from mri_ambient.recon.recipe import Recipe

SHAPE = (3, 4, 24, 18)
"""(slice, coil, y, x)."""

PLAIN = Recipe("zero-filled")

NAVIGATOR, DUMMY = ismrmrd.ACQ_IS_NAVIGATION_DATA, ismrmrd.ACQ_IS_DUMMYSCAN_DATA


@dataclass
class Line:
    """A readout: samples ``(coil, sample)``, where they belong, and flags."""

    samples: NDArray[np.complex64]
    step1: int = 0
    slice: int = 0
    counters: dict[str, int] = field(default_factory=dict)
    flags: tuple[int, ...] = ()
    center: int | None = None
    position: tuple[float, float, float] = (0.0, 0.0, 0.0)
    dwell_us: float = 5.0
    encoding: int = 0


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
    """By the package, which knows nothing of ours."""
    file = ismrmrd.Dataset(str(path), group)
    file.write_xml_header((xml or header()).encode())
    for line in lines:
        acquisition = ismrmrd.Acquisition.from_array(np.ascontiguousarray(line.samples))
        n_samples = line.samples.shape[1]
        acquisition.center_sample = n_samples // 2 if line.center is None else line.center
        acquisition.idx.kspace_encode_step_1, acquisition.idx.slice = line.step1, line.slice
        for name, value in line.counters.items():
            setattr(acquisition.idx, name, value)
        for flag in line.flags:
            acquisition.set_flag(flag)
        acquisition.position[:] = line.position
        acquisition.read_dir[:], acquisition.phase_dir[:] = (1, 0, 0), (0, 1, 0)
        acquisition.slice_dir[:] = (0, 0, 1)
        acquisition.sample_time_us = line.dwell_us
        acquisition.encoding_space_ref = line.encoding
        file.append_acquisition(acquisition)
    file.close()
    return path


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


def assert_holds(path: Path, ksp: NDArray[np.complex64], **given: str) -> None:
    file = open_scan(path, **given)
    assert file.shape == ksp.shape
    for index, wanted in enumerate(ksp):
        np.testing.assert_allclose(file.read_ksp(index).numpy(), wanted, rtol=1e-6)


def test_lines_come_to_their_slice_and_column(ksp, tmp_path):
    path = write(tmp_path / "scan.h5", every_line(ksp))
    assert_holds(path, ksp)
    file = open_scan(path)
    assert (file.format, file.fully_sampled, file.scan_id) == ("ismrmrd", True, "scan")
    assert file.recon_shape == SHAPE[2:] and file.voxel_mm == (10.0, 10.0, 5.0)


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


def test_reversed_readouts_are_turned_round(ksp, tmp_path):
    def every_other(line: Line) -> Line:
        if line.step1 % 2:
            line.samples, line.flags = line.samples[:, ::-1], (ismrmrd.ACQ_IS_REVERSE,)
            line.center = SHAPE[2] - 1 - SHAPE[2] // 2
        return line

    assert_holds(write(tmp_path / "scan.h5", every_line(ksp, every_other)), ksp)


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
    assert open_scan(path).mask[0].any(dim=1).tolist() == [False] * 6 + [True] * 18


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


def test_readouts_of_no_image_are_left_out(ksp, tmp_path, rng):
    noise = np.ones(SHAPE[1:3], np.complex64)
    others = [Line(noise, flags=(flag,)) for flag in (NAVIGATOR, DUMMY)]
    assert_holds(write(tmp_path / "scan.h5", others + every_line(ksp)), ksp)


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
    np.testing.assert_allclose(open_scan(path).noise.numpy(), noise * np.sqrt(0.5), rtol=1e-5)


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


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda lines, xml: (lines, xml.replace("cartesian", "spiral")), "spiral"),
        (lambda lines, xml: (lines, xml.replace("<x>24</x>", "<x>20</x>", 1)), "20"),
        (lambda lines, xml: (lines, xml.replace("<y>18</y>", "<y>10</y>", 1)), "10 columns"),
        (lambda lines, xml: ([*lines, Line(lines[0].samples[:2])], xml), "coils"),
        (lambda lines, xml: ([*lines, Line(lines[0].samples, encoding=1)], xml), "encoding"),
        (lambda lines, xml: ([*lines, Line(lines[0].samples, counters={"kspace_encode_step_2": 1})],
                             xml), "3-D"),
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


def test_only_files_with_several_volumes_have_one_to_choose(tmp_path):
    with h5py.File(tmp_path / "scan.h5", "w") as file:
        file["kspace"] = np.ones(SHAPE, np.complex64)
    with pytest.raises(ScanFormatError):
        open_scan(tmp_path / "scan.h5", volume="rep-1")
