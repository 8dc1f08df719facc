"""The mid-sagittal line of a head CT, by mirror correlation.

In a slice, x is mm to the patient's Left and y mm to Posterior, both from the middle of the picture.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from hgisam.brain.region import AIR_HU, BrainOptions
from hgisam.volume import CTVolume

WIDER = 1.03
"""A head this many times wider than long may lie with its nose to one side. Measured on 69 real heads: two are so, of
which one is cut short by the picture's edge and one turned by 45 degrees; the others are 1.04 to 1.36 times longer."""
MORE_ALIKE = 1.02
"""It does where front and back are this many times more alike than left and right. Measured: at most 1.00 times."""

_LEAST_SLICES = 8
"""Of fewer slices with brain, a turn is not judged: a piece of skull base may look like anything."""

_WIDEST, _MOST_TELLING = 0.6, 12
"""Slices with this share of the widest one's brain tell the head's shape; of more than so many, some do."""

_TURNS_DEG = np.arange(-40.0, 41.0, 8.0)
"""Turns that are tried about an axis to tell which one the head mirrors itself across."""

_AROUND_MM = 10.0
"""How far around the region the skull takes part in the comparison."""

_SLICE_STEP_MM = 5.0
"""Thin slices are taken about this far apart."""

_STEPS_DEG = (4.0, 1.0, 0.25)
"""The angle is sought in these steps, each around the best of the one before."""

_LEANS = 21
"""So many leans of the head are tried with each angle; from step to step their spacing shrinks with the angle's."""


@dataclass(frozen=True)
class Midline:
    """The mid-sagittal plane of a head as a line in every slice.

    The line in slice d is { (x, y): x cos(angle) + y sin(angle) = offset_mm + d offset_step_mm }.

    Attributes:
        angle_deg: turn of the head in its slices; 0 where the line runs straight from anterior to posterior, above 0
            where its posterior end points to the patient's Right.
        offset_mm: signed distance from the middle of the picture to the line in slice 0, above 0 to the Left.
        offset_step_mm: how much the offset grows from one slice to the next, or in the mean step of uneven slices: the
            lean of the head.
    """

    angle_deg: float
    offset_mm: float
    offset_step_mm: float

    def offset_at_mm(self, depth: float) -> float:
        """Signed distance in mm from the middle of the picture to the line in slice `depth`, above 0 to the Left.

        Of uneven slices, `depth` is one of the scan's `slice_coordinates`.
        """
        return self.offset_mm + depth * self.offset_step_mm


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
    content = _mirror_content(volume, region, options.midline_grid_mm)
    if content is None:
        return Midline(angle_deg=0.0, offset_mm=0.0, offset_step_mm=0.0)
    best = _Line(angle_deg=0.0, offset_mm=0.0, step_mm=0.0, score=-np.inf)
    turn_deg, lean_mm = options.midline_angle_deg, np.tan(np.radians(options.midline_roll_deg)) * volume.spacing_mm[0]
    for step_deg in _STEPS_DEG:
        angles_deg = best.angle_deg + step_deg * np.arange(-round(turn_deg / step_deg), round(turn_deg / step_deg) + 1)
        leans_mm = best.step_mm + lean_mm * np.linspace(-1.0, 1.0, _LEANS)
        best = max((content.best_line(angle, leans_mm) for angle in angles_deg.tolist()), key=lambda line: line.score)
        turn_deg, lean_mm = step_deg, lean_mm * 4 / (_LEANS - 1)
    radians = np.radians(best.angle_deg)
    to_picture_mm = content.centre_mm[1] * np.cos(radians) + content.centre_mm[0] * np.sin(radians)
    return Midline(
        angle_deg=best.angle_deg, offset_mm=float(best.offset_mm + to_picture_mm), offset_step_mm=best.step_mm
    )


