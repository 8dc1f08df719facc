"""A head that passes every gate, as a DICOM series: even or not, tilted or not, of any kernel and thickness."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from analytic_head import AnalyticHead, draw_head
from dicom_writer import write_series

N_SLICES = 29
SPACING_MM = 2.0


@cache
def head() -> AnalyticHead:
    """29 slices of 5 mm, 110 x 110 pixels of 2 mm."""
    return draw_head(spacing_mm=(5.0, SPACING_MM, SPACING_MM))


def write_head(folder: Path, slices: Sequence[int] = range(N_SLICES), **tags: Any) -> list[Path]:
    """Some of its slices, each where it belongs; tags and keywords as for `write_series`."""
    pixels = [head().ct.hu[index].round().numpy().astype(np.int16) for index in slices]
    return write_series(
        folder, [5.0 * index for index in slices], pixels=pixels, **{"PixelSpacing": [SPACING_MM, SPACING_MM]} | tags
    )
