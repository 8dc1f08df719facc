"""NIfTI in and out: any axis order, damage refused, and outputs on exactly the input's grid."""

import gzip
import itertools
import math
import os
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scan_files import write_nifti

from hgisam.io.errors import OutputError, ScanRefused
from hgisam.io.nifti import (
    ct_from_array,
    ct_from_image,
    new_grid_for,
    read_ct,
    read_grid,
    read_labels,
    read_mask,
    read_mask_and_labels,
    write_ct,
    write_labels,
    write_map,
    write_mask,
)
from hgisam.io.nifti_header import Choice, Form
from hgisam.volume import CTVolume

SHAPE = (6, 5, 4)
SPACING = np.diag([-0.5, -0.7, 5.0, 1.0])  # runs to Left, Posterior, Superior
GEOMETRY_FIELDS = (
    "dim_info", "dim", "pixdim", "slice_start", "slice_end", "slice_code", "slice_duration", "toffset", "xyzt_units",
    "qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z",
    "srow_x", "srow_y", "srow_z",
)  # fmt: skip
ALL_CODES = tuple(
    "".join(letters) for pairs in itertools.permutations(("RL", "AP", "SI")) for letters in itertools.product(*pairs)
)


def hu(shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    """Different HU in every voxel."""
    return (np.arange(math.prod(shape)).reshape(shape) - 40).astype(np.int16)


def image(array: np.ndarray | None = None, affine: np.ndarray = SPACING, kind: type = nib.Nifti1Image) -> Any:
    """An image with sform and qform set, as scanners' converters write them."""
    made = kind(hu() if array is None else array, affine)
    made.header.set_xyzt_units("mm")
    made.set_sform(affine, code=1)
    made.set_qform(affine, code=1)
    return made


def saved(folder: Path, made: Any = None, name: str = "scan.nii.gz") -> Path:
    nib.save(image() if made is None else made, folder / name)
    return folder / name


def patched(folder: Path, made: Any = None, *, edit: Callable[[np.ndarray], None] | None = None, cut: int = 0) -> Path:
    """An uncompressed file whose header was edited as a structured array, and whose end was cut off."""
    made = image() if made is None else made
    raw = bytearray(made.to_bytes())
    if edit:
        header = np.frombuffer(raw, dtype=nib.nifti1.header_dtype, count=1)
        edit(header)
    path = folder / "scan.nii"
    path.write_bytes(raw[: len(raw) - cut])
    return path


def setting(**fields: Any) -> Callable[[np.ndarray], None]:
    def edit(header: np.ndarray) -> None:
        for name, value in fields.items():
            header[name] = value

    return edit


def direction(affine: np.ndarray, axis: int) -> str:
    """Where a house axis runs, by its largest component in RAS+."""
    column = affine[:3, axis]
    largest = int(np.abs(column).argmax())
    return ("RAS" if column[largest] > 0 else "LPI")[largest]


# Axes and grids.


@pytest.mark.parametrize("codes", ALL_CODES)
@settings(max_examples=4, deadline=None)
@given(
    shape=st.tuples(*[st.integers(2, 6)] * 3),
    spacing=st.tuples(*[st.floats(0.3, 6)] * 3),
    angles=st.tuples(*[st.floats(-0.3, 0.3)] * 3),
    shear=st.floats(-0.3, 0.3),
)
def test_any_of_the_48_axis_orders_oblique_or_sheared_reads_to_house_axes_and_writes_back_on_its_own_grid(
    tmp_path_factory: pytest.TempPathFactory,
    codes: str,
    shape: tuple[int, int, int],
    spacing: tuple[float, float, float],
    angles: tuple[float, float, float],
    shear: float,
) -> None:
    folder = tmp_path_factory.mktemp("scan")
    signed = np.zeros((3, 3))
    for file_axis, code in enumerate(codes):
        row = next(i for i, pair in enumerate(("RL", "AP", "SI")) if code in pair)
        signed[row, file_axis] = 1.0 if code in "RAS" else -1.0
    tilt = np.eye(3)
    tilt[1, 2] = shear
    linear = nib.eulerangles.euler2mat(*angles) @ tilt @ signed @ np.diag(spacing)
    affine = nib.affines.from_matvec(linear, [10, -20, 30])
    marker = tuple(n - 1 if code in "LAS" else 0 for n, code in zip(shape, codes, strict=True))
    array = np.zeros(shape, dtype=np.int16)
    array[marker] = 77  # the most left, anterior and superior voxel
    made = nib.Nifti1Image(array, affine)
    made.set_sform(affine, code=1)
    nib.save(made, folder / "scan.nii.gz")

    ct, grid = read_ct(folder / "scan.nii.gz")

    house_marker = (ct.hu.shape[0] - 1, 0, ct.hu.shape[2] - 1)
    assert torch.nonzero(ct.hu == 77).tolist() == [list(house_marker)]
    np.testing.assert_allclose(ct.affine.numpy() @ (*house_marker, 1), grid.affine @ (*marker, 1), atol=1e-4)
    assert ct.affine[:3, 0] @ torch.tensor([0.0, 0, 1], dtype=torch.float64) > 0
    assert ct.affine[:3, 1] @ torch.tensor([0.0, -1, 0], dtype=torch.float64) > 0
    assert ct.affine[:3, 2] @ torch.tensor([-1.0, 0, 0], dtype=torch.float64) > 0

    write_mask(folder / "mask.nii.gz", ct.hu == 77, grid)
    mask = nib.load(folder / "mask.nii.gz")
    assert np.argwhere(np.asarray(mask.dataobj)).tolist() == [list(marker)]
    np.testing.assert_array_equal(mask.affine, nib.load(folder / "scan.nii.gz").affine)
    for field in GEOMETRY_FIELDS:
        assert mask.header[field].tobytes() == nib.load(folder / "scan.nii.gz").header[field].tobytes(), field


def test_house_axes_run_to_superior_posterior_and_left(tmp_path: Path) -> None:
    ct, _ = read_ct(saved(tmp_path, image(affine=np.diag([0.5, 0.7, 5.0, 1.0]))))
    assert [direction(ct.affine.numpy(), axis) for axis in range(3)] == ["S", "P", "L"]
    assert ct.spacing_mm == pytest.approx((5.0, 0.7, 0.5))


@pytest.mark.parametrize("name", ["scan.nii", "scan.nii.gz"])
@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("dtype", ["u1", "i1", "<i2", ">i2", "u2", "i4", "u4", "i8", "u8", "<f4", ">f4", "f8"])
def test_every_number_format_and_byte_order_gives_the_same_hu(
    tmp_path: Path, name: str, kind: type, dtype: str
) -> None:
    array = np.arange(120).reshape(SHAPE).astype(dtype)
    made = kind(array, SPACING, dtype=array.dtype)
    made = kind(array, SPACING, made.header.as_byteswapped(">" if dtype.startswith(">") else "<"), dtype=array.dtype)
    made.set_sform(SPACING, code=1)
    ct, grid = read_ct(saved(tmp_path, made, name))
    np.testing.assert_array_equal(grid.to_file(ct.hu), array.astype(np.float32))
    assert grid.warnings == ()
    write_map(tmp_path / "map.nii.gz", ct.hu / 200, grid)
    found = nib.load(tmp_path / "map.nii.gz")
    assert type(found) is kind
    np.testing.assert_allclose(np.asarray(found.dataobj), array / 200, rtol=1e-6)
    np.testing.assert_array_equal(found.affine, nib.load(tmp_path / name).affine)


def test_a_last_axis_of_length_one_is_dropped_and_given_back(tmp_path: Path) -> None:
    ct, grid = read_ct(saved(tmp_path, image(hu((6, 5, 4, 1)))))
    assert tuple(ct.hu.shape) == (4, 5, 6)
    assert grid.shape == (6, 5, 4)
    write_mask(tmp_path / "mask.nii.gz", ct.hu > 0, grid)
    found = nib.load(tmp_path / "mask.nii.gz")
    assert found.shape == (6, 5, 4, 1)
    np.testing.assert_array_equal(np.asarray(found.dataobj), hu((6, 5, 4, 1)) > 0)


# Numbers.


def test_padding_becomes_air_and_metal_is_cut_off(tmp_path: Path) -> None:
    array = hu()
    array[0, 0], array[1, 1], array[2, 2, 0] = -2000, -3024, 9000
    ct, _ = read_ct(saved(tmp_path, image(array)))
    assert (ct.hu.min(), ct.hu.max()) == (-1024, 3071)
    assert int((ct.hu == -1024).sum()) == 8


@pytest.mark.parametrize(("slope", "inter"), [(0.0, 7.0), (math.nan, 7.0), (math.inf, 7.0)])
def test_a_slope_that_is_none_leaves_the_numbers_alone(tmp_path: Path, slope: float, inter: float) -> None:
    path = patched(tmp_path, edit=setting(scl_slope=slope, scl_inter=inter))
    ct, grid = read_ct(path)
    np.testing.assert_array_equal(grid.to_file(ct.hu), hu())


def test_slope_and_intercept_are_applied_once_and_not_written_on(tmp_path: Path) -> None:
    path = patched(tmp_path, edit=setting(scl_slope=2.0, scl_inter=-1024.0))
    ct, grid = read_ct(path)
    np.testing.assert_array_equal(grid.to_file(ct.hu), np.clip(hu() * 2.0 - 1024, -1024, 3071))
    write_ct(tmp_path / "again.nii.gz", ct, grid)
    np.testing.assert_array_equal(nib.load(tmp_path / "again.nii.gz").get_fdata(), grid.to_file(ct.hu))


def head_with(value: float, where: tuple[Any, ...]) -> np.ndarray:
    """Air around a block of tissue, and one value put somewhere."""
    array = np.full((16, 16, 8), -1000.0, dtype=np.float32)
    array[4:12, 4:12, 2:6] = 30
    array[where] = value
    return array


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_far_from_the_head_is_air_with_a_warning(tmp_path: Path, value: float) -> None:
    ct, grid = read_ct(saved(tmp_path, image(head_with(value, (slice(0, 2), slice(0, 2))))))
    assert grid.warnings == ("32 voxels outside the head are NaN or Inf: taken as air",)
    assert torch.isfinite(ct.hu).all()
    assert grid.to_file(ct.hu)[0, 0, 0] == -1024


@pytest.mark.parametrize(
    "where",
    [
        (8, 8, 4),  # inside
        (3, 8, 4),  # touching the scalp
        (slice(None), slice(None), 4),  # a whole slice
        (slice(None), slice(None), 6),  # the slice above the head
    ],
)
def test_what_is_no_number_in_or_at_the_head_is_refused(tmp_path: Path, where: tuple[Any, ...]) -> None:
    with pytest.raises(ScanRefused, match="expected numbers in every voxel; got NaN or Inf"):
        read_ct(saved(tmp_path, image(head_with(math.nan, where))))


def test_many_voxels_that_are_no_numbers_are_refused_wherever_they_are(tmp_path: Path) -> None:
    array = np.full((40, 16, 8), -1000.0, dtype=np.float32)
    array[30:38, 4:12, 2:6] = 30
    array[:12] = math.nan
    with pytest.raises(ScanRefused, match=r"30\.00%"):
        read_ct(saved(tmp_path, image(array)))


# Doubtful but accepted, with a warning.


def test_a_plain_file_with_a_compressed_name_is_read_with_a_warning(tmp_path: Path) -> None:
    path = tmp_path / "scan.nii.gz"
    path.write_bytes(image().to_bytes())
    ct, grid = read_ct(path)
    np.testing.assert_array_equal(grid.to_file(ct.hu), hu())
    assert grid.warnings == ("the file is not gzip-compressed, against what its name says",)


def test_a_compressed_file_with_a_plain_name_is_read_with_a_warning(tmp_path: Path) -> None:
    path = tmp_path / "scan.nii"
    path.write_bytes(gzip.compress(image().to_bytes()))
    assert read_ct(path)[1].warnings == ("the file is gzip-compressed, against what its name says",)


def test_gzip_in_several_members_is_read_to_the_end(tmp_path: Path) -> None:
    raw = image().to_bytes()
    path = tmp_path / "scan.nii.gz"
    path.write_bytes(gzip.compress(raw[:400]) + gzip.compress(raw[400:]))
    ct, grid = read_ct(path)
    np.testing.assert_array_equal(grid.to_file(ct.hu), hu())


def test_a_header_extension_is_stepped_over_and_not_written_on(tmp_path: Path) -> None:
    made = image()
    made.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"Jane Doe, born 1950" * 40))
    made.header["descrip"], made.header["db_name"], made.header["aux_file"] = b"Jane Doe", b"Jane Doe", b"Jane Doe"
    ct, grid = read_ct(saved(tmp_path, made, "scan.nii"))
    np.testing.assert_array_equal(grid.to_file(ct.hu), hu())
    write_mask(tmp_path / "mask.nii", ct.hu > 0, grid)
    assert b"Jane" not in (tmp_path / "mask.nii").read_bytes()


