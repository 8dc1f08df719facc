"""A labelled data set and a folder of records -> what was said of each scan beside what is known of its slices."""

import logging
from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeGuard

import torch
from jaxtyping import Float64
from torch import Tensor

from hgisam.cases import own_record, safe_name
from hgisam.evaluate.folders import is_probability
from hgisam.evaluate.labelled import LabelledAnswer, LabelledReport
from hgisam.evaluate.pairs import holds_named_masks
from hgisam.io.digest import file_sha256
from hgisam.io.errors import InputError, ScanRefused
from hgisam.train.cohort import DicomFiles, LabelledScan, NiftiFile, Trouble
from hgisam.train.layouts import is_layout, read_cohort
from hgisam.train.layouts.slice_table import TABLE

log = logging.getLogger(__name__)

_ORIGINS = ("command", "hgisam_version", "weights_sha256", "settings_hash")
"""What records state of how they were made."""
_LOST = (Trouble.MISSING_FILE, Trouble.UNUSABLE_FILE)
"""Labelled scans that nobody can hold anything against."""
_HUGE = 1e15
"""No record that hgisam wrote holds such a number; it would overflow where it is added up."""


def are_slice_labels(references: Path) -> bool:
    """Whether references are labels of slices: `slice_labels.csv`, or a data set that training reads.

    A folder with masks that are named so, `CASE_mask` or `CASE_labels`, is one of masks, but for those that hgisam has
    made itself, which are no reference.

    Raises:
        InputError: where they are another table.
    """
    if references.is_dir():
        return is_layout(references) and not holds_named_masks(references)
    if references.suffix == ".csv" and references.name != TABLE:
        raise InputError(f"{references}: expected {TABLE}, or the folder of a data set; got another table")
    return references.name == TABLE


def evaluate_labels(predictions: Path, labels: Path, *, workers: int = 1) -> LabelledReport:
    """Hold records of `hgisam segment` or `classify` against the labels of slices.

    A record belongs to the NIfTI file whose bytes it was made of, or to the DICOM series that it states. Slices are
    joined by place: both sides have all of a scan's slices, which in a record have a position.

    Args:
        predictions: a folder with a record `CASE.json` for each case.
        labels: `slice_labels.csv` beside its scans, or the folder of a data set, as `read_cohort` takes it.
        workers: processes that read DICOM headers.

    Returns:
        The answers; scans and cases that could not be compared are listed in it.

    Raises:
        InputError: where predictions are no folder of records, or the labels are of no layout.
        ScanRefused: where the labels as a whole cannot be trusted (`CohortRefused`), or no record fits any scan.
    """
    if not predictions.is_dir():
        raise InputError(f"{predictions}: expected a folder of records, since references are slice labels; got a file")
    records = _records_in(predictions)
    if not records:
        raise InputError(f"{predictions}: expected records of hgisam segment or classify; got none; check the folder")
    cohort = read_cohort(labels, workers=workers) if labels.is_dir() else read_cohort(labels.parent, "slice_labels")
    cohort.log_summary()
    answers: list[LabelledAnswer] = []
    refused: list[tuple[str, str]] = []
    missing: list[str] = []
    taken: set[str] = set()
    names = {safe_name(scan.name) for scan in cohort.scans}
    by_name, by_origin = _by_name(records), _by_origin(records)
    for scan in cohort.scans:
        origin = file_sha256(scan.voxels.path) if isinstance(scan.voxels, NiftiFile) else scan.name
        found = _candidates(scan, by_name.get(safe_name(scan.name), ()), by_origin.get(origin, ()), names)
        if not found:
            missing.append(scan.name)
            continue
        try:
            answers.append(answer_of(_only(found, scan, origin, taken), scan))
        except ScanRefused as error:
            refused.append((scan.name, str(error)))
        taken.update(record["case"] for record in found)
    if not taken:
        raise ScanRefused(
            f"{predictions} and {labels}: expected records of labelled scans; got {records[0]['case']!r} ... in the one"
            f" and {cohort.scans[0].name!r} ... in the other"
        )
    if not answers:
        raise ScanRefused(f"{refused[0][1]}{f' (and {len(refused) - 1} more)' if len(refused) > 1 else ''}")
    origins = {name: sorted({str(record.get(name)) for record in records}) for name in _ORIGINS}
    if len(origins["weights_sha256"]) > 1:
        log.warning("%s: records of %d weights, judged as one", predictions, len(origins["weights_sha256"]))
    return LabelledReport(
        scans=tuple(sorted(answers, key=lambda answer: answer.case)),
        refused=tuple(refused),
        without_reference=tuple(sorted({record["case"] for record in records} - taken)),
        without_prediction=tuple(missing),
        layout=cohort.layout,
        by_patient=cohort.tells_patients,
        findings=tuple(map(str, cohort.findings)),
        lost=tuple(str(found) for found in cohort.findings if found.trouble in _LOST),
        origins=origins,
    )


