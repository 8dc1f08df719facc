"""Means and their intervals: honest about few scans, the same every time."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hgisam.evaluate.statistics import mean_interval


def test_mean_and_spread_derived_by_hand() -> None:
    found = mean_interval([0.0, 0.5, 1.0, 0.5])
    assert (found.n, found.mean) == (4, 0.5)
    assert found.sd == pytest.approx(math.sqrt(0.5 / 3))


@pytest.mark.parametrize(("values", "mean"), [([], None), ([0.4], 0.4), ([0.2, 0.4], 0.3)])
def test_below_three_scans_there_is_a_reason_instead_of_an_interval(values: list[float], mean: float | None) -> None:
    found = mean_interval(values)
    assert found.mean == (None if mean is None else pytest.approx(mean))
    assert (found.low, found.high) == (None, None)
    assert found.reason == f"an interval needs 3 scans or more; got {len(values)}"


def test_equal_values_have_no_interval() -> None:
    found = mean_interval([0.0] * 10)
    assert (found.mean, found.sd, found.low, found.high) == (0.0, 0.0, None, None)
    assert found.reason == "all values are equal: resampling shows no spread"


def test_the_interval_of_a_normal_sample_is_the_textbook_s() -> None:
    values = np.random.default_rng(0).normal(2.0, 1.0, 200)
    found = mean_interval(values.tolist())
    half = 1.96 * values.std(ddof=1) / math.sqrt(200)
    assert found.low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert found.high == pytest.approx(values.mean() + half, abs=0.1 * half)


def test_a_skewed_sample_has_a_skewed_interval() -> None:
    found = mean_interval([0.0] * 15 + [1.0, 2.0, 10.0])
    assert found.low is not None and found.high is not None and found.mean is not None
    assert found.high - found.mean > 1.5 * (found.mean - found.low)


@given(st.lists(st.floats(0, 1).map(lambda x: round(x, 3)), min_size=3, max_size=12))
def test_the_interval_lies_within_the_values_and_is_the_same_every_time(values: list[float]) -> None:
    found = mean_interval(values)
    assert found == mean_interval(values)
    if found.reason is None:
        assert found.low is not None and found.high is not None
        assert min(values) <= found.low <= found.high <= max(values)