def test_without_qform_and_sform_left_and_right_are_said_to_be_unknown(tmp_path: Path) -> None:
    path = patched(tmp_path, edit=setting(sform_code=0, qform_code=0))
    ct, grid = read_ct(path)
    assert grid.warnings == (
        "neither qform nor sform is set: which way left, front and top are is unknown; the axes were taken to run to"
        " Left, Anterior and Superior",
    )
    assert not grid.directions_known
    np.testing.assert_array_equal(grid.affine, nib.load(path).affine)
    write_mask(tmp_path / "mask.nii", ct.hu > 0, grid)
    found = nib.load(tmp_path / "mask.nii").header
    assert (int(found["sform_code"]), int(found["qform_code"])) == (0, 0)


def test_a_qform_alone_is_enough(tmp_path: Path) -> None:
    path = patched(tmp_path, edit=setting(sform_code=0, srow_x=0, srow_y=0, srow_z=0))
    _, grid = read_ct(path)
    np.testing.assert_allclose(grid.affine, SPACING, atol=1e-6)
    assert grid.warnings == ()


def test_a_kept_gantry_tilt_is_accepted_with_a_warning_and_measured_by_the_determinant(tmp_path: Path) -> None:
    affine = SPACING.copy()
    affine[1, 2] = 5.0 * math.tan(math.radians(18.5))
    ct, grid = read_ct(saved(tmp_path, image(affine=affine)))
    assert len(grid.warnings) == 1
    assert "18.5 degrees off square" in grid.warnings[0]
    assert abs(float(torch.linalg.det(ct.affine[:3, :3]))) == pytest.approx(0.5 * 0.7 * 5.0, rel=1e-6)


