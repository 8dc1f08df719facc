"""What a NIfTI header promises: shape, number format, rescaling and affine, each checked before any voxel is read."""

import math
from dataclasses import dataclass

import nibabel as nib
import numpy as np
from nibabel.spatialimages import HeaderDataError
from numpy.typing import NDArray

from hgisam.io.errors import ScanRefused

MAX_VOXELS = 1024 * 512 * 512
"""The largest volume read unless the caller says otherwise: 1024 slices of 512 x 512, 1 GiB as float32."""

GEOMETRY_TOLERANCE = 0.01
"""qform, sform and pixdim may disagree by this fraction of a voxel's edge (or, for the origin, of the diagonal)."""

SPACING_MM = (1e-3, 1e3)
"""A spacing beyond these is a slip: of the units, or of the header."""

SHEAR_TOLERANCE = 0.01
"""Axes count as sheared where the cosine between two of them is above this: 0.6 degrees off square."""

_NIFTI_1_BYTES, _NIFTI_2_BYTES = 348, 540
_REAL_FORMATS = frozenset("uif")
_MAX_DATA_OFFSET = 64 * 2**20
_METRE, _MICRON = 1, 3
_FARTHEST_MM = 1e6


@dataclass(frozen=True, eq=False)
class Layout:
    """How a volume's numbers lie in memory and what turns them into HU.

    Attributes:
        file_shape: the array's sizes as the header has them, trailing axes of length 1 included.
        shape: the first three of them.
        dtype: the number format, byte order included.
        offset: bytes from the file's start to the first voxel.
        slope: stored numbers times slope plus inter are HU; 1 and 0 where the header states none.
        inter: see slope.
    """

    file_shape: tuple[int, ...]
    shape: tuple[int, int, int]
    dtype: np.dtype[np.generic]
    offset: int
    slope: float
    inter: float

    @property
    def n_bytes(self) -> int:
        """Bytes of voxel data."""
        return math.prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True, eq=False)
class Geometry:
    """Where the voxels are in the patient.

    Attributes:
        affine: voxel index -> RAS+ mm.
        warnings: what a reader should know about it; empty where all is well.
        directions_known: whether the header says which way the axes run; else the affine guesses.
    """

    affine: NDArray[np.float64]
    warnings: tuple[str, ...]
    directions_known: bool = True


def parse_header(block: bytes, source: str) -> nib.Nifti1Header:
    """The header in a file's first bytes: NIfTI-1 or NIfTI-2, little or big endian.

    Args:
        block: the file's first 540 bytes, or fewer where it has no more.
        source: for errors.

    Raises:
        ScanRefused: where this is no NIfTI header, or one whose voxels lie in another file.
    """
    for byteorder, endianness in (("little", "<"), ("big", ">")):
        n_bytes = int.from_bytes(block[:4], byteorder)  # type: ignore[arg-type]
        magic = block[344:347] if n_bytes == _NIFTI_1_BYTES else block[4:7]
        if n_bytes in {_NIFTI_1_BYTES, _NIFTI_2_BYTES} and magic in {b"ni1", b"ni2"}:
            raise ScanRefused(f"{source}: expected one file; got half of a .hdr/.img pair; convert it to .nii.gz")
        if n_bytes == _NIFTI_1_BYTES and magic == b"n+1" and len(block) >= _NIFTI_1_BYTES:
            return nib.Nifti1Header(block[:_NIFTI_1_BYTES], endianness=endianness, check=False)
        if n_bytes == _NIFTI_2_BYTES and magic == b"n+2" and len(block) == _NIFTI_2_BYTES:
            return nib.Nifti2Header(block[:_NIFTI_2_BYTES], endianness=endianness, check=False)
    found = "DICOM; convert the series with dcm2niix" if block[128:132] == b"DICM" else f"bytes {block[:4].hex(' ')!r}"
    raise ScanRefused(f"{source}: expected a NIfTI file (.nii or .nii.gz); got {found}")


