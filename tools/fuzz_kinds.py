"""What tools/fuzz_inputs.py feeds to the package: for each kind of file its seeds, its lies, and the door for it.

A door raises nothing but the refusals of its kind; seeds are whole files, lies whole files with something wrong.
"""

import gzip
import io
import json
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache, partial
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pydicom
import torch
import yaml
from hypothesis import reject
from hypothesis import strategies as st
from PIL import Image
from pydicom.config import disable_value_validation
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import (
    UID,
    CTImageStorage,
    EnhancedCTImageStorage,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)
from safetensors.torch import save as format_tensors

from hgisam import __version__
from hgisam.brain import BrainOptions
from hgisam.cases import find_cases, own_record
from hgisam.compare.settings import load_comparison
from hgisam.config import SettingsError, load_settings
from hgisam.evaluate.folders import score_pair
from hgisam.evaluate.pairs import Pair
from hgisam.evaluate.scored import COLUMNS as SCORED_COLUMNS
from hgisam.evaluate.scored import read_scored_slices
from hgisam.intake import IntakeOptions, check_scan
from hgisam.io.errors import InputError, ScanRefused
from hgisam.io.nifti import new_grid_for, read_mask_and_labels, write_ct, write_labels, write_mask
from hgisam.io.pictures import read_picture
from hgisam.io.tables import SLICE_LABEL_COLUMNS, read_patients, read_slice_labels
from hgisam.labelled_records import evaluate_labels
from hgisam.model.architecture import build_classifier
from hgisam.model.checkpoint import METADATA_KEY, WeightsError, WeightsMetadata
from hgisam.model.classifier import ClassifierOptions
from hgisam.model.swin import SwinOptions
from hgisam.pipeline import Segmenter
from hgisam.train.layouts import read_cohort
from hgisam.train.layouts.slice_table import TABLE
from hgisam.volume import CTVolume

REPOSITORY = Path(__file__).resolve().parent.parent
HEAD = REPOSITORY / "sample_volumes" / "intraparenchymal_large.nii.gz"
RECIPES = sorted((REPOSITORY / "configs").glob("*.yaml"))
MAX_VOXELS = 2**21
"""What the front door takes here: few enough that memory beyond the cap is a fault."""

INTEGERS = [0, 1, -1, 2, 3, 7, 127, 128, 255, 256, 32767, -32768, 65535, 2**31 - 1, -(2**31), 2**32, 2**53, 2**63 - 1]
FLOATS = [0.0, -0.0, 1.0, -1.0, 1e-45, 1e-30, 1e-6, 1e6, 1e30, 3.4e38, -3.4e38, float("nan"), float("inf")]
TEXTS = ["", " ", "x", "-", "1e999", "nan", "..", "/", "\\", "\0", "\n", "\x1b[2J", "é", "9" * 5000, "a" * 70000]


@dataclass(frozen=True)
class Kind:
    """One kind of file that users hand in.

    Attributes:
        name: what the command calls it.
        suffix: of the files.
        seeds: small whole files.
        lies: whole files with something wrong, as a strategy.
        door: reads a file as the commands do.
        refusals: what the door may raise.
    """

    name: str
    suffix: str
    seeds: Callable[[], list[bytes]]
    lies: Callable[[], st.SearchStrategy[bytes]]
    door: Callable[[Path], object]
    refusals: tuple[type[Exception], ...]


# --- doors


def scan_door(path: Path) -> None:
    """As `hgisam check` does, but that each scan must be found by itself."""
    for case in find_cases([path]):
        check_scan(case.scan, BrainOptions(), IntakeOptions(max_voxels=MAX_VOXELS))


def nifti_door(path: Path) -> None:
    """As a scan, and where it is refused as one, as a mask."""
    try:
        scan_door(path)
    except ScanRefused:
        read_mask_and_labels(path, MAX_VOXELS)


def weights_door(path: Path) -> None:
    """As every command that takes --weights."""
    Segmenter(path, device="cpu").ensure_able("segment")


def yaml_door(path: Path) -> None:
    """As a recipe, and where it is none, as a comparison."""
    try:
        load_settings(path)
    except SettingsError:
        load_comparison(path)


