"""DICOM SEG out: read back by highdicom, and by hand from pydicom's bytes, it is the mask it was made of."""

from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import pydicom
import pytest
import torch
from dicom_writer import AXIAL, ct_slice, enhanced, pattern, save, tilted, write_series
from numpy.typing import NDArray

from hgisam.io.dicom import only_series, read_dicom
from hgisam.io.dicom_seg import seg_obstacle, write_dicom_seg
from hgisam.io.dicom_series import DicomSeries
from hgisam.volume import MaskVolume

UNEVEN = [0.0, 2.5, 5.0, 7.5, 12.5, 17.5, 22.5]
THICKNESS = [2.5] * 4 + [5.0] * 3
FRAME = {"FrameOfReferenceUID": "1.2.3.7"}
PLANTED = {
    "PatientName": "Planted^Jane", "PatientID": "PLANTED", "PatientBirthDate": "19010203", "PatientSex": "F",
    "PatientAge": "099Y", "AccessionNumber": "PLANTED", "StudyID": "PLANTED", "StudyDate": "19020304",
    "StudyTime": "010203", "StudyDescription": "Planted", "ReferringPhysicianName": "Planted",
    "InstitutionName": "Planted", "OperatorsName": "Planted", "PatientComments": "Planted",
    "AdditionalPatientHistory": "Planted", "PositionReferenceIndicator": "PLANTED", "DeviceSerialNumber": "PLANTED",
    "StationName": "PLANTED", "SeriesDescription": "Planted",
}  # fmt: skip


def blobs(shape: tuple[int, ...], empty: tuple[int, ...] = ()) -> torch.Tensor:
    """A mask in house axes without any symmetry; some slices are empty."""
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(0)) > 0.7
    mask[list(empty)] = False
    return mask


def written(
    folder: Path, out: Path, empty: tuple[int, ...] = (), **options: Any
) -> tuple[DicomSeries, NDArray[np.bool_], Any]:
    """The series of a folder, a mask of it [slice, row, column] in the pictures' own axes, and the file written."""
    series = only_series(folder)
    ct, grid = read_dicom(series)
    mask = MaskVolume(blobs(tuple(ct.hu.shape), empty), ct.affine, ct.source, ct.slices)
    assert seg_obstacle(series) is None
    write_dicom_seg(out, mask, grid, series, weights_sha256="ab" * 32, **options)
    pictures = grid.to_file(mask.voxels).transpose(2, 1, 0)
    return series, pictures, ct.slices


def by_hand(path: Path) -> dict[str, tuple[NDArray[np.bool_], list[float], float]]:
    """Per referenced image: its frame, its position and its thickness, from the bits of the file."""
    seg = pydicom.dcmread(path)
    n, rows, columns = int(seg.NumberOfFrames), seg.Rows, seg.Columns
    bits = np.unpackbits(np.frombuffer(seg.PixelData, np.uint8), bitorder="little")[: n * rows * columns]
    frames = bits.reshape(n, rows, columns).astype(bool)
    shared = seg.SharedFunctionalGroupsSequence[0]
    found = {}
    for frame, group in zip(frames, seg.PerFrameFunctionalGroupsSequence, strict=True):
        (image,) = group.DerivationImageSequence[0].SourceImageSequence
        measures = (group if "PixelMeasuresSequence" in group else shared).PixelMeasuresSequence[0]
        position = [float(mm) for mm in group.PlanePositionSequence[0].ImagePositionPatient]
        found[image.ReferencedSOPInstanceUID] = (frame, position, float(measures.SliceThickness))
    return found


@pytest.mark.parametrize("orientation", [AXIAL, tilted(18.5), (-1, 0, 0, 0, -1, 0)], ids=["axial", "tilted", "turned"])
def test_each_native_slice_comes_back_in_its_own_plane(tmp_path: Path, orientation: tuple[float, ...]) -> None:
    write_series(tmp_path / "in", UNEVEN, orientation=orientation, thickness_mm=THICKNESS, **FRAME)
    series, mask, slices = written(tmp_path / "in", tmp_path / "seg.dcm", empty=(0, 4))
    hand = by_hand(tmp_path / "seg.dcm")
    assert len(hand) == 5
    for index, header in enumerate(series.slices):
        if index in {0, 4}:
            assert header.sop_instance_uid not in hand
            continue
        frame, position, thickness = hand[header.sop_instance_uid]
        np.testing.assert_array_equal(frame, mask[index])
        assert position == pytest.approx(header.position, abs=1e-4)
        assert thickness == THICKNESS[index]
    seg = highdicom.seg.segread(tmp_path / "seg.dcm")
    pixels = seg.get_pixels_by_source_instance(
        list(slices.uids), ignore_spatial_locations=True, assert_missing_frames_are_empty=True
    )
    np.testing.assert_array_equal(pixels[..., 0].astype(bool), mask)


