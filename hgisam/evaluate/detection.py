"""How well probabilities tell positives from negatives, and how honest they are, with intervals by patient.

The slices of one patient are alike, so they are no independent cases: whole patients are resampled, each with all of
its slices (percentile bootstrap, seeded). A resample in which a figure is undefined, such as an AUC without a single
positive, is dropped; `Estimate.n_resamples` tells how many are left. Source: Efron and Tibshirani, An Introduction to
the Bootstrap, 1993, chapter 13; for patients with several cases each: Rutter, Academic Radiology 7(6), 2000.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from hgisam.evaluate.statistics import CONFIDENCE

N_RESAMPLES = 1000
N_BINS = 10
"""Bins of equal width in which probabilities are held against what came true."""
NO_POINT = "no operating point was given"
MIN_PATIENTS = 3
"""An interval needs so many patients with cases of each kind that the figure speaks of."""

_SEED = 20230412
_CHUNK = 4_000_000
"""About so many weights are worked on at a time, so that memory does not grow with the cohort."""
_GRID = torch.linspace(0, 1, 101, dtype=torch.float64)
_ENDS = (0.5 - CONFIDENCE / 2, 0.5 + CONFIDENCE / 2)


@dataclass(frozen=True)
class Estimate:
    """A figure and its bootstrap interval over patients.

    Attributes:
        value: None where the figure is undefined.
        low: lower end of the interval; None where there is none.
        high: upper end.
        n_resamples: resamples that the interval rests on; 0 where there is none.
        reason: why there is no value, or no interval; None where there are both.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    n_resamples: int = 0
    reason: str | None = None


@dataclass(frozen=True)
class Detection:
    """Everything in numbers; a figure that the cases do not allow is None with its reason.

    Attributes:
        n: cases: slices, or scans.
        n_positive: of them, positive.
        n_patients: whose they are.
        n_positive_patients: of them, with a positive case.
        auc: area under the ROC curve, ties counting half.
        average_precision: area under the precision-recall curve as a sum of steps; its chance level is the share of
            positive cases.
        brier: mean squared difference of probability and outcome. Source: Brier, Monthly Weather Review 78(1), 1950.
        calibration_error: expected calibration error over N_BINS bins of equal width. Source: Guo et al. 2017, arXiv
            1706.04599, equation 3. It counts noise as error, and resampling adds some: the interval lies a little high.
        operating_point: a probability at or above it is a finding; None where none was given.
        sensitivity: share of the positive cases that are found, at the operating point.
        specificity: share of the negative cases that are not found.
        ppv: share of what is found that is positive.
        npv: share of what is not found that is negative.
    """

    n: int
    n_positive: int
    n_patients: int
    n_positive_patients: int
    auc: Estimate
    average_precision: Estimate
    brier: Estimate
    calibration_error: Estimate
    operating_point: float | None
    sensitivity: Estimate
    specificity: Estimate
    ppv: Estimate
    npv: Estimate


@dataclass(frozen=True, eq=False)
class Curve:
    """A curve through one point for each distinct probability, and where it lies in most resamples.

    Attributes:
        x: of the points, rising: false-positive rate, or recall.
        y: of the points: sensitivity, or precision.
        grid: where on the x axis the band is known, rising from 0 to 1.
        low: lower end of the band, pointwise; None where there is none.
        high: upper end.
        reason: why there is no band; None where there is one.
    """

    x: Float64[Tensor, " points"]
    y: Float64[Tensor, " points"]
    grid: Float64[Tensor, " grid"]
    low: Float64[Tensor, " grid"] | None
    high: Float64[Tensor, " grid"] | None
    reason: str | None


@dataclass(frozen=True, eq=False)
class Curves:
    """The ROC and the precision-recall curve of the same cases."""

    roc: Curve
    precision_recall: Curve


@dataclass(frozen=True)
class ReliabilityBin:
    """The cases whose probabilities lie in [low, high), or [low, 1] in the last bin.

    Attributes:
        low: lower end of the bin.
        high: upper end.
        n: cases in it.
        n_positive: of them, positive.
        mean_probability: of the cases; None where there are none.
        share: of positive cases.
    """

    low: float
    high: float
    n: int
    n_positive: int
    mean_probability: float | None
    share: Estimate


