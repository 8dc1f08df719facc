"""The tables and pictures of what was held against slice labels."""

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from hgisam import NOTICE, __version__
from hgisam.evaluate.detection import detection_curves, reliability
from hgisam.evaluate.figures import write_reliability, write_roc_and_precision_recall
from hgisam.evaluate.labelled import MASK_MEASURES, LabelledAnswer, LabelledReport, LabelledSummary, as_scored
from hgisam.evaluate.report import (
    OVERALL,
    OVERALL_COLUMNS,
    RECORD,
    RELIABILITY,
    ROC,
    SCANS,
    SLICES,
    Row,
    count_rows,
    detection_cells,
    detection_rows,
    interval_text,
    left_out_notes,
    left_out_rows,
    patient_numbers,
    plain_table,
    refuse_foreign,
    remove_others,
    shown,
)
from hgisam.evaluate.statistics import CONFIDENCE
from hgisam.io.tables import write_csv, write_json
from hgisam.labels import Subtype
from hgisam.outputs import claimed
from hgisam.wording import counted

SCAN_COLUMNS = (
    "case", "patient", "hemorrhage", "probability", "operating_point", "n_slices", "n_positive_slices",
    "n_negative_slices", "n_found_slices", "n_false_positive_slices", "prediction_ml",
    "prediction_ml_in_negative_slices", "failure",
)  # fmt: skip
SLICE_COLUMNS = ("case", "patient", "slice_index", *Subtype, "probability_any", "prediction_ml")


def write_labelled_report(report: LabelledReport, folder: Path) -> None:
    """Write `evaluation.csv` (a row per case), tables by slice and of all that is said of all scans together,
    `evaluation.json`, and, where there are slices with and without hemorrhage, curves and reliability as PNG.

    Patients are written as numbers, in the order in which they come: what a hospital calls them stays where it was.

    Raises:
        InputError: where a file is in the way that hgisam has not written.
        OutputError: where the folder or a file cannot be written, or another run holds it.
    """
    with claimed(folder):
        refuse_foreign(folder)
        numbered = list(zip(report.scans, patient_numbers(scan.patient for scan in report.scans), strict=True))
        rows = [_scan_row(scan, patient) for scan, patient in numbered]
        write_csv(folder / SCANS, [*rows, *left_out_rows(report, SCAN_COLUMNS)], SCAN_COLUMNS)
        write_csv(folder / SLICES, [row for pair in numbered for row in _slice_rows(*pair)], SLICE_COLUMNS)
        write_csv(folder / OVERALL, _overall_rows(report.summary), OVERALL_COLUMNS)
        pictures = _write_pictures(report, folder)
        record = {
            "hgisam_version": __version__,
            "notice": NOTICE,
            "confidence": CONFIDENCE,
            "held_against": "slice labels",
            "layout": report.layout,
            "intervals_by": "patient" if report.by_patient else "scan",
            "made_by": report.origins,
            "label_findings": report.findings,
            "summary": asdict(report.summary),
            "scans": rows,
            "refused": [{"case": case, "reason": reason} for case, reason in report.refused],
            "without_reference": report.without_reference,
            "without_prediction": report.without_prediction,
        }
        write_json(folder / RECORD, record)
        remove_others(folder, (SCANS, SLICES, OVERALL, *pictures))


def labelled_tables(report: LabelledReport) -> RenderableType:
    """Everything that a person should see: detection, masks, and what was not compared."""
    summary = report.summary
    n_unknown = summary.n - summary.n_positive - summary.n_normal
    counts = (
        f"{counted(summary.n, 'scan')} of {counted(summary.n_patients, 'patient')}: {summary.n_positive} positive,"
        f" {summary.n_normal} normal{f', {n_unknown} unknown' if n_unknown else ''}."
        f" {counted(summary.n_slices, 'slice')}: {summary.n_positive_slices:,} positive,"
        f" {summary.n_negative_slices:,} negative. Held against slice labels. "
        + ("Intervals are over patients." if report.by_patient else "Intervals take each scan for another patient's.")
    )
    missing = f"In no figure: {counted(summary.n_missing, 'labelled scan')} without an answer that fits."
    parts = [
        Text(counts),
        Text(missing, style="bold red") if summary.n_missing else None,
        _detection_table(summary),
        _mask_table(summary),
        *left_out_notes(report),
        *(Text(f"Labels: {found}", style="bold red") for found in report.lost),
        Text(NOTICE, style="dim"),
    ]
    return Group(*(part for part in parts if part is not None))


