"""What a NIfTI header promises: shape, number format, rescaling and affine, each checked before any voxel is read."""

import math
from dataclasses import dataclass, replace
from typing import Literal

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
_TAKES_PREFER = "segment, classify, check or evaluate"


Form = Literal["sform", "qform"]
"""The two ways in which a header states where voxels are."""

FORMS: tuple[Form, ...] = ("sform", "qform")


@dataclass(frozen=True)
class Choice:
    """What to take where a file leaves a choice; without one such a file is refused.

    Attributes:
        volume: which of several volumes, from 0, in the order in which they are stored.
        form: which of the header's two geometries, where they are at odds.
        picture: whether a file of two axes will do: one slice, whose thickness nobody knows.
    """

    volume: int | None = None
    form: Form | None = None
    picture: bool = False


NO_CHOICE = Choice()


def spatial_sizes(file_shape: tuple[int, ...]) -> tuple[int, int, int]:
    """The first three sizes of a file; of a picture, which has two, the third is 1."""
    return file_shape[0], file_shape[1], math.prod(file_shape[2:3])


@dataclass(frozen=True, eq=False)
class Layout:
    """How a volume's numbers lie in memory and what turns them into HU.

    Attributes:
        file_shape: the volume's sizes as the header has them, trailing axes of length 1 included.
        shape: its `spatial_sizes`.
        dtype: the number format, byte order included.
        offset: bytes from the file's start to the volume's first voxel.
        slope: stored numbers times slope plus inter are HU; 1 and 0 where the header states none.
        inter: see slope.
        n_volumes: how many the file holds.
        volume: which of them this is.
    """

    file_shape: tuple[int, ...]
    shape: tuple[int, int, int]
    dtype: np.dtype[np.generic]
    offset: int
    slope: float
    inter: float
    n_volumes: int = 1
    volume: int = 0

    @property
    def n_bytes(self) -> int:
        """Bytes of the volume's voxels."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def n_bytes_behind(self) -> int:
        """Bytes of the voxels of later volumes."""
        return (self.n_volumes - 1 - self.volume) * self.n_bytes

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a reader should know; empty where the file holds one volume."""
        if self.n_volumes == 1:
            return ()
        return (f"the file holds {self.n_volumes} volumes, of which volume {self.volume} was taken, as was asked for",)


@dataclass(frozen=True, eq=False)
class Geometry:
    """Where the voxels are in the patient.

    Attributes:
        affine: voxel index -> RAS+ mm.
        warnings: what a reader should know about it; empty where all is well.
        directions_known: whether the header says which way the axes run; else the affine guesses.
        chosen: whether the header states another one too, and this was asked for.
    """

    affine: NDArray[np.float64]
    warnings: tuple[str, ...]
    directions_known: bool = True
    chosen: bool = False


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


def check_layout(header: nib.Nifti1Header, source: str, max_voxels: int, choice: Choice = NO_CHOICE) -> Layout:
    """Shape, number format and rescaling, checked with nothing but the header.

    Args:
        header: the file's.
        source: for errors.
        max_voxels: of all volumes together.
        choice: what to take where the file leaves one.

    Raises:
        ScanRefused: where the header states no real numbers, several volumes and none is chosen, none such as is
            chosen, or more than `max_voxels` voxels.
    """
    stated = _checked_shape(header, source, picture=choice.picture)
    volume, n_volumes = choice.volume, math.prod(stated[3:])
    if n_volumes > 1 and volume is None:
        raise ScanRefused(
            f"{source}: expected one volume; got {n_volumes} ({_times(stated)}); split the file, or name the"
            " one without contrast to segment, classify or check by --volume, from 0"
        )
    if volume is not None and volume >= n_volumes:
        raise ScanRefused(
            f"{source}: expected --volume from 0 to {n_volumes - 1}; got {volume}; the file holds {n_volumes} of them"
        )
    if math.prod(stated) > max_voxels:
        raise ScanRefused(
            f"{source}: expected at most {max_voxels:,} voxels; got a header that states {_times(stated)} ="
            f" {math.prod(stated):,}; if that is true, raise --max-voxels"
        )
    shape = spatial_sizes(stated)
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
    whole = Layout(stated, shape, dtype, _checked_offset(header, source), slope, inter)
    if n_volumes == 1:
        return whole
    chosen = volume or 0
    offset = whole.offset + chosen * whole.n_bytes
    return replace(whole, file_shape=shape, offset=offset, n_volumes=n_volumes, volume=chosen)


