"""What slice labels tell of probabilities and masks, by figures worked out by hand."""

import csv
import io
import json
from pathlib import Path

import pytest
import torch
from rich.console import Console

from hgisam.evaluate.labelled import LabelledAnswer, LabelledReport, summarise_labelled
from hgisam.evaluate.labelled_report import labelled_tables, write_labelled_report
from hgisam.labels import Subtype

pytestmark = pytest.mark.usefixtures("undrawn")

Slice = tuple[str, float, float | None]
"""What is known (a subtype, `none`, or empty for unknown), the probability, and mL of mask."""


def answer(
    case: str, probability: float, *slices: Slice, patient: str = "", point: float | None = 0.5
) -> LabelledAnswer:
    """A scan whose file counts slices from the lowest."""
    shown = [[s in (of, "any") and of not in ("", "none") for s in Subtype] for of, _, _ in slices]
    mask_ml = [ml for _, _, ml in slices if ml is not None]
    return LabelledAnswer(
        case=case,
        patient=patient or case,
        slice_index=torch.arange(len(slices)),
        labels=torch.tensor(shown),
        known=torch.tensor([[of != ""] * len(Subtype) for of, _, _ in slices]),
        probabilities=torch.tensor([p for _, p, _ in slices], dtype=torch.float64),
        probability=probability,
        operating_point=point,
        mask_ml=torch.tensor(mask_ml, dtype=torch.float64) if mask_ml else None,
    )


BLED = answer("bled", 0.8, ("none", 0.1, 0.0), ("subdural", 0.9, 2.0), ("epidural", 0.4, 0.0), ("none", 0.6, 0.5))
QUIET = answer("quiet", 0.2, ("none", 0.3, 0.0), ("none", 0.2, 0.0))
NOISY = answer("noisy", 0.9, ("none", 0.7, 0.25), ("none", 0.1, 0.0))
UNSURE = answer("unsure", 0.7, ("none", 0.2, 0.0), ("", 0.95, 4.0))
ALL = (BLED, NOISY, QUIET, UNSURE)


def test_slices_and_scans_are_counted_and_unknown_ones_judge_nothing() -> None:
    found = summarise_labelled(ALL, n_missing=2)
    assert (found.n, found.n_missing, found.n_patients, found.n_positive, found.n_normal) == (4, 2, 4, 1, 2)
    assert (found.n_slices, found.n_positive_slices, found.n_negative_slices) == (10, 2, 7)
    of_any = found.detection[0]
    assert of_any.target is Subtype.ANY
    assert (of_any.slices.n, of_any.slices.n_positive) == (9, 2)
    # 0.9 is above all 7 negative slices, 0.4 above 5 of them (0.1, 0.3, 0.2, 0.1, 0.2)
    assert of_any.slices.auc.value == pytest.approx((7 + 5) / (2 * 7))
    assert of_any.slices.sensitivity.value == pytest.approx(1 / 2)
    assert of_any.slices.specificity.value == pytest.approx(5 / 7)
    # one scan bled; the quiet one is below it, the noisy one above; nobody knows of the fourth
    assert (of_any.scans.n, of_any.scans.n_positive) == (3, 1)
    assert of_any.scans.auc.value == pytest.approx(1 / 2)
    assert of_any.scans.specificity.value == pytest.approx(1 / 2)


def test_only_subtypes_that_are_shown_are_judged_and_against_slices_without_any() -> None:
    found = {its.target: its for its in summarise_labelled(ALL).detection}
    assert [*found] == [Subtype.ANY, Subtype.EPIDURAL, Subtype.SUBDURAL]
    assert (found[Subtype.EPIDURAL].slices.n, found[Subtype.EPIDURAL].slices.n_positive) == (8, 1)
    assert found[Subtype.EPIDURAL].slices.auc.value == pytest.approx(5 / 7)
    assert found[Subtype.SUBDURAL].slices.auc.value == 1.0


