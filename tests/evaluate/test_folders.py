"""From two folders to scores and a summary: golden values by hand, grids checked, nothing dropped in silence."""

import csv
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from rich.console import Console

from hgisam.evaluate.folders import EvaluationReport, evaluate_folders, summarise
from hgisam.evaluate.report import SCAN_COLUMNS, as_tables, write_report
from hgisam.io.errors import OutputError, ScanRefused

AFFINE = np.diag([-1.0, -1.0, 5.0, 1.0])
SHAPE = (6, 5, 4)


def put(
    path: Path,
    *voxels: tuple[int, int, int],
    affine: np.ndarray = AFFINE,
    shape: tuple[int, ...] = SHAPE,
    value: int = 1,
) -> None:
    """A mask file with a few voxels set. One voxel is 0.005 mL."""
    array = np.zeros(shape, dtype=np.uint8)
    for voxel in voxels:
        array[voxel] = value
    path.parent.mkdir(exist_ok=True)
    made = nib.Nifti1Image(array, affine)
    made.set_sform(affine, code=1)
    nib.save(made, path)


@pytest.fixture
def report(tmp_path: Path) -> EvaluationReport:
    """Five cases: half found, missed, false alarm, both empty, and found in the wrong slice."""
    predicted, reference = tmp_path / "p", tmp_path / "r"
    put(predicted / "half_mask.nii.gz", (0, 0, 0), (1, 0, 0))
    put(reference / "half_labels.nii.gz", (1, 0, 0), (2, 0, 0), value=4)
    put(predicted / "missed_mask.nii.gz")
    put(reference / "missed_labels.nii.gz", (0, 0, 1), (1, 0, 1), (2, 0, 1))
    put(predicted / "alarm_mask.nii.gz", (0, 0, 0))
    put(reference / "alarm_labels.nii.gz")
    put(predicted / "normal_mask.nii.gz")
    put(reference / "normal_labels.nii.gz")
    put(predicted / "beside_mask.nii.gz", (0, 0, 3))
    put(reference / "beside_labels.nii.gz", (0, 0, 2))
    put(predicted / "extra_mask.nii.gz")
    put(reference / "forgotten_labels.nii.gz")
    return evaluate_folders(predicted, reference)


def test_scores_by_case(report: EvaluationReport) -> None:
    dice = {scan.case: scan.overlap.dice for scan in report.scans}
    assert dice == {"half": 0.5, "missed": 0.0, "alarm": 0.0, "normal": None, "beside": 0.0}
    assert {scan.case for scan in report.scans if scan.positive} == {"half", "missed", "beside"}


def test_the_summary_counts_misses_and_keeps_false_alarms_apart(report: EvaluationReport) -> None:
    summary = report.summary
    assert (summary.n, summary.n_positive, summary.n_normal, summary.n_undefined) == (5, 3, 2, 1)
    assert (summary.n_missed, summary.n_false_positive, summary.n_positive_slices) == (2, 1, 3)
    assert (summary.dice.n, summary.dice.mean) == (3, pytest.approx(0.5 / 3))
    assert summary.iou.mean == pytest.approx(1 / 3 / 3)
    assert (summary.precision.n, summary.precision.mean) == (3, pytest.approx(0.5 / 3))
    assert (summary.false_positive_ml.n, summary.false_positive_ml.mean) == (2, pytest.approx(0.0025))
    assert summary.difference_ml.mean == pytest.approx((0 - 3 + 1 + 0 + 0) * 0.005 / 5)
    assert summary.absolute_difference_ml.mean == pytest.approx((0 + 3 + 1 + 0 + 0) * 0.005 / 5)
    assert summary.slice_dice == pytest.approx(0.5 / 3)


def test_slice_dice_does_not_see_what_lies_on_other_slices(tmp_path: Path) -> None:
    put(tmp_path / "p.nii.gz", (0, 0, 0), *((x, y, 3) for x in range(6) for y in range(5)))
    put(tmp_path / "r.nii.gz", (0, 0, 0))
    (scan,) = evaluate_folders(tmp_path / "p.nii.gz", tmp_path / "r.nii.gz").scans
    assert summarise((scan,)).slice_dice == 1.0
    assert summarise((scan,)).dice.mean == pytest.approx(2 / 32)


def test_no_scans_give_a_summary_of_nones() -> None:
    summary = summarise(())
    assert (summary.n, summary.dice.mean, summary.slice_dice) == (0, None, None)


def test_one_grid_in_two_axis_orders_is_one_grid(tmp_path: Path) -> None:
    put(tmp_path / "p.nii.gz", (1, 2, 3))
    turned = np.array([[0, 0, 1, -5], [-1, 0, 0, 0], [0, 5, 0, 0], [0, 0, 0, 1.0]])  # P, S, R; the same places
    put(tmp_path / "r.nii.gz", (2, 3, 4), affine=turned, shape=(5, 4, 6))
    (scan,) = evaluate_folders(tmp_path / "p.nii.gz", tmp_path / "r.nii.gz").scans
    assert scan.overlap.dice == 1.0


