"""From trained logits to honest numbers: the scan's context, a temperature, a scan's own probability, and the operating
point that reaches a sensitivity. Everything is chosen on slice labels of the tuning set; no mask is looked at.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from scipy.optimize import minimize
from torch import Tensor

from hgisam.evaluate.detection import auc
from hgisam.model.scan_head import ScanHead, scan_features
from hgisam.segment import in_scan_context

log = logging.getLogger(__name__)

CONTEXTS = (0.0, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0)
"""Weights of the scan's context to choose from."""

SCAN_HEADS: tuple[tuple[int, ...], ...] = ((0,), (1,), (2,), (0, 1, 2, 3))
"""Features of `hgisam.model.scan_head` to choose from: the highest slice, the mean of the 3 or 8 highest, or all."""

MIN_SCANS = 3
"""A scan head is fitted where there are scans of each kind from at least so many patients."""

_RIDGE = 0.02
"""Penalty on the squared weights of a scan head, so that scans that can be told apart leave them finite."""


@dataclass(frozen=True, eq=False)
class ScoredScan:
    """What a network says of the slices of one scan, and what is true.

    Attributes:
        log_odds: not calibrated.
        labels: which slices are positive; False where unknown.
        known: of which that is known.
        bled: whether the scan holds hemorrhage, also in slices that are not scored; None where that is not known.
        patient: whose scan it is; None where it is the only one of its patient.
        n_unseen: positive slices that are not scored, since they show no brain: whatever the cut-off, they are missed.
    """

    log_odds: Float[Tensor, " slices"]
    labels: Bool[Tensor, " slices"]
    known: Bool[Tensor, " slices"]
    bled: bool | None
    patient: str | None = None
    n_unseen: int = 0


class Calibration(BaseModel):
    """What turns a network's log-odds into probabilities and findings; kept with its weights. The default: nothing."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    scan_context: float = Field(default=0.0, ge=0)
    """How much a scan's highest slices count in each of its slices."""
    temperature: float = Field(default=1.0, gt=0)
    """Divides the log-odds."""
    offset: float = Field(default=0.0, allow_inf_nan=False)
    """Taken from the log-odds before they are divided."""
    scan_head: ScanHead = ScanHead()
    """From the slices' log-odds to the scan's."""
    operating_point: float = Field(default=0.5, ge=0, le=1)
    """Slice probability from which a slice counts as positive."""

    def log_odds(self, raw: Float[Tensor, " slices"]) -> Float[Tensor, " slices"]:
        """Calibrated log-odds of a scan's slices."""
        return (in_scan_context(raw, self.scan_context) - self.offset) / self.temperature


def calibrate(scans: Sequence[ScoredScan], sensitivity: float) -> Calibration:
    """Choose everything on scored scans, one after the other.

    The weight of the scan's context with the best AUC over slices; temperature and offset that then fit the labels; the
    scan head; and the operating point that finds a share of the positive slices, with those that show no brain among
    them. Where these alone are too many for that, it finds all others, and a warning says so.

    Args:
        scans: of the tuning set; a patient may have several.
        sensitivity: the share of all positive slices to find, in (0, 1].

    Raises:
        ValueError: where the labels are all alike.
    """
    labels = torch.cat([scan.labels[scan.known] for scan in scans])

    def in_context(weight: float) -> Tensor:
        return torch.cat([in_scan_context(scan.log_odds, weight)[scan.known] for scan in scans])

    found = {weight: auc(in_context(weight), labels) for weight in CONTEXTS}
    context = max(found, key=lambda weight: found[weight])
    temperature, offset = fit_temperature(in_context(context), labels)
    fitted = Calibration(scan_context=context, temperature=temperature, offset=offset)
    slices = [fitted.log_odds(scan.log_odds) for scan in scans]
    told = [
        (log_odds, scan.bled, scan.patient)
        for log_odds, scan in zip(slices, scans, strict=True)
        if scan.bled is not None
    ]
    of_scans, bled, patients = [one[0] for one in told], [one[1] for one in told], [one[2] for one in told]
    head = fit_scan_head(of_scans, bled, patients)
    known = torch.cat([log_odds[scan.known] for log_odds, scan in zip(slices, scans, strict=True)])
    point = pick_operating_point(known.sigmoid(), labels, sensitivity, n_unseen=sum(scan.n_unseen for scan in scans))
    return fitted.model_copy(update={"scan_head": head, "operating_point": point})


def slice_auc(scans: Sequence[ScoredScan]) -> float:
    """AUC over the known slices of scans, as they are scored.

    Raises:
        ValueError: where the labels are all alike.
    """
    log_odds, labels = (torch.cat([getattr(s, name)[s.known] for s in scans]) for name in ("log_odds", "labels"))
    return auc(log_odds, labels)