def through_each(*doors: Callable[[], object]) -> None:
    """Through every door, whatever those before it refuse; the last refusal is raised at the end."""
    refusal: Exception | None = None
    for door in doors:
        try:
            door()
        except (InputError, ScanRefused) as error:
            refusal = error
    if refusal is not None:
        raise refusal


def table_door(path: Path) -> None:
    """As each table that there is; a refusal of one is no refusal by the others."""
    folder = path.parent / "labelled"
    folder.mkdir(exist_ok=True)
    (folder / "slice_labels.csv").write_bytes(path.read_bytes())
    readers = (read_patients, read_slice_labels, read_scored_slices)
    through_each(*(partial(reader, path) for reader in readers), partial(read_cohort, folder))


def record_door(path: Path) -> None:
    """As what lies beside a mask that is evaluated, and as what is held against slice labels; what one refuses, the
    other may take.
    """
    mask, labels = path.with_name("case_mask.nii.gz"), path.with_name("case_labels.nii.gz")
    data, records = path.parent / "labelled_scan", path.parent / "records"
    if not mask.is_file():
        affine = torch.tensor([[0.0, 0, 1, 0], [0, 1, 0, 0], [5, 0, 0, 0], [0, 0, 0, 1]]).double()
        volume = CTVolume(torch.zeros(3, 4, 4), affine, "case")
        write_mask(mask, volume.hu > 0, new_grid_for(volume))
        write_labels(labels, volume.hu.to(torch.uint8), new_grid_for(volume))
        data.mkdir()
        records.mkdir()
        write_ct(data / "case.nii.gz", volume, new_grid_for(volume))
        (data / TABLE).write_text("file,slice_index,any\ncase.nii.gz,0,0\ncase.nii.gz,1,1\ncase.nii.gz,2,\n")
    own_record(path)
    path.with_name("case.json").write_bytes(path.read_bytes())
    (records / "case.json").write_bytes(path.read_bytes())
    through_each(partial(score_pair, Pair("case", mask, labels)), lambda: evaluate_labels(records, data).summary)


def picture_door(path: Path) -> None:
    """As the slices and masks of a comparison."""
    read_picture(path, "L")
    read_picture(path, "RGB")


# --- seeds


