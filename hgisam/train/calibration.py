"""From trained logits to honest numbers: a temperature, and the operating point that reaches a sensitivity."""

import torch
from jaxtyping import Bool, Float
from scipy.optimize import minimize_scalar
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits


def fit_temperature(logits: Float[Tensor, " slices"], labels: Bool[Tensor, " slices"]) -> float:
    """The temperature in [0.05, 20] by which logits are divided so that probabilities fit the labels best.

    Source: Guo et al. 2017, arXiv 1706.04599 (temperature scaling), for one logit.

    Raises:
        ValueError: where the labels are all alike, since then any temperature fits better than the last.
    """
    _check_both_kinds(labels)
    wanted = labels.double()

    def cost(log_temperature: float) -> float:
        scaled = logits.double() / float(torch.tensor(log_temperature).exp())
        return float(binary_cross_entropy_with_logits(scaled, wanted))

    found = minimize_scalar(cost, bounds=(-3.0, 3.0), method="bounded")
    return float(torch.tensor(found.x).exp())


def pick_operating_point(
    probabilities: Float[Tensor, " slices"], labels: Bool[Tensor, " slices"], sensitivity: float
) -> float:
    """The highest probability cut-off (>=) at which at least this share of the positive slices is found.

    Args:
        probabilities: in [0, 1].
        labels: which slices are positive.
        sensitivity: the share to find, in (0, 1].

    Raises:
        ValueError: where the labels are all alike.
    """
    _check_both_kinds(labels)
    positive = probabilities[labels].sort(descending=True).values
    needed = int(torch.tensor(sensitivity * len(positive)).sub(1e-6).ceil().clamp_min(1))
    return float(positive[needed - 1])


def _check_both_kinds(labels: Tensor) -> None:
    if not labels.any() or labels.all():
        raise ValueError(f"expected positive and negative slices; got {int(labels.sum())} positive of {len(labels)}")
