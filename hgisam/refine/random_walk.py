"""Random walk: of a voxel in doubt, does a walker who shuns steps in HU reach blood or brain first?"""

from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool
from numpy.typing import NDArray
from pydantic import Field
from scipy import sparse
from scipy.ndimage import distance_transform_edt
from scipy.sparse.linalg import cg
from torch import Tensor

from hgisam.refine.components import Components
from hgisam.refine.refiner import MappedScan, Refiner

TOLERANCE = 1e-5
"""Relative residual at which the equations count as solved: far below what moves a probability across one half."""

MAX_STEPS = 1000
"""Of conjugate gradients; a thousand times what the few mm around a component take."""

LEAST_WEIGHT = 1e-6
"""Of a step between voxels however different, so that none is cut off."""

CLIPPED_HU = (-30.0, 60.0)
"""Excess beyond these is fluid or dense clot alike."""


class RandomWalk(Refiner):
    """The components that the map points at are blood, brain around them is brain, and the edge lies between.

    The walk decides for the voxels in between: within `reach_mm` of a component and denser than `brain_hu`. Seeds are
    whole components: from the map's hot spots alone, the walk loses most of a bleed. A step's weight falls with the
    difference in HU and with the square of its length in mm.

    Known limit: on unseen phantoms and painted bleeds it was no better than the components alone, and drew more where
    there was no blood (tools/refinement_ablation.py).

    Source: Grady, Random walks for image segmentation, IEEE TPAMI 28(11), 2006.
    """

    method: Literal["random_walk"] = "random_walk"
    """Tells this method from others."""
    start: Components = Components()
    """What finds the components; small pieces are left out at the end alone, by the walk's own `min_component_mm3`."""
    seed_share: float = Field(default=0.0, ge=0, le=1)
    """A component's voxels are blood for certain where saliency is at least this share of its highest; 0 for all."""
    brain_hu: float = Field(default=4.0)
    """HU over what is normal up to which a voxel is brain for certain."""
    reach_mm: float = Field(default=6.0, gt=0)
    """Voxels of a slice beyond this distance from a component, in the slice or in either one beside it, are brain."""
    sigma_hu: float = Field(default=6.0, gt=0)
    """Difference in HU at which a step becomes unlikely."""

    def __call__(self, scan: MappedScan) -> Bool[Tensor, "depth height width"]:
        """See the class."""
        excess = self.start.excess_hu(scan)
        found = self.start.outlined(scan, excess)
        blood = found > 0
        mask = blood.copy()
        if blood.any():
            excess_hu = np.clip(excess.numpy(), *CLIPPED_HU)
            known = np.isfinite(excess.numpy())
            near = _near(blood, scan.spacing_mm, self.reach_mm) & known
            blood &= scan.saliency.numpy() >= self.seed_share * _highest(found, scan.saliency.numpy())[found]
            doubtful = near & ~blood & ((excess_hu > self.brain_hu) | mask)
            reached = _reaches_blood(
                excess_hu, known, blood, doubtful, (scan.distances_mm.numpy(), *scan.spacing_mm), self.sigma_hu
            )
            mask[doubtful] = reached > 0.5
        return self.start.up_to_the_skull(scan, torch.from_numpy(mask))


def _highest(found: NDArray[np.int64], saliency: NDArray[np.float32]) -> NDArray[np.float32]:
    """The highest saliency of each component; of what is none, 0."""
    highest = np.zeros(int(found.max()) + 1, dtype=np.float32)
    np.maximum.at(highest, found[found > 0], saliency[found > 0])
    return highest


def _near(mask: NDArray[np.bool_], spacing_mm: tuple[float, float], reach_mm: float) -> NDArray[np.bool_]:
    """What lies in plane within reach of the mask, or of its shadow in the slices beside it."""
    shadow = mask.copy()
    shadow[1:] |= mask[:-1]
    shadow[:-1] |= mask[1:]
    near = np.zeros_like(mask)
    for index in np.flatnonzero(shadow.any(axis=(1, 2))):
        near[index] = distance_transform_edt(~shadow[index], sampling=spacing_mm) <= reach_mm
    return near


def _reaches_blood(
    excess_hu: NDArray[np.float32],
    known: NDArray[np.bool_],
    blood: NDArray[np.bool_],
    doubtful: NDArray[np.bool_],
    places_mm: tuple[NDArray[np.float64], float, float],
    sigma_hu: float,
) -> NDArray[np.float64]:
    """Per doubtful voxel, the probability that a walker from there meets blood before brain: a sparse linear system."""
    n = int(doubtful.sum())
    number = np.full(doubtful.shape, -1, dtype=np.int64)
    number[doubtful] = np.arange(n)
    degree, to_blood = np.zeros(n), np.zeros(n)
    rows, columns, weights = [], [], []
    steps_mm = np.diff(places_mm[0])[:, None, None], np.array(places_mm[1]), np.array(places_mm[2])
    for axis, step_mm in enumerate(steps_mm):
        lower, upper = _neighbours(axis)
        joined = known[lower] & known[upper] & (doubtful[lower] | doubtful[upper])
        difference = (excess_hu[upper] - excess_hu[lower])[joined].astype(np.float64)
        length_mm = np.broadcast_to(step_mm, joined.shape)[joined]
        weight = (np.exp(-0.5 * (difference / sigma_hu) ** 2) + LEAST_WEIGHT) / length_mm**2
        for here, there in ((lower, upper), (upper, lower)):
            mine, other = number[here][joined], number[there][joined]
            free = mine >= 0
            degree += np.bincount(mine[free], weight[free], n)
            towards = free & blood[there][joined]
            to_blood += np.bincount(mine[towards], weight[towards], n)
            both = free & (other >= 0)
            rows.append(mine[both])
            columns.append(other[both])
            weights.append(-weight[both])
    degree = np.maximum(degree, LEAST_WEIGHT)
    entries = (np.concatenate(weights), (np.concatenate(rows), np.concatenate(columns)))
    laplacian = (sparse.coo_array(entries, shape=(n, n)) + sparse.diags_array(degree)).tocsr()
    solved, _ = cg(laplacian, to_blood, rtol=TOLERANCE, maxiter=MAX_STEPS, M=sparse.diags_array(1.0 / degree))
    return np.asarray(solved)


def _neighbours(axis: int) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Every voxel but the last along an axis, and every voxel but the first."""
    lower = tuple(slice(None, -1) if other == axis else slice(None) for other in range(3))
    upper = tuple(slice(1, None) if other == axis else slice(None) for other in range(3))
    return lower, upper