# Refused, each with one line that names the file.


def refused(path: Path, message: str, **options: Any) -> None:
    with pytest.raises(ScanRefused, match=message) as caught:
        read_ct(path, **options)
    assert str(caught.value).startswith(f"{path.name}: ")
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    refused(tmp_path / "none.nii.gz", "check the path")


def test_a_folder_is_refused(tmp_path: Path) -> None:
    refused(tmp_path, "expected a readable, whole file")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "expected a NIfTI file"),
        (b"\x89PNG\r\n\x1a\n" + bytes(600), "expected a NIfTI file"),
        (bytes(128) + b"DICM" + bytes(600), "got DICOM; convert the series"),
        (struct.pack("<i", 348) + bytes(600), "expected a NIfTI file"),  # Analyze 7.5: left and right unknown
        (struct.pack("<i", 348) + bytes(340) + b"ni1\0" + bytes(300), "half of a .hdr/.img pair"),
        (image().to_bytes()[:300], "expected a NIfTI file"),
        (gzip.compress(b"text", mtime=0), "expected a NIfTI file"),
        (b"\x1f\x8b" + bytes(600), "expected a readable, whole file"),
    ],
    ids=["empty", "png", "dicom", "analyze", "half_a_pair", "cut_in_the_header", "gzip_of_text", "broken_gzip"],
)
def test_what_is_no_nifti_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "scan.nii.gz"
    path.write_bytes(content)
    refused(path, message)


def test_a_file_cut_in_half_is_refused(tmp_path: Path) -> None:
    refused(patched(tmp_path, cut=100), "truncated")


def test_data_cut_inside_whole_gzip_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "scan.nii.gz"
    path.write_bytes(gzip.compress(image().to_bytes()[:-100]))
    refused(path, "expected 240 bytes of voxels; got 140; the file is truncated")


