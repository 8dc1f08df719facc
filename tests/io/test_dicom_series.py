"""Which series DICOM files hold, what is left out and why, and which one is meant."""

from pathlib import Path

import numpy as np
import pytest
from dicom_writer import ct_slice, enhanced, pattern, save, tilted, write_series
from pydicom.dataset import Dataset
from pydicom.uid import DeflatedExplicitVRLittleEndian, ImplicitVRLittleEndian

from hgisam.io.dicom import read_dicom
from hgisam.io.dicom_series import DicomSeries, choose_series, find_series, kernel_kind
from hgisam.io.errors import ScanRefused

EVEN = [0.0, 5.0, 10.0, 15.0]


def only(path: Path) -> DicomSeries:
    (series,) = find_series([path]).series
    return series


@pytest.mark.parametrize(
    ("tags", "reason"),
    [
        ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, "localizer"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"}, "secondary capture"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.88.67", "Modality": "SR"}, "report"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.11.1", "Modality": "PR"}, "presentation state"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.4", "Modality": "MR"}, "no CT (modality MR)"),
        ({"SOPClassUID": None, "Modality": "MR"}, "no CT (modality MR)"),
        ({"SamplesPerPixel": 3}, "colour picture"),
        ({"ImagePositionPatient": None}, "no position in the patient"),
        ({"ImageOrientationPatient": [0, 1, 0, 0, 0, -1]}, "coronal or sagittal slices"),
        ({"ImageOrientationPatient": [1, 0, 0, 0, 0, -1]}, "coronal or sagittal slices"),
    ],
)
def test_what_is_no_axial_ct_slice_is_left_out_with_its_reason(
    tmp_path: Path, tags: dict[str, object], reason: str
) -> None:
    write_series(tmp_path, EVEN)
    save(ct_slice(pattern(), **({"SeriesInstanceUID": "1.9"} | tags)), tmp_path / "deeper" / "other.dcm")
    series = only(tmp_path)
    assert len(series.slices) == 4
    assert series.left_out_reasons == {reason: 1}
    assert read_dicom(tmp_path)[1].warnings == ()


def test_an_object_without_pixels_is_left_out_but_an_image_without_them_is_damage(tmp_path: Path) -> None:
    write_series(tmp_path, EVEN)
    empty = ct_slice(pattern(), SOPClassUID="1.2.3.4", SeriesInstanceUID="1.9")
    del empty.PixelData
    save(empty, tmp_path / "empty.dcm")
    assert only(tmp_path).left_out_reasons == {"object without pixels": 1}
    lost = ct_slice(pattern(), ImagePositionPatient=[0, 0, 20])
    del lost.PixelData
    save(lost, tmp_path / "lost.dcm")
    with pytest.raises(ScanRefused, match="expected 5 whole files; got 1 damaged: an image without its pixels"):
        read_dicom(tmp_path)


def test_an_image_of_the_series_without_a_position_is_a_lost_slice(tmp_path: Path) -> None:
    write_series(tmp_path, EVEN)
    save(ct_slice(pattern(4), ImagePositionPatient=None), tmp_path / "somewhere.dcm")
    with pytest.raises(ScanRefused, match="expected 5 whole files; got 1 damaged: no position in the patient"):
        read_dicom(tmp_path)


@pytest.mark.parametrize("lacking", ["RescaleSlope", "RescaleIntercept"])
def test_slices_of_which_some_state_no_hu_are_no_scan(tmp_path: Path, lacking: str) -> None:
    """Stored numbers of one would be taken for HU, those of the others not; where none states any, nothing is mixed."""
    write_series(tmp_path / "a", EVEN[:3], RescaleIntercept=-1024)
    write_series(tmp_path / "a" / "b", EVEN[3:], **{"RescaleIntercept": -1024, lacking: None})
    with pytest.raises(ScanRefused, match="in every slice of the series, or in none; got 1 of 4 without"):
        read_dicom(tmp_path / "a")
    write_series(tmp_path / "c", EVEN, RescaleSlope=None, RescaleIntercept=None)
    assert only(tmp_path / "c").problem is None


def test_numbers_of_another_kind_are_no_hu(tmp_path: Path) -> None:
    write_series(tmp_path, EVEN, RescaleType="Z_EFF")
    with pytest.raises(ScanRefused, match="expected Hounsfield units; got numbers of rescale type Z_EFF"):
        read_dicom(tmp_path)


def test_slices_of_two_patients_are_no_scan_whatever_their_uids(tmp_path: Path) -> None:
    write_series(tmp_path / "a", EVEN[:2], PatientID="A")
    write_series(tmp_path / "b", EVEN[2:], PatientID="B")
    with pytest.raises(ScanRefused, match="expected slices of one patient in the series; got 2"):
        read_dicom(tmp_path)


