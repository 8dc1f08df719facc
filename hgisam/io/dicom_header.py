"""What a DICOM header says of each slice in its file, and which objects are no slices of a CT at all."""

import logging
import math
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO

import pydicom
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset, read_preamble

from hgisam.io.dicom_files import DicomFile, FileReader
from hgisam.io.errors import ScanRefused

MAX_FRAMES = 4096
"""The most frames of one object."""

CT_CLASSES = frozenset(f"1.2.840.10008.5.1.4.1.1.{last}" for last in ("2", "2.1", "2.2"))
"""CT, Enhanced CT and Legacy Converted Enhanced CT Image Storage."""

_DIRECTORY_CLASS = "1.2.840.10008.1.3.10"
_DEFLATED = "1.2.840.10008.1.2.1.99"
_OTHER_CLASSES = (
    ("1.2.840.10008.5.1.4.1.1.7", "secondary capture"),
    ("1.2.840.10008.5.1.4.1.1.88", "report"),
    ("1.2.840.10008.5.1.4.1.1.11", "presentation state"),
    ("1.2.840.10008.5.1.4.1.1.104", "document"),
    ("1.2.840.10008.5.1.4.1.1.66", "raw data, registration or segmentation"),
    ("1.2.840.10008.5.1.4.1.1.481", "radiotherapy object"),
)
_LOCALIZER = re.compile("LOCALIZER|SCOUT|SURVIEW|TOPOGRAM")
_PIXEL_TAGS = (b"\xe0\x7f\x10\x00", b"\x7f\xe0\x00\x10")
_UNIT_TOLERANCE = 0.01
_MOST = 1e6
_SPACING_MM = (0.01, 100.0)
_TAGS = (
    "SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "Modality", "ImageType",
    "SeriesDescription", "ConvolutionKernel", "Rows", "Columns", "SamplesPerPixel", "NumberOfFrames",
    "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness", "RescaleSlope",
    "RescaleIntercept", "ModalityLUTSequence", "NumberOfSeriesRelatedInstances",
    "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence",
)  # fmt: skip

Vector = tuple[float, float, float]


@dataclass(frozen=True)
class SliceHeader:
    """One slice as its header describes it. Positions and directions are DICOM's own: mm to Left, Posterior, Superior.

    Attributes:
        file: where it is.
        frame: its index in that file, from 0.
        study_uid: of the examination; empty where the file does not say.
        series_uid: of the series; likewise.
        sop_instance_uid: of the object; likewise.
        description: the series' own, printable, cut short.
        kernel: the reconstruction kernel's name, likewise.
        image_type: the first three values: ORIGINAL or DERIVED, PRIMARY or SECONDARY, AXIAL or another.
        rows: pixels from top to bottom.
        columns: pixels from left to right.
        position: middle of the first pixel.
        along_columns: direction in which the column index grows.
        along_rows: direction in which the row index grows.
        spacing_mm: from row to row, and from column to column.
        thickness_mm: nominal; NaN where the file does not say.
        slope: stored number times slope plus intercept is HU; 1 and 0 where the file states none.
        intercept: see slope.
        stated_count: how many instances the series has by its own account; None where it gives none.
    """

    file: DicomFile
    frame: int
    study_uid: str
    series_uid: str
    sop_instance_uid: str
    description: str
    kernel: str
    image_type: tuple[str, ...]
    rows: int
    columns: int
    position: Vector
    along_columns: Vector
    along_rows: Vector
    spacing_mm: tuple[float, float]
    thickness_mm: float
    slope: float
    intercept: float
    stated_count: int | None


@dataclass(frozen=True)
class LeftOut:
    """A DICOM file that holds no slice.

    Attributes:
        file: where it is.
        reason: what it is instead.
        damaged: whether it may have been a slice and cannot be read.
        series_uid: of the series it belongs to; empty where that is not known.
    """

    file: DicomFile
    reason: str
    damaged: bool = False
    series_uid: str = ""