@pytest.mark.parametrize("cut", [1, 8, 40])
def test_a_cut_gzip_stream_is_refused(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "scan.nii.gz"
    path.write_bytes(gzip.compress(image().to_bytes())[:-cut])
    refused(path, "expected a readable, whole file")


@pytest.mark.parametrize("place", [-8, -4])
def test_a_wrong_gzip_checksum_or_length_is_refused(tmp_path: Path, place: int) -> None:
    packed = bytearray(gzip.compress(image().to_bytes()))
    packed[place] ^= 0xFF
    path = tmp_path / "scan.nii.gz"
    path.write_bytes(packed)
    refused(path, "expected a readable, whole file")


def test_the_checksum_is_checked_behind_trailing_bytes_too(tmp_path: Path) -> None:
    packed = bytearray(gzip.compress(image().to_bytes() + bytes(5000)))
    packed[-8] ^= 0xFF
    path = tmp_path / "scan.nii.gz"
    path.write_bytes(packed)
    refused(path, "expected a readable, whole file")


@pytest.mark.parametrize("compressed", [True, False])
def test_a_header_that_claims_more_than_there_can_be_is_refused_before_memory_is_taken(
    tmp_path: Path, compressed: bool
) -> None:
    raw = patched(tmp_path, edit=setting(dim=[3, 600, 600, 600, 1, 1, 1, 1])).read_bytes()
    path = tmp_path / "scan.nii.gz"
    path.write_bytes(gzip.compress(raw) if compressed else raw)
    tracemalloc.start()
    refused(path, "truncated")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10e6


def test_more_voxels_than_allowed_are_refused_on_the_header(tmp_path: Path) -> None:
    path = patched(tmp_path, edit=setting(dim=[3, 32767, 32767, 32767, 1, 1, 1, 1]))
    refused(path, "32767 x 32767 x 32767 = 35,181,150,961,663")
    refused(saved(tmp_path), "at most 119 voxels", max_voxels=119)
    assert read_ct(saved(tmp_path), max_voxels=120)[0].hu.numel() == 120


def test_a_small_file_that_unpacks_to_far_more_than_it_states_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "scan.nii.gz"
    path.write_bytes(gzip.compress(image().to_bytes() + bytes(50_000_000), compresslevel=1))
    tracemalloc.start()
    refused(path, "a megabyte more than the header states")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10e6


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"dim": [3, -6, 5, 4, 1, 1, 1, 1]}, "expected 3 axes of at least one voxel"),
        ({"dim": [3, 6, 0, 4, 1, 1, 1, 1]}, "expected 3 axes of at least one voxel"),
        ({"dim": [9, 6, 5, 4, 1, 1, 1, 1]}, "expected 3 axes of at least one voxel"),
        ({"dim": [2, 6, 20, 1, 1, 1, 1, 1]}, "expected a volume with three axes; got 6 x 20"),
        ({"dim": [4, 6, 5, 2, 2, 1, 1, 1]}, r"expected one volume; got 2 \(6 x 5 x 2 x 2\)"),
        ({"datatype": 128, "bitpix": 24}, "got colour"),
        ({"datatype": 32, "bitpix": 64}, "got complex"),
        ({"datatype": 1536, "bitpix": 128}, "up to 64 bit"),
        ({"datatype": 77}, "got unknown"),
        ({"pixdim": [1, 0, 0.7, 5, 0, 0, 0, 0]}, "the spacing is unknown"),
        ({"pixdim": [1, 0.5, -0.7, 5, 0, 0, 0, 0]}, "the spacing is unknown"),
        ({"pixdim": [1, 0.5, 0.7, math.nan, 0, 0, 0, 0]}, "the spacing is unknown"),
        ({"pixdim": [1, 0.5, 0.7, 5.1, 0, 0, 0, 0], "qform_code": 0}, "expected one spacing; got 0.5 0.7 5.1 mm"),
        ({"xyzt_units": 1}, "expected lengths in mm"),
        ({"xyzt_units": 3}, "expected lengths in mm"),
        ({"vox_offset": 100}, "expected voxels from byte 352 on"),
        ({"vox_offset": 1e12}, "expected voxels from byte 352 on"),
        ({"vox_offset": math.nan}, "expected voxels from byte 352 on"),
        ({"vox_offset": 5000}, "truncated"),
        ({"scl_slope": 1, "scl_inter": math.nan}, "HU cannot be told"),
        ({"srow_x": [0, 0, 0, 0]}, "expected an invertible sform"),
        ({"srow_x": [math.nan, 0, 0, 0]}, "expected an invertible sform"),
        ({"sform_code": 0, "quatern_b": 5.0}, "expected a qform with a unit quaternion"),
        ({"srow_x": [0.5, 0, 0, 0]}, "expected qform and sform to agree"),  # left and right swapped
        ({"qoffset_x": 5.0}, "expected qform and sform to agree"),
        ({"quatern_b": 0.02, "quatern_d": math.sqrt(1 - 0.02**2)}, "expected qform and sform to agree"),
    ],
)
def test_a_header_that_cannot_be_trusted_is_refused(tmp_path: Path, fields: dict[str, Any], message: str) -> None:
    refused(patched(tmp_path, edit=setting(**fields)), message)


@pytest.mark.parametrize("fields", [{"qoffset_x": 0.1}, {"quatern_b": 0.002, "quatern_d": math.sqrt(1 - 0.002**2)}])
def test_qform_and_sform_may_differ_by_less_than_a_hundredth(tmp_path: Path, fields: dict[str, Any]) -> None:
    _, grid = read_ct(patched(tmp_path, edit=setting(**fields)))
    np.testing.assert_allclose(grid.affine, SPACING, atol=1e-6)
    assert grid.warnings == ()


def test_a_qform_that_is_no_rotation_gives_way_to_the_sform(tmp_path: Path) -> None:
    _, grid = read_ct(patched(tmp_path, edit=setting(quatern_b=5.0)))
    np.testing.assert_allclose(grid.affine, SPACING, atol=1e-6)
    assert grid.warnings == ("the qform is no rotation: the sform was taken",)


ODDS = {
    "another origin": {"qoffset_x": 5.0},
    "left and right swapped": {"srow_x": [0.5, 0, 0, 0]},
    "another spacing": {"pixdim": [-1, 0.5, 0.7, 5.1, 0, 0, 0, 0]},
    "an sform of nothing": {"srow_x": [0, 0, 0, 0]},
}
"""What makes a header's forms disagree."""


@pytest.mark.parametrize("form", ["sform", "qform"])
@pytest.mark.parametrize("odds", ODDS)
def test_of_two_forms_at_odds_the_one_that_is_asked_for_is_taken_and_said_to_be(
    tmp_path: Path, odds: str, form: Form
) -> None:
    path = patched(tmp_path, edit=setting(**ODDS[odds]))
    if odds == "an sform of nothing":
        refused(path, "by --prefer qform$")
        if form == "sform":
            refused(
                path, "invertible sform; got .*, and no sform that could be taken; .*qform$", choice=Choice(form=form)
            )
            return
    else:
        refused(path, "by --prefer sform or qform$")
    ct, grid = read_ct(path, choice=Choice(form=form))
    header = nib.load(path).header
    np.testing.assert_allclose(grid.affine, header.get_sform() if form == "sform" else header.get_qform(), atol=1e-6)
    assert len(grid.warnings) == 1
    assert f"the {form} was taken, as was asked for" in grid.warnings[0]
    write_mask(tmp_path / "mask.nii.gz", torch.zeros(ct.hu.shape, dtype=torch.bool), grid)
    written = read_mask(tmp_path / "mask.nii.gz")[1]  # refused, were there two truths in it
    np.testing.assert_allclose(written.affine, grid.affine, atol=1e-6)
    assert written.warnings == ()