def auc(scores: Float[Tensor, " cases"], labels: Bool[Tensor, " cases"]) -> float:
    """Area under the ROC curve: the chance that a positive scores above a negative, ties counting half.

    Raises:
        ValueError: where the labels are all alike.
    """
    if not labels.any() or labels.all():
        raise ValueError(f"expected positive and negative cases; got {int(labels.sum())} positive of {len(labels)}")
    return float(_roc_areas(*_Ranking(scores, labels).observed()))


def detection(
    probabilities: Float[Tensor, " cases"],
    labels: Bool[Tensor, " cases"],
    patients: Sequence[str],
    operating_point: float | None = None,
    *,
    why_no_point: str = NO_POINT,
) -> Detection:
    """Hold probabilities against what is true.

    Args:
        probabilities: in [0, 1]; no case is a case too.
        labels: which cases are positive.
        patients: whose case each is.
        operating_point: a probability at or above it is a finding; None leaves the four rates out.
        why_no_point: the reason that they then state.

    Raises:
        ValueError: where lengths differ, or something is no probability.
    """
    cases = _Cases(probabilities, labels, patients)
    roc_areas, precision_areas = cases.areas()
    if operating_point is None:
        rates = [Estimate(None, reason=why_no_point)] * 4
    else:
        found = probabilities >= operating_point
        rates = [
            cases.ratio(found & labels, labels, "no case is positive"),
            cases.ratio(~found & ~labels, ~labels, "no case is negative"),
            cases.ratio(found & labels, found, "nothing is found at this operating point"),
            cases.ratio(~found & ~labels, ~found, "everything is found at this operating point"),
        ]
    squared = (probabilities.double() - labels.double()).square()
    everything = torch.ones_like(labels)
    return Detection(
        n=len(labels),
        n_positive=int(labels.sum()),
        n_patients=cases.n_patients,
        n_positive_patients=cases.n_patients_with(labels),
        auc=roc_areas,
        average_precision=precision_areas,
        brier=cases.ratio(squared, everything, "there is no case"),
        calibration_error=cases.calibration_error(),
        operating_point=operating_point,
        sensitivity=rates[0],
        specificity=rates[1],
        ppv=rates[2],
        npv=rates[3],
    )


def detection_curves(
    probabilities: Float[Tensor, " cases"], labels: Bool[Tensor, " cases"], patients: Sequence[str]
) -> Curves:
    """The ROC and precision-recall curves, each with a pointwise band over patients.

    The ROC curve runs straight between its points and begins at (0, 0). Precision is a step function of recall, as
    average precision sums it: straight lines between its points would flatter (Davis and Goadrich, ICML 2006).

    Args:
        probabilities: in [0, 1].
        labels: which cases are positive.
        patients: whose case each is.

    Raises:
        ValueError: where the labels are all alike (there is no curve), lengths differ, or something is no probability.
    """
    cases = _Cases(probabilities, labels, patients)
    if not labels.any() or labels.all():
        raise ValueError(f"expected positive and negative cases; got {int(labels.sum())} positive of {len(labels)}")
    true, false = (counts[0] for counts in cases.ranking.observed())
    reason = cases.lack_of_patients(labels, ~labels)
    (roc_low, roc_high), (low, high) = ((None, None), (None, None)) if reason else cases.bands()
    recall, found = true[1:] / true[-1], true[1:] + false[1:]
    return Curves(
        Curve(false / false[-1], true / true[-1], _GRID, roc_low, roc_high, reason),
        Curve(recall, true[1:] / found, _GRID, low, high, reason),
    )


def reliability(
    probabilities: Float[Tensor, " cases"], labels: Bool[Tensor, " cases"], patients: Sequence[str]
) -> tuple[ReliabilityBin, ...]:
    """N_BINS bins of equal width: what was said in each, and how often it came true.

    Args:
        probabilities: in [0, 1].
        labels: which cases are positive.
        patients: whose case each is.

    Raises:
        ValueError: where lengths differ, or something is no probability.
    """
    cases = _Cases(probabilities, labels, patients)
    bins = []
    for k in range(N_BINS):
        inside = cases.bin == k
        n = int(inside.sum())
        mean = float(probabilities[inside].double().mean()) if n else None
        share = cases.ratio(inside & labels, inside, "no case lies in this bin")
        bins.append(ReliabilityBin(k / N_BINS, (k + 1) / N_BINS, n, int((inside & labels).sum()), mean, share))
    return tuple(bins)


