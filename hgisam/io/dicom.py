"""DICOM series -> volumes in house axes: native slices, each with its own place, thickness and UID.

Nothing is resampled. Slices that are tilted or unevenly spaced are kept as they are; one that is missing is refused, or
taken with the scan's volume as a lower bound.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from hgisam.io.dicom_files import FileReader
from hgisam.io.dicom_header import SliceHeader
from hgisam.io.dicom_pixels import SliceReader
from hgisam.io.dicom_series import DicomSeries, choose_series, find_series, slice_normal
from hgisam.io.errors import ScanRefused
from hgisam.io.nifti import NiftiGrid, new_grid_for
from hgisam.io.nifti_header import MAX_VOXELS, SHEAR_TOLERANCE
from hgisam.volume import CTVolume, Orientation, SlicePlanes

SAME_POSITION_MM = 0.02
"""Slices nearer than this lie at one position."""

EVEN_TOLERANCE_MM = 0.05
"""Slices are even where none lies further than this from where the volume's affine puts it."""

MISSING_GAP = 1.5
"""A gap this many times those around it, and not filled by the slices' thickness, is one where slices are missing."""

SINGLE_SLICE_MM = 5.0
"""The step in the affine of a lone slice whose thickness is unknown. No volume is made of it."""

SHIFTED_MM = 2.0
"""Pictures that lie further than this beside the line on which the others are stacked are told of."""

_COVERED = 1.25
_NEIGHBOURS = 3
_TO_RAS = np.diag([-1.0, -1.0, 1.0])

FloatArray = NDArray[np.float64]


def read_dicom(
    scan: Path | DicomSeries, *, allow_gaps: bool = False, max_voxels: int = MAX_VOXELS, hu_offset: float = 0.0
) -> tuple[CTVolume, NiftiGrid]:
    """Read a series of axial CT slices.

    Args:
        scan: a series; or a file, folder or archive that holds one.
        allow_gaps: take a scan with missing slices; its volume is a lower bound.
        max_voxels: refuse more, before memory is taken.
        hu_offset: added to the file's values, before they are held to LOWEST_HU..HIGHEST_HU.

    Returns:
        The scan, float32 HU within LOWEST_HU..HIGHEST_HU, each slice with its own place; and a grid whose file axes are
        the pictures' own columns and rows, and the slices from the lowest up, with the reader's warnings.

    Raises:
        ScanRefused: where there is not one series, slices are missing or contradict each other, or a file is damaged.
    """
    series = scan if isinstance(scan, DicomSeries) else _only_series(scan)
    source = series.source
    if series.problem is not None:
        raise ScanRefused(f"{source}: {series.problem}")
    first = series.slices[0]
    n_voxels = len(series.slices) * first.rows * first.columns
    if n_voxels > max_voxels:
        raise ScanRefused(
            f"{source}: expected at most {max_voxels:,} voxels; got headers that state {n_voxels:,}; raise the limit if"
            " that is true"
        )
    places = _Places.of(series.slices)
    missing = places.missing_gaps
    if missing.any() and not allow_gaps:
        at = int(np.flatnonzero(missing)[0])
        raise ScanRefused(
            f"{source}: expected slices without a gap; got {places.gaps_mm[at]:.2f} mm between slice {at} and the next,"
            f" {places.expected_mm[at]:.2f} mm around it: slices are missing; copy the series again, or take it as it"
            " is with --allow-gaps"
        )
    pixels, n_dropped = _read_pixels(places, source, hu_offset)
    warnings = (*series.notes, *places.warnings(n_dropped))
    return _assemble(pixels, places, source, warnings)


def _only_series(path: Path) -> DicomSeries:
    listing = find_series([path])
    if not listing.series:
        raise listing.refusal(path.name)
    chosen = choose_series(listing.series)
    if chosen is None:
        found = "; ".join(f"{row['series_uid']} ({row['slices']} slices)" for row in (s.row() for s in listing.series))
        raise ScanRefused(f"{path.name}: expected one series of axial CT slices; got {found}; choose one")
    return chosen


