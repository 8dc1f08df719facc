"""A volume -> DICOM structured report (TID 1500), which names the segment of the DICOM SEG that it is the volume of."""

from pathlib import Path

from pydicom import dcmread
from pydicom.sr.coding import Code

from hgisam import NOTICE, __version__
from hgisam.io.atomic import atomic_write
from hgisam.io.dicom_header import quiet_pydicom
from hgisam.io.dicom_seg import ABNORMAL_STRUCTURE, HEMORRHAGE

VOLUME = Code("118565006", "SCT", "Volume")
MILLILITRE = Code("mL", "UCUM", "milliliter")

_CT_HEAD = Code("24725-4", "LN", "CT Head")
_DEVICE = ("121007", "DCM", "Device")
_SERIES_NUMBER = 901


def write_dicom_sr(path: Path, seg_path: Path, volume_ml: float, *, weights_sha256: str = "") -> None:
    """Write the volume of a mask that lies beside it as DICOM SEG. It says of patient and study what the SEG says.

    Args:
        path: where to.
        seg_path: the mask, from `write_dicom_seg`.
        volume_ml: of its only segment, in ml.
        weights_sha256: of the network that made the mask.

    Raises:
        OutputError: where the file cannot be written; nothing is left behind.
    """
    import highdicom as hd

    with quiet_pydicom():
        seg = dcmread(seg_path, stop_before_pixels=True)
        (segment,), (series,) = seg.SegmentSequence, seg.ReferencedSeriesSequence
        measured = hd.sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
            tracking_identifier=hd.sr.TrackingIdentifier(uid=segment.TrackingUID, identifier=segment.TrackingID),
            referenced_segment=hd.sr.ReferencedSegment(
                sop_class_uid=seg.SOPClassUID,
                sop_instance_uid=seg.SOPInstanceUID,
                segment_number=1,
                source_series=hd.sr.SourceSeriesForSegmentation(series.SeriesInstanceUID),
            ),
            finding_type=HEMORRHAGE,
            finding_category=ABNORMAL_STRUCTURE,
            algorithm_id=hd.sr.AlgorithmIdentification(
                name="hgisam", version=__version__, parameters=[f"weights_sha256: {weights_sha256}", NOTICE]
            ),
            measurements=[hd.sr.Measurement(name=VOLUME, value=round(volume_ml, 3), unit=MILLILITRE)],
        )
        observer = hd.sr.ObserverContext(
            observer_type=hd.sr.CodedConcept(*_DEVICE),
            observer_identifying_attributes=hd.sr.DeviceObserverIdentifyingAttributes(
                uid=hd.UID(), name="hgisam", manufacturer_name="hgisam", model_name=__version__
            ),
        )
        report = hd.sr.MeasurementReport(
            observation_context=hd.sr.ObservationContext(observer_device_context=observer),
            procedure_reported=_CT_HEAD,
            imaging_measurements=[measured],
        )
        document = hd.sr.Comprehensive3DSR(
            evidence=[seg],
            content=report,
            series_instance_uid=hd.UID(),
            series_number=_SERIES_NUMBER,
            sop_instance_uid=hd.UID(),
            instance_number=1,
            manufacturer="hgisam",
            is_complete=True,
            record_evidence=False,
        )
        document.SeriesDescription = f"hgisam volume. {NOTICE}"
        with atomic_write(path) as file:
            document.save_as(file, enforce_file_format=True)
