"""PhysioNet CT-ICH 1.3.1 in miniature."""

from pathlib import Path

import pytest
from scan_files import write_nifti

from hgisam.train.cohort import CohortRefused, Trouble
from hgisam.train.layouts import read_cohort

HEAD = (
    "PatientNumber,SliceNumber,Intraventricular,Intraparenchymal,Subarachnoid,Epidural,Subdural,No_Hemorrhage,"
    "Fracture_Yes_No"
)


def write_table(folder: Path, rows: list[str], head: str = HEAD) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "ct_scans").mkdir(exist_ok=True)
    (folder / "hemorrhage_diagnosis_raw_ct.csv").write_text("\n".join([head, *rows]) + "\n")


def test_slice_numbers_count_from_one_along_the_file_and_columns_go_by_name(tmp_path: Path) -> None:
    write_nifti(tmp_path / "ct_scans" / "049.nii", [10, 20, 30], "LPS")
    write_nifti(tmp_path / "ct_scans" / "050.nii", [10, 20, 30], "LPI")
    write_nifti(tmp_path / "masks" / "049.nii", [0, 255, 0], "LPS", dtype="u1")
    labels = {1: "0,0,0,0,0,1,0", 2: "1,0,0,1,0,0,1", 3: "0,1,0,0,0,0,0"}
    write_table(tmp_path, [f"{n},{k},{labels[k]}" for k in (3, 1, 2) for n in (50, 49)])
    cohort = read_cohort(tmp_path)
    assert cohort.layout == "physionet"
    assert [finding.trouble for finding in cohort.findings] == [Trouble.MISSING_REFERENCE]
    upward, downward = cohort.scans
    assert (upward.name, upward.patient, downward.patient) == ("049", "049", "050")
    # epidural, intraparenchymal, intraventricular, subarachnoid, subdural, any
    rows = [[0, 0, 0, 0, 0, 0], [1, 0, 1, 0, 0, 1], [0, 1, 0, 0, 0, 1]]
    assert upward.labels.int().tolist() == rows
    assert downward.labels.int().tolist() == rows[::-1]
    assert downward.load().hu[:, 0, 0].tolist() == [30, 20, 10]
    reference = upward.load_reference()
    assert reference is not None
    assert reference.voxels[:, 0, 0].tolist() == [False, True, False]


def test_what_does_not_fit_is_counted(tmp_path: Path) -> None:
    for name in ("049", "051"):
        write_nifti(tmp_path / "ct_scans" / f"{name}.nii", [1] * 12)
    write_nifti(tmp_path / "ct_scans" / "052.nii", [1] * 4, "SPL")
    write_nifti(tmp_path / "masks" / "049.nii", [0] * 11)
    rows = [f"49,{k},0,0,0,0,0,1,0" for k in range(1, 12)]
    rows += [
        "49,12,0,0,1,0,0,1,0",  # a subtype, and no hemorrhage
        "49,13,0,0,0,0,0,1,0",
        "49,0,0,0,0,0,0,1,0",
        "52,1,0,0,0,0,0,1,0",
        "59,1,0,0,0,0,0,1,0",
        ",,,,,,,,",
    ]
    write_table(tmp_path, rows)
    cohort = read_cohort(tmp_path)
    assert {finding.trouble: finding.count for finding in cohort.findings} == {
        Trouble.MISSING_FILE: 1,
        Trouble.UNLABELLED_FILE: 1,
        Trouble.UNUSABLE_FILE: 1,
        Trouble.MISSING_REFERENCE: 1,
        Trouble.UNUSABLE_REFERENCE: 1,
        Trouble.OUTSIDE: 2,
        Trouble.MALFORMED: 1,
        Trouble.CONTRADICTING: 1,
    }
    (scan,) = cohort.scans
    assert scan.known.any(dim=1).tolist() == [True] * 11 + [False]
    assert scan.reference is None


def test_a_table_without_a_column_is_refused(tmp_path: Path) -> None:
    write_table(tmp_path, [], HEAD.replace("Subdural,", ""))
    with pytest.raises(CohortRefused, match="missing"):
        read_cohort(tmp_path)


@pytest.mark.parametrize("content", [HEAD.encode("utf-16"), b"b" * 140_000, b"\xff"])
def test_what_is_no_table_is_refused(tmp_path: Path, content: bytes) -> None:
    write_table(tmp_path, [])
    (tmp_path / "hemorrhage_diagnosis_raw_ct.csv").write_bytes(content)
    with pytest.raises(CohortRefused, match="expected a table in UTF-8"):
        read_cohort(tmp_path)
