"""From a saliency map to a mask: the map says where the blood is, the Hounsfield units say how far it reaches.

One file per method. A method is its frozen options and a call, behind the interface `Refiner`. To add one: a file, a
member of `RefineMethod`, a name in cli.py's `RefineName`, and the contract test runs over it by itself.
"""

import math
from typing import Annotated, Any

import torch
from jaxtyping import Bool, Float
from pydantic import Discriminator, Tag
from torch import Tensor

from hgisam.refine.components import Components
from hgisam.refine.pieces import box_about, remove_small_components
from hgisam.refine.random_walk import RandomWalk
from hgisam.refine.refiner import SKULL_MM, MappedScan, Refiner
from hgisam.refine.threshold import Threshold
from hgisam.volume import CTVolume, MaskVolume


def _method(options: Any) -> str:
    """The method that settings name; components where they name none."""
    default = "components"
    return str(options.get("method", default) if isinstance(options, dict) else getattr(options, "method", default))


RefineMethod = Annotated[
    Annotated[Components, Tag("components")]
    | Annotated[RandomWalk, Tag("random_walk")]
    | Annotated[Threshold, Tag("threshold")],
    Discriminator(_method),
]
"""The options of any method, told apart by `method`."""


def refine(
    saliency: Float[Tensor, "depth height width"],
    volume: CTVolume,
    region: Bool[Tensor, "depth height width"],
    median_hu: float,
    threshold: float,
    method: Refiner,
) -> MaskVolume:
    """The hemorrhage mask of a scan from its saliency map. A map of zeros gives an empty mask, and so does one that
    points at no dense tissue, with methods that look at HU.

    Args:
        saliency: saliency in [0, 1] on the scan's grid; zero in slices that the gate closed.
        volume: the scan.
        region: the intracranial region.
        median_hu: the scan's brain median.
        threshold: saliency cut-off in (0, 1] of methods that cut the map.
        method: how the mask is made.
    """
    voxels = torch.zeros_like(region)
    allowed = region & (saliency > 0).flatten(1).any(dim=1)[:, None, None]
    bounds = box_about(allowed.numpy(), (math.inf, *volume.spacing_mm[1:]), SKULL_MM)
    if bounds is not None:
        part = MappedScan(
            saliency=saliency[bounds],
            hu=volume.hu[bounds],
            region=region[bounds],
            median_hu=median_hu,
            threshold=threshold,
            spacing_mm=volume.spacing_mm[1:],
            distances_mm=volume.slice_distances_mm[bounds[0]],
        )
        voxel_mm3 = 1000.0 * volume.slice_voxel_ml[bounds[0]]
        voxels[bounds] = remove_small_components(method(part), voxel_mm3, method.min_component_mm3)
    return MaskVolume(voxels=voxels, affine=volume.affine, source=volume.source, slices=volume.slices)


__all__ = [
    "Components",
    "MappedScan",
    "RandomWalk",
    "RefineMethod",
    "Refiner",
    "Threshold",
    "refine",
    "remove_small_components",
]