def test_a_form_whose_spacing_makes_no_sense_cannot_be_taken(tmp_path: Path) -> None:
    path = patched(tmp_path, edit=setting(srow_x=[5000, 0, 0, 0], srow_y=[0, 5000, 0, 0], srow_z=[0, 0, 5000, 0]))
    refused(path, "and no sform that could be taken; .* by --prefer qform$", choice=Choice(form="sform"))


@pytest.mark.parametrize("form", ["sform", "qform"])
def test_where_both_forms_agree_a_choice_changes_nothing(tmp_path: Path, form: Form) -> None:
    ct, grid = read_ct(saved(tmp_path), choice=Choice(form=form))
    plain, plain_grid = read_ct(saved(tmp_path))
    assert torch.equal(ct.hu, plain.hu)
    np.testing.assert_array_equal(grid.affine, plain_grid.affine)
    assert grid.warnings == ()


def test_a_form_that_is_not_there_cannot_be_taken(tmp_path: Path) -> None:
    path = patched(tmp_path, edit=setting(pixdim=[1, 0.5, 0.7, 5.1, 0, 0, 0, 0], qform_code=0))
    refused(path, "and no qform that could be taken; .* by --prefer sform$", choice=Choice(form="qform"))
    np.testing.assert_allclose(read_ct(path, choice=Choice(form="sform"))[1].affine, SPACING, atol=1e-6)


@pytest.mark.parametrize("name", ["scan.nii", "scan.nii.gz"])
@pytest.mark.parametrize("more", [(3,), (1, 3), (3, 2)])
def test_a_chosen_volume_is_read_as_the_file_that_holds_it_alone(
    tmp_path: Path, name: str, more: tuple[int, ...]
) -> None:
    n = math.prod(more)
    several = np.stack([hu() + 7 * number for number in range(n)], axis=-1).reshape(*SHAPE, *more, order="F")
    path = saved(tmp_path, image(several), name)
    refused(path, f"expected one volume; got {n} .*--volume, from 0")
    refused(path, f"expected --volume from 0 to {n - 1}; got {n}", choice=Choice(volume=n))
    for number in range(n):
        ct, grid = read_ct(path, choice=Choice(volume=number))
        in_memory, _ = ct_from_image(nib.load(path), "image", choice=Choice(volume=number))
        alone, alone_grid = read_ct(saved(tmp_path, image(hu() + 7 * number), "alone.nii.gz"))
        assert torch.equal(ct.hu, alone.hu)
        assert torch.equal(in_memory.hu, alone.hu)
        assert grid.warnings == (f"the file holds {n} volumes, of which volume {number} was taken, as was asked for",)
        write_mask(tmp_path / "mask.nii.gz", ct.hu > 0, grid)
        write_mask(tmp_path / "alone_mask.nii.gz", ct.hu > 0, alone_grid)
        mask, alone_mask = nib.load(tmp_path / "mask.nii.gz"), nib.load(tmp_path / "alone_mask.nii.gz")
        assert mask.shape == SHAPE
        np.testing.assert_array_equal(mask.affine, alone_mask.affine)
        np.testing.assert_array_equal(mask.get_fdata(), alone_mask.get_fdata())


def test_all_volumes_are_read_to_the_end_and_count_as_voxels(tmp_path: Path) -> None:
    several = np.stack([hu(), hu()], axis=-1)
    path = saved(tmp_path, image(several))
    refused(path, "at most 239 voxels; got .*= 240", max_voxels=239, choice=Choice(volume=0))
    assert read_ct(path, max_voxels=240, choice=Choice(volume=0))[0].hu.numel() == 120
    whole = gzip.decompress(path.read_bytes())
    plain = tmp_path / "scan.nii"
    for volume in (0, 1):
        for content, message in ((whole[:-1], "truncated"), (whole + bytes(2**20 + 1), "a megabyte more")):
            path.write_bytes(gzip.compress(content))
            plain.write_bytes(content)
            refused(path, message, choice=Choice(volume=volume))
            refused(plain, message, choice=Choice(volume=volume))


def test_the_only_volume_may_be_asked_for(tmp_path: Path) -> None:
    assert read_ct(saved(tmp_path), choice=Choice(volume=0))[1].warnings == ()
    refused(saved(tmp_path), "expected --volume from 0 to 0; got 1", choice=Choice(volume=1))


PICTURE = Choice(picture=True)


@pytest.mark.parametrize("third", [[0, 0, 5.0], [0, 0, 0], [math.nan] * 3])
@pytest.mark.parametrize("depth", [0.0, 1.0, math.nan])
def test_a_picture_is_one_slice_that_has_a_place_and_no_thickness(
    tmp_path: Path, third: list[float], depth: float
) -> None:
    """Whatever the header says of a third axis; the slice is read as that of a file with three axes."""
    plane = image(hu()[:, :, 2])
    edit = setting(
        pixdim=[-1, 0.5, 0.7, depth, 0, 0, 0, 0], qform_code=0,
        srow_x=[-0.5, 0, third[0], 7], srow_y=[0, -0.7, third[1], 8], srow_z=[0, 0, third[2], 9],
    )  # fmt: skip
    path = patched(tmp_path, plane, edit=edit)
    refused(path, "three axes")
    ct, grid = read_ct(path, choice=PICTURE)
    placed = SPACING.copy()
    placed[:3, 3] = [7, 8, 9]
    whole, whole_grid = read_ct(saved(tmp_path, image(hu()[:, :, 2:3], placed), "whole.nii.gz"))
    assert torch.equal(ct.hu, whole.hu)
    np.testing.assert_allclose(ct.affine[:, [1, 2, 3]], whole.affine[:, [1, 2, 3]], atol=1e-6)
    assert bool(ct.slice_voxel_ml.isnan().all())
    assert grid.warnings == ("one slice whose thickness is not stated: no volume can be measured",)
    write_mask(tmp_path / "mask.nii", ct.hu > 0, grid)
    write_mask(tmp_path / "whole_mask.nii", whole.hu > 0, whole_grid)
    mask, whole_mask = nib.load(tmp_path / "mask.nii"), nib.load(tmp_path / "whole_mask.nii")
    assert mask.shape == SHAPE[:2]
    np.testing.assert_array_equal(mask.get_fdata(), whole_mask.get_fdata()[:, :, 0])
    with pytest.raises(ScanRefused, match="three axes"):
        read_mask(tmp_path / "mask.nii")


