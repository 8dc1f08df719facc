"""The tables of an evaluation: CSV and JSON for machines, rich tables for people."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from hgisam import NOTICE, __version__
from hgisam.evaluate.agreement import IntraclassCorrelation
from hgisam.evaluate.detection import Detection, Estimate
from hgisam.evaluate.folders import EvaluationReport
from hgisam.evaluate.lesions import MIN_COVERED
from hgisam.evaluate.overlap import Overlap
from hgisam.evaluate.scores import ScanScore
from hgisam.evaluate.statistics import CONFIDENCE, MeanInterval
from hgisam.evaluate.summary import MEASURES, PUBLISHED_DICE, Scored, Summary, VolumeAgreement
from hgisam.evaluate.surface import SurfaceScore
from hgisam.io.tables import write_csv, write_json
from hgisam.outputs import claimed, refuse_overwriting
from hgisam.wording import counted

RECORD = "evaluation.json"
SCANS, SLICES, SUBTYPE_ROWS, MEANS, OVERALL = (
    "evaluation.csv",
    "evaluation_slices.csv",
    "evaluation_subtypes.csv",
    "evaluation_means.csv",
    "evaluation_overall.csv",
)
ROC, RELIABILITY = "evaluation_roc_pr.png", "evaluation_reliability.png"
OUTPUTS = (SCANS, SLICES, SUBTYPE_ROWS, MEANS, OVERALL, ROC, RELIABILITY)
"""All that evaluations write beside RECORD: one against masks no pictures, one against slice labels fewer tables."""

_MASK_COLUMNS = (
    "dice", "iou", "sensitivity", "precision", "hd95_mm", "assd_mm", "nsd_1mm", "nsd_2mm", "prediction_ml",
    "reference_ml", "difference_ml", "absolute_difference_ml", "n_prediction", "n_reference", "n_both",
)  # fmt: skip
_PREDICTED_VOLUMES = ("prediction_ml", "difference_ml", "absolute_difference_ml")
_LESION_COLUMNS = ("lesion_f1", "n_reference_lesions", "n_found_lesions", "n_predicted_lesions", "n_right_lesions")
SCAN_COLUMNS = (
    "case", "patient", *_MASK_COLUMNS, *_LESION_COLUMNS, PUBLISHED_DICE, "voxel_ml", "slice_mm", "n_slices",
    "n_positive_slices", "n_found_slices", "n_false_positive_slices", "probability", "failure",
)  # fmt: skip
SLICE_COLUMNS = ("case", "patient", "slice_index", *_MASK_COLUMNS, "probability_any")
SUBTYPE_COLUMNS = ("case", "patient", "subtype", *_MASK_COLUMNS, *_LESION_COLUMNS)
MEAN_COLUMNS = (
    "by", "stratum", "measure", "n", "n_undefined", "n_missing", "n_patients", "mean", "sd", "low", "high", "reason",
)  # fmt: skip
OVERALL_COLUMNS = (
    "of", "measure", "n", "n_undefined", "n_missing", "n_positive", "n_patients", "n_positive_patients", "value", "low",
    "high", "n_resamples", "reason",
)  # fmt: skip
_ESTIMATES = (
    "auc", "average_precision", "brier", "calibration_error", "sensitivity", "specificity", "ppv", "npv",
)  # fmt: skip
_NO_PREDICTION = "no prediction: left out of every mean"
_NO_REFERENCE = "no reference: nothing to compare with"
_EMPTY_SCORED = "no mask was made: an empty one is scored"

Row = dict[str, Any]


@runtime_checkable
class Compared(Protocol):
    """What came of comparing, in as far as cases were left out."""

    @property
    def refused(self) -> tuple[tuple[str, str], ...]:
        """What could not be compared: (case, why)."""

    @property
    def without_reference(self) -> tuple[str, ...]:
        """Cases with a prediction only."""

    @property
    def without_prediction(self) -> tuple[str, ...]:
        """Cases with a reference only."""


def refuse_foreign(folder: Path) -> None:
    """Stop before the work where the outputs would replace what no evaluation of ours has written.

    Raises:
        InputError: naming the first such file.
    """
    refuse_overwriting(folder, (), (), OUTPUTS, record=RECORD)


def remove_others(folder: Path, written: Collection[str]) -> None:
    """Remove what an earlier evaluation of another kind has left, so that all that lies there is of this one.

    Args:
        folder: where `refuse_foreign` has found nothing of others.
        written: of OUTPUTS, what this one has written.
    """
    for name in OUTPUTS:
        if name not in written:
            (folder / name).unlink(missing_ok=True)


def write_report(report: EvaluationReport, folder: Path) -> None:
    """Write `evaluation.csv` (a row per case), tables by slice, by subtype, of means and of all else that is said of
    all scans together, and `evaluation.json`.

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
        write_csv(folder / SLICES, _slice_rows(numbered), SLICE_COLUMNS)
        write_csv(folder / SUBTYPE_ROWS, _subtype_rows(numbered), SUBTYPE_COLUMNS)
        write_csv(folder / MEANS, _mean_rows(report.summary), MEAN_COLUMNS)
        write_csv(folder / OVERALL, _overall_rows(report.summary), OVERALL_COLUMNS)
        record = {
            "hgisam_version": __version__,
            "notice": NOTICE,
            "confidence": CONFIDENCE,
            "intervals_by": "patient" if report.by_patient else "scan",
            "lesion_min_covered": MIN_COVERED,
            "summary": asdict(report.summary),
            "scans": [row | {"warnings": scan.warnings} for row, scan in zip(rows, report.scans, strict=True)],
            "refused": [{"case": case, "reason": reason} for case, reason in report.refused],
            "without_reference": report.without_reference,
            "without_prediction": report.without_prediction,
            "without_subtypes": [{"reference": name, "values": values} for name, values in report.without_subtypes],
        }
        write_json(folder / RECORD, record)
        remove_others(folder, (SCANS, SLICES, SUBTYPE_ROWS, MEANS, OVERALL))


