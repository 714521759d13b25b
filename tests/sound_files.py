"""A small sound file of every kind that we load, and how the library reads it to its end."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from unittest.mock import patch

import bruker_files
import h5py
import mrd_files
import numpy as np
import pydicom
import twix_files
from array_files import phantom_ksp, write_cfl, write_mat73
from helpers import small_prior
from PIL import Image
from safetensors.torch import save_file
from scipy.io import savemat
from training_runs import trained

from mri_ambient.cli.app import app
from mri_ambient.data_prep import SimulateConfig, prepare, simulate
from mri_ambient.data_prep.simulation.images import open_images
from mri_ambient.errors import ConfigError
from mri_ambient.evaluation.folders import score_pair
from mri_ambient.evaluation.info import contents
from mri_ambient.io import build_header, find_scans
from mri_ambient.io.grid import Grid
from mri_ambient.io.outputs.dicom_template import Template
from mri_ambient.io.outputs.reconstruction import ReconstructionFile
from mri_ambient.io.scan_file import header_of
from mri_ambient.methods import ZeroFilled
from mri_ambient.priors.checkpoint import load_prior, load_tensors, save_prior
from mri_ambient.priors.prior_file import HEADER
from mri_ambient.recon.pipeline import open_volume
from mri_ambient.recon.recipe import ResolvedRecipe
from mri_ambient.recon.report.overview import read_rows
from mri_ambient.recon.result_file import is_finished, reconstruct_to_folder
from mri_ambient.recon.slice_store import SliceStore
from mri_ambient.recon.states import DONE, FAILED, State
from mri_ambient.recon.volume import reconstruct_volume
from mri_ambient.rng import rng_for
from mri_ambient.runtime.device import Runtime

SHAPE = (2, 3, 24, 18)
"""Slices, coils, rows with twofold oversampling, columns."""

SLICES = [((0, 0, 5 * i), slice(i, i + 1)) for i in range(SHAPE[0])]
RECIPE = ResolvedRecipe(ZeroFilled())


@dataclass(frozen=True)
class Kind:
    """A kind of file.

    Attributes:
        write: makes a sound file or folder in an empty folder, and gives its path.
        read: takes the path, and reads all that the library reads of it.
        others: files of the folder that are not to be damaged.
    """

    write: Callable[[Path], Path]
    read: Callable[[Path], object]
    others: tuple[str, ...] = ()


def read_scan(path: Path) -> None:
    """Volumes, facts, every slice, noise, reference and header of a scan."""
    for found in find_scans([path]):
        file = found.open()
        contents(file.path, volume=found.volume or None)
        for scan in file:
            assert scan.ksp.isfinite().all()
        assert file.final_grid.letters is not None
        assert header_of(file)
        assert file.sha256
        file.read_target("reconstruction_rss")


def write_fastmri(folder: Path, **layout: object) -> Path:
    path = folder / "scan.h5"
    header = build_header((24, 18), (12, 18), (48.0, 36.0), (24.0, 36.0), 4.0, *SHAPE[:2])
    with h5py.File(path, "w") as file:
        file.create_dataset("kspace", data=phantom_ksp(SHAPE), **layout)
        file["ismrmrd_header"] = header
        file["mask"] = np.ones(SHAPE[3], bool)
        file["reconstruction_rss"] = np.ones((2, 12, 18), np.float32)
        file.attrs.update({"acquisition": "AXT2", "max": 1.0, "patient_id": "ab" * 32})
    return path


def write_fastmri_in_chunks(folder: Path) -> Path:
    return write_fastmri(folder, chunks=(1, 1, 24, 18), compression="gzip")


def write_mrd(folder: Path) -> Path:
    """Two slices with separate noise and calibration lines."""
    limits = {"kspace_encoding_step_1": (17, 9), "slice": (1, 0)}
    space = mrd_files.encoding((24, 18, 1), (12, 18, 1), (48, 36, 4), (24, 36, 4), limits)
    ksp = phantom_ksp(SHAPE)
    lines = [mrd_files.Line(ksp[0, :, :, 0], flags=(19,))]
    lines += [
        mrd_files.Line(ksp[s, :, :, x], x, s, flags=(20,) if x in (8, 9) else (), position=place)
        for s, (place, _) in enumerate(SLICES)
        for x in range(SHAPE[3])
    ]
    return mrd_files.write(folder / "scan.h5", lines, mrd_files.document(space, n_coils=3))


def write_mrd_3d(folder: Path) -> Path:
    limits = {"kspace_encoding_step_1": (9, 5), "kspace_encoding_step_2": (5, 3)}
    space = mrd_files.encoding((16, 10, 6), (16, 10, 6), (32, 20, 12), (32, 20, 12), limits)
    ksp = phantom_ksp((6, 2, 16, 10))
    lines = [
        mrd_files.Line(ksp[z, :, :, x], x, counters={"kspace_encode_step_2": z})
        for z in range(6)
        for x in range(10)
    ]
    return mrd_files.write(folder / "scan.h5", lines, mrd_files.document(space))


def _measurement() -> twix_files.Measurement:
    values = {
        "tProtocolName": '"gre phantom"', "sKSpace.lBaseResolution": 12,
        "sKSpace.lPhaseEncodingLines": 18, "sKSpace.ucDimension": "0x2",
        "sKSpace.ucTrajectory": "0x1", "sSliceArray.lSize": 2, "sRXSPEC.alDwellTime[0]": 10000,
    }  # fmt: skip
    for s in range(SHAPE[0]):
        place = {"dReadoutFOV": 240.0, "dPhaseFOV": 180.0, "dThickness": 5.0}
        values |= {f"sSliceArray.asSlice[{s}].{name}": size for name, size in place.items()}
    ksp = phantom_ksp(SHAPE)
    lines = [twix_files.Line(ksp[0, :, :, 0], flags=(25,))]
    lines += [
        twix_files.Line(ksp[s, :, :, x], {"line": x, "slice": s}, center_line=9, position=place)
        for s, (place, _) in enumerate(SLICES)
        for x in range(SHAPE[3])
    ]
    return twix_files.Measurement(lines, values)


def write_vd(folder: Path) -> Path:
    return twix_files.write_vd(folder / "meas.dat", [_measurement()])


def write_vb(folder: Path) -> Path:
    return twix_files.write_vb(folder / "meas.dat", [_measurement()])


def write_bruker(folder: Path) -> Path:
    ksp = (1000 * phantom_ksp((2, 2, 16, 12))).round()
    readouts = ksp.transpose(3, 0, 1, 2).reshape(-1, 2, 16)
    return bruker_files.write_scan(
        folder / "5", readouts, bruker_files.parameters((16, 12), 2, n_slices=2)
    )


def write_bart(folder: Path) -> Path:
    dims = np.zeros((*SHAPE[2:], 1, 3, *[1] * 9, 2), np.complex64)
    dims[:, :, 0, :, 0, 0, 0, 0, 0, 0, 0, 0, 0] = phantom_ksp(SHAPE).transpose(2, 3, 1, 0)
    write_cfl(folder / "scan.cfl", dims)
    return folder


def write_mat5(folder: Path, *, compress: bool = False) -> Path:
    path, ksp = folder / "scan.mat", phantom_ksp((5, 4, 56, 48)).transpose(2, 3, 1, 0)
    savemat(path, {"ksp": ksp, "name": "text", "n": 3.0}, do_compression=compress)
    return path


def write_mat7(folder: Path) -> Path:
    return write_mat5(folder, compress=True)


def write_mat73_scan(folder: Path) -> Path:
    return write_mat73(folder / "scan.mat", ksp=phantom_ksp((5, 4, 56, 48)).transpose(2, 3, 1, 0))


def write_npy(folder: Path) -> Path:
    np.save(folder / "scan.npy", phantom_ksp())
    return folder / "scan.npy"


def write_npz(folder: Path) -> Path:
    np.savez_compressed(folder / "scan.npz", kspace=phantom_ksp(), mask=np.ones(48, bool))
    return folder / "scan.npz"


def write_hdf5(folder: Path) -> Path:
    with h5py.File(folder / "scan.h5", "w") as file:
        file.create_dataset("raw/data", data=phantom_ksp(), chunks=True, compression="gzip")
        file["raw/te"] = [1.0, 2.0]
    return folder / "scan.h5"


def write_calgary(folder: Path) -> Path:
    ksp = phantom_ksp((3, 2, 64, 64))
    pairs = np.stack([ksp.real, ksp.imag], axis=-1).transpose(0, 2, 3, 1, 4).reshape(3, 64, 64, 4)
    with h5py.File(folder / "scan.h5", "w") as file:
        file["kspace"] = pairs.astype(np.float32)
    return folder / "scan.h5"


def simulated(folder: Path, n_scans: int = 1, acceleration: float = 2.0) -> list[Path]:
    config = SimulateConfig(
        size=(32, 32), coils=3, acceleration=acceleration, calib=8, slices=2, noise=0.01
    )
    return simulate("phantom", folder, config, count=n_scans)


def write_prepared(folder: Path) -> Path:
    prepare(simulated(folder / "raw"), folder / "prepared")
    return folder / "prepared"


def read_prepared(folder: Path) -> None:
    for path in sorted(folder.glob("*.h5")):
        read_scan(path)
    prepare(sorted((folder.parent / "raw").iterdir()), folder)


def write_prior(folder: Path) -> Path:
    save_prior(small_prior("conditioned"), folder / "prior.safetensors")
    return folder / "prior.safetensors"


def write_old_prior(folder: Path) -> Path:
    """Without hashes, as earlier versions wrote them."""
    path = write_prior(folder)
    tensors, header = load_tensors(path)
    save_file(tensors, path, metadata={HEADER: json.dumps(header)})
    return path


def write_run(folder: Path) -> Path:
    prepare(simulated(folder / "raw", 3), folder / "prepared")
    trained(folder / "prepared", folder / "run", images=4)
    return folder / "run"


def read_run(folder: Path) -> None:
    """Contents of the run and its last state; then it is resumed."""
    contents(folder)
    trained(folder.parent / "prepared", folder, images=6)


def write_result(folder: Path) -> Path:
    (path,) = simulated(folder / "raw", acceleration=1.0)
    reconstruct_to_folder(open_volume(path, RECIPE, Runtime("cpu")), folder / "out")
    for state in (State("other", FAILED, "is missing"), State(path.stem, DONE, seconds=1.0)):
        state.write(folder / "out")
    return folder / "out"


def read_result(folder: Path) -> None:
    """The images and the report; then the folder is reconstructed into again, and shown."""
    (path,) = (folder.parent / "raw").iterdir()
    result = ReconstructionFile(folder / path.name)
    contents(result.path)
    for part in result.parts(["mag", "phase", "std"]):
        for index in range(len(result)):
            result.read_part(part, index)
    assert result.grid.letters is not None
    assert isinstance(result.report, dict)
    score_pair(result.path, find_scans([path])[0])
    read_rows(folder)
    is_finished(open_volume(path, RECIPE, Runtime("cpu")), folder)


def write_slices(folder: Path) -> Path:
    """The finished slices of an interrupted call."""
    (path,) = simulated(folder / "raw")
    volume = open_volume(path, RECIPE, Runtime("cpu"))
    store = SliceStore(folder / "out" / f".{path.stem}.unfinished", volume.settings)
    reconstruct_volume(volume, store)
    return folder / "out"


def read_slices(folder: Path) -> None:
    (path,) = (folder.parent / "raw").iterdir()
    volume = open_volume(path, RECIPE, Runtime("cpu"))
    is_finished(volume, folder)
    reconstruct_to_folder(volume, folder)


OPTIONS = """
method = "cg-sense"
lambda = 0.5
option = ["n_iter=5"]
save = ["nifti", "png"]
parts = "mag,phase"
noise-std = 1e-7
seed = 3
map-sets = 1
device = "cpu"
batch-size = 2
overwrite = true
"""


def write_options(folder: Path) -> Path:
    """Options of ``reconstruct`` in a file, for ``--config``."""
    simulated(folder / "raw")
    path = folder / "options.toml"
    path.write_text(OPTIONS)
    return path


def read_options(path: Path) -> None:
    """A call with these options that finds nothing to do; what it refuses is refused here."""
    words = [
        "reconstruct",
        str(path.parent / "raw"),
        "-o",
        str(path.parent / "out"),
        "--retry-failed",
    ]
    words += ["--config", str(path)]
    said = StringIO()
    with (
        redirect_stdout(said),
        redirect_stderr(said),
        patch.object(sys, "argv", ["mri-ambient", *words]),
    ):
        try:
            app(words)
        except SystemExit as stop:
            if stop.code:
                raise ConfigError(said.getvalue().strip()) from stop


PIXELS = np.random.default_rng(0).integers(0, 1000, (3, 16, 16), np.uint16)


def write_template(folder: Path) -> Path:
    """A series of three slices."""
    series = folder / "series"
    series.mkdir()
    for i in range(3):
        data = pydicom.Dataset()
        data.PatientName, data.PatientID, data.StudyInstanceUID = "A^B", "4711", "1.2.3"
        data.SeriesInstanceUID = data.FrameOfReferenceUID = "1.2.4"
        data.SOPClassUID, data.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.4", f"1.2.5.{i}"
        data.ImageOrientationPatient, data.ImagePositionPatient = [1, 0, 0, 0, 1, 0], [0, 0, 5 * i]
        data.PixelSpacing, data.SliceThickness, data.EchoTime = [2, 2], 5, "90"
        data.Rows = data.Columns = 16
        data.BitsAllocated, data.BitsStored, data.HighBit = 16, 16, 15
        data.PixelRepresentation, data.SamplesPerPixel = 0, 1
        data.PhotometricInterpretation = "MONOCHROME2"
        data.PixelData = PIXELS[i].astype("<u2").tobytes()
        data.file_meta = pydicom.dataset.FileMetaDataset()
        data.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
        data.save_as(series / f"IM{i}", enforce_file_format=True)
    return series


def read_template(folder: Path) -> None:
    """Headers and pixels, which are compared with images of the same sizes."""
    template = Template.read(folder)
    unplaced = Grid(PIXELS.shape, (2.0, 2.0, 5.0))
    template.place(unplaced, lambda index: PIXELS[index].astype(np.float32))


def write_pictures(folder: Path) -> Path:
    pictures = folder / "pictures"
    pictures.mkdir()
    for i, suffix in enumerate(("png", "jpg", "tif")):
        grey = np.random.default_rng(i).integers(0, 255, (20, 20), np.uint8)
        Image.fromarray(grey).save(pictures / f"{suffix}.{suffix}")
    (pictures / "index.csv").write_text("file,group,pixel_mm\npng.png,A,1.5\n")
    shutil.make_archive(str(folder / "all"), "zip", pictures)
    shutil.rmtree(pictures)
    return folder / "all.zip"


def read_images(path: Path) -> None:
    source = open_images(path)
    n_slices = 1 if path.suffix == ".zip" else 2
    for name in source.names(2, n_slices):
        source.read(name, (16, 16), n_slices, rng_for(0))


def write_nifti(folder: Path) -> Path:
    import nibabel

    values = np.random.default_rng(0).random((12, 12, 4), np.float32)
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), folder / "head.nii.gz")
    return folder / "head.nii.gz"


KINDS: dict[str, Kind] = {
    "fastmri": Kind(write_fastmri, read_scan),
    "fastmri in chunks": Kind(write_fastmri_in_chunks, read_scan),
    "ismrmrd": Kind(write_mrd, read_scan),
    "ismrmrd 3-D": Kind(write_mrd_3d, read_scan),
    "twix VD": Kind(write_vd, read_scan),
    "twix VB": Kind(write_vb, read_scan),
    "bruker": Kind(write_bruker, read_scan),
    "bart": Kind(write_bart, lambda folder: read_scan(folder / "scan.cfl")),
    "matlab 5": Kind(write_mat5, read_scan),
    "matlab 7": Kind(write_mat7, read_scan),
    "matlab 7.3": Kind(write_mat73_scan, read_scan),
    "npy": Kind(write_npy, read_scan),
    "npz": Kind(write_npz, read_scan),
    "hdf5": Kind(write_hdf5, read_scan),
    "calgary": Kind(write_calgary, read_scan),
    "prepared": Kind(write_prepared, read_prepared),
    "prior": Kind(write_prior, load_prior),
    "old prior": Kind(write_old_prior, load_prior),
    "run": Kind(write_run, read_run, others=("curves.png", "preview.png", "config.toml")),
    "reconstruction": Kind(write_result, read_result),
    "finished slices": Kind(write_slices, read_slices),
    "options": Kind(write_options, read_options),
    "dicom template": Kind(write_template, read_template),
    "pictures": Kind(write_pictures, read_images),
    "nifti": Kind(write_nifti, read_images),
}
"""By name."""
