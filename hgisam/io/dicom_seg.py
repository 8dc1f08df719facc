"""A mask -> DICOM SEG in the native planes of its series, so that a viewer or an archive lays it over the scan.

One binary segment, hemorrhage, coded in SNOMED CT. Frames are the series' own slices, tilted and uneven ones too, each
with its position and thickness; slices without blood are left out, as the standard allows.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code
from pydicom.valuerep import DA, TM

from hgisam import NOTICE, __version__
from hgisam.io.atomic import atomic_write
from hgisam.io.dicom_files import DicomFile, FileReader
from hgisam.io.dicom_header import quiet_pydicom
from hgisam.io.dicom_series import DicomSeries
from hgisam.io.errors import ScanRefused
from hgisam.io.nifti import NiftiGrid
from hgisam.volume import MaskVolume

ABNORMAL_STRUCTURE = Code("49755003", "SCT", "Morphologically Abnormal Structure")
HEMORRHAGE = Code("50960005", "SCT", "Hemorrhage")
"""Category and type of the segment."""

_AI = Code("123109", "DCM", "Artificial Intelligence")
_RED = (255, 0, 0)
_SERIES_NUMBER = 900
_KEPT = (
    "SpecificCharacterSet", "SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID",
    "FrameOfReferenceUID", "Modality", "ImageType", "Rows", "Columns", "ImagePositionPatient",
    "ImageOrientationPatient", "PixelSpacing", "SliceThickness", "NumberOfFrames", "LossyImageCompressionRatio",
    "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence",
)  # fmt: skip
_KEPT_IF_OF_THE_STANDARD = {
    "LossyImageCompression": ("00", "01"),
    "LossyImageCompressionMethod": (
        "ISO_10918_1", "ISO_14495_1", "ISO_15444_1", "ISO_15444_15", "ISO_18181_1", "ISO_13818_2", "ISO_14496_10",
        "ISO_23008_2",
    ),
}  # fmt: skip
"""Text that is kept where it is one of the standard's own terms (PS3.3 C.7.6.1.1.5), since anything may stand there."""
_WANTED = (
    "PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyDate",
    "StudyTime", "ReferringPhysicianName",
)  # fmt: skip

_CHECKED = ("PatientBirthDate", "PatientSex", "StudyDate", "StudyTime")
"""What highdicom refuses to copy where it is not as the standard has it; the mask is worth more than these."""


def seg_obstacle(series: DicomSeries) -> str | None:
    """Why a mask of a series cannot become a DICOM SEG; None where it can."""
    if not series.uid or not series.study_uid or not all(header.sop_instance_uid for header in series.slices):
        return "its images have no UIDs to refer to"
    if len(series.files) > 1 and any(header.frame for header in series.slices):
        return "it is spread over several multi-frame images"
    with FileReader() as reader:
        first = _source(reader, series.files[0], deidentify=True)
    return None if first.get("FrameOfReferenceUID") else "its images name no frame of reference"


def write_dicom_seg(
    path: Path,
    mask: MaskVolume,
    grid: NiftiGrid,
    series: DicomSeries,
    *,
    deidentify: bool = False,
    weights_sha256: str = "",
) -> None:
    """Write a mask over its series. An empty one has every slice as an empty frame.

    Args:
        path: where to.
        mask: of the series, with the place of each slice.
        grid: of the series, as `read_dicom` gives it.
        series: what the mask was made of; `seg_obstacle` says nothing against it.
        deidentify: leave out everything of the patient and the study but UIDs, without which no mask finds its images.
        weights_sha256: of the network that made the mask.

    Raises:
        OutputError: where the file cannot be written; nothing is left behind.
        ScanRefused: where the series' files cannot be read any more.
        ValueError: where the mask does not fit the series.
    """
    if mask.slices is None or len(mask.slices.uids) != grid.shape[2]:
        raise ValueError(f"{mask.source}: expected a mask of the series' own slices; got one of another grid")
    planes = np.ascontiguousarray(np.moveaxis(grid.to_file(mask.voxels), (2, 1), (0, 1))).astype(np.uint8)
    keys = zip(mask.slices.uids, mask.slices.frames, strict=True)
    thickness_mm = dict(zip(keys, mask.slices.thickness_mm.tolist(), strict=True))
    file_of = {(header.sop_instance_uid, header.frame + 1): header.file for header in series.slices}
    files = tuple(dict.fromkeys(file_of[key] for key in thickness_mm))
    with FileReader() as reader, quiet_pydicom():
        sources = [_source(reader, file, deidentify=deidentify) for file in files]
        if sources[0].get("PerFrameFunctionalGroupsSequence"):
            frames = np.zeros((int(sources[0].NumberOfFrames), *planes.shape[1:]), dtype=np.uint8)
            frames[[frame - 1 for frame in mask.slices.frames]] = planes
            planes = frames
        seg = _segmentation(sources, planes, weights_sha256)
        _state_thickness(seg, thickness_mm)
        if deidentify:
            seg.PatientIdentityRemoved = "YES"
            seg.DeidentificationMethod = "hgisam: patient and study text removed, UIDs kept"
            seg.LongitudinalTemporalInformationModified = "REMOVED"
        with atomic_write(path) as file:
            seg.save_as(file, enforce_file_format=True)


