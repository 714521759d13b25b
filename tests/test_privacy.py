"""Who was scanned, when, where and by whom stands in no output; and nothing uses the network.

Names, dates and numbers of devices are planted wherever inputs have a place for them; every byte of
every output is searched.
"""

from __future__ import annotations

import gzip
import re
import socket
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import bruker_files
import h5py
import numpy as np
import pydicom
import pytest
import sound_files
import torch
from patient import save_images
from training_runs import QUICK

import mri_ambient
from mri_ambient.data_prep import prepare
from mri_ambient.io import convert_scan, find_scans, open_scan
from mri_ambient.io.outputs.save_options import SaveOptions
from mri_ambient.priors.checkpoint import save_prior
from mri_ambient.priors.prior import Prior
from mri_ambient.recon.recipe import Recipe
from mri_ambient.recon.saving import FORMATS
from mri_ambient.training.config import TrainJob
from mri_ambient.training.preflight import plan

pytestmark = [
    pytest.mark.filterwarnings("ignore::mri_ambient.errors.NumericalWarning"),
    pytest.mark.usefixtures("no_network"),
]

MARK = "QZXWJ"

SUBJECT = (
    f"<subjectInformation><patientName>{MARK}</patientName><patientID>{MARK}</patientID>"
    f"<patientBirthdate>{MARK}</patientBirthdate><patientGender>{MARK}</patientGender>"
    "</subjectInformation>"
    f"<studyInformation><studyDate>{MARK}</studyDate><studyID>{MARK}</studyID>"
    f"<accessionNumber>{MARK}</accessionNumber><referringPhysicianName>{MARK}</referringPhysicianName>"
    f"<studyDescription>{MARK}</studyDescription><bodyPartExamined>{MARK}</bodyPartExamined>"
    "</studyInformation>"
    f"<measurementInformation><measurementID>{MARK}</measurementID><seriesDate>{MARK}</seriesDate>"
    f"<patientPosition>HFS</patientPosition><seriesDescription>{MARK}</seriesDescription>"
    f"<seriesInstanceUIDRoot>{MARK}</seriesInstanceUIDRoot><frameOfReferenceUID>{MARK}"
    "</frameOfReferenceUID></measurementInformation>"
    f"<userParameters><userParameterString><name>{MARK}</name><value>{MARK}</value></userParameterString>"
    "</userParameters>"
)
SYSTEM = "".join(
    f"<{name}>{MARK}</{name}>"
    for name in ("systemModel", "institutionName", "stationName", "deviceID", "deviceSerialNumber")
)


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing may connect to another machine."""

    def refuse(*args: object) -> None:
        raise AssertionError(f"a connection to {args[1:]}")

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse)


def with_identifiers(xml: str) -> str:
    head, found, tail = xml.partition("<acquisitionSystemInformation>")
    if not found:
        head, found, tail = xml.partition("<encoding>")
        return f"{head}{SUBJECT}{found}{tail}"
    return f"{head}{SUBJECT}{found}{SYSTEM}{tail}"


def fastmri(folder: Path) -> Path:
    path = sound_files.write_fastmri(folder)
    with h5py.File(path, "a") as file:
        xml = file["ismrmrd_header"][()].decode()
        del file["ismrmrd_header"]
        file["ismrmrd_header"] = with_identifiers(xml)
        names = ("patient_id", "patient_name", "PatientBirthDate", "institution", "note")
        for name in (*names, "acquisition", "orientation_source"):
            file.attrs[name] = f"{name} {MARK}"
        file.attrs["operators"] = [MARK, MARK]
        file["kspace"].attrs["station"] = MARK
    return path


def mrd(folder: Path) -> Path:
    path = sound_files.write_mrd(folder)
    with h5py.File(path, "a") as file:
        xml = file["dataset/xml"][0].decode()
        file["dataset/xml"][0] = with_identifiers(xml)
        file["dataset"].attrs["operator"] = file.attrs["patient"] = MARK
    return path


def twix(folder: Path) -> Path:
    """As VD files do, also in the names of patient and protocol in the table of measurements."""
    path = sound_files.write_vd(folder)
    content = path.read_bytes()
    names = ("tPatientName", "PatientID", "PatientBirthDay", "DeviceSerialNumber", "tUserName")
    lines = "".join(f'{name}\t = \t"{MARK}"\n' for name in names).encode()
    end = b"### ASCCONV END ###"
    content = content.replace(end + b"\n" + bytes(len(lines)), lines + end + b"\n", 1)
    content = content.replace(b"x".ljust(64, b"\0"), MARK.encode().ljust(64, b"\0"), 1)
    path.write_bytes(content)
    return path


def bruker(folder: Path) -> Path:
    path = sound_files.write_bruker(folder)
    names = ("ACQ_operator", "ACQ_institution", "ACQ_station", "SUBJECT_name_string", "ACQ_time")
    lines = "".join(f"##${name}=( 64 )\n<{MARK}>\n" for name in names)
    for file in ("acqp", "method"):
        text = (path / file).read_text("latin-1")
        text = text.replace("user@host", MARK).replace("##END=", lines + "##END=")
        (path / file).write_text(text, "latin-1")
    subject = {"SUBJECT_id": f"<{MARK}>", "SUBJECT_name": f"<{MARK}>"}
    (path.parent / "subject").write_text(bruker_files.parameter_file(subject))
    return path


def views(path: Path) -> Iterator[bytes]:
    """The bytes of a file, as they are and with compressed parts expanded."""
    content = path.read_bytes()
    yield content
    if path.suffix == ".gz":
        yield gzip.decompress(content)
    for start in re.finditer(rb"IDAT|\x78[\x01\x5e\x9c\xda]", content):
        data = content[start.end() if start[0] == b"IDAT" else start.start() :]
        try:
            yield zlib.decompressobj().decompress(data)
        except zlib.error:
            continue


def assert_clean(folder: Path, *, mark: str = MARK) -> list[Path]:
    """No file holds the mark, in any encoding, or has it in its name; the files."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    forms = [mark.encode(), mark.encode("utf-16-le"), mark.lower().encode()]
    for path in files:
        assert mark not in path.name
        for content in views(path):
            assert [form for form in forms if form in content] == [], path
    return files


