"""What a DICOM header says of each slice in its file, and which objects are no slices of a CT at all."""

import logging
import math
import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import pydicom
from pydicom.config import disable_value_validation
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset, read_preamble

from hgisam.io.dicom_files import DicomFile, FileReader
from hgisam.io.dicom_geometry import PlaneGeometry, Vector
from hgisam.io.errors import ScanRefused

MAX_FRAMES = 4096
"""The most frames of one object."""

MAX_GROUPS_BYTES = 16 * 2**20
"""The most bytes that describe the frames of one object: 4 kB for each of MAX_FRAMES."""

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
_IMPLICIT, _EXPLICIT, _BIG_ENDIAN = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"
_BEFORE_PIXELS = {"": 4, _IMPLICIT: 4, _EXPLICIT: 8, _BIG_ENDIAN: 8}
_PIXEL_TAGS = (b"\xe0\x7f\x10\x00", b"\x7f\xe0\x00\x10")
_UNIT_TOLERANCE = 0.01
_MOST = 1e6
_SPACING_MM = (0.01, 100.0)
_TAGS = (
    "SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "Modality", "ImageType",
    "SeriesDescription", "ConvolutionKernel", "Rows", "Columns", "SamplesPerPixel", "NumberOfFrames",
    "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness", "RescaleSlope",
    "RescaleIntercept", "ModalityLUTSequence", "NumberOfSeriesRelatedInstances",
    "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence", "PatientID", "BitsAllocated", "BitsStored",
    "PixelRepresentation", "RescaleType", "ContrastBolusAgent",
)  # fmt: skip
_NO_HU = frozenset({"OD", "MGML", "Z_EFF", "ED", "EDW", "PCT"})
"""Rescale types of the standard (PS3.3 C.11.1.1.2) that are no HU; what is stated in other words is taken for HU."""

_NO_CONTRAST = re.compile(r"(NO|NONE|WITHOUT|W/?O|N|0|-)?([^A-Z0-9].*)?")
_PROJECTION = re.compile(r"M(AX|IN)?_?IP|PROJECTION.*|VOLUME_RENDER|VRT?")
_WRAPPED_BITS, _WRAPPED_ABOVE_HU = 12, -100.0


@dataclass(frozen=True)
class SliceHeader:
    """One slice as its header describes it. Positions are DICOM's own: mm to Left, Posterior, Superior.

    Attributes:
        file: where it is.
        frame: its index in that file, from 0.
        patient: the identifier in it, never written to any output as it is; empty where the file does not say.
        study_uid: of the examination; likewise.
        series_uid: of the series; likewise.
        sop_instance_uid: of the object; likewise.
        description: the series' own, printable, cut short.
        kernel: the reconstruction kernel's name, likewise.
        image_type: the first three values: ORIGINAL or DERIVED, PRIMARY or SECONDARY, AXIAL or another.
        is_projection: whether any value says that several slices were laid over each other, as in a MIP.
        has_contrast: whether a contrast medium is named.
        plane: size, directions and spacing of the picture.
        position: middle of the first pixel.
        thickness_mm: nominal; NaN where the file does not say.
        slope: stored number times slope plus intercept is HU; 1 and 0 where the file states none.
        intercept: see slope.
        hu_stated: whether the file states both.
        wrapped: whether HU below 0 are stored 4096 too high: some scanners of RSNA-2019 wrote HU as they are into 12
            unsigned bits, without the offset that makes them positive, and air of -1000 became 3096.
        missing_bytes: how many bytes of pixels the file lacks by its own header; 0 where it is compressed.
        stated_count: how many instances the series has by its own account; None where it gives none.
    """

    file: DicomFile
    frame: int
    patient: str
    study_uid: str
    series_uid: str
    sop_instance_uid: str
    description: str
    kernel: str
    image_type: tuple[str, ...]
    is_projection: bool
    has_contrast: bool
    plane: PlaneGeometry
    position: Vector
    thickness_mm: float
    slope: float
    intercept: float
    hu_stated: bool
    wrapped: bool
    missing_bytes: int
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
        with warnings.catch_warnings(), disable_value_validation():
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


def read_slice_header(path: Path) -> SliceHeader:
    """The header of a file that holds one slice in HU, of a patient that it names, and has all of its pixels.

    Raises:
        ScanRefused: where it does not, or is missing or damaged.
    """
    file = DicomFile(path)
    with FileReader() as reader:
        found = read_headers(reader, file)
    if isinstance(found, LeftOut):
        raise ScanRefused(f"{path.name}: expected a CT slice in Hounsfield units; got '{found.reason}'; leave it out")
    header = found[0]
    lacking = [
        what
        for what, is_there in (
            ("a rescale slope and intercept", header.hu_stated),
            ("an identifier of its patient", header.patient),
            ("an identifier of its series", header.series_uid),
        )
        if not is_there
    ]
    if lacking or len(found) > 1:
        got = f"none with {' and '.join(lacking)}" if lacking else f"{len(found)} frames"
        raise ScanRefused(f"{path.name}: expected a single CT slice in Hounsfield units; got {got}; leave it out")
    if header.missing_bytes:
        raise ScanRefused(
            f"{path.name}: expected {header.missing_bytes:,} bytes more of pixels; got a file that ends before them; it"
            " is truncated: copy it again, or leave it out"
        )
    return header


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
    syntax = transfer_syntax(stream)
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
    missing_bytes = _missing_bytes(dataset, stream, _BEFORE_PIXELS[syntax]) if syntax in _BEFORE_PIXELS else 0
    try:
        found = _slices(dataset, file, missing_bytes)
    except ScanRefused as error:
        return LeftOut(file, str(error), damaged=True, series_uid=series_uid)
    return found or LeftOut(file, "no position in the patient", damaged=True, series_uid=series_uid)


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


