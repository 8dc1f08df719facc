"""RSNA-2019 as Kaggle gives it: `stage_2_train.csv` (ID_xxx_subtype,Label) and `stage_2_train/ID_xxx.dcm`.

Source: Flanders et al., Radiology: AI 2(3):e190211 (2020). 752,803 slices in no order: a slice's patient, series and
place are in its header only. Headers are read once and may be kept in a file beside the cache.
"""

import csv
import io
import logging
import os
import re
from array import array
from collections.abc import Iterable, Iterator, MutableSequence, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np

from hgisam.io.atomic import atomic_write, make_output_folder
from hgisam.io.dicom_geometry import PlaneGeometry, evenly_stacked, slice_order
from hgisam.io.dicom_header import read_slice_header
from hgisam.io.errors import ScanRefused
from hgisam.labels import Subtype
from hgisam.processes import in_order
from hgisam.train.cohort import CohortRefused, DicomFiles, Findings, LabelledScan, Trouble
from hgisam.train.layouts.label_table import LabelTable, as_rows
from hgisam.train.layouts.pseudonym import pseudonym

log = logging.getLogger(__name__)

TABLE = "stage_2_train.csv"
SLICES = "stage_2_train"

INDEX_COLUMNS = (
    "name", "n_bytes", "modified_ns", "refusal", "patient", "series", "wrapped", "rows", "columns", "x", "y", "z",
    "c0", "c1", "c2", "r0", "r1", "r2", "between_rows", "between_columns",
)  # fmt: skip
"""Of the file that keeps what headers said."""

_HEAD = "ID,Label"
_SUFFIX = ".dcm"
_PSEUDONYM = re.compile(r"ID_[0-9a-f]{4,}")
"""RSNA's own name of a patient, which outputs may have; anything else is hashed."""
_CHUNK = 500

Row = dict[str, str]
_Stamp = tuple[str, int, int]
"""A file's name, size and time of change: where all are as they were, so is its header."""


@dataclass
class _Series:
    """Slices of one series as they come in, small: a million slices must fit."""

    patient: str
    plane: PlaneGeometry
    names: list[str] = field(default_factory=list)
    positions_mm: MutableSequence[float] = field(default_factory=lambda: array("d"))
    mixed: bool = False


def read_rsna(
    folder: Path, findings: Findings, *, workers: int = 1, index: Path | None = None
) -> Iterable[LabelledScan]:
    """Series of slices, each a scan of its patient, slices from the lowest to the highest.

    A slice without a file (or with a damaged one, such as ID_6431af929) is missing from its scan, which stays. That
    compressed pixels are damaged shows only when they are decoded: `hgisam.train.prepared` leaves such a slice out.

    Args:
        folder: holds the table and the folder of slices.
        findings: where trouble is noted.
        workers: processes that read headers; 1 reads them here.
        index: a CSV file that keeps what headers said, made where absent; None keeps nothing.

    Raises:
        CohortRefused: where the table's head or rows are not of this layout.
    """
    try:
        table = _read_table(folder / TABLE, findings)
    except UnicodeDecodeError as error:
        raise CohortRefused(f"{TABLE}: expected a table in UTF-8; got '{error}'; check the file") from error
    series = _read_series(folder / SLICES, table, findings, workers, index)
    for name, found in sorted(series.items()):
        scan = _labelled(name, found, folder / SLICES, table, findings)
        if scan is not None:
            yield scan
    for missing in table.left():
        findings.add(Trouble.MISSING_FILE, f"{missing}{_SUFFIX}")


def _read_table(path: Path, findings: Findings) -> LabelTable:
    """Labels by slice; six rows for each."""
    table = LabelTable(findings)
    subtypes = {subtype.value: subtype for subtype in Subtype}
    values = {"0": False, "1": True}
    with path.open(encoding="utf-8-sig") as file:
        head = file.readline().strip()
        if head != _HEAD:
            raise CohortRefused(
                f"{path.name}: expected the columns {_HEAD}; got {head[:80]!r}; give the table of stage 2"
            )
        for number, line in enumerate(file, start=2):
            key, _, value = line.strip().rpartition(",")
            name, _, subtype = key.rpartition("_")
            if name and subtype in subtypes and value in values:
                table.add_one(name, subtypes[subtype], values[value])
            elif line.strip():
                findings.add(Trouble.MALFORMED, f"{path.name} line {number}")
    return table


