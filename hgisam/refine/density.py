"""How much denser than normal each voxel is: than the scan's own brain, or near the skull than what lies as deep."""

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from hgisam.brain import smoothed_contrast_hu
from hgisam.refine.refiner import MappedScan

RING_MM = 1.0
"""Within the rim, tissue is compared at depths that differ by no more than this."""


def excess_hu(
    scan: MappedScan, smoothing_mm: float, rim_mm: float, ceiling_hu: float
) -> Float[Tensor, "depth height width"]:
    """Smoothed HU over what is normal there; -inf where that is not known, or outside the region.

    Normal is the brain median, or within the rim the slice's median at the voxel's depth where that is higher.

    Args:
        scan: the scan.
        smoothing_mm: in-plane standard deviation of the Gaussian that quiets noise; 0 for none.
        rim_mm: how deep the rim reaches below the region's outline; 0 for no rim.
        ceiling_hu: HU above which a voxel is bone or calcification and says nothing about its surroundings.
    """
    allowed = scan.allowed
    contrast, told = smoothed_contrast_hu(scan.hu, allowed, scan.median_hu, scan.spacing_mm, smoothing_mm, ceiling_hu)
    contrast_hu, known = contrast.numpy(), told.numpy()
    excess = np.full(known.shape, -np.inf, dtype=np.float32)
    for index in np.flatnonzero(known.any(axis=(1, 2))):
        normal_hu = _rim_hu(contrast_hu[index], known[index], allowed[index].numpy(), scan.spacing_mm, rim_mm)
        excess[index] = np.where(known[index], contrast_hu[index] - normal_hu, -np.inf)
    return torch.from_numpy(excess)


def _rim_hu(
    contrast_hu: NDArray[np.float32],
    known: NDArray[np.bool_],
    inside: NDArray[np.bool_],
    spacing_mm: tuple[float, float],
    rim_mm: float,
) -> NDArray[np.float32]:
    """Per pixel of a slice, by how many HU what is normal next to the skull lies above the brain median; 0 deeper."""
    normal = np.zeros(contrast_hu.shape, dtype=np.float32)
    depth_mm = distance_transform_edt(np.pad(inside, 1), sampling=spacing_mm)[1:-1, 1:-1]
    ring = np.where(known, np.ceil(depth_mm / RING_MM), 0.0).astype(np.int64)
    for number in range(1, int(np.ceil(rim_mm / RING_MM)) + 1):
        at = ring == number
        if at.any():
            normal[at] = max(0.0, float(np.median(contrast_hu[at])))
    return normal
