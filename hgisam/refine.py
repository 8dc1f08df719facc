"""From a saliency map to a mask: the map says where the blood is, the Hounsfield units say how far it reaches."""

from typing import Literal

import cc3d
import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from hgisam.brain import smoothed_contrast_hu
from hgisam.volume import CTVolume, MaskVolume

CONNECTIVITY = 18
"""Voxels that share a face or an edge are one component: a thin oblique crescent stays whole."""

RING_MM = 1.0
"""Within the rim, tissue is compared at depths that differ by no more than this."""


class RefineOptions(BaseModel):
    """How a saliency map becomes a mask.

    Source of contrast_hu, rim_mm and min_share: best mean volume Dice of ten tuning phantoms, tools/tune_refinement.py.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    method: Literal["components", "threshold"] = "components"
    """`components`: whole 3D components of dense tissue, chosen by the saliency they gather; `threshold`: saliency
    at or above a cut-off, as published."""
    contrast_hu: float = Field(default=12.0, gt=0)
    """HU over the scan's brain median from which tissue counts as dense."""
    ceiling_hu: float = 100.0
    """HU above which a voxel is bone or calcification and says nothing about its surroundings: no clot is denser."""
    smoothing_mm: float = Field(default=0.8, ge=0)
    """In-plane standard deviation of the Gaussian that quiets noise before HU are compared; 0 for none."""
    rim_mm: float = Field(default=8.0, ge=0)
    """Reach of the skull's partial volume and scatter: up to this depth below the region's outline, tissue is compared
    with the median of its slice at the same depth, not with the brain's alone. 0 for the brain alone."""
    min_share: float = Field(default=0.1, ge=0, le=1)
    """A component is kept where its summed saliency is at least this share of the best component's."""
    min_component_mm3: float = Field(default=50.0, ge=0)
    """Components smaller than this are removed."""


def refine(
    saliency: Float[Tensor, "depth height width"],
    volume: CTVolume,
    region: Bool[Tensor, "depth height width"],
    median_hu: float,
    threshold: float,
    options: RefineOptions,
) -> MaskVolume:
    """The hemorrhage mask of a scan from its saliency map. A map of zeros gives an empty mask, and so does one that
    points at no dense tissue, with `components`.

    Args:
        saliency: saliency in [0, 1] on the scan's grid; zero in slices that the gate closed.
        volume: the scan.
        region: the intracranial region.
        median_hu: the scan's brain median.
        threshold: saliency cut-off in (0, 1] of the method `threshold`.
        options: how the mask is made.
    """
    voxels = torch.zeros_like(region)
    bounds = _bounding_box(region & _slices_with(saliency))
    if bounds is not None:
        near = saliency[bounds]
        inside = region[bounds]
        if options.method == "components":
            dense = _dense_tissue(volume.hu[bounds], inside & _slices_with(near), median_hu, volume.spacing_mm, options)
            chosen = choose_components(dense, near, options.min_share)
        else:
            chosen = threshold_mask(near, threshold) & inside
        voxel_mm3 = 1000.0 * volume.slice_voxel_ml[bounds[0]]
        voxels[bounds] = remove_small_components(chosen, voxel_mm3, options.min_component_mm3)
    return MaskVolume(voxels=voxels, affine=volume.affine, source=volume.source, slices=volume.slices)


def threshold_mask(
    saliency: Float[Tensor, "depth height width"], threshold: float
) -> Bool[Tensor, "depth height width"]:
    """Voxels whose saliency is at or above the threshold; a map of zeros gives an empty mask at any threshold.

    Source: HGI-SAM, arXiv 2304.04902 (published threshold 0.05).
    """
    return (saliency >= threshold) & (saliency > 0)


