"""The baseline that every method must beat: what is dense inside the skull is blood. No network, no labels."""

from typing import Literal

import torch
from jaxtyping import Bool, Float
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from hgisam.brain import smoothed_contrast_hu

AT_CONTRAST = 0.5
"""Saliency of tissue that is denser than the brain median by just the contrast."""


class HuThreshold(BaseModel):
    """Hounsfield units over the scan's own brain median, inside the intracranial region, without any network.

    Saliency grows with the contrast: 0 at the brain median, AT_CONTRAST at `contrast_hu`, 1 at twice that. It is the
    same for the same HU in every slice, so it is not stretched; a threshold belongs to it, since in every slice some
    brain is a little above the median.

    Source of contrast_hu: the best of 12 to 40 HU by mean volume Dice of ten tuning phantoms
    (tools/tune_hu_threshold.py). No patient's mask chose it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    method: Literal["hu_threshold"] = "hu_threshold"
    """Tells this method from others."""
    contrast_hu: float = Field(default=25.0, gt=0)
    """HU over the scan's brain median from which tissue counts as blood."""
    ceiling_hu: float = 100.0
    """HU above which a voxel is bone or calcification: no clot is denser."""
    smoothing_mm: float = Field(default=0.8, ge=0)
    """In-plane standard deviation of the Gaussian that quiets noise before HU are compared; 0 for none."""

    def __call__(
        self,
        hu: Float[Tensor, "batch height width"],
        region: Bool[Tensor, "batch height width"],
        median_hu: float,
        spacing_mm: tuple[float, float],
    ) -> Float[Tensor, "batch height width"]:
        """One map in [0, 1] per slice, 0 outside the region and where it is empty; each slice by itself.

        Args:
            hu: slices of a scan, on its own grid.
            region: its intracranial region.
            median_hu: its brain median.
            spacing_mm: in-plane, rows then columns.
        """
        contrast_hu, known = smoothed_contrast_hu(hu, region, median_hu, spacing_mm, self.smoothing_mm, self.ceiling_hu)
        shown = known & (hu <= self.ceiling_hu)
        return torch.where(shown, AT_CONTRAST * contrast_hu / self.contrast_hu, 0.0).clamp(0.0, 1.0)
