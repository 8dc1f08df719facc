"""DICOM series -> volumes in house axes: native slices, each with its own place, thickness and UID.

Nothing is resampled. Slices that are tilted or unevenly spaced are kept as they are; one that is missing is refused, or
taken with the scan's volume as a lower bound.
"""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from hgisam.io.dicom_files import FileReader
from hgisam.io.dicom_geometry import SAME_PLACE_MM, SliceStack, slice_order
from hgisam.io.dicom_header import SliceHeader, read_slice_header
from hgisam.io.dicom_pixels import SliceReader
from hgisam.io.dicom_series import DicomSeries, choose_series, find_series
from hgisam.io.errors import ScanRefused
from hgisam.io.nifti import NiftiGrid, new_grid_for
from hgisam.io.nifti_header import MAX_VOXELS
from hgisam.volume import CTVolume, Orientation, SlicePlanes
from hgisam.wording import counted


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
    series = scan if isinstance(scan, DicomSeries) else only_series(scan)
    source = series.source
    if series.problem is not None:
        raise ScanRefused(f"{source}: {series.problem}")
    first = series.slices[0]
    n_voxels = len(series.slices) * math.prod(first.plane.shape)
    if n_voxels > max_voxels:
        raise ScanRefused(
            f"{source}: expected at most {max_voxels:,} voxels; got headers that state {n_voxels:,}; if that is true,"
            " raise --max-voxels"
        )
    groups = _by_place(series.slices)
    slices = tuple(group[0] for group in groups)
    stack = _stack_of(slices)
    missing = stack.missing_gaps
    if missing.any() and not allow_gaps:
        at = int(np.flatnonzero(missing)[0])
        raise ScanRefused(
            f"{source}: expected slices without a gap; got {stack.gaps_mm[at]:.2f} mm between slice {at} and the next,"
            f" {stack.expected_mm[at]:.2f} mm around it: slices are missing; copy the series again, or take it as it"
            " is with --allow-gaps"
        )
    pixels, padding_notes = _read_pixels(groups, source, hu_offset)
    notes = (*series.notes, *_notes(series, groups, hu_offset), *padding_notes)
    return _assemble(pixels, slices, stack, source, (*notes, *stack.warnings))


def read_slices(paths: Sequence[Path], source: str) -> CTVolume:
    """Read files of one slice each. A slice that is missing between two leaves a gap and is no reason to refuse.

    Args:
        paths: one file for each slice, the lowest first, as `hgisam.io.dicom_geometry.slice_order` has them.
        source: a name for errors.

    Returns:
        The volume, as `read_dicom` makes it; its slice d is the d-th path.

    Raises:
        ScanRefused: as `hgisam.io.dicom_header.read_slice_header`; where pixels cannot be decoded; where slices do not
            belong together.
        ValueError: where there is no path, or the order is another.
    """
    volume, unreadable = read_readable_slices(paths, source)
    if unreadable:
        raise ScanRefused(next(iter(unreadable.values())))
    return volume


def read_readable_slices(paths: Sequence[Path], source: str) -> tuple[CTVolume, dict[int, str]]:
    """Read files of one slice each, without those that cannot be read: they leave a gap, as missing ones do.

    Arguments as for `read_slices`.

    Returns:
        The volume of the others, and why each of the rest is none, by its index in `paths`.

    Raises:
        ScanRefused: where none can be read, or slices do not belong together.
        ValueError: as `read_slices`.
    """
    if not paths:
        raise ValueError(f"{source}: expected at least one slice; got none")
    headers: dict[int, SliceHeader] = {}
    unreadable: dict[int, str] = {}
    for index, path in enumerate(paths):
        try:
            headers[index] = read_slice_header(path)
        except ScanRefused as error:
            unreadable[index] = str(error)
    _check_stacked([*headers.values()], source)
    pixels: dict[int, NDArray[np.float32]] = {}
    with FileReader() as files:
        reader = SliceReader(files)
        for index, header in headers.items():
            try:
                pixels[index] = reader.hu(header)
            except ScanRefused as error:
                unreadable[index] = str(error).replace(str(header.file), header.file.path.name)
    if not pixels:
        raise ScanRefused(unreadable[0])
    slices = tuple(headers[index] for index in pixels)
    volume, _ = _assemble(np.stack([*pixels.values()]), slices, _stack_of(slices), source)
    return volume, dict(sorted(unreadable.items()))


def _check_stacked(slices: Sequence[SliceHeader], source: str) -> None:
    """Stop before slices are decoded that do not belong together.

    Raises:
        ScanRefused: where they are of several sizes, directions or spacings, or two lie at one place.
        ValueError: where they do not lie from the lowest to the highest.
    """
    if not slices:
        return
    plane = slices[0].plane
    if not all(header.plane.agrees_with(plane) for header in slices):
        raise ScanRefused(f"{source}: expected slices of one size, direction and spacing; got several; give one series")
    try:
        order = slice_order(np.array([header.position for header in slices]), plane)
    except ScanRefused as error:
        raise ScanRefused(f"{source}: {error}") from error
    if not np.array_equal(order, np.arange(len(order))):
        raise ValueError(f"{source}: expected slices from the lowest to the highest; sort them by `slice_order`")