def choose_components(
    candidates: Bool[Tensor, "depth height width"],
    saliency: Float[Tensor, "depth height width"],
    min_share: float,
) -> Bool[Tensor, "depth height width"]:
    """The connected components of a mask that gather the most saliency, whole.

    A sum over a component is sturdier than any threshold on the map, which one hot spot can set.

    Args:
        candidates: voxels that could be blood.
        saliency: saliency in [0, 1] on the same grid.
        min_share: a component is kept where its summed saliency is at least this share of the best one's.

    Returns:
        The chosen components; none where none gathers any saliency.
    """
    labels: NDArray[np.uint32] = cc3d.connected_components(candidates.numpy(), connectivity=CONNECTIVITY)  # type: ignore[call-overload]
    sums = np.bincount(labels.ravel(), weights=saliency.numpy().ravel().astype(np.float64))
    sums[0] = 0.0
    kept = (sums >= min_share * sums.max()) & (sums > 0)
    return torch.from_numpy(kept[labels])


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
    labels: NDArray[np.uint32] = cc3d.connected_components(mask.numpy(), connectivity=CONNECTIVITY)  # type: ignore[call-overload]
    sizes_mm3 = np.zeros(int(labels.max()) + 1)
    for plane, mm3 in zip(labels, voxel_mm3.tolist(), strict=True):
        sizes_mm3 += mm3 * np.bincount(plane.ravel(), minlength=len(sizes_mm3))
    kept = sizes_mm3 >= min_component_mm3 * (1 - 1e-9)
    kept[0] = False
    return torch.from_numpy(kept[labels])


def _dense_tissue(
    hu: Float[Tensor, "depth height width"],
    allowed: Bool[Tensor, "depth height width"],
    median_hu: float,
    spacing_mm: tuple[float, float, float],
    options: RefineOptions,
) -> Bool[Tensor, "depth height width"]:
    """Allowed voxels whose smoothed HU lie above what is normal there by the contrast.

    Normal is the brain median, or within the rim the median at the voxel's depth where that is higher. A voxel whose
    smoothed HU are not known is no candidate.
    """
    contrast_hu, told = smoothed_contrast_hu(
        hu, allowed, median_hu, spacing_mm[1:], options.smoothing_mm, options.ceiling_hu
    )
    relative_hu, known = contrast_hu.numpy(), told.numpy()
    dense = np.zeros_like(known)
    for index in np.flatnonzero(known.any(axis=(1, 2))):
        least_hu = _least_dense_hu(relative_hu[index], known[index], allowed[index].numpy(), spacing_mm[1:], options)
        dense[index] = known[index] & (relative_hu[index] >= least_hu)
    return torch.from_numpy(dense)


def _least_dense_hu(
    relative_hu: NDArray[np.float32],
    known: NDArray[np.bool_],
    inside: NDArray[np.bool_],
    spacing_mm: tuple[float, float],
    options: RefineOptions,
) -> NDArray[np.float32]:
    """Per pixel of a slice, the HU over the brain median from which tissue is dense: higher next to the skull."""
    least = np.full(relative_hu.shape, options.contrast_hu, dtype=np.float32)
    depth_mm = distance_transform_edt(np.pad(inside, 1), sampling=spacing_mm)[1:-1, 1:-1]
    ring = np.where(known, np.ceil(depth_mm / RING_MM), 0.0).astype(np.int64)
    for number in range(1, int(np.ceil(options.rim_mm / RING_MM)) + 1):
        at = ring == number
        if not at.any():
            continue
        least[at] += max(0.0, float(np.median(relative_hu[at])))
    return least


def _slices_with(saliency: Float[Tensor, "depth height width"]) -> Bool[Tensor, "depth 1 1"]:
    return (saliency > 0).any(dim=2, keepdim=True).any(dim=1, keepdim=True)


def _bounding_box(mask: Bool[Tensor, "depth height width"]) -> tuple[slice, slice, slice] | None:
    """The smallest box of whole axes ranges that holds the mask; None where it is empty."""
    if not mask.any():
        return None
    ranges = []
    for kept in (0, 1, 2):
        others = tuple(axis for axis in (0, 1, 2) if axis != kept)
        index = torch.nonzero(mask.any(dim=others[1]).any(dim=others[0])).flatten()
        ranges.append(slice(int(index[0]), int(index[-1]) + 1))
    return ranges[0], ranges[1], ranges[2]
