"""Whether a scan shows the brain whole, and at a believable size: what it misses, a volume misses too."""

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import torch
from jaxtyping import Bool
from scipy import ndimage
from torch import Tensor
from torch.nn import functional

from hgisam.brain.region import AIR_HU, BrainOptions
from hgisam.volume import CTVolume
from hgisam.wording import counted

OPEN_SHARE = 0.5
"""A scan ends within the brain where its outermost slice shows more than this share of the largest slice's brain."""
BRAIN_HEIGHT_MM = (70.0, 200.0)
"""From foramen magnum to vertex, tilt and slice thickness included: a small child's to a tall adult's."""
BRAIN_AREA_CM2 = (50.0, 235.0)
"""Of the largest slice: a newborn's to a very large adult's. In the 69 patients of CT-ICH it is 126 to 222."""
THICK_MM = 12.0
"""Slices further apart than this leave out more than they show."""
EMPTY_HU = AIR_HU + 100.0
"""A slice without a voxel above this holds no tissue at all; nor does one whose voxels are all alike."""
STRETCHED = 2.5
"""Pixels so many times longer than wide are those of slices that were not taken axially."""
METAL_HU = 3000.0
"""Denser than any bone or tooth: metal, or where a scanner's scale ends."""
METAL_ML = 0.05
"""Less of it is a voxel or two."""

_GRID_MM = 1.5
_DEPTH_MM = 5.0
"""What cuts the brain is sought about this finely, in the slices and from slice to slice."""
_BARE_MM = 8.0
"""Brain nearer than this to what lies outside of the head, without bone between, is not closed in by a skull."""
_BONE_MM = 4.0
"""Bone closes in what is nearer than this."""
_CUT_MM = 30.0
"""A slice whose brain is bare for longer than this is cut."""


class VolumeDoubt(StrEnum):
    """What is wrong with a volume in mL that is measured in a scan."""

    LOWER_BOUND = "lower bound"
    """Part of the brain is not in the scan: there is at least as much blood."""
    UNSURE = "unsure"
    """It may be too large as well as too small."""


@dataclass(frozen=True)
class CoverageDoubt:
    """What a user should know.

    Attributes:
        text: a clause or two.
        volume: what follows from it for a volume in mL; None where nothing does.
    """

    text: str
    volume: VolumeDoubt | None = None


