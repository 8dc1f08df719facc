"""What is let in from outside: never more bytes than agreed, nothing that may not end, and one printable line."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hgisam.limits import MAX_LINE, one_line, read_whole


def test_a_file_is_read_up_to_the_limit_and_no_further(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"12345")
    (tmp_path / "link").symlink_to(tmp_path / "a")
    assert read_whole(tmp_path / "a", 5) == read_whole(tmp_path / "link", 5) == b"12345"
    with pytest.raises(OSError, match="more than 4 bytes"):
        read_whole(tmp_path / "a", 4)


def test_what_may_never_end_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")  # nobody writes to it: to open it as a file is to wait for ever
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(OSError, match="a pipe or a device"):
            read_whole(path, 5)
    with pytest.raises(IsADirectoryError, match="a folder"):
        read_whole(tmp_path, 5)


def test_a_link_in_a_circle_is_an_error_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(OSError, match="symbolic links"):
        read_whole(tmp_path / "loop", 5)


@given(st.text(alphabet=st.characters(), max_size=3 * MAX_LINE))  # surrogates, as in names that are no UTF-8, included
def test_any_text_becomes_one_printable_line(text: str) -> None:
    line = one_line(text)
    assert line.isprintable()
    assert len(line) <= MAX_LINE
    assert one_line(line) == line


def test_ordinary_text_stays_and_signs_that_move_the_cursor_are_shown() -> None:
    assert one_line("Größe: 5 mm") == "Größe: 5 mm"
    assert one_line("a\nb\x1b[2J\udcff") == r"a b\x1b[2J\udcff"


def test_of_a_long_line_both_ends_are_kept() -> None:
    line = one_line("begin" + "x" * 10_000 + "end")
    assert len(line) == MAX_LINE
    assert line.startswith("begin")
    assert line.endswith("end")
    assert " ... " in line
