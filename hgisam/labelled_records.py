"""A labelled data set and a folder of records -> what was said of each scan beside what is known of its slices."""

import logging
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float64
from torch import Tensor

from hgisam.cases import own_record, safe_name
from hgisam.evaluate.folders import is_probability
from hgisam.evaluate.labelled import LabelledAnswer, LabelledReport
from hgisam.evaluate.pairs import holds_named_masks
from hgisam.io.digest import file_sha256
from hgisam.io.errors import InputError, ScanRefused
from hgisam.train.cohort import LabelledScan, NiftiFile
from hgisam.train.layouts import is_layout, read_cohort
from hgisam.train.layouts.slice_table import TABLE

log = logging.getLogger(__name__)


def are_slice_labels(references: Path) -> bool:
    """Whether references are labels of slices: `slice_labels.csv`, or a data set that training reads.

    A folder with masks that are named so, `CASE_mask` or `CASE_labels`, is one of masks, whatever else lies there.
    """
    if references.is_dir():
        return is_layout(references) and not holds_named_masks(references)
    return references.name == TABLE


def evaluate_labels(predictions: Path, labels: Path, *, workers: int = 1) -> LabelledReport:
    """Hold records of `hgisam segment` or `classify` against the labels of slices.

    A record belongs to the scan whose name `segment` would have made into its case, or whose DICOM series it names.
    Slices are joined by where they lie: both sides have all of a scan's slices, the record with their positions.

    Args:
        predictions: a folder with a record `CASE.json` for each case.
        labels: `slice_labels.csv` beside its scans, or the folder of a data set, as `read_cohort` takes it.
        workers: processes that read DICOM headers.

    Returns:
        The answers; scans and cases that could not be compared are listed in it.

    Raises:
        InputError: where predictions are no folder, or the labels are of no layout.
        ScanRefused: where the labels as a whole cannot be trusted (`CohortRefused`), or no record fits any scan.
    """
    if not predictions.is_dir():
        raise InputError(f"{predictions}: expected a folder of records, since references are slice labels; got a file")
    cohort = read_cohort(labels, workers=workers) if labels.is_dir() else read_cohort(labels.parent, "slice_labels")
    cohort.log_summary()
    records = _records_in(predictions)
    of_key = {key: case for case, record in records.items() for key in _keys(case, record)}
    answers: list[LabelledAnswer] = []
    refused: list[tuple[str, str]] = []
    matched: dict[str, str] = {}
    for scan in cohort.scans:
        case = of_key.get(safe_name(scan.name), of_key.get(scan.name))
        if case is None:
            continue
        if case in matched.values():
            raise InputError(f"{labels}: expected one scan for the case {case}; got two; rename one")
        matched[scan.name] = case
        try:
            answers.append(answer_of(case, records[case], scan))
        except ScanRefused as error:
            refused.append((case, str(error)))
    if not matched:
        raise ScanRefused(
            f"{predictions} and {labels}: expected records of labelled scans; got"
            f" {min(records, default='none')!r} ... in the one and {cohort.scans[0].name!r} ... in the other"
        )
    if not answers:
        raise ScanRefused(f"{refused[0][1]}{f' (and {len(refused) - 1} more)' if len(refused) > 1 else ''}")
    for answer in answers:
        for warning in answer.warnings:
            log.warning("%s: %s", answer.case, warning)
    return LabelledReport(
        scans=tuple(sorted(answers, key=lambda answer: answer.case)),
        refused=tuple(refused),
        without_reference=tuple(sorted(records.keys() - {*matched.values()})),
        without_prediction=tuple(scan.name for scan in cohort.scans if scan.name not in matched),
        layout=cohort.layout,
        findings=tuple(map(str, cohort.findings)),
    )


def _records_in(folder: Path) -> dict[str, Mapping[str, Any]]:
    """The records of scans in a folder, by case."""
    found = {path.stem: own_record(path) for path in sorted(folder.glob("[!.]*.json"))}
    return {case: record for case, record in found.items() if record.get("case") == case and "command" in record}


def _keys(case: str, record: Mapping[str, Any]) -> Iterator[str]:
    """By which a scan is found: the case's name, and of DICOM the series."""
    yield case
    dicom = record.get("dicom")
    if isinstance(dicom, dict) and isinstance(dicom.get("series_uid"), str):
        yield dicom["series_uid"]


def answer_of(case: str, record: Mapping[str, Any], scan: LabelledScan) -> LabelledAnswer:
    """One scan's record, as `hgisam segment` writes it, beside its labels.

    Raises:
        ScanRefused: where the record has no probabilities, or is not of as many slices.
    """
    if record.get("probability") is None:
        why = record.get("reason") or "no network was asked"
        raise ScanRefused(f"{case}: expected a record with probabilities; got none: {why}")
    rows = _rows_from_below(case, record)
    if len(rows) != scan.n_slices:
        raise ScanRefused(
            f"{case}: expected a record of {scan.n_slices} slices, as the labelled scan has; got {len(rows)}"
        )
    probabilities = [row.get("probability_any") for row in rows]
    if not all(map(is_probability, [*probabilities, record["probability"]])):
        raise ScanRefused(f"{case}: expected a probability for the scan and each slice; got others; make it again")
    point = record.get("operating_point")
    return LabelledAnswer(
        case=case,
        patient=scan.patient,
        slice_index=torch.tensor([row["slice_index"] for row in rows], dtype=torch.int64),
        labels=scan.labels,
        known=scan.known,
        probabilities=torch.tensor(probabilities, dtype=torch.float64),
        probability=float(record["probability"]),
        operating_point=point if is_probability(point) else None,
        mask_ml=_mask_ml(record, rows),
        warnings=_warnings(record, scan),
    )


def _rows_from_below(case: str, record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A record's slices from the lowest to the highest.

    Raises:
        ScanRefused: where one has no index or position, or two lie in one place.
    """
    found = record.get("slices")
    rows = [row for row in (found if isinstance(found, list) else []) if isinstance(row, dict)]
    places = {row["position_mm"] for row in rows if _is_number(row.get("position_mm"))}
    indices = {row.get("slice_index") for row in rows if isinstance(row.get("slice_index"), int)}
    if not rows or len(places) != len(rows) or indices != set(range(len(rows))):
        raise ScanRefused(f"{case}: expected a record with each slice once, and where it lies; got others")
    return sorted(rows, key=lambda row: float(row["position_mm"]))


def _mask_ml(record: Mapping[str, Any], rows: list[dict[str, Any]]) -> Float64[Tensor, " slices"] | None:
    """The mask's mL by slice: its volume, shared out as its voxels and, of DICOM, the spacing of slices are."""
    voxels, spacing_mm = [row.get("n_voxels") for row in rows], [row.get("spacing_mm", 1.0) for row in rows]
    if not all(map(_is_number, [record.get("volume_ml"), *voxels, *spacing_mm])):
        return None
    shares = torch.tensor(voxels, dtype=torch.float64) * torch.tensor(spacing_mm, dtype=torch.float64)
    return shares * (float(record["volume_ml"]) / max(float(shares.sum()), 1e-12))


def _warnings(record: Mapping[str, Any], scan: LabelledScan) -> tuple[str, ...]:
    """Where the record is of another file than the labelled one. DICOM is told by its series already."""
    recorded = record.get("input_sha256")
    if not isinstance(scan.voxels, NiftiFile) or recorded in (None, file_sha256(scan.voxels.path)):
        return ()
    return ("the record is of a file with other bytes than the labelled scan of its name",)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= abs(value) < math.inf