@cache
def small_head() -> tuple[np.ndarray, np.ndarray]:
    """A synthetic head of few voxels that passes every gate: HU in the file's axes, and its affine."""
    image = nib.Nifti1Image.from_filename(HEAD)
    step = max(1, image.shape[0] // 40)
    hu = np.asarray(image.dataobj)[::step, ::step].astype(np.int16)
    affine = image.affine @ np.diag([step, step, 1, 1])
    return hu, affine


def nifti_bytes(voxels: np.ndarray, affine: np.ndarray, kind: type = nib.Nifti1Image) -> bytes:
    """An uncompressed file."""
    return bytes(kind(voxels, affine).to_bytes())


@cache
def nifti_seeds() -> list[bytes]:
    """Small ones for bytes to be changed in; the head comes last, for changes to its header."""
    noise = np.random.default_rng(0).integers(-1000, 1000, (4, 4, 3)).astype(np.int16)
    mask = (noise > 500).astype(np.uint8)
    affine = np.diag([1.0, 1.0, 5.0, 1.0])
    small = nifti_bytes(noise, affine)
    big_endian = nib.Nifti1Image(noise, affine, nib.Nifti1Header(endianness=">"))
    found = [small, nifti_bytes(mask, affine), nifti_bytes(noise, affine, nib.Nifti2Image)]
    found += [bytes(big_endian.to_bytes()), gzip.compress(small), nifti_bytes(noise.astype(np.float32), affine)]
    return [*found, nifti_bytes(*small_head())]


def ct_slice(stored: np.ndarray, z_mm: float = 0.0, spacing_mm: float = 0.5) -> FileDataset:
    """One slice of stored numbers [rows, columns], or frames of them."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID = ExplicitVRLittleEndian, CTImageStorage
    meta.MediaStorageSOPInstanceUID = UID(f"1.2.{abs(int(z_mm * 10))}")
    dataset = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)  # type: ignore[arg-type]
    values = {
        "SOPClassUID": CTImageStorage, "SOPInstanceUID": meta.MediaStorageSOPInstanceUID, "StudyInstanceUID": "1.2.3",
        "SeriesInstanceUID": "1.2.3.4", "Modality": "CT", "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
        "ImagePositionPatient": [-5.0, -6.0, z_mm], "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
        "PixelSpacing": [spacing_mm, spacing_mm], "SliceThickness": 5.0, "RescaleSlope": 1, "RescaleIntercept": 0,
        "Rows": stored.shape[-2], "Columns": stored.shape[-1], "SamplesPerPixel": 1, "HighBit": 15,
        "PhotometricInterpretation": "MONOCHROME2", "BitsAllocated": 16, "BitsStored": 16, "PixelRepresentation": 1,
        "ConvolutionKernel": "H31s", "SeriesDescription": "head", "PatientID": "1", "InstanceNumber": 1,
    }  # fmt: skip
    for keyword, value in values.items():
        setattr(dataset, keyword, value)
    dataset.PixelData = stored.astype("<i2").tobytes()
    return dataset


def enhanced_ct(stored: np.ndarray) -> FileDataset:
    """The same as one object of frames."""
    dataset = ct_slice(stored)
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = EnhancedCTImageStorage
    dataset.NumberOfFrames = len(stored)
    shared, measures, plane = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = [0.5, 0.5], 5.0
    plane.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = [measures], [plane]
    frames = []
    for index in range(len(stored)):
        frame, place = Dataset(), Dataset()
        place.ImagePositionPatient = [-5.0, -6.0, 5.0 * index]
        frame.PlanePositionSequence = [place]
        frames.append(frame)
    dataset.SharedFunctionalGroupsSequence, dataset.PerFrameFunctionalGroupsSequence = [shared], frames
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness"):
        del dataset[keyword]
    return dataset


def dicom_bytes(dataset: FileDataset) -> bytes:
    """The dataset as a file; what pydicom cannot write is no example."""
    stream = io.BytesIO()
    try:
        with disable_value_validation(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dataset.save_as(stream, enforce_file_format=True)
    except Exception:  # noqa: BLE001 - pydicom raises anything on a lie that it cannot write
        reject()
    return stream.getvalue()


def one_slice(encoding: str) -> FileDataset:
    """A small slice in any of ENCODINGS."""
    return pydicom.dcmread(io.BytesIO(one_file(encoding)))


@cache
def one_file(encoding: str) -> bytes:
    """The same as a file; to compress takes long."""
    rows, columns = np.indices((12, 10) if encoding in {"plain", "enhanced"} else (64, 64))
    stored = (5 * rows + columns - 40).astype(np.int16)
    if encoding == "enhanced":
        return dicom_bytes(enhanced_ct(np.stack([stored, stored + 1, stored + 2])))
    dataset = ct_slice(stored)
    syntaxes = {"rle": RLELossless, "jpeg2000": JPEG2000Lossless, "jpegls": JPEGLSLossless}
    if encoding in syntaxes:
        dataset.compress(syntaxes[encoding], generate_instance_uid=False)
    return dicom_bytes(dataset)


ENCODINGS = ("plain", "enhanced", "rle", "jpeg2000", "jpegls")


@cache
def dicom_seeds() -> list[bytes]:
    """A slice in each encoding, and one without its preamble."""
    found = [one_file(encoding) for encoding in ENCODINGS]
    return [*found, found[0][132:]]


@cache
def head_files() -> list[bytes]:
    """The slices of `head_series` as files."""
    return [dicom_bytes(dataset) for dataset in head_series()]


def head_series() -> list[FileDataset]:
    """Every second slice of the small head."""
    hu, affine = small_head()
    hu = hu[:, :, ::2]
    spacing_mm, step_mm = abs(float(affine[0, 0])), 2 * float(np.linalg.norm(affine[:3, 2]))
    upward = hu if affine[2, 2] > 0 else hu[:, :, ::-1]
    return [ct_slice(upward[:, :, k].T, step_mm * k, spacing_mm) for k in range(upward.shape[2])]


def archive(members: list[tuple[str, bytes]], method: int = zipfile.ZIP_STORED) -> bytes:
    """A zip archive of them."""
    stream = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(stream, "w", method) as written:
        warnings.simplefilter("ignore")  # of two members by one name
        for name, content in members:
            written.writestr(zipfile.ZipInfo(name), content, method)
    return stream.getvalue()


@cache
def zip_seeds() -> list[bytes]:
    """Archives of three slices, by each method."""
    slices = [(f"a/{k}.dcm", dicom_bytes(ct_slice(np.full((12, 10), k), 5.0 * k))) for k in range(3)]
    return [archive(slices, method) for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)]


@cache
def series_seeds() -> list[bytes]:
    """The small head as an archive."""
    return [archive([(f"{k}.dcm", one) for k, one in enumerate(head_files())])]


@cache
def tiny_weights() -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Metadata and tensors of the smallest network that there can be."""
    swin = SwinOptions(img_size=32, window=2, embed_dim=2, depths=(1, 1, 1), heads=(1, 1, 1), in_channels=2)
    options = ClassifierOptions(swin=swin)
    torch.manual_seed(0)
    tensors = build_classifier(options).state_dict()
    metadata = WeightsMetadata(
        architecture=options, operating_point=0.5, threshold=0.5, data="none", command="none", seed=0,
        created=datetime(2026, 1, 1, tzinfo=UTC), version=__version__, licence="Apache-2.0",
    )  # fmt: skip
    return json.loads(metadata.model_dump_json()), {name: tensor.contiguous() for name, tensor in tensors.items()}


@cache
def weights_seeds() -> list[bytes]:
    """The smallest network, and two files of others."""
    metadata, tensors = tiny_weights()
    ours = format_tensors(tensors, metadata={METADATA_KEY: json.dumps(metadata)})
    return [ours, format_tensors({"w": torch.zeros(2)}), b"\x80\x02}q\x00."]


def yaml_seeds() -> list[bytes]:
    """The recipes that come with the project."""
    return [path.read_bytes() for path in RECIPES]


def table_seeds() -> list[bytes]:
    """One small table of each kind."""
    labels = ",".join(SLICE_LABEL_COLUMNS) + "\nhead.nii.gz,0,0,0,0,0,0,0\nhead.nii.gz,1,1,0,0,0,0,1\n"
    scored = ",".join(SCORED_COLUMNS) + "\na,b,0,1,0.5,0,0,0,0,0,0\n"
    return [labels.encode(), scored.encode(), b"case,patient\na,1\nb,2\n"]


def record_seeds() -> list[bytes]:
    """A record of a scan with three slices."""
    rows = [record_row(k) for k in range(3)]
    return [json.dumps(record_of(rows)).encode()]


def record_row(index: int) -> dict[str, object]:
    """What a record says of a slice."""
    return {"slice_index": index, "position_mm": 5.0 * index, "probability_any": 0.5, "n_voxels": index}


def record_of(rows: object) -> dict[str, object]:
    """What a case's record says, as far as other commands read it."""
    return {
        "hgisam_version": __version__, "case": "case", "status": "ok", "volume_ml": 1.0, "probability": 0.5,
        "operating_point": 0.5, "slices": rows, "input_sha256": None, "planned": ["case"], "command": "segment",
    }  # fmt: skip


def picture(mode: str, size: tuple[int, int] = (8, 8), form: str = "PNG") -> bytes:
    """A small picture."""
    stream = io.BytesIO()
    Image.new(mode, size).save(stream, form)
    return stream.getvalue()


def picture_seeds() -> list[bytes]:
    """PNG of each mode, and other formats."""
    return [picture(mode) for mode in ("L", "RGB", "RGBA", "P", "1", "I;16")] + [
        picture("RGB", form=form) for form in ("GIF", "TIFF", "BMP", "EPS", "JPEG")
    ]


# --- lies


def numbers_of(dtype: np.dtype) -> st.SearchStrategy[Any]:
    """Numbers that a header's field can hold, extremes above all."""
    if dtype.kind == "f":
        extremes = st.sampled_from(FLOATS).map(lambda value: dtype.type(np.float64(value)))
        width: Any = 8 * dtype.itemsize  # 16, 32 or 64
        return extremes | st.floats(width=width).map(dtype.type)
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        fitting = [value for value in INTEGERS if limits.min <= value <= limits.max]
        return st.sampled_from(fitting) | st.integers(int(limits.min), int(limits.max))
    return st.binary(max_size=dtype.itemsize)


@st.composite
def nifti_lies(draw: st.DrawFn) -> bytes:
    """A file whose header lies in one to four of its numbers."""
    whole = draw(st.sampled_from([*nifti_seeds(), nifti_seeds()[-1], nifti_seeds()[-1]]))
    if whole[:2] == b"\x1f\x8b":
        whole = gzip.decompress(whole)
    endian = "<" if whole[0] in (0x5C, 0x1C) else ">"
    kind: type[Any] = nib.Nifti1Header if whole[344:347] == b"n+1" else nib.Nifti2Header
    size = kind.sizeof_hdr
    header = kind(whole[:size], endianness=endian, check=False)
    fields = header.structarr.dtype
    for name in draw(st.lists(st.sampled_from(fields.names), min_size=1, max_size=4, unique=True)):
        field = fields[name]
        if field.subdtype is None:
            header.structarr[name] = draw(numbers_of(field))
        else:
            at = draw(st.integers(0, field.subdtype[1][0] - 1))
            header.structarr[name][at] = draw(numbers_of(field.subdtype[0]))
    if draw(st.booleans()):  # one geometry, however odd: the sform and pixdim say the same
        scales = [draw(st.sampled_from([1e-6, 1e-3, 0.1, 1.0, 7.0, 1e3, 1e6])) for _ in range(3)]
        with np.errstate(all="ignore"):
            for axis, row in enumerate(("srow_x", "srow_y", "srow_z")):
                header.structarr[row][:3] = header.structarr[row][:3] * scales
                header.structarr["pixdim"][axis + 1] *= scales[axis]
        header.structarr["qform_code"] = 0
    damaged = header.structarr.tobytes() + whole[size:]
    damaged = damaged[: draw(st.integers(0, len(damaged)))] if draw(st.integers(0, 9)) == 0 else damaged
    return gzip.compress(damaged, 1) if draw(st.integers(0, 4)) == 0 else damaged


LIED_ABOUT = (
    "Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "SamplesPerPixel",
    "PhotometricInterpretation", "NumberOfFrames", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing",
    "SliceThickness", "RescaleSlope", "RescaleIntercept", "PixelPaddingValue", "PixelPaddingRangeLimit", "ImageType",
    "Modality", "SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", "SeriesDescription",
    "ConvolutionKernel", "PatientID", "NumberOfSeriesRelatedInstances", "SpecificCharacterSet", "PlanarConfiguration",
    "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence", "ModalityLUTSequence", "PixelAspectRatio",
)  # fmt: skip

odd_values = st.one_of(
    st.sampled_from([*INTEGERS, *FLOATS, *TEXTS]),
    st.lists(st.sampled_from([*INTEGERS[:12], *FLOATS, 0.5, 0.7071]), max_size=7),
    st.lists(st.floats(-2, 2), min_size=6, max_size=6),
    st.lists(st.floats(-1e4, 1e4), min_size=2, max_size=3),
    st.none(),
)


def lie_in(draw: st.DrawFn, dataset: Dataset) -> None:
    """Change, retype or delete one element."""
    keyword = draw(st.sampled_from(LIED_ABOUT))
    if draw(st.integers(0, 7)) == 0:
        if keyword in dataset:
            del dataset[keyword]
        return
    value = draw(odd_values)
    try:
        with disable_value_validation(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if draw(st.integers(0, 2)) == 0:
                vr = draw(st.sampled_from(["US", "SS", "LO", "DS", "IS", "FD", "OB", "UN", "AT", "UI", "CS"]))
                tag = Dataset()
                tag.add_new(keyword, "UN", b"")
                element = next(iter(tag))
                raw = value.encode("utf-8", "replace") if isinstance(value, str) and vr in {"OB", "UN"} else value
                dataset[keyword] = DataElement(element.tag, vr, raw)
            else:
                setattr(dataset, keyword, value)
    except Exception:  # noqa: BLE001 - pydicom raises anything on a lie that it cannot hold
        reject()


@st.composite
def dicom_lies(draw: st.DrawFn) -> bytes:
    """A slice whose header lies in one to four elements, and whose pixels may be of another length."""
    dataset = one_slice(draw(st.sampled_from(ENCODINGS)))
    for _ in range(draw(st.integers(1, 4))):
        lie_in(draw, dataset)
    if draw(st.integers(0, 5)) == 0 and "PixelData" in dataset:
        pixels = dataset.PixelData
        dataset.PixelData = pixels[: draw(st.integers(0, len(pixels))) & ~1]
    return dicom_bytes(dataset)


@st.composite
def series_lies(draw: st.DrawFn) -> bytes:
    """A head of whose slices some are missing, doubled, moved, or lie in their headers."""
    slices: list[FileDataset | bytes] = list(head_files())  # what tells the truth need not be written again
    lied_about = draw(st.lists(st.integers(0, len(slices) - 1), max_size=3))
    everywhere = draw(st.booleans())
    for index in lied_about:
        if everywhere:
            keyword, value = draw(st.sampled_from(LIED_ABOUT)), draw(odd_values)
            slices = [opened(one) for one in slices]
            for dataset in slices:
                try:
                    with disable_value_validation(), warnings.catch_warnings():
                        warnings.simplefilter("ignore")
                        setattr(dataset, keyword, value)
                except Exception:  # noqa: BLE001 - as above
                    reject()
        else:
            slices[index] = told = opened(slices[index])
            lie_in(draw, told)
    change = draw(st.sampled_from(["none", "drop", "double", "stretch", "shear", "shuffle"]))
    at = draw(st.integers(0, len(slices) - 1))
    if change == "drop":
        del slices[at : at + draw(st.integers(1, len(slices)))]
    elif change == "double":
        slices.insert(at, slices[at])
    elif change in {"stretch", "shear"}:
        datasets = [opened(one) for one in slices]
        factor = draw(st.sampled_from([0.0, 1e-6, 0.01, -1.0, 3.0, 100.0, 1e4]))
        for index, dataset in enumerate(datasets):
            dataset.ImagePositionPatient = (
                [-5.0, -6.0, 5.0 * index * factor] if change == "stretch" else [-5.0, factor * index, 5.0 * index]
            )
        slices = [*datasets]
    elif change == "shuffle":
        slices = draw(st.permutations(slices))
    return archive([(f"{k}.dcm", one if isinstance(one, bytes) else dicom_bytes(one)) for k, one in enumerate(slices)])


def opened(one: FileDataset | bytes) -> FileDataset:
    """A slice to be changed."""
    return pydicom.dcmread(io.BytesIO(one)) if isinstance(one, bytes) else one


@st.composite
def zip_lies(draw: st.DrawFn) -> bytes:
    """An archive with odd names, methods and contents, whose directory may lie."""
    whole = dicom_seeds()[0]
    bomb = whole[:200] + bytes(20 * 2**20)
    contents = st.sampled_from([whole, whole, dicom_seeds()[3], b"", b"text", zip_seeds()[0], bomb])
    names = st.sampled_from(
        ["a.dcm", "a.dcm", "../../a.dcm", "/etc/passwd", "a/../../b.dcm", "C:\\a.dcm", "a\nb.dcm", "\x1b[2J.dcm",
         ".hidden.dcm", "d/", "é.dcm", "n" * 300 + ".dcm", "con.dcm", ""]
    )  # fmt: skip
    methods = [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]
    members = draw(st.lists(st.tuples(names, contents), max_size=5))
    data = bytearray(archive(members, draw(st.sampled_from(methods))))
    directory = data.find(b"PK\x01\x02")
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(max(directory, 0), len(data) - 1))
        if draw(st.booleans()):
            data[at] = draw(st.integers(0, 255))
        else:
            number = struct.pack("<I", draw(st.sampled_from([0, 1, 9, 2**16 - 1, 2**31, 2**32 - 1])))
            data[at : at + 4] = number[: len(data) - at]
    return bytes(data[: draw(st.integers(0, len(data)))] if draw(st.integers(0, 9)) == 0 else data)


plain_values = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.sampled_from([*INTEGERS, *FLOATS, *TEXTS]), st.floats(), st.text(max_size=4)
    ),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)


