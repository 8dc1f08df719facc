"""NIfTI files and in-memory images <-> volumes in house axes, and masks back on exactly the input's grid."""

import gzip
import io
import math
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import nibabel as nib
import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from nibabel.spatialimages import HeaderDataError
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from hgisam.io.atomic import atomic_write
from hgisam.io.errors import ScanRefused
from hgisam.io.nifti_header import (
    MAX_VOXELS,
    NO_CHOICE,
    Choice,
    Geometry,
    Layout,
    check_geometry,
    check_layout,
    parse_header,
    spatial_sizes,
    with_depth,
)
from hgisam.labels import SUBTYPES
from hgisam.limits import open_regular
from hgisam.volume import (
    HIGHEST_HU,
    LOWEST_HU,
    NO_THICKNESS,
    SINGLE_SLICE_MM,
    CTVolume,
    MaskVolume,
    Orientation,
    SlicePlanes,
)
from hgisam.wording import counted

MAX_NON_FINITE = 0.25
"""More than this fraction of NaN or infinite voxels is refused. The corners around a round field of view are 0.215."""

_TISSUE_HU = -300.0
_NEARLY_WHOLE = 1e-3
_HIGHEST_LABEL = len(SUBTYPES) + 0.5
_GZIP_MAGIC = b"\x1f\x8b"
_GZIP_LEVEL = 4
_MOST_DEFLATE_CAN_SHRINK = 1040
_MAX_TRAILING_BYTES = 2**20
_CHUNK_BYTES = 2**20


@dataclass(frozen=True, eq=False)
class NiftiGrid:
    """The grid of a file: all that is needed to lay voxels in house axes back on it.

    Attributes:
        file_shape: the file's sizes, trailing axes of length 1 included.
        affine: the file's voxel index -> RAS+ mm.
        header: the file's header, NIfTI-1 or NIfTI-2; written back unchanged where it speaks of geometry. Where
            something was chosen, it states that and nothing else.
        orientation: from the file's axes to house axes.
        warnings: what the reader had to put up with; empty where all is well.
        directions_known: whether the file says which way its axes run; else that was guessed, and a warning says so.
    """

    file_shape: tuple[int, ...]
    affine: NDArray[np.float64]
    header: nib.Nifti1Header
    orientation: Orientation
    warnings: tuple[str, ...] = ()
    directions_known: bool = True

    @property
    def shape(self) -> tuple[int, int, int]:
        """The file's three spatial sizes; a picture's third is 1."""
        return spatial_sizes(self.file_shape)

    @property
    def slice_axis(self) -> int:
        """The file's axis along which slices follow each other (nearest to Superior)."""
        return self.orientation.axes[0]

    def to_file(self, voxels: Tensor) -> NDArray[Any]:
        """Turn a tensor [depth, height, width] in house axes to the file's axes and shape. A view where possible.

        Raises:
            ValueError: where the tensor does not fit this grid.
        """
        turned = self.orientation.to_file(voxels.detach().cpu().numpy())
        if turned.shape != self.shape:
            raise ValueError(f"expected a volume that turns to {self.shape}; got {turned.shape}; it is of another grid")
        return turned.reshape(self.file_shape)


def read_ct(
    path: str | Path, max_voxels: int = MAX_VOXELS, hu_offset: float = 0.0, choice: Choice = NO_CHOICE
) -> tuple[CTVolume, NiftiGrid]:
    """Read a scan from a .nii or .nii.gz file, to the end of it, so that no damage passes unseen.

    Args:
        path: the file; told from gzip by its first bytes, not by its name.
        max_voxels: refuse more, before memory is taken.
        hu_offset: added to the file's values, before they are held to LOWEST_HU..HIGHEST_HU.
        choice: what to take where the file leaves one.

    Returns:
        The scan, float32 HU within LOWEST_HU..HIGHEST_HU, and the file's grid with the reader's warnings.

    Raises:
        ScanRefused: where the file is unreadable or damaged, holds several volumes or its geometry is in doubt and
            nothing is chosen.
    """
    stored, layout, header, geometry = _read_file(Path(path), max_voxels, choice)
    return _ct_from_stored(stored, _offset(layout, hu_offset), header, geometry, Path(path).name)


