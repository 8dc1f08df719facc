"""Tests between methods, against hand derivations and the worked example of Demsar (2006)."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hgisam.compare.statistics import (
    by_patient,
    critical_difference,
    holm,
    not_told_apart,
    rank_methods,
    signed_rank,
)

DEMSAR_TABLE_6 = np.array(
    [
        [0.763, 0.768, 0.771, 0.798], [0.599, 0.591, 0.590, 0.569], [0.954, 0.971, 0.968, 0.967],
        [0.628, 0.661, 0.654, 0.657], [0.882, 0.888, 0.886, 0.898], [0.936, 0.931, 0.916, 0.931],
        [0.661, 0.668, 0.609, 0.685], [0.583, 0.583, 0.563, 0.625], [0.775, 0.838, 0.866, 0.875],
        [1.000, 1.000, 1.000, 1.000], [0.940, 0.962, 0.965, 0.962], [0.619, 0.666, 0.614, 0.669],
        [0.972, 0.981, 0.975, 0.9749], [0.957, 0.978, 0.946, 0.970],
    ]
)  # fmt: skip
"""AUC of four classifiers on 14 data sets: J Mach Learn Res 7:1, table 6. The two 0.975 of its last row but one are
tied as printed; its mean ranks have the first ahead of the second, so the second stands a little lower here."""


def test_the_worked_example_of_demsar() -> None:
    found = rank_methods(DEMSAR_TABLE_6, higher_is_better=True)
    assert found.mean_ranks == pytest.approx((3.143, 2.000, 2.893, 1.964), abs=5e-4)
    assert found.critical_difference == pytest.approx(1.25, abs=5e-3)
    assert found.p is not None and found.p < 0.05
    assert found.groups == ((3, 1, 2, 0),), "the paper: the post-hoc test is not powerful enough to tell them apart"


@pytest.mark.parametrize(
    ("k", "q"),
    [(2, 1.960), (3, 2.343), (4, 2.569), (5, 2.728), (6, 2.850), (7, 2.949), (8, 3.031), (9, 3.102), (10, 3.164)],
)
def test_critical_values_of_demsar_s_table_5(k: int, q: float) -> None:
    assert critical_difference(k, 14) == pytest.approx(q * math.sqrt(k * (k + 1) / (6 * 14)), rel=5e-4)


def test_friedman_derived_by_hand() -> None:
    """Six patients agree on the order of three methods: ranks 1, 2, 3; 12 / (6 x 12) x (36 + 144 + 324) - 72 = 12."""
    values = np.array([[0.9, 0.8, 0.1]]) - 0.01 * np.arange(6)[:, None]
    found = rank_methods(values, higher_is_better=True)
    assert found.mean_ranks == (1.0, 2.0, 3.0)
    assert found.chi_squared == pytest.approx(12.0)
    assert found.p == pytest.approx(math.exp(-6.0)), "chi squared with 2 degrees of freedom: exp(-x / 2)"
    assert rank_methods(values, higher_is_better=False).mean_ranks == (3.0, 2.0, 1.0)


def test_equal_methods_share_their_ranks() -> None:
    values = np.array([[0.5, 0.5, 0.2]] * 6)
    assert rank_methods(values, higher_is_better=True).mean_ranks == (1.5, 1.5, 3.0)


@pytest.mark.parametrize(
    ("shape", "reason"),
    [((20, 2), "3 methods or more; got 2"), ((5, 3), "6 patients or more; got 5"), ((0, 3), "got 0")],
)
def test_too_little_for_a_ranking_is_said(shape: tuple[int, int], reason: str) -> None:
    found = rank_methods(np.random.default_rng(0).random(shape), higher_is_better=True)
    assert (found.p, found.critical_difference, found.groups) == (None, None, ())
    assert found.reason is not None and reason in found.reason


def test_methods_equal_everywhere_are_not_tested() -> None:
    assert rank_methods(np.full((9, 3), 0.4), higher_is_better=True).reason == "the methods are equal in every patient"


def test_groups_are_maximal_runs_and_may_overlap() -> None:
    assert not_told_apart([4.0, 1.0, 2.0, 2.9], 1.0) == ((1, 2), (2, 3))
    assert not_told_apart([1.0, 1.5, 1.8, 4.0], 1.0) == ((0, 1, 2),)
    assert not_told_apart([1.0, 3.0, 5.0], 1.0) == ()


def test_wilcoxon_by_counting_signs() -> None:
    """All of n differences have one sign: of 2 ** n ways to sign the ranks, two are as extreme."""
    assert signed_rank([0.1, 0.2, 0.3, 0.4, 0.5, 0.6]).p == pytest.approx(2 / 2**6)
    assert signed_rank([0.1, 0.2, 0.3, 0.4, 0.5, -0.6]).p == pytest.approx(_enumerated([1, 2, 3, 4, 5, -6]))
    assert signed_rank([-0.1, 0.2, -0.3, 0.4, 0.5, 0.6, 0.7]).p == pytest.approx(_enumerated([-1, 2, -3, 4, 5, 6, 7]))


def _enumerated(signed_ranks: list[int]) -> float:
    """The share of all signs whose smaller rank sum is no larger."""
    total = sum(map(abs, signed_ranks))
    ours = min(positive := sum(r for r in signed_ranks if r > 0), total - positive)
    sums = [sum(r for r, s in zip(map(abs, signed_ranks), signs, strict=True) if s)
            for signs in itertools.product((0, 1), repeat=len(signed_ranks))]  # fmt: skip
    return sum(min(s, total - s) <= ours for s in sums) / len(sums)


def test_zeros_are_ranked_and_left_out() -> None:
    """Pratt: among ranks 1.5, 1.5, 3, ..., 7 the zeros go, and 5 of one sign give 2 / 2 ** 5."""
    found = signed_rank([0.0, 0.0, 0.1, 0.2, 0.3, 0.4, 0.5])
    assert (found.n, found.n_zero) == (7, 2)
    assert found.p == pytest.approx(2 / 2**5)


@pytest.mark.parametrize(
    ("differences", "reason"),
    [([0.1] * 5, "a test needs 6 patients or more; got 5"), ([], "got 0"), ([0.0, 1e-15] * 3, "are 0")],
)
def test_no_test_where_none_can_tell(differences: list[float], reason: str) -> None:
    found = signed_rank(differences)
    assert found.p is None
    assert found.reason is not None and reason in found.reason


def test_holm_derived_by_hand() -> None:
    """4 x 0.005, 3 x 0.01, then 2 x 0.03 = 0.06 holds up 1 x 0.04."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, None, 0.6]) == [1.0, None, 1.0]
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_never_lowers_and_keeps_the_order(p_values: list[float]) -> None:
    found = [p for p in holm(p_values) if p is not None]
    assert all(p <= q <= 1 for p, q in zip(p_values, found, strict=True))
    assert [q for _, q in sorted(zip(p_values, found, strict=True))] == sorted(found)


def test_one_patient_one_vote() -> None:
    assert by_patient([0.2, 1.0, 0.4], ["a", "b", "a"]) == pytest.approx([0.3, 1.0])