@pytest.mark.parametrize("write", [fastmri, mrd, twix, bruker])
def test_identifiers_of_a_scan_reach_no_output(write, tmp_path):
    (tmp_path / "in").mkdir()
    source = write(tmp_path / "in")
    assert any(MARK.encode() in p.read_bytes() for p in (tmp_path / "in").rglob("*") if p.is_file())
    out = tmp_path / "out"
    (scan,) = find_scans([source])
    prepare(source, out / "prep", pictures=True)
    for to in ("fastmri", "ismrmrd", "cfl"):
        convert_scan(scan.open(), out / to, to)
    result = mri_ambient.reconstruct(source, Recipe("zero-filled"))
    result.save(out / "raw", formats=list(FORMATS), bids="sub-01")
    for path in (out / "prep").glob("*.h5"):
        mri_ambient.reconstruct(path, Recipe("zero-filled")).save(out / "prepared")
    files = assert_clean(out)
    assert {".h5", ".json", ".png", ".cfl", ".dcm", ".html"} <= {path.suffix for path in files}


def test_identifiers_are_kept_where_that_is_asked_for(tmp_path):
    source = open_scan(fastmri(tmp_path))
    path = convert_scan(source, tmp_path / "out", "fastmri", keep_identifiers=True)
    with h5py.File(path) as file:
        assert file.attrs["patient_name"] == f"patient_name {MARK}"
        assert file["ismrmrd_header"][()].decode().count(MARK) > 15


def test_what_an_image_needs_of_the_header_is_kept(tmp_path):
    (tmp_path / "plain").mkdir()
    (tmp_path / "marked").mkdir()
    for write, marked in ((sound_files.write_mrd, mrd), (sound_files.write_fastmri, fastmri)):
        plain, found = open_scan(write(tmp_path / "plain")), open_scan(marked(tmp_path / "marked"))
        assert found.voxel_mm == plain.voxel_mm and found.recon_shape == plain.recon_shape
        assert found.header_xml.startswith("<ismrmrdHeader")  # readers of it know no prefixes
        again = open_scan(convert_scan(found, tmp_path / found.format, "fastmri"))
        assert again.voxel_mm == plain.voxel_mm and again.recon_shape == plain.recon_shape
        for entry in (tmp_path / "plain", tmp_path / "marked"):
            (entry / "scan.h5").unlink()


def test_cards_of_priors_do_not_name_scans(tmp_path):
    """Those of adapted priors: tests/cli/test_adapt.py."""
    raw = tmp_path / "raw"
    for number, path in enumerate(sound_files.simulated(raw, 6)):
        path.rename(raw / f"{MARK}-{number}.h5")
    prepare(raw, tmp_path / "prepared")
    job = TrainJob(
        tmp_path / "prepared",
        tmp_path / "run",
        replace(QUICK, n_validation=1),
        images=2,
        force=True,
    )
    facts = plan(job).facts
    assert facts.card["validation_scans"] and facts.card["trained_on"]
    save_prior(Prior(facts.build(), facts), tmp_path / "priors" / "own.safetensors")
    assert_clean(tmp_path / "priors")


def test_a_template_gives_patient_and_study_only(tmp_path):
    series = sound_files.write_template(tmp_path)
    for path in series.iterdir():
        data = pydicom.dcmread(path)
        data.PatientName, data.StationName, data.OperatorsName = "Doe^J", MARK, MARK
        data.DeviceSerialNumber = data.InstitutionAddress = data.ImageComments = MARK
        data.InstitutionName = MARK
        data.PerformingPhysicianName = data.InstitutionalDepartmentName = MARK
        data.add_new((0x0029, 0x0010), "LO", MARK)
        data.save_as(path)
    images = torch.from_numpy(sound_files.PIXELS.astype(np.complex64))
    result = save_images(tmp_path / "scan.h5", images, voxel_mm=(2.0, 2.0, 5.0))
    FORMATS["dicom"].write(result, tmp_path / "out", SaveOptions(dicom_template=series))
    files = assert_clean(tmp_path / "out")
    assert {str(pydicom.dcmread(path).PatientName) for path in files} == {"Doe^J"}


def test_nothing_is_unpickled():
    """No module that runs code from files is imported by any of ours."""
    folder = Path(mri_ambient.__file__).parent
    text = "".join(path.read_text() for path in folder.rglob("*.py"))
    modules, calls = r"\bimport (c?[Pp]ickle|dill|marshal|shelve)\b", r"torch\.load\("
    yaml = r"yaml\.(?!safe_load|YAMLError)"
    assert not re.search(f"{modules}|{calls}|{yaml}", text)
    assert text.count("np.load(") == text.count("allow_pickle=False") > 0
