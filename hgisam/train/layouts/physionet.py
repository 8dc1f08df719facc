"""PhysioNet CT-ICH 1.3.1: `ct_scans/NNN.nii`, `masks/NNN.nii` and `hemorrhage_diagnosis_raw_ct.csv`.

Source: Hssayeni et al., Data 5(1):14 (2020), doi 10.13026/4nae-zg36. A row's SliceNumber counts from 1 along the file's
third axis.
"""

import csv
import re
from collections.abc import Iterable
from pathlib import Path

from hgisam.labels import Subtype
from hgisam.train.cohort import CohortRefused, Findings, LabelledScan, Trouble
from hgisam.train.layouts.label_table import LabelTable
from hgisam.train.layouts.nifti_scan import labelled_nifti, nifti_files, stem

TABLE = "hemorrhage_diagnosis_raw_ct.csv"
SCANS, MASKS = "ct_scans", "masks"

_SUBTYPE_COLUMNS = {
    "Intraventricular": Subtype.INTRAVENTRICULAR,
    "Intraparenchymal": Subtype.INTRAPARENCHYMAL,
    "Subarachnoid": Subtype.SUBARACHNOID,
    "Epidural": Subtype.EPIDURAL,
    "Subdural": Subtype.SUBDURAL,
}
_NONE_COLUMN = "No_Hemorrhage"
_COLUMNS = ("PatientNumber", "SliceNumber", *_SUBTYPE_COLUMNS, _NONE_COLUMN)
_SLICE_AXIS = 2
_NUMBER = re.compile("[0-9]{1,9}")


def read_physionet(folder: Path, findings: Findings) -> Iterable[LabelledScan]:
    """Scans with labels and, where there is one, a mask of the blood; a file's number is its patient.

    Raises:
        CohortRefused: where the table lacks a column.
    """
    try:
        table, patients = _read_table(folder / TABLE, findings)
    except (UnicodeDecodeError, csv.Error) as error:
        raise CohortRefused(f"{TABLE}: expected a table in UTF-8; got '{error}'; check the file") from error
    scans = {stem(name): path for name, path in nifti_files(folder / SCANS).items()}
    masks = {stem(name): path for name, path in nifti_files(folder / MASKS).items()}
    read = set()
    for patient in sorted(patients - scans.keys()):
        findings.add(Trouble.MISSING_FILE, f"{SCANS}/{patient}.nii")
    for name, path in sorted(scans.items()):
        if name not in patients:
            findings.add(Trouble.UNLABELLED_FILE, path.name)
            continue
        if name not in masks:
            findings.add(Trouble.MISSING_REFERENCE, path.name)
        scan = labelled_nifti(
            path,
            name,
            lambda index, name=name: table.pop((name, index + 1)),  # type: ignore[misc]
            findings,
            reference=masks.get(name),
            slice_axis=_SLICE_AXIS,
        )
        if scan is not None:
            read.add(name)
            yield scan
    for key in table.left():
        if isinstance(key, tuple) and key[0] in read:
            findings.add(Trouble.OUTSIDE, f"{key[0]} SliceNumber {key[1]}")


def _read_table(path: Path, findings: Findings) -> tuple[LabelTable, set[str]]:
    """The labels by (file's number, SliceNumber), and all the numbers."""
    table = LabelTable(findings)
    patients = set()
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        missing = [column for column in _COLUMNS if column not in (reader.fieldnames or ())]
        if missing:
            raise CohortRefused(f"{path.name}: expected the columns {', '.join(_COLUMNS)}; missing {missing}")
        for row in reader:
            numbers = [(row[column] or "").removesuffix(".0") for column in _COLUMNS]
            if not all(_NUMBER.fullmatch(number) for number in numbers[:2]) or not set(numbers[2:]) <= {"0", "1"}:
                findings.add(Trouble.MALFORMED, f"{path.name} line {reader.line_num}")
                continue
            patient, index = f"{int(numbers[0]):03d}", int(numbers[1])
            patients.add(patient)
            labels = dict(zip(_SUBTYPE_COLUMNS.values(), (number == "1" for number in numbers[2:]), strict=False))
            table.add((patient, index), labels | {Subtype.ANY: numbers[-1] == "0"})
    return table, patients
