"""Means with the interval that the number of scans allows."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

CONFIDENCE = 0.95
N_RESAMPLES = 4999
_SEED = 20230412


@dataclass(frozen=True)
class MeanInterval:
    """A mean over scans and its bootstrap interval.

    Attributes:
        n: how many scans.
        mean: None where n is 0.
        sd: standard deviation over scans (n - 1); None where n is below 2.
        low: lower end of the interval; None where there is none.
        high: upper end.
        reason: why there is no interval; None where there is one.
    """

    n: int
    mean: float | None
    sd: float | None
    low: float | None
    high: float | None
    reason: str | None


def mean_interval(values: Sequence[float]) -> MeanInterval:
    """The mean of one value per scan and its 95 % bias-corrected and accelerated bootstrap interval, scans resampled.

    The same values give the same interval: the resampling is seeded. Below 3 values, and where all are equal, there is
    no interval and the reason is stated. Source: Efron, J Am Stat Assoc 82(397), 1987.

    Args:
        values: finite numbers, one per scan.
    """
    n = len(values)
    mean = statistics.fmean(values) if n else None
    sd = statistics.stdev(values) if n > 1 else None
    if n < 3:
        return MeanInterval(n, mean, sd, None, None, f"an interval needs 3 scans or more; got {n}")
    if max(values) == min(values):
        return MeanInterval(n, mean, sd, None, None, "all values are equal: resampling shows no spread")
    from scipy.stats import bootstrap

    found = bootstrap(
        (np.asarray(values, dtype=np.float64),),
        np.mean,
        n_resamples=N_RESAMPLES,
        confidence_level=CONFIDENCE,
        method="BCa",
        rng=np.random.default_rng(_SEED),
    ).confidence_interval
    return MeanInterval(n, mean, sd, float(found.low), float(found.high), None)
