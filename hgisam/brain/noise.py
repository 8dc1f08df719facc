"""How noisy a scan is inside the skull: what is hardly denser than brain, or a few voxels large, hides in noise."""

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from hgisam.brain.region import away_from_rim
from hgisam.volume import CTVolume

_REACH_MM = 4.0
"""Voxels this far apart are compared: a soft kernel's blur makes noise alike over less, and tissue often goes on."""
_RIM_MM = 3.0
"""Nearer than this to the skull, its blur is in the numbers."""
_MAX_SLICES = 16
"""Of more slices with brain, so many are measured, spread over all."""
_LEAST_CM2 = 20.0
"""Less brain, all slices together, tells nothing: a small piece at the skull base is nothing but edges."""
_OF_NORMAL = 0.6745
"""The median size of a normal variable of standard deviation 1."""


def noise_hu(volume: CTVolume, region: Bool[Tensor, "depth height width"]) -> float:
    """Standard deviation of a voxel's noise in HU; NaN where too little brain is shown to tell.

    The median size of v(x - s) - 2 v(x) + v(x + s) along rows and columns, over its value for noise of 1 HU. The second
    difference takes out what rises steadily, such as cupping; the median leaves out edges. What texture brain has stays
    in: of real scans without much noise the figure is 3 to 7 HU.

    Args:
        volume: the scan.
        region: its intracranial region.

    Source: the median absolute deviation, Hampel, J Am Stat Assoc 69:383, 1974.
    """
    _, dy, dx = volume.spacing_mm
    margin = (max(1, round(_RIM_MM / dy)), max(1, round(_RIM_MM / dx)))
    shown = torch.nonzero(region.flatten(1).any(dim=1)).flatten()
    found = [torch.empty(0)]
    for index in shown[:: max(1, -(-len(shown) // _MAX_SLICES))].tolist():
        hu, inner = volume.hu[index], away_from_rim(region[index], margin)
        for values, inside, mm in ((hu, inner, dy), (hu.T, inner.T, dx)):
            found.append(_second_differences(values, inside, max(1, round(_REACH_MM / mm))))
    differences = torch.cat(found)
    if len(differences) / 2 * dy * dx < 100 * _LEAST_CM2:
        return float("nan")
    return float(np.median(differences.abs().numpy())) / (_OF_NORMAL * 6**0.5)


def _second_differences(hu: Tensor, inside: Bool[Tensor, "height width"], step: int) -> Tensor:
    """Along the first axis, where all three values lie inside."""
    if len(hu) <= 2 * step:
        return torch.empty(0)
    below, middle, above = (slice(None, -2 * step), slice(step, -step), slice(2 * step, None))
    all_inside = inside[below] & inside[middle] & inside[above]
    return (hu[below] - 2 * hu[middle] + hu[above])[all_inside]
