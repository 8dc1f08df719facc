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
