"""The map cut at a threshold, as published: HU are not looked at."""

from typing import Literal

from jaxtyping import Bool
from torch import Tensor

from hgisam.refine.refiner import MappedScan, Refiner


class Threshold(Refiner):
    """Voxels of the region whose saliency is at or above the threshold, which weights or settings give.

    A map of zeros gives an empty mask at any threshold. Source: HGI-SAM, arXiv 2304.04902 (published threshold 0.05).
    """

    method: Literal["threshold"] = "threshold"
    """Tells this method from others."""

    def __call__(self, scan: MappedScan) -> Bool[Tensor, "depth height width"]:
        """See the class."""
        return (scan.saliency >= scan.threshold) & (scan.saliency > 0) & scan.region
