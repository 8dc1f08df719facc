"""The intracranial region of a head CT from its HU alone, and the brain's median HU.

The region is found on a coarse grid of a fixed size in mm, so that cost and result do not hang on the scan's voxels,
and then brought back to the scan's own grid. No learning, no template; an empty region is a legal answer.
"""

from dataclasses import dataclass

import cc3d
import fill_voids
import numpy as np
import torch
from jaxtyping import Bool
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from scipy import ndimage
from scipy.spatial import ConvexHull, QhullError
from torch import Tensor
from torch.nn import functional

from hgisam.volume import HIGHEST_HU, LOWEST_HU, CTVolume

AIR_HU = LOWEST_HU
"""What padding, NaN and anything below count as."""

_CHUNK_VOXELS = 2_000_000
"""Full-resolution work is done on about this many voxels at a time, so that memory does not grow with the scan."""

_RIM_MM = 3.0
"""The brain's median is taken at least about this far from the skull, whose blur reaches into the region."""

_CROSS = ndimage.generate_binary_structure(2, 1)[None]
_SQUARE = ndimage.generate_binary_structure(2, 2)[None]
"""In-plane neighbourhoods of 4 and 8."""

BoolArray = NDArray[np.bool_]
FloatArray = NDArray[np.float32]


class BrainOptions(BaseModel):
    """How the intracranial region and the mid-sagittal line are found. Lengths are in mm of the patient."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    grid_mm: float = Field(default=1.5, gt=0)
    """In-plane cell of the coarse grid."""
    grid_depth_mm: float = Field(default=2.5, gt=0)
    """Slices thinner than this are averaged until they reach it."""
    bone_hu: float = 130.0
    """Above this is bone: over the densest clot (about 100 HU), below thin bone blurred by its neighbours."""
    head_hu: float = -300.0
    """Above this is head, below it is air."""
    soft_tissue_hu: tuple[float, float] = (-12.0, 110.0)
    """Smoothed HU of what fills the skull: cerebrospinal fluid and edema to clot; fat and muscle-with-fat lie below."""
    smoothing_mm: float = Field(default=1.5, ge=0)
    """Standard deviation of the smoothing, over voxels that are neither bone nor air."""
    hull_erosion_mm: float = Field(default=3.0, ge=0)
    """The convex outline of the bone is drawn in by this much: the outer table."""
    erosion_mm: float = Field(default=4.0, ge=0)
    """Cuts the bridges from brain to orbits, neck and scalp within each slice."""
    dilation_mm: float = Field(default=6.0, ge=0)
    """Grows each part back to the inner table, through soft tissue only."""
    opening_mm: float = Field(default=3.0, ge=0)
    """Removes what is thinner than twice this and sticks out."""
    scalp_mm: float = Field(default=8.0, ge=0)
    """What lies deeper than this under the skin counts as inside the skull's outline even where bone is missing."""
    least_tissue_hu: float = -200.0
    """Below this is air: it is no tissue, and is not smoothed in."""
    bone_gap_mm: float = Field(default=4.0, ge=0)
    """Bone closes in a part's rim where it is nearer than this."""
    least_closure: float = Field(default=0.5, ge=0, le=1)
    """Share of a part's rim in a slice that bone must close in; after a craniectomy it is not all of it."""
    least_bony: float = Field(default=0.25, ge=0, le=1)
    """The same, where the rim that faces the air outside counts as open: a scan clipped by its field of view."""
    seed_closure: float = Field(default=0.6, ge=0, le=1)
    """Share of the rim that bone must close in for the part from which the others are found."""
    small_part_cm2: float = Field(default=25.0, ge=0)
    """Parts below this must be closed in better: the fossae of the skull base against orbits and muscles."""
    small_part_closure: float = Field(default=0.75, ge=0, le=1)
    """Share of a small part's rim that bone must close in."""
    least_overlap: float = Field(default=0.6, ge=0, le=1)
    """Share of a part that must lie over or under what was kept in the slice before, going outward."""
    bridge_mm: float = Field(default=12.0, ge=0)
    """A stretch of slices without any part is bridged up to this length."""
    beside_cm2: float = Field(default=8.0, ge=0)
    """In the slice it starts from, further parts are kept (temporal and frontal lobes beside a posterior fossa) ..."""
    beside_closure: float = Field(default=0.85, ge=0, le=1)
    """... where they are this large and this well closed in, ..."""
    beside_hu: float = Field(default=15.0, ge=0)
    """... and their median HU is this near to the first one's."""
    mixed_spread_hu: float = Field(default=35.0, ge=0)
    """Downward, small parts of a greater standard deviation are air cells of the skull base."""
    mixed_median_hu: float = 65.0
    """Downward, small parts of a greater median are bone blurred by thick slices."""
    edge_mm: float = Field(default=2.0, ge=0)
    """At full resolution the outline moves out by up to this much onto voxels that are not bone, and in by twice this
    from voxels that are; what is bright deeper inside is calcified and stays."""
    midline_grid_mm: float = Field(default=2.5, gt=0)
    """In-plane cell of the grid on which the mid-sagittal line is sought."""
    midline_angle_deg: float = Field(default=40.0, ge=0, lt=60)
    """The head may be turned in its slices by up to this much to either side."""
    midline_roll_deg: float = Field(default=25.0, ge=0, lt=60)
    """The head may lean to either shoulder by up to this much."""


