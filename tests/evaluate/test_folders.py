"""From two folders to scores and a summary: golden values by hand, grids checked, nothing dropped in silence."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from head_series import N_SLICES, write_head
from rich.console import Console

from hgisam.evaluate.folders import EvaluationReport, evaluate_folders
from hgisam.evaluate.report import (
    MEAN_COLUMNS,
    OVERALL_COLUMNS,
    SCAN_COLUMNS,
    SLICE_COLUMNS,
    SUBTYPE_COLUMNS,
    as_tables,
    write_report,
)
from hgisam.evaluate.summary import summarise
from hgisam.io.dicom import read_dicom
from hgisam.io.errors import InputError, OutputError, ScanRefused
from hgisam.io.nifti import write_mask
from hgisam.io.nifti_header import Form
from hgisam.labels import Subtype
from hgisam.volume import MaskVolume

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
    summary, means = report.summary, report.summary.means
    assert (summary.n, summary.n_positive, summary.n_normal, summary.n_undefined) == (5, 3, 2, 1)
    assert (summary.n_missed, summary.n_unanswered, summary.n_false_positive) == (2, 1, 1)
    assert (summary.n_slices, summary.n_positive_slices) == (20, 3)
    assert (means["dice"].n, means["dice"].n_undefined, means["dice"].mean) == (3, 0, pytest.approx(0.5 / 3))
    assert (means["dice_all"].n, means["dice_all"].n_undefined) == (4, 1)
    assert means["dice_all"].mean == pytest.approx(0.5 / 4)
    assert means["iou"].mean == pytest.approx(1 / 3 / 3)
    precision = means["precision"]
    assert (precision.n, precision.n_undefined, precision.mean) == (3, 2, pytest.approx(0.5 / 3))
    assert (means["false_positive_ml"].n, means["false_positive_ml"].mean) == (2, pytest.approx(0.0025))
    assert means["difference_ml"].mean == pytest.approx((0 - 3 + 1 + 0 + 0) * 0.005 / 5)
    assert means["absolute_difference_ml"].mean == pytest.approx((0 + 3 + 1 + 0 + 0) * 0.005 / 5)
    assert summary.positive_slices_only_dice.mean == pytest.approx(0.5 / 3)


def test_a_miss_costs_the_grid_s_diagonal_and_only_the_answered_leave_it_out(report: EvaluationReport) -> None:
    diagonal = np.linalg.norm([6, 5, 4 * 5])
    hd95 = {scan.case: scan.surface.hd95_mm for scan in report.scans}
    assert (hd95["half"], hd95["beside"], hd95["normal"]) == (1.0, 5.0, None)
    assert (hd95["missed"], hd95["alarm"]) == (pytest.approx(diagonal), pytest.approx(diagonal))
    means = report.summary.means
    assert (means["hd95_mm"].n, means["hd95_mm"].mean) == (3, pytest.approx((1 + 5 + diagonal) / 3))
    assert (means["hd95_answered_mm"].n, means["hd95_answered_mm"].mean) == (2, 3.0)


def test_what_masks_say_of_slices_and_scans(report: EvaluationReport) -> None:
    """Positive slices: found in one of three. Others: alarms in `alarm` and `beside`, of 17."""
    summary = report.summary
    assert (summary.slice_sensitivity.n, summary.slice_sensitivity.mean) == (3, pytest.approx(1 / 3))
    assert (summary.slice_specificity.n, summary.slice_specificity.mean) == (17, pytest.approx(15 / 17))
    assert (summary.scan_sensitivity.n, summary.scan_sensitivity.mean) == (3, pytest.approx(2 / 3))
    assert (summary.scan_specificity.n, summary.scan_specificity.mean) == (2, 0.5)


def test_slice_dice_does_not_see_what_lies_on_other_slices(tmp_path: Path) -> None:
    put(tmp_path / "p.nii.gz", (0, 0, 0), *((x, y, 3) for x in range(6) for y in range(5)))
    put(tmp_path / "r.nii.gz", (0, 0, 0))
    (scan,) = evaluate_folders(tmp_path / "p.nii.gz", tmp_path / "r.nii.gz").scans
    assert summarise((scan,)).positive_slices_only_dice.mean == 1.0
    assert summarise((scan,)).means["dice"].mean == pytest.approx(2 / 32)


def test_no_scans_give_a_summary_of_nones() -> None:
    summary = summarise(())
    assert (summary.n, summary.means["dice"].mean, summary.positive_slices_only_dice.mean) == (0, None, None)
    assert (summary.scan_detection, summary.volume_all.icc.value, summary.strata) == (None, None, ())


def test_volumes_agree_as_their_differences_say(report: EvaluationReport) -> None:
    limits = report.summary.volume_all.limits
    assert (limits.n, limits.bias) == (5, pytest.approx(-0.002))
    assert limits.sd == pytest.approx(np.std([0, -0.015, 0.005, 0, 0], ddof=1))
    assert report.summary.volume_positive.limits.n == 3


def test_agreement_has_no_interval_where_patients_have_several_scans(report: EvaluationReport) -> None:
    """Bias and limits stay; margin and ICC's interval would take scans for patients."""
    apart = summarise(report.scans).volume_all
    of_one = tuple(replace(scan, patient="anna") if scan.case in {"half", "alarm"} else scan for scan in report.scans)
    shared = summarise(of_one).volume_all
    assert apart.limits.margin is not None and apart.icc.low is not None
    assert (shared.limits.bias, shared.limits.low, shared.icc.value) == (
        apart.limits.bias, apart.limits.low, apart.icc.value,
    )  # fmt: skip
    assert (shared.limits.margin, shared.icc.low, shared.icc.high) == (None, None, None)
    assert shared.icc.reason == "patients have several scans, which are no independent cases"