def read_mask(
    path: str | Path, max_voxels: int = MAX_VOXELS, choice: Choice = NO_CHOICE
) -> tuple[MaskVolume, NiftiGrid]:
    """Read a mask or a label volume; any value above 0 is hemorrhage. An empty mask is as good as any other.

    Raises:
        ScanRefused: as `read_ct`; and where values are no whole numbers of 0 and above (a scan, a probability map).
    """
    values, grid, source = _read_whole_numbers(Path(path), max_voxels, "a mask", choice)
    house = np.ascontiguousarray(grid.orientation.to_house(values > 0.5))
    return MaskVolume(torch.from_numpy(house), _house_affine(grid), source), grid


def read_mask_and_labels(
    path: str | Path, max_voxels: int = MAX_VOXELS, choice: Choice = NO_CHOICE
) -> tuple[MaskVolume, UInt8[Tensor, "depth height width"] | None, tuple[int, ...], NiftiGrid]:
    """Read a file as `read_mask` does, and as `read_labels` does where all its values stand for subtypes, else None.

    A mask of 0 and 1 is such a file too; whether its 1 means a subtype, only who made it can tell. Where a value stands
    for no subtype, the third item is every value above 0 that the file holds, lowest first; else it is empty.

    Raises:
        ScanRefused: as `read_mask`.
    """
    values, grid, source = _read_whole_numbers(Path(path), max_voxels, "a mask", choice)
    house = np.ascontiguousarray(grid.orientation.to_house(values > 0.5))
    mask = MaskVolume(torch.from_numpy(house), _house_affine(grid), source)
    if float(values.max()) <= _HIGHEST_LABEL:
        return mask, _labels(values, grid), (), grid
    return mask, None, tuple(int(value) for value in np.unique(np.rint(values[values > 0.5]))), grid


def read_labels(
    path: str | Path, max_voxels: int = MAX_VOXELS
) -> tuple[UInt8[Tensor, "depth height width"], NiftiGrid]:
    """Read a label volume: 0 no hemorrhage, k + 1 the k-th of `hgisam.labels.SUBTYPES`.

    Raises:
        ScanRefused: as `read_mask`; and where a value stands for no subtype.
    """
    values, grid, source = _read_whole_numbers(Path(path), max_voxels, "a label volume", NO_CHOICE)
    highest = float(values.max())
    if highest > _HIGHEST_LABEL:
        raise ScanRefused(
            f"{source}: expected labels from 0 to {len(SUBTYPES)}, one for each subtype; got up to {highest:g}; give"
            " labels in the order of hgisam.labels.SUBTYPES"
        )
    return _labels(values, grid), grid


def read_grid(path: str | Path, max_voxels: int = MAX_VOXELS) -> NiftiGrid:
    """Read the grid that a file's header states. No voxel is read, so damage behind the header passes unseen.

    Raises:
        ScanRefused: where there is no such file, or its header is refused as `read_ct` refuses it.
    """
    path = Path(path)
    with _refusing_damage(path), os.fdopen(open_regular(path), "rb") as raw:
        stream, _ = _uncompressed(raw)
        _, layout, header, geometry = _read_header(stream, path.name, max_voxels, NO_CHOICE)
    return _grid(layout, header, geometry, path.name)


def ct_from_image(
    image: nib.spatialimages.SpatialImage,
    source: str,
    max_voxels: int = MAX_VOXELS,
    hu_offset: float = 0.0,
    choice: Choice = NO_CHOICE,
) -> tuple[CTVolume, NiftiGrid]:
    """A scan from a nibabel image. One loaded lazily is read by nibabel, which checks less: `read_ct` takes the path.

    Args:
        image: any nibabel image with an affine.
        source: a name for errors.
        max_voxels: refuse more.
        hu_offset: as for `read_ct`.
        choice: as for `read_ct`.

    Raises:
        ScanRefused: as `read_ct`.
    """
    if image.affine is None:
        raise ScanRefused(f"{source}: expected an image with an affine; got none; the spacing is unknown")
    data: Any = image.dataobj
    lazy = isinstance(data, nib.arrayproxy.ArrayProxy)
    if isinstance(image.header, nib.Nifti1Header):
        header = image.header.copy()
        affine_stated = np.allclose(header.get_best_affine(), image.affine)
    else:
        header, affine_stated = nib.Nifti1Header(), False
    _state_array(header, tuple(data.shape), data.dtype, source)
    if not affine_stated:
        _state_affine(header, np.asarray(image.affine, dtype=np.float64), source)
    header.set_slope_inter(*((data.slope, data.inter) if lazy else (1.0, 0.0)))
    layout = check_layout(header, source, max_voxels, choice)
    geometry = _geometry(header, layout, source, choice)
    try:
        stored = data.get_unscaled() if lazy else np.asarray(data)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise _damaged(source, error) from error
    stored = stored.reshape((*layout.shape, layout.n_volumes), order="F")[..., layout.volume]
    return _ct_from_stored(stored, _offset(layout, hu_offset), header, geometry, source)


