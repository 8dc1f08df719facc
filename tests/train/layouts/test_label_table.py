"""Rows in any order say the same; rows that contradict each other say nothing."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hgisam.labels import SUBTYPES, Subtype
from hgisam.train.cohort import Findings, Trouble
from hgisam.train.layouts.label_table import LabelTable, as_rows

ROWS = st.lists(st.sampled_from(Subtype), min_size=6, max_size=18).filter(lambda found: set(found) == set(Subtype))


def read(table: LabelTable, key: str = "a") -> tuple[list[bool], list[bool]] | None:
    bits = table.pop(key)
    return None if bits is None else (as_rows([bits[0]])[0].tolist(), as_rows([bits[1]])[0].tolist())


@given(st.frozensets(st.sampled_from(SUBTYPES)), ROWS)
def test_the_order_of_rows_and_their_repetition_change_nothing(shown: frozenset[Subtype], rows: list[Subtype]) -> None:
    findings = Findings()
    table = LabelTable(findings)
    truth = {subtype: subtype in shown or (subtype is Subtype.ANY and bool(shown)) for subtype in Subtype}
    for subtype in rows:
        table.add_one("a", subtype, truth[subtype])
    assert read(table) == (list(truth.values()), [True] * 6)
    assert {found.trouble: found.count for found in findings.found()} == (
        {Trouble.DUPLICATE: len(rows) - 6} if len(rows) > 6 else {}
    )


@pytest.mark.parametrize(
    ("row", "labels", "known"),
    [
        ({Subtype.ANY: False}, [0, 0, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1]),
        ({Subtype.ANY: True}, [0, 0, 0, 0, 0, 1], [0, 0, 0, 0, 0, 1]),
        ({Subtype.SUBDURAL: True}, [0, 0, 0, 0, 1, 1], [0, 0, 0, 0, 1, 1]),
        ({Subtype.SUBDURAL: False}, [0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 1, 0]),
        (dict.fromkeys(SUBTYPES, False), [0, 0, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1]),
    ],
)
def test_what_follows_is_known_and_nothing_else(row: dict[Subtype, bool], labels: list[int], known: list[int]) -> None:
    table = LabelTable(Findings())
    table.add("a", row)
    assert read(table) == (list(map(bool, labels)), list(map(bool, known)))


@pytest.mark.parametrize(
    ("rows", "trouble"),
    [
        ([{Subtype.ANY: False, Subtype.EPIDURAL: True}], Trouble.CONTRADICTING),
        ([dict.fromkeys(SUBTYPES, False) | {Subtype.ANY: True}], Trouble.CONTRADICTING),
        ([{Subtype.EPIDURAL: True}, {Subtype.EPIDURAL: False}], Trouble.DISAGREEING),
        ([{Subtype.EPIDURAL: False}, {Subtype.EPIDURAL: True}, {Subtype.EPIDURAL: True}], Trouble.DISAGREEING),
    ],
)
def test_contradictions_are_counted_and_leave_nothing_known(rows: list[dict[Subtype, bool]], trouble: Trouble) -> None:
    findings = Findings()
    table = LabelTable(findings)
    for row in rows:
        table.add("a", row)
    assert read(table) == ([False] * 6, [False] * 6)
    assert trouble in {found.trouble for found in findings.found()}


def test_a_slice_that_no_row_has_is_not_there_and_others_are_left() -> None:
    table = LabelTable(Findings())
    table.add("a", {Subtype.ANY: True})
    assert table.pop("b") is None
    assert table.left() == ("a",)
