"""Arrays in files of BART, MATLAB, numpy and in HDF5 of other layouts."""

from __future__ import annotations

import gzip
import shutil
import subprocess
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from array_files import SHAPE, phantom_ksp, write_cfl, write_mat73
from codes import warns
from scipy import io as matlab

from mri_ambient.errors import ConfigError, ScanFormatError
from mri_ambient.io import convert_scan, find_scans, open_scan
from mri_ambient.physics.fourier import ifft2c
from mri_ambient.rng import complex_normal, rng_for

KSP = phantom_ksp()
N_SLICES, N_COILS, NY, NX = SHAPE
LINES = (np.arange(NX) % 3 == 0) | (abs(np.arange(NX) - NX // 2) < 6)

pytestmark = pytest.mark.filterwarnings("ignore::mri_ambient.errors.NumericalWarning")


def rss(ksp: torch.Tensor) -> np.ndarray:
    return ifft2c(ksp).abs().square().sum(dim=-3).sqrt().numpy()


def refusal(path: Path, **options: str) -> str:
    with pytest.raises(ScanFormatError) as caught:
        open_scan(path, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def bart_dims(ksp: np.ndarray) -> np.ndarray:
    """``(slice, coil, y, x)`` as BART's dimensions 0 to 13."""
    return ksp.transpose(2, 3, 1, 0).reshape(*ksp.shape[2:], 1, ksp.shape[1], *[1] * 9, -1)


# BART


@pytest.mark.parametrize("named", ["scan.cfl", "scan.hdr", "scan"])
def test_either_file_of_bart_or_their_stem(tmp_path, named):
    write_cfl(tmp_path / "scan.cfl", bart_dims(KSP))
    (found,) = find_scans([tmp_path / named])
    assert found.stem == "scan"
    for file in (found.open(), open_scan(tmp_path / named)):
        assert (file.shape, file.scan_id, file.fully_sampled) == (SHAPE, "scan", True)
        np.testing.assert_array_equal(file.read_ksp(3), KSP[3])


def test_a_stem_with_a_dot(tmp_path):
    write_cfl(tmp_path / "a.b.cfl", bart_dims(KSP[:1]))
    (found,) = find_scans([tmp_path / "a.b"])
    assert found.stem == found.open().output_stem == "a.b"


@pytest.mark.parametrize("axes", [(2, 0, 1), (0, 2, 1), (0, 1, 2)])
def test_a_matrix_in_any_two_of_the_first_three_dimensions(tmp_path, axes):
    dims = KSP[0].transpose(1, 2, 0)[:, :, None].transpose(*axes, 3)
    file = open_scan(write_cfl(tmp_path / "scan.cfl", dims))
    np.testing.assert_array_equal(file.read_ksp(0), KSP[0])


def test_echoes_and_repetitions_of_bart_are_volumes(tmp_path):
    dims = np.zeros((NY, NX, 1, N_COILS, 1, 2, 1, 1, 1, 1, 3, 1, 1, N_SLICES), np.complex64)
    for echo, repetition in np.ndindex(2, 3):
        factor = 1 + echo + 10 * repetition
        dims[:, :, 0, :, 0, echo, 0, 0, 0, 0, repetition, 0, 0] = factor * KSP.transpose(2, 3, 1, 0)
    file = open_scan(write_cfl(tmp_path / "scan.cfl", dims), volume="con-2_rep-3")
    assert len(file.volumes) == 6
    np.testing.assert_array_equal(file.read_ksp(1), 22 * KSP[1])


@pytest.mark.parametrize(
    ("change", "fact"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-8]), str(8 * KSP[0].size - 8)),
        (lambda path: path.with_suffix(".hdr").write_text("# Dimensions\nx y\n"), ".hdr"),
        (lambda path: path.with_suffix(".hdr").write_text("# Dimensions\n0 4\n"), ".hdr"),
        (lambda path: path.with_suffix(".hdr").write_bytes(b"\xff\xfe"), ".hdr"),
    ],
)
def test_damaged_files_of_bart(tmp_path, change, fact):
    path = write_cfl(tmp_path / "scan.cfl", bart_dims(KSP[:1]))
    change(path)
    assert fact in refusal(path)


