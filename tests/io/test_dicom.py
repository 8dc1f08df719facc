"""DICOM in: native slices in their true places, and a refusal in one line wherever that cannot be had."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from dicom_writer import AXIAL, SHAPE, compressed, ct_slice, enhanced, pattern, save, tilted, write_series
from numpy.typing import NDArray

from hgisam.io.dicom import only_series, read_dicom
from hgisam.io.dicom_pixels import codestream_size
from hgisam.io.dicom_series import find_series
from hgisam.io.errors import ScanRefused
from hgisam.io.nifti import read_ct, read_mask, write_ct, write_mask
from hgisam.volume import CTVolume, MaskVolume

EVEN = [0.0, 5.0, 10.0, 15.0, 20.0]


def planes(ct: CTVolume) -> NDArray[np.int64]:
    """HU [slice, row, column] of an axial scan."""
    return ct.hu.round().long().numpy()


def expected(n: int) -> NDArray[np.int64]:
    return np.stack([pattern(index) for index in range(n)]).astype(np.int64)


def test_slices_are_sorted_by_position_whatever_their_names_and_numbers(tmp_path: Path) -> None:
    write_series(tmp_path, EVEN)
    ct, grid = read_dicom(tmp_path)
    np.testing.assert_array_equal(planes(ct), expected(5))
    assert ct.spacing_mm == pytest.approx((5.0, 0.5, 0.5))
    assert ct.source == tmp_path.name
    assert grid.warnings == ()
    # the first pixel of the lowest slice: 5 mm to the Right, 6 mm to the front, in RAS+
    assert (ct.affine @ torch.tensor([0, 0, 0, 1.0], dtype=torch.float64))[:3].tolist() == pytest.approx([5, 6, 0])
    assert ct.slices is not None
    assert ct.slices.regular
    assert ct.slices.complete
    assert ct.slice_coordinates.tolist() == [0, 1, 2, 3, 4]
    assert ct.slice_positions_mm.tolist() == pytest.approx(EVEN)


@pytest.mark.parametrize(
    ("orientation", "turn"),
    [
        (AXIAL, lambda plane: plane),
        ((-1, 0, 0, 0, -1, 0), lambda plane: plane[::-1, ::-1]),
        ((-1, 0, 0, 0, 1, 0), lambda plane: plane[:, ::-1]),
        ((0, 1, 0, 1, 0, 0), lambda plane: plane.T),
    ],
    ids=["head first", "turned half round", "feet first", "rows to the left"],
)
def test_house_axes_come_from_the_directions_and_masks_go_back_to_the_pictures_own(
    tmp_path: Path, orientation: tuple[float, ...], turn: object
) -> None:
    write_series(tmp_path, EVEN, orientation=orientation)
    ct, grid = read_dicom(tmp_path)
    for index in range(5):
        np.testing.assert_array_equal(planes(ct)[index], turn(pattern(index)))  # type: ignore[operator]
        np.testing.assert_array_equal(grid.to_file(ct.hu)[:, :, index].T, pattern(index))
    assert ct.affine[2, 0] > 0
    assert ct.affine[1, 1] < 0
    assert ct.affine[0, 2] < 0


def test_a_tilted_even_series_keeps_its_slices_and_is_measured_along_their_normal(tmp_path: Path) -> None:
    write_series(tmp_path, EVEN, orientation=tilted(18.5))
    ct, grid = read_dicom(tmp_path)
    np.testing.assert_array_equal(planes(ct), expected(5))
    assert ct.slices is not None
    assert ct.slices.regular
    step = 5 * math.cos(math.radians(18.5))
    assert ct.slices.spacing_mm.tolist() == pytest.approx([step] * 5)
    assert grid.warnings == ("slices are stacked 18.5 degrees off square (gantry tilt kept)",)
    mask = torch.ones(ct.hu.shape, dtype=torch.bool)
    ml = 5 * SHAPE[0] * SHAPE[1] * 0.25 * step / 1000
    assert MaskVolume(mask, ct.affine, "all", ct.slices).volume_ml == pytest.approx(ml)
    assert MaskVolume(mask, ct.affine, "all").volume_ml == pytest.approx(ml)  # the affine says the same


def test_a_ball_in_tilted_uneven_slices_has_its_volume(tmp_path: Path) -> None:
    """Measured against 4/3 pi r^3; one spacing for all would be off by a twentieth."""
    z = [*np.arange(-46, -6, 2.5), *np.arange(-5, 50, 7.0)]
    angle = math.radians(15.0)
    rows, columns = np.indices((100, 100))
    balls = []
    for height in z:
        x, along = columns - 50.0, rows - 50.0
        y, up = along * math.cos(angle), height - along * math.sin(angle)
        balls.append(np.where(x**2 + y**2 + up**2 <= 40**2, 50, -1000).astype(np.int16))
    for index, (height, ball) in enumerate(zip(z, balls, strict=True)):
        along = np.array(tilted(15.0))
        position = np.array([0, 0, height]) - 50 * along[:3] - 50 * along[3:]
        dataset = ct_slice(
            ball,
            ImagePositionPatient=position.round(6).tolist(),
            ImageOrientationPatient=along.round(9).tolist(),
            PixelSpacing=[1.0, 1.0],
        )
        save(dataset, tmp_path / f"{index}.dcm")
    ct, grid = read_dicom(tmp_path)
    truth = 4 / 3 * math.pi * 4.0**3
    mask = MaskVolume(ct.hu > 0, ct.affine, "ball", ct.slices)
    assert mask.volume_ml == pytest.approx(truth, rel=0.01)
    assert abs(MaskVolume(ct.hu > 0, ct.affine, "ball").volume_ml - truth) > 0.05 * truth
    assert any("2.41 to 6.76 mm apart" in warning for warning in grid.warnings)
    assert ct.slice_positions_mm.tolist() == pytest.approx(
        [height + 0.5 * math.sin(angle) for height in z], abs=1e-3
    )  # of the pictures' middle, between the four pixels around it
    distances = np.asarray(ct.slice_coordinates) * (z[-1] - z[0]) / (len(z) - 1)
    np.testing.assert_allclose(distances, np.array(z) - z[0], atol=1e-4)


def test_the_nifti_of_uneven_slices_has_their_mean_step_and_reads_back(tmp_path: Path) -> None:
    write_series(tmp_path / "in", [0, 2.5, 5, 7.5, 12.5, 17.5, 22.5], thickness_mm=[2.5] * 4 + [5.0] * 3)
    ct, grid = read_dicom(tmp_path / "in")
    assert ct.slices is not None
    assert not ct.slices.regular
    assert ct.slices.complete
    assert ct.slices.spacing_mm.tolist() == [2.5, 2.5, 2.5, 3.75, 5.0, 5.0, 5.0]
    assert grid.warnings == (
        "slices lie 2.50 to 5.00 mm apart: each is measured with its own spacing, and the NIfTI outputs, which hold"
        " one, have the mean of 3.75 mm",
    )
    write_mask(tmp_path / "mask.nii.gz", ct.hu > 300, grid)
    mask, _ = read_mask(tmp_path / "mask.nii.gz")
    assert torch.equal(mask.voxels, ct.hu > 300)
    assert mask.spacing_mm == pytest.approx((3.75, 0.5, 0.5))


def test_a_written_tilted_series_is_the_same_scan_when_read_as_nifti(tmp_path: Path) -> None:
    write_series(tmp_path / "in", EVEN, orientation=tilted(-20))
    ct, grid = read_dicom(tmp_path / "in")
    write_ct(tmp_path / "ct.nii.gz", ct, grid)
    again, _ = read_ct(tmp_path / "ct.nii.gz")
    assert torch.equal(again.hu, ct.hu)
    assert torch.allclose(again.affine, ct.affine, atol=1e-4)


def test_one_slice_has_its_thickness_and_without_one_no_volume(tmp_path: Path) -> None:
    write_series(tmp_path / "known", [3.0], thickness_mm=4.0)
    known, grid = read_dicom(tmp_path / "known")
    assert known.spacing_mm[0] == pytest.approx(4.0)
    assert known.slice_voxel_ml.tolist() == pytest.approx([0.001])
    assert grid.warnings == ()
    write_series(tmp_path / "unknown", [3.0], thickness_mm=None)
    unknown, grid = read_dicom(tmp_path / "unknown")
    assert unknown.slice_voxel_ml.isnan().all()
    assert grid.warnings == ("one slice whose thickness is not stated: no volume can be measured",)


def test_each_slice_keeps_its_uid_frame_and_thickness(tmp_path: Path) -> None:
    for index, z in enumerate([10.0, 0.0, 5.0]):
        dataset = ct_slice(
            pattern(index), SOPInstanceUID=f"1.2.{index}", ImagePositionPatient=[0, 0, z], SliceThickness=4.0 + index
        )
        save(dataset, tmp_path / f"{index}.dcm")
    ct, _ = read_dicom(tmp_path)
    assert ct.slices is not None
    assert ct.slices.uids == ("1.2.1", "1.2.2", "1.2.0")
    assert ct.slices.frames == (1, 1, 1)
    assert ct.slices.thickness_mm.tolist() == [5.0, 6.0, 4.0]


# ---- stored numbers -> HU


def hu_of(tmp_path: Path, dataset: object) -> NDArray[np.int64]:
    path = save(dataset, tmp_path / "slice.dcm")  # type: ignore[arg-type]
    return planes(read_dicom(path)[0])[0]


@pytest.mark.parametrize(
    ("dtype", "bits", "slope", "intercept"),
    [(np.int16, 16, 1, 0), (np.uint16, 12, 1, -1024), (np.uint16, 16, 0.5, -1024), (np.int16, 13, 1, -24)],
)
def test_signed_and_unsigned_numbers_of_any_width_become_hu(
    tmp_path: Path, dtype: type, bits: int, slope: float, intercept: float
) -> None:
    hu = np.linspace(-1000, 1000, 120).round().astype(np.int64).reshape(SHAPE)
    stored = np.rint((hu - intercept) / slope).astype(dtype)
    tags = {"BitsStored": bits, "HighBit": bits - 1, "RescaleSlope": slope, "RescaleIntercept": intercept}
    np.testing.assert_array_equal(hu_of(tmp_path, ct_slice(stored, **tags)), hu)


def test_a_sign_that_ends_within_the_stored_bits_is_read(tmp_path: Path) -> None:
    hu = np.linspace(-1000, 1000, 120).round().astype(np.int64).reshape(SHAPE)
    stored = (hu & 0xFFF).astype(np.int16)  # 12 bits, nothing above them
    np.testing.assert_array_equal(hu_of(tmp_path, ct_slice(stored, BitsStored=12, HighBit=11)), hu)


def test_negative_hu_without_a_sign_or_an_offset_are_put_right_and_that_is_said(tmp_path: Path) -> None:
    hu = np.linspace(-1000, 3000, 120).round().astype(np.int64).reshape(SHAPE)
    tags = {"BitsStored": 12, "HighBit": 11, "RescaleIntercept": 0}
    path = save(ct_slice((hu % 4096).astype(np.uint16), **tags), tmp_path / "slice.dcm")
    ct, grid = read_dicom(path)
    np.testing.assert_array_equal(planes(ct)[0], hu)
    assert grid.warnings == (
        "numbers of 12 bits without a sign or an offset: those above 3071 were taken as negative HU",
    )


def test_an_offset_is_added_before_clipping_and_in_place_of_what_twelve_bits_suggest(tmp_path: Path) -> None:
    hu = np.linspace(-1000, 3000, 120).round().astype(np.int64).reshape(SHAPE)
    tags = {"BitsStored": 12, "HighBit": 11, "RescaleIntercept": 0}
    path = save(ct_slice((hu + 1024).astype(np.uint16), **tags), tmp_path / "slice.dcm")
    ct, grid = read_dicom(path, hu_offset=-1024)
    np.testing.assert_array_equal(planes(ct)[0], hu)
    assert grid.warnings == ()


@pytest.mark.parametrize(
    ("tags", "stored"),
    [
        ({"PixelPaddingValue": -2000}, -2000),
        ({"PixelPaddingValue": 63536}, -2000),
        ({"PixelPaddingValue": -1500}, -1500),
        ({}, -3024),
        ({}, -32768),
        ({"PixelPaddingValue": 2000, "PixelPaddingRangeLimit": 2100}, 2050),
    ],
    ids=["padding", "padding of the other sign", "GE", "far below air", "the lowest", "a range"],
)
def test_padding_is_air(tmp_path: Path, tags: dict[str, int], stored: int) -> None:
    pixels = pattern(1)
    pixels[0] = stored
    found = hu_of(tmp_path, ct_slice(pixels, **tags))
    assert (found[0] == -1024).all()
    np.testing.assert_array_equal(found[1:], pattern(1)[1:])


@pytest.mark.parametrize(
    ("tags", "said"),
    [
        ({"PixelPaddingValue": 0}, "calls 0 HU padding"),
        ({"PixelPaddingValue": 40, "RescaleIntercept": 5}, "calls 45 HU padding"),
        ({"PixelPaddingValue": -2000, "PixelPaddingRangeLimit": 10}, "calls -300 HU padding"),
    ],
)
def test_what_may_be_tissue_is_no_padding_whatever_the_header_says(
    tmp_path: Path, tags: dict[str, int], said: str
) -> None:
    """In CSF 0 HU are measured; were they taken for padding, there would be holes of air in the head."""
    path = save(ct_slice(pattern(), **tags), tmp_path / "slice.dcm")
    ct, grid = read_dicom(path)
    np.testing.assert_array_equal(planes(ct)[0], pattern() + tags.get("RescaleIntercept", 0))
    assert any(said in warning and "taken as measured" in warning for warning in grid.warnings)


@pytest.mark.parametrize(
    ("pixels", "tags", "reason"),
    [
        (np.full(SHAPE, 5000, np.uint16), {"BitsStored": 12, "HighBit": 11}, "12 bits; got 5000"),
        (np.full(SHAPE, 3000, np.int16), {"BitsStored": 12, "HighBit": 11, "RescaleIntercept": -1024}, "is the sign"),
        (pattern(), {"HighBit": 11, "BitsStored": 8}, "high bit 11"),
        (pattern(), {"RescaleSlope": 0}, "slope other than 0"),
        (pattern(), {"PixelSpacing": [0.5, 0.0]}, "spacing is unknown"),
        (pattern(), {"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]}, "right angles"),
        (pattern(), {"ImagePositionPatient": None}, "no position in the patient"),
        (pattern(), {"Modality": "MR", "SOPClassUID": "1.2.840.10008.5.1.4.1.1.4"}, "modality MR"),
        (pattern(), {"NumberOfFrames": 2}, "a position for each frame"),
        (pattern(), {"Rows": 60}, "readable pixels"),
    ],
)
def test_what_a_header_contradicts_is_refused(
    tmp_path: Path, pixels: NDArray[np.generic], tags: dict[str, object], reason: str
) -> None:
    path = save(ct_slice(pixels, **tags), tmp_path / "slice.dcm")
    with pytest.raises(ScanRefused, match=reason) as refusal:
        read_dicom(path)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("syntax", ["rle", "jpeg2000", "jpeg", "jpegls"])
def test_compressed_slices_are_the_same(tmp_path: Path, syntax: str) -> None:
    hu = pattern(3, (64, 48))
    dataset = ct_slice((hu + 1024).astype(np.uint16), BitsStored=12, HighBit=11, RescaleIntercept=-1024)
    np.testing.assert_array_equal(hu_of(tmp_path, compressed(dataset, syntax)), hu)


@pytest.mark.parametrize("syntax", ["rle", "jpeg2000", "jpeg", "jpegls"])
def test_compressed_negative_numbers_stay_negative(tmp_path: Path, syntax: str) -> None:
    hu = pattern(0, (64, 48)) - 900
    np.testing.assert_array_equal(hu_of(tmp_path, compressed(ct_slice(hu), syntax)), hu)


def test_a_missing_decoder_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(compressed(ct_slice(pattern()), "jpeg"), tmp_path / "slice.dcm")

    def missing(*_: object, **__: object) -> None:
        raise RuntimeError("Unable to decompress: all plugins are missing dependencies")

    monkeypatch.setattr("hgisam.io.dicom_pixels.pixel_array", missing)
    monkeypatch.setattr("hgisam.io.dicom_pixels.importlib.util.find_spec", lambda _: None)
    with pytest.raises(ScanRefused, match=r"expected a decoder for JPEG Lossless.*hgisam\[codecs\]"):
        read_dicom(path)


@pytest.mark.parametrize("syntax", ["jpeg2000", "jpeg", "jpegls"])
def test_a_picture_of_another_size_than_its_header_never_reaches_the_decoder(
    tmp_path: Path, syntax: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = compressed(ct_slice(pattern(shape=(64, 48))), syntax)
    dataset.Rows, dataset.Columns = 12, 10
    monkeypatch.delattr("hgisam.io.dicom_pixels.pixel_array")
    with pytest.raises(ScanRefused, match="12 x 10; got one of 64 x 48 inside"):
        read_dicom(save(dataset, tmp_path / "slice.dcm"))


@pytest.mark.parametrize("data", [b"", b"\xff\xd8", b"\xff\xd8\xff\xff\xff", b"\xff\xd8\xff\xe0\x00\x00" * 3, b"RLE"])
def test_what_is_no_codestream_has_no_size(data: bytes) -> None:
    assert codestream_size(data) is None


def test_an_enhanced_image_gives_its_frames_in_their_places_each_rescaled_by_its_own(tmp_path: Path) -> None:
    order = [3, 0, 4, 2, 1]
    path = save(enhanced(EVEN, order), tmp_path / "multi.dcm")
    ct, _ = read_dicom(path)
    scaled = np.stack([pattern(index).astype(np.int64) * (index + 1) - index for index in range(5)])
    np.testing.assert_array_equal(planes(ct), scaled)
    assert ct.slices is not None
    assert ct.slices.frames == (2, 5, 4, 1, 3)
    assert len(set(ct.slices.uids)) == 1
    assert ct.spacing_mm == pytest.approx((5.0, 0.5, 0.5))


@pytest.mark.parametrize("n_frames", [4, 6])
def test_an_enhanced_image_that_describes_other_frames_than_it_has_is_refused(tmp_path: Path, n_frames: int) -> None:
    path = save(enhanced(EVEN, [0, 1, 2, 3, 4], NumberOfFrames=n_frames), tmp_path / "multi.dcm")
    with pytest.raises(ScanRefused, match=f"got {n_frames} frames and 5 descriptions"):
        read_dicom(path)


# ---- geometry that cannot be trusted


@pytest.mark.parametrize("lost", [[2], [2, 3], [1, 3]])
def test_a_missing_slice_is_refused_and_with_leave_the_volume_is_a_lower_bound(tmp_path: Path, lost: list[int]) -> None:
    positions = [z for index, z in enumerate(np.arange(0, 50, 5.0)) if index not in lost]
    write_series(tmp_path, positions)
    with pytest.raises(ScanRefused, match=r"expected slices without a gap; got 1.\.00 mm .* --allow-gaps"):
        read_dicom(tmp_path)
    ct, grid = read_dicom(tmp_path, allow_gaps=True)
    assert ct.slices is not None
    assert not ct.slices.complete
    assert ct.slices.spacing_mm.tolist() == pytest.approx([5.0] * len(positions))
    assert ct.slice_positions_mm.tolist() == pytest.approx(positions)
    assert any("the volume is a lower bound" in warning for warning in grid.warnings)


@pytest.mark.parametrize(
    ("positions", "thickness"),
    [
        ([0, 2.5, 5, 7.5, 10, 15, 20, 25, 30], None),
        ([0, 4, 8, 12, 13.1, 20.1, 27.1, 34.1], [4.0] * 4 + [7.0] * 4),
        ([0, 3, 6, 9, 14, 24, 34], [3.0] * 4 + [10.0] * 3),
        ([0, 10, 20, 30], 5.0),
    ],
    ids=["gap changes for good", "thickness changes", "thickness explains", "protocol with gaps"],
)
def test_uneven_slices_with_none_missing_are_accepted(
    tmp_path: Path, positions: list[float], thickness: list[float] | float | None
) -> None:
    write_series(tmp_path, positions, thickness_mm=thickness)
    ct, grid = read_dicom(tmp_path)
    assert ct.slices is not None
    assert ct.slices.complete
    assert float(ct.slices.spacing_mm.sum()) == pytest.approx(
        positions[-1] - positions[0] + (positions[1] - positions[0] + positions[-1] - positions[-2]) / 2
    )
    assert ("what lies there was not imaged" in " ".join(grid.warnings)) == (thickness == 5.0)


def test_pictures_that_are_shifted_beside_each_other_are_said(tmp_path: Path) -> None:
    write_series(tmp_path / "a", EVEN[:3])
    for index, z in enumerate(EVEN[3:], 3):
        save(ct_slice(pattern(index), ImagePositionPatient=[15.0, -6.0, z]), tmp_path / "b" / f"{index}.dcm")
    ct, grid = read_dicom(tmp_path)
    assert ct.slices is not None
    assert not ct.slices.regular
    assert any("up to 10 mm beside one straight stack" in warning for warning in grid.warnings)


def test_a_slice_that_is_there_twice_is_taken_once(tmp_path: Path) -> None:
    write_series(tmp_path / "a", EVEN)
    write_series(tmp_path / "b", EVEN[1:3], pixels=[pattern(1), pattern(2)])
    ct, grid = read_dicom(tmp_path)
    np.testing.assert_array_equal(planes(ct), expected(5))
    assert grid.warnings == ("2 slices are in it twice, pixel by pixel: each was taken once",)


def test_two_different_slices_at_one_position_are_refused(tmp_path: Path) -> None:
    write_series(tmp_path / "a", EVEN)
    write_series(tmp_path / "b", EVEN[1:2], pixels=[pattern(7)])
    with pytest.raises(ScanRefused, match="one slice at each position; got 2 different ones at slice 1"):
        read_dicom(tmp_path)


def test_more_voxels_than_allowed_are_refused_before_any_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(ct_slice(pattern(), Rows=65535, Columns=65535), tmp_path / "slice.dcm")
    monkeypatch.delattr("hgisam.io.dicom_pixels.pixel_array")
    with pytest.raises(ScanRefused, match="expected at most 268,435,456 voxels; got headers that state 4,294,836,225"):
        read_dicom(path)


def test_several_series_are_never_guessed_from(tmp_path: Path) -> None:
    write_series(tmp_path / "a", EVEN, SeriesInstanceUID="1.2.3.1")
    write_series(tmp_path / "b", EVEN[:3], SeriesInstanceUID="1.2.3.2")
    with pytest.raises(ScanRefused, match=r"got 1.2.3.1 \(5 slices\); 1.2.3.2 \(3 slices\); choose one"):
        read_dicom(tmp_path)
    second = find_series([tmp_path]).series[1]
    assert read_dicom(second)[0].hu.shape[0] == 3


# ---- real scans


def test_a_real_tilted_uneven_head_keeps_every_slice(realdata: Path) -> None:
    folder = realdata / "ge_head_dicom"
    if not folder.is_dir():
        pytest.skip("ge_head_dicom is not there")
    ct, grid = read_dicom(folder)
    assert ct.hu.shape == (28, 512, 512)
    assert ct.slices is not None
    gaps = np.diff(np.asarray(ct.slices.distances_mm))
    assert gaps.min() == pytest.approx(1.08, abs=0.01)
    assert gaps.max() == pytest.approx(7.0, abs=0.01)
    assert float(ct.slices.spacing_mm.sum()) == pytest.approx(gaps.sum() + (gaps[0] + gaps[-1]) / 2)
    assert ct.slices.thickness_mm.tolist() == [4.0] * 14 + [7.0] * 14
    assert ct.slices.complete
    assert float(ct.hu.min()) == -1024.0
    assert len(grid.warnings) == 2


def test_a_real_mix_of_scouts_summaries_and_a_scan_gives_the_scan(realdata: Path) -> None:
    folder = realdata / "philips_phantom_dicom" / "S21570"
    if not folder.is_dir():
        pytest.skip("philips_phantom_dicom is not there")
    listing = find_series([folder])
    assert [len(series.slices) for series in listing.series] == [28]
    assert listing.series[0].left_out_reasons == {"directory of a medium": 3, "localizer": 1, "secondary capture": 6}
    assert read_dicom(folder)[0].spacing_mm == pytest.approx((5.0, 0.4512, 0.4512), abs=1e-4)


def test_real_single_slices_are_read_whatever_their_sign_padding_and_uids(realdata: Path) -> None:
    files = sorted((realdata / "rsna_dicom").glob("*.dcm"))
    if not files:
        pytest.skip("rsna_dicom is not there")
    for path in files:
        ct, _ = read_dicom(path)
        share_of_air = float((ct.hu < -700).float().mean())
        assert 0.2 < share_of_air < 1.0, path.name
        assert ct.hu[0, :20, :20].max() < -700, path.name


def test_a_number_of_bits_that_is_none_is_refused_without_a_word_of_pydicom(tmp_path: Path) -> None:
    for path in write_series(tmp_path, [0.0, 5.0, 10.0]):
        data = path.read_bytes()
        at = data.index(b"\x28\x00\x02\x01US\x02\x00")
        path.write_bytes(data[:at] + b"\x28\x00\x02\x01IS\x06\x001e-45 " + data[at + 10 :])
    with pytest.raises(ScanRefused, match="expected the lowest 1 to 16 bits stored"):
        read_dicom(only_series(tmp_path))
