"""How much denser than the scan's own brain each voxel is, with the noise quieted and bone kept out."""

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy.ndimage import gaussian_filter
from torch import Tensor

LEAST_TOTAL = 0.3
"""Share of the Gaussian that must lie on telling voxels: a straight edge leaves half, the middle of bone nothing."""


def smoothed_contrast_hu(
    hu: Float[Tensor, "depth height width"],
    inside: Bool[Tensor, "depth height width"],
    median_hu: float,
    spacing_mm: tuple[float, float],
    smoothing_mm: float,
    ceiling_hu: float,
) -> tuple[Float[Tensor, "depth height width"], Bool[Tensor, "depth height width"]]:
    """Smoothed HU over the brain median, slice by slice, and where they are known.

    The Gaussian is normalised over inside voxels at or below the ceiling, so that neither the skull nor a calcification
    leaks into its surroundings; a voxel with few of them about it is not known. Nothing is known where nothing is
    inside.

    Args:
        hu: the scan, or a part of it.
        inside: the voxels that count, such as the intracranial region.
        median_hu: the scan's brain median.
        spacing_mm: in-plane, rows then columns.
        smoothing_mm: in-plane standard deviation of the Gaussian; 0 for none.
        ceiling_hu: HU above which a voxel is bone or calcification and says nothing about its surroundings.
    """
    sigma = (0.0, smoothing_mm / spacing_mm[0], smoothing_mm / spacing_mm[1])
    telling = (inside & (hu <= ceiling_hu)).numpy().astype(np.float32)
    summed = gaussian_filter((hu.numpy() - np.float32(median_hu)) * telling, sigma, truncate=3.0)
    total = gaussian_filter(telling, sigma, truncate=3.0)
    known = inside.numpy() & (total >= LEAST_TOTAL)
    return torch.from_numpy(summed / np.maximum(total, LEAST_TOTAL)), torch.from_numpy(known)