def test_dimensions_of_bart_without_a_meaning_here(tmp_path):
    path = write_cfl(tmp_path / "scan.cfl", KSP[0].transpose(1, 2, 0)[:, :, None, None])
    assert "MAPS" in refusal(path)
    assert open_scan(path, axes="y,x,1,1,coil").shape == (1, N_COILS, NY, NX)
    slices = write_cfl(tmp_path / "slices.cfl", KSP.transpose(2, 3, 0, 1))
    assert "--axes y,x,slice,coil" in refusal(slices)
    np.testing.assert_array_equal(open_scan(slices, axes="y,x,slice,coil").read_ksp(2), KSP[2])


def test_an_image_is_not_taken_for_k_space(tmp_path):
    image = ifft2c(torch.from_numpy(KSP)).numpy()
    with warns("W-IMAGE-SPACE", "W-NO-HEADER"):
        file = open_scan(write_cfl(tmp_path / "scan.cfl", bart_dims(image)))
    np.testing.assert_allclose(file[:].ksp, KSP, atol=1e-6 * np.abs(KSP).max())


def test_noise_is_not_taken_for_k_space(tmp_path):
    noise = complex_normal(KSP.shape, rng_for(0, "noise")).numpy()
    assert "k-space" in refusal(write_cfl(tmp_path / "scan.cfl", bart_dims(noise)))


def test_a_3d_scan_becomes_slices_across_its_readout(tmp_path):
    volume = fft3 = torch.from_numpy(KSP)  # slices along z
    fft3 = torch.fft.fftshift(torch.fft.fft(torch.fft.ifftshift(volume, 0), dim=0, norm="ortho"), 0)
    path = write_cfl(tmp_path / "scan.cfl", fft3.numpy().transpose(2, 3, 0, 1))  # y, x, z, coil
    file = open_scan(path)
    assert (file.shape, file.is_3d) == ((NY, N_COILS, N_SLICES, NX), True)
    got = np.stack([rss(file[index].ksp[0]) for index in range(NY)])  # y, z, x
    np.testing.assert_allclose(got.transpose(1, 0, 2), rss(volume), atol=1e-6 * got.max())
    skipped = fft3.numpy().transpose(2, 3, 0, 1).copy()
    skipped[::2] = 0
    skipped[1::2, ::2] = 0
    skipped[::2, 1::2] = fft3.numpy().transpose(2, 3, 0, 1)[::2, 1::2]
    with pytest.raises(ScanFormatError):  # y is no readout there
        open_scan(write_cfl(tmp_path / "other.cfl", skipped)).read_ksp(0)


def test_against_bart(tmp_path):
    """Images of its own phantom, square and not, even and odd, undersampled and 3-D."""
    if shutil.which("bart") is None:
        pytest.skip("BART is not installed")
    run = "set -e; bart phantom -s 4 -x 63 i; bart crop 1 40 i o; bart fft -u 3 o odd;"
    run += "bart phantom -k -s 4 -x 48 k; bart poisson -Y 48 -Z 48 -y 2 -z 2 -C 20 p;"
    run += "bart reshape 7 48 48 1 p q; bart fmac k q poisson; bart phantom -3 -k -s 4 -x 20 three;"
    run += "for f in odd poisson three; do bart fft -u -i 7 $f a; bart rss 8 a $f.rss; done"
    subprocess.run(run, shell=True, cwd=tmp_path, check=True, capture_output=True)
    for name, shape in (("odd", (63, 40, 1)), ("poisson", (48, 48, 1)), ("three", (20, 20, 20))):
        want = np.fromfile(tmp_path / f"{name}.rss.cfl", "<c8").reshape(shape, order="F").real
        file = open_scan(tmp_path / name)
        got = np.stack([rss(scan.ksp[0]) for scan in file])
        got = got.transpose(0, 2, 1) if file.is_3d else got[0][..., None]
        np.testing.assert_allclose(got, want, atol=2e-6 * want.max())


def test_convert_to_bart_and_back(tmp_path):
    path = write_cfl(tmp_path / "scan.cfl", bart_dims(KSP))
    written = convert_scan(open_scan(path), tmp_path / "out", "cfl")
    assert written.read_bytes() == path.read_bytes()


# MATLAB


def test_matlab_5(tmp_path):
    path = tmp_path / "scan.mat"
    matlab.savemat(path, {"ksp": KSP.transpose(2, 3, 1, 0), "n": 3.0}, do_compression=True)
    np.testing.assert_array_equal(open_scan(path).read_ksp(3), KSP[3])