def test_a_file_of_axial_and_other_frames_is_not_cut_at_the_first_other_one(tmp_path: Path) -> None:
    dataset = enhanced([*EVEN, 20.0], range(5))
    plane = Dataset()
    plane.ImageOrientationPatient = [1, 0, 0, 0, 0, -1]
    dataset.PerFrameFunctionalGroupsSequence[3].PlaneOrientationSequence = [plane]
    save(dataset, tmp_path / "frames.dcm")
    with pytest.raises(ScanRefused, match="expected axial CT slices; got axial and other frames in one file"):
        read_dicom(tmp_path)


def test_localizers_in_the_series_itself_are_left_out(tmp_path: Path) -> None:
    write_series(tmp_path, EVEN)
    save(ct_slice(pattern(), ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]), tmp_path / "scout.dcm")
    assert len(only(tmp_path).slices) == 4


def test_a_fourth_value_of_the_image_type_parts_nothing(tmp_path: Path) -> None:
    write_series(tmp_path / "a", EVEN[:2], ImageType=["ORIGINAL", "PRIMARY", "AXIAL", "ADD"])
    write_series(tmp_path / "b", EVEN[2:])
    series = only(tmp_path)
    assert series.problem is None
    assert len(series.slices) == 4
    assert series.path == tmp_path


@pytest.mark.parametrize(
    "tags",
    [
        {"pixels": [pattern(9, (16, 16))]},
        {"ImageType": ["DERIVED", "SECONDARY", "AXIAL"]},
        {"orientation": tilted(10)},
        {"PixelSpacing": [0.6, 0.6]},
    ],
    ids=["matrix", "image type", "orientation", "pixel spacing"],
)
def test_slices_of_two_kinds_in_one_series_are_no_scan(tmp_path: Path, tags: dict[str, object]) -> None:
    write_series(tmp_path / "a", EVEN)
    write_series(tmp_path / "b", [20.0], **tags)  # type: ignore[arg-type]
    with pytest.raises(ScanRefused, match=r"expected slices of one kind in the series; got 4 of 12 x 10 px .* and 1"):
        read_dicom(tmp_path)


def test_the_table_tells_series_apart(tmp_path: Path) -> None:
    write_series(
        tmp_path, EVEN, SeriesInstanceUID="1.1", SeriesDescription="HEAD\x1b[31m  5.0", ConvolutionKernel="H31s"
    )
    write_series(tmp_path, EVEN[:2], SeriesInstanceUID="1.2", thickness_mm=[1.0, 2.5])
    assert [series.row() for series in find_series([tmp_path]).series] == [
        {"series_uid": "1.1", "description": "HEAD [31m 5.0", "kernel": "H31s", "slices": 4, "thickness_mm": "5"},
        {"series_uid": "1.2", "description": None, "kernel": None, "slices": 2, "thickness_mm": "1 and 2.5"},
    ]


@pytest.mark.parametrize(
    ("kernel", "kind"),
    [
        ("H31s", "soft"), ("J40s", "soft"), ("Hr38f/2", "soft"), ("Hr68h/3", "bone"), ("H60s", "bone"),
        ("B70f", "bone"), ("H53s", None), ("STANDARD", "soft"), ("STD+", "soft"), ("BONEPLUS", "bone"), ("UB", "soft"),
        ("YC", "bone"), ("FC21", "soft"), ("FC30", "bone"), ("FC81", "bone"), ("", None), ("DETAIL", None),
    ],
)  # fmt: skip
def test_kernels_are_soft_bone_or_not_known(kernel: str, kind: str | None) -> None:
    assert kernel_kind(kernel) == kind


@pytest.mark.parametrize(
    ("kernels", "chosen"),
    [
        (["H31s", "H60s"], "H31s"),
        (["BONE", "STANDARD", "YC"], "STANDARD"),
        (["H31s", "H31s"], None),
        (["H31s", "mystery"], None),
        (["BONE", "LUNG"], None),
        ([None, None], None),
    ],
)
def test_the_soft_kernel_is_taken_only_where_exactly_one_is_soft_and_that_is_said(
    tmp_path: Path, kernels: list[str | None], chosen: str | None
) -> None:
    for index, kernel in enumerate(kernels):
        write_series(tmp_path, EVEN[:2], SeriesInstanceUID=f"1.{index + 1}", ConvolutionKernel=kernel)
    found = choose_series(find_series([tmp_path]).series)
    if chosen is None:
        assert found is None
        return
    assert found is not None
    assert found.slices[0].kernel == chosen
    assert found.notes == (f"of {len(kernels)} series, the one with the soft kernel ({chosen}) was taken",)
    assert read_dicom(tmp_path)[1].warnings == found.notes


def test_fewer_images_than_the_series_states_are_said(tmp_path: Path) -> None:
    write_series(tmp_path, EVEN, NumberOfSeriesRelatedInstances=6)
    assert read_dicom(tmp_path)[1].warnings == ("the series states 6 images, and 4 are here: some may be missing",)