def _missing_bytes(dataset: Dataset, stream: BinaryIO, n_before: int) -> int:
    """How many bytes of pixels a plain file lacks, the stream being `n_before` bytes before them."""
    sizes = [int(dataset.get(keyword) or 0) for keyword in ("Rows", "Columns", "BitsAllocated")]
    wanted = math.prod(sizes) // 8 * int(dataset.get("NumberOfFrames") or 1)
    begin = stream.tell() + n_before
    return max(0, wanted - (stream.seek(0, os.SEEK_END) - begin))


def _slices(dataset: Dataset, file: DicomFile, missing_bytes: int) -> list[SliceHeader]:
    """The slices of a CT image, none where it has no place in the patient.

    In an enhanced image, what differs is in each frame's groups and what is shared in one for all.

    Raises:
        ScanRefused: where the header contradicts itself.
    """
    stated = int(dataset.get("NumberOfFrames") or 1)
    _check_groups(dataset)
    groups = dataset.get("PerFrameFunctionalGroupsSequence")
    if groups is None:
        header = _slice(dataset, [dataset], file, 0, missing_bytes)
        if header is not None and stated > 1:
            raise ScanRefused(f"expected a position for each frame; got {stated} frames and one; export single images")
        return [header] if header is not None else []
    if not 0 < stated == len(groups) <= MAX_FRAMES:
        raise ScanRefused(f"expected a description for each frame; got {stated} frames and {len(groups)} descriptions")
    shared = (dataset.get("SharedFunctionalGroupsSequence") or [Dataset()])[0]
    found = [
        _slice(dataset, [*_macros(own), *_macros(shared), dataset], file, index, missing_bytes)
        for index, own in enumerate(groups)
    ]
    if None in found:
        raise ScanRefused("expected a position, an orientation and a spacing for each frame; got frames without")
    return [header for header in found if header is not None]


def _check_groups(dataset: Dataset) -> None:
    """Refuse frames' groups that are too large to be looked through, before anybody does."""
    for keyword in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"):
        raw = dataset.get_item(keyword)
        n_bytes = len(raw.value) if isinstance(raw, RawDataElement) and isinstance(raw.value, bytes) else 0
        if n_bytes > MAX_GROUPS_BYTES:
            raise ScanRefused(f"expected at most {MAX_GROUPS_BYTES:,} bytes in {keyword}; got {n_bytes:,}")


def _macros(group: Dataset) -> list[Dataset]:
    """What a frame's groups, or those shared by all, say of a slice."""
    keywords = (
        "PlanePositionSequence", "PlaneOrientationSequence", "PixelMeasuresSequence",
        "PixelValueTransformationSequence", "CTReconstructionSequence",
    )  # fmt: skip
    return [group[keyword].value[0] for keyword in keywords if group.get(keyword)]


def _slice(
    dataset: Dataset, macros: list[Dataset], file: DicomFile, frame: int, missing_bytes: int
) -> SliceHeader | None:
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
    rescale_type = next((text for macro in macros if (text := _text(macro, "RescaleType"))), "")
    if rescale_type.upper() in _NO_HU:
        raise ScanRefused(f"expected Hounsfield units; got numbers of rescale type {rescale_type}; name another series")
    unsigned_12_bit = dataset.get("PixelRepresentation") == 0 and dataset.get("BitsStored") == _WRAPPED_BITS
    thickness = _numbers(macros, "SliceThickness", 1)
    count = dataset.get("NumberOfSeriesRelatedInstances")
    return SliceHeader(
        file=file,
        frame=frame,
        patient=_text(dataset, "PatientID"),
        study_uid=_text(dataset, "StudyInstanceUID"),
        series_uid=_text(dataset, "SeriesInstanceUID"),
        sop_instance_uid=_text(dataset, "SOPInstanceUID"),
        description=_text(dataset, "SeriesDescription"),
        kernel=next((text for macro in macros if (text := _text(macro, "ConvolutionKernel"))), ""),
        image_type=tuple(_values(dataset, "ImageType")[:3]),
        is_projection=any(_PROJECTION.fullmatch(value.upper()) for value in _values(dataset, "ImageType")[2:]),
        has_contrast=_NO_CONTRAST.fullmatch(_text(dataset, "ContrastBolusAgent").upper()) is None,
        plane=PlaneGeometry(
            rows=rows,
            columns=columns,
            along_columns=(along_columns[0], along_columns[1], along_columns[2]),
            along_rows=(along_rows[0], along_rows[1], along_rows[2]),
            spacing_mm=(spacing[0], spacing[1]),
        ),
        position=(position[0], position[1], position[2]),
        thickness_mm=thickness[0] if thickness and thickness[0] > 0 else math.nan,
        slope=slope[0] if slope else 1.0,
        intercept=intercept[0] if intercept else 0.0,
        hu_stated=slope is not None and intercept is not None,
        wrapped=unsigned_12_bit and intercept is not None and intercept[0] > _WRAPPED_ABOVE_HU,
        missing_bytes=missing_bytes,
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
