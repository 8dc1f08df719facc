"""The connected pieces of a mask: where to cut them, which the map points at, and which are too small to tell."""

import math
from collections.abc import Sequence

import cc3d
import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt, find_objects
from torch import Tensor

CONNECTIVITY = 18
"""Voxels that share a face or an edge are one component: a thin oblique crescent stays whole."""


def box_about(mask: NDArray[np.bool_], spacing_mm: Sequence[float], margin_mm: float) -> tuple[slice, ...] | None:
    """The box of whole axes ranges that holds a mask of any number of axes, and a margin about it; None for no mask.

    Args:
        mask: the mask.
        spacing_mm: of each axis; one without a margin has infinite spacing.
        margin_mm: how far the box reaches beyond the mask, where there is something.
    """
    boxes = find_objects(mask.view(np.uint8))
    if not boxes:
        return None
    margins = [math.ceil(margin_mm / mm) for mm in spacing_mm]
    return tuple(slice(max(0, box.start - n), box.stop + n) for box, n in zip(boxes[0], margins, strict=True))


def split_at_necks(
    mask: Bool[Tensor, "depth height width"], spacing_mm: tuple[float, float], neck_mm: float
) -> NDArray[np.int64]:
    """The pieces of a mask: its connected components, cut where they are thin between two thicker parts.

    What lies deeper than neck_mm below the outline in its slice falls into cores; a component with several is shared
    out, each voxel to the nearest core in plane, in slices that hold none to the piece it touches.

    Args:
        mask: the mask to cut.
        spacing_mm: in-plane, rows then columns.
        neck_mm: half the greatest width of a neck; 0 for no cut.

    Returns:
        Each voxel's piece, from 1; 0 outside the mask.
    """
    whole = _labelled(mask)
    if neck_mm == 0 or not whole.any():
        return whole
    deep = np.zeros(whole.shape, dtype=np.bool_)
    boxes = [box_about(plane, spacing_mm, 0.0) for plane in mask.numpy()]
    for plane, box, is_deep in zip(whole, boxes, deep, strict=True):
        if box is not None:
            depth_mm = distance_transform_edt(np.pad(plane[box] > 0, 1), sampling=spacing_mm)[1:-1, 1:-1]
            is_deep[box] = depth_mm > neck_mm
    cores = _labelled(torch.from_numpy(deep))
    owner = np.zeros(int(cores.max()) + 1, dtype=np.int64)
    owner[cores] = whole
    shared = np.zeros_like(whole)
    for index in np.flatnonzero(deep.any(axis=(1, 2))).tolist():
        box = boxes[index]
        own, core = whole[index][box], cores[index][box]
        where = distance_transform_edt(core == 0, sampling=spacing_mm, return_distances=False, return_indices=True)
        nearest = core[tuple(where)]
        shared[index][box] = np.where((own > 0) & (owner[nearest] == own), nearest, 0)
    rest = _labelled(torch.from_numpy((whole > 0) & (shared == 0)))
    return np.where(rest > 0, rest + cores.max(), shared)


def chosen_components(
    pieces: NDArray[np.int64], rank: NDArray[np.float64], min_share: float, best: float | None = None
) -> NDArray[np.int64]:
    """The pieces of a mask that the map points at most, whole.

    Args:
        pieces: each voxel's piece, from 1; 0 where there is none.
        rank: of each piece, as `ranks` gives it.
        min_share: a piece is kept where it ranks at least at this share of the best one.
        best: what counts as the rank of the best one, where others than these have been chosen before; None for theirs.

    Returns:
        Each kept voxel's piece; all 0 where none has a rank above 0.
    """
    kept = (rank > 0) & (rank >= min_share * (rank.max() if best is None else best))
    return np.where(kept[pieces], pieces, 0)


def ranks(pieces: NDArray[np.int64], saliency: NDArray[np.float32], min_mean: float) -> NDArray[np.float64]:
    """How much the map points at each piece, from 0, which is nothing: the geometric mean of saliency's sum and mean.

    The sum is sturdier than any threshold on the map, which one hot spot can set, but size alone brings it; the mean
    alone would leave out large bleeds, over which the map spreads thin.

    Args:
        pieces: each voxel's piece, from 1; 0 where there is none.
        saliency: in [0, 1] on the same grid.
        min_mean: pieces over which the mean is less than this share of the highest saliency of all have rank 0.
    """
    sums = np.bincount(pieces.ravel(), weights=saliency.ravel().astype(np.float64))
    sums[0] = 0.0
    sizes = np.maximum(np.bincount(pieces.ravel()), 1)
    rank: NDArray[np.float64] = np.where(
        sums >= min_mean * saliency.max(initial=0.0) * sizes, sums / np.sqrt(sizes), 0.0
    )
    return rank


def remove_small_components(
    mask: Bool[Tensor, "depth height width"], voxel_mm3: Float[Tensor, " depth"], min_component_mm3: float
) -> Bool[Tensor, "depth height width"]:
    """The mask without its connected components below a volume in mm3; an empty mask stays empty.

    Args:
        mask: the mask to clean.
        voxel_mm3: volume of a voxel of each slice; where it is unknown (NaN), nothing is removed.
        min_component_mm3: the smallest volume that stays.
    """
    if bool(voxel_mm3.isnan().any()):
        return mask.clone()
    if bool((voxel_mm3 != voxel_mm3[0]).any()):
        return _without_small(mask, voxel_mm3, min_component_mm3)
    min_voxels = int(np.ceil(min_component_mm3 / float(voxel_mm3[0]) - 1e-9))
    if min_voxels <= 1:
        return mask.clone()
    kept = cc3d.dust(mask.numpy(), threshold=min_voxels, connectivity=CONNECTIVITY)  # type: ignore[call-overload]
    return torch.from_numpy(np.ascontiguousarray(kept, dtype=bool))


def _without_small(
    mask: Bool[Tensor, "depth height width"], voxel_mm3: Float[Tensor, " depth"], min_component_mm3: float
) -> Bool[Tensor, "depth height width"]:
    """The same where voxels differ in size from slice to slice."""
    labels = _labelled(mask)
    sizes_mm3 = np.zeros(int(labels.max()) + 1)
    for plane, mm3 in zip(labels, voxel_mm3.tolist(), strict=True):
        sizes_mm3 += mm3 * np.bincount(plane.ravel(), minlength=len(sizes_mm3))
    kept = sizes_mm3 >= min_component_mm3 * (1 - 1e-9)
    kept[0] = False
    return torch.from_numpy(kept[labels])


def _labelled(mask: Bool[Tensor, "depth height width"]) -> NDArray[np.int64]:
    """The number of each voxel's connected component, from 1; 0 where there is none."""
    labels: NDArray[np.uint32] = cc3d.connected_components(mask.numpy(), connectivity=CONNECTIVITY)  # type: ignore[call-overload]
    return labels.astype(np.int64)
