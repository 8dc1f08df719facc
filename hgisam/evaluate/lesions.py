"""Single lesions: which of them were found, which predicted ones are right, and how large they are.

A lesion is a connected component of a mask, voxels touching by a face, an edge or a corner (26 neighbours). One of the
reference is found where the prediction covers at least MIN_COVERED of it; one of the prediction is right where the
reference covers as much. So a voxel in common is no finding, and a flood over everything finds all but is not right.
"""

from dataclasses import dataclass
from functools import cached_property

import cc3d
import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch import Tensor

MIN_COVERED = 0.1
"""Share of a lesion that the other mask must hold. Source: alpha of Commowick et al., Sci Rep 8:13650, 2018."""


@dataclass(frozen=True)
class Lesions:
    """The lesions of one mask, held against another.

    Attributes:
        n_voxels: of each lesion.
        n_covered: of these, in the other mask.
        volumes_ml: of each lesion.
    """

    n_voxels: tuple[int, ...]
    n_covered: tuple[int, ...]
    volumes_ml: tuple[float, ...]

    @cached_property
    def covered(self) -> tuple[bool, ...]:
        """Of each lesion: whether the other mask holds at least MIN_COVERED of it."""
        return tuple(part >= MIN_COVERED * n for n, part in zip(self.n_voxels, self.n_covered, strict=True))

    @property
    def n(self) -> int:
        """How many there are."""
        return len(self.n_voxels)

    @property
    def share_covered(self) -> float | None:
        """Share of the lesions that are covered; None where there is none."""
        return sum(self.covered) / self.n if self.n else None


@dataclass(frozen=True)
class LesionScore:
    """The lesions of both masks.

    Empty masks: without a reference lesion the sensitivity is undefined (None), without a predicted one the precision;
    F1 is undefined where both masks are empty, and 0 where one is.

    Attributes:
        reference: covered ones are found.
        prediction: covered ones are right.
    """

    reference: Lesions
    prediction: Lesions

    @property
    def sensitivity(self) -> float | None:
        """Share of the reference lesions that are found."""
        return self.reference.share_covered

    @property
    def precision(self) -> float | None:
        """Share of the predicted lesions that are right."""
        return self.prediction.share_covered

    @property
    def f1(self) -> float | None:
        """Harmonic mean of lesion sensitivity and lesion precision. Source: Commowick et al. 2018, equation 5."""
        if not self.reference.n and not self.prediction.n:
            return None
        sensitivity, precision = self.sensitivity or 0.0, self.precision or 0.0
        return 2 * sensitivity * precision / (sensitivity + precision) if sensitivity + precision else 0.0


def match_lesions(
    prediction: Bool[Tensor, "depth height width"],
    reference: Bool[Tensor, "depth height width"],
    voxel_ml: float | Float[Tensor, " depth"],
) -> LesionScore:
    """Hold the lesions of two masks against each other; for empty masks see `LesionScore`.

    Args:
        prediction: the mask to judge.
        reference: the mask to judge it by.
        voxel_ml: volume of one voxel in mL; of uneven slices, of a voxel of each.
    """
    predicted, referenced = prediction.numpy(), reference.numpy()
    slice_ml = np.broadcast_to(np.asarray(voxel_ml, dtype=np.float64), (len(predicted),))
    return LesionScore(
        reference=_lesions(referenced, predicted, slice_ml), prediction=_lesions(predicted, referenced, slice_ml)
    )


def _lesions(mask: NDArray[np.bool_], other: NDArray[np.bool_], slice_ml: NDArray[np.float64]) -> Lesions:
    shown = [np.flatnonzero(mask.any(axis=axes)) for axes in ((1, 2), (0, 2), (0, 1))]
    if not shown[0].size:
        return Lesions((), (), ())
    box = tuple(slice(found[0], found[-1] + 1) for found in shown)
    labels, n = cc3d.connected_components(np.ascontiguousarray(mask[box]), connectivity=26, return_N=True)
    n_voxels = np.bincount(labels.ravel(), minlength=n + 1)[1:]
    n_covered = np.bincount(labels[other[box]], minlength=n + 1)[1:]
    by_slice = np.stack([np.bincount(plane.ravel(), minlength=n + 1)[1:] for plane in labels])
    volumes_ml = slice_ml[box[0]] @ by_slice
    return Lesions(tuple(n_voxels.tolist()), tuple(n_covered.tolist()), tuple(volumes_ml.tolist()))
