"""The tables of an evaluation: CSV and JSON for machines, rich tables for people."""

from dataclasses import asdict
from pathlib import Path

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from hgisam import NOTICE, __version__
from hgisam.cases import own_record
from hgisam.evaluate.folders import EvaluationReport, ScanScore, Summary
from hgisam.evaluate.statistics import CONFIDENCE, MeanInterval
from hgisam.io.atomic import make_output_folder
from hgisam.io.errors import OutputError
from hgisam.io.tables import write_csv, write_json

SCAN_COLUMNS = (
    "case",
    "dice",
    "iou",
    "sensitivity",
    "precision",
    "prediction_ml",
    "reference_ml",
    "difference_ml",
    "absolute_difference_ml",
    "n_prediction",
    "n_reference",
    "n_both",
    "voxel_ml",
    "n_slices",
    "n_positive_slices",
)

TABLE, RECORD = "evaluation.csv", "evaluation.json"

_SUMMARY_ROWS = (
    ("Dice, positive scans", "dice", "{:.3f}"),
    ("IoU, positive scans", "iou", "{:.3f}"),
    ("Sensitivity, positive scans", "sensitivity", "{:.3f}"),
    ("Precision, scans with a prediction", "precision", "{:.3f}"),
    ("Volume difference, mL", "difference_ml", "{:+.2f}"),
    ("Absolute volume difference, mL", "absolute_difference_ml", "{:.2f}"),
    ("False positive on normals, mL", "false_positive_ml", "{:.2f}"),
)


def write_report(report: EvaluationReport, folder: Path) -> None:
    """Write `evaluation.csv`, a row per scan, and `evaluation.json`, everything.

    Raises:
        OutputError: where the folder or a file cannot be written, or a file is in the way that hgisam has not written.
    """
    make_output_folder(folder)
    for name in (TABLE, RECORD):
        if (folder / name).exists() and not own_record(folder / RECORD):
            raise OutputError(
                f"{folder / name}: expected a free name; got a file that hgisam has not written; choose another folder"
            )
    rows = [scan_row(scan) for scan in report.scans]
    write_csv(folder / TABLE, rows, SCAN_COLUMNS)
    record = {
        "hgisam_version": __version__,
        "notice": NOTICE,
        "confidence": CONFIDENCE,
        "summary": asdict(report.summary),
        "scans": [
            {**row, "slice_dice": [found.dice for found in scan.slices], "warnings": scan.warnings}
            for row, scan in zip(rows, report.scans, strict=True)
        ],
        "refused": [{"case": case, "reason": reason} for case, reason in report.refused],
        "without_reference": report.without_reference,
        "without_prediction": report.without_prediction,
    }
    write_json(folder / RECORD, record)


def scan_row(scan: ScanScore) -> dict[str, object]:
    """One scan's scores under SCAN_COLUMNS; None where a measure is undefined."""
    found = scan.overlap
    return {
        "case": scan.case,
        "dice": found.dice,
        "iou": found.iou,
        "sensitivity": found.sensitivity,
        "precision": found.precision,
        "prediction_ml": found.prediction_ml,
        "reference_ml": found.reference_ml,
        "difference_ml": found.difference_ml,
        "absolute_difference_ml": abs(found.difference_ml),
        "n_prediction": found.n_prediction,
        "n_reference": found.n_reference,
        "n_both": found.n_both,
        "voxel_ml": found.voxel_ml,
        "n_slices": len(scan.slices),
        "n_positive_slices": sum(of_slice.n_reference > 0 for of_slice in scan.slices),
    }


def as_tables(report: EvaluationReport) -> RenderableType:
    """Everything that a person should see: scans, summary, and what was not compared."""
    notes = [Text(f"Not compared: {case}: {reason}", style="bold red") for case, reason in report.refused]
    for cases, lacking in ((report.without_reference, "reference"), (report.without_prediction, "prediction")):
        if cases:
            notes.append(Text(f"No {lacking} for {len(cases)}: {', '.join(cases)}", style="bold red"))
    summary = report.summary
    counts = (
        f"{summary.n} scans: {summary.n_positive} positive ({summary.n_missed} missed), {summary.n_normal} normal"
        f" ({summary.n_false_positive} with a false positive). Dice undefined (both empty) in {summary.n_undefined}."
    )
    return Group(_scan_table(report), Text(counts), _summary_table(summary), *notes, Text(NOTICE, style="dim"))


def _scan_table(report: EvaluationReport) -> Table:
    table = Table()
    table.add_column("case")
    for head in ("Dice", "IoU", "sensitivity", "precision", "predicted mL", "reference mL", "difference mL"):
        table.add_column(head, justify="right")
    for scan in report.scans:
        found = scan.overlap
        shares = (found.dice, found.iou, found.sensitivity, found.precision)
        table.add_row(
            escape(scan.case),
            *("-" if share is None else f"{share:.3f}" for share in shares),
            f"{found.prediction_ml:.2f}",
            f"{found.reference_ml:.2f}",
            f"{found.difference_ml:+.2f}",
        )
    return table


def _summary_table(summary: Summary) -> Table:
    table = Table()
    table.add_column("mean over scans")
    for head in ("n", "mean", "sd", f"{CONFIDENCE:.0%} interval"):
        table.add_column(head, justify="right")
    for label, name, form in _SUMMARY_ROWS:
        found: MeanInterval = getattr(summary, name)
        interval = "-" if found.low is None else f"{_shown(form, found.low)} to {_shown(form, found.high)}"
        table.add_row(label, str(found.n), _shown(form, found.mean), _shown(form.replace("+", ""), found.sd), interval)
    slice_dice = _shown("{:.3f}", summary.slice_dice)
    table.add_row("Dice by slice, positive slices only", str(summary.n_positive_slices), slice_dice, "", "")
    return table


def _shown(form: str, value: float | None) -> str:
    return "-" if value is None else form.format(value)
