"""Single-frame CT slices in DICOM <-> what a series of them is: an order from bottom to top, and a volume in HU."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.config import disable_value_validation
from pydicom.errors import InvalidDicomError

from hgisam.io.errors import ScanRefused
from hgisam.io.nifti import LOWEST_HU, ct_from_array
from hgisam.volume import CTVolume

SAME_PLACE_MM = 0.01
"""Two slices nearer than this lie at one place."""

UNEVEN_STEP = 0.1
"""A series is uneven where a step between slices is further than this share from the mean step."""

_WRAP = 4096.0
_WRAPPED_ABOVE_HU = -100.0
_AXIAL_COSINE = 0.7
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0])
_NATIVE_SYNTAXES = frozenset({"1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"})
_HEADER_TAGS = (
    "PatientID", "SeriesInstanceUID", "Rows", "Columns", "ImagePositionPatient", "ImageOrientationPatient",
    "PixelSpacing", "BitsAllocated", "BitsStored", "PixelRepresentation", "RescaleIntercept", "RescaleSlope",
)  # fmt: skip


@dataclass(frozen=True)
class PlaneGeometry:
    """What all slices of a series must share to be one volume.

    Attributes:
        rows: height of a slice in pixels.
        columns: width.
        orientation: direction cosines in LPS+, first those in which columns are counted, then those of rows.
        spacing_mm: between rows, between columns.
    """

    rows: int
    columns: int
    orientation: tuple[float, float, float, float, float, float]
    spacing_mm: tuple[float, float]

    @property
    def normal(self) -> NDArray[np.float64]:
        """Unit vector in LPS+ across the slices, pointing to Superior."""
        cosines = np.array(self.orientation)
        normal = np.cross(cosines[:3], cosines[3:])
        unit: NDArray[np.float64] = normal / np.linalg.norm(normal) * (1.0 if normal[2] >= 0 else -1.0)
        return unit

    def agrees_with(self, other: "PlaneGeometry") -> bool:
        """Whether slices of both can lie in one volume: one size, and directions and spacing equal but for rounding."""
        return (self.rows, self.columns) == (other.rows, other.columns) and bool(
            np.allclose(self.orientation, other.orientation, atol=1e-3)
            and np.allclose(self.spacing_mm, other.spacing_mm, rtol=1e-3)
        )


@dataclass(frozen=True)
class SliceHeader:
    """What a slice's header says, without its pixels.

    Attributes:
        patient: the identifier in it; never written to any output as it is.
        series: the series' identifier.
        geometry: size, directions and spacing.
        position_mm: the middle of the first pixel in LPS+.
        wrapped: whether its HU below 0 were stored 4096 too high (see `stored_to_hu`).
    """

    patient: str
    series: str
    geometry: PlaneGeometry
    position_mm: tuple[float, float, float]
    wrapped: bool


def read_slice_header(path: Path) -> SliceHeader:
    """Read a slice's header. Its pixels are not read, only that there are as many bytes as they need.

    Raises:
        ScanRefused: where the file is missing, no DICOM, truncated, or without the tags of a single CT slice in HU.
    """
    with _refusing_damage(path):
        dataset = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=list(_HEADER_TAGS))
        header = _header(dataset)
        n_bytes = dataset.Rows * dataset.Columns * dataset.BitsAllocated // 8
        on_disk = path.stat().st_size
    if str(dataset.file_meta.TransferSyntaxUID) in _NATIVE_SYNTAXES and on_disk < n_bytes:
        raise ScanRefused(
            f"{path.name}: expected {n_bytes:,} bytes of pixels; got a file of {on_disk:,}; it is truncated: copy it"
            " again, or leave it out"
        )
    return header


def slice_order(positions_mm: NDArray[np.float64], geometry: PlaneGeometry) -> NDArray[np.intp]:
    """The order of slices from the lowest to the highest, by position along their normal.

    Args:
        positions_mm: [slices, 3] in LPS+.
        geometry: which all of them share.

    Returns:
        Indices into `positions_mm`.

    Raises:
        ScanRefused: where the slices are not axial, so that none is the lowest, or two lie at one place.
    """
    normal = geometry.normal
    if normal[2] < _AXIAL_COSINE:
        tilt_deg = math.degrees(math.acos(max(-1.0, min(1.0, float(normal[2])))))
        raise ScanRefused(
            f"expected axial slices; got a normal {tilt_deg:.0f} degrees off the body's axis; give the axial series"
        )
    along = positions_mm @ normal
    order = np.argsort(along, kind="stable")
    if len(order) > 1 and float(np.diff(along[order]).min()) < SAME_PLACE_MM:
        n_double = int((np.diff(along[order]) < SAME_PLACE_MM).sum())
        raise ScanRefused(
            f"expected each slice at its own place; got {n_double} of {len(order)} at the place of another; two"
            " acquisitions lie in one series: keep one"
        )
    return order


def steps_are_even(sorted_positions_mm: NDArray[np.float64], geometry: PlaneGeometry) -> bool:
    """Whether neighbouring slices are equally far apart, within UNEVEN_STEP; True for two slices or fewer."""
    steps = np.diff(sorted_positions_mm @ geometry.normal)
    return len(steps) < 2 or bool((abs(steps / steps.mean() - 1) <= UNEVEN_STEP).all())


def read_series(paths: Sequence[Path], source: str) -> CTVolume:
    """Read slices as one volume.

    Deviation: `CTVolume` knows one step between slices, so where steps differ (a slice missing, thicker slices above
    the skull base) their mean stands for all. Good for looking at slices; not for millilitres.

    Args:
        paths: one file for each slice, the lowest first, as `slice_order` has them.
        source: a name for errors.

    Returns:
        The volume; its slice d is the d-th path. HU within LOWEST_HU..HIGHEST_HU.

    Raises:
        ScanRefused: as `read_slice_header`; where pixels cannot be decoded; where slices do not belong together.
        ValueError: where there is no path, or the order is another.
    """
    if not paths:
        raise ValueError(f"{source}: expected at least one slice; got none")
    headers, planes = [], []
    for path in paths:
        with _refusing_damage(path):
            dataset = pydicom.dcmread(path)
            headers.append(_header(dataset))
            planes.append(_hu(dataset))
    geometry = headers[0].geometry
    if not all(header.geometry.agrees_with(geometry) for header in headers):
        raise ScanRefused(f"{source}: expected slices of one size, direction and spacing; got several; give one series")
    positions = np.array([header.position_mm for header in headers])
    try:
        order = slice_order(positions, geometry)
    except ScanRefused as error:
        raise ScanRefused(f"{source}: {error}") from error
    if not np.array_equal(order, np.arange(len(order))):
        raise ValueError(f"{source}: expected slices from the lowest to the highest; sort them by `slice_order`")
    volume, _ = ct_from_array(np.stack(planes), _affine(positions, geometry), source)
    return volume


def stored_to_hu(stored: NDArray[Any], slope: float, intercept: float, *, wrapped: bool) -> NDArray[np.float32]:
    """HU of stored numbers.

    Some scanners of RSNA-2019 wrote HU as they are into 12 unsigned bits, without the offset that makes them positive:
    air of -1000 became 3096. Where `wrapped`, HU are taken back into -1024..3071 by steps of 4096.

    Args:
        stored: the numbers in the file.
        slope: of the header.
        intercept: of the header.
        wrapped: see `SliceHeader`.
    """
    hu = stored.astype(np.float32) * np.float32(slope) + np.float32(intercept)
    return np.mod(hu - LOWEST_HU, _WRAP).astype(np.float32) + np.float32(LOWEST_HU) if wrapped else hu


def _header(dataset: pydicom.Dataset) -> SliceHeader:
    numbers = {
        tag: tuple(float(value) for value in getattr(dataset, tag))
        for tag in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")
    }
    x, y, z = numbers["ImagePositionPatient"]
    c0, c1, c2, r0, r1, r2 = numbers["ImageOrientationPatient"]
    between_rows, between_columns = numbers["PixelSpacing"]
    values = (x, y, z, c0, c1, c2, r0, r1, r2, between_rows, between_columns)
    area = np.linalg.norm(np.cross((c0, c1, c2), (r0, r1, r2)))
    if not all(map(math.isfinite, values)) or min(between_rows, between_columns) <= 0 or abs(area - 1) > 0.01:
        raise ValueError(f"expected directions at right angles and a spacing above 0 mm; got {values}")
    geometry = PlaneGeometry(
        int(dataset.Rows), int(dataset.Columns), (c0, c1, c2, r0, r1, r2), (between_rows, between_columns)
    )
    return SliceHeader(
        str(dataset.PatientID), str(dataset.SeriesInstanceUID), geometry, (x, y, z), _rescaling(dataset)[2]
    )


def _rescaling(dataset: pydicom.Dataset) -> tuple[float, float, bool]:
    """Slope, intercept, and whether HU below 0 are wrapped. Without the tags there are no HU: that is an error."""
    slope, intercept = float(dataset.RescaleSlope), float(dataset.RescaleIntercept)
    unsigned_12_bit = dataset.PixelRepresentation == 0 and dataset.BitsStored == 12
    return slope, intercept, bool(unsigned_12_bit and intercept > _WRAPPED_ABOVE_HU)


def _hu(dataset: pydicom.Dataset) -> NDArray[np.float32]:
    stored = dataset.pixel_array
    if stored.shape != (dataset.Rows, dataset.Columns):
        raise ValueError(f"expected one slice of grey pixels; got an array of {stored.shape}")
    slope, intercept, wrapped = _rescaling(dataset)
    return stored_to_hu(stored, slope, intercept, wrapped=wrapped)


def _affine(positions_mm: NDArray[np.float64], geometry: PlaneGeometry) -> NDArray[np.float64]:
    """Index (slice, row, column, 1) -> RAS+ mm. A gantry's tilt stays in it as shear."""
    cosines = np.array(geometry.orientation)
    step = (positions_mm[-1] - positions_mm[0]) / (len(positions_mm) - 1) if len(positions_mm) > 1 else geometry.normal
    affine = np.eye(4)
    columns = (step, cosines[3:] * geometry.spacing_mm[0], cosines[:3] * geometry.spacing_mm[1], positions_mm[0])
    affine[:3] = _LPS_TO_RAS @ np.stack(columns, axis=1)
    return affine


@contextmanager
def _refusing_damage(path: Path) -> Iterator[None]:
    """Turn what the system or pydicom says of a bad file into a refusal. Values that break DICOM's rules pass: the
    identifiers of RSNA-2019 do."""
    try:
        with disable_value_validation():
            yield
    except FileNotFoundError as error:
        raise ScanRefused(f"{path.name}: expected a file; got none; check the path") from error
    except (InvalidDicomError, OSError, EOFError) as error:
        raise ScanRefused(
            f"{path.name}: expected a readable DICOM file; got '{_reason(error)}'; copy it again"
        ) from error
    except (AttributeError, KeyError, TypeError, ValueError, NotImplementedError, RuntimeError) as error:
        if isinstance(error, ScanRefused):
            raise
        raise ScanRefused(
            f"{path.name}: expected a single CT slice in Hounsfield units; got '{_reason(error)}'; leave it out"
        ) from error


def _reason(error: Exception) -> str:
    text: str = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return text.splitlines()[0]