def coverage_doubts(
    volume: CTVolume, region: Bool[Tensor, "depth height width"], options: BrainOptions | None = None
) -> tuple[CoverageDoubt, ...]:
    """What a user should know before a volume in mL is believed; empty where the brain is whole, or there is none.

    Args:
        volume: the scan.
        region: its intracranial region.
        options: what counts as bone and as air, as where the region was found.
    """
    spacing_mm, dy, dx = volume.spacing_mm
    area = region.flatten(1).sum(dim=1)
    shown = torch.nonzero(area).flatten().tolist()
    if not shown:
        return ()
    doubts = []
    if spacing_mm > THICK_MM:
        text = f"slices are {spacing_mm:.3g} mm apart: what lies between them is guessed"
        doubts.append(CoverageDoubt(text, VolumeDoubt.UNSURE))
    if max(dy, dx) > STRETCHED * min(dy, dx):
        text = f"pixels are {dy:.3g} x {dx:.3g} mm in axial planes: the scan was sliced in another direction, and blood"
        doubts.append(CoverageDoubt(f"{text} in it is missed", VolumeDoubt.LOWER_BOUND))
    filled = _filled(volume)
    within = range(int(filled.nonzero()[0]), int(filled.nonzero()[-1]) + 1)
    n_empty = int((~filled[within.start : within.stop]).sum())
    if n_empty:
        empty = counted(n_empty, "slice within the head is empty", "slices within the head are empty")
        doubts.append(CoverageDoubt(f"{empty}: blood there is not measured", VolumeDoubt.LOWER_BOUND))
    ends = {"bottom": float(area[within.start]), "top": float(area[within.stop - 1])}
    opened = [name for name, end in ends.items() if end > OPEN_SHARE * float(area.max())]
    if opened:
        text = f"the scan ends within the brain at its {' and '.join(opened)}: a volume is a lower bound"
        doubts.append(CoverageDoubt(text, VolumeDoubt.LOWER_BOUND))
    height_mm = (shown[-1] - shown[0] + 1) * spacing_mm
    area_cm2 = float(area.max()) * dy * dx / 100
    for size, measured, (low, high), header in (
        (height_mm, f"the brain is {height_mm:.0f} mm high", BRAIN_HEIGHT_MM, "slice spacing"),
        (area_cm2, f"the brain's largest slice has {area_cm2:.0f} cm2", BRAIN_AREA_CM2, "pixel size"),
    ):
        if size > high or (size < low and not opened):
            instead = "was more than brain taken for it" if size > high else "is part of the brain missing"
            text = f"{measured}, expected {low:.0f} to {high:.0f}: is the {header} wrong, or {instead}?"
            doubts.append(CoverageDoubt(text, VolumeDoubt.UNSURE))
    n_cut = _n_cut(volume, region, options or BrainOptions())
    if n_cut:
        text = f"the picture ends within the brain in {counted(n_cut, 'slice')}: a volume is a lower bound"
        doubts.append(CoverageDoubt(text, VolumeDoubt.LOWER_BOUND))
    metal_ml = (volume.hu[shown[0] : shown[-1] + 1] >= METAL_HU).flatten(1).sum(dim=1).double()
    metal_ml = metal_ml * volume.slice_voxel_ml[shown[0] : shown[-1] + 1]
    if float(metal_ml.sum()) > METAL_ML:
        with_metal = counted(int((metal_ml > 0).sum()), "slice")
        doubts.append(CoverageDoubt(f"metal in {with_metal} of the brain: what streaks beside it show is no blood"))
    return tuple(doubts)


def _filled(volume: CTVolume) -> Bool[Tensor, " depth"]:
    """Which slices show anything at all."""
    planes = volume.hu.flatten(1)
    highest = planes.amax(dim=1)
    return (highest >= EMPTY_HU) & (highest > planes.amin(dim=1))


def _n_cut(volume: CTVolume, region: Bool[Tensor, "depth height width"], options: BrainOptions) -> int:
    """About how many slices show brain that no skull closes in: beside it lies what is outside of the head, air from
    the picture's edge on, or the edge itself."""
    depth_mm, dy, dx = volume.spacing_mm
    every = max(1, round(_DEPTH_MM / depth_mm))
    down, across = max(1, round(_GRID_MM / dy)), max(1, round(_GRID_MM / dx))
    cell_mm = (dy * down, dx * across)
    n_cut = 0
    for index in range(0, len(region), every):
        if not bool(region[index].any()):
            continue
        hu = torch.nan_to_num(volume.hu[index], nan=AIR_HU)[None, None].float()
        inside = functional.max_pool2d(region[index][None, None].float(), (down, across), ceil_mode=True)[0, 0] > 0
        densest = functional.max_pool2d(hu, (down, across), ceil_mode=True)[0, 0]
        bone = np.pad((densest > options.bone_hu).numpy(), 1)
        brain = np.pad(inside.numpy(), 1)
        air = np.pad((densest <= options.head_hu).numpy(), 1, constant_values=True)
        parts, _ = ndimage.label(air)
        outside = parts == parts[0, 0]
        rim = brain & ~ndimage.binary_erosion(brain)
        near_outside = ndimage.distance_transform_edt(~outside, sampling=cell_mm) <= _BARE_MM
        near_bone = bone if not bone.any() else ndimage.distance_transform_edt(~bone, sampling=cell_mm) <= _BONE_MM
        bare_mm = float((rim & near_outside & ~near_bone).sum()) * float(np.mean(cell_mm))
        n_cut += every * (bare_mm > _CUT_MM)
    return min(n_cut, int(region.flatten(1).any(dim=1).sum()))