def is_turned_sideways(
    volume: CTVolume, region: Bool[Tensor, "depth height width"], options: BrainOptions | None = None
) -> bool:
    """Whether the head lies in its slices with front and back where left and right should be, by a file's mistake.

    It does where the brain is wider than long, and left and right are less alike than front and back. Of 69 real heads
    (CT-ICH) none is both; turned by 90 degrees, 65 are. False where there is too little to tell. A head on its face, or
    with left for right, mirrors itself as it should, and is not found.

    Args:
        volume: the scan.
        region: its intracranial region.
        options: grid and search range.
    """
    options = options or BrainOptions()
    area = torch.tensor([np.count_nonzero(plane) for plane in region.numpy()])
    if int((area > 0).sum()) < _LEAST_SLICES:
        return False
    telling = torch.nonzero(area >= _WIDEST * area.max()).flatten()
    outline = region[telling[:: -(-len(telling) // _MOST_TELLING)]].sum(dim=0, dtype=torch.float64)
    _, dy, dx = volume.spacing_mm
    if _spread(outline.sum(dim=0)) * dx < WIDER * _spread(outline.sum(dim=1)) * dy:
        return False
    content = _mirror_content(volume, region, options.midline_grid_mm)
    if content is None:
        return False
    lean_mm = np.tan(np.radians(options.midline_roll_deg)) * volume.spacing_mm[0]
    leans_mm = lean_mm * np.linspace(-1.0, 1.0, _LEANS)
    upright, sideways = (
        max(content.best_line(angle, leans_mm).score for angle in (axis_deg + _TURNS_DEG).tolist())
        for axis_deg in (0.0, 90.0)
    )
    return sideways > MORE_ALIKE * upright


def _spread(counts: Float[Tensor, " n"]) -> float:
    """Standard deviation of the index at which something is counted."""
    index = torch.arange(len(counts), dtype=torch.float64)
    mean = counts @ index / counts.sum()
    return float((counts @ (index - mean).square() / counts.sum()).sqrt())


@dataclass(frozen=True)
class _Line:
    """A straight line of mirror offsets through the slices at one angle, and how alike the sides are about it."""

    angle_deg: float
    offset_mm: float
    step_mm: float
    score: float


@dataclass(frozen=True, eq=False)
class _MirrorContent:
    """What is compared with its mirror image, on a square grid of its own.

    Attributes:
        planes: 0..1; 0 where nothing is compared.
        depths: the coordinate of the scan's slice that each plane is from.
        cell_mm: the grid's cell.
        centre_mm: (y, x) of the grid's centre.
    """

    planes: Float[Tensor, "slices 1 n n"]
    depths: Float[Tensor, " slices"]
    cell_mm: float
    centre_mm: tuple[float, float]

    def best_line(self, angle_deg: float, steps_mm: NDArray[np.float64]) -> _Line:
        """The best line at this angle among those that step by one of steps_mm from slice to slice.

        Its offset is in mm from the grid's centre, in slice 0.
        """
        curves = self._correlations(angle_deg)
        shifts = curves.shape[1]
        middle = float(self.depths.mean())
        steps = torch.from_numpy(steps_mm)
        lean = steps[:, None] * (self.depths - middle)[None] * (4 / self.cell_mm)
        position = torch.arange(shifts, dtype=torch.float64)[None, None] + lean[:, :, None]
        below = position.floor().clamp(0, shifts - 2)
        share = (position - below).clamp(0.0, 1.0)
        planes = torch.arange(curves.shape[0])[None, :, None]
        index = below.long()
        totals = torch.lerp(curves[planes, index], curves[planes, index + 1], share).sum(1)
        best, peak = divmod(int(totals.argmax()), shifts)
        offset_mm = (peak + _parabola_peak(totals[best], peak) - (shifts - 1) / 2) * self.cell_mm / 4
        step_mm = float(steps[best]) if len(self.depths) > 1 else 0.0
        return _Line(
            angle_deg=angle_deg,
            offset_mm=offset_mm - middle * step_mm,
            step_mm=step_mm,
            score=float(totals[best, peak]),
        )

    def _correlations(self, angle_deg: float) -> Float[Tensor, "slices shifts"]:
        """Per slice, the sum over pixels of content times mirror image, for mirrors a quarter of a cell apart.

        Over the turned content's sum of squares, since turning blurs and would favour angles that need no blur.
        """
        cos, sin = float(np.cos(np.radians(angle_deg))), float(np.sin(np.radians(angle_deg)))
        n = self.planes.shape[-1]
        axis = torch.linspace(1 / n - 1, 1 - 1 / n, n)
        x, y = axis[None, :], axis[:, None]
        grid = torch.stack([cos * x - sin * y, sin * x + cos * y], dim=-1).expand(len(self.planes), -1, -1, -1)
        turned = functional.grid_sample(self.planes, grid, mode="bilinear", align_corners=False)[:, 0]
        spectrum = torch.fft.rfft(turned, n=2 * n, dim=2)
        curves: Tensor = torch.fft.irfft((spectrum * spectrum).sum(1), n=4 * n, dim=1)
        return curves[:, : 4 * n - 3].double() / float(turned.square().sum())


def _mirror_content(
    volume: CTVolume, region: Bool[Tensor, "depth height width"], grid_mm: float
) -> _MirrorContent | None:
    """HU 0..100 as 0..1 in the region and the skull around it, centred on the region; None where there is no region."""
    depths = torch.nonzero(region.flatten(1).any(1))[:, 0]
    if not len(depths):
        return None
    depths = depths[:: max(1, round(_SLICE_STEP_MM / volume.spacing_mm[0]))]
    _, height, width = volume.hu.shape
    _, dy, dx = volume.spacing_mm
    outline = region[depths].any(0)
    rows = torch.nonzero(outline.any(1))[:, 0]
    columns = torch.nonzero(outline.any(0))[:, 0]
    centre = (float(rows[0] + rows[-1]) / 2, float(columns[0] + columns[-1]) / 2)
    extent_mm = (float(rows[-1] - rows[0] + 1) * dy, float(columns[-1] - columns[0] + 1) * dx)
    half_mm = _AROUND_MM + float(np.hypot(*extent_mm)) / 2
    n = 2 * int(np.ceil(half_mm / grid_mm)) + 1
    axis_mm = (torch.arange(n) - (n - 1) / 2) * grid_mm
    y = (centre[0] + axis_mm / dy + 0.5) * (2 / height) - 1
    x = (centre[1] + axis_mm / dx + 0.5) * (2 / width) - 1
    grid = torch.stack([x[None, :].expand(n, n), y[:, None].expand(n, n)], dim=-1)[None]
    cells = (max(1, round(height * dy / grid_mm)), max(1, round(width * dx / grid_mm)))
    reach = int(np.ceil(_AROUND_MM / grid_mm))
    planes = torch.empty(len(depths), 1, n, n)
    for index, depth in enumerate(depths.tolist()):
        shown = torch.nan_to_num(volume.hu[depth], nan=AIR_HU).clamp(0.0, 100.0) / 100.0
        pair = torch.stack([shown, region[depth].float()])[None]
        sampled = functional.grid_sample(
            functional.interpolate(pair, size=cells, mode="area"), grid, mode="bilinear", align_corners=False
        )
        near = functional.max_pool2d((sampled[:, 1] > 0.5).float(), 2 * reach + 1, stride=1, padding=reach)
        planes[index] = functional.avg_pool2d(sampled[:, 0] * near, 3, stride=1, padding=1)
    centre_mm = ((centre[0] - (height - 1) / 2) * dy, (centre[1] - (width - 1) / 2) * dx)
    return _MirrorContent(planes=planes, depths=volume.slice_coordinates[depths], cell_mm=grid_mm, centre_mm=centre_mm)


def _parabola_peak(values: Float[Tensor, " n"], peak: int) -> float:
    """How far the top of the parabola through the peak and its neighbours lies from the peak: -0.5 to 0.5."""
    if not 0 < peak < len(values) - 1:
        return 0.0
    left, middle, right = (float(v) for v in values[peak - 1 : peak + 2])
    curvature = left - 2 * middle + right
    return 0.0 if curvature >= 0 else 0.5 * (left - right) / curvature