@dataclass(frozen=True, eq=False)
class _Places:
    """Where a series' slices lie, one for each position.

    Attributes:
        slices: the first header at each position, the lowest first.
        repeats: for each position, further headers there.
        normal: across the slices, to Superior; RAS+.
        origins_mm: middle of each slice's first pixel; RAS+.
    """

    slices: tuple[SliceHeader, ...]
    repeats: tuple[tuple[SliceHeader, ...], ...]
    normal: FloatArray
    origins_mm: FloatArray

    @classmethod
    def of(cls, headers: tuple[SliceHeader, ...]) -> "_Places":
        """The places of headers that are sorted along their normal."""
        normal = slice_normal(headers[0])
        at = np.array([header.position for header in headers]) @ normal
        starts = np.flatnonzero(np.diff(at, prepend=-np.inf) >= SAME_POSITION_MM).tolist()
        groups = [headers[start:end] for start, end in zip(starts, [*starts[1:], len(headers)], strict=True)]
        slices = tuple(group[0] for group in groups)
        origins = np.array([header.position for header in slices]) @ _TO_RAS
        return cls(slices, tuple(group[1:] for group in groups), _TO_RAS @ normal, origins)

    @property
    def thickness_mm(self) -> FloatArray:
        """Nominal thickness of each slice; NaN where it is not stated."""
        return np.array([header.thickness_mm for header in self.slices])

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
        thickness = self.thickness_mm
        covered = np.nan_to_num(thickness[1:] + thickness[:-1]) / 2
        return (self.gaps_mm > MISSING_GAP * self.expected_mm) & (self.gaps_mm > _COVERED * covered)

    @property
    def spacing_mm(self) -> FloatArray:
        """The length along the normal that each slice stands for: half of either gap, the ends as much out as in."""
        if len(self.slices) == 1:
            return self.thickness_mm
        counted = np.where(self.missing_gaps, self.expected_mm, self.gaps_mm) / 2
        before, after = np.concatenate([counted[:1], counted]), np.concatenate([counted, counted[-1:]])
        return np.asarray(before + after)

    @property
    def step_mm(self) -> FloatArray:
        """The mean way from one slice to the next; RAS+."""
        if len(self.slices) == 1:
            return np.asarray(self.normal * float(np.nan_to_num(self.thickness_mm[0], nan=SINGLE_SLICE_MM)))
        return np.asarray((self.origins_mm[-1] - self.origins_mm[0]) / (len(self.slices) - 1), dtype=np.float64)

    @property
    def even(self) -> bool:
        """Whether one step leads from each slice to the next."""
        placed = self.origins_mm[0] + np.arange(len(self.slices))[:, None] * self.step_mm
        return bool((np.linalg.norm(placed - self.origins_mm, axis=1) <= EVEN_TOLERANCE_MM).all())

    @property
    def shift_mm(self) -> float:
        """How far any picture lies beside the straight line from the first to the last."""
        way = self.origins_mm - self.origins_mm[0]
        along = way @ self.normal
        return float(np.linalg.norm(way - along[:, None] * self.step_mm / (self.step_mm @ self.normal), axis=1).max())

    def affine(self, index: int, step_mm: FloatArray) -> FloatArray:
        """Index (column, row, slices from this one, 1) -> RAS+ mm."""
        header = self.slices[index]
        affine = np.eye(4)
        affine[:3, 0] = _TO_RAS @ header.along_columns * header.spacing_mm[1]
        affine[:3, 1] = _TO_RAS @ header.along_rows * header.spacing_mm[0]
        affine[:3, 2] = step_mm
        affine[:3, 3] = self.origins_mm[index]
        return affine

    def warnings(self, n_dropped: int) -> tuple[str, ...]:
        """What a reader of the result should know about these places."""
        found = []
        gaps, thickness = self.gaps_mm, self.thickness_mm
        if n_dropped:
            found.append(f"{n_dropped} slices are in it twice, pixel by pixel: each was taken once")
        if not gaps.size:
            if np.isnan(thickness).any():
                found.append("one slice whose thickness is not stated: no volume can be measured")
            return tuple(found)
        step = self.step_mm
        sine = float(np.linalg.norm(np.cross(step / np.linalg.norm(step), self.normal)))
        if sine > SHEAR_TOLERANCE:
            found.append(f"slices are stacked {np.degrees(np.arcsin(sine)):.1f} degrees off square (gantry tilt kept)")
        if not self.even:
            found.append(
                f"slices lie {gaps.min():.2f} to {gaps.max():.2f} mm apart: each is measured with its own spacing, and"
                f" the NIfTI outputs, which hold one, have the mean of {gaps.mean():.2f} mm"
            )
        if self.shift_mm > SHIFTED_MM:
            found.append(f"pictures lie up to {self.shift_mm:.0f} mm beside one straight stack")
        if self.missing_gaps.any():
            found.append(f"slices are missing in {int(self.missing_gaps.sum())} places: the volume is a lower bound")
        if bool((gaps > MISSING_GAP * np.maximum(thickness[1:], thickness[:-1])).sum() * 2 > gaps.size):
            found.append("slices are thinner than the way between them: what lies there was not imaged")
        return tuple(found)


def _read_pixels(places: _Places, source: str, hu_offset: float) -> tuple[NDArray[np.float32], int]:
    """HU [slice, row, column], and how many slices were there twice."""
    first = places.slices[0]
    hu = np.empty((len(places.slices), first.rows, first.columns), dtype=np.float32)
    n_dropped = 0
    with FileReader() as files:
        reader = SliceReader(files, hu_offset)
        for index, (header, repeats) in enumerate(zip(places.slices, places.repeats, strict=True)):
            hu[index] = reader.hu(header)
            for repeat in repeats:
                if not np.array_equal(reader.hu(repeat), hu[index]):
                    raise ScanRefused(
                        f"{source}: expected one slice at each position; got {len(repeats) + 1} different ones at slice"
                        f" {index} ({header.file.path.name}): phases or reconstructions mixed; keep one in the folder"
                    )
                n_dropped += 1
    return hu, n_dropped


def _assemble(
    pixels: NDArray[np.float32], places: _Places, source: str, warnings: tuple[str, ...]
) -> tuple[CTVolume, NiftiGrid]:
    """The volume in house axes and its grid, from HU [slice, row, column]."""
    shape = (pixels.shape[2], pixels.shape[1], pixels.shape[0])
    orientation = Orientation.from_affine(places.affine(0, places.normal))
    one = (*shape[:2], 1)
    affines = np.stack(
        [
            orientation.house_affine(places.affine(index, places.normal), one)[:3, 1:]
            for index in range(len(places.slices))
        ]
    )
    planes = SlicePlanes(
        affines=torch.from_numpy(affines),
        spacing_mm=torch.from_numpy(places.spacing_mm),
        thickness_mm=torch.from_numpy(places.thickness_mm),
        uids=tuple(header.sop_instance_uid for header in places.slices),
        frames=tuple(header.frame + 1 for header in places.slices),
        regular=places.even,
        complete=not places.missing_gaps.any(),
    )
    house = np.ascontiguousarray(orientation.to_house(pixels.transpose(2, 1, 0)))
    affine = torch.from_numpy(orientation.house_affine(places.affine(0, places.step_mm), shape))
    volume = CTVolume(torch.from_numpy(house), affine, source, planes)
    return volume, new_grid_for(volume, orientation, warnings)
