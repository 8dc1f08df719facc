"""NIfTI files beside `slice_labels.csv`: the layout of our derived CT-ICH, and what `hgisam phantom` writes."""

import csv
import logging
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from pathlib import Path

from hgisam.labels import SUBTYPES, Subtype
from hgisam.train.cohort import CohortRefused, Findings, LabelledScan, Trouble
from hgisam.train.layouts.label_table import LabelTable
from hgisam.train.layouts.nifti_scan import labelled_nifti, nifti_files, stem
from hgisam.train.layouts.pseudonym import pseudonym
from hgisam.wording import counted

log = logging.getLogger(__name__)

TABLE = "slice_labels.csv"
TRUTH = "truth"
REFERENCES = ("_mask.nii.gz", "_labels.nii.gz", ".nii.gz", "_mask.nii", "_labels.nii", ".nii")
"""What the name of a scan's reference mask in `truth/` ends with, after the scan's own; the first that is there."""
_INDEX = re.compile("[0-9]{1,9}")
_COLUMNS = ("file", "slice_index", Subtype.ANY)
"""What the table must have. Columns of subtypes it may lack: whoever only said whether there is blood knows no more."""
_LABELS = {"0": False, "1": True, "0.0": False, "1.0": True}
"""What a cell may hold. One may also be empty and say nothing, and then pandas writes the others with a point."""
PATIENT = "patient"
"""A column of the table that it need not have: whose scan a file is. Without it each file is a patient of its own."""
_WHOSE = re.compile(
    "(patient|subject|participant|person|pat)s?(id|uid|identifier|no|nr|num|number|name|key|code)?|mrn", re.IGNORECASE
)
"""What others call such a column, words run together: to overlook one lets a patient's scans teach and judge."""
_BETWEEN_WORDS = re.compile(r"[\W_]+")


@dataclass
class _Listed:
    """What the table says of a file as a whole: its patient, as outputs may name them, and the range of its rows."""

    patient: str
    lowest_index: int
    highest_index: int


def read_slice_table(folder: Path, findings: Findings, *, with_truth: bool) -> Iterable[LabelledScan]:
    """Scans listed in `slice_labels.csv`; `slice_index` counts along each file's own slice axis.

    A subtype without a column, or with an empty cell, is unknown, but where `any` is 0. Of a patient, a hash is kept.

    Args:
        folder: holds the table and the files.
        findings: where trouble is noted.
        with_truth: whether a file in `truth/`, named as `REFERENCES` says, marks the blood of each scan.

    Raises:
        CohortRefused: where the table lacks a column or has it by another name, gives a file to two patients or to
            none, or counts slices from 1.
    """
    try:
        table, listed = _read_table(folder / TABLE, findings)
    except (UnicodeDecodeError, csv.Error) as error:
        raise CohortRefused(f"{TABLE}: expected a table in UTF-8; got '{error}'; check the file") from error
    files = nifti_files(folder)
    truths = nifti_files(folder / TRUTH) if with_truth else {}
    n_slices = Counter[str]()  # of a file that can be read, as often as one asks for the labels of a slice

    def labels_of(name: str, index: int) -> tuple[int, int] | None:
        n_slices[name] += 1
        return table.pop((name, index))

    for name in sorted(listed.keys() - files.keys()):
        findings.add(Trouble.MISSING_FILE, name)
    for name, path in files.items():
        if name not in listed:
            findings.add(Trouble.UNLABELLED_FILE, name)
            continue
        named = (f"{stem(name)}{suffix}" for suffix in REFERENCES)
        truth = next((truths[reference] for reference in named if reference in truths), None)
        if with_truth and truth is None:
            findings.add(Trouble.MISSING_REFERENCE, name)
        scan = labelled_nifti(path, listed[name].patient, partial(labels_of, name), findings, reference=truth)
        if scan is not None:
            yield scan
    _check_first_index(listed, n_slices)
    for key in table.left():
        if isinstance(key, tuple) and key[0] in n_slices:
            findings.add(Trouble.OUTSIDE, f"{key[0]} slice {key[1]}")


def _read_table(path: Path, findings: Findings) -> tuple[LabelTable, dict[str, _Listed]]:
    """The labels by (file, slice index), and each file as a whole."""
    table = LabelTable(findings)
    listed: dict[str, _Listed] = {}
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        columns = reader.fieldnames or ()
        _check_columns(columns, path.name)
        labelled = [subtype for subtype in Subtype if subtype in columns]
        for row in reader:
            name, index, cells = row["file"], row["slice_index"], [row[subtype] for subtype in labelled]
            if not name or not _INDEX.fullmatch(index or "") or not {*cells} <= {*_LABELS, ""}:
                findings.add(Trouble.MALFORMED, f"{path.name} line {reader.line_num}")
                continue
            number, patient = int(index), _patient_of(row, f"{path.name} line {reader.line_num}")
            of_file = listed.setdefault(name, _Listed(patient, number, number))
            if of_file.patient != patient:
                raise CohortRefused(f"{path.name} line {reader.line_num}: expected one patient for {name}; got two")
            of_file.lowest_index = min(of_file.lowest_index, number)
            of_file.highest_index = max(of_file.highest_index, number)
            told = {subtype: _LABELS[cell] for subtype, cell in zip(labelled, cells, strict=True) if cell}
            if told:
                table.add((name, number), told)
    if PATIENT not in columns and len(listed) > 1:
        log.info(
            "%s has no column %s: each of its %d files counts as a patient of its own", path.name, PATIENT, len(listed)
        )
    return table, listed


def _check_columns(columns: Sequence[str], source: str) -> None:
    """Refuse a table that lacks a column, or whose name of one would have it overlooked."""
    missing = [str(column) for column in _COLUMNS if column not in columns]
    if missing:
        raise CohortRefused(f"{source}: expected the columns {', '.join(_COLUMNS)}; missing {missing}")
    for column in columns:
        meant = get_close_matches(column.strip().lower(), SUBTYPES, 1, 0.8)
        if PATIENT not in columns and _WHOSE.fullmatch(_BETWEEN_WORDS.sub("", column)):
            meant = [PATIENT]
        if meant and column not in SUBTYPES:
            raise CohortRefused(f"{source}: expected a column named {meant[0]}; got '{column}'; rename it")


def _patient_of(row: Mapping[str, str | None], where: str) -> str:
    """Whose scan a row's file is, as outputs may name them."""
    if PATIENT not in row:
        return stem(row["file"] or "")
    patient = (row[PATIENT] or "").strip()
    if not patient:
        raise CohortRefused(
            f"{where}: expected the patient of {row['file']}; got an empty cell; name the patient in every row, or"
            f" leave the column {PATIENT} out"
        )
    return pseudonym(patient)


def _check_first_index(listed: Mapping[str, _Listed], n_slices: Mapping[str, int]) -> None:
    """Refuse a table that counts slices from 1. Its sign is a file of n slices with a row of index n and none of 0.

    Files with a row of 0 speak against it, and where they are as many, the others are merely incomplete. Those with
    neither say nothing.
    """
    ones = [name for name, n in n_slices.items() if listed[name].lowest_index > 0 and listed[name].highest_index == n]
    if len(ones) > sum(listed[name].lowest_index == 0 for name in n_slices):
        first, n_others = ones[0], len(ones) - 1
        likewise = f" (and likewise in {counted(n_others, 'other file')})" if n_others else ""
        raise CohortRefused(
            f"{TABLE}: expected slice_index to count from 0; got {n_slices[first]} and no 0 in {first}, which has"
            f" {counted(n_slices[first], 'slice')}{likewise}; if it counts from 1, take 1 off every row"
        )