def test_a_picture_may_be_mirrored_and_of_another_plane_or_without_length_is_refused(tmp_path: Path) -> None:
    sagittal = np.array([[0, 0, 1, 0], [-0.5, 0, 0, 0], [0, 0.7, 0, 0], [0, 0, 0, 1.0]])
    refused(saved(tmp_path, image(hu()[:, :, 2], sagittal)), "expected a picture of an axial slice", choice=PICTURE)
    turned = np.diag([0.5, -0.7, 5.0, 1.0])  # whose third axis is no right hand's
    np.testing.assert_allclose(
        read_ct(saved(tmp_path, image(hu()[:, :, 2], turned)), choice=PICTURE)[1].affine[:, [0, 1, 3]],
        turned[:, [0, 1, 3]],
        atol=1e-6,
    )
    flat = patched(tmp_path, image(hu()[:, :, 2]), edit=setting(srow_x=[0] * 4, qform_code=0))
    refused(flat, "expected an invertible sform", choice=PICTURE)
    refused(patched(tmp_path, edit=setting(dim=[1, 120, 1, 1, 1, 1, 1, 1])), "three axes", choice=PICTURE)


def test_unstated_units_are_millimetres(tmp_path: Path) -> None:
    assert read_ct(patched(tmp_path, edit=setting(xyzt_units=0)))[0].spacing_mm == pytest.approx((5.0, 0.7, 0.5))


# Images and arrays.


def test_an_image_on_disk_in_memory_and_an_array_give_what_the_file_gives(tmp_path: Path) -> None:
    path = patched(tmp_path, edit=setting(scl_slope=2.0, scl_inter=-50.0))
    from_file, file_grid = read_ct(path)
    lazy = nib.load(path)
    loaded = nib.Nifti1Image(lazy.get_fdata(dtype=np.float32), lazy.affine, lazy.header)
    for ct, grid in (
        ct_from_image(lazy, "lazy"),
        ct_from_image(loaded, "loaded"),
        ct_from_array(lazy.get_fdata(), lazy.affine, "array"),
        ct_from_array(lazy.get_fdata().astype(np.float16).tolist(), lazy.affine.tolist(), "lists"),
    ):
        np.testing.assert_array_equal(ct.hu, from_file.hu)
        np.testing.assert_allclose(ct.affine, from_file.affine, atol=1e-6)
        assert grid.orientation == file_grid.orientation
        write_mask(tmp_path / "mask.nii.gz", ct.hu > 0, grid)
        np.testing.assert_allclose(nib.load(tmp_path / "mask.nii.gz").affine, lazy.affine, atol=1e-6)


def test_the_image_that_was_given_is_left_as_it_was(tmp_path: Path) -> None:
    lazy = nib.load(patched(tmp_path, edit=setting(scl_slope=2.0, scl_inter=-50.0)))
    before = lazy.header.binaryblock
    ct_from_image(lazy, "lazy")
    assert lazy.header.binaryblock == before


def test_an_image_of_another_format_is_taken_by_its_affine() -> None:
    made = nib.MGHImage(hu().astype(np.float32), SPACING)
    ct, grid = ct_from_image(made, "mgh")
    np.testing.assert_array_equal(grid.to_file(ct.hu), hu())
    np.testing.assert_allclose(grid.affine, SPACING, atol=1e-6)


def test_an_affine_that_was_changed_in_memory_is_the_one_that_counts() -> None:
    made = image()
    made.affine[:3, 3] = [1, 2, 3]
    assert ct_from_image(made, "moved")[1].affine[:3, 3].tolist() == [1, 2, 3]


def test_a_lazy_image_whose_file_is_damaged_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "scan.nii.gz"
    path.write_bytes(gzip.compress(image().to_bytes()[:-100]))
    with pytest.raises(ScanRefused, match="case 1: expected a readable, whole file"):
        ct_from_image(nib.load(path), "case 1")


@pytest.mark.parametrize(
    ("array", "affine", "message"),
    [
        (hu()[0], SPACING, "three axes"),
        (np.zeros((2, 2, 2, 3)), SPACING, "one volume"),
        (np.zeros((2, 2, 2), dtype=bool), SPACING, "integers or floats"),
        (np.zeros((2, 2, 2), dtype=complex), SPACING, "complex"),
        (np.zeros((2, 2, 0)), SPACING, "at least one voxel"),
        (hu(), np.eye(3), r"affine \[4, 4\]"),
        (hu(), np.diag([1.0, 1, 0, 1]), "invertible"),
        (hu(), np.full((4, 4), np.nan), "finite"),
    ],
)
def test_an_array_that_is_no_scan_is_refused(array: np.ndarray, affine: np.ndarray, message: str) -> None:
    with pytest.raises(ScanRefused, match=f"memory: .*{message}"):
        ct_from_array(array, affine, "memory")


# Masks.


def test_any_value_above_zero_is_mask(tmp_path: Path) -> None:
    labels = np.zeros(SHAPE, dtype=np.uint8)
    labels[0, 0, 0], labels[5, 4, 3] = 1, 5
    mask, grid = read_mask(saved(tmp_path, image(labels)))
    np.testing.assert_array_equal(grid.to_file(mask.voxels), labels > 0)
    assert mask.volume_ml == pytest.approx(2 * 0.5 * 0.7 * 5 / 1000)