def test_the_same_shape_in_another_place_is_refused(tmp_path: Path) -> None:
    moved = AFFINE.copy()
    moved[0, 3] = 2.0
    put(tmp_path / "p.nii.gz", (1, 2, 3))
    put(tmp_path / "r.nii.gz", (1, 2, 3), affine=moved)
    with pytest.raises(ScanRefused, match=r"p: expected both masks on one grid; .* in another place or direction"):
        evaluate_folders(tmp_path / "p.nii.gz", tmp_path / "r.nii.gz")


def test_another_shape_is_refused_with_both_grids(tmp_path: Path) -> None:
    put(tmp_path / "p.nii.gz")
    put(tmp_path / "r.nii.gz", shape=(6, 5, 3))
    with pytest.raises(ScanRefused, match=r"6 x 5 x 4 voxels of 1 x 1 x 5 mm \(p.nii.gz\) and 6 x 5 x 3 voxels"):
        evaluate_folders(tmp_path / "p.nii.gz", tmp_path / "r.nii.gz")


def test_one_bad_case_among_others_is_listed_and_the_others_are_scored(tmp_path: Path) -> None:
    for case in ("a", "b", "c"):
        put(tmp_path / "p" / f"{case}_mask.nii.gz", (0, 0, 0))
        put(tmp_path / "r" / f"{case}_mask.nii.gz", (0, 0, 0), shape=SHAPE if case != "b" else (6, 5, 3))
    (tmp_path / "r" / "c_mask.nii.gz").write_bytes(b"no NIfTI")
    report = evaluate_folders(tmp_path / "p", tmp_path / "r")
    assert [scan.case for scan in report.scans] == ["a"]
    assert [case for case, _ in report.refused] == ["b", "c"]
    assert not report.complete


def test_the_table_and_the_record_hold_every_number(report: EvaluationReport, tmp_path: Path) -> None:
    write_report(report, tmp_path / "new" / "out")
    with (tmp_path / "new" / "out" / "evaluation.csv").open(newline="") as file:
        rows = {row["case"]: row for row in csv.DictReader(file)}
    assert tuple(rows["half"]) == SCAN_COLUMNS
    assert (rows["half"]["dice"], rows["normal"]["dice"], rows["missed"]["precision"]) == ("0.5", "", "")
    assert (rows["missed"]["difference_ml"], rows["missed"]["n_reference"]) == ("-0.015", "3")
    record = json.loads((tmp_path / "new" / "out" / "evaluation.json").read_text(), parse_constant=pytest.fail)
    assert record["summary"]["n_undefined"] == 1
    assert record["summary"]["dice"]["reason"] is None
    assert record["without_reference"] == ["extra"]
    assert record["without_prediction"] == ["forgotten"]
    half = next(scan for scan in record["scans"] if scan["case"] == "half")
    assert half["slice_dice"] == [0.5, None, None, None]
    assert "not a medical device" in record["notice"]


def test_what_a_person_sees_names_every_case_that_was_not_compared(report: EvaluationReport) -> None:
    console = Console(width=160, record=True, file=None, quiet=False)
    with console.capture() as captured:
        console.print(as_tables(report))
    text = captured.get()
    assert "No reference for 1: extra" in text
    assert "No prediction for 1: forgotten" in text
    assert "Research use only" in text
    assert "5 scans: 3 positive (2 missed), 2 normal (1 with a false positive)" in text


def test_a_case_name_with_brackets_is_shown_as_it_is(tmp_path: Path) -> None:
    put(tmp_path / "p" / "[bold]a_mask.nii.gz")
    put(tmp_path / "r" / "[bold]a_mask.nii.gz")
    console = Console(width=160)
    with console.capture() as captured:
        console.print(as_tables(evaluate_folders(tmp_path / "p", tmp_path / "r")))
    assert "[bold]a" in captured.get()


def test_a_place_that_cannot_be_written_is_an_output_error(report: EvaluationReport, tmp_path: Path) -> None:
    (tmp_path / "out").write_bytes(b"")
    with pytest.raises(OutputError):
        write_report(report, tmp_path / "out")


def test_an_empty_mask_that_its_record_calls_unmeasured_is_not_scored(tmp_path: Path) -> None:
    for case in ("blind", "seen"):
        put(tmp_path / "p" / f"{case}_mask.nii.gz")
        put(tmp_path / "r" / f"{case}_labels.nii.gz")
    record = {"hgisam_version": "0.1.0", "case": "blind", "volume_ml": None, "volume_reason": "no brain was found"}
    (tmp_path / "p" / "blind.json").write_text(json.dumps(record))
    (tmp_path / "p" / "seen.json").write_text(json.dumps(record | {"case": "seen", "volume_ml": 0.0}))
    report = evaluate_folders(tmp_path / "p", tmp_path / "r")
    assert [scan.case for scan in report.scans] == ["seen"]
    ((case, reason),) = report.refused
    assert case == "blind"
    assert "no brain was found" in reason


def test_a_table_of_somebody_else_is_not_overwritten(tmp_path: Path, report: EvaluationReport) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "evaluation.csv").write_text("mine")
    with pytest.raises(OutputError, match=r"evaluation\.csv: expected a free name"):
        write_report(report, out)
    (out / "evaluation.csv").unlink()
    write_report(report, out)
    write_report(report, out)