def test_matlab_73_has_its_axes_in_the_order_of_matlab(tmp_path):
    path = write_mat73(tmp_path / "scan.mat", data=KSP.transpose(2, 3, 1, 0), other=np.eye(3))
    with warns("W-AXES-GUESSED", "W-NO-HEADER") as found:
        file = open_scan(path)
    assert "y,x,coil,slice" in found[0].text
    np.testing.assert_array_equal(file.read_ksp(3), KSP[3])
    np.testing.assert_array_equal(open_scan(path, axes="y,x,coil,slice").read_ksp(3), KSP[3])


@pytest.mark.parametrize("version", [5, 73])
@pytest.mark.parametrize("mask_name", ["mask04", "mask"])
def test_cmrxrecon(tmp_path, version, mask_name):
    """Readout, phase encode, coil, slice, time; a mask (readout, phase encode) or with time."""
    frames = np.stack([KSP, 2 * KSP]) * LINES
    values = frames.transpose(3, 4, 2, 1, 0)
    mask = np.broadcast_to(LINES, (NY, NX)).astype(float)
    name = "kspace_sub04" if mask_name == "mask04" else "kus"
    if mask_name == "mask":
        mask = np.stack([mask, np.ones((NY, NX))], axis=-1)
    variables = {name: values, mask_name: mask}
    path = tmp_path / "cine_sax.mat"
    if version == 5:
        matlab.savemat(path, variables)
    else:
        write_mat73(path, **variables)
    with warns("W-NO-HEADER"):
        file = open_scan(path, volume="time-2")
    assert (file.shape, file.volumes) == (SHAPE, ("time-1", "time-2"))
    np.testing.assert_array_equal(file.read_ksp(4), 2 * KSP[4] * LINES)
    first = open_scan(path, volume="time-1")
    assert first.mask[0, 0].tolist() == LINES.tolist()


def test_two_candidates_are_refused_with_both_names(tmp_path):
    a, b = KSP[0].transpose(1, 2, 0), 2 * KSP[0].transpose(1, 2, 0)
    matlab.savemat(tmp_path / "scan.mat", {"left": a, "right": b})
    with h5py.File(tmp_path / "scan.h5", "w") as file:
        file["left"], file["group/right"] = a, b
    for path, name in ((tmp_path / "scan.mat", "right"), (tmp_path / "scan.h5", "group/right")):
        message = refusal(path)
        assert all(word in message for word in ("left", name, "--dataset"))
        got = open_scan(path, dataset=name).read_ksp(0)
        np.testing.assert_array_equal(got, 2 * KSP[0])
        assert "'nothing'" in refusal(path, dataset="nothing")


def test_matlab_files_without_k_space(tmp_path):
    matlab.savemat(tmp_path / "image.mat", {"img": np.ones((9, 9)), "s": {"a": 1}, "t": "text"})
    message = refusal(tmp_path / "image.mat")
    assert all(word in message for word in ("img", "(9, 9)", "struct"))
    (tmp_path / "cut.mat").write_bytes((tmp_path / "image.mat").read_bytes()[:250])
    refusal(tmp_path / "cut.mat")
    (tmp_path / "text.mat").write_text("no MATLAB file")
    refusal(tmp_path / "text.mat")


def test_a_real_matlab_file(real_scans):
    path = real_scans.parent / "formats" / "matlab_t1_sagittal.mat"
    with warns("W-AXES-GUESSED", "W-NO-HEADER"):
        file = open_scan(path)
    np.testing.assert_allclose(file.read_ksp(0)[0], matlab.loadmat(path)["data"], rtol=1e-6)


# numpy


@pytest.mark.parametrize(
    "stored",
    [
        KSP,
        np.asfortranarray(KSP),
        KSP.astype(complex),
        KSP.astype(">c16"),
        KSP.astype(complex).view([("real", "f8"), ("imag", "f8")]),
        KSP.view(np.float32).reshape(*SHAPE, 2),
        np.stack([KSP.real, KSP.imag], axis=-1).astype(">f8"),
    ],
    ids=["complex64", "Fortran", "complex128", "big-endian", "compound", "pairs", "pairs of f8"],
)
@pytest.mark.parametrize("kind", ["npy", "npz", "h5"])
def test_numbers_of_every_type(tmp_path, stored, kind):
    path = tmp_path / f"scan.{kind}"
    if kind == "npy":
        np.save(path, stored)
    elif kind == "npz":
        np.savez(path, ksp=stored)
    else:
        with h5py.File(path, "w") as file:
            file["raw"] = stored
    np.testing.assert_array_equal(open_scan(path).read_ksp(3), KSP[3])