def test_the_segment_is_hemorrhage_in_snomed_and_says_what_it_is_not(tmp_path: Path) -> None:
    write_series(tmp_path / "in", UNEVEN[:3], **FRAME)
    written(tmp_path / "in", tmp_path / "seg.dcm")
    seg = pydicom.dcmread(tmp_path / "seg.dcm")
    (segment,) = seg.SegmentSequence
    assert segment.SegmentLabel == "hemorrhage"
    category, kind = (segment[f"SegmentedProperty{name}CodeSequence"][0] for name in ("Category", "Type"))
    assert (category.CodeValue, category.CodingSchemeDesignator) == ("49755003", "SCT")
    assert (kind.CodeValue, kind.CodingSchemeDesignator) == ("50960005", "SCT")
    assert segment.SegmentAlgorithmType == "AUTOMATIC"
    assert "Research use only" in seg.SeriesDescription
    assert seg.FrameOfReferenceUID == "1.2.3.7"
    assert seg.StudyInstanceUID == "1.2.3.1"


def test_an_empty_mask_is_a_file_without_a_voxel(tmp_path: Path) -> None:
    write_series(tmp_path / "in", UNEVEN[:3], **FRAME)
    _, mask, _ = written(tmp_path / "in", tmp_path / "seg.dcm", empty=(0, 1, 2))
    assert not mask.any()
    assert not any(frame.any() for frame, _, _ in by_hand(tmp_path / "seg.dcm").values())


def test_frames_of_an_enhanced_image_are_referred_to_by_number(tmp_path: Path) -> None:
    order = [3, 0, 2, 1]
    path = save(enhanced([0.0, 5.0, 10.0, 15.0], order, **FRAME), tmp_path / "in" / "multi.dcm")
    _, mask, _ = written(path, tmp_path / "seg.dcm", empty=(2,))
    seg = pydicom.dcmread(tmp_path / "seg.dcm")
    bits = np.unpackbits(np.frombuffer(seg.PixelData, np.uint8), bitorder="little")[: 3 * mask[0].size]
    frames = bits.reshape(3, *mask[0].shape).astype(bool)
    at = {}
    for frame, group in zip(frames, seg.PerFrameFunctionalGroupsSequence, strict=True):
        (image,) = group.DerivationImageSequence[0].SourceImageSequence
        at[float(group.PlanePositionSequence[0].ImagePositionPatient[2])] = (int(image.ReferencedFrameNumber), frame)
    assert {z: number for z, (number, _) in at.items()} == {0.0: 2, 5.0: 4, 15.0: 1}
    for z, (_, frame) in at.items():
        np.testing.assert_array_equal(frame, mask[int(z / 5)])


def test_the_patient_is_named_as_in_the_scan_unless_deidentified(tmp_path: Path) -> None:
    write_series(tmp_path / "in", UNEVEN[:3], **FRAME, **PLANTED)
    series, mask, _ = written(tmp_path / "in", tmp_path / "named.dcm")
    named = pydicom.dcmread(tmp_path / "named.dcm")
    assert (named.PatientName, named.PatientID, named.AccessionNumber) == ("Planted^Jane", "PLANTED", "PLANTED")
    written(tmp_path / "in", tmp_path / "bare.dcm", deidentify=True)
    data = (tmp_path / "bare.dcm").read_bytes()
    assert b"planted" not in data.lower()
    for number in (b"19010203", b"19020304", b"099Y"):
        assert number not in data
    bare = pydicom.dcmread(tmp_path / "bare.dcm")
    assert (bare.PatientName, bare.PatientID, bare.PatientIdentityRemoved) == ("", "", "YES")
    hand = by_hand(tmp_path / "bare.dcm")
    for header, picture in zip(series.slices, mask, strict=True):
        np.testing.assert_array_equal(hand[header.sop_instance_uid][0], picture)


