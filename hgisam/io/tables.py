"""Tables and records: CSV and JSON, the same bytes for the same content, and never a NaN that JSON does not know."""

import csv
import io
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from hgisam.io.atomic import atomic_write
from hgisam.io.errors import InputError
from hgisam.labels import SUBTYPES, Subtype
from hgisam.limits import read_whole

SLICE_LABEL_COLUMNS = ("file", "slice_index", *SUBTYPES, Subtype.ANY)
"""The columns of a table of slice labels that hgisam writes; it may have more."""


MAX_TABLE_BYTES = 64 * 2**20
"""The largest table that is read: half a million slices with their labels."""

_INDEX = re.compile("[0-9]{1,9}")


@dataclass(frozen=True)
class SliceLabel:
    """What is known of one slice.

    Attributes:
        file: the scan's file name.
        slice_index: the slice's index in that file along its slice axis.
        subtypes: the hemorrhage subtypes seen in it, `any` among them where there is any; empty for none.
    """

    file: str
    slice_index: int
    subtypes: frozenset[Subtype]

    @property
    def positive(self) -> bool:
        """Whether there is any hemorrhage."""
        return Subtype.ANY in self.subtypes


def write_csv(path: Path, rows: Iterable[Mapping[str, object]], columns: Sequence[str]) -> None:
    """Write a table. None, NaN and infinity are empty cells, booleans 0 or 1, floats have seven significant digits.

    Raises:
        OutputError: where the file cannot be written; nothing is left behind.
        ValueError: where a row's keys are not exactly the columns.
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        if set(row) != set(columns):
            raise ValueError(f"{path.name}: expected a row with {sorted(columns)}; got {sorted(row)}")
        writer.writerow([_cell(row[column]) for column in columns])
    _write_text(path, text.getvalue())


def write_json(path: Path, content: object) -> None:
    """Write a record. NaN and infinity become null; arrays become lists, paths and enums text. Keys keep their order.

    Raises:
        OutputError: where the file cannot be written; nothing is left behind.
        TypeError: where something has no place in JSON.
    """
    _write_text(path, json_text(content) + "\n")


def json_text(content: object) -> str:
    """A record as `write_json` writes it. What is read from it again gives the same text again.

    Raises:
        TypeError: where something has no place in JSON.
    """
    return json.dumps(_plain(content), indent=2, ensure_ascii=False, allow_nan=False)


def read_slice_labels(path: Path) -> list[SliceLabel]:
    """Read a table of slice labels, in its own order. Empty where it has a head and no rows.

    Raises:
        InputError: where it cannot be read, columns are missing, a label is neither 0 nor 1, `any` contradicts the
            subtypes, or a slice is listed twice.
    """
    labels = []
    seen = set()
    for number, row in read_rows(path, SLICE_LABEL_COLUMNS):
        label = _slice_label(row, f"{path.name} line {number}")
        if (label.file, label.slice_index) in seen:
            raise InputError(f"{path.name} line {number}: expected each slice once; got one again")
        seen.add((label.file, label.slice_index))
        labels.append(label)
    return labels


def read_patients(path: Path) -> dict[str, str]:
    """Read whose scan each case is: a table with the columns `case` and `patient`; it may have more.

    Raises:
        InputError: where it cannot be read, columns or values are missing, or a case is listed twice.
    """
    patients: dict[str, str] = {}
    for number, row in read_rows(path, ("case", "patient")):
        case, patient = row["case"].strip(), row["patient"].strip()
        if not case or not patient or case in patients:
            raise InputError(f"{path} line {number}: expected each case once, with its patient")
        patients[case] = patient
    return patients


def read_rows(path: Path, columns: Sequence[str]) -> list[tuple[int, dict[str, str]]]:
    """A table's rows, each with the number of its last line; every cell that the head names is there.

    Args:
        path: UTF-8, with or without a mark of it.
        columns: that it must have; it may have more.

    Raises:
        InputError: where it cannot be read, is larger than MAX_TABLE_BYTES, or lacks a column, or a row lacks a cell.
    """
    try:
        text = read_whole(path, MAX_TABLE_BYTES).decode("utf-8-sig")
        reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        missing = [column for column in columns if column not in (reader.fieldnames or ())]
        if missing:
            raise InputError(f"{path.name}: expected the columns {', '.join(columns)}; missing {[*map(str, missing)]}")
        rows = [(reader.line_num, row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{path}: expected a table in UTF-8; got '{reason}'; check the file") from error
    ragged = next((number for number, row in rows if None in row or None in row.values()), None)
    if ragged is not None:
        raise InputError(f"{path.name} line {ragged}: expected as many cells as the head has; got others")
    return rows


def _slice_label(row: Mapping[str, str], where: str) -> SliceLabel:
    values = [row[subtype] for subtype in Subtype]
    if not set(values) <= {"0", "1"} or not _INDEX.fullmatch(row["slice_index"]):
        raise InputError(f"{where}: expected labels of 0 or 1 and a slice index from 0; got {list(row.values())}")
    subtypes = frozenset(subtype for subtype, value in zip(Subtype, values, strict=True) if value == "1")
    if (Subtype.ANY in subtypes) != bool(subtypes - {Subtype.ANY}):
        raise InputError(f"{where}: expected 'any' to be 1 exactly where a subtype is; got {list(row.values())}")
    return SliceLabel(row["file"], int(row["slice_index"]), subtypes)


def _write_text(path: Path, text: str) -> None:
    with atomic_write(path) as file:
        file.write(text.encode("utf-8"))


def _cell(value: object) -> str:
    plain = _plain(value)
    if plain is None:
        return ""
    if isinstance(plain, bool):
        return str(int(plain))
    return f"{plain:.7g}" if isinstance(plain, float) else str(plain)


def _plain(value: Any) -> Any:
    """The value in JSON's own types."""
    if isinstance(value, Enum):
        return _plain(value.value)
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, np.generic | np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, Mapping):
        return {str(_plain(key)): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    raise TypeError(f"expected something that JSON can hold; got {type(value).__name__}")
