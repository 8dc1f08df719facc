"""Records beside slice labels: each slice finds its label, and what does not fit is told and never counted."""

import csv
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import pytest
from drawn_cohort import write_drawn_cohort
from scan_files import write_nifti, write_slice
from typer.testing import CliRunner, Result

from hgisam.cli import app
from hgisam.io.digest import file_sha256
from hgisam.io.errors import InputError, ScanRefused
from hgisam.labelled_records import are_slice_labels, evaluate_labels

pytestmark = pytest.mark.usefixtures("undrawn")


def hgisam(*words: object) -> Result:
    return CliRunner().invoke(app, [*map(str, words)])


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def write_record(folder: Path, case: str, probabilities: Sequence[float | None], **changed: Any) -> None:
    """A record as of `hgisam segment`, the k-th slice at 5 k mm."""
    folder.mkdir(exist_ok=True)
    slices = [
        {"slice_index": k, "position_mm": 5.0 * k, "probability_any": p, "n_voxels": k}
        for k, p in enumerate(probabilities)
    ]
    record = {
        "case": case, "command": "segment", "hgisam_version": "0", "input_sha256": None, "status": "ok", "reason": None,
        "probability": 0.5, "operating_point": 0.5, "volume_ml": 3.0, "slices": slices,
    }  # fmt: skip
    (folder / f"{case}.json").write_text(json.dumps(record | changed))


def write_labels(folder: Path, **positive: Sequence[int]) -> None:
    """Scans of three slices, by name: which of them are labelled positive."""
    rows = []
    for name, shown in positive.items():
        write_nifti(folder / f"{name}.nii.gz", [1] * 3)
        rows += [f"{name}.nii.gz,{k},{int(k in shown)}" for k in range(3)]
    (folder / "slice_labels.csv").write_text("\n".join(["file,slice_index,any", *rows]) + "\n")


def test_every_slice_finds_its_label_whichever_way_the_file_counts(
    tmp_path: Path, tiny_weights: tuple[Path, str]
) -> None:
    """By index in the scan's own file: what `classify` wrote of it and what the table says of it end in one row."""
    data = write_drawn_cohort(tmp_path / "data", 3)
    upside_down = nib.load(data / "p0.nii.gz").slicer[:, :, ::-1]
    nib.save(upside_down, data / "p0.nii.gz")
    weights, _ = tiny_weights
    assert hgisam("classify", data, "-o", tmp_path / "out", "--weights", weights).exit_code == 0
    assert nib.aff2axcodes(upside_down.affine)[2] == "I"
    done = hgisam("evaluate", tmp_path / "out", data, "-o", tmp_path / "found")
    assert done.exit_code == 0, done.stderr
    found = {(row["case"], row["slice_index"]): row for row in rows_of(tmp_path / "found" / "evaluation_slices.csv")}
    labels = rows_of(data / "slice_labels.csv")
    assert len(found) == len(labels) > 0
    for row in labels:
        case, index = row["file"].removesuffix(".nii.gz"), row["slice_index"]
        (said,) = [r for r in rows_of(tmp_path / "out" / f"{case}_slices.csv") if r["slice_index"] == index]
        assert found[case, index]["any"] == row["any"]
        assert float(found[case, index]["probability_any"]) == pytest.approx(float(said["probability_any"]))
    assert "slice labels" in json.loads((tmp_path / "found" / "evaluation.json").read_text())["held_against"]
    assert "Predicted in positive scans" not in done.stdout  # classify makes no mask


def test_dicom_is_found_by_its_series(tmp_path: Path) -> None:
    for k in range(3):
        write_slice(tmp_path / "data" / "stage_2_train" / f"ID_{k}.dcm", 1.0, (0.0, 0.0, 5.0 * k), series="1.2.3")
    labels = [f"ID_{k}_{s},{int(k == 2 and s in ('subdural', 'any'))}" for k in range(3) for s in SUBTYPES]
    (tmp_path / "data" / "stage_2_train.csv").write_text("\n".join(["ID,Label", *labels]) + "\n")
    rows = [
        {"slice_index": k, "position_mm": 5.0 * k, "probability_any": p, "sop_instance_uid": f"ID_{k}"}
        for k, p in enumerate((0.1, 0.2, 0.9))
    ]
    write_record(tmp_path / "out", "stage_2_train", [], slices=rows, dicom={"series_uid": "1.2.3"})
    (scan,) = evaluate_labels(tmp_path / "out", tmp_path / "data").scans
    assert scan.case == "stage_2_train"
    assert scan.positive.tolist() == [False, False, True]
    assert scan.probabilities.tolist() == [0.1, 0.2, 0.9]
    rows[0]["sop_instance_uid"] = "ID_of_another_slice"
    write_record(tmp_path / "out", "stage_2_train", [], slices=rows, dicom={"series_uid": "1.2.3"})
    with pytest.raises(ScanRefused, match="expected a record of the slices that are labelled"):
        evaluate_labels(tmp_path / "out", tmp_path / "data")


