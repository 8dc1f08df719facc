"""HU windows: the part of the Hounsfield scale that a picture shows."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class HUWindow:
    """A display window on the Hounsfield scale: values from center - width/2 to center + width/2 map to [0, 1]."""

    center_hu: float
    width_hu: float

    def __post_init__(self) -> None:
        if self.width_hu <= 0:
            raise ValueError(f"HUWindow: expected a width above 0 HU, got {self.width_hu}; give a positive width")

    @property
    def low_hu(self) -> float:
        """The HU that maps to 0."""
        return self.center_hu - self.width_hu / 2

    @property
    def high_hu(self) -> float:
        """The HU that maps to 1."""
        return self.center_hu + self.width_hu / 2

    def apply(self, hu: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Map HU to [0, 1] over the window's fixed range; values outside are clipped."""
        return ((hu - self.low_hu) / self.width_hu).clamp(0.0, 1.0)


BRAIN = HUWindow(center_hu=40.0, width_hu=80.0)
SUBDURAL = HUWindow(center_hu=80.0, width_hu=200.0)
BONE = HUWindow(center_hu=600.0, width_hu=2800.0)
"""BRAIN, SUBDURAL, BONE: the three channels of HGI-SAM (arXiv 2304.04902, section 3)."""
