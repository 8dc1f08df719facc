"""From the slices of a scan to the scan: one log-odds from many."""

import torch
from jaxtyping import Float, Float64
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

TOP_SLICES = (1, 3, 8)
"""The features of a scan are the means of so many of its highest slices, and of all of them."""


class ScanHead(BaseModel):
    """Log-odds of a scan: a bias, and weighted means of the log-odds of its highest slices.

    The default is the highest slice.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    weights: tuple[float, float, float, float] = (1.0, 0.0, 0.0, 0.0)
    """Of the mean of the highest, the 3 highest, the 8 highest, and all slices."""
    bias: float = Field(default=0.0, allow_inf_nan=False)
    """Added."""

    def __call__(self, log_odds: Float[Tensor, " slices"]) -> Float64[Tensor, ""]:
        """Log-odds of the scan.

        Args:
            log_odds: of its slices, at least one, in any order.
        """
        return scan_features(log_odds) @ torch.tensor(self.weights, dtype=torch.float64) + self.bias


def scan_features(log_odds: Float[Tensor, " slices"]) -> Float64[Tensor, " 4"]:
    """Means of the highest slices of a scan, as many of them as there are, and of all.

    Raises:
        ValueError: without slices.
    """
    if len(log_odds) == 0:
        raise ValueError("expected log-odds of at least one slice; got none")
    falling = log_odds.double().sort(descending=True).values
    return torch.stack([falling[:count].mean() for count in (*TOP_SLICES, len(falling))])