SUBTYPES = ("epidural", "intraparenchymal", "intraventricular", "subarachnoid", "subdural", "any")


def test_volume_is_shared_out_by_voxels_and_spacing(tmp_path: Path) -> None:
    write_labels(tmp_path / "data", a=[2], b=[])
    write_record(tmp_path / "out", "a", [0.1] * 3)
    rows = [
        {"slice_index": k, "position_mm": 5.0 * k, "probability_any": 0.1, "n_voxels": 1, "spacing_mm": mm}
        for k, mm in enumerate((1.0, 2.0, 3.0))
    ]
    write_record(tmp_path / "out", "b", [], slices=rows, volume_ml=12.0)
    a, b = evaluate_labels(tmp_path / "out", tmp_path / "data").scans
    assert a.mask_ml is not None
    assert b.mask_ml is not None
    assert a.mask_ml.tolist() == pytest.approx([0.0, 1.0, 2.0])
    assert b.mask_ml.tolist() == pytest.approx([2.0, 4.0, 6.0])


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"probability": None, "reason": "expected a head; got a leg"}, "got none: expected a head; got a leg"),
        ({"probability": None}, "no network was asked"),
        ({"slices": []}, "expected a record with each slice once"),
        (
            {"slices": [{"slice_index": k, "position_mm": 0.0, "probability_any": 0.1} for k in range(3)]},
            "where it lies",
        ),
        ({"slices": [{"slice_index": k, "position_mm": k, "probability_any": 0.1} for k in range(2)]}, "of 3 slices"),
        ({"slices": [{"slice_index": k, "position_mm": math.nan, "probability_any": 0.1} for k in range(3)]}, "once"),
        (
            {"slices": [{"slice_index": k, "position_mm": k, "probability_any": 2} for k in range(3)]},
            "a probability for",
        ),
    ],
)
def test_a_record_that_does_not_fit_is_refused_with_its_reason(
    tmp_path: Path, changed: dict[str, Any], reason: str
) -> None:
    write_labels(tmp_path / "data", a=[2], b=[])
    write_record(tmp_path / "out", "a", [0.1] * 3, **changed)
    write_record(tmp_path / "out", "b", [0.1] * 3)
    report = evaluate_labels(tmp_path / "out", tmp_path / "data")
    assert [scan.case for scan in report.scans] == ["b"]
    ((case, why),) = report.refused
    assert case == "a"
    assert reason in why
    (tmp_path / "out" / "b.json").unlink()
    with pytest.raises(ScanRefused, match=r"^a: expected"):
        evaluate_labels(tmp_path / "out", tmp_path / "data")


@pytest.mark.parametrize("volume_ml", [None, math.nan, "much"])
def test_a_mask_that_was_not_measured_is_none(tmp_path: Path, volume_ml: object) -> None:
    write_labels(tmp_path / "data", a=[2])
    write_record(tmp_path / "out", "a", [0.1] * 3, volume_ml=volume_ml)
    assert evaluate_labels(tmp_path / "out", tmp_path / "data").scans[0].mask_ml is None


def test_what_has_no_partner_is_listed_and_the_command_ends_with_8(tmp_path: Path) -> None:
    write_labels(tmp_path / "data", a=[2], b=[], lost=[1])
    for case in ("a", "b", "stranger"):
        write_record(tmp_path / "out", case, [0.1, 0.2, 0.9])
    done = hgisam("evaluate", tmp_path / "out", tmp_path / "data" / "slice_labels.csv", "-o", tmp_path / "found")
    assert done.exit_code == 8
    assert "In no figure: 1 labelled scan without an answer" in done.stdout
    assert "No prediction for 1: lost" in done.stdout
    assert "No reference for 1: stranger" in done.stdout
    found = json.loads((tmp_path / "found" / "evaluation.json").read_text())
    assert (found["without_prediction"], found["without_reference"]) == (["lost"], ["stranger"])