def ct_from_array(
    array: ArrayLike, affine: ArrayLike, source: str, hu_offset: float = 0.0
) -> tuple[CTVolume, NiftiGrid]:
    """A scan from an array in HU and its affine.

    Args:
        array: three axes in any order and direction, integers or floats.
        affine: voxel index -> RAS+ mm, [4, 4].
        source: a name for errors.
        hu_offset: as for `read_ct`.

    Raises:
        ScanRefused: as `read_ct`.
    """
    stored = np.asarray(array)
    if stored.dtype == np.float16:
        stored = stored.astype(np.float32)
    stated = np.asarray(affine, dtype=np.float64)
    header = _new_header(stored.shape, stored.dtype, stated, source)
    layout = check_layout(header, source, max_voxels=stored.size)
    geometry = check_geometry(header, layout.shape, source)
    return _ct_from_stored(stored, _offset(layout, hu_offset), header, Geometry(stated, geometry.warnings), source)


def new_grid_for(
    volume: CTVolume | MaskVolume, axes: str | Orientation = "LPS", warnings: tuple[str, ...] = ()
) -> NiftiGrid:
    """A fresh grid to write a volume that came from no NIfTI file.

    Args:
        volume: in house axes.
        axes: the directions that the file's three axes are to run in, nearest: `LPS`, `RAS`, or any other of the 48.
        warnings: what the reader had to put up with.

    Raises:
        ValueError: where `axes` is none of the 48.
    """
    orientation = axes if isinstance(axes, Orientation) else Orientation.from_axis_codes(axes)
    voxels = volume.hu if isinstance(volume, CTVolume) else volume.voxels
    shape = tuple(int(voxels.shape[house_axis]) for house_axis in np.argsort(orientation.axes))
    affine = orientation.file_affine(volume.affine.numpy(), shape)
    header = _new_header(shape, np.dtype(np.int16), affine, volume.source)
    return NiftiGrid(shape, affine, header, orientation, warnings)


def write_mask(path: Path, mask: Bool[Tensor, "depth height width"], grid: NiftiGrid) -> None:
    """Write a mask as uint8 0/1 on the input's own grid: same shape, axes, affine and header geometry.

    Raises:
        OutputError: where the file cannot be written; nothing is left behind.
        ValueError: where the mask does not fit the grid.
    """
    _write(path, mask.to(torch.uint8), grid, np.dtype("u1"), "hgisam mask; research use only")


def write_map(path: Path, saliency: Float[Tensor, "depth height width"], grid: NiftiGrid) -> None:
    """Write a saliency map in [0, 1] as float32 on the input's own grid.

    Raises:
        OutputError: where the file cannot be written; nothing is left behind.
        ValueError: where the map does not fit the grid.
    """
    _write(path, saliency, grid, np.dtype("<f4"), "hgisam saliency map; research use only")


def write_ct(path: Path, volume: CTVolume, grid: NiftiGrid | None = None) -> None:
    """Write a scan as int16 HU, rounded. Without a grid the file's axes run to Left, Posterior, Superior.

    Raises:
        OutputError: where the file cannot be written; nothing is left behind.
        ValueError: where the volume does not fit the grid, or holds NaN or what no int16 can.
    """
    hu = volume.hu.round()
    if not bool((hu.abs() <= 32767).all()):
        raise ValueError(f"{volume.source}: expected finite HU within 16 bit; got others; clip the volume first")
    _write(path, hu.to(torch.int16), grid or new_grid_for(volume), np.dtype("<i2"), "hgisam CT; research use only")


def write_labels(path: Path, labels: UInt8[Tensor, "depth height width"], grid: NiftiGrid) -> None:
    """Write a label volume as uint8: 0 no hemorrhage, k + 1 the k-th of `hgisam.labels.SUBTYPES`.

    Raises:
        OutputError: where the file cannot be written; nothing is left behind.
        ValueError: where the labels do not fit the grid.
    """
    _write(path, labels, grid, np.dtype("u1"), "hgisam labels; research use only")


