"""Agreement of two measurements: the published examples, and what has no answer."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hgisam.evaluate.agreement import intraclass_correlation, limits_of_agreement

WRIGHT = [494, 395, 516, 434, 476, 557, 413, 442, 650, 433, 417, 656, 267, 478, 178, 423, 427]
MINI_WRIGHT = [512, 430, 520, 428, 500, 600, 364, 380, 658, 445, 432, 626, 260, 477, 259, 350, 451]
"""Peak flow by two meters, l/min: Bland and Altman, Lancet 1986, table 1, first measurements."""

JUDGES = [[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]]
"""Six targets, four judges: Shrout and Fleiss 1979, table 2."""


def test_the_limits_that_bland_and_altman_publish() -> None:
    """Mean difference -2.1, standard deviation 38.8; they round 1.96 to 2 and give -79.7 and 75.5."""
    found = limits_of_agreement([a - b for a, b in zip(WRIGHT, MINI_WRIGHT, strict=True)])
    assert (found.n, found.bias, found.sd) == (17, pytest.approx(-2.1, abs=0.05), pytest.approx(38.8, abs=0.05))
    assert found.sd is not None and found.bias is not None
    assert found.low == pytest.approx(found.bias - 1.96 * found.sd, abs=0.01)
    assert found.high == pytest.approx(found.bias + 1.96 * found.sd, abs=0.01)
    assert found.margin == pytest.approx(2.12 * found.sd * math.sqrt(1 / 17 + 1.96**2 / 32), rel=1e-3)


@pytest.mark.parametrize(("differences", "bias"), [([], None), ([2.0], 2.0), ([2.0, 4.0], 3.0)])
def test_two_differences_have_no_limits(differences: list[float], bias: float | None) -> None:
    found = limits_of_agreement(differences)
    assert (found.n, found.bias, found.low, found.margin) == (len(differences), bias, None, None)


def test_the_icc_that_shrout_and_fleiss_publish() -> None:
    """ICC(2,1) = 0.29; from their mean squares 11.24, 32.49 and 1.02."""
    found = intraclass_correlation(JUDGES)
    by_hand = (11.24 - 1.02) / (11.24 + 3 * 1.02 + 4 * (32.49 - 1.02) / 6)
    assert found.value == pytest.approx(by_hand, abs=5e-4) == pytest.approx(0.29, abs=5e-3)
    assert (found.low, found.high) == (pytest.approx(0.019, abs=1e-3), pytest.approx(0.761, abs=1e-3))


def test_a_constant_error_costs_agreement() -> None:
    truth = np.array([1.0, 2.0, 4.0, 8.0, 16.0])
    exact, shifted = (intraclass_correlation(np.stack([truth, truth + by], axis=1)) for by in (0.0, 6.0))
    assert (exact.value, exact.low, exact.reason) == (
        1.0,
        None,
        "the measurements agree perfectly: there is no interval",
    )
    assert shifted.value is not None and shifted.value < 0.8


@pytest.mark.parametrize(
    ("table", "reason"), [([[1, 2], [3, 4]], "3 rows or more; got 2"), ([[0.0, 0.0]] * 5, "are equal")]
)
def test_what_has_no_icc_says_why(table: list[list[float]], reason: str) -> None:
    found = intraclass_correlation(table)
    assert found.value is None
    assert found.reason is not None and reason in found.reason


def test_without_agreement_there_is_a_value_and_no_interval() -> None:
    found = intraclass_correlation([[0, 6], [0, 6], [1, 5]])
    assert found.value is not None and found.value < 0
    assert (found.low, found.high) == (None, None)
    assert found.reason is not None and "no more than chance" in found.reason


def test_one_column_is_no_comparison() -> None:
    with pytest.raises(ValueError, match="two or more columns"):
        intraclass_correlation([[1.0], [2.0], [3.0]])


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=3, max_size=9), st.integers(1, 7))
def test_neither_order_unit_nor_who_comes_first_matters(pairs: list[tuple[int, int]], unit: int) -> None:
    found = intraclass_correlation(pairs)
    turned = intraclass_correlation([(unit * b, unit * a) for a, b in reversed(pairs)])
    assert turned.value == (None if found.value is None else pytest.approx(found.value))
    if found.low is not None and found.high is not None and found.value is not None:
        assert found.low <= found.value + 1e-9 and found.value <= found.high + 1e-9
        assert (turned.low, turned.high) == (pytest.approx(found.low), pytest.approx(found.high))
