"""NIfTI files beside `slice_labels.csv`: the layout of our derived CT-ICH, and what `hgisam phantom` writes."""

import csv
import re
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path

from hgisam.labels import SUBTYPES, Subtype
from hgisam.train.cohort import CohortRefused, Findings, LabelledScan, Trouble
from hgisam.train.layouts.label_table import LabelTable
from hgisam.train.layouts.nifti_scan import labelled_nifti, nifti_files, stem

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


def read_slice_table(folder: Path, findings: Findings, *, with_truth: bool) -> Iterable[LabelledScan]:
    """Scans listed in `slice_labels.csv`; `slice_index` counts along each file's own slice axis.

    A subtype without a column, or with an empty cell, is unknown, but where `any` is 0.

    Args:
        folder: holds the table and the files.
        findings: where trouble is noted.
        with_truth: whether a file in `truth/`, named as `REFERENCES` says, marks the blood of each scan.

    Raises:
        CohortRefused: where the table lacks a column, or gives a file to two patients.
    """
    try:
        table, patients = _read_table(folder / TABLE, findings)
    except (UnicodeDecodeError, csv.Error) as error:
        raise CohortRefused(f"{TABLE}: expected a table in UTF-8; got '{error}'; check the file") from error
    files = nifti_files(folder)
    truths = nifti_files(folder / TRUTH) if with_truth else {}
    read = set()
    for name in sorted(patients.keys() - files.keys()):
        findings.add(Trouble.MISSING_FILE, name)
    for name, path in files.items():
        if name not in patients:
            findings.add(Trouble.UNLABELLED_FILE, name)
            continue
        named = (f"{stem(name)}{suffix}" for suffix in REFERENCES)
        truth = next((truths[reference] for reference in named if reference in truths), None)
        if with_truth and truth is None:
            findings.add(Trouble.MISSING_REFERENCE, name)
        scan = labelled_nifti(
            path,
            patients[name],
            lambda index, name=name: table.pop((name, index)),  # type: ignore[misc]
            findings,
            reference=truth,
        )
        if scan is not None:
            read.add(name)
            yield scan
    for key in table.left():
        if isinstance(key, tuple) and key[0] in read:
            findings.add(Trouble.OUTSIDE, f"{key[0]} slice {key[1]}")


def _read_table(path: Path, findings: Findings) -> tuple[LabelTable, dict[str, str]]:
    """The labels by (file, slice index), and each file's patient."""
    table = LabelTable(findings)
    patients: dict[str, str] = {}
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        columns = reader.fieldnames or ()
        missing = [str(column) for column in _COLUMNS if column not in columns]
        if missing:
            raise CohortRefused(f"{path.name}: expected the columns {', '.join(_COLUMNS)}; missing {missing}")
        for column in columns:
            meant = get_close_matches(column.strip().lower(), SUBTYPES, 1, 0.8)
            if meant and column not in SUBTYPES:
                raise CohortRefused(f"{path.name}: expected a column named {meant[0]}; got '{column}'; rename it")
        labelled = [subtype for subtype in Subtype if subtype in columns]
        for row in reader:
            name, index, cells = row["file"], row["slice_index"], [row[subtype] for subtype in labelled]
            if not name or not _INDEX.fullmatch(index or "") or not {*cells} <= {*_LABELS, ""}:
                findings.add(Trouble.MALFORMED, f"{path.name} line {reader.line_num}")
                continue
            patient = row.get(PATIENT) or stem(name)
            if patients.setdefault(name, patient) != patient:
                raise CohortRefused(f"{path.name} line {reader.line_num}: expected one patient for {name}; got two")
            told = {subtype: _LABELS[cell] for subtype, cell in zip(labelled, cells, strict=True) if cell}
            if told:
                table.add((name, int(index)), told)
    return table, patients
