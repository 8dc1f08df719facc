"""Means with the interval that the number of patients allows."""

import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

CONFIDENCE = 0.95
N_RESAMPLES = 4999
N_FIGURE_RESAMPLES = 1000
_SEED = 20230412
_EQUAL = 1e-12
"""Means that differ by no more than this share of them differ by rounding alone."""

Scan = TypeVar("Scan")


@dataclass(frozen=True)
class MeanInterval:
    """A mean and its bootstrap interval over patients.

    Attributes:
        n: how many values the mean is of.
        n_undefined: how many more there would be, were they not undefined.
        n_patients: whose the values are.
        mean: None where n is 0.
        sd: standard deviation over the values (n - 1); None where n is below 2.
        low: lower end of the interval; None where there is none.
        high: upper end.
        reason: why there is no interval; None where there is one.
    """

    n: int
    n_undefined: int
    n_patients: int
    mean: float | None
    sd: float | None
    low: float | None
    high: float | None
    reason: str | None


def mean_interval(values: Sequence[float | None], patients: Sequence[str] | None = None) -> MeanInterval:
    """The mean of all values and its 95 % bias-corrected and accelerated bootstrap interval, whole patients resampled.

    The same values give the same interval: the resampling is seeded. Below 3 patients, and where all patients' means
    are equal, there is no interval and the reason is stated. Source: Efron, J Am Stat Assoc 82(397), 1987.

    Args:
        values: finite numbers, one for each scan (or slice, or lesion); None where undefined, to be counted.
        patients: whose each value is; None: each is another patient's.

    Raises:
        ValueError: where there are not as many patients as values.
    """
    owners = [str(index) for index in range(len(values))] if patients is None else patients
    kept = [(value, owner) for value, owner in zip(values, owners, strict=True) if value is not None]
    defined = [value for value, _ in kept]
    n, n_undefined = len(kept), len(values) - len(kept)
    mean = statistics.fmean(defined) if n else None
    sd = statistics.stdev(defined) if n > 1 else None
    sums: dict[str, float] = {}
    for value, owner in kept:
        sums[owner] = sums.get(owner, 0.0) + value
    counts = Counter(owner for _, owner in kept)

    def found(low: float | None, high: float | None, reason: str | None) -> MeanInterval:
        return MeanInterval(n, n_undefined, len(sums), mean, sd, low, high, reason)

    if len(sums) < 3:
        return found(None, None, f"an interval needs 3 patients or more; got {len(sums)}")
    totals = np.array(list(sums.values()))
    numbers = np.array([counts[owner] for owner in sums], dtype=np.float64)
    means = totals / numbers
    if np.ptp(means) <= _EQUAL * np.abs(means).max():
        return found(None, None, "all values are equal: resampling shows no spread")
    from scipy.stats import bootstrap

    interval = bootstrap(
        (totals, numbers),
        _ratio_of_sums,
        paired=True,
        vectorized=True,
        n_resamples=N_RESAMPLES,
        confidence_level=CONFIDENCE,
        method="BCa",
        rng=np.random.default_rng(_SEED),
    ).confidence_interval
    return found(max(float(interval.low), means.min()), min(float(interval.high), means.max()), None)


def _ratio_of_sums(totals: NDArray[np.float64], numbers: NDArray[np.float64], axis: int = -1) -> NDArray[np.float64]:
    return np.asarray(totals.sum(axis=axis) / numbers.sum(axis=axis))


def figure_interval(
    scans: Sequence[Scan], figure: Callable[[Sequence[Scan]], float], is_positive: Callable[[Scan], bool]
) -> tuple[float, float, float]:
    """A figure of many scans, such as an AUC over their slices, and its 95 % percentile bootstrap interval.

    Whole scans are resampled, positive and negative ones apart, so that every resample has both kinds. The resampling
    is seeded. Source: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13.

    Args:
        scans: one item per patient.
        figure: computes the figure from any selection of scans.
        is_positive: tells the two kinds apart.

    Returns:
        The figure, and the interval's lower and upper end.

    Raises:
        ValueError: where there is no positive or no negative scan.
    """
    kinds = [[s for s in scans if is_positive(s)], [s for s in scans if not is_positive(s)]]
    if not all(kinds):
        raise ValueError(f"expected positive and negative scans; got {len(kinds[0])} positive of {len(scans)}")
    rng = np.random.default_rng(_SEED)
    found = [
        figure([kind[i] for kind in kinds for i in rng.integers(len(kind), size=len(kind))])
        for _ in range(N_FIGURE_RESAMPLES)
    ]
    low, high = np.quantile(found, [0.5 - CONFIDENCE / 2, 0.5 + CONFIDENCE / 2])
    return figure(scans), float(low), float(high)
