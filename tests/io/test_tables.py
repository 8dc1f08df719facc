"""Tables and records: no NaN in JSON, the same bytes for the same content, labels read with care."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hgisam.io.errors import InputError, OutputError
from hgisam.io.tables import (
    SLICE_LABEL_COLUMNS,
    SliceLabel,
    read_patients,
    read_slice_labels,
    write_csv,
    write_json,
)
from hgisam.labels import Subtype

HEAD = ",".join(SLICE_LABEL_COLUMNS)


def test_what_is_no_number_becomes_null(tmp_path: Path) -> None:
    record = {"nan": math.nan, "list": [math.inf, np.float32("nan"), 1.5], "array": np.array([1.0, np.nan])}
    write_json(tmp_path / "a.json", record)
    found = json.loads((tmp_path / "a.json").read_text(), parse_constant=pytest.fail)
    assert found == {"nan": None, "list": [None, None, 1.5], "array": [1.0, None]}


def test_numpy_paths_enums_and_tuples_have_their_place_in_json(tmp_path: Path) -> None:
    record = {
        "integer": np.int64(3),
        "truth": np.bool_(True),
        "path": Path("a") / "b",
        "subtype": Subtype.ANY,
        Subtype.SUBDURAL: (1, None),
        "umlaut": "ä",
    }
    write_json(tmp_path / "a.json", record)
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert json.loads(text) == {
        "integer": 3,
        "truth": True,
        "path": str(Path("a") / "b"),
        "subtype": "any",
        "subdural": [1, None],
        "umlaut": "ä",
    }
    assert list(json.loads(text)) == ["integer", "truth", "path", "subtype", "subdural", "umlaut"]


def test_what_json_cannot_hold_is_an_error_and_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="got set"):
        write_json(tmp_path / "a.json", {"a": {1}})
    assert not list(tmp_path.iterdir())


def test_a_table_s_cells(tmp_path: Path) -> None:
    rows = [
        {"case": 'a,"b"', "p": np.float32(0.1), "n": 3, "hit": True},
        {"case": "c", "p": math.nan, "n": None, "hit": np.bool_(False)},
        {"case": "d", "p": -1234.5678, "n": np.int32(0), "hit": None},
    ]
    write_csv(tmp_path / "a.csv", rows, ("case", "p", "n", "hit"))
    expected = 'case,p,n,hit\n"a,""b""",0.1,3,1\nc,,,0\nd,-1234.568,0,\n'
    assert (tmp_path / "a.csv").read_bytes() == expected.encode()


def test_a_table_without_rows_has_a_head(tmp_path: Path) -> None:
    write_csv(tmp_path / "a.csv", [], ("case",))
    assert (tmp_path / "a.csv").read_text() == "case\n"


@pytest.mark.parametrize("row", [{"case": "a"}, {"case": "a", "p": 1, "q": 2}])
def test_a_row_with_other_columns_is_an_error(tmp_path: Path, row: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="expected a row with"):
        write_csv(tmp_path / "a.csv", [row], ("case", "p"))
    assert not list(tmp_path.iterdir())


def test_tables_cannot_be_written_where_there_is_no_folder(tmp_path: Path) -> None:
    with pytest.raises(OutputError):
        write_csv(tmp_path / "none" / "a.csv", [], ("case",))