def check_layout(header: nib.Nifti1Header, source: str, max_voxels: int) -> Layout:
    """Shape, number format and rescaling, checked with nothing but the header.

    Raises:
        ScanRefused: where the header states no single volume of real numbers, or more than `max_voxels` voxels.
    """
    file_shape = _checked_shape(header, source)
    shape = (file_shape[0], file_shape[1], file_shape[2])
    if math.prod(shape) > max_voxels:
        raise ScanRefused(
            f"{source}: expected at most {max_voxels:,} voxels; got a header that states {_times(shape)} ="
            f" {math.prod(shape):,}; if that is true, raise --max-voxels"
        )
    try:
        dtype = header.get_data_dtype()
    except (HeaderDataError, KeyError):
        dtype = np.dtype(np.void)
    if dtype.kind not in _REAL_FORMATS or dtype.itemsize > 8:
        found = f"{_format_name(dtype)} (NIfTI data type {int(header['datatype'])})"
        raise ScanRefused(
            f"{source}: expected integers or floats of up to 64 bit; got {found}; a CT has one number in HU per voxel"
        )
    slope, inter = _checked_rescaling(header, source)
    return Layout(file_shape, shape, dtype, _checked_offset(header, source), slope, inter)


def check_geometry(header: nib.Nifti1Header, shape: tuple[int, int, int], source: str) -> Geometry:
    """The affine that the header states: sform, else qform, else spacing only, with what is doubtful about it.

    Raises:
        ScanRefused: where the spacing is unknown, or qform, sform and pixdim disagree beyond GEOMETRY_TOLERANCE.
    """
    spacing = header["pixdim"][1:4].astype(np.float64)
    if not (np.isfinite(spacing).all() and (spacing > 0).all()):
        raise ScanRefused(
            f"{source}: expected a spacing above 0 mm on each axis; got pixdim {_numbers(spacing)}; the spacing is"
            " unknown: convert the scan again from its DICOM files"
        )
    if spacing.min() < SPACING_MM[0] or spacing.max() > SPACING_MM[1]:
        raise ScanRefused(
            f"{source}: expected a spacing of {SPACING_MM[0]:g} to {SPACING_MM[1]:g} mm; got pixdim"
            f" {_numbers(spacing)}; correct the header"
        )
    if int(header["xyzt_units"]) & 7 in {_METRE, _MICRON}:
        raise ScanRefused(f"{source}: expected lengths in mm; got metres or microns in xyzt_units; convert the header")
    sform = header.get_sform().astype(np.float64) if int(header["sform_code"]) > 0 else None
    qform = _qform(header, source, needed=sform is None) if int(header["qform_code"]) > 0 else None
    if sform is not None:
        _check_invertible(sform, source)
        _check_pixdim_agrees(sform, spacing, source)
        warnings = _shear_warnings(sform)
        if qform is not None:
            _check_qform_agrees(sform, qform, shape, source)
        elif int(header["qform_code"]) > 0:
            warnings += ("the qform is no rotation: the sform was taken",)
        return Geometry(sform, warnings)
    if qform is not None:
        return Geometry(qform, ())
    warning = (
        "neither qform nor sform is set: which way left, front and top are is unknown; the axes were taken to run to"
        " Left, Anterior and Superior"
    )
    return Geometry(header.get_base_affine().astype(np.float64), (warning,), directions_known=False)


def _checked_shape(header: nib.Nifti1Header, source: str) -> tuple[int, ...]:
    dim = [int(n) for n in header["dim"]]
    if not 1 <= dim[0] <= 7 or min(dim[1 : dim[0] + 1]) < 1:
        raise ScanRefused(f"{source}: expected 3 axes of at least one voxel; got dim {dim}; the header is damaged")
    file_shape = tuple(dim[1 : dim[0] + 1])
    if len(file_shape) < 3:
        raise ScanRefused(
            f"{source}: expected a volume with three axes; got {_times(file_shape)}: a single picture has no place in"
            " the head; give the whole scan"
        )
    if max(file_shape[3:], default=1) > 1:
        raise ScanRefused(
            f"{source}: expected one volume; got {math.prod(file_shape[3:])} ({_times(file_shape)}); split the file and"
            " give the one without contrast"
        )
    return file_shape


def _checked_rescaling(header: nib.Nifti1Header, source: str) -> tuple[float, float]:
    slope, inter = float(header["scl_slope"]), float(header["scl_inter"])
    if not math.isfinite(slope) or slope == 0:
        return 1.0, 0.0
    if not math.isfinite(inter):
        raise ScanRefused(
            f"{source}: expected a finite scl_inter beside scl_slope {slope:g}; got {inter}; HU cannot be told"
        )
    return slope, inter