def as_tables(report: EvaluationReport) -> RenderableType:
    """Everything that a person should see: scans, summary, and what was not compared."""
    summary = report.summary
    counts = (
        f"{counted(summary.n, 'scan')}: {summary.n_positive} positive ({summary.n_missed} missed), {summary.n_normal}"
        f" normal ({summary.n_false_positive} with a false positive). Dice undefined (both empty) in"
        f" {summary.n_undefined}. {counted(summary.n_slices, 'slice')}, {summary.n_positive_slices} positive."
    )
    units = f"Intervals are over patients: {summary.n_patients}." if report.by_patient else (
        "Intervals are over scans, as if each were another patient's; --patients says otherwise."
    )  # fmt: skip
    parts = [
        _scan_table(report.scans),
        Text(counts),
        _summary_table(summary),
        _agreement_table(summary),
        _detection_table(summary),
        _lesion_table(summary),
        _strata_table(summary),
        Text(units),
        *left_out_notes(report),
        Text(NOTICE, style="dim"),
    ]
    return Group(*(part for part in parts if part is not None))


def left_out_notes(report: Compared) -> list[Text]:
    """What a person should see of the cases that are in no mean."""
    notes = [Text(f"Not compared: {case}: {reason}", style="bold red") for case, reason in report.refused]
    for cases, lacking in ((report.without_reference, "reference"), (report.without_prediction, "prediction")):
        if cases:
            notes.append(Text(f"No {lacking} for {len(cases)}: {', '.join(cases)}", style="bold red"))
    return notes


def _mask_values(found: Overlap, surface: SurfaceScore) -> Row:
    """What is said of two masks, or slices, under _MASK_COLUMNS; None where a measure is undefined."""
    return {
        "dice": found.dice,
        "iou": found.iou,
        "sensitivity": found.sensitivity,
        "precision": found.precision,
        "hd95_mm": surface.hd95_mm,
        "assd_mm": surface.assd_mm,
        "nsd_1mm": surface.nsd_1mm,
        "nsd_2mm": surface.nsd_2mm,
        "prediction_ml": found.prediction_ml,
        "reference_ml": found.reference_ml,
        "difference_ml": found.difference_ml,
        "absolute_difference_ml": abs(found.difference_ml),
        "n_prediction": found.n_prediction,
        "n_reference": found.n_reference,
        "n_both": found.n_both,
    }


def _lesion_values(scored: Scored) -> Row:
    lesions = scored.lesions
    return {
        "lesion_f1": lesions.f1,
        "n_reference_lesions": lesions.reference.n,
        "n_found_lesions": sum(lesions.reference.covered),
        "n_predicted_lesions": lesions.prediction.n,
        "n_right_lesions": sum(lesions.prediction.covered),
    }


