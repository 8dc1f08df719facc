"""How well two measurements of the same thing agree: limits of agreement and intraclass correlation."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from hgisam.evaluate.statistics import CONFIDENCE

MIN_PAIRS = 3
"""Fewer pairs say nothing about spread."""

_ROUNDING = 1e-9


@dataclass(frozen=True)
class LimitsOfAgreement:
    """Bland and Altman's limits: between them lie about 95 % of the differences, if these are normal.

    Attributes:
        n: how many differences.
        bias: their mean; None where there is none.
        sd: their standard deviation (n - 1); None, as all that follows, below MIN_PAIRS.
        low: the lower limit, bias - 1.96 sd.
        high: the upper limit, bias + 1.96 sd.
        margin: half the width of the 95 % interval of either limit.
    """

    n: int
    bias: float | None
    sd: float | None = None
    low: float | None = None
    high: float | None = None
    margin: float | None = None


@dataclass(frozen=True)
class IntraclassCorrelation:
    """ICC(2,1): two-way random effects, absolute agreement, a single measurement.

    A constant or proportional error of the measurement lowers it, as it should; a few large values raise it, so it is
    to be read beside the limits of agreement.

    Attributes:
        n: how many things were measured.
        value: 1 for perfect agreement; None where it is undefined: below MIN_PAIRS, or all measurements equal.
        low: lower end of the 95 % interval; None where there is none.
        high: upper end.
        reason: why there is no value, or no interval; None where there are both.
    """

    n: int
    value: float | None
    low: float | None = None
    high: float | None = None
    reason: str | None = None


def limits_of_agreement(differences: Sequence[float]) -> LimitsOfAgreement:
    """The limits for one difference per thing that was measured twice.

    Source: Bland and Altman, Lancet 327:307, 1986; the margin: Stat Methods Med Res 8:135, 1999, section 2.2, with
    Student's t.
    """
    n = len(differences)
    bias = statistics.fmean(differences) if n else None
    if bias is None or n < MIN_PAIRS:
        return LimitsOfAgreement(n, bias)
    from scipy.stats import norm, t

    z = float(norm.ppf(0.5 + CONFIDENCE / 2))
    sd = statistics.stdev(differences)
    margin = float(t.ppf(0.5 + CONFIDENCE / 2, n - 1)) * sd * math.sqrt(1 / n + z**2 / (2 * (n - 1)))
    return LimitsOfAgreement(n, bias, sd, bias - z * sd, bias + z * sd, margin)


def intraclass_correlation(measurements: ArrayLike) -> IntraclassCorrelation:
    """ICC(2,1) of a table with a row for each thing that was measured and a column for each who measured.

    Source: Shrout and Fleiss, Psychol Bull 86:420, 1979; the interval: McGraw and Wong, Psychol Methods 1:30, 1996,
    table 7, ICC(A,1).

    Raises:
        ValueError: where the table has not two columns or more.
    """
    table = np.asarray(measurements, dtype=np.float64)
    if table.ndim != 2 or table.shape[1] < 2:
        raise ValueError(f"expected a row per thing and two or more columns; got shape {table.shape}")
    n, k = table.shape
    if n < MIN_PAIRS:
        return IntraclassCorrelation(n, None, reason=f"it needs {MIN_PAIRS} rows or more; got {n}")
    if np.ptp(table) == 0:
        return IntraclassCorrelation(n, None, reason="all measurements are equal")
    rows, columns, mean = table.mean(axis=1), table.mean(axis=0), table.mean()
    between_rows = k * float(((rows - mean) ** 2).sum()) / (n - 1)
    between_columns = n * float(((columns - mean) ** 2).sum()) / (k - 1)
    error = float(((table - rows[:, None] - columns + mean) ** 2).sum()) / ((n - 1) * (k - 1))
    spread = k * between_columns + (k * n - k - n) * error
    value = n * (between_rows - error) / (spread + n * between_rows)
    if spread <= _ROUNDING * between_rows:
        return IntraclassCorrelation(n, value, reason="the measurements agree perfectly: there is no interval")
    if value <= _ROUNDING:
        return IntraclassCorrelation(n, value, reason="the things differ no more than chance: there is no interval")
    from scipy.stats import f

    a, b = k * value / (n * (1 - value)), 1 + k * value * (n - 1) / (n * (1 - value))
    freedom = (a * between_columns + b * error) ** 2 / (
        (a * between_columns) ** 2 / (k - 1) + (b * error) ** 2 / ((n - 1) * (k - 1))
    )
    lower = float(f.ppf(0.5 + CONFIDENCE / 2, n - 1, freedom))
    upper = float(f.ppf(0.5 + CONFIDENCE / 2, freedom, n - 1))
    return IntraclassCorrelation(
        n,
        value,
        n * (between_rows - lower * error) / (lower * spread + n * between_rows),
        n * (upper * between_rows - error) / (spread + n * upper * between_rows),
    )
