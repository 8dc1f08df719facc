"""What must never be read well: each way in which files are known to fail readers, and what becomes of it here.

Either a scan with the warning that is named, or one line of refusal by `read_ct`, `read_dicom` or the HU gate.
"""

import gzip
import re
import struct
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from analytic_head import draw_head
from dicom_writer import compressed, ct_slice, enhanced, pattern, save, tilted, write_series

from hgisam.io.dicom import read_dicom
from hgisam.io.errors import ScanRefused
from hgisam.io.nifti import read_ct
from hgisam.io.nifti_header import Choice
from hgisam.plausibility import check_hu

AFFINE = np.diag([1.0, 1.0, 5.0, 1.0])
EVEN = [0.0, 5.0, 10.0, 15.0, 20.0]
Make = Callable[[Path], Path]


def nifti(path: Path, voxels: np.ndarray | None = None, affine: np.ndarray = AFFINE) -> Path:
    shape = (24, 24, 6)
    noise = np.random.default_rng(0).integers(-1000, 1000, shape).astype(np.int16)
    nib.save(nib.Nifti1Image(noise if voxels is None else voxels, affine), path)
    return path


def patched(name: str, *changes: tuple[int, str, object]) -> Make:
    """A plain NIfTI with numbers of its header overwritten: (offset, struct format, value)."""

    def make(folder: Path) -> Path:
        path = nifti(folder / name)
        data = bytearray(path.read_bytes())
        for offset, kind, value in changes:
            struct.pack_into(kind, data, offset, value)
        path.write_bytes(data)
        return path

    return make


