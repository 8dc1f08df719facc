"""Where DICOM slices lie: their planes, their order from the lowest up, the gaps between them and what is missing."""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from hgisam.io.errors import ScanRefused
from hgisam.io.nifti_header import SHEAR_TOLERANCE
from hgisam.volume import NO_THICKNESS, SINGLE_SLICE_MM
from hgisam.wording import counted

SAME_PLACE_MM = 0.02
"""Slices nearer than this lie at one place."""

EVEN_TOLERANCE_MM = 0.05
"""Slices are even where none lies further than this from where one step for all puts it."""

LARGEST_TILT_DEG = 40.0
"""Slices that lean from the axial plane by more are coronal or sagittal."""

ORIENTATION_TOLERANCE = 2e-3
"""Slices whose direction cosines differ by no more than this lie in one orientation: 0.1 degrees."""

SPACING_TOLERANCE = 1e-3
"""Pixel spacings that differ by no more than this fraction are one."""

MISSING_GAP = 1.5
"""A gap this many times those around it, and not filled by the slices' thickness, is one where slices are missing."""

SHIFTED_MM = 2.0
"""Pictures that lie further than this beside the line on which the others are stacked are told of."""

_COVERED = 1.25
_NEIGHBOURS = 3
_TO_RAS = np.diag([-1.0, -1.0, 1.0])

FloatArray = NDArray[np.float64]
Vector = tuple[float, float, float]


@dataclass(frozen=True)
class PlaneGeometry:
    """A slice's picture, wherever it lies: what all slices of a series must share to be one volume.

    Attributes:
        rows: pixels from top to bottom.
        columns: pixels from left to right.
        along_columns: direction in which the column index grows; in DICOM's axes, to Left, Posterior, Superior.
        along_rows: direction in which the row index grows, likewise.
        spacing_mm: from row to row, and from column to column.
    """

    rows: int
    columns: int
    along_columns: Vector
    along_rows: Vector
    spacing_mm: tuple[float, float]

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.rows, self.columns

    @property
    def normal(self) -> FloatArray:
        """Unit vector across the slice, turned to Superior; in DICOM's axes."""
        normal = np.cross(self.along_columns, self.along_rows)
        normal *= (1.0 if normal[2] >= 0 else -1.0) / np.linalg.norm(normal)
        return np.asarray(normal)

    @property
    def tilt_deg(self) -> float:
        """How far the slice leans from the axial plane."""
        return math.degrees(math.acos(min(1.0, float(self.normal[2]))))

    def agrees_with(self, other: "PlaneGeometry") -> bool:
        """Whether slices of both can lie in one volume: one size, and directions and spacing equal but for rounding."""
        axes = zip((*self.along_columns, *self.along_rows), (*other.along_columns, *other.along_rows), strict=True)
        spacings = zip(self.spacing_mm, other.spacing_mm, strict=True)
        return (
            self.shape == other.shape
            and all(abs(a - b) <= ORIENTATION_TOLERANCE for a, b in axes)
            and all(abs(a / b - 1) <= SPACING_TOLERANCE for a, b in spacings)
        )


def slice_order(positions_mm: FloatArray, plane: PlaneGeometry) -> NDArray[np.intp]:
    """The order of slices from the lowest to the highest, by position along their normal.

    Args:
        positions_mm: [slices, 3] in DICOM's axes.
        plane: which all of them share.

    Returns:
        Indices into `positions_mm`.

    Raises:
        ScanRefused: where the slices are not axial, so that none is the lowest, or two lie at one place.
    """
    if plane.tilt_deg > LARGEST_TILT_DEG:
        raise ScanRefused(
            f"expected axial slices; got a normal {plane.tilt_deg:.0f} degrees off the body's axis; give the axial"
            " series"
        )
    along = positions_mm @ plane.normal
    order = np.argsort(along, kind="stable")
    n_double = int((np.diff(along[order]) < SAME_PLACE_MM).sum())
    if n_double:
        raise ScanRefused(
            f"expected each slice at its own place; got {n_double} of {len(order)} at the place of another; two"
            " acquisitions lie in one series: keep one"
        )
    return order


def evenly_stacked(positions_mm: FloatArray) -> bool:
    """Whether one step leads from each slice to the next, within EVEN_TOLERANCE_MM; True for two slices or fewer."""
    placed = np.linspace(positions_mm[0], positions_mm[-1], len(positions_mm))
    return bool((np.linalg.norm(placed - positions_mm, axis=1) <= EVEN_TOLERANCE_MM).all())


