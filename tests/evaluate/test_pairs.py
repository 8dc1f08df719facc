"""Pairing masks by case name: what belongs together, and what is left over, is said."""

from pathlib import Path

import pytest

from hgisam.evaluate.pairs import pair_masks
from hgisam.io.errors import ScanRefused


def folder(parent: Path, name: str, *files: str) -> Path:
    (parent / name).mkdir()
    for file in files:
        (parent / name / file).write_bytes(b"")
    return parent / name


@pytest.mark.parametrize(
    ("references", "taken"),
    [
        (("a_mask.nii.gz", "b_mask.nii"), ["a_mask.nii.gz", "b_mask.nii"]),
        (("a_labels.nii.gz", "b_labels.nii.gz"), ["a_labels.nii.gz", "b_labels.nii.gz"]),
        (("a.nii.gz", "b.nii"), ["a.nii.gz", "b.nii"]),
        (
            ("a.nii.gz", "a_labels.nii.gz", "b.nii.gz", "b_labels.nii.gz", "c.nii.gz"),  # scans beside their labels
            ["a_labels.nii.gz", "b_labels.nii.gz"],
        ),
        (("a_mask.nii.gz", "a_labels.nii.gz", "b_labels.nii.gz"), ["a_mask.nii.gz", "b_labels.nii.gz"]),
        (
            ("a_mask.nii.gz", "b_mask.nii.gz", "._a_mask.nii.gz", "a_map.nii.gz", "slice_labels.csv", "nii.gz"),
            ["a_mask.nii.gz", "b_mask.nii.gz"],
        ),
    ],
)
def test_references_may_be_masks_labels_or_bare_names(
    tmp_path: Path, references: tuple[str, ...], taken: list[str]
) -> None:
    predicted = folder(tmp_path, "p", "a_mask.nii.gz", "a_map.nii.gz", "a_preview.png", "b_mask.nii.gz", "run.json")
    pairing = pair_masks(predicted, folder(tmp_path, "r", *references))
    assert [pair.case for pair in pairing.pairs] == ["a", "b"]
    assert all(pair.prediction.name == f"{pair.case}_mask.nii.gz" for pair in pairing.pairs)
    assert [pair.reference.name for pair in pairing.pairs] == taken
    assert (pairing.without_reference, pairing.without_prediction) == ((), ())


def test_what_has_no_partner_is_listed(tmp_path: Path) -> None:
    pairing = pair_masks(
        folder(tmp_path, "p", "a_mask.nii.gz", "z_mask.nii.gz", "y_mask.nii.gz"),
        folder(tmp_path, "r", "a_mask.nii.gz", "x_mask.nii.gz"),
    )
    assert [pair.case for pair in pairing.pairs] == ["a"]
    assert pairing.without_reference == ("y", "z")
    assert pairing.without_prediction == ("x",)


def test_a_case_whose_name_ends_in_mask_keeps_its_name(tmp_path: Path) -> None:
    names = ("a_mask_mask.nii.gz", "_mask.nii.gz")
    pairing = pair_masks(folder(tmp_path, "p", *names), folder(tmp_path, "r", "a_mask_mask.nii.gz"))
    assert [pair.case for pair in pairing.pairs] == ["a_mask"]


@pytest.mark.parametrize("kind", ["_mask", "_labels", ""])
@pytest.mark.parametrize(
    ("predicted", "reference"),
    [
        ("Patient_01", "Patient 01"),
        ("J\u00f6rg", "Jo\u0308rg"),
        ("scan_run", "run"),
        ("case_0000", "case"),
        ("case_0000", "case_0000"),
    ],
    ids=["blank", "letters of two parts", "reserved", "nnU-Net", "nnU-Net with its channel"],
)
def test_a_reference_bears_the_scans_own_name_and_its_mask_the_one_that_segment_made(
    tmp_path: Path, predicted: str, reference: str, kind: str
) -> None:
    masks = folder(tmp_path, "p", f"{predicted}_mask.nii.gz", "b_mask.nii.gz")
    pairing = pair_masks(masks, folder(tmp_path, "r", f"{reference}{kind}.nii.gz", f"c{kind}.nii.gz"))
    assert [(pair.case, pair.reference.name) for pair in pairing.pairs] == [(predicted, f"{reference}{kind}.nii.gz")]
    assert (pairing.without_reference, pairing.without_prediction) == (("b",), ("c",))


def test_a_channel_in_a_name_is_no_partner_where_the_name_has_one(tmp_path: Path) -> None:
    masks = folder(tmp_path, "p", "case_mask.nii.gz", "case_0000_mask.nii.gz")
    pairing = pair_masks(masks, folder(tmp_path, "r", "case.nii.gz"))
    assert [pair.prediction.name for pair in pairing.pairs] == ["case_mask.nii.gz"]
    assert pairing.without_reference == ("case_0000",)


@pytest.mark.parametrize(
    "files",
    [
        ("Patient 01_mask.nii.gz", "Patient_01_mask.nii.gz"),
        ("Patient 01_labels.nii.gz", "Patient_01_mask.nii.gz"),
        ("Patient 01.nii.gz", "Patient_01.nii"),
    ],
)
def test_two_references_that_come_to_one_name_are_refused_by_both_names(tmp_path: Path, files: tuple[str, str]) -> None:
    masks = folder(tmp_path, "p", "Patient_01_mask.nii.gz")
    with pytest.raises(ScanRefused, match=r"'Patient_01'; got .*; leave one, or rename it") as refused:
        pair_masks(masks, folder(tmp_path, "r", *files))
    assert all(file in str(refused.value) for file in files)


def test_two_files_are_a_pair_whatever_their_names(tmp_path: Path) -> None:
    here = folder(tmp_path, "p", "a_mask.nii.gz", "truth.nii")
    pairing = pair_masks(here / "a_mask.nii.gz", here / "truth.nii")
    assert [(pair.case, pair.reference.name) for pair in pairing.pairs] == [("a", "truth.nii")]


def test_nothing_to_compare_is_refused(tmp_path: Path) -> None:
    masks = folder(tmp_path, "p", "a_mask.nii.gz")
    with pytest.raises(ScanRefused, match="got nothing there"):
        pair_masks(masks, tmp_path / "none")
    with pytest.raises(ScanRefused, match="got one of each"):
        pair_masks(masks, masks / "a_mask.nii.gz")
    with pytest.raises(ScanRefused, match="got none; check the folder"):
        pair_masks(masks, folder(tmp_path, "empty", "notes.txt"))
    with pytest.raises(ScanRefused, match=r"masks of the same cases; got 'a' ... in the one and 'b'"):
        pair_masks(masks, folder(tmp_path, "other", "b_mask.nii.gz", "c_mask.nii.gz"))


def test_two_files_for_one_case_are_refused(tmp_path: Path) -> None:
    masks = folder(tmp_path, "p", "a_mask.nii.gz", "a_mask.nii")
    with pytest.raises(ScanRefused, match=r"a_mask\.nii and a_mask\.nii\.gz; leave one"):
        pair_masks(masks, folder(tmp_path, "r", "a_mask.nii.gz"))
