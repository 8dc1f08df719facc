"""How far a predicted mask covers a reference mask, with a written policy for empty ones."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Tensor


@dataclass(frozen=True)
class Overlap:
    """Voxel counts of two masks on one grid, and every measure that follows from them.

    Empty masks: where both are empty, Dice and IoU are undefined (None), to be counted and not averaged; where one is
    empty, they are 0. Sensitivity is undefined without a reference voxel, precision without a predicted one.

    Attributes:
        n_prediction: voxels in the prediction.
        n_reference: voxels in the reference.
        n_both: voxels in both.
        voxel_ml: volume of one voxel in mL.
    """

    n_prediction: int
    n_reference: int
    n_both: int
    voxel_ml: float

    @property
    def dice(self) -> float | None:
        """Dice coefficient in [0, 1]: 2 |P and R| / (|P| + |R|). Source: Dice, Ecology 26(3), 1945."""
        return _ratio(2 * self.n_both, self.n_prediction + self.n_reference)

    @property
    def iou(self) -> float | None:
        """Intersection over union in [0, 1]: |P and R| / |P or R|. Source: Jaccard, 1912."""
        return _ratio(self.n_both, self.n_prediction + self.n_reference - self.n_both)

    @property
    def sensitivity(self) -> float | None:
        """Share of the reference that the prediction found, in [0, 1]."""
        return _ratio(self.n_both, self.n_reference)

    @property
    def precision(self) -> float | None:
        """Share of the prediction that the reference holds too, in [0, 1]."""
        return _ratio(self.n_both, self.n_prediction)

    @property
    def prediction_ml(self) -> float:
        """Volume of the prediction in mL; 0 where empty."""
        return self.n_prediction * self.voxel_ml

    @property
    def reference_ml(self) -> float:
        """Volume of the reference in mL; 0 where empty."""
        return self.n_reference * self.voxel_ml

    @property
    def difference_ml(self) -> float:
        """Prediction minus reference in mL: above 0 where too much was predicted."""
        return (self.n_prediction - self.n_reference) * self.voxel_ml


def overlap(prediction: Bool[Tensor, "..."], reference: Bool[Tensor, "..."], voxel_ml: float) -> Overlap:
    """Compare two masks on one grid, over all their voxels.

    Args:
        prediction: the mask to judge.
        reference: the mask to judge it by.
        voxel_ml: volume of one voxel in mL.

    Raises:
        ValueError: where the shapes differ.
    """
    if prediction.shape != reference.shape:
        raise ValueError(f"expected masks of one shape; got {tuple(prediction.shape)} and {tuple(reference.shape)}")
    return Overlap(
        n_prediction=int(torch.count_nonzero(prediction)),
        n_reference=int(torch.count_nonzero(reference)),
        n_both=int(torch.count_nonzero(prediction & reference)),
        voxel_ml=voxel_ml,
    )


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None