@dataclass(frozen=True, eq=False)
class SliceStack:
    """Where a scan's slices lie, one for each place, the lowest first.

    Attributes:
        planes: of each slice; they agree with each other.
        origins_mm: middle of each slice's first pixel; RAS+.
        thickness_mm: nominal thickness of each slice; NaN where it is not stated.
    """

    planes: tuple[PlaneGeometry, ...]
    origins_mm: FloatArray
    thickness_mm: FloatArray

    @classmethod
    def at(cls, planes: tuple[PlaneGeometry, ...], positions_mm: FloatArray, thickness_mm: FloatArray) -> "SliceStack":
        """The stack of slices at positions in DICOM's axes, the lowest first."""
        return cls(planes, positions_mm @ _TO_RAS, thickness_mm)

    @cached_property
    def normal(self) -> FloatArray:
        """Unit vector across the slices, to Superior; RAS+."""
        return np.asarray(_TO_RAS @ self.planes[0].normal)

    @cached_property
    def gaps_mm(self) -> FloatArray:
        """The way along the normal from each slice to the next; empty for a single one."""
        return np.diff(self.origins_mm @ self.normal)

    @cached_property
    def expected_mm(self) -> FloatArray:
        """For each gap, what it would be if no slice were missing: the median of those before or after, if larger.

        So a spacing that changes for good is none of its own missing slices, but a gap among smaller ones is.
        """
        gaps = self.gaps_mm
        expected = gaps.copy()
        for index in range(len(gaps)):
            before, after = gaps[max(0, index - _NEIGHBOURS) : index], gaps[index + 1 : index + 1 + _NEIGHBOURS]
            telling = [side for side in (before, after) if side.size > 1] or [np.concatenate([before, after])]
            if telling[0].size:
                expected[index] = max(np.median(side) for side in telling)
        return expected

    @cached_property
    def missing_gaps(self) -> NDArray[np.bool_]:
        """For each gap, whether slices are missing in it."""
        covered = np.nan_to_num(self.thickness_mm[1:] + self.thickness_mm[:-1]) / 2
        return (self.gaps_mm > MISSING_GAP * self.expected_mm) & (self.gaps_mm > _COVERED * covered)

    @property
    def spacing_mm(self) -> FloatArray:
        """The length along the normal that each slice stands for: half of either gap, the ends as much out as in."""
        if len(self.planes) == 1:
            return self.thickness_mm
        counted = np.where(self.missing_gaps, self.expected_mm, self.gaps_mm) / 2
        before, after = np.concatenate([counted[:1], counted]), np.concatenate([counted, counted[-1:]])
        return np.asarray(before + after)

    @property
    def step_mm(self) -> FloatArray:
        """The mean way from one slice to the next; RAS+."""
        if len(self.planes) == 1:
            return np.asarray(self.normal * float(np.nan_to_num(self.thickness_mm[0], nan=SINGLE_SLICE_MM)))
        return np.asarray((self.origins_mm[-1] - self.origins_mm[0]) / (len(self.planes) - 1), dtype=np.float64)

    @property
    def shear_deg(self) -> float:
        """How far the slices' step leans from their normal, as behind a tilted gantry."""
        step = self.step_mm
        sine = float(np.linalg.norm(np.cross(step / np.linalg.norm(step), self.normal)))
        return math.degrees(math.asin(min(1.0, sine)))

    @property
    def even(self) -> bool:
        """Whether one step leads from each slice to the next."""
        return evenly_stacked(self.origins_mm)

    @property
    def shift_mm(self) -> float:
        """How far any picture lies beside the straight line from the first to the last."""
        way = self.origins_mm - self.origins_mm[0]
        along = way @ self.normal
        return float(np.linalg.norm(way - along[:, None] * self.step_mm / (self.step_mm @ self.normal), axis=1).max())

    def affine(self, index: int, step_mm: FloatArray) -> FloatArray:
        """Index (column, row, slices from this one, 1) -> RAS+ mm."""
        plane = self.planes[index]
        affine = np.eye(4)
        affine[:3, 0] = _TO_RAS @ plane.along_columns * plane.spacing_mm[1]
        affine[:3, 1] = _TO_RAS @ plane.along_rows * plane.spacing_mm[0]
        affine[:3, 2] = step_mm
        affine[:3, 3] = self.origins_mm[index]
        return affine

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a reader of the result should know about these places."""
        gaps, thickness = self.gaps_mm, self.thickness_mm
        if not gaps.size:
            if np.isnan(thickness).any():
                return (NO_THICKNESS,)
            return ()
        found = []
        if math.sin(math.radians(self.shear_deg)) > SHEAR_TOLERANCE:
            found.append(f"slices are stacked {self.shear_deg:.1f} degrees off square (gantry tilt kept)")
        if not self.even:
            found.append(
                f"slices lie {gaps.min():.2f} to {gaps.max():.2f} mm apart: each is measured with its own spacing, and"
                f" the NIfTI outputs, which hold one, have the mean of {gaps.mean():.2f} mm"
            )
        if self.shift_mm > SHIFTED_MM:
            found.append(f"pictures lie up to {self.shift_mm:.0f} mm beside one straight stack")
        if self.missing_gaps.any():
            places = counted(int(self.missing_gaps.sum()), "place")
            found.append(f"slices are missing in {places}: the volume is a lower bound")
        if bool((gaps > MISSING_GAP * np.maximum(thickness[1:], thickness[:-1])).sum() * 2 > gaps.size):
            found.append("slices are thinner than the way between them: what lies there was not imaged")
        return tuple(found)
