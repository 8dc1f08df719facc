"""Files of one slice each: their HU whatever the way they were stored, and a volume of those that are in order."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scan_files import SIZE_PX, write_slice

from hgisam.io.dicom import read_dicom, read_slices
from hgisam.io.dicom_geometry import slice_order
from hgisam.io.dicom_header import read_slice_header
from hgisam.io.dicom_pixels import unwrapped
from hgisam.io.errors import ScanRefused
from hgisam.volume import HIGHEST_HU, LOWEST_HU

RAMP = np.array([[-1000.0, -500.0, -80.0, 0.0]] * 2 + [[30.0, 60.0, 1000.0, 3000.0]] * 2)


@pytest.mark.parametrize("encoding", ["signed", "unsigned", "wrapped"])
def test_hu_do_not_hang_on_how_they_are_stored(tmp_path: Path, encoding: str) -> None:
    write_slice(tmp_path / "a.dcm", RAMP, encoding=encoding)
    assert torch.equal(read_slices([tmp_path / "a.dcm"], "a").hu[0], torch.tensor(RAMP, dtype=torch.float32))
    assert read_slice_header(tmp_path / "a.dcm").wrapped == (encoding == "wrapped")


@given(st.integers(int(LOWEST_HU), int(HIGHEST_HU)))
def test_unwrapping_is_the_inverse_of_twelve_bits_without_an_offset(hu: int) -> None:
    assert unwrapped(np.array([hu % 4096], dtype=np.float32)).tolist() == [hu]


def test_padding_far_below_air_becomes_air(tmp_path: Path) -> None:
    write_slice(tmp_path / "a.dcm", -3024.0)
    assert set(read_slices([tmp_path / "a.dcm"], "a").hu.unique().tolist()) == {LOWEST_HU}


def test_a_series_lies_where_its_headers_say(tmp_path: Path) -> None:
    paths = [tmp_path / f"{k}.dcm" for k in range(3)]
    marked = np.zeros((SIZE_PX, SIZE_PX))
    marked[1, 3] = 77.0
    for k, path in enumerate(paths):
        write_slice(path, marked if k == 2 else 0.0, (-20.0, -30.0, 5.0 * k), PixelSpacing=[0.5, 0.25])
    volume = read_slices(paths, "series")
    d, h, w = (int(index[0]) for index in torch.nonzero(volume.hu == 77, as_tuple=True))
    assert d == 2
    assert volume.spacing_mm == pytest.approx((5.0, 0.5, 0.25))
    found_ras_mm = volume.affine @ torch.tensor([d, h, w, 1.0], dtype=torch.float64)
    # DICOM counts to the left and to the back, RAS to the right and to the front.
    assert found_ras_mm.tolist() == pytest.approx([20.0 - 3 * 0.25, 30.0 - 1 * 0.5, 10.0, 1.0])


def test_slices_given_one_by_one_are_the_scan_that_their_folder_is(tmp_path: Path) -> None:
    paths = [tmp_path / f"{k}.dcm" for k in range(4)]
    for path, height in zip(paths, (0.0, 5.0, 15.0, 20.0), strict=True):  # one is missing: labels may do without it
        write_slice(path, RAMP, (0.0, 0.0, height), encoding="wrapped")
    one_by_one = read_slices(paths, "slices")
    folder, _ = read_dicom(tmp_path, allow_gaps=True)
    assert torch.equal(one_by_one.hu, folder.hu)
    assert torch.equal(one_by_one.affine, folder.affine)
    assert one_by_one.slice_positions_mm.tolist() == pytest.approx([0.0, 5.0, 15.0, 20.0])


def test_a_series_out_of_order_is_a_mistake_of_the_caller(tmp_path: Path) -> None:
    for k in range(2):
        write_slice(tmp_path / f"{k}.dcm", 0.0, (0.0, 0.0, -5.0 * k))
    with pytest.raises(ValueError, match="from the lowest to the highest"):
        read_slices([tmp_path / "0.dcm", tmp_path / "1.dcm"], "series")
    with pytest.raises(ValueError, match="at least one slice"):
        read_slices([], "series")


def test_slices_of_two_sizes_are_no_volume(tmp_path: Path) -> None:
    write_slice(tmp_path / "0.dcm", 0.0)
    write_slice(tmp_path / "1.dcm", 0.0, (0.0, 0.0, 5.0), PixelSpacing=[0.6, 0.6])
    with pytest.raises(ScanRefused, match="one size, direction and spacing"):
        read_slices([tmp_path / "0.dcm", tmp_path / "1.dcm"], "series")


@pytest.mark.parametrize("tag", ["RescaleIntercept", "ImagePositionPatient", "PixelSpacing", "PatientID", "Rows"])
def test_a_slice_without_a_tag_that_matters_is_refused(tmp_path: Path, tag: str) -> None:
    write_slice(tmp_path / "a.dcm", 0.0, **{tag: None})
    with pytest.raises(ScanRefused, match=r"a\.dcm: expected a (single )?CT slice"):
        read_slice_header(tmp_path / "a.dcm")


def test_a_truncated_slice_is_refused_by_its_size_alone(tmp_path: Path) -> None:
    write_slice(tmp_path / "a.dcm", 0.0, Rows=512, Columns=512)
    with pytest.raises(ScanRefused, match=r"expected 524,256 bytes more of pixels"):
        read_slice_header(tmp_path / "a.dcm")


@pytest.mark.parametrize("content", [b"", b"no DICOM at all" * 40])
def test_files_that_are_no_dicom_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.dcm").write_bytes(content)
    with pytest.raises(ScanRefused, match=r"a\.dcm: expected a CT slice in Hounsfield units; got 'unreadable header'"):
        read_slice_header(tmp_path / "a.dcm")
    with pytest.raises(ScanRefused, match=r"b\.dcm: .*No such file"):
        read_slice_header(tmp_path / "b.dcm")


def test_a_real_tilted_series_is_read_upward(realdata: Path) -> None:
    paths = sorted((realdata / "ge_head_dicom").glob("*.dcm"))
    headers = [read_slice_header(path) for path in paths]
    order = slice_order(np.array([header.position for header in headers]), headers[0].plane)
    volume = read_slices([paths[index] for index in order], "GE head")
    assert volume.hu.shape == (28, 512, 512)
    assert bool((volume.slice_positions_mm.diff() > 0).all())
    bone = (volume.hu > 300).sum(dim=(1, 2))
    assert int(bone[:10].sum()) > int(bone[-10:].sum())  # the skull base is below the vertex


def test_real_rsna_slices_of_both_encodings_hold_air(realdata: Path) -> None:
    paths = sorted((realdata / "rsna_dicom").glob("*.dcm"))
    kinds = set()
    for path in paths[:8]:
        volume = read_slices([path], path.name)
        assert float((volume.hu < -900).float().mean()) > 0.2, path.name
        kinds.add(read_slice_header(path).wrapped)
    assert kinds == {False}