def test_a_reference_of_several_classes_gives_a_row_for_each(tmp_path: Path) -> None:
    """Class 1 fully found, class 4 by half; one voxel predicted outside both."""
    put(tmp_path / "p.nii.gz", (0, 0, 0), (1, 0, 0), (3, 3, 2), (5, 4, 0))
    array = np.zeros(SHAPE, dtype=np.uint8)
    array[0:2, 0, 0] = 1
    array[3, 3, 2:4] = 4
    nib.Nifti1Image(array, AFFINE).to_filename(tmp_path / "r.nii.gz")
    report = evaluate_folders(tmp_path / "p.nii.gz", tmp_path / "r.nii.gz")
    (scan,) = report.scans
    assert [found.subtype for found in scan.subtypes] == [Subtype.EPIDURAL, Subtype.SUBARACHNOID]
    epidural, subarachnoid = scan.subtypes
    assert (epidural.overlap.n_prediction, epidural.overlap.dice) == (3, pytest.approx(2 * 2 / 5))
    assert (subarachnoid.overlap.n_prediction, subarachnoid.overlap.sensitivity) == (2, 0.5)
    assert (epidural.lesions.sensitivity, epidural.lesions.precision) == (1.0, 0.5)
    strata = {(stratum.by, stratum.name): stratum for stratum in report.summary.strata}
    assert strata["subtype", "epidural"].means["dice"].mean == pytest.approx(0.8)
    assert "false_positive_ml" not in strata["subtype", "epidural"].means
    write_report(report, tmp_path / "out")
    with (tmp_path / "out" / "evaluation_subtypes.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == SUBTYPE_COLUMNS
    assert [(row["subtype"], row["n_reference"]) for row in rows] == [("epidural", "2"), ("subarachnoid", "2")]


@pytest.mark.parametrize(
    ("name", "values", "subtypes"),
    [
        ("a_labels", (1, 1), 2),
        ("a_mask", (1, 1), 0),
        ("a_mask", (1, 3), 2),
        ("a_mask", (255, 255), 0),
        ("a_labels", (1, 6), 0),
    ],
    ids=["named labels", "masks of one", "one above 1", "masks of 255", "one beyond the subtypes"],
)
def test_references_tell_subtypes_all_or_none(
    tmp_path: Path, name: str, values: tuple[int, int], subtypes: int
) -> None:
    for case, value in zip(("a", "b"), values, strict=True):
        put(tmp_path / "p" / f"{case}_mask.nii.gz", (0, 0, 0))
        put(tmp_path / "r" / f"{name.replace('a_', f'{case}_')}.nii.gz", (0, 0, 0), value=value)
    scans = evaluate_folders(tmp_path / "p", tmp_path / "r").scans
    assert [scan.overlap.dice for scan in scans] == [1.0, 1.0]
    assert sum(len(scan.subtypes) for scan in scans) == subtypes


@pytest.mark.parametrize("kind", ["labels", "mask"])
def test_values_that_keep_subtypes_from_being_told_are_said(
    tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    for case in ("a", "b", "c"):
        put(tmp_path / "p" / f"{case}_mask.nii.gz", (0, 0, 0))
        put(tmp_path / "r" / f"{case}_{kind}.nii.gz", (0, 0, 0), value=2)
    array = np.zeros(SHAPE, dtype=np.uint8)
    array[0, 0, 0], array[1, 0, 0] = 2, 6
    nib.Nifti1Image(array, AFFINE).to_filename(tmp_path / "r" / f"b_{kind}.nii.gz")
    report = evaluate_folders(tmp_path / "p", tmp_path / "r")
    assert not any(scan.subtypes for scan in report.scans)
    (said,) = caplog.messages
    assert f"expected values from 0 to 5 in all references that are named alike; got 2, 6 in b_{kind}.nii.gz" in said
    write_report(report, tmp_path / "out")
    record = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert record["without_subtypes"] == [{"reference": f"b_{kind}.nii.gz", "values": [2, 6]}]


def test_one_reference_of_too_many_classes_is_said_and_masks_of_255_are_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    put(tmp_path / "p.nii.gz", (0, 0, 0))
    put(tmp_path / "r.nii.gz", (0, 0, 0), value=255)
    assert evaluate_folders(tmp_path / "p.nii.gz", tmp_path / "r.nii.gz").without_subtypes == ()
    array = np.zeros(SHAPE, dtype=np.uint8)
    array[:, 0, 0] = [1, 2, 3, 4, 5, 6]
    nib.Nifti1Image(array, AFFINE).to_filename(tmp_path / "r.nii.gz")
    report = evaluate_folders(tmp_path / "p.nii.gz", tmp_path / "r.nii.gz")
    assert report.without_subtypes == (("r.nii.gz", (1, 2, 3, 4, 5, 6)),)
    assert len(caplog.messages) == 1


def test_a_mask_beside_labels_tells_no_subtype(tmp_path: Path) -> None:
    """A 1 in `a_mask` is blood of any kind; it must not become epidural because another case has labels."""
    for case, kind, value in (("a", "mask", 1), ("b", "labels", 3)):
        put(tmp_path / "p" / f"{case}_mask.nii.gz", (0, 0, 0))
        put(tmp_path / "r" / f"{case}_{kind}.nii.gz", (0, 0, 0), value=value)
    scans = evaluate_folders(tmp_path / "p", tmp_path / "r").scans
    assert [len(scan.subtypes) for scan in scans] == [0, 1]


def test_strata_split_at_their_edges(tmp_path: Path) -> None:
    """2 voxels of 5 mL are 10 mL: the stratum from 10 on. Slices of 5 mm and of 2 mm."""
    thick, thin = np.diag([10.0, 100.0, 5.0, 1.0]), np.diag([10.0, 50.0, 2.0, 1.0])
    for case, affine, voxels in (("a", thick, 2), ("b", thick, 1), ("c", thin, 1), ("d", thin, 0)):
        for folder in ("p", "r"):
            put(tmp_path / folder / f"{case}_mask.nii.gz", *[(i, 0, 0) for i in range(voxels)], affine=affine)
    strata = evaluate_folders(tmp_path / "p", tmp_path / "r").summary.strata
    assert {(s.by, s.name): s.n for s in strata} == {
        ("reference_ml", "1 to 10 mL"): 2,
        ("reference_ml", "10 to 30 mL"): 1,
        ("slice_mm", "2 to 4 mm"): 2,
        ("slice_mm", "4 mm and over"): 2,
    }


def test_lesions_are_counted_by_their_size(tmp_path: Path) -> None:
    """Two lesions of 0.05 mL, of which one is found, and one of 0.5 mL; a false alarm of 0.05 mL."""
    cube = np.diag([2.0, 5.0, 5.0, 1.0])
    put(tmp_path / "p.nii.gz", (0, 0, 0), (0, 4, 3), *[(i, 2, 2) for i in range(6)], affine=cube)
    put(tmp_path / "r.nii.gz", (0, 0, 0), (5, 0, 0), *[(i, 2, 2) for i in range(6)], affine=cube)
    sizes = evaluate_folders(tmp_path / "p.nii.gz", tmp_path / "r.nii.gz").summary.lesions_by_size
    assert [(s.name, s.found.n, s.found.mean, s.right.n, s.right.mean) for s in sizes] == [
        ("under 0.1 mL", 2, 0.5, 2, 0.5),
        ("0.1 to 1 mL", 1, 1.0, 1, 1.0),
    ]


def record_of(case: str, probabilities: list[float], **more: object) -> dict[str, object]:
    """What `hgisam segment` writes of a case, as far as it matters here."""
    slices = [{"slice_index": i, "probability_any": p} for i, p in enumerate(probabilities)]
    made = {"hgisam_version": "0.1.0", "case": case, "volume_ml": 0.0, "operating_point": 0.5}
    return made | {"probability": max(probabilities), "slices": slices} | more


@pytest.mark.parametrize("upside_down", [False, True])
def test_probabilities_come_from_the_records_beside_the_masks(tmp_path: Path, upside_down: bool) -> None:
    """The blood is in the file's slice 1, which has 0.9, whichever way the file counts."""
    affine = AFFINE @ np.diag([1.0, 1.0, -1.0, 1.0]) if upside_down else AFFINE
    for case, voxels, probabilities in (
        ("bled", [(0, 0, 1)], [0.1, 0.9, 0.6, 0.2]),
        ("well", [], [0.1, 0.3, 0.2, 0.1]),
        ("alone", [], []),
    ):
        put(tmp_path / "p" / f"{case}_mask.nii.gz", affine=affine)
        put(tmp_path / "r" / f"{case}_mask.nii.gz", *voxels, affine=affine)
        if probabilities:
            (tmp_path / "p" / f"{case}.json").write_text(json.dumps(record_of(case, probabilities)))
    report = evaluate_folders(tmp_path / "p", tmp_path / "r")
    summary = report.summary
    assert summary.n_without_probabilities == 1
    assert summary.slice_detection is not None and summary.scan_detection is not None
    assert (summary.slice_detection.n, summary.slice_detection.n_positive) == (8, 1)
    assert summary.slice_detection.auc.value == 1.0
    assert summary.slice_detection.specificity.value == pytest.approx(6 / 7)
    assert (summary.scan_detection.n, summary.scan_detection.sensitivity.value) == (2, 1.0)
    write_report(report, tmp_path / "out")
    with (tmp_path / "out" / "evaluation_slices.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["case"] == "bled"]
    assert tuple(rows[0]) == SLICE_COLUMNS
    assert [(row["slice_index"], row["probability_any"], row["n_reference"]) for row in rows] == [
        ("0", "0.1", "0"), ("1", "0.9", "1"), ("2", "0.6", "0"), ("3", "0.2", "0"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "damage",
    [
        {"slices": []},
        {"slices": [{"slice_index": 0, "probability_any": 2.0}] * 4},
        {"slices": [{"slice_index": {}, "probability_any": 0.5}] * 4},
        {"probability": "high"},
    ],
)
def test_a_record_that_does_not_fit_gives_no_probabilities(tmp_path: Path, damage: dict[str, object]) -> None:
    put(tmp_path / "p" / "a_mask.nii.gz", (0, 0, 0))
    put(tmp_path / "r" / "a_mask.nii.gz", (0, 0, 0))
    (tmp_path / "p" / "a.json").write_text(json.dumps(record_of("a", [0.5] * 4) | damage))
    (scan,) = evaluate_folders(tmp_path / "p", tmp_path / "r").scans
    assert (scan.probability, scan.overlap.dice) == (None, 1.0)
    assert "no probability for each slice" in scan.warnings[-1]


@pytest.mark.parametrize("upside_down", [False, True])
def test_uneven_slices_are_measured_as_their_record_has_them(
    tmp_path: Path, upside_down: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Pixels of 1 mm2 in slices that stand for 2, 2, 5 and 7 mm: one voxel and two predicted, 0.002 + 2 x 0.007 mL."""
    affine = AFFINE @ np.diag([1.0, 1.0, -1.0, 1.0]) if upside_down else AFFINE
    put(tmp_path / "p" / "a_mask.nii.gz", (0, 0, 0), (3, 0, 3), (4, 0, 3), affine=affine)
    put(tmp_path / "r" / "a_mask.nii.gz", (3, 0, 3), affine=affine)
    slices = [{"slice_index": i, "probability_any": 0.5, "spacing_mm": mm} for i, mm in enumerate([2.0, 2.0, 5.0, 7.0])]
    (tmp_path / "p" / "a.json").write_text(json.dumps(record_of("a", [0.5] * 4) | {"slices": slices}))
    (scan,) = evaluate_folders(tmp_path / "p", tmp_path / "r").scans
    assert scan.overlap.prediction_ml == pytest.approx(0.016)
    assert scan.overlap.reference_ml == pytest.approx(0.007)
    assert sorted(scan.lesions.prediction.volumes_ml) == pytest.approx([0.002, 0.014])
    by_slice = {found.slice_index: found.overlap.prediction_ml for found in scan.slices}
    assert [by_slice[index] for index in range(4)] == pytest.approx([0.002, 0.0, 0.0, 0.014])
    assert "volumes take the spacing of each, 2.00 to 7.00 mm" in scan.warnings[-1]
    assert f"a: {scan.warnings[-1]}" in caplog.messages
    assert (scan.voxel_ml, scan.slice_mm) == pytest.approx((0.005, 5.0))


@pytest.mark.parametrize("spacings_mm", [[None] * 4, [5.0] * 3, [5.0, 5.0, 5.0, -5.0], [5.0, 5.0, 5.0, True]])
def test_a_record_that_states_no_spacing_of_each_slice_leaves_the_grids(
    tmp_path: Path, spacings_mm: list[object]
) -> None:
    put(tmp_path / "p" / "a_mask.nii.gz", (0, 0, 3))
    put(tmp_path / "r" / "a_mask.nii.gz", (0, 0, 3))
    slices = [{"slice_index": i, "probability_any": 0.5, "spacing_mm": mm} for i, mm in enumerate(spacings_mm)]
    (tmp_path / "p" / "a.json").write_text(json.dumps(record_of("a", [0.5] * 4) | {"slices": slices}))
    (scan,) = evaluate_folders(tmp_path / "p", tmp_path / "r").scans
    assert scan.overlap.prediction_ml == pytest.approx(0.005)
    assert not any("uneven" in warning for warning in scan.warnings)


def test_a_volume_is_that_of_the_scans_own_record_though_slices_are_missing(tmp_path: Path) -> None:
    """What `segment` states of a DICOM series with a gap, and what `evaluate` makes of the NIfTI that it wrote."""
    write_head(tmp_path / "head", [index for index in range(N_SLICES) if index not in {12, 13}])
    ct, grid = read_dicom(tmp_path / "head", allow_gaps=True)
    assert ct.slices is not None
    mask = MaskVolume(ct.hu > 60, ct.affine, ct.source, ct.slices)
    for folder in ("p", "r"):
        (tmp_path / folder).mkdir()
        write_mask(tmp_path / folder / "a_mask.nii.gz", mask.voxels, grid)
    slices = [{"slice_index": i, "spacing_mm": mm} for i, mm in enumerate(ct.slices.spacing_mm.tolist())]
    (tmp_path / "p" / "a.json").write_text(json.dumps({"hgisam_version": "0.1.0", "slices": slices}))
    (scan,) = evaluate_folders(tmp_path / "p", tmp_path / "r").scans
    assert scan.overlap.prediction_ml == pytest.approx(mask.volume_ml, rel=1e-6)
    assert scan.overlap.n_prediction * scan.voxel_ml != pytest.approx(mask.volume_ml, rel=0.01)


def test_patients_are_the_unit_of_intervals_where_they_are_known(tmp_path: Path) -> None:
    for index in range(6):
        put(tmp_path / "p" / f"c{index}_mask.nii.gz", *[(i, 0, 0) for i in range(1 + index)])
        put(tmp_path / "r" / f"c{index}_mask.nii.gz", (0, 0, 0))
    patients = {f"c{index}": f"patient {index // 2}" for index in range(6)}
    by_scan, by_patient = (evaluate_folders(tmp_path / "p", tmp_path / "r", who) for who in (None, patients))
    assert by_scan.summary.means["dice"].n_patients == 6
    assert (by_patient.summary.n_patients, by_patient.summary.means["dice"].n_patients) == (3, 3)
    assert by_patient.summary.means["dice"].mean == by_scan.summary.means["dice"].mean
    del patients["c3"]
    with pytest.raises(InputError, match="none for 1, such as 'c3'"):
        evaluate_folders(tmp_path / "p", tmp_path / "r", patients)


def test_a_table_of_patients_has_the_scans_own_names(tmp_path: Path) -> None:
    """`a 1` and `b 1`, as the scans are called; segment has made `a_1` and `b_1` of them."""
    for case in ("a", "b"):
        put(tmp_path / "p" / f"{case}_1_mask.nii.gz", (0, 0, 0))
        put(tmp_path / "r" / f"{case} 1_mask.nii.gz", (0, 0, 0))
    report = evaluate_folders(tmp_path / "p", tmp_path / "r", {"a 1": "anna", "b 1": "bert"})
    assert [(scan.case, scan.patient) for scan in report.scans] == [("a_1", "anna"), ("b_1", "bert")]
    with pytest.raises(InputError, match="got two for 'a 1' and 'a_1'"):
        evaluate_folders(tmp_path / "p", tmp_path / "r", {"a 1": "anna", "a_1": "bert", "b 1": "bert"})


def test_several_processes_give_the_same_report(tmp_path: Path) -> None:
    for index in range(9):
        put(tmp_path / "p" / f"c{index}_mask.nii.gz", *[(i % 6, i % 5, index % 4) for i in range(index)])
        put(tmp_path / "r" / f"c{index}_labels.nii.gz", (0, 0, 0), (1, 1, 1), value=1 + index % 5)
    (tmp_path / "r" / "c4_labels.nii.gz").write_bytes(b"no NIfTI")
    one, two = (evaluate_folders(tmp_path / "p", tmp_path / "r", workers=workers) for workers in (1, 2))
    assert [scan.case for scan in two.scans] == [f"c{index}" for index in range(9) if index != 4]
    assert one == two


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
    with pytest.raises(ScanRefused, match=r"p: expected both masks on one grid; .* 2\.00 mm apart at most; if both"):
        evaluate_folders(tmp_path / "p.nii.gz", tmp_path / "r.nii.gz")


@pytest.mark.parametrize("form", ["sform", "qform"])
def test_of_a_reference_with_two_geometries_the_one_that_is_asked_for_counts(tmp_path: Path, form: Form) -> None:
    """Against masks that state one of the two each; no choice, no comparison."""
    moved = AFFINE.copy()
    moved[0, 3] = 20.0
    reference = nib.Nifti1Image(np.ones(SHAPE, dtype=np.uint8), AFFINE)
    reference.set_sform(AFFINE, code=1)
    reference.set_qform(moved, code=1)
    (tmp_path / "r").mkdir()
    for case, affine in (("sform", AFFINE), ("qform", moved)):
        put(tmp_path / "p" / f"{case}_mask.nii.gz", (1, 2, 3), affine=affine)
        reference.to_filename(tmp_path / "r" / f"{case}_mask.nii.gz")
    assert [case for case, _ in evaluate_folders(tmp_path / "p", tmp_path / "r").refused] == ["qform", "sform"]
    report = evaluate_folders(tmp_path / "p", tmp_path / "r", form=form)
    assert [scan.case for scan in report.scans] == [form]
    assert any(f"the {form} was taken" in warning for warning in report.scans[0].warnings)


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
    assert record["summary"]["means"]["dice"]["n"] == 3
    assert record["without_reference"] == ["extra"]
    assert record["without_prediction"] == ["forgotten"]
    assert [row["stratum"] for row in read_means(tmp_path / "new" / "out") if row["by"] == "subtype"]
    assert "not a medical device" in record["notice"]


def read_means(folder: Path) -> list[dict[str, str]]:
    """The rows of the table of means."""
    return read_table(folder / "evaluation_means.csv")


def read_table(path: Path) -> list[dict[str, str]]:
    """The rows of any table."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def shown(report: EvaluationReport) -> str:
    """What the screen shows."""
    console = Console(width=200)
    with console.capture() as captured:
        console.print(as_tables(report))
    return captured.get()


def put_graded(folder: Path, **more: object) -> None:
    """Six scans with probabilities of their slices, 1 to 3 of 3 voxels found in those that bled, as `segment` leaves
    them."""
    for k in range(6):
        blood = [(i, 0, 0) for i in range(3)] if k % 2 else []
        put(folder / "p" / f"c{k}_mask.nii.gz", *blood[: 1 + k // 2])
        put(folder / "r" / f"c{k}_mask.nii.gz", *blood)
        record = record_of(f"c{k}", [0.15 * k + 0.1, 0.05 * k, 0.2, 0.6 - 0.1 * k], **more)
        (folder / "p" / f"c{k}.json").write_text(json.dumps(record))


def test_every_figure_of_the_record_and_of_the_screen_is_in_a_table(tmp_path: Path) -> None:
    put_graded(tmp_path)
    put(tmp_path / "p" / "c6_mask.nii.gz")
    put(tmp_path / "r" / "c6_mask.nii.gz")
    report = evaluate_folders(tmp_path / "p", tmp_path / "r")
    write_report(report, tmp_path)
    summary = json.loads((tmp_path / "evaluation.json").read_text())["summary"]
    table = read_table(tmp_path / "evaluation_overall.csv")
    assert tuple(table[0]) == OVERALL_COLUMNS
    rows = {(row["of"], row["measure"]): row for row in table}
    assert len(rows) == len(table)

    def as_number(of: str, measure: str, column: str = "value") -> float | None:
        cell = rows[of, measure][column]
        return float(cell) if cell else None

    def close(value: float | None) -> object:
        return None if value is None else pytest.approx(value, rel=1e-6)

    counts = {name: value for name, value in summary.items() if isinstance(value, int)}
    assert {measure: float(row["value"]) for (of, measure), row in rows.items() if of == "counts"} == counts
    assert counts["n_without_probabilities"] == 1
    for of, n_undefined in (("slice_detection", "4"), ("scan_detection", "1")):
        for measure, value in summary[of].items():
            if isinstance(value, dict):
                for column in ("value", "low", "high", "n_resamples"):
                    assert as_number(of, measure, column) == close(value[column]), (of, measure, column)
                assert rows[of, measure]["reason"] == (value["reason"] or "")
                assert rows[of, measure]["n_undefined"] == n_undefined
            elif measure == "operating_point":
                assert as_number(of, measure) == value == 0.5
            else:
                assert as_number(of, "auc", measure) == value
        assert summary[of]["auc"]["low"] is not None
    for of in ("volume_all", "volume_positive"):
        limits, icc = summary[of]["limits"], summary[of]["icc"]
        for measure, key in (
            ("bias_ml", "bias"),
            ("sd_ml", "sd"),
            ("lower_limit_ml", "low"),
            ("upper_limit_ml", "high"),
            ("margin_ml", "margin"),
        ):
            assert limits[key] is not None
            assert as_number(of, measure) == close(limits[key]), (of, measure)
            assert as_number(of, measure, "n") == limits["n"]
        assert as_number(of, "lower_limit_ml", "low") == close(limits["low"] - limits["margin"])
        assert as_number(of, "upper_limit_ml", "high") == close(limits["high"] + limits["margin"])
        assert [as_number(of, "icc", column) for column in ("value", "low", "high", "n")] == [
            close(icc[key]) for key in ("value", "low", "high", "n")
        ]
    text = shown(report)
    auc, icc = rows["scan_detection", "auc"], rows["volume_all", "icc"]
    assert "{:.3f} ({:.3f} to {:.3f})".format(*(float(auc[column]) for column in ("value", "low", "high"))) in text
    assert f"{float(icc['value']):.3f}" in text
    assert f"{float(rows['volume_all', 'bias_ml']['value']):+.2f}" in text
    assert "operating point 0.500; 1 scan without" in text


def test_scans_without_probabilities_have_no_row_of_detection(report: EvaluationReport, tmp_path: Path) -> None:
    write_report(report, tmp_path)
    rows = read_table(tmp_path / "evaluation_overall.csv")
    assert {row["of"] for row in rows} == {"counts", "volume_all", "volume_positive"}


@pytest.mark.parametrize(
    ("points", "said"),
    [
        ([None] * 6, "no operating point on record"),
        ([0.5, 0.4] * 3, "several operating points"),
        ([0.5, None] * 3, "no operating point on record of some scans"),
        ([0.5, 0.4, None] * 2, "several operating points"),
    ],
)
def test_why_there_is_no_operating_point_is_said_as_it_is(
    tmp_path: Path, points: list[float | None], said: str
) -> None:
    put_graded(tmp_path)
    for k, point in enumerate(points):
        path = tmp_path / "p" / f"c{k}.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"operating_point": point}))
    report = evaluate_folders(tmp_path / "p", tmp_path / "r")
    captions = [line.strip() for line in shown(report).splitlines() if "operating point" in line]
    assert captions == [said]
    write_report(report, tmp_path)
    summary = json.loads((tmp_path / "evaluation.json").read_text())["summary"]
    assert summary["slice_detection"]["sensitivity"]["reason"] == said
    rows = {(row["of"], row["measure"]): row for row in read_table(tmp_path / "evaluation_overall.csv")}
    for measure in ("sensitivity", "operating_point"):
        assert (rows["scan_detection", measure]["value"], rows["scan_detection", measure]["reason"]) == ("", said)


def test_the_worst_mask_cannot_be_taken_away_unseen(tmp_path: Path) -> None:
    """Of three scans that bled, the one that was missed loses its mask: the mean rises, and every table says why."""
    put_graded(tmp_path)
    put(tmp_path / "p" / "c1_mask.nii.gz")
    with_all = evaluate_folders(tmp_path / "p", tmp_path / "r")
    (tmp_path / "p" / "c1_mask.nii.gz").unlink()
    put(tmp_path / "p" / "c2_mask.nii.gz", shape=(6, 5, 3))
    put(tmp_path / "p" / "other_mask.nii.gz")
    report = evaluate_folders(tmp_path / "p", tmp_path / "r")
    dice, less_dice = (found.summary.means["dice"].mean for found in (with_all, report))
    assert dice is not None and less_dice is not None and dice < less_dice
    assert (with_all.summary.n_missing, report.summary.n_missing) == (0, 2)
    write_report(report, tmp_path)
    means = read_means(tmp_path)
    assert tuple(means[0]) == MEAN_COLUMNS
    assert {row["n_missing"] for row in [*means, *read_table(tmp_path / "evaluation_overall.csv")]} == {"2"}
    assert json.loads((tmp_path / "evaluation.json").read_text())["summary"]["n_missing"] == 2
    failures = {row["case"]: row["failure"] for row in read_table(tmp_path / "evaluation.csv")}
    assert failures.pop("c2").startswith("c2: expected both masks on one grid")
    assert failures == {
        "c0": "", "c3": "", "c4": "", "c5": "",
        "c1": "no prediction: left out of every mean", "other": "no reference: nothing to compare with",
    }  # fmt: skip
    said = "In no mean: 2 references without a prediction that could be compared"
    assert said in shown(report)
    assert "In no mean" not in shown(with_all)


def test_a_failure_that_is_scored_as_an_empty_mask_says_so(report: EvaluationReport, tmp_path: Path) -> None:
    """As `hgisam compare` counts it."""
    scans = tuple(replace(scan, failed=scan.case == "missed") for scan in report.scans)
    write_report(EvaluationReport(scans, (), (), ()), tmp_path)
    rows = {row["case"]: row for row in read_table(tmp_path / "evaluation.csv")}
    assert (rows["missed"]["dice"], rows["missed"]["failure"]) == ("0", "no mask was made: an empty one is scored")
    assert {row["failure"] for case, row in rows.items() if case != "missed"} == {""}
    assert {row["n_missing"] for row in read_means(tmp_path)} == {"0"}


def test_the_table_of_means_has_every_n(report: EvaluationReport, tmp_path: Path) -> None:
    write_report(report, tmp_path)
    rows = {(row["by"], row["stratum"], row["measure"]): row for row in read_means(tmp_path)}
    precision = rows["all", "all", "precision"]
    assert (precision["n"], precision["n_undefined"], precision["n_patients"]) == ("3", "2", "3")
    assert float(precision["low"]) <= float(precision["mean"]) <= float(precision["high"])
    assert rows["all", "all", "positive_slices_only_dice"]["n"] == "3"
    assert rows["lesion_ml", "under 0.1 mL", "found"]["n"] == "3"
    assert rows["slice_mm", "4 mm and over", "dice"]["mean"] == rows["all", "all", "dice"]["mean"]


def test_each_mean_of_a_stratum_is_shown_with_its_own_n(tmp_path: Path) -> None:
    """Three scans of 5 mm, of which one bled, and one of 2 mm without blood: Dice is of one scan, volumes of all."""
    for case, mm in (("a", 5.0), ("b", 5.0), ("c", 5.0), ("d", 2.0)):
        voxels = [(0, 0, 0)] if case == "a" else []
        for side in ("p", "r"):
            put(tmp_path / side / f"{case}_mask.nii.gz", *voxels, affine=np.diag([1.0, 1.0, mm, 1.0]))
    console = Console(width=160)
    with console.capture() as captured:
        console.print(as_tables(evaluate_folders(tmp_path / "p", tmp_path / "r")))
    rows = {
        cells[1].strip(): [cell.strip() for cell in cells[2:-1]]
        for line in captured.get().splitlines()
        if len(cells := line.split("│")) == 9
    }
    assert rows["4 mm and over"] == ["1.000 (1)", "-", "0.0 (1)", "1.000 (1)", "1.000 (1)", "+0.00 (3)"]
    assert rows["2 to 4 mm"] == ["-", "-", "-", "-", "-", "+0.00 (1)"]


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
    record = {
        "hgisam_version": "0.1.0",
        "case": "blind",
        "volume_ml": None,
        "volume_reason": "its thickness is not stated",
    }
    (tmp_path / "p" / "blind.json").write_text(json.dumps(record))
    (tmp_path / "p" / "seen.json").write_text(json.dumps(record | {"case": "seen", "volume_ml": 0.0}))
    report = evaluate_folders(tmp_path / "p", tmp_path / "r")
    assert [scan.case for scan in report.scans] == ["seen"]
    ((case, reason),) = report.refused
    assert case == "blind"
    assert "its thickness is not stated" in reason


def test_a_table_of_somebody_else_is_not_overwritten(tmp_path: Path, report: EvaluationReport) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "evaluation_slices.csv").write_text("mine")
    (out / "run.json").write_text('{"versions": {"hgisam": "0.1.0"}}')  # a run over scans, not an evaluation
    with pytest.raises(InputError, match=r"evaluation_slices\.csv: expected a free name"):
        write_report(report, out)
    (out / "evaluation_slices.csv").unlink()
    write_report(report, out)
    write_report(report, out)