def intracranial_region(volume: CTVolume, options: BrainOptions | None = None) -> Bool[Tensor, "depth height width"]:
    """The inside of the skull: brain, its coverings, fluid, and any blood in them, out to the inner table.

    Args:
        volume: a head CT, whole or in part, down to a single slice.
        options: thresholds and sizes.

    Returns:
        True inside. All False where nothing of the kind is found (no head, neck only); that is not an error.
    """
    options = options or BrainOptions()
    cells, cell_mm = _coarse_grid(volume, options)
    coarse = _coarse_region(cells, cell_mm, options)
    if not coarse.any():
        return torch.zeros(volume.hu.shape, dtype=torch.bool)
    return _to_full_resolution(volume, coarse, cell_mm, options)


def brain_median_hu(volume: CTVolume, region: Bool[Tensor, "depth height width"]) -> float:
    """The median HU of soft tissue (0 to 80 HU) in the region, away from the skull: this scan's own zero.

    Scanners differ by several HU, and so do patients; a bleed shows against its own brain.

    Args:
        volume: the scan.
        region: its intracranial region.

    Returns:
        HU between 0 and 80, good to 0.5 HU.

    Raises:
        ValueError: where the region holds no voxel of 0 to 80 HU, an empty region above all.
    """
    histogram = torch.zeros(160, dtype=torch.float64)
    _, dy, dx = volume.spacing_mm
    margin = (max(1, round(_RIM_MM / dy)), max(1, round(_RIM_MM / dx)))
    for hu, plane in zip(volume.hu, region, strict=True):
        inner = away_from_rim(plane, margin)
        values = hu[inner] if bool(inner.any()) else hu[plane]
        histogram += torch.histc(values.double(), bins=160, min=0.0, max=80.0)
    total = float(histogram.sum())
    if total == 0:
        raise ValueError(
            f"{volume.source}: expected soft tissue of 0 to 80 HU inside the skull; got none; "
            "check that this is a head CT in Hounsfield units"
        )
    cumulative = histogram.cumsum(0)
    middle = int(torch.searchsorted(cumulative, total / 2))
    before = float(cumulative[middle - 1]) if middle else 0.0
    return 0.5 * (middle + (total / 2 - before) / float(histogram[middle]))


def away_from_rim(plane: Bool[Tensor, "height width"], margin: tuple[int, int]) -> Bool[Tensor, "height width"]:
    """Voxels whose neighbours at the margin (rows, columns) in the four diagonal directions are in the region too."""
    rows, columns = margin
    padded = functional.pad(plane, (columns, columns, rows, rows))
    above, below = padded[: -2 * rows], padded[2 * rows :]
    moved = [side[:, part] for side in (above, below) for part in (slice(None, -2 * columns), slice(2 * columns, None))]
    return plane & moved[0] & moved[1] & moved[2] & moved[3]