def paths_in(value: object, here: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The way to every value in nested lists and mappings."""
    found = [here] if here else []
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in entries:
        found += paths_in(inner, (*here, key))
    return found


def with_lie(draw: st.DrawFn, value: Any, lie: st.SearchStrategy[Any]) -> Any:
    """A copy of nested values, one of them replaced."""
    copied = json.loads(json.dumps(value))
    *way, last = draw(st.sampled_from(paths_in(copied)))
    place = copied
    for key in way:
        place = place[key]
    place[last] = draw(lie)
    return copied


@st.composite
def weights_lies(draw: st.DrawFn) -> bytes:
    """Weights whose metadata, or whose own header, lie."""
    metadata, tensors = tiny_weights()
    sizes = st.sampled_from([0, -1, 1, 2, 3, 4, 64, 1000, 2**20, 2**31, 2**60, 10**30])
    lists = st.lists(sizes, max_size=12) | st.just([1] * 100_000) | st.just([1] * 60)
    lie = st.one_of(sizes, lists, plain_values)
    for _ in range(draw(st.integers(1, 4))):
        metadata = with_lie(draw, metadata, lie)
    whole = format_tensors(tensors, metadata={METADATA_KEY: json.dumps(metadata)})
    if draw(st.booleans()):
        return whole
    length = int.from_bytes(whole[:8], "little")
    header = with_lie(draw, json.loads(whole[8 : 8 + length]), lie | st.sampled_from(["F64", "F8_E4M3", "BOOL", "U64"]))
    text = json.dumps(header).encode("utf-8", "surrogatepass")
    stated = draw(st.sampled_from([len(text), len(text), len(text), 0, 2**40, 2**63, len(text) - 1]))
    return struct.pack("<Q", stated) + text + whole[8 + length :]


YAML_SNIPPETS = (
    "2001-99-99", "0x", "0b_", "1:60", "9" * 5000, "!!int x", "!!float x", "!!timestamp x", "!!binary '%'", "!!set {a}",
    "!!python/name:os.system", "!!omap [a]", "!!pairs [a]", "&a [*a]", "&a {b: *a}", "*none", "<<: {a: 1}", "{<<: 1}",
    "{? [1, 2] : 3}", "{? {a: 1} : 3}", "[" * 3000, "{a: " * 3000, ".inf", ".nan", "\t", "%YAML 9.9", "---\n---", "\0",
    "'\\x00'", '"\\ud800"', "? a", "- - - -" * 500, "&" + "a" * 5000 + " 1", "{a: 1, a: 2}", "|\n  x", "=", "<<",
)  # fmt: skip


def alias_bomb(depth: int) -> str:
    """Lists of lists that are nine times as long at each depth, in a few bytes."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 9)}]" for k in range(1, depth)]
    return "\n".join(lines)