def patient_numbers(patients: Iterable[str]) -> list[int]:
    """A number for each patient, from 1 in the order in which they first come."""
    numbers: dict[str, int] = {}
    return [numbers.setdefault(patient, len(numbers) + 1) for patient in patients]


def _scan_row(scan: ScanScore, patient: int) -> Row:
    positive = scan.positive_slices
    published = [found.overlap.dice for found in positive if found.overlap.dice is not None]
    alarms = [found.overlap.n_prediction > 0 for found in scan.slices if not found.overlap.n_reference]
    return {
        "case": scan.case,
        "patient": patient,
        **_mask_values(scan.overlap, scan.surface),
        **({} if scan.volume_known else dict.fromkeys(_PREDICTED_VOLUMES)),
        **_lesion_values(scan),
        PUBLISHED_DICE: sum(published) / len(published) if published else None,
        "voxel_ml": scan.voxel_ml,
        "slice_mm": scan.slice_mm,
        "n_slices": len(scan.slices),
        "n_positive_slices": len(positive),
        "n_found_slices": sum(found.overlap.n_prediction > 0 for found in positive),
        "n_false_positive_slices": sum(alarms),
        "probability": scan.probability,
        "failure": _EMPTY_SCORED if scan.failed else None,
    }


def left_out_rows(report: Compared, columns: Sequence[str]) -> Iterator[Row]:
    """A row for each case that is in no mean, with nothing but its name and why."""
    left_out = [
        *report.refused,
        *((case, _NO_PREDICTION) for case in report.without_prediction),
        *((case, _NO_REFERENCE) for case in report.without_reference),
    ]
    for case, reason in left_out:
        yield {**dict.fromkeys(columns), "case": case, "failure": reason}


def _slice_rows(numbered: Sequence[tuple[ScanScore, int]]) -> Iterator[Row]:
    for scan, patient in numbered:
        for found in sorted(scan.slices, key=lambda of_slice: of_slice.slice_index):
            yield {
                "case": scan.case,
                "patient": patient,
                "slice_index": found.slice_index,
                **_mask_values(found.overlap, found.surface),
                "probability_any": found.probability,
            }


def _subtype_rows(numbered: Sequence[tuple[ScanScore, int]]) -> Iterator[Row]:
    for scan, patient in numbered:
        for found in scan.subtypes:
            yield {
                "case": scan.case,
                "patient": patient,
                "subtype": found.subtype,
                **_mask_values(found.overlap, found.surface),
                **_lesion_values(found),
            }


def _mean_rows(summary: Summary) -> Iterator[Row]:
    """Every mean under MEAN_COLUMNS: over all scans, then by stratum."""
    extra = (PUBLISHED_DICE, "slice_sensitivity", "slice_specificity", "scan_sensitivity", "scan_specificity")
    means = [("all", "all", name, found) for name, found in summary.means.items()]
    means += [("all", "all", name, getattr(summary, name)) for name in extra]
    for size in summary.lesions_by_size:
        means += [("lesion_ml", size.name, "found", size.found), ("lesion_ml", size.name, "right", size.right)]
    means += [(s.by, s.name, name, found) for s in summary.strata for name, found in s.means.items()]
    for by, stratum, measure, found in means:
        yield {"by": by, "stratum": stratum, "measure": measure, "n_missing": summary.n_missing, **asdict(found)}


def _overall_rows(summary: Summary) -> Iterator[Row]:
    """What is said of all scans and is no mean, under OVERALL_COLUMNS: counts, agreement of volumes, detection."""
    blank = dict.fromkeys(OVERALL_COLUMNS) | {"n_missing": summary.n_missing}
    yield from (blank | row for row in count_rows(vars(summary)))
    for of, agreement, n in (
        ("volume_all", summary.volume_all, summary.n),
        ("volume_positive", summary.volume_positive, summary.n_positive),
    ):
        known = {"n": agreement.limits.n, "n_undefined": n - agreement.limits.n, "n_positive": summary.n_positive}
        for row in _agreement_rows(agreement):
            yield blank | {"of": of, **known, **row}
    for of, found, n in (
        ("slice_detection", summary.slice_detection, summary.n_slices),
        ("scan_detection", summary.scan_detection, summary.n),
    ):
        if found is not None:
            yield from (blank | {"of": of, "n_undefined": n - found.n, **row} for row in detection_rows(found))