@pytest.mark.parametrize(
    "array",
    [hu(), np.full(SHAPE, 0.5, dtype=np.float32), np.full(SHAPE, np.nan, dtype=np.float32)],
    ids=["scan", "map", "nan"],
)
def test_a_scan_or_a_map_is_no_mask(tmp_path: Path, array: np.ndarray) -> None:
    with pytest.raises(ScanRefused, match="expected a mask of whole numbers from 0"):
        read_mask(saved(tmp_path, image(array)))


def test_a_mask_may_be_stored_with_a_slope(tmp_path: Path) -> None:
    labels = np.zeros(SHAPE, dtype=np.float32)
    labels[1, 2, 3] = 2
    made = image(labels)
    made.header.set_data_dtype(np.uint8)
    mask, _ = read_mask(saved(tmp_path, made))
    assert int(mask.voxels.sum()) == 1


# Writing.


def volume() -> CTVolume:
    affine = torch.tensor([[0, 0, -0.5, 90], [0, -0.7, 0, 80], [5, 0, 0, -20], [0, 0, 0, 1]], dtype=torch.float64)
    return CTVolume(torch.from_numpy(hu((4, 5, 6)).astype(np.float32)), affine, "phantom")


@pytest.mark.parametrize("codes", ["LPS", "RAS", "SAR"])
def test_a_new_scan_and_its_labels_come_back_in_any_axis_order(tmp_path: Path, codes: str) -> None:
    ct = volume()
    grid = new_grid_for(ct, codes)
    write_ct(tmp_path / "ct.nii.gz", ct, grid)
    write_labels(tmp_path / "labels.nii.gz", (ct.hu > 0).to(torch.uint8) * 5, grid)
    assert "".join(nib.aff2axcodes(nib.load(tmp_path / "ct.nii.gz").affine)) == codes
    assert nib.load(tmp_path / "ct.nii.gz").get_data_dtype() == np.int16
    found, found_grid = read_ct(tmp_path / "ct.nii.gz")
    torch.testing.assert_close(found.hu, ct.hu)
    torch.testing.assert_close(found.affine, ct.affine, atol=1e-5, rtol=0)
    assert found_grid.warnings == ()
    labels = nib.load(tmp_path / "labels.nii.gz")
    assert set(np.unique(np.asarray(labels.dataobj))) == {0, 5}


def test_a_scan_without_a_grid_is_written_to_left_posterior_superior(tmp_path: Path) -> None:
    write_ct(tmp_path / "ct.nii.gz", volume())
    assert "".join(nib.aff2axcodes(nib.load(tmp_path / "ct.nii.gz").affine)) == "LPS"


@pytest.mark.parametrize("value", [math.nan, math.inf, 40000.0])
def test_a_scan_that_no_16_bits_hold_is_not_written(tmp_path: Path, value: float) -> None:
    ct = volume()
    ct.hu[0, 0, 0] = value
    with pytest.raises(ValueError, match="expected finite HU within 16 bit"):
        write_ct(tmp_path / "ct.nii.gz", ct)
    assert not list(tmp_path.iterdir())


def test_the_same_mask_is_the_same_bytes(tmp_path: Path) -> None:
    ct, grid = read_ct(saved(tmp_path))
    write_mask(tmp_path / "a.nii.gz", ct.hu > 0, grid)
    write_mask(tmp_path / "b.nii.gz", ct.hu > 0, grid)
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()


def test_a_mask_is_uint8_without_scaling(tmp_path: Path) -> None:
    ct, grid = read_ct(patched(tmp_path, edit=setting(scl_slope=2.0, scl_inter=-50.0, cal_max=80, intent_code=1002)))
    write_mask(tmp_path / "mask.nii.gz", ct.hu > 0, grid)
    header = nib.load(tmp_path / "mask.nii.gz").header
    assert header.get_data_dtype() == np.uint8
    assert header.get_slope_inter() == (None, None) or header.get_slope_inter() == (1.0, 0.0)
    assert float(header["cal_max"]) == 0
    np.testing.assert_array_equal(nib.load(tmp_path / "mask.nii.gz").get_fdata(), (hu() * 2.0 - 50) > 0)


def test_a_mask_of_another_grid_is_not_written(tmp_path: Path) -> None:
    _, grid = read_ct(saved(tmp_path))
    with pytest.raises(ValueError, match="it is of another grid"):
        write_mask(tmp_path / "mask.nii.gz", torch.zeros(6, 5, 4, dtype=torch.bool), grid)
    assert not (tmp_path / "mask.nii.gz").exists()


def test_a_mask_is_not_written_where_there_is_no_folder(tmp_path: Path) -> None:
    ct, grid = read_ct(saved(tmp_path))
    with pytest.raises(OutputError):
        write_mask(tmp_path / "none" / "mask.nii.gz", ct.hu > 0, grid)


def test_real_scans_are_read_as_nibabel_reads_them(realdata: Path) -> None:
    for name in ("050", "085"):
        path = realdata / "ct_ich" / f"{name}.nii.gz"
        ct, grid = read_ct(path)
        reference = nib.load(path)
        np.testing.assert_array_equal(grid.to_file(ct.hu), np.asarray(reference.dataobj))
        np.testing.assert_array_equal(grid.affine, reference.affine)
        assert grid.warnings == ()


@pytest.mark.parametrize("axes", ["LPS", "RAI", "SPL"])
def test_the_grid_alone_is_the_grid_of_the_scan(tmp_path: Path, axes: str) -> None:
    write_nifti(tmp_path / "a.nii.gz", [1, 2, 3], axes)
    alone, read = read_grid(tmp_path / "a.nii.gz"), read_ct(tmp_path / "a.nii.gz")[1]
    assert (alone.shape, alone.orientation) == (read.shape, read.orientation)
    assert np.array_equal(alone.affine, read.affine)


def test_the_grid_of_no_file_or_no_nifti_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.nii").write_bytes(b"DICOM or whatever" * 40)
    for name in ("a.nii", "b.nii"):
        with pytest.raises(ScanRefused, match=name):
            read_grid(tmp_path / name)