@given(
    st.lists(
        st.tuples(st.text("ab.", min_size=1), st.integers(0, 99), st.sets(st.sampled_from(list(Subtype)[:-1]))),
        unique_by=lambda row: row[:2],
        max_size=5,
    )
)
def test_slice_labels_come_back_as_written(tmp_path_factory: pytest.TempPathFactory, rows: list[tuple]) -> None:
    path = tmp_path_factory.mktemp("labels") / "slice_labels.csv"
    labels = [SliceLabel(name, i, frozenset({*s, Subtype.ANY} if s else ())) for name, i, s in rows]
    table = [
        {"file": label.file, "slice_index": label.slice_index, **{s: s in label.subtypes for s in Subtype}}
        for label in labels
    ]
    write_csv(path, table, SLICE_LABEL_COLUMNS)
    assert read_slice_labels(path) == labels
    assert [label.positive for label in labels] == [bool(found) for _, _, found in rows]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,slice_index,any\n", "missing"),
        ("", "missing"),
        (f"{HEAD}\na.nii,0,0,0,0,0,0,1\n", "line 2: expected 'any' to be 1 exactly where a subtype is"),
        (f"{HEAD}\na.nii,0,0,1,0,0,0,0\n", "line 2: expected 'any' to be 1 exactly where a subtype is"),
        (f"{HEAD}\na.nii,0,0,2,0,0,0,1\n", "labels of 0 or 1"),
        (f"{HEAD}\na.nii,-1,0,0,0,0,0,0\n", "slice index from 0"),
        (f"{HEAD}\na.nii,0,0,0,0,0,0,0\na.nii,0,0,0,0,0,0,0\n", "line 3: expected each slice once"),
    ],
)
def test_slice_labels_that_contradict_themselves_are_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "slice_labels.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_slice_labels(path)


def test_patients_are_read_by_case(tmp_path: Path) -> None:
    path = tmp_path / "patients.csv"
    path.write_text("case,age,patient\na,50,p1\nb,50, p1 \nc,70,p2\n")
    assert read_patients(path) == {"a": "p1", "b": "p1", "c": "p2"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("case,age\na,5\n", "columns case, patient"),
        ("", "columns case, patient"),
        ("case,patient\na,p\na,q\n", "line 3: expected each case once"),
        ("case,patient\na,\n", "line 2: expected each case once, with its patient"),
        ("case,patient\na\n", "line 2: expected as many cells as the head has"),
    ],
)
def test_a_table_of_patients_that_cannot_be_trusted_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "patients.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_patients(path)


def test_a_table_of_patients_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected a table"):
        read_patients(tmp_path / "none.csv")
    (tmp_path / "bytes.csv").write_bytes(b"case,patient\n\xff\xfe,p\n")
    with pytest.raises(InputError, match="expected a table"):
        read_patients(tmp_path / "bytes.csv")


def test_the_real_labels_are_read_in_full(realdata: Path) -> None:
    labels = read_slice_labels(realdata / "ct_ich" / "slice_labels.csv")
    positive = [label for label in labels if label.positive]
    assert (len(labels), len(positive)) == (2084, 252)
    assert len({label.file for label in labels}) == 69
    assert len({label.file for label in positive}) == 29


LABELS = ",".join(SLICE_LABEL_COLUMNS) + "\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (LABELS + "a,²,0,0,0,0,0,0\n", "a slice index from 0"),
        (LABELS + f"a,{'9' * 5000},0,0,0,0,0,0\n", "a slice index from 0"),
        (LABELS + f"{'b' * 140_000},0,0,0,0,0,0,0\n", "field larger than field limit"),
        (LABELS + "a,0,0,0,0,0,0\n", "line 2: expected as many cells"),
        (LABELS + "a,0,0,0,0,0,0,0,0\n", "line 2: expected as many cells"),
        (LABELS + '"a,0,0,0,0,0,0,0\n', "expected a table in UTF-8"),
    ],
)
def test_cells_and_lines_that_are_none_are_refused_in_one_line(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "slice_labels.csv"
    path.write_text(content)
    with pytest.raises(InputError, match=message) as error:
        read_slice_labels(path)
    assert str(error.value).isprintable()


@pytest.mark.parametrize("encoding", ["utf-16", "latin-1"])
def test_a_table_in_another_encoding_is_refused(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "a.csv").write_bytes("case,patient\nGröße,1\n".encode(encoding))
    with pytest.raises(InputError, match="expected a table in UTF-8"):
        read_patients(tmp_path / "a.csv")


def test_a_mark_of_utf_8_before_the_head_is_no_part_of_a_column(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes("case,patient\na,1\n".encode("utf-8-sig"))
    assert read_patients(tmp_path / "a.csv") == {"a": "1"}


def test_a_table_larger_than_any_is_refused_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hgisam.io.tables.MAX_TABLE_BYTES", 10)
    (tmp_path / "a.csv").write_text("case,patient\na,1\n")
    with pytest.raises(InputError, match="more than 10 bytes"):
        read_patients(tmp_path / "a.csv")
