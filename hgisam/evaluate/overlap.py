"""How far a predicted mask covers a reference mask, with a written policy for empty ones."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
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
        prediction_ml: volume of the prediction in mL; 0 where empty.
        reference_ml: volume of the reference in mL; 0 where empty.
    """

    n_prediction: int
    n_reference: int
    n_both: int
    prediction_ml: float
    reference_ml: float

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
    def difference_ml(self) -> float:
        """Prediction minus reference in mL: above 0 where too much was predicted."""
        return self.prediction_ml - self.reference_ml


def overlap(
    prediction: Bool[Tensor, "..."], reference: Bool[Tensor, "..."], voxel_ml: float | Float[Tensor, " depth"]
) -> Overlap:
    """Compare two masks on one grid, over all their voxels.

    Args:
        prediction: the mask to judge.
        reference: the mask to judge it by.
        voxel_ml: volume of one voxel in mL; of uneven slices, of a voxel of each.

    Raises:
        ValueError: where the shapes differ.
    """
    if prediction.shape != reference.shape:
        raise ValueError(f"expected masks of one shape; got {tuple(prediction.shape)} and {tuple(reference.shape)}")
    return Overlap(
        n_prediction=int(torch.count_nonzero(prediction)),
        n_reference=int(torch.count_nonzero(reference)),
        n_both=int(torch.count_nonzero(prediction & reference)),
        prediction_ml=_volume_ml(prediction, voxel_ml),
        reference_ml=_volume_ml(reference, voxel_ml),
    )


def _volume_ml(mask: Bool[Tensor, "..."], voxel_ml: float | Float[Tensor, " depth"]) -> float:
    if isinstance(voxel_ml, float):
        return int(torch.count_nonzero(mask)) * voxel_ml
    return float(mask.flatten(1).sum(dim=1, dtype=torch.float64) @ voxel_ml)


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None