@st.composite
def yaml_lies(draw: st.DrawFn) -> bytes:
    """A recipe with a value or a line that is none."""
    kind = draw(st.integers(0, 5))
    if kind == 0:
        text = alias_bomb(draw(st.integers(2, 12)))
        ends = ["", "\nsource: *a1", "\nsource: x\nsegment: *a1", "\nsource: x\nsegment: {threshold: *a1}"]
        return (text + draw(st.sampled_from(ends)).replace("*a1", f"*a{text.count('&') - 1}")).encode()
    if kind == 1:
        many = draw(st.sampled_from([10, 1000, 40_000]))
        return ("source: x\n" + "".join(f"k{index}: 1\n" for index in range(many))).encode()
    recipe = yaml.safe_load(draw(st.sampled_from(RECIPES)).read_text(encoding="utf-8"))
    if kind == 2:
        plain = with_lie(draw, recipe, plain_values)
        return yaml.safe_dump(plain, allow_unicode=True).encode("utf-8", "surrogatepass")
    text = yaml.safe_dump(with_lie(draw, recipe, st.just("HERE")))
    snippet = draw(st.sampled_from(YAML_SNIPPETS) | st.text(max_size=12))
    encoding = draw(st.sampled_from(["utf-8", "utf-8", "utf-16", "utf-8-sig", "latin-1"]))
    return text.replace("HERE", snippet).encode(encoding, "replace")