def _checked_offset(header: nib.Nifti1Header, source: str) -> int:
    smallest = int(header.single_vox_offset)
    stated = float(header["vox_offset"])
    if stated == 0:
        return smallest
    if not smallest <= stated <= _MAX_DATA_OFFSET:
        raise ScanRefused(
            f"{source}: expected voxels from byte {smallest} on; got vox_offset {stated:g}; the header is damaged"
        )
    return int(stated)


def _qform(header: nib.Nifti1Header, source: str, needed: bool) -> NDArray[np.float64] | None:
    if header["pixdim"][0] == 0:  # NIfTI-1: taken as 1
        header = header.copy()
        header["pixdim"][0] = 1.0
    try:
        qform = header.get_qform().astype(np.float64)
    except (HeaderDataError, ValueError):
        qform = np.full((4, 4), np.nan)
    if (np.abs(qform) <= _FARTHEST_MM).all():
        return np.asarray(qform)
    if needed:
        quaternion = _numbers(header["quatern_b"], header["quatern_c"], header["quatern_d"])
        raise ScanRefused(
            f"{source}: expected a qform with a unit quaternion; got b, c, d = {quaternion}; the orientation is"
            " unknown: convert the scan again"
        )
    return None


def _check_invertible(affine: NDArray[np.float64], source: str) -> None:
    with np.errstate(all="ignore"):  # of numbers as small as 1e-300 the determinant is none
        determinant = float(np.abs(np.linalg.det(affine[:3, :3])))
    if not (np.abs(affine) <= _FARTHEST_MM).all() or not determinant >= 1e-9:
        raise ScanRefused(
            f"{source}: expected an invertible sform; got {affine[:3, :3].tolist()}; spacing and axes are unknown:"
            " convert the scan again"
        )


def _check_pixdim_agrees(sform: NDArray[np.float64], spacing: NDArray[np.float64], source: str) -> None:
    lengths = np.linalg.norm(sform[:3, :3], axis=0)
    if (np.abs(lengths / spacing - 1) > GEOMETRY_TOLERANCE).any():
        raise ScanRefused(
            f"{source}: expected one spacing; got {_numbers(spacing)} mm in pixdim and {_numbers(lengths)} mm in the"
            " sform; correct the header"
        )


def _check_qform_agrees(
    sform: NDArray[np.float64], qform: NDArray[np.float64], shape: tuple[int, int, int], source: str
) -> None:
    """A qform cannot hold shear, so it is compared with the sform's closest square axes."""
    lengths = np.linalg.norm(sform[:3, :3], axis=0)
    left, _, right = np.linalg.svd(sform[:3, :3] / lengths)
    moved_per_voxel = np.linalg.norm((left @ right) * lengths - qform[:3, :3], axis=0) / lengths
    diagonal_mm = float(np.linalg.norm(lengths * shape))
    moved_origin = float(np.linalg.norm(sform[:3, 3] - qform[:3, 3])) / diagonal_mm
    worst = max(float(moved_per_voxel.max()), moved_origin)
    if worst > GEOMETRY_TOLERANCE:
        raise ScanRefused(
            f"{source}: expected qform and sform to agree within {GEOMETRY_TOLERANCE:.0%}; got {worst:.1%} apart; which"
            " one is true cannot be told: remove the wrong one"
        )


def _shear_warnings(affine: NDArray[np.float64]) -> tuple[str, ...]:
    directions = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    cosine = float(np.abs(np.triu(directions.T @ directions, k=1)).max())
    if cosine <= SHEAR_TOLERANCE:
        return ()
    tilt_deg = math.degrees(math.asin(min(cosine, 1.0)))
    return (f"axes are {tilt_deg:.1f} degrees off square (gantry tilt kept): the volume is by the determinant",)


def _format_name(dtype: np.dtype[np.generic]) -> str:
    if dtype.names:
        return "colour"
    return "complex" if dtype.kind == "c" else "unknown" if dtype.kind == "V" else str(dtype)


def _times(shape: tuple[int, ...]) -> str:
    return " x ".join(str(n) for n in shape)


def _numbers(*values: object) -> str:
    return " ".join(f"{float(v):.4g}" for v in np.ravel(np.array(values, dtype=np.float64)))