def _coarse_grid(volume: CTVolume, options: BrainOptions) -> tuple[FloatArray, tuple[float, float, float]]:
    """The scan averaged over cells of about grid_mm in-plane and at least grid_depth_mm in depth.

    Returns:
        HU per cell, at least AIR_HU, and the cell's size in mm along (d, h, w).
    """
    spacing = volume.spacing_mm
    depth, height, width = volume.hu.shape
    group = min(depth, max(1, int(np.ceil(options.grid_depth_mm / volume.widest_spacing_mm - 1e-6))))
    rows = max(1, min(height, round(height * spacing[1] / options.grid_mm)))
    columns = max(1, min(width, round(width * spacing[2] / options.grid_mm)))
    cells = torch.empty(-(-depth // group), rows, columns)
    for index, slab in enumerate(torch.split(volume.hu, group)):
        hu = torch.nan_to_num(slab, nan=AIR_HU).clamp(AIR_HU, HIGHEST_HU)
        cells[index] = functional.interpolate(hu.mean(0)[None, None], size=(rows, columns), mode="area")[0, 0]
    return cells.numpy(), (spacing[0] * group, spacing[1] * height / rows, spacing[2] * width / columns)


def _coarse_region(cells: FloatArray, cell_mm: tuple[float, float, float], options: BrainOptions) -> BoolArray:
    """The region on the coarse grid.

    Soft tissue inside the skull's convex outline, cut into parts at narrow places within each slice; the parts that
    bone closes in are kept, grown back to the inner table, filled, and freed of thin spurs. Slices of air alone, or
    of one value alone, are passed over: what lies on both sides of them is one head.
    """
    shown = (cells > options.head_hu).any(axis=(1, 2)) & (cells.max(axis=(1, 2)) > cells.min(axis=(1, 2)))
    region = np.zeros(cells.shape, dtype=bool)
    if shown.any():
        region[shown] = _region_of_head(cells[shown], cell_mm, options)
    return region


def _region_of_head(cells: FloatArray, cell_mm: tuple[float, float, float], options: BrainOptions) -> BoolArray:
    """The same of a stack without slices in which nothing is to be seen."""
    in_plane_mm = cell_mm[1:]
    head = _largest_component(_open(cells > options.head_hu, options.opening_mm, in_plane_mm))
    bone = (cells > options.bone_hu) & head
    hull = _hull_distance_mm(bone, in_plane_mm) < -options.hull_erosion_mm
    framed = np.pad(head, ((0, 0), (1, 1), (1, 1)))  # so that what lies beyond the picture is no head
    inside = (hull | _erode(framed, options.scalp_mm, in_plane_mm)[:, 1:-1, 1:-1]) & head
    tissue = inside & ~bone & (cells > options.least_tissue_hu)
    smooth = _smooth_within(tissue, cells, options.smoothing_mm, in_plane_mm)
    low, high = options.soft_tissue_hu
    core = _erode(tissue & (smooth > low) & (smooth < high), options.erosion_mm, in_plane_mm)
    grown = _grow_labels(_label_planes(core), tissue & (smooth > low), options.dilation_mm, in_plane_mm)
    kept = _choose_parts(_Parts.measure(grown, cells, bone, head, in_plane_mm, options), cell_mm[0], options)
    return _open(_fill(kept), options.opening_mm, in_plane_mm)


def _label_planes(mask: BoolArray) -> NDArray[np.int32]:
    """Edge-connected parts within each slice; every part of the stack has a number of its own, from 1."""
    labels = np.zeros(mask.shape, dtype=np.int32)
    count = 0
    for plane, target in zip(mask, labels, strict=True):
        found, n = ndimage.label(plane)
        target[plane] = found[plane] + count
        count += n
    return labels


def _grow_labels(
    labels: NDArray[np.int32], allowed: BoolArray, reach_mm: float, in_plane_mm: tuple[float, float]
) -> NDArray[np.int32]:
    """Geodesic in-plane dilation of every part by at most reach_mm through allowed cells; who comes first stays."""
    grown = labels
    for step in range(round(reach_mm / min(in_plane_mm))):
        spread = ndimage.grey_dilation(grown, footprint=_SQUARE if step % 2 else _CROSS)
        grown = np.where((grown == 0) & allowed, spread, grown)
    return grown


@dataclass(frozen=True, eq=False)
class _Parts:
    """The candidate parts of every slice and what tells brain from neck, face and orbit. Entry 0 is no part.

    Attributes:
        labels: the part each cell belongs to; a part lies in one slice.
        area: cells of each part.
        area_cm2: the same in cm2.
        closure: share of a part's rim that bone closes in, of the rim that does not face the outside air.
        bony: share of the whole rim that bone closes in.
        median_hu: of a part's cells.
        spread_hu: standard deviation of a part's cells: high where air cells and thin bone are mixed in.
    """

    labels: NDArray[np.int32]
    area: NDArray[np.int64]
    area_cm2: FloatArray
    closure: NDArray[np.float64]
    bony: NDArray[np.float64]
    median_hu: NDArray[np.float64]
    spread_hu: NDArray[np.float64]

    @classmethod
    def measure(
        cls,
        labels: NDArray[np.int32],
        cells: FloatArray,
        bone: BoolArray,
        head: BoolArray,
        in_plane_mm: tuple[float, float],
        options: BrainOptions,
    ) -> "_Parts":
        """Measure every part."""
        count = int(labels.max()) + 1
        area = np.bincount(labels.ravel(), minlength=count)
        area[0] = 0
        rim = (labels > 0) & (ndimage.grey_erosion(labels, footprint=_CROSS) != labels)
        near_bone = _distance_inside_mm(~bone, in_plane_mm) <= options.bone_gap_mm
        near_air = _distance_inside_mm(_fill(head), in_plane_mm) <= options.hull_erosion_mm + options.bone_gap_mm
        rim_bone = np.bincount(labels[rim & near_bone], minlength=count)
        rim_air = np.bincount(labels[rim & near_air & ~near_bone], minlength=count)
        rim_all = np.maximum(np.bincount(labels[rim], minlength=count), 1)
        index = np.arange(count)
        return cls(
            labels=labels,
            area=area,
            area_cm2=(area * (in_plane_mm[0] * in_plane_mm[1] / 100.0)).astype(np.float32),
            closure=rim_bone / np.maximum(rim_all - rim_air, 1),
            bony=rim_bone / rim_all,
            median_hu=np.nan_to_num(np.asarray(ndimage.median(cells, labels, index), dtype=np.float64)),
            spread_hu=np.nan_to_num(np.asarray(ndimage.standard_deviation(cells, labels, index), dtype=np.float64)),
        )


def _choose_parts(parts: _Parts, slice_mm: float, options: BrainOptions) -> BoolArray:
    """Keep the parts that bone closes in and that lie above or below kept ones, outward from the best slice.

    Neck, face and orbit touch the brain from slice to slice, so connection alone does not part them; but bone closes in
    little of their outline, and going outward from its widest slice the inside of the skull only narrows.
    """
    kept = np.zeros(parts.labels.shape, dtype=bool)
    small = parts.area_cm2 < options.small_part_cm2
    closed = parts.closure >= np.where(small, options.small_part_closure, options.least_closure)
    closed &= parts.bony >= options.least_bony
    closed[0] = False
    seeds = closed & (parts.closure >= options.seed_closure)
    if not seeds.any():
        return kept
    seed = int(np.argmax(np.where(seeds, parts.area * parts.closure**2, 0.0)))
    start = int(np.flatnonzero((parts.labels == seed).any((1, 2)))[0])
    beside = closed & (parts.bony >= options.beside_closure) & (parts.area_cm2 >= options.beside_cm2)
    beside &= np.abs(parts.median_hu - parts.median_hu[seed]) <= options.beside_hu
    beside[seed] = True
    kept[start] = beside[parts.labels[start]]
    mixed = small & ((parts.spread_hu > options.mixed_spread_hu) | (parts.median_hu > options.mixed_median_hu))
    _follow(parts, kept, closed & ~mixed, range(start - 1, -1, -1), slice_mm, options)
    _follow(parts, kept, closed, range(start + 1, len(kept)), slice_mm, options)
    return kept


def _follow(
    parts: _Parts, kept: BoolArray, good: BoolArray, order: range, slice_mm: float, options: BrainOptions
) -> None:
    """Fill `kept` slice by slice with the good parts that lie mostly over or under the last slice that has any."""
    last = order.start - order.step
    for index in order:
        if abs(index - last) * slice_mm > max(options.bridge_mm, slice_mm):
            return
        plane = parts.labels[index]
        covered = np.bincount(plane[kept[last]], minlength=len(good)) >= options.least_overlap * parts.area
        kept[index] = (good & covered)[plane]
        if kept[index].any():
            last = index


def _largest_component(mask: BoolArray) -> BoolArray:
    """The largest face-connected part; empty stays empty."""
    return np.asarray(cc3d.largest_k(mask, k=1, connectivity=6)) > 0


def _hull_distance_mm(bone: BoolArray, in_plane_mm: tuple[float, float]) -> FloatArray:
    """Signed distance in mm to the convex outline of each slice's bone: negative inside, +inf where there is none.

    Inside it is exact; outside it is the distance to the farthest violated edge's line.
    """
    depth, height, width = bone.shape
    y = (np.arange(height, dtype=np.float32) * in_plane_mm[0])[:, None]
    x = (np.arange(width, dtype=np.float32) * in_plane_mm[1])[None, :]
    distance = np.full(bone.shape, np.inf, dtype=np.float32)
    for index in range(depth):
        rows = np.flatnonzero(bone[index].any(axis=1))
        first = bone[index, rows].argmax(axis=1)
        last = width - 1 - bone[index, rows, ::-1].argmax(axis=1)
        ends = np.concatenate([np.stack([rows, first], axis=1), np.stack([rows, last], axis=1)])
        try:
            edges = ConvexHull(ends * np.array(in_plane_mm)).equations.astype(np.float32)
        except (QhullError, ValueError):  # fewer than three points, or all on one line: no inside
            continue
        plane = np.full((height, width), -np.inf, dtype=np.float32)
        for normal_y, normal_x, offset in edges:
            np.maximum(plane, normal_y * y + (normal_x * x + offset), out=plane)
        distance[index] = plane
    return distance


def _smooth_within(
    tissue: BoolArray, cells: FloatArray, sigma_mm: float, in_plane_mm: tuple[float, float]
) -> FloatArray:
    """In-plane Gaussian mean of the tissue's HU, blind to everything else; AIR_HU where no tissue is near."""
    sigma = (0.0, sigma_mm / in_plane_mm[0], sigma_mm / in_plane_mm[1])
    weight = ndimage.gaussian_filter(tissue.astype(np.float32), sigma, truncate=3.0)
    total = ndimage.gaussian_filter(np.where(tissue, cells, 0.0).astype(np.float32), sigma, truncate=3.0)
    return np.where(weight > 0.05, total / np.maximum(weight, 0.05), AIR_HU).astype(np.float32)


def _distance_inside_mm(mask: BoolArray, in_plane_mm: tuple[float, float]) -> FloatArray:
    """In-plane distance in mm of each True cell to the nearest False one; 0 at False cells, large where all are True.

    What lies beyond the picture counts as neither.
    """
    distance = np.empty(mask.shape, dtype=np.float32)
    for plane, target in zip(mask, distance, strict=True):
        target[:] = 1e6 if plane.all() else ndimage.distance_transform_edt(plane, sampling=in_plane_mm)
    return distance


def _erode(mask: BoolArray, radius_mm: float, in_plane_mm: tuple[float, float]) -> BoolArray:
    return _distance_inside_mm(mask, in_plane_mm) > radius_mm


def _open(mask: BoolArray, radius_mm: float, in_plane_mm: tuple[float, float]) -> BoolArray:
    core = _erode(mask, radius_mm, in_plane_mm)
    return (_distance_inside_mm(~core, in_plane_mm) <= radius_mm) & mask


def _fill(mask: BoolArray) -> BoolArray:
    """Fill what each slice's mask closes in."""
    return np.stack([np.asarray(fill_voids.fill(plane)) > 0 for plane in mask])


def _to_full_resolution(
    volume: CTVolume, coarse: BoolArray, cell_mm: tuple[float, float, float], options: BrainOptions
) -> Bool[Tensor, "depth height width"]:
    """Bring the region back to the scan's grid, its outline moved to the bone's own edge."""
    depth, height, width = volume.hu.shape
    signed = torch.from_numpy(np.stack([_signed_distance_mm(plane, cell_mm[1:]) for plane in coarse]))
    position_in_coarse = (torch.arange(depth) + 0.5) * (volume.spacing_mm[0] / cell_mm[0]) - 0.5
    region = torch.empty(volume.hu.shape, dtype=torch.bool)
    step = max(1, _CHUNK_VOXELS // (height * width))
    for start in range(0, depth, step):
        position = position_in_coarse[start : start + step].clamp(0, len(coarse) - 1)
        below = position.floor().long()
        above = (below + 1).clamp(max=len(coarse) - 1)
        share = (position - below)[:, None, None]
        planes = torch.lerp(signed[below], signed[above], share)
        distance = functional.interpolate(planes[:, None], size=(height, width), mode="bilinear")[:, 0]
        hu = volume.hu[start : start + step]
        soft = (hu > options.least_tissue_hu) & (hu < options.bone_hu)
        region[start : start + step] = (distance < -2 * options.edge_mm) | ((distance < options.edge_mm) & soft)
    return region


def _signed_distance_mm(plane: BoolArray, in_plane_mm: tuple[float, float]) -> FloatArray:
    """Distance in mm to the outline of one slice's region: negative inside; large where there is no region."""
    if not plane.any():
        return np.full(plane.shape, 1e3, dtype=np.float32)
    inside = np.asarray(ndimage.distance_transform_edt(np.pad(plane, 1, mode="edge"), sampling=in_plane_mm))[1:-1, 1:-1]
    outside = np.asarray(ndimage.distance_transform_edt(~plane, sampling=in_plane_mm))
    signed: FloatArray = (outside - inside).astype(np.float32)
    return signed