def _source(reader: FileReader, file: DicomFile, *, deidentify: bool) -> Dataset:
    """An image's header as highdicom wants it: what the standard asks for is there, if empty."""
    try:
        with reader.open(file) as stream, quiet_pydicom():
            whole = dcmread(stream, stop_before_pixels=True, force=True)
            source: Dataset = whole
            if deidentify:
                source = Dataset()
                source.file_meta = whole.file_meta
                for keyword in _KEPT:
                    if keyword in whole:
                        source[keyword] = whole[keyword]
                for keyword, terms in _KEPT_IF_OF_THE_STANDARD.items():
                    if whole.get(keyword) in terms:
                        source[keyword] = whole[keyword]
            for keyword in _WANTED:
                if keyword not in source:
                    setattr(source, keyword, "")
            for keyword in _CHECKED:
                if not _is_of_the_standard(keyword, source.get(keyword)):
                    setattr(source, keyword, "")
            if "SOPClassUID" not in source:
                source.SOPClassUID = whole.file_meta.MediaStorageSOPClassUID
            if "SliceThickness" not in source:
                source.SliceThickness = None
            source.Modality = "CT"
            source.decode()  # text is text from here on, whatever the file calls its characters
            source.SpecificCharacterSet = "ISO_IR 192"
            return source
    except ScanRefused:
        raise
    except Exception as error:  # pydicom raises anything on a file that has changed
        raise ScanRefused(f"{file}: expected a readable header; got {type(error).__name__}; it has changed") from error


def _is_of_the_standard(keyword: str, value: object) -> bool:
    """Whether a value of the patient or the study can be copied."""
    if keyword == "PatientSex":
        return value in ("M", "F", "O")
    try:
        (TM if keyword == "StudyTime" else DA)(str(value))
    except ValueError:
        return False
    return True


def _segmentation(sources: Sequence[Dataset], planes: NDArray[np.uint8], weights_sha256: str) -> Any:
    import highdicom as hd

    segment = hd.seg.SegmentDescription(
        segment_number=1,
        segment_label="hemorrhage",
        segmented_property_category=ABNORMAL_STRUCTURE,
        segmented_property_type=HEMORRHAGE,
        algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=hd.AlgorithmIdentificationSequence(
            name="hgisam", family=_AI, version=__version__, parameters={"weights_sha256": weights_sha256}
        ),
        tracking_uid=hd.UID(),
        tracking_id="hemorrhage",
        display_color=hd.color.CIELabColor.from_rgb(*_RED),
    )
    return hd.seg.Segmentation(
        source_images=sources,
        pixel_array=planes,
        segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=[segment],
        series_instance_uid=hd.UID(),
        series_number=_SERIES_NUMBER,
        sop_instance_uid=hd.UID(),
        instance_number=1,
        manufacturer="hgisam",
        manufacturer_model_name="hgisam",
        software_versions=__version__,
        device_serial_number=weights_sha256[:16] or "none",
        content_label="HEMORRHAGE",
        content_description=NOTICE,
        series_description=f"hgisam hemorrhage. {NOTICE}",
    )


def _state_thickness(seg: Dataset, thickness_mm: dict[tuple[str, int], float]) -> None:
    """Where slices differ in thickness, state each frame's own: highdicom states one for all."""
    shared = seg.SharedFunctionalGroupsSequence[0]
    if len(set(thickness_mm.values())) == 1 or "PixelMeasuresSequence" not in shared:
        return
    (measures,) = shared.PixelMeasuresSequence
    for group in seg.PerFrameFunctionalGroupsSequence:
        (image,) = group.DerivationImageSequence[0].SourceImageSequence
        own = Dataset()
        own.PixelSpacing = measures.PixelSpacing
        mm = thickness_mm[image.ReferencedSOPInstanceUID, int(image.get("ReferencedFrameNumber") or 1)]
        own.SliceThickness = None if np.isnan(mm) else mm
        group.PixelMeasuresSequence = [own]
    del shared.PixelMeasuresSequence
