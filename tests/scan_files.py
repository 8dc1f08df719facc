"""Scans small enough to read at a glance: each slice is one value throughout, which tells where it came from."""

import struct
from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.config import disable_value_validation
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

SIZE_PX = 4


def write_nifti(path: Path, values: Sequence[float], axes: str = "LPS", dtype: str = "i2") -> None:
    """A file whose slice i along its own slice axis holds values[i]; its axes run to the named directions."""
    slice_axis = next(axis for axis, code in enumerate(axes) if code in "SI")
    shape = [SIZE_PX] * 3
    shape[slice_axis] = len(values)
    along = [1, 1, 1]
    along[slice_axis] = len(values)
    array = np.broadcast_to(np.asarray(values, dtype=dtype).reshape(along), shape)
    affine = np.zeros((4, 4))
    affine[3, 3] = 1
    for axis, code in enumerate(axes):
        row = next(row for row, pair in enumerate(("LR", "AP", "IS")) if code in pair)
        affine[row, axis] = (5.0 if code in "SI" else 1.0) * (1 if code in "RAS" else -1)
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(np.ascontiguousarray(array), affine), path)


def write_slice(
    path: Path,
    hu: float | NDArray[np.float64],
    position_mm: tuple[float, float, float] = (0.0, 0.0, 0.0),
    *,
    patient: str = "ID_aaaa1111",
    series: str = "ID_bbbb2222",
    encoding: str = "signed",
    **changed: object,
) -> None:
    """A DICOM slice of RSNA-2019's kind: one HU throughout, or a picture.

    `encoding`: signed, unsigned, or wrapped (unsigned without an offset).
    """
    shape = hu.shape if isinstance(hu, np.ndarray) and hu.ndim == 2 else (SIZE_PX, SIZE_PX)
    pixels = np.broadcast_to(np.asarray(hu, dtype=np.float64), shape)
    intercept = 0 if encoding == "wrapped" else -1024
    stored = np.rint(pixels - intercept).astype(np.int64)
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
    dataset.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    values: dict[str, object] = {
        "SOPInstanceUID": path.stem, "Modality": "CT", "PatientID": patient, "StudyInstanceUID": "ID_cccc3333",
        "SeriesInstanceUID": series, "ImagePositionPatient": list(position_mm),
        "ImageOrientationPatient": [1, 0, 0, 0, 1, 0], "PixelSpacing": [0.5, 0.5], "Rows": shape[0],
        "Columns": shape[1], "SamplesPerPixel": 1, "PhotometricInterpretation": "MONOCHROME2", "BitsAllocated": 16,
        "BitsStored": 16 if encoding == "signed" else 12, "HighBit": 15 if encoding == "signed" else 11,
        "PixelRepresentation": int(encoding == "signed"), "RescaleIntercept": intercept, "RescaleSlope": 1,
    }  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    with disable_value_validation():
        for name, value in (values | changed).items():
            if value is not None:
                setattr(dataset, name, value)
        code = "<h" if encoding == "signed" else "<H"
        if encoding == "wrapped":
            stored = stored % 4096
        dataset.PixelData = b"".join(struct.pack(code, int(number)) for number in stored.flat)
        dataset.preamble = bytes(128)
        pydicom.dcmwrite(path, dataset)