def test_masks_are_judged_by_where_they_lie() -> None:
    found = summarise_labelled(ALL).masks
    means = {name: mean.mean for name, mean in found.items()}
    assert means == {
        "slice_sensitivity": pytest.approx(1 / 2),
        "slice_specificity": pytest.approx(5 / 7),
        "scan_sensitivity": 1.0,
        "scan_specificity": pytest.approx(1 / 2),
        "positive_ml": pytest.approx(2.5),
        "positive_ml_in_negative_slices": pytest.approx(0.5),
        "false_positive_ml": pytest.approx(0.125),
    }
    assert {name: mean.n for name, mean in found.items()} == {
        "slice_sensitivity": 2, "slice_specificity": 7, "scan_sensitivity": 1, "scan_specificity": 2, "positive_ml": 1,
        "positive_ml_in_negative_slices": 1, "false_positive_ml": 2,
    }  # fmt: skip


def test_ml_in_unknown_slices_is_not_said_to_lie_where_there_is_blood() -> None:
    """Only positive slices were labelled: what is outlined elsewhere may be right or wrong, and counts as neither."""
    partly = answer("partly", 0.9, ("", 0.6, 5.0), ("subdural", 0.9, 2.0))
    found = summarise_labelled((partly, BLED)).masks
    assert (found["positive_ml"].n, found["positive_ml"].mean) == (2, pytest.approx((7.0 + 2.5) / 2))
    assert (found["positive_ml_in_negative_slices"].n, found["positive_ml_in_negative_slices"].mean) == (1, 0.5)


def test_intervals_are_over_patients_and_not_over_their_scans() -> None:
    scans = [answer(f"s{k}", 0.05 * k, ("none", 0.1, float(k)), patient=f"p{k // 4}") for k in range(12)]
    by_patient = summarise_labelled(scans)
    by_scan = summarise_labelled([LabelledAnswer(**(vars(scan) | {"patient": scan.case})) for scan in scans])
    assert (by_patient.n_patients, by_scan.n_patients) == (3, 12)
    assert by_patient.masks["false_positive_ml"].n_patients == 3
    assert by_patient.detection[0].slices.n_patients == 3
    low, wide_low = by_scan.masks["false_positive_ml"].low, by_patient.masks["false_positive_ml"].low
    assert low is not None
    assert wide_low is not None
    assert wide_low < low  # four scans of a patient are alike: there is less to go by than twelve


def test_the_screen_says_what_is_unknown_and_over_whom_intervals_are() -> None:
    texts = []
    for by_patient, lost in ((True, ("2 x labelled, but there is no file: left out",)), (False, ())):
        console = Console(width=160, record=True, file=io.StringIO())
        console.print(labelled_tables(LabelledReport(ALL, (), (), (), "slice_labels", by_patient, lost=lost)))
        texts.append(console.export_text())
    texts = [" ".join(text.split()) for text in texts]
    assert "4 scans of 4 patients: 1 positive, 2 normal, 1 unknown." in texts[0]
    assert "Intervals are over patients." in texts[0]
    assert "Labels: 2 x labelled, but there is no file" in texts[0]
    assert "Intervals take each scan for another patient's." in texts[1]


def test_curves_are_of_slices_that_are_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[int] = []
    monkeypatch.setattr(
        "hgisam.evaluate.labelled_report.detection_curves", lambda p, labels, whose: drawn.append(len(labels))
    )
    monkeypatch.setattr("hgisam.evaluate.labelled_report.write_roc_and_precision_recall", lambda *_: None)
    write_labelled_report(LabelledReport(ALL, (), (), (), "slice_labels"), tmp_path)
    assert drawn == [9]


def test_scans_without_masks_are_told_of_and_take_no_part() -> None:
    classified = answer("classified", 0.1, ("none", 0.1, None), ("none", 0.2, None))
    found = summarise_labelled((*ALL, classified))
    assert found.n_without_masks == 1
    assert found.masks["false_positive_ml"].n == 2
    assert summarise_labelled((classified,)).masks == {}