def only_series(path: Path) -> DicomSeries:
    """The one series of a file, folder or archive.

    Raises:
        ScanRefused: where there is none, or it cannot be told which one is meant.
    """
    listing = find_series([path])
    if not listing.series:
        raise listing.refusal(path.name)
    chosen = choose_series(listing.series)
    if chosen is None:
        found = "; ".join(
            f"{row['series_uid']} ({counted(row['slices'], 'slice')})" for row in (s.row() for s in listing.series)
        )
        raise ScanRefused(f"{path.name}: expected one series of axial CT slices; got {found}; choose one")
    return chosen


def _by_place(headers: tuple[SliceHeader, ...]) -> list[tuple[SliceHeader, ...]]:
    """Headers that are sorted along their normal, those at one place together."""
    at = np.array([header.position for header in headers]) @ headers[0].plane.normal
    starts = np.flatnonzero(np.diff(at, prepend=-np.inf) >= SAME_PLACE_MM).tolist()
    return [headers[start:end] for start, end in zip(starts, [*starts[1:], len(headers)], strict=True)]


def _stack_of(slices: tuple[SliceHeader, ...]) -> SliceStack:
    return SliceStack.at(
        tuple(header.plane for header in slices),
        np.array([header.position for header in slices]),
        np.array([header.thickness_mm for header in slices]),
    )


def _notes(series: DicomSeries, groups: Sequence[tuple[SliceHeader, ...]], hu_offset: float) -> list[str]:
    """What a reader of the result should know about how the numbers were stored."""
    found = []
    n_dropped = len(series.slices) - len(groups)
    if n_dropped:
        dropped = counted(n_dropped, "slice is in it twice", "slices are in it twice")
        found.append(f"{dropped}, pixel by pixel: each was taken once")
    if not hu_offset and any(header.wrapped for header in series.slices):
        found.append("numbers of 12 bits without a sign or an offset: those above 3071 were taken as negative HU")
    return found


def _read_pixels(
    groups: Sequence[tuple[SliceHeader, ...]], source: str, hu_offset: float
) -> tuple[NDArray[np.float32], tuple[str, ...]]:
    """HU [place, row, column], and what is odd about them; what lies at one place must be the same pixel by pixel."""
    hu = np.empty((len(groups), *groups[0][0].plane.shape), dtype=np.float32)
    with FileReader() as files:
        reader = SliceReader(files, hu_offset)
        for index, (header, *repeats) in enumerate(groups):
            hu[index] = reader.hu(header)
            if not all(np.array_equal(reader.hu(repeat), hu[index]) for repeat in repeats):
                raise ScanRefused(
                    f"{source}: expected one slice at each position; got {len(repeats) + 1} different ones at slice"
                    f" {index} ({header.file.path.name}): phases or reconstructions mixed; keep one in the folder"
                )
    if reader.padding_in_tissue_hu is None:
        return hu, ()
    padding = f"the header calls {reader.padding_in_tissue_hu:g} HU padding, which tissue has too"
    return hu, (f"{padding}: taken as measured, not as air",)


def _assemble(
    pixels: NDArray[np.float32],
    slices: Sequence[SliceHeader],
    stack: SliceStack,
    source: str,
    warnings: tuple[str, ...] = (),
) -> tuple[CTVolume, NiftiGrid]:
    """The volume in house axes and its grid, from HU [slice, row, column]."""
    shape = (pixels.shape[2], pixels.shape[1], pixels.shape[0])
    orientation = Orientation.from_affine(stack.affine(0, stack.normal))
    one = (*shape[:2], 1)
    affines = np.stack(
        [orientation.house_affine(stack.affine(at, stack.normal), one)[:3, 1:] for at in range(len(slices))]
    )
    planes = SlicePlanes(
        affines=torch.from_numpy(affines),
        spacing_mm=torch.from_numpy(stack.spacing_mm),
        thickness_mm=torch.from_numpy(stack.thickness_mm),
        uids=tuple(header.sop_instance_uid for header in slices),
        frames=tuple(header.frame + 1 for header in slices),
        regular=stack.even,
        complete=not stack.missing_gaps.any(),
    )
    house = np.ascontiguousarray(orientation.to_house(pixels.transpose(2, 1, 0)))
    affine = torch.from_numpy(orientation.house_affine(stack.affine(0, stack.step_mm), shape))
    volume = CTVolume(torch.from_numpy(house), affine, source, planes)
    return volume, new_grid_for(volume, orientation, warnings)