def _records_in(folder: Path) -> list[dict[str, Any]]:
    """The records of scans in a folder, by case."""
    found = [own_record(path) for path in folder.glob("[!.]*.json")]
    return sorted((r for r in found if isinstance(r.get("case"), str)), key=lambda record: str(record["case"]))


def _by_name(records: Sequence[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for record in records:
        found.setdefault(safe_name(record["case"]), []).append(record)
    return found


def _by_origin(records: Sequence[dict[str, Any]]) -> dict[object, list[dict[str, Any]]]:
    """Records by the sha256 of their input, and of DICOM by their series."""
    found: dict[object, list[dict[str, Any]]] = {}
    for record in records:
        for origin in (record.get("input_sha256"), _series_uid(record)):
            if isinstance(origin, str):
                found.setdefault(origin, []).append(record)
    return found


def _series_uid(record: Mapping[str, Any]) -> object:
    dicom = record.get("dicom")
    return dicom.get("series_uid") if isinstance(dicom, dict) else None


def _candidates(
    scan: LabelledScan, of_name: Sequence[dict[str, Any]], of_origin: Sequence[dict[str, Any]], names: Container[str]
) -> Sequence[dict[str, Any]]:
    """The records that may be meant for a scan: of its bytes or series; where there are none, of its name.

    Args:
        scan: the scan.
        of_name: records of its name.
        of_origin: records of its bytes or series.
        names: what `segment` makes of the names of all scans: a record of another one's name is that one's.
    """
    if isinstance(scan.voxels, DicomFiles):
        return of_origin or of_name
    name = safe_name(scan.name)
    mine = [record for record in of_origin if safe_name(record["case"]) == name]
    free = [record for record in of_origin if safe_name(record["case"]) not in names]
    return mine or free or of_name


def _only(
    found: Sequence[dict[str, Any]], scan: LabelledScan, origin: str | None, taken: Container[str]
) -> dict[str, Any]:
    """The one record of a scan.

    Raises:
        ScanRefused: where there are several, it is of another file or series, or another scan has it.
    """
    if len(found) > 1:
        cases = " and ".join(record["case"] for record in found[:2])
        raise ScanRefused(f"{scan.name}: expected one record; got {cases}; leave one")
    (record,) = found
    if record["case"] in taken:
        raise ScanRefused(f"{scan.name}: expected a record of its own; got {record['case']}, which another scan has")
    if isinstance(scan.voxels, NiftiFile):
        fits = record.get("input_sha256") in (None, origin)
    else:
        fits = _series_uid(record) == origin
    if not fits:
        raise ScanRefused(f"{scan.name}: expected a record of this very scan; got one of another that has its name")
    return record


def answer_of(record: dict[str, Any], scan: LabelledScan) -> LabelledAnswer:
    """One scan's record, as `hgisam segment` writes it, beside its labels.

    Raises:
        ScanRefused: where the record has no probabilities, or is not of the same slices.
    """
    case = record["case"]
    if record.get("probability") is None:
        why = record.get("reason") or "no network was asked"
        raise ScanRefused(f"{case}: expected a record with probabilities; got none: {why}")
    rows = _rows_from_below(case, record)
    if len(rows) != scan.n_slices:
        raise ScanRefused(
            f"{case}: expected a record of {scan.n_slices} slices, as the labelled scan has; got {len(rows)}"
        )
    uids = [row["sop_instance_uid"] for row in rows if "sop_instance_uid" in row]
    if isinstance(scan.voxels, DicomFiles) and uids != [Path(name).stem for name in scan.voxels.names]:
        raise ScanRefused(f"{case}: expected a record of the slices that are labelled; got one of others")
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


def _mask_ml(record: Mapping[str, Any], rows: Sequence[dict[str, Any]]) -> Float64[Tensor, " slices"] | None:
    """The mask's mL by slice: its volume, shared out as its voxels and, of DICOM, the spacing of slices are."""
    voxels = [row.get("n_voxels") for row in rows]
    spacing_mm = [row.get("spacing_mm") for row in rows]
    if spacing_mm == [None] * len(rows):
        spacing_mm = [1.0] * len(rows)
    if not all(_is_number(value) and value >= 0 for value in (record.get("volume_ml"), *voxels, *spacing_mm)):
        return None
    shares = torch.tensor(voxels, dtype=torch.float64) * torch.tensor(spacing_mm, dtype=torch.float64)
    return shares * (float(record["volume_ml"]) / max(float(shares.sum()), 1e-12))


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _HUGE