def test_a_record_of_another_file_of_the_same_name_is_refused(tmp_path: Path) -> None:
    """Two sites number their scans alike, and both were segmented into one folder."""
    write_labels(tmp_path / "data", a=[2], b=[])
    write_record(tmp_path / "out", "a", [0.1] * 3, input_sha256="0" * 64)
    write_record(tmp_path / "out", "b", [0.1] * 3, input_sha256=file_sha256(tmp_path / "data" / "b.nii.gz"))
    done = hgisam("evaluate", tmp_path / "out", tmp_path / "data", "-o", tmp_path / "found")
    assert done.exit_code == 8
    assert "Not compared: a: a: expected a record of this very scan; got one of another" in " ".join(
        done.stdout.split()
    )
    assert next(row["failure"] for row in rows_of(tmp_path / "found" / "evaluation.csv")) == ""


def test_a_record_finds_its_scan_by_its_bytes_whatever_its_case_is_called(tmp_path: Path) -> None:
    write_labels(tmp_path / "data", **{"p 1": [2], "other": [0, 1]})
    write_nifti(tmp_path / "data" / "other.nii.gz", [2] * 3)
    write_record(tmp_path / "out", "p_1", [0.1] * 3)
    renamed = file_sha256(tmp_path / "data" / "other.nii.gz")
    write_record(tmp_path / "out", "data_other", [0.1] * 3, input_sha256=renamed)
    report = evaluate_labels(tmp_path / "out", tmp_path / "data")
    assert [(scan.case, int(scan.positive.sum())) for scan in report.scans] == [("data_other", 2), ("p_1", 1)]
    assert report.complete


def test_a_record_is_one_scan_s_however_many_are_of_its_bytes(tmp_path: Path) -> None:
    write_labels(tmp_path / "data", a=[2], copy=[1])
    assert file_sha256(tmp_path / "data" / "a.nii.gz") == file_sha256(tmp_path / "data" / "copy.nii.gz")
    write_record(tmp_path / "out", "renamed", [0.1] * 3, input_sha256=file_sha256(tmp_path / "data" / "a.nii.gz"))
    report = evaluate_labels(tmp_path / "out", tmp_path / "data")
    assert [scan.case for scan in report.scans] == ["renamed"]
    assert report.refused == (("copy", "copy: expected a record of its own; got renamed, which another scan has"),)


def test_several_records_of_one_scan_are_refused_by_name(tmp_path: Path) -> None:
    write_labels(tmp_path / "data", a=[2], b=[])
    sha256 = file_sha256(tmp_path / "data" / "a.nii.gz")
    write_nifti(tmp_path / "data" / "b.nii.gz", [2] * 3)
    write_record(tmp_path / "out", "b", [0.1] * 3)
    for case in ("one", "two"):
        write_record(tmp_path / "out", case, [0.1] * 3, input_sha256=sha256)
    report = evaluate_labels(tmp_path / "out", tmp_path / "data")
    assert report.refused == (("a", "a: expected one record; got one and two; leave one"),)
    assert report.without_reference == ()


def test_a_labelled_scan_without_its_file_is_told_of_and_ends_with_8(tmp_path: Path) -> None:
    write_labels(tmp_path / "data", a=[2], gone=[1])
    (tmp_path / "data" / "gone.nii.gz").unlink()
    write_record(tmp_path / "out", "a", [0.1] * 3)
    done = hgisam("evaluate", tmp_path / "out", tmp_path / "data", "-o", tmp_path / "found")
    assert done.exit_code == 8
    assert "Labels: 1 x labelled, but there is no file: left out (gone.nii.gz)" in done.stdout
    assert "error: labelled scans have no file that can be read: evaluation.json says why" in done.stderr


