"""BHSD in miniature: five classes in a mask, the order of which is the house's."""

from pathlib import Path

import pytest
from scan_files import write_nifti

from hgisam.train.cohort import Trouble
from hgisam.train.layouts import read_cohort

FIRST, SECOND = "ID_2db7ee14_ID_bc8f99a0cc.nii.gz", "ID_2db7ee14_ID_f27e38fdfd.nii.gz"


@pytest.mark.parametrize("truths", ["ground truths", "ground_truths"])
def test_labels_are_the_classes_in_each_slice(tmp_path: Path, truths: str) -> None:
    write_nifti(tmp_path / "images" / FIRST, [10, 20, 30, 40], "LPS")
    write_nifti(tmp_path / truths / FIRST, [0, 1, 5, 3], "LPS", dtype="u2")
    write_nifti(tmp_path / "images" / SECOND, [10, 20], "LPI")
    write_nifti(tmp_path / truths / SECOND, [0, 2], "LPI", dtype="u2")
    cohort = read_cohort(tmp_path)
    assert (cohort.layout, cohort.findings) == ("bhsd", ())
    first, second = cohort.scans
    assert first.labels.int().tolist() == [
        [0, 0, 0, 0, 0, 0],
        [1, 0, 0, 0, 0, 1],
        [0, 0, 0, 0, 1, 1],
        [0, 0, 1, 0, 0, 1],
    ]
    assert second.labels.int().tolist() == [[0, 1, 0, 0, 0, 1], [0, 0, 0, 0, 0, 0]]
    assert second.load().hu[:, 0, 0].tolist() == [20, 10]
    assert bool(first.known.all())
    assert cohort.patients == ("ID_2db7ee14",)


def test_what_does_not_fit_is_counted(tmp_path: Path) -> None:
    write_nifti(tmp_path / "images" / "good.nii.gz", [1, 2])
    write_nifti(tmp_path / "ground truths" / "good.nii.gz", [0, 4])
    write_nifti(tmp_path / "images" / "short.nii.gz", [1, 2])
    write_nifti(tmp_path / "ground truths" / "short.nii.gz", [0])
    write_nifti(tmp_path / "images" / "turned.nii.gz", [1, 2])
    write_nifti(tmp_path / "ground truths" / "turned.nii.gz", [0, 1], "LPI")
    write_nifti(tmp_path / "images" / "six.nii.gz", [1, 2])
    write_nifti(tmp_path / "ground truths" / "six.nii.gz", [0, 6])
    write_nifti(tmp_path / "images" / "alone.nii.gz", [1])
    write_nifti(tmp_path / "ground truths" / "gone.nii.gz", [1])
    cohort = read_cohort(tmp_path)
    assert [scan.name for scan in cohort.scans] == ["good"]
    assert {finding.trouble: finding.count for finding in cohort.findings} == {
        Trouble.MISSING_FILE: 1,
        Trouble.UNLABELLED_FILE: 1,
        Trouble.UNUSABLE_FILE: 3,
    }
