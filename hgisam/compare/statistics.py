"""Are the differences between methods more than chance? Paired tests by patient, and mean ranks over patients."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64
from numpy.typing import NDArray

from hgisam.evaluate.statistics import CONFIDENCE

MIN_PATIENTS = 6
"""With fewer no signed-rank test can fall below 0.05: of 5 patients the least two-sided p is 2 / 2**5 = 0.0625."""

_EQUAL = 1e-12


@dataclass(frozen=True)
class SignedRank:
    """Wilcoxon's test of whether differences lie about 0.

    Attributes:
        n: how many differences.
        n_zero: of them, zero.
        p: two-sided; None where there is no test.
        balance: the test's direction: the rank sum of differences above 0 minus that of those below, as a share of
            both, from -1 to 1; None where there is no test. It may have another sign than the mean.
        reason: why there is no test; None where there is one.
    """

    n: int
    n_zero: int
    p: float | None
    balance: float | None = None
    reason: str | None = None


@dataclass(frozen=True)
class Ranking:
    """Methods by their mean rank over patients; 1 is best.

    Attributes:
        mean_ranks: in the order of the methods.
        n: how many patients.
        chi_squared: Friedman's, corrected for ties; None where there is no test.
        p: of it.
        critical_difference: mean ranks that differ by no more than this are not told apart at 1 - CONFIDENCE.
        groups: of the methods, best first, those not told apart: maximal runs of two or more, as indices.
        reason: why there is no test; None where there is one.
    """

    mean_ranks: tuple[float, ...]
    n: int
    chi_squared: float | None
    p: float | None
    critical_difference: float | None
    groups: tuple[tuple[int, ...], ...]
    reason: str | None = None


def by_patient(values: Sequence[float], patients: Sequence[str]) -> list[float]:
    """The mean of each patient's values, patients in the order in which they come: one patient, one vote."""
    found: dict[str, list[float]] = {}
    for value, patient in zip(values, patients, strict=True):
        found.setdefault(patient, []).append(value)
    return [math.fsum(own) / len(own) for own in found.values()]


def signed_rank(differences: Sequence[float]) -> SignedRank:
    """Wilcoxon's signed-rank test, two-sided, of one difference per patient.

    Zeros take part in the ranking and are then left out (Pratt), so that many equal results are no evidence for either.
    Exact without ties and zeros up to 50 differences; with some, exact by permutation up to 13, else by the normal law.

    Source: Wilcoxon, Biometrics Bull 1:80, 1945; Pratt, J Am Stat Assoc 54:655, 1959; scipy.stats.wilcoxon. The
    balance: Kerby, Comprehensive Psychology 3:1, 2014 (matched-pairs rank-biserial correlation).
    """
    n, found = len(differences), np.asarray(differences, dtype=np.float64)
    found = np.where(np.abs(found) <= _EQUAL, 0.0, found)
    n_zero = int((found == 0).sum())
    if n < MIN_PATIENTS:
        return SignedRank(n, n_zero, None, reason=f"a test needs {MIN_PATIENTS} patients or more; got {n}")
    if n_zero == n:
        return SignedRank(n, n_zero, None, reason="all differences are 0")
    from scipy.stats import rankdata, wilcoxon

    ranks = rankdata(np.abs(found))
    balance = float((ranks * np.sign(found)).sum() / ranks[found != 0].sum())
    return SignedRank(n, n_zero, min(1.0, float(wilcoxon(found, zero_method="pratt", method="auto").pvalue)), balance)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """p values adjusted so that the chance of any false finding among them stays below the level.

    Those that are None stay so, and do not count as tests.

    Source: Holm, Scand J Stat 6:65, 1979: the i-th smallest of m times m - i + 1, no smaller than the one before, at
    most 1.
    """
    tested = sorted((p, index) for index, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    highest = 0.0
    for place, (p, index) in enumerate(tested):
        highest = max(highest, min(1.0, (len(tested) - place) * p))
        adjusted[index] = highest
    return adjusted


def critical_difference(n_methods: int, n_patients: int) -> float:
    """The difference of two mean ranks from which Nemenyi's test tells them apart at 1 - CONFIDENCE.

    Source: Demsar, J Mach Learn Res 7:1, 2006, section 3.2.2: q sqrt(k (k + 1) / (6 N)), where q is the studentised
    range for k methods and infinite degrees of freedom, divided by the root of 2.
    """
    from scipy.stats import studentized_range

    q = float(studentized_range.ppf(CONFIDENCE, n_methods, np.inf)) / math.sqrt(2)
    return q * math.sqrt(n_methods * (n_methods + 1) / (6 * n_patients))


def rank_methods(values: Float64[np.ndarray, "patients methods"], *, higher_is_better: bool) -> Ranking:
    """Rank the methods in each patient, average the ranks, and tell which differ.

    Friedman's test says whether any two differ; Nemenyi's critical difference says which. Equal values share the mean
    of their ranks.

    Args:
        values: of every method in every patient; no gap.
        higher_is_better: whether the highest value has rank 1.

    Source: Demsar, J Mach Learn Res 7:1, 2006; Friedman, J Am Stat Assoc 32:675, 1937.
    """
    from scipy.stats import friedmanchisquare, rankdata

    n, k = values.shape
    rounded = values.round(12)
    ranks = rankdata(-rounded if higher_is_better else rounded, axis=1) if n else np.zeros((0, k))
    means = tuple(float(mean) for mean in ranks.mean(axis=0)) if n else (math.nan,) * k

    def without(reason: str) -> Ranking:
        return Ranking(means, n, None, None, None, (), reason)

    if k < 3:
        return without(f"a ranking needs 3 methods or more; got {k}")
    if n < MIN_PATIENTS:
        return without(f"a ranking needs {MIN_PATIENTS} patients or more; got {n}")
    if (ranks == ranks[:, :1]).all():
        return without("the methods are equal in every patient")
    found = friedmanchisquare(*rounded.T)
    difference = critical_difference(k, n)
    return Ranking(means, n, float(found.statistic), float(found.pvalue), difference, not_told_apart(means, difference))


def not_told_apart(mean_ranks: Sequence[float], difference: float) -> tuple[tuple[int, ...], ...]:
    """Maximal runs of two or more methods, best first, whose mean ranks lie within the difference of each other."""
    order = sorted(range(len(mean_ranks)), key=lambda index: mean_ranks[index])
    sorted_ranks: NDArray[np.float64] = np.array([mean_ranks[index] for index in order])
    groups: list[tuple[int, ...]] = []
    reached = 0
    for first in range(len(order)):
        last = int(np.flatnonzero(sorted_ranks - sorted_ranks[first] <= difference).max())
        if last > first and last > reached:
            groups.append(tuple(order[first : last + 1]))
            reached = last
    return tuple(groups)