def test_records_of_several_weights_are_warned_of(tmp_path: Path) -> None:
    write_labels(tmp_path / "data", a=[2], b=[])
    write_nifti(tmp_path / "data" / "b.nii.gz", [2] * 3)
    for case, weights in (("a", "1" * 64), ("b", "2" * 64)):
        write_record(tmp_path / "out", case, [0.1] * 3, weights_sha256=weights)
    done = hgisam("evaluate", tmp_path / "out", tmp_path / "data", "-o", tmp_path / "found")
    assert "records of 2 weights, judged as one" in done.stderr
    made_by = json.loads((tmp_path / "found" / "evaluation.json").read_text())["made_by"]
    assert made_by["weights_sha256"] == ["1" * 64, "2" * 64]


def test_the_table_itself_is_read_as_one_of_labels_beside_truth_too(tmp_path: Path) -> None:
    data = write_drawn_cohort(tmp_path / "data", 2, masks=True)
    n_slices = nib.load(data / "p0.nii.gz").shape[2]
    for case in ("p0", "p1"):
        write_record(tmp_path / "out", case, [0.1] * n_slices)
    assert evaluate_labels(tmp_path / "out", data).layout == "phantoms"
    assert evaluate_labels(tmp_path / "out", data / "slice_labels.csv").layout == "slice_labels"


def test_masks_of_our_own_beside_the_scans_are_no_reference(tmp_path: Path) -> None:
    """As after `hgisam segment FOLDER -o FOLDER`: they would be held against themselves."""
    write_labels(tmp_path, a=[2])
    write_nifti(tmp_path / "a_mask.nii.gz", [1] * 3)
    assert not are_slice_labels(tmp_path)
    write_record(tmp_path, "a", [0.1] * 3)
    assert are_slice_labels(tmp_path)
    assert evaluate_labels(tmp_path, tmp_path).scans[0].case == "a"


def test_nothing_in_common_or_no_folder_of_records_is_refused(tmp_path: Path) -> None:
    write_labels(tmp_path / "data", a=[2])
    write_record(tmp_path / "out", "b", [0.1] * 3)
    with pytest.raises(ScanRefused, match=r"got 'b' \.\.\. in the one and 'a' \.\.\. in the other"):
        evaluate_labels(tmp_path / "out", tmp_path / "data")
    with pytest.raises(InputError, match="expected records of hgisam segment or classify; got none"):
        evaluate_labels(tmp_path / "data", tmp_path / "data")
    with pytest.raises(InputError, match="expected a folder of records"):
        evaluate_labels(tmp_path / "data" / "a.nii.gz", tmp_path / "data")
    done = hgisam("evaluate", tmp_path / "out", tmp_path / "data", "-o", tmp_path / "x", "--prefer", "sform")
    assert (done.exit_code, (tmp_path / "x").exists()) == (2, False)
    assert "--patients and --prefer are for masks" in done.stderr


def test_a_folder_of_named_masks_is_one_of_masks_whatever_else_lies_there(tmp_path: Path) -> None:
    write_labels(tmp_path, a=[2])
    assert are_slice_labels(tmp_path)
    assert are_slice_labels(tmp_path / "slice_labels.csv")
    assert not are_slice_labels(tmp_path / "a.nii.gz")
    with pytest.raises(InputError, match="got another table"):
        are_slice_labels(tmp_path / "hemorrhage_diagnosis_raw_ct.csv")
    write_nifti(tmp_path / "a_mask.nii.gz", [1] * 3)
    assert not are_slice_labels(tmp_path)
    assert are_slice_labels(tmp_path / "slice_labels.csv")


def test_an_evaluation_of_another_kind_leaves_nothing_of_the_one_before(tmp_path: Path) -> None:
    data, masks, out = tmp_path / "data", tmp_path / "masks", tmp_path / "out"
    write_labels(data, a=[2])
    write_record(tmp_path / "records", "a", [0.1, 0.2, 0.9])
    write_nifti(masks / "a_mask.nii.gz", [0, 1, 1])
    labelled = {"evaluation.csv", "evaluation_slices.csv", "evaluation_overall.csv", "evaluation.json"}
    pictures = {"evaluation_roc_pr.png", "evaluation_reliability.png"}
    for references, predictions, expected in (
        (data, tmp_path / "records", labelled | pictures),
        (masks, masks, labelled | {"evaluation_means.csv", "evaluation_subtypes.csv"}),
        (data, tmp_path / "records", labelled | pictures),
    ):
        assert hgisam("evaluate", predictions, references, "-o", out).exit_code == 0
        assert {path.name for path in out.iterdir() if not path.name.startswith(".")} == expected