def check_geometry(
    header: nib.Nifti1Header,
    shape: tuple[int, int, int],
    source: str,
    choice: Choice = NO_CHOICE,
) -> Geometry:
    """The affine that the header states: sform, else qform, else spacing only, with what is doubtful about it.

    Args:
        header: the file's.
        shape: the volume's sizes.
        source: for errors.
        choice: what to take where the sform is at odds with the qform, or with the spacing of pixdim, which is the
            qform's.

    Raises:
        ScanRefused: where the spacing is unknown, or qform, sform and pixdim disagree beyond GEOMETRY_TOLERANCE and
            none is chosen.
    """
    form = choice.form
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
        odds = _odds(sform, qform, spacing, shape)
        if odds is None:
            spoilt = qform is None and int(header["qform_code"]) > 0
            no_rotation = ("the qform is no rotation: the sform was taken",) if spoilt else ()
            return Geometry(sform, _shear_warnings(sform) + no_rotation)
        usable = {name: affine for name, affine in (("sform", sform), ("qform", qform)) if _is_usable(affine)}
        taken = usable.get(form or "")
        if taken is None:
            asked = "" if form is None else f", and no {form} that could be taken"
            advice = f"; or name the true one to {_TAKES_PREFER} by --prefer {' or '.join(usable)}" if usable else ""
            raise ScanRefused(f"{source}: expected {odds.expected}; got {odds.got}{asked}; {odds.remedy}{advice}")
        warning = f"the {form} was taken, as was asked for: got {odds.got}"
        return Geometry(taken, (*_shear_warnings(taken), warning), chosen=True)
    if qform is not None:
        return Geometry(qform, ())
    warning = (
        "neither qform nor sform is set: which way left, front and top are is unknown; the axes were taken to run to"
        " Left, Anterior and Superior"
    )
    return Geometry(header.get_base_affine().astype(np.float64), (warning,), directions_known=False)


def with_depth(header: nib.Nifti1Header, depth_mm: float) -> nib.Nifti1Header:
    """A picture's header as that of one slice, whose third axis is square to the two that the picture has.

    Args:
        header: of a file with two axes; what it says of a third one means nothing.
        depth_mm: the step along the third axis.
    """
    whole: nib.Nifti1Header = header.copy()
    whole["pixdim"][0], whole["pixdim"][3] = 1.0, depth_mm  # the first: which way a qform's third axis runs
    if int(header["sform_code"]) > 0:
        sform = header.get_sform().astype(np.float64)
        with np.errstate(all="ignore"):  # axes of no length, or of one beyond all numbers, are refused as such
            across = np.cross(sform[:3, 0], sform[:3, 1])
            sform[:3, 2] = depth_mm * across / np.linalg.norm(across)
        whole.set_sform(sform, code=int(header["sform_code"]))
    return whole


def _checked_shape(header: nib.Nifti1Header, source: str, picture: bool) -> tuple[int, ...]:
    dim = [int(n) for n in header["dim"]]
    if not 1 <= dim[0] <= 7 or min(dim[1 : dim[0] + 1]) < 1:
        raise ScanRefused(f"{source}: expected 3 axes of at least one voxel; got dim {dim}; the header is damaged")
    file_shape = tuple(dim[1 : dim[0] + 1])
    if len(file_shape) < (2 if picture else 3):
        raise ScanRefused(
            f"{source}: expected a volume with three axes; got {_times(file_shape)}: a single picture has no place in"
            " the head; give the whole scan"
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


@dataclass(frozen=True)
class _Odds:
    """Why a header's geometries cannot all be true."""

    expected: str
    got: str
    remedy: str


def _odds(
    sform: NDArray[np.float64], qform: NDArray[np.float64] | None, spacing: NDArray[np.float64], shape: tuple[int, ...]
) -> _Odds | None:
    """What the sform is at odds with; None where all agree. Without a qform its spacing is pixdim's all the same."""
    if not _is_invertible(sform):
        remedy = "spacing and axes are unknown: convert the scan again"
        return _Odds("an invertible sform", f"{sform[:3, :3].tolist()}", remedy)
    lengths = np.linalg.norm(sform[:3, :3], axis=0)
    if (np.abs(lengths / spacing - 1) > GEOMETRY_TOLERANCE).any():
        got = f"{_numbers(spacing)} mm in pixdim and {_numbers(lengths)} mm in the sform"
        return _Odds("one spacing", got, "correct the header")
    if qform is None:
        return None
    apart = _apart(sform, qform, shape)
    if apart <= GEOMETRY_TOLERANCE:
        return None
    expected = f"qform and sform to agree within {GEOMETRY_TOLERANCE:.0%}"
    remedy = "which one is true cannot be told: remove the wrong one"
    return _Odds(expected, f"qform and sform {apart:.1%} apart", remedy)


def _is_invertible(affine: NDArray[np.float64]) -> bool:
    with np.errstate(all="ignore"):  # of numbers as small as 1e-300 the determinant is none
        determinant = float(np.abs(np.linalg.det(affine[:3, :3])))
    return bool((np.abs(affine) <= _FARTHEST_MM).all()) and determinant >= 1e-9


def _is_usable(affine: NDArray[np.float64] | None) -> bool:
    """Whether a form is there and places voxels at distances that make sense."""
    if affine is None or not _is_invertible(affine):
        return False
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    return bool(lengths.min() >= SPACING_MM[0] and lengths.max() <= SPACING_MM[1])


def _apart(sform: NDArray[np.float64], qform: NDArray[np.float64], shape: tuple[int, ...]) -> float:
    """How far, as GEOMETRY_TOLERANCE counts. A qform holds no shear: the sform's nearest square axes stand for it."""
    lengths = np.linalg.norm(sform[:3, :3], axis=0)
    left, _, right = np.linalg.svd(sform[:3, :3] / lengths)
    moved_per_voxel = np.linalg.norm((left @ right) * lengths - qform[:3, :3], axis=0) / lengths
    diagonal_mm = float(np.linalg.norm(lengths * shape))
    moved_origin = float(np.linalg.norm(sform[:3, 3] - qform[:3, 3])) / diagonal_mm
    return max(float(moved_per_voxel.max()), moved_origin)


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