def _labelled(name: str, series: _Series, folder: Path, table: LabelTable, findings: Findings) -> LabelledScan | None:
    """A series with its labels; None where it is left out, which is noted."""
    positions = np.array(series.positions_mm).reshape(-1, 3)
    labels_of = {slice_name: table.pop(slice_name.removesuffix(_SUFFIX)) for slice_name in series.names}
    if not any(found and found[1] for found in labels_of.values()):
        findings.add(Trouble.UNLABELLED_FILE, f"series {name}")
        return None
    try:
        if series.mixed:
            raise ScanRefused("expected slices of one patient, size, direction and spacing; got several")
        order = slice_order(positions, series.plane)
    except ScanRefused as error:
        findings.add(Trouble.UNUSABLE_FILE, f"series {name}: {error}")
        return None
    if not evenly_stacked(positions[order]):
        findings.add(Trouble.UNEVEN, f"series {name}")
    names = tuple(series.names[place] for place in order)
    for slice_name in names:
        if labels_of[slice_name] is None:
            findings.add(Trouble.UNLABELLED_SLICE, slice_name)
    bits = [labels_of[slice_name] or (0, 0) for slice_name in names]
    labels, known = (as_rows([pair[side] for pair in bits]) for side in (0, 1))
    return LabelledScan(name, series.patient, DicomFiles(folder, names, f"series {name}"), labels, known)


def _read_series(
    folder: Path, table: LabelTable, findings: Findings, workers: int, index: Path | None
) -> dict[str, _Series]:
    """All slices of a folder, by series; what cannot be used is noted, and its labels are dropped."""
    series: dict[str, _Series] = {}
    for row in _headers(folder, workers, index):
        if row["refusal"]:
            findings.add(Trouble.UNUSABLE_FILE, row["refusal"])
            table.drop(row["name"].removesuffix(_SUFFIX))
            continue
        if row["wrapped"] == "1":
            findings.add(Trouble.WRAPPED, row["name"])
        plane = PlaneGeometry(
            int(row["rows"]),
            int(row["columns"]),
            (float(row["c0"]), float(row["c1"]), float(row["c2"])),
            (float(row["r0"]), float(row["r1"]), float(row["r2"])),
            (float(row["between_rows"]), float(row["between_columns"])),
        )
        found = series.setdefault(row["series"], _Series(row["patient"], plane))
        if found.plane != plane:
            found.mixed |= not found.plane.agrees_with(plane)
        found.mixed |= found.patient != row["patient"]
        found.names.append(row["name"])
        found.positions_mm.extend(float(row[column]) for column in "xyz")
    return series


def _headers(folder: Path, workers: int, index: Path | None) -> Iterator[Row]:
    """One row for each file, from the index where the file is as it was then, else from the file itself."""
    stamps = _stamps(folder)
    if index is not None and index.is_file() and _is_of(index, stamps):
        yield from _index_rows(index)
        return
    rows = _read_headers(folder, stamps, workers)
    if index is None:
        yield from rows
        return
    make_output_folder(index.parent)
    with atomic_write(index) as file:
        text = io.TextIOWrapper(file, encoding="utf-8", newline="")
        writer = csv.DictWriter(text, INDEX_COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        text.detach()
    yield from _index_rows(index)


def _stamps(folder: Path) -> list[_Stamp]:
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        found = [
            (entry.name, entry.stat().st_size, entry.stat().st_mtime_ns)
            for entry in entries
            if entry.name.endswith(_SUFFIX) and entry.name[0] != "."
        ]
    return sorted(found)


def _index_rows(index: Path) -> Iterator[Row]:
    with index.open(newline="", encoding="utf-8") as file:
        yield from csv.DictReader(file)


def _is_of(index: Path, stamps: Sequence[_Stamp]) -> bool:
    """Whether an index speaks of exactly these files as they are now."""
    wanted = ([name, str(n_bytes), str(modified_ns)] for name, n_bytes, modified_ns in stamps)
    with index.open(newline="", encoding="utf-8") as file:
        rows = csv.reader(file)
        if next(rows, None) != list(INDEX_COLUMNS):
            return False
        return all(row[:3] == next(wanted, None) for row in rows) and next(wanted, None) is None


def _read_headers(folder: Path, stamps: list[_Stamp], workers: int) -> Iterator[Row]:
    remaining = iter(stamps)
    chunks = iter(lambda: list(islice(remaining, _CHUNK)), [])
    several = workers if len(stamps) > _CHUNK else 1
    for n_chunks, rows in enumerate(in_order(partial(_read_chunk, folder), chunks, several), start=1):
        if n_chunks % 100 == 0:
            log.info("read %d of %d headers", n_chunks * _CHUNK, len(stamps))
        yield from rows


def _read_chunk(folder: Path, stamps: list[_Stamp]) -> list[Row]:
    return [_read_row(folder, stamp) for stamp in stamps]


def _read_row(folder: Path, stamp: _Stamp) -> Row:
    row = dict.fromkeys(INDEX_COLUMNS, "")
    row.update(zip(INDEX_COLUMNS, map(str, stamp), strict=False))
    try:
        header = read_slice_header(folder / stamp[0])
    except ScanRefused as error:
        return row | {"refusal": str(error)}
    plane = header.plane
    patient = header.patient if _PSEUDONYM.fullmatch(header.patient) else pseudonym(header.patient)
    numbers = (*header.position, *plane.along_columns, *plane.along_rows, *plane.spacing_mm)
    said = (header.series_uid, int(header.wrapped), plane.rows, plane.columns, *map(repr, numbers))
    return row | dict(zip(INDEX_COLUMNS[4:], map(str, (patient, *said)), strict=True))