@st.composite
def table_lies(draw: st.DrawFn) -> bytes:
    """A table with cells, lines or an encoding that are none."""
    lines = draw(st.sampled_from(table_seeds())).decode().splitlines()
    cells = [line.split(",") for line in lines]
    for _ in range(draw(st.integers(1, 3))):
        row = draw(st.integers(0, len(cells) - 1))
        lie = draw(
            st.sampled_from([*TEXTS, "²", "٣", "-1", "0.5", "inf", '"', "9" * 30, "b" * 140_000]) | st.text(max_size=3)
        )
        change = draw(st.sampled_from(["set", "set", "add", "drop", "repeat"]))
        if change == "add":
            cells[row].append(lie)
        elif change == "drop":
            cells[row] = cells[row][:-1]
        elif change == "repeat":
            cells.insert(row, list(cells[row]))
        elif cells[row]:
            cells[row][draw(st.integers(0, len(cells[row]) - 1))] = lie
    text = "\n".join(",".join(row) for row in cells)
    return text.encode(draw(st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "latin-1"])), "replace")


@st.composite
def record_lies(draw: st.DrawFn) -> bytes:
    """A record with a value that is none, or JSON that goes too deep."""
    if draw(st.integers(0, 9)) == 0:
        return draw(st.sampled_from([b"[" * 200_000, b'{"a":' * 100_000, b"9" * 100_000, b"[1e999]", b"\xff", b"nul"]))
    row = st.dictionaries(st.sampled_from([*record_row(0), "spacing_mm"]), plain_values, max_size=4)
    record = record_of([record_row(k) for k in range(3)])
    lied = with_lie(draw, record, plain_values | st.lists(row, max_size=4))
    return json.dumps(lied).encode("utf-8", "surrogatepass")