def test_scans_of_several_operating_points_share_none() -> None:
    other = answer("other", 0.1, ("none", 0.1, 0.0), point=0.3)
    its = summarise_labelled((*ALL, other)).detection[0].slices
    assert (its.sensitivity.value, its.sensitivity.reason) == (None, "several operating points")
    assert its.auc.value is not None


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_what_is_written_says_what_is_known_and_names_no_patient(tmp_path: Path) -> None:
    flipped = LabelledAnswer(**(vars(BLED) | {"slice_index": torch.tensor([3, 2, 1, 0]), "patient": "Somebody"}))
    report = LabelledReport(
        (flipped, *ALL[1:]), (("odd", "expected 3 slices"),), ("only_record",), ("only_labels",), "slice_labels",
        findings=("1 x a row that cannot be read: ignored",), origins={"weights_sha256": ["ab", "cd"]},
    )  # fmt: skip
    assert not report.complete
    write_labelled_report(report, tmp_path)
    scans = {row["case"]: row for row in rows_of(tmp_path / "evaluation.csv")}
    assert [scans[case]["hemorrhage"] for case in ("bled", "noisy", "quiet", "unsure")] == ["1", "0", "0", ""]
    assert (
        scans["bled"] | {"n_found_slices": "1", "n_false_positive_slices": "1", "prediction_ml": "2.5"} == scans["bled"]
    )
    assert [scans[case]["failure"] for case in ("odd", "only_labels", "only_record")] == [
        "expected 3 slices", "no prediction: left out of every mean", "no reference: nothing to compare with",
    ]  # fmt: skip
    slices = [row for row in rows_of(tmp_path / "evaluation_slices.csv") if row["case"] == "bled"]
    assert [(row["slice_index"], row["any"], row["epidural"], row["prediction_ml"]) for row in slices] == [
        ("0", "0", "0", "0.5"), ("1", "1", "1", "0"), ("2", "1", "0", "2"), ("3", "0", "0", "0"),
    ]  # fmt: skip
    (unknown,) = [row for row in rows_of(tmp_path / "evaluation_slices.csv") if row["any"] == ""]
    assert (unknown["case"], unknown["probability_any"]) == ("unsure", "0.95")
    overall = {(row["of"], row["measure"]): row for row in rows_of(tmp_path / "evaluation_overall.csv")}
    assert overall["slice_detection", "auc"]["value"] == "0.8571429"
    assert overall["slice_detection_epidural", "auc"]["n"] == "8"
    assert overall["masks", "false_positive_ml"] | {"n": "2", "value": "0.125"} == overall["masks", "false_positive_ml"]
    assert {row["n_missing"] for row in overall.values()} == {"2"}
    record = json.loads((tmp_path / "evaluation.json").read_text())
    assert record["refused"] == [{"case": "odd", "reason": "expected 3 slices"}]
    assert record["summary"]["n_missing"] == 2
    assert record["label_findings"] == ["1 x a row that cannot be read: ignored"]
    assert record["made_by"] == {"weights_sha256": ["ab", "cd"]}
    assert record["intervals_by"] == "scan"
    written = "".join(path.read_text() for path in tmp_path.glob("*.[cj]s*"))
    assert "Somebody" not in written
    assert {path.name for path in tmp_path.glob("*.png")} == {"evaluation_roc_pr.png", "evaluation_reliability.png"}


def test_where_slices_are_all_alike_there_is_no_curve(tmp_path: Path) -> None:
    write_labelled_report(LabelledReport((QUIET, NOISY), (), (), (), "slice_labels"), tmp_path)
    assert not list(tmp_path.glob("*.png"))
    overall = {(row["of"], row["measure"]): row for row in rows_of(tmp_path / "evaluation_overall.csv")}
    assert overall["slice_detection", "auc"]["reason"] == "no case is positive"
