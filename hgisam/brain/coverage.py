"""Whether a scan shows the brain whole, and at a believable size: what it misses, a volume misses too."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from hgisam.brain.region import AIR_HU
from hgisam.volume import CTVolume

OPEN_SHARE = 0.5
"""A scan ends within the brain where its outermost slice shows more than this share of the largest slice's brain."""
BRAIN_HEIGHT_MM = (70.0, 200.0)
"""From foramen magnum to vertex, tilt and slice thickness included: a small child's to a tall adult's."""
THICK_MM = 12.0
"""Slices further apart than this leave out more than they show."""
EMPTY_HU = AIR_HU + 100.0
"""A slice without a voxel above this holds no tissue at all."""
EDGE_MM = 10.0
"""Brain along the picture's edge for longer than this is cut by it."""


def coverage_doubts(volume: CTVolume, region: Bool[Tensor, "depth height width"]) -> tuple[str, ...]:
    """What a user should know before a volume in mL is believed; empty where the brain is whole, or there is none.

    Args:
        volume: the scan.
        region: its intracranial region.
    """
    spacing_mm, dy, dx = volume.spacing_mm
    area = region.flatten(1).sum(dim=1)
    shown = torch.nonzero(area).flatten().tolist()
    if not shown:
        return ()
    lowest, highest = shown[0], shown[-1]
    doubts = []
    if spacing_mm > THICK_MM:
        doubts.append(f"slices are {spacing_mm:.3g} mm apart: what lies between them is guessed")
    within = volume.hu[lowest : highest + 1].flatten(1).amax(dim=1)
    n_empty = int((within < EMPTY_HU).sum())
    if n_empty:
        doubts.append(f"{n_empty} slices within the brain are empty: blood in them is not measured")
    ends = {"bottom": float(area[0]), "top": float(area[-1])}
    opened = [name for name, end in ends.items() if end > OPEN_SHARE * float(area.max())]
    if opened:
        doubts.append(f"the scan ends within the brain at its {' and '.join(opened)}: a volume is a lower bound")
    height_mm = (highest - lowest + 1) * spacing_mm
    low, high = BRAIN_HEIGHT_MM
    if height_mm > high or (height_mm < low and not opened):
        doubts.append(f"the brain is {height_mm:.0f} mm high, expected {low:.0f} to {high:.0f}: is the spacing right?")
    n_cut = int((_along_edges_mm(region, dy, dx) > EDGE_MM).sum())
    if n_cut:
        doubts.append(f"the picture's edge cuts the brain in {n_cut} slices: a volume is a lower bound")
    return tuple(doubts)


def _along_edges_mm(region: Bool[Tensor, "depth height width"], dy: float, dx: float) -> Float[Tensor, " depth"]:
    """Per slice, the length of the picture's edge along which there is brain."""
    rows = (region[:, 0] | region[:, -1]).sum(dim=1) * dx
    columns = (region[:, :, 0] | region[:, :, -1]).sum(dim=1) * dy
    return rows + columns
