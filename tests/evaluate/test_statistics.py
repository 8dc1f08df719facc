"""Means and their intervals: honest about few scans, the same every time."""

import math
from statistics import NormalDist

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
def test_below_three_patients_there_is_a_reason_instead_of_an_interval(values: list[float], mean: float | None) -> None:
    found = mean_interval(values)
    assert found.mean == (None if mean is None else pytest.approx(mean))
    assert (found.low, found.high) == (None, None)
    assert found.reason == f"an interval needs 3 patients or more; got {len(values)}"


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


def test_a_skewed_sample_s_interval_is_corrected_for_bias_and_accelerated() -> None:
    """Efron and Tibshirani 1993, 14.9 to 14.15, worked out here; plain percentiles would end a third lower."""
    values = np.array([0.0] * 15 + [1.0, 2.0, 10.0])
    n, normal = len(values), NormalDist()
    means = np.random.default_rng(7).choice(values, (100_000, n)).mean(axis=1)
    below = (means < values.mean()).mean() + 0.5 * (means == values.mean()).mean()
    bias, off = normal.inv_cdf(below), values.mean() - (values.sum() - values) / (n - 1)
    acceleration = (off**3).sum() / (6 * (off**2).sum() ** 1.5)
    shifts = [bias + normal.inv_cdf(end) for end in (0.025, 0.975)]
    low, high = np.quantile(means, [normal.cdf(bias + z / (1 - acceleration * z)) for z in shifts])
    found = mean_interval(values.tolist())
    assert (found.low, found.high) == (pytest.approx(low, abs=0.03), pytest.approx(high, abs=0.12))
    assert high > 1.2 * np.quantile(means, 0.975)


def test_what_is_undefined_is_counted_and_not_averaged() -> None:
    found = mean_interval([0.0, None, 1.0, None, None])
    assert (found.n, found.n_undefined, found.n_patients, found.mean) == (2, 3, 2, 0.5)


def test_patients_are_resampled_with_all_their_values() -> None:
    """Twenty slices each of ten patients: as sure as ten values are, not as two hundred would be."""
    means = np.random.default_rng(1).normal(0.5, 0.2, 10)
    values, patients = np.repeat(means, 20).tolist(), np.repeat([f"p{i}" for i in range(10)], 20).tolist()
    found, of_ten = mean_interval(values, patients), mean_interval(means.tolist())
    assert (found.n, found.n_patients, found.mean) == (200, 10, pytest.approx(of_ten.mean))
    assert (found.low, found.high) == (pytest.approx(of_ten.low, abs=1e-4), pytest.approx(of_ten.high, abs=1e-4))
    careless = mean_interval(values)
    assert careless.high is not None and careless.low is not None and found.high is not None and found.low is not None
    assert found.high - found.low > 3 * (careless.high - careless.low)


def test_a_patient_counts_with_as_many_values_as_there_are() -> None:
    found = mean_interval([0.0, 0.0, 0.0, 1.0, 0.5], ["a", "a", "a", "b", "c"])
    assert (found.mean, found.n_patients) == (pytest.approx(0.3), 3)
    assert found.low is not None and found.low < 0.3


def test_patients_without_spread_have_no_interval() -> None:
    found = mean_interval([0.1, 0.3, 0.2, 0.1, 0.3, 0.2, 0.2], ["a", "a", "a", "b", "b", "b", "c"])
    assert found.reason == "all values are equal: resampling shows no spread"


def test_a_value_without_a_patient_is_an_error() -> None:
    with pytest.raises(ValueError):
        mean_interval([0.1, 0.2], ["a"])


@given(st.lists(st.floats(0, 1).map(lambda x: round(x, 3)), min_size=3, max_size=12))
def test_the_interval_lies_within_the_values_and_is_the_same_every_time(values: list[float]) -> None:
    found = mean_interval(values)
    assert found == mean_interval(values)
    if found.reason is None:
        assert found.low is not None and found.high is not None
        assert min(values) <= found.low <= found.high <= max(values)
