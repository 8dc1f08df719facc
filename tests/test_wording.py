"""Counts and sizes are said in good grammar."""

import pytest

from hgisam.wording import counted, sized


@pytest.mark.parametrize(("n", "said"), [(0, "0 slices are empty"), (1, "1 slice is empty"), (2, "2 slices are empty")])
def test_what_is_counted_agrees_with_its_number(n: int, said: str) -> None:
    assert counted(n, "slice is empty", "slices are empty") == said


def test_most_words_take_an_s_and_long_numbers_commas() -> None:
    assert [counted(n, "case") for n in (0, 1, 2, 2084)] == ["0 cases", "1 case", "2 cases", "2,084 cases"]


@pytest.mark.parametrize(
    ("n_bytes", "said"),
    [
        (0, "0.0 kB"),
        (12_345, "12 kB"),
        (1_254 * 10**6, "1.3 GB"),
        (152 * 10**9, "152 GB"),
        (4 * 10**15, "4,000 TB"),
    ],
)
def test_sizes_are_rounded_to_what_people_read(n_bytes: int, said: str) -> None:
    assert sized(n_bytes) == said
