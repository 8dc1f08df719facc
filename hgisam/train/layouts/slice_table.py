"""NIfTI files beside `slice_labels.csv`: the layout of our derived CT-ICH, and what `hgisam phantom` writes."""

import csv
import re
from collections.abc import Iterable
from pathlib import Path

from hgisam.io.tables import SLICE_LABEL_COLUMNS
from hgisam.labels import Subtype
from hgisam.train.cohort import CohortRefused, Findings, LabelledScan, Trouble
from hgisam.train.layouts.label_table import LabelTable
from hgisam.train.layouts.nifti_scan import labelled_nifti, nifti_files, stem

TABLE = "slice_labels.csv"
TRUTH = "truth"
REFERENCES = ("_mask.nii.gz", "_labels.nii.gz", ".nii.gz", "_mask.nii", "_labels.nii", ".nii")
"""What the name of a scan's reference mask in `truth/` ends with, after the scan's own; the first that is there."""
_INDEX = re.compile("[0-9]{1,9}")
PATIENT = "patient"
"""A column of the table that it need not have: whose scan a file is. Without it each file is a patient of its own."""


def read_slice_table(folder: Path, findings: Findings, *, with_truth: bool) -> Iterable[LabelledScan]:
    """Scans listed in `slice_labels.csv`; `slice_index` counts along each file's own slice axis.

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
        missing = [column for column in SLICE_LABEL_COLUMNS if column not in (reader.fieldnames or ())]
        if missing:
            raise CohortRefused(
                f"{path.name}: expected the columns {', '.join(SLICE_LABEL_COLUMNS)}; missing {missing}"
            )
        for row in reader:
            name, index = row["file"], row["slice_index"]
            if not name or not _INDEX.fullmatch(index or "") or not {row[subtype] for subtype in Subtype} <= {"0", "1"}:
                findings.add(Trouble.MALFORMED, f"{path.name} line {reader.line_num}")
                continue
            patient = row.get(PATIENT) or stem(name)
            if patients.setdefault(name, patient) != patient:
                raise CohortRefused(f"{path.name} line {reader.line_num}: expected one patient for {name}; got two")
            table.add((name, int(index)), {subtype: row[subtype] == "1" for subtype in Subtype})
    return table, patients