@pytest.mark.parametrize(
    "stored", [KSP, KSP.astype(complex).view([("real", "f8"), ("imag", "f8")])]
)
@pytest.mark.parametrize("kind", ["npz", "h5"])
def test_compressed_numbers(tmp_path, stored, kind):
    path = tmp_path / f"scan.{kind}"
    if kind == "npz":
        np.savez_compressed(path, ksp=stored)
    else:
        with h5py.File(path, "w") as file:
            file.create_dataset("raw", data=stored, compression="gzip", chunks=True)
    np.testing.assert_array_equal(open_scan(path).read_ksp(3), KSP[3])


@pytest.mark.parametrize("kind", ["npy", "h5", "compound"])
def test_integers_of_a_scanner(tmp_path, kind):
    pairs = np.round(np.stack([KSP.real, KSP.imag], axis=-1) * (30000 / np.abs(KSP).max()))
    stored, path = pairs.astype(np.int16), tmp_path / ("scan.npy" if kind == "npy" else "scan.h5")
    if kind == "npy":
        np.save(path, stored)
    else:
        with h5py.File(path, "w") as file:
            one = stored.view([("real", "i2"), ("imag", "i2")])[..., 0]
            file["raw"] = one if kind == "compound" else stored
    np.testing.assert_array_equal(
        open_scan(path).read_ksp(3), pairs[3, ..., 0] + 1j * pairs[3, ..., 1]
    )


def test_a_mask_in_an_archive(tmp_path):
    np.savez(tmp_path / "scan.npz", kspace=KSP, mask=LINES)
    with warns("W-AXES-GUESSED", "W-NO-HEADER", "W-OUTSIDE-MASK"):
        file = open_scan(tmp_path / "scan.npz")
        assert file.mask[0, 0].tolist() == LINES.tolist()
    np.testing.assert_array_equal(file.read_ksp(0), KSP[0] * LINES)
    np.savez(tmp_path / "wrong.npz", kspace=KSP, mask=LINES[1:])
    assert "mask" in refusal(tmp_path / "wrong.npz")


def test_pickles_are_never_loaded(tmp_path):
    np.save(tmp_path / "scan.npy", np.array([{"a": 1}], object), allow_pickle=True)
    assert "pickle" in refusal(tmp_path / "scan.npy")
    np.savez(tmp_path / "scan.npz", a=np.array([{"a": 1}], object))
    assert "pickle" in refusal(tmp_path / "scan.npz")