def _read_file(path: Path, max_voxels: int, choice: Choice) -> tuple[NDArray[Any], Layout, nib.Nifti1Header, Geometry]:
    """The stored numbers, three axes in the file's order and not rescaled, and what the header says of them."""
    source = path.name
    with _refusing_damage(path), os.fdopen(open_regular(path), "rb") as raw:
        n_bytes_on_disk = raw.seek(0, io.SEEK_END)
        raw.seek(0)
        stream, compressed = _uncompressed(raw)
        block, layout, header, geometry = _read_header(stream, source, max_voxels, choice)
        promised = layout.offset + layout.n_bytes + layout.n_bytes_behind
        if promised > n_bytes_on_disk * (_MOST_DEFLATE_CAN_SHRINK if compressed else 1):
            raise _truncated(source, f"{promised:,} bytes", f"a file of {n_bytes_on_disk:,} on disk")
        stored = _read_voxels(stream, block, layout, source)
    return stored, layout, header, replace(geometry, warnings=geometry.warnings + _name_warnings(path, compressed))


@contextmanager
def _refusing_damage(path: Path) -> Iterator[None]:
    """Turn what the system or gzip says of a bad file into a refusal of the scan."""
    try:
        yield
    except FileNotFoundError as error:
        raise ScanRefused(f"{path.name}: expected a file; got none at {path}; check the path") from error
    except (OSError, EOFError, zlib.error) as error:
        raise _damaged(path.name, error) from error


def _uncompressed(raw: BinaryIO) -> tuple[BinaryIO, bool]:
    """The file's content from its first byte on, and whether gzip hid it: told by its first bytes, not by its name."""
    compressed = raw.read(len(_GZIP_MAGIC)) == _GZIP_MAGIC
    raw.seek(0)
    return (gzip.GzipFile(fileobj=raw) if compressed else raw), compressed  # type: ignore[return-value]


def _read_header(
    stream: BinaryIO, source: str, max_voxels: int, choice: Choice
) -> tuple[bytes, Layout, nib.Nifti1Header, Geometry]:
    """The file's first bytes, and what they say."""
    block = stream.read(540)
    header = parse_header(block, source)
    layout = check_layout(header, source, max_voxels, choice)
    return block, layout, header, _geometry(header, layout, source, choice)


def _geometry(header: nib.Nifti1Header, layout: Layout, source: str, choice: Choice) -> Geometry:
    """Where the voxels are; of a picture, the third axis is made up."""
    if len(layout.file_shape) > 2:
        return check_geometry(header, layout.shape, source, choice)
    geometry = check_geometry(with_depth(header, SINGLE_SLICE_MM), layout.shape, source, choice)
    return replace(geometry, warnings=(*geometry.warnings, NO_THICKNESS))


def _read_whole_numbers(path: Path, max_voxels: int, kind: str, choice: Choice) -> tuple[NDArray[Any], NiftiGrid, str]:
    """Values from 0 up, whole but for the rounding of a rescaled file, in the file's axes."""
    stored, layout, header, geometry = _read_file(path, max_voxels, choice)
    with np.errstate(over="ignore", invalid="ignore"):  # what overflows is no whole number, and is refused as such
        values = stored if (layout.slope, layout.inter) == (1.0, 0.0) else stored * layout.slope + layout.inter
    lowest, highest = float(values.min()), float(values.max())
    whole = values.dtype.kind in "ui" or (
        math.isfinite(lowest) and math.isfinite(highest) and bool((abs(values - np.rint(values)) < _NEARLY_WHOLE).all())
    )
    if not whole or lowest <= -_NEARLY_WHOLE:
        raise ScanRefused(
            f"{path.name}: expected {kind} of whole numbers from 0; got {values.dtype.name} values from {lowest:g} to"
            f" {highest:g}; give a mask, not a scan or a map"
        )
    return values, _grid(layout, header, geometry, path.name), path.name


def _labels(values: NDArray[Any], grid: NiftiGrid) -> UInt8[Tensor, "depth height width"]:
    whole = values if values.dtype.kind in "ui" else np.rint(values)
    return torch.from_numpy(np.ascontiguousarray(grid.orientation.to_house(whole.astype(np.uint8))))


