"""From a scan to what the network sees, and exactly back.

Every slice is laid on one canvas: turned so that the mid-sagittal line is the canvas's vertical centre column,
resampled to a fixed spacing in mm so that a lesion has one size, and cropped around the head. A mirror image is then a
plain left-right flip. The way back is the inverse of the same affine.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Float32, Float64, Int64
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor
from torch.nn import functional

from hgisam.brain import AIR_HU, Midline
from hgisam.volume import HIGHEST_HU, CTVolume
from hgisam.windowing import BONE, BRAIN, SUBDURAL, HUWindow

_GROWTH_PX = 8
"""A canvas larger than `fov_px` is a multiple of this."""

_FLAT = 1e-3
"""A slice that shows less than this share of a window shows nothing: stretching it would show rounding."""

_CHUNK_VOXELS = 1_000_000
"""About this many samples are worked on at a time, so that memory does not grow with the scan."""


class PreprocessOptions(BaseModel):
    """What the network sees; stored with its weights."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    spacing_mm: float = Field(default=1.0, gt=0)
    """In-plane spacing of the canvas."""
    fov_px: int = Field(default=192, gt=0)
    """Least height and width of the canvas; it grows where the head needs more."""
    margin_mm: float = Field(default=4.0, ge=0)
    """Room kept between the intracranial region and the canvas's edge."""
    align: bool = True
    """Turn and shift each slice so that the mid-sagittal line is the canvas's centre column."""
    channels: Literal["relative", "windows_fixed", "windows_observed"] = "relative"
    """`relative`: HU minus the scan's brain median. `windows_fixed`: brain, subdural and bone window, each over its
    fixed range. `windows_observed`: the same, stretched to what each slice shows."""
    relative_range_hu: tuple[float, float] = (-40.0, 80.0)
    """HU over the brain median that map to 0 and 1 in the first relative channel."""
    mirror_channel: bool = True
    """`relative` only: the next channel, the left-right difference of these HU."""
    mirror_clip_hu: float = Field(default=40.0, gt=0)
    """A left-right difference of this much or more maps to 1, its negative to 0."""
    mirror_smoothing_mm: float = Field(default=2.0, ge=0)
    """Standard deviation of the smoothing before the two sides are compared."""
    skull_channel: bool = False
    """`relative` only: one channel more, -200..1000 HU over the brain median as 0..1, never masked: the skull."""
    neighbours: int = Field(default=0, ge=0, le=3)
    """`relative` only: HU of so many slices below and as many above are channels too, after the slice's own."""
    mask_outside: bool = True
    """`relative` only: hide what lies outside the skull (scalp, head rest), which differs between sources."""
    mask_margin_mm: float = Field(default=3.0, ge=0)
    """How far around the intracranial region is still shown where the outside is hidden."""

    @model_validator(mode="after")
    def _neighbours_are_relative(self) -> "PreprocessOptions":
        if self.neighbours and self.channels != "relative":
            raise ValueError(f"expected neighbours 0 with channels {self.channels}; got {self.neighbours}")
        return self

    @property
    def n_channels(self) -> int:
        """Channels of an image."""
        if self.channels == "relative":
            return 1 + self.mirror_channel + self.skull_channel + 2 * self.neighbours
        return 3


