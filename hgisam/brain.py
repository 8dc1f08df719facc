"""The intracranial region of a head CT from its HU alone, the brain's median HU, and the mid-sagittal line.

Everything is found on a coarse grid of a fixed size in mm, so that cost and result do not hang on the scan's voxels,
and then brought back to the scan's own grid. No learning, no template; an empty region is a legal answer.
"""

from dataclasses import dataclass

import cc3d
import fill_voids
import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from scipy import ndimage
from scipy.spatial import ConvexHull, QhullError
from torch import Tensor
from torch.nn import functional

from hgisam.volume import CTVolume

AIR_HU = -1024.0
"""What padding, NaN and anything below count as."""

_CHUNK_VOXELS = 4_000_000
"""Full-resolution work is done on about this many voxels at a time, so that memory does not grow with the scan."""

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
    """Cuts the bridges from brain to orbits, neck and scalp before the largest component is kept."""
    dilation_mm: float = Field(default=6.0, ge=0)
    """Grows what was kept back to the inner table, through soft tissue only."""
    opening_mm: float = Field(default=3.0, ge=0)
    """Removes what is thinner than twice this and sticks out."""
    scalp_mm: float = Field(default=12.0, ge=0)
    """What lies deeper than this under the skin counts as inside the skull's outline even where bone is missing."""
    bone_gap_mm: float = Field(default=4.0, ge=0)
    """A part's rim is closed in where bone is nearer than this."""
    least_closure: float = Field(default=0.5, ge=0, le=1)
    """Share of a part's rim in a slice that bone must close in."""
    least_overlap: float = Field(default=0.6, ge=0, le=1)
    """Share of a part that must lie over or under what was kept in the slice before, going outward."""
    edge_mm: float = Field(default=1.5, ge=0)
    """At full resolution the outline may move out by this much, onto voxels that are not bone."""
    midline_grid_mm: float = Field(default=2.5, gt=0)
    """In-plane cell of the grid on which the mid-sagittal line is sought."""
    midline_angle_deg: float = Field(default=40.0, ge=0, lt=60)
    """The head may be turned in its slices by up to this much to either side."""
    midline_roll_deg: float = Field(default=25.0, ge=0, lt=60)
    """The head may lean to either shoulder by up to this much."""


@dataclass(frozen=True)
class Midline:
    """The mid-sagittal plane of a head as a line in every slice.

    In a slice, x is mm to the patient's Left and y mm to Posterior, both from the middle of the picture. The line in
    slice d is { (x, y): x cos(angle) + y sin(angle) = offset_mm + d offset_step_mm }.

    Attributes:
        angle_deg: turn of the head in its slices; 0 where the line runs straight from anterior to posterior, above 0
            where its posterior end points to the patient's Right.
        offset_mm: signed distance from the middle of the picture to the line in slice 0, above 0 to the Left.
        offset_step_mm: how much the offset grows from one slice to the next: the lean of the head.
    """

    angle_deg: float
    offset_mm: float
    offset_step_mm: float

    def offset_at_mm(self, depth: int) -> float:
        """Signed distance in mm from the middle of the picture to the line in slice `depth`, above 0 to the Left."""
        return self.offset_mm + depth * self.offset_step_mm


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
    for depth, hu in enumerate(volume.hu):
        inner = _erode_in_plane(region[depth], radius=max(1, round(3.0 / volume.spacing_mm[1])))
        values = hu[inner] if bool(inner.any()) else hu[region[depth]]
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