def _agreement_rows(found: VolumeAgreement) -> Iterator[Row]:
    """Bias and limits in mL, each limit with its own interval, and ICC."""
    limits, icc = found.limits, found.icc
    yield {"measure": "bias_ml", "value": limits.bias}
    yield {"measure": "sd_ml", "value": limits.sd}
    for name, limit in (("lower_limit_ml", limits.low), ("upper_limit_ml", limits.high)):
        row: Row = {"measure": name, "value": limit}
        if limit is not None and limits.margin is not None:
            row |= {"low": limit - limits.margin, "high": limit + limits.margin}
        yield row
    yield {"measure": "margin_ml", "value": limits.margin}
    yield {"measure": "icc", "value": icc.value, "low": icc.low, "high": icc.high, "reason": icc.reason}


def count_rows(summary: Mapping[str, object]) -> Iterator[Row]:
    """A row under OVERALL_COLUMNS for each of a summary's whole numbers, without what is missing."""
    for name, value in summary.items():
        if isinstance(value, int):
            yield {"of": "counts", "measure": name, "value": value}


def detection_rows(found: Detection) -> Iterator[Row]:
    """A row under OVERALL_COLUMNS for each figure, without what it is of and what is missing."""
    cases = {name: getattr(found, name) for name in ("n", "n_positive", "n_patients", "n_positive_patients")}
    for name in _ESTIMATES:
        yield cases | {"measure": name, **asdict(getattr(found, name))}
    why_not = None if found.operating_point is not None else found.sensitivity.reason
    yield cases | {"measure": "operating_point", "value": found.operating_point, "reason": why_not}


def _scan_table(scans: Sequence[ScanScore]) -> Table:
    heads = (
        "Dice", "sensitivity", "precision", "HD95 mm", "ASSD mm", "NSD 2 mm", "lesion F1", "predicted mL",
        "reference mL", "difference mL",
    )  # fmt: skip
    table = plain_table("case", *heads)
    for scan in scans:
        found, surface = scan.overlap, scan.surface
        table.add_row(
            escape(scan.case),
            shown("{:.3f}", found.dice),
            shown("{:.3f}", found.sensitivity),
            shown("{:.3f}", found.precision),
            shown("{:.1f}", surface.hd95_mm),
            shown("{:.2f}", surface.assd_mm),
            shown("{:.3f}", surface.nsd_2mm),
            shown("{:.3f}", scan.lesions.f1),
            f"{found.prediction_ml:.2f}",
            f"{found.reference_ml:.2f}",
            f"{found.difference_ml:+.2f}",
        )
    return table


def _summary_table(summary: Summary) -> Table:
    table = plain_table("mean over scans", "n", "undefined", "mean", "sd", f"{CONFIDENCE:.0%} interval")
    rows = [(measure.title, summary.means[measure.name], measure.form) for measure in MEASURES]
    rows += [
        ("Dice by slice, positive slices only", summary.positive_slices_only_dice, "{:.3f}"),
        ("Positive slices with a prediction", summary.slice_sensitivity, "{:.3f}"),
        ("Other slices without", summary.slice_specificity, "{:.3f}"),
        ("Positive scans with a prediction", summary.scan_sensitivity, "{:.3f}"),
        ("Normal scans without", summary.scan_specificity, "{:.3f}"),
    ]
    for title, found, form in rows:
        spread = shown(form.replace("+", ""), found.sd)
        table.add_row(
            title, str(found.n), str(found.n_undefined), shown(form, found.mean), spread, interval_text(form, found)
        )
    if summary.n_missing:
        missing = f"In no mean: {counted(summary.n_missing, 'reference')} without a prediction that could be compared"
        table.caption = Text(missing, style="bold red")
    return table


def _agreement_table(summary: Summary) -> Table:
    table = plain_table(
        "volume, mL", "n", "bias", "limits of agreement", "margin", "ICC(2,1)", f"{CONFIDENCE:.0%} interval"
    )
    for title, found in (("all scans", summary.volume_all), ("positive scans", summary.volume_positive)):
        table.add_row(title, *_agreement_cells(found))
    return table


