"""Whatever bytes claim to be DICOM: a scan, or one line of refusal, and nothing else."""

import tempfile
import zipfile
from functools import cache
from pathlib import Path

import pytest
from dicom_writer import compressed, ct_slice, enhanced, pattern, save
from hypothesis import given, settings
from hypothesis import strategies as st

from hgisam.io.dicom import read_dicom
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
