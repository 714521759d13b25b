"""ISMRMRD headers: what we read, what we write, what we refuse."""

from __future__ import annotations

import pytest

from mri_ambient.errors import ScanFormatError
from mri_ambient.io import build_header, parse_header

SPACES = """
  <encodedSpace><matrixSize><x>640</x><y>368</y><z>1</z></matrixSize>
    <fieldOfView_mm><x>280</x><y>161</y><z>4.5</z></fieldOfView_mm></encodedSpace>
  <reconSpace><matrixSize><x>320</x><y>320</y><z>1</z></matrixSize>
    <fieldOfView_mm><x>140</x><y>140</y><z>4.5</z></fieldOfView_mm></reconSpace>
"""
LIMITS = """
  <encodingLimits><kspace_encoding_step_1>
    <minimum>0</minimum><maximum>321</maximum><center>161</center>
  </kspace_encoding_step_1></encodingLimits>
"""


def header(encoding: str, *, prefix: str = "") -> str:
    """A header text around an ``<encoding>``, its elements in the namespace ``prefix``."""
    if prefix:
        encoding = encoding.replace("</", "\0").replace("<", f"<{prefix}:")
        encoding = encoding.replace("\0", f"</{prefix}:")
    name, colon = (f"xmlns:{prefix}", f"{prefix}:") if prefix else ("xmlns", "")
    return (
        f'<?xml version="1.0"?><{colon}ismrmrdHeader {name}="http://www.ismrm.org/ISMRMRD">'
        f"<{colon}encoding>{encoding}</{colon}encoding></{colon}ismrmrdHeader>"
    )


@pytest.mark.parametrize("prefix", ["", "ns0"])
@pytest.mark.parametrize("kind", [str, str.encode])
def test_a_knee_header_is_read_with_readout_as_y(prefix, kind):
    text = header(SPACES + LIMITS, prefix=prefix)
    got = parse_header(kind(text))
    assert got.encoded_shape == (640, 368)
    assert got.recon_shape == (320, 320)
    assert got.encoded_fov_mm == (280, 161)
    assert got.recon_fov_mm == (140, 140)
    assert got.slice_mm == 4.5
    assert got.padding == (23, 345)  # 184 - 161, and 23 + 321 + 1
    assert got.readout_oversampling == 2
    assert got.xml == text


def test_limits_beyond_the_matrix_are_cut():
    text = header(SPACES + LIMITS.replace("161", "200").replace("321", "500"))
    assert parse_header(text).padding == (0, 368)


@pytest.mark.parametrize(
    ("encoding", "field", "want"),
    [
        (SPACES, "padding", (0, 368)),
        (SPACES.split("<reconSpace>")[0], "recon_shape", (640, 368)),
        (SPACES.replace("fieldOfView_mm", "fov"), "encoded_fov_mm", None),
        (SPACES.replace("<x>280</x>", "<x>0</x>"), "encoded_fov_mm", None),
        (SPACES.replace("<y>140</y>", "<y></y>"), "recon_fov_mm", None),
        (SPACES.replace("<z>4.5</z>", ""), "slice_mm", None),
        (SPACES.replace("<x>640</x>", "<x>640.0</x>"), "encoded_shape", (640, 368)),
    ],
)
def test_what_is_missing_is_left_open(encoding, field, want):
    assert getattr(parse_header(header(encoding)), field) == want


def test_oversampling_comes_from_the_matrices_where_no_field_of_view_is_given():
    assert parse_header(header(SPACES.replace("fieldOfView_mm", "fov"))).readout_oversampling == 2


@pytest.mark.parametrize(
    ("text", "facts"),
    [
        ("", ["XML"]),
        ("no header", ["XML"]),
        (b"\xff\xfe\x00", ["XML"]),
        (b'<?xml version="1.0" encoding="klingon"?><ismrmrdHeader/>', ["klingon"]),
        ("<html/>", ["'html'"]),
        (header(""), ["encodedSpace/matrixSize"]),
        (header(SPACES.replace("640", "0")), ["0 x 368"]),
        (header(SPACES.replace("640", "-3")), ["-3 x 368"]),
        (header(SPACES.replace("640", "many")), ["'many'", "matrixSize/x"]),
        (header(SPACES.replace("280", "nan")), ["'nan'", "fieldOfView_mm/x"]),
        (header(SPACES.replace("280", "1e999")), ["'1e999'", "fieldOfView_mm/x"]),
        (header(SPACES + LIMITS.replace("161", "900")), ["900", "321", "368"]),
    ],
)
def test_impossible_headers_are_refused(text, facts):
    with pytest.raises(ScanFormatError) as caught:
        parse_header(text)
    assert all(fact in str(caught.value) for fact in facts)


@pytest.mark.parametrize("padding", [None, (0, 46), (3, 43), (0, 30), (20, 46)])
def test_what_is_built_reads_back(padding):
    want = {
        "encoded_shape": (64, 46),
        "recon_shape": (32, 30),
        "encoded_fov_mm": (280.0, 201.3),
        "recon_fov_mm": (140.0, 131.7),
        "slice_mm": 4.5,
    }
    got = parse_header(build_header(**want, n_slices=2, n_coils=3, padding=padding))
    assert {name: getattr(got, name) for name in want} == want
    assert got.padding == (padding or (0, 46))


def test_the_protocol_is_read_where_it_is_given():
    name = "<measurementInformation><protocolName> T2_TSE </protocolName></measurementInformation>"
    assert (
        parse_header(header(SPACES).replace("<encoding>", f"{name}<encoding>")).protocol == "t2_tse"
    )
    assert parse_header(header(SPACES)).protocol == ""


@pytest.mark.parametrize(("text", "state"), [("<ismrmrdHeader><enc", "cut off"), (" \n", "empty")])
def test_a_header_that_is_cut_off_or_empty_is_named_so(text, state):
    for given in (text, text.encode()):
        with pytest.raises(ScanFormatError, match=f"{state}.*; export the file again"):
            parse_header(given)