def fit_scan_head(
    slices: Sequence[Float[Tensor, " _slices"]], bled: Sequence[bool], patients: Sequence[str | None] | None = None
) -> ScanHead:
    """The scan head that predicts scans of left-out patients best: logistic regression on some of the features, by
    log-loss.

    Where there are fewer than MIN_SCANS of a kind nothing is fitted, and the highest slice speaks for its scan.

    Args:
        slices: calibrated log-odds of each scan's slices; scans without slices are passed over.
        bled: which scans hold hemorrhage.
        patients: whose each scan is, so that no patient is predicted by another scan of theirs; None, of a scan or of
            all, where it is the only one of its patient.
    """
    named = [None] * len(slices) if patients is None else patients
    groups = [(patient, number if patient is None else None) for number, patient in enumerate(named)]
    kept = [
        (scan_features(log_odds), was, group)
        for log_odds, was, group in zip(slices, bled, groups, strict=True)
        if len(log_odds)
    ]
    wanted = np.array([was for _, was, _ in kept], dtype=np.float64)
    if min(len({group for _, was, group in kept if was == kind}) for kind in (False, True)) < MIN_SCANS:
        return ScanHead()
    features = torch.stack([found for found, _, _ in kept]).numpy()
    costs = {}
    for columns in SCAN_HEADS:
        cost = 0.0
        for left_out in dict.fromkeys(group for _, _, group in kept):
            out = np.array([group == left_out for _, _, group in kept])
            weights = _logistic(features[~out][:, columns], wanted[~out])
            cost += out.sum() * _log_loss(weights, features[out][:, columns], wanted[out])
        costs[columns] = cost
    best = min(costs, key=lambda columns: costs[columns])
    found = _logistic(features[:, best], wanted)
    weights = np.zeros(features.shape[1])
    weights[list(best)] = found[1:]
    first, second, third, last = (round(float(weight), 6) for weight in weights)
    return ScanHead(weights=(first, second, third, last), bias=round(float(found[0]), 6))


def _logistic(features: NDArray[np.float64], wanted: NDArray[np.float64]) -> NDArray[np.float64]:
    """Bias and weights of a logistic regression with a small ridge on the weights."""

    def cost(weights: NDArray[np.float64]) -> float:
        return float(_log_loss(weights, features, wanted) + _RIDGE * (weights[1:] ** 2).sum())

    found: NDArray[np.float64] = minimize(cost, np.zeros(features.shape[1] + 1), method="BFGS").x
    return found


def _log_loss(weights: NDArray[np.float64], features: NDArray[np.float64], wanted: NDArray[np.float64]) -> float:
    log_odds = weights[0] + features @ weights[1:]
    return float(np.mean(np.logaddexp(0.0, log_odds) - wanted * log_odds))


def fit_temperature(logits: Float[Tensor, " slices"], labels: Bool[Tensor, " slices"]) -> tuple[float, float]:
    """The temperature in [0.05, 20] and the offset with which (logit - offset) / temperature fits the labels best.

    Training shows about as many positive slices as negative ones, patients have a tenth of them: that is the offset.

    Source: Guo et al. 2017, arXiv 1706.04599 (temperature scaling); with an offset: Platt 1999.

    Raises:
        ValueError: where the labels are all alike, since then any temperature fits better than the last.
    """
    _check_both_kinds(labels)
    given, wanted = logits.double().numpy(), labels.double().numpy()

    def cost(parameters: NDArray[np.float64]) -> float:
        log_temperature, offset = parameters
        return _log_loss(np.array([0.0, 1.0]), ((given - offset) / np.exp(log_temperature))[:, None], wanted)

    limit = float(np.log(20.0))
    start = np.array([0.0, float(given.mean())])
    found = minimize(cost, start, method="L-BFGS-B", bounds=[(-limit, limit), (None, None)]).x
    return float(np.exp(found[0])), float(found[1])


def pick_operating_point(
    probabilities: Float[Tensor, " slices"], labels: Bool[Tensor, " slices"], sensitivity: float, n_unseen: int = 0
) -> float:
    """The highest probability cut-off (>=) at which at least this share of the positive slices is found.

    Where no cut-off finds as many, the highest that finds all that can be found, and a warning.

    Args:
        probabilities: in [0, 1].
        labels: which slices are positive.
        sensitivity: the share to find, in (0, 1].
        n_unseen: positive slices beside these that are missed at any cut-off.

    Raises:
        ValueError: where the labels are all alike.
    """
    _check_both_kinds(labels)
    positive = probabilities[labels].sort(descending=True).values
    n = len(positive) + n_unseen
    needed = int(torch.tensor(sensitivity * n).sub(1e-6).ceil().clamp_min(1))
    if needed > len(positive):
        log.warning(
            "operating point: expected to find %g of %d positive slices; %d of them show no brain, so it finds the"
            " other %d, at the cost of specificity; lower train.sensitivity",
            sensitivity, n, n_unseen, len(positive),
        )  # fmt: skip
    return float(positive[min(needed, len(positive)) - 1])


def _check_both_kinds(labels: Tensor) -> None:
    if not labels.any() or labels.all():
        raise ValueError(f"expected positive and negative slices; got {int(labels.sum())} positive of {len(labels)}")