@dataclass(frozen=True, eq=False)
class SliceBatch:
    """A scan's slices on the canvas, with the way back to the scan.

    Attributes:
        images: what the network sees, in [0, 1].
        region: the intracranial region on the canvas.
        relative_hu: HU minus the scan's brain median on the canvas, neither clipped to a window nor masked.
        sampling: per slice, canvas index (row, column, 1) -> the scan's index (h, w). Rows run to Posterior and columns
            to Left.
        native_shape: the scan's (depth, height, width).
        spacing_mm: the canvas's in-plane spacing.
    """

    images: Float32[Tensor, "depth channels height width"]
    region: Bool[Tensor, "depth height width"]
    relative_hu: Float32[Tensor, "depth height width"]
    sampling: Float64[Tensor, "depth 2 3"]
    native_shape: tuple[int, int, int]
    spacing_mm: float

    def to_native(
        self, maps: Float32[Tensor, "depth height width"]
    ) -> Float32[Tensor, "depth native_height native_width"]:
        """Bring maps on the canvas back to the scan's grid: bilinear, 0 where the canvas does not reach.

        Args:
            maps: one map per slice, on this canvas.

        Raises:
            ValueError: where the maps are not on this canvas.
        """
        if maps.shape != self.region.shape:
            raise ValueError(
                f"to_native: expected maps on the canvas {tuple(self.region.shape)}; got {tuple(maps.shape)}; "
                "pass one map per slice of this batch"
            )
        depth, height, width = self.native_shape
        native = torch.empty(self.native_shape, dtype=torch.float32)
        inverse = _invert(self.sampling)
        chunk = max(1, _CHUNK_VOXELS // (height * width))
        for start in range(0, depth, chunk):
            part = slice(start, start + chunk)
            native[part] = _sample(maps[part, None].float(), inverse[part], (height, width))[:, 0]
        return native

    def to_canvas(
        self, maps: Float32[Tensor, "depth native_height native_width"]
    ) -> Float32[Tensor, "depth height width"]:
        """Bring maps on the scan's grid onto the canvas: bilinear, 0 where the scan does not reach.

        Args:
            maps: one map per slice, on the scan's grid.

        Raises:
            ValueError: where the maps are not on the scan's grid.
        """
        if tuple(maps.shape) != self.native_shape:
            raise ValueError(
                f"to_canvas: expected maps on the scan's grid {self.native_shape}; got {tuple(maps.shape)}; "
                "pass one map per slice of the scan"
            )
        depth, height, width = self.region.shape
        canvas = torch.empty(depth, height, width, dtype=torch.float32)
        chunk = max(1, _CHUNK_VOXELS // (maps.shape[1] * maps.shape[2]))
        for start in range(0, depth, chunk):
            part = slice(start, start + chunk)
            canvas[part] = _sample(maps[part, None].float(), self.sampling[part], (height, width))[:, 0]
        return canvas


def preprocess(
    volume: CTVolume,
    region: Bool[Tensor, "depth height width"],
    midline: Midline,
    median_hu: float,
    options: PreprocessOptions | None = None,
) -> SliceBatch:
    """Lay a scan's slices on the canvas and make the network's channels.

    Where the scan is finer than the canvas, the canvas is sampled as finely as the scan and averaged over its pixels,
    so that noise and thin bone do not alias.

    Args:
        volume: the scan.
        region: its intracranial region; where empty, the canvas is centred on the picture.
        midline: its mid-sagittal line.
        median_hu: its brain's median HU.
        options: spacing, canvas and channels.

    Returns:
        The batch, one canvas for all slices. Finite for finite HU: NaN counts as air.

    Raises:
        ValueError: where region and scan differ in shape, or median_hu is not finite.
    """
    options = options or PreprocessOptions()
    if region.shape != volume.hu.shape:
        raise ValueError(
            f"{volume.source}: expected a region of the scan's shape {tuple(volume.hu.shape)}; got "
            f"{tuple(region.shape)}; compute it from this scan"
        )
    if not math.isfinite(median_hu):
        raise ValueError(f"{volume.source}: expected a finite brain median; got {median_hu}; check the region")
    sampling, canvas = _place_canvas(volume, region, midline, options)
    depth = volume.hu.shape[0]
    images = torch.empty(depth, options.n_channels, *canvas, dtype=torch.float32)
    n_own = options.n_channels - 2 * options.neighbours
    relative_hu = torch.empty(depth, *canvas, dtype=torch.float32)
    canvas_region = torch.empty(depth, *canvas, dtype=torch.bool)
    oversampling = max(1, round(options.spacing_mm / min(volume.spacing_mm[1:])))
    chunk = max(1, _CHUNK_VOXELS // (canvas[0] * canvas[1] * oversampling**2))
    for start in range(0, depth, chunk):
        part = slice(start, start + chunk)
        hu, inside = _resample(volume.hu[part], region[part], sampling[part], canvas, oversampling)
        canvas_region[part] = inside
        relative_hu[part] = hu - median_hu
        images[part, :n_own] = _own_channels(hu, inside, median_hu, options)
    if options.neighbours:
        with_brain = torch.nonzero(region.any(dim=2).any(dim=1)).flatten().tolist()
        beside = torch.arange(depth)[:, None].expand(-1, 2 * options.neighbours).clone()
        beside[with_brain] = torch.tensor(with_brain, dtype=torch.int64)[neighbour_rows(with_brain, options.neighbours)]
        for start in range(0, depth, chunk):
            part = slice(start, start + chunk)
            images[part, n_own:] = _shown_hu(relative_hu[beside[part]], canvas_region[part], options)
    return SliceBatch(
        images=images,
        region=canvas_region,
        relative_hu=relative_hu,
        sampling=sampling,
        native_shape=(volume.hu.shape[0], volume.hu.shape[1], volume.hu.shape[2]),
        spacing_mm=options.spacing_mm,
    )


def _place_canvas(
    volume: CTVolume, region: Bool[Tensor, "depth height width"], midline: Midline, options: PreprocessOptions
) -> tuple[Float64[Tensor, "depth 2 3"], tuple[int, int]]:
    """The canvas's size (rows, columns), and per slice the affine from its index to the scan's index."""
    depth, height, width = volume.hu.shape
    _, dy, dx = volume.spacing_mm
    angle = math.radians(midline.angle_deg) if options.align else 0.0
    across = torch.tensor([math.sin(angle), math.cos(angle)], dtype=torch.float64)
    along = torch.tensor([math.cos(angle), -math.sin(angle)], dtype=torch.float64)
    per_mm = torch.tensor([1 / dy, 1 / dx], dtype=torch.float64)
    middle = torch.tensor([(height - 1) / 2, (width - 1) / 2], dtype=torch.float64)
    outline = _outline_mm(region, middle, per_mm)
    y = torch.cat([(points @ along) for points in outline])
    centre_along = float(y.min() + y.max()) / 2 if len(y) else 0.0
    if options.align:
        coordinates = volume.slice_coordinates.tolist()
        offsets = torch.tensor([midline.offset_at_mm(d) for d in coordinates], dtype=torch.float64)
    else:
        x = torch.cat([(points @ across) for points in outline])
        offsets = torch.full((depth,), float(x.min() + x.max()) / 2 if len(x) else 0.0, dtype=torch.float64)
    half_along = float((y - centre_along).abs().max()) if len(y) else 0.0
    half_across = max(
        (float((p @ across - o).abs().max()) for p, o in zip(outline, offsets, strict=True) if len(p)), default=0.0
    )
    rows, columns = _canvas_px(half_along, options), _canvas_px(half_across, options)
    sampling = torch.empty(depth, 2, 3, dtype=torch.float64)
    row_step, column_step = options.spacing_mm * along * per_mm, options.spacing_mm * across * per_mm
    sampling[:, :, 0] = row_step
    sampling[:, :, 1] = column_step
    corner = middle + centre_along * along * per_mm - row_step * (rows - 1) / 2 - column_step * (columns - 1) / 2
    sampling[:, :, 2] = corner + offsets[:, None] * across * per_mm
    return sampling, (rows, columns)


def _canvas_px(half_mm: float, options: PreprocessOptions) -> int:
    """Pixels that hold half_mm and the margin on both sides of the canvas's middle, fov_px at least."""
    needed_px = 2 * (half_mm + options.margin_mm) / options.spacing_mm
    return max(options.fov_px, _GROWTH_PX * math.ceil(needed_px / _GROWTH_PX))


def _outline_mm(
    region: Bool[Tensor, "depth height width"], middle: Float64[Tensor, "2"], per_mm: Float64[Tensor, "2"]
) -> list[Float64[Tensor, "n 2"]]:
    """Per slice, each row's first and last voxel of the region as (y, x) in mm from the middle of the picture."""
    outline = []
    for plane in region:
        rows = torch.nonzero(plane.any(1))[:, 0]
        taken = plane[rows].to(torch.uint8)
        first = taken.argmax(1)
        last = plane.shape[1] - 1 - taken.flip(1).argmax(1)
        ends = torch.stack([torch.cat([rows, rows]), torch.cat([first, last])], dim=1).double()
        outline.append((ends - middle) / per_mm)
    return outline


def _resample(
    hu: Float[Tensor, "n height width"],
    region: Bool[Tensor, "n height width"],
    sampling: Float64[Tensor, "n 2 3"],
    canvas: tuple[int, int],
    oversampling: int,
) -> tuple[Float32[Tensor, "n rows columns"], Bool[Tensor, "n rows columns"]]:
    """HU and region averaged over the canvas's pixels; air where the scan does not reach."""
    above_air = torch.nan_to_num(hu, nan=AIR_HU).clamp(AIR_HU, HIGHEST_HU).float() - AIR_HU
    planes = torch.stack([above_air, region.float()], dim=1)
    fine = sampling.clone()
    fine[:, :, :2] /= oversampling
    fine[:, :, 2] -= (sampling[:, :, 0] + sampling[:, :, 1]) * (oversampling - 1) / (2 * oversampling)
    sampled = _sample(planes, fine, (canvas[0] * oversampling, canvas[1] * oversampling))
    if oversampling > 1:
        sampled = functional.avg_pool2d(sampled, oversampling)
    return sampled[:, 0] + AIR_HU, sampled[:, 1] >= 0.5


def _sample(
    planes: Float32[Tensor, "n channels height width"], affine: Float64[Tensor, "n 2 3"], shape: tuple[int, int]
) -> Float32[Tensor, "n channels rows columns"]:
    """Bilinear samples at affine @ (row, column, 1), in pixel indices of the planes; 0 outside."""
    # grid_sample speaks of (x, y) in -1..1 from outer edge to outer edge of the picture.
    row = torch.arange(shape[0], dtype=torch.float64)
    column = torch.arange(shape[1], dtype=torch.float64)
    grid = torch.empty(len(planes), *shape, 2)
    for unit, axis, size in ((grid[..., 0], 1, planes.shape[3]), (grid[..., 1], 0, planes.shape[2])):
        per_row, per_column, offset = (affine[:, axis, k, None] * (2.0 / size) for k in range(3))
        along_rows = (per_row * row + offset + (1.0 / size - 1.0)).float()
        torch.add(along_rows[:, :, None], (per_column * column).float()[:, None, :], out=unit)
    return functional.grid_sample(planes, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def _invert(sampling: Float64[Tensor, "depth 2 3"]) -> Float64[Tensor, "depth 2 3"]:
    """The inverse affines: the scan's index (h, w, 1) -> canvas index (row, column)."""
    inverse = torch.linalg.inv(sampling[:, :, :2])
    return torch.cat([inverse, -inverse @ sampling[:, :, 2:]], dim=2)


def neighbour_rows(slices: Sequence[int], neighbours: int) -> Int64[Tensor, "n beside"]:
    """For each of a scan's slices that show brain, which of them lie beside it: below and above, the nearest first.

    Slices count, not mm: of thin ones, a neighbour shows nearly the same. Where there is none, at the ends or at a gap,
    the slice stands for its own neighbour.

    Args:
        slices: their indices in the scan, ascending.
        neighbours: how many on either side.
    """
    row_of = {index: row for row, index in enumerate(slices)}
    steps = [step * side for step in range(1, neighbours + 1) for side in (-1, 1)]
    rows = [[row_of.get(index + step, row) for step in steps] for row, index in enumerate(slices)]
    return torch.tensor(rows, dtype=torch.int64).reshape(len(slices), len(steps))


def network_images(
    hu: Float32[Tensor, "n height width"],
    region: Bool[Tensor, "n height width"],
    median_hu: float | Float32[Tensor, "n 1 1"],
    options: PreprocessOptions,
    beside_hu: Float32[Tensor, "n beside height width"] | None = None,
) -> Float32[Tensor, "n channels height width"]:
    """The network's channels in [0, 1] from slices that lie on the canvas already.

    Args:
        hu: slices on the canvas.
        region: their intracranial region.
        median_hu: brain median of the slices' scan, or of each slice's own.
        options: the channels.
        beside_hu: HU over the brain median of each slice's neighbours, as `neighbour_rows` has them; not needed where
            neighbours are no channels.

    Raises:
        ValueError: where neighbours are channels and are not given.
    """
    own = _own_channels(hu, region, median_hu, options)
    if not options.neighbours:
        return own
    if beside_hu is None or beside_hu.shape[1] != 2 * options.neighbours:
        got = "none" if beside_hu is None else beside_hu.shape[1]
        raise ValueError(f"expected {2 * options.neighbours} neighbours of each slice; got {got}; set neighbours to 0")
    return torch.cat([own, _shown_hu(beside_hu, region, options)], dim=1)


def _own_channels(
    hu: Float32[Tensor, "n height width"],
    region: Bool[Tensor, "n height width"],
    median_hu: float | Float32[Tensor, "n 1 1"],
    options: PreprocessOptions,
) -> Float32[Tensor, "n channels height width"]:
    """What is shown of the slices themselves."""
    if options.channels == "relative":
        return _relative_channels(hu - median_hu, region, options)
    windowed = torch.stack([window.apply(hu) for window in (BRAIN, SUBDURAL, BONE)], dim=1)
    if options.channels == "windows_observed":
        return _stretch(windowed)
    return windowed


def _stretch(windowed: Float32[Tensor, "n channels height width"]) -> Float32[Tensor, "n channels height width"]:
    """Each slice and channel stretched to 0..1 over what it shows; one that is flat to _FLAT becomes 0.

    Source: the published HGI-SAM preprocessing (arXiv 2304.04902). The same HU gets another value in another slice.
    """
    low = windowed.amin((2, 3), keepdim=True)
    extent = windowed.amax((2, 3), keepdim=True) - low
    return torch.where(extent > _FLAT, (windowed - low) / extent.clamp(min=_FLAT), 0.0)


def _relative_channels(
    relative_hu: Float32[Tensor, "n height width"], region: Bool[Tensor, "n height width"], options: PreprocessOptions
) -> Float32[Tensor, "n channels height width"]:
    low, high = options.relative_range_hu
    channels = [_shown_hu(relative_hu[:, None], region, options)[:, 0]]
    if options.mirror_channel:
        difference = _mirror_difference_hu(relative_hu.clamp(low, high), region, options)
        channels.append((difference / (2 * options.mirror_clip_hu) + 0.5).clamp(0.0, 1.0))
    if options.skull_channel:
        channels.append(HUWindow(center_hu=400.0, width_hu=1200.0).apply(relative_hu))
    return torch.stack(channels, dim=1)


def _shown_hu(
    relative_hu: Float32[Tensor, "n planes height width"],
    region: Bool[Tensor, "n height width"],
    options: PreprocessOptions,
) -> Float32[Tensor, "n planes height width"]:
    """HU over the brain median in [0, 1], hidden where the slice's own outside is."""
    low, high = options.relative_range_hu
    shown = relative_hu
    if options.mask_outside:
        margin_px = options.mask_margin_mm / options.spacing_mm
        shown = torch.where(_dilate(region, margin_px)[:, None], relative_hu, low)
    return ((shown - low) / (high - low)).clamp(0.0, 1.0)


def _mirror_difference_hu(
    relative_hu: Float32[Tensor, "n height width"], region: Bool[Tensor, "n height width"], options: PreprocessOptions
) -> Float32[Tensor, "n height width"]:
    """Smoothed HU minus its left-right mirror image where both lie in the region, else 0."""
    inside = region.float()
    sigma_px = options.mirror_smoothing_mm / options.spacing_mm
    weight = _smooth(inside, sigma_px)
    smooth = _smooth(relative_hu * inside, sigma_px) / weight.clamp(min=1e-3)
    return torch.where(region & region.flip(2), smooth - smooth.flip(2), 0.0)


def _smooth(planes: Float32[Tensor, "n height width"], sigma_px: float) -> Float32[Tensor, "n height width"]:
    """In-plane Gaussian, zero outside."""
    if sigma_px <= 0:
        return planes
    kernels = []
    for size in planes.shape[1:]:
        index = torch.arange(size, dtype=torch.float32)
        kernel = torch.exp(-0.5 * ((index[:, None] - index[None, :]) / sigma_px) ** 2)
        kernels.append(kernel / (sigma_px * math.sqrt(2 * math.pi)))
    return kernels[0] @ planes @ kernels[1]


def _dilate(mask: Bool[Tensor, "n height width"], radius_px: float) -> Bool[Tensor, "n height width"]:
    """In-plane dilation by a disc: the mask or any of its copies moved by up to radius_px."""
    reach = math.floor(radius_px)
    padded = functional.pad(mask, (reach, reach, reach, reach))
    _, height, width = mask.shape
    grown = mask.clone()
    for down in range(-reach, reach + 1):
        across = math.floor(math.sqrt(radius_px**2 - down**2))
        for right in range(-across, across + 1):
            grown |= padded[:, reach + down : reach + down + height, reach + right : reach + right + width]
    return grown