def midsagittal_line(
    volume: CTVolume, region: Bool[Tensor, "depth height width"], options: BrainOptions | None = None
) -> Midline:
    """The line about which the skull and its content look most alike on both sides.

    For an angle, the scan is turned by it and each slice's correlation with its own mirror image is computed for all
    offsets of the mirror at once (a product in Fourier space). One angle and one straight line of offsets through the
    slices are taken for the scan, so that a slice with a large one-sided bleed cannot pull the line away.

    Args:
        volume: the scan.
        region: its intracranial region; the line is sought on it and on the skull around it.
        options: grid and search range.

    Returns:
        The line; the same for the same input. Where the region is empty: straight through the middle of the picture.
    """
    options = options or BrainOptions()
    if not bool(region.any()):
        return Midline(angle_deg=0.0, offset_mm=0.0, offset_step_mm=0.0)
    content, cell_mm, centre_mm = _mirror_content(volume, region, options.midline_grid_mm)
    slices = torch.nonzero(content.flatten(1).any(1))[:, 0]
    max_step_mm = float(np.tan(np.radians(options.midline_roll_deg))) * volume.spacing_mm[0]
    search = _MirrorSearch(content[slices], cell_mm, slices.double(), max_step_mm)
    angle, step_deg = 0.0, 4.0
    reach_deg = options.midline_angle_deg
    while step_deg >= 0.1:
        candidates = angle + step_deg * torch.arange(-round(reach_deg / step_deg), round(reach_deg / step_deg) + 1)
        scores = [search.best_line(float(candidate)) for candidate in candidates]
        best = max(range(len(scores)), key=lambda index: scores[index][0])
        angle = float(candidates[best])
        reach_deg, step_deg = step_deg, step_deg / 4
    _, offset_mm, offset_step_mm = search.best_line(angle)
    normal = (np.cos(np.radians(angle)), np.sin(np.radians(angle)))
    shift_mm = float(centre_mm[1] * normal[0] + centre_mm[0] * normal[1])
    return Midline(angle_deg=angle, offset_mm=offset_mm + shift_mm, offset_step_mm=offset_step_mm)