def _read_voxels(stream: BinaryIO, block: bytes, layout: Layout, source: str) -> NDArray[Any]:
    """The voxels after `block`, the bytes already read; then on to the stream's end, so that gzip's CRC is checked."""
    buffer = np.empty(layout.n_bytes, dtype=np.uint8)
    early = np.frombuffer(block[layout.offset :], dtype=np.uint8)[: layout.n_bytes]
    buffer[: early.size] = early
    to_skip = layout.offset - len(block)
    while to_skip > 0:
        skipped = len(stream.read(min(to_skip, _CHUNK_BYTES)))
        if skipped == 0:
            raise _truncated(source, f"voxels from byte {layout.offset}", f"{layout.offset - to_skip} bytes")
        to_skip -= skipped
    filled = early.size
    while filled < buffer.size:
        got = stream.readinto(buffer[filled:])  # type: ignore[attr-defined]
        if not got:
            raise _truncated(source, f"{buffer.size:,} bytes of voxels", f"{filled:,}")
        filled += got
    behind = max(len(block) - layout.offset - layout.n_bytes, 0)
    while more := len(stream.read(_CHUNK_BYTES)):
        behind += more
        if behind > layout.n_bytes_behind + _MAX_TRAILING_BYTES:
            raise ScanRefused(
                f"{source}: expected {buffer.size * layout.n_volumes:,} bytes of voxels; got over a megabyte more than"
                " the header states; the header is wrong or the file is a trap"
            )
    if behind < layout.n_bytes_behind:
        raise _truncated(source, f"{layout.n_bytes_behind:,} bytes of later volumes", f"{behind:,}")
    return buffer.view(layout.dtype).reshape(layout.shape, order="F")


def _ct_from_stored(
    stored: NDArray[Any], layout: Layout, header: nib.Nifti1Header, geometry: Geometry, source: str
) -> tuple[CTVolume, NiftiGrid]:
    grid = _grid(layout, header, geometry, source)
    house = grid.orientation.to_house(stored.reshape(layout.shape))
    hu = np.empty(house.shape, dtype=np.float32)
    non_finite = _fill_with_hu(hu, house, layout)
    affine = _house_affine(grid)
    if non_finite is not None:
        warning = _check_non_finite(hu, non_finite, source)
        grid = replace(grid, warnings=(*grid.warnings, warning))
    return CTVolume(torch.from_numpy(hu), affine, source, _plane_of_picture(grid, affine, source)), grid


def _plane_of_picture(grid: NiftiGrid, affine: Float[Tensor, "4 4"], source: str) -> SlicePlanes | None:
    """The place of the one slice whose thickness nobody knows; None where the file has three axes."""
    if len(grid.file_shape) > 2:
        return None
    if grid.slice_axis != 2:
        raise ScanRefused(f"{source}: expected a picture of an axial slice; got one of another plane")
    unknown = torch.full([1], torch.nan, dtype=torch.float64)
    return SlicePlanes(affine[None, :3, 1:], unknown, unknown, ("",), (1,), regular=True, complete=True)


def _fill_with_hu(hu: NDArray[np.float32], stored: NDArray[Any], layout: Layout) -> NDArray[np.bool_] | None:
    """Fill `hu` slice by slice (no second copy of the volume); NaN and Inf become air and are returned as a mask."""
    non_finite = None
    with np.errstate(over="ignore", invalid="ignore"):
        for index, plane in enumerate(stored):
            np.multiply(plane, np.float32(layout.slope), out=hu[index], casting="unsafe")
            hu[index] += np.float32(layout.inter)
            finite = np.isfinite(hu[index])
            if not finite.all():
                non_finite = np.zeros(hu.shape, dtype=bool) if non_finite is None else non_finite
                non_finite[index] = ~finite
                hu[index][~finite] = LOWEST_HU
            np.clip(hu[index], LOWEST_HU, HIGHEST_HU, out=hu[index])
    return non_finite


def _offset(layout: Layout, hu_offset: float) -> Layout:
    return replace(layout, inter=layout.inter + hu_offset) if hu_offset else layout


def _check_non_finite(hu: NDArray[np.float32], non_finite: NDArray[np.bool_], source: str) -> str:
    """The warning for voxels that are no numbers, where they are few and do not touch the head."""
    from scipy import ndimage

    fraction = float(non_finite.mean())
    tissue = hu > _TISSUE_HU
    head = np.stack([ndimage.binary_fill_holes(plane) for plane in tissue])
    touching = ndimage.binary_dilation(head, structure=np.ones((3, 3, 3), dtype=bool)) & non_finite
    if fraction > MAX_NON_FINITE or touching.any():
        raise ScanRefused(
            f"{source}: expected numbers in every voxel; got NaN or Inf in {fraction:.2%} of them"
            f" ({int(touching.sum()):,} at or in the head); convert the scan again"
        )
    spoilt = counted(int(non_finite.sum()), "voxel outside the head is", "voxels outside the head are")
    return f"{spoilt} NaN or Inf: taken as air"