@pytest.mark.parametrize(("axes", "expected"), [("LPS", [0, 5, 2]), ("LPI", [2, 5, 0])])
def test_labels_come_in_the_house_s_axes(tmp_path: Path, axes: str, expected: list[int]) -> None:
    write_nifti(tmp_path / "a.nii", [0, 5, 2], axes, dtype="u1")
    labels, _ = read_labels(tmp_path / "a.nii")
    assert labels[:, 0, 0].tolist() == expected


def test_a_label_beyond_the_subtypes_is_refused(tmp_path: Path) -> None:
    write_nifti(tmp_path / "a.nii", [0, 6], dtype="u1")
    with pytest.raises(ScanRefused, match=r"expected labels from 0 to 5"):
        read_labels(tmp_path / "a.nii")


@pytest.mark.parametrize("dtype", ["u1", "f4"])
@pytest.mark.parametrize(
    ("values", "labels"), [([0, 5, 2], [0, 5, 2]), ([0, 1, 0], [0, 1, 0]), ([255, 2, 0, 255], None)]
)
def test_a_mask_comes_with_its_labels_where_it_has_them(
    tmp_path: Path, values: list[int], labels: list[int] | None, dtype: str
) -> None:
    write_nifti(tmp_path / "a.nii", values, "LPI", dtype=dtype)
    mask, found, others, grid = read_mask_and_labels(tmp_path / "a.nii")
    alone, alone_grid = read_mask(tmp_path / "a.nii")
    assert torch.equal(mask.voxels, alone.voxels) and torch.equal(mask.affine, alone.affine)
    assert grid.orientation == alone_grid.orientation
    assert (None if found is None else found[:, 0, 0].tolist()) == (labels and labels[::-1])
    assert others == (() if labels else (2, 255))


def test_an_offset_is_added_before_values_are_held_to_the_range(tmp_path: Path) -> None:
    array = np.zeros((4, 5, 6), dtype=np.int16)
    array[0, 0, 0], array[1, 0, 0], array[2, 0, 0] = -2000, 40 - 1024, 3500
    path = tmp_path / "low.nii"
    nib.save(nib.Nifti1Image(array, np.diag([1.0, 1.0, 5.0, 1.0])), path)
    for ct, grid in (read_ct(path, hu_offset=1024.0), ct_from_image(nib.load(path), "image", hu_offset=1024.0)):
        assert grid.to_file(ct.hu)[:3, 0, 0].tolist() == [-976.0, 40.0, 3071.0]
    ct, grid = ct_from_array(array, np.diag([1.0, 1.0, 5.0, 1.0]), "array", hu_offset=-500.0)
    assert grid.to_file(ct.hu)[:3, 0, 0].tolist() == [-1024.0, -1024.0, 3000.0]


def test_a_qform_without_its_sign_is_taken_as_the_standard_says(tmp_path: Path) -> None:
    """NIfTI-1: "if qfac is 0, it is taken as 1"."""
    stated = patched(tmp_path, edit=setting(sform_code=0)).rename(tmp_path / "stated.nii")
    header = nib.load(stated).header
    if float(header["pixdim"][0]) == 1.0:
        silent = patched(tmp_path, edit=setting(sform_code=0, pixdim=[0, *header["pixdim"][1:].tolist()]))
        assert np.allclose(read_ct(silent)[0].affine, read_ct(stated)[0].affine)
    else:
        pytest.fail("expected the made-up image to have qfac 1")


@pytest.mark.parametrize("n_bytes", [344, 345, 347])
def test_a_file_that_ends_within_its_header_is_refused(tmp_path: Path, n_bytes: int) -> None:
    path = saved(tmp_path, name="scan.nii")
    path.write_bytes(path.read_bytes()[:n_bytes] + b"n+1\0"[: max(0, 347 - n_bytes)])
    refused(path, "expected")


def test_a_pipe_is_refused_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "scan.nii")
    refused(tmp_path / "scan.nii", "a pipe or a device")
    with pytest.raises(ScanRefused, match="a pipe or a device"):
        read_grid(tmp_path / "scan.nii")


@pytest.mark.parametrize("factor", [1e-6, 1e6, 1e30])
def test_a_spacing_beyond_sense_is_refused_though_all_of_the_header_says_it(tmp_path: Path, factor: float) -> None:
    affine = SPACING @ np.diag([factor, factor, factor, 1])
    with np.errstate(over="ignore"):
        path = saved(tmp_path, image(affine=affine), name="scan.nii")
    refused(path, "spacing of 0.001 to 1000 mm")


@pytest.mark.parametrize("far", [1e7, 3e38, math.inf, math.nan])
def test_a_place_beyond_sense_is_refused(tmp_path: Path, far: float) -> None:
    path = patched(tmp_path, edit=setting(srow_x=[1, 0, 0, far]))
    refused(path, "invertible sform|one spacing")


def test_a_name_that_would_move_the_cursor_is_written_out(tmp_path: Path) -> None:
    with pytest.raises(ScanRefused) as refusal:
        read_ct(tmp_path / "a\nb\x1b[2J.nii")
    assert str(refusal.value).isprintable()
    assert r"a b\x1b[2J.nii" in str(refusal.value)


def test_a_slope_that_overflows_makes_no_mask_and_no_warning(tmp_path: Path) -> None:
    made = patched(tmp_path, image(np.full(SHAPE, 1e300)), edit=setting(scl_slope=3e38, scl_inter=0))
    with pytest.raises(ScanRefused, match="whole numbers"):
        read_mask(made)


def test_an_affine_of_numbers_near_zero_is_refused_without_a_warning(tmp_path: Path) -> None:
    path = tmp_path / "scan.nii"
    raw = bytearray(image(kind=nib.Nifti2Image).to_bytes())
    header = np.frombuffer(raw, dtype=nib.nifti2.header_dtype, count=1)
    header["srow_x"], header["srow_y"], header["srow_z"] = [5e-324, 0, 0, 0], [0, 5e-324, 0, 0], [0, 0, 1, 0]
    header["sform_code"] = 1
    path.write_bytes(raw)
    refused(path, "invertible sform")