def test_a_file_that_cannot_be_read_beside_a_scan_is_said(tmp_path: Path) -> None:
    write_series(tmp_path, EVEN)
    (tmp_path / "broken.dcm").write_bytes(b"\0" * 128 + b"DICM" + b"\xff" * 300)
    assert read_dicom(tmp_path)[1].warnings == ("1 DICOM file beside the scan cannot be read: part of it may be there",)


def test_what_lies_with_another_examination_is_not_told_of_this_one(tmp_path: Path) -> None:
    write_series(tmp_path / "a", EVEN, StudyInstanceUID="1.1", SeriesInstanceUID="1.1.1")
    write_series(tmp_path / "b", EVEN, StudyInstanceUID="1.2", SeriesInstanceUID="1.2.1")
    save(ct_slice(pattern(), ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]), tmp_path / "a" / "scout.dcm")
    (tmp_path / "b" / "broken.dcm").write_bytes(b"\0" * 128 + b"DICM" + b"\xff" * 300)
    first, second = find_series([tmp_path]).series
    assert (first.left_out_reasons, first.notes) == ({"localizer": 1}, ())
    assert second.left_out_reasons == {"unreadable header": 1}
    assert len(second.notes) == 1


def test_slices_that_all_differ_are_told_apart_only_so_far(tmp_path: Path) -> None:
    for index in range(12):
        write_series(tmp_path, [5.0 * index], orientation=tilted(index), SOPInstanceUID=f"1.{index}")
        (tmp_path / "1.2.3.1.1_099.dcm").rename(tmp_path / f"{index}.dcm")
    with pytest.raises(ScanRefused, match="expected slices of one kind"):
        read_dicom(tmp_path)


@pytest.mark.parametrize("keep", [0.2, 0.5, 0.99])
def test_a_cut_file_makes_no_scan(tmp_path: Path, keep: float) -> None:
    last = write_series(tmp_path, EVEN, pixels=[pattern(i, (64, 64)) for i in range(4)])[-1]
    whole = last.read_bytes()
    last.write_bytes(whole[: int(keep * len(whole))])
    with pytest.raises(ScanRefused, match=r"readable pixels|damaged") as refusal:
        read_dicom(tmp_path)
    assert "\n" not in str(refusal.value)


def test_a_file_cut_within_its_header_is_said(tmp_path: Path) -> None:
    last = write_series(tmp_path, EVEN)[-1]
    last.write_bytes(last.read_bytes()[:420])
    series = only(tmp_path)
    assert len(series.slices) == 3
    assert series.problem or series.notes


def test_a_deflated_file_is_not_inflated(tmp_path: Path) -> None:
    dataset = ct_slice(pattern())
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    with pytest.raises(ScanRefused, match="got a deflated file; inflate it"):
        read_dicom(save(dataset, tmp_path / "small.dcm"))


def test_a_file_without_its_preamble_is_read(tmp_path: Path) -> None:
    dataset = ct_slice(pattern())
    dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    whole = save(dataset, tmp_path / "whole.dcm").read_bytes()
    at = whole.index(b"\x08\x00\x08\x00")  # ImageType, where the data set begins
    (tmp_path / "whole.dcm").unlink()
    (tmp_path / "bare.ima").write_bytes(whole[at:])
    ct, _ = read_dicom(tmp_path)
    np.testing.assert_array_equal(ct.hu[0].long().numpy(), pattern())


def test_what_holds_no_series_is_refused_by_what_it_holds(tmp_path: Path) -> None:
    for index in range(3):
        save(ct_slice(pattern(), Modality="PT", SOPClassUID="1.2.840.10008.5.1.4.1.1.128"), tmp_path / f"{index}.dcm")
    with pytest.raises(ScanRefused, match=r"expected axial CT slices; got 3 x no CT \(modality PT\)"):
        read_dicom(tmp_path)


def test_the_hash_is_of_the_content_and_not_of_names(tmp_path: Path) -> None:
    for path in write_series(tmp_path / "a", EVEN):
        other = tmp_path / "b" / f"x{path.name}"
        other.parent.mkdir(exist_ok=True)
        other.write_bytes(path.read_bytes())
    first, second = only(tmp_path / "a"), only(tmp_path / "b")
    assert first.sha256() == second.sha256()
    other.write_bytes(other.read_bytes()[:-1] + b"\x07")
    assert only(tmp_path / "b").sha256() != first.sha256()
    second.files[0].path.unlink()
    assert second.sha256() is None


def test_frames_and_single_images_share_a_table_but_no_series(tmp_path: Path) -> None:
    write_series(tmp_path, EVEN)
    save(enhanced(EVEN, [0, 1, 2], SeriesInstanceUID="1.7"), tmp_path / "multi.dcm")
    assert {series.uid: len(series.slices) for series in find_series([tmp_path]).series} == {"1.2.3.1.1": 4, "1.7": 3}


def test_links_to_folders_are_not_followed(tmp_path: Path) -> None:
    write_series(tmp_path / "elsewhere", EVEN)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "in" / "loop").symlink_to(tmp_path / "in")
    assert find_series([tmp_path / "in"]).series == ()
