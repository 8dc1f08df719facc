"""What the HU of a head CT tell of its anatomy: the inside of the skull, the brain's median, the mid-sagittal line."""

from hgisam.brain.contrast import smoothed_contrast_hu
from hgisam.brain.coverage import coverage_doubts
from hgisam.brain.midline import Midline, midsagittal_line
from hgisam.brain.region import AIR_HU, BrainOptions, brain_median_hu, intracranial_region

__all__ = [
    "AIR_HU",
    "BrainOptions",
    "Midline",
    "brain_median_hu",
    "coverage_doubts",
    "intracranial_region",
    "midsagittal_line",
    "smoothed_contrast_hu",
]