def test_a_file_of_numpy_that_was_cut_off(tmp_path):
    np.save(tmp_path / "scan.npy", KSP)
    np.savez(tmp_path / "scan.npz", ksp=KSP)
    for name in ("scan.npy", "scan.npz"):
        path = tmp_path / name
        path.write_bytes(path.read_bytes()[: KSP.nbytes // 2])
        assert str(path) in refusal(path)


def test_read_only_files_with_names_in_other_letters(tmp_path):
    path = tmp_path / "Größe 中 1.npy"
    np.save(path, KSP)
    path.chmod(0o444)
    np.testing.assert_array_equal(open_scan(path).read_ksp(2), KSP[2])


def test_nan_is_found_in_the_slice_that_is_read(tmp_path):
    spoilt = KSP.copy()
    spoilt[4, 1, 2, 3] = np.nan
    np.save(tmp_path / "scan.npy", spoilt)
    file = open_scan(tmp_path / "scan.npy", axes="slice,coil,y,x")
    file.read_ksp(3)
    with pytest.raises(ScanFormatError):
        file.read_ksp(4)


def test_k_space_with_its_centre_in_the_corner_is_refused(tmp_path):
    np.save(tmp_path / "scan.npy", np.fft.ifftshift(KSP, axes=(2, 3)))
    assert "fftshift" in refusal(tmp_path / "scan.npy")


# HDF5


@pytest.mark.parametrize(
    ("axes", "order"),
    [("coil,y,x", (1, 2, 3)), ("y,x,coil", (2, 3, 1)), ("slice,y,x,coil", (0, 2, 3, 1))],
)
def test_other_axes_in_fastmri_layout_are_refused_with_their_names(tmp_path, axes, order):
    values = KSP[2] if len(order) == 3 else KSP
    with h5py.File(tmp_path / "scan.h5", "w") as file:
        file["kspace"] = values.transpose([n - (len(order) == 3) for n in order])
    assert f"--axes {axes}" in refusal(tmp_path / "scan.h5")
    got = open_scan(tmp_path / "scan.h5", axes=axes).read_ksp(0 if len(order) == 3 else 2)
    np.testing.assert_array_equal(got, KSP[2])


def test_one_coil_in_fastmri_layout(tmp_path):
    with h5py.File(tmp_path / "scan.h5", "w") as file:
        file["kspace"] = KSP[:, 1]
    file = open_scan(tmp_path / "scan.h5")
    assert file.shape == (N_SLICES, 1, NY, NX)


def test_k_space_of_another_name_with_mask_and_reference(tmp_path):
    with h5py.File(tmp_path / "scan.h5", "w") as file:
        file["data/ksp"] = KSP * LINES
        file["mask"] = LINES
        file["reconstruction_rss"] = rss(torch.from_numpy(KSP))[..., 4:-4, :]
        file.attrs["patient_id"] = "p1"
    file = open_scan(tmp_path / "scan.h5")
    assert (file.format, file.shape, file.recon_shape) == ("hdf5", SHAPE, (NY - 8, NX))
    assert file.identifiers["patient_id"] == "p1"
    assert file.mask[0, 0].tolist() == LINES.tolist()
    assert open_scan(tmp_path / "scan.h5", dataset="data/ksp").shape == SHAPE


def test_skm_tea(tmp_path):
    echoes = np.stack([KSP, 2 * KSP], axis=1)  # slice, echo, coil, y, x
    with h5py.File(tmp_path / "scan.h5", "w") as file:
        file["kspace"] = echoes.transpose(0, 3, 4, 1, 2)
        file["maps"] = np.ones((N_SLICES, NY, NX, N_COILS, 1), np.complex64)
        file["target"] = np.ones((N_SLICES, NY, NX, 2, 1), np.complex64)
    file = open_scan(tmp_path / "scan.h5", volume="con-2")
    assert (file.shape, file.volumes) == (SHAPE, ("con-1", "con-2")) and file.is_3d
    np.testing.assert_array_equal(file.read_ksp(3), 2 * KSP[3])


@pytest.mark.parametrize("corner", [False, True])
def test_calgary_campinas(tmp_path, corner):
    """An inverse FFT without shifts gives the image; the last 15 % of the columns are empty."""
    full = torch.from_numpy(phantom_ksp((3, 4, 72, 80)))
    full[..., 68:] = 0  # ceil(0.85 * 80)
    images = ifft2c(full).numpy()
    stored = np.fft.fft2(images, norm="ortho")  # of images with the head in the middle
    if not corner:  # k = 0 in the middle, for which the inverse FFT alternates in sign
        stored = np.fft.fftshift(stored, axes=(-2, -1))
    stored = stored.transpose(0, 2, 3, 1).astype(np.complex64)
    with h5py.File(tmp_path / "scan.h5", "w") as file:
        file["kspace"] = np.ascontiguousarray(stored).view(np.float32)
    assert np.allclose(np.abs(np.fft.ifft2(stored, axes=(1, 2), norm="ortho"))[1, :, :, 2],
                       np.abs(images[1, 2]), atol=1e-6)  # fmt: skip
    file = open_scan(tmp_path / "scan.h5")
    assert (file.format, file.shape) == ("calgary-campinas", (3, 4, 72, 80)) and file.is_3d
    got = ifft2c(file[1].ksp[0]).abs().numpy()
    np.testing.assert_allclose(got, np.abs(images[1]), atol=1e-5 * got.max())
    assert file.acquired.tolist() == [True] * 68 + [False] * 12
    assert file.fully_sampled
    energy = (np.abs(file.read_ksp(1)) ** 2).sum(axis=0)
    assert divmod(int(energy.argmax()), 80) == (36, 40)


def test_options_of_other_formats_are_refused(tmp_path):
    with h5py.File(tmp_path / "scan.h5", "w") as file:
        file["kspace"] = np.ones((3, 72, 64, 8), np.float32)
    with pytest.raises(ConfigError):
        open_scan(tmp_path / "scan.h5", axes="slice,y,x,coil")


def test_compressed_files_name_the_command(tmp_path):
    with gzip.open(tmp_path / "scan.npy.gz", "wb") as out:
        np.save(out, KSP)
    assert "gunzip" in refusal(tmp_path / "scan.npy.gz")