def _scan_row(scan: LabelledAnswer, patient: int) -> Row:
    found, mask_ml = scan.found, scan.mask_ml
    return {
        "case": scan.case,
        "patient": patient,
        "hemorrhage": scan.bled,
        "probability": scan.probability,
        "operating_point": scan.operating_point,
        "n_slices": len(scan.labels),
        "n_positive_slices": int(scan.positive.sum()),
        "n_negative_slices": int(scan.negative.sum()),
        "n_found_slices": None if found is None else int((found & scan.positive).sum()),
        "n_false_positive_slices": None if found is None else int((found & scan.negative).sum()),
        "prediction_ml": None if mask_ml is None else float(mask_ml.sum()),
        "prediction_ml_in_negative_slices": scan.ml_in_negative_slices,
        "failure": None,
    }


def _slice_rows(scan: LabelledAnswer, patient: int) -> Iterator[Row]:
    """In the order of the scan's file."""
    for row in scan.slice_index.argsort().tolist():
        pairs = zip(Subtype, scan.labels[row].tolist(), scan.known[row].tolist(), strict=True)
        yield {
            "case": scan.case,
            "patient": patient,
            "slice_index": int(scan.slice_index[row]),
            **{subtype: label if is_known else None for subtype, label, is_known in pairs},
            "probability_any": float(scan.probabilities[row]),
            "prediction_ml": None if scan.mask_ml is None else float(scan.mask_ml[row]),
        }


def _overall_rows(summary: LabelledSummary) -> Iterator[Row]:
    """All numbers under OVERALL_COLUMNS: counts, detection by target, and what labels tell of masks."""
    blank = dict.fromkeys(OVERALL_COLUMNS) | {"n_missing": summary.n_missing}
    yield from (blank | row for row in count_rows(vars(summary)))
    for found in summary.detection:
        suffix = "" if found.target is Subtype.ANY else f"_{found.target}"
        for of, its in ((f"slice_detection{suffix}", found.slices), (f"scan_detection{suffix}", found.scans)):
            yield from (blank | {"of": of, **row} for row in detection_rows(its))
    for name, mean in summary.masks.items():
        known = {key: getattr(mean, key) for key in ("n", "n_patients", "low", "high", "reason")}
        yield blank | {"of": "masks", "measure": name, "value": mean.mean, **known}


def _write_pictures(report: LabelledReport, folder: Path) -> tuple[str, ...]:
    """Curves and reliability of slices; returns the names of the files, none where slices are all alike."""
    scored = as_scored(report.scans)
    known = scored.positive | scored.negative
    labels = scored.positive[known]
    if not labels.any() or labels.all():
        return ()
    whose = [patient for patient, is_known in zip(scored.patients, known.tolist(), strict=True) if is_known]
    cases = scored.probabilities[known], labels, whose
    found = report.summary.detection[0].slices
    title = f"{counted(report.summary.n, 'scan')} held against slice labels"
    write_roc_and_precision_recall(folder / ROC, detection_curves(*cases), found, title, "slices")
    write_reliability(folder / RELIABILITY, {"as recorded": (reliability(*cases), found)}, title, "slices")
    return ROC, RELIABILITY


def _detection_table(summary: LabelledSummary) -> Table:
    heads = ("n", "positive", "AUC", "average precision", "sensitivity", "specificity")
    table = plain_table("hemorrhage, probabilities of", *heads)
    for found in summary.detection:
        for kind, its in (("slices", found.slices), ("scans", found.scans)):
            table.add_row(f"{found.target}, {kind}", f"{its.n:,}", f"{its.n_positive:,}", *detection_cells(its))
    its = summary.detection[0].slices
    point = its.sensitivity.reason if its.operating_point is None else f"operating point {its.operating_point:.3f}"
    table.caption = Text(f"{point}; probabilities are of any hemorrhage, a subtype is told from none at all by them")
    return table


def _mask_table(summary: LabelledSummary) -> Table | None:
    if not summary.masks:
        return None
    table = plain_table("masks", "n", "mean", f"{CONFIDENCE:.0%} interval")
    for measure in MASK_MEASURES:
        found = summary.masks[measure.name]
        cells = (shown(measure.form, found.mean), interval_text(measure.form, found))
        table.add_row(measure.title, str(found.n), *cells)
    without = f"; {counted(summary.n_without_masks, 'scan')} without a measured mask" if summary.n_without_masks else ""
    table.caption = f"labels tell in which slices there is blood, and not how much{without}"
    return table
