"""What the HU of a head CT tell of its anatomy: the inside of the skull, the brain's median, the mid-sagittal line."""

from hgisam.brain.contrast import smoothed_contrast_hu
from hgisam.brain.coverage import CoverageDoubt, VolumeDoubt, coverage_doubts
from hgisam.brain.midline import Midline, is_turned_sideways, midsagittal_line
from hgisam.brain.noise import noise_hu
from hgisam.brain.region import AIR_HU, BrainOptions, brain_median_hu, intracranial_region
from hgisam.brain.stacking import is_out_of_order

__all__ = [
    "AIR_HU",
    "BrainOptions",
    "CoverageDoubt",
    "Midline",
    "VolumeDoubt",
    "brain_median_hu",
    "coverage_doubts",
    "intracranial_region",
    "is_out_of_order",
    "is_turned_sideways",
    "midsagittal_line",
    "noise_hu",
    "smoothed_contrast_hu",
]