def _grid(layout: Layout, header: nib.Nifti1Header, geometry: Geometry, source: str) -> NiftiGrid:
    try:
        orientation = Orientation.from_affine(geometry.affine)
    except ValueError as error:
        raise ScanRefused(f"{source}: {error}") from error
    if layout.n_volumes > 1 or geometry.chosen:
        header = header.copy()
        header.set_data_shape(layout.file_shape)
    if geometry.chosen:
        _state_affine(header, geometry.affine, source)
    warnings = layout.warnings + geometry.warnings
    return NiftiGrid(layout.file_shape, geometry.affine, header, orientation, warnings, geometry.directions_known)


def _house_affine(grid: NiftiGrid) -> Float[Tensor, "4 4"]:
    return torch.from_numpy(grid.orientation.house_affine(grid.affine, grid.shape))


def _new_header(
    shape: tuple[int, ...], dtype: np.dtype[Any], affine: NDArray[np.float64], source: str
) -> nib.Nifti1Header:
    header = nib.Nifti1Header()
    _state_array(header, shape, dtype, source)
    _state_affine(header, affine, source)
    return header


def _state_array(header: nib.Nifti1Header, shape: tuple[int, ...], dtype: np.dtype[Any], source: str) -> None:
    """Write an array's shape and number format into a header."""
    header["vox_offset"] = 0
    try:
        header.set_data_shape(shape)
        header.set_data_dtype(dtype)
    except HeaderDataError as error:
        raise ScanRefused(
            f"{source}: expected three axes of integers or floats; got {dtype} of shape {tuple(shape)}; convert it"
        ) from error


def _state_affine(header: nib.Nifti1Header, affine: NDArray[np.float64], source: str) -> None:
    """Write an affine into a header as sform, qform (which holds no shear) and spacing, in mm."""
    if affine.shape != (4, 4) or not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-9:
        raise ScanRefused(
            f"{source}: expected a finite, invertible affine [4, 4]; got {affine.tolist()}; the spacing is unknown"
        )
    header.set_sform(affine, code="scanner")
    header.set_qform(affine, code="scanner", strip_shears=True)
    header.set_xyzt_units("mm")


def _write(path: Path, voxels: Tensor, grid: NiftiGrid, dtype: np.dtype[Any], description: str) -> None:
    header = grid.header.as_byteswapped("<")
    header.set_data_dtype(dtype)
    header.set_slope_inter(1.0, 0.0)
    header["vox_offset"] = header.single_vox_offset
    header["magic"] = header.single_magic
    header["cal_min"], header["cal_max"] = 0.0, 0.0
    header["intent_code"], header["intent_name"] = 0, b""
    header["intent_p1"], header["intent_p2"], header["intent_p3"] = 0.0, 0.0, 0.0
    header["descrip"], header["aux_file"] = description.encode(), b""
    if "data_type" in header:
        header["data_type"] = b""
    if "db_name" in header:
        header["db_name"] = b""
    array = grid.to_file(voxels).reshape(grid.shape)
    with atomic_write(path) as file:
        if path.suffix == ".gz":
            with gzip.GzipFile(filename="", fileobj=file, mode="wb", compresslevel=_GZIP_LEVEL, mtime=0) as stream:
                _write_voxels(stream, header, array, dtype)
        else:
            _write_voxels(file, header, array, dtype)


def _write_voxels(
    stream: BinaryIO | gzip.GzipFile, header: nib.Nifti1Header, array: NDArray[Any], dtype: np.dtype[Any]
) -> None:
    stream.write(header.binaryblock)
    stream.write(bytes(int(header.single_vox_offset) - len(header.binaryblock)))
    for plane in np.moveaxis(array, 2, 0):
        stream.write(plane.astype(dtype, copy=False).tobytes(order="F"))


def _name_warnings(path: Path, compressed: bool) -> tuple[str, ...]:
    if compressed == (path.suffix == ".gz"):
        return ()
    return (f"the file is {'' if compressed else 'not '}gzip-compressed, against what its name says",)


def _truncated(source: str, expected: str, got: str) -> ScanRefused:
    return ScanRefused(f"{source}: expected {expected}; got {got}; the file is truncated: copy it again")


def _damaged(source: str, error: Exception) -> ScanRefused:
    reason = (getattr(error, "strerror", None) or str(error) or type(error).__name__).splitlines()[0]
    return ScanRefused(f"{source}: expected a readable, whole file; got '{reason}'; copy or convert it again")
