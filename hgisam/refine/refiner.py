"""What every way to outline is: a scan with its saliency map in, blood out."""

from abc import abstractmethod
from dataclasses import dataclass

from jaxtyping import Bool, Float
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

SKULL_MM = 5.0
"""So far beyond the region, in plane, a method may look, and mark what is blurred with the skull."""


@dataclass(frozen=True, eq=False)
class MappedScan:
    """The part of a scan that can hold a mask, with its map: a box about the region in slices that have saliency.

    Attributes:
        saliency: in [0, 1]; zero throughout slices that the gate closed.
        hu: Hounsfield units.
        region: the intracranial region.
        median_hu: the brain median of the whole scan.
        threshold: saliency cut-off in (0, 1], for methods that cut the map.
        spacing_mm: in-plane, rows then columns.
        distances_mm: float64; how far each slice lies from the scan's first; uneven where the slices are.
    """

    saliency: Float[Tensor, "depth height width"]
    hu: Float[Tensor, "depth height width"]
    region: Bool[Tensor, "depth height width"]
    median_hu: float
    threshold: float
    spacing_mm: tuple[float, float]
    distances_mm: Float[Tensor, " depth"]

    @property
    def allowed(self) -> Bool[Tensor, "depth height width"]:
        """Where blood is looked for: inside the skull, in slices that passed the gate."""
        return self.region & (self.saliency > 0).flatten(1).any(dim=1)[:, None, None]


class Refiner(BaseModel):
    """A way from a saliency map to a mask: frozen options and one call.

    A method's options carry a `method` tag of its own, by which settings choose it. It gives the same for the same,
    marks nothing farther outside the region than `SKULL_MM`, and nothing where the map is zero throughout.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    min_component_mm3: float = Field(default=50.0, ge=0)
    """Components smaller than this are removed."""

    @abstractmethod
    def __call__(self, scan: MappedScan) -> Bool[Tensor, "depth height width"]:
        """Where the blood is, before small components are removed."""
