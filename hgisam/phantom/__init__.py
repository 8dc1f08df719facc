"""Synthetic head CT with known truth: random patients around the ICBM brain atlas, with hemorrhages of all subtypes."""

from hgisam.phantom.bleeds import VOLUME_RANGE_ML
from hgisam.phantom.generate import (
    POSITIVE_SLICE_MM2,
    TRUTH_FRACTION,
    BleedRecord,
    Phantom,
    PhantomOptions,
    SliceLabels,
    generate_phantoms,
    make_phantom,
    slice_labels,
)

__all__ = [
    "POSITIVE_SLICE_MM2",
    "TRUTH_FRACTION",
    "VOLUME_RANGE_ML",
    "BleedRecord",
    "Phantom",
    "PhantomOptions",
    "SliceLabels",
    "generate_phantoms",
    "make_phantom",
    "slice_labels",
]
