"""The tables of an evaluation: CSV and JSON for machines, rich tables for people."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from hgisam import NOTICE, __version__
from hgisam.cases import own_record
from hgisam.evaluate.detection import Detection, Estimate
from hgisam.evaluate.folders import EvaluationReport, ScanScore, Summary
from hgisam.evaluate.scored import TargetDetection
from hgisam.evaluate.statistics import CONFIDENCE, MeanInterval
from hgisam.io.atomic import make_output_folder
from hgisam.io.errors import OutputError
from hgisam.io.tables import write_csv, write_json
from hgisam.labels import SUBTYPES, Subtype
from hgisam.segment import SCAN_SLICES

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


def detection_table(found: Mapping[str, Sequence[TargetDetection]]) -> RenderableType:
    """What several sets of probabilities of the same slices are worth, one under the other, for each target.

    Args:
        found: by the name of what gave the probabilities.
    """
    table = Table()
    table.add_column("hemorrhage", no_wrap=True)
    table.add_column("slices", justify="right")
    table.add_column("scans", justify="right")
    table.add_column("probabilities of", no_wrap=True)
    for head in ("slice AUC", "slice AP", "scan AUC, highest", f"scan AUC, mean of {SCAN_SLICES}"):
        table.add_column(head, justify="right", no_wrap=True)
    for target in (Subtype.ANY, *SUBTYPES):
        rows = [(name, its) for name, by_target in found.items() for its in by_target if its.target is target]
        for k, (name, its) in enumerate(rows):
            slices, scans = its.slices, its.scans_by_highest
            table.add_row(
                *("" if k else cell for cell in (target, _positive_of(slices), _positive_of(scans))),
                escape(name),
                *map(_estimate_shown, (slices.auc, slices.average_precision, scans.auc, its.scans_by_mean.auc)),
                end_section=k == len(rows) - 1,
            )
    notes = (
        f"In brackets: {CONFIDENCE:.0%} bootstrap intervals over patients; '-' where there are too few. A subtype's"
        " slices and scans are held against those without any hemorrhage.",
        NOTICE,
    )
    return Group(table, *(Text(note, style="dim") for note in notes))


def write_detection(path: Path, found: Mapping[str, Sequence[TargetDetection]], **more: object) -> None:
    """Write everything that is known of several sets of probabilities as JSON, with the reasons for what is not.

    Args:
        path: the file.
        found: by the name of what gave the probabilities.
        more: what else the record should hold.

    Raises:
        OutputError: where the file cannot be written.
    """
    by_name = {name: {its.target: asdict(its) for its in by_target} for name, by_target in found.items()}
    write_json(
        path,
        {"hgisam_version": __version__, "notice": NOTICE, "confidence": CONFIDENCE, **more, "probabilities": by_name},
    )


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


def _positive_of(found: Detection) -> str:
    return f"{found.n_positive:,} of {found.n:,}"


def _estimate_shown(estimate: Estimate) -> str:
    interval = "-" if estimate.low is None or estimate.high is None else f"{estimate.low:.3f}, {estimate.high:.3f}"
    return "-" if estimate.value is None else f"{estimate.value:.3f} [{interval}]"
