"""Whatever bytes claim to be DICOM: a scan, or one line of refusal, and nothing else."""

import tempfile
import tracemalloc
import zipfile
from functools import cache
from pathlib import Path

import pytest
from dicom_writer import compressed, ct_slice, enhanced, pattern, save
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.config import disable_value_validation
from pydicom.dataelem import DataElement
from pydicom.encaps import encapsulate, get_frame

from hgisam.io.dicom import read_dicom
from hgisam.io.dicom_series import find_series
from hgisam.io.errors import ScanRefused


@cache
def seeds() -> tuple[bytes, ...]:
    """A plain, an enhanced and a compressed image, and an archive."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "x.dcm")
        plain = save(ct_slice(pattern()), path).read_bytes()
        with zipfile.ZipFile(Path(folder, "x.zip"), "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("x.dcm", plain)
        multi = save(enhanced([0, 5, 10], [2, 0, 1]), path).read_bytes()
        packed = save(compressed(ct_slice(pattern(shape=(64, 64))), "jpeg2000"), path).read_bytes()
        return plain, multi, packed, Path(folder, "x.zip").read_bytes()


def read(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "x")
        path.write_bytes(data)
        try:
            read_dicom(path, max_voxels=2**20)
        except ScanRefused as refusal:
            assert "\n" not in str(refusal)


@settings(max_examples=150)
@given(st.data())
def test_changed_bytes_are_a_scan_or_a_refusal(data: st.DataObject) -> None:
    damaged = bytearray(data.draw(st.sampled_from(seeds())))
    changes = st.tuples(st.integers(0, len(damaged) - 1), st.integers(0, 255))
    for at, value in data.draw(st.lists(changes, min_size=1, max_size=8)):
        damaged[at] = value
    read(bytes(damaged))


@pytest.mark.parametrize("element", [b"\x02\x01", b"\x03\x01", b"\x01\x01"])
def test_an_element_of_no_kind_that_pixels_need_is_a_scan_or_a_refusal(element: bytes) -> None:
    """HighBit, PixelRepresentation and BitsStored, of which pydicom makes values only when they are asked for."""
    plain = seeds()[0]
    at = plain.index(b"\x28\x00" + element)
    read(plain[: at + 4] + b"U\x00" + plain[at + 6 :])


@settings(max_examples=50)
@given(st.data())
def test_cut_and_joined_bytes_are_a_scan_or_a_refusal(data: st.DataObject) -> None:
    whole = data.draw(st.sampled_from(seeds()))
    cut = data.draw(st.integers(132, len(whole)))
    read(whole[:cut] + data.draw(st.binary(max_size=64)))


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("Rows", 0), ("Columns", 0), ("BitsStored", 0), ("BitsStored", 64), ("HighBit", 200), ("BitsAllocated", 1),
        ("BitsAllocated", 32), ("SamplesPerPixel", 0), ("PixelRepresentation", 7), ("RescaleIntercept", "1e300"),
        ("RescaleSlope", "-1e300"), ("SliceThickness", "-5"), ("ImagePositionPatient", ["1e308", "1e308", "1e308"]),
        ("PixelSpacing", ["1e-300", "1"]), ("NumberOfFrames", "99999999"), ("NumberOfFrames", "-1"),
        ("PhotometricInterpretation", "RGB"), ("PhotometricInterpretation", "PALETTE COLOR"),
    ],
)  # fmt: skip
def test_numbers_beyond_sense_are_a_scan_or_a_refusal(tmp_path: Path, keyword: str, value: object) -> None:
    dataset = ct_slice(pattern(), **{keyword: value})
    read(save(dataset, tmp_path / "x.dcm").read_bytes())


def test_sequences_within_sequences_end_in_a_refusal(tmp_path: Path) -> None:
    data = bytearray(save(ct_slice(pattern()), tmp_path / "x.dcm").read_bytes())
    nested = b"\x08\x00\x15\x11SQ\x00\x00\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff" * 5000
    at = data.index(b"\x20\x00\x0d\x00")
    read(bytes(data[:at] + nested))


def test_a_panic_of_the_rle_decoder_is_a_refusal(tmp_path: Path) -> None:
    """A segment whose offset lies behind the frame: pylibjpeg-rle reads beyond it and panics, which is no Exception."""
    dataset = compressed(ct_slice(pattern(shape=(64, 64))), "rle")
    frame = bytearray(get_frame(dataset.PixelData, 0, number_of_frames=1))
    cut = frame[:64] + frame[64:66]  # the header promises two segments, and there are two bytes
    dataset.PixelData = encapsulate([bytes(cut)])
    with pytest.raises(ScanRefused, match="expected readable pixels"):
        read_dicom(save(dataset, tmp_path / "x.dcm"))


@pytest.mark.parametrize("value", [None, 200, [15, 15], "x"])
@pytest.mark.parametrize("keyword", ["HighBit", "BitsStored"])
def test_bits_that_are_no_number_are_a_refusal(tmp_path: Path, keyword: str, value: object) -> None:
    dataset = ct_slice(pattern())
    with disable_value_validation():
        vr = "LO" if isinstance(value, str) else "US"
        dataset[keyword] = DataElement(dataset[keyword].tag, vr, value)
    read(save(dataset, tmp_path / "x.dcm").read_bytes())
    with pytest.raises(ScanRefused):
        read_dicom(tmp_path / "x.dcm")


@pytest.mark.parametrize("vr", [b"LO\0\0", b"UN\0\0", b"OB\0\0"])
def test_an_element_that_claims_gigabytes_takes_none(tmp_path: Path, vr: bytes) -> None:
    data = save(ct_slice(pattern()), tmp_path / "x.dcm").read_bytes()
    at = data.index(b"\x20\x00\x0d\x00")
    (tmp_path / "x.dcm").write_bytes(data[:at] + b"\x18\x00\x10\x12" + vr + b"\xff\xff\xff\x7f" + data[at:])
    tracemalloc.start()
    try:
        with pytest.raises(ScanRefused):
            read_dicom(tmp_path / "x.dcm")
        assert tracemalloc.get_traced_memory()[1] < 2**26
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("zeros_at", ["start", "end"])
def test_a_file_of_zeros_is_no_header_of_millions_of_elements(tmp_path: Path, zeros_at: str) -> None:
    """Behind the preamble, or behind the pixels: 8 MiB are a million empty elements, 2 GiB an hour's work."""
    data = save(ct_slice(pattern()), tmp_path / "x.dcm").read_bytes()
    cut = 132 if zeros_at == "start" else len(data)
    (tmp_path / "x.dcm").write_bytes(data[:cut] + bytes(2**23) + data[cut:])
    with pytest.raises(ScanRefused, match="hundreds of thousands of elements"):
        read_dicom(tmp_path / "x.dcm")


def test_many_such_files_take_no_longer_than_one_and_leave_the_slices_beside_them(tmp_path: Path) -> None:
    data = save(ct_slice(pattern()), tmp_path / "x.dcm").read_bytes()
    for index in range(20):
        (tmp_path / f"zeros_{index:02d}.dcm").write_bytes(data[:132] + bytes(2**22))
    listing = find_series([tmp_path])
    assert [len(series.slices) for series in listing.series] == [1]
    assert len(listing.left_out) == 20
    assert all("elements" in left.reason for left in listing.left_out)