def _mirror_content(
    volume: CTVolume, region: Bool[Tensor, "depth height width"], grid_mm: float
) -> tuple[Float[Tensor, "depth height width"], float, tuple[float, float]]:
    """What is compared with its mirror image: HU 0..100 as 0..1 in the region and up to 10 mm around it, else 0.

    Returns:
        The content on a square grid centred on the region's bounding box, the grid's cell in mm, and the centre
        (y, x) in mm from the middle of the picture.
    """
    depth, height, width = volume.hu.shape
    _, dy, dx = volume.spacing_mm
    rows = torch.nonzero(region.any(2).any(0))[:, 0]
    columns = torch.nonzero(region.any(1).any(0))[:, 0]
    centre = (float(rows[0] + rows[-1]) / 2, float(columns[0] + columns[-1]) / 2)
    half_mm = 10.0 + 0.5 * float(np.hypot(float(rows[-1] - rows[0] + 1) * dy, float(columns[-1] - columns[0] + 1) * dx))
    n = 2 * int(np.ceil(half_mm / grid_mm)) + 1
    axis_mm = (torch.arange(n, dtype=torch.float64) - (n - 1) / 2) * grid_mm
    y = ((centre[0] + axis_mm / dy + 0.5) * 2 / height - 1).float()
    x = ((centre[1] + axis_mm / dx + 0.5) * 2 / width - 1).float()
    grid = torch.stack([x[None, :].expand(n, n), y[:, None].expand(n, n)], dim=-1)[None]
    content = torch.empty(depth, n, n)
    radius = int(np.ceil(10.0 / grid_mm))
    blur = (max(1, round(grid_mm / dy)) | 1, max(1, round(grid_mm / dx)) | 1)
    for index in range(depth):
        if not bool(region[index].any()):
            content[index] = 0.0
            continue
        hu = torch.nan_to_num(volume.hu[index], nan=AIR_HU).clamp(0.0, 100.0) / 100.0
        hu = functional.avg_pool2d(hu[None, None], blur, stride=1, padding=(blur[0] // 2, blur[1] // 2))
        planes = torch.cat([hu, region[index].float()[None, None]], dim=1)
        sampled = functional.grid_sample(planes, grid, mode="bilinear", align_corners=False)[0]
        near = functional.max_pool2d((sampled[1] > 0.5).float()[None], 2 * radius + 1, stride=1, padding=radius)[0]
        content[index] = sampled[0] * near
    return content, grid_mm, ((centre[0] - (height - 1) / 2) * dy, (centre[1] - (width - 1) / 2) * dx)


class _MirrorSearch:
    """Mirror correlation of a stack of slices as a function of the angle and of a straight line of offsets."""

    def __init__(
        self,
        content: Float[Tensor, "depth n n"],
        cell_mm: float,
        slice_index: Float[Tensor, " depth"],
        max_step_mm: float,
    ) -> None:
        self._content = content[:, None]
        self._cell_mm = cell_mm
        self._slice_index = slice_index
        self._middle = float(slice_index.mean())
        steps = torch.linspace(-max_step_mm, max_step_mm, 41, dtype=torch.float64)
        self._steps_mm = steps if len(slice_index) > 1 else steps[20:21]

    def best_line(self, angle_deg: float) -> tuple[float, float, float]:
        """The best score at this angle, the offset in mm from the content's centre in slice 0, its step per slice."""
        curves = self._curves(angle_deg)
        n = curves.shape[1]
        lean = self._steps_mm[:, None] * (self._slice_index - self._middle)[None] * 2 / self._cell_mm
        position = torch.arange(n, dtype=torch.float64)[None, None] + lean[:, :, None]
        below = position.floor().clamp(0, n - 2)
        share = (position - below).clamp(0.0, 1.0)
        index = below.long()
        rows = torch.arange(curves.shape[0])[None, :, None]
        totals = (curves[rows, index] * (1 - share) + curves[rows, index + 1] * share).sum(1)
        best = int(totals.argmax())
        step, peak = divmod(best, n)
        shift = peak + _parabola_peak(totals[step], peak)
        offset_mm = (shift - (n - 1) / 2) / 2 * self._cell_mm
        step_mm = float(self._steps_mm[step])
        return float(totals[step, peak]), offset_mm - self._middle * step_mm, step_mm

    def _curves(self, angle_deg: float) -> Float[Tensor, "depth shifts"]:
        """Per slice, the sum over pixels of content times its mirror image, for mirrors half a cell apart."""
        radians = float(np.radians(angle_deg))
        cos, sin = float(np.cos(radians)), float(np.sin(radians))
        theta = torch.tensor([[[cos, -sin, 0.0], [sin, cos, 0.0]]])
        n = self._content.shape[-1]
        grid = functional.affine_grid(theta, [1, 1, n, n], align_corners=False).expand(len(self._content), -1, -1, -1)
        turned = functional.grid_sample(self._content, grid, mode="bilinear", align_corners=False)[:, 0]
        spectrum = torch.fft.rfft(turned, n=2 * n, dim=2)
        curve = torch.fft.irfft((spectrum * spectrum).sum(1), n=2 * n, dim=1)
        return curve[:, : 2 * n - 1].to(torch.float64)


def _parabola_peak(values: Float[Tensor, " n"], peak: int) -> float:
    """How far the top of the parabola through the peak and its neighbours lies from the peak: -0.5 to 0.5."""
    if not 0 < peak < len(values) - 1:
        return 0.0
    left, middle, right = (float(v) for v in values[peak - 1 : peak + 2])
    curvature = left - 2 * middle + right
    return 0.0 if curvature >= 0 else 0.5 * (left - right) / curvature


def _erode_in_plane(mask: Bool[Tensor, "height width"], radius: int) -> Bool[Tensor, "height width"]:
    """Erosion by a square of 2 radius + 1 voxels; beyond the picture counts as inside."""
    outside = (~mask).to(torch.float32)[None, None]
    rows = functional.max_pool2d(outside, (2 * radius + 1, 1), stride=1, padding=(radius, 0))
    grown = functional.max_pool2d(rows, (1, 2 * radius + 1), stride=1, padding=(0, radius))
    return grown[0, 0] < 0.5


def _coarse_grid(volume: CTVolume, options: BrainOptions) -> tuple[FloatArray, tuple[float, float, float]]:
    """The scan averaged over cells of about grid_mm in-plane and at least grid_depth_mm in depth.

    Returns:
        HU per cell, at least AIR_HU, and the cell's size in mm along (d, h, w).
    """
    spacing = volume.spacing_mm
    depth, height, width = volume.hu.shape
    group = min(depth, max(1, int(np.ceil(options.grid_depth_mm / spacing[0] - 1e-6))))
    rows = max(1, min(height, round(height * spacing[1] / options.grid_mm)))
    columns = max(1, min(width, round(width * spacing[2] / options.grid_mm)))
    cells = torch.empty(-(-depth // group), rows, columns)
    for index, slab in enumerate(torch.split(volume.hu, group)):
        hu = torch.nan_to_num(slab, nan=AIR_HU).clamp(AIR_HU, 3071.0)
        cells[index] = functional.interpolate(hu.mean(0)[None, None], size=(rows, columns), mode="area")[0, 0]
    return cells.numpy(), (spacing[0] * group, spacing[1] * height / rows, spacing[2] * width / columns)


def _coarse_region(cells: FloatArray, cell_mm: tuple[float, float, float], options: BrainOptions) -> BoolArray:
    head = _largest_component(_open(cells > options.head_hu, options.opening_mm, cell_mm))
    bone = (cells > options.bone_hu) & head
    deep_head = _erode_planes(head, options.scalp_mm, cell_mm)
    inside = (_hull_distance_mm(bone | deep_head, cell_mm) < -options.hull_erosion_mm) & ~bone & head
    smooth = _smooth_soft_tissue(cells, ~bone & (cells > -200.0), cell_mm, options.smoothing_mm)
    low, high = options.soft_tissue_hu
    core = _erode(inside & (smooth > low) & (smooth < high), options.erosion_mm, cell_mm)
    parts = _label_planes(core)
    grown = _grow_labels(parts, inside & (smooth > low), options.dilation_mm, cell_mm)
    kept = _choose_parts(grown, bone, cell_mm, options)
    region = np.stack([_fill(plane) for plane in kept])
    return _open(region, options.opening_mm, cell_mm)


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
    labels: NDArray[np.int32], allowed: BoolArray, reach_mm: float, cell_mm: tuple[float, float, float]
) -> NDArray[np.int32]:
    """Geodesic in-plane dilation of every part by at most reach_mm through allowed cells; who comes first stays."""
    grown = labels.copy()
    for step in range(round(reach_mm / min(cell_mm[1:]))):
        footprint = np.ones((1, 3, 3), dtype=bool) if step % 2 else ndimage.generate_binary_structure(2, 1)[None]
        spread = ndimage.grey_dilation(grown, footprint=footprint)
        grown = np.where((grown == 0) & allowed, spread, grown)
    return grown


def _choose_parts(
    parts: NDArray[np.int32], bone: BoolArray, cell_mm: tuple[float, float, float], options: BrainOptions
) -> BoolArray:
    """Keep the parts that bone closes in and that lie above or below kept ones, outward from the best slice.

    Neck, face and orbit touch the brain from slice to slice, so connection alone does not part them; but bone closes in
    little of their outline, and going outward from its widest slice the inside of the skull only narrows.
    """
    count = int(parts.max()) + 1
    area = np.bincount(parts.ravel(), minlength=count).astype(np.float64)
    area[0] = 0.0
    rim = (parts > 0) & (ndimage.grey_erosion(parts, footprint=ndimage.generate_binary_structure(2, 1)[None]) != parts)
    near_bone = np.stack([_distance_inside_mm(~plane, cell_mm[1:]) <= options.bone_gap_mm for plane in bone])
    rim_size = np.maximum(np.bincount(parts[rim], minlength=count), 1)
    closed = np.bincount(parts[rim & near_bone], minlength=count) / rim_size
    kept = np.zeros(parts.shape, dtype=bool)
    best = int(np.argmax(area * closed**2))
    if area[best] == 0 or closed[best] < options.least_closure:
        return kept
    start = int(np.flatnonzero((parts == best).any((1, 2)))[0])
    kept[start] = parts[start] == best
    good = closed >= options.least_closure
    good[0] = False
    for order in (range(start - 1, -1, -1), range(start + 1, len(parts))):
        shade = kept[start]
        for index in order:
            plane = parts[index]
            covered = np.bincount(plane[shade], minlength=count) / np.maximum(area, 1)
            kept[index] = (good & (covered >= options.least_overlap))[plane]
            shade = kept[index]
    return kept


def _largest_component(mask: BoolArray) -> BoolArray:
    """The largest face-connected part; empty stays empty."""
    return np.asarray(cc3d.largest_k(mask, k=1, connectivity=6)) > 0


def _hull_distance_mm(bone: BoolArray, cell_mm: tuple[float, float, float]) -> FloatArray:
    """Signed distance in mm to the convex outline of each slice's bone: negative inside, +inf where there is none.

    Inside it is exact; outside it is the distance to the farthest violated edge's line.
    """
    depth, height, width = bone.shape
    y = (np.arange(height, dtype=np.float32) * cell_mm[1])[:, None]
    x = (np.arange(width, dtype=np.float32) * cell_mm[2])[None, :]
    distance = np.full(bone.shape, np.inf, dtype=np.float32)
    for index in range(depth):
        rows = np.flatnonzero(bone[index].any(axis=1))
        first = bone[index, rows].argmax(axis=1)
        last = width - 1 - bone[index, rows, ::-1].argmax(axis=1)
        ends = np.concatenate([np.stack([rows, first], axis=1), np.stack([rows, last], axis=1)])
        try:
            edges = ConvexHull(ends * np.array(cell_mm[1:])).equations.astype(np.float32)
        except (QhullError, ValueError):  # fewer than three points, or all on one line: no inside
            continue
        plane = np.full((height, width), -np.inf, dtype=np.float32)
        for normal_y, normal_x, offset in edges:
            np.maximum(plane, normal_y * y + (normal_x * x + offset), out=plane)
        distance[index] = plane
    return distance


def _smooth_soft_tissue(
    cells: FloatArray, tissue: BoolArray, cell_mm: tuple[float, float, float], sigma_mm: float
) -> FloatArray:
    """In-plane Gaussian mean of the tissue's HU, blind to everything else; AIR_HU where no tissue is near."""
    sigma = (0.0, sigma_mm / cell_mm[1], sigma_mm / cell_mm[2])
    weight = ndimage.gaussian_filter(tissue.astype(np.float32), sigma, truncate=3.0)
    total = ndimage.gaussian_filter(np.where(tissue, cells, 0.0).astype(np.float32), sigma, truncate=3.0)
    return np.where(weight > 0.05, total / np.maximum(weight, 0.05), AIR_HU).astype(np.float32)


def _distance_inside_mm(mask: BoolArray, cell_mm: tuple[float, ...]) -> FloatArray:
    """Distance in mm of each True cell to the nearest False one; 0 at False cells, large where all are True."""
    if mask.all():
        return np.full(mask.shape, 1e6, dtype=np.float32)
    return np.asarray(ndimage.distance_transform_edt(mask, sampling=cell_mm), dtype=np.float32)


def _erode_planes(mask: BoolArray, radius_mm: float, cell_mm: tuple[float, float, float]) -> BoolArray:
    """Erosion within each slice; beyond the picture counts as outside."""
    padded = np.pad(mask, ((0, 0), (1, 1), (1, 1)))
    return np.stack([_distance_inside_mm(plane, cell_mm[1:]) > radius_mm for plane in padded])[:, 1:-1, 1:-1]


def _erode(mask: BoolArray, radius_mm: float, cell_mm: tuple[float, float, float]) -> BoolArray:
    return _distance_inside_mm(mask, cell_mm) > radius_mm


def _open(mask: BoolArray, radius_mm: float, cell_mm: tuple[float, float, float]) -> BoolArray:
    core = _erode(mask, radius_mm, cell_mm)
    return (_distance_inside_mm(~core, cell_mm) <= radius_mm) & mask


def _fill(plane: BoolArray) -> BoolArray:
    return np.asarray(fill_voids.fill(plane)) > 0


def _to_full_resolution(
    volume: CTVolume, coarse: BoolArray, cell_mm: tuple[float, float, float], options: BrainOptions
) -> Bool[Tensor, "depth height width"]:
    """Bring the region back to the scan's grid, its outline moved to the bone's own edge."""
    depth, height, width = volume.hu.shape
    signed = torch.from_numpy(np.stack([_signed_distance_mm(plane, cell_mm) for plane in coarse]))
    group_position = (torch.arange(depth) + 0.5) * len(coarse) * volume.spacing_mm[0] / (len(coarse) * cell_mm[0]) - 0.5
    region = torch.empty(volume.hu.shape, dtype=torch.bool)
    step = max(1, _CHUNK_VOXELS // (height * width))
    for start in range(0, depth, step):
        position = group_position[start : start + step].clamp(0, len(coarse) - 1)
        below = position.floor().long()
        above = (below + 1).clamp(max=len(coarse) - 1)
        share = (position - below)[:, None, None]
        planes = torch.lerp(signed[below], signed[above], share)
        distance = functional.interpolate(planes[:, None], size=(height, width), mode="bilinear")[:, 0]
        not_bone = volume.hu[start : start + step] < options.bone_hu
        region[start : start + step] = (distance < -2 * options.edge_mm) | ((distance < options.edge_mm) & not_bone)
    return region


def _signed_distance_mm(plane: BoolArray, cell_mm: tuple[float, float, float]) -> FloatArray:
    """Distance in mm to the outline of one slice's region: negative inside; large where there is no region."""
    if not plane.any():
        return np.full(plane.shape, 1e3, dtype=np.float32)
    inside = np.asarray(ndimage.distance_transform_edt(np.pad(plane, 1, mode="edge"), sampling=cell_mm[1:]))[1:-1, 1:-1]
    outside = np.asarray(ndimage.distance_transform_edt(~plane, sampling=cell_mm[1:]))
    return (outside - inside).astype(np.float32)
