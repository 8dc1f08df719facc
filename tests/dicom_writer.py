"""CT slices written as DICOM by pydicom itself, each as odd as a test wants it."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import (
    CTImageStorage,
    EnhancedCTImageStorage,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    RLELossless,
    generate_uid,
)

STUDY, SERIES = "1.2.3.1", "1.2.3.1.1"
AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
SHAPE = (12, 10)
"""Rows and columns where a test does not care."""


def tilted(angle_deg: float) -> tuple[float, ...]:
    """Orientation of axial slices behind a gantry that is tilted about the axis from right to left."""
    return (1.0, 0.0, 0.0, 0.0, math.cos(math.radians(angle_deg)), -math.sin(math.radians(angle_deg)))


def pattern(index: int = 0, shape: tuple[int, int] = SHAPE) -> NDArray[np.int16]:
    """HU that tell slice, row and column apart."""
    rows, columns = np.indices(shape)
    return (100 * index + 5 * rows + columns - 40).astype(np.int16)


def ct_slice(pixels: NDArray[Any], **tags: Any) -> FileDataset:
    """A CT image of stored numbers [rows, columns], signed or not by their type; tags are laid over the usual ones.

    A tag of None is left out.
    """
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)  # type: ignore[arg-type]
    usual = {
        "SOPClassUID": CTImageStorage, "SOPInstanceUID": generate_uid(), "StudyInstanceUID": STUDY,
        "SeriesInstanceUID": SERIES, "Modality": "CT", "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
        "ImagePositionPatient": [-5.0, -6.0, 0.0], "ImageOrientationPatient": list(AXIAL), "PixelSpacing": [0.5, 0.5],
        "SliceThickness": 5.0, "RescaleSlope": 1, "RescaleIntercept": 0, "Rows": pixels.shape[-2],
        "Columns": pixels.shape[-1], "SamplesPerPixel": 1, "PhotometricInterpretation": "MONOCHROME2",
        "BitsAllocated": 8 * pixels.itemsize, "BitsStored": 8 * pixels.itemsize, "HighBit": 8 * pixels.itemsize - 1,
        "PixelRepresentation": int(pixels.dtype.kind == "i"), "InstanceNumber": 1,
    }  # fmt: skip
    for keyword, value in (usual | tags).items():
        if value is not None:
            setattr(dataset, keyword, value)
    meta.MediaStorageSOPClassUID = dataset.get("SOPClassUID", CTImageStorage)
    meta.MediaStorageSOPInstanceUID = dataset.get("SOPInstanceUID", "1.2.3")
    dataset.PixelData = pixels.tobytes()
    if "PixelPaddingValue" in tags:
        dataset["PixelPaddingValue"].VR = "SS" if tags["PixelPaddingValue"] < 0 else "US"
    return dataset


def save(dataset: FileDataset, path: Path) -> Path:
    """Write a file; folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)
    return path


def write_series(
    folder: Path,
    positions_mm: Sequence[float],
    *,
    orientation: Sequence[float] = AXIAL,
    pixels: Sequence[NDArray[Any]] | None = None,
    thickness_mm: Sequence[float | None] | float | None = 5.0,
    **tags: Any,
) -> list[Path]:
    """One file per slice, at z of the table; names and instance numbers run against the positions."""
    written = []
    for index, z in enumerate(positions_mm):
        thickness = thickness_mm[index] if isinstance(thickness_mm, Sequence) else thickness_mm
        dataset = ct_slice(
            pattern(index) if pixels is None else pixels[index],
            **{
                "ImagePositionPatient": [-5.0, -6.0, float(z)],
                "ImageOrientationPatient": [round(float(cosine), 9) for cosine in orientation],
                "SliceThickness": thickness,
                "InstanceNumber": len(positions_mm) - index,
            }
            | tags,
        )
        written.append(save(dataset, folder / f"{tags.get('SeriesInstanceUID', SERIES)}_{99 - index:03d}.dcm"))
    return written


def enhanced(positions_mm: Sequence[float], order: Sequence[int], **tags: Any) -> FileDataset:
    """One multi-frame object whose frames follow `order`; frame i holds pattern(i), slope i + 1 and intercept -i."""
    frames = np.stack([pattern(index) for index in order])
    dataset = ct_slice(
        frames,
        **{
            "SOPClassUID": EnhancedCTImageStorage, "NumberOfFrames": len(order), "ImagePositionPatient": None,
            "ImageOrientationPatient": None, "PixelSpacing": None, "SliceThickness": None, "RescaleSlope": None,
            "RescaleIntercept": None, "ImageType": ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"],
        }
        | tags,
    )  # fmt: skip
    shared, measures, plane = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = [0.5, 0.5], 5.0
    plane.ImageOrientationPatient = list(AXIAL)
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = [measures], [plane]
    own = []
    for index in order:
        group, place, values = Dataset(), Dataset(), Dataset()
        place.ImagePositionPatient = [-5.0, -6.0, float(positions_mm[index])]
        values.RescaleSlope, values.RescaleIntercept, values.RescaleType = index + 1, -index, "HU"
        group.PlanePositionSequence, group.PixelValueTransformationSequence = [place], [values]
        own.append(group)
    dataset.SharedFunctionalGroupsSequence, dataset.PerFrameFunctionalGroupsSequence = [shared], own
    return dataset


def compressed(dataset: FileDataset, syntax: str) -> FileDataset:
    """The same slice in another transfer syntax: `rle`, `jpeg2000`, `jpeg` (lossless) or `jpegls`."""
    if syntax in {"rle", "jpeg2000"}:
        dataset.compress(RLELossless if syntax == "rle" else JPEG2000Lossless, generate_instance_uid=False)
        return dataset
    return _through_gdcm(dataset, syntax)


def _through_gdcm(dataset: FileDataset, syntax: str) -> FileDataset:
    import tempfile

    import gdcm
    import pydicom

    kinds = {"jpeg": gdcm.TransferSyntax.JPEGLosslessProcess14_1, "jpegls": gdcm.TransferSyntax.JPEGLSLossless}
    with tempfile.TemporaryDirectory() as folder:
        plain, packed = Path(folder, "plain.dcm"), Path(folder, "packed.dcm")
        save(dataset, plain)
        reader, change, writer = gdcm.ImageReader(), gdcm.ImageChangeTransferSyntax(), gdcm.ImageWriter()
        reader.SetFileName(str(plain))
        change.SetTransferSyntax(gdcm.TransferSyntax(kinds[syntax]))
        if not reader.Read():
            raise RuntimeError("gdcm cannot read the slice")
        change.SetInput(reader.GetImage())
        if not change.Change():
            raise RuntimeError("gdcm cannot compress the slice")
        writer.SetFileName(str(packed))
        writer.SetFile(reader.GetFile())
        writer.SetImage(change.GetOutput())
        if not writer.Write():
            raise RuntimeError("gdcm cannot write the slice")
        return pydicom.dcmread(packed)
