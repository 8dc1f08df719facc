"""Work in several processes: results in order, errors where they belong."""

import math

import pytest

from hgisam.processes import in_order


@pytest.mark.parametrize("workers", [1, 2])
def test_results_come_in_the_items_order(workers: int) -> None:
    assert list(in_order(math.sqrt, [float(n * n) for n in range(20)], workers)) == list(range(20))


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_comes_where_the_result_would_have(workers: int) -> None:
    results = in_order(math.sqrt, [4.0, -1.0, 9.0], workers)
    assert next(results) == 2.0
    with pytest.raises(ValueError):
        next(results)


def test_no_item_is_no_result() -> None:
    assert list(in_order(math.sqrt, [], 1)) == []


def test_no_worker_is_an_error() -> None:
    with pytest.raises(ValueError, match="one worker or more"):
        list(in_order(math.sqrt, [1.0], 0))