def _agreement_cells(found: VolumeAgreement) -> tuple[str, ...]:
    limits, icc = found.limits, found.icc
    between = "-" if limits.low is None else f"{limits.low:+.2f} to {limits.high:+.2f}"
    return (
        str(limits.n),
        shown("{:+.2f}", limits.bias),
        between,
        shown("{:.2f}", limits.margin),
        shown("{:.3f}", icc.value),
        interval_text("{:.3f}", icc),
    )


def _detection_table(summary: Summary) -> Table | None:
    kinds = [("slices", summary.slice_detection), ("scans", summary.scan_detection)]
    found = [(kind, of_kind) for kind, of_kind in kinds if of_kind is not None]
    if not found:
        return None
    table = plain_table("probabilities of", "n", "positive", "AUC", "average precision", "sensitivity", "specificity")
    for kind, of_kind in found:
        table.add_row(kind, str(of_kind.n), str(of_kind.n_positive), *detection_cells(of_kind))
    shared = found[0][1]
    point = shared.sensitivity.reason if shared.operating_point is None else (
        f"operating point {shared.operating_point:.3f}"
    )  # fmt: skip
    lacking = f"; {counted(summary.n_without_probabilities, 'scan')} without" if summary.n_without_probabilities else ""
    table.caption = f"{point}{lacking}"
    return table


def detection_cells(found: Detection) -> Iterator[str]:
    """AUC, average precision, sensitivity and specificity with their intervals, for people."""
    for estimate in (found.auc, found.average_precision, found.sensitivity, found.specificity):
        yield _estimate_text(estimate)


def _estimate_text(found: Estimate) -> str:
    if found.low is None:
        return shown("{:.3f}", found.value)
    return f"{found.value:.3f} ({found.low:.3f} to {found.high:.3f})"


def _lesion_table(summary: Summary) -> Table | None:
    if not summary.lesions_by_size:
        return None
    interval = f"{CONFIDENCE:.0%} interval"
    table = plain_table("lesions by size", "n", "found", interval, "n predicted", "right", interval)
    for size in summary.lesions_by_size:
        cells: list[str] = []
        for found in (size.found, size.right):
            cells += [str(found.n), shown("{:.3f}", found.mean), interval_text("{:.3f}", found)]
        table.add_row(size.name, *cells)
    return table


def _strata_table(summary: Summary) -> Table | None:
    """Strata that split the scans: one that all are in says nothing new. Each mean has its own n in brackets."""
    kept = [s for s in summary.strata if s.by == "subtype" or s.n < _n_sorted(summary, s.by)]
    if not kept:
        return None
    table = plain_table("stratum", "Dice", "interval", "HD95 mm", "NSD 2 mm", "lesion F1", "difference mL")
    for stratum in kept:
        dice, *others = (
            _with_n(form, stratum.means.get(name))
            for name, form in (
                ("dice", "{:.3f}"),
                ("hd95_mm", "{:.1f}"),
                ("nsd_2mm", "{:.3f}"),
                ("lesion_f1", "{:.3f}"),
                ("difference_ml", "{:+.2f}"),
            )
        )
        between = interval_text("{:.3f}", stratum.means["dice"]) if "dice" in stratum.means else "-"
        table.add_row(stratum.name, dice, between, *others)
    table.caption = "in brackets: how many scans the mean is of, and how many more it is undefined for"
    return table


def _with_n(form: str, found: MeanInterval | None) -> str:
    """A mean with its own n; a dash where no scan of the stratum is one of those that it is over."""
    if found is None:
        return "-"
    undefined = f", {found.n_undefined} undefined" if found.n_undefined else ""
    return f"{shown(form, found.mean)} ({found.n}{undefined})"


def _n_sorted(summary: Summary, by: str) -> int:
    return sum(stratum.n for stratum in summary.strata if stratum.by == by)


def plain_table(first: str, *heads: str) -> Table:
    """A table whose first column is of words and whose others are of figures."""
    table = Table()
    table.add_column(first)
    for head in heads:
        table.add_column(head, justify="right")
    return table


def interval_text(form: str, found: MeanInterval | IntraclassCorrelation) -> str:
    """An interval for people; a dash where there is none."""
    return "-" if found.low is None else f"{shown(form, found.low)} to {shown(form, found.high)}"


def shown(form: str, value: float | None) -> str:
    """A figure for people; a dash where it is undefined."""
    return "-" if value is None else form.format(value)