class _Ranking:
    """Cases from the most to the least probable, and what lies at or above each distinct score."""

    def __init__(self, scores: Float[Tensor, " cases"], labels: Bool[Tensor, " cases"]) -> None:
        ranked, self.order = scores.sort(descending=True, stable=True)
        _, ties = torch.unique_consecutive(ranked, return_counts=True)
        self._last = ties.cumsum(0) - 1
        self._positive = labels[self.order]

    def observed(self) -> tuple[Float64[Tensor, "1 points"], Float64[Tensor, "1 points"]]:
        """Positive and negative cases at or above each distinct score, from none to all."""
        return self.weighted(torch.ones(1, len(self.order), dtype=torch.float64))

    def weighted(
        self, weights: Float64[Tensor, "resamples cases"]
    ) -> tuple[Float64[Tensor, "resamples points"], Float64[Tensor, "resamples points"]]:
        """The same, each case of the ranking counted as often as its weight says."""
        true = (weights * self._positive).cumsum(1)[:, self._last]
        found = weights.cumsum(1)[:, self._last]
        none = torch.zeros(len(weights), 1, dtype=torch.float64)
        return torch.cat([none, true], dim=1), torch.cat([none, found - true], dim=1)


def _roc_areas(true: Float64[Tensor, "n points"], false: Float64[Tensor, "n points"]) -> Float64[Tensor, " n"]:
    """Trapezoids, so that ties count half. NaN where a class is missing."""
    trapezoids = (false.diff(dim=1) * (true[:, 1:] + true[:, :-1])).sum(dim=1) / 2
    return trapezoids / (true[:, -1] * false[:, -1])


def _precision_areas(true: Float64[Tensor, "n points"], false: Float64[Tensor, "n points"]) -> Float64[Tensor, " n"]:
    """Sum of precision times the recall it adds. NaN where a class is missing."""
    precision = true[:, 1:] / (true[:, 1:] + false[:, 1:]).clamp_min(1)
    areas = (true.diff(dim=1) * precision).sum(dim=1) / true[:, -1]
    return torch.where(false[:, -1] > 0, areas, torch.nan)