def test_a_series_with_almost_nothing_stated_is_enough(tmp_path: Path) -> None:
    bare = {"SOPClassUID": None, "Modality": None, "ImageType": None}
    write_series(tmp_path / "in", UNEVEN[:3], thickness_mm=None, **FRAME, **bare)
    written(tmp_path / "in", tmp_path / "seg.dcm")
    assert pydicom.dcmread(tmp_path / "seg.dcm").PatientID == ""


@pytest.mark.parametrize(
    ("tags", "why"),
    [
        ({}, "no frame of reference"),
        (FRAME | {"SOPInstanceUID": None}, "no UIDs"),
        (FRAME | {"StudyInstanceUID": None}, "no UIDs"),
    ],
)
def test_what_a_seg_cannot_refer_to_is_said(tmp_path: Path, tags: dict[str, Any], why: str) -> None:
    save(ct_slice(pattern(), **tags), tmp_path / "slice.dcm")
    assert why in str(seg_obstacle(only_series(tmp_path)))


def test_a_mask_of_another_grid_is_a_mistake_of_the_caller(tmp_path: Path) -> None:
    write_series(tmp_path / "in", UNEVEN[:3], **FRAME)
    series = only_series(tmp_path / "in")
    ct, grid = read_dicom(series)
    with pytest.raises(ValueError, match="the series' own slices"):
        write_dicom_seg(tmp_path / "seg.dcm", MaskVolume(ct.hu > 0, ct.affine, "mask"), grid, series)
    assert not (tmp_path / "seg.dcm").exists()


@pytest.mark.parametrize("folder", ["ge_head_dicom", "philips_phantom_dicom/S21570", "philips_phantom_dicom/S21610"])
def test_real_series_tilted_and_mixed_come_back(realdata: Path, tmp_path: Path, folder: str) -> None:
    if not (realdata / folder).is_dir():
        pytest.skip(f"{folder} is not there")
    series, mask, _ = written(realdata / folder, tmp_path / "seg.dcm", empty=(1,))
    hand = by_hand(tmp_path / "seg.dcm")
    assert len(hand) == len(mask) - 1
    places = {header.sop_instance_uid: (index, header) for index, header in enumerate(series.slices)}
    for uid, (frame, position, thickness) in hand.items():
        index, header = places[uid]
        np.testing.assert_array_equal(frame, mask[index])
        assert position == pytest.approx(header.position, abs=1e-3)
        assert thickness == header.thickness_mm


@pytest.mark.filterwarnings("ignore:Invalid value:UserWarning")  # of pydicom, as the odd series is written
@pytest.mark.parametrize(
    "odd",
    [
        {"PatientSex": "Female"},
        {"PatientBirthDate": "01.02.1950"},
        {"StudyDate": "yesterday"},
        {"StudyTime": "noon"},
    ],
    ids=lambda odd: next(iter(odd)),
)
def test_a_value_against_the_standard_is_left_out_and_the_mask_is_written(odd: dict[str, str], tmp_path: Path) -> None:
    write_series(tmp_path / "in", [0.0, 5.0, 10.0], **FRAME | odd)
    _, pictures, _ = written(tmp_path / "in", tmp_path / "seg.dcm")
    assert sum(int(frame.sum()) for frame, _, _ in by_hand(tmp_path / "seg.dcm").values()) == pictures.sum() > 0
    assert not pydicom.dcmread(tmp_path / "seg.dcm").get(next(iter(odd)))


@pytest.mark.filterwarnings("ignore::UserWarning")  # of pydicom, about what is wrong here
@pytest.mark.parametrize(
    "charset", ["ISO 2022 IR 100", "ISO_IR 6", "ISO_IR_100", ["", "ISO 2022 IR 87"], ["", "ISO 2022 IR 149"], ""]
)
@pytest.mark.parametrize("deidentify", [False, True])
def test_whatever_the_characters_are_called_the_mask_is_written(
    tmp_path: Path, charset: str | list[str], deidentify: bool
) -> None:
    write_series(tmp_path / "in", [0.0, 5.0], **FRAME, SpecificCharacterSet=charset, PatientName="Doe^Jane")
    _, pictures, _ = written(tmp_path / "in", tmp_path / "seg.dcm", deidentify=deidentify)
    assert sum(int(frame.sum()) for frame, _, _ in by_hand(tmp_path / "seg.dcm").values()) == pictures.sum() > 0
    assert str(pydicom.dcmread(tmp_path / "seg.dcm").PatientName) == ("" if deidentify else "Doe^Jane")