@contextmanager
def quiet_pydicom() -> Iterator[None]:
    """Without the warnings of pydicom and its decoders, on values that break the standard's letter above all.

    Whatever matters in them is checked here, and refused in one line.
    """
    loggers = [logging.getLogger(name) for name in ("pydicom", "openjpeg")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def read_headers(reader: FileReader, file: DicomFile) -> list[SliceHeader] | LeftOut:
    """The slices of one file: one for a plain image, one per frame of an enhanced one. No pixel is read."""
    try:
        with reader.open(file) as stream, quiet_pydicom():
            return _headers(stream, file)
    except ScanRefused as error:
        return LeftOut(file, str(error).removeprefix(f"{file}: "), damaged=True)
    except Exception as error:  # noqa: BLE001 - pydicom raises anything on a hostile file
        return LeftOut(file, f"unreadable: {type(error).__name__}", damaged=True)


def transfer_syntax(stream: BinaryIO) -> str:
    """The transfer syntax that a file states; empty where it states none. The stream is back at its start after it.

    Raises:
        ScanRefused: where the file is deflated: pydicom inflates such a file whole, however large it becomes.
    """
    read_preamble(stream, force=True)
    meta = read_dataset(stream, False, True, stop_when=lambda tag, vr, length: tag.group != 2)
    stream.seek(0)
    syntax = str(meta.get("TransferSyntaxUID", ""))
    if syntax == _DEFLATED:
        raise ScanRefused("expected plain or image-compressed DICOM; got a deflated file; inflate it with dcmconv")
    return syntax


def _headers(stream: BinaryIO, file: DicomFile) -> list[SliceHeader] | LeftOut:
    transfer_syntax(stream)
    dataset = pydicom.dcmread(stream, stop_before_pixels=True, force=True, specific_tags=list(_TAGS))
    has_pixels = stream.read(4) in _PIXEL_TAGS
    sop_class = str(dataset.get("SOPClassUID", dataset.file_meta.get("MediaStorageSOPClassUID", "")))
    if not has_pixels and not sop_class and "Modality" not in dataset:
        return LeftOut(file, "unreadable header", damaged=True)
    reason = _no_ct(dataset, sop_class, has_pixels=has_pixels)
    if reason is not None:
        return LeftOut(file, reason)
    series_uid = _text(dataset, "SeriesInstanceUID")
    if not has_pixels:
        return LeftOut(file, "an image without its pixels", damaged=True, series_uid=series_uid)
    try:
        found = _slices(dataset, file)
    except ScanRefused as error:
        return LeftOut(file, str(error), damaged=True, series_uid=series_uid)
    return found or LeftOut(file, "no position in the patient")


def _no_ct(dataset: Dataset, sop_class: str, *, has_pixels: bool) -> str | None:
    """What an object is, if it is no CT image; None where it is one, be it a damaged one."""
    if sop_class == _DIRECTORY_CLASS:
        return "directory of a medium"
    if sop_class and sop_class not in CT_CLASSES:
        kind = next((name for start, name in _OTHER_CLASSES if f"{sop_class}.".startswith(f"{start}.")), None)
        if kind is None and not has_pixels:
            return "object without pixels"
        return kind or f"no CT (modality {_text(dataset, 'Modality') or 'not stated'})"
    modality = _text(dataset, "Modality")
    if modality not in {"", "CT"}:
        return f"no CT (modality {modality})"
    if not has_pixels and not sop_class:
        return "object without pixels"
    if _LOCALIZER.search("\\".join(_values(dataset, "ImageType"))):
        return "localizer"
    if int(dataset.get("SamplesPerPixel") or 1) != 1:
        return "colour picture"
    return None


def _slices(dataset: Dataset, file: DicomFile) -> list[SliceHeader]:
    """The slices of a CT image, none where it has no place in the patient.

    In an enhanced image, what differs is in each frame's groups and what is shared in one for all.

    Raises:
        ScanRefused: where the header contradicts itself.
    """
    stated = int(dataset.get("NumberOfFrames") or 1)
    groups = dataset.get("PerFrameFunctionalGroupsSequence")
    if groups is None:
        header = _slice(dataset, [dataset], file, 0)
        if header is not None and stated > 1:
            raise ScanRefused(f"expected a position for each frame; got {stated} frames and one; export single images")
        return [header] if header is not None else []
    if not 0 < stated == len(groups) <= MAX_FRAMES:
        raise ScanRefused(f"expected a description for each frame; got {stated} frames and {len(groups)} descriptions")
    shared = (dataset.get("SharedFunctionalGroupsSequence") or [Dataset()])[0]
    found = [
        _slice(dataset, [*_macros(own), *_macros(shared), dataset], file, index) for index, own in enumerate(groups)
    ]
    if None in found:
        raise ScanRefused("expected a position, an orientation and a spacing for each frame; got frames without")
    return [header for header in found if header is not None]


def _macros(group: Dataset) -> list[Dataset]:
    """What a frame's groups, or those shared by all, say of a slice."""
    keywords = (
        "PlanePositionSequence", "PlaneOrientationSequence", "PixelMeasuresSequence",
        "PixelValueTransformationSequence", "CTReconstructionSequence",
    )  # fmt: skip
    return [group[keyword].value[0] for keyword in keywords if group.get(keyword)]


def _slice(dataset: Dataset, macros: list[Dataset], file: DicomFile, frame: int) -> SliceHeader | None:
    """One slice; None where it has no place in the patient. What belongs to a frame is looked up in `macros`, in order.

    Raises:
        ScanRefused: where a number is none, or contradicts itself.
    """
    position = _numbers(macros, "ImagePositionPatient", 3)
    orientation = _numbers(macros, "ImageOrientationPatient", 6)
    spacing = _numbers(macros, "PixelSpacing", 2)
    if position is None or orientation is None or spacing is None:
        return None
    along_columns, along_rows = orientation[:3], orientation[3:]
    _check_plane(along_columns, along_rows, spacing)
    rows, columns = int(dataset.get("Rows") or 0), int(dataset.get("Columns") or 0)
    if min(rows, columns) < 1:
        raise ScanRefused(f"expected rows and columns; got {rows} x {columns}; the header is damaged")
    slope, intercept = _numbers(macros, "RescaleSlope", 1), _numbers(macros, "RescaleIntercept", 1)
    if slope == (0.0,) or "ModalityLUTSequence" in dataset:
        raise ScanRefused("expected a rescale slope other than 0 and no look-up table; got one; HU cannot be told")
    thickness = _numbers(macros, "SliceThickness", 1)
    count = dataset.get("NumberOfSeriesRelatedInstances")
    return SliceHeader(
        file=file,
        frame=frame,
        study_uid=_text(dataset, "StudyInstanceUID"),
        series_uid=_text(dataset, "SeriesInstanceUID"),
        sop_instance_uid=_text(dataset, "SOPInstanceUID"),
        description=_text(dataset, "SeriesDescription"),
        kernel=next((text for macro in macros if (text := _text(macro, "ConvolutionKernel"))), ""),
        image_type=tuple(_values(dataset, "ImageType")[:3]),
        rows=rows,
        columns=columns,
        position=(position[0], position[1], position[2]),
        along_columns=(along_columns[0], along_columns[1], along_columns[2]),
        along_rows=(along_rows[0], along_rows[1], along_rows[2]),
        spacing_mm=(spacing[0], spacing[1]),
        thickness_mm=thickness[0] if thickness and thickness[0] > 0 else math.nan,
        slope=slope[0] if slope else 1.0,
        intercept=intercept[0] if intercept else 0.0,
        stated_count=int(count) if count else None,
    )


def _check_plane(along_columns: tuple[float, ...], along_rows: tuple[float, ...], spacing: tuple[float, ...]) -> None:
    lengths = (math.hypot(*along_columns), math.hypot(*along_rows))
    cosine = sum(a * b for a, b in zip(along_columns, along_rows, strict=True))
    if max(abs(lengths[0] - 1), abs(lengths[1] - 1), abs(cosine)) > _UNIT_TOLERANCE:
        raise ScanRefused(f"expected two directions at right angles; got {along_columns} and {along_rows}")
    low, high = _SPACING_MM
    if not all(low <= mm <= high for mm in spacing):
        raise ScanRefused(f"expected a pixel spacing of {low:g} to {high:g} mm; got {spacing}; the spacing is unknown")


def _numbers(macros: list[Dataset], keyword: str, n: int) -> tuple[float, ...] | None:
    """The first macro's value as n numbers; None where none has one.

    Raises:
        ScanRefused: where it is not n numbers, or one is beyond any sense.
    """
    value = next((macro.get(keyword) for macro in macros if macro.get(keyword) not in (None, "")), None)
    if value is None:
        return None
    try:
        numbers = tuple(float(v) for v in (value if n > 1 else [value]))
    except (TypeError, ValueError) as error:
        raise ScanRefused(f"expected numbers in {keyword}; got others; the header is damaged") from error
    if len(numbers) != n or not all(abs(number) <= _MOST for number in numbers):
        raise ScanRefused(f"expected {n} numbers of sense in {keyword}; got {str(numbers)[:80]}; the header is damaged")
    return numbers


def _values(dataset: Dataset, keyword: str) -> list[str]:
    value = dataset.get(keyword)
    if value is None:
        return []
    return [str(value)] if isinstance(value, str) else [str(part) for part in value]


def _text(dataset: Dataset, keyword: str) -> str:
    """A value as one line of printable text of at most 64 characters; empty where there is none."""
    text = "/".join(_values(dataset, keyword))
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())[:64]