class _Cases:
    """Cases with their patients, and how often each patient is drawn in each resample."""

    def __init__(
        self, probabilities: Float[Tensor, " cases"], labels: Bool[Tensor, " cases"], patients: Sequence[str]
    ) -> None:
        if not len(probabilities) == len(labels) == len(patients):
            got = f"{len(probabilities)}, {len(labels)} and {len(patients)}"
            raise ValueError(f"expected as many probabilities as labels and patients; got {got}")
        if not bool(((probabilities >= 0) & (probabilities <= 1)).all()):
            raise ValueError("expected probabilities in [0, 1]; got one that is none")
        self._labels, self._probabilities = labels, probabilities.double()
        names, of_case = np.unique(np.asarray(patients, dtype=np.str_), return_inverse=True)
        self.n_patients = len(names)
        self._patient: Int64[Tensor, " cases"] = torch.from_numpy(of_case).long()
        self.ranking = _Ranking(probabilities, labels)
        self.bin = (self._probabilities * N_BINS).long().clamp_max(N_BINS - 1)
        draws = np.full(max(1, self.n_patients), 1 / max(1, self.n_patients))
        counts = np.random.default_rng(_SEED).multinomial(self.n_patients, draws, size=N_RESAMPLES)
        self._drawn = torch.from_numpy(counts).double()

    def n_patients_with(self, cases: Bool[Tensor, " cases"]) -> int:
        """How many patients have any of these cases."""
        return int((self._by_patient(cases[:, None])[:, 0] > 0).sum())

    def lack_of_patients(self, *kinds: Bool[Tensor, " cases"]) -> str | None:
        """Why there is no interval for a figure that speaks of these kinds of cases; None where there is one."""
        n = min(self.n_patients_with(kind) for kind in kinds)
        return None if n >= MIN_PATIENTS else f"an interval needs {MIN_PATIENTS} patients of each kind; got {n}"

    def ratio(self, part: Tensor, whole: Bool[Tensor, " cases"], undefined: str) -> Estimate:
        """The sum of a quantity over the number of the cases it is taken from."""
        if not whole.any():
            return Estimate(None, reason=undefined)
        of_patients = self._by_patient(torch.stack([part.double(), whole.double()], dim=1))
        parts, wholes = (self._drawn @ of_patients).unbind(dim=1)
        total, count = of_patients.sum(dim=0).tolist()
        return _estimate(total / count, parts / wholes, self.lack_of_patients(whole))

    def calibration_error(self) -> Estimate:
        """Mean distance between what is said and what comes true in each bin, weighted with the bins' cases."""
        n = len(self._labels)
        if n == 0:
            return Estimate(None, reason="there is no case")
        excess = torch.zeros(n, N_BINS, dtype=torch.float64)
        excess[torch.arange(n), self.bin] = self._probabilities - self._labels.double()
        of_patients = self._by_patient(excess)
        resampled = (self._drawn @ of_patients).abs().sum(dim=1) / (self._drawn @ self._by_patient(torch.ones(n, 1)))[
            :, 0
        ]
        value = float(of_patients.sum(dim=0).abs().sum() / n)
        return _estimate(value, resampled, self.lack_of_patients(torch.ones_like(self._labels)))

    def areas(self) -> tuple[Estimate, Estimate]:
        """Under the ROC and under the precision-recall curve."""
        labels = self._labels
        if not labels.any() or labels.all():
            kind = "there is no case" if len(labels) == 0 else "no case is positive"
            nothing = Estimate(None, reason="no case is negative" if labels.any() else kind)
            return nothing, nothing
        reason = self.lack_of_patients(labels, ~labels)
        areas = (_roc_areas, _precision_areas)
        observed = [float(area(*self.ranking.observed())) for area in areas]
        # One block, not a list that grows: small pieces kept between large ones held gigabytes of heap open.
        resampled = torch.full((len(areas), N_RESAMPLES), torch.nan, dtype=torch.float64)
        done = 0
        for true, false in () if reason else self._curves():
            for of_resamples, area in zip(resampled, areas, strict=True):
                of_resamples[done : done + len(true)] = area(true, false)
            done += len(true)
        return _estimate(observed[0], resampled[0], reason), _estimate(observed[1], resampled[1], reason)

    def bands(self) -> list[tuple[Float64[Tensor, " grid"], Float64[Tensor, " grid"]]]:
        """Of the ROC and of the precision-recall curve: pointwise quantiles over resamples."""
        grid, first = _GRID.numpy(), np.maximum(_GRID.numpy(), np.finfo(np.float64).tiny)
        resampled = np.empty((2, N_RESAMPLES, len(grid)))
        done = 0
        for true, false in self._curves():
            both = (true[:, -1] > 0) & (false[:, -1] > 0)
            for hits, alarms in zip(true[both].numpy(), false[both].numpy(), strict=True):
                recall = hits / hits[-1]
                at = np.searchsorted(recall, first)
                resampled[0, done] = np.interp(grid, alarms / alarms[-1], recall)
                resampled[1, done] = hits[at] / (hits[at] + alarms[at])
                done += 1
        ends = (np.quantile(of_curve[:done], _ENDS, axis=0) for of_curve in resampled)
        return [(torch.from_numpy(low), torch.from_numpy(high)) for low, high in ends]

    def _curves(self) -> Iterator[tuple[Tensor, Tensor]]:
        """What lies at or above each distinct score in each resample, some resamples at a time."""
        of_ranked = self._patient[self.ranking.order]
        step = max(1, _CHUNK // len(of_ranked))
        for start in range(0, N_RESAMPLES, step):
            yield self.ranking.weighted(self._drawn[start : start + step, of_ranked])

    def _by_patient(self, of_cases: Tensor) -> Float64[Tensor, "patients quantities"]:
        sums = torch.zeros(self.n_patients, of_cases.shape[1], dtype=torch.float64)
        return sums.index_add_(0, self._patient, of_cases.double())


def _estimate(value: float, resampled: Tensor, lack: str | None) -> Estimate:
    """A value with its percentile interval; resamples without a value are dropped."""
    defined = resampled[resampled.isfinite()]
    if lack is None and len(defined) and defined.max() == defined.min():
        lack = "all resamples are equal: they show no spread"
    if lack is not None:
        return Estimate(value, reason=lack)
    low, high = np.quantile(defined.numpy(), _ENDS)
    return Estimate(value, float(low), float(high), len(defined))