def cut_within_gzip(folder: Path) -> Path:
    data = nifti(folder / "a.nii").read_bytes()
    (folder / "b.nii.gz").write_bytes(gzip.compress(data[: len(data) // 2]))
    return folder / "b.nii.gz"


def cut_gzip(folder: Path) -> Path:
    path = nifti(folder / "a.nii.gz")
    path.write_bytes(path.read_bytes()[:-2000])
    return path


def wrong_crc(folder: Path) -> Path:
    path = nifti(folder / "a.nii.gz")
    data = bytearray(path.read_bytes())
    data[-6] ^= 1
    path.write_bytes(data)
    return path


def plain_named_gz(folder: Path) -> Path:
    return nifti(folder / "a.nii").rename(folder / "a.nii.gz")


def not_numbers(corner_only: bool) -> Make:
    def make(folder: Path) -> Path:
        voxels = np.full((24, 24, 6), -1000.0, dtype=np.float32)
        voxels[8:16, 8:16] = 40
        voxels[:2, :2] = np.nan
        if not corner_only:
            voxels[12, 12] = np.inf
        return nifti(folder / "a.nii.gz", voxels)

    return make


def bomb(folder: Path) -> Path:
    header = nib.Nifti1Header()
    header.set_data_shape((2500, 2500, 400))
    header.set_data_dtype(np.int16)
    header.set_sform(AFFINE, code=1)
    path = folder / "bomb.nii.gz"
    path.write_bytes(gzip.compress(header.binaryblock + bytes(4) + bytes(2**20)))
    return path


def head_with_offset(folder: Path) -> Path:
    head = draw_head((5.0, 2.0, 2.0)).ct.hu.round().numpy() + 1024
    return nifti(folder / "a.nii.gz", head.clip(0).astype(np.uint16).T, np.diag([-2.0, -2.0, 5.0, 1.0]))


def of_shape(*shape: int) -> Make:
    return lambda folder: nifti(folder / "a.nii.gz", np.zeros(shape, dtype=np.int16))


def sheared(folder: Path) -> Path:
    affine = AFFINE.copy()
    affine[1, 2] = 1.6
    return nifti(folder / "a.nii.gz", affine=affine)


def two_affines(folder: Path) -> Path:
    image = nib.load(nifti(folder / "a.nii.gz"))
    image.set_qform(np.diag([-1.0, 1.0, 5.0, 1.0]), code=1)
    nib.save(image, folder / "b.nii.gz")
    return folder / "b.nii.gz"


def no_affine(folder: Path) -> Path:
    return patched("a.nii", (252, "<h", 0), (254, "<h", 0))(folder)


def coloured(folder: Path) -> Path:
    return nifti(folder / "a.nii.gz", np.zeros((8, 8, 4), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")]))


def complex_numbers(folder: Path) -> Path:
    return nifti(folder / "a.nii.gz", np.zeros((8, 8, 4), dtype=np.complex64))


DIM, PIXDIM, SLOPE = 40, 76, 112

NIFTI_ROWS: list[tuple[str, Make, str]] = [
    ("data cut in half inside valid gzip", cut_within_gzip, "refused: .*truncated"),
    ("gzip stream cut", cut_gzip, "refused: .*(truncated|whole file)"),
    ("gzip CRC wrong", wrong_crc, "refused: .*CRC"),
    ("plain NIfTI named .nii.gz", plain_named_gz, "read: .*not gzip-compressed"),
    ("NaN outside the head", not_numbers(corner_only=True), "read: .*NaN"),
    ("Inf in the head", not_numbers(corner_only=False), "refused: .*NaN or Inf"),
    (
        "header claims 32767^3",
        patched("a.nii", *((DIM + 2 * i, "<h", 32767) for i in (1, 2, 3))),
        "refused: .*at most",
    ),
    ("5 MB that unpack to 5 GB", bomb, "refused: .*at most"),
    ("negative dim", patched("a.nii", (DIM + 2, "<h", -24)), "refused: .*dim"),
    ("pixdim 0", patched("a.nii", (PIXDIM + 4, "<f", 0.0)), "refused: .*spacing is unknown"),
    ("scl_slope 0", patched("a.nii", (SLOPE, "<f", 0.0)), "read: $"),
    ("scl_slope NaN", patched("a.nii", (SLOPE, "<f", float("nan"))), "read: $"),
    ("uint16 with +1024 kept", head_with_offset, "gate: .*--hu-offset -1024"),
    ("4D, last axis 1", of_shape(8, 8, 4, 1), "read: $"),
    ("4D, several", of_shape(8, 8, 4, 3), "refused: .*expected one volume; got 3 .*--volume"),
    ("2D", of_shape(8, 8), "read: .*no volume can be measured"),
    ("sheared affine", sheared, "read: .*off square"),
    ("qform and sform disagree", two_affines, "refused: .*qform and sform.*--prefer"),
    ("neither", no_affine, "read: .*which way left, front and top are is unknown"),
    ("RGB", coloured, "refused: .*colour"),
    ("complex", complex_numbers, "refused: .*complex"),
]


def series(positions: list[float], **options: object) -> Make:
    def make(folder: Path) -> Path:
        write_series(folder / "scan", positions, **options)  # type: ignore[arg-type]
        return folder / "scan"

    return make


def with_more(*more: tuple[str, list[float], dict[str, object]]) -> Make:
    """An even series, and beside it other slices: (folder, positions, options)."""

    def make(folder: Path) -> Path:
        write_series(folder / "scan" / "a", EVEN)
        for name, positions, options in more:
            write_series(folder / "scan" / name, positions, **options)  # type: ignore[arg-type]
        return folder / "scan"

    return make


def one(dataset: Callable[[], object]) -> Make:
    return lambda folder: save(dataset(), folder / "one.dcm")  # type: ignore[arg-type]


def padded(value: int) -> Make:
    pixels = pattern()
    pixels[0] = value
    return one(lambda: ct_slice(pixels))


def head_without_rescale(folder: Path) -> Path:
    head = draw_head((5.0, 2.0, 2.0)).ct.hu.round().numpy() + 1024
    pixels = [plane.clip(0).astype(np.uint16) for plane in head]
    options = {"RescaleSlope": None, "RescaleIntercept": None, "PixelSpacing": [2.0, 2.0]}
    write_series(folder / "scan", [5.0 * i for i in range(len(pixels))], pixels=pixels, **options)
    return folder / "scan"


LOCALIZER = {"SeriesInstanceUID": "1.7", "ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}
REPORT = {"SeriesInstanceUID": "1.8", "SOPClassUID": "1.2.840.10008.5.1.4.1.1.88.67", "Modality": "SR"}
MPR = {"SeriesInstanceUID": "1.9", "orientation": (1, 0, 0, 0, 0, -1)}
HEAD_LIKE_GE = [0, 4, 8, 12, 13.1, 20.1, 27.1]

DICOM_ROWS: list[tuple[str, Make, str]] = [
    ("inner slice missing", series([0, 5, 10, 20, 25]), "refused: .*slices are missing.*--allow-gaps"),
    ("last slice missing", series(EVEN, NumberOfSeriesRelatedInstances=6), "read: .*states 6 images, and 5 are here"),
    ("duplicate position, same pixels", with_more(("b", [0.0], {})), "read: .*twice"),
    ("duplicate position, others", with_more(("b", [0.0], {"pixels": [pattern(5)]})), "refused: .*one slice at each"),
    (
        "localizer, dose report, MPR",
        with_more(("b", [0], LOCALIZER), ("c", [0], REPORT), ("d", [0, 1], MPR)),
        "read: $",
    ),
    ("two series", with_more(("b", EVEN, {"SeriesInstanceUID": "1.9"})), "refused: .*expected one series"),
    (
        "bone and soft kernel",
        with_more(
            ("b", EVEN, {"SeriesInstanceUID": "1.6", "StudyInstanceUID": "1.5", "ConvolutionKernel": "H31s"}),
            ("c", EVEN, {"SeriesInstanceUID": "1.7", "StudyInstanceUID": "1.5", "ConvolutionKernel": "H60s"}),
        ),
        "refused: .*expected one series",
    ),
    ("padding -2000", padded(-2000), "read: $"),
    ("padding -3024", padded(-3024), "read: $"),
    ("no rescale tags", head_without_rescale, "gate: .*--hu-offset -1024"),
    ("slope differs per slice", one(lambda: enhanced(EVEN, [0, 1, 2, 3, 4])), "read: $"),
    ("thickness or gap changes", series([0, 2.5, 5, 7.5, 12.5, 17.5, 22.5]), "read: .*2.50 to 5.00 mm apart"),
    (
        "gantry tilt and uneven gaps",
        series(HEAD_LIKE_GE, orientation=tilted(18.5), thickness_mm=[4.0] * 4 + [7.0] * 3),
        "read: .*18.5 degrees off square.*1.04 to 6.64 mm apart",
    ),
    ("compressed transfer syntax", one(lambda: compressed(ct_slice(pattern()), "jpeg")), "read: $"),
    ("multi-frame", one(lambda: enhanced(EVEN, [4, 3, 2, 1, 0])), "read: $"),
]


def outcome(path: Path) -> str:
    """`read: ` and the warnings, `gate: ` and its reasons, or `refused: ` and the line."""
    try:
        ct, grid = read_ct(path, choice=Choice(picture=True)) if ".nii" in path.name else read_dicom(path)
    except ScanRefused as refusal:
        return f"refused: {refusal}"
    judged = check_hu(ct)
    if any("--hu-offset" in reason for reason in judged.reasons):
        return f"gate: {'; '.join(judged.reasons)}"
    return f"read: {'; '.join(grid.warnings)}"


@pytest.mark.parametrize(("make", "expected"), [row[1:] for row in NIFTI_ROWS], ids=[row[0] for row in NIFTI_ROWS])
def test_nifti(tmp_path: Path, make: Make, expected: str) -> None:
    found = outcome(make(tmp_path))
    assert re.match(expected, found), found
    assert "\n" not in found


@pytest.mark.parametrize(("make", "expected"), [row[1:] for row in DICOM_ROWS], ids=[row[0] for row in DICOM_ROWS])
def test_dicom(tmp_path: Path, make: Make, expected: str) -> None:
    found = outcome(make(tmp_path))
    assert re.match(expected, found), found
    assert "\n" not in found


def test_padding_is_air_and_nothing_else_changes(tmp_path: Path) -> None:
    ct, _ = read_dicom(padded(-3024)(tmp_path))
    assert (ct.hu[0, 0] == -1024).all()
    np.testing.assert_array_equal(ct.hu[0, 1:].numpy(), pattern()[1:])
