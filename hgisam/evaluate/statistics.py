"""Means with the interval that the number of scans allows."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

CONFIDENCE = 0.95
N_RESAMPLES = 4999
N_FIGURE_RESAMPLES = 1000
_SEED = 20230412

Scan = TypeVar("Scan")


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
    low, high = max(float(found.low), min(values)), min(float(found.high), max(values))
    return MeanInterval(n, mean, sd, low, high, None)


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