def png_chunk(name: bytes, content: bytes) -> bytes:
    """A chunk with its checksum."""
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


@st.composite
def picture_lies(draw: st.DrawFn) -> bytes:
    """A picture whose size, depth, chunks or format lie."""
    whole = draw(st.sampled_from(picture_seeds()))
    if whole[:4] == b"\x89PNG" and draw(st.booleans()):
        _, _, depth, colour = struct.unpack(">IIBB", whole[16:26])
        sides = st.sampled_from([0, 1, 8, 5000, 20_000, 60_000, 2**31 - 1, 2**32 - 1])
        depths, colours = st.sampled_from([depth, 1, 16]), st.sampled_from([colour, 3, 6])
        stated = (draw(sides), draw(sides), draw(depths), draw(colours))
        bomb = png_chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(draw(st.sampled_from([0, 70 * 2**20])))))
        header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", *stated, 0, 0, draw(st.integers(0, 1))))
        return whole[:8] + header + bomb + whole[33:]
    data = bytearray(whole)
    for _ in range(draw(st.integers(0, 6))):
        data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    return bytes(data[: draw(st.integers(0, len(data)))] if draw(st.booleans()) else data)


KINDS = {
    kind.name: kind
    for kind in (
        Kind("nifti", ".nii", nifti_seeds, nifti_lies, nifti_door, (ScanRefused, InputError)),
        Kind("dicom", ".dcm", dicom_seeds, dicom_lies, scan_door, (ScanRefused, InputError)),
        Kind("series", ".zip", series_seeds, series_lies, scan_door, (ScanRefused, InputError)),
        Kind("zip", ".zip", zip_seeds, zip_lies, scan_door, (ScanRefused, InputError)),
        Kind("weights", ".safetensors", weights_seeds, weights_lies, weights_door, (WeightsError,)),
        Kind("yaml", ".yaml", yaml_seeds, yaml_lies, yaml_door, (SettingsError,)),
        Kind("table", ".csv", table_seeds, table_lies, table_door, (InputError, ScanRefused)),
        Kind("record", ".json", record_seeds, record_lies, record_door, (InputError, ScanRefused)),
        Kind("picture", ".png", picture_seeds, picture_lies, picture_door, (InputError,)),
    )
}
